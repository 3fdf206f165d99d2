//! Documents as an operator writes them: the whole one is taken, and each mistake is refused with the
//! path of its field, all mistakes at once.

use watari_config::document::PathsSent;
use watari_config::{Desired, Document, Problem, parse_text, read_document};

const WHOLE: &str = include_str!("two_sites.yaml");

fn desired(text: &str) -> Result<Desired, Vec<Problem>> {
    let document: Document = read_document(&parse_text(text)?)?;
    Desired::new(document, "gw-a".parse().unwrap(), 1)
}

/// The problems of the whole document with `from` replaced by `to`.
fn problems(from: &str, to: &str) -> Vec<Problem> {
    assert!(WHOLE.contains(from), "the document has no {from:?}");
    desired(&WHOLE.replacen(from, to, 1)).expect_err("must be refused")
}

#[track_caller]
fn refused(from: &str, to: &str, path: &str, words: &str) {
    let problems = problems(from, to);
    assert!(
        problems.iter().any(|p| p.path == path && p.message.contains(words)),
        "{from:?} -> {to:?}: expected {path}: …{words}…, got {problems:#?}"
    );
}

#[test]
fn the_whole_document_is_taken_and_read_back_the_same() {
    let first = desired(WHOLE).unwrap();
    let json = serde_json::to_string(first.document()).unwrap();
    let second = desired(&json).unwrap();
    assert_eq!(first, second);
    assert_eq!(first.attachments().count(), 1);
    assert_eq!(first.tunnels().count(), 2);
    assert_eq!(first.peers().count(), 2);
    let segment = "lab-net".parse().unwrap();
    let probes: Vec<_> = first.probe_addresses(&segment).iter().map(ToString::to_string).collect();
    assert_eq!(probes, ["10.10.0.129", "fd00:10::a:1"]);
}

/// Whoever comes from a prefix.
#[test]
fn a_prefix_of_neighbours_is_within_its_exit_and_has_ases_and_room() {
    let one = "address: 192.0.2.2\n    asn: 65001";
    let refused =
        |by: &str, path: &str, message: &str| refused(one, by, &format!("peers.campus4.{path}"), message);
    refused("address: 192.0.2.0/24\n    asn: 65001", "address", "on no subnet");
    refused("address: 192.0.2.2/30\n    asn: 65001", "address", "meant is 192.0.2.0/30");
    refused("address: 192.0.2/30\n    asn: 65001", "address", "or a prefix");
    refused("address: 192.0.2.2\n    asn: [65001, 65002]", "asn", "one number");
    refused("address: 192.0.2.0/30\n    asn: [65001, 0]", "asn[1]", "an AS number");
    refused(
        "address: 192.0.2.0/30\n    asn: 65001\n    neighbours_max: 0",
        "neighbours_max",
        "from 1 to 1024",
    );
    refused(
        "address: 192.0.2.0/30\n    asn: 65001\n    neighbours_max: 1025",
        "neighbours_max",
        "from 1 to 1024",
    );
    refused("address: 192.0.2.0/30\n    asn: 65001\n    hold_time_s: 0", "hold_time_s", "3 at least");
    let whole = "address: 192.0.2.0/30\n    asn: [65001, 65010-65020]\n    neighbours_max: 4";
    refused(whole, "bfd", "not for a prefix");
    let text = WHOLE.replacen(one, whole, 1).replacen("    bfd: { interval_ms: 50 }\n", "", 1);
    let document = desired(&text).unwrap();
    let (_, peer, _) = document.peers().next().unwrap();
    assert_eq!(serde_json::to_value(peer).unwrap()["asn"], serde_json::json!([65001, "65010-65020"]));
    let found = desired(&text.replacen(
        "asn: [65001, 65010-65020]",
        "asn: [65001, 65010-65020]\n    role: peer\n",
        1,
    ));
    assert!(found.is_ok());
    let own = text.replacen("asn: [65001, 65010-65020]", "asn: 65000-65200\n    role: peer\n", 1);
    assert!(desired(&own).unwrap_err().iter().any(|p| p.path == "peers.campus4.role"));
    // A neighbour, or others, without a password within a prefix that has one would not be heard.
    let signed = text.replacen("neighbours_max: 4", "password: file:/etc/key", 1);
    for lone in ["192.0.2.2", "192.0.2.0/31"] {
        let second = format!("peers:\n  lone: {{ exit: campus, address: {lone}, asn: 65003 }}");
        let found = desired(&signed.replacen("peers:", &second, 1)).unwrap_err();
        let message = format!("all who come from 192.0.2.0/30, and peers.lone ({lone}) has none");
        let is_it = |p: &Problem| p.path == "peers.campus4.password" && p.message.contains(&message);
        assert!(found.iter().any(is_it), "{found:#?}");
    }
    // Of those without a password some may have one: theirs is the longer prefix.
    let second =
        "peers:\n  some: { exit: campus, address: 192.0.2.0/31, asn: 65003, password: file:/etc/key }";
    assert!(desired(&text.replacen("peers:", second, 1)).is_ok());
}

