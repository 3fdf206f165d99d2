//! Programs are replaced and tables carried over while packets flow. Needs root, `ip`, `iperf3`, `ethtool`, `gzip`.

mod rig;

use std::process::Stdio;

use rig::{
    first_release::FirstRelease,
    ip,
    netns::*,
    sequence::Sequence,
    sites::{Bench, Gateway},
    *,
};
use watari_dataplane::{abi::layout, *};

/// This library's programs, as another build would have them: whatever follows an ELF file is not read.
fn other_build(number: u8) -> Vec<u8> {
    [Dataplane::object(), &[number]].concat()
}

/// Pins of a folder, sorted.
fn pins(folder: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

fn ready(name: &str) -> Bench {
    let bench = Bench::new(name);
    bench.exchange();
    wait_until("both ways", || bench.host_a.try_run("ping -c 1 -W 1 10.0.0.11").0);
    bench
}

fn drops(bench: &Bench) -> Vec<(String, i128)> {
    let counters = [bench.a.rig.counters(), bench.b.rig.counters()].into_iter().flatten();
    counters.filter(|(name, _)| name.starts_with("drop ") && !name.contains("link-local")).collect()
}

#[test]
fn root_no_datagram_is_lost_or_doubled_while_both_gateways_replace_their_programs() {
    let bench = ready("upudp");
    let before = drops(&bench);
    let stream = Sequence::start(&bench.host_a, &bench.host_b, "10.0.0.11", 50_000);
    wait_until("a flow", || stream.arrived() > 5_000);
    for round in 0..24 {
        let gateway = if round % 2 == 0 { &bench.a } else { &bench.b };
        let again = Dataplane::open_with(&gateway.rig.folder, &other_build(round), None).unwrap();
        assert_eq!(*again.adoption(), Adoption::Replaced, "round {round}");
        let seen = stream.arrived();
        wait_until("it goes on", || stream.arrived() > seen + 1_000);
    }
    let arrivals = stream.stop();
    println!("24 replacements: {arrivals:?}, {:.0}/s", arrivals.sent as f64 / arrivals.seconds);
    assert_eq!((arrivals.lost, arrivals.doubled), (0, 0), "{arrivals:?}");
    assert_eq!(drops(&bench), before);
}

#[test]
fn root_tcp_at_full_load_loses_no_segment_while_programs_are_replaced() {
    let bench = ready("uptcp");
    // Each frame is one packet: how many an aggregate stands for is an estimate once its header was taken off.
    for host in [&bench.host_a, &bench.host_b] {
        host.run("ethtool -K eth0 tso off gso off");
    }
    let mut listener = bench.host_b.command("iperf3 -s -p 5203").stdout(Stdio::null()).spawn().unwrap();
    let before = drops(&bench);
    // What one gateway sent into the tunnel, either way, and what the other took out.
    let crossed = || {
        let packets =
            |gateway: &Gateway, what| gateway.counter(&format!("{} {what}", gateway.index("wtvx4789")));
        let way = |from, to| (packets(from, "tx"), packets(to, "rx"));
        (way(&bench.a, &bench.b), way(&bench.b, &bench.a))
    };
    let start = crossed();
    let mut result = String::new();
    let mut rounds = 0;
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut text = String::new();
            wait_until("iperf3", || {
                let client = "timeout 40 iperf3 -c 10.0.0.11 -p 5203 -t 20 -J --connect-timeout 1000";
                text = bench.host_a.try_run(client).1;
                text.contains("\"sum_received\"")
            });
            text
        });
        while !client.is_finished() {
            let gateway = if rounds % 2 == 0 { &bench.a } else { &bench.b };
            Dataplane::open_with(&gateway.rig.folder, &other_build(rounds), None).unwrap();
            rounds += 1;
        }
        result = client.join().unwrap();
    });
    listener.kill().unwrap();
    listener.wait().unwrap();
    let number = |part: &str, name: &str| {
        let text = result.split(part).nth(1).unwrap().split(&format!("\"{name}\":")).nth(1).unwrap();
        text.split([',', '}']).next().unwrap().trim().parse::<f64>().unwrap()
    };
    let (rate, again) =
        (number("\"sum_received\"", "bits_per_second") / 1e6, number("\"sum_sent\"", "retransmits"));
    // The last packets of the connection may still be on the wire when its client has ended.
    let mut end = start;
    wait_until("all that was sent into the tunnel to be taken out at the far end", || {
        end = crossed();
        end.0.0 - start.0.0 == end.0.1 - start.0.1 && end.1.0 - start.1.0 == end.1.1 - start.1.1
    });
    println!("{rounds} replacements: {rate:.0} Mbit/s, {again} retransmits, {start:?} -> {end:?}");
    assert!(rounds >= 2, "{rounds}");
    assert_eq!(drops(&bench), before);
}

