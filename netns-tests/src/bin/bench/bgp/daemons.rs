//! The daemons that are measured, each alone in a machine with one wire to the processes around it: tables only, no
//! kernel routes, no filters.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use netns_tests::bird::Bird;
use netns_tests::frr::Frr;
use netns_tests::links::veth;
use netns_tests::process::tail;
use netns_tests::{Gateway, Ns, wait_until};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::load::{Job, daemon};

/// Our AS number in every configuration.
const ASN: u32 = 65_000;
const ADDRESSES: [&str; 2] = ["10.99.0.1/16", "fd99::1/64"];
/// How long a daemon may take to listen with all its neighbours.
const LIMIT: Duration = Duration::from_secs(30);

/// A running daemon, and the namespace at the other end of its wire.
pub(crate) struct Daemon {
    held: Held,
    pub(crate) outside: Ns,
}

enum Held {
    Bird(Bird),
    Frr(Frr),
    Watari(Box<Gateway>),
}

impl Daemon {
    /// Starts `name` with these jobs' ends as its neighbours.
    pub(crate) fn start(name: &str, jobs: &[Job]) -> Result<Self> {
        let (inside, outside) = (Ns::machine("dut")?, Ns::new("load")?);
        veth(&inside, "lan0", &outside, "lan0")?;
        let ends: Vec<(IpAddr, u32)> =
            jobs.iter().flat_map(|job| (0..job.count).map(|n| job.end(n))).collect();
        for (address, _) in &ends {
            outside.address("lan0", &[&format!("{address}/{}", if address.is_ipv6() { 64 } else { 16 })])?;
        }
        let ipv6 = jobs.iter().any(|job| job.routes.ipv6);
        let held = match name {
            "watari" => Held::Watari(Box::new(watari(&inside, &ends, ipv6)?)),
            _ => {
                inside.address("lan0", &ADDRESSES)?;
                match name {
                    "bird2" => Held::Bird(Bird::start(&inside, &bird_conf(&ends, ipv6))?),
                    "frr" => Held::Frr(Frr::start_with(
                        &inside,
                        "hostname dut\n",
                        &bgpd_conf(&ends, ipv6),
                        &["-n"],
                    )?),
                    other => bail!("no daemon called {other}"),
                }
            }
        };
        Ok(Self { held, outside })
    }

    fn pid(&mut self) -> Result<u32> {
        match &mut self.held {
            Held::Bird(bird) => Ok(bird.process().pid()),
            Held::Frr(frr) => Ok(frr.bgpd().pid()),
            Held::Watari(gateway) => gateway.pid().context("watari has ended"),
        }
    }

    /// Processor seconds so far, of all its threads.
    pub(crate) fn cpu_s(&mut self) -> Result<f64> {
        let clock = nix::time::clock_getcpuclockid(Pid::from_raw(self.pid()?.cast_signed()))?;
        Ok(Duration::from(clock.now()?).as_secs_f64())
    }

    /// Its largest resident set so far, in MB.
    pub(crate) fn peak_mb(&mut self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kilobytes: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kilobytes / 1_000.0)
    }

    /// The end of what it logged.
    pub(crate) fn log(&mut self) -> String {
        let log = match &mut self.held {
            Held::Bird(bird) => bird.process().log(),
            Held::Frr(frr) => frr.bgpd().log(),
            Held::Watari(gateway) => gateway.log(),
        };
        tail(&log).to_owned()
    }
}

fn bird_conf(ends: &[(IpAddr, u32)], ipv6: bool) -> String {
    let mut text = "router id 10.99.0.1;\nprotocol device {}\n".to_owned();
    let (own, family) = (daemon(ipv6), if ipv6 { "ipv6" } else { "ipv4" });
    for (n, (address, asn)) in ends.iter().enumerate() {
        text += &format!(
            "protocol bgp p{n} {{ local {own} as {ASN}; neighbor {address} as {asn}; passive on; \
             {family} {{ import all; export all; }}; }}\n"
        );
    }
    text
}

fn bgpd_conf(ends: &[(IpAddr, u32)], ipv6: bool) -> String {
    let mut text = format!(
        "hostname dut\nrouter bgp {ASN}\n bgp router-id 10.99.0.1\n no bgp ebgp-requires-policy\n \
         no bgp default ipv4-unicast\n"
    );
    for (address, asn) in ends {
        text += &format!(" neighbor {address} remote-as {asn}\n neighbor {address} passive\n");
    }
    text += if ipv6 { " address-family ipv6 unicast\n" } else { " address-family ipv4 unicast\n" };
    for (address, _) in ends {
        text += &format!("  neighbor {address} activate\n");
    }
    text + " exit-address-family\n"
}

fn watari(inside: &Ns, ends: &[(IpAddr, u32)], ipv6: bool) -> Result<Gateway> {
    let gateway = Gateway::start(inside, "gw-a", &Value::Null)?;
    gateway.apply(&document(ends, ipv6))?;
    wait_until(LIMIT, "all peers of watari", || -> Result<()> {
        let facts = gateway.get("/api/v1/facts")?;
        let sessions = facts["bgp"]["sessions"].as_array().map_or(0, Vec::len);
        ensure!(sessions == ends.len(), "{sessions} of {}", ends.len());
        Ok(())
    })
    .with_context(|| gateway.log())?;
    Ok(gateway)
}

fn document(ends: &[(IpAddr, u32)], ipv6: bool) -> Value {
    let all = if ipv6 { "::/0" } else { "0.0.0.0/0" };
    let peers: serde_json::Map<String, Value> = ends
        .iter()
        .enumerate()
        .map(|(n, (address, asn))| {
            let peer = json!({
                "exit": "edge", "address": address, "asn": asn, "passive": true,
                "accept": [all], "announce": [all], "prefixes_max": 2_000_000,
            });
            (format!("p{n}"), peer)
        })
        .collect();
    json!({
        "sites": { "a": {} },
        "gateways": { "gw-a": { "site": "a", "vtep": "10.255.0.1", "asn": ASN, "trunks": [] } },
        "tenants": { "exchange": { "l3vni": 5000, "exchange_only": true } },
        "exits": { "edge": {
            "tenant": "exchange", "gateway": "gw-a", "interface": "lan0", "addresses": ADDRESSES,
        } },
        "peers": peers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_one_that_a_gateway_takes() {
        let ends = [("10.99.1.1".parse().unwrap(), 64_600), ("10.99.2.1".parse().unwrap(), 64_800)];
        let read = watari_config::read_document(&document(&ends, false));
        read.unwrap_or_else(|problems| panic!("{problems:#?}"));
    }
}
