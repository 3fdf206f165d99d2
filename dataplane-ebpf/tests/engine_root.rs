//! To and from a WireGuard engine in user space: the outer header stands before the frame, whatever is inside, and what comes out of
//! the TAP passes the same checks as what comes out of a wire. Needs root and `ip`.

mod rig;

use rig::{frames::*, netns::*, *};
use watari_dataplane::*;

/// IPv4, UDP, VXLAN; and IPv6.
const OUTER: [usize; 2] = [36, 56];
const V4: (&str, &str) = ("10.0.0.10", "10.0.0.18");
const V6: (&str, &str) = ("fd00::10", "fd00::18");

struct Scene {
    rig: Rig,
    space: Netns,
    tap: PortKey,
    outer: usize,
    local: [u8; 16],
    far: [u8; 16],
}

impl Scene {
    fn new(name: &str, v6: bool) -> Self {
        let (rig, space) = (Rig::new(name), Netns::new(name));
        let (local, far) = if v6 { ("2001:db8::1", "2001:db8::2") } else { ("10.255.0.1", "10.255.0.2") };
        for setting in ["all.accept_dad=0", "default.accept_dad=0", "all.forwarding=1"] {
            space.run(&format!("sysctl -qw net.ipv6.conf.{setting}"));
        }
        space.run("sysctl -qw net.ipv4.ip_forward=1");
        // A device without neighbours, as that of a tunnel: there is none to be known.
        space.ip("tuntap add wtwg0 mode tun");
        space.ip("tuntap add wto0 mode tap");
        space.ip("link add wtvx type vxlan external dstport 4789 nolearning");
        for device in ["wtwg0", "wto0", "wtvx"] {
            space.ip(&format!("link set {device} up"));
        }
        space.ip(&format!("addr add {local} dev wtvx"));
        space.ip(&format!("route add {far} dev wtwg0"));
        let (local, far) = (abi::ip_bytes(rig::ip(local)), abi::ip_bytes(rig::ip(far)));
        let tap = PortKey::untagged(space.index_of("wto0"));
        let scene = Self { rig, space, tap, outer: OUTER[usize::from(v6)], local, far };
        scene.tables();
        scene
    }

    fn tables(&self) {
        let (d, device) = (&self.rig.dataplane, self.space.index_of("wtwg0"));
        d.ports.upsert(&self.tap, &Port::engine(device)).unwrap();
        d.wires.upsert(&device, &Wire::engine(self.tap.ifindex)).unwrap();
        d.vteps.upsert(&TunnelKey { ifindex: device, vtep: self.far }, &1).unwrap();
        d.mac_remote
            .upsert(&MacKey::new(L2, HOST_R), &MacRemote { vtep: self.far, flags: 0, sequence: 0 })
            .unwrap();
        self.rig.heard(A, L2, HOST_A, "10.0.0.10");
        let mut config = d.config().unwrap();
        config.vxlan_ifindex = self.space.index_of("wtvx");
        config.local_vtep = self.local;
        d.set_config(&config).unwrap();
    }

    fn run(&self, packet: &Packet<'_>) -> Outcome {
        self.space.enter(|| self.rig.dataplane.run(packet).unwrap())
    }

    /// `inner` as the engine gives it, from this far gateway, of this VNI.
    fn encapsulated(&self, from: [u8; 16], vni: u32, inner: &[u8]) -> Vec<u8> {
        let payload = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), inner].concat();
        let address = |bytes| abi::ip_from_bytes(bytes).to_string();
        let (from, to) = (address(from), address(self.local));
        let mut frame = udp_to(([0; 6], [0; 6]), (&from, &to), 64, 4789, &payload);
        if self.outer == OUTER[1] {
            frame[60..62].fill(0);
        }
        frame
    }
}

#[test]
fn root_the_outer_header_stands_before_the_frame_as_it_was() {
    for (name, v6) in [("engout4", false), ("engout6", true)] {
        let scene = Scene::new(name, v6);
        for addresses in [V4, V6] {
            // The second time the flow cache may know it.
            for payload in [&b"one"[..], &[7; 1000]] {
                let frame = udp_to((HOST_R, HOST_A), addresses, 64, 77, payload);
                let outcome = scene.run(&Packet::from_port(Hook::Trunk, A, &frame));
                assert_eq!(outcome.verdict, Verdict::Vtep { vni: L2, vtep: scene.far });
                assert_eq!(outcome.out, scene.tap, "not by the TAP");
                let (outer, rest) = outcome.frame[14..].split_at(scene.outer);
                assert_eq!(rest, frame, "the frame is as it was");
                assert_eq!(outcome.frame[..12], [0; 12]);
                let udp = &outer[scene.outer - 16..];
                assert_eq!(u16::from_be_bytes([udp[2], udp[3]]), 4789);
                assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), 16 + frame.len());
                assert_eq!(udp[6..12], [0, 0, 8, 0, 0, 0]);
                assert_eq!(u32::from_be_bytes([0, udp[12], udp[13], udp[14]]), L2);
                if v6 {
                    assert_eq!((&outer[8..24], &outer[24..40]), (&scene.local[..], &scene.far[..]));
                } else {
                    assert_eq!((&outer[12..16], &outer[16..20]), (&scene.local[12..], &scene.far[12..]));
                    assert_eq!(checksum(&[&outer[..20]]), 0);
                }
            }
        }
    }
}

#[test]
fn root_without_the_wire_it_goes_through_the_vxlan_device() {
    let scene = Scene::new("engno", false);
    let frame = udp((HOST_R, HOST_A), V4, 64, 77);
    scene.rig.dataplane.wires.remove(&scene.space.index_of("wtwg0")).unwrap();
    let outcome = scene.run(&Packet::from_port(Hook::Trunk, A, &frame));
    assert_eq!(outcome.out.ifindex, scene.space.index_of("wtvx"));
    assert_eq!(outcome.frame, frame);
}

#[test]
fn root_what_comes_out_of_the_tap_is_checked_and_taken_out() {
    for (name, v6) in [("engin4", false), ("engin6", true)] {
        let scene = Scene::new(name, v6);
        let run = |frame: &[u8]| scene.run(&Packet::from_port(Hook::Interface, scene.tap, frame));
        for addresses in [(V4.1, V4.0), (V6.1, V6.0)] {
            let inner = udp((HOST_A, HOST_R), addresses, 64, 77);
            let outcome = run(&scene.encapsulated(scene.far, L2, &inner));
            assert_eq!((outcome.verdict, &outcome.frame), (Verdict::Port(A), &inner));

            let mut other = scene.far;
            other[15] ^= 0x40;
            let outcome = run(&scene.encapsulated(other, L2, &inner));
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::VtepNotBound as u8));
            let outcome = run(&scene.encapsulated(scene.far, 0x00ab_cdef, &inner));
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::UnknownVni as u8));
            // There is nobody behind it whom anything else could be for.
            let outcome = run(&inner);
            assert_eq!(outcome.verdict, Verdict::Drop(DropReason::VxlanInvalid as u8));
        }
        let question = scene.encapsulated(scene.far, L2, &[[0xff; 6], HOST_R, [8, 6, 0, 1, 8, 0]].concat());
        assert_eq!(run(&question).verdict, Verdict::Drop(DropReason::VxlanInvalid as u8));
    }
}
