//! Tests only: our values in the words of another codec, `rustbgpd-wire`, so that each side can judge what the
//! other encodes.
//!
//! Attributes that the other one has no words for are left out by the tests: confederation segments of AS_PATH.

pub mod mutate;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rustbgpd_wire as other;
use rustbgpd_wire::evpn as other_evpn;
use watari_bgp::{AsSegment, EvpnKey, Key, Nlri, PathAttributes};

/// A unicast prefix.
pub fn prefix(net: IpNet) -> other::Prefix {
    match net {
        IpNet::V4(net) => other::Prefix::V4(other::Ipv4Prefix::new(net.addr(), net.prefix_len())),
        IpNet::V6(net) => other::Prefix::V6(other::Ipv6Prefix::new(net.addr(), net.prefix_len())),
    }
}

/// An EVPN route; `None` for a unicast one.
pub fn evpn_route(nlri: &Nlri) -> Option<other_evpn::EvpnRoute> {
    use other_evpn::*;
    let Key::Evpn(key) = &nlri.key else { return None };
    let data = &nlri.data;
    let rd = RouteDistinguisher(key.rd().0);
    let label = MplsLabel(data.label1.get());
    Some(match *key {
        EvpnKey::EthernetAd { esi, tag: u32::MAX, .. } => EvpnRoute::EadPerEs(EvpnEadPerEs {
            rd,
            esi: EthernetSegmentIdentifier(esi.0),
            ethernet_tag: EthernetTagId(u32::MAX),
            label,
        }),
        EvpnKey::EthernetAd { esi, tag, .. } => EvpnRoute::EadPerEvi(EvpnEadPerEvi {
            rd,
            esi: EthernetSegmentIdentifier(esi.0),
            ethernet_tag: EthernetTagId(tag),
            label,
        }),
        EvpnKey::MacIp { tag, mac, ip, .. } => EvpnRoute::MacIp(EvpnMacIp {
            rd,
            esi: EthernetSegmentIdentifier(data.esi.0),
            ethernet_tag: EthernetTagId(tag),
            mac: MacAddress(mac.0),
            ip,
            label1: label,
            label2: data.label2.map(|l| MplsLabel(l.get())),
        }),
        EvpnKey::Imet { tag, originator, .. } => {
            EvpnRoute::Imet(EvpnImet { rd, ethernet_tag: EthernetTagId(tag), originator_ip: originator })
        }
        EvpnKey::EthernetSegment { esi, originator, .. } => {
            EvpnRoute::Es(EvpnEs { rd, esi: EthernetSegmentIdentifier(esi.0), originator_ip: originator })
        }
        EvpnKey::IpPrefix { tag, prefix: net, .. } => EvpnRoute::IpPrefix(EvpnIpPrefixRoute {
            rd,
            esi: EthernetSegmentIdentifier(data.esi.0),
            ethernet_tag: EthernetTagId(tag),
            prefix: match prefix(net) {
                other::Prefix::V4(p) => EvpnIpPrefixValue::V4(p),
                other::Prefix::V6(p) => EvpnIpPrefixValue::V6(p),
            },
            gateway: data.gateway.unwrap_or(match net {
                IpNet::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpNet::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            }),
            label,
        }),
    })
}

/// MP_REACH_NLRI with these routes and the next hop of `attrs`.
///
/// # Panics
/// Without a next hop or a route.
pub fn mp_reach(attrs: &PathAttributes, routes: &[Nlri]) -> other::PathAttribute {
    let next_hop = attrs.next_hop.expect("a next hop");
    let family = routes.first().expect("a route").key.family();
    let (afi, safi) = family.afi_safi();
    let entry = |n: &Nlri| n.key.as_prefix().map(|net| other::NlriEntry { path_id: 0, prefix: prefix(net) });
    other::PathAttribute::MpReachNlri(Box::new(other::MpReachNlri {
        afi: other::Afi::from_u16(afi).expect("known"),
        safi: other::Safi::from_u8(safi).expect("known"),
        next_hop: next_hop.addr(),
        link_local_next_hop: next_hop.link_local(),
        announced: routes.iter().filter_map(entry).collect(),
        flowspec_announced: Vec::new(),
        evpn_announced: routes.iter().filter_map(evpn_route).collect(),
        bgpls_announced: Vec::new(),
        vpn_announced: Vec::new(),
        labeled_announced: Vec::new(),
        rtc_announced: Vec::new(),
    }))
}

