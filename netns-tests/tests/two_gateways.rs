//! Two gateways, one flat network: hosts at both sites reach each other over each kind of tunnel, the
//! restarted brain finds nothing to do, and what somebody takes away comes back.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── WireGuard over the WAN, or VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b
//! ```
//! The whole drawing: `netns_tests::topology`.

use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::gateway::Gateway;
use netns_tests::ping::ping;
use netns_tests::topology::{self, HOST_B, Topology, Tunnel};
use netns_tests::wait_until;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

struct World {
    topology: Topology,
    a: Gateway,
    b: Gateway,
}

fn key(gateway: &Gateway) -> Result<String> {
    let facts = gateway.get("/api/v1/facts")?;
    Ok(facts["wireguard_key"].as_str().unwrap_or_default().to_owned())
}

fn world(tunnels: &[Tunnel]) -> Result<World> {
    let topology = Topology::build()?;
    let a = Gateway::start(&topology.a.gateway, "gw-a", &json!({}))?;
    let b = Gateway::start(&topology.b.gateway, "gw-b", &json!({}))?;
    let keys = [key(&a)?, key(&b)?];
    let document = topology::document(tunnels, [&keys[0], &keys[1]]);
    a.apply(&document)?;
    b.apply(&document)?;
    let world = World { topology, a, b };
    for gateway in [&world.a, &world.b] {
        wait_until(SOON, &format!("{} to settle", gateway.name()), || {
            let status = gateway.get("/api/v1/status")?;
            ensure!(status["settled"] == true, "{status:#}");
            ensure!(status["generation"] == status["desired_generation"], "an older one");
            Ok(())
        })?;
    }
    Ok(world)
}

fn tunnel_is_up(gateway: &Gateway, tunnel: &str) -> Result<()> {
    wait_until(SOON, &format!("{tunnel} up at {}", gateway.name()), || {
        let status = gateway.get("/api/v1/status")?;
        let object = &status["status"]["objects"][format!("tunnels.{tunnel}")];
        ensure!(object["state"] == "up", "{object}");
        Ok(())
    })
}

fn hosts_meet(world: &World) -> Result<()> {
    for address in topology::both(HOST_B) {
        wait_until(SOON, &format!("host-a to reach {address}"), || ping(&world.topology.a.host, address))?;
    }
    Ok(())
}

#[test]
fn root_hosts_meet_over_wireguard() -> Result<()> {
    let world = world(&[Tunnel::Wireguard])?;
    tunnel_is_up(&world.a, "ab-wg")?;
    hosts_meet(&world)
}

#[test]
fn root_hosts_meet_over_the_l2vpn() -> Result<()> {
    let world = world(&[Tunnel::Direct])?;
    tunnel_is_up(&world.a, "ab-direct")?;
    hosts_meet(&world)
}

#[test]
fn root_the_restarted_brain_finds_nothing_to_do() -> Result<()> {
    let mut world = world(&[Tunnel::Wireguard, Tunnel::Direct])?;
    tunnel_is_up(&world.a, "ab-wg")?;
    tunnel_is_up(&world.a, "ab-direct")?;
    world.a.kill9()?;
    world.a.launch()?;
    let facts: Value = wait_until_facts(&world.a)?;
    assert_eq!(facts["first_plan_ops"], 0, "{:#}", world.a.get("/api/v1/events")?);
    hosts_meet(&world)
}

fn wait_until_facts(gateway: &Gateway) -> Result<Value> {
    wait_until(SOON, "the first plan", || {
        let facts = gateway.get("/api/v1/facts")?;
        ensure!(!facts["first_plan_ops"].is_null(), "not made yet");
        Ok(facts)
    })
}
