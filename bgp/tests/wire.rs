//! The codec: what is encoded is decoded to the same, vectors of the RFCs and of other implementations, and
//! the error handling of RFC 7606 case by case.

mod arbitrary;

use arbitrary::*;
use proptest::collection::vec;
use proptest::prelude::*;
use watari_bgp::wire::*;
use watari_bgp::*;

const INTERNAL: ParseContext = ParseContext { internal: true, peer_asn: Asn(65001), four_octet_as: true };
const EXTERNAL: ParseContext = ParseContext { internal: false, peer_asn: Asn(65001), four_octet_as: true };
const CONTEXT: EncodeContext = EncodeContext { four_octet_as: true, message_limit: STANDARD_LIMIT };

fn body(message: &[u8]) -> &[u8] {
    let frame = next_frame(message, 65_535).unwrap().expect("a whole message");
    assert_eq!(frame.len, message.len());
    frame.body
}

/// Routes and attributes of announcements, from wherever they are in the messages.
fn announced(messages: &[Vec<u8>], ctx: &ParseContext) -> Vec<(Nlri, PathAttributes)> {
    let mut found = Vec::new();
    for message in messages {
        let update = Update::decode(body(message), ctx).expect("well-formed");
        assert!(!update.treat_as_withdraw && update.discarded == 0, "{update:?}");
        assert_eq!(update.end_of_rib(), None);
        let attrs = update.attrs.clone();
        found.extend(update.announced.map(|n| (n.unwrap(), attrs.clone())));
        if let Some(reach) = update.reach {
            let attrs = PathAttributes { next_hop: Some(reach.next_hop), ..attrs };
            found.extend(reach.nlri.map(|n| (n.unwrap(), attrs.clone())));
        }
    }
    found
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::Ipv4Unicast), Just(Family::Ipv6Unicast), Just(Family::L2vpnEvpn)]
}

fn announcement() -> impl Strategy<Value = (Family, PathAttributes, Vec<Nlri>)> {
    family().prop_flat_map(|f| (Just(f), attributes(f), vec(nlri(f), 1..300)))
}

