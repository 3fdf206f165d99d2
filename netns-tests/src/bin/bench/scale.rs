//! Full tables in one gateway: stations in many segments behind many VTEPs, against empty tables.
//!
//! The path is Watari's of the suite `overlay`. Gateway A, which forwards the measured traffic into its
//! tunnel, then holds what the issue names: 1,000 segments, 256 VTEPs bound to the tunnel, and stations spread
//! evenly over both, each a MAC and a neighbour entry. They are written through the datapath's library, as
//! the EVPN syncer writes them, while the brains are stopped: they would take away what nobody announced, and
//! they carry no packet. (That BGP fills the tables is shown by `overlay`.) Each round measures empty and
//! full tables in turn.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::Gateway;
use nix::sys::signal::Signal;
use serde_json::Value;
use watari_dataplane::abi::ip_bytes;
use watari_dataplane::{Dataplane, Error, MacKey, MacRemote, NeighKey, NeighRemote, Segment, TunnelKey};

use crate::Options;
use crate::measure::{chosen, measure};
use crate::rounds::is_ready;
use crate::table::{Metric, Results};
use crate::watari::{watari, with_tables};
use crate::wires::{Hosts, Path, Wires};

const SEGMENTS: u32 = 1_000;
const VTEPS: u32 = 256;
/// VNIs of the added segments count up from here; the measured one keeps its own.
const FIRST_VNI: u32 = 100_000;
/// Added VTEPs and stations count up from here.
const FIRST_VTEP: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 0);
const FIRST_STATION: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 0);

const LOAD: Metric = Metric { name: "load", unit: "s", higher_is_better: false };
const UPDATE: Metric = Metric { name: "update", unit: "entries/s", higher_is_better: true };
const WALK: Metric = Metric { name: "walk", unit: "entries/s", higher_is_better: true };
const REMOVE: Metric = Metric { name: "remove", unit: "entries/s", higher_is_better: true };
const MEMORY: Metric = Metric { name: "memory", unit: "bytes/station", higher_is_better: false };
/// Tables that a station has an entry in.
const TABLES: [&str; 2] = ["mac_remote", "nb_remote"];

/// Measures empty and full tables in turn.
pub(crate) fn run(options: &Options) -> Result<(Results, String)> {
    let mut results = Results::new("scale", &["watari/empty"]);
    let path = watari(Wires::new()?, 0)?;
    path.set_hosts(Hosts::Tso)?;
    is_ready(&path)?;
    let gateway = path.held.gateways.first().context("a gateway")?;
    println!("watari: stands");
    path.held.gateways.iter().try_for_each(|gateway| gateway.signal(Signal::SIGSTOP))?;
    let scale = Scale::new(gateway, options.entries)?;
    for round in 0..options.repeats {
        scale.round(&path, gateway, options, &mut results)?;
        println!("round {}/{} done", round + 1, options.repeats);
    }
    Ok((results, conditions(options)))
}

/// What gateway A holds when it is full, beside its own.
struct Scale {
    segments: BTreeMap<u32, Segment>,
    vteps: Vec<TunnelKey>,
    macs: Vec<(MacKey, MacRemote)>,
    neighbours: Vec<(NeighKey, NeighRemote)>,
}

impl Scale {
    fn new(gateway: &Gateway, entries: u32) -> Result<Self> {
        let (tunnel, tenant) = with_tables(gateway, |maps| {
            let tunnel = maps.vteps.entries()?.into_keys().next();
            Ok((tunnel, maps.segments.entries()?.into_values().next()))
        })?;
        let tunnel = tunnel.context("no VTEP is bound to a tunnel")?;
        let tenant = tenant.context("the gateway has no segment")?.tenant;
        let vteps: Vec<Ipv4Addr> = (0..VTEPS).map(|n| (u32::from(FIRST_VTEP) + n).into()).collect();
        let stations = (0..entries).map(|n| station(n, &vteps));
        let (macs, neighbours) = stations.unzip();
        Ok(Self {
            segments: (0..SEGMENTS).map(|n| (FIRST_VNI + n, Segment::l2(tenant, 100, 100))).collect(),
            vteps: vteps
                .iter()
                .map(|vtep| TunnelKey { vtep: ip_bytes(IpAddr::V4(*vtep)), ..tunnel })
                .collect(),
            macs,
            neighbours,
        })
    }

    fn round(&self, path: &Path, gateway: &Gateway, options: &Options, results: &mut Results) -> Result<()> {
        let metrics = chosen(&["tcp1".to_owned(), "udp64".to_owned()])?;
        println!("{}", measure(path, Some("empty"), &metrics, options.effort, results)?);
        let before = memory(gateway)?;
        let writes = (self.macs.len() + self.neighbours.len()) as f64;
        let load = timed(gateway, |maps| self.write(maps, 0))?;
        results.add("watari/full", LOAD, load.as_secs_f64());
        println!("{}", measure(path, Some("full"), &metrics, options.effort, results)?);
        let grown = memory(gateway)?.saturating_sub(before);
        results.add("watari/full", MEMORY, grown as f64 / self.macs.len().max(1) as f64);
        let rate = |time: Duration| writes / time.as_secs_f64();
        results.add("watari/full", UPDATE, rate(timed(gateway, |maps| self.write(maps, 1))?));
        let mut seen = 0;
        let walk = timed(gateway, |maps| {
            seen = maps.mac_remote.entries()?.len() + maps.nb_remote.entries()?.len();
            Ok(())
        })?;
        ensure!(seen as f64 >= writes, "{seen} entries are there, {writes} were written");
        results.add("watari/full", WALK, seen as f64 / walk.as_secs_f64());
        results.add("watari/full", REMOVE, rate(timed(gateway, |maps| self.remove(maps))?));
        Ok(())
    }

