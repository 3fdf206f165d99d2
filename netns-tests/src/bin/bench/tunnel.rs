//! Encrypted tunnels between two gateways: Watari's, routed and as a flat network, beside WireGuard daemons in user
//! space, nebula, OpenVPN, and plain forwarding, which encrypts nothing.

use anyhow::Result;

use crate::measure::ALL;
use crate::rounds::{self, Known, Suite};
use crate::table::{Metric, Results};
use crate::wires::{Hosts, Path, Wires};
use crate::{Options, peers, tunnel_peers, watari_tunnel};

/// What is measured where nothing else is asked for.
pub(crate) const METRICS: [&str; 5] = ["tcp1", "tcp4", "cpu", "udp64", "rr"];

const TSO: &[Hosts] = &[Hosts::Tso];

/// The suite.
pub(crate) const TUNNEL: Suite = Suite {
    name: "tunnel",
    bases: &["boringtun", "plain/tso-off"],
    paths: &[
        Known("plain", &[Hosts::Tso, Hosts::TsoOff, Hosts::Packets]),
        Known("watari", &[Hosts::Tso, Hosts::TsoOff]),
        Known("watari/l2", TSO),
        Known("boringtun", TSO),
        Known("gotatun", TSO),
        Known("wireguard-go", TSO),
        Known("nebula", TSO),
        Known("openvpn", TSO),
    ],
    lacks: tunnel_peers::lacks,
    stand,
};

fn stand(name: &str, wires: Wires, _: &Options) -> Result<Path> {
    match name {
        "plain" => peers::plain(wires),
        "watari" => watari_tunnel::routed(wires),
        "watari/l2" => watari_tunnel::flat(wires),
        "boringtun" => tunnel_peers::wireguard("boringtun", wires),
        "gotatun" => tunnel_peers::wireguard("gotatun", wires),
        "nebula" => tunnel_peers::nebula(wires),
        "openvpn" => tunnel_peers::openvpn(wires),
        _ => tunnel_peers::wireguard("wireguard-go", wires),
    }
}

/// What a reader must know of how it was run.
pub(crate) fn conditions(options: &Options) -> String {
    format!(
        "{}\n\
         hosts send super-packets (TSO), which the gateways of Watari hand to the engine whole and other tunnels get cut;\n\
         …/tso-off: hosts send packet by packet, gateways merge on lan0 (GRO), as behind a NIC; …/packets: nobody merges\n\
         watari: watari-link, told by documents; routed: an underlay route to the far VTEP; l2: VXLAN in WireGuard\n\
         wireguard-go is Debian's of 2022, from before its work on UDP GSO and GRO; openvpn without its kernel module",
        rounds::conditions(options),
    )
}

/// A line that is to be reached: the median, over the rounds, of `path`'s metric over `base`'s.
struct Reach {
    path: &'static str,
    base: &'static str,
    metric: &'static str,
    /// The ratio, at least; at most where less is better.
    ratio: f64,
}

const fn line(path: &'static str, base: &'static str, metric: &'static str, ratio: f64) -> Reach {
    Reach { path, base, metric, ratio }
}

const REACH: [Reach; 12] = [
    line("watari", "boringtun", "tcp1", 4.0),
    line("watari", "boringtun", "tcp4", 4.0),
    line("watari", "gotatun", "tcp1", 3.5),
    line("watari", "gotatun", "tcp4", 3.5),
    line("watari", "plain/tso-off", "tcp1", 0.75),
    line("watari", "plain/tso-off", "tcp4", 0.75),
    line("watari", "plain/packets", "tcp1", 0.75),
    line("watari/l2", "watari", "tcp1", 0.85),
    line("watari/l2", "watari", "tcp4", 0.85),
    line("watari", "boringtun", "cpu", 0.35),
    line("watari", "boringtun", "rr", 1.0),
    line("watari", "gotatun", "udp64", 1.0),
];

/// Which of the lines that were to be reached are, and which could not be judged.
pub(crate) fn reach(results: &Results) -> Vec<String> {
    REACH.iter().filter_map(|line| line.judged(results)).collect()
}

impl Reach {
    /// `None`: neither of the two was measured.
    fn judged(&self, results: &Results) -> Option<String> {
        let metric: Metric = ALL.into_iter().find(|metric| metric.name == self.metric)?;
        let Self { path, base, metric: name, ratio: wanted } = self;
        let sign = if metric.higher_is_better { "≥" } else { "≤" };
        let head = format!("reach: {name} {path} / {base} {sign} {wanted}:");
        let is_there = |path: &str| results.was_measured(path, metric);
        match (is_there(path), is_there(base)) {
            (false, false) => return None,
            (false, true) => return Some(format!("{head} {path} was not measured")),
            (true, false) => return Some(format!("{head} {base} was not measured")),
            (true, true) => {}
        }
        let ratio = results.by_rounds(path, base, metric)?;
        let is_reached = if metric.higher_is_better { ratio >= *wanted } else { ratio <= *wanted };
        Some(format!("{head} {ratio:.2}, {}", if is_reached { "reached" } else { "MISSED" }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_about_paths_and_metrics_that_there_are() {
        let names: Vec<String> = TUNNEL.paths.iter().flat_map(Known::names).collect();
        for line in &REACH {
            assert!(names.iter().any(|name| name == line.path), "{}", line.path);
            assert!(names.iter().any(|name| name == line.base), "{}", line.base);
            assert!(METRICS.contains(&line.metric), "{}", line.metric);
        }
        assert!(TUNNEL.bases.iter().all(|base| names.iter().any(|name| name == base)));
    }

    #[test]
    fn lines_are_judged() {
        let metric = |name: &str| ALL.into_iter().find(|metric| metric.name == name).unwrap();
        let mut results = Results::new("tunnel", TUNNEL.bases);
        for (path, metric_name, value) in [
            ("watari", "tcp1", 4_000.0),
            ("boringtun", "tcp1", 1_000.0),
            ("gotatun", "tcp1", 1_200.0),
            ("watari", "cpu", 3_000.0),
            ("boringtun", "cpu", 8_000.0),
            ("watari", "udp64", 1.0),
        ] {
            results.add(path, metric(metric_name), value);
        }
        let lines = reach(&results);
        for line in [
            "reach: tcp1 watari / boringtun ≥ 4: 4.00, reached",
            "reach: tcp1 watari / gotatun ≥ 3.5: 3.33, MISSED",
            "reach: cpu watari / boringtun ≤ 0.35: 0.38, MISSED",
            "reach: udp64 watari / gotatun ≥ 1: gotatun was not measured",
        ] {
            assert!(lines.iter().any(|found| found == line), "{line} in {lines:#?}");
        }
        assert!(!lines.iter().any(|line| line.contains("rr ")), "neither was measured: {lines:#?}");
    }
}
