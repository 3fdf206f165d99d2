//! Where ports count: a port keeps its slot and its figures for as long as it is there, and a slot that was another's
//! begins at zero. Needs root.

mod rig;

use std::collections::{BTreeMap, BTreeSet};

use aya::maps::{Array, HashMap, MapData};
use rig::{frames::*, *};
use watari_dataplane::{abi::limits::PORTS_MAX, *};

/// A broadcast of `port`: it is learnt and copied.
fn broadcast(d: &Dataplane, port: PortKey) {
    let frame = ethernet(BROADCAST, HOST_A, 0x9000, &[0; 50]);
    d.run(&Packet::from_port(Hook::Trunk, port, &frame)).unwrap();
}

fn received(d: &Dataplane, port: PortKey) -> u64 {
    d.stats.port(&port).unwrap().rx_packets
}

/// The map `ports` as the programs see it.
fn pinned_ports(rig: &Rig) -> HashMap<MapData, PortKey, Port> {
    let data = MapData::from_pin(rig.folder.join("wtm-ports")).unwrap();
    HashMap::try_from(aya::maps::Map::HashMap(data)).unwrap()
}

fn pinned_config(rig: &Rig) -> Array<MapData, Config> {
    let data = MapData::from_pin(rig.folder.join("wtm-config")).unwrap();
    Array::try_from(aya::maps::Map::Array(data)).unwrap()
}

fn slots(rig: &Rig) -> BTreeMap<PortKey, u32> {
    let ports = pinned_ports(rig);
    let all: BTreeMap<_, _> = ports.iter().map(Result::unwrap).map(|(key, port)| (key, port.slot)).collect();
    let mut distinct: BTreeSet<u32> = all.values().copied().collect();
    assert!(
        distinct.insert(pinned_config(rig).get(&0, 0).unwrap().vxlan_slot),
        "the VXLAN device's is a port's"
    );
    assert!(distinct.len() == all.len() + 1 && !distinct.contains(&0), "{all:?}");
    all
}

#[test]
fn root_a_port_counts_on_whatever_is_written_and_whoever_opens() {
    let rig = Rig::new("slon");
    let d = &rig.dataplane;
    let given = slots(&rig);
    for _ in 0..3 {
        broadcast(d, A);
    }
    let before = d.stats.ports().unwrap();
    assert_eq!((before[&A].rx_packets, before[&B].tx_packets, before[&VXLAN].tx_packets), (3, 3, 3));
    // Whatever the plan says of slots does not matter.
    let mut port = Port { flags: Port::NEAR, slot: 7777, ..Port::segment(1, L2) };
    d.ports.upsert(&A, &port).unwrap();
    d.set_config(&Config { dscp: 3, vxlan_slot: 7777, ..d.config().unwrap() }).unwrap();
    port.slot = 0;
    assert_eq!((d.ports.get(&A).unwrap(), d.config().unwrap().vxlan_slot), (Some(port), 0));
    assert_eq!(d.stats.ports().unwrap(), before);
    assert_eq!(slots(&rig), given);

    let adopted = Dataplane::open(&rig.folder).unwrap();
    assert_eq!(*adopted.adoption(), Adoption::Adopted);
    std::fs::remove_file(rig.folder.join("wtp-trunk")).unwrap();
    let replaced = Dataplane::open(&rig.folder).unwrap();
    assert_eq!(*replaced.adoption(), Adoption::Replaced);
    for again in [adopted, replaced] {
        assert_eq!(again.stats.ports().unwrap(), before);
        assert_eq!(slots(&rig), given);
        again.ports.upsert(&A, &port).unwrap();
        assert_eq!(again.stats.ports().unwrap(), before);
        // One that is added gets none that is another's.
        let key = PortKey::vlan(103, 1);
        again.ports.upsert(&key, &Port::segment(1, L2)).unwrap();
        slots(&rig);
        assert!(again.ports.remove(&key).unwrap());
    }
    broadcast(&Dataplane::open(&rig.folder).unwrap(), A);
    assert_eq!(received(d, A), 4);
}

