//! What must hold for splitting and putting together, whatever the packets.

use proptest::prelude::*;

use super::checksum::{self, Sum};
use super::classify::{classify, classify_inside, ip_len};
use super::coalesce::Coalescer;
use super::split::Split;
use super::virtio::{Gso, HEADER, Header, Partial};
use super::{IPV4_HEADER, IPV6_HEADER, TCP, UDP, field, get16, put16, vxlan};

/// A packet to be built.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct PacketSpec {
    pub(in crate::engine) v6: bool,
    pub(in crate::engine) udp: bool,
    pub(in crate::engine) port: u16,
    pub(in crate::engine) identification: u16,
    pub(in crate::engine) dont_fragment: bool,
    pub(in crate::engine) tos: u8,
    pub(in crate::engine) sequence: u32,
    pub(in crate::engine) flags: u8,
    pub(in crate::engine) window: u16,
    pub(in crate::engine) options: usize,
    pub(in crate::engine) payload: usize,
    pub(in crate::engine) seed: u8,
}

impl Default for PacketSpec {
    fn default() -> Self {
        Self {
            v6: false,
            udp: false,
            port: 5201,
            identification: 0xfffe,
            dont_fragment: false,
            tos: 0,
            sequence: 0xffff_ff00,
            flags: 0x10,
            window: 501,
            options: 0,
            payload: 100,
            seed: 1,
        }
    }
}

impl PacketSpec {
    /// The packet, with its checksums.
    pub(in crate::engine) fn build(self) -> Vec<u8> {
        let mut transport = if self.udp {
            vec![0x13, 0x88, 0, 0, 0, 0, 0, 0]
        } else {
            let mut tcp = vec![0x13, 0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, self.flags, 1, 0xf5, 0, 0, 0, 0];
            tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
            tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
            tcp[12] = u8::try_from(5 + self.options).unwrap() << 4;
            tcp.extend((0..self.options * 4).map(|_| 1));
            tcp
        };
        put16(&mut transport, 2, self.port);
        let mut octet = self.seed;
        transport.extend((0..self.payload).map(|_| {
            octet = octet.wrapping_mul(73).wrapping_add(41);
            octet
        }));
        let length = transport.len();
        if self.udp {
            put16(&mut transport, 4, field(length));
        }
        let protocol = if self.udp { UDP } else { TCP };
        let mut packet = self.ip(protocol, length);
        let sum = checksum::addresses(&packet, protocol) + Sum::word(field(length)) + Sum::of(&transport);
        let at = if self.udp { 6 } else { 16 };
        let mut checksum = sum.complete();
        if self.udp && checksum == [0, 0] {
            checksum = [0xff, 0xff];
        }
        transport[at..at + 2].copy_from_slice(&checksum);
        packet.extend(transport);
        packet
    }

    fn ip(&self, protocol: u8, length: usize) -> Vec<u8> {
        if self.v6 {
            let mut ip = vec![0; IPV6_HEADER];
            ip[0] = 0x60 | (self.tos >> 4);
            ip[1] = self.tos << 4;
            put16(&mut ip, 4, field(length));
            (ip[6], ip[7], ip[8], ip[23], ip[24], ip[39]) = (protocol, 64, 0xfd, 1, 0xfd, 2);
            return ip;
        }
        let mut ip = vec![0x45, self.tos, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
        put16(&mut ip, 2, field(IPV4_HEADER + length));
        put16(&mut ip, 4, self.identification);
        ip[6] = u8::from(self.dont_fragment) << 6;
        let checksum = Sum::of(&ip).complete();
        ip[10..12].copy_from_slice(&checksum);
        ip
    }
}

/// True if both checksums are right.
pub(in crate::engine) fn is_right(packet: &[u8]) -> bool {
    let (transport, protocol) =
        if packet[0] >> 4 == 4 { (IPV4_HEADER, packet[9]) } else { (IPV6_HEADER, packet[6]) };
    let pseudo = checksum::addresses(packet, protocol) + Sum::word(field(packet.len() - transport));
    (transport == IPV6_HEADER || Sum::of(&packet[..IPV4_HEADER]).is_valid())
        && (Sum::of(&packet[transport..]) + pseudo).is_valid()
}

/// Puts packets together; every result is its virtio header and its octets.
fn together(packets: &[Vec<u8>]) -> Vec<(Header, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut coalescer = Coalescer::default();
    let mut places = Vec::new();
    for packet in packets {
        places.push((buffer.len(), packet.len()));
        // As in a batch: what lies between is no packet.
        buffer.extend_from_slice(packet);
        buffer.extend([0xdd; 32]);
    }
    for (at, length) in places {
        coalescer.push(&buffer, at, length, classify(&buffer[at..at + length]), true);
    }
    let mut out = Vec::new();
    coalescer.finish(&mut buffer, |buffer, header, pieces, _| {
        let octets = pieces.flat_map(|(at, length)| buffer[at..at + length].to_vec()).collect();
        out.push((Header::parse(&header.to_bytes()).unwrap(), octets));
    });
    out
}

/// Splits what was put together.
fn apart(supers: Vec<(Header, Vec<u8>)>) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for (header, mut octets) in supers {
        let split = Split::new(&header, &mut octets).unwrap();
        for index in 0..split.count() {
            let mut packet = vec![0; split.packet_len(&octets)];
            let length = split.write(&octets, index, &mut packet);
            packet.truncate(length);
            out.push(packet);
        }
    }
    out
}