proptest! {
    #[test]
    fn announcements_round_trip((family, attrs, routes) in announcement()) {
        let messages = encode_announce(family, &attrs, &routes, &CONTEXT).unwrap();
        prop_assert!(messages.iter().all(|m| m.len() <= STANDARD_LIMIT));
        let expected: Vec<_> = routes.into_iter().map(|r| (r, attrs.clone())).collect();
        prop_assert_eq!(announced(&messages, &INTERNAL), expected);
    }

    #[test]
    fn withdrawals_round_trip((family, _, routes) in announcement()) {
        let messages = encode_withdraw(family, &routes, &CONTEXT);
        let mut found = Vec::new();
        for message in &messages {
            prop_assert!(message.len() <= STANDARD_LIMIT);
            let update = Update::decode(body(message), &EXTERNAL).unwrap();
            prop_assert!(!update.treat_as_withdraw);
            found.extend(update.withdrawn.map(Result::unwrap));
            found.extend(update.unreach.into_iter().flatten().map(Result::unwrap));
        }
        prop_assert_eq!(found, routes);
    }

    /// RFC 7911 §3: the identifiers stand before the routes, in the base message and in both MP attributes.
    #[test]
    fn paths_round_trip(
        (family, attrs, routes) in announcement().prop_filter("unicast", |(f, ..)| *f != Family::L2vpnEvpn),
        first in any::<u32>(),
    ) {
        let ids = (0_u32..).map(|n| PathId(first.wrapping_add(n.wrapping_mul(0x0101_0101))));
        let paths: Vec<(PathId, Nlri)> = ids.zip(routes).collect();
        let of_it: FamilySet = [family].into_iter().collect();
        let decode = |message| Update::decode_with_ids(body(message), &INTERNAL, of_it).unwrap();
        let mut found = Vec::new();
        let told = encode_announce_paths(family, &attrs, &paths, &CONTEXT).unwrap();
        for message in &told {
            prop_assert!(message.len() <= STANDARD_LIMIT);
            let update = decode(message);
            prop_assert!(!update.treat_as_withdraw);
            found.extend(update.announced.paths());
            found.extend(update.reach.into_iter().flat_map(|reach| reach.nlri.paths()));
        }
        prop_assert_eq!(&found, &paths);
        found.clear();
        let gone = encode_withdraw_paths(family, &paths, &CONTEXT);
        for message in &gone {
            prop_assert!(message.len() <= STANDARD_LIMIT);
            let update = decode(message);
            found.extend(update.withdrawn.paths());
            found.extend(update.unreach.into_iter().flat_map(|nlri| nlri.paths()));
        }
        prop_assert_eq!(found, paths);
    }

    /// RFC 9234 §5 and RFC 8950 §3, which other codecs of the tests do not all know.
    #[test]
    fn otc_and_an_ipv6_next_hop_of_ipv4_round_trip(
        (attrs, routes) in (attributes(Family::Ipv4Unicast), vec(nlri(Family::Ipv4Unicast), 1..300)),
        (otc, next_hop) in (asn(), ipv6()),
    ) {
        let attrs = PathAttributes { otc: Some(otc), next_hop: Some(NextHop::V6(next_hop)), ..attrs };
        let messages = encode_announce(Family::Ipv4Unicast, &attrs, &routes, &CONTEXT).unwrap();
        let expected: Vec<_> = routes.into_iter().map(|r| (r, attrs.clone())).collect();
        prop_assert_eq!(announced(&messages, &INTERNAL), expected);
    }

    #[test]
    fn newer_capabilities_round_trip(role in any::<u8>(), triples in vec(any::<(u16, u16, u16)>(), 0..43)) {
        let newer = [Capability::Role(role), Capability::ExtendedNextHop(triples), Capability::EnhancedRefresh];
        let asn = Asn(4_200_000_001);
        let capabilities = newer.into_iter().chain([Capability::FourOctetAs(asn)]).collect();
        let open = Open { asn, hold_time_s: 90, router_id: RouterId([10, 0, 0, 1].into()), capabilities };
        prop_assert_eq!(Open::decode(body(&open.encode())).unwrap(), open);
    }

    #[test]
    fn open_round_trips(open in open()) {
        prop_assert_eq!(Open::decode(body(&open.encode())).unwrap(), open);
    }

    #[test]
    fn notification_round_trips(code in any::<u8>(), sub in any::<u8>(), data in vec(any::<u8>(), 0..500)) {
        let n = Notification::with_data((code, sub), data);
        prop_assert_eq!(Notification::decode(body(&n.encode())).unwrap(), n);
    }

    #[test]
    fn route_refresh_round_trips(afi in any::<u16>(), subtype in any::<u8>(), safi in any::<u8>()) {
        let refresh = RouteRefresh { afi, subtype, safi };
        prop_assert_eq!(RouteRefresh::decode(body(&refresh.encode())).unwrap(), refresh);
    }

    /// RFC 6793 §4.2: two octets on the wire lose nothing but confederation segments.
    #[test]
    fn two_octet_peers_get_the_whole_path(asns in vec(asn(), 1..20)) {
        let path = AsPath::sequence(asns);
        let attrs = PathAttributes {
            as_path: path.clone(),
            next_hop: Some(NextHop::V4([10, 0, 0, 1].into())),
            ..PathAttributes::default()
        };
        let routes = [Nlri::from("10.0.0.0/8".parse::<ipnet::IpNet>().unwrap())];
        let two = EncodeContext { four_octet_as: false, ..CONTEXT };
        let messages = encode_announce(Family::Ipv4Unicast, &attrs, &routes, &two).unwrap();
        let found = announced(&messages, &ParseContext { four_octet_as: false, ..INTERNAL });
        prop_assert_eq!(&found[0].1.as_path, &path);
    }

    #[test]
    fn random_octets_never_panic(octets in vec(any::<u8>(), 0..200), four in any::<bool>(), internal in any::<bool>()) {
        let ctx = ParseContext { internal, peer_asn: Asn(1), four_octet_as: four };
        let _ = next_frame(&octets, 65_535);
        let _ = Open::decode(&octets);
        let _ = RouteRefresh::decode(&octets);
        let _ = Notification::decode(&octets);
        let _ = Update::decode(&octets, &ctx);
    }

    #[test]
    fn mutated_updates_never_panic(
        (family, attrs, routes) in announcement(),
        flips in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        for mut message in encode_announce(family, &attrs, &routes[..routes.len().min(5)], &CONTEXT).unwrap() {
            for (at, value) in &flips {
                let at = at.index(message.len());
                message[at] = *value;
            }
            if let Ok(Some(frame)) = next_frame(&message, STANDARD_LIMIT)
                && let Ok(update) = Update::decode(frame.body, &EXTERNAL)
            {
                let routes = update.announced.chain(update.withdrawn);
                prop_assert!(routes.count() < STANDARD_LIMIT);
            }
        }
    }

    #[test]
    fn a_cut_message_waits_and_a_stream_splits_anywhere(open in open(), at in any::<prop::sample::Index>()) {
        let message = open.encode();
        let at = at.index(message.len());
        prop_assert_eq!(next_frame(&message[..at], STANDARD_LIMIT), Ok(None));
    }
}

