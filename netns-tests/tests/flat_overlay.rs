//! The flat network over WireGuard in user space: frames go to the engine whole, and what is on the wire is ordinary VXLAN in
//! ordinary WireGuard. Needs root.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] wto… (TAP) ═ watari-link ── WAN ── watari-link ═ wto… or wtwg… [gw-b] ═ VLAN 200 ─ host-b
//!                        │ frames of 64 KiB │                                │ with an overlay, or as anybody's │
//! ```

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::iperf::{Kind, iperf};
use netns_tests::ping::ping;
use netns_tests::topology::{HOST_A, HOST_B, Tunnel, VTEP_B, both};
use netns_tests::wait::patient;
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};

/// Bytes of one transfer, and datagrams a second, where a machine is not emulated.
const TRANSFER: usize = 24 << 20;
const DATAGRAMS_PER_S: u32 = 2000;
/// How long each measurement takes.
const MEASURED: Duration = Duration::from_secs(3);
/// What `watari-link` is told by the environment of its starter.
const WITHOUT: &str = "WATARI_LINK_WITHOUT";

/// How many times as slow as others this machine is.
fn slowness() -> u32 {
    u32::try_from(patient(Duration::from_secs(1)).as_secs()).unwrap_or(1)
}

/// Bytes of one transfer on this machine.
fn transfer_bytes() -> usize {
    TRANSFER / slowness().pow(2) as usize
}

/// Bytes that differ everywhere, so that any piece out of its place is seen.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1 << 40;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()
    };
    (0..length / 8).flat_map(next).collect()
}

/// Sends noise over TCP from one host to the other, and compares what arrives byte by byte.
fn transfer(from: &Ns, to: &Ns, address: IpAddr, seed: u64) -> Result<()> {
    let listener = to.run(|| TcpListener::bind((address, 0)))?;
    let port = listener.local_addr()?.port();
    let receiver = std::thread::spawn(move || -> Result<Vec<u8>> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(patient(SOON)))?;
        let mut arrived = Vec::with_capacity(transfer_bytes());
        stream.read_to_end(&mut arrived)?;
        Ok(arrived)
    });
    let sent = noise(seed, transfer_bytes());
    let mut stream = from
        .run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), patient(SOON)))
        .context("connect")?;
    stream.set_write_timeout(Some(patient(SOON)))?;
    stream.write_all(&sent)?;
    drop(stream);
    let arrived = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    ensure!(arrived == sent, "{} of {} bytes, or others", arrived.len(), sent.len());
    Ok(())
}

/// Bulk in both directions and over both families.
fn bulk(world: &World) -> Result<()> {
    let (a, b) = (&world.topology.a.host, &world.topology.b.host);
    for (number, (to_a, to_b)) in both(HOST_A).into_iter().zip(both(HOST_B)).enumerate() {
        transfer(a, b, to_b, number as u64).with_context(|| format!("to {to_b}"))?;
        transfer(b, a, to_a, number as u64 + 10).with_context(|| format!("to {to_a}"))?;
    }
    Ok(())
}

/// What the kernel counted at a device: packets and bytes that went to its reader, and that came from there.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Crossed {
    out: (u64, u64),
    back: (u64, u64),
}

impl Crossed {
    fn since(self, before: Self) -> Self {
        let less = |one: (u64, u64), other: (u64, u64)| (one.0 - other.0, one.1 - other.1);
        Self { out: less(self.out, before.out), back: less(self.back, before.back) }
    }
}

/// Counters of the gateway's one device whose name begins so; none without the device.
fn crossed(gateway: &Gateway, prefix: &str) -> Result<Option<Crossed>> {
    let links: Value = serde_json::from_str(&gateway.ns().exec("ip -s -j link show")?)?;
    let links = links.as_array().context("a list")?;
    let link = links.iter().find(|link| link["ifname"].as_str().is_some_and(|name| name.starts_with(prefix)));
    Ok(link.map(|link| {
        let count = |way: &str, what: &str| link["stats64"][way][what].as_u64().unwrap_or(0);
        let both = |way: &str| (count(way, "packets"), count(way, "bytes"));
        Crossed { out: both("tx"), back: both("rx") }
    }))
}

/// Waits until nothing is left to do at the gateway.
fn settled(gateway: &Gateway) -> Result<()> {
    wait_until(SOON, &format!("nothing to do at {}", gateway.name()), || {
        let plan = gateway.get("/api/v1/plan")?;
        ensure!(plan["plan"]["ops"].as_array().is_some_and(Vec::is_empty), "{plan:#}");
        Ok(())
    })
}

