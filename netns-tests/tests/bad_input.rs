//! Bad documents through the real API and the real command line: each is refused with a problem document that
//! lists all errors by their fields, the command ends with a status other than 0, and nothing changes: not the
//! document, not the revision, not the plan, not the traffic. Needs root.
//!
//! ```text
//!  operator ── PUT /document, watari apply -f ──▶ [gw-a]       host-a ─ VLAN 100 ═ [gw-a] ═ VLAN 101 ─ host-c
//!                                                              numbered datagrams all the while
//! ```

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::ping::ping;
use netns_tests::process;
use netns_tests::topology::{Tunnel, put_in_flat_network};
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

const HOST_C: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 13), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x0d));

/// A way to spoil a document, and the fields that the answer must name.
struct Bad {
    what: &'static str,
    spoil: fn(&mut Value),
    fields: &'static [&'static str],
    /// A word that the message has: what is wrong, or what would be right.
    word: &'static str,
}

const BAD: [Bad; 8] = [
    Bad {
        what: "unknown fields",
        spoil: |d| {
            d["segments"]["flat"]["colour"] = json!("blue");
            d["gateway"] = json!({});
        },
        fields: &["segments.flat.colour", "gateway"],
        word: "unknown",
    },
    Bad {
        what: "overlapping subnets in one tenant",
        spoil: |d| {
            d["segments"]["second"] = json!({
                "tenant": "lab", "vni": 1002, "mtu": 1370,
                "subnets": ["10.20.0.128/25"], "gateway": ["10.20.0.129"],
            });
        },
        fields: &["segments.second.subnets[0]"],
        word: "overlaps",
    },
    Bad {
        what: "a VLAN used twice on a trunk",
        spoil: |d| {
            let vlan = json!({ "trunk": "trunk0", "vid": 100 });
            d["attachments"]["twice"] = json!({ "gateway": "gw-a", "segment": "flat", "vlan": vlan });
        },
        fields: &["attachments.twice.vlan.vid"],
        word: "already used",
    },
    Bad {
        what: "a VNI out of range",
        spoil: |d| d["segments"]["flat"]["vni"] = json!(16_777_216),
        fields: &["segments.flat.vni"],
        word: "16777215",
    },
    Bad {
        what: "an MTU that IPv6 does not have",
        spoil: |d| d["segments"]["flat"]["mtu"] = json!(1000),
        fields: &["segments.flat.mtu"],
        word: "1280",
    },
    Bad {
        what: "a malformed key",
        spoil: |d| d["gateways"]["gw-b"]["wireguard_key"] = json!("not a key"),
        fields: &["gateways.gw-b.wireguard_key"],
        word: "base64",
    },
    Bad {
        what: "a pool slice that overlaps another",
        spoil: |d| d["pools"]["flat-nodes"]["slices"]["gw-b"] = json!(["10.20.0.96/27"]),
        fields: &["pools.flat-nodes.slices.gw-b[0]"],
        word: "overlaps",
    },
    Bad {
        what: "a reference to nothing",
        spoil: |d| d["attachments"]["host-a"]["segment"] = json!("nowhere"),
        fields: &["attachments.host-a.segment"],
        word: "nowhere",
    },
];

/// Document, revision, plan: all that a refused change must leave alone. Of the audit log, what was done: refusals are in it.
fn state(gateway: &Gateway) -> Result<Value> {
    let status = gateway.get("/api/v1/status")?;
    let mut audit = gateway.get("/api/v1/audit")?;
    if let Some(entries) = audit.as_array_mut() {
        entries.retain(|entry| entry["outcome"] == "done");
    }
    Ok(json!({
        "document": gateway.get("/api/v1/document")?,
        "revisions": gateway.get("/api/v1/revisions")?,
        "audit": audit,
        "generation": status["generation"], "desired": status["desired_generation"],
        "settled": status["settled"], "plan": gateway.get("/api/v1/plan")?["plan"]["ops"],
    }))
}

/// The answer names each field, with a word about it.
fn names_the_fields(answer: &Value, bad: &Bad) -> Result<()> {
    let errors: Vec<(&str, &str)> = answer["errors"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|error| Some((error["path"].as_str()?, error["message"].as_str()?)))
        .collect();
    for field in bad.fields {
        let named = errors.iter().any(|(path, message)| path == field && message.contains(bad.word));
        ensure!(named, "{}: {field} with {:?} is not in {errors:#?}", bad.what, bad.word);
    }
    Ok(())
}

