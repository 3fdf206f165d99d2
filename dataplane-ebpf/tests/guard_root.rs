//! Guards of attachments through the pipeline: verdict and the change of every counter. Needs root.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::{
    DropReason, Event, EventKind, GuardIp, GuardMacKey, GuardPrefix, Hook, MacKey, Packet, Port, PortKey,
    Segment, Verdict, abi::limits::GUARD_EVENTS_PER_SECOND,
};

const ALL_NODES: &str = "ff02::1";
const ALL_DHCP: &str = "ff02::1:2";

fn at(frame: &[u8]) -> Packet<'_> {
    Packet::from_port(Hook::Trunk, A, frame)
}

fn guarded(rig: &Rig, guard: u16) -> Port {
    let port = Port { guard, macs_max: 2, storm_rate: 1, storm_burst: 3, ..Port::segment(1, L2) };
    rig.dataplane.ports.upsert(&A, &port).unwrap();
    port
}

fn allow_mac(rig: &Rig, mac: [u8; 6]) {
    rig.dataplane.guard_macs.upsert(&GuardMacKey { port: A, mac, pad: 0 }, &1).unwrap();
}

fn allow(rig: &Rig, address: &str, length: u8, mac: [u8; 6]) {
    let prefix = GuardPrefix { port: A, address: ip(address), length };
    rig.dataplane.guard_ips.upsert(&prefix, &GuardIp { mac, pad: 0 }).unwrap();
}

fn events(rig: &Rig) -> Vec<Event> {
    let mut events = rig.dataplane.events().unwrap();
    std::iter::from_fn(|| events.take()).collect()
}

/// The frame passes: to host B, or copied.
#[track_caller]
fn passes(rig: &Rig, frame: &[u8]) {
    let (outcome, changes) = rig.run(&at(frame));
    let went = matches!(outcome.verdict, Verdict::Port(_) | Verdict::Flooded { .. } | Verdict::Consumed);
    assert!(went, "{:?} {changes:?}", outcome.verdict);
}

/// The frame is dropped, counted and told, and leaves no trace in the tables.
#[track_caller]
fn refused(rig: &Rig, frame: &[u8], reason: DropReason) {
    rig.drain_events();
    let macs = rig.dataplane.mac_local.entries().unwrap().len();
    rig.expect_drop(&at(frame), reason, &[]);
    let told = events(rig);
    let [event] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((event.kind, event.flags), (EventKind::Guarded as u8, reason as u8));
    assert_eq!((event.port, event.vni, &event.mac[..]), (A, L2, &frame[6..12]));
    assert_eq!(rig.dataplane.mac_local.entries().unwrap().len(), macs, "learnt from a refused frame");
}

/// UDP from and to these ports.
fn datagram(addresses: (&str, &str), ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = udp_to((HOST_B, HOST_A), addresses, 64, ports.1, payload);
    let at = if addresses.0.contains(':') { 54 } else { 34 };
    frame[at..at + 2].copy_from_slice(&ports.0.to_be_bytes());
    frame
}

/// IPv6 with this chain of `(kind, header)` before the message of kind `protocol`. No checksum: guards do not look.
fn v6(from: &str, to: &str, chain: &[(u8, Vec<u8>)], protocol: u8, message: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    for (position, (_, header)) in chain.iter().enumerate() {
        let next = chain.get(position + 1).map_or(protocol, |(kind, _)| *kind);
        body.push(next);
        body.extend_from_slice(header);
    }
    body.extend_from_slice(message);
    let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let first = chain.first().map_or(protocol, |(kind, _)| *kind);
    let head = [&[0x60, 0, 0, 0][..], &(body.len() as u16).to_be_bytes(), &[first, 255]].concat();
    let dst = if to.starts_with("ff") { group_mac(to) } else { HOST_B };
    ethernet(dst, HOST_A, 0x86dd, &[&head[..], &address(from), &address(to), &body].concat())
}

/// An extension header of 8 bytes, without its first.
fn extension(kind: u8) -> (u8, Vec<u8>) {
    (kind, vec![0, 1, 4, 0, 0, 0, 0])
}

