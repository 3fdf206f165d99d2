//! What a gateway learns, as its operator asks for it and as its kernel has it: `watari bgp` against the running daemon,
//! IPv4 routes whose next hop is an IPv6 address (RFC 8950), and routes that ask for a drop (RFC 7999). Needs root
//! and bird2.
//!
//! ```text
//!  host-a ═ [gw-a, AS 65100] fd30::1 ─ near: IPv4 and IPv6 ─ fd30::2 [BIRD, AS 65001] ─ server 192.0.2.10
//!                          10.30.0.1 ─ far: a longer path ── 10.30.0.2
//! ```

use anyhow::{Context as _, Result, ensure};
use netns_tests::bird::Bird;
use netns_tests::ping::{Ping, ping};
use netns_tests::topology::{HOST_A, SERVER, Topology};
use netns_tests::wait::holds_for;
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, wait_until};
use serde_json::{Value, json};

const SUBNETS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
const LANS: [&str; 2] = ["192.0.2.0/24", "2001:db8:2::/64"];
/// Not within what is accepted.
const UNWANTED: &str = "203.0.113.0/24";
/// An address of the server that its router can ask to be spared from.
const ATTACKED: &str = "192.0.2.66";

struct Bench {
    topology: Topology,
    gateway: Gateway,
    bird: Bird,
}

