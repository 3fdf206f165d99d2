//! Tables are read back whole by few system calls, whatever their kind and however many entries they hold. Needs root.

mod rig;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rig::{frames::*, *};
use watari_dataplane::*;

/// More than two system calls fetch.
const MANY: u32 = 5000;

/// Prefixes of every length among them, one within the other.
fn routes() -> BTreeMap<Prefix, Route> {
    let v4 = |n: u32| IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | n << 4));
    let v6 = |n: u32| IpAddr::V6(Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(n) << 70));
    let hosts = (0..MANY).flat_map(|n| [(v4(n), 28), (v6(n), 60)]);
    let nested = (0..=32).map(|length| (v4(0), length));
    let all = hosts.chain(nested).chain([(v6(0), 0), (v6(0), 128)]);
    all.enumerate()
        .map(|(n, (address, length))| {
            let tenant = 5000 + n as u32 % 2;
            (Prefix::new(tenant, address, length).unwrap(), Route::connected(1 + n as u32, v4(n as u32)))
        })
        .collect()
}

fn level(levels: &[FillLevel], map: &str) -> usize {
    levels.iter().find(|level| level.map == map).unwrap_or_else(|| panic!("{map}")).entries as usize
}

#[test]
fn root_what_was_written_is_read_back_whole_and_counted() {
    let rig = Rig::bare("walk");
    let d = &rig.dataplane;
    let empty = d.routes.entries().unwrap();
    assert!(empty.is_empty() && d.guard_ips.entries().unwrap().is_empty());
    let routes = routes();
    for (prefix, route) in &routes {
        d.routes.upsert(prefix, route).unwrap();
    }
    assert_eq!(d.routes.entries().unwrap(), routes);
    let mut guards = BTreeMap::new();
    for n in 0..MANY {
        let mapped =
            |n: u32| GuardPrefix { port: PortKey::vlan(1 + n, 7), address: ip("10.0.0.0"), length: 8 };
        guards.insert(mapped(n), GuardIp { mac: [2; 6], pad: 0 });
    }
    guards
        .insert(GuardPrefix { port: A, address: ip("fd00::"), length: 16 }, GuardIp { mac: [0; 6], pad: 0 });
    for (prefix, entry) in &guards {
        d.guard_ips.upsert(prefix, entry).unwrap();
    }
    assert_eq!(d.guard_ips.entries().unwrap(), guards);
    for n in 0..MANY {
        let [_, _, b, c] = n.to_be_bytes();
        d.mac_remote.upsert(&MacKey::new(n % 7, [2, 0, 0, 0, b, c]), &MacRemote::default()).unwrap();
    }
    assert_eq!(d.mac_remote.entries().unwrap().len(), MANY as usize);
    let levels = d.fill_levels().unwrap();
    let v4 = routes.keys().filter(|p| p.address().is_ipv4()).count();
    assert_eq!((level(&levels, "routes4"), level(&levels, "routes6")), (v4, routes.len() - v4));
    assert_eq!(level(&levels, "guard_ips"), guards.len());
    assert_eq!((level(&levels, "mac_remote"), level(&levels, "nb_remote")), (MANY as usize, 0));
}

#[test]
fn root_a_table_of_each_processor_is_counted_too() {
    let rig = Rig::new("walkcpu");
    let frame = ethernet(BROADCAST, HOST_A, 0x9000, &[0; 50]);
    // What no port entry knows counts by its key; the others count in slots, which are always there.
    for index in 0..7 {
        let strange = PortKey::untagged(500 + index);
        let (outcome, _) = rig.run(&Packet::from_port(Hook::Interface, strange, &frame));
        assert_eq!(outcome.verdict, Verdict::Drop(DropReason::UnknownPort as u8));
        assert_eq!(rig.dataplane.stats.port(&strange).unwrap().drops, 1);
    }
    rig.run(&Packet::from_port(Hook::Trunk, A, &frame));
    assert_eq!(level(&rig.dataplane.fill_levels().unwrap(), "port_stats"), 7);
}

#[test]
fn root_a_route_is_asked_for_by_its_prefix() {
    let rig = Rig::bare("walkholds");
    let routes = &rig.dataplane.routes;
    let prefix = |text: &str, length| Prefix::new(5000, ip(text), length).unwrap();
    let (short, long) = (prefix("10.0.0.0", 8), prefix("10.1.0.0", 16));
    let [one, two] = ["10.0.0.1", "10.1.0.1"].map(|gateway| Route::connected(7, ip(gateway)));
    assert!(!routes.holds(&long, &two).unwrap());
    routes.upsert(&short, &one).unwrap();
    assert!(!routes.holds(&long, &two).unwrap());
    routes.upsert(&long, &two).unwrap();
    assert!(routes.holds(&short, &one).unwrap() && routes.holds(&long, &two).unwrap());
    routes.upsert(&long, &one).unwrap();
    assert!(!routes.holds(&long, &two).unwrap());
}
