//! Nodes: machines that are attached for a while, proved, measured, and gone again.
//!
//! ```text
//!  operator ── POST nodes ──▶ attach ── document ──▶ plan          one change, allocated in it
//!  machine ── TLS, token ──▶ enrol ──── its key ───▶ plan          one change, the token is used up
//!                                                     │ view, facts
//!  prove: applied, handshake, announced ◀─────────────┘
//!     └─ probes from here, and by `internal` from the other gateways ──▶ receipt
//!  lease: the node leaves the document when its time is over
//! ```
//! * Pure: [`token`], [`attach`], [`join`], [`receipt`], [`ends`], [`limit`].
//! * [`routes`], [`measure`]: the API. [`enrol`], [`internal`]: the other two listeners, on [`listen`].
//! * [`here`]: what this gateway does inside a tenant, with [`echo`]. [`responders`]: who answers there.

pub mod attach;
pub mod echo;
pub mod ends;
pub mod enrol;
pub mod here;
pub mod internal;
pub mod join;
pub mod lease;
pub mod limit;
pub mod listen;
pub mod measure;
pub mod prove;
pub mod receipt;
pub mod responders;
pub mod routes;
#[cfg(test)]
pub(crate) mod samples;
pub mod token;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use utoipa_axum::router::OpenApiRouter;
use watari_config::bootstrap::Enrol;
use watari_config::{Bootstrap, Name};
use watari_dataplane::Dataplane;

use crate::brain::Brain;
use crate::view::View;
use prove::Ledger;
use receipt::Receipt;

/// Measurements at a time that begin at this gateway: two would measure each other.
const MEASUREMENTS_MAX: usize = 1;

/// What the parts of this module share.
pub struct Nodes {
    brain: Arc<Brain>,
    enrol: Option<Enrol>,
    ledger: Mutex<Ledger>,
    measuring: Semaphore,
    /// Maps and programs, for what other gateways ask of the datapath.
    maps: OnceLock<Arc<Dataplane>>,
}

/// Starts everything that nodes need; answers the routes for the API, and the tasks, each of which ends when
/// `stop` becomes true. The daemon cannot do without any of them.
pub fn start(
    brain: &Arc<Brain>,
    bootstrap: &Bootstrap,
    maps: &Arc<Dataplane>,
    stop: &watch::Receiver<bool>,
) -> (OpenApiRouter, JoinSet<()>) {
    let nodes = Nodes::new(brain.clone(), bootstrap.enrol.clone());
    let _ = nodes.maps.set(maps.clone());
    let mut tasks = JoinSet::new();
    if let Some(enrol) = &bootstrap.enrol {
        tasks.spawn(enrol::run(nodes.clone(), enrol.listen, stop.clone()));
    }
    tasks.spawn(internal::run(nodes.clone(), stop.clone()));
    tasks.spawn(prove::run(nodes.clone(), stop.clone()));
    tasks.spawn(lease::run(brain.clone(), stop.clone()));
    tasks.spawn(responders::run(brain.clone(), stop.clone()));
    (routes::routes().merge(measure::routes()).with_state(nodes), tasks)
}

impl Nodes {
    /// Nothing is started yet.
    pub fn new(brain: Arc<Brain>, enrol: Option<Enrol>) -> Arc<Self> {
        let measuring = Semaphore::new(MEASUREMENTS_MAX);
        let maps = OnceLock::new();
        Arc::new(Self { brain, enrol, ledger: Mutex::default(), measuring, maps })
    }

    /// The receipt of a node that this gateway serves.
    pub fn receipt(&self, name: &Name) -> Option<Receipt> {
        self.look();
        self.with_ledger(|ledger| ledger.receipts.get(name).cloned())
    }

    fn with_ledger<T>(&self, f: impl FnOnce(&mut Ledger) -> T) -> T {
        f(&mut self.ledger.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The node was asked for.
    fn asked(&self, name: &Name, at: Timestamp) {
        let receipt = Receipt::asked(name.clone(), at);
        self.with_ledger(|ledger| ledger.receipts.insert(name.clone(), receipt));
    }

    /// The node has enrolled.
    fn enrolled(&self, name: &Name, at: Timestamp) {
        self.with_ledger(|ledger| {
            if let Some(receipt) = ledger.receipts.get_mut(name) {
                receipt.enrolled(at);
            }
        });
    }

    /// Waits until the node is in place at this gateway, for `limit` at most.
    async fn wait_in_place(&self, name: &Name, generation: u64, limit: Duration) {
        let desired = self.brain.desired();
        let Some(node) = desired.document().nodes.get(name) else { return };
        let tenant = desired.document().segments[&node.segment].tenant.clone();
        let mut view = self.brain.view();
        let in_place = view.wait_for(|v| v.generation >= generation && is_in_place(v, name, &tenant));
        if tokio::time::timeout(limit, in_place).await.is_err() {
            tracing::warn!(node = name.as_str(), "not in place yet; its first handshake may be lost");
        }
    }
}

/// Whether everything that a node needs at this gateway is there, its tenant's device included.
fn is_in_place(view: &View, name: &Name, tenant: &Name) -> bool {
    let state = |path: String| view.status["objects"][path]["state"].as_str().unwrap_or_default().to_owned();
    // Down is a node from which nothing was heard yet: its place is there all the same.
    ["up", "down"].contains(&state(format!("nodes.{name}")).as_str())
        && state(format!("tenants.{tenant}")) == "up"
}