/// Of a packet that must not be fragmented the identification means nothing (RFC 6864 §4.1).
fn without_meaningless(mut packet: Vec<u8>) -> Vec<u8> {
    if packet.len() >= IPV4_HEADER && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// By flow, each flow in its order: between flows there is no order.
fn by_flow(packets: &[Vec<u8>]) -> std::collections::BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = std::collections::BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        let transport = if packet[0] >> 4 == 4 { IPV4_HEADER } else { IPV6_HEADER };
        let key = [&packet[..1], &packet[transport..transport + 4]].concat();
        flows.entry(key).or_default().push(without_meaningless(packet.clone()));
    }
    flows
}

/// Runs of packets of a few flows, most of which continue each other.
fn packets() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let step = (0..4_usize, 0..10_u8, 1..1400_usize, any::<u8>());
    prop::collection::vec(step, 1..80).prop_map(|steps| {
        let mut flows: Vec<PacketSpec> = (0..4_u16)
            .map(|n| PacketSpec {
                v6: n == 1,
                udp: n == 2,
                port: 5201 + n % 3,
                dont_fragment: n == 3,
                payload: 700,
                options: if n == 0 { 3 } else { 0 },
                ..PacketSpec::default()
            })
            .collect();
        let mut packets = Vec::new();
        for (flow, oddity, payload, seed) in steps {
            let flow = &mut flows[flow];
            let mut spec = PacketSpec { seed, ..*flow };
            match oddity {
                0 => spec.payload = payload,
                1 => spec.flags |= 0x08,
                2 => spec.tos = 2,
                3 => spec.sequence = spec.sequence.wrapping_add(1),
                4 if !spec.udp => spec.payload = 0,
                5 => spec.window += 1,
                _ => {}
            }
            packets.push(spec.build());
            flow.sequence = spec.sequence.wrapping_add(u32::try_from(spec.payload).unwrap());
            if !flow.dont_fragment {
                flow.identification = flow.identification.wrapping_add(1);
            }
        }
        packets
    })
}

#[test]
fn a_run_of_tcp_becomes_one_super_packet() {
    for v6 in [false, true] {
        let run: Vec<Vec<u8>> = (0..40_u16)
            .map(|n| {
                let spec = PacketSpec { v6, payload: 1368, options: 3, ..PacketSpec::default() };
                PacketSpec {
                    identification: spec.identification.wrapping_add(n),
                    sequence: spec.sequence.wrapping_add(1368 * u32::from(n)),
                    flags: if n == 39 { 0x18 } else { 0x10 },
                    ..spec
                }
                .build()
            })
            .collect();
        let supers = together(&run);
        assert_eq!(supers.len(), 1);
        let (header, octets) = &supers[0];
        assert_eq!(header.gso, if v6 { Gso::Tcp6 } else { Gso::Tcp4 });
        assert_eq!((usize::from(header.segment), ip_len(octets)), (1368, Some(octets.len())));
        assert_eq!(apart(supers), run);
    }
}

#[test]
fn datagrams_of_one_size_become_one_super_packet_and_the_last_may_be_shorter() {
    let spec = PacketSpec { udp: true, payload: 1200, ..PacketSpec::default() };
    let datagram = |n: u16, payload| {
        PacketSpec { identification: spec.identification.wrapping_add(n), payload, ..spec }.build()
    };
    let run = [datagram(0, 1200), datagram(1, 1200), datagram(2, 7), datagram(3, 7)];
    let supers = together(&run);
    assert_eq!(supers.iter().map(|(header, _)| header.gso).collect::<Vec<_>>(), [Gso::Udp, Gso::None]);
    assert_eq!(apart(supers), run);
}

