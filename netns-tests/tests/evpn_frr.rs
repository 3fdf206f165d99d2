//! FRR in the place of gateway B, with the Linux kernel's own VXLAN: it takes our EVPN routes of type 2, 3 and
//! 5 and we take its, frames are bridged and packets are routed between the two (RFC 7432, 8365, 9136),
//! what one withdraws leaves the other, and what a restart of our brain costs is counted. Needs root.
//!
//! ```text
//!  host-a .11 ─ VLAN 100 ═ [gw-a] 10.90.0.1 ── VLAN 900 ── 10.90.0.2 [FRR]─ br1000 ─ host-f .15
//!                          VTEP 10.255.0.1          VTEP 10.255.0.2  └ lo 198.51.100.1/32
//!  VNI 1000: the segment 10.20.0.0/24          L3VNI 5000: routed, Router's MAC 02:f0:00:00:50:00
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::frr::Frr;
use netns_tests::links::veth;
use netns_tests::ping::{Ping, ping};
use netns_tests::tagged::Tagged;
use netns_tests::topology::{HOST_A, Topology, Tunnel, put_in_flat_network};
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::Value;

const HOST_F: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 15), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x0f));
const BEHIND_FRR: &str = "198.51.100.1/32";
/// Router's MAC that gateway A derives from its VTEP address.
const ROUTER_MAC_A: &str = "02:57:d4:ff:00:01";

const ZEBRA: &str = "hostname frr-b\nvni 5000\n";
const BGPD: &str = "router bgp 65100
 bgp router-id 10.255.0.2
 no bgp default ipv4-unicast
 neighbor 10.255.0.1 remote-as 65100
 neighbor 10.255.0.1 update-source 10.255.0.2
 neighbor 10.255.0.1 timers connect 2
 address-family ipv4 unicast
  redistribute connected
 exit-address-family
 address-family l2vpn evpn
  neighbor 10.255.0.1 activate
  advertise-all-vni
  advertise ipv4 unicast
 exit-address-family
";

struct Fabric {
    topology: Topology,
    gateway: Gateway,
    frr: Frr,
    host_f: Ns,
    _tag: Tagged,
}

fn fabric() -> Result<Fabric> {
    let (topology, gateway, _) = world::single(&[Tunnel::Direct], |_, _| Ok(()))?;
    let machine = &topology.b.gateway;
    let tag = Tagged::attach(machine, "trunk1", 900)?;
    machine.address("trunk1", &["10.90.0.2/30"])?;
    machine.address("lo", &["10.255.0.2/32", BEHIND_FRR])?;
    machine.ip("route add 10.255.0.1/32 via 10.90.0.1 src 10.255.0.2")?;
    machine.forward()?;
    for (vni, mac) in [(1000, "02:f0:00:00:10:00"), (5000, "02:f0:00:00:50:00")] {
        for line in [
            &format!("add br{vni} address {mac} type bridge"),
            &format!("add vx{vni} type vxlan id {vni} local 10.255.0.2 dstport 4789 nolearning"),
            &format!("set vx{vni} master br{vni}"),
            &format!("set vx{vni} type bridge_slave learning off neigh_suppress on"),
            &format!("set br{vni} up"),
            &format!("set vx{vni} up"),
        ] {
            machine.ip(&format!("link {line}"))?;
        }
    }
    let host_f = Ns::new("host-f")?;
    veth(&host_f, "eth0", machine, "f0")?;
    machine.ip("link set f0 master br1000")?;
    put_in_flat_network(&host_f, "eth0", HOST_F)?;
    let frr = Frr::start(machine, ZEBRA, BGPD)?;
    wait_until(SOON, "the session between gw-a and FRR", || {
        ensure!(frr.established("10.255.0.1")?, "{}\n{}", frr.ask("show bgp neighbors")?, gateway.log());
        Ok(())
    })?;
    Ok(Fabric { topology, gateway, frr, host_f, _tag: tag })
}

fn mac(ns: &Ns) -> Result<String> {
    Ok(ns.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":"))
}

/// Waits until FRR has a valid route of gateway A with that name; what it says of it.
fn at_frr(frr: &Frr, route: &str) -> Result<String> {
    wait_until(SOON, &format!("{route} at FRR"), || {
        let text = frr.ask("show bgp l2vpn evpn route detail")?;
        let part = text.split("Route Distinguisher").find(|part| part.contains(route));
        let all = || text.clone();
        let part = part.with_context(all)?;
        let found = part.split("BGP routing table entry").find(|entry| entry.contains(route)).unwrap_or(part);
        Ok::<_, anyhow::Error>(found.to_owned())
    })
}

fn is_gone_at_frr(frr: &Frr, route: &str) -> Result<()> {
    wait_until(SOON, &format!("{route} to leave FRR"), || {
        let text = frr.ask("show bgp l2vpn evpn route")?;
        ensure!(!text.contains(route), "{text}");
        Ok(())
    })
}

/// Waits until gateway A's facts have, in a list, an entry with all these fields.
fn at_gateway(gateway: &Gateway, list: &str, fields: &[(&str, &str)]) -> Result<()> {
    wait_until(SOON, &format!("{fields:?} in {list} of gw-a"), || {
        let facts = gateway.facts()?;
        let entries = facts[list].as_array().cloned().unwrap_or_default();
        let has = |entry: &Value| fields.iter().all(|(field, value)| entry[*field] == *value);
        ensure!(entries.iter().any(has), "{:#}", facts[list]);
        Ok(())
    })
}

