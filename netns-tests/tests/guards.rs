//! Guards of an attachment that hold for whoever is behind it, with real hosts there: a router that nobody asked for,
//! more stations than were agreed, a storm. Each with the same hosts and without the guard, where it does harm.
//! Needs root.
//!
//! ```text
//!  device .25 ─ access0 ─ guard ┐
//!  host-a .11 ─ VLAN 100 ───────┴═ [gw-a] ═ VLAN 900 ═ [gw-b] ═ VLAN 200 ─ host-b .12
//! ```

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::links::veth;
use netns_tests::packet::{Capture, Injector, build};
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{HOST_A, HOST_B, Tunnel, put_in_flat_network};
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, Process, World, registry, wait_until};
use serde_json::{Value, json};

const DEVICE: (Ipv4Addr, Ipv6Addr) = host(25);
const OBJECT: &str = "attachments.device";
/// IEEE 802 local experimental EtherType: hosts neither answer it nor send it.
const EXPERIMENTAL: u16 = 0x88b5;

const fn host(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(10, 20, 0, last), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, last as u16))
}

/// Both sites, and a host behind `access0` of gateway A under this guard.
fn guarded(guard: &Value) -> Result<(World, Ns)> {
    let ns = Ns::new("device")?;
    let world = World::start_with(&[Tunnel::Direct], |topology, document| {
        veth(&topology.a.gateway, "access0", &ns, "eth0")?;
        put_in_flat_network(&ns, "eth0", DEVICE)?;
        document["attachments"]["device"] =
            json!({ "gateway": "gw-a", "segment": "flat", "interface": "access0", "guard": guard });
        // So that no limit but the guard's is reached.
        document["segments"]["flat"]["flood_rate"] = json!(100_000);
        Ok(())
    })?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    Ok((world, ns))
}

/// Another guard for the attachment, by a change of the document.
fn change_guard(world: &mut World, guard: &Value) -> Result<()> {
    world.document["attachments"]["device"]["guard"] = guard.clone();
    for gateway in [&world.a, &world.b] {
        gateway.apply(&world.document)?;
    }
    world.a.settle()
}

/// The operator is told by an event of the attachment.
fn told(gateway: &Gateway, reason: &str) -> Result<()> {
    wait_until(SOON, &format!("an event of {reason}"), || {
        let events = gateway.events_after(0)?;
        let is_it = |event: &&Value| {
            let says = event["message"].as_str().unwrap_or_default();
            event["kind"] == "refused" && event["object"] == OBJECT && says.starts_with(reason)
        };
        ensure!(events.iter().any(|event| is_it(&event)), "{events:#?}");
        Ok(())
    })
}

fn dropped(gateway: &Gateway, reason: &str, least: u64) -> Result<()> {
    wait_until(SOON, &format!("{least} drops of {reason}"), || {
        let count = gateway.drops(reason)?;
        ensure!(count >= least, "{count}");
        Ok(())
    })
}

/// radvd advertises itself as default router of a prefix that nobody here has.
fn radvd(ns: &Ns) -> Result<Process> {
    let dir = registry::scratch_dir("radvd")?;
    let config = dir.join("radvd.conf");
    let text = "interface eth0 {\n  AdvSendAdvert on;\n  MinRtrAdvInterval 3;\n  MaxRtrAdvInterval 4;\n  \
                prefix 2001:db8:bad::/64 { };\n};\n";
    fs::write(&config, text)?;
    ns.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    let mut command = ns.command("radvd");
    command.args(["--nodaemon", "--logmethod", "stderr", "--configtest", "--config"]).arg(&config);
    netns_tests::process::output(&mut command, SOON)?;
    let mut command = ns.command("radvd");
    command.args(["--nodaemon", "--logmethod", "stderr", "--config"]).arg(&config);
    command.arg("--pidfile").arg(dir.join("radvd.pid"));
    Process::start(ns, command)
}

