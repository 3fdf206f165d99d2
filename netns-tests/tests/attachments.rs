//! Attachments of every kind: one segment over all of them and both sites, tenants apart on the same VLAN id, and
//! the guards of an attachment with the number of each drop. Needs root.
//!
//! ```text
//!  host-a  .11 ─ VLAN 100 ──────────┐
//!  qinq    .21 ─ S-tag 100, VLAN 7 ─┤
//!  qinq-q  .22 ─ VLAN 100, VLAN 7 ──┼═ trunk0 [gw-a] ═ VLAN 900 ═ [gw-b] trunk0 ═ VLAN 200 ─ host-b .12
//!  s-tag   .23 ─ S-tag 100 ─────────┤            │                    │
//!  native  .24 ─ untagged ──────────┘         trunk2               trunk2
//!  device  .25 ─ untagged ── access0 ┘   VLAN 100 │                    │ VLAN 100
//!                                     guest-a .11 ┘ (tenant guest)     └ guest-b .12
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, ensure};
use netns_tests::links::veth;
use netns_tests::packet::{build, inject};
use netns_tests::ping::{Ping, ping};
use netns_tests::tagged::Tagged;
use netns_tests::topology::{HOST_A, HOST_B, SEGMENT_MTU, Tunnel, VID_A, both, put_in_flat_network};
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};
use watari_dataplane::HostTags;

/// Tag protocol identifiers of the outer tag.
const C_TAG: u16 = 0x8100;
const S_TAG: u16 = 0x88a8;
const INNER: u16 = 7;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const UDP: u8 = 17;

fn host(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 20, 0, last), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, last.into()))
}

/// A host of site A, and the attachment that it is behind.
struct Kind {
    name: &'static str,
    address: u8,
    /// None for the untagged ones.
    tags: Option<HostTags>,
    attachment: Value,
    /// As the facts name the port.
    port: &'static str,
}

fn kinds() -> Vec<Kind> {
    let double = |tpid| Some(HostTags { tpid, vid: VID_A, inner: Some(INNER) });
    let vlan = |more: Value| {
        let mut vlan = json!({ "trunk": "trunk0", "vid": VID_A });
        for (key, value) in more.as_object().into_iter().flatten() {
            vlan[key] = value.clone();
        }
        json!({ "gateway": "gw-a", "segment": "flat", "vlan": vlan })
    };
    let device = |name: &str| json!({ "gateway": "gw-a", "segment": "flat", "interface": name });
    let kind = |name, address, tags, attachment, port| Kind { name, address, tags, attachment, port };
    let s_tag = Some(HostTags { tpid: S_TAG, vid: VID_A, inner: None });
    vec![
        kind("qinq", 21, double(S_TAG), vlan(json!({ "inner_vid": INNER })), "trunk0.100s.7"),
        kind(
            "qinq-q",
            22,
            double(C_TAG),
            vlan(json!({ "inner_vid": INNER, "outer_tpid": "802.1q" })),
            "trunk0.100.7",
        ),
        kind("s-tag", 23, s_tag, vlan(json!({ "outer_tpid": "802.1ad" })), "trunk0.100s"),
        kind("native", 24, None, device("trunk0"), "trunk0"),
        kind("device", 25, None, device("access0"), "access0"),
    ]
}

fn every_kind() -> Result<(World, Vec<(Kind, Ns)>)> {
    let mut hosts = vec![];
    let world = World::start_with(&[Tunnel::Direct], |topology, document| {
        for kind in kinds() {
            let ns = Ns::new(kind.name)?;
            match kind.tags {
                Some(tags) => topology.a.plug(&ns, "eth0", tags)?,
                None if kind.name == "native" => topology.a.plug_untagged(&ns, "eth0")?,
                None => veth(&topology.a.gateway, "access0", &ns, "eth0")?,
            }
            put_in_flat_network(&ns, "eth0", host(kind.address))?;
            document["attachments"][kind.name] = kind.attachment.clone();
            hosts.push((kind, ns));
        }
        Ok(())
    })?;
    Ok((world, hosts))
}

fn reaches(from: &Ns, to: (Ipv4Addr, Ipv6Addr)) -> Result<()> {
    for address in both(to) {
        wait_until(SOON, &format!("{} to reach {address}", from.label()), || ping(from, address))?;
    }
    Ok(())
}