/// A fragment header, without its first byte.
fn fragment(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let word = (offset << 3 | u16::from(more)).to_be_bytes();
    (44, [&[0][..], &word, &[0, 0, 0, 9]].concat())
}

/// Router advertisement: the type and enough of the rest.
const ADVERT: [u8; 16] = [134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];

#[test]
fn root_an_attachment_without_a_guard_is_not_looked_at() {
    let rig = Rig::new("gdno");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    allow_mac(&rig, HOST_C);
    passes(&rig, &udp((HOST_B, HOST_A), ("192.0.2.66", "10.0.0.11"), 64, 20));
    passes(&rig, &v6("fe80::1", ALL_NODES, &[], 58, &ADVERT));
    passes(&rig, &datagram(("10.0.0.10", "10.0.0.11"), (67, 68), &[2; 240]));
}

#[test]
fn root_a_source_mac_must_be_allowed() {
    let rig = Rig::new("gdmac");
    guarded(&rig, Port::GUARD_MAC);
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let frame = |src| ethernet(HOST_B, src, 0x9000, &[0; 46]);
    refused(&rig, &frame(HOST_A), DropReason::GuardMac);
    allow_mac(&rig, HOST_A);
    let passed = [("100.10 rx", 1), ("101.20 tx", 1)];
    let learnt = [passed.as_slice(), &[("mac-learnt", 1)]].concat();
    rig.expect(&at(&frame(HOST_A)), Verdict::Port(B), &learnt);
    rig.expect(&at(&frame(HOST_A)), Verdict::Port(B), &passed);
    refused(&rig, &frame(HOST_C), DropReason::GuardMac);
    // Ours, and what is none: named by what they are.
    rig.expect_drop(&at(&frame(ANYCAST)), DropReason::SourceMacOwn, &[]);
    rig.expect_drop(&at(&frame([0; 6])), DropReason::SourceMacInvalid, &[]);
    // Another attachment of the segment has no guard.
    let other = Packet::from_port(Hook::Trunk, B, &frame(HOST_C)).frame.to_vec();
    let outcome = rig.dataplane.run(&Packet::from_port(Hook::Trunk, B, &other)).unwrap();
    assert_eq!(outcome.verdict, Verdict::Drop(DropReason::SamePort as u8));
}

#[test]
fn root_source_addresses_must_be_allowed_with_the_mac_bound_to_them() {
    let rig = Rig::new("gdip");
    guarded(&rig, Port::GUARD_IP);
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    allow(&rig, "10.0.0.10", 32, [0; 6]);
    allow(&rig, "10.0.0.64", 26, HOST_A);
    allow(&rig, "fd00::10", 128, HOST_A);
    let from = |source, to| udp((HOST_B, HOST_A), (source, to), 64, 20);
    for good in ["10.0.0.10", "10.0.0.64", "10.0.0.127"] {
        passes(&rig, &from(good, "10.0.0.11"));
    }
    passes(&rig, &from("fd00::10", "fd00::11"));
    passes(&rig, &from("fe80::10", "fd00::11"));
    for bad in ["10.0.0.12", "10.0.0.128", "0.0.0.0", "224.0.0.5", "127.0.0.1"] {
        refused(&rig, &from(bad, "10.0.0.11"), DropReason::GuardIp);
    }
    for bad in ["fd00::12", "::", "ff02::1", "::1", "::ffff:10.0.0.12"] {
        refused(&rig, &from(bad, "fd00::11"), DropReason::GuardIp);
    }
    let stranger = |source, to| udp((HOST_B, HOST_C), (source, to), 64, 20);
    passes(&rig, &stranger("10.0.0.10", "10.0.0.11"));
    refused(&rig, &stranger("10.0.0.64", "10.0.0.11"), DropReason::GuardIp);
    refused(&rig, &stranger("fd00::10", "fd00::11"), DropReason::GuardIp);
    // Packets to be routed are looked at as well.
    let routed = udp((ANYCAST, HOST_A), ("10.0.1.66", "10.0.1.12"), 64, 20);
    refused(&rig, &routed, DropReason::GuardIp);
    let mut cut = from("10.0.0.10", "10.0.0.11");
    cut[14] = 0x44;
    rig.expect_drop(&at(&cut), DropReason::Malformed, &[]);
}

