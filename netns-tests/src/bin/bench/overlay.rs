//! The flat network over a trusted wire: plain forwarding, Linux bridge with kernel VXLAN, and Watari.
//!
//! ```text
//! [host-a] eth0 ── lan0 [gw-a] wan0 ── [wan: bridge] ── wan0 [gw-b] lan0 ── eth0 [host-b]
//!  plain         10.10.1.2  routed through 198.18.0.1 and .2             10.10.2.2
//!  bridge-vxlan  10.20.0.1  br0 + vxlan 100 between 198.18.0.1 and .2    10.20.0.2
//!  watari        10.20.0.1  segment, direct tunnel on VLAN 900 of wan0   10.20.0.2
//! ```
//!
//! Wire mode: the WAN devices have TSO and UDP segmentation off and GRO on, so that segments really cross
//! one by one; a super-packet handed through a veth would measure a memory copy. All paths stand at the
//! same time and are measured in turn; the order changes with every round.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::blast::Blast;
use netns_tests::echo::{self, EchoServer};
use netns_tests::iperf::{Kind, iperf};
use netns_tests::links::veth;
use netns_tests::ping::ping;
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

use crate::table::{Metric, Results};

const TCP1: Metric = Metric { name: "tcp1", unit: "Mbit/s", higher_is_better: true };
const RR: Metric = Metric { name: "rr", unit: "transactions/s", higher_is_better: true };
const UDP1300: Metric = Metric { name: "udp1300", unit: "packets/s", higher_is_better: true };

const TCP_TIME: Duration = Duration::from_secs(3);
const RR_TIME: Duration = Duration::from_secs(2);
const UDP_TIME: Duration = Duration::from_millis(800);
/// Beyond what a path takes, more sent means less received: the best of a ramp is its figure. 0 is a flood.
const UDP_RATES: [u32; 5] = [0, 40_000, 80_000, 160_000, 320_000];
/// What 50 bytes of VXLAN (and an 802.1Q tag beside it) leave of a wire's 1500.
const L2_MTU: u32 = 1450;

const WAN_A: &str = "198.18.0.1";
const WAN_B: &str = "198.18.0.2";

/// One data path, standing.
struct Path {
    name: &'static str,
    host_a: Ns,
    host_b: Ns,
    target: Ipv4Addr,
    // What must live as long as the path.
    _rest: (Vec<Ns>, Vec<Gateway>),
}

struct Wires {
    name: &'static str,
    host_a: Ns,
    gw_a: Ns,
    wan: Ns,
    gw_b: Ns,
    host_b: Ns,
}