/// `under_attack`: the neighbour asks for a drop of what is for [`ATTACKED`].
fn config(under_attack: bool) -> String {
    let attacked = if under_attack { format!("route {ATTACKED}/32 blackhole;") } else { String::new() };
    format!(
        "router id 10.30.0.2;
log stderr all;
protocol device {{}}
protocol direct {{ ipv4; ipv6; interface \"lan0\"; }}
protocol static {{ ipv4; route {UNWANTED} blackhole; {attacked} }}
protocol kernel {{ ipv4 {{ import none; export where source = RTS_BGP; }}; }}
protocol kernel {{ ipv6 {{ import none; export where source = RTS_BGP; }}; }}
filter told {{
  if source = RTS_BGP then reject;
  if net = {ATTACKED}/32 then bgp_community.add((65535, 666));
  accept;
}}
filter told_by_the_long_way {{
  if source = RTS_BGP || net = {ATTACKED}/32 then reject;
  bgp_path.prepend(65001);
  accept;
}}
template bgp watari {{
  connect delay time 1; connect retry time 2; error wait time 1, 2;
}}
protocol bgp near from watari {{
  local fd30::2 as 65001; neighbor fd30::1 as 65100;
  ipv4 {{ extended next hop on; import all; export filter told; }};
  ipv6 {{ import all; export filter told; }};
}}
protocol bgp far from watari {{
  local 10.30.0.2 as 65001; neighbor 10.30.0.1 as 65100;
  ipv4 {{ import all; export filter told_by_the_long_way; }};
}}
"
    )
}

fn bench() -> Result<Bench> {
    let (topology, gateway, _) = world::single(&[], |_, document| {
        let peer = |address: &str| json!({ "exit": "campus", "address": address, "asn": 65001, "connect_retry_s": 1 });
        let (mut near, mut far) = (peer("fd30::2"), peer("10.30.0.2"));
        near["families"] = json!(["ipv4", "ipv6"]);
        near["accept"] = json!(["192.0.2.0/24", "2001:db8:2::/48"]);
        near["announce"] = json!(SUBNETS);
        near["blackhole"] = json!(true);
        far["accept"] = json!(["192.0.2.0/24"]);
        far["announce"] = json!([SUBNETS[0]]);
        document["peers"] = json!({ "near": near, "far": far });
        Ok(())
    })?;
    topology.server.address("eth0", &[&format!("{ATTACKED}/24")])?;
    let bird = Bird::start(&topology.campus, &config(false))?;
    for name in ["near", "far"] {
        gateway.wait_for_neighbour(name)?;
    }
    let bench = Bench { topology, gateway, bird };
    for lan in LANS {
        bench.gateway.wait_for_path(lan, |path| path["from"] == "peers.near")?;
    }
    wait_until(SOON, "the path of the long way", || {
        let paths = bench.gateway.paths(LANS[0])?;
        ensure!(paths.len() == 2, "{paths:#?}");
        Ok(())
    })?;
    Ok(bench)
}

impl Bench {
    /// The learnt route of the tenant to a prefix, as `ip` shows it; null where there is none.
    fn kernel_route(&self, prefix: &str) -> Result<Value> {
        let family = if prefix.contains(':') { "-6" } else { "-4" };
        let line = format!("{family} -n wt-gw-a.lab -details route show proto 220");
        let routes = self.gateway.ns().ip_json(&line)?;
        Ok(routes.into_iter().find(|route| route["dst"] == prefix).unwrap_or_default())
    }

    /// `watari bgp …`, as programs read it.
    fn ask(&self, words: &[&str]) -> Result<Value> {
        let words = [&["--json", "bgp"][..], words].concat();
        let text = self.gateway.cli(&words)?;
        serde_json::from_str(&text).with_context(|| format!("{words:?}: {text}"))
    }

    /// `watari bgp …`, as people read it.
    fn read(&self, words: &[&str]) -> Result<String> {
        self.gateway.cli(&[&["bgp"][..], words].concat())
    }
}

#[test]
fn root_ipv4_leaves_by_an_ipv6_next_hop_and_what_is_attacked_is_dropped() -> Result<()> {
    let bench = bench()?;
    let Bench { topology, gateway, bird } = &bench;
    let negotiated = gateway.neighbour("near")?["negotiated"].clone();
    ensure!(negotiated["extended_next_hop"] == true, "{negotiated:#}");
    wait_until(SOON, "a next hop of the other family in the kernel", || {
        let route = bench.kernel_route(LANS[0])?;
        ensure!(route["via"] == json!({ "family": "inet6", "host": "fd30::2" }), "{route:#}");
        Ok(())
    })?;
    let attacked: std::net::IpAddr = ATTACKED.parse()?;
    for server in [SERVER.0.into(), SERVER.1.into(), attacked] {
        wait_until(SOON, &format!("host-a to reach {server}"), || ping(&topology.a.host, server))?;
    }
    wait_until(SOON, "the server to reach host-a", || ping(&topology.server, HOST_A.0))?;

    bird.reconfigure(&config(true))?;
    let drops = format!("{ATTACKED}/32");
    gateway.wait_for_path(&drops, |path| path["communities"] == json!(["blackhole"]))?;
    wait_until(SOON, "the drop in the kernel", || {
        let route = bench.kernel_route(ATTACKED)?;
        ensure!(route["type"] == "blackhole", "{route:#}");
        Ok(())
    })?;
    holds_for(std::time::Duration::from_secs(1), "nothing for what is attacked", || -> Result<()> {
        let report = Ping::to(attacked).send(&topology.a.host)?;
        ensure!(report.received == 0, "{}", report.text);
        Ok(())
    })?;
    // Its neighbours in the same network are spared nothing.
    wait_until(SOON, "host-a to reach the server", || ping(&topology.a.host, SERVER.0))?;

    bird.reconfigure(&config(false))?;
    gateway.wait_for_no_path(&drops)?;
    wait_until(SOON, "host-a to reach what was attacked", || ping(&topology.a.host, attacked))?;
    ensure!(bench.kernel_route(ATTACKED)?.is_null(), "{:#}", bench.kernel_route(ATTACKED)?);
    Ok(())
}

#[test]
fn root_the_command_line_tells_who_is_there_and_why_a_path_won() -> Result<()> {
    let bench = bench()?;
    let summary = bench.ask(&["summary"])?;
    let of = |name: &str| {
        let mut rows = summary.as_array().into_iter().flatten();
        rows.find(|row| row["neighbour"] == name).cloned().context("no such row")
    };
    let (near, far) = (of("peers.near")?, of("peers.far")?);
    ensure!(near["state"] == "established" && near["asn"] == 65001, "{near:#}");
    ensure!(far["received"].as_u64() >= Some(2) && far["rejected"] == 1, "{far:#}");
    let text = bench.read(&["summary"])?;
    ensure!(text.contains("NEIGHBOUR") && text.contains("peers.far") && text.contains("10.30.0.2"), "{text}");

    let text = bench.read(&["neighbour", "near"])?;
    ensure!(text.contains("negotiated.families") && text.contains("fd30::2"), "{text}");
    let heard = bench.ask(&["neighbour", "far", "--received"])?;
    let rejected = bench.ask(&["neighbour", "far", "--rejected"])?;
    ensure!(heard["routes"].as_array().map(Vec::len) >= Some(2), "{heard:#}");
    let only = &rejected["routes"][0];
    ensure!(only["route"] == UNWANTED && only["rejected"] == "import policy", "{rejected:#}");
    ensure!(rejected["routes"].as_array().map(Vec::len) == Some(1), "{rejected:#}");
    let told = bench.ask(&["neighbour", "near", "--advertised", "--family", "ipv6-unicast"])?;
    ensure!(told["routes"][0]["route"] == SUBNETS[1] && told["routes"][0]["as_path"] == "65100", "{told:#}");
    why_a_path_won(&bench)?;

    let unknown = bench.gateway.try_cli(&["bgp", "neighbour", "nobody"])?;
    ensure!(!unknown.status.success() && unknown.err.contains("nobody"), "{}{}", unknown.out, unknown.err);
    let nowhere = bench.gateway.try_cli(&["bgp", "prefix", "198.51.100.0/24"])?;
    ensure!(!nowhere.status.success(), "{}", nowhere.out);
    Ok(())
}

/// A table page by page, and both paths of one prefix.
fn why_a_path_won(bench: &Bench) -> Result<()> {
    let mut seen = Vec::new();
    let mut next = String::new();
    loop {
        let mut words = vec!["table", "ipv4-unicast", "--tenant", "lab", "--limit", "1"];
        if !next.is_empty() {
            words.extend(["--after", &next]);
        }
        let page = bench.ask(&words)?;
        let routes = page["routes"].as_array().context("routes")?;
        ensure!(routes.len() <= 1, "{page:#}");
        seen.extend(routes.iter().map(|route| route["route"].as_str().unwrap_or_default().to_owned()));
        let Some(more) = page["next"].as_str() else { break };
        next = more.to_owned();
    }
    ensure!([SUBNETS[0], LANS[0]].iter().all(|wanted| seen.iter().any(|route| route == wanted)), "{seen:?}");
    ensure!(!seen.iter().any(|route| route == UNWANTED), "{seen:?}");

    let prefix = bench.ask(&["prefix", LANS[0]])?;
    ensure!(prefix["won_by"] == "AS path length", "{prefix:#}");
    let (won, lost) = (&prefix["paths"][0], &prefix["paths"][1]);
    ensure!(
        won["selected"] == true && won["from"] == "peers.near" && won["as_path"] == "65001",
        "{prefix:#}"
    );
    ensure!(lost["from"] == "peers.far" && lost["lost_at"] == "AS path length", "{prefix:#}");
    let text = bench.read(&["prefix", LANS[0]])?;
    ensure!(text.starts_with("192.0.2.0/24: won by AS path length\n"), "{text}");
    Ok(())
}
