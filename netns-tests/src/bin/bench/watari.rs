//! Watari as a path: two gateways of the shipped binary, told by documents over their API, with full tables.
//!
//! ```text
//! [host-a]── lan0 [gw-a] wan0 ══ VLAN 900, direct tunnel ══ wan0 [gw-b] lan0 ──[host-b]     segment 10.20.0.0/16
//!                feed0 ║ VLAN 901                     VLAN 901 ║ feed0
//!                [filler]  announces `entries` stations    [filler]        EVPN type 2, VTEP 10.255.0.3
//! ```
//!
//! The tables are filled as a fabric would fill them: each gateway has a third gateway for a neighbour, which
//! announces that many stations (MAC with address) of the measured segment over BGP. So `mac_remote` and
//! `nb_remote` hold them because the EVPN syncer wants them there, and the brain works as it does with them.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::announcer::{Announcer, Session, Stations};
use netns_tests::links::veth;
use netns_tests::tagged::Tagged;
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};
use watari_dataplane::{Dataplane, MacKey};

use crate::wires::{FLAT_B, Held, L2_MTU, Path, WAN_A, WAN_B, Wires};

pub(crate) const ASN: u32 = 65100;
pub(crate) const VTEP_A: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
pub(crate) const VTEP_B: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
pub(crate) const VTEP_FILLER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 3);
/// VNI of the measured segment.
pub(crate) const VNI: u32 = 1000;
/// The first of the announced stations; the hosts and the gateway lie below.
pub(crate) const FIRST_STATION: Ipv4Addr = Ipv4Addr::new(10, 32, 0, 0);
/// How long a gateway may take to hold what was announced.
pub(crate) const FILL_LIMIT: Duration = Duration::from_secs(120);

/// The path, with `entries` stations announced to each gateway.
pub(crate) fn watari(wires: Wires, entries: u32) -> Result<Path> {
    wires.flat_hosts(L2_MTU)?;
    let mut held = Held::default();
    let ends = [(&wires.gw_a, "gw-a", VTEP_A, 'a'), (&wires.gw_b, "gw-b", VTEP_B, 'b')];
    let mut fillers = Vec::new();
    for (machine, _, _, end) in ends {
        fillers.push(filler(machine, end)?);
    }
    for (machine, name, ..) in ends {
        held.gateways.push(Gateway::start(machine, name, &Value::Null)?);
    }
    for gateway in &held.gateways {
        gateway.apply(&document())?;
    }
    for gateway in &held.gateways {
        gateway.settle()?;
    }
    for (((_, _, vtep, _), gateway), filler) in ends.into_iter().zip(&held.gateways).zip(fillers) {
        let (ns, tag) = filler;
        if entries > 0 {
            held.others.push(Box::new(fill(&ns, gateway, vtep, entries)?));
        }
        held.others.push(Box::new((ns, tag)));
    }
    Ok(wires.standing("watari", FLAT_B, held))
}

/// The third gateway of one end: a namespace on a wire of its own, its interface tagged.
pub(crate) fn filler(machine: &Ns, end: char) -> Result<(Ns, Tagged)> {
    let ns = Ns::new(&format!("filler-{end}"))?;
    veth(&ns, "eth0", machine, "feed0")?;
    let tag = Tagged::attach(&ns, "eth0", 901)?;
    ns.address("eth0", &["198.18.1.3/24"])?;
    ns.address("lo", &[&format!("{VTEP_FILLER}/32")])?;
    for vtep in [VTEP_A, VTEP_B] {
        let via = if vtep == VTEP_A { "198.18.1.1" } else { "198.18.1.2" };
        ns.ip(&format!("route add {vtep}/32 via {via} src {VTEP_FILLER}"))?;
    }
    Ok((ns, tag))
}

/// Announces the stations and waits until the gateway's tables hold them all.
fn fill(ns: &Ns, gateway: &Gateway, vtep: Ipv4Addr, entries: u32) -> Result<Announcer> {
    let session = Session { vtep: VTEP_FILLER, gateway: vtep, asn: ASN };
    let mut announcer = Announcer::connect(ns, session).with_context(|| gateway.log())?;
    let start = Instant::now();
    announcer.announce(&Stations { vni: VNI, first: FIRST_STATION, count: entries })?;
    let name = gateway.name();
    wait_until(FILL_LIMIT, &format!("{entries} stations in the tables of {name}"), || -> Result<()> {
        let (macs, neighbours) = with_tables(gateway, |maps| {
            Ok((maps.mac_remote.entries()?.len(), maps.nb_remote.entries()?.len()))
        })?;
        let wanted = entries as usize;
        ensure!(macs >= wanted && neighbours >= wanted, "{macs} MACs, {neighbours} neighbours");
        Ok(())
    })?;
    println!(
        "watari: {name} holds {entries} stations that BGP announced, {:.1} s after the first UPDATE",
        start.elapsed().as_secs_f64()
    );
    Ok(announcer)
}

