//! VLANs of one trunk and an untagged interface in one segment at one gateway; a second tenant with the same
//! addresses beside it; and what belongs to nobody, left to the kernel. Needs root.
//!
//! ```text
//!  tenant lab, segment flat                          tenant guest, segment guest: the same subnets
//!  host-a  .11 ─ VLAN 100 ─┐                         guest-1 .11 ─ VLAN 110 ─┐
//!  host-c  .13 ─ VLAN 101 ─┼═ trunk0 [gw-a]          guest-2 .13 ─ VLAN 111 ─┴═ trunk0 [gw-a]
//!  host-d  .14 ── untagged ── access0 ┘
//!  stray 10.77.0.2 ─ untagged, and VLAN 555 ═ trunk0 [gw-a] 10.77.0.1: the kernel's own
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::iperf::{Kind, iperf};
use netns_tests::links::veth;
use netns_tests::packet::{Capture, build, inject, vid};
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{GATEWAY, HOST_A, SEGMENT_MTU, Topology, VID_A, both, put_in_flat_network};
use netns_tests::world::{self, Port, SOON};
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

const HOST_C: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 20, 0, 13), v6(0x0d));
const HOST_D: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 20, 0, 14), v6(0x0e));
/// The second local experimental EtherType of IEEE 802 (the first is that of beacons): hosts neither answer it nor send it.
const EXPERIMENTAL: u16 = 0x88b6;

/// A host hears its port of the switch; what the switch floods from other VLANs is not meant for it.
fn heard(frame: &[u8], on: Option<u16>) -> bool {
    vid(frame) == on
}

fn ethertype(frame: &[u8]) -> &[u8] {
    if vid(frame).is_some() { &frame[16..18] } else { &frame[12..14] }
}

const fn v6(last: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, last)
}

struct Hosts {
    topology: Topology,
    gateway: Gateway,
    host_c: Ns,
    host_d: Ns,
    guests: [Ns; 2],
}

fn hosts() -> Result<Hosts> {
    let (host_c, host_d) = (Ns::new("host-c")?, Ns::new("host-d")?);
    let guests = [Ns::new("guest-1")?, Ns::new("guest-2")?];
    let (topology, gateway, _) = world::single(&[], |topology, document| {
        topology.a.plug(&host_c, "eth0", 101)?;
        put_in_flat_network(&host_c, "eth0", HOST_C)?;
        veth(&topology.a.gateway, "access0", &host_d, "eth0")?;
        put_in_flat_network(&host_d, "eth0", HOST_D)?;
        topology.a.plug(&guests[0], "eth0", 110)?;
        put_in_flat_network(&guests[0], "eth0", HOST_A)?;
        topology.a.plug(&guests[1], "eth0", 111)?;
        put_in_flat_network(&guests[1], "eth0", HOST_C)?;
        more_objects(document);
        Ok(())
    })?;
    Ok(Hosts { topology, gateway, host_c, host_d, guests })
}

fn more_objects(document: &mut Value) {
    let on_vlan = |segment: &str, vid: u16| json!({ "gateway": "gw-a", "segment": segment, "vlan": { "trunk": "trunk0", "vid": vid } });
    document["tenants"]["guest"] = json!({ "l3vni": 5001, "node_port": 51901 });
    let mut segment = document["segments"]["flat"].clone();
    segment["tenant"] = json!("guest");
    segment["vni"] = json!(1001);
    document["segments"]["guest"] = segment;
    document["attachments"]["host-c"] = on_vlan("flat", 101);
    document["attachments"]["host-d"] =
        json!({ "gateway": "gw-a", "segment": "flat", "interface": "access0" });
    document["attachments"]["guest-1"] = on_vlan("guest", 110);
    document["attachments"]["guest-2"] = on_vlan("guest", 111);
}

fn reaches(from: &Ns, to: (Ipv4Addr, Ipv6Addr)) -> Result<()> {
    for address in both(to) {
        wait_until(SOON, &format!("{} to reach {address}", from.label()), || ping(from, address))?;
    }
    Ok(())
}