/// Waits until the gateway's datapath and engine have joined by the TAP, both ways.
fn joined(gateway: &Gateway) -> Result<()> {
    wait_until(SOON, &format!("the overlay of {}", gateway.name()), || {
        crossed(gateway, "wto")?.context("no TAP").map(drop)
    })?;
    settled(gateway)
}

fn start(without: [Option<&str>; 2], prepare: impl FnOnce(&mut Value)) -> Result<World> {
    let environments = without.map(|without| without.map(|list| vec![(WITHOUT, list)]).unwrap_or_default());
    let in_user_space = json!({ "wireguard_engine": "user" });
    let world = World::start_in(&[Tunnel::Wireguard], &in_user_space, environments, |_, document| {
        prepare(document);
        Ok(())
    })?;
    // Where a machine is slow, TCP would send two segments at a time.
    for host in [&world.topology.a.host, &world.topology.b.host] {
        host.exec("sysctl -q -w net.ipv4.tcp_min_tso_segs=16")?;
    }
    world.tunnel_is_up("ab-wg")?;
    world.hosts_meet()?;
    Ok(world)
}

#[test]
fn root_super_frames_cross_whole_between_two_engines() -> Result<()> {
    let world = start([None, None], |_| {})?;
    for gateway in [&world.a, &world.b] {
        joined(gateway)?;
    }
    let look = |gateway| Ok::<_, anyhow::Error>((crossed(gateway, "wto")?, crossed(gateway, "wtwg")?));
    let before = [look(&world.a)?, look(&world.b)?];
    bulk(&world)?;
    for (gateway, (tap, tun)) in [&world.a, &world.b].into_iter().zip(before) {
        let taken = crossed(gateway, "wto")?.context("TAP")?.since(tap.context("TAP")?);
        let beside = crossed(gateway, "wtwg")?.context("TUN")?.since(tun.context("TUN")?);
        println!("{}: TAP {taken:?}, TUN {beside:?}", gateway.name());
        for (packets, bytes) in [taken.out, taken.back] {
            // Half of the transfers, acknowledgements of the other half among them.
            ensure!(bytes > 2 * transfer_bytes() as u64, "{bytes} bytes by the TAP");
            ensure!(bytes > packets * 4000, "{packets} packets of {bytes} bytes: not whole");
        }
        ensure!(beside.out.1 < taken.out.1 / 5, "beside it went {} bytes", beside.out.1);
        for reason in ["vxlan-invalid", "vtep-not-bound", "rewrite-failed", "unknown-port"] {
            ensure!(gateway.drops(reason)? == 0, "{reason}: {}", gateway.drops(reason)?);
        }
    }
    datagrams(&world)?;
    a_trace_says_so(&world)
}

/// Datagrams in both directions: all arrive, none out of its turn. An emulated machine may stand still for as long as a dead
/// path does, and lose some.
fn datagrams(world: &World) -> Result<()> {
    let (a, b) = (&world.topology.a.host, &world.topology.b.host);
    for (from, to, address) in [(a, b, IpAddr::from(HOST_B.0)), (b, a, HOST_A.1.into())] {
        let rate_per_s = DATAGRAMS_PER_S / slowness().pow(2);
        let spec = FlowSpec { rate_per_s, payload_bytes: 1200, ..FlowSpec::to(SocketAddr::new(address, 0)) };
        let flow = Flow::start(from, to, spec)?;
        flow.wait_for(3000, SOON)?;
        let report = flow.stop()?;
        println!("{report:?}");
        let lost_max = if slowness() > 1 { report.sent / 50 } else { 0 };
        ensure!(report.lost <= lost_max && report.reordered == 0 && report.duplicates == 0, "{report:?}");
    }
    Ok(())
}

fn a_trace_says_so(world: &World) -> Result<()> {
    let mac = |ns: &Ns| -> Result<String> { Ok(ns.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":")) };
    let (own, far) = (mac(&world.topology.a.host)?, mac(&world.topology.b.host)?);
    let (source, destination) = (HOST_A.0.to_string(), HOST_B.0.to_string());
    let told = world.a.cli(&[
        "trace",
        "--attachment",
        "host-a",
        "--src-mac",
        &own,
        "--src",
        &source,
        "--dst-mac",
        &far,
        "--dst",
        &destination,
    ])?;
    ensure!(told.contains("as an inner frame to the WireGuard engine by wto"), "{told}");
    Ok(())
}

