//! Gateway A and BGP neighbours out of the ordinary, as documents say them and as `watari bgp` shows them: one that is not on
//! its link (the server behind the campus router runs BIRD 2, and the campus router no BGP at all), and the campus router as one
//! that comes by itself from a prefix and is told to begin anew. Needs root.
//!
//! ```text
//!  [server, BIRD 2, AS 65009] 192.0.2.10 ── 192.0.2.1 [campus] 10.30.0.2 ── VLAN 300 ── 10.30.0.1 [gw-a, AS 65100]
//!                                                                                       10.31.0.1/32
//! ```

use anyhow::{Context as _, Result, ensure};
use netns_tests::bird::Bird;
use netns_tests::campus::{Campus, Setup, Software};
use netns_tests::wait_until;
use netns_tests::world::{SOON, single};
use serde_json::{Value, json};

/// What the server tells.
const FAR: &str = "203.0.113.0/24";

/// Its TTL is as low as can be: one router is on the way.
const BIRD: &str = "router id 192.0.2.10;
log stderr all;
protocol device {}
protocol static { ipv4; route 203.0.113.0/24 blackhole; }
protocol bgp watari {
  local 192.0.2.10 as 65009;
  neighbor 10.31.0.1 as 65100;
  multihop 2;
  connect delay time 1; connect retry time 2; error wait time 1, 2;
  ipv4 { import all; export where source = RTS_STATIC; };
}
";

#[test]
fn root_a_neighbour_two_hops_away_is_reached_and_so_is_what_it_tells() -> Result<()> {
    let (topology, gateway, mut document) = single(&[], |topology, document| {
        topology.campus.route("10.31.0.1/32", "10.30.0.1")?;
        document["exits"]["campus"]["addresses"] = json!(["10.30.0.1/30", "fd30::1/64", "10.31.0.1/32"]);
        document["routes"] = json!({ "behind": {
            "gateway": "gw-a", "tenant": "lab", "prefix": "192.0.2.0/24", "via": "10.30.0.2",
        } });
        document["peers"] = json!({ "far": {
            "exit": "campus", "address": "192.0.2.10", "asn": 65009, "source": "10.31.0.1", "multihop_ttl": 2,
            "accept": [FAR], "announce": ["10.20.0.0/24"],
        } });
        Ok(())
    })?;
    let bird = Bird::start(&topology.server, BIRD)?;
    gateway.wait_for_state("peers.far", "up")?;
    wait_until(SOON, "the flat network at the server", || {
        let routes = bird.routes("10.20.0.0/24")?;
        ensure!(routes.contains("[AS65100i]"), "{routes}");
        Ok(())
    })?;
    wait_until(SOON, "the way to what the server tells", || {
        let text = gateway.ns().ip(&format!("-j -n wt-gw-a.lab route show {FAR}"))?;
        let routes: Vec<Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
        ensure!(routes.len() == 1 && routes[0]["gateway"] == "10.30.0.2", "{text}");
        Ok(())
    })?;

    // As for a neighbour on the link, what is sent does not come through the router.
    document["peers"]["far"]["multihop_ttl"] = Value::Null;
    document["peers"]["far"]["ttl_security_hops"] = json!(2);
    gateway.apply(&document)?;
    wait_until(SOON, "BIRD, which does not send with a TTL of 255, not to be heard", || {
        ensure!(gateway.object("peers.far")?["state"] == "down", "{}", gateway.object("peers.far")?);
        ensure!(!bird.established("watari")?, "established");
        Ok(())
    })?;
    bird.reconfigure(&BIRD.replace("multihop 2;", "multihop 2; ttl security on;"))?;
    gateway.wait_for_state("peers.far", "up")
}

#[test]
fn root_the_campus_router_comes_by_itself_and_begins_anew() -> Result<()> {
    let (topology, gateway, _) = single(&[], |_, document| {
        document["peers"] = json!({
            "campus6": document["peers"]["campus6"],
            "labs": {
                "exit": "campus", "address": "10.30.0.0/30", "asn": ["65001-65009", 65020], "neighbours_max": 2,
                "accept": ["192.0.2.0/24"], "announce": ["10.20.0.0/24"],
            },
        });
        Ok(())
    })?;
    let come = |what: &str, count: u64| {
        wait_until(SOON, what, || {
            let neighbours = gateway.object("peers.labs")?["neighbours"].clone();
            ensure!(neighbours["known"] == count && neighbours["established"] == count, "{neighbours}");
            Ok(())
        })
    };
    come("a place for those who come", 0)?;
    let campus =
        Campus::start(Software::Bird, &topology.campus, Setup { graceful: false, ..Setup::default() })?;
    come("the campus router to come", 1)?;
    wait_until(SOON, "both to know each other's networks", || {
        ensure!(campus.knows("10.20.0.0/24")?, "{}", campus.table()?);
        let told = gateway.cli(&["bgp", "neighbour", "labs@10.30.0.2", "--received"])?;
        ensure!(told.contains("192.0.2.0/24"), "{told}");
        Ok(())
    })?;
    let summary = gateway.cli(&["bgp", "summary"])?;
    ensure!(summary.contains("peers.labs@10.30.0.2") && summary.contains("65001"), "{summary}");

    let session = || -> Result<Value> {
        Ok(serde_json::from_str(&gateway.cli(&["bgp", "neighbour", "labs@10.30.0.2", "--json"])?)?)
    };
    let before = session()?["messages_in"].as_u64().context("a number of messages")?;
    for (soft, done) in [("in", "soft reset in"), ("out", "soft reset out")] {
        let said = gateway.cli(&["bgp", "reset", "labs@10.30.0.2", "--soft", soft])?;
        ensure!(said.contains(done), "{said}");
    }
    wait_until(SOON, "BIRD to tell its routes again between two marks, in the same session", || {
        let now = session()?;
        ensure!(now["state"] == "established" && now["messages_in"].as_u64() >= Some(before + 3), "{now}");
        Ok(())
    })?;
    gateway.cli(&["bgp", "reset", "labs@10.30.0.2"])?;
    wait_until(SOON, "BIRD to have heard why the session ended", || {
        let said = campus.sessions()?;
        ensure!(said.contains("Administrative reset"), "{said}");
        Ok(())
    })?;
    come("the campus router to be back", 1)?;
    ensure!(!gateway.try_cli(&["bgp", "reset", "labs"])?.status.success(), "a prefix is no neighbour");

    campus.stop()?;
    come("nothing to be left of the campus router", 0)
}
