//! Two machines with one MAC, one at each site: found, frozen and told to the operator, until he clears it; nobody
//! else is harmed. Needs root.
//!
//! ```text
//!   host-a, twin ─ VLAN 100 ═ [gw-a] ── VXLAN over VLAN 900 ── [gw-b] ═ VLAN 200 ─ host-b, twin
//! ```
//! The whole drawing: `netns_tests::topology`.

use anyhow::{Context as _, Result, ensure};
use netns_tests::packet::{build, inject};
use netns_tests::topology::Tunnel;
use netns_tests::world::SOON;
use netns_tests::{Gateway, World, wait_until};
use serde_json::Value;

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
