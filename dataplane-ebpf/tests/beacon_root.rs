//! Beacons and blocked attachments through the pipeline. Needs root.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::{
    DropReason, EventKind, Hook, MacKey, MacStatic, Packet, Port, Verdict,
    abi::{
        beacon::{self, Beacon},
        limits::BEACONS_PER_SECOND,
    },
};

const BEACON: Beacon = Beacon {
    flags: beacon::BLOCKED,
    origin: FAR_ROUTER,
    vni: 2000,
    since_ms: 0x0102_0304_0506_0708,
    port_id: 0x1112_1314_1516_1718,
};

fn seen_at(rig: &Rig, frame: &[u8], changes: &[(&str, i128)]) {
    let changes = [&[("100.10 rx", 1), ("beacon-seen", 1)], changes].concat();
    rig.expect(&Packet::from_port(Hook::Trunk, A, frame), Verdict::Consumed, &changes);
}

#[test]
fn root_a_beacon_is_told_and_ends_where_it_is_seen() {
    let rig = Rig::new("beacon");
    seen_at(&rig, &BEACON.frame(), &[]);
    let event = rig.dataplane.events().unwrap().take().expect("an event");
    assert_eq!((event.kind, event.port, event.vni), (EventKind::Beacon as u8, A, L2));
    assert_eq!((event.mac, event.origin_vni, event.flags), (FAR_ROUTER, 2000, beacon::BLOCKED));
    assert_eq!(event.ip[..8], BEACON.since_ms.to_be_bytes());
    assert_eq!(event.ip[8..], BEACON.port_id.to_be_bytes());
    assert!(rig.dataplane.mac_local.entries().unwrap().is_empty(), "its sender is no station");
}

#[test]
fn root_a_beacon_of_another_form_is_told_to_nobody() {
    let rig = Rig::new("noform");
    for at in [beacon::MAGIC_AT, beacon::VERSION_AT] {
        let mut frame = BEACON.frame();
        frame[at] ^= 1;
        seen_at(&rig, &frame, &[]);
    }
    assert_eq!(rig.drain_events(), 0);
    let frame = BEACON.frame();
    let short = Packet::from_port(Hook::Trunk, A, &frame[..40]);
    rig.expect_drop(&short, DropReason::Malformed, &[]);
}

#[test]
fn root_a_beacon_never_crosses_the_overlay() {
    let rig = Rig::new("nocross");
    let frame = BEACON.frame();
    let far = Packet::from_vtep(VXLAN.ifindex, L2, FAR, &frame);
    rig.expect_drop(&far, DropReason::LinkLocalProtocol, &[]);
    assert_eq!(rig.drain_events(), 0);
}

#[test]
fn root_a_blocked_attachment_drops_all_but_beacons() {
    let rig = Rig::new("blocked");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let mut port = Port::segment(1, L2);
    port.flags |= Port::BLOCKED;
    rig.dataplane.ports.upsert(&A, &port).unwrap();
    let plain = ethernet(HOST_B, HOST_A, 0x9000, &[0xaa; 50]);
    let question = arp_request((HOST_A, "10.0.0.10"), "10.0.0.1");
    for frame in [plain, question] {
        rig.expect_drop(&Packet::from_port(Hook::Trunk, A, &frame), DropReason::LoopBlocked, &[]);
    }
    seen_at(&rig, &BEACON.frame(), &[]);
    assert_eq!(rig.drain_events(), 1, "what was dropped was not learnt either");
}

#[test]
fn root_beacons_are_told_while_other_events_are_too_many() {
    let rig = Rig::new("busy");
    // Each of these sources is a new MAC, and an event; some second sees more than its thousand.
    let mut number = 0_u32;
    while rig.counters()["event-lost"] == 0 {
        for _ in 0..500 {
            number += 1;
            let [_, a, b, c] = number.to_be_bytes();
            let frame = ethernet(HOST_B, [2, 8, 0, a, b, c], 0x9000, &[0; 46]);
            rig.dataplane.run(&Packet::from_port(Hook::Trunk, A, &frame)).unwrap();
        }
        assert!(number < 60_000, "no second saw a thousand events");
    }
    rig.drain_events();
    seen_at(&rig, &BEACON.frame(), &[]);
    let event = rig.dataplane.events().unwrap().take().expect("an event");
    assert_eq!(event.kind, EventKind::Beacon as u8);
    let lost = rig.counters()["event-lost"];
    for _ in 0..4 * BEACONS_PER_SECOND {
        rig.dataplane.run(&Packet::from_port(Hook::Trunk, A, &BEACON.frame())).unwrap();
    }
    assert!(rig.counters()["event-lost"] > lost, "beacons have no limit of their own");
}

#[test]
fn root_a_pin_on_a_blocked_attachment_does_not_hold_until_it_is_released() {
    let rig = Rig::new("pinblock");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let blocked = Port { flags: Port::BLOCKED, ..Port::segment(1, L2) };
    rig.dataplane.ports.upsert(&B, &blocked).unwrap();
    // Pinned to the blocked port, and known behind the other gateway as well.
    let pinned = MacStatic { port: B, is_node: 0 };
    rig.dataplane.mac_static.upsert(&MacKey::new(L2, HOST_R), &pinned).unwrap();
    let there = ethernet(HOST_R, HOST_A, 0x9000, &[0; 46]);
    let there = Packet::from_port(Hook::Trunk, A, &there);
    let to_far = Verdict::Vtep { vni: L2, vtep: FAR };
    rig.expect(&there, to_far, &[("100.10 rx", 1), ("9000 tx", 1)]);
    let back = ethernet(HOST_A, HOST_R, 0x9000, &[0; 46]);
    let back = Packet::from_vtep(VXLAN.ifindex, L2, FAR, &back);
    rig.expect(&back, Verdict::Port(A), &[("9000 rx", 1), ("100.10 tx", 1)]);

    rig.dataplane.ports.upsert(&B, &Port::segment(1, L2)).unwrap();
    rig.expect(&there, Verdict::Port(B), &[("100.10 rx", 1), ("101.20 tx", 1)]);
    rig.expect_drop(&back, DropReason::SourceMacPinned, &[]);
}
