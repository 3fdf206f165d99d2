//! Two machines with one MAC, one at each site or both at one gateway: found, frozen and told to the operator, until he
//! clears it; nobody else is harmed. Needs root.
//!
//! ```text
//!   host-a, twin ─ VLAN 100 ═ [gw-a] ── VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b, twin
//!           twin ─ access0 ────┘
//! ```
//! The whole drawing: `netns_tests::topology`.

use anyhow::{Context as _, Result, ensure};
use netns_tests::links::veth;
use netns_tests::packet::{Capture, build, inject};
use netns_tests::topology::Tunnel;
use netns_tests::world::SOON;
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};

const TWIN: [u8; 6] = [0x02, 0, 0, 0, 0x99, 0x99];
const TWIN_TEXT: &str = "02:00:00:00:99:99";
const OBJECT: &str = "duplicates.1000.02:00:00:00:99:99";
const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0x98, 0x98];
/// IEEE 802 local experimental EtherType: hosts neither answer it nor send it.
const EXPERIMENTAL: u16 = 0x88b5;

/// Both twins say something.
fn twins_talk(world: &World) -> Result<()> {
    let frame = build::ethernet(NOBODY, TWIN, EXPERIMENTAL, &[0; 46]);
    inject(&world.topology.a.host, "eth0", &frame)?;
    inject(&world.topology.b.host, "eth0", &frame)
}

fn duplicates(gateway: &Gateway) -> Result<Vec<Value>> {
    Ok(gateway.get("/api/v1/duplicates")?.as_array().cloned().unwrap_or_default())
}

/// Where this gateway says that the twin is, with the sequence: its own, or what the other claims.
fn twin(gateway: &Gateway) -> Result<Vec<(String, u64)>> {
    let facts = gateway.facts()?;
    let macs = facts["macs"].as_array().context("macs")?;
    let twins = macs.iter().filter(|m| m["mac"] == TWIN_TEXT);
    Ok(twins.map(|m| (m["at"].to_string(), m["sequence"].as_u64().unwrap_or(0))).collect())
}

#[test]
fn root_a_mac_at_two_sites_is_frozen_and_cleared() -> Result<()> {
    let world = World::start(&[Tunnel::Direct])?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    let gateways = [&world.a, &world.b];
    wait_until(SOON, "the twin to be found", || {
        twins_talk(&world)?;
        let found: Vec<Value> = [duplicates(&world.a)?, duplicates(&world.b)?].concat();
        let one = found.first().context("no duplicate")?;
        ensure!(one["mac"] == TWIN_TEXT && one["vni"] == 1000, "{one}");
        ensure!(one["seen"].as_array().is_some_and(|seen| seen.len() >= 2), "{one}");
        Ok(())
    })?;
    // One of them holds it, and the other knows.
    let settled = wait_until(SOON, "one gateway to have it", || {
        let seen = [twin(&world.a)?, twin(&world.b)?];
        let here = seen.concat().iter().filter(|(at, _)| at == "\"here\"").count();
        ensure!(here == 1 && seen.iter().all(|s| s.len() == 1), "{seen:?}");
        Ok(seen)
    })?;
    let listing: Vec<&Gateway> =
        gateways.into_iter().filter(|g| duplicates(g).is_ok_and(|d| !d.is_empty())).collect();
    for gateway in &listing {
        gateway.wait_for_state(OBJECT, "duplicate")?;
        let told =
            gateway.events_after(0)?.into_iter().any(|e| e["kind"] == "duplicate" && e["object"] == OBJECT);
        ensure!(told, "no event at {}", gateway.name());
    }
    // They go on, and it is quiet: nobody claims more than before. The hosts do not notice.
    for _ in 0..10 {
        twins_talk(&world)?;
        world.hosts_meet()?;
    }
    ensure!([twin(&world.a)?, twin(&world.b)?] == settled, "{:?}", twin(&world.a)?);
    for gateway in &listing {
        gateway.cli(&["duplicates", "clear", "1000", TWIN_TEXT])?;
        wait_until(SOON, "the list to be empty", || {
            let left = duplicates(gateway)?;
            ensure!(left.is_empty(), "{left:?}");
            Ok(())
        })?;
        let again = gateway.try_cli(&["duplicates", "clear", "1000", TWIN_TEXT])?;
        ensure!(again.err.contains("is not frozen"), "{again:?}");
    }
    Ok(())
}

