//! What is learnt: stations, neighbours and routes, from the datapath to BGP and back. By key: an event of the
//! datapath or a best path of BGP changes what hangs on it and nothing else, whatever the number of the others.
//!
//! ```text
//!   ring of events ─ hint ─▶ local ─┐ dirty keys                     ┌─▶ told ─ changes ─▶ BGP speaker
//!   mac_local, nb_local ─ walk ─────┤                                │
//!                                   ├─▶ hosts: where is a station? ──┤
//!   BGP speaker ─ best paths ─▶ import ─ dirty keys ─────────────────┴─▶ tables: mac_remote, nb_remote, flood_vteps,
//!                                                                                routes; kernel routes
//! ```
//! * [`fabric`], [`hosts`], [`originate`](mod@originate), [`import`](mod@import), [`told`]: pure.
//! * [`ask_bgp`]: what an operator asks of the speaker. Pure, too.
//! * [`local`]: what the programs learnt. [`tables`], [`kernel`]: entries by key, and the comparison of whole tables.
//! * `freezes`: what is frozen, in a file, for the next start.
//! * `task`: wakes and takes; `settle`: carries what is dirty. `pace`: how often whole tables are walked.
//!
//! What BFD finds (`watari-link` tells it) ends the session with its neighbour.
//!
//! A hint may be lost and a table changed by somebody else, so whole tables are walked and compared, as often as a
//! thousandth of a core allows (what the programs learnt: a five-hundredth), once a second at most and once a minute at
//! least; at once, too, when a write has failed.

pub mod ask_bgp;
pub mod fabric;
mod freezes;
pub mod hosts;
pub mod import;
pub mod kernel;
pub mod local;
pub mod originate;
mod passwords;
pub mod peers;
mod refused;
mod settle;
mod show;
pub mod tables;
mod task;
#[cfg(test)]
mod tests;
pub mod told;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use watari_dataplane::{Adoption, Dataplane};

use self::freezes::Freezes;
use self::task::{Sources, Task};
use crate::brain::Brain;
use crate::drivers::DriverError;
use crate::link_watch::PathDown;
use crate::loops::LoopGuard;

/// Where the facts are pinned up for whoever shows them.
#[derive(Clone, Debug)]
pub struct Board(Arc<Mutex<Value>>);

impl Default for Board {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(json!({}))))
    }
}

impl Board {
    /// The facts as they were last pinned up.
    pub fn read(&self) -> Value {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Pins up new facts.
    pub fn write(&self, facts: Value) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }
}

/// Starts the speaker and the task that carries facts; it ends when `stop` becomes true.
///
/// A datapath that was found loaded means that we were here before: this start is a restart (RFC 4724
/// section 4.1), and nothing learnt is removed before the peers have told everything again.
///
/// What is frozen is kept in `run_dir`.
///
/// # Errors
/// When the datapath's events are not to be had.
pub fn spawn(
    brain: Arc<Brain>,
    maps: Arc<Dataplane>,
    board: Board,
    guard: Arc<LoopGuard>,
    paths: mpsc::Receiver<PathDown>,
    run_dir: &Path,
    mut stop: watch::Receiver<bool>,
) -> Result<JoinHandle<()>, DriverError> {
    let freezes = Freezes::in_folder(run_dir);
    let ring = maps.events()?;
    // SAFETY: the reader owns the descriptor and keeps it open for as long as the registration lives.
    let ring = unsafe { AsyncFd::register(ring) };
    let ring = ring.map_err(|e| DriverError::system("watch the datapath's events", e))?;
    Ok(tokio::spawn(async move {
        let is_restart = !matches!(maps.adoption(), Adoption::Fresh | Adoption::Recreated);
        let mut head = brain.watch_desired();
        // The identifier of the speaker comes with the gateway's object.
        let config = loop {
            let desired = head.borrow_and_update().desired.clone();
            match task::speaker_config(&desired) {
                Some(config) => break config,
                None => tokio::select! {
                    () = crate::run::stopped(&mut stop) => return,
                    changed = head.changed() => if changed.is_err() { return },
                },
            }
        };
        let (bgp, updates) = crate::bgp::spawn(config);
        let task = Task::new(brain, maps, board, guard, bgp, freezes, is_restart).await;
        task.run(Sources { stop, updates, ring, paths }).await;
    }))
}
