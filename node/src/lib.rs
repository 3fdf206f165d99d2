//! What runs on an attached node, and measurement between any two places.
//!
//! - [`enrol`]: the words that a node and the gateway's enrolment listener exchange, and the client
//!   side of it. The daemon's listener uses the same types, so the two cannot drift apart.
//! - [`measure`]: a responder and an initiator on plain blocking sockets. They run on a node, on a
//!   plain host, and on a gateway inside a tenant's namespace (the caller enters it first).
//! - [`agent`]: the small HTTP listener of a node on its overlay addresses, and the client for it.
//! - [`host`]: what the node's kernel must be told: device, keys, addresses, routes.
//! - [`node`]: the four things an operator does: join, up, status, leave.

pub mod agent;
pub mod enrol;
pub mod host;
pub mod measure;
pub mod node;
