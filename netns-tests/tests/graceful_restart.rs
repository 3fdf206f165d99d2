//! The brain is killed and comes back, and what that costs is counted where it would hurt: at routers behind its
//! neighbours (RFC 4724). They are told of no withdrawal but of the one route that is really gone, no datagram is
//! lost, and End-of-RIB goes out only after our own neighbours have told us everything again. Needs root.
//!
//! ```text
//!                                ┌─ 10.30.0.2, AS 65001 [BIRD]  ── 10.41.1.0/30 ─ [third 1, BIRD] 192.0.2.16/28
//!  host-a ═ [gw-a] 10.30.0.1/29 ─┼─ 10.30.0.3, AS 65002 [FRR]   ── 10.41.2.0/30 ─ [third 2, BIRD] 192.0.2.32/28
//!                  fd30::1       ├─ 10.30.0.4, AS 65003 [GoBGP] ── 10.41.3.0/30 ─ [third 3, BIRD] 192.0.2.48/28
//!                                └─ 10.30.0.5, AS 65004 [source: ExaBGP] 198.51.100.0/25
//! ```
//! IPv4 and IPv6 have sessions of their own everywhere. That the campus router, gateway B and the tunnels notice
//! nothing either: `kill_brain`.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use netns_tests::bird::{Bird, Imported};
use netns_tests::exabgp::{Exabgp, Session};
use netns_tests::flow::{Flow, FlowSpec};
use netns_tests::frr::Frr;
use netns_tests::gobgp::Gobgp;
use netns_tests::links::veth;
use netns_tests::ping::ping;
use netns_tests::topology::{HOST_A, Topology, VID_CAMPUS};
use netns_tests::wait::holds_for;
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

const US: [&str; 2] = ["10.30.0.1", "fd30::1"];
const SUBNETS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
/// What the source tells before and after.
const KEPT: &str = "198.51.100.0/25";
/// What it tells before only.
const GONE: &str = "198.51.100.128/25";
/// GoBGP rests for half a minute before it takes a session back.
const BACK: Duration = Duration::from_secs(60);
/// How long nobody may be told that all is said while the source is away.
const UNFINISHED: Duration = Duration::from_secs(3);

enum Router {
    Bird(Bird),
    Frr(Frr),
    Gobgp(Gobgp),
}

/// A neighbour that keeps our routes while we restart, and the router behind it.
struct Helper {
    name: &'static str,
    router: Router,
    third: Bird,
    third_ns: Ns,
    number: usize,
}

/// What is spelt alike for a helper's neighbours in every configuration: own address, the other's, its AS, family.
fn sessions(number: usize) -> [(String, String, u32, u8); 4] {
    let third = 65_010 + u32::try_from(number).unwrap_or(0);
    let own = number + 1;
    [
        (format!("10.30.0.{own}"), US[0].to_owned(), 65_100, 4),
        (format!("fd30::{own}"), US[1].to_owned(), 65_100, 6),
        (format!("10.41.{number}.1"), format!("10.41.{number}.2"), third, 4),
        (format!("fd41:{number}::1"), format!("fd41:{number}::2"), third, 6),
    ]
}

fn bird_session(
    name: &str,
    (local, asn): (&str, u32),
    (remote, remote_asn): (&str, u32),
    rest: &str,
) -> String {
    format!(
        "protocol bgp {name} {{ local {local} as {asn}; neighbor {remote} as {remote_asn}; connect delay time 1;
  connect retry time 2; error wait time 1, 2; {rest} }}\n"
    )
}

/// What every BIRD has; `own` are the addresses that the machine sends from by what it learns.
fn bird_head(id: &str, own: Option<&[String; 2]>) -> String {
    let mut text = format!("router id {id};\nlog stderr all;\nprotocol device {{}}\n");
    for (at, family) in ["ipv4", "ipv6"].iter().enumerate() {
        let source =
            own.map(|own| format!("krt_prefsrc = {};", own[at].split('/').next().unwrap_or_default()));
        let source = source.unwrap_or_default();
        text += &format!(
            "protocol kernel {{ {family} {{ import none;
  export filter {{ if source != RTS_BGP then reject; {source} accept; }}; }}; }}\n"
        );
    }
    text
}

fn bird_helper(number: usize) -> String {
    let mut text = bird_head("10.30.0.2", None);
    for (local, remote, asn, family) in sessions(number) {
        let name = if asn == 65_100 { "watari" } else { "third" };
        let rest = format!("graceful restart on; ipv{family} {{ import all; export all; }};");
        text += &bird_session(&format!("{name}{family}"), (&local, 65_001), (&remote, asn), &rest);
    }
    text
}

