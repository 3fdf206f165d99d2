//! `kill -9` of gateway A's brain under numbered traffic: nothing is lost on the user-space tunnel nor towards
//! the campus, gateway B reports no change, the campus router keeps our routes (RFC 4724), and the brain that
//! comes back finds nothing to do. Needs root.
//!
//! ```text
//!  host-a ─ VLAN 100 ─┐    watari: killed                          ┌─ VLAN 200 ─ host-b
//!                     ├═ [gw-a] ── watari-link, WireGuard ── [gw-b] ═
//!  server ─ [campus] ─┘ VLAN 300
//!      200 datagrams a second:  host-a ⇄ host-b,  host-a ⇄ server
//! ```

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::campus::{Campus, Setup, Software};
use netns_tests::flow::{Flow, FlowReport, FlowSpec};
use netns_tests::http::Api;
use netns_tests::ping::ping;
use netns_tests::topology::{HOST_A, HOST_B, SERVER, Tunnel, both};
use netns_tests::wait::holds_for;
use netns_tests::world::SOON;
use netns_tests::{Ns, World, wait_until};
use serde_json::{Value, json};

const SUBNETS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
/// How long the peers are watched after the brain's return: longer than a round of its looks and than
/// End-of-RIB takes.
const AFTER: Duration = Duration::from_secs(6);

/// The campus router has our routes, and gateway B says what it said.
fn is_kept(campus: &Campus, b: &Api, before: &Value) -> Result<()> {
    for subnet in SUBNETS {
        ensure!(campus.knows(subnet)?, "the campus router has dropped {subnet}:\n{}", campus.table()?);
    }
    let now = said_by(b)?;
    ensure!(now == *before, "gw-b noticed: {now:#}\nbefore: {before:#}");
    Ok(())
}

/// What gateway B knows and says, without what moves by itself.
fn said_by(api: &Api) -> Result<Value> {
    let status = api.get("/api/v1/status")?.success()?;
    let facts = api.get("/api/v1/facts")?.success()?;
    let objects = status["status"]["objects"].as_object().context("objects")?;
    let states: Value = objects
        .iter()
        .map(|(path, object)| (path.clone(), json!([object["state"], object["reason"]])))
        .collect::<serde_json::Map<_, _>>()
        .into();
    Ok(json!({
        "generation": status["generation"], "settled": status["settled"], "objects": states,
        "macs": facts["macs"], "neighbours": facts["neighbours"], "routes": facts["routes"], "flood": facts["flood"],
    }))
}

struct Flows(Vec<(String, Flow)>);

impl Flows {
    fn start(pairs: &[(&Ns, &Ns, IpAddr)]) -> Result<Self> {
        let start = |(from, to, address): &(&Ns, &Ns, IpAddr)| {
            let name = format!("{} → {} {address}", from.label(), to.label());
            Ok((name, Flow::start(from, to, FlowSpec::to(SocketAddr::new(*address, 9000)))?))
        };
        let flows = Self(pairs.iter().map(start).collect::<Result<_>>()?);
        flows.go_on(200)?;
        Ok(flows)
    }

    fn go_on(&self, count: u64) -> Result<()> {
        self.0.iter().try_for_each(|(name, flow)| flow.wait_for(count, SOON).context(name.clone()))
    }

    fn all_arrived(self) -> Result<()> {
        for (name, flow) in self.0 {
            let report: FlowReport = flow.stop()?;
            println!("{name}: {report:?}");
            ensure!(report.sent > 0 && report.lost == 0, "{name}: {report:?}");
            ensure!(report.refused == 0 && report.duplicates == 0, "{name}: {report:?}");
        }
        Ok(())
    }
}

