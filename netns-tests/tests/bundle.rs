//! Two WireGuard tunnels of one preference share the traffic between two gateways by flow, one part to three; one of them dies
//! without a word and comes back. Needs root.
//!
//! ```text
//!              ┌── ab-wg,  IPv4, weight 1 ──────┐
//!  host-a ═ [gw-a]                            [gw-b] ═ host-b      64 flows
//!              └── ab-wg6, IPv6, weight 3 ─ ✂ ──┘
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::topology::{HOST_B, Tunnel};
use netns_tests::world::SOON;
use netns_tests::{Gateway, World, wait_until};
use serde_json::{Value, json};
use watari_config::desired::device;

const FLOWS: usize = 64;
/// A dead path is found within 800 ms; what is left is for a loaded machine.
const GAP_MAX: Duration = Duration::from_millis(2_500);
/// A flow that stayed where it was has not waited for the dead path to be found.
const STAYED: Duration = Duration::from_millis(400);

fn share(gateway: &Gateway, tunnel: &str, percent: f64) -> Result<()> {
    wait_until(SOON, &format!("{tunnel} to have {percent} %"), || {
        let object = gateway.object(&format!("tunnels.{tunnel}"))?;
        ensure!(object["share_percent"] == json!(percent), "{object:#}");
        Ok(())
    })
}

/// Packets that a tunnel's device has sent.
fn sent(gateway: &Gateway, tunnel: &str) -> Result<u64> {
    let device = device::wireguard(&tunnel.parse()?);
    let links: Value = serde_json::from_str(&gateway.ns().ip(&format!("-s -j link show {device}"))?)?;
    links[0]["stats64"]["tx"]["packets"].as_u64().context("no count")
}

/// Waits until so many more have arrived of each flow.
fn all_go_on(flows: &[Flow], more: u64) -> Result<()> {
    let arrived: Vec<u64> = flows.iter().map(Flow::arrived).collect();
    wait_until(SOON, "every flow to go on", || {
        let waiting =
            flows.iter().zip(&arrived).filter(|(flow, before)| flow.arrived() < *before + more).count();
        ensure!(waiting == 0, "{waiting} flows wait");
        Ok(())
    })
}

#[test]
fn root_flows_are_shared_by_weight_and_only_those_of_a_dead_tunnel_move() -> Result<()> {
    let world = World::start_with(&[Tunnel::Wireguard], |_, document| {
        document["tunnels"]["ab-wg"]["weight"] = json!(1);
        let mut six = document["tunnels"]["ab-wg"].clone();
        six["weight"] = json!(3);
        six["wireguard"]["endpoints"] = json!({ "gw-a": "[fd18:1::2]:51821", "gw-b": "[fd18:2::2]:51821" });
        document["tunnels"]["ab-wg6"] = six;
        Ok(())
    })?;
    for tunnel in ["ab-wg", "ab-wg6"] {
        world.tunnel_is_up(tunnel)?;
    }
    world.hosts_meet()?;
    for gateway in [&world.a, &world.b] {
        share(gateway, "ab-wg", 25.0)?;
        share(gateway, "ab-wg6", 75.0)?;
    }
    let (a, b) = (&world.topology.a.host, &world.topology.b.host);
    let spec = FlowSpec { rate_per_s: 20, ..FlowSpec::to(SocketAddr::new(HOST_B.0.into(), 0)) };
    let flows: Vec<Flow> = (0..FLOWS).map(|_| Flow::start(a, b, spec)).collect::<Result<_>>()?;
    all_go_on(&flows, 20)?;
    let before = [sent(&world.a, "ab-wg")?, sent(&world.a, "ab-wg6")?];
    all_go_on(&flows, 60)?;
    let [four, six] = [sent(&world.a, "ab-wg")? - before[0], sent(&world.a, "ab-wg6")? - before[1]];
    let part = six as f64 / (four + six) as f64;
    println!("{four} packets by weight 1, {six} by weight 3: {part:.3}");
    // 64 flows at random: three standard deviations are 0.16.
    ensure!((0.58..0.92).contains(&part), "{part}");

    let wan = &world.topology.wan;
    wan.exec("sysctl -qw net.ipv6.conf.all.forwarding=0")?;
    for gateway in [&world.a, &world.b] {
        gateway.wait_for_state("tunnels.ab-wg6", "down")?;
        share(gateway, "ab-wg", 100.0)?;
    }
    all_go_on(&flows, 20)?;
    wan.exec("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    world.tunnel_is_up("ab-wg6")?;
    share(&world.a, "ab-wg6", 75.0)?;
    all_go_on(&flows, 60)?;
    let reports = flows.into_iter().map(Flow::stop).collect::<Result<Vec<_>>>()?;
    let longest = reports.iter().map(|report| report.longest_gap).max().unwrap_or_default();
    let stayed: Vec<_> = reports.iter().filter(|report| report.longest_gap < STAYED).collect();
    println!("longest gap {longest:?}; {} of {FLOWS} flows stayed where they were", stayed.len());
    ensure!(longest < GAP_MAX, "{longest:?}");
    ensure!((4..=FLOWS / 2).contains(&stayed.len()), "{} stayed", stayed.len());
    ensure!(stayed.iter().all(|report| report.lost == 0), "{stayed:?}");
    let disordered = reports.iter().filter(|report| report.reordered + report.duplicates > 0).count();
    ensure!(disordered == 0, "{disordered} flows out of order");
    Ok(())
}
