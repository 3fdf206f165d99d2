//! What can be asked of the speaker; nothing here changes anything.

use std::net::IpAddr;
use std::sync::Arc;

use crate::attrs::PathAttributes;
use crate::nlri::{Key, NlriData};
use crate::peer::Negotiated;
use crate::rib::{Reason, RejectReason};
use crate::session::{DownReason, State};
use crate::time::Instant;
use crate::types::{Asn, InstanceId, PeerId};

use super::io::{Best, Source};

/// A neighbour at a glance.
#[derive(Clone, Debug)]
pub struct PeerSummary {
    /// The peer.
    pub peer: PeerId,
    /// Whose tables it sees.
    pub instance: InstanceId,
    /// Its address.
    pub remote_addr: IpAddr,
    /// Its AS.
    pub remote_asn: Asn,
    /// Session state.
    pub state: State,
    /// Since when.
    pub since: Instant,
    /// Why it last went down.
    pub last_down: Option<DownReason>,
    /// What was negotiated, when established.
    pub negotiated: Option<Negotiated>,
    /// Paths received and kept, rejected ones included.
    pub received: usize,
    /// Of these, rejected.
    pub rejected: usize,
    /// Of these, stale.
    pub stale: usize,
    /// Routes advertised to it.
    pub advertised: usize,
    /// Messages received, since the session was established.
    pub messages_in: u64,
    /// Messages sent, since the session was established.
    pub messages_out: u64,
    /// UPDATEs treated as withdrawals or with a discarded attribute (RFC 7606).
    pub malformed_updates: u64,
}

/// A path of a key.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Where it came from.
    pub source: Source,
    /// Attributes.
    pub attrs: Arc<PathAttributes>,
    /// Labels, ESI and gateway of an EVPN route.
    pub data: NlriData,
    /// Kept while its peer restarts.
    pub stale: bool,
    /// Why it does not take part in the decision.
    pub rejected: Option<RejectReason>,
}

/// Everything known about one key.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// All paths.
    pub candidates: Vec<Candidate>,
    /// Index of the selected one.
    pub best: Option<usize>,
    /// What made it win.
    pub reason: Option<Reason>,
}

/// A route as advertised to a peer.
#[derive(Clone, Debug)]
pub struct Advertised {
    /// The key.
    pub key: Key,
    /// Attributes as on the wire.
    pub attrs: Arc<PathAttributes>,
    /// Labels, ESI and gateway of an EVPN route.
    pub data: NlriData,
}

/// A row of a table dump.
#[derive(Clone, Debug)]
pub struct TableRow {
    /// The key.
    pub key: Key,
    /// The selected path.
    pub best: Best,
    /// How many paths there are.
    pub candidates: usize,
}
