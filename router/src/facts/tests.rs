//! What one gateway originates, another imports: the two-site document seen from both sides, without a session
//! in between.

use std::net::IpAddr;
use std::sync::Arc;

use watari_bgp::NeighbourFlags;
use watari_bgp::evpn::mobility::Claim;
use watari_bgp::nlri::Key;
use watari_bgp::speaker::{Best, Source};
use watari_bgp::types::{MacAddr, PeerId};
use watari_config::{Desired, Vni, parse_text, read_document};

use super::fabric::{EVPN, Fabric};
use super::hosts::{Claims, Dirty, Hosts, Neighbour, Seen};
use super::import::{Imported, Routes, import};
use super::originate::{Learnt, Originated, originate};
use super::tables::{Kept, Wanted};
use super::told::Told;
use crate::bgp::LocalChange;

const WHOLE: &str = include_str!("../../../config/tests/two_sites.yaml");
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 7]);

fn whole(ipv6: bool) -> String {
    if !ipv6 {
        return WHOLE.to_owned();
    }
    WHOLE
        .replace("vtep: 10.255.0.1", "vtep: \"2001:db8:a::1\"\n    router_id: 10.255.0.1")
        .replace("vtep: 10.255.0.2", "vtep: \"2001:db8:b::1\"\n    router_id: 10.255.0.2")
        .replace("10.90.0.1/24", "fd00:90::1/64")
        .replace("10.90.0.2/24", "fd00:90::2/64")
        .replace("mtu: 1420", "mtu: 1440")
}

fn seen_from(gateway: &str, text: &str) -> Desired {
    let document = read_document(&parse_text(text).unwrap()).unwrap_or_else(|p| panic!("{p:#?}"));
    Desired::new(document, gateway.parse().unwrap(), 1).unwrap()
}

fn vni() -> Vni {
    Vni::new(1000).unwrap()
}

fn flags(router: bool, is_override: bool) -> NeighbourFlags {
    NeighbourFlags { router, is_override, immutable: false }
}

/// A station with an address of each family, learnt at gateway A.
fn learnt() -> Learnt {
    let mut learnt = Learnt::default();
    learnt.stations.insert((vni(), MAC), 3);
    let silent = ("fd00:10::8", NeighbourFlags::default());
    for (ip, flags) in [("10.10.0.9", flags(true, true)), ("fd00:10::9", flags(true, false)), silent] {
        learnt.addresses.insert((vni(), ip.parse().unwrap()), (MAC, flags));
    }
    learnt
}

/// The routes as they arrive at another gateway.
fn arrived(originated: &Originated) -> Routes {
    let fabric = originated.iter().filter(|((instance, _), _)| *instance == EVPN);
    let best = |((_, key), (nlri, attrs)): (&(_, Key), &(watari_bgp::Nlri, watari_bgp::PathAttributes))| {
        let source = Source::Peer(PeerId(1));
        (key.clone(), Best { attrs: Arc::new(attrs.clone()), data: nlri.data, source, stale: false })
    };
    fabric.map(best).collect()
}

fn imported(ipv6: bool) -> (Originated, Imported) {
    let text = whole(ipv6);
    let (a, b) = (seen_from("gw-a", &text), seen_from("gw-b", &text));
    let originated = originate(&a, &Fabric::new(&a).unwrap(), &learnt());
    let imported = import(&Fabric::new(&b).unwrap(), &arrived(&originated));
    (originated, imported)
}

#[test]
fn a_station_arrives_with_its_gateway_of_either_family() {
    for (ipv6, vtep) in [(false, "10.255.0.1"), (true, "2001:db8:a::1")] {
        let vtep: IpAddr = vtep.parse().unwrap();
        let (originated, imported) = imported(ipv6);
        let claim = Claim { sticky: false, sequence: 3, vtep };
        assert_eq!(imported.claims.stations[&(vni(), MAC)], claim);
        assert_eq!(imported.claims.addresses[&(vni(), "10.10.0.9".parse().unwrap())].claim, claim);
        assert_eq!(imported.flood(vni()).collect::<Vec<_>>(), [vtep]);
        assert!(imported.prefixes().all(|(_, remote)| remote.vtep == vtep));
        assert!(imported.prefixes().next().is_some());
        for ((_, key), (_, attrs)) in originated.iter().filter(|((instance, _), _)| *instance == EVPN) {
            assert_eq!(attrs.next_hop.map(|n| n.addr()), Some(vtep), "{key}");
            let octets = attrs.pmsi_tunnel.as_ref().map(|p| p.identifier.len());
            assert!(octets.is_none_or(|n| n == if ipv6 { 16 } else { 4 }), "{key}");
            // An identifier is no address of the underlay: distinguishers are made of it in both families.
            assert!(key.to_string().contains("[10.255.0.1:"), "{key}");
        }
    }
}