#[test]
fn a_packet_with_a_wrong_checksum_stays_alone_and_as_wrong_as_it_was() {
    let good = |n: u16| {
        let spec = PacketSpec::default();
        PacketSpec {
            identification: spec.identification.wrapping_add(n),
            sequence: spec.sequence.wrapping_add(100 * u32::from(n)),
            ..spec
        }
        .build()
    };
    for at in [10, 36, 60] {
        let mut run = [good(0), good(1), good(2)];
        run[1][at] ^= 1;
        let supers = together(&run);
        assert_eq!(supers.len(), 3, "octet {at}");
        assert!(supers.iter().all(|(header, _)| header.gso == Gso::None));
        assert!(supers[0].0.valid && !supers[1].0.valid);
        assert_eq!(apart(supers), run);
    }
}

#[test]
fn an_acknowledgement_between_data_keeps_its_place() {
    let data = PacketSpec::default();
    let next = PacketSpec { sequence: data.sequence.wrapping_add(100), identification: 0, ..data };
    let after = PacketSpec { identification: 1, ..next };
    let bare = PacketSpec { payload: 0, ..PacketSpec { identification: 0xffff, ..next } };
    let run =
        [data.build(), bare.build(), PacketSpec { identification: 0xffff, ..next }.build(), after.build()];
    let octets: Vec<Vec<u8>> = together(&run).into_iter().map(|(_, octets)| octets).collect();
    assert_eq!(octets, run);
}

/// What a VTEP of another kind sees in a datagram of VXLAN: VNI, the inner Ethernet header and the inner packet. Written from
/// RFC 7348, 791, 768 and 8200 and nothing else; panics where something is wrong.
fn taken_out(packet: &[u8]) -> (u32, &[u8], &[u8]) {
    let u16_at = |at: usize| usize::from(packet[at]) << 8 | usize::from(packet[at + 1]);
    let udp = match packet[0] >> 4 {
        4 => {
            assert_eq!((packet[0] & 0x0f, packet[9]), (5, 17), "IPv4 without options, UDP");
            assert_eq!(u16_at(2), packet.len(), "total length");
            let sum: usize = (0..20).step_by(2).map(u16_at).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "header checksum");
            20
        }
        6 => {
            assert_eq!(packet[6], 17, "UDP");
            assert_eq!(u16_at(4), packet.len() - 40, "payload length");
            40
        }
        version => panic!("version {version}"),
    };
    assert_eq!(u16_at(udp + 4), packet.len() - udp, "UDP length");
    assert_eq!(u16_at(udp + 6), 0, "no checksum");
    assert_eq!(packet[udp + 8..udp + 12], [8, 0, 0, 0], "VXLAN flags");
    let vni = u32::from_be_bytes([0, packet[udp + 12], packet[udp + 13], packet[udp + 14]]);
    assert_eq!(packet[udp + 15], 0);
    (vni, &packet[udp + 16..udp + 30], &packet[udp + 30..])
}

/// The super-packets inside VXLAN, as a TAP hands them out: every header of the one packet, checksum and lengths left open.
fn wrapped(supers: &[(Header, Vec<u8>)], v6: bool) -> Vec<(Header, Vec<u8>)> {
    let mut out = Vec::new();
    for (header, inner) in supers {
        let packet = vxlan::tests::around(inner, v6, 0x00ab_cdef);
        let outer = field(packet.len() - inner.len());
        let partial = header.partial.map(|partial| Partial { start: partial.start + outer, ..partial });
        let headers = if header.headers > 0 { header.headers + outer } else { 0 };
        out.push((Header { partial, headers, ..*header }, packet));
    }
    out
}

/// Puts packets of VXLAN together by what is inside.
fn together_inside(packets: &[Vec<u8>]) -> Vec<(Header, Vec<u8>)> {
    let mut buffer = Vec::new();
    let mut coalescer = Coalescer::default();
    let mut places = Vec::new();
    for packet in packets {
        places.push((buffer.len(), packet.len()));
        buffer.extend_from_slice(packet);
    }
    for (at, length) in places {
        let packet = &buffer[at..at + length];
        let class = classify_inside(packet, vxlan::outer_len(packet).unwrap()).unwrap();
        coalescer.push(&buffer, at, length, class, true);
    }
    let mut out = Vec::new();
    coalescer.finish(&mut buffer, |buffer, header, pieces, class| {
        assert!(class.is_inside());
        out.push((header, pieces.flat_map(|(at, length)| buffer[at..at + length].to_vec()).collect()));
    });
    out
}

