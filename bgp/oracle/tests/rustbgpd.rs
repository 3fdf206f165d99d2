//! `rustbgpd-wire` reads what we write, we read what it writes, and both judge damaged UPDATEs alike.

#[path = "../../tests/arbitrary/mod.rs"]
mod arbitrary;

use arbitrary::*;
use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use rustbgpd_wire as other;
use watari_bgp::wire::*;
use watari_bgp::*;
use watari_bgp_oracle as oracle;

const INTERNAL: ParseContext = ParseContext { internal: true, peer_asn: Asn(65001), four_octet_as: true };
const CONTEXT: EncodeContext = EncodeContext { four_octet_as: true, message_limit: STANDARD_LIMIT };

/// What both codecs have words for and no RFC objects to.
fn tame(mut attrs: PathAttributes) -> PathAttributes {
    attrs.as_path.0.retain(|s| matches!(s, AsSegment::Sequence(_)));
    let mut seen = std::collections::BTreeSet::new();
    attrs.large_communities.retain(|c| seen.insert(*c));
    attrs.ext_communities.retain(|c| c.as_router_mac().is_none());
    for unknown in &mut attrs.unknown {
        unknown.type_code = 250;
    }
    attrs
}

/// Routes that RFC 7432 §8.1.1 and RFC 9136 §3.2 allow.
fn sound(nlri: &Nlri) -> bool {
    match &nlri.key {
        Key::Evpn(EvpnKey::EthernetSegment { esi, .. }) => *esi != Esi::ZERO,
        Key::Evpn(EvpnKey::IpPrefix { .. }) => {
            let one = nlri.data.esi == Esi::ZERO || nlri.data.gateway.is_none();
            one && nlri.data.label1.get() != 0
        }
        _ => true,
    }
}

fn announcement() -> impl Strategy<Value = (Family, PathAttributes, Vec<Nlri>)> {
    let family = prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast), Just(Family::L2vpnEvpn)];
    family.prop_flat_map(|f| {
        let routes = vec(nlri(f).prop_filter("sound", sound), 1..20);
        (Just(f), attributes(f).prop_map(tame).prop_map(with_ordinary_next_hop), routes)
    })
}

fn other_update(message: &[u8]) -> other::UpdateMessage {
    let mut octets = Bytes::copy_from_slice(message);
    match other::decode_message(&mut octets, 4096).expect("it decodes") {
        other::Message::Update(update) => update,
        message => panic!("{message:?}"),
    }
}

/// Next hops that only an oddity of the generator makes.
fn ordinary(attrs: &PathAttributes) -> bool {
    let global = |a: std::net::Ipv6Addr| (0x2000..0x4000).contains(&a.segments()[0]);
    match attrs.next_hop {
        Some(NextHop::V6(a)) => global(a),
        Some(NextHop::V6LinkLocal(a, b)) => global(a) && b.segments()[0] == 0xfe80,
        Some(NextHop::V4(a)) => !a.is_loopback(),
        None => false,
    }
}

/// Moves next hops into the ranges where both agree that they are ones.
fn with_ordinary_next_hop(mut attrs: PathAttributes) -> PathAttributes {
    if !ordinary(&attrs) {
        attrs.next_hop = attrs.next_hop.map(|n| match n {
            NextHop::V4(_) => NextHop::V4([192, 0, 2, 1].into()),
            NextHop::V6(_) => NextHop::V6("2001:db8::1".parse().unwrap()),
            NextHop::V6LinkLocal(..) => {
                NextHop::V6LinkLocal("2001:db8::1".parse().unwrap(), "fe80::1".parse().unwrap())
            }
        });
    }
    attrs
}

