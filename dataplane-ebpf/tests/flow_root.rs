//! The flow cache: what takes the way of the packet before it fares as it would in the pipeline, to the byte and to the
//! counter, and nothing goes on that the plan has ended. Needs root.

mod rig;

use std::collections::BTreeMap;

use rig::{frames::*, *};
use watari_dataplane::*;

const KNOWN: &str = "flow-known";
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const MACS: ([u8; 6], [u8; 6]) = (HOST_B, HOST_A);
const V4: (&str, &str) = ("10.0.0.10", "10.0.0.11");
const V6: (&str, &str) = ("fd00::10", "fd00::11");

/// Hosts on both attachments, and a `direct` tunnel on the wire.
fn scene(name: &str) -> Rig {
    let rig = Rig::new(name);
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let mut wire = Port::cross(WIRE_END);
    wire.flags |= Port::TUNNEL;
    wire.tunnel_ifindex = TUNNEL.ifindex;
    rig.dataplane.ports.upsert(&WIRE, &wire).unwrap();
    rig
}

fn near(frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Trunk, A, frame)
}

fn far(frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Trunk, WIRE, frame)
}

/// What became of a packet, and the change of every counter.
type Fate = (Verdict, i32, Vec<u8>, BTreeMap<String, i128>);

fn fate(rig: &Rig, packet: &Packet<'_>, by_flow: bool) -> Fate {
    let before = rig.counters();
    let outcome =
        if by_flow { rig.dataplane.run_by_flow(packet) } else { rig.dataplane.run(packet) }.unwrap();
    let after = rig.counters().into_iter();
    let change = |(name, value)| (String::clone(&name), value - before.get(&name).copied().unwrap_or(0));
    let changes = after.map(change).filter(|(_, change)| *change != 0).collect();
    (outcome.verdict, outcome.action, outcome.frame, changes)
}

/// Asks the flow cache until it knows the packet: life may end between two runs of a slow machine.
#[track_caller]
fn known(rig: &Rig, packet: &Packet<'_>) -> Fate {
    for _ in 0..100 {
        let mut fate = fate(rig, packet, true);
        if fate.3.remove(KNOWN) == Some(1) {
            return fate;
        }
    }
    panic!("never known: {packet:?}");
}

#[track_caller]
fn never_known(rig: &Rig, packet: &Packet<'_>) {
    for _ in 0..5 {
        let (verdict, _, _, changes) = fate(rig, packet, true);
        assert!(!changes.contains_key(KNOWN), "{verdict:?} {changes:?}");
    }
}

#[test]
fn root_a_known_flow_fares_as_in_the_pipeline() {
    let rig = scene("flsame");
    let inner = |frame: Vec<u8>| (WIRE, vxlan(L2, 0, &frame));
    for (port, frame) in [
        (A, udp(MACS, V4, 64, 100)),
        (A, udp(MACS, V4, 1, 8)),
        (A, udp(MACS, V6, 64, 100)),
        (A, tcp(MACS, V4, ACK, 0)),
        (A, tcp(MACS, V6, ACK, 0)),
        (A, tcp(MACS, V4, ACK, 1400)),
        inner(udp((HOST_A, HOST_R), ("10.0.0.18", "10.0.0.10"), 64, 100)),
        inner(udp((HOST_A, HOST_R), ("fd00::18", "fd00::10"), 64, 100)),
        inner(tcp((HOST_B, HOST_R), ("10.0.0.18", "10.0.0.11"), ACK, 500)),
    ] {
        let packet = Packet::from_port(Hook::Trunk, port, &frame);
        let slow = fate(&rig, &packet, false);
        assert!(matches!(slow.0, Verdict::Port(_)), "{slow:?}");
        let fast = known(&rig, &packet);
        assert_eq!(fast.3, slow.3, "{frame:02x?}");
        assert!(fast == slow, "{fast:?} {slow:?}");
    }
}

#[test]
fn root_only_what_no_stage_has_to_look_at_is_of_a_flow() {
    let rig = scene("flnot");
    let changed = |at: usize, byte: u8| {
        let mut frame = tcp(MACS, V4, ACK, 20);
        frame[at] = byte;
        frame
    };
    let dhcp = |port| udp_to(MACS, V4, 64, port, &[0; 60]);
    for frame in [
        tcp(MACS, V4, SYN, 20),
        tcp(MACS, V6, SYN | ACK, 20),
        changed(14, 0x46),
        changed(20, 0x20),
        changed(21, 1),
        changed(23, 1),
        dhcp(67),
        dhcp(68),
        dhcp(546),
        dhcp(547),
        ethernet(HOST_B, HOST_A, 0x9000, &[0; 60]),
        arp_request((HOST_A, "10.0.0.10"), "10.0.0.11"),
        udp((BROADCAST, HOST_A), ("10.0.0.10", "255.255.255.255"), 64, 100),
        udp((ANYCAST, HOST_A), ("10.0.0.10", "10.0.1.12"), 64, 100),
        // Out by the VXLAN device: no test run finds a kernel route.
        udp((HOST_R, HOST_A), ("10.0.0.10", "10.0.0.18"), 64, 100),
    ] {
        never_known(&rig, &near(&frame));
    }
    let inside = udp((HOST_A, HOST_R), ("10.0.0.18", "10.0.0.10"), 64, 100);
    for (vni, tos, inner) in [
        (L2, 3, inside.clone()),
        (L2, 1, inside.clone()),
        (0, 0, inside.clone()),
        (L2_OTHER + 5, 0, inside.clone()),
        (L2, 0, tcp((HOST_A, HOST_R), ("10.0.0.18", "10.0.0.10"), SYN, 0)),
        (L2, 0, arp_request((HOST_R, "10.0.0.18"), "10.0.0.99")),
    ] {
        never_known(&rig, &far(&vxlan(vni, tos, &inner)));
    }
    // Its key is all of what was decided about: another source, another far gateway, another port.
    let frame = udp(MACS, V4, 64, 100);
    known(&rig, &near(&frame));
    let other = udp(MACS, ("10.0.0.12", "10.0.0.11"), 64, 100);
    assert!(!fate(&rig, &near(&other), true).3.contains_key(KNOWN));
    assert!(!fate(&rig, &Packet::from_port(Hook::Trunk, OTHER, &frame), true).3.contains_key(KNOWN));
}

