//! Watari's encrypted tunnel as two paths: two gateways of the shipped binary, told by documents over their API, with
//! one WireGuard tunnel whose engine is `watari-link`.
//!
//! ```text
//! watari     routed: LAN ─ lan0 [gw-a] ══ WireGuard ══ [gw-b] lan0 ─ LAN      an underlay route to the far VTEP
//! watari/l2  flat: host ─ attachment [gw-a] ══ VXLAN in WireGuard ══ [gw-b] attachment ─ host
//! ```

use std::net::Ipv4Addr;

use anyhow::Result;
use netns_tests::Gateway;
use serde_json::{Value, json};

use crate::tunnel_peers::WIREGUARD_MTU;
use crate::watari::{ASN, VNI, VTEP_A, VTEP_B};
use crate::wires::{FLAT_B, Held, LAN_A, LAN_B, Path, ROUTED_B, WAN_A, WAN_B, Wires};

/// What VXLAN leaves of the tunnel's MTU.
const FLAT_MTU: u32 = WIREGUARD_MTU - 50;
const TUNNEL: &str = "ab";

/// Hosts in two subnets, behind gateways that route to each other through the tunnel.
pub(crate) fn routed(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.routed_hosts(WIREGUARD_MTU)?;
    let held = gateways(&wires, routed_document)?;
    Ok(wires.standing("watari", ROUTED_B, held))
}

/// Hosts in one subnet, a segment that spans both gateways.
pub(crate) fn flat(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.flat_hosts(FLAT_MTU)?;
    let held = gateways(&wires, flat_document)?;
    Ok(wires.standing("watari/l2", FLAT_B, held))
}

fn gateways(wires: &Wires, document: fn([&str; 2]) -> Value) -> Result<Held> {
    let mut held = Held::default();
    for (machine, name) in [(&wires.gw_a, "gw-a"), (&wires.gw_b, "gw-b")] {
        held.gateways.push(Gateway::start(machine, name, &Value::Null)?);
    }
    let keys = [held.gateways[0].wireguard_key()?, held.gateways[1].wireguard_key()?];
    let document = document([&keys[0], &keys[1]]);
    for gateway in &held.gateways {
        gateway.apply(&document)?;
    }
    for gateway in &held.gateways {
        gateway.settle()?;
        gateway.wait_for_state(&format!("tunnels.{TUNNEL}"), "up")?;
    }
    Ok(held)
}

/// Two gateways and a tunnel between them.
fn tunnel_document(keys: [&str; 2]) -> Value {
    let gateway = |site: &str, vtep: Ipv4Addr, public: &str, key: &str| {
        json!({
            "site": site, "vtep": vtep.to_string(), "asn": ASN, "uplink": "wan0",
            "public_address": public, "wireguard_key": key,
        })
    };
    json!({
        "sites": { "a": {}, "b": {} },
        "gateways": {
            "gw-a": gateway("a", VTEP_A, WAN_A, keys[0]), "gw-b": gateway("b", VTEP_B, WAN_B, keys[1]),
        },
        "tunnels": { TUNNEL: {
            "between": ["gw-a", "gw-b"], "mtu": WIREGUARD_MTU,
            "wireguard": { "endpoints": {
                "gw-a": format!("{WAN_A}:51820"), "gw-b": format!("{WAN_B}:51820"),
            } },
        } },
    })
}

fn routed_document(keys: [&str; 2]) -> Value {
    let mut document = tunnel_document(keys);
    document["routes"] = json!({
        "to-b": { "gateway": "gw-a", "prefix": LAN_B, "via": VTEP_B.to_string() },
        "to-a": { "gateway": "gw-b", "prefix": LAN_A, "via": VTEP_A.to_string() },
    });
    document
}

fn flat_document(keys: [&str; 2]) -> Value {
    let mut document = tunnel_document(keys);
    let attachment = |gateway: &str| json!({ "gateway": gateway, "segment": "flat", "interface": "lan0" });
    document["tenants"] = json!({ "lab": { "l3vni": 5000 } });
    document["segments"] = json!({ "flat": {
        "tenant": "lab", "vni": VNI, "mtu": FLAT_MTU, "subnets": ["10.20.0.0/16"], "gateway": ["10.20.0.1"],
    } });
    document["attachments"] = json!({ "host-a": attachment("gw-a"), "host-b": attachment("gw-b") });
    document
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_such_as_a_gateway_takes() {
        const KEYS: [&str; 2] =
            ["XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=", "YGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk="];
        for document in [routed_document(KEYS), flat_document(KEYS)] {
            let read = watari_config::read_document(&document);
            read.unwrap_or_else(|problems| panic!("{problems:#?}"));
        }
    }
}