fn is_refused(gateway: &Gateway, document: &Value, all: &[&Bad]) -> Result<()> {
    for (method, path) in [("PUT", "/api/v1/document"), ("POST", "/api/v1/apply")] {
        let json = [("content-type", "application/json")];
        let answer = gateway.api().request(method, path, &json, document.to_string().as_bytes())?;
        ensure!(answer.status == 422, "{method} {path}: {} {}", answer.status, answer.text());
        ensure!(answer.header("content-type") == Some("application/problem+json"), "{:?}", answer.headers);
        let problem = answer.json()?;
        ensure!(problem["type"] == "urn:watari:problem:invalid-document", "{problem:#}");
        ensure!(problem["status"] == 422 && problem["title"].is_string(), "{problem:#}");
        all.iter().try_for_each(|bad| names_the_fields(&problem, bad))?;
    }
    let file = gateway.write_document(document)?;
    let file = file.to_str().unwrap_or_default();
    for arguments in
        [vec!["apply", "-f", file], vec!["apply", "--replace", "-f", file], vec!["validate", "-f", file]]
    {
        let ended = gateway.try_cli(&arguments)?;
        ensure!(ended.status.code() == Some(1), "watari {arguments:?}: {}\n{}", ended.status, ended.out);
        for field in all.iter().flat_map(|bad| bad.fields) {
            ensure!(ended.err.contains(field), "watari {arguments:?} does not name {field}: {}", ended.err);
        }
    }
    Ok(())
}

#[test]
fn root_a_bad_document_is_refused_whole_and_changes_nothing() -> Result<()> {
    let host_c = Ns::new("host-c")?;
    let (topology, gateway, document) =
        world::single(&[Tunnel::Wireguard, Tunnel::Direct], |topology, document| {
            topology.a.plug(&host_c, "eth0", 101)?;
            put_in_flat_network(&host_c, "eth0", HOST_C)?;
            let vlan = json!({ "trunk": "trunk0", "vid": 101 });
            document["attachments"]["host-c"] = json!({ "gateway": "gw-a", "segment": "flat", "vlan": vlan });
            Ok(())
        })?;
    let host_a = &topology.a.host;
    wait_until(SOON, "host-a to reach host-c", || ping(host_a, HOST_C.0))?;
    let flow = Flow::start(host_a, &host_c, FlowSpec::to(SocketAddr::new(HOST_C.0.into(), 9000)))?;
    let before = state(&gateway)?;
    ensure!(before["plan"] == json!([]) && before["settled"] == true, "{before:#}");
    let mut worst = document.clone();
    for bad in &BAD {
        let mut spoilt = document.clone();
        (bad.spoil)(&mut spoilt);
        is_refused(&gateway, &spoilt, &[bad])?;
        ensure!(state(&gateway)? == before, "{} changed something: {:#}", bad.what, state(&gateway)?);
        if !hides_others(bad) {
            (bad.spoil)(&mut worst);
        }
    }
    // All faults at once, all of them named at once.
    is_refused(&gateway, &worst, &BAD.iter().filter(|bad| !hides_others(bad)).collect::<Vec<_>>())?;
    BAD.iter().for_each(|bad| (bad.spoil)(&mut worst));
    is_refused(&gateway, &worst, &BAD.iter().filter(|bad| hides_others(bad)).collect::<Vec<_>>())?;
    syntax_is_refused(&gateway)?;
    // A whole round of the reconcile loop later too.
    netns_tests::wait::holds_for(Duration::from_millis(1500), "as it was", || -> Result<()> {
        ensure!(state(&gateway)? == before, "{:#}", state(&gateway)?);
        Ok(())
    })?;
    flow.wait_for(100, SOON)?;
    let report = flow.stop()?;
    ensure!(report.lost == 0 && report.sent > 100, "{report:?}");
    // The same file without the faults is taken: the refusals were about the faults.
    ensure!(gateway.apply(&document).is_ok());
    Ok(())
}

/// A segment that cannot be read has no relations to others that could be wrong.
fn hides_others(bad: &Bad) -> bool {
    matches!(bad.what, "unknown fields" | "a VNI out of range")
}

fn syntax_is_refused(gateway: &Gateway) -> Result<()> {
    let json = [("content-type", "application/json")];
    let answer = gateway.api().request("PUT", "/api/v1/document", &json, b"{\"sites\": {")?;
    ensure!(answer.status == 400, "{} {}", answer.status, answer.text());
    ensure!(answer.json()?["type"] == "urn:watari:problem:syntax", "{}", answer.text());
    Ok(())
}

/// The kernel below the floor is this one under another name: `uname26` makes it tell 2.6.
#[test]
fn root_a_kernel_below_the_floor_is_refused_in_one_sentence() -> Result<()> {
    let machine = Ns::machine("gw-a")?;
    let mut gateway = Gateway::start(&machine, "gw-a", &json!({}))?;
    gateway.stop()?;
    let mut command = machine.command("setarch");
    let watari = netns_tests::gateway::program("watari")?;
    command.args(["--uname-2.6"]).arg(watari).args(["run", "--config"]).arg(gateway.config());
    let ended = process::finish(&mut command, Duration::from_secs(20))?;
    ensure!(!ended.status.success(), "it ran: {}{}", ended.out, ended.err);
    let said: Vec<&str> = ended.err.lines().filter(|line| line.contains("kernel")).collect();
    ensure!(said.len() == 1 && said[0].contains("needs Linux 6.6 or newer"), "{}", ended.err);
    Ok(())
}
