//! What runs on an attached node, and measurement between any two places.
//!
//! - [`enrol`]: the words that a node and the gateway's enrolment listener exchange.
//! - [`measure`]: a responder and an initiator on plain blocking sockets. They run on a node, on a
//!   plain host, and on a gateway inside a tenant's namespace (the caller enters it first).
//! - [`agent`]: what a node's agent answers.

pub mod agent;
pub mod enrol;
pub mod measure;
