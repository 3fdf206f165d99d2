//! Where the far gateway is reached: several places of which one dies, and names that a DNS server knows late and changes.
//! Needs root and `dnsmasq`.
//!
//! ```text
//!              ┌── IPv4 198.18.1.2 ─ ✂ ─ 198.18.2.2 ──┐
//!  host-a ═ [gw-a] ═════ ab-wg, one tunnel ═════ [gw-b] ═ host-b
//!              └── IPv6 fd18:1::2 ─────── fd18:2::2 ──┘
//!                        [wan] dnsmasq
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::topology::{HOST_A, HOST_B, Tunnel};
use netns_tests::world::SOON;
use netns_tests::{Gateway, World, wait_until};
use serde_json::{Value, json};

/// A dead place is left within 700 ms; what is left is for a loaded machine.
const GAP_MAX: Duration = Duration::from_millis(2_500);
const B_V4: &str = "198.18.2.2:51820";
const B_V6: &str = "[fd18:2::2]:51820";

fn places(gateway: &Gateway) -> Result<Vec<Value>> {
    let object = gateway.object("tunnels.ab-wg")?;
    Ok(object["endpoints"].as_array().cloned().unwrap_or_default())
}

fn used(gateway: &Gateway) -> Result<String> {
    let places = places(gateway)?;
    let used = places.iter().find(|place| place["in_use"] == true);
    Ok(used.and_then(|place| place["endpoint"].as_str()).context("none is in use")?.to_owned())
}

fn all_measured(gateway: &Gateway) -> Result<()> {
    let places = places(gateway)?;
    let good =
        |place: &Value| place["up"] == true && place["rtt_us"].is_u64() && place["loss_percent"].is_f64();
    ensure!(places.len() == 2 && places.iter().all(good), "{places:#?}");
    Ok(())
}

#[test]
fn root_a_place_that_dies_is_left_for_the_other_and_the_tunnel_stays_up() -> Result<()> {
    let world = World::start_with(&[Tunnel::Wireguard], |_, document| {
        document["tunnels"]["ab-wg"]["wireguard"]["endpoints"] = json!({
            "gw-a": ["198.18.1.2:51820", "[fd18:1::2]:51820"], "gw-b": [B_V4, B_V6],
        });
        Ok(())
    })?;
    world.tunnel_is_up("ab-wg")?;
    world.hosts_meet()?;
    let gateways = [&world.a, &world.b];
    for gateway in gateways {
        wait_until(SOON, "both places to be measured", || all_measured(gateway))?;
    }
    let wan = &world.topology.wan;
    // Whichever answered first is in use; what follows begins with IPv4.
    wan.exec("sysctl -qw net.ipv6.conf.all.forwarding=0")?;
    for gateway in gateways {
        wait_until(SOON, "IPv4 to be used", || {
            let used = used(gateway)?;
            ensure!(!used.starts_with('['), "{used}");
            Ok(())
        })?;
    }
    wan.exec("sysctl -qw net.ipv6.conf.all.forwarding=1")?;
    for gateway in gateways {
        wait_until(SOON, "IPv6 to be there again", || all_measured(gateway))?;
    }

    let (a, b) = (&world.topology.a.host, &world.topology.b.host);
    let there = Flow::start(a, b, FlowSpec::to(SocketAddr::new(HOST_B.0.into(), 9000)))?;
    let back = Flow::start(b, a, FlowSpec::to(SocketAddr::new(HOST_A.1.into(), 9000)))?;
    for flow in [&there, &back] {
        flow.wait_for(100, SOON)?;
    }
    let changes = |gateway: &Gateway| -> Result<usize> {
        let events = gateway.events_after(0)?;
        Ok(events.iter().filter(|event| event.to_string().contains("tunnels.ab-wg")).count())
    };
    let before = [changes(&world.a)?, changes(&world.b)?];
    wan.exec("sysctl -qw net.ipv4.ip_forward=0")?;
    for gateway in gateways {
        wait_until(SOON, "IPv6 to be used", || {
            let used = used(gateway)?;
            ensure!(used.starts_with('['), "{used}");
            Ok(())
        })?;
    }
    for flow in [&there, &back] {
        flow.wait_for(200, SOON)?;
    }
    for (way, flow) in [("there", there), ("back", back)] {
        let report = flow.stop()?;
        println!("{way}: {report:?}");
        ensure!(report.longest_gap < GAP_MAX, "{way}: {report:?}");
    }
    let after = [changes(&world.a)?, changes(&world.b)?];
    println!("events of the tunnel: {before:?}, {after:?}");
    wan.exec("sysctl -qw net.ipv4.ip_forward=1")?;
    for gateway in gateways {
        wait_until(SOON, "IPv4 to be there again", || all_measured(gateway))?;
        let used = used(gateway)?;
        ensure!(used.starts_with('['), "one that is no better is no reason to move: {used}");
    }
    Ok(())
}

