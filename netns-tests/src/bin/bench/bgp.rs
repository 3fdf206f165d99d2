//! BGP tables: our daemon beside BIRD 2 and FRR, with pre-encoded feeders and counting receivers as processes of
//! their own. Every figure is of a daemon that was just started; the daemons take turns.
//!
//! | row | what |
//! |---|---|
//! | a | 1,000,000 prefixes of one feeder to one receiver |
//! | b | 10 feeders with the same 100,000: until all best paths are final |
//! | c | 100,000 prefixes to 20 receivers, until the slowest has them |
//! | d | the 1,000,000 of row a withdrawn |
//! | e | 4 feeders with the same 1,000,000 |
//! | f | 250,000 IPv6 prefixes |

mod counter;
mod daemons;
pub(crate) mod load;
mod routes;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use crate::Options;
use crate::machine::quiet;
use crate::table::{Metric, Results};
use daemons::Daemon;
use load::{Job, Role, now_ns};
use routes::Routes;

const PATHS: [&str; 3] = ["bird2", "frr", "watari"];
/// How long a row may take.
const LIMIT: Duration = Duration::from_secs(150);
/// A daemon that used no more than this of a core for this long has nothing left to do.
const REST: Duration = Duration::from_millis(300);
const REST_SHARE: f64 = 0.05;

/// One row: who feeds, who receives, what it is called, and what its withdrawal is called.
struct Row {
    routes: Routes,
    receivers: u32,
    announce: Names,
    withdraw: Option<Names>,
}

/// Its metrics.
#[derive(Clone, Copy)]
struct Names {
    time: Metric,
    cpu: Metric,
    rss: Option<Metric>,
    per_prefix: Option<Metric>,
}

const fn lower(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit, higher_is_better: false }
}

const fn names(time: &'static str, cpu: &'static str, rss: &'static str) -> Names {
    Names { time: lower(time, "s"), cpu: lower(cpu, "s"), rss: Some(lower(rss, "MB")), per_prefix: None }
}

fn rows() -> [Row; 5] {
    let ipv4 = |count, feeders| Routes { ipv6: false, count, feeders };
    let row = |routes, receivers, announce| Row { routes, receivers, announce, withdraw: None };
    let withdraw = Names { rss: None, ..names("d.time", "d.cpu", "") };
    let per_prefix = Some(lower("b.sent", "per prefix"));
    [
        Row { withdraw: Some(withdraw), ..row(ipv4(1_000_000, 1), 1, names("a.time", "a.cpu", "a.rss")) },
        row(ipv4(100_000, 10), 1, Names { per_prefix, ..names("b.time", "b.cpu", "b.rss") }),
        row(ipv4(100_000, 1), 20, names("c.time", "c.cpu", "c.rss")),
        row(ipv4(1_000_000, 4), 1, names("e.time", "e.cpu", "e.rss")),
        row(Routes { ipv6: true, count: 250_000, feeders: 1 }, 1, names("f.time", "f.cpu", "f.rss")),
    ]
}

impl Row {
    /// Whether any of `wanted` is of this row; each is a row's letter or a metric's name.
    fn is_wanted(&self, wanted: &[String]) -> bool {
        let of = |names: &Names| {
            let letter = &names.time.name[..1];
            wanted.iter().any(|w| w == letter || w.split_once('.').is_some_and(|(row, _)| row == letter))
        };
        wanted.is_empty() || of(&self.announce) || self.withdraw.as_ref().is_some_and(of)
    }
}

