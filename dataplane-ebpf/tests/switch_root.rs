//! Switching through the pipeline: verdict, bytes and the change of every counter. Needs root.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::{Counter, DropReason, Hook, MacKey, MacRemote, Packet, PortKey, Segment, Verdict};

fn from_a(frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Trunk, A, frame)
}

fn from_far(frame: &[u8]) -> Packet<'_> {
    Packet::from_vtep(VXLAN.ifindex, L2, FAR, frame)
}

fn plain(dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    ethernet(dst, src, 0x9000, &[0xaa; 50])
}

#[test]
fn root_a_known_mac_is_sent_to_its_vlan_unchanged() {
    let rig = Rig::new("known");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let frame = plain(HOST_B, HOST_A);
    let out = rig.expect(&from_a(&frame), Verdict::Port(B), &[("100.10 rx", 1), ("101.20 tx", 1)]);
    assert_eq!(out, frame);
}

#[test]
fn root_a_source_is_learnt_once_and_followed_when_it_moves() {
    let rig = Rig::new("learn");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let frame = plain(HOST_B, HOST_A);
    rig.expect(&from_a(&frame), Verdict::Port(B), &[("100.10 rx", 1), ("101.20 tx", 1), ("mac-learnt", 1)]);
    rig.expect(&from_a(&frame), Verdict::Port(B), &[("100.10 rx", 1), ("101.20 tx", 1)]);
    let entry = rig.dataplane.mac_local.get(&MacKey::new(L2, HOST_A)).unwrap().unwrap();
    assert_eq!(entry.port, A);
    assert!(entry.last_seen_ns <= boot_ns() && entry.last_seen_ns + 10_000_000_000 > boot_ns());
    let back = plain(HOST_A, HOST_A);
    let moved = Packet::from_port(Hook::Trunk, B, &back);
    rig.expect_drop(&moved, DropReason::SamePort, &[("mac-moved", 1)]);
    assert_eq!(rig.dataplane.mac_local.get(&MacKey::new(L2, HOST_A)).unwrap().unwrap().port, B);
    let mut events = rig.dataplane.events().unwrap();
    let kinds: Vec<_> = std::iter::from_fn(|| events.take()).map(|event| (event.kind, event.mac)).collect();
    assert_eq!(kinds, [(1, HOST_A), (2, HOST_A)]);
}

/// What moves too often is heard at the port where it was frozen, and nowhere else.
#[test]
fn root_a_frozen_source_stays_at_its_port_until_it_is_set_free() {
    let rig = Rig::new("frozen");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let (key, frame) = (MacKey::new(L2, HOST_A), plain(HOST_R, HOST_A));
    let (here, there) = (from_a(&frame), Packet::from_port(Hook::Trunk, B, &frame));
    let is_at = |port| {
        assert_eq!(rig.dataplane.mac_local.get(&key).unwrap().unwrap().port, port);
        let (outcome, _) = rig.run(&Packet::from_vtep(VXLAN.ifindex, L2, FAR, &plain(HOST_A, HOST_R)));
        assert_eq!(outcome.verdict, Verdict::Port(port), "frames for it");
    };
    rig.dataplane.mac_frozen.upsert(&key, &A).unwrap();
    rig.drain_events();
    for _ in 0..3 {
        rig.expect_drop(&there, DropReason::SourceMacFrozen, &[]);
        rig.expect(&here, Verdict::Vtep { vni: L2, vtep: FAR }, &[("100.10 rx", 1), ("9000 tx", 1)]);
    }
    is_at(A);
    let mut events = rig.dataplane.events().unwrap();
    let told: Vec<_> = std::iter::from_fn(|| events.take()).map(|e| (e.kind, e.flags, e.port)).collect();
    assert_eq!(told, [(13, DropReason::SourceMacFrozen as u8, B); 3]);
    // In another segment it is somebody else.
    let other = rig.dataplane.run(&Packet::from_port(Hook::Trunk, OTHER, &frame)).unwrap();
    assert_ne!(other.verdict, Verdict::Drop(DropReason::SourceMacFrozen as u8));
    // Where it was frozen is where it is, though it was last heard elsewhere.
    rig.heard(B, L2, HOST_A, "10.0.0.10");
    rig.expect(
        &here,
        Verdict::Vtep { vni: L2, vtep: FAR },
        &[("100.10 rx", 1), ("9000 tx", 1), ("mac-moved", 1)],
    );
    is_at(A);
    rig.dataplane.mac_frozen.remove(&key).unwrap();
    rig.run(&there);
    is_at(B);
}

