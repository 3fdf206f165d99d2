//! DSCP and ECN between inner and outer headers (RFC 2983, RFC 6040), all values, where the programs write and take off VXLAN
//! themselves. Needs root and `ip`.
//!
//! The runs take place in a namespace with a tunnel whose next hop is known: there a run finds the kernel's way.

mod rig;

use rig::{frames::*, netns::*, *};
use watari_dataplane::*;

const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;
const NEXT_HOP: [u8; 6] = [0x02, 0, 0, 0, 0, 0x99];
const V4: (&str, &str) = ("10.0.0.10", "10.0.0.18");
const V6: (&str, &str) = ("fd00::10", "fd00::18");

struct Scene {
    rig: Rig,
    space: Netns,
    wire: PortKey,
    /// Bytes of the outer headers behind the outer Ethernet header, up to the inner one.
    outer: usize,
    local: [u8; 16],
    far: [u8; 16],
}

impl Scene {
    /// With VTEPs of IPv4 or IPv6.
    fn new(name: &str, v6: bool) -> Self {
        let (rig, space) = (Rig::new(name), Netns::new(name));
        let (local, far, hop, own) = if v6 {
            ("2001:db8::1", "2001:db8::2", "2001:db8:9::2", "2001:db8:9::1/64")
        } else {
            ("10.255.0.1", "10.255.0.2", "192.0.2.2", "192.0.2.1/24")
        };
        space.ip("link add wtd0 type veth peer name wtd0p");
        for setting in ["all.accept_dad=0", "default.accept_dad=0", "wtd0.accept_dad=0", "all.forwarding=1"] {
            space.run(&format!("sysctl -qw net.ipv6.conf.{setting}"));
        }
        space.run("sysctl -qw net.ipv4.ip_forward=1");
        for device in ["wtd0", "wtd0p"] {
            space.ip(&format!("link set {device} up"));
        }
        space.ip(&format!("addr add {own} dev wtd0"));
        space.ip("link add wtvx type vxlan external dstport 4789 nolearning");
        space.ip("link set wtvx up");
        space.ip(&format!("addr add {local} dev wtvx"));
        space.ip(&format!("neigh add {hop} lladdr 02:00:00:00:00:99 dev wtd0 nud permanent"));
        space.ip(&format!("route add {far} via {hop} dev wtd0"));
        let (local, far) = (abi::ip_bytes(rig::ip(local)), abi::ip_bytes(rig::ip(far)));
        let outer = if v6 { 40 } else { 20 } + 16;
        let scene = Self { rig, space, wire: PortKey::vlan(100, 40), outer, local, far };
        scene.tables();
        scene.set_dscp(Config::DSCP_INNER);
        scene
    }

    fn tables(&self) {
        let d = &self.rig.dataplane;
        let device = self.space.index_of("wtd0");
        let mut port = Port::cross(WIRE_END);
        port.flags |= Port::TUNNEL;
        port.tunnel_ifindex = device;
        d.ports.upsert(&self.wire, &port).unwrap();
        d.wires.upsert(&device, &Wire::direct(self.wire)).unwrap();
        d.vteps.upsert(&TunnelKey { ifindex: device, vtep: self.far }, &1).unwrap();
        let behind = MacRemote { vtep: self.far, flags: 0, sequence: 0 };
        d.mac_remote.upsert(&MacKey::new(L2, HOST_R), &behind).unwrap();
        self.rig.heard(A, L2, HOST_A, "10.0.0.10");
    }

    fn set_dscp(&self, dscp: u8) {
        let mut config = self.rig.dataplane.config().unwrap();
        config.vxlan_ifindex = self.space.index_of("wtvx");
        config.local_vtep = self.local;
        config.dscp = dscp;
        self.rig.dataplane.set_config(&config).unwrap();
    }

    fn run(&self, packet: &Packet<'_>) -> Outcome {
        self.space.enter(|| self.rig.dataplane.run(packet).unwrap())
    }

    /// `inner` as the far gateway sends it, with this octet of DSCP and ECN outside.
    fn encapsulated(&self, inner: &[u8], tos: u8) -> Vec<u8> {
        let payload = [&[8, 0, 0, 0][..], &(L2 << 8).to_be_bytes(), inner].concat();
        let address = |bytes| abi::ip_from_bytes(bytes).to_string();
        let (from, to) = (address(self.far), address(self.local));
        let mut frame = udp_to((WIRE_MAC, NEXT_HOP), (&from, &to), 64, 4789, &payload);
        if is_v6(&frame) {
            // As gateways send it: a sum there is the kernel's matter.
            frame[60..62].fill(0);
        }
        set_tos(&mut frame, tos);
        frame
    }
}

