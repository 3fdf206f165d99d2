//! Changes that cannot lock anybody out: what nobody confirms goes back, the brain killed or not, and what does not hold
//! after a change is named. Needs root.
//!
//! ```text
//!  [operator] eth0 ─ 203.0.113.0/24 ─ mgmt0 [gw-a] ═ VLAN 100 ─ host-a
//!    watari --url https://203.0.113.1:8443         ═ VLAN 300 ─ [campus, BIRD 2] ─ server
//! ```
//! The operator puts the very interface that leads to the gateway into a segment: the classical way to lose it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::campus::{Campus, Setup, Software};
use netns_tests::gateway::program;
use netns_tests::links::veth;
use netns_tests::ping::ping;
use netns_tests::process::{self, Ended};
use netns_tests::topology::{self, SERVER, Topology, Tunnel};
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

const GATEWAY: [u8; 4] = [203, 0, 113, 1];
const TOKEN: &str = "a token for tests only, 32 octets";
/// How long a change is on trial.
const TRIAL: Duration = Duration::from_secs(6);

/// Somebody who reaches the gateway over a network alone.
struct Operator {
    ns: Ns,
    pin: String,
}

impl Operator {
    fn cli(&self, arguments: &[&str]) -> Result<Ended> {
        let mut command = self.ns.command(program("watari")?.to_str().unwrap_or_default());
        command.env("WATARI_URL", "https://203.0.113.1:8443").env("WATARI_TOKEN", TOKEN);
        command.env("WATARI_PIN", &self.pin).args(arguments);
        process::finish(&mut command, Duration::from_secs(60))
    }

    fn is_heard(&self) -> Result<()> {
        let ended = self.cli(&["get", "sites"])?;
        ensure!(ended.status.success(), "{}", ended.err);
        Ok(())
    }
}

/// Gateway A with a network for operators.
fn operated() -> Result<(Topology, Gateway, Operator, Value)> {
    let topology = Topology::build()?;
    let operator = Ns::new("operator")?;
    veth(&topology.a.gateway, "mgmt0", &operator, "eth0")?;
    topology.a.gateway.address("mgmt0", &["203.0.113.1/24"])?;
    operator.address("eth0", &["203.0.113.2/24"])?;
    let api = json!({ "api": { "listen": "203.0.113.1:8443", "tls": true, "token": TOKEN } });
    let gateway = Gateway::start(&topology.a.gateway, "gw-a", &api)?;
    let nobody = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=";
    let document = topology::document(&[], [&gateway.wireguard_key()?, nobody]);
    gateway.apply(&document)?;
    gateway.settle()?;
    let facts = gateway.get("/api/v1/facts")?;
    let pin = facts["tls_fingerprint"].as_str().context("a fingerprint")?.to_owned();
    Ok((topology, gateway, Operator { ns: operator, pin }, document))
}

#[test]
fn root_an_operator_who_cuts_the_own_path_has_it_back_after_the_trial() -> Result<()> {
    let (_topology, gateway, operator, _) = operated()?;
    wait_until(SOON, "the operator to be heard", || operator.is_heard())?;
    let before = gateway.get("/api/v1/document")?;

    let oops = json!({ "attachments": { "oops": {
        "gateway": "gw-a", "segment": "flat", "interface": "mgmt0", "loop_guard": false,
    }}});
    let file = gateway.write_document(&oops)?;
    let began = Instant::now();
    let seconds = format!("{}s", TRIAL.as_secs());
    let said = operator.cli(&["apply", "-f", file.to_str().unwrap_or_default(), "--confirm", &seconds])?;
    println!("{:5} ms  apply --confirm {seconds}: {}{}", began.elapsed().as_millis(), said.out, said.err);

    wait_until(TRIAL, "the operator's path to be cut", || match ping(&operator.ns, GATEWAY) {
        Ok(()) => anyhow::bail!("it still answers"),
        Err(_) => Ok(()),
    })?;
    println!("{:5} ms  the gateway does not answer the operator", began.elapsed().as_millis());
    ensure!(gateway.get("/api/v1/trial")?["revision"] == 2, "it is on trial");

    wait_until(SOON, "the operator's path to be back", || operator.is_heard())?;
    println!("{:5} ms  the gateway answers again", began.elapsed().as_millis());
    ensure!(began.elapsed() >= TRIAL, "it went back before its time");
    ensure!(gateway.get("/api/v1/document")? == before, "the document is another");
    let log = operator.cli(&["revisions"])?.out;
    println!("{log}");
    ensure!(log.contains("go back to 1") && log.contains("was not confirmed"), "{log}");
    Ok(())
}