#[test]
fn root_a_full_table_is_counted_and_traffic_goes_on() {
    let rig = Rig::new("full");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let entry = rig.dataplane.mac_local.get(&MacKey::new(L2, HOST_B)).unwrap().unwrap();
    for number in 1..watari_dataplane::abi::limits::MAC_LOCAL_MAX {
        let [_, a, b, c] = number.to_be_bytes();
        if rig.dataplane.mac_local.upsert(&MacKey::new(7, [2, 9, 0, a, b, c]), &entry).is_err() {
            break;
        }
    }
    let frame = plain(HOST_B, HOST_A);
    let changes = [("100.10 rx", 1), ("101.20 tx", 1), ("mac-table-full", 1)];
    rig.expect(&from_a(&frame), Verdict::Port(B), &changes);
}

#[test]
fn root_unknown_unicast_is_dropped_unless_the_segment_floods_it() {
    let rig = Rig::new("unknown");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let frame = plain(HOST_B, HOST_A);
    rig.expect_drop(&from_a(&frame), DropReason::UnknownUnicast, &[]);
    let mut segment = Segment::l2(1, 1000, 100);
    segment.flags |= Segment::FLOOD_UNKNOWN;
    rig.dataplane.segments.upsert(&L2, &segment).unwrap();
    let changes = [("100.10 rx", 1), ("101.20 tx", 1), ("9000 tx", 1), ("flooded", 1), ("flood-copies", 2)];
    rig.expect(&from_a(&frame), Verdict::Flooded { copies: 2 }, &changes);
}

#[test]
fn root_a_broadcast_goes_to_the_other_ports_and_gateways_and_from_a_gateway_to_ports_only() {
    let rig = Rig::new("bum");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let frame = plain(BROADCAST, HOST_A);
    let changes = [("100.10 rx", 1), ("101.20 tx", 1), ("9000 tx", 1), ("flooded", 1), ("flood-copies", 2)];
    rig.expect(&from_a(&frame), Verdict::Flooded { copies: 2 }, &changes);
    let far = plain([0x33, 0x33, 0, 0, 0, 5], HOST_R);
    let changes = [("9000 rx", 1), ("100.10 tx", 1), ("101.20 tx", 1), ("flooded", 1), ("flood-copies", 2)];
    rig.expect(&from_far(&far), Verdict::Flooded { copies: 2 }, &changes);
}

