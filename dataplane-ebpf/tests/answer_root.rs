//! ARP and neighbour discovery through the pipeline: verdict, bytes and the change of every counter. Needs root.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::{
    DropReason, Hook, MacKey, MacRemote, NeighKey, NeighLocal, NeighRemote, NeighStatic, Packet, PortKey,
    Verdict,
};

fn at(port: PortKey, frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Trunk, port, frame)
}

fn from_far(frame: &[u8]) -> Packet<'_> {
    Packet::from_vtep(VXLAN.ifindex, L2, FAR, frame)
}

fn advert(to: ([u8; 6], &str), target: &str, mac: [u8; 6], flags: u8) -> Vec<u8> {
    let message = Nd { kind: 136, flags, from: target, to: to.1, target, option: Some((2, mac)) };
    nd(to.0, mac, &message)
}

const TO_ALL: ([u8; 6], &str) = ([0x33, 0x33, 0, 0, 0, 1], "ff02::1");
const FLOOD_FROM_A: [(&str, i128); 5] =
    [("100.10 rx", 1), ("101.20 tx", 1), ("9000 tx", 1), ("flooded", 1), ("flood-copies", 2)];

#[test]
fn root_arp_for_known_addresses_is_answered_where_it_is_asked() {
    let rig = Rig::new("arp");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    for (target, mac) in [
        ("10.0.0.1", ANYCAST),
        ("10.0.0.254", ROUTER),
        ("10.0.0.77", NODE_MAC),
        ("10.0.0.18", HOST_R),
        ("10.0.0.11", HOST_B),
    ] {
        let question = arp_request((HOST_A, "10.0.0.10"), target);
        let changes = [("100.10 rx", 1), ("100.10 tx", 1), ("arp-answered", 1)];
        let answer = rig.expect(&at(A, &question), Verdict::Port(A), &changes);
        assert_eq!(answer, arp_reply((mac, target), (HOST_A, "10.0.0.10")), "{target}");
    }
}