#[test]
fn root_vlans_and_an_untagged_interface_are_one_segment() -> Result<()> {
    let Hosts { topology, host_c, host_d, .. } = &hosts()?;
    let host_a = &topology.a.host;
    for (from, to) in [(host_a, HOST_C), (host_a, HOST_D), (host_c, HOST_D), (host_d, HOST_A)] {
        reaches(from, to)?;
        // Not a hop in between: it is one broadcast domain.
        let text = Ping::to(to.0.into()).send(from)?.text;
        ensure!(text.contains("ttl=64"), "{text}");
    }
    for (to, address) in [(host_c, HOST_C.0), (host_d, HOST_D.0)] {
        let full = Ping::to(address.into()).full(SEGMENT_MTU).send(host_a)?;
        ensure!(full.received == 1, "{}", full.text);
        let sent = iperf(host_a, to, address.into(), Kind::Tcp { streams: 1 }, Duration::from_secs(1))?;
        ensure!(sent.mbps > 10.0, "{} Mbit/s", sent.mbps);
    }
    Ok(())
}

#[test]
fn root_the_gateway_answers_for_its_own_addresses() -> Result<()> {
    let Hosts { topology, gateway, host_d, .. } = &hosts()?;
    for host in [&topology.a.host, host_d] {
        reaches(host, GATEWAY)?;
        for address in both(GATEWAY) {
            let neighbour = host.ip(&format!("neigh show {address} dev eth0"))?;
            ensure!(neighbour.contains("02:57:54:00:00:01"), "{} sees {neighbour}", host.label());
        }
    }
    for counter in ["arp-answered", "nd-answered", "punted-own"] {
        let limit = format!("{counter} to be counted");
        wait_until(SOON, &limit, || Ok::<_, anyhow::Error>(gateway.counter(counter)?).map(|n| n >= 2))?;
    }
    Ok(())
}

/// Waits until the ports' counters stand still, and reads them.
fn quiet(gateway: &Gateway, ports: &[&str]) -> Result<Vec<Port>> {
    let read = || ports.iter().map(|port| gateway.port(port)).collect::<Result<Vec<_>>>();
    let mut before = read()?;
    let mut since = std::time::Instant::now();
    wait_until(SOON, "the counters to stand still", || {
        let now = read()?;
        if now != before {
            (before, since) = (now.clone(), std::time::Instant::now());
        }
        ensure!(since.elapsed() > Duration::from_millis(2500), "they move: {now:?}");
        Ok(now)
    })
}

/// Frames that the device itself has sent.
fn sent_by_device(gateway: &Gateway, device: &str) -> Result<u64> {
    let text = gateway.ns().ip(&format!("-s -j link show {device}"))?;
    let links: Value = serde_json::from_str(&text)?;
    links[0]["stats64"]["tx"]["packets"].as_u64().context("tx packets")
}

#[test]
fn root_a_host_of_this_machine_is_reached_past_the_queue_of_a_device_that_has_none() -> Result<()> {
    let Hosts { topology, gateway, host_d, .. } = &hosts()?;
    let host_a = &topology.a.host;
    reaches(host_a, HOST_D)?;
    let frame = build::ethernet(host_d.mac("eth0")?, host_a.mac("eth0")?, EXPERIMENTAL, &[0x5a; 486]);
    let seen = Capture::start(host_d, "eth0", |frame| ethertype(frame) == EXPERIMENTAL.to_be_bytes())?;
    let before = sent_by_device(gateway, "access0")?;
    let mut sent = 0;
    let mut send_forty = || -> Result<()> {
        sent += 40;
        (0..40).try_for_each(|_| inject(host_a, "eth0", &frame))?;
        wait_until(SOON, "the frames", || -> Result<()> {
            ensure!(seen.count() == sent, "{} of {sent}", seen.count());
            Ok(())
        })
    };
    send_forty()?;
    let past = sent_by_device(gateway, "access0")? - before;
    ensure!(past < 20, "the device has sent {past}");
    gateway.ns().exec("tc qdisc add dev access0 root pfifo")?;
    wait_until(SOON, "the device to see all of them", || {
        let before = sent_by_device(gateway, "access0")?;
        send_forty()?;
        ensure!(sent_by_device(gateway, "access0")? - before >= 40, "they still pass its queue");
        Ok(())
    })
}

