//! The daemon `watari` and its command line: where the rooms meet, and the only clock.
//!
//! ```text
//!  api/ ──change──▶ brain ──commit──▶ store/            one change at a time, durable before it is seen
//!                     │
//!                     ├─ watch Head{revision, Desired} ──▶ reconcile/ ──plan──▶ drivers/
//!                     └─ watch View ◀──publish────────────┘        (what was read back)
//!  events: a bounded ring, told by everybody, read by api/
//! ```
//!
//! * [`brain`]: the one place through which the desired state changes.
//! * [`store`]: revisions, journal, audit, tokens and secrets on disk.
//! * [`access`]: who may do what.
//! * [`api`]: REST over a Unix socket and, when told, TCP with TLS.
//! * [`loops`]: the loop guard, between the datapath's events and the plan.
//! * [`link_watch`]: what `watari-link` says: paths that came, went or died.
//! * [`nodes`]: machines that are attached, proved and measured.
//! * [`explain`]: one packet traced, live drops, captures.
//! * [`cli`]: the same for people, over the same API.
//! * [`run`]: the daemon from its first check to its clean end.

pub mod access;
pub mod actor;
pub mod api;
pub mod bgp;
pub mod brain;
pub mod cli;
pub mod drivers;
pub mod events;
pub mod explain;
pub mod facts;
pub mod link_watch;
pub mod loops;
pub mod nodes;
mod pace;
mod percent;
pub mod reconcile;
mod resolver;
pub mod run;
pub mod store;
pub mod trial;
pub mod view;