#[test]
fn root_an_unknown_address_is_asked_for_in_the_whole_segment() {
    let rig = Rig::new("arpunk");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    let question = arp_request((HOST_A, "10.0.0.10"), "10.0.0.99");
    let out = rig.expect(&at(A, &question), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
    assert_eq!(out, question);
}

#[test]
fn root_nobody_is_answered_about_an_owner_on_its_own_side_or_about_itself() {
    let rig = Rig::new("arpself");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(A, L2, HOST_C, "10.0.0.12");
    let question = arp_request((HOST_A, "10.0.0.10"), "10.0.0.12");
    rig.expect(&at(A, &question), Verdict::Consumed, &[("100.10 rx", 1), ("question-kept", 1)]);
    let probe = arp_request((HOST_A, "0.0.0.0"), "10.0.0.10");
    rig.expect(&at(A, &probe), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
}

#[test]
fn root_a_probe_for_a_taken_address_is_answered_and_teaches_nothing() {
    let rig = Rig::new("arpdad");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    for (target, mac) in [("10.0.0.1", ANYCAST), ("10.0.0.18", HOST_R)] {
        let probe = arp_request((HOST_A, "0.0.0.0"), target);
        let changes = [("100.10 rx", 1), ("100.10 tx", 1), ("arp-answered", 1)];
        let answer = rig.expect(&at(A, &probe), Verdict::Port(A), &changes);
        assert_eq!(answer, arp_reply((mac, target), (HOST_A, "0.0.0.0")));
    }
    assert_eq!(rig.dataplane.nb_local.entries().unwrap().len(), 1);
}

#[test]
fn root_a_question_from_a_gateway_is_answered_for_what_is_here_only() {
    let rig = Rig::new("arpfar");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let question = arp_request((HOST_R, "10.0.0.18"), "10.0.0.11");
    let verdict = Verdict::Vtep { vni: L2, vtep: FAR };
    let changes = [("9000 rx", 1), ("9000 tx", 1), ("arp-answered", 1)];
    let answer = rig.expect(&from_far(&question), verdict, &changes);
    assert_eq!(answer, arp_reply((HOST_B, "10.0.0.11"), (HOST_R, "10.0.0.18")));
    for kept in ["10.0.0.1", "10.0.0.18"] {
        let question = arp_request(([2, 0, 0, 0, 0, 0x99], "10.0.0.19"), kept);
        rig.expect(&from_far(&question), Verdict::Consumed, &[("9000 rx", 1), ("question-kept", 1)]);
    }
    let question = arp_request((HOST_R, "10.0.0.18"), "10.0.0.99");
    let changes = [("9000 rx", 1), ("100.10 tx", 1), ("101.20 tx", 1), ("flooded", 1), ("flood-copies", 2)];
    rig.expect(&from_far(&question), Verdict::Flooded { copies: 2 }, &changes);
    assert_eq!(rig.dataplane.nb_local.entries().unwrap().len(), 1);
}

#[test]
fn root_neighbours_are_learnt_from_arp_and_follow_a_new_mac() {
    let rig = Rig::new("arplearn");
    let question = arp_request((HOST_A, "10.0.0.10"), "10.0.0.1");
    let base = [("100.10 rx", 1), ("100.10 tx", 1), ("arp-answered", 1)];
    let learnt = [base.as_slice(), &[("mac-learnt", 1), ("neighbour-learnt", 1)]].concat();
    rig.expect(&at(A, &question), Verdict::Port(A), &learnt);
    rig.expect(&at(A, &question), Verdict::Port(A), &base);
    let key = NeighKey::new(L2, ip("10.0.0.10"));
    let entry = rig.dataplane.nb_local.get(&key).unwrap().unwrap();
    assert_eq!((entry.mac, entry.port), (HOST_A, A));
    let reply = arp_reply((HOST_C, "10.0.0.10"), (ANYCAST, "10.0.0.1"));
    let changes = [("100.10 rx", 1), ("mac-learnt", 1), ("neighbour-learnt", 1), ("consumed", 1)];
    rig.expect(&at(A, &reply), Verdict::Consumed, &changes);
    assert_eq!(rig.dataplane.nb_local.get(&key).unwrap().unwrap().mac, HOST_C);
    assert!(rig.dataplane.mac_local.get(&MacKey::new(L2, HOST_C)).unwrap().is_some());
}

#[test]
fn root_claims_of_our_and_of_pinned_addresses_are_dropped() {
    let rig = Rig::new("spoof");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    for claimed in ["10.0.0.1", "10.0.0.254", "10.0.0.77"] {
        let claim = arp_request((HOST_A, claimed), claimed);
        rig.expect_drop(&at(A, &claim), DropReason::NeighbourSpoofed, &[]);
    }
    let message = Nd {
        kind: 136,
        flags: 0x20,
        from: "fd00::1",
        to: "ff02::1",
        target: "fd00::1",
        option: Some((2, HOST_A)),
    };
    let claim = nd(TO_ALL.0, HOST_A, &message);
    rig.expect_drop(&at(A, &claim), DropReason::NeighbourSpoofed, &[]);
    assert_eq!(rig.dataplane.nb_local.entries().unwrap().len(), 1);
    let pinned = NeighStatic { mac: HOST_A, flags: 0 };
    rig.dataplane.nb_static.upsert(&NeighKey::new(L2, ip("10.0.0.10")), &pinned).unwrap();
    // Another gateway has pinned it, and says so.
    let (key, afar) = (NeighKey::new(L2, ip("10.0.0.18")), arp_request((HOST_A, "10.0.0.18"), "10.0.0.99"));
    let neighbour = NeighRemote { mac: HOST_R, flags: NeighRemote::OVERRIDE | NeighRemote::PINNED };
    rig.dataplane.nb_remote.upsert(&key, &neighbour).unwrap();
    rig.expect_drop(&at(A, &afar), DropReason::NeighbourSpoofed, &[]);
    assert!(rig.dataplane.nb_local.get(&key).unwrap().is_none());
    let free = NeighRemote { flags: NeighRemote::OVERRIDE, ..neighbour };
    rig.dataplane.nb_remote.upsert(&key, &free).unwrap();
    rig.dataplane.run(&at(A, &afar)).unwrap();
    assert_eq!(rig.dataplane.nb_local.get(&key).unwrap().unwrap().mac, HOST_A, "it may move here");
    let honest = arp_request((HOST_A, "10.0.0.10"), "10.0.0.99");
    rig.expect(&at(A, &honest), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
}

#[test]
fn root_solicitations_are_answered_with_a_right_checksum() {
    let rig = Rig::new("nd");
    rig.heard(A, L2, HOST_A, "fd00::10");
    rig.heard(B, L2, HOST_B, "fd00::11");
    for (target, mac, flags) in
        [("fd00::1", ANYCAST, 0xe0), ("fd00::18", HOST_R, 0x60), ("fd00::11", HOST_B, 0x60)]
    {
        let question = solicit((HOST_A, "fd00::10"), target);
        let changes = [("100.10 rx", 1), ("100.10 tx", 1), ("nd-answered", 1)];
        let answer = rig.expect(&at(A, &question), Verdict::Port(A), &changes);
        assert_eq!(answer, advert((HOST_A, "fd00::10"), target, mac, flags), "{target}");
    }
    let unknown = solicit((HOST_A, "fd00::10"), "fd00::99");
    rig.expect(&at(A, &unknown), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
}

#[test]
fn root_a_check_for_duplicates_is_answered_to_all_nodes_only_if_taken() {
    let rig = Rig::new("nddad");
    rig.heard(A, L2, HOST_A, "fd00::10");
    let check = solicit((HOST_A, "::"), "fd00::1");
    let changes = [("100.10 rx", 1), ("100.10 tx", 1), ("nd-answered", 1)];
    let answer = rig.expect(&at(A, &check), Verdict::Port(A), &changes);
    assert_eq!(answer, advert(TO_ALL, "fd00::1", ANYCAST, 0xa0));
    for free in ["fd00::99", "fd00::10"] {
        let check = solicit((HOST_A, "::"), free);
        rig.expect(&at(A, &check), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
    }
    assert_eq!(rig.dataplane.nb_local.entries().unwrap().len(), 1);
}

#[test]
fn root_neighbours_are_learnt_from_solicitations_and_advertisements() {
    let rig = Rig::new("ndlearn");
    let question = solicit((HOST_A, "fd00::10"), "fd00::1");
    let changes =
        [("100.10 rx", 1), ("100.10 tx", 1), ("nd-answered", 1), ("mac-learnt", 1), ("neighbour-learnt", 1)];
    rig.expect(&at(A, &question), Verdict::Port(A), &changes);
    let own = advert((ANYCAST, "fd00::1"), "fd00::11", HOST_B, 0x60);
    let changes = [("101.20 rx", 1), ("mac-learnt", 1), ("neighbour-learnt", 1), ("consumed", 1)];
    rig.expect(&at(B, &own), Verdict::Consumed, &changes);
    for (address, mac, port) in [("fd00::10", HOST_A, A), ("fd00::11", HOST_B, B)] {
        let entry = rig.dataplane.nb_local.get(&NeighKey::new(L2, ip(address))).unwrap().unwrap();
        assert_eq!((entry.mac, entry.port), (mac, port));
    }
    let far = from_far(&own);
    let mut far_frame = far.frame.to_vec();
    far_frame[6..12].copy_from_slice(&HOST_R);
    rig.expect(&from_far(&far_frame), Verdict::Consumed, &[("9000 rx", 1), ("consumed", 1)]);
}

#[test]
fn root_neighbour_discovery_from_off_link_is_dropped() {
    let rig = Rig::new("ndhops");
    rig.heard(A, L2, HOST_A, "fd00::10");
    let mut question = solicit((HOST_A, "fd00::10"), "fd00::1");
    question[21] = 254;
    rig.expect_drop(&at(A, &question), DropReason::Malformed, &[]);
}

const KEPT_FROM_A: [(&str, i128); 5] =
    [("100.10 rx", 1), ("101.20 tx", 1), ("flooded", 1), ("flood-copies", 1), ("announcement-kept", 1)];

/// Gratuitous ARP as a request and as a reply, and an unsolicited advertisement.
fn announcements(mac: [u8; 6], v4: &str, v6: &str) -> [Vec<u8>; 3] {
    let told = Arp { operation: 2, sender: (mac, v4), target: (mac, v4) };
    let message = Nd { kind: 136, flags: 0x20, from: v6, to: TO_ALL.1, target: v6, option: Some((2, mac)) };
    [arp_request((mac, v4), v4), arp(BROADCAST, mac, &told), nd(TO_ALL.0, mac, &message)]
}

#[test]
fn root_an_announcement_is_spread_once_and_then_kept_on_this_side() {
    let rig = Rig::new("garp");
    rig.heard(A, L2, HOST_A, "10.0.0.9");
    let [request, reply, advert] = announcements(HOST_A, "10.0.0.10", "fd00::10");
    let learnt = [FLOOD_FROM_A.as_slice(), &[("neighbour-learnt", 1)]].concat();
    let out = rig.expect(&at(A, &request), Verdict::Flooded { copies: 2 }, &learnt);
    assert_eq!(out, request);
    rig.expect(&at(A, &advert), Verdict::Flooded { copies: 2 }, &learnt);
    for frame in [&request, &reply, &advert] {
        let out = rig.expect(&at(A, frame), Verdict::Flooded { copies: 1 }, &KEPT_FROM_A);
        assert_eq!(&out, frame);
    }
    // Another MAC, another port: news.
    let [other, _, _] = announcements(HOST_C, "10.0.0.10", "fd00::10");
    let changed = [learnt.as_slice(), &[("mac-learnt", 1)]].concat();
    rig.expect(&at(A, &other), Verdict::Flooded { copies: 2 }, &changed);
    let from_b = [
        ("101.20 rx", 1),
        ("100.10 tx", 1),
        ("9000 tx", 1),
        ("flooded", 1),
        ("flood-copies", 2),
        ("mac-moved", 1),
        ("neighbour-learnt", 1),
    ];
    rig.expect(&at(B, &other), Verdict::Flooded { copies: 2 }, &from_b);
}

#[test]
fn root_an_announcement_of_what_is_known_elsewhere_as_well_is_spread() {
    let rig = Rig::new("garpfar");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(A, L2, HOST_A, "fd00::10");
    let [request, _, advert] = announcements(HOST_A, "10.0.0.10", "fd00::10");
    // It has been announced from the far side since: once more, then it is kept again.
    for (frame, address) in [(&request, "10.0.0.10"), (&advert, "fd00::10")] {
        rig.expect(&at(A, frame), Verdict::Flooded { copies: 1 }, &KEPT_FROM_A);
        let mut far = frame.clone();
        far[6..12].copy_from_slice(&HOST_R);
        let changes =
            [("9000 rx", 1), ("100.10 tx", 1), ("101.20 tx", 1), ("flooded", 1), ("flood-copies", 2)];
        rig.expect(&from_far(&far), Verdict::Flooded { copies: 2 }, &changes);
        rig.expect(&at(A, frame), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
        rig.expect(&at(A, frame), Verdict::Flooded { copies: 1 }, &KEPT_FROM_A);
        let entry = rig.dataplane.nb_local.get(&NeighKey::new(L2, ip(address))).unwrap().unwrap();
        assert_eq!((entry.mac, entry.flags), (HOST_A, NeighLocal::OVERRIDE));
    }
    let d = &rig.dataplane;
    let neighbour = NeighRemote { mac: HOST_A, flags: 0 };
    d.nb_remote.upsert(&NeighKey::new(L2, ip("10.0.0.10")), &neighbour).unwrap();
    rig.expect(&at(A, &request), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
    d.nb_remote.remove(&NeighKey::new(L2, ip("10.0.0.10"))).unwrap();
    let remote = MacRemote { vtep: FAR, flags: 0, sequence: 1 };
    d.mac_remote.upsert(&MacKey::new(L2, HOST_A), &remote).unwrap();
    rig.expect(&at(A, &request), Verdict::Flooded { copies: 2 }, &FLOOD_FROM_A);
}

#[test]
fn root_a_virtual_routers_mac_moves_with_its_announcements() {
    let rig = Rig::new("vrrp");
    for (mac, v4, v6) in [
        ([0, 0, 0x5e, 0, 1, 51], "10.0.0.200", "fd00::200"),
        ([0, 0, 0x5e, 0, 2, 51], "10.0.0.201", "fd00::201"),
    ] {
        // From behind the far gateway to A, and on to B: each time it is news.
        let remote = MacRemote { vtep: FAR, flags: 0, sequence: 0 };
        rig.dataplane.mac_remote.upsert(&MacKey::new(L2, mac), &remote).unwrap();
        let [request, _, advert] = announcements(mac, v4, v6);
        for (port, first) in [(A, "mac-learnt"), (B, "mac-moved")] {
            let (_, changes) = rig.run(&at(port, &request));
            let wanted = (changes[first], changes["neighbour-learnt"], changes["flood-copies"]);
            assert_eq!(wanted, (1, 1, 2), "{changes:?}");
            let (_, changes) = rig.run(&at(port, &advert));
            assert_eq!((changes["neighbour-learnt"], changes["flood-copies"]), (1, 2), "{changes:?}");
        }
        assert_eq!(rig.dataplane.mac_local.get(&MacKey::new(L2, mac)).unwrap().unwrap().port, B);
    }
}

#[test]
fn root_flags_of_advertisements_are_learnt_and_answered() {
    let rig = Rig::new("ndflags");
    rig.heard(A, L2, HOST_A, "fd00::10");
    let d = &rig.dataplane;
    let question = solicit((HOST_A, "fd00::10"), "fd00::11");
    let asked = [("100.10 rx", 1), ("100.10 tx", 1), ("nd-answered", 1)];
    // From what it asks nothing is known of its flags: it overrides.
    rig.run(&at(B, &solicit((HOST_B, "fd00::11"), "fd00::1")));
    let key = NeighKey::new(L2, ip("fd00::11"));
    assert_eq!(d.nb_local.get(&key).unwrap().unwrap().flags, NeighLocal::OVERRIDE);
    for (told, flags) in [(0xc0, NeighLocal::ROUTER), (0xe0, 3), (0x60, 2), (0x40, 0)] {
        let own = advert((ANYCAST, "fd00::1"), "fd00::11", HOST_B, told);
        let changes = [("101.20 rx", 1), ("neighbour-learnt", 1), ("consumed", 1)];
        if told == 0x60 {
            // Asking does not change them.
            rig.run(&at(B, &solicit((HOST_B, "fd00::11"), "fd00::1")));
            assert_eq!(d.nb_local.get(&key).unwrap().unwrap().flags, 3);
        }
        rig.expect(&at(B, &own), Verdict::Consumed, &changes);
        assert_eq!(d.nb_local.get(&key).unwrap().unwrap().flags, flags);
        let answer = rig.expect(&at(A, &question), Verdict::Port(A), &asked);
        assert_eq!(answer, advert((HOST_A, "fd00::10"), "fd00::11", HOST_B, told), "{told:02x}");
    }
    for (flags, told) in [(NeighRemote::ROUTER, 0xc0), (NeighRemote::OVERRIDE, 0x60), (3, 0xe0), (0, 0x40)] {
        let remote = NeighRemote { mac: HOST_R, flags };
        d.nb_remote.upsert(&NeighKey::new(L2, ip("fd00::18")), &remote).unwrap();
        let question = solicit((HOST_A, "fd00::10"), "fd00::18");
        let answer = rig.expect(&at(A, &question), Verdict::Port(A), &asked);
        assert_eq!(answer, advert((HOST_A, "fd00::10"), "fd00::18", HOST_R, told), "{told:02x}");
    }
    // Answers of ARP teach that it overrides.
    rig.run(&at(B, &arp_request((HOST_B, "10.0.0.11"), "10.0.0.1")));
    let entry = d.nb_local.get(&NeighKey::new(L2, ip("10.0.0.11"))).unwrap().unwrap();
    assert_eq!(entry.flags, NeighLocal::OVERRIDE);
}

#[test]
fn root_unicast_questions_about_remote_hosts_are_answered_here_too() {
    let rig = Rig::new("nud");
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(A, L2, HOST_A, "fd00::10");
    let refresh = Arp { operation: 1, sender: (HOST_A, "10.0.0.10"), target: ([0; 6], "10.0.0.18") };
    let refresh = arp(HOST_R, HOST_A, &refresh);
    let changes = [("100.10 rx", 1), ("100.10 tx", 1), ("arp-answered", 1)];
    let answer = rig.expect(&at(A, &refresh), Verdict::Port(A), &changes);
    assert_eq!(answer, arp_reply((HOST_R, "10.0.0.18"), (HOST_A, "10.0.0.10")));
    let message = Nd {
        kind: 135,
        flags: 0,
        from: "fd00::10",
        to: "fd00::18",
        target: "fd00::18",
        option: Some((1, HOST_A)),
    };
    let probe = nd(HOST_R, HOST_A, &message);
    let changes = [("100.10 rx", 1), ("100.10 tx", 1), ("nd-answered", 1)];
    let answer = rig.expect(&at(A, &probe), Verdict::Port(A), &changes);
    assert_eq!(answer, advert((HOST_A, "fd00::10"), "fd00::18", HOST_R, 0x60));
    // The check for duplicates of an address that is taken far away must fail.
    let check = solicit((HOST_A, "::"), "fd00::18");
    let answer = rig.expect(&at(A, &check), Verdict::Port(A), &changes);
    assert_eq!(answer, advert(TO_ALL, "fd00::18", HOST_R, 0x20));
}