#[test]
fn root_each_attachment_counts_what_crossed_it_and_no_other() -> Result<()> {
    let Hosts { topology, gateway, host_c, host_d, .. } = &hosts()?;
    let host_a = &topology.a.host;
    reaches(host_a, HOST_C)?;
    reaches(host_a, HOST_D)?;
    let (mac_a, mac_c, mac_d) = (host_a.mac("eth0")?, host_c.mac("eth0")?, host_d.mac("eth0")?);
    for host in [host_a, host_c, host_d] {
        // What they have not asked for they do not ask again: only our frames are on the wire.
        host.ip("neigh flush all")?;
    }
    let ports = ["trunk0.100", "trunk0.101", "access0", "trunk0.110", "trunk0.111"];
    let before = quiet(gateway, &ports)?;
    let spoofed = gateway.drops("source-mac-invalid")?;
    let seen = Capture::start(host_c, "eth0", |frame| {
        heard(frame, Some(101)) && ethertype(frame) == EXPERIMENTAL.to_be_bytes()
    })?;
    for (to, count, bytes) in [(mac_c, 40, 500), (mac_d, 9, 1000)] {
        let frame = build::ethernet(to, mac_a, EXPERIMENTAL, &vec![0x5a; bytes - 14]);
        for _ in 0..count {
            inject(host_a, "eth0", &frame)?;
        }
    }
    let group = build::ethernet(mac_c, [0x03, 0, 0, 0, 0, 1], EXPERIMENTAL, &[0; 46]);
    for _ in 0..7 {
        // Not by the trunk: the switch would not take it.
        inject(host_d, "eth0", &group)?;
    }
    wait_until(SOON, "the frames to be counted", || -> Result<()> {
        let delta: Vec<Port> = ports
            .iter()
            .zip(&before)
            .map(|(port, before)| Ok(gateway.port(port)? - *before))
            .collect::<Result<_>>()?;
        let from_a = Port { rx_packets: 49, rx_bytes: 40 * 500 + 9 * 1000, ..Port::default() };
        let to_c = Port { tx_packets: 40, tx_bytes: 40 * 500, ..Port::default() };
        let to_d = Port { rx_packets: 7, rx_bytes: 7 * 60, tx_packets: 9, tx_bytes: 9 * 1000, drops: 7 };
        let nothing = Port::default();
        ensure!(delta == [from_a, to_c, to_d, nothing, nothing], "{delta:#?}");
        ensure!(gateway.drops("source-mac-invalid")? == spoofed + 7, "the drops' reason");
        Ok(())
    })?;
    ensure!(seen.count() == 40, "host-c got {} of 40", seen.count());
    Ok(())
}

