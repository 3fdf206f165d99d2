//! An underlay of IPv6: VTEPs, BGP sessions, probes and VXLAN have nothing of IPv4 between the gateways, and the
//! hosts notice nothing. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a 2001:db8:a::1] ── VXLAN over VLAN 900, fd90::/64 ── [gw-b 2001:db8:b::1] ═ VLAN 200 ─ host-b
//! ```
//! The whole drawing: `netns_tests::topology`.

use anyhow::{Context as _, Result, ensure};
use netns_tests::ping::Ping;
use netns_tests::topology::{HOST_B, Topology, Tunnel};
use netns_tests::world::SOON;
use netns_tests::{World, wait_until};
use serde_json::{Value, json};

const VTEP_A: &str = "2001:db8:a::1";
const VTEP_B: &str = "2001:db8:b::1";
/// What fits VXLAN over IPv6 in WireGuard.
const SEGMENT_MTU: u16 = 1350;

/// Makes the document one of IPv6 VTEPs; identifiers need not be addresses of anybody.
fn over_ipv6(_: &mut Topology, document: &mut Value) -> Result<()> {
    for (gateway, vtep, id) in [("gw-a", VTEP_A, "192.0.2.101"), ("gw-b", VTEP_B, "192.0.2.102")] {
        document["gateways"][gateway]["vtep"] = json!(vtep);
        document["gateways"][gateway]["router_id"] = json!(id);
    }
    document["segments"]["flat"]["mtu"] = json!(SEGMENT_MTU);
    if let Some(ends) = document["tunnels"]["ab-direct"]["direct"]["ends"].as_object_mut() {
        ends["gw-a"]["address"] = json!("fd90::1/64");
        ends["gw-b"]["address"] = json!("fd90::2/64");
    }
    Ok(())
}

/// What gateway A knows of host B came from the other VTEP, by BGP.
fn learnt_from_the_other_vtep(world: &World) -> Result<()> {
    wait_until(SOON, "gw-a to hear of host-b", || {
        let facts = world.a.get("/api/v1/facts")?;
        let session =
            facts["bgp"]["sessions"].as_array().and_then(|s| s.iter().find(|s| s["address"] == VTEP_B));
        let session = session.with_context(|| format!("no session: {}", facts["bgp"]))?;
        ensure!(session["state"] == "Established", "{session}");
        let neighbours = facts["neighbours"].as_array().map(Vec::as_slice).unwrap_or_default();
        let host_b = neighbours.iter().find(|n| n["address"] == json!(HOST_B.0));
        ensure!(host_b.is_some_and(|n| n["at"] == VTEP_B), "{neighbours:?}");
        ensure!(facts["flood"]["1000"] == json!([VTEP_B]), "{}", facts["flood"]);
        Ok(())
    })
}

#[test]
fn root_hosts_meet_over_a_direct_tunnel_of_ipv6() -> Result<()> {
    let world = World::start_with(&[Tunnel::Direct], over_ipv6)?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    learnt_from_the_other_vtep(&world)?;
    let full = Ping::to(HOST_B.0.into()).count(20).full(SEGMENT_MTU).send(&world.topology.a.host)?;
    ensure!(full.received == 20, "{}", full.text);
    // Gateways ask each other over their VTEPs too: here the far one to measure towards us.
    let asked = ["measure", "gateway:gw-b", "gateway:gw-a", "--seconds", "1", "--tests", "rr-tcp"];
    world.a.cli(&asked)?;
    Ok(())
}

#[test]
fn root_hosts_meet_over_wireguard_between_ipv6_vteps() -> Result<()> {
    let mut world = World::start_with(&[Tunnel::Wireguard, Tunnel::Direct], over_ipv6)?;
    world.tunnel_is_up("ab-wg")?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    world.a.kill9()?;
    world.a.launch()?;
    ensure!(world.a.first_plan_ops()? == 0, "{:#}", world.a.get("/api/v1/events")?);
    world.hosts_meet()
}