#[test]
fn root_a_host_without_an_address_may_look_for_one() {
    let rig = Rig::new("gdfree");
    guarded(&rig, Port::GUARD_IP | Port::GUARD_DHCP | Port::GUARD_ROUTER);
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    passes(&rig, &datagram(("0.0.0.0", "255.255.255.255"), (68, 67), &[1; 240]));
    refused(&rig, &datagram(("0.0.0.0", "255.255.255.255"), (69, 67), &[1; 240]), DropReason::GuardIp);
    passes(&rig, &arp_request((HOST_A, "0.0.0.0"), "10.0.0.10"));
    passes(&rig, &solicit((HOST_A, "::"), "fd00::10"));
    passes(&rig, &v6("::", "ff02::2", &[], 58, &[133, 0, 0, 0, 0, 0, 0, 0]));
    // A report of MLD stands behind a router alert.
    passes(&rig, &v6("::", "ff02::16", &[extension(0)], 58, &[143, 0, 0, 0, 0, 0, 0, 0]));
    refused(
        &rig,
        &v6("::", "ff02::16", &[extension(0)], 58, &[128, 0, 0, 0, 0, 0, 0, 0]),
        DropReason::GuardIp,
    );
    refused(&rig, &v6("::", "ff02::16", &[fragment(3, false)], 58, &[143; 8]), DropReason::GuardIp);
}

#[test]
fn root_neighbours_may_claim_their_own_addresses_only() {
    let rig = Rig::new("gdnb");
    guarded(&rig, Port::GUARD_IP);
    rig.heard(B, L2, HOST_B, "fe80::b");
    allow(&rig, "10.0.0.10", 32, HOST_A);
    allow(&rig, "fd00::10", 128, HOST_A);
    passes(&rig, &arp_request((HOST_A, "10.0.0.10"), "10.0.0.99"));
    refused(&rig, &arp_request((HOST_A, "10.0.0.12"), "10.0.0.99"), DropReason::GuardNeighbour);
    refused(&rig, &arp_reply((HOST_A, "10.0.0.12"), (HOST_B, "10.0.0.11")), DropReason::GuardNeighbour);
    let other_mac = Arp { operation: 2, sender: (HOST_C, "10.0.0.10"), target: (HOST_B, "10.0.0.11") };
    refused(&rig, &arp(HOST_B, HOST_A, &other_mac), DropReason::GuardNeighbour);

    let advert = |target, option| {
        let message = Nd { kind: 136, flags: 0x20, from: "fd00::10", to: ALL_NODES, target, option };
        nd([0x33, 0x33, 0, 0, 0, 1], HOST_A, &message)
    };
    passes(&rig, &advert("fd00::10", Some((2, HOST_A))));
    passes(&rig, &advert("fd00::10", None));
    refused(&rig, &advert("fd00::12", Some((2, HOST_A))), DropReason::GuardNeighbour);
    refused(&rig, &advert("fd00::10", Some((2, HOST_C))), DropReason::GuardNeighbour);
    passes(&rig, &solicit((HOST_A, "fd00::10"), "fd00::99"));
    let asks =
        |option| Nd { kind: 135, flags: 0, from: "fd00::10", to: ALL_NODES, target: "fd00::99", option };
    refused(
        &rig,
        &nd([0x33, 0x33, 0, 0, 0, 1], HOST_A, &asks(Some((1, HOST_C)))),
        DropReason::GuardNeighbour,
    );
    // Link-local addresses: the first come's, and not another host's.
    passes(&rig, &advert("fe80::a", Some((2, HOST_A))));
    refused(&rig, &advert("fe80::b", Some((2, HOST_A))), DropReason::GuardNeighbour);
    // Behind an option header, and behind more options than anyone sends.
    let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &[0xfd; 16], &[2, 1], &HOST_A].concat();
    refused(&rig, &v6("fd00::10", ALL_NODES, &[extension(60)], 58, &message), DropReason::GuardNeighbour);
    let mut many = advert("fd00::10", None);
    many.extend_from_slice(&[253, 1, 0, 0, 0, 0, 0, 0].repeat(9));
    let length = (many.len() - 54) as u16;
    many[18..20].copy_from_slice(&length.to_be_bytes());
    refused(&rig, &many, DropReason::HeaderChain);
}

