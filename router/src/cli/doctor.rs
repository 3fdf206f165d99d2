//! The doctor on the command line.

use serde_json::Value;

use super::client::Client;
use super::commands::{CommandError, show};
use super::{To, table};

/// Says how large a packet the tunnels carry, hop by hop.
pub(super) async fn mtu(to: &To, client: &Client, tunnel: Option<String>) -> Result<(), CommandError> {
    let query = tunnel.map(|name| format!("?tunnel={name}")).unwrap_or_default();
    let answer = client.get(&format!("doctor/mtu{query}")).await?;
    show(to, &answer, |answer| {
        let tunnels = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        if tunnels.is_empty() {
            table::line("no tunnel ends here");
        }
        for tunnel in tunnels {
            one(tunnel);
        }
    });
    Ok(())
}

fn one(tunnel: &Value) {
    table::line(format!(
        "tunnel {} to {}",
        table::cell(&tunnel["tunnel"]),
        table::cell(&tunnel["far_gateway"])
    ));
    table::rows(&tunnel["hops"], &["hop", "device", "device_mtu", "carries", "adds"]);
    for text in sentences(tunnel) {
        table::line(text);
    }
    table::line("");
}

/// What was measured, what limits it, and what could be done.
fn sentences(tunnel: &Value) -> Vec<String> {
    let number = |value: &Value| value.as_u64().map(|bytes| format!("{bytes} bytes"));
    let unknown = || "not known".to_owned();
    let measured = &tunnel["measured"];
    let there = number(&measured["mtu"]).unwrap_or_else(unknown);
    let back = number(&measured["far_mtu"]).unwrap_or_else(unknown);
    let phase = measured["phase"].as_str().unwrap_or("not measured");
    let breaks =
        number(&measured["breaks_at"]).map(|size| format!(", {size} do not cross")).unwrap_or_default();
    let mut sentences = vec![
        format!("  crosses from here: {there} ({phase}{breaks}; tried up to {})", tunnel["tried_up_to"]),
        format!("  crosses from there: {back}, as the far gateway says"),
        format!(
            "  tenants: {} bytes, TCP segments of {} (IPv4) and {} (IPv6)",
            tunnel["overlay"], tunnel["mss_ipv4"], tunnel["mss_ipv6"]
        ),
        format!("  limited by {}", table::cell(&tunnel["limited_by"])),
    ];
    let advice = tunnel["advice"].as_array().map(Vec::as_slice).unwrap_or_default();
    sentences.extend(advice.iter().map(|text| format!("  advice: {}", table::cell(text))));
    sentences
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn both_directions_the_limit_and_the_advice_are_said() {
        let measured = json!({ "phase": "complete", "mtu": 1340, "far_mtu": 1420, "breaks_at": 1341 });
        let tunnel = json!({
            "measured": measured, "tried_up_to": 1440, "overlay": 1290, "mss_ipv4": 1250, "mss_ipv6": 1230,
            "limited_by": "the path: …", "advice": ["ask who runs it"],
        });
        let text = sentences(&tunnel).join("\n");
        assert_eq!(
            text,
            "  crosses from here: 1340 bytes (complete, 1341 bytes do not cross; tried up to 1440)\n  \
             crosses from there: 1420 bytes, as the far gateway says\n  \
             tenants: 1290 bytes, TCP segments of 1250 (IPv4) and 1230 (IPv6)\n  \
             limited by the path: …\n  advice: ask who runs it"
        );
        let nothing = sentences(&json!({ "measured": null, "tried_up_to": 1440 })).join("\n");
        assert!(nothing.contains("crosses from here: not known (not measured;"), "{nothing}");
    }
}
