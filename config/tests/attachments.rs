//! Places on trunks, guards, pinned hosts and the policy of segments: what is taken, and each mistake with its path.

use watari_config::document::{Dscp, Encapsulation, Flooding, Permit};
use watari_config::{Desired, Document, Problem, Tags, Tpid, Vid, parse_text, read_document};

const WHOLE: &str = include_str!("two_sites.yaml");
/// Attachments of every kind at gateway A, beside those of the whole document.
const EVERY_KIND: &str = r#"
  qinq: { gateway: gw-a, segment: lab-net, vlan: { trunk: eth1, vid: 100, inner_vid: 7 } }
  qinq-8: { gateway: gw-a, segment: lab-net, vlan: { trunk: eth1, vid: 100, inner_vid: 8 } }
  qinq-q: { gateway: gw-a, segment: lab-net, vlan: { trunk: eth1, vid: 100, inner_vid: 7, outer_tpid: 802.1q } }
  s-tag: { gateway: gw-a, segment: lab-net, vlan: { trunk: eth1, vid: 100, outer_tpid: 802.1ad } }
  same-vid: { gateway: gw-a, segment: lab-net, vlan: { trunk: eth2, vid: 100 } }
  native: { gateway: gw-a, segment: lab-net, interface: eth1 }
  device:
    gateway: gw-a
    segment: lab-net
    interface: eth3
    guard:
      macs: ["02:00:00:00:00:01", "02:00:00:00:00:02"]
      addresses: [10.10.0.4/32, { prefix: 10.10.0.5/32, mac: "02:00:00:00:00:02" }, "fd00:10::/64"]
      dhcp_server: deny
      routers: deny
      macs_max: 2
      storm_rate: 100
tunnels:"#;
const STATIC: &str = r#"
    broadcast: drop
    multicast: drop
    mac_age_s: 60
    static_hosts:
      - { mac: "02:00:00:00:00:01", addresses: [10.10.0.4], attachment: device }
      - { mac: "02:00:00:00:00:05", addresses: [10.10.0.6, "fd00:10::6"], attachment: b-lan }
attachments:"#;

fn text() -> String {
    let fabric = "fabric: { dscp: 46, encapsulation: device }\nsites:";
    WHOLE.replacen("sites:", fabric, 1).replacen("\nattachments:", STATIC, 1).replacen(
        "\ntunnels:",
        EVERY_KIND,
        1,
    )
}

fn read(text: &str) -> Result<Document, Vec<Problem>> {
    read_document(&parse_text(text)?)
}

#[track_caller]
fn refused(from: &str, to: &str, path: &str, words: &str) {
    let text = text();
    assert!(text.contains(from), "the document has no {from:?}");
    let problems = read(&text.replacen(from, to, 1)).expect_err("must be refused");
    assert!(
        problems.iter().any(|p| p.path == path && p.message.contains(words)),
        "{from:?} -> {to:?}: expected {path}: …{words}…, got {problems:#?}"
    );
}