    /// Writes all of it; another `turn` has other values in every entry: each station moves by so many VTEPs.
    fn write(&self, maps: &Dataplane, turn: usize) -> Result<(), Error> {
        for (vni, segment) in &self.segments {
            maps.segments.upsert(vni, segment)?;
        }
        for vtep in &self.vteps {
            maps.vteps.upsert(vtep, &1)?;
        }
        let moved = self.macs.iter().cycle().skip(turn).map(|(_, at)| at);
        for ((key, _), value) in self.macs.iter().zip(moved) {
            maps.mac_remote.upsert(key, value)?;
        }
        for (key, value) in &self.neighbours {
            let flags = if turn % 2 == 1 { NeighRemote::ROUTER } else { 0 };
            maps.nb_remote.upsert(key, &NeighRemote { flags, ..*value })?;
        }
        Ok(())
    }

    fn remove(&self, maps: &Dataplane) -> Result<(), Error> {
        self.macs.iter().try_for_each(|(key, _)| maps.mac_remote.remove(key).map(drop))?;
        self.neighbours.iter().try_for_each(|(key, _)| maps.nb_remote.remove(key).map(drop))?;
        self.segments.keys().try_for_each(|vni| maps.segments.remove(vni).map(drop))?;
        self.vteps.iter().try_for_each(|key| maps.vteps.remove(key).map(drop))
    }
}

/// The `n`th station: segments and VTEPs take turns, so that each has its share.
fn station(n: u32, vteps: &[Ipv4Addr]) -> ((MacKey, MacRemote), (NeighKey, NeighRemote)) {
    let [a, b, c, d] = n.to_be_bytes();
    let (vni, mac) = (FIRST_VNI + n % SEGMENTS, [0x06, 0x5c, a, b, c, d]);
    let vtep = ip_bytes(IpAddr::V4(vteps[n as usize % vteps.len()]));
    let address = IpAddr::V4((u32::from(FIRST_STATION) + n).into());
    (
        (MacKey::new(vni, mac), MacRemote { vtep, ..MacRemote::default() }),
        (NeighKey::new(vni, address), NeighRemote { mac, ..NeighRemote::default() }),
    )
}

/// How long it takes in the gateway's machine, without opening the tables.
fn timed(gateway: &Gateway, work: impl FnOnce(&Dataplane) -> Result<(), Error> + Send) -> Result<Duration> {
    with_tables(gateway, |maps| {
        let start = Instant::now();
        work(maps)?;
        Ok(start.elapsed())
    })
}

/// Bytes of kernel memory that the two tables take, as the kernel counts them.
fn memory(gateway: &Gateway) -> Result<u64> {
    TABLES.iter().try_fold(0, |sum, table| {
        let pin = gateway.pin_dir().join(format!("wtm-{table}"));
        let shown = gateway.ns().exec(&format!("bpftool -j map show pinned {}", pin.display()))?;
        let shown: Value = serde_json::from_str(&shown)?;
        let bytes = shown["bytes_memlock"].as_u64();
        Ok(sum + bytes.with_context(|| format!("bpftool does not say what {table} takes: {shown}"))?)
    })
}

fn conditions(options: &Options) -> String {
    format!(
        "{} rounds, TCP {:.1} s; full: {} stations (a MAC and a neighbour entry each) in {SEGMENTS} segments\n\
         behind {VTEPS} VTEPs, in gateway A, written through the library while the brains are stopped;\n\
         load: all of it once; update: every entry gets another value; walk: reading both tables whole;\n\
         memory: growth of both tables (bytes_memlock) per station",
        options.repeats,
        options.effort.tcp.as_secs_f64(),
        options.entries,
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn stations_are_spread_over_all_segments_and_vteps() {
        let vteps: Vec<Ipv4Addr> = (0..VTEPS).map(|n| (u32::from(FIRST_VTEP) + n).into()).collect();
        let stations: Vec<_> = (0..100_000).map(|n| station(n, &vteps)).collect();
        let macs: BTreeSet<MacKey> = stations.iter().map(|((key, _), _)| *key).collect();
        let neighbours: BTreeSet<NeighKey> = stations.iter().map(|(_, (key, _))| *key).collect();
        assert_eq!((macs.len(), neighbours.len()), (100_000, 100_000));
        let segments: BTreeSet<u32> = macs.iter().map(|key| key.vni).collect();
        let behind: BTreeSet<[u8; 16]> = stations.iter().map(|((_, at), _)| at.vtep).collect();
        assert_eq!((segments.len(), behind.len()), (1_000, 256));
    }
}
