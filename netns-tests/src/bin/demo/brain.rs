//! The brain carries no packet: gateway A's daemon is killed, stays away, comes back, and the traffic that
//! crosses the user-space WireGuard tunnel meanwhile does not notice; nor does gateway B.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::flow::{Flow, FlowReport, FlowSpec};
use netns_tests::wait_until;
use serde_json::Value;

use crate::figures::End;
use crate::gateways::Pair;
use crate::progress::say;

/// How long the brain is away.
const AWAY: Duration = Duration::from_secs(5);
/// How long the restarted one may take until it has settled.
const SETTLED: Duration = Duration::from_secs(20);
/// The port of the numbered datagrams.
const PORT: u16 = 9000;

/// What became of the traffic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Survival {
    away: Duration,
    flow: FlowReport,
}

impl Survival {
    /// For the end of the demo.
    pub(crate) fn sentence(&self) -> String {
        let Self { away, flow } = self;
        format!(
            "brain of gw-a away for {:.1} s under host A → host B: {} sent, {} received, {} lost, longest gap {} ms",
            away.as_secs_f64(),
            flow.sent,
            flow.received,
            flow.lost,
            flow.longest_gap.as_millis()
        )
    }
}

/// Kills gateway A's brain under numbered traffic and starts it again.
///
/// # Errors
/// When a datagram is lost, the restarted brain finds something to do, or gateway B saw a change.
pub(crate) fn kill_and_restart(pair: &mut Pair, from: &End, to: &End) -> Result<Survival> {
    let spec = FlowSpec::to(SocketAddr::new(to.v4.into(), PORT));
    let seen_by_b = pair.b.last_event()?;
    let flow = Flow::start(&from.ns, &to.ns, spec)?;
    flow.wait_for(u64::from(spec.rate_per_s), Duration::from_secs(10))?;
    say(&format!("{} numbered datagrams a second cross the tunnel; kill -9 now", spec.rate_per_s));
    let killed = Instant::now();
    pair.a.gateway.kill9()?;
    flow.run_for(AWAY);
    pair.a.gateway.launch()?;
    let away = killed.elapsed();
    wait_until(SETTLED, "the restarted brain of gw-a to settle", || pair.a.settled())?;
    flow.wait_for(u64::from(spec.rate_per_s), Duration::from_secs(10))?;
    let report = flow.stop()?;
    let survival = Survival { away, flow: report };
    say(&survival.sentence());
    ensure!(report.lost == 0 && report.refused == 0, "traffic was lost on gw-a's tunnel: {report:?}");
    ensure!(report.sent > 0 && report.duplicates == 0, "not what was sent: {report:?}");
    finds_nothing_to_do(pair)?;
    let changes = of_kinds(&pair.b.events_after(seen_by_b)?, &["state", "repaired", "failed"]);
    say(&format!("gw-b has reported {} changes of state meanwhile", changes.len()));
    ensure!(changes.is_empty(), "gw-b noticed: {changes:?}");
    Ok(survival)
}

/// The restarted brain says how far the system it found was from the desired one, and did nothing since.
fn finds_nothing_to_do(pair: &Pair) -> Result<()> {
    let events = pair.a.events_after(0)?;
    let found = events.iter().filter_map(|event| event["message"].as_str());
    let found = found.into_iter().find(|message| message.starts_with("found the system"));
    let found = found.context("the restarted gw-a does not say what it found")?;
    say(&format!("the restarted brain of gw-a: {found}"));
    ensure!(found.starts_with("found the system 0 ops"), "the plan of the restarted gw-a is not empty");
    let plan = pair.a.get("/plan")?;
    let ops = plan["plan"]["ops"].as_array().with_context(|| format!("no ops in {plan}"))?;
    say(&format!("GET /api/v1/plan: {} operations", ops.len()));
    ensure!(ops.is_empty(), "gw-a still wants {plan}");
    let done = of_kinds(&events, &["repaired", "failed"]);
    ensure!(done.is_empty(), "the restarted gw-a changed something: {done:?}");
    Ok(())
}

fn of_kinds(events: &[Value], kinds: &[&str]) -> Vec<String> {
    let wanted = |event: &&Value| event["kind"].as_str().is_some_and(|kind| kinds.contains(&kind));
    let told = events.iter().filter(wanted);
    told.map(|event| format!("{} {}: {}", event["kind"], event["object"], event["message"])).collect()
}
