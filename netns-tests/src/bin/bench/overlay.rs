//! The flat network over a trusted wire: Watari beside plain forwarding, Linux bridge with kernel VXLAN, and
//! Open vSwitch in user space. All paths stand at the same time and are measured in turn, in an order that
//! changes with every round; the brains of a path that is not being measured are stopped, so that nobody
//! pays for them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::ping::ping;
use netns_tests::wait_until;
use nix::sys::signal::Signal;

use crate::machine::used_within;
use crate::measure::{Effort, chosen, measure};
use crate::table::{Metric, Results};
use crate::watari;
use crate::wires::{Hosts, Path, Wires};
use crate::{Options, peers};

/// The paths that the others are compared with.
pub(crate) const BASES: [&str; 2] = ["plain", "bridge-vxlan"];
const PATHS: [&str; 4] = ["plain", "bridge-vxlan", "ovs", "watari"];

/// One turn: a path, by its place, and how the hosts send.
type Turn = (usize, Hosts);

/// Measures every path and variant in `options.paths` (all where it is empty).
pub(crate) fn run(options: &Options, results: &mut Results) -> Result<()> {
    let (paths, turns) = build(options)?;
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
    Ok(())
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

fn build(options: &Options) -> Result<(Vec<Path>, Vec<Turn>)> {
    let (mut paths, mut turns) = (Vec::new(), Vec::new());
    for known in PATHS {
        let variants = variants(known, &options.paths);
        if variants.is_empty() {
            continue;
        }
        let path = stand(known, options.entries).with_context(|| format!("cannot build the path {known}"))?;
        turns.extend(variants.into_iter().map(|hosts| (paths.len(), hosts)));
        println!("{known}: stands");
        paths.push(path);
    }
    let names: Vec<String> = PATHS.iter().flat_map(|path| names(path)).collect();
    let unknown = options.paths.iter().find(|wanted| !names.contains(wanted));
    ensure!(unknown.is_none(), "no path called {}; there are {}", unknown.unwrap(), names.join(", "));
    Ok((paths, turns))
}

fn all_variants(path: &str) -> &'static [Hosts] {
    if path == "ovs" { &[Hosts::Bare] } else { &[Hosts::Tso, Hosts::TsoOff] }
}

fn names(path: &str) -> Vec<String> {
    let name = |hosts: &Hosts| hosts.variant().map_or(path.to_owned(), |variant| format!("{path}/{variant}"));
    all_variants(path).iter().map(name).collect()
}

/// The variants of a path that are wanted, by their full names; all where none is named.
fn variants(path: &str, wanted: &[String]) -> Vec<Hosts> {
    let all = all_variants(path).iter().zip(names(path));
    all.filter(|(_, name)| wanted.is_empty() || wanted.contains(name)).map(|(hosts, _)| *hosts).collect()
}

fn stand(name: &str, entries: u32) -> Result<Path> {
    let wires = Wires::new()?;
    let path = match name {
        "plain" => peers::plain(wires)?,
        "bridge-vxlan" => peers::bridge_vxlan(wires)?,
        "ovs" => peers::ovs(wires)?,
        _ => watari::watari(wires, entries)?,
    };
    // Before the first packet: OVS loses what needs an offload.
    path.set_hosts(all_variants(name)[0])?;
    is_ready(&path)?;
    Ok(path)
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

/// What a reader must know of how it was run.
pub(crate) fn conditions(options: &Options, metrics: &[Metric]) -> String {
    let Effort { tcp, patience } = options.effort;
    let names: Vec<&str> = metrics.iter().map(|metric| metric.name).collect();
    format!(
        "{} rounds of {}, TCP {:.1} s, at most {} s of waiting for a quiet machine before each figure\n\
         wire mode: WAN without TSO and UDP segmentation, GRO at the receiving gateway; hosts reno;\n\
         bridge-nf-call-iptables 0; sender on processor 0, receiver on 1, rr on one; ovs: hosts without offloads\n\
         cpu: both ends of tcp4, the daemons in the path's namespaces and ksoftirqd, per kB received; softirq work\n\
         is charged to whom it interrupts (no CONFIG_IRQ_TIME_ACCOUNTING)\n\
         watari: {} stations announced by BGP in each gateway, brains running while their path is measured",
        options.repeats,
        names.join(" "),
        tcp.as_secs_f64(),
        patience.as_secs(),
        options.entries,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_by_their_full_names() {
        let wanted = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(variants("watari", &[]), [Hosts::Tso, Hosts::TsoOff]);
        assert_eq!(variants("watari", &wanted(&["watari/tso-off", "plain"])), [Hosts::TsoOff]);
        assert_eq!(variants("ovs", &wanted(&["ovs"])), [Hosts::Bare]);
        assert!(variants("plain", &wanted(&["ovs"])).is_empty());
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