#[test]
fn root_a_port_that_comes_back_counts_from_zero_and_no_flow_knows_its_former_slot() {
    let rig = Rig::new("slback");
    let d = &rig.dataplane;
    rig.heard(A, L2, HOST_A, "10.0.0.10");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let frame = udp((HOST_B, HOST_A), ("10.0.0.10", "10.0.0.11"), 64, 100);
    let packet = Packet::from_port(Hook::Trunk, A, &frame);
    let known = || rig.counters()["flow-known"];
    let sent = || d.stats.port(&B).unwrap().tx_packets;
    while known() == 0 {
        d.run_by_flow(&packet).unwrap();
    }
    let (from_a, to_b) = (received(d, A), sent());
    assert_eq!(from_a, to_b);
    assert!(d.ports.remove(&B).unwrap() && !d.ports.remove(&B).unwrap());
    assert_eq!(d.stats.port(&B).unwrap(), PortStats::default());
    assert!(!d.stats.ports().unwrap().contains_key(&B));
    d.ports.upsert(&B, &Port::segment(1, L2)).unwrap();
    assert_eq!((sent(), received(d, A)), (0, from_a));
    let before = known();
    let mut rounds = 0;
    while known() == before {
        d.run_by_flow(&packet).unwrap();
        rounds += 1;
    }
    assert_eq!((sent(), received(d, A)), (rounds, from_a + rounds));
    // Another VXLAN device counts from zero; the former one's figures are nobody's.
    broadcast(d, A);
    assert_eq!(d.stats.port(&VXLAN).unwrap().tx_packets, 1);
    let other = PortKey::untagged(9001);
    d.set_config(&Config { vxlan_ifindex: other.ifindex, ..d.config().unwrap() }).unwrap();
    assert_eq!([VXLAN, other].map(|key| d.stats.port(&key).unwrap()), [PortStats::default(); 2]);
    slots(&rig);
}

#[test]
fn root_with_every_slot_taken_the_next_holder_of_one_starts_at_zero() {
    let rig = Rig::new("slfull");
    let d = &rig.dataplane;
    let key = |n: u32| PortKey::vlan(200 + n / 4000, (n % 4000 + 1) as u16);
    let room = PORTS_MAX - d.ports.entries().unwrap().len() as u32;
    for n in 0..room {
        d.ports.upsert(&key(n), &Port::segment(1, L2)).unwrap();
    }
    let full = d.ports.upsert(&key(room), &Port::segment(1, L2)).unwrap_err();
    assert!(matches!(full, Error::TableFull { table: "ports", .. }), "{full:?}");
    slots(&rig);
    broadcast(d, A);
    let mut used = BTreeSet::new();
    for n in 0..6 {
        broadcast(d, key(n));
        assert_eq!(received(d, key(n)), 1);
        let former = slots(&rig)[&key(n)];
        assert!(d.ports.remove(&key(n)).unwrap());
        d.ports.upsert(&key(room + n), &Port::segment(1, L2)).unwrap();
        assert_eq!(d.stats.port(&key(room + n)).unwrap(), PortStats::default(), "round {n}");
        used.insert(former);
    }
    let now: BTreeSet<u32> = slots(&rig).into_values().collect();
    assert!(used.intersection(&now).count() >= 4, "slots were used again: {used:?}");
    assert_eq!(received(d, A), 1);
    // The one to spare is for another VXLAN device, also of a full gateway.
    d.set_config(&Config { vxlan_ifindex: 9001, ..d.config().unwrap() }).unwrap();
    slots(&rig);
}

#[test]
fn root_what_was_counted_by_key_and_in_a_slot_is_one_figure() {
    let rig = Rig::new("slkey");
    // As an older form of the tables leaves them: no slots; besides, two ports with one.
    let mut ports = pinned_ports(&rig);
    for (key, slot) in [(A, 0), (B, 0), (C, 3), (OTHER, 3)] {
        ports.insert(key, Port { slot, ..ports.get(&key, 0).unwrap() }, 0).unwrap();
    }
    let mut config = pinned_config(&rig);
    config.set(0, Config { vxlan_slot: 0, ..config.get(&0, 0).unwrap() }, 0).unwrap();
    for _ in 0..2 {
        broadcast(&rig.dataplane, A);
    }
    let before = rig.dataplane.stats.ports().unwrap();
    let figures = |ports: &BTreeMap<PortKey, PortStats>| {
        [ports[&A].rx_packets, ports[&B].tx_packets, ports[&VXLAN].tx_packets]
    };
    assert_eq!(figures(&before), [2; 3]);

    let opened = Dataplane::open(&rig.folder).unwrap();
    slots(&rig);
    let at = |key| opened.stats.port(&key).unwrap();
    assert_eq!([A, B, VXLAN].map(at), [A, B, VXLAN].map(|key| before[&key]));
    broadcast(&opened, A);
    let after = opened.stats.ports().unwrap();
    assert_eq!(figures(&after), [3; 3]);
    assert_eq!(rig.dataplane.stats.ports().unwrap(), after);
    assert!(opened.stats.forget_port(&A).unwrap());
    assert_eq!((at(A), at(B)), (PortStats::default(), after[&B]));
}
