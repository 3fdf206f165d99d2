//! The brain is killed and comes back beside GoBGP, which is in the place of gateway B: it keeps our EVPN routes meanwhile
//! (RFC 4724 with L2VPN EVPN), so nobody behind it hears of anything. Another gateway as helper: `kill_brain`; FRR,
//! which keeps no EVPN routes: `evpn_frr`. Needs root and gobgpd.
//!
//! ```text
//!  host-a ═ [gw-a] VTEP 10.255.0.1 ── VLAN 900 ── VTEP 10.255.0.2 [GoBGP: tables, no packets]
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netns_tests::gobgp::Gobgp;
use netns_tests::ping::ping;
use netns_tests::tagged::Tagged;
use netns_tests::topology::{GATEWAY, Topology, Tunnel};
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, wait_until};

/// GoBGP rests for half a minute before it takes a session back.
const BACK: Duration = Duration::from_secs(60);
/// What the pings have taught the gateway has been told by then.
const REST: Duration = Duration::from_millis(2500);
const US: &str = "10.255.0.1";
const CONFIG: &str = "[global.config]
  as = 65100
  router-id = \"10.255.0.2\"
[[neighbors]]
  [neighbors.config]
    neighbor-address = \"10.255.0.1\"
    peer-as = 65100
  [neighbors.transport.config]
    local-address = \"10.255.0.2\"
  [neighbors.timers.config]
    connect-retry = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 120
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"l2vpn-evpn\"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
";

struct Bench {
    topology: Topology,
    gateway: Gateway,
    gobgp: Gobgp,
    _tag: Tagged,
}

fn bench() -> Result<Bench> {
    let (topology, gateway, _) = world::single(&[Tunnel::Direct], |_, _| Ok(()))?;
    let machine = &topology.b.gateway;
    let tag = Tagged::attach(machine, "trunk1", 900)?;
    machine.address("trunk1", &["10.90.0.2/30"])?;
    machine.address("lo", &["10.255.0.2/32"])?;
    machine.ip("route add 10.255.0.1/32 via 10.90.0.1 src 10.255.0.2")?;
    let gobgp = Gobgp::start(machine, CONFIG)?;
    wait_until(SOON, "the session with GoBGP", || {
        ensure!(gobgp.established(US)?, "{:#}", gobgp.neighbour(US)?);
        Ok(())
    })?;
    Ok(Bench { topology, gateway, gobgp, _tag: tag })
}

impl Bench {
    /// Our routes at GoBGP, and whether each is kept for a neighbour that restarts.
    fn routes(&self) -> Result<BTreeMap<String, bool>> {
        let table = self.gobgp.ask_json("global rib -a evpn")?;
        let routes = table.as_object().into_iter().flatten();
        Ok(routes.map(|(name, paths)| (name.clone(), paths[0]["stale"] == true)).collect())
    }
}

fn names(routes: &BTreeMap<String, bool>) -> Vec<String> {
    routes.keys().cloned().collect()
}

#[test]
fn root_gobgp_keeps_our_evpn_routes_while_the_brain_is_away() -> Result<()> {
    let mut bench = bench()?;
    wait_until(SOON, "host-a to be known", || ping(&bench.topology.a.host, GATEWAY.0))?;
    let mac = bench.topology.a.host.mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
    // Types 2, 3 and 5.
    let wanted = [mac.as_str(), "10.20.0.11", "multicast", "10.20.0.0/24", "fd20::/64"];
    let (mut last, mut since) = (Vec::new(), Instant::now());
    let before = wait_until(SOON, "our routes at GoBGP, at rest", || {
        let now = names(&bench.routes()?);
        if now != last {
            (last, since) = (now.clone(), Instant::now());
        }
        let all = now.join("\n");
        ensure!(wanted.iter().all(|wanted| all.contains(wanted)), "{all}");
        ensure!(since.elapsed() > REST, "it moves: {all}");
        Ok(now)
    })?;

    bench.gateway.kill9()?;
    let killed = Instant::now();
    wait_until(SOON, "GoBGP to keep them", || {
        let now = bench.routes()?;
        ensure!(names(&now) == before && now.values().all(|stale| *stale), "{now:#?}");
        Ok(())
    })?;
    bench.gateway.launch()?;
    let mut missed = Vec::new();
    wait_until(BACK, "our routes to be told again", || {
        let now = bench.routes()?;
        missed.extend(before.iter().filter(|name| !now.contains_key(*name)).cloned());
        ensure!(bench.gobgp.established(US)?, "{:#}", bench.gobgp.neighbour(US)?);
        ensure!(names(&now) == before && now.values().all(|stale| !stale), "{now:#?}");
        Ok(())
    })?;
    println!("{} routes were kept and told again after {:?}", before.len(), killed.elapsed());
    ensure!(missed.is_empty(), "GoBGP was without {missed:?}");
    Ok(())
}