/// Whatever the plan writes ends every flow at once.
#[test]
fn root_what_the_plan_forbids_ends_with_the_write() {
    let rig = scene("flplan");
    let d = &rig.dataplane;
    let frame = udp(MACS, V4, 64, 100);
    let tunnelled = vxlan(L2, 0, &udp((HOST_A, HOST_R), ("10.0.0.18", "10.0.0.10"), 64, 100));
    let after = |packet: &Packet<'_>, write: &dyn Fn()| {
        known(&rig, packet);
        write();
        fate(&rig, packet, true).0
    };
    let drop = |reason: DropReason| Verdict::Drop(reason as u8);
    let port = Port::segment(1, L2);

    let blocked = Port { flags: Port::BLOCKED, ..port };
    assert_eq!(
        after(&near(&frame), &|| d.ports.upsert(&A, &blocked).unwrap()),
        drop(DropReason::LoopBlocked)
    );
    d.ports.upsert(&A, &port).unwrap();

    let guarded = Port { guard: Port::GUARD_IP, ..port };
    assert_eq!(after(&near(&frame), &|| d.ports.upsert(&A, &guarded).unwrap()), drop(DropReason::GuardIp));
    let prefix = GuardPrefix { port: A, address: ip("10.0.0.10"), length: 32 };
    let value = GuardIp { mac: [0; 6], pad: 0 };
    d.guard_ips.upsert(&prefix, &value).unwrap();
    assert_eq!(
        after(&near(&frame), &|| assert!(d.guard_ips.remove(&prefix).unwrap())),
        drop(DropReason::GuardIp)
    );
    d.ports.upsert(&A, &port).unwrap();

    // The other tenant has the same hosts: one knows its own.
    let moved = Port::segment(2, L2_OTHER);
    let verdict = after(&near(&frame), &|| d.ports.upsert(&A, &moved).unwrap());
    assert!(!matches!(verdict, Verdict::Port(_)), "{verdict:?}");
    d.ports.upsert(&A, &port).unwrap();

    let bound = TunnelKey { ifindex: TUNNEL.ifindex, vtep: FAR };
    assert_eq!(
        after(&far(&tunnelled), &|| assert!(d.vteps.remove(&bound).unwrap())),
        drop(DropReason::VtepNotBound)
    );
    d.vteps.upsert(&bound, &1).unwrap();
    assert_eq!(
        after(&far(&tunnelled), &|| assert!(d.segments.remove(&L2).unwrap())),
        drop(DropReason::UnknownVni)
    );
    d.segments.upsert(&L2, &Segment::l2(1, 1000, 100)).unwrap();
    let config = d.config().unwrap();
    let verdict = after(&far(&tunnelled), &|| d.set_config(&Config { flags: 0, ..config }).unwrap());
    assert_eq!(verdict, Verdict::Port(WIRE_END));
}

#[test]
fn root_a_flow_ends_by_itself() {
    let rig = scene("fllife");
    let frame = udp(MACS, V4, 64, 100);
    known(&rig, &near(&frame));
    // The host has gone elsewhere; no plan was written.
    rig.heard(C, L2, HOST_B, "10.0.0.11");
    wait_until("the flow to end", || fate(&rig, &near(&frame), true).0 == Verdict::Port(C));
    assert!(known(&rig, &near(&frame)).0 == Verdict::Port(C));
}

/// A tenant's host that sends VXLAN to our VTEP sends a frame like any other, also where its key was one of the tunnel's.
#[test]
fn root_vxlan_from_an_attachment_is_not_taken_out_of_its_header() {
    let rig = scene("flvx");
    let inner = udp((HOST_B, HOST_R), ("10.0.0.18", "10.0.0.11"), 64, 100);
    let mut frame = vxlan(L2, 0, &inner);
    frame[..12].copy_from_slice(&[HOST_B, HOST_A].concat());
    for _ in 0..5 {
        let (verdict, _, sent, changes) = fate(&rig, &near(&frame), true);
        assert_eq!((verdict, sent.len()), (Verdict::Port(B), frame.len()));
        assert!(!changes.contains_key("decapsulated"), "{changes:?}");
    }
}

#[test]
fn root_who_watches_sees_every_packet() {
    let rig = scene("flwatch");
    let frame = udp(MACS, V4, 64, 100);
    known(&rig, &near(&frame));
    let until_ns = boot_ns() + 60_000_000_000;
    let watch = Watch { flags: Watch::CAPTURE, until_ns, snap_bytes: 128, rate: 1000, ..Watch::default() };
    rig.dataplane.set_watch(&watch).unwrap();
    let (_, _, _, changes) = fate(&rig, &near(&frame), true);
    assert_eq!((changes.get(KNOWN), changes["sampled"]), (None, 2), "{changes:?}");
}

fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    netns::wait_until(what, condition);
}
