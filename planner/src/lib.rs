//! What has to be done so that the system is as the operator asked: decided here, done elsewhere. PURE.
//!
//! ```text
//!  Desired ──wanted()──▶ System ─┐
//!                                ├─ difference() ─▶ Plan{generation, ops}   printable, ordered, no choices left
//!  Observed ───────────▶ System ─┘
//!  Desired, Observed ──status()──▶ Status    from what was read back, never from "we sent it"
//! ```
//!
//! * [`item`]: everything that can exist, as a key and a value. The order of the keys is the order of making;
//!   its reverse is the order of removing.
//! * [`wanted`]: one file for each kind of object says which items it needs.
//! * [`mod@plan`]: one subtraction for all kinds of item: wanted − present is made, present − wanted is removed.
//! * [`mod@status`]: the state of each object.
//! * [`touched`]: which traffic a plan touches.
//! * [`path_mtu`]: what the tunnels carry, and why.
//! * [`loops`]: which attachments are blocked because they would close a loop.
//!
//! Learned facts (routes, MACs) do not pass through here: they are deltas by key, see the daemon.

pub mod item;
pub mod loops;
pub mod observed;
pub mod path_mtu;
pub mod plan;
mod said;
pub mod status;
pub mod touched;
pub mod wanted;

pub use item::{Key, System, Value};
pub use loops::{LoopPeer, Loops, OwnPort, Verdict};
pub use observed::{BfdHealth, EndpointHealth, Engine, Identity, Observed, Resolution, TunnelHealth};
pub use path_mtu::{PathMtu, PathMtuPhase};
pub use plan::{Action, Op, Plan, plan};
pub use said::with_whom;
pub use status::{ObjectState, ObjectStatus, Status, status};
pub use touched::{Effect, Touched, touched};
