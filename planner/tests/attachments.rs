//! Attachments of every kind in the plan: where they are, the tables of their guards before the port that asks for
//! them, pinned hosts, and what follows from the policy of a segment and of the fabric.

use proptest::prelude::*;
use watari_config::{Desired, Tags, Tpid, Vid, WgKey, parse_text, read_document};
use watari_planner::item::{HookKind, PortAt, PortGuard, System, Value};
use watari_planner::{Action, Identity, Key, Observed, Plan, plan};

const TWO_SITES: &str = include_str!("../../config/tests/two_sites.yaml");
const MORE: &str = r#"
  qinq: { gateway: gw-a, segment: lab-net, vlan: { trunk: eth1, vid: 100, inner_vid: 7 } }
  s-tag: { gateway: gw-a, segment: lab-net, vlan: { trunk: eth1, vid: 100, outer_tpid: 802.1ad } }
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
    static_hosts:
      - { mac: "02:00:00:00:00:01", addresses: [10.10.0.4], attachment: device }
      - { mac: "02:00:00:00:00:05", addresses: [10.10.0.6], attachment: b-lan }
attachments:"#;

fn text() -> String {
    TWO_SITES.replacen("\nattachments:", STATIC, 1).replacen("\ntunnels:", MORE, 1)
}

fn desired(text: &str) -> Desired {
    let document = read_document(&parse_text(text).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    Desired::new(document, "gw-a".parse().unwrap(), 7).unwrap()
}

fn bare() -> Observed {
    let wireguard_key: WgKey = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=".parse().unwrap();
    let mut observed = Observed::nothing(Identity { wireguard_key });
    observed.devices = ["eth0", "eth1", "eth2", "eth3"].map(str::to_owned).into();
    observed
}

fn carry_out(plan: &Plan, system: &mut System) {
    for op in &plan.ops {
        match op.action {
            Action::Remove => assert!(system.remove(&op.key).is_some(), "{op} of nothing"),
            Action::Create | Action::Change => drop(system.insert(op.key.clone(), op.value.clone())),
        }
    }
}

fn settled(desired: &Desired) -> Observed {
    let mut observed = bare();
    carry_out(&plan(desired, &observed), &mut observed.system);
    observed
}

fn at(device: &str, tags: Tags) -> PortAt {
    PortAt { device: device.to_owned(), tags }
}

fn guard_of(system: &System, at: &PortAt) -> PortGuard {
    match &system[&Key::Port(at.clone())] {
        Value::SegmentPort { guard, .. } => *guard,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_kind_of_tag_is_a_port_of_its_own() {
    let system = settled(&desired(&text())).system;
    let [hundred, seven] = [100, 7].map(|v| Vid::new(v).unwrap());
    let ports = [
        at("eth1", Tags::Untagged),
        at("eth1", Tags::vlan(hundred)),
        at("eth1", Tags::Single(Tpid::Dot1ad, hundred)),
        at("eth1", Tags::Double(Tpid::Dot1ad, hundred, seven)),
        at("eth3", Tags::Untagged),
    ];
    for port in &ports {
        assert!(system.contains_key(&Key::Port(port.clone())), "{port}");
    }
    let flood = system.values().filter_map(|v| if let Value::Ports(list) = v { Some(list) } else { None });
    assert_eq!(flood.collect::<Vec<_>>(), [&ports.to_vec()], "sorted, each once");
    // One program for all that a trunk carries: its untagged frames need no other.
    assert!(system.contains_key(&Key::Hook("eth1".to_owned(), HookKind::Trunk)));
    assert!(!system.contains_key(&Key::Hook("eth1".to_owned(), HookKind::Interface)));
    assert!(system.contains_key(&Key::Hook("eth3".to_owned(), HookKind::Interface)));
}

#[test]
fn ports_follow_a_veth_whose_other_end_comes_near_or_leaves() {
    let desired = desired(&text());
    let near = |system: &System| -> Vec<String> {
        let ports = system.iter().filter_map(|(key, value)| match (key, value) {
            (Key::Port(at), Value::SegmentPort { near: true, .. }) => Some(at.to_string()),
            _ => None,
        });
        ports.collect()
    };
    let mut observed = settled(&desired);
    assert!(near(&observed.system).is_empty());
    observed.near_devices.insert("eth1".to_owned());
    let made = plan(&desired, &observed);
    assert_eq!(made.ops.len(), 4, "the ports of eth1 and nothing else: {:#?}", made.ops);
    carry_out(&made, &mut observed.system);
    assert_eq!(near(&observed.system).len(), 4);
    observed.near_devices.clear();
    carry_out(&plan(&desired, &observed), &mut observed.system);
    assert!(near(&observed.system).is_empty());
}

#[test]
fn the_tables_of_a_guard_are_there_before_the_port_and_go_after_it() {
    let guarded = desired(&text());
    let made = plan(&guarded, &bare());
    let device = PortAt::untagged("eth3");
    let is_guard = |key: &Key| matches!(key, Key::GuardMac(..) | Key::GuardIp(..));
    let position = |plan: &Plan| plan.ops.iter().position(|op| op.key == Key::Port(device.clone())).unwrap();
    let guards = |plan: &Plan| -> Vec<usize> {
        plan.ops.iter().enumerate().filter(|(_, op)| is_guard(&op.key)).map(|(n, _)| n).collect()
    };
    assert_eq!(guards(&made).len(), 5, "two MACs and three prefixes");
    assert!(guards(&made).iter().all(|n| *n < position(&made)));
    let gone = plan(&desired(&text().replacen("interface: eth3", "interface: eth4", 1)), &settled(&guarded));
    assert!(guards(&gone).iter().all(|n| *n > position(&gone)), "{:#?}", gone.ops);
    // A guard that is put on a port that is there: first the tables, then the port.
    let open =
        text().replace(&text()[text().find("\n    guard:").unwrap()..text().find("tunnels:").unwrap()], "\n");
    let put_on = plan(&guarded, &settled(&desired(&open)));
    assert_eq!((put_on.ops.len(), put_on.ops[5].action), (6, Action::Change), "{:#?}", put_on.ops);
    assert_eq!(put_on.ops[5].key, Key::Port(device));
}

#[test]
fn a_guard_says_what_is_checked() {
    let all = PortGuard {
        macs: true,
        addresses: true,
        no_dhcp_server: true,
        no_router: true,
        macs_max: 2,
        storm_rate: 100,
    };
    let system = settled(&desired(&text())).system;
    assert_eq!(guard_of(&system, &PortAt::untagged("eth3")), all);
    assert_eq!(guard_of(&system, &PortAt::untagged("eth1")), PortGuard::default(), "nothing is said of it");
    let bound = Key::GuardIp(PortAt::untagged("eth3"), "10.10.0.5/32".parse().unwrap());
    assert_eq!(system[&bound], Value::GuardIp { mac: Some("02:00:00:00:00:02".parse().unwrap()) });
}

#[test]
fn a_pinned_host_is_in_the_tables_of_its_own_gateway_alone() {
    let system = settled(&desired(&text())).system;
    let vni = watari_config::Vni::new(1000).unwrap();
    let mac = |last: u8| watari_config::Mac::new([2, 0, 0, 0, 0, last]).unwrap();
    let here = Value::StaticMac { at: PortAt::untagged("eth3"), node: false };
    assert_eq!(system.get(&Key::StaticMac(vni, mac(1))), Some(&here));
    let neighbour = Key::StaticNeighbour(vni, "10.10.0.4".parse().unwrap());
    assert_eq!(system.get(&neighbour), Some(&Value::StaticNeighbour { mac: mac(1), own: false }));
    assert_eq!(system.get(&Key::StaticMac(vni, mac(5))), None);
}

#[test]
fn policies_come_to_the_tables() {
    let policy = TWO_SITES
        .replacen("mtu: 1370\n", "mtu: 1370\n    broadcast: drop\n    unknown_unicast: drop\n", 1)
        .replacen("sites:", "fabric: { dscp: 46, encapsulation: device }\nsites:", 1);
    let [before, after] = [TWO_SITES, &policy].map(|text| settled(&desired(text)).system);
    let segment = Key::SegmentEntry(watari_config::Vni::new(1000).unwrap());
    let floods = |system: &System| match &system[&segment] {
        Value::L2Segment { flood_unknown, flood_broadcast, flood_multicast, .. } => {
            (*flood_unknown, *flood_broadcast, *flood_multicast)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!((floods(&before), floods(&after)), ((true, true, true), (false, false, true)));
    let outer = |system: &System| match &system[&Key::GatewayEntry] {
        Value::Gateway { dscp, own_encap, .. } => (*dscp, *own_encap),
        other => panic!("{other:?}"),
    };
    assert_eq!((outer(&before), outer(&after)), ((None, true), (Some(46), false)));
}

#[test]
fn another_vxlan_port_is_another_device_with_all_that_hangs_on_it() {
    let moved = desired(&TWO_SITES.replacen("sites:", "fabric: { vxlan_port: 8472 }\nsites:", 1));
    let mut observed = settled(&desired(TWO_SITES));
    let change = plan(&moved, &observed);
    let touched = |action: Action, device: &str| {
        let of_device = |op: &&watari_planner::Op| op.action == action && op.key.to_string().contains(device);
        change.ops.iter().filter(of_device).count()
    };
    assert_eq!(touched(Action::Remove, "wtvx4789"), touched(Action::Create, "wtvx8472"));
    // Device, address, three settings and a program, and the last way to each far gateway.
    assert!(touched(Action::Create, "wtvx8472") >= 7, "{:#?}", change.ops);
    assert!(change.ops.iter().any(|op| op.key == Key::GatewayEntry && op.action == Action::Change));
    let others = change.ops.iter().filter(|op| !op.key.to_string().contains("wtvx"));
    assert_eq!(
        others.map(|op| op.key.clone()).collect::<Vec<_>>(),
        [Key::GatewayEntry],
        "nothing else is touched"
    );
    carry_out(&change, &mut observed.system);
    assert_eq!(observed.system, settled(&moved).system);
}

proptest! {
    /// From whatever was left of the plan of one document, the plan of another leads to all of it and to nothing else.
    #[test]
    fn from_any_rest_of_one_document_a_plan_leads_to_the_other(
        rest in proptest::collection::vec(any::<bool>(), 200),
        back in any::<bool>(),
    ) {
        let both = [desired(TWO_SITES), desired(&text())];
        let (from, to) = if back { (&both[1], &both[0]) } else { (&both[0], &both[1]) };
        let mut observed = settled(from);
        let mut keep = rest.into_iter().chain(std::iter::repeat(true));
        observed.system.retain(|_, _| keep.next() == Some(true));
        carry_out(&plan(to, &observed), &mut observed.system);
        prop_assert!(plan(to, &observed).is_empty());
        prop_assert_eq!(observed.system, settled(to).system);
    }
}
