//! Loops: one bridge behind both gateways on one VLAN, and two VLANs of one gateway behind one bridge. One way stays
//! open, nothing goes round, nobody is heard twice, and what was cut comes back when the loop is gone. Needs root.
//!
//! ```text
//!                  host-j .13
//!                      │ VLAN 400
//!              ┌───[ joint ]───┐            a bridge that passes tagged frames
//!            trunk2          trunk2
//!  host-a ─ 100 [gw-a]══════[gw-b] 200 ─ host-b        trunk0 [gw-a] 401 ─[ patch ]─ 402 trunk0 [gw-a]
//! ```
//! `WATARI_LONG=1` watches the counters for a minute instead of ten seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::links::veth;
use netns_tests::packet::{Capture, build, inject, vid};
use netns_tests::ping::ping;
use netns_tests::tagged::Tagged;
use netns_tests::topology::{HOST_A, HOST_B, Tunnel, both, put_in_flat_network};
use netns_tests::wait::holds_for;
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};

const VID_JOINT: u16 = 400;
const HOST_J: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 20, 0, 13), Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x0d));
/// The second local experimental EtherType of IEEE 802 (the first is that of beacons).
const EXPERIMENTAL: u16 = 0x88b6;
/// A loop is cut within this time.
const CUT_WITHIN: Duration = Duration::from_secs(1);
/// Frames that idle hosts and gateways may send in a second on their own: beacons, and what kernels ask now and then.
const IDLE_PER_S: u64 = 20;

/// The scene with the bridge `joint`, which is connected to site A alone.
struct Joint {
    world: World,
    joint: Ns,
    host: Ns,
    _tag: Tagged,
}

impl Joint {
    fn build() -> Result<Self> {
        let (joint, host) = (Ns::new("joint")?, Ns::new("host-j")?);
        let world = World::start_with(&[Tunnel::Direct], |topology, document| {
            for (site, end) in [(&topology.a, "site-a"), (&topology.b, "site-b")] {
                veth(&site.gateway, "trunk2", &joint, end)?;
            }
            veth(&host, "eth0", &joint, "host")?;
            joint.bridge("br0", &["site-a", "host"])?;
            for letter in ["a", "b"] {
                let gateway = format!("gw-{letter}");
                document["gateways"][&gateway]["trunks"] = json!(["trunk0", "trunk1", "trunk2"]);
                document["attachments"][format!("joint-{letter}")] = json!({
                    "gateway": gateway, "segment": "flat", "vlan": { "trunk": "trunk2", "vid": VID_JOINT },
                });
            }
            Ok(())
        })?;
        let tag = Tagged::attach(&host, "eth0", VID_JOINT)?;
        put_in_flat_network(&host, "eth0", HOST_J)?;
        world.tunnel_is_up("ab-direct")?;
        world.hosts_meet()?;
        Ok(Self { world, joint, host, _tag: tag })
    }

    /// A site's end goes into the bridge, or out of it.
    fn connect(&self, end: &str, connected: bool) -> Result<()> {
        let master = if connected { "master br0" } else { "nomaster" };
        self.joint.ip(&format!("link set {end} {master}")).map(drop)
    }