#[test]
fn root_no_dhcp_server_speaks_where_none_may() {
    let rig = Rig::new("gddhcp");
    guarded(&rig, Port::GUARD_DHCP);
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let v4 = ("10.0.0.10", "10.0.0.11");
    refused(&rig, &datagram(v4, (67, 68), &[2; 240]), DropReason::GuardDhcpServer);
    refused(&rig, &datagram(v4, (67, 67), &[2; 240]), DropReason::GuardDhcpServer);
    refused(&rig, &datagram(v4, (999, 68), &[2; 240]), DropReason::GuardDhcpServer);
    refused(&rig, &datagram(v4, (67, 68), &[]), DropReason::GuardDhcpServer);
    passes(&rig, &datagram(v4, (68, 67), &[1; 240]));
    passes(&rig, &datagram(v4, (67, 67), &[1; 240]));
    // Behind IP options, and a later fragment whose bytes look like it.
    let mut options = datagram(v4, (67, 68), &[2; 240]);
    options[14] = 0x46;
    options.splice(34..34, [1, 1, 1, 0]);
    refused(&rig, &options, DropReason::GuardDhcpServer);
    let mut later = datagram(v4, (67, 68), &[2; 240]);
    later[21] = 9;
    passes(&rig, &later);

    let v6_pair = ("fd00::10", "fd00::11");
    for (ports, kind) in [((547, 546), 2), ((547, 546), 200), ((1, 546), 7), ((547, 547), 13), ((547, 1), 10)]
    {
        refused(&rig, &datagram(v6_pair, ports, &[kind; 30]), DropReason::GuardDhcpServer);
    }
    passes(&rig, &datagram(("fe80::a", ALL_DHCP), (546, 547), &[1; 30]));
    passes(&rig, &datagram(v6_pair, (547, 547), &[12; 30]));
    let answer = [&547_u16.to_be_bytes()[..], &546_u16.to_be_bytes(), &[0, 12, 0, 0], &[7, 1, 1, 1]].concat();
    let hidden = v6("fd00::10", "fd00::11", &[extension(0), extension(60)], 17, &answer);
    refused(&rig, &hidden, DropReason::GuardDhcpServer);
}

