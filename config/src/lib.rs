//! Documents, names and validation: what an operator writes, and what we make of it. PURE.
//!
//! ```text
//!  YAML / JSON ──parse──▶ Value ──read──▶ Document ──validate──▶ Desired{generation}
//!                  │                │                  │
//!                  └── Problem ◀────┴──────────────────┘   all of them at once, each with its path
//! ```
//!
//! * [`document`]: the objects an operator writes (tenant, segment, tunnel …), one struct each.
//! * [`endpoint`]: where the far end of a tunnel is reached.
//! * [`guard`]: what an attachment may send.
//! * [`names`]: the vocabulary as types (`Vni`, `Vid`, `Asn` …), so that a wrong value cannot be carried around.
//! * [`secret`]: where a secret is.
//! * [`tags`]: VLAN tags, one or two.
//! * [`read`]: turns a parsed tree into a `Document` and collects every problem on the way.
//! * [`mod@validate`]: what no single object can know: references, overlaps, limits.
//! * [`desired`]: the validated document seen from one gateway.
//! * [`bootstrap`]: the short file a daemon starts from.
//!
//! Nothing here reads a clock, a file or a socket.

pub mod allocate;
pub mod bootstrap;
pub mod desired;
pub mod document;
pub mod endpoint;
pub mod guard;
pub mod names;
pub mod neighbour;
pub mod read;
#[cfg(feature = "schema")]
pub mod schema;
pub mod secret;
pub mod tags;
pub mod validate;

pub use bootstrap::Bootstrap;
pub use desired::Desired;
pub use document::Document;
pub use names::{Asn, IfName, Mac, Mtu, Name, Vid, Vni, WgKey};
pub use read::{Path, Problem, Problems, parse_text};
pub use secret::SecretRef;
pub use tags::{Tags, Tpid};
pub use validate::{read_document, validate};
