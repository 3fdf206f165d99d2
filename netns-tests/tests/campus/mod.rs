//! What is true of gateway A and any campus router, whatever software that is.
//!
//! ```text
//!  host-a ─ VLAN 100 ─┐                                            ┌─ VLAN 200 ─ host-b
//!                     ├═ [gw-a, AS 65100] ─ WireGuard ─ [gw-b] ═───┘
//!  server ─ [campus, AS 65001] ─ VLAN 300 ─┘
//! ```
//! The whole drawing: `netns_tests::topology`.

use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::campus::{Campus, LANS, Setup, Software};
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{HOST_A, HOST_B, SERVER, Tunnel, both};
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::Value;

/// What the campus router is to learn.
const SUBNETS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
/// Inside what gateway A accepts, beside the server's networks.
const MORE: [&str; 2] = ["192.0.2.128/25", "2001:db8:2:f::/64"];
/// Outside of it.
const UNWANTED: [&str; 2] = ["203.0.113.0/24", "2001:db8:bad::/48"];
/// `PROTOCOL_PLAN` and `PROTOCOL_LEARNT` of the daemon.
const PLAN: &str = "219";
const LEARNT: &str = "220";

/// Both gateways over WireGuard and a campus router with its sessions established.
fn world(software: Software, setup: Setup) -> Result<(World, Campus)> {
    let world = World::start(&[Tunnel::Wireguard])?;
    world.tunnel_is_up("ab-wg")?;
    let campus = Campus::start(software, &world.topology.campus, setup)?;
    meets(&world, &campus)?;
    Ok((world, campus))
}

/// The sessions are up and both sides have learnt what they should.
fn meets(world: &World, campus: &Campus) -> Result<()> {
    wait_until(SOON, "both sessions of the campus router", || {
        ensure!(campus.established()?, "{}", campus.sessions()?);
        Ok(())
    })?;
    for subnet in SUBNETS {
        wait_until(SOON, &format!("{subnet} at the campus router"), || {
            ensure!(campus.knows(subnet)?, "{}", campus.table()?);
            Ok(())
        })?;
    }
    for lan in LANS {
        is_everywhere(world, lan)?;
    }
    for peer in ["peers.campus4", "peers.campus6"] {
        world.a.wait_for_state(peer, "up")?;
    }
    Ok(())
}

/// Prefixes of the facts that come from `from` (`campus`, `fabric`).
fn facts(gateway: &Gateway, from: &str) -> Result<Vec<String>> {
    let facts = gateway.facts()?;
    let routes = facts["routes"].as_array().cloned().unwrap_or_default();
    let of = routes.iter().filter(|route| route["from"] == from);
    Ok(of.filter_map(|route| route["prefix"].as_str()).map(str::to_owned).collect())
}

/// Routes of a protocol in the tenant's namespace, as `ip` tells them.
fn kernel(gateway: &Gateway, protocol: &str, prefix: &str) -> Result<Vec<Value>> {
    let family = if prefix.contains(':') { "-6" } else { "-4" };
    let tenant = format!("wt-{}.lab", gateway.name());
    let text = gateway.ns().ip(&format!("-j {family} -n {tenant} route show proto {protocol}"))?;
    let routes: Vec<Value> = if text.trim().is_empty() { vec![] } else { serde_json::from_str(&text)? };
    Ok(routes.into_iter().filter(|route| route["dst"] == prefix).collect())
}

/// Whether the datapath has a route to a prefix: the bytes of its map's key end in length and address.
fn datapath(gateway: &Gateway, prefix: &str) -> Result<bool> {
    let net: (std::net::IpAddr, u8) = {
        let (address, length) = prefix.split_once('/').unwrap_or((prefix, "0"));
        (address.parse()?, length.parse()?)
    };
    let (map, address) = match net.0 {
        std::net::IpAddr::V4(v4) => ("routes4", v4.octets().to_vec()),
        std::net::IpAddr::V6(v6) => ("routes6", v6.octets().to_vec()),
    };
    let pin = gateway.pin_dir().join(format!("wtm-{map}"));
    let text = gateway.ns().exec(&format!("bpftool -j map dump pinned {}", pin.display()))?;
    let entries: Vec<Value> = serde_json::from_str(&text)?;
    let bytes = |value: &Value| -> Vec<u8> {
        let texts = value.as_array().into_iter().flatten().filter_map(Value::as_str);
        texts.filter_map(|text| u8::from_str_radix(text.trim_start_matches("0x"), 16).ok()).collect()
    };
    // Length of the whole key in bits: the tenant's 32 and the prefix's.
    let bits = (32 + u32::from(net.1)).to_ne_bytes();
    Ok(entries
        .iter()
        .map(|entry| bytes(&entry["key"]))
        .any(|key| key.starts_with(&bits) && key.ends_with(&address)))
}

/// In both gateways' facts, kernels and datapaths.
fn is_everywhere(world: &World, prefix: &str) -> Result<()> {
    wait_until(SOON, &format!("{prefix} at both gateways"), || {
        let missing = places(world, prefix)?.into_iter().filter(|(_, there)| !there);
        let missing: Vec<_> = missing.map(|(place, _)| place).collect();
        ensure!(missing.is_empty(), "not in {missing:?}");
        Ok(())
    })
}