#[test]
fn root_programs_that_do_not_load_leave_the_old_ones_in_place() {
    let bench = ready("upbad");
    let folder = &bench.a.rig.folder;
    let before = (pins(folder), bench.a.space.enter(|| bench.a.rig.dataplane.attachments().unwrap()));
    let stream = Sequence::start(&bench.host_a, &bench.host_b, "10.0.0.11", 5_000);
    let cut = &Dataplane::object()[..Dataplane::object().len() / 2];
    assert!(matches!(Dataplane::open_with(folder, cut, None), Err(Error::Load(_))));
    // Programs that the verifier refuses: every call of a helper asks for one that does not exist.
    let refused = without_helpers(Dataplane::object());
    let error = Dataplane::open_with(folder, &refused, None).unwrap_err();
    assert!(matches!(error, Error::Program { .. }), "{error:?}");
    let after = (pins(folder), bench.a.space.enter(|| bench.a.rig.dataplane.attachments().unwrap()));
    assert_eq!(after, before);
    let seen = stream.arrived();
    wait_until("it goes on", || stream.arrived() > seen + 500);
    let arrivals = stream.stop();
    assert_eq!((arrivals.lost, arrivals.doubled), (0, 0), "{arrivals:?}");
    assert_eq!(*Dataplane::open(folder).unwrap().adoption(), Adoption::Adopted);
}

/// Every `call` of a helper (opcode 0x85, source 0) gets a number that no kernel has.
fn without_helpers(object: &[u8]) -> Vec<u8> {
    let mut bad = object.to_vec();
    for at in (0..bad.len() - 8).step_by(8) {
        let helper = u32::from_le_bytes(bad[at + 4..at + 8].try_into().unwrap());
        if bad[at..at + 4] == [0x85, 0, 0, 0] && (1..250).contains(&helper) {
            bad[at + 4..at + 8].copy_from_slice(&0x7fff_u32.to_le_bytes());
        }
    }
    bad
}

#[test]
fn root_a_replacement_that_is_killed_anywhere_is_undone_or_finished_by_the_next() {
    let bench = ready("upkill");
    let folder = &bench.a.rig.folder;
    let wanted = pins(folder);
    let attached = bench.a.space.enter(|| bench.a.rig.dataplane.attachments().unwrap());
    let tables = bench.a.rig.dataplane.ports.entries().unwrap();
    let stream = Sequence::start(&bench.host_a, &bench.host_b, "10.0.0.11", 5_000);
    for (round, stop) in (0..).zip(Stop::ALL) {
        let killed = Dataplane::open_with(folder, &other_build(round), Some(stop));
        assert!(matches!(killed, Err(Error::Stopped(at)) if at == stop), "{stop:?}: {killed:?}");
        let seen = stream.arrived();
        wait_until("it goes on", || stream.arrived() > seen + 100);
        let again = Dataplane::open_with(folder, &other_build(round), None).unwrap();
        let finished = stop >= Stop::Decided;
        let expected = if finished { Adoption::Adopted } else { Adoption::Replaced };
        assert_eq!(*again.adoption(), expected, "{stop:?}");
        assert_eq!(pins(folder), wanted, "{stop:?}");
        assert_eq!(again.ports.entries().unwrap(), tables, "{stop:?}");
        assert_eq!(bench.a.space.enter(|| again.attachments().unwrap()), attached, "{stop:?}");
    }
    let arrivals = stream.stop();
    assert_eq!((arrivals.lost, arrivals.doubled), (0, 0), "{arrivals:?}");
}

const OLD_ROUTE: [u8; 36] = {
    let mut route = [0; 36];
    (route[0], route[1], route[7]) = (RouteKind::Remote as u8, RouteOrigin::Evpn as u8, 9);
    (route[8], route[9]) = ((L3 & 0xff) as u8, (L3 >> 8) as u8);
    (route[12], route[13], route[15]) = (10, 255, 2);
    route
};

