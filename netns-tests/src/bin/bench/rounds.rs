//! Data paths that stand at the same time and are measured in turn, in an order that changes with every round. The
//! brains of a path that is not being measured are stopped, so that nobody pays for them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::ping::ping;
use netns_tests::wait_until;
use nix::sys::signal::Signal;

use crate::machine::{prefer_within, used_within};
use crate::measure::{Effort, chosen, measure};
use crate::table::Results;
use crate::wires::{Hosts, Path, Wires};
use crate::{Options, watari};

/// A suite of data paths.
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// Those that the others are compared with.
    pub(crate) bases: &'static [&'static str],
    pub(crate) paths: &'static [Known],
    /// What to install if the path cannot be built here; `None`: it can.
    pub(crate) lacks: fn(&str) -> Option<String>,
    /// Builds it.
    pub(crate) stand: fn(&str, Wires, &Options) -> Result<Path>,
}

/// A path by its name, and how its hosts may send; at first as the first of these.
pub(crate) struct Known(pub(crate) &'static str, pub(crate) &'static [Hosts]);

/// One turn: a path, by its place, and how the hosts send.
type Turn = (usize, Hosts);

impl Suite {
    /// Measures every path and variant in `options.paths` (all where it is empty). The result are the paths that were wanted and
    /// are absent, each with the reason.
    pub(crate) fn run(&self, options: &Options, results: &mut Results) -> Result<Vec<String>> {
        let (paths, turns, absent) = self.build(options)?;
        let metrics = chosen(&options.metrics)?;
        print_idle_cost(&paths)?;
        for round in 0..options.repeats {
            for (at, hosts) in order(&turns, round) {
                let path = &paths[at];
                only_this_brain(&paths, at)?;
                path.set_hosts(hosts)?;
                is_ready(path)?;
                let line = measure(path, hosts.variant(), &metrics, options.effort, results)?;
                println!("round {}/{} {line}", round + 1, options.repeats);
            }
            for path in &paths {
                signal(path, Signal::SIGCONT)?;
            }
        }
        Ok(absent)
    }

    fn build(&self, options: &Options) -> Result<(Vec<Path>, Vec<Turn>, Vec<String>)> {
        let names: Vec<String> = self.paths.iter().flat_map(Known::names).collect();
        let unknown = options.paths.iter().find(|wanted| !names.contains(wanted));
        ensure!(unknown.is_none(), "no path called {}; there are {}", unknown.unwrap(), names.join(", "));
        let (mut paths, mut turns, mut absent) = (Vec::new(), Vec::new(), Vec::new());
        for known in self.paths {
            let variants = known.wanted(&options.paths);
            if variants.is_empty() {
                continue;
            }
            if let Some(lacking) = (self.lacks)(known.0) {
                println!("{}: ABSENT, {lacking}", known.0);
                absent.push(format!("{} is ABSENT: {lacking}", known.0));
                continue;
            }
            let path = self.stand(known, options);
            let path = path.with_context(|| format!("cannot build the path {}", known.0))?;
            turns.extend(variants.into_iter().map(|hosts| (paths.len(), hosts)));
            println!("{}: stands", known.0);
            paths.push(path);
        }
        Ok((paths, turns, absent))
    }

    fn stand(&self, known: &Known, options: &Options) -> Result<Path> {
        let path = (self.stand)(known.0, Wires::new()?, options)?;
        // Before the first packet: OVS loses what needs an offload.
        path.set_hosts(known.1[0])?;
        is_ready(&path)?;
        prefer_within(&path.namespaces()?);
        Ok(path)
    }
}

impl Known {
    pub(crate) fn names(&self) -> Vec<String> {
        let of = |hosts: &Hosts| {
            hosts.variant().map_or_else(|| self.0.to_owned(), |variant| format!("{}/{variant}", self.0))
        };
        self.1.iter().map(of).collect()
    }

    /// The variants that are wanted, by their full names; all where none is named.
    fn wanted(&self, wanted: &[String]) -> Vec<Hosts> {
        let all = self.1.iter().zip(self.names());
        all.filter(|(_, name)| wanted.is_empty() || wanted.contains(name)).map(|(hosts, _)| *hosts).collect()
    }
}