#[test]
fn a_run_of_tcp_inside_vxlan_becomes_one_super_packet_that_is_described_whole() {
    for (v6, outer_v6) in [(false, false), (true, false), (false, true), (true, true)] {
        let run: Vec<Vec<u8>> = (0..40_u16)
            .map(|n| {
                let spec = PacketSpec { v6, payload: 1318, options: 3, ..PacketSpec::default() };
                let inner = PacketSpec {
                    identification: spec.identification.wrapping_add(n),
                    sequence: spec.sequence.wrapping_add(1318 * u32::from(n)),
                    ..spec
                };
                vxlan::tests::around(&inner.build(), outer_v6, 100)
            })
            .collect();
        let supers = together_inside(&run);
        assert_eq!(supers.len(), 1);
        let (header, octets) = &supers[0];
        let outer = if outer_v6 { 70 } else { 50 };
        let transport = outer + if v6 { IPV6_HEADER } else { IPV4_HEADER };
        assert_eq!(header.gso, if v6 { Gso::Tcp6 } else { Gso::Tcp4 });
        assert_eq!(header.partial, Some(Partial { start: field(transport), offset: 16 }));
        assert_eq!((usize::from(header.headers), header.segment), (transport + 32, 1318));
        let (vni, _, inner) = taken_out(octets);
        assert_eq!((vni, ip_len(inner)), (100, Some(inner.len())));
        assert_eq!(inner.len(), octets.len() - outer);
        let again: Vec<Vec<u8>> = apart(supers).into_iter().collect();
        for (one, other) in again.iter().zip(&run) {
            assert_eq!(taken_out(one), taken_out(other));
        }
        assert_eq!(again.len(), 40);
    }
}

#[test]
fn packets_of_two_segments_or_marked_on_their_way_are_not_put_together() {
    let spec = PacketSpec { dont_fragment: true, udp: true, identification: 0, ..PacketSpec::default() };
    let packet = |seed: u8, vni: u32, tos: u8| {
        let mut packet = vxlan::tests::around(&PacketSpec { seed, ..spec }.build(), false, vni);
        packet[1] = tos;
        vxlan::fit(&mut packet, 0);
        packet
    };
    let others = [packet(1, 7, 2), packet(2, 8, 2), packet(3, 7, 2)];
    assert_eq!(together_inside(&others).len(), 3, "two VNIs");
    let run = [packet(1, 7, 2), packet(2, 7, 3), packet(3, 7, 2), packet(4, 7, 2)];
    let supers = together_inside(&run);
    assert_eq!(supers.len(), 3, "a mark in between");
    let again = apart(supers);
    for (one, other) in again.iter().zip(&run) {
        // In their order: identifications of what must not be fragmented mean nothing.
        assert_eq!(one[1], other[1]);
        assert_eq!(
            without_meaningless(taken_out(one).2.to_vec()),
            without_meaningless(taken_out(other).2.to_vec())
        );
    }
}

#[test]
fn what_ethernet_has_filled_up_stays_as_it_is() {
    let bare = PacketSpec { payload: 0, ..PacketSpec::default() }.build();
    let mut filled = bare.clone();
    filled.extend([0; 6]);
    let data = PacketSpec { payload: 10, ..PacketSpec::default() };
    let mut padded = data.build();
    padded.extend([0; 4]);
    let next =
        PacketSpec { sequence: data.sequence.wrapping_add(10), identification: 0xffff, ..data }.build();
    let run = [filled, padded, next].map(|inner| vxlan::tests::around(&inner, false, 5));
    let supers = together_inside(&run);
    assert!(supers.iter().all(|(header, _)| header.gso == Gso::None));
    assert_eq!(supers.into_iter().map(|(_, octets)| octets).collect::<Vec<_>>(), run);
}