/// Measures `repeats` rounds of every path in `only` (of all where it is empty).
pub(crate) fn run(repeats: usize, only: &[String], results: &mut Results) -> Result<()> {
    type Build = fn(Wires) -> Result<Path>;
    let all: [(&'static str, Build); 3] =
        [("plain", plain), ("bridge-vxlan", bridge_vxlan), ("watari", watari)];
    let mut paths = Vec::new();
    for (name, build) in all {
        if only.is_empty() || only.iter().any(|wanted| wanted == name) {
            let path = build(wires(name)?).with_context(|| format!("build {name}"))?;
            wait_until(Duration::from_secs(20), &format!("a ping through {name}"), || {
                ping(&path.host_a, path.target)
            })?;
            println!("{name}: stands");
            paths.push(path);
        }
    }
    ensure!(!paths.is_empty(), "no such path");
    for round in 0..repeats {
        paths.rotate_left(usize::from(round > 0));
        for path in &paths {
            measure(path, round, results)?;
        }
    }
    Ok(())
}

fn measure(path: &Path, round: usize, results: &mut Results) -> Result<()> {
    let start = Instant::now();
    let target = IpAddr::from(path.target);
    let tcp = iperf(&path.host_a, &path.host_b, target, Kind::Tcp { streams: 1 }, TCP_TIME)?;
    results.add(path.name, TCP1, tcp.mbps);
    let server = EchoServer::start(&path.host_b, target)?;
    let rr = echo::tcp_rr(&path.host_a, (target, server.port()).into(), RR_TIME)?;
    results.add(path.name, RR, rr.per_s);
    let mut best = 0.0_f64;
    for rate_per_s in UDP_RATES {
        let to = (target, 0).into();
        let blast = Blast { to, payload_bytes: 1300, rate_per_s, time: UDP_TIME };
        best = best.max(blast.run(&path.host_a, &path.host_b)?.received_per_s);
    }
    results.add(path.name, UDP1300, best);
    println!(
        "round {} {:<13} tcp1 {:>7.0} Mbit/s  rr {:>7.0} /s  udp1300 {:>7.0} /s  ({:.0} s)",
        round + 1,
        path.name,
        tcp.mbps,
        rr.per_s,
        best,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

fn wires(name: &'static str) -> Result<Wires> {
    let wires = Wires {
        name,
        host_a: Ns::new("host-a")?,
        gw_a: Ns::machine("gw-a")?,
        wan: Ns::new("wan")?,
        gw_b: Ns::machine("gw-b")?,
        host_b: Ns::new("host-b")?,
    };
    veth(&wires.host_a, "eth0", &wires.gw_a, "lan0")?;
    veth(&wires.host_b, "eth0", &wires.gw_b, "lan0")?;
    veth(&wires.gw_a, "wan0", &wires.wan, "wan-a")?;
    veth(&wires.gw_b, "wan0", &wires.wan, "wan-b")?;
    wires.wan.bridge("br0", &["wan-a", "wan-b"])?;
    for (ns, device) in
        [(&wires.gw_a, "wan0"), (&wires.gw_b, "wan0"), (&wires.wan, "wan-a"), (&wires.wan, "wan-b")]
    {
        ns.offload(device, "tso off tx-udp-segmentation off")?;
    }
    for gateway in [&wires.gw_a, &wires.gw_b] {
        gateway.offload("wan0", "gro on")?;
    }
    Ok(wires)
}

impl Wires {
    fn standing(self, target: Ipv4Addr, daemons: Vec<Gateway>) -> Path {
        let rest = (vec![self.gw_a, self.wan, self.gw_b], daemons);
        Path { name: self.name, host_a: self.host_a, host_b: self.host_b, target, _rest: rest }
    }

    fn wan_addresses(&self) -> Result<()> {
        self.gw_a.address("wan0", &[&format!("{WAN_A}/24")])?;
        self.gw_b.address("wan0", &[&format!("{WAN_B}/24")])
    }

    fn flat_hosts(&self) -> Result<()> {
        for (host, address) in [(&self.host_a, "10.20.0.11/24"), (&self.host_b, "10.20.0.12/24")] {
            host.mtu("eth0", L2_MTU)?;
            host.address("eth0", &[address])?;
        }
        Ok(())
    }
}

fn plain(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    for (host, gateway, lan, far_lan, far) in
        [(&wires.host_a, &wires.gw_a, 1, 2, WAN_B), (&wires.host_b, &wires.gw_b, 2, 1, WAN_A)]
    {
        host.address("eth0", &[&format!("10.10.{lan}.2/24")])?;
        host.route("default", &format!("10.10.{lan}.1"))?;
        gateway.address("lan0", &[&format!("10.10.{lan}.1/24")])?;
        gateway.route(&format!("10.10.{far_lan}.0/24"), far)?;
        gateway.forward()?;
    }
    Ok(wires.standing(Ipv4Addr::new(10, 10, 2, 2), vec![]))
}

fn bridge_vxlan(wires: Wires) -> Result<Path> {
    wires.wan_addresses()?;
    wires.flat_hosts()?;
    for (gateway, own, far) in [(&wires.gw_a, WAN_A, WAN_B), (&wires.gw_b, WAN_B, WAN_A)] {
        gateway.ip(&format!(
            "link add vx0 mtu {L2_MTU} type vxlan id 100 local {own} dstport 4789 nolearning"
        ))?;
        gateway.bridge("br0", &["lan0", "vx0"])?;
        gateway.ip("link set vx0 up")?;
        gateway.exec(&format!("bridge fdb append 00:00:00:00:00:00 dev vx0 dst {far}"))?;
    }
    Ok(wires.standing(Ipv4Addr::new(10, 20, 0, 12), vec![]))
}

fn watari(wires: Wires) -> Result<Path> {
    wires.flat_hosts()?;
    let gateways = vec![
        Gateway::start(&wires.gw_a, "gw-a", &Value::Null)?,
        Gateway::start(&wires.gw_b, "gw-b", &Value::Null)?,
    ];
    for gateway in &gateways {
        gateway.apply(&document())?;
    }
    Ok(wires.standing(Ipv4Addr::new(10, 20, 0, 12), gateways))
}

fn document() -> Value {
    let end = |address: &str| json!({ "vlan": { "trunk": "wan0", "vid": 900 }, "address": address });
    let gateway =
        |site: &str, vtep: &str| json!({ "site": site, "vtep": vtep, "asn": 65100, "trunks": ["wan0"] });
    json!({
        "sites": { "a": {}, "b": {} },
        "gateways": { "gw-a": gateway("a", "10.255.0.1"), "gw-b": gateway("b", "10.255.0.2") },
        "tenants": { "lab": { "l3vni": 5000 } },
        "segments": { "flat": {
            "tenant": "lab", "vni": 1000, "mtu": L2_MTU,
            "subnets": ["10.20.0.0/24"], "gateway": ["10.20.0.1"],
        } },
        "attachments": {
            "host-a": { "gateway": "gw-a", "segment": "flat", "interface": "lan0" },
            "host-b": { "gateway": "gw-b", "segment": "flat", "interface": "lan0" },
        },
        "tunnels": { "ab": {
            "between": ["gw-a", "gw-b"], "mtu": 1500,
            "direct": { "ends": { "gw-a": end("198.18.0.1/24"), "gw-b": end("198.18.0.2/24") } },
        } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_that_a_gateway_takes() {
        let read = watari_config::read_document(&document());
        read.unwrap_or_else(|problems| panic!("{problems:#?}"));
    }
}
