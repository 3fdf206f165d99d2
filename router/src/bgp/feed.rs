//! What the speaker tells the daemon, kept as the latest state per route until it is taken: a reader that
//! falls behind sees fewer changes, never an unbounded list of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use watari_bgp::{Best, DownReason, Family, InstanceId, Key, PeerId, State};

use super::Neighbour;

/// State changes of peers that are kept; of more, the oldest are forgotten.
const PEER_CHANGES_MAX: usize = 4_096;

/// A session changed its state.
#[derive(Clone, Debug)]
pub struct PeerChange {
    /// The neighbour.
    pub neighbour: Neighbour,
    /// From.
    pub old: State,
    /// To.
    pub new: State,
    /// Why, when it went back.
    pub reason: Option<DownReason>,
}

/// Everything that happened since the last batch. To be taken in the order of the fields.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Routes whose best path changed, with the latest one.
    pub best: BTreeMap<(InstanceId, Key), Option<Best>>,
    /// State changes of peers, in order.
    pub peers: VecDeque<PeerChange>,
    /// Peers that are near the limit of a family: how many paths they have, and may have.
    pub near_limits: BTreeMap<(Neighbour, Family), (usize, u32)>,
    /// Peers from whose prefixes no more neighbours are taken, and where the last one that was turned away came from.
    pub full: BTreeMap<PeerId, IpAddr>,
    /// Families that peers have sent completely.
    pub end_of_rib: BTreeSet<(PeerId, Family)>,
    /// After a restart: tables whose best paths have all been told. What the system has beyond them goes.
    pub selection_done: BTreeSet<(InstanceId, Family)>,
}

impl Batch {
    fn is_empty(&self) -> bool {
        self.best.is_empty()
            && self.peers.is_empty()
            && self.near_limits.is_empty()
            && self.full.is_empty()
            && self.end_of_rib.is_empty()
            && self.selection_done.is_empty()
    }
}

#[derive(Debug, Default)]
struct Shared {
    batch: Mutex<(Batch, bool)>,
    wake: Notify,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, (Batch, bool)> {
        self.batch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task's end.
#[derive(Debug)]
pub(super) struct Feed(Arc<Shared>);

/// The daemon's end.
#[derive(Debug)]
pub struct Updates(Arc<Shared>);

pub(super) fn feed() -> (Feed, Updates) {
    let shared = Arc::new(Shared::default());
    (Feed(Arc::clone(&shared)), Updates(shared))
}

impl Feed {
    pub(super) fn best(&self, instance: InstanceId, key: Key, best: Option<Best>) {
        self.tell(|batch| {
            batch.best.insert((instance, key), best);
        });
    }

    pub(super) fn peer(&self, change: PeerChange) {
        self.tell(|batch| {
            if batch.peers.len() == PEER_CHANGES_MAX {
                batch.peers.pop_front();
            }
            batch.peers.push_back(change);
        });
    }

    pub(super) fn near_limit(&self, neighbour: Neighbour, family: Family, paths: usize, limit: u32) {
        self.tell(|batch| {
            batch.near_limits.insert((neighbour, family), (paths, limit));
        });
    }

    pub(super) fn full(&self, peer: PeerId, remote: IpAddr) {
        self.tell(|batch| {
            batch.full.insert(peer, remote);
        });
    }

    pub(super) fn end_of_rib(&self, peer: PeerId, family: Family) {
        self.tell(|batch| {
            batch.end_of_rib.insert((peer, family));
        });
    }

    pub(super) fn selection_done(&self, instance: InstanceId, family: Family) {
        self.tell(|batch| {
            batch.selection_done.insert((instance, family));
        });
    }

    fn tell(&self, note: impl FnOnce(&mut Batch)) {
        note(&mut self.0.lock().0);
        self.0.wake.notify_one();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.0.lock().1 = true;
        self.0.wake.notify_one();
    }
}

impl Updates {
    /// Waits until something has happened and takes all of it; `None` once the speaker has ended and everything
    /// was taken. May be cancelled: nothing is lost.
    pub async fn next(&mut self) -> Option<Batch> {
        loop {
            {
                let mut shared = self.0.lock();
                if !shared.0.is_empty() {
                    return Some(std::mem::take(&mut shared.0));
                }
                if shared.1 {
                    return None;
                }
            }
            self.0.wake.notified().await;
        }
    }
}
