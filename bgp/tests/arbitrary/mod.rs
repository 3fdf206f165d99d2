//! Values of every message and route, for properties.
#![allow(dead_code, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use watari_bgp::attrs::{Aggregator, UnknownAttribute};
use watari_bgp::wire::{Capability, GracefulRestart, Open};
use watari_bgp::*;

pub fn asn() -> impl Strategy<Value = Asn> {
    prop_oneof![1..=0xffffu32, 1..=u32::MAX].prop_map(Asn)
}

pub fn ipv4() -> impl Strategy<Value = Ipv4Addr> {
    // Unicast addresses: others are no next hop.
    (0x0100_0000u32..0xdfff_ffff).prop_map(Ipv4Addr::from)
}

pub fn ipv6() -> impl Strategy<Value = Ipv6Addr> {
    (1..=u128::MAX).prop_map(Ipv6Addr::from)
}

pub fn ip() -> impl Strategy<Value = IpAddr> {
    prop_oneof![ipv4().prop_map(IpAddr::V4), ipv6().prop_map(IpAddr::V6)]
}

pub fn net_v4() -> impl Strategy<Value = IpNet> {
    (any::<u32>(), 0..=32u8).prop_map(|(a, l)| IpNet::V4(Ipv4Net::new(a.into(), l).unwrap()).trunc())
}

pub fn net_v6() -> impl Strategy<Value = IpNet> {
    (any::<u128>(), 0..=128u8).prop_map(|(a, l)| IpNet::V6(Ipv6Net::new(a.into(), l).unwrap()).trunc())
}

fn rd() -> impl Strategy<Value = Rd> {
    // The types of RFC 4364 §4.2: other codecs take no others.
    (0..=2u8, any::<[u8; 6]>()).prop_map(|(t, [a, b, c, d, e, g])| Rd([0, t, a, b, c, d, e, g]))
}

fn esi() -> impl Strategy<Value = Esi> {
    prop_oneof![Just(Esi::ZERO), any::<[u8; 10]>().prop_map(Esi)]
}

fn vni() -> impl Strategy<Value = Vni> {
    (0..=Vni::MAX).prop_map(|v| Vni::new(v).unwrap())
}

fn evpn(key: EvpnKey, data: NlriData) -> Nlri {
    Nlri { key: Key::Evpn(key), data }
}

fn mac_ip() -> impl Strategy<Value = Nlri> {
    (rd(), esi(), any::<u32>(), any::<[u8; 6]>(), option::of(ip()), vni(), option::of(vni())).prop_map(
        |(rd, esi, tag, mac, ip, vni, l3_vni)| {
            MacIp { rd, esi, tag, mac: MacAddr(mac), ip, vni, l3_vni }.into()
        },
    )
}

fn ip_prefix() -> impl Strategy<Value = Nlri> {
    let v4 = (net_v4(), option::of(ipv4().prop_map(IpAddr::V4)));
    let v6 = (net_v6(), option::of(ipv6().prop_map(IpAddr::V6)));
    (rd(), esi(), any::<u32>(), prop_oneof![v4.boxed(), v6.boxed()], vni()).prop_map(
        |(rd, esi, tag, (prefix, gateway), l3_vni)| IpPrefix { rd, esi, tag, prefix, gateway, l3_vni }.into(),
    )
}

pub fn nlri(family: Family) -> BoxedStrategy<Nlri> {
    match family {
        Family::Ipv4Unicast => net_v4().prop_map(Nlri::from).boxed(),
        Family::Ipv6Unicast => net_v6().prop_map(Nlri::from).boxed(),
        Family::L2vpnEvpn => prop_oneof![
            (rd(), esi(), any::<u32>(), vni()).prop_map(|(rd, esi, tag, label1)| evpn(
                EvpnKey::EthernetAd { rd, esi, tag },
                NlriData { label1, ..NlriData::default() }
            )),
            mac_ip(),
            (rd(), any::<u32>(), ip()).prop_map(|(rd, tag, originator)| Imet { rd, tag, originator }.into()),
            (rd(), esi(), ip()).prop_map(|(rd, esi, originator)| evpn(
                EvpnKey::EthernetSegment { rd, esi, originator },
                NlriData::default()
            )),
            ip_prefix(),
        ]
        .boxed(),
    }
}