    fn gateways(&self) -> [(&Gateway, &'static str); 2] {
        [(&self.world.a, "attachments.joint-a"), (&self.world.b, "attachments.joint-b")]
    }

    /// All three hosts reach each other.
    fn all_meet(&self) -> Result<()> {
        let (a, b) = (&self.world.topology.a.host, &self.world.topology.b.host);
        for (from, to) in
            [(a, HOST_J), (b, HOST_J), (a, HOST_B), (b, HOST_A), (&self.host, HOST_A), (&self.host, HOST_B)]
        {
            for address in both(to) {
                wait_until(SOON, &format!("{} to reach {address}", from.label()), || ping(from, address))?;
            }
        }
        Ok(())
    }

    /// A broadcast of each host arrives at each other one once, and at itself never.
    fn broadcasts_arrive_once(&self) -> Result<()> {
        let hosts = [&self.world.topology.a.host, &self.world.topology.b.host, &self.host];
        for (number, from) in hosts.into_iter().enumerate() {
            let mac = from.mac("eth0")?;
            // The bridges pass frames of all VLANs to all: a host hears its own, without a tag.
            let mine = move |frame: &[u8]| {
                vid(frame).is_none_or(|vid| [100, 200, VID_JOINT].contains(&vid))
                    && frame[6..12] == mac
                    && frame.windows(2).take(18).any(|bytes| bytes == EXPERIMENTAL.to_be_bytes())
            };
            let captures = hosts.map(|host| Capture::start(host, "eth0", mine));
            let captures = captures.into_iter().collect::<Result<Vec<_>>>()?;
            for _ in 0..10 {
                inject(from, "eth0", &build::ethernet([0xff; 6], mac, EXPERIMENTAL, &[7; 100]))?;
            }
            let counts = || captures.iter().map(Capture::count).collect::<Vec<_>>();
            let expected: Vec<u64> = (0..3).map(|n| if n == number { 0 } else { 10 }).collect();
            let what = format!("broadcasts of {}", from.label());
            wait_until(SOON, &what, || {
                let counts = counts();
                ensure!(counts == expected, "{counts:?}");
                Ok(())
            })?;
            holds_for(Duration::from_millis(500), &what, || counts() == expected)?;
        }
        Ok(())
    }

    /// Numbered datagrams between sites and bridge: all arrive, once.
    fn nothing_is_lost_or_doubled(&self) -> Result<()> {
        let (a, b) = (&self.world.topology.a.host, &self.world.topology.b.host);
        let pairs = [(a, b, HOST_B), (b, &self.host, HOST_J), (&self.host, a, HOST_A)];
        let flows = pairs.map(|(from, to, address)| {
            Flow::start(from, to, FlowSpec::to(SocketAddr::new(IpAddr::V4(address.0), 9000)))
        });
        for flow in flows {
            let flow = flow?;
            flow.wait_for(400, SOON)?;
            let report = flow.stop()?;
            ensure!(report.lost == 0 && report.duplicates == 0 && report.refused == 0, "{report:?}");
        }
        Ok(())
    }

    /// Nothing goes round: the counters of both ends of the loop stand still, beacons apart.
    fn is_quiet(&self, time: Duration) -> Result<()> {
        let port = format!("trunk2.{VID_JOINT}");
        let read = || {
            let counted = self.gateways().map(|(gateway, _)| gateway.port(&port));
            counted.into_iter().map(|p| p.map(|p| p.rx_packets + p.tx_packets)).sum::<Result<u64>>()
        };
        // The facts are some way behind the wire: what went before is to be counted first.
        let (mut before, mut began) = (read()?, Instant::now());
        wait_until(SOON, "the counters to come to rest", || {
            let now = read()?;
            if now - before > 2 * IDLE_PER_S * 3 {
                (before, began) = (now, Instant::now());
            }
            ensure!(began.elapsed() > Duration::from_millis(2500), "they run");
            Ok(())
        })?;
        (before, began) = (read()?, Instant::now());
        let mut last = before;
        holds_for(time, "the counters stand still", || {
            last = read()?;
            let allowed = 2 * IDLE_PER_S * (began.elapsed().as_secs() + 2);
            ensure!(last - before <= allowed, "{} frames in {:?}", last - before, began.elapsed());
            Ok(())
        })?;
        println!("{} frames in {time:?} at both ends of the loop, beacons among them", last - before);
        Ok(())
    }
}

fn is_blocked(gateway: &Gateway, attachment: &str) -> Result<bool> {
    let object = gateway.object(attachment)?;
    let reason = object["reason"].as_str().unwrap_or_default();
    Ok(object["state"] == "down" && reason.starts_with("blocked: "))
}

/// The first event of a kind after `after`.
fn event(gateway: &Gateway, after: u64, kind: &str) -> Result<Option<Value>> {
    Ok(gateway.events_after(after)?.into_iter().find(|event| event["kind"] == kind))
}

fn watched() -> Duration {
    Duration::from_secs(if std::env::var("WATARI_LONG").is_ok_and(|long| long == "1") { 60 } else { 10 })
}

#[test]
fn root_one_vlan_behind_two_gateways_has_one_way_open() -> Result<()> {
    let mut joint = Joint::build()?;
    joint.all_meet()?;
    let seen = [joint.world.a.last_event()?, joint.world.b.last_event()?];
    joint.connect("site-b", true)?;
    let joined = Instant::now();
    let loser = wait_until(SOON, "one of the two to be blocked", || -> Result<usize> {
        let blocked = joint.gateways().map(|(gateway, attachment)| is_blocked(gateway, attachment));
        let [a, b] = blocked;
        match (a?, b?) {
            (true, false) => Ok(0),
            (false, true) => Ok(1),
            other => Err(anyhow::anyhow!("{other:?}")),
        }
    })?;
    let cut = joined.elapsed();
    println!("the loop was cut and reported after {} ms", cut.as_millis());
    ensure!(cut <= CUT_WITHIN, "after {cut:?}");
    let (gateway, attachment) = joint.gateways()[loser];
    let (winner, won) = joint.gateways()[1 - loser];
    let reason = gateway.object(attachment)?["reason"].clone();
    ensure!(reason == format!("blocked: loop with gateway {} ({won}, VNI 1000)", winner.name()), "{reason}");
    let shown = gateway.cli(&["status"])?;
    ensure!(shown.contains("blocked: loop with gateway"), "{shown}");
    let told = wait_until(SOON, "the event", || event(gateway, seen[loser], "loop-blocked").transpose())??;
    ensure!(told["object"] == attachment, "{told}");
    wait_until(SOON, "the other to be told", || event(winner, seen[1 - loser], "loop-seen").transpose())??;
    joint.all_meet()?;
    joint.broadcasts_arrive_once()?;
    joint.nothing_is_lost_or_doubled()?;
    joint.is_quiet(watched())?;

    brains_come_and_go(&mut joint, loser)?;

    let (gateway, attachment) = joint.gateways()[loser];
    // host-j stays with the one that was blocked: what the other one has learnt of it is not true any more.
    let before = gateway.last_event()?;
    joint.connect(["site-b", "site-a"][loser], false)?;
    let separated = Instant::now();
    wait_until(SOON, "the blocked one to be released", || gateway.wait_for_state(attachment, "up"))?;
    println!("released {} ms after the loop was gone", separated.elapsed().as_millis());
    wait_until(SOON, "the event", || event(gateway, before, "loop-released").transpose())??;
    joint.all_meet()
}

/// The one that lost stays blocked while the winner's brain is away, and while its own is, and after.
fn brains_come_and_go(joint: &mut Joint, loser: usize) -> Result<()> {
    for killed in [1 - loser, loser] {
        let (gateway, name) = match killed {
            0 => (&mut joint.world.a, "gw-a"),
            _ => (&mut joint.world.b, "gw-b"),
        };
        gateway.kill9()?;
        let (other, attachment) = joint.gateways()[1 - killed];
        let kept = is_blocked(other, attachment)?;
        holds_for(Duration::from_secs(5), &format!("all as it was without the brain of {name}"), || {
            ensure!(is_blocked(other, attachment)? == kept, "{}", other.object(attachment)?);
            Ok(())
        })?;
        joint.broadcasts_arrive_once()?;
        let gateway = if killed == 0 { &mut joint.world.a } else { &mut joint.world.b };
        gateway.launch()?;
        let first = gateway.first_plan_ops()?;
        ensure!(first == 0, "{first} ops of {name}: {:#}", gateway.get("/api/v1/events")?);
        let (gateway, attachment) = joint.gateways()[killed];
        let state = if killed == loser { "down" } else { "up" };
        gateway.wait_for_state(attachment, state)?;
        joint.broadcasts_arrive_once()?;
    }
    Ok(())
}

#[test]
fn root_two_vlans_of_one_gateway_behind_one_bridge_have_one_way_open() -> Result<()> {
    let (patch, host) = (Ns::new("patch")?, Ns::new("host-j")?);
    let (topology, gateway, _) = world::single(&[], |topology, document| {
        for vid in [401, 402] {
            topology.a.plug(&patch, &format!("v{vid}"), vid)?;
            document["attachments"][format!("patch-{vid}")] = json!({
                "gateway": "gw-a", "segment": "flat", "vlan": { "trunk": "trunk0", "vid": vid },
            });
        }
        veth(&host, "eth0", &patch, "host")?;
        put_in_flat_network(&host, "eth0", HOST_J)
    })?;
    let attachments = ["attachments.patch-401", "attachments.patch-402"];
    let blocked = || attachments.map(|attachment| is_blocked(&gateway, attachment).unwrap_or(false));
    patch.bridge("br0", &["v401", "host"])?;
    wait_until(SOON, "host-a to reach host-j", || ping(&topology.a.host, HOST_J.0))?;
    ensure!(blocked() == [false, false], "blocked without a loop");
    patch.ip("link set v402 master br0")?;
    let joined = Instant::now();
    wait_until(SOON, "one of the two to be blocked", || blocked().iter().filter(|b| **b).count() == 1)?;
    let cut = joined.elapsed();
    println!("the loop was cut and reported after {} ms", cut.as_millis());
    ensure!(cut <= CUT_WITHIN, "after {cut:?}");
    let loser = blocked().iter().position(|b| *b).context("one is blocked")?;
    let reason = gateway.object(attachments[loser])?["reason"].clone();
    let with = format!("blocked: loop with gateway gw-a ({}, VNI 1000)", attachments[1 - loser]);
    ensure!(reason == with, "{reason}");
    for address in both(HOST_J) {
        wait_until(SOON, &format!("host-a to reach {address}"), || ping(&topology.a.host, address))?;
    }
    let before = gateway.drops("flood-rate")?;
    holds_for(Duration::from_secs(3), "one is blocked, nothing goes round", || {
        ensure!(blocked().iter().filter(|b| **b).count() == 1, "{:?}", blocked());
        ensure!(gateway.drops("flood-rate")? == before, "a storm");
        Ok(())
    })?;
    patch.ip(&format!("link set v{} nomaster", 401 + loser))?;
    wait_until(SOON, "it to be released", || blocked() == [false, false])?;
    Ok(())
}
