//! One figure of one path: TCP throughput with its processor time, UDP packets delivered, requests answered.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::blast::Blast;
use netns_tests::echo::{self, EchoServer};
use netns_tests::iperf::{Kind, iperf_on};
use netns_tests::process::hold_to;

use crate::machine::{quiet, two_processors, used_within};
use crate::table::{Metric, Results};
use crate::wires::Path;

const TCP1: Metric = Metric { name: "tcp1", unit: "Mbit/s", higher_is_better: true };
const TCP4: Metric = Metric { name: "tcp4", unit: "Mbit/s", higher_is_better: true };
const CPU: Metric = Metric { name: "cpu", unit: "ns/kB", higher_is_better: false };
const UDP64: Metric = Metric { name: "udp64", unit: "packets/s", higher_is_better: true };
const UDP1300: Metric = Metric { name: "udp1300", unit: "packets/s", higher_is_better: true };
const RR: Metric = Metric { name: "rr", unit: "transactions/s", higher_is_better: true };

/// All metrics of a data path; `cpu` is that of the `tcp4` run.
pub(crate) const ALL: [Metric; 6] = [TCP1, TCP4, CPU, UDP64, UDP1300, RR];

/// A path that can take less than this is not worth a ramp.
const RAMP_FLOOR_PER_S: f64 = 5_000.0;
/// Each step of the ramp sends that much more than the one before.
const RAMP_STEP: f64 = 1.2;
const RAMP_STEPS_MAX: usize = 10;
/// Where fewer arrive, more sent means less received.
const RAMP_END: f64 = 0.7;

/// How long and how patiently.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Length of a TCP run; the others follow from it.
    pub(crate) tcp: Duration,
    /// How long to wait for a quiet machine before each figure.
    pub(crate) patience: Duration,
}

/// Measures what is in `wanted`, under the path's name with `variant`.
pub(crate) fn measure(
    path: &Path,
    variant: Option<&str>,
    wanted: &[Metric],
    effort: Effort,
    results: &mut Results,
) -> Result<String> {
    let name = variant.map_or_else(|| path.name.to_owned(), |variant| format!("{}/{variant}", path.name));
    let mut line = format!("{name:<22}");
    let mut noise = 0.0_f64;
    for &metric in wanted.iter().filter(|metric| **metric != CPU || !wanted.contains(&TCP4)) {
        noise = noise.max(quiet(effort.patience)?);
        let figures = match metric {
            TCP1 => vec![(TCP1, tcp(path, 1, effort)?.0)],
            TCP4 | CPU => {
                let (mbps, ns_per_kb) = tcp(path, 4, effort)?;
                vec![(TCP4, mbps), (CPU, ns_per_kb)]
            }
            UDP64 => vec![(UDP64, udp(path, 64, effort)?)],
            UDP1300 => vec![(UDP1300, udp(path, 1300, effort)?)],
            _ => vec![(RR, rr(path, effort)?)],
        };
        for (metric, value) in figures.into_iter().filter(|(metric, _)| wanted.contains(metric)) {
            results.add(&name, metric, value);
            line += &format!(" {} {value:.0}", metric.name);
        }
    }
    Ok(format!("{line}  (machine {:.0} % busy before, at most)", 100.0 * noise))
}

/// Mbit/s, and processor time in ns per kB received: that of both ends, of the daemons of the path, and of
/// the kernel's softirq threads. Whatever else the machine does is not in it.
fn tcp(path: &Path, streams: u32, effort: Effort) -> Result<(f64, f64)> {
    let (from, to) = (&path.wires.host_a, &path.wires.host_b);
    let kind = Kind::Tcp { streams };
    let namespaces = path.namespaces()?;
    let before_s = used_within(&namespaces);
    let report = iperf_on(from, to, path.target.into(), kind, effort.tcp, two_processors())
        .with_context(|| format!("tcp{streams} through {}", path.name))?;
    ensure!(report.bytes > 0, "iperf3 received nothing through {}", path.name);
    let daemons_s = (used_within(&namespaces) - before_s).max(0.0);
    let share = |end: &str| report.json["end"]["cpu_utilization_percent"][end].as_f64();
    let ends = share("host_total").zip(share("remote_total"));
    let (sender, receiver) = ends.context("iperf3 does not say what its ends have used")?;
    let ends_s = (sender + receiver) / 100.0 * report.seconds;
    Ok((report.mbps, (ends_s + daemons_s) * 1e9 / (report.bytes as f64 / 1e3)))
}

/// Datagrams delivered a second, the best of a ramp: a flood first, then from half of what it delivered
/// upwards until too few arrive.
fn udp(path: &Path, payload_bytes: usize, effort: Effort) -> Result<f64> {
    let time = (effort.tcp / 5).max(Duration::from_millis(200));
    let step = |rate_per_s: f64| -> Result<(f64, f64)> {
        let to = (IpAddr::from(path.target), 0).into();
        let blast =
            Blast { to, payload_bytes, rate_per_s: rate_per_s as u32, time, processors: two_processors() };
        let report = blast.run(&path.wires.host_a, &path.wires.host_b)?;
        Ok((report.received_per_s, report.received as f64 / (report.sent as f64).max(1.0)))
    };
    let (flood, _) = step(0.0).with_context(|| format!("udp{payload_bytes} through {}", path.name))?;
    let (mut best, mut rate) = (flood, (flood / 2.0).max(RAMP_FLOOR_PER_S));
    for _ in 0..RAMP_STEPS_MAX {
        let (delivered, share) = step(rate)?;
        best = best.max(delivered);
        if share < RAMP_END {
            break;
        }
        rate *= RAMP_STEP;
    }
    ensure!(best > 0.0, "no datagram of {payload_bytes} bytes arrives through {}", path.name);
    Ok(best)
}

/// One byte there and back, transactions a second. Client and server on one processor: waking an idle one
/// costs a virtual machine more than the whole path, and differently each time.
fn rr(path: &Path, effort: Effort) -> Result<f64> {
    let on_one = two_processors().map(|(_, processor)| processor);
    let target = IpAddr::from(path.target);
    let run = || -> Result<f64> {
        hold_to(on_one);
        let server = EchoServer::start(&path.wires.host_b, target)?;
        let to = (target, server.port()).into();
        Ok(echo::tcp_rr(&path.wires.host_a, to, effort.tcp * 2 / 3)?.per_s)
    };
    let joined = std::thread::scope(|scope| scope.spawn(run).join());
    let per_s = joined.map_err(|_| anyhow::anyhow!("a request or its answer panicked"))?;
    per_s.with_context(|| format!("rr through {}", path.name))
}

/// The metrics of these names.
pub(crate) fn chosen(names: &[String]) -> Result<Vec<Metric>> {
    for name in names {
        let known = ALL.iter().any(|metric| metric.name == name);
        ensure!(known, "no metric called {name}; there are {}", ALL.map(|metric| metric.name).join(", "));
    }
    let wanted = |metric: &Metric| names.is_empty() || names.iter().any(|name| name == metric.name);
    Ok(ALL.into_iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_by_name() {
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let rr_first = chosen(&names(&["rr", "tcp1"])).unwrap();
        assert_eq!(rr_first.iter().map(|metric| metric.name).collect::<Vec<_>>(), ["tcp1", "rr"]);
        assert_eq!(chosen(&[]).unwrap().len(), 6);
        assert!(chosen(&names(&["ping"])).unwrap_err().to_string().contains("no metric called ping"));
    }
}