fn frr_helper(number: usize) -> String {
    let mut text = "router bgp 65002\n bgp router-id 10.30.0.3\n no bgp ebgp-requires-policy\n \
                    no bgp default ipv4-unicast\n bgp graceful-restart\n"
        .to_owned();
    for (_, remote, asn, _) in sessions(number) {
        text += &format!(" neighbor {remote} remote-as {asn}\n neighbor {remote} timers connect 2\n");
    }
    for wanted in [4, 6] {
        text += &format!(" address-family ipv{wanted} unicast\n");
        for (_, remote, ..) in sessions(number).iter().filter(|(.., family)| *family == wanted) {
            text += &format!("  neighbor {remote} activate\n");
        }
        text += " exit-address-family\n";
    }
    text
}

fn gobgp_helper(number: usize) -> String {
    let mut text = "[global.config]\n  as = 65003\n  router-id = \"10.30.0.4\"\n".to_owned();
    for (_, remote, asn, family) in sessions(number) {
        text += &format!(
            "[[neighbors]]
  [neighbors.config]
    neighbor-address = \"{remote}\"
    peer-as = {asn}
  [neighbors.timers.config]
    connect-retry = 1
  [neighbors.graceful-restart.config]
    enabled = true
    restart-time = 120
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = \"ipv{family}-unicast\"
    [neighbors.afi-safis.mp-graceful-restart.config]
      enabled = true
"
        );
    }
    text
}

fn third(number: usize) -> String {
    let mut text = bird_head(&format!("10.41.{number}.2"), Some(&behind(number)));
    let nets = [format!("192.0.2.{}/28", 16 * number), format!("2001:db8:2:{number}::/64")];
    for ((local, remote, own, family), net) in sessions(number)[2..].iter().zip(nets) {
        text += &format!("protocol static {{ ipv{family}; route {net} blackhole; }}\n");
        let rest = format!("ipv{family} {{ import all; export where source = RTS_STATIC; }};");
        let asn = 65_000 + u32::try_from(number).unwrap_or(0);
        text += &bird_session(&format!("up{family}"), (remote, *own), (local, asn), &rest);
    }
    text
}

/// The helper's machine on the campus VLAN and the third router behind it, wired.
fn machines(topology: &mut Topology, number: usize) -> Result<(Ns, Ns)> {
    let (helper, third) = (Ns::new(&format!("helper-{number}"))?, Ns::new(&format!("third-{number}"))?);
    topology.a.plug(&helper, "up0", VID_CAMPUS)?;
    let own = number + 1;
    helper.address("up0", &[&format!("10.30.0.{own}/29"), &format!("fd30::{own}/64")])?;
    veth(&helper, "down0", &third, "up0")?;
    helper.address("down0", &[&format!("10.41.{number}.1/30"), &format!("fd41:{number}::1/64")])?;
    third.address("up0", &[&format!("10.41.{number}.2/30"), &format!("fd41:{number}::2/64")])?;
    third.address("lo", &[&behind(number)[0], &behind(number)[1]].map(|a| a as &str))?;
    helper.forward()?;
    Ok((helper, third))
}

/// Addresses of the third router within what it tells.
fn behind(number: usize) -> [String; 2] {
    [format!("192.0.2.{}/32", 16 * number + 1), format!("2001:db8:2:{number}::1/128")]
}

impl Helper {
    fn start(number: usize, (machine, third_ns): (Ns, Ns)) -> Result<Self> {
        let (name, router) = match number {
            1 => ("BIRD", Router::Bird(Bird::start(&machine, &bird_helper(number))?)),
            2 => ("FRR", Router::Frr(Frr::start(&machine, "hostname helper\n", &frr_helper(number))?)),
            _ => {
                // It writes no kernel routes.
                for (subnet, us) in SUBNETS.iter().zip(US) {
                    machine.route(subnet, us)?;
                }
                machine.route(&format!("192.0.2.{}/28", 16 * number), &format!("10.41.{number}.2"))?;
                machine.route(&format!("2001:db8:2:{number}::/64"), &format!("fd41:{number}::2"))?;
                ("GoBGP", Router::Gobgp(Gobgp::start(&machine, &gobgp_helper(number))?))
            }
        };
        let third = Bird::start(&third_ns, &third(number))?;
        Ok(Self { name, router, third, third_ns, number })
    }

    fn established(&self) -> Result<bool> {
        Ok(match &self.router {
            Router::Bird(bird) => bird.established("watari4")? && bird.established("watari6")?,
            Router::Frr(frr) => frr.established(US[0])? && frr.established(US[1])?,
            Router::Gobgp(gobgp) => gobgp.established(US[0])? && gobgp.established(US[1])?,
        })
    }