/// Measures every daemon in `options.paths` (all where it is empty).
pub(crate) fn run(options: &Options) -> Result<(Results, String)> {
    for path in &options.paths {
        ensure!(PATHS.contains(&path.as_str()), "no path called {path}; there are {}", PATHS.join(", "));
    }
    for name in &options.metrics {
        let known = "abcdef".contains(name.split('.').next().filter(|row| row.len() == 1).unwrap_or("?"));
        ensure!(known, "no row called {name}; there are a, b, c, d, e, f");
    }
    let mut results = Results::new("bgp", &["bird2", "frr"]);
    let paths =
        PATHS.iter().filter(|path| options.paths.is_empty() || options.paths.iter().any(|p| p == *path));
    let paths: Vec<&str> = paths.copied().collect();
    for round in 0..options.repeats {
        for row in rows().iter().filter(|row| row.is_wanted(&options.metrics)) {
            for turn in 0..paths.len() {
                let path = paths[(turn + round) % paths.len()];
                let busy = quiet(options.effort.patience)?;
                let line = one(path, row, &mut results)
                    .with_context(|| format!("{path}, {}", row.announce.time.name))?;
                println!(
                    "round {}/{} {path:<8}{line}  (machine {:.0} % busy before)",
                    round + 1,
                    options.repeats,
                    busy * 100.0
                );
            }
        }
    }
    let conditions = format!(
        "{} rounds; sets of 15 prefixes with the same attributes; time at the slowest receiver, processor seconds and \
         peak resident memory of the daemon; sessions stand before the first UPDATE",
        options.repeats
    );
    Ok((results, conditions))
}

/// One daemon, one row.
fn one(path: &str, row: &Row, results: &mut Results) -> Result<String> {
    let job = |role, count| Job { role, count, routes: row.routes };
    let jobs = [job(Role::Receivers, row.receivers), job(Role::Feeders, row.routes.feeders)];
    let mut daemon = Daemon::start(path, &jobs)?;
    let mut receivers = Load::start(&daemon, &jobs[0])?;
    let mut feeders = Load::start(&daemon, &jobs[1])?;
    receivers.wait("ready").with_context(|| daemon.log())?;
    feeders.wait("ready").with_context(|| daemon.log())?;
    let mut line = String::new();
    let phases = [(Some(row.announce), "announce", "right"), (row.withdraw, "withdraw", "empty")];
    for (names, order, outcome) in phases.into_iter().filter_map(|(n, o, e)| Some((n?, o, e))) {
        let (cpu, start) = (rested(&mut daemon)?, now_ns()?);
        feeders.tell(order)?;
        let answer = receivers.wait(outcome).with_context(|| daemon.log())?;
        let [end, announced] = [0, 1].map(|n| answer.get(n).copied().unwrap_or_default());
        let time_s = (end.saturating_sub(start)) as f64 / 1e9;
        feeders.wait("sent")?;
        let mut add = |metric: Metric, value: f64| {
            results.add(path, metric, value);
            line += &format!(" {} {value:.2}", metric.name);
        };
        add(names.time, time_s);
        add(names.cpu, rested(&mut daemon)? - cpu);
        if let Some(metric) = names.rss {
            add(metric, daemon.peak_mb()?);
        }
        if let Some(metric) = names.per_prefix {
            add(metric, announced as f64 / f64::from(row.routes.count) / f64::from(row.receivers));
        }
    }
    Ok(line)
}

/// Processor seconds of the daemon once it rests.
fn rested(daemon: &mut Daemon) -> Result<f64> {
    let (start, mut before) = (Instant::now(), daemon.cpu_s()?);
    loop {
        std::thread::sleep(REST);
        let cpu = daemon.cpu_s()?;
        if cpu - before < REST.as_secs_f64() * REST_SHARE || start.elapsed() > LIMIT {
            return Ok(cpu);
        }
        before = cpu;
    }
}

/// A process around the daemon; ended on drop.
struct Load {
    child: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
}

impl Load {
    fn start(daemon: &Daemon, job: &Job) -> Result<Self> {
        let own = std::env::current_exe()?;
        let mut command = daemon.outside.command(own.to_str().context("a path that is no text")?);
        command.args(["bgp-load", &serde_json::to_string(job)?]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let orders = child.stdin.take().context("no standard input")?;
        let out = BufReader::new(child.stdout.take().context("no standard output")?);
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, orders, lines })
    }

    fn tell(&mut self, order: &str) -> Result<()> {
        writeln!(self.orders, "{order}")?;
        Ok(self.orders.flush()?)
    }

    /// The numbers behind the word that is waited for.
    fn wait(&mut self, word: &str) -> Result<Vec<u64>> {
        let Ok(line) = self.lines.recv_timeout(LIMIT) else { bail!("waited for {word:?}") };
        let mut words = line.split_whitespace();
        ensure!(words.next() == Some(word), "{line:?} instead of {word:?}");
        words.map(|number| number.parse().with_context(|| line.clone())).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
