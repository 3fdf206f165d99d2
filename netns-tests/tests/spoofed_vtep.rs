//! VXLAN that no tunnel brought: from the WAN, on a trunk, on the VLAN of a direct tunnel from somebody who is
//! not the far gateway, inside WireGuard from a VTEP that is not behind it. Each with a valid VNI and a frame
//! that a host would take. Nothing arrives, and each is counted under its reason. Needs root.
//!
//! ```text
//!          spoofer: source 10.255.0.2, VNI 1000, to host-a
//!  [wan] ─ uplink ─┐
//!  [switch-a] ─ trunk0 ─┤ [gw-a] ═ VLAN 100 ─ host-a      direct, VLAN 900: 10.90.0.1 [gw-a] ─ 10.90.0.2 [gw-b]
//!  [sinet] ─ trunk1 ────┘                                                   10.90.0.2 of a third party: not its MAC
//! ```

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use netns_tests::packet::{Capture, build, inject, vid};
use netns_tests::topology::{GW_A_PUBLIC, GW_B_PUBLIC, Tunnel, VID_A, VID_B, VTEP_A, VTEP_B};
use netns_tests::wait::holds_for;
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, World, wait_until};

const VNI: u32 = 1000;
const VXLAN: u16 = 4789;
/// IEEE 802 local experimental EtherType: nobody else sends it.
const EXPERIMENTAL: u16 = 0x88b6;
const STRANGER: [u8; 6] = [0x02, 0xbb, 0, 0, 0, 1];

/// Frames of ours that reach a host, under its VLAN.
fn watch(host: &Ns, on: u16) -> Result<Capture> {
    Capture::start(host, "eth0", move |frame| {
        vid(frame) == Some(on) && frame[16..18] == EXPERIMENTAL.to_be_bytes()
    })
}

fn inner(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    build::ethernet(to, from, EXPERIMENTAL, b"a frame that somebody smuggles into the segment")
}

fn vxlan(from: Ipv4Addr, to: Ipv4Addr, frame: &[u8]) -> Vec<u8> {
    build::ipv4(from, to, 17, &build::udp(50_000, VXLAN, &build::vxlan(VNI, frame)))
}

struct Attack<'a> {
    gateway: &'a Gateway,
    reason: &'a str,
    from: &'a Ns,
    interface: &'a str,
    frames: Vec<Vec<u8>>,
    times: u64,
}

impl Attack<'_> {
    /// Each frame is dropped under the reason, and counted once.
    fn is_repelled(&self) -> Result<()> {
        let before = self.gateway.drops(self.reason)?;
        for _ in 0..self.times {
            for frame in &self.frames {
                inject(self.from, self.interface, frame)?;
            }
        }
        let sent = self.times * self.frames.len() as u64;
        let what = format!("{sent} drops by {} at {}", self.reason, self.gateway.name());
        wait_until(SOON, &what, || -> Result<()> {
            let counted = self.gateway.drops(self.reason)? - before;
            ensure!(
                counted == sent,
                "{counted} were counted: {:#}",
                self.gateway.facts()?["datapath"]["drops"]
            );
            Ok(())
        })
    }
}

/// A frame by the right way arrives: else a silent capture would prove nothing.
fn the_capture_hears(world: &World, capture: &Capture) -> Result<()> {
    let frame = inner(world.topology.a.host.mac("eth0")?, world.topology.b.host.mac("eth0")?);
    inject(&world.topology.b.host, "eth0", &frame)?;
    wait_until(SOON, "a frame of host-b at host-a", || capture.count() == 1)
}

#[test]
fn root_vxlan_from_the_wan_reaches_nobody() -> Result<()> {
    let world = World::start(&[Tunnel::Wireguard])?;
    world.tunnel_is_up("ab-wg")?;
    world.hosts_meet()?;
    let topology = &world.topology;
    let (mac_a, mac_b) = (topology.a.host.mac("eth0")?, topology.b.host.mac("eth0")?);
    let at_a = watch(&topology.a.host, VID_A)?;
    the_capture_hears(&world, &at_a)?;
    let at_b = watch(&topology.b.host, VID_B)?;

    let cases = [
        (&world.a, &topology.a, "w1", VTEP_B, [GW_A_PUBLIC, VTEP_A], mac_a, mac_b),
        (&world.b, &topology.b, "w2", VTEP_A, [GW_B_PUBLIC, VTEP_B], mac_b, mac_a),
    ];
    for (gateway, site, port, spoofed, targets, host, friend) in cases {
        let outer = (site.gateway.mac("uplink")?, topology.wan.mac(port)?);
        let frames = targets.iter().flat_map(|target| {
            [inner(host, friend), inner(host, STRANGER), inner([0xff; 6], STRANGER)]
                .map(|frame| build::ethernet(outer.0, outer.1, 0x0800, &vxlan(spoofed, *target, &frame)))
        });
        let (frames, from) = (frames.collect(), &topology.wan);
        Attack { gateway, reason: "vxlan-on-uplink", from, interface: port, frames, times: 20 }
            .is_repelled()?;
    }
    ensure!(
        (at_a.count(), at_b.count()) == (1, 0),
        "frames arrived: {:02x?} {:02x?}",
        at_a.frames(),
        at_b.frames()
    );
    // Nor was the stranger learnt.
    for gateway in [&world.a, &world.b] {
        ensure!(
            !gateway.facts()?["macs"].to_string().contains("02:bb:00:00:00:01"),
            "{} learnt it",
            gateway.name()
        );
    }
    world.hosts_meet()
}