fn is_v6(frame: &[u8]) -> bool {
    frame[12..14] == [0x86, 0xdd]
}

fn tos(frame: &[u8]) -> u8 {
    if is_v6(frame) { frame[14] << 4 | frame[15] >> 4 } else { frame[15] }
}

fn set_tos(frame: &mut [u8], tos: u8) {
    if is_v6(frame) {
        frame[14] = 0x60 | tos >> 4;
        frame[15] = frame[15] & 0x0f | tos << 4;
    } else {
        frame[15] = tos;
        frame[24..26].fill(0);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

fn inner(addresses: (&str, &str), macs: ([u8; 6], [u8; 6]), octet: u8) -> Vec<u8> {
    let mut frame = udp(macs, addresses, 64, 77);
    set_tos(&mut frame, octet);
    frame
}

#[track_caller]
fn sums_are_right(frame: &[u8]) {
    if is_v6(frame) {
        let length = &frame[18..20];
        assert_eq!(checksum(&[&frame[22..54], &[0, 0], length, &[0, 0, 0, 17], &frame[54..]]), 0);
    } else {
        assert_eq!(checksum(&[&frame[14..34]]), 0);
    }
}

#[test]
fn root_every_octet_is_copied_outside_or_only_its_ecn() {
    for (name, v6) in [("ecnout4", false), ("ecnout6", true)] {
        let scene = Scene::new(name, v6);
        for (dscp, outside) in [(Config::DSCP_INNER, None), (46, Some(46)), (0, Some(0)), (63, Some(63))] {
            scene.set_dscp(dscp);
            for octet in 0..=255_u8 {
                for addresses in [V4, V6] {
                    let frame = inner(addresses, (HOST_R, HOST_A), octet);
                    let outcome = scene.run(&Packet::from_port(Hook::Trunk, A, &frame));
                    assert_eq!(outcome.verdict, Verdict::Vtep { vni: L2, vtep: scene.far });
                    assert_eq!(outcome.out, scene.wire, "not by the wire");
                    let wanted = outside.map_or(octet, |dscp| dscp << 2 | octet & CE);
                    assert_eq!(tos(&outcome.frame), wanted, "dscp {dscp}, inner {octet:#04x}");
                    assert_eq!(outcome.frame[14 + scene.outer..], frame, "the inner packet is as it was");
                    if !v6 {
                        assert_eq!(checksum(&[&outcome.frame[14..34]]), 0);
                    }
                }
            }
        }
    }
}

/// RFC 6040 §4.2, figure 4: what becomes of an inner field under an outer one; `None` is a drop.
fn figure_4(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (CE, _) | (_, CE) => Some(CE),
        (ECT0, ECT1) => Some(ECT1),
        (inner, _) => Some(inner),
    }
}

#[test]
fn root_congestion_comes_inside_as_rfc_6040_has_it() {
    for (name, v6) in [("ecnin4", false), ("ecnin6", true)] {
        let scene = Scene::new(name, v6);
        for addresses in [(V4.1, V4.0), (V6.1, V6.0)] {
            for (inner_octet, outer_octet) in (0..=255_u8).flat_map(|i| (0..4_u8).map(move |o| (i, o | 0xb8)))
            {
                let frame = inner(addresses, (HOST_A, HOST_R), inner_octet);
                let packet = scene.encapsulated(&frame, outer_octet);
                let before = scene.rig.counters();
                let outcome = scene.run(&Packet::from_port(Hook::Trunk, scene.wire, &packet));
                let after = scene.rig.counters();
                let change = |name: &str| after[name] - before[name];
                let what = format!("inner {inner_octet:#04x}, outer {outer_octet:#04x}");
                assert_eq!(
                    (change("decapsulated"), change("tunnel-accepted")),
                    (1, 1),
                    "{what}: {outcome:?}"
                );
                let Some(ecn) = figure_4(inner_octet & CE, outer_octet & CE) else {
                    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::EcnInvalid as u8), "{what}");
                    assert_eq!(change("drop ecn-invalid"), 1);
                    continue;
                };
                let wanted = inner(addresses, (HOST_A, HOST_R), inner_octet & !CE | ecn);
                assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Port(A), &wanted), "{what}");
                sums_are_right(&outcome.frame);
                assert_eq!(change("ecn-marked"), i128::from(ecn != inner_octet & CE), "{what}");
            }
        }
    }
}