/// dnsmasq in the WAN, with these lines as its hosts file.
fn hosts(path: &std::path::Path, lines: &[&str]) -> Result<()> {
    Ok(std::fs::write(path, lines.join("\n") + "\n")?)
}

#[test]
fn root_a_name_is_resolved_late_and_again_and_keeps_nothing_else_waiting() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (resolv, known) = (folder.path().join("resolv.conf"), folder.path().join("hosts"));
    std::fs::write(&resolv, "nameserver 198.18.1.1\noptions timeout:1 attempts:1\n")?;
    hosts(&known, &["198.18.2.2 gw-b.test", "fd18:2::2 gw-b.test"])?;
    let world = World::start_with(&[Tunnel::Wireguard, Tunnel::Direct], |topology, document| {
        let gateway = &topology.a.gateway;
        gateway.exec(&format!("mount --bind {} /etc/resolv.conf", resolv.display()))?;
        let endpoints = &mut document["tunnels"]["ab-wg"]["wireguard"]["endpoints"];
        *endpoints = json!({ "gw-b": "gw-b.test:51820" });
        document["tunnels"]["ab-wg"]["wireguard"]["listen_ports"] = json!({ "gw-a": 51820 });
        Ok(())
    })?;
    // No server answers: everything else is there all the same.
    world.tunnel_is_up("ab-direct")?;
    wait_until(SOON, "the failure to be told", || {
        let name = world.a.object("tunnels.ab-wg")?["names"]["gw-b.test"].clone();
        ensure!(name["error"].is_string() && name["addresses"] == json!([]), "{name}");
        Ok(())
    })?;
    let server = format!(
        "dnsmasq --no-daemon --conf-file=/dev/null --no-resolv --no-hosts --addn-hosts={} --port=53 \
         --listen-address=198.18.1.1 --bind-interfaces --user=root --local-ttl=1",
        known.display()
    );
    let mut dnsmasq = world.topology.wan.spawn(&server)?;
    world.tunnel_is_up("ab-wg")?;
    let addresses = |expected: Value| {
        wait_until(SOON * 3, "the name's addresses", || {
            let object = world.a.object("tunnels.ab-wg")?;
            let name = &object["names"]["gw-b.test"];
            ensure!(name["addresses"] == expected && name["age_s"].is_u64(), "{object:#}");
            ensure!(name["error"].is_null(), "{object:#}");
            Ok(())
        })
    };
    addresses(json!(["198.18.2.2", "fd18:2::2"]))?;
    ensure!(places(&world.a)?.len() == 2, "{:#?}", places(&world.a)?);

    // The far gateway moves to another address, and nothing reaches its former ones.
    let gw_b = &world.topology.b.gateway;
    gw_b.ip("link set uplink down")?;
    hosts(&known, &["fd18:2::7 gw-b.test"])?;
    dnsmasq.signal(nix::sys::signal::Signal::SIGHUP)?;
    addresses(json!(["fd18:2::7"]))?;
    gw_b.ip("link set uplink up")?;
    gw_b.address("uplink", &["fd18:2::7/64"])?;
    gw_b.route("default", "fd18:2::1")?;
    world.tunnel_is_up("ab-wg")?;
    ensure!(used(&world.a)? == "[fd18:2::7]:51820", "{:#?}", places(&world.a)?);
    dnsmasq.kill9()?;
    Ok(())
}