#[test]
fn root_vxlan_on_a_device_that_is_no_tunnel_reaches_nobody() -> Result<()> {
    let world = World::start(&[Tunnel::Wireguard])?;
    world.tunnel_is_up("ab-wg")?;
    world.hosts_meet()?;
    let topology = &world.topology;
    let (mac_a, mac_b) = (topology.a.host.mac("eth0")?, topology.b.host.mac("eth0")?);
    let at_a = watch(&topology.a.host, VID_A)?;
    the_capture_hears(&world, &at_a)?;
    // Untagged on the trunk: the kernel's own, and the kernel's VXLAN socket takes it.
    let outer = (topology.a.gateway.mac("trunk0")?, STRANGER);
    let packet = vxlan(VTEP_B, VTEP_A, &inner(mac_a, mac_b));
    let frames = vec![build::ethernet(outer.0, outer.1, 0x0800, &packet)];
    let (gateway, from) = (&world.a, &topology.a.switch);
    Attack { gateway, reason: "vxlan-not-from-tunnel", from, interface: "gw", frames, times: 30 }
        .is_repelled()?;
    ensure!(at_a.count() == 1, "frames arrived: {:02x?}", at_a.frames());
    Ok(())
}

#[test]
fn root_vxlan_of_a_third_party_on_the_l2vpn_reaches_nobody() -> Result<()> {
    let world = World::start(&[Tunnel::Direct])?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    let topology = &world.topology;
    let (mac_a, mac_b) = (topology.a.host.mac("eth0")?, topology.b.host.mac("eth0")?);
    let at_a = watch(&topology.a.host, VID_A)?;
    the_capture_hears(&world, &at_a)?;
    let router = [0x02, 0x57, 0xd4, 0xff, 0x00, 0x01];
    let tag = |packet: &[u8]| [&[0x03, 0x84, 0x08, 0x00][..], packet].concat();
    let frames = [Ipv4Addr::new(10, 90, 0, 3), Ipv4Addr::new(10, 255, 0, 9), Ipv4Addr::new(198, 18, 3, 2)]
        .map(|from| vxlan(from, VTEP_A, &inner(mac_a, mac_b)))
        .map(|packet| build::ethernet(router, STRANGER, 0x8100, &tag(&packet)))
        .to_vec();
    let (gateway, from) = (&world.a, &topology.sinet);
    Attack { gateway, reason: "vtep-not-bound", from, interface: "site-a", frames, times: 15 }
        .is_repelled()?;
    ensure!(at_a.count() == 1, "frames arrived: {:02x?}", at_a.frames());
    Ok(())
}

/// WireGuard itself knows which addresses are behind a peer: a wrong VTEP does not even come out of it.
#[test]
fn root_another_vtep_inside_wireguard_reaches_nobody() -> Result<()> {
    let world = World::start(&[Tunnel::Wireguard])?;
    world.tunnel_is_up("ab-wg")?;
    world.hosts_meet()?;
    let topology = &world.topology;
    let (mac_a, mac_b) = (topology.a.host.mac("eth0")?, topology.b.host.mac("eth0")?);
    let at_a = watch(&topology.a.host, VID_A)?;
    the_capture_hears(&world, &at_a)?;
    let device = tunnel_device(&topology.b.gateway)?;
    let accepted = world.a.counter("tunnel-accepted")?;
    let right = vxlan(VTEP_B, VTEP_A, &inner(mac_a, mac_b));
    inject(&topology.b.gateway, &device, &right)?;
    wait_until(SOON, "a hand-made packet of the right VTEP at host-a", || at_a.count() == 2)?;
    let wrong = vxlan(Ipv4Addr::new(10, 255, 0, 9), VTEP_A, &inner(mac_a, mac_b));
    for _ in 0..20 {
        inject(&topology.b.gateway, &device, &wrong)?;
    }
    inject(&topology.b.gateway, &device, &right)?;
    // It was sent last and order is kept: what was before it has come or will not.
    wait_until(SOON, "the right one after them", || at_a.count() == 3)?;
    holds_for(std::time::Duration::from_millis(500), "no more", || at_a.count() == 3)?;
    wait_until(SOON, "it to be counted", || -> Result<()> {
        ensure!(world.a.counter("tunnel-accepted")? >= accepted + 2, "not yet");
        Ok(())
    })
}

fn tunnel_device(ns: &Ns) -> Result<String> {
    let links: serde_json::Value = serde_json::from_str(&ns.ip("-j link show")?)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str());
    let found = names.map(str::to_owned).find(|name| name.starts_with("wtwg"));
    anyhow::Context::context(found, "no WireGuard device")
}
