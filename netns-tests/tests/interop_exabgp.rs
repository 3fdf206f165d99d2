//! ExaBGP as three neighbours of a real gateway: one says odd and malformed things, two hear what the gateway makes of
//! them. What is legal passes through, what RFC 7606 has a mild answer for costs its routes and nothing else, what
//! it has none for costs that session alone. Needs root and exabgp.
//!
//! ```text
//!                       ┌─ 10.30.0.2 feeder, AS 65001 ─┐
//!  [gw-a] 10.30.0.1/29 ─┼─ 10.30.0.3 old, AS 65002 ────┼─ [ExaBGP]     old: 2-octet AS numbers, MD5
//!  AS 65100    fd30::1  ├─ 10.30.0.4 far, 4200000003 ──┤
//!                       └─ fd30::2   six, AS 65001 ────┘
//! ```

use anyhow::{Context as _, Result, ensure};
use netns_tests::exabgp::{Exabgp, Heard, Session};
use netns_tests::topology::Topology;
use netns_tests::world::{self, SOON};
use netns_tests::{Gateway, registry, wait_until};
use serde_json::{Value, json};

const KEY: &str = "signed";
/// What the feeder tells to show that it is still heard.
const STEADY: &str = "192.0.2.0/25";
/// What it tells badly.
const TRIED: &str = "192.0.2.128/25";

struct Bench {
    gateway: Gateway,
    exabgp: Exabgp,
    feeder: Session,
    old: Session,
    far: Session,
    six: Session,
    _topology: Topology,
}

fn document(document: &mut Value, key: &str) {
    let hears = json!(["192.0.2.0/24", "10.20.0.0/24"]);
    let peer = |address: &str, asn: u32| json!({ "exit": "campus", "address": address, "asn": asn, "connect_retry_s": 1 });
    document["exits"]["campus"]["addresses"] = json!(["10.30.0.1/29", "fd30::1/64"]);
    let mut peers = json!({
        "feeder": peer("10.30.0.2", 65_001), "old": peer("10.30.0.3", 65_002),
        "far": peer("10.30.0.4", 4_200_000_003), "six": peer("fd30::2", 65_001),
    });
    peers["feeder"]["accept"] = json!(["192.0.2.0/24"]);
    peers["six"]["accept"] = json!(["2001:db8:2::/48"]);
    peers["six"]["announce"] = json!(["fd20::/64"]);
    for hearer in ["old", "far"] {
        peers[hearer]["announce"] = hears.clone();
    }
    peers["old"]["password"] = json!(format!("file:{key}"));
    document["peers"] = peers;
}

fn bench() -> Result<Bench> {
    let key = registry::scratch_dir("key")?.join("old");
    std::fs::write(&key, KEY)?;
    let (topology, gateway, _) = world::single(&[], |topology, wanted| {
        topology.campus.ip("addr del 10.30.0.2/30 dev up0")?;
        topology.campus.address("up0", &["10.30.0.2/29", "10.30.0.3/29", "10.30.0.4/29"])?;
        document(wanted, &key.display().to_string());
        Ok(())
    })?;
    let feeder = Session::new("10.30.0.2", 65_001, "10.30.0.1", 65_100);
    let mut old = Session::new("10.30.0.3", 65_002, "10.30.0.1", 65_100);
    (old.capabilities, old.lines) =
        ("asn4 disable; route-refresh enable;", format!("md5-password \"{KEY}\";"));
    let far = Session::new("10.30.0.4", 4_200_000_003, "10.30.0.1", 65_100);
    let mut six = Session::new("fd30::2", 65_001, "fd30::1", 65_100);
    six.families = &["ipv6 unicast"];
    let sessions = [&feeder, &old, &far, &six].map(Clone::clone);
    let exabgp = Exabgp::start(&topology.campus, &sessions)?;
    let bench = Bench { gateway, exabgp, feeder, old, far, six, _topology: topology };
    for (name, session) in bench.sessions() {
        bench.gateway.wait_for_neighbour(name)?;
        wait_until(SOON, &format!("{name} at ExaBGP"), || {
            ensure!(bench.exabgp.established(session)?, "{:#?}", bench.exabgp.heard()?);
            Ok::<_, anyhow::Error>(())
        })?;
    }
    Ok(bench)
}