#[test]
fn root_attachments_of_every_kind_are_one_segment() -> Result<()> {
    let (world, hosts) = every_kind()?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    for (kind, ns) in &hosts {
        reaches(ns, HOST_B).with_context(|| format!("{} to the other site", kind.name))?;
        reaches(ns, HOST_A).with_context(|| format!("{} to VLAN 100", kind.name))?;
        reaches(&world.topology.b.host, host(kind.address))?;
        let full = Ping::to(HOST_B.0.into()).full(SEGMENT_MTU).send(ns)?;
        ensure!(full.received == 1 && full.text.contains("ttl=64"), "{}: {}", kind.name, full.text);
    }
    reaches(&hosts[0].1, host(hosts[1].0.address))?;
    for (kind, _) in &hosts {
        wait_until(SOON, &format!("{} to be counted", kind.name), || {
            let facts = world.a.facts()?;
            let seen = &facts["attachments"][kind.name];
            ensure!(seen["rx_packets"].as_u64() > Some(3) && seen["tx_packets"].as_u64() > Some(3), "{seen}");
            // Untagged, the switch itself is a station too.
            let macs = seen["macs"].as_u64().unwrap_or(0);
            ensure!(macs == 1 || (kind.name == "native" && macs == 2), "{seen}");
            ensure!(facts["datapath"]["ports"][kind.port]["rx_packets"] == seen["rx_packets"], "{facts:#}");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn root_one_vlan_id_on_two_trunks_is_two_tenants() -> Result<()> {
    let guests = [Ns::new("guest-a")?, Ns::new("guest-b")?];
    let mut tags = vec![];
    let world = World::start_with(&[Tunnel::Direct], |topology, document| {
        let sites = [("gw-a", &topology.a.gateway, HOST_A), ("gw-b", &topology.b.gateway, HOST_B)];
        document["tenants"]["guest"] = json!({ "l3vni": 5001, "node_port": 51901 });
        let mut segment = document["segments"]["flat"].clone();
        (segment["tenant"], segment["vni"]) = (json!("guest"), json!(1001));
        document["segments"]["guest"] = segment;
        for ((gateway, machine, address), ns) in sites.into_iter().zip(&guests) {
            veth(machine, "trunk2", ns, "eth0")?;
            tags.push(Tagged::attach(ns, "eth0", VID_A)?);
            put_in_flat_network(ns, "eth0", address)?;
            document["gateways"][gateway]["trunks"] = json!(["trunk0", "trunk1", "trunk2"]);
            document["attachments"][ns.label()] = json!({
                "gateway": gateway, "segment": "guest", "vlan": { "trunk": "trunk2", "vid": VID_A },
            });
        }
        Ok(())
    })?;
    world.hosts_meet()?;
    reaches(&guests[0], HOST_B)?;
    // Each found its own host under the address that both tenants use.
    for (from, to) in [(&world.topology.a.host, &world.topology.b.host), (&guests[0], &guests[1])] {
        let mac = to.mac("eth0")?.map(|octet| format!("{octet:02x}")).join(":");
        let neighbour = from.ip(&format!("neigh show {} dev eth0", HOST_B.0))?;
        ensure!(neighbour.contains(&mac), "{}: {neighbour}, not {mac}", from.label());
    }
    Ok(())
}

/// A host behind `access0`, guarded with its own MAC and addresses.
fn guarded() -> Result<(netns_tests::topology::Topology, Gateway, Ns)> {
    let ns = Ns::new("device")?;
    let (topology, gateway, _) = world::single(&[], |topology, document| {
        veth(&topology.a.gateway, "access0", &ns, "eth0")?;
        put_in_flat_network(&ns, "eth0", host(25))?;
        let mac = ns.mac("eth0")?.map(|octet| format!("{octet:02x}")).join(":");
        document["attachments"]["device"] = json!({
            "gateway": "gw-a", "segment": "flat", "interface": "access0",
            "guard": {
                "macs": [mac], "dhcp_server": "deny", "routers": "deny",
                "addresses": [{ "prefix": "10.20.0.25/32", "mac": mac }, "fd20::19/128", "fe80::/64"],
            },
        });
        Ok(())
    })?;
    Ok((topology, gateway, ns))
}

fn arp_reply(mac: [u8; 6], ip: Ipv4Addr) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 2];
    for (mac, ip) in [(mac, ip), ([0xff; 6], ip)] {
        body.extend(mac);
        body.extend(ip.octets());
    }
    build::ethernet([0xff; 6], mac, ARP, &body)
}

#[test]
fn root_a_guarded_attachment_sends_in_its_own_name_alone() -> Result<()> {
    let (topology, gateway, ns) = guarded()?;
    reaches(&ns, HOST_A)?;
    reaches(&topology.a.host, host(25))?;
    let own = ns.mac("eth0")?;
    let stolen = [2, 0, 0, 0, 0, 0x66];
    let to = topology.a.host.mac("eth0")?;
    let packet = |from: Ipv4Addr| build::ipv4(from, HOST_A.0, UDP, &build::udp(1000, 1000, b"x"));
    let offer = build::ipv4(host(25).0, Ipv4Addr::BROADCAST, UDP, &build::udp(67, 68, &[2; 300]));
    let frames = [
        ("guard-mac", build::ethernet(to, stolen, IPV4, &packet(host(25).0))),
        ("guard-ip", build::ethernet(to, own, IPV4, &packet(HOST_A.0))),
        ("guard-neighbour", arp_reply(own, HOST_A.0)),
        ("guard-dhcp-server", build::ethernet([0xff; 6], own, IPV4, &offer)),
    ];
    for (reason, frame) in frames {
        let before = (gateway.drops(reason)?, gateway.port("access0")?.drops);
        inject(&ns, "eth0", &frame)?;
        wait_until(SOON, reason, || {
            let after = (gateway.drops(reason)?, gateway.port("access0")?.drops);
            ensure!(after.0 == before.0 + 1 && after.1 > before.1, "{before:?} {after:?}");
            Ok(())
        })?;
    }
    // The host itself goes on, and nobody believes what was said in another's name.
    reaches(&ns, HOST_A)?;
    let facts = gateway.facts()?;
    ensure!(!facts["macs"].to_string().contains("02:00:00:00:00:66"), "{:#}", facts["macs"]);
    Ok(())
}