/// Waits until each gateway knows the far host, by EVPN: a frame to a MAC that nobody knows is flooded, at
/// the segment's rate, and a measurement of that is one of nothing. Where hosts are routed to there is nothing to learn.
pub(crate) fn hosts_are_known(path: &Path) -> Result<()> {
    if path.target != FLAT_B {
        return Ok(());
    }
    let hosts = [&path.wires.host_b, &path.wires.host_a];
    for (gateway, host) in path.held.gateways.iter().zip(hosts) {
        let key = MacKey::new(VNI, host.mac("eth0")?);
        wait_until(FILL_LIMIT, &format!("{} to know {}", gateway.name(), host.label()), || {
            with_tables(gateway, |maps| maps.mac_remote.get(&key))?.context("not in mac_remote")
        })?;
    }
    Ok(())
}

/// Looks at the pinned tables of a gateway, from within its machine.
pub(crate) fn with_tables<T: Send>(
    gateway: &Gateway,
    look: impl FnOnce(&Dataplane) -> Result<T, watari_dataplane::Error> + Send,
) -> Result<T> {
    let folder = gateway.pin_dir();
    gateway.ns().run(|| -> Result<T> {
        let maps = Dataplane::open_existing(&folder)?;
        let maps = maps.with_context(|| {
            format!("{} holds no datapath of this build: build bench and watari together", folder.display())
        })?;
        Ok(look(&maps)?)
    })
}

/// Both gateways, the third one, and the segment.
pub(crate) fn document() -> Value {
    let end = |trunk: &str, vid: u16, address: &str| json!({ "vlan": { "trunk": trunk, "vid": vid }, "address": address });
    let gateway = |site: &str, vtep: Ipv4Addr| json!({ "site": site, "vtep": vtep.to_string(), "asn": ASN, "trunks": ["wan0", "feed0"] });
    let tunnel = |between: [&str; 2], ends: [Value; 2]| {
        let [a, b] = ends;
        json!({ "between": between, "mtu": 1500, "direct": { "ends": { between[0]: a, between[1]: b } } })
    };
    // Every guard is on: what is measured is what an operator would run towards hosts that are not theirs.
    let attachment = |gateway: &str, address: &str| {
        json!({
            "gateway": gateway, "segment": "flat", "interface": "lan0",
            "guard": {
                "addresses": [format!("{address}/32")], "dhcp_server": "deny", "routers": "deny",
                "macs_max": 64, "storm_rate": 1000,
            },
        })
    };
    let wan = |address: &str| end("wan0", 900, &format!("{address}/24"));
    let feed = |address: &str| end("feed0", 901, address);
    let far = |vid: u16| end("wan0", vid, "198.18.1.3/24");
    json!({
        "sites": { "a": {}, "b": {}, "c": {} },
        "gateways": {
            "gw-a": gateway("a", VTEP_A), "gw-b": gateway("b", VTEP_B), "gw-c": gateway("c", VTEP_FILLER),
        },
        "tenants": { "lab": { "l3vni": 5000 } },
        "segments": { "flat": {
            "tenant": "lab", "vni": VNI, "mtu": L2_MTU, "subnets": ["10.0.0.0/10"], "gateway": ["10.20.0.1"],
        } },
        "attachments": {
            "host-a": attachment("gw-a", "10.20.0.11"),
            "host-b": attachment("gw-b", "10.20.0.12"),
        },
        "tunnels": {
            "ab": tunnel(["gw-a", "gw-b"], [wan(WAN_A), wan(WAN_B)]),
            "ac": tunnel(["gw-a", "gw-c"], [feed("198.18.1.1/24"), far(901)]),
            "bc": tunnel(["gw-b", "gw-c"], [feed("198.18.1.2/24"), far(902)]),
        },
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