#[test]
fn root_tenants_with_the_same_addresses_stay_apart() -> Result<()> {
    let Hosts { topology, host_c, host_d, guests, .. } = &hosts()?;
    let [guest_1, guest_2] = guests;
    let mac = guest_1.mac("eth0")?;
    let capture = |host: &Ns, on: Option<u16>| {
        Capture::start(host, "eth0", move |frame| frame[6..12] == mac && heard(frame, on))
    };
    let lab = [capture(&topology.a.host, Some(VID_A))?, capture(host_c, Some(101))?, capture(host_d, None)?];
    let guest = capture(guest_2, Some(111))?;
    reaches(guest_1, HOST_C)?;
    reaches(guest_1, GATEWAY)?;
    reaches(&topology.a.host, HOST_C)?;
    // Nobody has this address: the question goes to every host of the segment, and to no other's.
    let nobody: IpAddr = "10.20.0.99".parse()?;
    ensure!(Ping::to(nobody).count(3).send(guest_1)?.received == 0, "somebody has {nobody}");
    let asks = |frame: &Vec<u8>| ethertype(frame) == [0x08, 0x06] && frame[42..46] == [10, 20, 0, 99];
    wait_until(SOON, "guest-2 to be asked", || guest.frames().iter().any(asks))?;
    // host-d's address is free among the guests.
    ensure!(Ping::to(HOST_D.0.into()).count(3).send(guest_1)?.received == 0, "a guest reached the lab");
    for (capture, host) in lab.iter().zip(["host-a", "host-c", "host-d"]) {
        ensure!(capture.count() == 0, "{host} got {:02x?}", capture.frames());
    }
    let text = |ns: &Ns| ns.ip(&format!("neigh show {} dev eth0", HOST_C.0));
    let (by_guest, by_lab) = (text(guest_1)?, text(&topology.a.host)?);
    ensure!(by_guest != by_lab, "one MAC for two hosts: {by_guest}");
    Ok(())
}

#[test]
fn root_what_is_no_ones_goes_on_to_the_kernel() -> Result<()> {
    let stray = Ns::new("stray")?;
    let (topology, gateway, _) = world::single(&[], |topology, _| {
        veth(&stray, "eth0", &topology.a.switch, "stray")?;
        topology.a.switch.ip("link set stray master br0")?;
        stray.address("eth0", &["10.77.0.2/24"])?;
        topology.a.gateway.address("trunk0", &["10.77.0.1/24"])
    })?;
    let machine = &topology.a.gateway;
    wait_until(SOON, "untagged frames of the trunk to reach the kernel", || {
        ping(&stray, "10.77.0.1".parse::<IpAddr>()?)
    })?;
    // nftables' ingress hook comes after ours: what it counts, we have let go.
    machine.exec("nft add table netdev after")?;
    let hook = "{ type filter hook ingress device trunk0 priority 0 ; }";
    machine.exec(&format!("nft add chain netdev after in {hook}"))?;
    for vid in [555, 100] {
        machine.exec(&format!("nft add rule netdev after in vlan id {vid} counter"))?;
    }
    let before = gateway.counter("passed-to-kernel")?;
    let host = Capture::start(&topology.a.host, "eth0", |frame| {
        heard(frame, Some(VID_A)) && ethertype(frame) == EXPERIMENTAL.to_be_bytes()
    })?;
    let arrived = Capture::start(machine, "trunk0", |frame| vid(frame) == Some(555))?;
    let tagged = [&[0x02, 0x2b][..], &EXPERIMENTAL.to_be_bytes(), &[0; 46]].concat();
    let frame = build::ethernet([0xff; 6], stray.mac("eth0")?, 0x8100, &tagged);
    for _ in 0..25 {
        inject(&stray, "eth0", &frame)?;
    }
    wait_until(SOON, "25 frames of VLAN 555", || arrived.count() == 25)?;
    wait_until(SOON, "them to be counted", || -> Result<()> {
        let passed = gateway.counter("passed-to-kernel")? - before;
        ensure!(passed >= 25, "{passed} of them");
        Ok(())
    })?;
    let counted: Value = serde_json::from_str(&machine.exec("nft -j list chain netdev after in")?)?;
    let packets: Vec<u64> = counted["nftables"]
        .as_array()
        .context("rules")?
        .iter()
        .filter_map(|item| item["rule"]["expr"].as_array()?.last()?["counter"]["packets"].as_u64())
        .collect();
    ensure!(packets == [25, 0], "the kernel got {packets:?} frames of VLAN 555 and 100");
    ensure!(host.count() == 0, "host-a heard a VLAN that is not its own");
    Ok(())
}