fn prepare(software: Software) -> Result<(World, Campus)> {
    let world = World::start(&[Tunnel::Wireguard])?;
    let campus = Campus::start(software, &world.topology.campus, Setup::default())?;
    world.tunnel_is_up("ab-wg")?;
    world.hosts_meet()?;
    wait_until(SOON, "the campus router's sessions", || {
        ensure!(campus.established()?, "{}", campus.sessions()?);
        Ok(())
    })?;
    for address in both(SERVER) {
        for host in [&world.topology.a.host, &world.topology.b.host] {
            wait_until(SOON, &format!("{} to reach {address}", host.label()), || ping(host, address))?;
        }
    }
    Ok((world, campus))
}

/// Nothing moves any more at gateway B: what the pings have taught it has gone round.
fn at_rest(gateway: &Api) -> Result<Value> {
    let (mut last, mut since) = (said_by(gateway)?, Instant::now());
    wait_until(SOON, "gw-b to come to rest", || {
        let now = said_by(gateway)?;
        if now != last {
            (last, since) = (now.clone(), Instant::now());
        }
        ensure!(since.elapsed() > Duration::from_millis(2500), "it moves: {now:#}");
        Ok(now)
    })
}

fn the_brain_is_not_missed(software: Software, away: Duration) -> Result<()> {
    let (mut world, campus) = prepare(software)?;
    let hosts = world.topology.a.host.clone();
    let (host_b, server) = (world.topology.b.host.clone(), world.topology.server.clone());
    let flows = Flows::start(&[
        (&hosts, &host_b, HOST_B.0.into()),
        (&host_b, &hosts, HOST_A.1.into()),
        (&hosts, &server, SERVER.0.into()),
        (&server, &host_b, HOST_B.1.into()),
    ])?;
    let before = at_rest(&world.b.api())?;
    let seen = world.b.last_event()?;

    world.a.kill9()?;
    let killed = Instant::now();
    let b = world.b.api();
    let kept = || is_kept(&campus, &b, &before);
    wait_until(SOON, "the campus router to notice", || -> Result<()> {
        kept()?;
        ensure!(!campus.established()?, "still established");
        ensure!(campus.is_stale(SUBNETS[0])? && campus.is_stale(SUBNETS[1])?, "{}", campus.table()?);
        Ok(())
    })?;
    holds_for(away.saturating_sub(killed.elapsed()), "all as it was", kept)?;

    world.a.launch()?;
    println!("the brain was away for {} ms", killed.elapsed().as_millis());
    let first = world.a.first_plan_ops()?;
    ensure!(first == 0, "{first} ops: {:#}", world.a.get("/api/v1/events")?);
    wait_until(SOON, "the campus router to be told again", || -> Result<()> {
        ensure!(campus.established()?, "{}\n{}", campus.sessions()?, world.a.log());
        ensure!(!campus.is_stale(SUBNETS[0])? && !campus.is_stale(SUBNETS[1])?, "{}", campus.table()?);
        Ok(())
    })?;
    holds_for(AFTER, "all as it was", kept)?;
    let plan = world.a.get("/api/v1/plan")?;
    ensure!(plan["plan"]["ops"].as_array().is_some_and(Vec::is_empty), "{plan:#}");
    // Its own neighbours were away for the brain that came back; nothing else was.
    let unrest: [(_, _, &[&str]); 2] = [
        (&world.b, seen, &["state", "repaired", "failed", "recovered"]),
        (&world.a, 0, &["repaired", "failed", "recovered"]),
    ];
    for (gateway, after, kinds) in unrest {
        let events = gateway.events_after(after)?;
        let told: Vec<_> = events.iter().filter(|e| kinds.iter().any(|kind| e["kind"] == *kind)).collect();
        ensure!(told.is_empty(), "{}: {told:#?}", gateway.name());
    }
    flows.go_on(100)?;
    flows.all_arrived()
}

#[test]
fn root_half_a_minute_without_a_brain_beside_bird() -> Result<()> {
    the_brain_is_not_missed(Software::Bird, Duration::from_secs(30))
}

#[test]
fn root_ten_seconds_without_a_brain_beside_frr() -> Result<()> {
    the_brain_is_not_missed(Software::Frr, Duration::from_secs(10))
}