/// Another order each round: it begins one turn later, and every second round runs backwards.
fn order(turns: &[Turn], round: usize) -> Vec<Turn> {
    let mut order = turns.to_vec();
    order.rotate_left(round % turns.len().max(1));
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Packets cross, and to where they should: what a gateway has forgotten meanwhile, it has learnt again.
pub(crate) fn is_ready(path: &Path) -> Result<()> {
    wait_until(Duration::from_secs(30), &format!("a ping through {}", path.name), || {
        ping(&path.wires.host_a, path.target)
    })?;
    watari::hosts_are_known(path)
}

fn signal(path: &Path, signal: Signal) -> Result<()> {
    path.held.gateways.iter().try_for_each(|gateway| gateway.signal(signal))
}

/// Lets the brains of one path go on, and holds the others.
fn only_this_brain(paths: &[Path], this: usize) -> Result<()> {
    for (at, path) in paths.iter().enumerate() {
        signal(path, if at == this { Signal::SIGCONT } else { Signal::SIGSTOP })?;
    }
    Ok(())
}

/// What the daemons of each path take while nothing happens.
fn print_idle_cost(paths: &[Path]) -> Result<()> {
    const LOOK: Duration = Duration::from_secs(3);
    for path in paths.iter().filter(|path| path.name != "plain" && path.name != "bridge-vxlan") {
        let namespaces = path.namespaces()?;
        let (before, start) = (used_within(&namespaces), Instant::now());
        std::thread::sleep(LOOK);
        let share = (used_within(&namespaces) - before) / start.elapsed().as_secs_f64();
        println!("{}: its daemons take {:.1} % of a processor while idle", path.name, 100.0 * share);
    }
    Ok(())
}

/// What a reader must know of how it was run: what holds for every suite of data paths.
pub(crate) fn conditions(options: &Options) -> String {
    let Effort { tcp, patience } = options.effort;
    let metrics = chosen(&options.metrics).unwrap_or_default();
    let names: Vec<&str> = metrics.iter().map(|metric| metric.name).collect();
    format!(
        "{} rounds of {}, TCP {:.1} s, at most {} s of waiting for a quiet machine before each figure\n\
         wire mode: WAN without TSO and UDP segmentation, GRO at the receiving gateway; hosts reno;\n\
         bridge-nf-call-iptables 0; sender on processor 0, receiver on 1, rr on one\n\
         cpu: both ends of tcp4, the daemons in the path's namespaces and ksoftirqd, per kB received; softirq work\n\
         is charged to whom it interrupts (no CONFIG_IRQ_TIME_ACCOUNTING)",
        options.repeats,
        names.join(" "),
        tcp.as_secs_f64(),
        patience.as_secs(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_their_full_names() {
        let wanted = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let known = Known("watari", &[Hosts::Tso, Hosts::TsoOff]);
        assert_eq!(known.wanted(&[]), [Hosts::Tso, Hosts::TsoOff]);
        assert_eq!(known.wanted(&wanted(&["watari/tso-off", "plain"])), [Hosts::TsoOff]);
        assert_eq!(Known("ovs", &[Hosts::Bare]).wanted(&wanted(&["ovs"])), [Hosts::Bare]);
        assert!(known.wanted(&wanted(&["ovs"])).is_empty());
        assert_eq!(
            Known("watari/l2", &[Hosts::Tso, Hosts::Packets]).names(),
            ["watari/l2", "watari/l2/packets"]
        );
    }

    #[test]
    fn no_two_rounds_have_the_same_order() {
        let turns: Vec<Turn> = (0..7).map(|at| (at, Hosts::Tso)).collect();
        let mut seen = Vec::new();
        for round in 0..7 {
            let order = order(&turns, round);
            assert!(turns.iter().all(|turn| order.contains(turn)) && order.len() == turns.len());
            assert!(!seen.contains(&order), "round {round}: {order:?}");
            seen.push(order);
        }
    }
}