#[test]
fn root_a_storm_ends_at_the_segments_rate_and_does_not_touch_another_segment() {
    let rig = Rig::new("storm");
    rig.dataplane.segments.upsert(&L2, &Segment::l2(1, 1, 2)).unwrap();
    let frame = plain(BROADCAST, HOST_A);
    let mut dropped = 0;
    for _ in 0..5 {
        match rig.dataplane.run(&from_a(&frame)).unwrap().verdict {
            Verdict::Flooded { .. } => {}
            Verdict::Drop(reason) if reason == DropReason::FloodRate as u8 => dropped += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(dropped, 3);
    let other = rig.dataplane.run(&Packet::from_port(Hook::Trunk, OTHER, &frame)).unwrap();
    assert_eq!(other.verdict, Verdict::Flooded { copies: 1 });
    let (_, changes) = rig.run(&from_a(&frame));
    assert_eq!(changes["drop flood-rate"], 1);
}

#[test]
fn root_a_segment_that_floods_no_broadcast_drops_it() {
    let rig = Rig::new("nobum");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let mut segment = Segment::l2(1, 1000, 100);
    segment.flags = 0;
    rig.dataplane.segments.upsert(&L2, &segment).unwrap();
    rig.expect_drop(&from_a(&plain(BROADCAST, HOST_A)), DropReason::FloodDisabled, &[]);
}

#[test]
fn root_link_local_protocols_never_cross() {
    let rig = Rig::new("lldp");
    // All of 01:80:c2:00:00:00 to 0f whatever they carry, each protocol by its type, discovery and spanning tree of
    // another make.
    let reserved = (0..16).map(|last| ([0x01, 0x80, 0xc2, 0, 0, last], 0x0027));
    let by_type = [0x88cc, 0x8809, 0x8808].map(|ethertype| (BROADCAST, ethertype));
    let unicast = [0x88cc, 0x8809, 0x8808].map(|ethertype| (HOST_B, ethertype));
    let cisco = [0xcc, 0xcd].map(|last| ([0x01, 0x00, 0x0c, 0xcc, 0xcc, last], 0x0032));
    for (dst, ethertype) in reserved.chain(by_type).chain(unicast).chain(cisco) {
        let frame = ethernet(dst, HOST_A, ethertype, &[0; 50]);
        rig.expect_drop(&from_a(&frame), DropReason::LinkLocalProtocol, &[]);
        rig.expect_drop(&from_far(&frame), DropReason::LinkLocalProtocol, &[]);
        let wire = Packet::from_port(Hook::Trunk, WIRE, &frame);
        rig.expect_drop(&wire, DropReason::LinkLocalProtocol, &[]);
    }
    assert_eq!(rig.dataplane.mac_local.entries().unwrap().len(), 0);
    // The next addresses are no longer reserved, nor is multicast of IPv6 with link-local scope.
    for dst in [[0x01, 0x80, 0xc2, 0, 0, 0x10], [0x33, 0x33, 0, 0, 0, 0xfb]] {
        let frame = ethernet(dst, HOST_A, 0x9000, &[0; 50]);
        let (outcome, _) = rig.run(&from_a(&frame));
        assert_eq!(outcome.verdict, Verdict::Flooded { copies: 2 });
    }
}

#[test]
fn root_a_source_that_cannot_be_is_dropped_and_not_learnt() {
    let rig = Rig::new("source");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    rig.expect_drop(&from_a(&plain(HOST_B, BROADCAST)), DropReason::SourceMacInvalid, &[]);
    rig.expect_drop(&from_a(&plain(HOST_B, [0; 6])), DropReason::SourceMacInvalid, &[]);
    rig.expect_drop(&from_a(&plain(HOST_B, ANYCAST)), DropReason::SourceMacOwn, &[]);
    rig.expect_drop(&from_a(&plain(HOST_B, ROUTER)), DropReason::SourceMacOwn, &[]);
    rig.expect_drop(&from_a(&plain(HOST_B, NODE_MAC)), DropReason::SourceMacPinned, &[]);
    rig.expect_drop(&from_far(&plain(HOST_B, NODE_MAC)), DropReason::SourceMacPinned, &[]);
    let sticky = MacRemote { vtep: FAR, flags: MacRemote::STICKY, sequence: 0 };
    rig.dataplane.mac_remote.upsert(&MacKey::new(L2, HOST_R), &sticky).unwrap();
    rig.expect_drop(&from_a(&plain(HOST_B, HOST_R)), DropReason::SourceMacPinned, &[]);
    assert_eq!(rig.dataplane.mac_local.entries().unwrap().len(), 1);
}

#[test]
fn root_remote_macs_are_reached_by_vxlan_and_nothing_is_learnt_from_it() {
    let rig = Rig::new("remote");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let frame = plain(HOST_R, HOST_A);
    let to_far = Verdict::Vtep { vni: L2, vtep: FAR };
    let out = rig.expect(&from_a(&frame), to_far, &[("100.10 rx", 1), ("9000 tx", 1)]);
    assert_eq!(out, frame);
    let back = plain(HOST_A, [2, 0, 0, 0, 0, 0x99]);
    rig.expect(&from_far(&back), Verdict::Port(A), &[("9000 rx", 1), ("100.10 tx", 1)]);
    assert_eq!(rig.dataplane.mac_local.entries().unwrap().len(), 1);
    rig.expect_drop(&from_far(&plain(HOST_R, HOST_C)), DropReason::MeshToMesh, &[]);
}

#[test]
fn root_what_no_port_knows_passes_on_a_trunk_and_is_dropped_elsewhere() {
    let rig = Rig::new("ports");
    let frame = plain(HOST_B, HOST_A);
    let unknown = Packet::from_port(Hook::Trunk, PortKey::vlan(100, 99), &frame);
    let out = rig.expect(&unknown, Verdict::Pass, &[("passed-to-kernel", 1)]);
    assert_eq!(out, frame);
    for (hook, port, reason) in [
        (Hook::Interface, PortKey::untagged(555), DropReason::UnknownPort),
        (Hook::Interface, PortKey::vlan(102, 5), DropReason::UnexpectedTag),
        (Hook::Core, PortKey::untagged(556), DropReason::UnknownPort),
        (Hook::Cross, PortKey::untagged(557), DropReason::UnknownPort),
        (Hook::Node, PortKey::untagged(558), DropReason::UnknownPort),
        (Hook::Trunk, NODES, DropReason::UnknownPort),
    ] {
        let (outcome, changes) = rig.run(&Packet::from_port(hook, port, &frame));
        assert_eq!(outcome.verdict, Verdict::Drop(reason as u8), "{hook:?}");
        assert_eq!(changes[&format!("drop {}", reason.name())], 1);
        assert_eq!(changes[&format!("{} drops", port_name(&port))], 1);
    }
}

#[test]
fn root_tenants_with_the_same_addresses_never_meet() {
    let rig = Rig::new("tenants");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let frame = plain(HOST_B, HOST_C);
    let other = Packet::from_port(Hook::Trunk, OTHER, &frame);
    rig.expect_drop(&other, DropReason::UnknownUnicast, &[("mac-learnt", 1)]);
    rig.heard(OTHER_B, L2_OTHER, HOST_B, "10.0.0.11");
    let changes = [("100.30 rx", 1), ("101.31 tx", 1)];
    rig.expect(&other, Verdict::Port(OTHER_B), &changes);
    let question = arp_request((HOST_A, "10.0.0.10"), "10.0.0.1");
    let other = Packet::from_port(Hook::Trunk, OTHER, &question);
    assert_eq!(rig.dataplane.run(&other).unwrap().verdict, Verdict::Flooded { copies: 1 });
}

#[test]
fn root_vxlan_enters_only_out_of_a_tunnel_from_a_bound_vtep() {
    let rig = Rig::new("vxlan");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let frame = plain(HOST_A, HOST_R);
    let mut spoofed = from_far(&frame);
    spoofed.mark = 0;
    let (outcome, changes) = rig.run(&spoofed);
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::VxlanNotFromTunnel as u8));
    assert_eq!(changes["drop vxlan-not-from-tunnel"], 1);
    let mut unknown = from_far(&frame);
    unknown.vni = 4_000_000;
    rig.expect_drop(&unknown, DropReason::UnknownVni, &[]);

    let outer = |source| udp_to((HOST_A, HOST_R), (source, "10.255.0.1"), 64, 4789, &frame);
    let (bound, foreign) = (outer("10.255.0.2"), outer("10.255.0.9"));
    let accepted = Packet::from_port(Hook::Tunnel, TUNNEL, &bound);
    rig.expect(&accepted, Verdict::None, &[("tunnel-accepted", 1)]);
    let refused = Packet::from_port(Hook::Tunnel, TUNNEL, &foreign);
    let changes = [("drop vtep-not-bound", 1), ("9400 drops", 1)];
    rig.expect(&refused, Verdict::Drop(DropReason::VtepNotBound as u8), &changes);
    let elsewhere = Packet::from_port(Hook::Tunnel, PortKey::untagged(9401), &bound);
    let changes = [("drop vtep-not-bound", 1), ("9401 drops", 1)];
    rig.expect(&elsewhere, Verdict::Drop(DropReason::VtepNotBound as u8), &changes);
    let uplink = Packet::from_port(Hook::Uplink, PortKey::untagged(9500), &bound);
    let changes = [("drop vxlan-on-uplink", 1), ("9500 drops", 1)];
    rig.expect(&uplink, Verdict::Drop(DropReason::VxlanOnUplink as u8), &changes);
    let v6 = udp_to((HOST_A, HOST_R), ("2001:db8::2", "2001:db8::1"), 64, 4789, &frame);
    let tunnel = rig.dataplane.run(&Packet::from_port(Hook::Tunnel, TUNNEL, &v6)).unwrap();
    assert_eq!(tunnel.verdict, Verdict::Drop(DropReason::VtepNotBound as u8));
    for hook in [Hook::Tunnel, Hook::Uplink] {
        let web = udp_to((HOST_A, HOST_R), ("10.255.0.9", "10.255.0.1"), 64, 443, &[0; 40]);
        rig.expect(&Packet::from_port(hook, TUNNEL, &web), Verdict::None, &[]);
    }
}

