//! Trace, monitor, why and capture on the command line.

use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use hyper::Method;
use serde_json::{Value, json};

use super::client::{Body, Client};
use super::commands::{CommandError, show};
use super::{Capture, Monitor, To, Trace, table};

/// Traces a packet and prints each decision.
pub(super) async fn trace(to: &To, client: &Client, trace: Trace) -> Result<(), CommandError> {
    let answer = client.send(Method::POST, "trace", Body::Json(question(&trace)?), Duration::ZERO).await?;
    show(to, &answer, |answer| {
        for traced in answer.as_array().into_iter().flatten() {
            show_trace(traced);
        }
    });
    Ok(())
}

fn question(trace: &Trace) -> Result<Value, CommandError> {
    let mut ask = json!({
        "attachment": trace.attachment, "device": trace.device, "vlan": trace.vlan,
        "from_gateway": trace.from_gateway, "segment": trace.segment, "hex": trace.hex,
    });
    if let Some(path) = &trace.pcap {
        let read = std::fs::read(path);
        let bytes = read.map_err(|source| CommandError::File { path: path.clone(), source })?;
        ask["pcap"] = json!(base64::engine::general_purpose::STANDARD.encode(bytes));
    } else if trace.hex.is_none() {
        ask["packet"] = json!({
            "src_mac": trace.src_mac.clone().unwrap_or_default(), "dst_mac": trace.dst_mac,
            "src": trace.src, "dst": trace.dst, "protocol": trace.protocol,
            "src_port": trace.src_port, "dst_port": trace.dst_port, "ttl": trace.ttl,
            "size": trace.size, "dont_fragment": trace.dont_fragment,
        });
    }
    Ok(ask)
}

/// Prints drops and flows as they happen.
pub(super) async fn monitor(to: &To, client: &Client, monitor: Monitor) -> Result<(), CommandError> {
    let Monitor { flows, segment, seconds, count } = monitor;
    let segment = segment.map(|name| format!("&segment={name}")).unwrap_or_default();
    let path = format!("monitor?flows={flows}&seconds={seconds}&count={count}{segment}");
    let mut lines = client.lines(&path).await?;
    while let Some(line) = lines.next().await? {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if to.json {
            table::line(data);
            continue;
        }
        let seen: Value = serde_json::from_str(data).unwrap_or(Value::Null);
        let field = |name: &str| seen[name].as_str().unwrap_or("-").to_owned();
        let what =
            if seen["kind"] == "drop" { format!("dropped: {}", field("reason")) } else { "in".to_owned() };
        table::line(format!(
            "{} {what} {} segment {} {} bytes {}",
            field("at"),
            field("port"),
            field("segment"),
            seen["bytes"],
            field("packet")
        ));
    }
    Ok(())
}

/// Says why one host does not reach another.
pub(super) async fn why(to: &To, client: &Client, from: &str, host: &str) -> Result<(), CommandError> {
    let answer = client.get(&format!("why?from={from}&to={host}")).await?;
    show(to, &answer, |answer| {
        for half in answer["halves"].as_array().into_iter().flatten() {
            table::line(format!("{}:", half["gateway"].as_str().unwrap_or_default()));
            for line in half["lines"].as_array().into_iter().flatten() {
                let mark = if line["ok"] == true { "ok   " } else { "wrong" };
                table::line(format!("  {mark} {}", line["text"].as_str().unwrap_or_default()));
            }
            for traced in half["traces"].as_array().into_iter().flatten() {
                show_trace(traced);
            }
        }
        table::line(format!("\n{}", answer["conclusion"].as_str().unwrap_or_default()));
    });
    Ok(())
}

fn show_trace(traced: &Value) {
    table::line(format!("  {}", traced["packet"].as_str().unwrap_or_default()));
    for step in traced["steps"].as_array().into_iter().flatten() {
        table::line(format!("    {}", step.as_str().unwrap_or_default()));
    }
}

/// Writes what is captured to a file or standard output.
pub(super) async fn capture(client: &Client, capture: Capture) -> Result<(), CommandError> {
    let Capture { attachment, write, seconds, packets, snap } = capture;
    let attachment = attachment.map(|name| format!("&attachment={name}")).unwrap_or_default();
    let path = format!("capture?seconds={seconds}&packets={packets}&snap={snap}{attachment}");
    let mut body = client.lines(&path).await?;
    let file = write.clone().unwrap_or_else(|| PathBuf::from("standard output"));
    let failed = |source| CommandError::File { path: file.clone(), source };
    let mut out: Box<dyn Write> = match &write {
        Some(path) => Box::new(File::create(path).map_err(failed)?),
        None => Box::new(std::io::stdout()),
    };
    while let Some(bytes) = body.bytes().await? {
        match out.write_all(&bytes).and_then(|()| out.flush()) {
            // A reader that closed the pipe wants no more.
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            written => written.map_err(failed)?,
        }
    }
    Ok(())
}