    /// Whether it has our route to a prefix and keeps it as one of a router that restarts.
    fn keeps(&self, prefix: &str) -> Result<bool> {
        Ok(match &self.router {
            Router::Bird(bird) => {
                let name = if prefix.contains(':') { "watari6" } else { "watari4" };
                let session = bird.ask(&format!("show protocols all {name}"))?;
                session.contains("Neighbor graceful restart active") && self.has(prefix)?
            }
            Router::Frr(frr) => frr_path(frr, prefix)?["stale"] == true,
            Router::Gobgp(gobgp) => gobgp.route(prefix)?.is_some_and(|path| path.is_stale()),
        })
    }

    /// Whether it has our route to a prefix, fresh or not.
    fn has(&self, prefix: &str) -> Result<bool> {
        Ok(match &self.router {
            Router::Bird(bird) => bird.routes(prefix).is_ok_and(|text| text.contains("[watari")),
            Router::Frr(frr) => frr_path(frr, prefix)?["valid"] == true,
            Router::Gobgp(gobgp) => gobgp.route(prefix)?.is_some(),
        })
    }

    /// Whether the third router has a route to a prefix.
    fn reaches_third(&self, prefix: &str) -> bool {
        self.third.routes(prefix).is_ok_and(|text| text.contains("[up"))
    }

    /// What the third router was told, IPv4 and IPv6.
    fn told(&self) -> Result<[Imported; 2]> {
        Ok([self.third.imported("up4")?, self.third.imported("up6")?])
    }
}

fn frr_path(frr: &Frr, prefix: &str) -> Result<Value> {
    let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
    Ok(frr.ask_json(&format!("show bgp {family} unicast {prefix} json"))?["paths"][0].clone())
}

fn document(document: &mut Value) {
    document["exits"]["campus"]["addresses"] = json!(["10.30.0.1/29", "fd30::1/64"]);
    let mut peers = json!({
        "source": { "exit": "campus", "address": "10.30.0.5", "asn": 65004, "accept": ["198.51.100.0/24"] },
    });
    for (number, name) in ["bird", "frr", "gobgp"].iter().enumerate() {
        for (family, host) in [(4, format!("10.30.0.{}", number + 2)), (6, format!("fd30::{}", number + 2))] {
            let v6 = family == 6;
            peers[format!("{name}{family}")] = json!({
                "exit": "campus", "address": host, "asn": 65_001 + number, "connect_retry_s": 1,
                "accept": [if v6 { "2001:db8:2::/48" } else { "192.0.2.0/24" }],
                "announce": if v6 { json!(["fd20::/64"]) } else { json!(["10.20.0.0/24", "198.51.100.0/24"]) },
            });
        }
    }
    document["peers"] = peers;
}

struct Bench {
    gateway: Gateway,
    helpers: Vec<Helper>,
    source: Session,
    exabgp: Exabgp,
    topology: Topology,
}

impl Bench {
    fn start() -> Result<Self> {
        let mut wired = Vec::new();
        let (topology, gateway, _) = world::single(&[], |topology, wanted| {
            for number in 1..=3 {
                wired.push(machines(topology, number)?);
            }
            topology.campus.ip("addr del 10.30.0.2/30 dev up0")?;
            topology.campus.ip("addr del fd30::2/64 dev up0")?;
            topology.campus.address("up0", &["10.30.0.5/29"])?;
            document(wanted);
            Ok(())
        })?;
        let started = wired.into_iter().enumerate().map(|(i, ends)| Helper::start(i + 1, ends));
        let helpers = started.collect::<Result<Vec<_>>>()?;
        let mut source = Session::new("10.30.0.5", 65_004, US[0], 65_100);
        source.capabilities = "route-refresh enable; graceful-restart 120;";
        let exabgp = tell(&topology, &source, &[KEPT, GONE])?;
        let bench = Self { gateway, helpers, source, exabgp, topology };
        for helper in &bench.helpers {
            for prefix in [SUBNETS[0], SUBNETS[1], KEPT, GONE] {
                wait_until(BACK, &format!("{prefix} behind {}", helper.name), || {
                    ensure!(helper.reaches_third(prefix), "{}", bench.gateway.get("/api/v1/bgp/neighbours")?);
                    Ok(())
                })?;
            }
        }
        Ok(bench)
    }

