//! Control of the broadcast domain: for hosts that are known, no ARP and no neighbour discovery crosses the
//! L2VPN, not one byte. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ═ trunk1 ═ [sinet] ═ trunk1 ═ [gw-b] ═ VLAN 200 ─ host-b
//!                                        ↑ every frame is looked into here, inside VXLAN too
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::packet::{Capture, build, inject};
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{GATEWAY, HOST_A, HOST_B, Topology, Tunnel};
use netns_tests::wait_until;
use netns_tests::world::{SOON, World};

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
/// A host that nobody has.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 99);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// The EtherType behind the tags, and where its payload begins.
fn ethertype(frame: &[u8]) -> Option<(u16, usize)> {
    let mut at = 12;
    loop {
        let word = u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?);
        if word != 0x8100 && word != 0x88a8 {
            return Some((word, at + 2));
        }
        at += 4;
    }
}

/// Whether a frame of a tenant is ARP or neighbour discovery (router messages and redirects included).
fn is_question(frame: &[u8]) -> bool {
    match ethertype(frame) {
        Some((ARP, _)) => true,
        Some((IPV6, at)) => frame.get(at + 6) == Some(&58) && matches!(frame.get(at + 40), Some(133..=137)),
        _ => false,
    }
}

/// The frame inside VXLAN over IPv4, of a frame of the L2VPN.
fn inner(frame: &[u8]) -> Option<&[u8]> {
    let (ethertype, at) = ethertype(frame)?;
    let is_vxlan = ethertype == 0x0800
        && frame.get(at + 9) == Some(&17)
        && frame.get(at + 22..at + 24) == Some(&4789_u16.to_be_bytes());
    if is_vxlan { frame.get(at + 36..) } else { None }
}

/// What crosses the L2VPN in both directions and is a question or answer of a tenant.
fn crossing(topology: &Topology) -> Result<[Capture; 2]> {
    let watch =
        |port: &str| Capture::start(&topology.sinet, port, |frame| inner(frame).is_some_and(is_question));
    Ok([watch("site-a")?, watch("site-b")?])
}

fn bytes(captures: &[Capture; 2]) -> usize {
    captures.iter().flat_map(Capture::frames).map(|frame| frame.len()).sum()
}

/// An unsolicited neighbour advertisement (RFC 4861 §7.2.6) as a host sends it.
fn unsolicited(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    let option = [&[2, 1][..], &mac].concat();
    let message = |sum: [u8; 2]| [&[136, 0][..], &sum, &[0x20, 0, 0, 0], &address.octets(), &option].concat();
    let length = 32_u32;
    let pseudo = [&address.octets()[..], &ALL_NODES.octets(), &length.to_be_bytes(), &[0, 0, 0, 58]].concat();
    let sum = build::checksum(&[pseudo, message([0, 0])].concat());
    let header = [&[0x60, 0, 0, 0, 0, 32, 58, 255][..], &address.octets(), &ALL_NODES.octets()].concat();
    let packet = [header, message(sum.to_be_bytes())].concat();
    build::ethernet([0x33, 0x33, 0, 0, 0, 1], mac, IPV6, &packet)
}

fn world() -> Result<World> {
    let world = World::start(&[Tunnel::Direct])?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    // Both gateways know both hosts, addresses and all.
    for (from, to) in [(&world.topology.b.host, HOST_A), (&world.topology.a.host, HOST_B)] {
        for address in netns_tests::topology::both(to) {
            wait_until(SOON, &format!("{} to reach {address}", from.label()), || ping(from, address))?;
        }
    }
    for gateway in [&world.a, &world.b] {
        wait_until(SOON, &format!("{} to know both hosts", gateway.name()), || {
            let facts = gateway.facts()?.to_string();
            let all =
                [HOST_A.0.to_string(), HOST_B.0.to_string(), HOST_A.1.to_string(), HOST_B.1.to_string()];
            ensure!(all.iter().all(|address| facts.contains(address.as_str())), "{facts}");
            Ok(())
        })?;
    }
    Ok(world)
}

#[test]
fn root_for_known_hosts_no_byte_of_arp_or_nd_crosses() -> Result<()> {
    let world = world()?;
    let hosts = [(&world.topology.a.host, HOST_A, HOST_B), (&world.topology.b.host, HOST_B, HOST_A)];
    let captures = crossing(&world.topology)?;
    let answered = world.a.counter("arp-answered")? + world.a.counter("nd-answered")?;
    for _ in 0..5 {
        for (host, own, other) in hosts {
            host.ip("neigh flush all")?;
            for address in [other.0.into(), other.1.into(), GATEWAY.0.into(), GATEWAY.1.into()] {
                let report = Ping::to(address).count(2).send(host)?;
                ensure!(report.received == 2, "{}", report.text);
            }
            // Broadcast and unicast questions, gratuitous announcements of both forms, a check for duplicates.
            host.exec(&format!("arping -c 2 -w 2 -I eth0 {}", other.0))?;
            host.exec(&format!("arping -A -c 1 -I eth0 {}", own.0))?;
            host.exec(&format!("arping -U -c 1 -I eth0 {}", own.0))?;
            let duplicate = host.exec(&format!("arping -D -c 1 -w 2 -I eth0 {}", other.0));
            ensure!(duplicate.is_err(), "a check for a duplicate of {} found none", other.0);
            inject(host, "eth0", &unsolicited(host.mac("eth0")?, own.1))?;
        }
    }
    let after = world.a.counter("arp-answered")? + world.a.counter("nd-answered")?;
    ensure!(after >= answered + 10, "{answered} before, {after} after: nobody was asked");
    println!(
        "ARP and ND across the L2VPN: {} bytes, {} answered by gw-a",
        bytes(&captures),
        after - answered
    );
    ensure!(
        bytes(&captures) == 0,
        "{} bytes: {:02x?}",
        bytes(&captures),
        captures.each_ref().map(Capture::frames)
    );
    Ok(())
}

#[test]
fn root_a_question_for_nobody_is_spread_and_seen() -> Result<()> {
    let world = world()?;
    let captures = crossing(&world.topology)?;
    // Nobody answers, so arping fails.
    let _ = world.topology.a.host.exec(&format!("arping -c 1 -w 1 -I eth0 {NOBODY}"));
    wait_until(Duration::from_secs(5), "the question on the L2VPN", || {
        ensure!(captures[0].count() > 0, "nothing");
        Ok(())
    })
}

#[test]
fn root_an_address_in_use_at_the_other_site_is_found_to_be_a_duplicate() -> Result<()> {
    let world = world()?;
    let host = &world.topology.a.host;
    for (setting, value) in [("accept_dad", "1"), ("dad_transmits", "1")] {
        host.sysctl(&format!("net.ipv6.conf.eth0.{setting}"), value)?;
    }
    host.ip(&format!("addr add {}/64 dev eth0", HOST_B.1))?;
    wait_until(SOON, "the address to be marked", || {
        let shown = host.ip("addr show dev eth0")?;
        ensure!(shown.contains("dadfailed"), "{shown}");
        Ok(())
    })?;
    host.ip(&format!("addr del {}/64 dev eth0", HOST_B.1))?;
    host.ip("addr add fd20::77/64 dev eth0")?;
    wait_until(SOON, "a free address to be taken", || {
        let shown = host.ip("addr show dev eth0")?;
        let line = shown.lines().find(|line| line.contains("fd20::77")).unwrap_or_default();
        ensure!(!line.contains("tentative") && !line.contains("dadfailed") && !line.is_empty(), "{shown}");
        Ok(())
    })
}
