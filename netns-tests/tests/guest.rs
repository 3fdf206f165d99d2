//! Kernel WireGuard carries the flat network. For a kernel that has WireGuard; where the machine's has not,
//! `script/test-guest` runs these in a guest.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── wtwg…: kernel ─ WAN ─ kernel, then user space :wtwg… ── [gw-b] ═ VLAN 200 ─ host-b
//! ```
//! The whole drawing: `netns_tests::topology`.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::topology::{self, GW_B_PUBLIC, Topology, Tunnel};
use netns_tests::wait::holds_for;
use netns_tests::world::{SOON, World};
use netns_tests::{Gateway, wait_until};
use serde_json::{Value, json};
use watari_config::desired::device;

const TUNNEL: &str = "ab-wg";
/// Gateway B's port by the document.
const PORT: u16 = 51820;
/// The port that it moves to.
const ELSEWHERE: u16 = 40000;

fn device() -> String {
    device::wireguard(&TUNNEL.parse().expect("a name"))
}

/// The kind of link that the device is: `wireguard`, `tun`.
fn kind(gateway: &Gateway) -> Result<String> {
    let text = gateway.ns().ip(&format!("-details -json link show {}", device()))?;
    let links: Value = serde_json::from_str(&text)?;
    Ok(links[0]["linkinfo"]["info_kind"].as_str().context("a link without a kind")?.to_owned())
}

fn runs_in(gateway: &Gateway, engine: &str) -> Result<()> {
    wait_until(SOON, &format!("{TUNNEL} in engine {engine} at {}", gateway.name()), || {
        let object = gateway.object(&format!("tunnels.{TUNNEL}"))?;
        ensure!(object["engine"] == engine && object["state"] == "up", "{object}");
        Ok(())
    })
}

/// The only peer's value of one of the lists of `wg show`.
fn shown(gateway: &Gateway, list: &str) -> Result<String> {
    let text = gateway.ns().exec(&format!("wg show {} {list}", device()))?;
    Ok(text.split_whitespace().nth(1).context("no peer")?.to_owned())
}

/// Waits until gateway A sends to gateway B's `port`.
fn heard_from(gateway: &Gateway, port: u16) -> Result<()> {
    wait_until(SOON, &format!("the peer heard from port {port}"), || {
        let endpoint = shown(gateway, "endpoints")?;
        ensure!(endpoint == format!("{GW_B_PUBLIC}:{port}"), "{endpoint}");
        Ok(())
    })
}

/// For several looks of the brain the peer is left where it was heard.
fn stays_at(gateway: &Gateway, port: u16) -> Result<()> {
    heard_from(gateway, port)?;
    holds_for(Duration::from_secs(2), "the peer is left where it is", || {
        let endpoint = shown(gateway, "endpoints")?;
        ensure!(endpoint == format!("{GW_B_PUBLIC}:{port}"), "{endpoint}");
        Ok(())
    })
}

#[test]
#[ignore = "needs a kernel with WireGuard: script/test-guest"]
fn root_the_kernel_carries_the_tunnel_and_sessions_outlive_the_brain() -> Result<()> {
    let mut world = World::start(&[Tunnel::Wireguard])?;
    for gateway in [&world.a, &world.b] {
        runs_in(gateway, "kernel")?;
        assert_eq!(kind(gateway)?, "wireguard");
    }
    world.hosts_meet()?;
    let session = shown(&world.a, "latest-handshakes")?;
    assert_ne!(session, "0");

    // Gateway B, without a brain that would mend it, sends from another port: to gateway A a peer that roams,
    // which is no difference, neither now nor to a brain that remembers nothing.
    world.b.kill9()?;
    world.b.ns().exec(&format!("wg set {} listen-port {ELSEWHERE}", device()))?;
    stays_at(&world.a, ELSEWHERE)?;
    world.hosts_meet()?;
    world.a.kill9()?;
    world.hosts_meet()?;
    world.a.launch()?;
    assert_eq!(world.a.first_plan_ops()?, 0, "{:#}", world.a.get("/api/v1/events")?);
    stays_at(&world.a, ELSEWHERE)?;
    assert_eq!(shown(&world.a, "latest-handshakes")?, session, "the session went on");
    world.b.launch()?;
    heard_from(&world.a, PORT)?;
    world.hosts_meet()?;

    // What somebody changes or takes away comes back.
    world.a.ns().ip(&format!("link set {} mtu 1300", device()))?;
    wait_until(SOON, "the MTU to come back", || {
        let text = world.a.ns().ip(&format!("link show {}", device()))?;
        ensure!(text.contains("mtu 1420"), "{text}");
        Ok(())
    })?;
    world.a.ns().ip(&format!("link del {}", device()))?;
    wait_until(SOON, "the device to come back", || world.a.ns().has_link(&device()))?;
    world.a.settle()?;
    runs_in(&world.a, "kernel")?;
    world.hosts_meet()
}

/// Adds a field to the bootstrap file, and starts the daemon anew.
fn restart_with(gateway: &mut Gateway, line: &str) -> Result<()> {
    let text = std::fs::read_to_string(gateway.config())?;
    let field = line.split(':').next().unwrap_or_default();
    let mut file = std::fs::File::create(gateway.config())?;
    for kept in text.lines().filter(|kept| !kept.starts_with(field)) {
        writeln!(file, "{kept}")?;
    }
    writeln!(file, "{line}")?;
    gateway.restart()
}

#[test]
#[ignore = "needs a kernel with WireGuard: script/test-guest"]
fn root_engines_change_places_and_talk_to_each_other() -> Result<()> {
    let mut world = World::start(&[Tunnel::Wireguard])?;
    runs_in(&world.b, "kernel")?;
    for (engine, setting, link) in [("user", "user", "tun"), ("kernel", "auto", "wireguard")] {
        restart_with(&mut world.b, &format!("wireguard_engine: {setting}"))?;
        world.b.settle()?;
        runs_in(&world.b, engine)?;
        assert_eq!(kind(&world.b)?, link);
        runs_in(&world.a, "kernel")?;
        world.hosts_meet()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs a kernel with WireGuard: script/test-guest"]
fn root_a_device_of_somebody_else_is_left_alone() -> Result<()> {
    let topology = Topology::build()?;
    let machine = &topology.a.gateway;
    machine.ip(&format!("link add {} type wireguard", device()))?;
    let gateway = Gateway::start(machine, "gw-a", &json!({}))?;
    let nobody = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=";
    gateway.apply(&topology::document(&[Tunnel::Wireguard], [&gateway.wireguard_key()?, nobody]))?;
    let path = format!("tunnels.{TUNNEL}");
    gateway.wait_for_state(&path, "error")?;
    let reason = gateway.object(&path)?["reason"].to_string();
    ensure!(reason.contains("is not ours"), "{reason}");
    let key = machine.exec(&format!("wg show {} private-key", device()))?;
    assert_eq!(key.trim(), "(none)", "it has got nothing from us");
    Ok(())
}
