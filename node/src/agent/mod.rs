//! The node's agent: a small HTTP/1.1 listener on the node's overlay addresses.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/facts` | [`Facts`]: who it is, what it is made of, load, uptime |
//! | `POST /v1/measure` with [`MeasureRequest`] | [`crate::measure::Report`] of a measurement from here |
//!
//! Only the gateways' probe addresses may connect (`controllers` of the enrolment); any other peer
//! is hung up on before a byte is read. One measurement at a time. Errors are RFC 9457 problems.
//! The same routes are served on a Unix socket in the state directory, for the node's own root.

mod client;
mod facts;
mod service;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::enrol::Inventory;
use crate::measure::{PORT_DEFAULT, Spec};

pub use client::{CallError, call_local, fetch_facts, request_measure};
pub use service::{Agent, AgentError, AgentOptions};

/// Largest request body in bytes.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;
/// Largest answer that the client reads, in bytes.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// Most connections served at a time.
pub const CONNECTIONS_MAX: usize = 16;
/// `type` of the problem when a measurement is already running.
pub const PROBLEM_BUSY: &str = "urn:watari:problem:agent-busy";
/// `type` of the problem when the body is not what it should be.
pub const PROBLEM_REQUEST: &str = "urn:watari:problem:agent-request";
/// `type` of the problem when the machine does not tell its facts.
pub const PROBLEM_FACTS: &str = "urn:watari:problem:agent-facts";
/// `type` of the problem when the measurement failed; `detail` says why.
pub const PROBLEM_MEASURE: &str = "urn:watari:problem:measure-failed";

/// What an agent tells about its node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The node's name as the gateway gave it.
    pub node: String,
    /// Version of the agent.
    pub version: String,
    /// The machine's own host name.
    pub hostname: String,
    /// What it is made of, read anew for each answer.
    pub inventory: Inventory,
    /// Seconds since the machine started.
    pub uptime_s: u64,
    /// Runnable tasks averaged over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Processes and threads on the machine.
    pub tasks: u64,
    /// Main memory available to new programs, in bytes.
    pub memory_available_bytes: u64,
    /// The lease at enrolment, RFC 3339; the gateway knows the present one.
    pub lease_expires: String,
}

/// Body of `POST /v1/measure`: measure from this node to `target`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasureRequest {
    /// Address of the responder.
    pub target: IpAddr,
    /// Its port.
    #[serde(default = "port_default")]
    pub port: u16,
    /// What to measure.
    #[serde(default)]
    pub spec: Spec,
}

fn port_default() -> u16 {
    PORT_DEFAULT
}

#[cfg(test)]
mod tests;