#[test]
fn root_a_trial_ends_also_when_the_brain_was_killed() -> Result<()> {
    let (_topology, mut gateway, document) = world::single(&[], |_, _| Ok(()))?;
    let mut tried = document;
    tried["sites"]["tried"] = json!({ "description": "on trial" });
    let file = gateway.write_document(&tried)?;
    let file = file.to_str().unwrap_or_default();

    // Killed and back before the end: the trial goes on.
    gateway.cli(&["apply", "-f", file, "--confirm", "30s"])?;
    gateway.kill9()?;
    gateway.launch()?;
    ensure!(gateway.get("/api/v1/trial")?["back_to"] == 1, "the trial has outlived the brain");
    ensure!(gateway.get("/api/v1/sites")?.get("tried").is_some(), "and so has the change");
    gateway.cli(&["rollback"])?;
    ensure!(gateway.get("/api/v1/sites")?.get("tried").is_none(), "rolled back");

    // Killed, and back after the end: it never comes into force again.
    gateway.cli(&["apply", "-f", file, "--confirm", "5s"])?;
    let made = Instant::now();
    gateway.kill9()?;
    wait_until(SOON, "the trial to be over", || {
        ensure!(made.elapsed() > Duration::from_secs(5), "not yet");
        Ok(())
    })?;
    gateway.launch()?;
    ensure!(gateway.get("/api/v1/sites")?.get("tried").is_none(), "it went back at the start");
    ensure!(gateway.api().get("/api/v1/trial")?.status == 404, "nothing is on trial");
    let newest = gateway.get("/api/v1/revisions?limit=1")?;
    ensure!(newest[0]["who"] == "trial" && newest[0]["action"] == "go back to 3", "{newest:#}");

    // Confirmed: it stays over a restart.
    gateway.cli(&["apply", "-f", file, "--confirm", "20s"])?;
    gateway.cli(&["confirm"])?;
    gateway.restart()?;
    ensure!(gateway.get("/api/v1/sites")?.get("tried").is_some(), "it was confirmed");
    Ok(())
}

#[test]
fn root_a_change_that_breaks_what_held_goes_back_and_names_it() -> Result<()> {
    let (topology, gateway, document) = world::single(&[Tunnel::Wireguard], |_, _| Ok(()))?;
    let campus = Campus::start(Software::Bird, &topology.campus, Setup::default())?;
    for peer in ["peers.campus4", "peers.campus6"] {
        gateway.wait_for_state(peer, "up")?;
    }
    wait_until(SOON, "host-a to reach the server", || ping(&topology.a.host, SERVER.0))?;

    // Harmless: it stays, and says what held.
    let mut harmless = document.clone();
    harmless["sites"]["a"]["description"] = json!("the first one");
    let file = gateway.write_document(&harmless)?;
    let file = file.to_str().unwrap_or_default();
    let kept = gateway.cli(&["--json", "apply", "-f", file, "--prove", "10s"])?;
    let kept: Value = serde_json::from_str(&kept)?;
    let held: Vec<&str> =
        kept["proof"]["held"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    println!("held: {held:#?}");
    for probe in ["peers.campus4 is up", "10.30.0.2 answers 10.30.0.1", "fd30::2 answers fd30::1"] {
        ensure!(held.iter().any(|line| line.contains(probe)), "{probe} is not in {held:#?}");
    }

    // The exit on another VLAN: valid, applied without an error, and nobody is there.
    let mut broken = harmless.clone();
    broken["exits"]["campus"]["vlan"]["vid"] = json!(301);
    let file = gateway.write_document(&broken)?;
    let refused = gateway.try_cli(&["apply", "-f", file.to_str().unwrap_or_default(), "--prove", "6s"])?;
    println!("{}", refused.err);
    ensure!(refused.status.code() == Some(1), "{}", refused.out);
    for word in ["peers.campus4", "10.30.0.2", "went back"] {
        ensure!(refused.err.contains(word), "{word} is not in {}", refused.err);
    }
    let vid = gateway.get("/api/v1/exits/campus")?["vlan"]["vid"].clone();
    ensure!(vid == 300, "the exit is on VLAN {vid}");
    wait_until(SOON, "host-a to reach the server again", || ping(&topology.a.host, SERVER.0))?;
    wait_until(SOON, "the sessions", || {
        ensure!(campus.established()?, "{}", campus.sessions()?);
        Ok(())
    })?;
    Ok(())
}
