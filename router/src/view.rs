//! What the reconcile loop last saw and said: the source of `plan`, `status` and `facts`.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// One look at the system, published after every turn of the reconcile loop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct View {
    /// The generation of the desired state that this turn worked on; 0 before the first turn.
    pub generation: u64,
    /// The plan was empty after what was read back: the system is as desired.
    pub settled: bool,
    /// When it was made, UTC.
    pub at: Timestamp,
    /// What is still to be done.
    pub plan: Value,
    /// Each object's state, from what was read back.
    pub status: Value,
    /// The machine and what was learnt: kernel, MACs, routes, BGP.
    pub facts: Value,
}

impl View {
    /// The view before the first turn.
    pub fn unseen() -> Self {
        let empty = || Value::Object(serde_json::Map::new());
        Self {
            generation: 0,
            settled: false,
            at: Timestamp::UNIX_EPOCH,
            plan: empty(),
            status: empty(),
            facts: empty(),
        }
    }
}