pub fn next_hop(family: Family) -> BoxedStrategy<NextHop> {
    match family {
        Family::Ipv4Unicast => ipv4().prop_map(NextHop::V4).boxed(),
        Family::Ipv6Unicast => prop_oneof![
            ipv6().prop_map(NextHop::V6),
            (ipv6(), ipv6()).prop_map(|(a, b)| NextHop::V6LinkLocal(a, b))
        ]
        .boxed(),
        Family::L2vpnEvpn => ip().prop_map(NextHop::from).boxed(),
    }
}

pub fn as_path() -> impl Strategy<Value = AsPath> {
    let segment = prop_oneof![
        vec(asn(), 1..6).prop_map(AsSegment::Sequence),
        vec(asn(), 1..4).prop_map(AsSegment::Set),
        vec(asn(), 1..4).prop_map(AsSegment::ConfedSequence),
        vec(asn(), 1..4).prop_map(AsSegment::ConfedSet),
    ];
    vec(segment, 0..4).prop_map(AsPath)
}

/// Attributes as an internal session carries them.
pub fn attributes(family: Family) -> impl Strategy<Value = PathAttributes> {
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    let aggregator = (asn(), ipv4()).prop_map(|(asn, address)| Aggregator { asn, address });
    let unknown = option::of(vec(any::<u8>(), 0..300)).prop_map(|value| {
        value.map(|value| UnknownAttribute { flags: 0xe0, type_code: 200, value }).into_iter().collect()
    });
    let large = (any::<u32>(), any::<u32>(), any::<u32>()).prop_map(|(admin, data1, data2)| LargeCommunity {
        admin,
        data1,
        data2,
    });
    let pmsi = (any::<u8>(), vni(), ip())
        .prop_map(|(flags, vni, ip)| PmsiTunnel { flags, ..PmsiTunnel::ingress_replication(vni, ip) });
    let first = (origin, as_path(), next_hop(family), any::<Option<u32>>(), any::<Option<u32>>());
    let second = (any::<bool>(), option::of(aggregator), vec(any::<u32>().prop_map(Community), 0..80));
    let third = (option::of(ipv4().prop_map(RouterId)), vec(ipv4(), 0..4));
    let fourth =
        (vec(any::<[u8; 8]>().prop_map(ExtCommunity), 0..5), option::of(pmsi), vec(large, 0..4), unknown);
    (first, second, third, fourth).prop_map(|(a, b, c, d)| PathAttributes {
        origin: a.0,
        as_path: a.1,
        next_hop: Some(a.2),
        med: a.3,
        local_pref: a.4,
        atomic_aggregate: b.0,
        aggregator: b.1,
        communities: b.2,
        originator_id: c.0,
        cluster_list: c.1,
        ext_communities: d.0,
        pmsi_tunnel: d.1,
        large_communities: d.2,
        otc: None,
        unknown: d.3,
    })
}

pub fn capability() -> impl Strategy<Value = Capability> {
    let gr = (any::<bool>(), any::<bool>(), 0..4096u16, vec(any::<(u16, u8, bool)>(), 0..5));
    prop_oneof![
        any::<(u16, u8)>().prop_map(|(a, s)| Capability::MultiProtocol(a, s)),
        Just(Capability::RouteRefresh),
        Just(Capability::ExtendedMessage),
        gr.prop_map(|(restarted, notification, restart_time_s, families)| {
            Capability::GracefulRestart(GracefulRestart { restarted, notification, restart_time_s, families })
        }),
        (71..=255u8, vec(any::<u8>(), 0..200)).prop_map(|(code, value)| Capability::Unknown { code, value }),
    ]
}

pub fn open() -> impl Strategy<Value = Open> {
    (asn(), prop_oneof![Just(0u16), 3..=u16::MAX], ipv4(), vec(capability(), 0..8)).prop_map(
        |(asn, hold_time_s, id, mut capabilities)| {
            capabilities.push(Capability::FourOctetAs(asn));
            Open { asn, hold_time_s, router_id: RouterId(id), capabilities }
        },
    )
}
