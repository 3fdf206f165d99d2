//! A trace enters the real pipeline, says why, and changes nothing; a watch sees frames, drops and copies. Needs root.

mod rig;

use rig::{frames::*, *};
use watari_dataplane::{explain::*, *};

/// Every map that a packet could change, as text.
fn everything(rig: &Rig) -> String {
    let d = &rig.dataplane;
    format!(
        "{} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {}",
        rig.dump(),
        d.remotes.entries().unwrap(),
        d.wires.entries().unwrap(),
        d.guard_macs.entries().unwrap(),
        d.guard_ips.entries().unwrap(),
        d.port_macs.entries().unwrap(),
        d.port_buckets.entries().unwrap(),
        d.watch().unwrap(),
        taken(rig).len(),
    )
}

fn taken(rig: &Rig) -> Vec<Sample> {
    let mut samples = rig.dataplane.samples().unwrap();
    std::iter::from_fn(|| samples.take()).collect()
}

fn frames() -> Vec<(Hook, PortKey, Vec<u8>)> {
    let host = (HOST_A, "10.0.0.10");
    let to = |dst, address| udp((dst, HOST_A), ("10.0.0.10", address), 64, 100);
    vec![
        (Hook::Trunk, A, arp_request(host, "10.0.0.18")),
        (Hook::Trunk, A, arp_request(host, "10.0.0.200")),
        (Hook::Trunk, A, arp_request((HOST_A, "10.0.0.1"), "10.0.0.18")),
        (Hook::Trunk, A, solicit((HOST_A, "fd00::10"), "fd00::18")),
        (Hook::Trunk, A, to(HOST_R, "10.0.0.18")),
        (Hook::Trunk, A, to([2, 0, 0, 0, 0, 0x99], "10.0.0.99")),
        (Hook::Trunk, A, to(BROADCAST, "255.255.255.255")),
        (Hook::Trunk, A, to(ANYCAST, "10.9.1.1")),
        (Hook::Trunk, A, to(ANYCAST, "10.0.1.55")),
        (Hook::Trunk, A, to(ANYCAST, "8.8.8.8")),
        (Hook::Trunk, A, to(ANYCAST, "10.0.0.77")),
        (Hook::Trunk, PortKey::vlan(100, 99), to(HOST_B, "10.0.0.11")),
        (Hook::Trunk, WIRE, arp_request((HOST_C, "198.51.100.2"), "198.51.100.1")),
        (Hook::Trunk, B, udp((HOST_A, ANYCAST), ("10.0.0.11", "10.0.0.10"), 64, 100)),
        (Hook::Node, NODES, udp((ANYCAST, NODE_MAC), ("10.0.0.77", "10.0.0.10"), 64, 100)),
        (Hook::Core, CORE, udp((ANYCAST, CORE_MAC), ("8.8.8.8", "10.0.0.10"), 64, 100)),
    ]
}

#[test]
fn root_a_trace_changes_no_map_whatever_the_packet() {
    let rig = Rig::new("trc");
    rig.heard(B, L2, HOST_B, "10.0.0.11");
    let mut guarded = Port::segment(1, L2);
    guarded.guard = Port::GUARD_LIMIT | Port::GUARD_STORM | Port::GUARD_IP;
    (guarded.macs_max, guarded.storm_rate, guarded.storm_burst) = (4, 10, 10);
    for guard in [false, true] {
        if guard {
            rig.dataplane.ports.upsert(&A, &guarded).unwrap();
        }
        // Entries that a packet would renew, refill or count up.
        for (hook, port, frame) in frames() {
            rig.run(&Packet::from_port(hook, port, &frame));
        }
        let old = MacLocal { port: A, last_seen_ns: 1 };
        rig.dataplane.mac_local.upsert(&MacKey::new(L2, HOST_A), &old).unwrap();
        let watch = Watch {
            flags: Watch::DROPS | Watch::CAPTURE,
            snap_bytes: 200,
            until_ns: u64::MAX,
            rate: 1000,
            ..Watch::default()
        };
        rig.dataplane.set_watch(&watch).unwrap();
        // What the packets themselves have told.
        rig.drain_events();
        taken(&rig);
        let before = everything(&rig);
        for (hook, port, frame) in frames() {
            let outcome = rig.dataplane.trace(&Packet::from_port(hook, port, &frame)).unwrap();
            assert_ne!(outcome.verdict, Verdict::None);
            assert!(!outcome.steps.is_empty(), "{hook:?} {port:?}");
        }
        for vni in [L2, L3, 7777] {
            let frame = udp((HOST_B, HOST_R), ("10.0.0.18", "10.0.0.11"), 64, 100);
            let packet = Packet::from_vtep(VXLAN.ifindex, vni, FAR, &frame);
            assert!(!rig.dataplane.trace(&packet).unwrap().steps.is_empty());
        }
        assert_eq!(everything(&rig), before);
    }
}