#[test]
fn root_a_cross_connect_is_a_wire_that_answers_for_our_address() {
    let rig = Rig::new("cross");
    let frame = plain(WIRE_MAC, HOST_A);
    let inward = Packet::from_port(Hook::Trunk, WIRE, &frame);
    let out = rig.expect(&inward, Verdict::Port(WIRE_END), &[("100.40 rx", 1), ("9300 tx", 1)]);
    assert_eq!(out, frame);
    let frame = plain(BROADCAST, WIRE_MAC);
    let outward = Packet::from_port(Hook::Cross, WIRE_END, &frame);
    rig.expect(&outward, Verdict::Port(WIRE), &[("9300 rx", 1), ("100.40 tx", 1)]);

    let question = arp_request((HOST_A, "198.51.100.2"), "198.51.100.1");
    let changes = [("100.40 rx", 1), ("100.40 tx", 1), ("arp-answered", 1)];
    let answer = rig.expect(&Packet::from_port(Hook::Trunk, WIRE, &question), Verdict::Port(WIRE), &changes);
    assert_eq!(answer, arp_reply((WIRE_MAC, "198.51.100.1"), (HOST_A, "198.51.100.2")));
    let question = solicit((HOST_A, "2001:db8::2"), "2001:db8::1");
    let changes = [("100.40 rx", 1), ("100.40 tx", 1), ("nd-answered", 1)];
    let answer = rig.expect(&Packet::from_port(Hook::Trunk, WIRE, &question), Verdict::Port(WIRE), &changes);
    let advert = Nd {
        kind: 136,
        flags: 0xe0,
        from: "2001:db8::1",
        to: "2001:db8::2",
        target: "2001:db8::1",
        option: Some((2, WIRE_MAC)),
    };
    assert_eq!(answer, nd(HOST_A, WIRE_MAC, &advert));
    let other = arp_request((HOST_A, "198.51.100.2"), "198.51.100.3");
    let changes = [("100.40 rx", 1), ("9300 tx", 1)];
    rig.expect(&Packet::from_port(Hook::Trunk, WIRE, &other), Verdict::Port(WIRE_END), &changes);
}

#[test]
fn root_numbers_of_reasons_and_counters_fit_their_maps() {
    let reasons = DropReason::ALL.iter().map(|reason| *reason as u32).max().unwrap();
    let counters = Counter::ALL.iter().map(|counter| *counter as u32).max().unwrap();
    assert!(reasons < watari_dataplane::abi::account::DROP_REASONS_MAX);
    assert!(counters < watari_dataplane::abi::account::COUNTERS_MAX);
}