proptest! {
    #[test]
    fn it_reads_what_we_write((family, attrs, routes) in announcement()) {
        let (mut prefixes, mut evpn) = (Vec::new(), Vec::new());
        for message in encode_announce(family, &attrs, &routes, &CONTEXT).unwrap() {
            let parsed = other_update(&message).parse_revised(true, true, false, &[]).expect("no reset");
            prop_assert!(parsed.malformed.is_empty(), "{:?}", parsed.malformed);
            let mut found = parsed.update.attributes;
            prefixes.extend(parsed.update.announced.iter().map(|n| other::Prefix::V4(n.prefix)));
            for attribute in &mut found {
                if let other::PathAttribute::Unknown(raw) = attribute {
                    // The length of the length is no part of the value.
                    raw.flags &= !0x10;
                }
            }
            found.retain(|attribute| match attribute {
                other::PathAttribute::MpReachNlri(reach) => {
                    assert_eq!(Some(reach.next_hop), attrs.next_hop.map(NextHop::addr));
                    assert_eq!(reach.link_local_next_hop, attrs.next_hop.and_then(NextHop::link_local));
                    prefixes.extend(reach.announced.iter().map(|n| n.prefix));
                    evpn.extend(reach.evpn_announced.iter().cloned());
                    false
                }
                other::PathAttribute::NextHop(next_hop) => {
                    assert_eq!(Some(NextHop::V4(*next_hop)), attrs.next_hop);
                    false
                }
                _ => true,
            });
            prop_assert_eq!(found, oracle::attributes(&attrs));
        }
        let expected: Vec<_> = routes.iter().filter_map(|n| n.key.as_prefix()).map(oracle::prefix).collect();
        prop_assert_eq!(prefixes, expected);
        prop_assert_eq!(evpn, routes.iter().filter_map(oracle::evpn_route).collect::<Vec<_>>());
    }

    #[test]
    fn we_read_what_it_writes((_, attrs, routes) in announcement()) {
        let mut list = oracle::attributes(&attrs);
        list.push(oracle::mp_reach(&attrs, &routes));
        let mode = other::Ipv4UnicastMode::MpReach;
        let Ok(update) = other::UpdateMessage::try_build(&[], &[], &list, true, false, mode) else {
            return Ok(());
        };
        let mut message = BytesMut::new();
        if update.encode(&mut message).is_err() {
            return Ok(());
        }
        let frame = next_frame(&message, STANDARD_LIMIT).unwrap().unwrap();
        let ours = Update::decode(frame.body, &INTERNAL).expect("no reset");
        prop_assert!(!ours.treat_as_withdraw && ours.discarded == 0);
        let reach = ours.reach.expect("reach");
        prop_assert_eq!(Some(reach.next_hop), attrs.next_hop);
        prop_assert_eq!(reach.nlri.map(Result::unwrap).collect::<Vec<_>>(), routes);
        prop_assert_eq!(ours.attrs, PathAttributes { next_hop: None, ..attrs });
    }

    #[test]
    fn it_reads_our_open(open in open()) {
        let mut octets = Bytes::from(open.encode());
        // It is stricter about capabilities that carry families it does not know.
        if let Ok(other::Message::Open(found)) = other::decode_message(&mut octets, 4096) {
            prop_assert_eq!(found.four_byte_as(), open.asn.0);
            prop_assert_eq!(found.hold_time, open.hold_time_s);
            prop_assert_eq!(found.bgp_identifier, open.router_id.0);
            let gr = |c: &Capability| matches!(c, Capability::GracefulRestart(_));
            let theirs = |c: &other::Capability| matches!(c, other::Capability::GracefulRestart { .. });
            prop_assert_eq!(found.capabilities.iter().any(theirs), open.capabilities.iter().any(gr));
        }
    }

    /// Damage inside the attributes' values: lengths and structure stay, so the RFCs say what to do.
    #[test]
    fn both_judge_damaged_values_alike(
        (family, attrs, routes) in announcement(),
        at in any::<prop::sample::Index>(),
        value in any::<u8>(),
    ) {
        let message = encode_announce(family, &attrs, &routes[..1], &CONTEXT).unwrap().remove(0);
        let mut body = next_frame(&message, STANDARD_LIMIT).unwrap().unwrap().body.to_vec();
        // ORIGIN and AS_PATH, wherever they are: the attributes whose values can be wrong octet by octet.
        let Some(range) = values_of(&body, &[1, 2]) else { return Ok(()) };
        let at = range.start + at.index(range.len());
        body[at] = value;
        let ours = Update::decode(&body, &INTERNAL).expect("no reset");
        let mut full = message[..HEADER_LEN].to_vec();
        full.extend_from_slice(&body);
        let theirs = other_update(&full).parse_revised(true, true, false, &[]).expect("no reset");
        // It takes AS_SET (RFC 9774) and confederation segments for malformed, we take them from internal peers.
        if ours.attrs.as_path.0.iter().all(|s| matches!(s, AsSegment::Sequence(_))) {
            prop_assert_eq!(ours.treat_as_withdraw, !theirs.malformed.is_empty(), "{:?}", theirs.malformed);
        }
    }
}

/// The octets from the first to the last value of attributes of these types, if they lie side by side.
fn values_of(body: &[u8], types: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = 4;
    let end = at + usize::from(u16::from_be_bytes([body[2], body[3]]));
    let mut values: Option<std::ops::Range<usize>> = None;
    while at < end {
        let long = body[at] & 0x10 != 0;
        let header = if long { 4 } else { 3 };
        let len = if long {
            usize::from(u16::from_be_bytes([body[at + 2], body[at + 3]]))
        } else {
            usize::from(body[at + 2])
        };
        if types.contains(&body[at + 1]) && len > 0 {
            values = Some(at + header..at + header + len);
        }
        at += header + len;
    }
    values
}