/// RFC 4271 leaves it to the operator how far away a neighbour may be.
#[test]
fn a_neighbour_that_is_further_away_has_a_ttl_and_a_source_on_its_exit() {
    let one = "address: 192.0.2.2\n    asn: 65001";
    let refused =
        |by: &str, path: &str, message: &str| refused(one, by, &format!("peers.campus4.{path}"), message);
    refused("address: 198.51.100.7\n    asn: 65001", "address", "needs multihop_ttl");
    let far = "address: 198.51.100.7\n    asn: 65001\n    multihop_ttl: ";
    refused(&format!("{far}3"), "bfd", "on the link");
    refused(&format!("{far}1"), "multihop_ttl", "2 to 255");
    refused(&format!("{far}3\n    ttl_security_hops: 2"), "multihop_ttl", "say one of them");
    refused(&format!("{far}3\n    source: 192.0.2.9"), "source", "no address of exit campus");
    refused(&format!("{far}3\n    source: \"2001:db8:ff::1\""), "source", "neighbour's family");
    for more in ["3", "3\n    source: 192.0.2.1"] {
        let text =
            WHOLE.replacen(one, &format!("{far}{more}"), 1).replacen("    bfd: { interval_ms: 50 }\n", "", 1);
        let document = desired(&text).unwrap();
        let (_, peer, exit) = document.peers().next().unwrap();
        assert_eq!(peer.local(exit), Some([192, 0, 2, 1].into()));
    }
}

#[test]
fn unknown_fields_are_refused() {
    refused("l3vni: 5000", "l3vni: 5000, colour: red", "tenants.lab.colour", "unknown field");
    refused("sites:", "sights: {}\nsites:", "sights", "unknown field");
}

#[test]
fn a_missing_field_is_named() {
    refused("    mtu: 1370\n", "", "segments.lab-net.mtu", "is required");
}

#[test]
fn overlapping_subnets_of_one_tenant_are_refused() {
    refused("192.0.2.1/30", "10.10.0.9/30", "exits.campus.addresses[0]", "overlaps 10.10.0.0/24");
}

#[test]
fn a_vlan_used_twice_on_a_trunk_is_refused() {
    refused(
        "vid: 300",
        "vid: 100",
        "exits.campus.vlan.vid",
        "VLAN 100 of eth1 is already used by attachments.a-lan",
    );
}

#[test]
fn a_vni_out_of_range_is_refused() {
    refused("vni: 1000", "vni: 16777216", "segments.lab-net.vni", "from 1 to 16777215");
    refused("l3vni: 5000", "l3vni: 0", "tenants.lab.l3vni", "from 1 to 16777215");
    refused("vni: 1000", "vni: 5000", "segments.lab-net.vni", "already used");
}

#[test]
fn bfd_has_bounds_and_defaults_that_find_a_dead_path_within_a_second() {
    let bfd = "bfd: { interval_ms: 50 }";
    refused(bfd, "bfd: { interval_ms: 9 }", "peers.campus4.bfd.interval_ms", "from 10 to 60000");
    refused(bfd, "bfd: { multiplier: 0 }", "peers.campus4.bfd.multiplier", "1 at least");
    refused(bfd, "bfd: { echo: true }", "peers.campus4.bfd.echo", "unknown field");
    let document = desired(&WHOLE.replacen(bfd, "bfd: {}", 1)).unwrap();
    let (_, peer, _) = document.peers().next().unwrap();
    let bfd = peer.bfd.as_ref().unwrap();
    assert!(bfd.interval_ms * u32::from(bfd.multiplier) < 1_000);
}