/// RFC 9047 section 2.
#[test]
fn flags_of_addresses_arrive_where_they_mean_something() {
    let (_, imported) = imported(false);
    let told = |ip: &str| imported.claims.addresses[&(vni(), ip.parse().unwrap())].flags;
    assert_eq!(told("fd00:10::9"), Some(flags(true, false)));
    assert_eq!(told("10.10.0.9"), None, "of IPv4 there is nothing to say");
    assert_eq!(told("fd00:10::8"), None, "it was heard, but has not said");
    let pinned = NeighbourFlags { router: true, is_override: true, immutable: true };
    assert_eq!(told("fd00:10::a:1"), Some(pinned), "the gateway's own probe address");
    assert_eq!(told("10.10.0.129"), Some(NeighbourFlags { immutable: true, ..NeighbourFlags::default() }));
}

#[test]
fn what_comes_from_nobody_we_know_is_not_believed() {
    let text = whole(true);
    let (a, b) =
        (seen_from("gw-a", &text), seen_from("gw-b", &text.replace("2001:db8:a::1", "2001:db8:c::1")));
    let originated = originate(&a, &Fabric::new(&a).unwrap(), &learnt());
    let imported = import(&Fabric::new(&b).unwrap(), &arrived(&originated));
    assert_eq!(imported, Imported::default());
}

/// Stations, addresses and prefixes come, move and go at random: whatever is told of them one by one, the speaker ends
/// with what it would be told whole. The document's own stations are among those that are learnt.
#[test]
fn told_by_changes_is_told_whole() {
    let desired = seen_from("gw-a", &whole(false));
    let fabric = Fabric::new(&desired).unwrap();
    let mut state = 7_u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let port = watari_dataplane::PortKey::vlan(7, 100);
    let (mut hosts, mut told) = (Hosts::new(fabric.vtep, Default::default()), Told::default());
    told.renew(&desired, &fabric, &Learnt::default());
    let mut speaker: Originated = told.all().clone();
    let (mut seen, mut campus, kept, imported) =
        (Seen::default(), std::collections::BTreeSet::new(), Kept::default(), Imported::default());
    let l3vni = *fabric.tenants.keys().next().unwrap();
    for second in 0..2_000 {
        let (mut dirty, mut prefixes) = (Dirty::default(), std::collections::BTreeSet::new());
        let mac = |n| if n == 0 { fabric.router_mac } else { MacAddr([2, 0, 0, 0, 0, n as u8]) };
        let (station, address) =
            ((vni(), mac(random(4))), (vni(), IpAddr::from([10, 10, 0, random(4) as u8])));
        let prefix = (l3vni, format!("10.{}.0.0/16", random(12)).parse().unwrap());
        let flags = flags(random(2) == 0, false);
        match random(6) {
            0 => drop(seen.stations.remove(&station)),
            1 => drop(seen.addresses.remove(&address)),
            2 => drop(seen.stations.insert(station, port)),
            3 => drop(seen.addresses.insert(address, Neighbour { mac: station.1, port, flags })),
            4 => drop(campus.insert(prefix)),
            _ => drop(campus.remove(&prefix)),
        }
        dirty.stations.insert(station);
        dirty.addresses.insert(address);
        prefixes.insert(prefix);
        let now = watari_bgp::Instant::from_millis(second * 200_000);
        let change = hosts.look(now, &seen, &Claims::default(), &mut dirty);
        let wanted = Wanted { imported: &imported, hosts: &hosts, campus: &campus, kept: &kept };
        for change in told.change(&fabric, &change, &prefixes, &wanted) {
            match change {
                LocalChange::Originate(instance, nlri, attrs) => {
                    speaker.insert((instance, nlri.key.clone()), (nlri, *attrs));
                }
                LocalChange::Withdraw(instance, key) => {
                    assert!(speaker.remove(&(instance, key)).is_some(), "it was never told");
                }
            }
        }
        let learnt = Learnt {
            stations: hosts.held().clone(),
            addresses: hosts.bound().clone(),
            campus: campus.clone(),
            ..Learnt::default()
        };
        assert_eq!(speaker, originate(&desired, &fabric, &learnt), "second {second}");
        assert_eq!(&speaker, told.all());
    }
}