/// Of two that `talk` five times each, one is refused every time, and nothing moves.
fn one_is_refused(world: &World, talk: impl Fn() -> Result<()>) -> Result<()> {
    let counted = || anyhow::Ok((world.a.drops("source-mac-frozen")?, world.a.counter("mac-moved")?));
    let (drops, moves) = counted()?;
    talk()?;
    let (drops_now, moves_now) = counted()?;
    ensure!(drops_now >= drops + 5 && moves_now == moves, "{drops_now} - {drops}, {moves_now} - {moves}");
    Ok(())
}

/// Two machines with one MAC on two attachments of one gateway, both of which never stop talking.
#[test]
fn root_a_mac_on_two_attachments_stays_at_one() -> Result<()> {
    let other = Ns::new("other")?;
    let mut world = World::start_with(&[Tunnel::Direct], |topology, document| {
        veth(&topology.a.gateway, "access0", &other, "eth0")?;
        document["attachments"]["other"] =
            json!({ "gateway": "gw-a", "segment": "flat", "interface": "access0" });
        Ok(())
    })?;
    world.tunnel_is_up("ab-direct")?;
    world.hosts_meet()?;
    let (hosts, far) = ([&world.topology.a.host, &other], &world.topology.b.host);
    let (ports, told) = (["trunk0.100", "access0"], ["attachments.host-a", "attachments.other"]);
    // One after the other, a turn at a time, as two machines do that know nothing of each other.
    let talk = |turns: usize| -> Result<()> {
        let frame = build::ethernet(NOBODY, TWIN, EXPERIMENTAL, &[0; 46]);
        (0..turns).try_for_each(|_| hosts.iter().try_for_each(|host| inject(host, "eth0", &frame)))
    };
    let one = wait_until(SOON, "the twin to be frozen at a port", || {
        talk(2)?;
        let one = duplicates(&world.a)?.into_iter().next().context("no duplicate")?;
        ensure!(one["mac"] == TWIN_TEXT && one["advertised"] == true, "{one}");
        let at = one["frozen_at"].as_str().context("frozen at no port")?.to_owned();
        ports.iter().position(|port| *port == at).context(at)
    })?;
    let (refused, before) = (1 - one, world.a.counter("mac-moved")?);
    // From a second later on nothing of the other passes, and what is sent to the MAC goes to the first alone.
    wait_until(SOON, "the other to be refused", || one_is_refused(&world, || talk(5)))?;
    ensure!(world.a.counter("mac-moved")? <= before + 2, "it moved on");
    wait_until(SOON, "an event", || {
        let events = world.a.events_after(0)?;
        let is_it = |e: &&Value| e["kind"] == "refused" && e["object"] == told[refused];
        ensure!(events.iter().any(|e| is_it(&e)), "{events:#?}");
        Ok(())
    })?;
    let frame = build::ethernet(TWIN, far.mac("eth0")?, EXPERIMENTAL, &[0x77; 46]);
    let heard = |frame: &[u8]| frame.ends_with(&[0x77; 46]);
    let heard = [Capture::start(hosts[0], "eth0", heard)?, Capture::start(hosts[1], "eth0", heard)?];
    for sent in 1..=5 {
        talk(1)?;
        inject(far, "eth0", &frame)?;
        wait_until(SOON, "the twin at its port to hear", || heard[one].count() == sent)?;
    }
    ensure!(heard[refused].count() == 0, "{} went to the other", heard[refused].count());
    world.hosts_meet()?;
    // A new daemon knows of it, and sets nothing free.
    world.a.kill9()?;
    world.a.launch()?;
    let after = wait_until(SOON, "the new daemon to know of the freeze", || {
        duplicates(&world.a)?.into_iter().next().context("no duplicate")
    })?;
    ensure!(after["mac"] == TWIN_TEXT && after["freezes"] == 1, "{after}");
    ensure!(after["frozen_at"] == ports[one], "{after}");
    one_is_refused(&world, || talk(5))?;
    // Once an operator has cleared it, it follows the last frame again.
    world.a.cli(&["duplicates", "clear", "1000", TWIN_TEXT])?;
    let free = world.a.counter("mac-moved")?;
    wait_until(SOON, "the other to be heard again", || {
        inject(hosts[refused], "eth0", &build::ethernet(NOBODY, TWIN, EXPERIMENTAL, &[0; 46]))?;
        let moves = world.a.counter("mac-moved")?;
        ensure!(moves > free, "{moves}");
        Ok(())
    })
}
