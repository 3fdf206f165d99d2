//! What runs on an attached node, and measurement between any two places.
//!
//! - [`enrol`]: the words that a node and the gateway's enrolment listener exchange.
//! - [`measure`]: what to measure and what was found.
//! - [`agent`]: what a node's agent answers.

pub mod agent;
pub mod enrol;
pub mod measure;