/// Each field of a session with a bound, and what goes without saying.
#[test]
fn a_session_has_bounds_and_a_password_is_a_place() {
    let bfd = "bfd: { interval_ms: 50 }";
    for (field, path, message) in [
        ("password: hunter2", "password", "file:/PATH"),
        ("prefixes_warn_percent: 101", "prefixes_warn_percent", "0 to 100"),
        ("prefixes_restart_s: 0", "prefixes_restart_s", "1 at least"),
        ("advertisement_interval_s: 601", "advertisement_interval_s", "0 to 600"),
        ("connect_retry_s: 0", "connect_retry_s", "1 at least"),
        ("ttl_security_hops: 0", "ttl_security_hops", "from 1 to 255"),
        ("role: boss", "role", "must be one of"),
        ("role_strict: true", "role_strict", "asks for a role"),
        ("disabled_because: works", "disabled_because", "that is disabled"),
        ("add_path: { receive: false }", "add_path", "neither receives nor sends"),
        ("add_path: { send: best 0 }", "add_path.send", "as in best 2"),
        ("add_path: { send: 3 }", "add_path.send", "as in best 2"),
        ("add_path: { families: [ipv6] }", "add_path.families[0]", "is not exchanged"),
    ] {
        refused(bfd, field, &format!("peers.campus4.{path}"), message);
    }
    let internal = WHOLE.replacen("asn: 65001\n    accept", "asn: 65100\n    accept", 1);
    assert!(desired(&internal).is_ok());
    let found = desired(&internal.replacen(bfd, "role: customer", 1)).unwrap_err();
    assert!(found.iter().any(|p| p.path == "peers.campus4.role"), "{found:#?}");
    let all = "password: file:/etc/key\n    role: customer\n    role_strict: true\n    disabled: true\n    disabled_because: works";
    let document = desired(&WHOLE.replacen(bfd, all, 1)).unwrap();
    let (_, peer, _) = document.peers().next().unwrap();
    assert_eq!(peer.password.as_ref().unwrap().to_string(), "file:/etc/key");
    let document = desired(&WHOLE.replacen(bfd, "add_path: { send: best 2 }", 1)).unwrap();
    let add_path = document.peers().next().unwrap().1.add_path.as_ref().unwrap();
    assert_eq!((add_path.receive, add_path.send), (true, Some(PathsSent::Best(2))));
    assert_eq!(serde_json::to_value(add_path).unwrap()["send"], "best 2");
    // IPv4 needs no address of ours on an IPv6 session (RFC 8950).
    let v6 = WHOLE.replacen(
        "asn: 65001\n    accept: [\"2001",
        "asn: 65001\n    families: [ipv4, ipv6]\n    accept: [\"2001",
        1,
    );
    assert!(v6 != WHOLE && desired(&v6).is_ok());
}

#[test]
fn hosts_may_keep_an_mtu_that_no_tunnel_carries() {
    for mtu in ["mtu: 1500", "mtu: 9000"] {
        assert!(desired(&WHOLE.replacen("mtu: 1370", mtu, 1)).is_ok(), "{mtu}");
    }
}

#[test]
fn an_mtu_below_that_of_ipv6_is_refused() {
    refused("mtu: 1370", "mtu: 1000", "segments.lab-net.mtu", "1280 at least");
}

#[test]
fn a_tunnel_that_would_lead_through_itself_is_refused() {
    refused(
        "gw-a: \"203.0.113.1:51820\"",
        "gw-a: \"10.255.0.1:51820\"",
        "tunnels.ab-wg.wireguard.endpoints.gw-a",
        "is the VTEP of gateway gw-a",
    );
}

#[test]
fn a_gateway_has_one_place_or_several_and_a_name_is_one_too() {
    let one = "gw-a: \"203.0.113.1:51820\"";
    let several = "gw-a: [\"203.0.113.1:51820\", \"[2001:db8::1]:51820\", \"gw-a.example.org:51820\"]";
    let desired = desired(&WHOLE.replacen(one, several, 1)).unwrap();
    let wireguard = desired.document().tunnels[&"ab-wg".parse().unwrap()].wireguard.clone().unwrap();
    let gateway = "gw-a".parse().unwrap();
    assert_eq!(wireguard.endpoints[&gateway].len(), 3);
    assert_eq!(wireguard.listen_port(&gateway), Some(51820));
    let path = "tunnels.ab-wg.wireguard.endpoints.gw-a";
    refused(one, "gw-a: []", path, "1 to 8 places");
    refused(one, "gw-a: \"example:0\"", path, "a port other than 0");
    refused(one, "gw-a: \"203.0.113:51820\"", path, "is no DNS name");
    let twice = "gw-a: [\"203.0.113.1:51820\", \"203.0.113.1:51820\"]";
    refused(one, twice, &format!("{path}[1]"), "203.0.113.1:51820");
    let vtep = "gw-a: [\"203.0.113.1:51820\", \"10.255.0.2:51820\"]";
    refused(one, vtep, &format!("{path}[1]"), "is the VTEP of gateway gw-b");
}

