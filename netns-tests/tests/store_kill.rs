//! `kill -9` of the daemon during a burst of changes: every acknowledged change is there afterwards, and no
//! change is there by half. Needs root.
//!
//! ```text
//!  four writers ── POST /apply {sites: {left-N, right-N}} ──▶ [gw-a: watari] ── one transaction a change ── redb
//!                                                     kill -9, start, look; again and again
//! ```

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use netns_tests::http::Api;
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

const ROUNDS: u64 = 6;
const WRITERS: u64 = 4;
/// Acknowledged changes of a round before the kill: the writers are in full swing then.
const BEFORE_KILL: u64 = 25;

/// One change: two objects that belong together, the same number in both.
fn change(number: u64) -> Value {
    let site = json!({ "description": format!("number {number}") });
    json!({ "sites": { (format!("left-{number}")): site, (format!("right-{number}")): site } })
}

/// What the writers have done.
#[derive(Default)]
struct Burst {
    next: AtomicU64,
    acknowledged: Mutex<BTreeSet<u64>>,
    /// The highest revision that an answer has named.
    revision: AtomicU64,
    over: AtomicBool,
}

impl Burst {
    /// Writes until the daemon is gone. An answer that does not come is no acknowledgement.
    fn write(&self, api: &Api) -> Result<()> {
        while !self.over.load(Ordering::SeqCst) {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            let Ok(answer) = api.post("/api/v1/apply", &change(number)) else { continue };
            let answer = answer.success()?;
            let revision = answer["revision"].as_u64().context("an answer without a revision")?;
            self.revision.fetch_max(revision, Ordering::SeqCst);
            self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).insert(number);
        }
        Ok(())
    }

    fn count(&self) -> u64 {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).len() as u64
    }
}

/// Numbers of the changes that are in the document.
fn stored(gateway: &Gateway) -> Result<BTreeSet<u64>> {
    let document = gateway.get("/api/v1/document")?;
    let empty = serde_json::Map::new();
    let sites = document["sites"].as_object().unwrap_or(&empty);
    let mut numbers = BTreeSet::new();
    for (name, site) in sites {
        let (side, number) = name.split_once('-').context("a site of another name")?;
        let other = if side == "left" { "right" } else { "left" };
        ensure!(sites.contains_key(&format!("{other}-{number}")), "{name} without its other half");
        ensure!(site["description"] == format!("number {number}"), "{name}: {site}");
        numbers.insert(number.parse()?);
    }
    Ok(numbers)
}

#[test]
fn root_every_acknowledged_change_survives_kill_9_and_none_by_half() -> Result<()> {
    let machine = Ns::machine("gw-a")?;
    let mut gateway = Gateway::start(&machine, "gw-a", &json!({}))?;
    let burst = Burst::default();
    for round in 1..=ROUNDS {
        let (api, before) = (gateway.api(), burst.count());
        burst.over.store(false, Ordering::SeqCst);
        std::thread::scope(|scope| -> Result<()> {
            let writers: Vec<_> = (0..WRITERS).map(|_| scope.spawn(|| burst.write(&api))).collect();
            let full_swing = wait_until(Duration::from_secs(60), "a burst of changes", || {
                burst.count() >= before + BEFORE_KILL
            });
            // In the middle of it: each writer has a request under way.
            let killed = gateway.kill9();
            burst.over.store(true, Ordering::SeqCst);
            for writer in writers {
                writer.join().map_err(|_| anyhow!("a writer panicked"))??;
            }
            full_swing.and(killed)
        })?;
        gateway.launch()?;
        let stored = stored(&gateway)?;
        let acknowledged = burst.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let lost: Vec<_> = acknowledged.difference(&stored).collect();
        ensure!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
        let unasked: Vec<_> = stored.iter().filter(|n| **n >= burst.next.load(Ordering::SeqCst)).collect();
        ensure!(unasked.is_empty(), "round {round}: nobody asked for {unasked:?}");
        one_revision_for_each(&gateway, &stored, burst.revision.load(Ordering::SeqCst))?;
        println!("round {round}: {} acknowledged, {} stored", acknowledged.len(), stored.len());
    }
    Ok(())
}

/// Document, revisions and audit tell of the same changes.
fn one_revision_for_each(gateway: &Gateway, stored: &BTreeSet<u64>, acknowledged: u64) -> Result<()> {
    let list = |path: &str| -> Result<Vec<Value>> {
        Ok(gateway.get(&format!("/api/v1/{path}?limit=1000"))?.as_array().cloned().unwrap_or_default())
    };
    let (revisions, audit) = (list("revisions")?, list("audit")?);
    let newest = revisions.iter().filter_map(|revision| revision["revision"].as_u64()).max().unwrap_or(0);
    let counts = (revisions.len(), audit.len(), newest);
    let want = stored.len();
    ensure!(counts == (want, want, want as u64), "{counts:?} revisions, audited, newest; {want} changes");
    ensure!(newest >= acknowledged, "revision {acknowledged} was acknowledged; the newest is {newest}");
    Ok(())
}
