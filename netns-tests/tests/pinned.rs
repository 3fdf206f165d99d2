//! Hosts that the document pins to an attachment (`static_hosts`): whoever claims their MAC or address elsewhere, at the
//! same gateway or at another one, is refused and told of, and the host itself notices nothing. Needs root.
//!
//! ```text
//!  thief  ─ access0 ────────────┐                                     ┌─ access0 ─ thief
//!  host-a .11 ─ VLAN 100, pinned┴═ [gw-a] ═ VLAN 900 ═ [gw-b] ════════┴─ VLAN 200 ─ host-b .12
//! ```

use std::net::IpAddr;

use anyhow::{Result, ensure};
use netns_tests::links::veth;
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{HOST_A, HOST_B, Tunnel, both, put_in_flat_network};
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};

fn text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}

/// Host A pinned to its attachment, and an empty machine behind `access0` of each gateway.
fn pinned() -> Result<(World, [Ns; 2])> {
    let thieves = [Ns::new("thief-a")?, Ns::new("thief-b")?];
    let world = World::start_with(&[Tunnel::Direct], |topology, document| {
        let machines = [("gw-a", &topology.a.gateway), ("gw-b", &topology.b.gateway)];
        for ((gateway, machine), thief) in machines.into_iter().zip(&thieves) {
            veth(machine, "access0", thief, "eth0")?;
            document["attachments"][thief.label()] =
                json!({ "gateway": gateway, "segment": "flat", "interface": "access0" });
        }
        document["segments"]["flat"]["static_hosts"] = json!([{
            "mac": text(topology.a.host.mac("eth0")?), "addresses": both(HOST_A), "attachment": "host-a",
        }]);
        Ok(())
    })?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    Ok((world, thieves))
}

/// The gateway tells of the thief's attachment.
fn told(gateway: &Gateway, object: &str, reason: &str, whom: &str) -> Result<()> {
    wait_until(SOON, &format!("{} to tell of {reason} at {object}", gateway.name()), || {
        let events = gateway.events_after(0)?;
        let is_it = |event: &Value| {
            let says = event["message"].as_str().unwrap_or_default();
            event["kind"] == "refused"
                && event["object"] == object
                && says.starts_with(reason)
                && says.contains(whom)
        };
        ensure!(events.iter().any(is_it), "{events:#?}");
        Ok(())
    })
}

/// Host B still finds host A, and by its own MAC, although its neighbour table is emptied before.
fn undisturbed(world: &World) -> Result<()> {
    let (host, own) = (&world.topology.b.host, text(world.topology.a.host.mac("eth0")?));
    host.ip("neigh flush dev eth0")?;
    for address in both(HOST_A) {
        let report = Ping::to(address).count(5).send(host)?;
        ensure!(report.received == 5, "host-b to {address}: {}", report.text);
        let neighbour = host.ip(&format!("neigh show {address} dev eth0"))?;
        ensure!(neighbour.contains(&own), "{neighbour}, not {own}");
    }
    Ok(())
}

#[test]
fn root_nobody_else_has_the_mac_of_a_pinned_host() -> Result<()> {
    let (world, thieves) = pinned()?;
    let mac = text(world.topology.a.host.mac("eth0")?);
    for (thief, gateway) in thieves.iter().zip([&world.a, &world.b]) {
        let before = gateway.drops("source-mac-pinned")?;
        thief.ip("link set eth0 down")?;
        thief.ip(&format!("link set eth0 address {mac}"))?;
        thief.ip("link set eth0 up")?;
        // An address of its own, so that it is the MAC alone that it has taken.
        put_in_flat_network(thief, "eth0", ([10, 20, 0, 26].into(), "fd20::1a".parse()?))?;
        for address in both(HOST_B) {
            let report = Ping::to(address).count(3).send(thief)?;
            ensure!(report.received == 0, "{} spoke in its name: {}", thief.label(), report.text);
        }
        let after = gateway.drops("source-mac-pinned")?;
        ensure!(after > before, "{before}, {after} at {}", gateway.name());
        told(gateway, &format!("attachments.{}", thief.label()), "source-mac-pinned", &mac)?;
        undisturbed(&world)?;
    }
    Ok(())
}

#[test]
fn root_nobody_else_has_the_address_of_a_pinned_host() -> Result<()> {
    let (world, thieves) = pinned()?;
    for (thief, gateway) in thieves.iter().zip([&world.a, &world.b]) {
        let before = gateway.drops("neighbour-spoofed")?;
        // It does not look whether somebody has them: duplicate address detection is off in namespaces.
        put_in_flat_network(thief, "eth0", HOST_A)?;
        for address in both(HOST_A) {
            announce(thief, address)?;
        }
        let object = format!("attachments.{}", thief.label());
        told(gateway, &object, "neighbour-spoofed", &text(thief.mac("eth0")?))?;
        let after = gateway.drops("neighbour-spoofed")?;
        ensure!(after >= before + 2, "{before}, {after} at {}", gateway.name());
        // Nobody who asks at this gateway is told of the thief.
        undisturbed(&world)?;
        let neighbours = gateway.facts()?["neighbours"].to_string();
        ensure!(!neighbours.contains(&text(thief.mac("eth0")?)), "{neighbours}");
    }
    // With another address it is a host like any other.
    let own = (std::net::Ipv4Addr::new(10, 20, 0, 27), "fd20::1b".parse()?);
    thieves[1].ip("addr flush dev eth0 scope global")?;
    // Its other routes went with its addresses.
    thieves[1].ip("-6 route del default")?;
    put_in_flat_network(&thieves[1], "eth0", own)?;
    wait_until(SOON, "an honest host to be heard", || ping(&thieves[1], HOST_A.0))
}

/// A host with this address asks for host B: the question carries what it claims.
fn announce(thief: &Ns, address: IpAddr) -> Result<()> {
    let to = both(HOST_B)[usize::from(address.is_ipv6())];
    let report = Ping::to(to).from(address).count(2).send(thief)?;
    ensure!(report.received == 0, "{} spoke as {address}: {}", thief.label(), report.text);
    Ok(())
}