/// Every attribute but the next hop, in the order of the type codes. Confederation segments are left out.
pub fn attributes(attrs: &PathAttributes) -> Vec<other::PathAttribute> {
    use other::PathAttribute as A;
    let origin = match attrs.origin {
        watari_bgp::Origin::Igp => other::Origin::Igp,
        watari_bgp::Origin::Egp => other::Origin::Egp,
        watari_bgp::Origin::Incomplete => other::Origin::Incomplete,
    };
    let mut list = vec![A::Origin(origin), A::AsPath(as_path(attrs))];
    list.extend(attrs.med.map(A::Med));
    list.extend(attrs.local_pref.map(A::LocalPref));
    list.extend(attrs.atomic_aggregate.then_some(A::AtomicAggregate));
    list.extend(
        attrs
            .aggregator
            .map(|a| A::Aggregator(other::Aggregator { asn: a.asn.0, router_id: a.address, partial: false })),
    );
    let some = |present: bool, attribute: A| present.then_some(attribute);
    let communities = attrs.communities.iter().map(|c| c.0).collect();
    list.extend(some(!attrs.communities.is_empty(), A::Communities(communities)));
    list.extend(attrs.originator_id.map(|id| A::OriginatorId(id.0)));
    list.extend(some(!attrs.cluster_list.is_empty(), A::ClusterList(attrs.cluster_list.clone())));
    let extended =
        attrs.ext_communities.iter().map(|c| other::ExtendedCommunity::new(u64::from_be_bytes(c.0)));
    list.extend(some(!attrs.ext_communities.is_empty(), A::ExtendedCommunities(extended.collect())));
    list.extend(attrs.pmsi_tunnel.as_ref().map(|p| A::PmsiTunnel(pmsi_tunnel(p))));
    let large = attrs.large_communities.iter().map(|c| other::LargeCommunity {
        global_admin: c.admin,
        local_data1: c.data1,
        local_data2: c.data2,
    });
    list.extend(some(!attrs.large_communities.is_empty(), A::LargeCommunities(large.collect())));
    list.extend(attrs.unknown.iter().map(|u| {
        A::Unknown(other::RawAttribute {
            flags: u.flags,
            type_code: u.type_code,
            data: bytes::Bytes::copy_from_slice(&u.value),
        })
    }));
    list
}

fn as_path(attrs: &PathAttributes) -> other::AsPath {
    let numbers = |asns: &[watari_bgp::Asn]| asns.iter().map(|a| a.0).collect();
    let segment = |s: &AsSegment| match s {
        AsSegment::Sequence(a) => Some(other::AsPathSegment::AsSequence(numbers(a))),
        AsSegment::Set(a) => Some(other::AsPathSegment::AsSet(numbers(a))),
        AsSegment::ConfedSequence(_) | AsSegment::ConfedSet(_) => None,
    };
    other::AsPath { segments: attrs.as_path.0.iter().filter_map(segment).collect() }
}

fn pmsi_tunnel(pmsi: &watari_bgp::PmsiTunnel) -> other::PmsiTunnel {
    other::PmsiTunnel {
        flags: pmsi.flags,
        tunnel_type: other::PmsiTunnelType::IngressReplication,
        mpls_label: pmsi.label,
        tunnel_identifier: match pmsi.endpoint() {
            Some(IpAddr::V4(a)) => other::PmsiTunnelIdentifier::Ipv4(a),
            Some(IpAddr::V6(a)) => other::PmsiTunnelIdentifier::Ipv6(a),
            None => other::PmsiTunnelIdentifier::Empty,
        },
    }
}
