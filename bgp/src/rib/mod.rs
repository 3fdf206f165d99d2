//! The routing information bases (RFC 4271 §3.2): one `table` per instance and family holds what was received
//! and what was selected; one `group` of a table is what neighbours with equal rules were told, encoded once for all of
//! them; attributes are interned once.

mod chunks;
mod decision;
mod export;
mod group;
mod index;
mod interval;
mod keys;
mod pack;
mod paths;
mod sets;
mod several;
mod slots;
mod table;
mod told;

pub(crate) use decision::Advertiser;
pub use decision::Reason;
pub(crate) use export::ExportRules;
pub use group::Octets;
pub(crate) use paths::{Path, Rejected};
pub(crate) use sets::SetId;
pub(crate) use slots::told_as;
pub(crate) use table::{PathCounts, Rib, Table};

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
    /// It has an AS_SET or AS_CONFED_SET (RFC 9774).
    #[error("AS_SET in the path")]
    AsSet,
    /// By its OTC attribute it came a way that it should not have taken (RFC 9234 §5).
    #[error("route leak")]
    RouteLeak,
    /// It has the BLACKHOLE community, on which nobody has agreed with this peer (RFC 7999 §3.3).
    #[error("blackhole is not agreed on")]
    Blackhole,
    /// The next hop is one of our own addresses (RFC 4271 §5.1.3).
    #[error("next hop is this router")]
    NextHopSelf,
}
