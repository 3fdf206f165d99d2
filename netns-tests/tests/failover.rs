//! Two tunnels between two gateways, and the one that carries the traffic dies without a word: probes find it, the
//! other takes over, and the first has the traffic back once it carries again. Needs root.
//!
//! ```text
//!  host-a ═ [gw-a] ═╤═ WireGuard over the WAN (preference 100) ═ ✂ ═╤═ [gw-b] ═ host-b
//!                   └── direct, VLAN 900 of the L2VPN (200) ────────┘
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::topology::{HOST_A, HOST_B, Tunnel};
use netns_tests::world::SOON;
use netns_tests::{World, wait_until};

/// A dead path is found within 800 ms; what is left is for a loaded machine.
const GAP_MAX: Duration = Duration::from_millis(2500);

#[test]
fn root_the_other_tunnel_takes_over_when_one_dies_silently() -> Result<()> {
    let world = World::start(&[Tunnel::Wireguard, Tunnel::Direct])?;
    for tunnel in ["ab-wg", "ab-direct"] {
        world.tunnel_is_up(tunnel)?;
    }
    world.hosts_meet()?;
    for gateway in [&world.a, &world.b] {
        let object = gateway.object("tunnels.ab-wg")?;
        let path = &object["path"];
        let figures =
            ["rtt_us", "jitter_out_us", "jitter_in_us", "delay_change_out_us", "delay_change_in_us"];
        ensure!(path["up"] == true && figures.iter().all(|figure| path[*figure].is_u64()), "{object:#}");
    }
    let (a, b) = (&world.topology.a.host, &world.topology.b.host);
    let there = Flow::start(a, b, FlowSpec::to(SocketAddr::new(HOST_B.0.into(), 9000)))?;
    let back = Flow::start(b, a, FlowSpec::to(SocketAddr::new(HOST_A.1.into(), 9000)))?;
    for flow in [&there, &back] {
        flow.wait_for(100, SOON)?;
    }

    // The WAN routes nothing any more; no carrier falls.
    world.topology.wan.exec("sysctl -qw net.ipv4.ip_forward=0")?;
    for gateway in [&world.a, &world.b] {
        gateway.wait_for_state("tunnels.ab-wg", "down")?;
        gateway.wait_for_state("tunnels.ab-direct", "up")?;
    }
    for flow in [&there, &back] {
        let arrived = flow.arrived();
        flow.wait_for(arrived + 200, SOON)?;
    }
    world.topology.wan.exec("sysctl -qw net.ipv4.ip_forward=1")?;
    world.tunnel_is_up("ab-wg")?;
    wait_until(SOON, "the first tunnel to carry the traffic again", || {
        let route = world.a.ns().exec("ip -j route get 10.255.0.2")?;
        ensure!(!route.contains("wtd"), "{route}");
        Ok(())
    })?;
    for (way, flow) in [("there", there), ("back", back)] {
        let arrived = flow.arrived();
        flow.wait_for(arrived + 200, SOON)?;
        let report = flow.stop()?;
        println!("{way}: {report:?}");
        ensure!(report.longest_gap < GAP_MAX, "{way}: {report:?}");
    }
    Ok(())
}
