//! Kernel WireGuard carries the flat network. For a kernel that has WireGuard; where the machine's has not,
//! `script/test-guest` runs these in a guest.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── wtwg…: kernel ─ WAN ─ kernel, then user space :wtwg… ── [gw-b] ═ VLAN 200 ─ host-b
//!                          └─ wtn…: kernel ─ WAN ─ [cloud]: a node in the flat network
//! ```
//! The whole drawing: `netns_tests::topology`.

use std::io::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::gateway::program;
use netns_tests::ping::ping;
use netns_tests::topology::{self, GW_A_PUBLIC, GW_B_PUBLIC, HOST_A, HOST_B, Topology, Tunnel};
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
fn root_the_kernel_carries_tunnels_and_nodes() -> Result<()> {
    let mut world = world_with_enrolment()?;
    world.tunnel_is_up("ab-wg")?;
    world.tunnel_is_up("ab-direct")?;
    for gateway in [&world.a, &world.b] {
        runs_in(gateway, "kernel")?;
        assert_eq!(kind(gateway)?, "wireguard");
    }
    world.hosts_meet()?;
    a_node_reaches_both_sites_and_is_reached(&world)?;
    a_peer_that_roams_is_no_difference_and_its_session_outlives_the_brain(&mut world)?;
    what_somebody_changes_comes_back(&world)?;
    a_device_of_somebody_else_is_left_alone(&mut world)?;
    world.hosts_meet()
}

/// Both tunnels, and gateway A lets nodes enrol.
fn world_with_enrolment() -> Result<World> {
    let topology = Topology::build()?;
    let enrol = json!({ "enrol": { "listen": format!("{GW_A_PUBLIC}:8443") } });
    let a = Gateway::start(&topology.a.gateway, "gw-a", &enrol)?;
    let b = Gateway::start(&topology.b.gateway, "gw-b", &json!({}))?;
    let keys = [a.wireguard_key()?, b.wireguard_key()?];
    let document = topology::document(&[Tunnel::Wireguard, Tunnel::Direct], [&keys[0], &keys[1]]);
    let world = World { topology, a, b, document };
    for gateway in [&world.a, &world.b] {
        gateway.apply(&world.document)?;
    }
    Ok(world)
}

/// The cloud's machine joins, by the command that the gateway gives out.
fn a_node_reaches_both_sites_and_is_reached(world: &World) -> Result<()> {
    let machine = &world.topology.cloud;
    let wish = json!({ "name": "n1", "segment": "flat", "lease": "1h" });
    let attached = world.a.api().post("/api/v1/nodes", &wish)?.success()?;
    for folder in ["/var/lib", "/run"] {
        machine.exec(&format!("mount -t tmpfs -o mode=0755 fresh {folder}"))?;
    }
    let folder = program("watari-node")?.parent().context("a folder")?.display().to_string();
    let command = attached["join_command"].as_str().context("a join command")?;
    machine.exec_args(&["sh", "-c", &format!("PATH={folder}:$PATH exec {command}")], SOON * 2)?;
    let devices = machine.ip("link show type wireguard")?;
    ensure!(devices.contains("UP"), "the node's own kernel carries its end: {devices:?}");
    for address in [topology::both(HOST_A), topology::both(HOST_B)].into_iter().flatten() {
        wait_until(SOON, &format!("the node to reach {address}"), || ping(machine, address))?;
    }
    for address in attached["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let address: IpAddr = address.split('/').next().unwrap_or_default().parse()?;
        for host in [&world.topology.a.host, &world.topology.b.host] {
            wait_until(SOON, &format!("{} to reach the node", host.label()), || ping(host, address))?;
        }
    }
    Ok(())
}

/// Gateway B, without a brain that would mend it, sends from another port: to gateway A a peer that roams.
fn a_peer_that_roams_is_no_difference_and_its_session_outlives_the_brain(world: &mut World) -> Result<()> {
    let session = shown(&world.a, "latest-handshakes")?;
    assert_ne!(session, "0");
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
    heard_from(&world.a, PORT)
}

fn what_somebody_changes_comes_back(world: &World) -> Result<()> {
    world.a.ns().ip(&format!("link set {} mtu 1300", device()))?;
    wait_until(SOON, "the MTU to come back", || {
        let text = world.a.ns().ip(&format!("link show {}", device()))?;
        ensure!(text.contains("mtu 1420"), "{text}");
        Ok(())
    })?;
    let stranger = world.a.ns().exec("wg genkey")?;
    world.a.ns().exec(&format!("wg set {} peer {} allowed-ips 10.255.0.0/16", device(), stranger.trim()))?;
    wait_until(SOON, "the stranger to go", || {
        let peers = world.a.ns().exec(&format!("wg show {} peers", device()))?;
        ensure!(peers.trim() == world.b.wireguard_key()?, "{peers}");
        Ok(())
    })
}

/// While the brain is away somebody makes a device of that name; the brain's own comes back when it is gone.
fn a_device_of_somebody_else_is_left_alone(world: &mut World) -> Result<()> {
    world.a.kill9()?;
    let ns = world.a.ns().clone();
    ns.ip(&format!("link del {}", device()))?;
    ns.ip(&format!("link add {} type wireguard", device()))?;
    world.a.launch()?;
    wait_until(SOON, "the brain to say that the device is not its own", || {
        let events = world.a.events_after(0)?;
        let told =
            events.iter().any(|event| event["kind"] == "failed" && event.to_string().contains("is not ours"));
        ensure!(told, "{events:#?}");
        Ok(())
    })?;
    let key = ns.exec(&format!("wg show {} private-key", device()))?;
    assert_eq!(key.trim(), "(none)", "it has got nothing from us");
    ns.ip(&format!("link del {}", device()))?;
    runs_in(&world.a, "kernel")
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