    /// Datagrams both ways between host-a and each third router, IPv4 one way, IPv6 the other.
    fn flows(&self) -> Result<Vec<(String, Flow)>> {
        let host = &self.topology.a.host;
        let mut flows = Vec::new();
        for helper in &self.helpers {
            let far = behind(helper.number).map(|net| net.split('/').next().unwrap_or_default().to_owned());
            let far: IpAddr = far[1].parse()?;
            wait_until(SOON, &format!("host-a to reach {far}"), || ping(host, far))?;
            let there = FlowSpec::to(SocketAddr::new(far, 9000));
            let port = 9000 + u16::try_from(helper.number)?;
            let here = FlowSpec::to(SocketAddr::new(HOST_A.0.into(), port));
            wait_until(SOON, "a third router to reach host-a", || ping(&helper.third_ns, HOST_A.0))?;
            flows.push((format!("host-a → {}", helper.name), Flow::start(host, &helper.third_ns, there)?));
            flows.push((format!("{} → host-a", helper.name), Flow::start(&helper.third_ns, host, here)?));
        }
        flows.iter().try_for_each(|(name, flow)| flow.wait_for(100, SOON).context(name.clone()))?;
        Ok(flows)
    }

    fn every(&self, limit: Duration, what: &str, is: impl Fn(&Helper) -> Result<bool>) -> Result<()> {
        for helper in &self.helpers {
            wait_until(limit, &format!("{what}: {}", helper.name), || {
                ensure!(is(helper)?, "not yet: {:#}", self.gateway.get("/api/v1/bgp/neighbours")?);
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// The source, telling these prefixes; End-of-RIB follows them.
fn tell(topology: &Topology, source: &Session, prefixes: &[&str]) -> Result<Exabgp> {
    let routes = prefixes.iter().map(|prefix| format!("route {prefix} next-hop self; "));
    let lines = format!("static {{ {} }}", routes.collect::<String>());
    Exabgp::start(&topology.campus, &[Session { lines, ..source.clone() }])
}

#[test]
fn root_a_brain_that_restarts_withdraws_nothing_behind_its_neighbours() -> Result<()> {
    let mut bench = Bench::start()?;
    let flows = bench.flows()?;
    let before = bench.helpers.iter().map(Helper::told).collect::<Result<Vec<_>>>()?;

    bench.gateway.kill9()?;
    let killed = Instant::now();
    bench.exabgp.process().kill9()?;
    let ours = [SUBNETS[0], SUBNETS[1], KEPT, GONE];
    bench_keeps(&bench, &ours)?;

    bench.gateway.launch()?;
    bench.every(BACK, "a session again", Helper::established)?;
    println!("all sessions were back {:?} after the kill", killed.elapsed());
    // The source has not told us again what it told us, so nobody is told that all is said.
    holds_for(UNFINISHED, "no End-of-RIB before we know everything again", || -> Result<()> {
        for helper in &bench.helpers {
            for prefix in [KEPT, GONE, SUBNETS[0]] {
                ensure!(helper.keeps(prefix)?, "{} no longer waits for {prefix}", helper.name);
            }
        }
        Ok(())
    })?;
    for (helper, before) in bench.helpers.iter().zip(&before) {
        let now = helper.told()?;
        ensure!(now == *before, "{}: {now:?}, before {before:?}", helper.name);
    }

    bench.exabgp = tell(&bench.topology, &bench.source, &[KEPT])?;
    bench.every(SOON, "what is gone to be gone", |helper| Ok(!helper.reaches_third(GONE)))?;
    bench.every(SOON, "the restart to be over", |helper| {
        Ok([SUBNETS[0], SUBNETS[1], KEPT].iter().all(|prefix| {
            helper.reaches_third(prefix)
                && helper.has(prefix).unwrap_or(false)
                && !helper.keeps(prefix).unwrap_or(true)
        }))
    })?;
    for (helper, before) in bench.helpers.iter().zip(&before) {
        let now = helper.told()?;
        let withdrawn: Vec<u64> =
            now.iter().zip(before).map(|(n, b)| n.withdrawals - b.withdrawals).collect();
        let updated: Vec<u64> = now.iter().zip(before).map(|(n, b)| n.updates - b.updates).collect();
        println!("behind {}: {updated:?} updates, {withdrawn:?} withdrawals", helper.name);
        ensure!(withdrawn == [1, 0], "{}: {now:?}, before {before:?}", helper.name);
        ensure!(now.iter().zip(before).all(|(n, b)| n.since == b.since), "{now:?}, before {before:?}");
    }
    for (name, flow) in flows {
        let report = flow.stop()?;
        println!("{name}: {report:?}");
        ensure!(report.sent > 0 && report.lost == 0 && report.refused == 0, "{name}: {report:?}");
    }
    Ok(())
}

/// Every helper has noticed, and keeps what we told.
fn bench_keeps(bench: &Bench, prefixes: &[&str]) -> Result<()> {
    for helper in &bench.helpers {
        for prefix in prefixes {
            wait_until(SOON, &format!("{} to keep {prefix}", helper.name), || helper.keeps(prefix))
                .with_context(|| helper.name)?;
        }
    }
    Ok(())
}
