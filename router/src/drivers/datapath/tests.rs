//! What is written is what is read back: every value that a plan can hold comes out of the maps' layouts as it went in.

use std::collections::BTreeMap;

use proptest::prelude::*;
use watari_config::{Tags, Tpid, Vid, Vni};
use watari_dataplane::{Port, PortKey, Segment};
use watari_planner::item::{PortAt, PortGuard, Value};

use super::ports::{map_port, port_at, port_key, port_value};
use super::segments::{config, gateway_value, segment, segment_value};
use super::{Indices, Names};

fn devices() -> (Indices, Names) {
    let indices: Indices = BTreeMap::from([("eth1".to_owned(), 3), ("wtvx4789".to_owned(), 7)]);
    let names = indices.iter().map(|(name, index)| (*index, name.clone())).collect();
    (indices, names)
}

fn tags() -> impl Strategy<Value = Tags> {
    let vid = || (1_u16..=4094).prop_map(|v| Vid::new(v).unwrap());
    let tpid = || prop_oneof![Just(Tpid::Dot1q), Just(Tpid::Dot1ad)];
    prop_oneof![
        Just(Tags::Untagged),
        (tpid(), vid()).prop_map(|(tpid, vid)| Tags::Single(tpid, vid)),
        (tpid(), vid(), vid()).prop_map(|(tpid, outer, inner)| Tags::Double(tpid, outer, inner)),
    ]
}

fn guard() -> impl Strategy<Value = PortGuard> {
    (any::<[bool; 4]>(), 0..70_000_u32, 0..1_000_000_u32).prop_map(|(checks, macs_max, storm_rate)| {
        let [macs, addresses, no_dhcp_server, no_router] = checks;
        PortGuard { macs, addresses, no_dhcp_server, no_router, macs_max, storm_rate }
    })
}

fn vni() -> impl Strategy<Value = Vni> {
    (1_u32..1 << 24).prop_map(|v| Vni::new(v).unwrap())
}

proptest! {
    #[test]
    fn tags_of_every_kind_come_back(tags in tags()) {
        let (indices, names) = devices();
        let at = PortAt { device: "eth1".to_owned(), tags };
        prop_assert_eq!(port_at(&names, port_key(&indices, &at).unwrap()), at);
    }

    #[test]
    fn different_tags_are_different_keys(one in tags(), other in tags()) {
        let (indices, _) = devices();
        let key = |tags| port_key(&indices, &PortAt { device: "eth1".to_owned(), tags }).unwrap();
        prop_assert_eq!(key(one) == key(other), one == other);
    }

    #[test]
    fn an_attachment_comes_back(tenant in vni(), vni in vni(), blocked: bool, near: bool, guard in guard()) {
        let (indices, names) = devices();
        let value = Value::SegmentPort { tenant, vni, blocked, near, guard };
        prop_assert_eq!(port_value(&map_port(&value, &indices).unwrap(), &names), value);
    }

    #[test]
    fn a_segment_comes_back(tenant in vni(), mtu: u16, flood: [bool; 3], rate in 1..u32::MAX, plain: bool) {
        let [flood_unknown, flood_broadcast, flood_multicast] = flood;
        let flood_rate = rate;
        let value =
            Value::L2Segment { tenant, mtu, flood_unknown, flood_broadcast, flood_multicast, flood_rate, plain };
        prop_assert_eq!(segment_value(&segment(tenant, &value).unwrap()), value);
    }

    #[test]
    fn the_gateway_comes_back(dscp in proptest::option::of(0..64_u8), own_encap: bool, vxlan_port: u16, v6: bool) {
        let (indices, names) = devices();
        let vtep = if v6 { "fd00::1" } else { "10.255.0.1" }.parse().unwrap();
        let [anycast_mac, router_mac] = [1, 2].map(|n| watari_config::Mac::new([2, 0, 0, 0, 0, n]).unwrap());
        let vxlan = "wtvx4789".to_owned();
        let value = Value::Gateway { vxlan, vxlan_port, vtep, anycast_mac, router_mac, dscp, own_encap };
        prop_assert_eq!(gateway_value(&config(&value, &indices).unwrap().unwrap(), &names), value);
    }
}

#[test]
fn the_layout_of_a_key_is_that_of_the_programs() {
    let (indices, _) = devices();
    let [ten, seven] = [10, 7].map(|v| Vid::new(v).unwrap());
    let key = |tags| port_key(&indices, &PortAt { device: "eth1".to_owned(), tags }).unwrap();
    assert_eq!(key(Tags::Untagged), PortKey::untagged(3));
    assert_eq!(key(Tags::vlan(ten)), PortKey::vlan(3, 10));
    assert_eq!(key(Tags::Single(Tpid::Dot1ad, ten)), PortKey::vlan(3, 10 | PortKey::S_TAG));
    assert_eq!(key(Tags::Double(Tpid::Dot1ad, ten, seven)), PortKey::qinq(3, 10, 7));
    assert_eq!(key(Tags::Double(Tpid::Dot1q, ten, seven)), PortKey { ifindex: 3, outer: 10, inner: 7 });
}

#[test]
fn an_entry_that_is_not_whole_is_written_again() {
    let (indices, names) = devices();
    let one = Vni::new(1).unwrap();
    let guard = PortGuard { storm_rate: 1000, ..PortGuard::default() };
    let value = Value::SegmentPort { tenant: one, vni: one, blocked: false, near: false, guard };
    let port = map_port(&value, &indices).unwrap();
    assert_eq!((port.storm_rate, port.storm_burst), (1000, 100));
    assert_ne!(port_value(&Port { storm_burst: 1, ..port }, &names), value);
    let broken = Segment { flood_burst: 1, ..Segment::l2(1, 1000, 100) };
    assert_ne!(segment_value(&broken), segment_value(&Segment::l2(1, 1000, 100)));
}
