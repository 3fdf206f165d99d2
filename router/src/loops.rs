//! The loop guard of this gateway: beacons come in from the datapath's events, verdicts go out to the plan.
//!
//! ```text
//!   ring of events ─ facts task ─ seen() ─┐                    ┌─▶ look(): observed.loops ─▶ plan ─▶ map
//!                                         ├─▶ planner::Loops ──┤
//!   ports, ages ─── reconcile loop ───────┘                    └─▶ wakes the reconcile loop at once
//!   after the map says so: report(): events; `cut` wakes the facts, which forget who was learnt there
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;
use watari_config::{Desired, Mac, Name, Vni};
use watari_dataplane::abi::beacon;
use watari_dataplane::{Event, PortKey};
use watari_planner::item::PortAt;
use watari_planner::loops::{guarded, is_found_blocked};
use watari_planner::wanted::{Wanted, place};
use watari_planner::{LoopPeer, Loops, Observed, Verdict, with_whom};

use crate::drivers::datapath::{port_at, port_key};
use crate::events::Events;

/// So long after a loop was found or cut, stations that move are no duplicates: the loop moved them, and what was told
/// of it is still on its way.
const UNSETTLED: Duration = Duration::from_secs(5);

/// Shared by the task that reads the datapath's events and the reconcile loop.
#[derive(Debug)]
pub struct LoopGuard {
    began: Instant,
    loops: Mutex<Loops>,
    /// What was last said of each attachment, so that it is said once.
    told: Mutex<BTreeMap<Name, Verdict>>,
    /// Attachments whose loop has gone while they were open, until the facts have taken them.
    parted: Mutex<BTreeSet<PortAt>>,
    wakeup: Arc<Notify>,
    /// Rings when the map was changed: what was learnt there is to be looked at again.
    pub cut: Notify,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LoopGuard {
    /// A guard that rings `wakeup` when a verdict is another one.
    pub fn new(wakeup: Arc<Notify>) -> Self {
        Self {
            began: Instant::now(),
            loops: Mutex::default(),
            told: Mutex::default(),
            parted: Mutex::default(),
            wakeup,
            cut: Notify::new(),
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes an event of kind `Beacon`. What names no device, gateway or segment that can be is nobody's.
    pub fn seen(&self, event: &Event) {
        let Ok(device) = nix::net::if_::if_indextoname(event.port.ifindex) else { return };
        let names = BTreeMap::from([(event.port.ifindex, device.to_string_lossy().into_owned())]);
        let (Ok(origin), Ok(vni)) = (Mac::new(event.mac), Vni::new(event.origin_vni)) else { return };
        let (since, port_id) = event.ip.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let peer = LoopPeer { since_ms: number(since), origin, port_id: number(port_id), vni };
        let is_blocked = event.flags & beacon::BLOCKED != 0;
        if lock(&self.loops).seen(&port_at(&names, event.port), peer, is_blocked, self.now()) {
            self.wakeup.notify_one();
        }
    }

    /// Says which attachments are guarded, lets time pass, and writes the verdicts into `observed`.
    pub fn look(&self, desired: &Desired, wanted: &Wanted, observed: &mut Observed) {
        let Some(own) = desired.own_mac() else { return };
        let (ports, now) = (guarded(wanted, observed), self.now());
        let mut loops = lock(&self.loops);
        loops.set_ports(own, ports, |at| is_found_blocked(&observed.system, at), now);
        loops.tick(now);
        observed.loops = loops.verdicts();
    }

    /// The verdicts now.
    pub fn verdicts(&self) -> BTreeMap<PortAt, Verdict> {
        lock(&self.loops).verdicts()
    }

    /// Segments in which a loop was found or cut a moment ago.
    pub fn unsettled(&self) -> BTreeSet<Vni> {
        lock(&self.loops).unsettled(self.now(), UNSETTLED)
    }

    /// The ports whose loop has gone while they were open, once: who was learnt there may be behind the other one now.
    pub fn take_parted(&self) -> BTreeSet<PortKey> {
        let parted = std::mem::take(&mut *lock(&self.parted));
        let key = |at: PortAt| {
            let index = nix::net::if_::if_nametoindex(at.device.as_str()).ok()?;
            port_key(&BTreeMap::from([(at.device.clone(), index)]), &at).ok()
        };
        parted.into_iter().filter_map(key).collect()
    }

    /// Tells what became of loops since the last time: `loop-blocked` and `loop-released` once the datapath does so,
    /// `loop-seen` where another one has to block.
    pub fn report(&self, desired: &Desired, observed: &Observed, events: &Events) {
        let mut now = BTreeMap::new();
        for (name, attachment) in desired.attachments() {
            let Some(at) = place(attachment) else { continue };
            let Some(verdict) = observed.loops.get(&at) else { continue };
            if verdict.blocked == is_found_blocked(&observed.system, &at) {
                now.insert(name.clone(), *verdict);
            }
        }
        let mut told = lock(&self.told);
        let object = |name: &Name| format!("attachments.{name}");
        for (name, verdict) in &now {
            let before = told.get(name);
            let news = |v: &Verdict| (v.blocked, v.with.map(|peer| (peer.origin, peer.port_id)));
            if before.map(news) != Some(news(verdict)) {
                let kind = if verdict.blocked { "loop-blocked" } else { "loop-seen" };
                events.emit(kind, object(name), with_whom(desired, verdict));
            }
        }
        for (name, verdict) in told.iter().filter(|(name, _)| !now.contains_key(*name)) {
            if verdict.blocked {
                events.emit("loop-released", object(name), "the loop is gone");
            } else if let Some(at) = desired.document().attachments.get(name).and_then(place) {
                // A change of topology (IEEE 802.1Q section 13.17): who is behind it may be behind the other one now.
                lock(&self.parted).insert(at);
                self.cut.notify_one();
            }
        }
        *told = now;
    }
}

/// The loops as the facts show them.
pub fn shown(desired: &Desired, observed: &Observed) -> Value {
    let looped = desired.attachments().filter_map(|(name, attachment)| {
        let verdict = observed.loops.get(&place(attachment)?)?;
        Some(json!({
            "attachment": name,
            "blocked": verdict.blocked,
            "reflected": verdict.reflected,
            "with": verdict.with,
            "said": with_whom(desired, verdict),
        }))
    });
    looped.collect()
}