proptest! {
    #[test]
    fn inside_vxlan_it_comes_apart_the_same_behind_the_same_header(packets in packets(), v6: bool) {
        let plain = together(&packets);
        let expected = apart(plain.clone());
        let supers = wrapped(&plain, v6);
        let header = |packet: &[u8]| { let outer = taken_out(packet); (outer.0, outer.1.to_vec()) };
        let outside = apart(supers.clone());
        prop_assert_eq!(outside.len(), expected.len());
        let first = supers.first().map(|(_, packet)| packet.clone()).unwrap_or_default();
        for (datagram, inner) in outside.iter().zip(&expected) {
            prop_assert_eq!(taken_out(datagram).2, inner.as_slice());
            // Addresses, ports, DSCP and ECN, hop limit: as they were written once.
            let outer = datagram.len() - inner.len();
            prop_assert!(vxlan::same(&first, datagram, outer - 14));
            prop_assert_eq!(header(datagram).0, 0x00ab_cdef);
        }
        // And back: what arrives as VXLAN becomes super-packets again, each flow in its order.
        let back: Vec<Vec<u8>> =
            apart(together_inside(&outside)).iter().map(|packet| taken_out(packet).2.to_vec()).collect();
        prop_assert_eq!(by_flow(&back), by_flow(&packets));
    }

    #[test]
    fn nothing_inside_vxlan_makes_it_panic(
        inners in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..120), 1..20),
        bytes: [u8; HEADER],
        start in 0..140_u16,
        version in prop::sample::select(vec![0x45_u8, 0x46, 0x60, 0x4f]),
        damage in 0..120_usize,
        v6: bool,
    ) {
        let mut good = Vec::new();
        for mut inner in inners {
            inner[0] = version;
            let mut packet = vxlan::tests::around(&inner, v6, 3);
            if damage < packet.len() && damage % 3 == 0 {
                packet[damage] ^= bytes[0];
            }
            if let Some(header) = Header::parse(&bytes) {
                let partial = Some(Partial { start, offset: header.segment % 40 });
                for header in [header, Header { partial, ..header }] {
                    let mut octets = packet.clone();
                    if let Ok(split) = Split::new(&header, &mut octets) {
                        let mut out = vec![0; split.packet_len(&octets)];
                        for index in 0..split.count() {
                            split.write(&octets, index, &mut out);
                        }
                    }
                }
            }
            if let Some(outer) = vxlan::outer_len(&packet)
                && classify_inside(&packet, outer).is_some()
            {
                good.push(packet);
            }
        }
        together_inside(&good);
    }

    #[test]
    fn what_was_put_together_comes_apart_the_same(packets in packets()) {
        let supers = together(&packets);
        prop_assert!(supers.len() <= packets.len());
        let again = apart(supers);
        prop_assert_eq!(by_flow(&again), by_flow(&packets));
    }

    #[test]
    fn nothing_makes_it_panic(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..20),
        bytes: [u8; HEADER],
        version in prop::sample::select(vec![0x45_u8, 0x46, 0x60, 0x4f, 0x00]),
    ) {
        let mut whole = Vec::new();
        for mut packet in packets {
            if let Some(first) = packet.first_mut() {
                *first = version;
            }
            if let Some(header) = Header::parse(&bytes) {
                let mut octets = packet.clone();
                if let Ok(split) = Split::new(&header, &mut octets) {
                    let mut out = vec![0; split.packet_len(&octets)];
                    for index in 0..split.count() {
                        split.write(&octets, index, &mut out);
                    }
                }
            }
            if let Some(length) = ip_len(&packet) {
                whole.push(packet[..length].to_vec());
            }
        }
        together(&whole);
    }

    #[test]
    fn damaged_super_packets_are_refused_or_come_apart_whole(
        spec_payload in 1..5000_usize,
        segment in 1..2000_u16,
        at in 0..60_usize,
        value: u8,
    ) {
        let mut packet = PacketSpec { payload: spec_payload, ..PacketSpec::default() }.build();
        let at = at % packet.len();
        packet[at] = value;
        let header = Header { gso: Gso::Tcp4, segment, headers: 40, partial: None, valid: false };
        let mut copy = packet.clone();
        if let Ok(split) = Split::new(&header, &mut copy) {
            let mut out = vec![0; split.packet_len(&copy)];
            let total: usize = (0..split.count()).map(|index| split.write(&copy, index, &mut out)).sum();
            let headers = usize::from(packet[0] & 0x0f) * 4 + usize::from(get16(&packet, 32) >> 12) * 4;
            if packet[0] == 0x45 {
                prop_assert_eq!(total, spec_payload + 40 - headers + split.count() * headers);
            }
        }
    }
}