#[test]
fn every_kind_of_attachment_is_taken_and_read_back_the_same() {
    let first = read(&text()).unwrap_or_else(|p| panic!("{p:#?}"));
    let second = read(&serde_json::to_string(&first).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    assert_eq!(first, second);
    let [hundred, seven] = [100, 7].map(|v| Vid::new(v).unwrap());
    let tags = |name: &str| first.attachments[&name.parse().unwrap()].vlan.as_ref().unwrap().tags();
    assert_eq!(tags("a-lan"), Tags::vlan(hundred));
    assert_eq!(tags("qinq"), Tags::Double(Tpid::Dot1ad, hundred, seven));
    assert_eq!(tags("qinq-q"), Tags::Double(Tpid::Dot1q, hundred, seven));
    assert_eq!(tags("s-tag"), Tags::Single(Tpid::Dot1ad, hundred));
    let guard = first.attachments[&"device".parse().unwrap()].guard.clone().unwrap();
    assert_eq!((guard.dhcp_server, guard.routers), (Permit::Deny, Permit::Deny));
    assert_eq!(guard.addresses[1].mac, Some(guard.macs[1]));
    let segment = &first.segments[&"lab-net".parse().unwrap()];
    assert_eq!((segment.broadcast, segment.unknown_unicast), (Flooding::Drop, Flooding::Flood));
    assert_eq!((first.fabric.dscp, first.fabric.encapsulation), (Dscp::Fixed(46), Encapsulation::Device));
    Desired::new(first, "gw-a".parse().unwrap(), 1).unwrap();
}

#[test]
fn what_is_not_said_restricts_nothing() {
    let document = read(WHOLE).unwrap();
    let segment = &document.segments[&"lab-net".parse().unwrap()];
    assert_eq!(
        (segment.broadcast, segment.multicast, segment.mac_age_s),
        (Flooding::Flood, Flooding::Flood, 300)
    );
    assert_eq!((document.fabric.dscp, document.fabric.encapsulation), (Dscp::Inherit, Encapsulation::Auto));
    assert!(document.attachments.values().all(|a| a.guard.is_none()));
}

#[test]
fn tags_of_a_device_belong_to_one_object() {
    let (vid, used) =
        ("attachments.qinq-8.vlan.vid", "VLAN 100.7 of eth1 is already used by attachments.qinq.vlan.vid");
    refused("inner_vid: 8", "inner_vid: 7", vid, used);
    refused("outer_tpid: 802.1ad", "inner_vid: 7", "attachments.s-tag.vlan.vid", "VLAN 100.7 of eth1");
    refused(
        "interface: eth3",
        "interface: eth1",
        "attachments.native.interface",
        "untagged of eth1 is already",
    );
    // The end of a tunnel and an exit are uses as well.
    refused(
        "trunk: eth2, vid: 100",
        "trunk: eth2, vid: 900",
        "tunnels.ab-l2vpn.direct.ends.gw-a.vlan.vid",
        "same-vid",
    );
    refused("trunk: eth2, vid: 100", "trunk: eth1, vid: 300", "exits.campus.vlan.vid", "same-vid");
    refused("interface: eth3", "interface: eth0", "attachments.device.interface", "is the uplink");
    refused(
        "interface: eth3",
        "vlan: { trunk: eth3, vid: 1 }",
        "attachments.device.vlan.trunk",
        "eth3 is no trunk",
    );
    refused("inner_vid: 8", "inner_vid: 4095", "attachments.qinq-8.vlan.inner_vid", "from 1 to 4094");
    refused(
        "outer_tpid: 802.1ad",
        "outer_tpid: 802.1ah",
        "attachments.s-tag.vlan.outer_tpid",
        "802.1q, 802.1ad",
    );
}

#[test]
fn a_guard_that_lets_nobody_through_is_refused() {
    let guard = "attachments.device.guard";
    let at = |field: &str| format!("{guard}.{field}");
    refused("00:01\", \"02:00:00:00:00:02", "00:01\", \"02:00:00:00:00:01", &at("macs[1]"), "already used");
    refused("macs_max: 2", "macs_max: 1", &at("macs_max"), "less than the 2 MACs");
    refused("10.10.0.4/32", "10.10.0.4/24", &at("addresses[0]"), "meant is 10.10.0.0/24");
    refused("10.10.0.4/32", "10.10.0.5/32", &at("addresses[1]"), "already used");
    refused("10.10.0.4/32", "10.10.0.4", &at("addresses[0]"), "10.10.0.4");
    let bound = "prefix: 10.10.0.5/32, mac: \"02:00:00:00:00:02\"";
    refused(
        bound,
        "prefix: 10.10.0.5/32, mac: \"02:00:00:00:00:03\"",
        &at("addresses[1]"),
        "is not among macs",
    );
    refused(bound, "mac: \"02:00:00:00:00:02\"", &at("addresses[1].prefix"), "is required");
    refused("dhcp_server: deny", "dhcp_server: never", &at("dhcp_server"), "one of allow, deny");
    refused("routers: deny", "router: deny", &at("router"), "unknown field");
    refused("storm_rate: 100", "storm_rate: -1", &at("storm_rate"), "whole number");
    let many: Vec<_> =
        (0..4097).map(|n| format!("\"02:00:00:00:{:02x}:{:02x}\"", n / 256, n % 256)).collect();
    let macs = "\"02:00:00:00:00:01\", \"02:00:00:00:00:02\"";
    refused(macs, &many.join(","), &at("macs"), "4097 entries; at most 4096");
}

#[test]
fn a_pinned_host_must_be_somewhere() {
    let host = |field: &str| format!("segments.lab-net.static_hosts[0]{field}");
    refused("attachment: device", "attachment: nowhere", &host(".attachment"), "no attachment is named");
    refused("addresses: [10.10.0.4]", "addresses: [10.11.0.4]", &host(".addresses[0]"), "in no subnet");
    refused("addresses: [10.10.0.4]", "addresses: [10.10.0.1]", &host(".addresses[0]"), "gateway's own");
    refused("addresses: [10.10.0.4]", "addresses: [10.10.0.130]", &host(".addresses[0]"), "slice of a pool");
    let mac = "- { mac: \"02:00:00:00:00:01\"";
    refused(mac, "- { mac: \"02:00:00:00:00:09\"", &host(".mac"), "not among the macs");
    refused(mac, "- { mac: \"02:00:00:00:00:05\"", "segments.lab-net.static_hosts[1].mac", "already used");
    refused("[10.10.0.6,", "[10.10.0.4,", "segments.lab-net.static_hosts[1].addresses[0]", "already used");
}

/// Sockets that listen on every address: one of a port.
#[test]
fn the_port_of_vxlan_is_nobody_elses() {
    let at = "fabric.vxlan_port";
    refused("dscp: 46", "vxlan_port: 4790", at, "path probes");
    refused("dscp: 46", "vxlan_port: 0", at, "must not be 0");
    let tenants: Vec<_> = read(&text()).unwrap().tenants.keys().cloned().collect();
    let path = format!("tenants.{}.node_port", tenants[0]);
    refused("dscp: 46", "vxlan_port: 51900", &path, "already used by fabric.vxlan_port");
}

#[test]
fn policies_have_limits() {
    for age in ["9", "1000001"] {
        let to = format!("mac_age_s: {age}");
        refused("mac_age_s: 60", &to, "segments.lab-net.mac_age_s", "from 10 to 1000000");
    }
    refused("broadcast: drop", "broadcast: maybe", "segments.lab-net.broadcast", "one of flood, drop");
    refused("dscp: 46", "dscp: 64", "fabric.dscp", "inherit or a number from 0 to 63");
    refused("encapsulation: device", "encapsulation: kernel", "fabric.encapsulation", "one of auto, device");
}