#[test]
fn dscp_of_a_wireguard_tunnel_is_the_inner_one_or_a_number() {
    let (without, with) = ("wireguard: { ", "wireguard: { dscp: inherit, ");
    assert!(desired(&WHOLE.replacen(without, with, 1)).is_ok());
    let path = "tunnels.ab-wg.wireguard.dscp";
    refused(without, "wireguard: { dscp: 64, ", path, "must be inherit or a number from 0 to 63");
}

/// The whole document with VTEPs and the ends of the direct tunnel of IPv6.
fn whole_v6() -> String {
    WHOLE
        .replace("vtep: 10.255.0.1", "vtep: \"2001:db8:a::1\"\n    router_id: 10.255.0.1")
        .replace("vtep: 10.255.0.2", "vtep: \"2001:db8:b::1\"\n    router_id: 10.255.0.2")
        .replace("10.90.0.1/24", "fd00:90::1/64")
        .replace("10.90.0.2/24", "fd00:90::2/64")
        .replace("mtu: 1420", "mtu: 1440")
}

#[test]
fn a_route_through_a_far_gateway_leaves_out_how_that_is_reached() {
    let route = |prefix: &str| {
        format!("routes:\n  r: {{ gateway: gw-a, prefix: {prefix}, via: 10.255.0.2 }}\nexits:")
    };
    desired(&WHOLE.replacen("exits:", &route("10.40.0.0/16"), 1)).unwrap();
    refused("exits:", &route("10.255.0.2/32"), "routes.r.prefix", "holds 10.255.0.2, which is how");
    refused("exits:", &route("0.0.0.0/0"), "routes.r.prefix", "holds 10.255.0.2, which is how");
    refused("exits:", &route("198.51.100.0/24"), "routes.r.prefix", "holds 198.51.100.1, which is how");
}

/// The problem with `path` of the IPv6 document with `from` replaced by `to`.
#[track_caller]
fn refused_v6(from: &str, to: &str, path: &str, words: &str) {
    let whole = whole_v6();
    assert!(whole.contains(from), "the document has no {from:?}");
    let problems = desired(&whole.replacen(from, to, 1)).expect_err("must be refused");
    assert!(
        problems.iter().any(|p| p.path == path && p.message.contains(words)),
        "{from:?} -> {to:?}: expected {path}: …{words}…, got {problems:#?}"
    );
}

#[test]
fn vteps_may_be_of_ipv6() {
    let desired = desired(&whole_v6()).unwrap();
    let own = desired.gateway().unwrap();
    assert_eq!(own.bgp_identifier().unwrap().to_string(), "10.255.0.1");
    let far = &desired.document().gateways[&"gw-b".parse().unwrap()];
    let macs = [own, far].map(|g| watari_config::desired::router_mac(g.vtep));
    assert_ne!(macs[0], macs[1], "two sites whose VTEPs end alike");
    assert_eq!(desired.own_mac(), Some(macs[0]));
}

#[test]
fn an_ipv6_vtep_needs_an_identifier_of_its_own() {
    refused_v6("    router_id: 10.255.0.1\n", "", "gateways.gw-a.router_id", "is required");
    refused_v6("router_id: 10.255.0.1", "router_id: 0.0.0.0", "gateways.gw-a.router_id", "0.0.0.0");
    refused_v6(
        "router_id: 10.255.0.2",
        "router_id: 10.255.0.1",
        "gateways.gw-b.router_id",
        "already used by gateways.gw-a.router_id",
    );
}

#[test]
fn vteps_of_one_fabric_are_of_one_family() {
    let path = "gateways.gw-b.vtep";
    refused_v6("vtep: \"2001:db8:b::1\"", "vtep: 10.255.0.2", path, "family of 2001:db8:a::1");
    for wrong in ["fe80::1", "::ffff:10.0.0.1", "::1", "ff02::1"] {
        refused_v6("2001:db8:b::1", wrong, path, "must be");
    }
    let end = "tunnels.ab-l2vpn.direct.ends.gw-a.address";
    refused_v6("fd00:90::1/64", "10.90.0.1/24", end, "family of the VTEP");
    refused("10.90.0.1/24", "\"fd00:90::1/64\"", end, "family of the VTEP");
}

