//! The speaker.

mod io;
mod query;

pub use io::{Best, Input, Output, RestartConfig, Source};
pub use query::{Advertised, Candidate, Entry, PeerSummary, TableRow};
/// Octets of updates under way to one peer.
pub const SEND_CREDIT: usize = 256 * 1024;

use crate::time::Instant;
use crate::types::RouterId;

/// What concerns the whole speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpeakerConfig {
    /// Our BGP Identifier, also the cluster id when reflecting.
    pub router_id: RouterId,
    /// Seed of the timer jitter.
    pub seed: u64,
}

/// Many neighbours, many instances.
#[derive(Debug)]
pub struct Speaker {
    config: SpeakerConfig,
}

impl Speaker {
    /// A speaker without neighbours and routes.
    pub fn new(config: SpeakerConfig) -> Speaker {
        Speaker { config }
    }

    /// Our BGP Identifier.
    pub fn router_id(&self) -> RouterId {
        self.config.router_id
    }

    /// When [`Input::Tick`] is due, `None` if nothing waits for time.
    pub fn next_deadline(&self) -> Option<Instant> {
        None
    }
}
