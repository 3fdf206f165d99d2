//! Two gateways, one flat network: hosts at both sites reach each other over each kind of tunnel, and the
//! restarted brain finds nothing to do.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── WireGuard over the WAN, or VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b
//! ```
//! The whole drawing: `netns_tests::topology`.

use anyhow::Result;
use netns_tests::World;
use netns_tests::topology::Tunnel;

#[test]
fn root_hosts_meet_over_wireguard() -> Result<()> {
    let world = World::start(&[Tunnel::Wireguard])?;
    world.tunnel_is_up("ab-wg")?;
    world.hosts_meet()
}

#[test]
fn root_hosts_meet_over_the_l2vpn() -> Result<()> {
    let world = World::start(&[Tunnel::Direct])?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()
}

#[test]
fn root_the_restarted_brain_finds_nothing_to_do() -> Result<()> {
    let mut world = World::start(&[Tunnel::Wireguard, Tunnel::Direct])?;
    world.tunnel_is_up("ab-wg")?;
    world.tunnel_is_up("ab-direct")?;
    world.a.kill9()?;
    world.a.launch()?;
    assert_eq!(world.a.first_plan_ops()?, 0, "{:#}", world.a.get("/api/v1/events")?);
    world.hosts_meet()
}
