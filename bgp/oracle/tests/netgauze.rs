//! `netgauze-bgp-pkt` reads what we write, writes it again, and we read the same.

#[path = "../../tests/arbitrary/mod.rs"]
mod arbitrary;

use arbitrary::*;
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu as _;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput as _;
use proptest::collection::vec;
use proptest::prelude::*;
use watari_bgp::wire::*;
use watari_bgp::*;

const INTERNAL: ParseContext = ParseContext { internal: true, peer_asn: Asn(65001), four_octet_as: true };
const CONTEXT: EncodeContext = EncodeContext { four_octet_as: true, message_limit: STANDARD_LIMIT };

fn rewritten(message: &[u8]) -> Vec<u8> {
    let mut reader = SliceReader::new(message);
    let mut context = BgpParsingContext::default();
    let parsed = BgpMessage::parse(&mut reader, &mut context).expect("it decodes");
    let mut out = Vec::new();
    parsed.write(&mut out).expect("it encodes");
    out
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast), Just(Family::L2vpnEvpn)]
}

/// It keeps only unicast prefixes in the base NLRI field.
fn unicast(nlri: &Nlri) -> bool {
    match nlri.key.as_prefix() {
        Some(ipnet::IpNet::V4(net)) => !net.addr().is_multicast() && !net.addr().is_broadcast(),
        Some(ipnet::IpNet::V6(net)) => !net.addr().is_multicast(),
        None => true,
    }
}

/// It has no words for confederation segments, and clears reserved bits of extended communities: those that
/// EVPN uses stand for all.
fn tame(mut attrs: PathAttributes) -> PathAttributes {
    for community in &mut attrs.ext_communities {
        let [kind, a, b, c, d, e, f, g] = community.0;
        *community = match kind % 5 {
            0 => RouteTarget::new(Asn(u32::from_be_bytes([0, 0, a, b])), u32::from_be_bytes([c, d, e, f]))
                .into(),
            1 => RouteTarget::new(Asn(u32::from_be_bytes([a | 1, b, c, d])), u32::from(e)).into(),
            2 => ExtCommunity::router_mac(MacAddr([b, c, d, e, f, g])),
            3 => ExtCommunity::mac_mobility(a & 1 != 0, u32::from_be_bytes([b, c, d, e])),
            _ => ExtCommunity::ENCAP_VXLAN,
        };
    }
    attrs.as_path.0.retain(|s| matches!(s, AsSegment::Sequence(_) | AsSegment::Set(_)));
    attrs
}

fn announcement() -> impl Strategy<Value = (Family, PathAttributes, Vec<Nlri>)> {
    family().prop_flat_map(|f| {
        let routes = vec(nlri(f).prop_filter("unicast", unicast), 1..20);
        (Just(f), attributes(f).prop_map(tame), routes)
    })
}

proptest! {
    #[test]
    fn announcements_survive_it((family, attrs, routes) in announcement()) {
        let mut found = Vec::new();
        for message in encode_announce(family, &attrs, &routes, &CONTEXT).unwrap() {
            let message = rewritten(&message);
            let frame = next_frame(&message, 65_535).unwrap().unwrap();
            let ours = Update::decode(frame.body, &INTERNAL).expect("no reset");
            prop_assert!(!ours.treat_as_withdraw && ours.discarded == 0);
            let next_hop = ours.reach.as_ref().map(|r| r.next_hop).or(ours.attrs.next_hop);
            prop_assert_eq!(&PathAttributes { next_hop, ..ours.attrs }, &attrs);
            found.extend(ours.announced.map(Result::unwrap));
            found.extend(ours.reach.into_iter().flat_map(|r| r.nlri).map(Result::unwrap));
        }
        prop_assert_eq!(found, routes);
    }

    #[test]
    fn withdrawals_survive_it((family, _, routes) in announcement()) {
        let mut found = Vec::new();
        for message in encode_withdraw(family, &routes, &CONTEXT) {
            let message = rewritten(&message);
            let frame = next_frame(&message, 65_535).unwrap().unwrap();
            let ours = Update::decode(frame.body, &INTERNAL).expect("no reset");
            found.extend(ours.withdrawn.map(Result::unwrap));
            found.extend(ours.unreach.into_iter().flatten().map(Result::unwrap));
        }
        prop_assert_eq!(found, routes);
    }
}

#[test]
fn our_open_survives_it() {
    let families = Family::ALL.map(Family::afi_safi);
    let mut capabilities: Vec<_> = families.iter().map(|(a, s)| Capability::MultiProtocol(*a, *s)).collect();
    capabilities.push(Capability::RouteRefresh);
    capabilities.push(Capability::ExtendedMessage);
    capabilities.push(Capability::FourOctetAs(Asn(4_200_000_001)));
    capabilities.push(Capability::GracefulRestart(GracefulRestart {
        restarted: true,
        notification: false,
        restart_time_s: 120,
        families: families.iter().map(|(a, s)| (*a, *s, true)).collect(),
    }));
    let open = Open {
        asn: Asn(4_200_000_001),
        hold_time_s: 90,
        router_id: RouterId([10, 0, 0, 1].into()),
        capabilities,
    };
    let message = rewritten(&open.encode());
    let frame = next_frame(&message, STANDARD_LIMIT).unwrap().unwrap();
    assert_eq!(Open::decode(frame.body).unwrap(), open);
}

#[test]
fn end_of_rib_survives_it() {
    for family in Family::ALL {
        let message = rewritten(&encode_end_of_rib(family));
        let frame = next_frame(&message, STANDARD_LIMIT).unwrap().unwrap();
        assert_eq!(Update::decode(frame.body, &INTERNAL).unwrap().end_of_rib(), Some(family));
    }
}