#[test]
fn root_the_far_end_need_not_know_of_it() -> Result<()> {
    // There VXLAN crosses an ordinary TUN and the kernel's VXLAN device: what arrives is what any VTEP sends.
    let world = start([None, Some("overlay-tap")], |_| {})?;
    joined(&world.a)?;
    ensure!(crossed(&world.b, "wto")?.is_none(), "a TAP that was not to be");
    let before = crossed(&world.a, "wto")?.context("TAP")?;
    bulk(&world)?;
    let taken = crossed(&world.a, "wto")?.context("TAP")?.since(before);
    println!("TAP {taken:?}");
    ensure!(taken.out.1 > taken.out.0 * 4000, "not whole on its way out: {taken:?}");
    // Whether packets wait there to be put together is a matter of speed.
    ensure!(slowness() > 1 || taken.back.1 > taken.back.0 * 2000, "not whole on its way in: {taken:?}");
    datagrams(&world)
}

#[test]
fn root_without_it_all_goes_as_before() -> Result<()> {
    let world = start([Some("overlay-tap"), Some("tun-tso")], |_| {})?;
    for gateway in [&world.a, &world.b] {
        ensure!(crossed(gateway, "wto")?.is_none(), "a TAP that was not to be at {}", gateway.name());
    }
    bulk(&world)?;
    drop(world);
    let world = start([None, None], |document| {
        document["fabric"]["encapsulation"] = json!("device");
    })?;
    settled(&world.a)?;
    settled(&world.b)?;
    ensure!(crossed(&world.a, "wto")?.is_none(), "the document says that the device encapsulates");
    datagrams(&world)
}

#[test]
fn root_an_interface_that_vanishes_and_a_brain_that_is_away_are_lived_with() -> Result<()> {
    let mut world = start([None, None], |_| {})?;
    joined(&world.a)?;
    joined(&world.b)?;
    let (a, b) = (world.topology.a.host.clone(), world.topology.b.host.clone());
    // The brain is not needed.
    world.a.kill9()?;
    let flow = Flow::start(&a, &b, FlowSpec::to(SocketAddr::new(HOST_B.0.into(), 0)))?;
    flow.wait_for(400, SOON)?;
    transfer(&b, &a, HOST_A.0.into(), 3)?;
    world.a.launch()?;
    let first = world.a.first_plan_ops()?;
    ensure!(first == 0, "{first} ops: {:#}", world.a.get("/api/v1/events")?);
    flow.wait_for(200, SOON)?;
    let report = flow.stop()?;
    ensure!(report.lost == 0 && report.reordered == 0, "{report:?}");
    // Somebody deletes the TAP: traffic is back by the TUN, and then by a TAP again.
    let links = world.a.ns().exec("ip -o link show")?;
    let tap = links.split_whitespace().find(|word| word.starts_with("wto")).context("TAP")?;
    let tap = tap.trim_end_matches(':').to_owned();
    world.a.ns().ip(&format!("link delete {tap}"))?;
    wait_until(SOON, "host-a to reach host-b", || ping(&a, HOST_B.0))?;
    wait_until(SOON, "another TAP", || crossed(&world.a, "wto")?.context("no TAP").map(drop))?;
    joined(&world.a)?;
    let before = crossed(&world.a, "wto")?.context("TAP")?;
    transfer(&a, &b, HOST_B.0.into(), 4)?;
    let taken = crossed(&world.a, "wto")?.context("TAP")?.since(before);
    ensure!(taken.out.1 > transfer_bytes() as u64 / 2, "it is used again: {taken:?}");
    Ok(())
}

/// One TCP stream from host-a to host-b with an overlay and without, and from gateway to gateway without VXLAN, in turns:
/// `cargo test -p netns-tests --test flat_overlay -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement: run by hand on a quiet machine"]
fn root_measure_whole_frames_against_single_ones() -> Result<()> {
    let whole = start([None, None], |_| {})?;
    let single = start([Some("overlay-tap"), Some("overlay-tap")], |_| {})?;
    joined(&whole.a)?;
    joined(&whole.b)?;
    let kind = Kind::Tcp { streams: 1 };
    for round in 0..4 {
        let mut figures = Vec::new();
        for (name, world) in [("whole", &whole), ("single", &single)] {
            let (from, to) = (&world.topology.a.host, &world.topology.b.host);
            figures.push((name, iperf(from, to, HOST_B.0.into(), kind, MEASURED)?.mbps));
        }
        let (from, to) = (&whole.topology.a.gateway, &whole.topology.b.gateway);
        figures.push(("no VXLAN, no hosts", iperf(from, to, VTEP_B.into(), kind, MEASURED)?.mbps));
        let line: Vec<String> = figures.iter().map(|(name, mbps)| format!("{name} {mbps:.0}")).collect();
        println!("round {round}, Mb/s: {}", line.join(", "));
    }
    Ok(())
}