#[test]
fn root_frr_takes_our_routes_and_we_take_its() -> Result<()> {
    let Fabric { topology, gateway, frr, host_f, .. } = &fabric()?;
    let (host_a, mac_a, mac_f) = (&topology.a.host, mac(&topology.a.host)?, mac(host_f)?);
    wait_until(SOON, "host-a to reach host-f, bridged", || ping(host_a, HOST_F.0))?;
    wait_until(SOON, "host-f to reach host-a over IPv6", || ping(host_f, HOST_A.1))?;
    let full = Ping::to(HOST_F.0.into()).full(netns_tests::topology::SEGMENT_MTU).send(host_a)?;
    ensure!(full.received == 1, "{}", full.text);

    // RFC 7432 section 7.3, RFC 8365 section 5.1.3: type 3, with the tunnel for broadcast.
    let imet = at_frr(frr, "[3]:[0]:[32]:[10.255.0.1]")?;
    ensure!(imet.contains("RT:65100:1000") && imet.contains("ET:8"), "{imet}");
    // Type 2, MAC alone and MAC with address; the latter with both VNIs (RFC 9135 section 5.1).
    at_frr(frr, &format!("[2]:[0]:[48]:[{mac_a}]"))?;
    let station = at_frr(frr, &format!("[2]:[0]:[48]:[{mac_a}]:[32]:[10.20.0.11]"))?;
    for word in ["RT:65100:1000", "RT:65100:5000", "ET:8", &format!("Rmac:{ROUTER_MAC_A}"), "VNI 1000/5000"] {
        ensure!(station.contains(word), "{word} is not in {station}");
    }
    // Type 5 with Router's MAC (RFC 9136 section 4.4.1).
    let prefix = at_frr(frr, "[5]:[0]:[24]:[10.20.0.0]")?;
    for word in ["RT:65100:5000", &format!("Rmac:{ROUTER_MAC_A}"), "VNI 5000"] {
        ensure!(prefix.contains(word), "{word} is not in {prefix}");
    }
    at_frr(frr, "[5]:[0]:[64]:[fd20::]")?;

    at_gateway(gateway, "macs", &[("mac", &mac_f), ("at", "10.255.0.2")])?;
    at_gateway(gateway, "routes", &[("prefix", BEHIND_FRR), ("from", "fabric"), ("via", "10.255.0.2")])?;
    let flood = &gateway.facts()?["flood"]["1000"];
    ensure!(flood.to_string().contains("10.255.0.2"), "{flood}");
    Ok(())
}

#[test]
fn root_packets_are_routed_between_frr_and_us() -> Result<()> {
    let Fabric { topology, gateway, frr, .. } = &fabric()?;
    let behind: IpAddr = "198.51.100.1".parse()?;
    at_gateway(gateway, "routes", &[("prefix", BEHIND_FRR), ("via", "10.255.0.2")])?;
    at_frr(frr, "[5]:[0]:[24]:[10.20.0.0]")?;
    wait_until(SOON, "host-a to reach what is behind FRR", || ping(&topology.a.host, behind))?;
    wait_until(SOON, "FRR to reach host-a", || -> Result<()> {
        let report = Ping::to(HOST_A.0.into()).from(behind).send(&topology.b.gateway)?;
        ensure!(report.received == 1, "{}", report.text);
        Ok(())
    })?;
    // A hop at each gateway: it was routed, not bridged.
    let report = Ping::to(behind).send(&topology.a.host)?;
    ensure!(report.text.contains("ttl=63"), "{}", report.text);

    // What is withdrawn leaves the other side.
    topology.b.gateway.ip(&format!("addr del {BEHIND_FRR} dev lo"))?;
    wait_until(SOON, "the prefix to leave gw-a", || -> Result<()> {
        let routes = gateway.facts()?["routes"].to_string();
        ensure!(!routes.contains(BEHIND_FRR), "{routes}");
        Ok(())
    })?;
    gateway.cli(&["delete", "attachments", "host-a"])?;
    // A slice of the pool keeps the segment here; the station left with its attachment.
    is_gone_at_frr(frr, &mac(&topology.a.host)?)
}

/// FRR keeps no EVPN routes of a neighbour that restarts (frr #9749): what it sends to us is lost until the brain has
/// told it everything again. What we send goes on: our tables and programs are the kernel's.
#[test]
fn root_a_restart_of_the_brain_interrupts_what_frr_sends_and_nothing_else() -> Result<()> {
    let Fabric { topology, mut gateway, frr, host_f, _tag } = fabric()?;
    let host_a = &topology.a.host;
    let station = format!("[2]:[0]:[48]:[{}]", mac(host_a)?);
    wait_until(SOON, "host-a to reach host-f", || ping(host_a, HOST_F.0))?;
    at_frr(&frr, &station)?;
    let flow = |from: &Ns, to: &Ns, address: Ipv4Addr| {
        Flow::start(from, to, FlowSpec::to(SocketAddr::new(address.into(), 9000)))
    };
    let (ours, theirs) = (flow(host_a, &host_f, HOST_F.0)?, flow(&host_f, host_a, HOST_A.0)?);
    ours.wait_for(100, SOON)?;
    theirs.wait_for(100, SOON)?;

    gateway.kill9()?;
    let killed = Instant::now();
    is_gone_at_frr(&frr, &station)?;
    let gone = Instant::now();
    gateway.launch()?;
    at_frr(&frr, &station)?;
    println!(
        "FRR lost our routes {:?} after the kill and was without them for {:?}",
        gone - killed,
        gone.elapsed()
    );
    ours.wait_for(100, SOON)?;
    theirs.wait_for(100, SOON)?;
    let (ours, theirs) = (ours.stop()?, theirs.stop()?);
    println!("host-a → host-f: {ours:?}\nhost-f → host-a: {theirs:?}");
    ensure!(ours.lost == 0 && ours.refused == 0, "{ours:?}");
    ensure!(theirs.received > 0 && theirs.lost < theirs.sent, "{theirs:?}");
    Ok(())
}