fn is_nowhere(world: &World, prefix: &str, limit: Duration) -> Result<()> {
    wait_until(limit, &format!("{prefix} to be gone from both gateways"), || {
        let left = places(world, prefix)?.into_iter().filter(|(_, there)| *there);
        let left: Vec<_> = left.map(|(place, _)| place).collect();
        ensure!(left.is_empty(), "still in {left:?}");
        Ok(())
    })
}

fn places(world: &World, prefix: &str) -> Result<Vec<(&'static str, bool)>> {
    let World { a, b, .. } = world;
    let listed = |list: Vec<String>| list.iter().any(|other| other == prefix);
    Ok(vec![
        ("gw-a's facts", listed(facts(a, "campus")?)),
        ("gw-a's kernel", !kernel(a, LEARNT, prefix)?.is_empty()),
        ("gw-a's datapath", datapath(a, prefix)?),
        ("gw-b's facts", listed(facts(b, "fabric")?)),
        ("gw-b's kernel", !kernel(b, LEARNT, prefix)?.is_empty()),
        ("gw-b's datapath", datapath(b, prefix)?),
    ])
}

fn reach_each_other(world: &World) -> Result<()> {
    let topology = &world.topology;
    for host in [&topology.a.host, &topology.b.host] {
        for address in both(SERVER) {
            wait_until(SOON, &format!("{} to reach {address}", host.label()), || ping(host, address))?;
        }
    }
    for address in both(HOST_A).into_iter().chain(both(HOST_B)) {
        wait_until(SOON, &format!("the server to reach {address}"), || ping(&topology.server, address))?;
    }
    Ok(())
}

fn unreachable(host: &Ns) -> Result<()> {
    for address in both(SERVER) {
        let report = Ping::to(address).count(3).send(host)?;
        ensure!(report.received == 0, "{} still reaches {address}\n{}", host.label(), report.text);
    }
    Ok(())
}

/// Both learn, nothing that is not accepted, and packets go to and fro; routes leave with their withdrawal,
/// all of them with the session, and come back with it.
pub(crate) fn learns_and_forgets(software: Software) -> Result<()> {
    let more = [MORE, UNWANTED].concat();
    let setup = Setup { graceful: false, more, ..Setup::default() };
    let (world, mut campus) = world(software, setup)?;
    reach_each_other(&world)?;
    for prefix in MORE {
        is_everywhere(&world, prefix)?;
    }
    for prefix in UNWANTED {
        let found = places(&world, prefix)?;
        ensure!(found.iter().all(|(_, there)| !there), "{prefix} was not to be taken: {found:?}");
    }
    let sessions = world.a.facts()?["bgp"]["sessions"].clone();
    let told = sessions.as_array().into_iter().flatten().filter(|session| session["asn"] == 65001);
    let rejected: Vec<_> = told.filter_map(|session| session["rejected"].as_u64()).collect();
    // FRR also tells us our own subnet again.
    ensure!(rejected.len() == 2 && rejected.iter().all(|count| *count >= 1), "{sessions:#}");
    in_the_kernel_with_our_mark(&world.a)?;

    for prefix in MORE {
        campus.withdraw(prefix)?;
        is_nowhere(&world, prefix, SOON)?;
    }
    for lan in LANS {
        is_everywhere(&world, lan)?;
    }

    campus.stop()?;
    for lan in LANS {
        is_nowhere(&world, lan, Duration::from_secs(10))?;
    }
    unreachable(&world.topology.a.host)?;
    unreachable(&world.topology.b.host)?;
    world.a.wait_for_state("peers.campus4", "down")?;

    let campus =
        Campus::start(software, &world.topology.campus, Setup { graceful: false, ..Setup::default() })?;
    meets(&world, &campus)?;
    reach_each_other(&world)
}

fn in_the_kernel_with_our_mark(gateway: &Gateway) -> Result<()> {
    for (lan, via) in LANS.iter().zip(["10.30.0.2", "fd30::2"]) {
        let routes = kernel(gateway, LEARNT, lan)?;
        ensure!(routes.len() == 1 && routes[0]["gateway"] == via, "{lan}: {routes:?}");
    }
    for subnet in SUBNETS {
        let routes = kernel(gateway, PLAN, subnet)?;
        ensure!(routes.len() == 1 && routes[0]["dev"] == "wt-core", "{subnet}: {routes:?}");
    }
    Ok(())
}

/// A neighbour of another AS than the document says gets no session (RFC 4271 section 6.2), and with the
/// right one it does.
pub(crate) fn refuses_another_as(software: Software) -> Result<()> {
    let world = World::start(&[Tunnel::Wireguard])?;
    let setup = Setup { asn: 65_099, ..Setup::default() };
    let campus = Campus::start(software, &world.topology.campus, setup)?;
    wait_until(SOON, "gw-a to say why there is no session", || {
        let object = world.a.object("peers.campus4")?;
        ensure!(object["state"] == "down", "{object}");
        let reason = object["reason"].as_str().unwrap_or_default().to_lowercase();
        ensure!(
            reason.contains("as") && (reason.contains("bad peer as") || reason.contains("65099")),
            "{object}"
        );
        Ok(())
    })?;
    ensure!(!campus.established()?, "{}", campus.sessions()?);
    ensure!(facts(&world.a, "campus")?.is_empty(), "{:?}", facts(&world.a, "campus")?);
    ensure!(!campus.knows(SUBNETS[0])?, "{}", campus.table()?);
    campus.stop()?;
    let campus = Campus::start(software, &world.topology.campus, Setup::default())?;
    meets(&world, &campus)
}