/// The first release on one gateway with two hosts, and something in each table whose form has changed.
fn first_release(folder: &std::path::Path, gateway: &Netns, ports: [PortKey; 2]) -> FirstRelease {
    let old = FirstRelease::load(folder);
    let vtep = |last: u8| [10, 255, 0, last];
    let config = [&77_u32.to_ne_bytes()[..], &4789_u16.to_ne_bytes(), &[0, 0], &vtep(1), &ANYCAST, &ROUTER];
    old.put_config(config.concat().try_into().unwrap());
    old.put("segments", L2, Segment::l2(1, 1000, 100));
    for port in ports {
        let mut value = [0; 48];
        value[0] = PortKind::Segment as u8;
        value[4..8].copy_from_slice(&L2.to_ne_bytes());
        value[8] = 1;
        old.put("ports", port, value);
    }
    old.put("flood_ports", L2, FloodPorts::new(&ports).unwrap());
    let tunnel: [u8; 8] = [&9_u32.to_ne_bytes()[..], &vtep(2)].concat().try_into().unwrap();
    old.put("vteps", tunnel, 1_u32);
    let remote: [u8; 8] = [&vtep(2)[..], &1_u32.to_ne_bytes()].concat().try_into().unwrap();
    old.put("mac_remote", MacKey::new(L2, HOST_R), remote);
    old.put("nb_remote", NeighKey::new(L2, ip("10.0.0.18")), NeighRemote { mac: HOST_R, flags: 0 });
    old.put_route([10, 9, 0, 0], 16, OLD_ROUTE);
    let mut flood = [0; 516];
    flood[0] = 2;
    flood[4..8].copy_from_slice(&vtep(2));
    flood[8..12].copy_from_slice(&vtep(3));
    old.put("flood_vteps", 4242_u32, flood);
    gateway.enter(|| {
        ["ta", "tb"].iter().zip(ports).for_each(|(name, port)| old.attach(name, port.ifindex, "trunk"))
    });
    old
}

#[test]
fn root_the_first_release_is_upgraded_under_traffic_with_all_that_it_knew() {
    let folder = std::path::PathBuf::from(format!("/sys/fs/bpf/wtt-upfirst-{}", std::process::id()));
    let _cleanup = Cleanup(folder.clone());
    let [gateway, a, b] = ["upfg", "upfa", "upfb"].map(Netns::new);
    veth((&a, "eth0"), (&gateway, "ta"));
    veth((&b, "eth0"), (&gateway, "tb"));
    for (host, vid, last) in [(&a, 10, 10), (&b, 20, 11)] {
        host.enter(|| attach_host_vlan("eth0", vid)).unwrap();
        host.ip(&format!("addr add 10.0.0.{last}/24 dev eth0"));
    }
    let ports = [PortKey::vlan(gateway.index_of("ta"), 10), PortKey::vlan(gateway.index_of("tb"), 20)];
    let old = first_release(&folder, &gateway, ports);
    wait_until("first ping", || a.try_run("ping -c 1 -W 1 10.0.0.11").0);
    let learnt = old.counted(Counter::MacLearnt as u32);
    assert!(learnt >= 2);

    let stream = Sequence::start(&a, &b, "10.0.0.11", 20_000);
    wait_until("a flow", || stream.arrived() > 2_000);
    let d = Dataplane::open(&folder).unwrap();
    assert_eq!(*d.adoption(), Adoption::Migrated(Losses::default()));
    let seen = stream.arrived();
    wait_until("it goes on", || stream.arrived() > seen + 2_000);
    let arrivals = stream.stop();
    println!("the first release is upgraded: {arrivals:?}");
    assert_eq!((arrivals.lost, arrivals.doubled), (0, 0), "{arrivals:?}");

    let far = [2, 3].map(|last| v4([10, 255, 0, last]));
    let config = Config {
        vxlan_ifindex: 77,
        vxlan_port: 4789,
        local_vtep: v4([10, 255, 0, 1]),
        ..d.config().unwrap()
    };
    assert_eq!(d.config().unwrap(), Config { flags: 0, anycast_mac: ANYCAST, router_mac: ROUTER, ..config });
    let wanted: std::collections::BTreeMap<_, _> = ports.map(|port| (port, Port::segment(1, L2))).into();
    assert_eq!(d.ports.entries().unwrap(), wanted);
    assert_eq!(d.segments.get(&L2).unwrap(), Some(Segment::l2(1, 1000, 100)));
    assert_eq!(d.vteps.get(&TunnelKey { ifindex: 9, vtep: far[0] }).unwrap(), Some(1));
    let remote = MacRemote { vtep: far[0], flags: MacRemote::STICKY, sequence: 0 };
    assert_eq!(d.mac_remote.get(&MacKey::new(L2, HOST_R)).unwrap(), Some(remote));
    assert_eq!(d.nb_remote.entries().unwrap().len(), 1);
    let route = Route::remote(RouteOrigin::Evpn, L3, far[0], [0, 0, 0, 0, 0, 9]);
    assert_eq!(d.routes.lookup(1, ip("10.9.1.1")).unwrap(), Some(route));
    assert_eq!(d.flood_vteps.get(&4242).unwrap(), FloodVteps::new(&far));
    let key = MacKey::new(L2, a.mac_of("eth0"));
    assert_eq!(d.mac_local.get(&key).unwrap().map(|local| local.port), Some(ports[0]));
    let neighbour = d.nb_local.get(&NeighKey::new(L2, ip("10.0.0.10"))).unwrap().unwrap();
    assert_eq!((neighbour.mac, neighbour.port), (key.mac, ports[0]));
    assert!(d.stats.counters().unwrap()[&Counter::MacLearnt] >= learnt);
    // By key at first, then in a slot.
    let stats = d.stats.port(&ports[1]).unwrap();
    assert!(stats.tx_packets >= arrivals.sent, "{stats:?} after {arrivals:?}");
    assert_eq!(*Dataplane::open(&folder).unwrap().adoption(), Adoption::Adopted);
}

