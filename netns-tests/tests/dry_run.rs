//! `watari run --dry-run` says what a start would do, and does nothing of it. Needs root.
//!
//! ```text
//!  [gw-a: watari] ── document ── cleanup ──▶ a bare machine    ── dry run ──▶ a plan of everything
//!                 └─ kill -9 ──────────────▶ all is in place   ── dry run ──▶ a plan of what is left to do
//! ```

use anyhow::{Context as _, Result, ensure};
use netns_tests::topology::{Tunnel, document};
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

const KEYS: [&str; 2] =
    ["AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="];

/// Pins, devices, namespaces, sockets, files and processes of a gateway's machine, each pin with what it is.
fn everything(gateway: &Gateway) -> Result<String> {
    let machine = gateway.ns();
    let run_dir = gateway.run_dir().display().to_string();
    let listing = |folder: &str, more: &str| machine.exec(&format!("find {folder} {more}"));
    let mut pins: Vec<String> =
        listing("/sys/fs/bpf", "-printf %p:%i\\n")?.lines().map(str::to_owned).collect();
    pins.sort();
    Ok([
        pins.join("\n"),
        machine.ip("-o link show")?,
        machine.exec("ls /run/netns")?,
        listing(&run_dir, "-printf %p:%i\\n")?,
        listing(&gateway.state_dir().display().to_string(), "-name link* -printf %p:%i:%s\\n")?,
        // Without a match pgrep fails.
        machine.exec(&format!("pgrep -f socket.{run_dir}")).unwrap_or_default(),
    ]
    .join("\n--\n"))
}

/// The number of ops that a dry run tells, after which everything is as it was.
fn dry_run(gateway: &Gateway) -> Result<usize> {
    let before = everything(gateway)?;
    let config = gateway.config();
    let said =
        gateway.cli(&["--json", "run", "--dry-run", "--config", config.to_str().unwrap_or_default()])?;
    let after = everything(gateway)?;
    ensure!(before == after, "before the dry run:\n{before}\nafter it:\n{after}");
    let plan: Value = serde_json::from_str(&said)?;
    Ok(plan["ops"].as_array().with_context(|| format!("no ops in {said}"))?.len())
}

#[test]
fn root_a_dry_run_tells_the_plan_and_changes_nothing() -> Result<()> {
    let machine = Ns::machine("gw-a")?;
    let mut gateway = Gateway::start(&machine, "gw-a", &json!({}))?;
    gateway.apply(&document(&[Tunnel::Wireguard], KEYS))?;
    wait_until(SOON, "the document to be carried out", || -> Result<()> {
        let status = gateway.get("/api/v1/status")?;
        ensure!(status["generation"] == status["desired_generation"], "an older one: {status:#}");
        Ok(())
    })?;
    gateway.kill9()?;
    let in_place = dry_run(&gateway)?;
    let config = gateway.config();
    gateway.cli(&["cleanup", "--config", config.to_str().unwrap_or_default()])?;
    ensure!(!machine.exec("ls /sys/fs/bpf")?.contains("wt-gw-a"), "the cleanup has left pins");
    let bare = dry_run(&gateway)?;
    ensure!(in_place < bare, "{in_place} ops where all is in place, {bare} on a bare machine");
    Ok(())
}
