//! What the brain of one gateway spends on what it has learnt: loading the stations of another gateway, resting with
//! them, and one of them that moves. No packet is forwarded.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::announcer::{Announcer, Session, Stations};
use netns_tests::{Gateway, wait_until};
use serde_json::Value;
use watari_dataplane::{Dataplane, MacKey};

use crate::Options;
use crate::table::{Metric, Results};
use crate::watari::{ASN, FILL_LIMIT, FIRST_STATION, VNI, VTEP_A, VTEP_FILLER, document, filler};
use crate::wires::Wires;

const IDLE: Metric = Metric { name: "idle", unit: "% of a core", higher_is_better: false };
const LOAD: Metric = Metric { name: "load", unit: "s", higher_is_better: false };
const LOAD_CPU: Metric = Metric { name: "load-cpu", unit: "s", higher_is_better: false };
const MOVE: Metric = Metric { name: "move", unit: "ms", higher_is_better: false };
const MOVE_WORST: Metric = Metric { name: "move-worst", unit: "ms", higher_is_better: false };
/// How long the brain is left alone, at least: with empty tables, and with full ones, which it compares once a minute.
const REST: Duration = Duration::from_secs(10);
const FULL_REST: Duration = Duration::from_secs(70);
/// Moves of one round.
const MOVES: u32 = 100;
/// How long one may take.
const MOVE_LIMIT: Duration = Duration::from_secs(30);

/// Measures one gateway from its start on, as often as there are rounds.
pub(crate) fn run(options: &Options) -> Result<(Results, String)> {
    let mut results = Results::new("facts", &["watari/empty"]);
    for round in 0..options.repeats {
        one(options, &mut results)?;
        println!("round {}/{} done", round + 1, options.repeats);
    }
    let conditions = format!(
        "{} rounds; {} stations, a MAC and a neighbour entry each, over one BGP session; {MOVES} moves a round",
        options.repeats, options.entries
    );
    Ok((results, conditions))
}

fn one(options: &Options, results: &mut Results) -> Result<()> {
    let wires = Wires::new()?;
    let (ns, _tag) = filler(&wires.gw_a, 'a')?;
    let gateway = Gateway::start(&wires.gw_a, "gw-a", &Value::Null)?;
    gateway.apply(&document())?;
    gateway.settle()?;
    let rest = REST.max(options.effort.tcp);
    results.add("watari/empty", IDLE, idle(&gateway, rest)?);
    let session = Session { vtep: VTEP_FILLER, gateway: VTEP_A, asn: ASN };
    let mut announcer = Announcer::connect(&ns, session).with_context(|| gateway.log())?;
    let stations = Stations { vni: VNI, first: FIRST_STATION, count: options.entries };
    let folder = gateway.pin_dir();
    // The tables are opened once: opening them costs more than what is measured.
    let maps = gateway.ns().run(|| Dataplane::open_existing(&folder))?;
    let maps = maps.context("the gateway holds no datapath of this build")?;
    let (start, cpu) = (Instant::now(), processor_time(&gateway)?);
    announcer.announce(&stations)?;
    wait_until(FILL_LIMIT, "all stations in the tables", || -> Result<()> {
        let counts = (maps.mac_remote.list()?.len(), maps.nb_remote.list()?.len());
        let wanted = options.entries as usize;
        ensure!(counts.0 >= wanted && counts.1 >= wanted, "{counts:?} of {wanted}");
        Ok(())
    })?;
    results.add("watari/full", LOAD, start.elapsed().as_secs_f64());
    results.add("watari/full", LOAD_CPU, (processor_time(&gateway)? - cpu).as_secs_f64());
    results.add("watari/full", IDLE, idle(&gateway, rest.max(FULL_REST))?);
    let mut took: Vec<f64> =
        (1..=MOVES).map(|n| move_one(&mut announcer, &maps, n)).collect::<Result<_>>()?;
    took.sort_by(f64::total_cmp);
    results.add("watari/full", MOVE, took[took.len() / 2]);
    results.add("watari/full", MOVE_WORST, took[took.len() - 1]);
    Ok(())
}

/// Milliseconds from the UPDATE about the first station until its entry has that sequence.
fn move_one(announcer: &mut Announcer, maps: &Dataplane, sequence: u32) -> Result<f64> {
    let station = Stations { vni: VNI, first: FIRST_STATION, count: 1 };
    let mac = station.iter().next().context("a station")?.0;
    let key = MacKey::new(VNI, mac);
    let start = Instant::now();
    announcer.announce_moved(&station, sequence)?;
    while maps.mac_remote.get(&key)?.is_none_or(|entry| entry.sequence != sequence) {
        ensure!(start.elapsed() < MOVE_LIMIT, "move {sequence} does not arrive");
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(start.elapsed().as_secs_f64() * 1000.0)
}

/// The share of a core that the brain takes, in percent.
fn idle(gateway: &Gateway, rest: Duration) -> Result<f64> {
    let (start, cpu) = (Instant::now(), processor_time(gateway)?);
    std::thread::sleep(rest);
    let spent = processor_time(gateway)? - cpu;
    Ok(100.0 * spent.as_secs_f64() / start.elapsed().as_secs_f64())
}

/// Processor time of the brain so far, user and system (proc(5), fields 14 and 15 of `stat`, in ticks).
fn processor_time(gateway: &Gateway) -> Result<Duration> {
    let pid = gateway.pid().context("the brain does not run")?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit(')').next().context("no name")?;
    let field = |n: usize| after_name.split_whitespace().nth(n).and_then(|f| f.parse::<u64>().ok());
    let ticks = field(11).zip(field(12)).map(|(user, system)| user + system).context("no times")?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("CLK_TCK")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}