/// Hex, white space ignored.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    digits.chunks(2).map(|p| u8::from_str_radix(&p.iter().collect::<String>(), 16).unwrap()).collect()
}

/// An UPDATE of one announced prefix and these attributes.
fn update_of(attributes: &[&str]) -> Vec<u8> {
    let attributes: Vec<u8> = attributes.iter().flat_map(|a| hex(a)).collect();
    let mut body = vec![0, 0];
    body.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
    body.extend_from_slice(&attributes);
    body.extend_from_slice(&[24, 198, 51, 100]);
    body
}

const ORIGIN: &str = "40 01 01 00";
const PATH: &str = "40 02 06 02 01 0000fde9";
const NEXT_HOP: &str = "40 03 04 0a000001";

#[test]
fn rfc7606_errors_that_withdraw_the_routes() {
    let cases = [
        ("origin length", "40 01 02 0000", [PATH, NEXT_HOP]),
        ("origin value", "40 01 01 03", [PATH, NEXT_HOP]),
        ("origin flags", "c0 01 01 00", [PATH, NEXT_HOP]),
        ("path segment type", "40 02 06 05 01 0000fde9", [ORIGIN, NEXT_HOP]),
        ("path overrun", "40 02 06 02 02 0000fde9", [ORIGIN, NEXT_HOP]),
        ("empty segment", "40 02 08 02 00 02 01 0000fde9", [ORIGIN, NEXT_HOP]),
        ("AS 0 (RFC 7607)", "40 02 0a 02 02 0000fde9 00000000", [ORIGIN, NEXT_HOP]),
        ("not the peer's AS first", "40 02 06 02 01 0000fdea", [ORIGIN, NEXT_HOP]),
        ("confederation from outside", "40 02 0c 03 01 0000fdea 02 01 0000fde9", [ORIGIN, NEXT_HOP]),
        ("next hop length", "40 03 05 0a00000100", [ORIGIN, PATH]),
        ("next hop multicast", "40 03 04 e0000001", [ORIGIN, PATH]),
        ("next hop missing", "80 04 04 00000001", [ORIGIN, PATH]),
        ("path missing", "80 04 04 00000001", [ORIGIN, NEXT_HOP]),
        ("origin missing", "80 04 04 00000001", [PATH, NEXT_HOP]),
    ];
    for (name, bad, rest) in cases {
        let octets = update_of(&[rest[0], rest[1], bad]);
        let update = Update::decode(&octets, &EXTERNAL).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(update.treat_as_withdraw, "{name}");
        assert_eq!(update.announced.count(), 1, "{name}");
    }
}

#[test]
fn rfc7606_errors_in_optional_attributes_that_withdraw_the_routes() {
    let cases = [
        ("MED length", "80 04 03 000001"),
        ("communities length", "c0 08 05 0000000000"),
        ("communities empty", "c0 08 00"),
        ("extended communities length", "c0 10 07 00000000000000"),
        ("large communities length", "c0 20 0b 0000000000000000000000"),
        ("PMSI too short", "c0 16 04 00060000"),
        ("PMSI without an address", "c0 16 05 0006000064"),
        ("attribute longer than the list", "c0 08 20 00000000"),
        ("AGGREGATOR flags", "40 07 08 0000fde9 0a000001"),
        ("ATOMIC_AGGREGATE flags", "c0 06 00"),
    ];
    for (name, bad) in cases {
        let octets = update_of(&[ORIGIN, PATH, NEXT_HOP, bad]);
        let update = Update::decode(&octets, &EXTERNAL).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(update.treat_as_withdraw, "{name}");
    }
}

#[test]
fn rfc7606_errors_that_discard_the_attribute() {
    let cases = [
        ("LOCAL_PREF from an external peer", "40 05 04 000000c8"),
        ("ORIGINATOR_ID from an external peer", "80 09 04 0a000009"),
        ("CLUSTER_LIST from an external peer", "80 0a 04 0a000009"),
        ("ATOMIC_AGGREGATE length", "40 06 01 00"),
        ("AGGREGATOR length", "c0 07 06 fde9 0a000001"),
        ("AS4_PATH from a 4-octet speaker", "c0 11 06 02 01 0000fde9"),
        ("repeated ORIGIN", "40 01 01 02"),
    ];
    for (name, bad) in cases {
        let octets = update_of(&[ORIGIN, PATH, NEXT_HOP, bad]);
        let update = Update::decode(&octets, &EXTERNAL).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(!update.treat_as_withdraw, "{name}");
        assert_eq!(update.discarded, 1, "{name}");
        assert_eq!((update.attrs.local_pref, update.attrs.originator_id), (None, None), "{name}");
        assert_eq!(update.attrs.origin, Origin::Igp, "{name}");
    }
}