#[test]
fn root_no_router_speaks_where_none_may_behind_headers_neither() {
    let rig = Rig::new("gdra");
    guarded(&rig, Port::GUARD_ROUTER);
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let say = |chain: &[(u8, Vec<u8>)], message: &[u8]| v6("fe80::a", ALL_NODES, chain, 58, message);
    let mut redirect = ADVERT;
    redirect[0] = 137;
    let mut echo = ADVERT;
    echo[0] = 128;
    for message in [ADVERT, redirect] {
        for chain in [
            vec![],
            vec![extension(0)],
            vec![extension(60), extension(43), extension(60)],
            vec![(51, vec![4, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
            vec![extension(60); 6],
            vec![fragment(0, false)],
            vec![extension(0), fragment(0, true)],
        ] {
            refused(&rig, &say(&chain, &message), DropReason::GuardRouter);
        }
    }
    passes(&rig, &say(&[], &echo));
    passes(&rig, &say(&[extension(0), extension(60)], &echo));
    passes(&rig, &say(&[fragment(0, true)], &echo));
    passes(&rig, &say(&[], &[133, 0, 0, 0, 0, 0, 0, 0]));
    // A later fragment has no upper layer; the first must show it. Neighbour discovery is in none.
    passes(&rig, &say(&[fragment(4, false)], &ADVERT));
    refused(&rig, &say(&vec![extension(60); 7], &echo), DropReason::HeaderChain);
    refused(
        &rig,
        &say(&[fragment(0, true), (60, vec![200, 1, 4, 0, 0, 0, 0])], &[]),
        DropReason::HeaderChain,
    );
    refused(&rig, &say(&[fragment(0, true)], &[]), DropReason::HeaderChain);
    let solicitation = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &[0xfd; 16]].concat();
    refused(&rig, &say(&[fragment(0, false)], &solicitation), DropReason::HeaderChain);
}

#[test]
fn root_an_attachment_learns_no_more_macs_than_it_may() {
    let rig = Rig::new("gdlim");
    guarded(&rig, Port::GUARD_LIMIT);
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let frame = |last| ethernet(HOST_B, [2, 0, 0, 0, 1, last], 0x9000, &[0; 46]);
    let passed = [("100.10 rx", 1), ("101.20 tx", 1)];
    let learnt = [passed.as_slice(), &[("mac-learnt", 1)]].concat();
    for number in [1, 2] {
        rig.expect(&at(&frame(number)), Verdict::Port(B), &learnt);
        assert_eq!(rig.dataplane.port_macs.get(&A).unwrap(), Some(u32::from(number)));
    }
    rig.drain_events();
    rig.expect_drop(&at(&frame(3)), DropReason::MacLimit, &[]);
    let told = events(&rig);
    assert_eq!((told.len(), told[0].kind, told[0].mac), (1, EventKind::MacLimit as u8, [2, 0, 0, 0, 1, 3]));
    rig.expect(&at(&frame(1)), Verdict::Port(B), &passed);
    // One that moves away makes room, here and in the count.
    let away = ethernet(HOST_A, [2, 0, 0, 0, 1, 1], 0x9000, &[0; 46]);
    rig.run(&Packet::from_port(Hook::Trunk, B, &away));
    assert_eq!(rig.dataplane.port_macs.get(&A).unwrap(), Some(1));
    assert_eq!(rig.dataplane.port_macs.get(&B).unwrap(), None, "nobody limits that one");
    rig.expect(&at(&frame(3)), Verdict::Port(B), &learnt);
    // A MAC that moves in is one more.
    rig.expect_drop(&at(&frame(1)), DropReason::MacLimit, &[]);
    rig.dataplane.mac_local.remove(&MacKey::new(L2, [2, 0, 0, 0, 1, 2])).unwrap();
    rig.dataplane.port_macs.upsert(&A, &1).unwrap();
    let moved = [passed.as_slice(), &[("mac-moved", 1)]].concat();
    rig.expect(&at(&frame(1)), Verdict::Port(B), &moved);
    assert_eq!(rig.dataplane.port_macs.get(&A).unwrap(), Some(2));
}

#[test]
fn root_a_storm_ends_at_the_attachments_rate_and_known_traffic_goes_on() {
    let rig = Rig::new("gdstorm");
    let mut segment = Segment::l2(1, 1000, 1000);
    segment.flags |= Segment::FLOOD_UNKNOWN;
    rig.dataplane.segments.upsert(&L2, &segment).unwrap();
    guarded(&rig, Port::GUARD_STORM);
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let kinds = [BROADCAST, [0x33, 0x33, 0, 0, 0, 5], HOST_C];
    let frames = kinds.map(|dst| ethernet(dst, HOST_A, 0x9000, &[0; 46]));
    rig.drain_events();
    let mut dropped = 0;
    for round in 0..100 {
        match rig.dataplane.run(&at(&frames[round % 3])).unwrap().verdict {
            Verdict::Flooded { .. } => {}
            Verdict::Drop(reason) if reason == DropReason::StormRate as u8 => dropped += 1,
            other => panic!("{other:?}"),
        }
    }
    // Three at once, and one more for each second that this takes.
    assert!((80..=97).contains(&dropped), "{dropped}");
    let told = events(&rig).iter().filter(|event| event.kind == EventKind::StormRate as u8).count();
    assert!(told >= 1 && told as u64 <= GUARD_EVENTS_PER_SECOND * 20 && told <= dropped, "{told}");
    assert_eq!(rig.counters()["event-lost"], 0);
    let known = ethernet(HOST_B, HOST_A, 0x9000, &[0; 46]);
    rig.expect(&at(&known), Verdict::Port(B), &[("100.10 rx", 1), ("101.20 tx", 1)]);
    let from_b = ethernet(BROADCAST, HOST_B, 0x9000, &[0; 46]);
    for _ in 0..20 {
        let other = rig.dataplane.run(&Packet::from_port(Hook::Trunk, B, &from_b)).unwrap();
        assert_eq!(other.verdict, Verdict::Flooded { copies: 2 });
    }
}

#[test]
fn root_a_trace_of_guarded_frames_writes_nothing() {
    let rig = Rig::new("gdtrace");
    guarded(&rig, 63);
    allow_mac(&rig, HOST_A);
    allow(&rig, "10.0.0.10", 32, HOST_A);
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    for frame in [
        udp((HOST_B, HOST_A), ("10.0.0.10", "10.0.0.11"), 64, 20),
        udp((HOST_B, HOST_A), ("10.0.0.12", "10.0.0.11"), 64, 20),
        ethernet(BROADCAST, HOST_A, 0x9000, &[0; 46]),
        ethernet(HOST_B, HOST_C, 0x9000, &[0; 46]),
        v6("fe80::a", ALL_NODES, &[extension(0)], 58, &ADVERT),
    ] {
        rig.drain_events();
        let before = rig.dump();
        let traced = rig.dataplane.trace(&at(&frame)).unwrap();
        assert_eq!(rig.dump(), before);
        let real = rig.dataplane.run(&at(&frame)).unwrap();
        assert_eq!(traced.verdict, real.verdict);
    }
}

#[test]
fn root_inner_tags_hop_nowhere() {
    let rig = Rig::new("gdhop");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    rig.heard(OTHER_B, L2_OTHER, HOST_B, "10.0.0.11");
    let s_port = PortKey { ifindex: 100, outer: 50 | PortKey::S_TAG, inner: 0 };
    let q_port = PortKey::qinq(100, 51, 10);
    for port in [s_port, q_port] {
        rig.dataplane.ports.upsert(&port, &Port::segment(1, L2)).unwrap();
    }
    let frame = ethernet(HOST_B, HOST_A, 0x9000, &[0; 46]);
    let name = |outer, inner| PortKey { ifindex: 100, outer, inner };
    // Behind a port that is known with its outer tag alone, or with none.
    for (hook, port) in [
        (Hook::Trunk, name(10, 30)),
        (Hook::Trunk, name(10, 10)),
        (Hook::Trunk, name(50 | PortKey::S_TAG, 30)),
        (Hook::Trunk, name(10, 30 | PortKey::S_TAG)),
        (Hook::Interface, PortKey { ifindex: 102, outer: 0, inner: 30 }),
        (Hook::Interface, PortKey { ifindex: 102, outer: 7, inner: 30 }),
    ] {
        let (outcome, changes) = rig.run(&Packet::from_port(hook, port, &frame));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::UnexpectedTag as u8), "{port:?}");
        assert_eq!(changes["drop unexpected-tag"], 1);
    }
    // A tag of the other kind is another VLAN, and nobody's.
    for port in [name(50, 0), name(10 | PortKey::S_TAG, 0), name(51, 10), name(51 | PortKey::S_TAG, 11)] {
        let changes = [("passed-to-kernel", 1)];
        rig.expect(&Packet::from_port(Hook::Trunk, port, &frame), Verdict::Pass, &changes);
    }
    // One more inside the bytes than any port has: from attachments and from far gateways.
    for tag in [0x8100, 0x88a8, 0x9100] {
        let hidden = ethernet(HOST_B, HOST_A, tag, &[&[0, 30, 0x90, 0][..], &[0; 46]].concat());
        rig.expect_drop(&Packet::from_port(Hook::Interface, C, &hidden), DropReason::UnexpectedTag, &[]);
        rig.expect_drop(&Packet::from_port(Hook::Trunk, q_port, &hidden), DropReason::UnexpectedTag, &[]);
        let far = Packet::from_vtep(VXLAN.ifindex, L2, FAR, &hidden);
        rig.expect_drop(&far, DropReason::UnexpectedTag, &[]);
    }
    for port in [s_port, q_port] {
        let (outcome, _) = rig.run(&Packet::from_port(Hook::Trunk, port, &frame));
        assert_eq!(outcome.verdict, Verdict::Port(B));
    }
}
