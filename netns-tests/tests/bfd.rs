//! A path that dies without a word: BFD in `watari-link` finds it, and the BGP session with the campus router ends
//! at once instead of after the hold time. The session outlives the brain. Needs root.
//!
//! ```text
//!  server ─ [campus, BIRD] ─ VLAN 300 ─ ✂ ─ [gw-a] ── WireGuard ── [gw-b]
//!                 50 ms × 3, IPv4 and IPv6
//! ```

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netns_tests::campus::{Campus, LANS, Setup, Software};
use netns_tests::topology::Tunnel;
use netns_tests::wait::holds_for;
use netns_tests::world::SOON;
use netns_tests::{World, wait_until};
use serde_json::{Value, json};

const PEERS: [&str; 2] = ["peers.campus4", "peers.campus6"];
const SUBNETS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
/// Far below the hold time of 90 s, far above the detection time of 150 ms.
const AT_ONCE: Duration = Duration::from_secs(8);

fn start() -> Result<(World, Campus)> {
    let world = World::start_with(&[Tunnel::Wireguard], |_, document| {
        for peer in ["campus4", "campus6"] {
            document["peers"][peer]["bfd"] = json!({ "interval_ms": 50 });
        }
        Ok(())
    })?;
    let setup = Setup { bfd: true, ..Setup::default() };
    let campus = Campus::start(Software::Bird, &world.topology.campus, setup)?;
    is_up(&world, &campus)?;
    Ok((world, campus))
}

/// Both sessions of both protocols are up, and said to be; the routes are there.
fn is_up(world: &World, campus: &Campus) -> Result<()> {
    for peer in PEERS {
        wait_until(SOON, &format!("{peer} with its BFD session"), || {
            let object = world.a.object(peer)?;
            ensure!(object["state"] == "up" && object["bfd"]["state"] == "up", "{object:#}");
            ensure!(object["bfd"]["detection_ms"] == 150, "{object:#}");
            Ok(())
        })?;
    }
    wait_until(SOON, "both of BIRD's BFD sessions", || {
        let text = campus.bfd()?;
        ensure!(text.matches(" Up ").count() == 2, "{text}");
        Ok(())
    })?;
    wait_until(SOON, "the campus' networks", || {
        let routes = learnt(world)?;
        ensure!(LANS.iter().all(|lan| routes.iter().any(|route| route == lan)), "{routes:?}");
        Ok(())
    })
}

fn learnt(world: &World) -> Result<Vec<String>> {
    let facts = world.a.facts()?;
    let routes = facts["routes"].as_array().cloned().unwrap_or_default();
    let campus = routes.iter().filter(|route| route["from"] == "campus");
    Ok(campus.filter_map(|route| route["prefix"].as_str().map(str::to_owned)).collect())
}

/// Events of a kind since a number.
fn events(world: &World, after: u64, kind: &str) -> Result<Vec<Value>> {
    let events = world.a.events_after(after)?;
    Ok(events.into_iter().filter(|event| event["kind"] == kind).collect())
}

#[test]
fn root_a_path_that_dies_silently_ends_the_session_at_once() -> Result<()> {
    let (world, campus) = start()?;
    let before = world.a.last_event()?;
    // The campus router's port leaves the switch: no carrier falls anywhere.
    world.topology.a.switch.ip("link set p1 nomaster")?;
    let cut = Instant::now();
    wait_until(AT_ONCE, "its routes to be gone", || {
        let routes = learnt(&world)?;
        ensure!(routes.is_empty(), "{routes:?}");
        Ok(())
    })?;
    println!("the routes left {:?} after the cut", cut.elapsed());
    for peer in PEERS {
        wait_until(AT_ONCE, &format!("{peer} to say why"), || {
            let object = world.a.object(peer)?;
            let is_said = object["bfd"]["state"] == "down"
                && object["bfd"]["diagnostic"] == "control_detection_time_expired";
            ensure!(object["state"] == "down" && is_said, "{object:#}");
            Ok(())
        })?;
    }
    let ended = events(&world, before, "bgp")?;
    let by_bfd = ended
        .iter()
        .filter(|e| e["message"].as_str().is_some_and(|m| m.contains("BFD") || m.contains("hard reset")));
    ensure!(by_bfd.count() == 2, "{ended:#?}");
    ensure!(events(&world, before, "bfd")?.len() == 2, "{:#?}", world.a.events_after(before)?);

    world.topology.a.switch.ip("link set p1 master br0")?;
    is_up(&world, &campus)
}

#[test]
fn root_bfd_outlives_the_brain_and_an_unwatched_neighbour_is_told() -> Result<()> {
    let (mut world, campus) = start()?;
    world.a.kill9()?;
    wait_until(SOON, "the campus router to keep the routes of a restart", || {
        ensure!(campus.is_stale(SUBNETS[0])? && campus.is_stale(SUBNETS[1])?, "{}", campus.sessions()?);
        Ok(())
    })?;
    holds_for(Duration::from_secs(3), "BFD stays up without the brain", || -> Result<()> {
        let text = campus.bfd()?;
        ensure!(text.matches(" Up ").count() == 2, "{text}");
        ensure!(SUBNETS.iter().all(|subnet| campus.knows(subnet).unwrap_or(false)), "{}", campus.table()?);
        Ok(())
    })?;
    world.a.launch()?;
    let first = world.a.first_plan_ops()?;
    ensure!(first == 0, "{first} ops");
    is_up(&world, &campus)?;
    for peer in PEERS {
        let changes = world.a.object(peer)?["bfd"]["changes"].clone();
        ensure!(changes == 2, "down, init, up and nothing since: {changes}");
    }

    // Taken out of the document, it is no failure: the session of BGP stays.
    let before = world.a.last_event()?;
    for peer in ["campus4", "campus6"] {
        world.document["peers"][peer].as_object_mut().expect("an object").remove("bfd");
    }
    world.a.apply(&world.document)?;
    world.a.settle()?;
    wait_until(SOON, "BIRD to see them go", || {
        let text = campus.bfd()?;
        ensure!(text.matches(" Up ").count() == 0, "{text}");
        Ok(())
    })?;
    ensure!(events(&world, before, "bfd")?.is_empty(), "{:#?}", world.a.events_after(before)?);
    for peer in PEERS {
        let object = world.a.object(peer)?;
        ensure!(object.get("bfd").is_none(), "{object:#}");
    }
    Ok(())
}