/// RFC 4271 §6.3: nothing but the routes that it is for suffers from it.
#[test]
fn a_next_hop_that_is_none_costs_its_own_routes() {
    let reach = "80 0e 0d 0001 01 04 0a000001 00 18 cb0071";
    let mut octets = update_of(&[reach, ORIGIN, PATH, "40 03 04 e0000001"]);
    assert!(Update::decode(&octets, &EXTERNAL).unwrap().treat_as_withdraw);
    octets.truncate(octets.len() - 4);
    let update = Update::decode(&octets, &EXTERNAL).unwrap();
    assert!(!update.treat_as_withdraw && update.reach.is_some());
    let alone = hex("0000 0007 400304e0000001");
    assert!(Update::decode(&alone, &EXTERNAL).is_ok_and(|update| update.end_of_rib().is_none()));
}

#[test]
fn rfc7606_errors_that_reset_the_session() {
    let reach = "80 0e 09 0001 01 04 0a000001 00";
    let cases = [
        ("unknown well-known attribute", update_of(&[ORIGIN, PATH, NEXT_HOP, "40 63 00"]), (3, 2)),
        ("MP_REACH twice", update_of(&[reach, reach, ORIGIN, PATH]), (3, 1)),
        ("MP_UNREACH longer than the list", update_of(&[ORIGIN, PATH, NEXT_HOP, "80 0f 20 000201"]), (3, 9)),
        ("MP_REACH next hop length", update_of(&[ORIGIN, PATH, "80 0e 06 0002 01 01 0a 00"]), (3, 9)),
        ("attribute length beyond the message", hex("0000 00ff 40010100"), (3, 1)),
        ("withdrawn length beyond the message", hex("00ff 0000"), (3, 1)),
        ("prefix length", [hex("0000 0000"), vec![33, 1, 2, 3, 4, 5]].concat(), (3, 10)),
        ("withdrawn prefix cut", hex("0002 18c6 0000"), (3, 10)),
        ("an error and no routes to withdraw", hex("0000 0006 c00803000000"), (3, 1)),
    ];
    for (name, octets, expected) in cases {
        let error = Update::decode(&octets, &EXTERNAL).expect_err(name);
        assert_eq!((error.code, error.subcode), expected, "{name}");
    }
}

#[test]
fn optional_attributes_nobody_knows_travel_on_if_transitive() {
    let octets = update_of(&[ORIGIN, PATH, NEXT_HOP, "c0 c8 02 abcd", "80 c9 02 abcd"]);
    let update = Update::decode(&octets, &EXTERNAL).unwrap();
    assert!(!update.treat_as_withdraw);
    let [unknown] = &update.attrs.unknown[..] else { panic!("{:?}", update.attrs.unknown) };
    assert_eq!((unknown.flags, unknown.type_code), (0xe0, 200), "marked Partial");
}

#[test]
fn families_nobody_knows_are_ignored() {
    // AFI 16388 SAFI 71 (BGP-LS), with attributes that are good.
    let octets = update_of(&[ORIGIN, PATH, NEXT_HOP, "80 0e 0a 4004 47 04 0a000001 00 ff"]);
    let update = Update::decode(&octets, &EXTERNAL).unwrap();
    assert!(update.reach.is_none() && !update.treat_as_withdraw);
}

#[test]
fn end_of_rib_of_every_family() {
    for family in Family::ALL {
        let message = encode_end_of_rib(family);
        let update = Update::decode(body(&message), &EXTERNAL).unwrap();
        assert_eq!(update.end_of_rib(), Some(family));
    }
    assert_eq!(encode_end_of_rib(Family::Ipv4Unicast).len(), 23);
}

#[test]
fn the_end_of_rib_of_a_family_nobody_knows_is_none_of_ours() {
    let octets = hex("0000 0006 800f03 4004 47");
    assert_eq!(Update::decode(&octets, &EXTERNAL).unwrap().end_of_rib(), None);
    let with_attributes = hex("0000 0004 40010100");
    assert_eq!(Update::decode(&with_attributes, &EXTERNAL).unwrap().end_of_rib(), None);
}