#[test]
fn root_the_steps_name_the_table_entries() {
    let rig = Rig::new("trs");
    let said = |port, frame: &[u8]| {
        let outcome = rig.dataplane.trace(&Packet::from_port(Hook::Trunk, port, frame)).unwrap();
        explain(&outcome.steps, &outcome.verdict, &Numbers)
    };
    let frame = udp((HOST_R, HOST_A), ("10.0.0.10", "10.0.0.18"), 64, 100);
    assert_eq!(
        said(A, &frame),
        [
            "ports: device 100 VLAN 10 is an attachment of VNI 1000",
            "mac_local: the source 02:00:00:00:00:0a would be learnt here",
            "mac_remote: 02:00:00:00:00:12 is behind VTEP 10.255.0.2, sequence 0",
            "the VXLAN device writes the outer header to VTEP 10.255.0.2, VNI 1000",
            "goes to VTEP 10.255.0.2 with VNI 1000",
        ]
    );
    let answered = said(A, &arp_request((HOST_A, "10.0.0.10"), "10.0.0.18"));
    assert!(answered.contains(&"nb_remote: 10.0.0.18 is at 02:00:00:00:00:12".to_owned()), "{answered:#?}");
    assert_eq!(answered.last().unwrap(), "goes out by device 100 VLAN 10");
    let flooded = said(A, &udp((BROADCAST, HOST_A), ("10.0.0.10", "10.0.0.255"), 64, 10));
    assert!(
        flooded.contains(&"flood_ports: a copy goes out by device 101 VLAN 20".to_owned()),
        "{flooded:#?}"
    );
    assert!(flooded.contains(&"flood_vteps: a copy goes to VTEP 10.255.0.2".to_owned()), "{flooded:#?}");
    let routed = said(A, &udp((ANYCAST, HOST_A), ("10.0.0.10", "10.9.1.1"), 64, 10));
    assert!(routed.contains(&"one hop less: 63 are left".to_owned()), "{routed:#?}");
    let unknown = said(A, &udp(([2, 0, 0, 0, 0, 0x99], HOST_A), ("10.0.0.10", "10.0.0.9"), 64, 10));
    assert_eq!(unknown.last().unwrap(), "dropped: unknown-unicast");
}

#[test]
fn root_a_watch_sees_what_it_asks_for_and_ends_by_itself() {
    let rig = Rig::new("trw");
    let run = |frame: &[u8]| drop(rig.run(&Packet::from_port(Hook::Trunk, A, frame)));
    let good = udp((HOST_R, HOST_A), ("10.0.0.10", "10.0.0.18"), 64, 100);
    let lost = udp(([2, 0, 0, 0, 0, 0x99], HOST_A), ("10.0.0.10", "10.0.0.9"), 64, 1000);
    run(&lost);
    assert!(taken(&rig).is_empty(), "nobody looks");
    let until_ns = boot_ns() + 600_000_000_000;
    let mut watch = Watch { flags: Watch::DROPS, snap_bytes: 64, until_ns, rate: 100, ..Watch::default() };
    rig.dataplane.set_watch(&watch).unwrap();
    run(&good);
    run(&lost);
    let [drop] = taken(&rig).try_into().unwrap();
    assert_eq!((drop.head.direction, drop.head.reason), (SampleHead::DROP, DropReason::UnknownUnicast as u8));
    assert_eq!((drop.head.port, drop.head.vni, drop.head.len), (A, L2, lost.len() as u32));
    assert_eq!(drop.frame, lost[..64]);
    watch.flags = Watch::CAPTURE;
    watch.port = A;
    rig.dataplane.set_watch(&watch).unwrap();
    run(&good);
    assert_eq!(taken(&rig).iter().map(|s| s.head.direction).collect::<Vec<_>>(), [SampleHead::IN]);
    watch.port = PortKey::default();
    rig.dataplane.set_watch(&watch).unwrap();
    run(&good);
    let [came, went] = taken(&rig).try_into().unwrap();
    assert_eq!((came.head.direction, went.head.direction), (SampleHead::IN, SampleHead::OUT));
    assert_eq!((went.head.vtep, went.head.port), (FAR, VXLAN));
    run(&udp((BROADCAST, HOST_A), ("10.0.0.10", "10.0.0.255"), 64, 10));
    let seen: Vec<_> = taken(&rig).iter().map(|s| (s.head.direction, s.head.port)).collect();
    assert_eq!(seen, [(SampleHead::IN, A), (SampleHead::OUT, B), (SampleHead::OUT, VXLAN)]);
    watch.until_ns = boot_ns();
    rig.dataplane.set_watch(&watch).unwrap();
    run(&good);
    assert!(taken(&rig).is_empty(), "its time is over");
}

#[test]
fn root_more_than_the_rate_is_counted_as_lost() {
    let rig = Rig::new("trr");
    let watch = Watch {
        flags: Watch::FLOWS,
        sample_every: 2,
        snap_bytes: 64,
        until_ns: u64::MAX,
        rate: 3,
        ..Watch::default()
    };
    rig.dataplane.set_watch(&watch).unwrap();
    let frame = udp((HOST_R, HOST_A), ("10.0.0.10", "10.0.0.18"), 64, 100);
    let before = rig.counters();
    for _ in 0..20 {
        rig.dataplane.run(&Packet::from_port(Hook::Trunk, A, &frame)).unwrap();
    }
    let now = rig.counters();
    let change = |name: &str| now[name] - before[name];
    let (seen, lost) = (change("sampled"), change("sample-lost"));
    assert_eq!(seen as usize, taken(&rig).len());
    // Each CPU that ran some of them counts for itself.
    assert!(seen >= 3 && lost >= 1 && (8..=10).contains(&(seen + lost)), "{seen} {lost}");
}
