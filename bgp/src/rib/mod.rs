//! The routing information bases (RFC 4271 §3.2): one `table` per instance and family holds what was received
//! and what was selected, one `adj_out` per peer and family what was sent; attributes are interned once.

mod adj_out;
mod decision;
mod intern;
mod table;

pub(crate) use adj_out::{AdjOut, Round, Sent};
pub(crate) use decision::Advertiser;
pub use decision::Reason;
pub(crate) use intern::AttributePool;
pub(crate) use table::{Destination, Path, PathCounts, Table};

use crate::types::Asn;

/// Why a received path does not take part in the decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// The import policy of the peer.
    #[error("import policy")]
    Policy,
    /// Our AS is in the AS_PATH (RFC 4271 §9.1.2).
    #[error("AS {0} is in the path")]
    AsLoop(Asn),
    /// Our identifier is ORIGINATOR_ID or in CLUSTER_LIST (RFC 4456 §8).
    #[error("reflection loop")]
    ReflectionLoop,
    /// The next hop is one of our own addresses (RFC 4271 §5.1.3).
    #[error("next hop is this router")]
    NextHopSelf,
}