impl Bench {
    fn sessions(&self) -> [(&'static str, &Session); 4] {
        [("feeder", &self.feeder), ("old", &self.old), ("far", &self.far), ("six", &self.six)]
    }

    /// The feeder tells a prefix with these attributes.
    fn feed(&self, prefix: &str, attributes: &str) -> Result<()> {
        self.exabgp.say(&self.feeder, &format!("announce route {prefix} next-hop self {attributes}"))
    }

    /// Waits until a session has a route that is as wanted.
    fn hears(&self, session: &Session, prefix: &str, wanted: impl Fn(&Heard) -> bool) -> Result<Heard> {
        wait_until(SOON, &format!("{prefix} at {}", session.local), || {
            let heard = self.exabgp.routes(session)?;
            let route = heard.get(prefix).filter(|route| wanted(route)).cloned();
            route.with_context(|| format!("{heard:#?}"))
        })
    }

    fn hears_no_more(&self, session: &Session, prefix: &str) -> Result<()> {
        wait_until(SOON, &format!("{prefix} to leave {}", session.local), || {
            let heard = self.exabgp.routes(session)?;
            ensure!(!heard.contains_key(prefix), "{heard:#?}");
            Ok(())
        })
    }

    /// Nobody but `but` has lost its session, on either side.
    fn all_stand(&self, but: &[&str]) -> Result<()> {
        for (name, session) in self.sessions().iter().filter(|(name, _)| !but.contains(name)) {
            let why = || self.exabgp.heard_by(session, "state");
            ensure!(self.exabgp.downs(session)? == 0, "{name} went down: {:#?}", why()?);
            let neighbour = self.gateway.neighbour(name)?;
            ensure!(neighbour["state"] == "established", "{neighbour:#}");
        }
        Ok(())
    }
}

#[test]
fn root_what_is_odd_but_legal_passes_through_to_exabgp() -> Result<()> {
    let bench = bench()?;
    let Bench { gateway, old, far, .. } = &bench;
    // All communities; an optional transitive attribute that nobody knows, one that is not transitive, and one
    // whose length takes two octets for no reason (RFC 4271 section 4.3); 4-octet numbers in path and AGGREGATOR.
    bench.feed(
        STEADY,
        "as-path [ 65001 4200000001 65001 ] med 77 community [65001:7] extended-community [target:65001:9] \
         large-community [4200000001:1:2] aggregator ( 4200000001:192.0.2.9 ) atomic-aggregate \
         attribute [ 0x63 0xc0 0x0102 ] attribute [ 0x64 0x80 0x03 ] attribute [ 0x65 0xd0 0x04 ]",
    )?;
    let path = gateway.wait_for_path(STEADY, |path| path["med"] == 77)?;
    ensure!(path["as_path"] == "65001 4200000001 65001" && path["ext_communities"] == json!(["rt:65001:9"]));
    for hearer in [far, old] {
        let heard = bench.hears(hearer, STEADY, |_| true)?;
        let told = &heard.attributes;
        ensure!(heard.next_hop == "10.30.0.1" && told["med"].is_null(), "{heard:#?}");
        // The 2-octet speaker has the whole path out of AS_PATH and AS4_PATH (RFC 6793 section 4.2.3).
        ensure!(told["as-path"] == json!([65_100, 65_001, 4_200_000_001_u32, 65_001]), "{heard:#?}");
        ensure!(told["community"] == json!([[65_001, 7]]), "{heard:#?}");
        ensure!(told["extended-community"][0]["string"] == "target:65001:9", "{heard:#?}");
        ensure!(told["large-community"] == json!([[4_200_000_001_u32, 1, 2]]), "{heard:#?}");
        ensure!(told["atomic-aggregate"] == true, "{heard:#?}");
        // Nobody knew them on the way: Partial is set (RFC 4271 section 5).
        ensure!(
            told["attribute-0x63-0xE0"] == "0x0102" && told["attribute-0x65-0xE0"] == "0x04",
            "{heard:#?}"
        );
        ensure!(!told.to_string().contains("0x64"), "not transitive: {heard:#?}");
    }

    // RFC 1997: NO_EXPORT stays here; without it the route goes on.
    bench.feed(TRIED, "community [no-export]")?;
    gateway.wait_for_path(TRIED, |path| path["communities"] == json!(["no-export"]))?;
    bench.feed(STEADY, "med 1")?;
    bench.hears(far, STEADY, |heard| heard.attributes["community"].is_null())?;
    ensure!(!bench.exabgp.routes(far)?.contains_key(TRIED), "no-export was told on");
    bench.feed(TRIED, "med 2")?;
    bench.hears(far, TRIED, |_| true)?;
    bench.exabgp.say(&bench.feeder, &format!("withdraw route {TRIED} next-hop self"))?;
    bench.hears_no_more(far, TRIED)?;
    bench.hears_no_more(old, TRIED)?;
    bench.all_stand(&[])
}

#[test]
fn root_exabgp_is_told_all_again_and_routes_leave_with_its_session() -> Result<()> {
    let bench = bench()?;
    let Bench { gateway, exabgp, feeder, far, six, .. } = &bench;
    bench.feed(STEADY, "")?;
    bench.hears(far, STEADY, |_| true)?;
    bench.hears(far, "10.20.0.0/24", |heard| heard.attributes["as-path"] == json!([65_100]))?;
    bench.hears(six, "fd20::/64", |heard| heard.next_hop == "fd30::1")?;
    exabgp.say(six, "announce route 2001:db8:2:5::/64 next-hop fd30::2 med 3")?;
    gateway.wait_for_path("2001:db8:2:5::/64", |path| path["next_hop"] == "fd30::2" && path["med"] == 3)?;

    // RFC 2918.
    let before = bench.hears(far, STEADY, |_| true)?.times;
    exabgp.say(far, "announce route-refresh ipv4 unicast")?;
    bench.hears(far, STEADY, |heard| heard.times > before)?;
    bench.hears(far, "10.20.0.0/24", |heard| heard.times > 1)?;
    bench.all_stand(&[])?;

    // RFC 4271 section 6.7: the session ends with a word, its routes leave, the others' stay.
    let seen = gateway.last_event()?;
    exabgp.say(feeder, "teardown 2")?;
    wait_until(SOON, "the feeder's session to end", || Ok::<_, anyhow::Error>(exabgp.downs(feeder)? > 0))?;
    wait_until(SOON, "the gateway to say so", || {
        let events = gateway.events_after(seen)?;
        let text = serde_json::to_string(&events)?.to_lowercase();
        ensure!(text.contains("shutdown"), "{events:#?}");
        Ok(())
    })?;
    // It comes back by itself and tells again what it told.
    gateway.wait_for_neighbour("feeder")?;
    gateway.wait_for_path(STEADY, |_| true)?;
    bench.hears(far, STEADY, |_| true)?;
    bench.all_stand(&["feeder"])
}

/// Attributes as octets (type, flags, value), and what they are.
const COST_THE_ROUTE: [(&str, &str); 10] = [
    ("0x01 0x40 0x07", "an ORIGIN that there is not"),
    ("0x01 0x40 0x0000", "an ORIGIN of two octets"),
    ("0x01 0xc0 0x00", "an optional ORIGIN"),
    ("0x02 0x40 0x02050000fde9", "an AS_PATH cut short"),
    ("0x02 0x40 0x02020000fde900000000", "AS 0 in the path (RFC 7607)"),
    ("0x04 0x80 0x000001", "a MED of three octets"),
    ("0x08 0xc0 0x010203", "communities of three octets"),
    ("0x10 0xc0 0x00020304050607", "extended communities of seven"),
    ("0x20 0xc0 0x0000000100000002000003", "large communities of eleven"),
    ("0x23 0xc0 0x000001", "an OTC of three octets (RFC 9234)"),
];
const COST_THE_ATTRIBUTE: [(&str, &str); 6] = [
    ("0x06 0x40 0x00", "ATOMIC_AGGREGATE with a value"),
    ("0x07 0xc0 0x0001", "an AGGREGATOR of two octets"),
    ("0x07 0xc0 0x000000000a1e0002", "AS 0 as AGGREGATOR (RFC 7607)"),
    ("0x09 0x80 0x0a000009", "ORIGINATOR_ID from outside"),
    ("0x0a 0x80 0x0a000009", "CLUSTER_LIST from outside"),
    ("0x11 0xc0 0x02010000fde9", "AS4_PATH of a 4-octet speaker (RFC 6793)"),
];

#[test]
fn root_what_exabgp_says_wrongly_costs_its_route_or_its_attribute() -> Result<()> {
    let bench = bench()?;
    let Bench { gateway, exabgp, far, .. } = &bench;
    bench.feed(STEADY, "")?;
    bench.hears(far, STEADY, |_| true)?;
    let all = COST_THE_ROUTE.iter().map(|case| (case, true));
    let all = all.chain(COST_THE_ATTRIBUTE.iter().map(|case| (case, false)));
    for (number, ((octets, what), is_withdrawn)) in all.enumerate() {
        let malformed =
            || gateway.neighbour("feeder").map(|of| of["malformed_updates"].as_u64().unwrap_or(0));
        let (counted, med) = (malformed()?, 100 + number);
        bench.feed(TRIED, &format!("med {med}"))?;
        gateway.wait_for_path(TRIED, |path| path["med"] == med)?;
        bench.hears(far, TRIED, |_| true)?;
        let more = if octets.starts_with("0x04") { String::new() } else { format!("med {}", 500 + number) };
        bench.feed(TRIED, &format!("{more} attribute [ {octets} ]"))?;
        if is_withdrawn {
            gateway.wait_for_no_path(TRIED).context(*what)?;
            bench.hears_no_more(far, TRIED).context(*what)?;
        } else {
            gateway.wait_for_path(TRIED, |path| path["med"] == 500 + number).context(*what)?;
            let told = &exabgp.routes(far)?[TRIED].attributes;
            ensure!(told["atomic-aggregate"].is_null() && told["aggregator"].is_null(), "{what}: {told:#}");
        }
        ensure!(malformed()? == counted + 1, "{what} was not counted");
        ensure!(exabgp.routes(far)?.contains_key(STEADY), "{what}: another route left too");
    }
    bench.all_stand(&[])
}

#[test]
fn root_what_cannot_be_mended_costs_exabgp_that_session_alone() -> Result<()> {
    let bench = bench()?;
    let Bench { gateway, exabgp, feeder, far, .. } = &bench;
    bench.feed(STEADY, "")?;
    bench.hears(far, STEADY, |_| true)?;
    // RFC 4271 section 6.3: an unknown attribute that calls itself well-known. RFC 7606 section 5.3: MP_REACH_NLRI
    // of which nothing can be read.
    for (octets, subcode) in [("0x63 0x40 0x00", 2), ("0x0e 0x80 0x00020101", 9)] {
        let before = exabgp.heard_by(feeder, "notification")?.len();
        bench.feed(TRIED, &format!("attribute [ {octets} ]"))?;
        wait_until(SOON, &format!("the NOTIFICATION for {octets}"), || {
            let heard = exabgp.heard_by(feeder, "notification")?;
            let last = heard.get(before..).and_then(<[_]>::last).context("none yet")?;
            let told = &last["neighbor"]["notification"];
            ensure!(told["code"] == 3 && told["subcode"] == subcode, "{last:#}");
            Ok(())
        })?;
        // It would say it again on the next session.
        exabgp.say(feeder, &format!("withdraw route {TRIED} next-hop self attribute [ {octets} ]"))?;
        gateway.wait_for_neighbour("feeder")?;
        gateway.wait_for_path(STEADY, |_| true)?;
        bench.hears(far, STEADY, |_| true)?;
        ensure!(gateway.paths(TRIED)?.is_empty(), "{:#?}", gateway.paths(TRIED)?);
        bench.all_stand(&["feeder"])?;
    }
    Ok(())
}
