//! Nodes on the command line: attach, receipt, renew, measure.

use std::fs::{OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use watari_node::measure::Report;

use super::client::{Body, Client};
use super::commands::{CommandError, show};
use super::{Attach, Measure, To, table};

/// The time between two looks at a receipt.
const RECEIPT_POLL: Duration = Duration::from_millis(500);
/// The most tests of one measurement.
const TESTS_MAX: u64 = 6;
/// How much longer than its seconds a test may take.
const TEST_OVERHEAD: Duration = Duration::from_secs(20);

/// Attaches a node, and waits for its receipt when told so.
pub(super) async fn attach(to: &To, client: &Client, attach: Attach) -> Result<(), CommandError> {
    let body = json!({
        "name": attach.name, "segment": attach.segment, "kind": attach.kind, "lease": attach.lease,
    });
    let answer = client.send(Method::POST, "nodes", Body::Json(body), Duration::ZERO).await?;
    if let (Some(file), Some(text)) = (&attach.cloud_init, answer.get("cloud_init").and_then(Value::as_str)) {
        write_private(file, text)?;
    }
    show(to, &answer, |answer| {
        let mut shown = answer.clone();
        let command = shown.as_object_mut().and_then(|o| {
            o.shift_remove("cloud_init");
            o.shift_remove("join_command")
        });
        table::fields(&shown);
        if let Some(command) = command.as_ref().and_then(Value::as_str) {
            table::line(format!("\n{command}"));
        }
    });
    if attach.wait == 0 {
        return Ok(());
    }
    let name = answer.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    let receipt = await_receipt(client, &name, attach.wait).await?;
    show(to, &receipt, show_receipt);
    Ok(())
}

/// The receipt of a node, once it is ready.
async fn await_receipt(client: &Client, name: &str, wait_s: u32) -> Result<Value, CommandError> {
    let path = format!("nodes/{name}/receipt");
    let until = Instant::now() + Duration::from_secs(wait_s.into());
    loop {
        let receipt = client.get(&path).await?;
        if receipt["ready"] == true {
            return Ok(receipt);
        }
        if Instant::now() >= until || receipt["state"] == "failed" {
            let reason = receipt["reason"].as_str().unwrap_or_default().to_owned();
            return Err(CommandError::NotReady { name: name.to_owned(), wait_s, reason });
        }
        tokio::time::sleep(RECEIPT_POLL).await;
    }
}

/// Shows the receipt of a node.
pub(super) async fn receipt(to: &To, client: &Client, name: &str) -> Result<(), CommandError> {
    show(to, &client.get(&format!("nodes/{name}/receipt")).await?, show_receipt);
    Ok(())
}

fn show_receipt(receipt: &Value) {
    let mut head = receipt.clone();
    let lists = head.as_object_mut().map(|o| (o.shift_remove("stages"), o.shift_remove("probes")));
    let (stages, probes) = lists.unwrap_or_default();
    table::fields(&head);
    table::line("");
    table::rows(&stages.unwrap_or_default(), &["stage", "at", "took_ms"]);
    if probes.as_ref().and_then(Value::as_array).is_some_and(|p| !p.is_empty()) {
        table::line("");
        let columns = ["gateway", "target", "bytes", "ok", "at", "rtt_us", "tries", "reason"];
        table::rows(&probes.unwrap_or_default(), &columns);
    }
}

/// Renews the lease of a node.
pub(super) async fn renew(to: &To, client: &Client, name: &str, lease: &str) -> Result<(), CommandError> {
    let body = Body::Json(json!({ "lease": lease }));
    let answer = client.send(Method::POST, &format!("nodes/{name}/renew"), body, Duration::ZERO).await?;
    show(to, &answer, table::fields);
    Ok(())
}

/// Measures between two places.
pub(super) async fn measure(to: &To, client: &Client, measure: Measure) -> Result<(), CommandError> {
    let mut body = json!({
        "from": measure.from, "to": measure.to, "seconds": measure.seconds, "streams": measure.streams,
    });
    if !measure.tests.is_empty() {
        body["tests"] = json!(measure.tests);
    }
    let wait = Duration::from_secs(TESTS_MAX * u64::from(measure.seconds)) + TEST_OVERHEAD;
    let answer = client.send(Method::POST, "measure", Body::Json(body), wait).await?;
    show(to, &answer, |answer| {
        let word = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
        let path = format!("{} -> {}", word("from"), word("to"));
        match serde_json::from_value::<Report>(answer["report"].clone()) {
            Ok(report) => table::line(watari_node::measure::render([(path.as_str(), &report)])),
            Err(_) => table::fields(answer),
        }
    });
    Ok(())
}

/// Writes a file that nobody else may read: it carries a token.
pub(super) fn write_private(path: &Path, text: &str) -> Result<(), CommandError> {
    let failed = |source| CommandError::File { path: path.to_owned(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = file.map_err(failed)?;
    // One that was there keeps its mode otherwise.
    file.set_permissions(Permissions::from_mode(0o600)).map_err(failed)?;
    file.write_all(text.as_bytes()).map_err(failed)
}