struct Cleanup(std::path::PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        for entry in std::fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn root_the_kernel_has_every_map_in_the_shape_that_the_table_of_layouts_says() {
    let rig = Rig::bare("upshape");
    for map in layout::MAPS {
        let data = aya::maps::MapData::from_pin(rig.folder.join(format!("wtm-{}", map.name))).unwrap();
        let info = data.info().unwrap();
        let seen = (info.map_type().unwrap() as u32, info.key_size(), info.value_size(), info.max_entries());
        assert_eq!(seen, (map.kind as u32, map.key, map.value, map.limit), "{}", map.name);
    }
    let maps = pins(&rig.folder).iter().filter(|name| name.starts_with("wtm-")).count();
    assert_eq!(maps, layout::MAPS.len());
}

#[test]
fn root_a_full_table_says_its_name_and_limit_and_keeps_what_it_has() {
    let rig = Rig::bare("upfull");
    let d = &rig.dataplane;
    for number in 0..d.tenants.limit() {
        d.tenants.upsert(&number, &Tenant::default()).unwrap();
    }
    let error = d.tenants.upsert(&99_999, &Tenant::default()).unwrap_err();
    assert!(matches!(error, Error::TableFull { table: "tenants", limit: 1024 }), "{error:?}");
    d.tenants.upsert(&5, &Tenant { l3vni: 7, ..Tenant::default() }).unwrap();
    // One that the programs fill: what does not fit is counted.
    for number in 0..d.buckets.limit() {
        d.buckets.upsert(&(100_000 + number), &Bucket::default()).unwrap();
    }
    d.ports.upsert(&A, &Port::segment(1, L2)).unwrap();
    d.segments.upsert(&L2, &Segment::l2(1, 1000, 100)).unwrap();
    d.flood_ports.upsert(&L2, &FloodPorts::new(&[B]).unwrap()).unwrap();
    let frame = frames::ethernet(frames::BROADCAST, HOST_A, 0x9000, &[0; 50]);
    let (outcome, changes) = rig.run(&Packet::from_port(Hook::Trunk, A, &frame));
    assert_eq!(outcome.verdict, Verdict::Flooded { copies: 1 });
    assert_eq!(changes.get("flood-table-full"), Some(&1), "{changes:?}");
    let level = d.fill_levels().unwrap().into_iter().find(|level| level.map == "tenants").unwrap();
    assert_eq!((level.entries, level.limit), (1024, 1024));
}