/// The routers that a host has believed.
fn believed(ns: &Ns) -> Result<Vec<Value>> {
    ns.ip_json("-6 route show default proto ra")
}

fn link_local(ns: &Ns) -> Result<String> {
    let links = ns.ip_json("-6 addr show dev eth0 scope link")?;
    // What the filter leaves out is there as an empty object.
    let mut addresses = links.iter().filter_map(|link| link["addr_info"].as_array()).flatten();
    let address = addresses.find_map(|address| address["local"].as_str());
    Ok(address.with_context(|| format!("no link-local address: {links:#?}"))?.to_owned())
}

#[test]
fn root_no_router_speaks_behind_a_guard() -> Result<()> {
    let (mut world, ns) = guarded(&json!({ "routers": "deny" }))?;
    let _radvd = radvd(&ns)?;
    dropped(&world.a, "guard-router", 2)?;
    told(&world.a, "guard-router")?;
    for host in [&world.topology.a.host, &world.topology.b.host] {
        ensure!(believed(host)?.is_empty(), "{}: {:#?}", host.label(), believed(host)?);
    }
    // What else it says is heard.
    ping(&ns, HOST_B.0)?;
    ping(&ns, HOST_B.1)?;
    change_guard(&mut world, &json!({ "routers": "allow" }))?;
    let own = link_local(&ns)?;
    for host in [&world.topology.a.host, &world.topology.b.host] {
        wait_until(SOON, &format!("{} to believe it", host.label()), || {
            let routes = believed(host)?;
            ensure!(routes.iter().any(|route| route["gateway"] == own.as_str()), "{routes:#?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// A station of its own on the wire of `parent`: a macvlan, as of a virtual machine.
fn child(parent: &Ns, number: u8) -> Result<Ns> {
    let ns = Ns::new(&format!("child{number}"))?;
    let name = ns.name();
    parent.ip(&format!("link add child{number} link eth0 type macvlan mode bridge"))?;
    // `ip` of a namespace sees the names under /run/netns, which is where `name` is.
    parent.ip(&format!("link set child{number} netns {name}"))?;
    ns.ip(&format!("link set child{number} name eth0"))?;
    ns.ip("link set eth0 up")?;
    put_in_flat_network(&ns, "eth0", host(30 + number))?;
    Ok(ns)
}

fn stations(gateway: &Gateway) -> Result<u64> {
    gateway.facts()?["attachments"]["device"]["macs"].as_u64().context("a number of stations")
}

#[test]
fn root_an_attachment_has_no_more_stations_than_agreed() -> Result<()> {
    let (mut world, ns) = guarded(&json!({ "macs_max": 3 }))?;
    ping(&ns, HOST_B.0)?;
    let mut known = vec![ns.clone()];
    for number in 1..=2 {
        known.push(child(&ns, number)?);
    }
    for ns in &known {
        wait_until(SOON, &format!("{} to be known", ns.label()), || ping(ns, HOST_B.0))?;
    }
    ensure!(world.a.drops("mac-limit")? == 0, "the limit is not yet exceeded");
    let before = world.a.port("access0")?.drops;
    let more = [child(&ns, 3)?, child(&ns, 4)?];
    for ns in &more {
        for address in [HOST_A.0, HOST_B.0] {
            let report = Ping::to(address.into()).count(3).send(ns)?;
            ensure!(report.received == 0, "{} is one too many: {}", ns.label(), report.text);
        }
    }
    dropped(&world.a, "mac-limit", 6)?;
    told(&world.a, "mac-limit")?;
    ensure!(world.a.port("access0")?.drops > before, "not counted at its port");
    ensure!(stations(&world.a)? == 3, "{} stations", stations(&world.a)?);
    // They are known nowhere, and those that were there first go on.
    for ns in &more {
        let mac = ns.mac("eth0")?.map(|octet| format!("{octet:02x}")).join(":");
        for gateway in [&world.a, &world.b] {
            let macs = gateway.facts()?["macs"].to_string();
            ensure!(!macs.contains(&mac), "{mac} at {}: {macs}", gateway.name());
        }
    }
    for ns in &known {
        let report = Ping::to(HOST_B.0.into()).count(10).send(ns)?;
        ensure!(report.received == 10, "{}: {}", ns.label(), report.text);
    }
    // More were agreed since.
    change_guard(&mut world, &json!({ "macs_max": 5 }))?;
    for ns in &more {
        wait_until(SOON, &format!("{} to be let in", ns.label()), || ping(ns, HOST_B.0))?;
    }
    wait_until(SOON, "five stations", || {
        let count = stations(&world.a)?;
        ensure!(count == 5, "{count}");
        Ok(())
    })
}

/// What came of a storm.
struct Storm {
    sent: u64,
    seconds: f64,
}

/// Between two frames of the storm: some thousand a second.
const PAUSE: Duration = Duration::from_micros(300);

/// Broadcasts for as long as the pings to the far host take, all of which come back.
fn storm(ns: &Ns) -> Result<Storm> {
    let wire = Injector::open(ns, "eth0")?;
    let frame = build::ethernet([0xff; 6], ns.mac("eth0")?, EXPERIMENTAL, &[0x5a; 46]);
    let end = AtomicBool::new(false);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let raging = scope.spawn(|| -> Result<u64> {
            let mut sent = 0;
            while !end.load(Ordering::SeqCst) {
                wire.send(&frame)?;
                sent += 1;
                std::thread::sleep(PAUSE);
            }
            Ok(sent)
        });
        let report = Ping::to(HOST_B.0.into()).count(30).send(ns);
        end.store(true, Ordering::SeqCst);
        let sent = raging.join().expect("the storm does not panic")?;
        let (seconds, report) = (start.elapsed().as_secs_f64(), report?);
        ensure!(report.received == 30, "unicast goes on: {}", report.text);
        Ok(Storm { sent, seconds })
    })
}

#[test]
fn root_a_storm_ends_at_its_attachment() -> Result<()> {
    /// Frames a second, and the burst that goes with a small rate.
    const RATE: u32 = 50;
    const BURST: u32 = 32;
    let (mut world, ns) = guarded(&json!({ "storm_rate": RATE }))?;
    wait_until(SOON, "the device to reach host-b", || ping(&ns, HOST_B.0))?;
    // From here on it broadcasts nothing but the storm: IPv6 would, now and then.
    ns.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1")?;
    let from = ns.mac("eth0")?;
    let heard = move |frame: &[u8]| frame[6..12] == from && frame.ends_with(&[0x5a; 46]);
    let far = Capture::start(&world.topology.b.host, "eth0", heard)?;
    let near = Capture::start(&world.topology.a.host, "eth0", heard)?;
    let before = world.a.drops("storm-rate")?;
    let limited = storm(&ns)?;
    ensure!(limited.sent > 4 * u64::from(BURST), "{} are no storm", limited.sent);
    wait_until(SOON, "every frame to be heard or counted", || {
        let (dropped, arrived) = (world.a.drops("storm-rate")? - before, far.count());
        ensure!(dropped + arrived == limited.sent, "{arrived} + {dropped}, sent {}", limited.sent);
        Ok(())
    })?;
    let most = f64::from(BURST) + f64::from(RATE) * limited.seconds + 1.0;
    let arrived = far.count();
    ensure!(arrived as f64 <= most && arrived + 1 >= u64::from(BURST), "{arrived}, {most} at most");
    ensure!(near.count() == arrived, "{} at host-a, {arrived} at host-b", near.count());
    told(&world.a, "storm-rate")?;
    change_guard(&mut world, &json!({}))?;
    let free = storm(&ns)?;
    wait_until(SOON, "every frame to be heard", || {
        ensure!(far.count() == arrived + free.sent, "{} of {}", far.count() - arrived, free.sent);
        Ok(())
    })
}