#[test]
fn open_errors_have_their_subcodes() {
    let good = hex("04 fde9 005a 0a000001 00");
    let with = |at: usize, octets: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + octets.len()].copy_from_slice(octets);
        bad
    };
    assert!(Open::decode(&good).is_ok());
    let cases = [
        (with(0, &[3]), Notification::BAD_VERSION),
        (with(1, &[0, 0]), Notification::BAD_PEER_AS),
        (with(3, &[0, 2]), Notification::BAD_HOLD_TIME),
        (with(5, &[0; 4]), Notification::BAD_IDENTIFIER),
        (hex("04 fde9 005a 0a000001 02 01 00"), Notification::BAD_PARAMETER),
        (hex("04 fde9 005a 0a000001 05 02 02"), Notification::OPEN_UNSPECIFIC),
    ];
    for (octets, kind) in cases {
        assert!(Open::decode(&octets).expect_err("bad").is(kind), "{octets:02x?}");
    }
}

#[test]
fn header_errors_have_their_subcodes() {
    let good = encode_keepalive();
    let with = |at: usize, octet: u8| {
        let mut bad = good.clone();
        bad[at] = octet;
        bad
    };
    let kind = |m: &[u8]| next_frame(m, STANDARD_LIMIT).map(|f| f.is_some()).map_err(|n| (n.code, n.subcode));
    assert_eq!(kind(&good), Ok(true));
    assert_eq!(kind(&with(3, 0)), Err(Notification::NOT_SYNCHRONIZED));
    assert_eq!(kind(&[0]), Err(Notification::NOT_SYNCHRONIZED), "as early as can be");
    assert_eq!(kind(&with(17, 18)), Err(Notification::BAD_LENGTH));
    assert_eq!(kind(&with(17, 20)), Err(Notification::BAD_LENGTH), "KEEPALIVE has 19 octets");
    assert_eq!(kind(&with(16, 0xff)), Err(Notification::BAD_LENGTH));
    assert_eq!(kind(&with(18, 9)), Err(Notification::BAD_TYPE));
}

#[test]
fn capabilities_in_many_parameters_and_unknown_ones() {
    let octets = hex("04 5ba0 00b4 0a000002 12  02 02 0200  02 04 4d02abcd  02 06 4104 fffefdfc");
    let open = Open::decode(&octets).unwrap();
    assert_eq!(open.asn, Asn(0xfffe_fdfc));
    assert_eq!(open.capabilities[0], Capability::RouteRefresh);
    assert_eq!(open.capabilities[1], Capability::Unknown { code: 0x4d, value: vec![0xab, 0xcd] });
}

#[test]
fn rfc9072_long_parameters_are_understood() {
    let long = Capability::Unknown { code: 200, value: vec![7; 200] };
    let capabilities = vec![long.clone(), long, Capability::FourOctetAs(Asn(1))];
    let open = Open { asn: Asn(1), hold_time_s: 90, router_id: RouterId([1, 1, 1, 1].into()), capabilities };
    let message = open.encode();
    assert_eq!(body(&message)[9..11], [255, 255]);
    assert_eq!(Open::decode(body(&message)).unwrap(), open);
}

#[test]
fn evpn_routes_of_unknown_type_are_passed_over() {
    let mut octets = vec![9, 2, 1, 2];
    let imet = Imet { rd: Rd::from_asn2(65001, 1), tag: 0, originator: [10, 0, 0, 1].into() };
    octets.extend_from_slice(&hex("03 11 0000 fde9 00000001 00000000 20 0a000001"));
    octets.extend_from_slice(&[2, 1, 0]);
    let routes: Vec<_> = NlriIter::new(Family::L2vpnEvpn, &octets).collect();
    assert_eq!(routes, [Ok(imet.into())]);
}

/// The type 2 route of RFC 7432 §7.2 with VXLAN labels, field by field.
#[test]
fn evpn_mac_ip_field_by_field() {
    let octets = hex(
        "02 28 0001 0a000001 0064  00000000000000000000  00000000  30 020000000001  20 c0000207  000064  002328",
    );
    let Some(Ok(route)) = NlriIter::new(Family::L2vpnEvpn, &octets).next() else { panic!("not decoded") };
    let route = MacIp::from_parts(&route.key, &route.data).unwrap();
    assert_eq!(route.rd.to_string(), "10.0.0.1:100");
    assert_eq!(route.mac.to_string(), "02:00:00:00:00:01");
    assert_eq!(route.ip, Some([192, 0, 2, 7].into()));
    assert_eq!((route.vni.get(), route.l3_vni.map(Vni::get)), (100, Some(9000)));
}