/// IPv6 fragments nothing on the way: what every link with IPv6 carries must cross in one piece.
#[test]
fn over_ipv6_a_tunnel_carries_the_least_mtu_of_ipv6_and_vxlan() {
    refused_v6("mtu: 1440", "mtu: 1349", "tunnels.ab-wg.mtu", "1350 at least");
    assert!(desired(&whole_v6().replacen("mtu: 1440", "mtu: 1350", 1)).is_ok());
}

#[test]
fn a_malformed_key_is_refused() {
    refused(
        "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=",
        "XGIo",
        "gateways.gw-a.wireguard_key",
        "32 octets",
    );
}

#[test]
fn a_slice_that_overlaps_another_is_refused() {
    refused(
        "10.10.0.192/26",
        "10.10.0.128/25",
        "pools.lab-nodes.slices.gw-b[0]",
        "overlaps 10.10.0.128/26 of pools.lab-nodes.slices.gw-a[0]",
    );
    refused("10.10.0.192/26", "10.10.1.0/26", "pools.lab-nodes.slices.gw-b[0]", "in no subnet");
}

#[test]
fn references_must_exist() {
    refused("site: a", "site: c", "gateways.gw-a.site", "no site is named");
    refused("exit: campus", "exit: kampus", "peers.campus4.exit", "no exit is named");
    refused(
        "trunk: eth1, vid: 100",
        "trunk: eth9, vid: 100",
        "attachments.a-lan.vlan.trunk",
        "eth9 is no trunk",
    );
}

#[test]
fn all_problems_come_at_once() {
    let text =
        WHOLE.replace("vni: 1000", "vni: 0").replace("site: a", "site: c").replace("vid: 200", "vid: 5000");
    let found = desired(&text).unwrap_err();
    assert!(found.iter().any(|p| p.path == "segments.lab-net.vni"), "{found:#?}");
    assert!(found.iter().any(|p| p.path == "attachments.b-lan.vlan.vid"), "{found:#?}");
}

#[test]
fn a_key_written_twice_is_refused() {
    let text = WHOLE.replace("  lab: { l3vni: 5000 }", "  lab: { l3vni: 5000 }\n  lab: { l3vni: 5001 }");
    assert!(desired(&text).unwrap_err()[0].message.contains("duplicate"));
}

/// Two gateways take nodes in turn, each out of its own slice, until both are exhausted: no address comes
/// twice, none is a gateway's own, and the document holds together all the way.
#[test]
fn addresses_of_nodes_come_once_and_run_out_cleanly() {
    use watari_config::allocate::{AllocateError, node_addresses, node_mac};
    use watari_config::document::{Node, NodeKind, NodeMode};
    let small = WHOLE.replace("10.10.0.128/26", "10.10.0.128/29").replace("10.10.0.192/26", "10.10.0.136/29");
    let mut document = read_document(&parse_text(&small).unwrap()).unwrap();
    let segment: watari_config::Name = "lab-net".parse().unwrap();
    let mut exhausted = 0;
    for turn in 0..20 {
        let gateway: watari_config::Name = ["gw-a", "gw-b"][turn % 2].parse().unwrap();
        let desired = Desired::new(document.clone(), gateway.clone(), 1).unwrap();
        let addresses = match node_addresses(&desired, &segment) {
            Ok(addresses) => addresses,
            Err(AllocateError::Exhausted { .. }) => {
                exhausted += 1;
                continue;
            }
            Err(other) => panic!("{other}"),
        };
        let name: watari_config::Name = format!("n{turn}").parse().unwrap();
        let mac = node_mac(&document, &name, &addresses);
        let (kind, mode) = (NodeKind::Cpu, NodeMode::L3);
        let (created, expires) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
        let segment = segment.clone();
        let (public_key, token_sha256) = (None, None);
        let node =
            Node { gateway, segment, kind, mode, addresses, mac, public_key, token_sha256, created, expires };
        document.nodes.insert(name, node);
    }
    // Of eight addresses the lowest is left out and the next is the gateway's own.
    assert_eq!(document.nodes.len(), 12);
    assert_eq!(exhausted, 8);
    let first = &document.nodes[&"n0".parse::<watari_config::Name>().unwrap()].addresses;
    assert_eq!(first[0].to_string(), "10.10.0.130");
}
