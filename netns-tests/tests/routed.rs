//! Subnets behind two gateways, routed through their tunnels without the overlay: an underlay route to the far VTEP
//! goes the way the VTEP goes, and changes to the other tunnel with it. Needs root.
//!
//! ```text
//!  [lan-a] 10.40.1.2 ─ lan0 [gw-a] ═╤═ WireGuard over the WAN (preference 100) ═ ✂ ═╤═ [gw-b] lan0 ─ 10.40.2.2 [lan-b]
//!                                   └── direct, VLAN 900 of the L2VPN (200) ────────┘
//! ```

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use netns_tests::links::veth;
use netns_tests::ping::ping;
use netns_tests::topology::{Tunnel, VTEP_A, VTEP_B};
use netns_tests::world::SOON;
use netns_tests::{Ns, World, wait_until};
use serde_json::json;

const LAN_B_HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 40, 2, 2));

/// A host behind a gateway, in subnet 10.40.`n`.0/24.
fn lan(gateway: &Ns, n: u8) -> Result<Ns> {
    let host = Ns::new(&format!("lan-{n}"))?;
    veth(&host, "eth0", gateway, "lan0")?;
    host.address("eth0", &[&format!("10.40.{n}.2/24")])?;
    host.route("default", &format!("10.40.{n}.1"))?;
    gateway.address("lan0", &[&format!("10.40.{n}.1/24")])?;
    gateway.forward()?;
    Ok(host)
}

#[test]
fn root_what_lies_behind_a_gateway_is_reached_through_whichever_tunnel_carries() -> Result<()> {
    let world = World::start_with(&[Tunnel::Wireguard, Tunnel::Direct], |_, document| {
        document["routes"] = json!({
            "behind-b": { "gateway": "gw-a", "prefix": "10.40.2.0/24", "via": VTEP_B },
            "behind-a": { "gateway": "gw-b", "prefix": "10.40.1.0/24", "via": VTEP_A },
        });
        Ok(())
    })?;
    let host = lan(world.a.ns(), 1)?;
    let _far = lan(world.b.ns(), 2)?;
    for tunnel in ["ab-wg", "ab-direct"] {
        world.tunnel_is_up(tunnel)?;
    }
    let leads_to = |prefix: &str| -> Result<bool> {
        let text = world.a.ns().exec("ip -j route get 10.40.2.2")?;
        let route: serde_json::Value = serde_json::from_str(&text)?;
        Ok(route[0]["dev"].as_str().is_some_and(|device| device.starts_with(prefix)))
    };
    wait_until(SOON, "the subnets to reach each other", || ping(&host, LAN_B_HOST))?;
    ensure!(leads_to("wtwg")?, "{}", world.a.ns().exec("ip route")?);

    // The WAN routes nothing any more; no carrier falls.
    world.topology.wan.exec("sysctl -qw net.ipv4.ip_forward=0")?;
    world.a.wait_for_state("tunnels.ab-wg", "down")?;
    wait_until(SOON, "the route through the other tunnel", || leads_to("wtd").unwrap_or(false))?;
    wait_until(SOON, "the subnets to reach each other again", || ping(&host, LAN_B_HOST))
}
