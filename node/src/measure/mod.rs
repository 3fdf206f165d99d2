//! Measurement between two places: throughput, loss, transactions per second, latency.
//!
//! ```text
//!  initiator ([`run`])                                     responder ([`Responder`])
//!     │── TCP: magic, length, JSON Hello::Session ──────────▶│  one session per peer, named limits
//!     │◀───────────── Reply::Accepted{session, udp_port} ────│
//!     │══ TCP streams (Hello::Stream{session}) or UDP ══════▶│  data, both ways
//!     │◀──────────────────── Reply::Finished{counts} ────────│
//! ```
//! Everything is blocking, on std sockets and threads: a gateway measures from inside a tenant by
//! entering the tenant's network namespace on the calling thread; the threads made here inherit it.
//! Rates are what the *receiver* counted, in payload bits per second. No clock is compared across
//! machines: only round trips are timed, and jitter is that of RFC 3550 §6.4.1, which needs none.

mod histogram;
mod initiator;
mod report;
mod responder;
mod rr;
mod sequence;
mod spec;
mod stream;
mod table;
mod udp;
mod wire;

pub use histogram::Histogram;
pub use initiator::run;
pub use report::{Report, RequestResponse, TcpThroughput, UdpThroughput};
pub(crate) use responder::listen;
pub use responder::{Responder, ResponderOptions};
pub use sequence::SequenceTracker;
pub use spec::{Spec, SpecError, TestKind};
pub use table::render;
pub use wire::{PORT_DEFAULT, Refusal};

use std::net::SocketAddr;

/// Longest single test in milliseconds.
pub const TEST_MS_MAX: u32 = 60_000;
/// Shortest single test in milliseconds.
pub const TEST_MS_MIN: u32 = 100;
/// Longest sum of all tests of one specification in milliseconds.
pub const TOTAL_MS_MAX: u32 = 180_000;
/// Most parallel TCP streams.
pub const STREAMS_MAX: u8 = 16;
/// Smallest UDP payload in bytes: the data header. With IPv4 over Ethernet this is a 64-byte frame.
pub const UDP_PAYLOAD_BYTES_MIN: u16 = udp::HEADER_BYTES as u16;
/// Largest UDP payload in bytes.
pub const UDP_PAYLOAD_BYTES_MAX: u16 = 8_900;
/// Largest request and answer in bytes.
pub const RR_PAYLOAD_BYTES_MAX: u16 = 8_900;
/// Most sessions that one responder serves at a time, over all peers.
pub const SESSIONS_MAX: usize = 16;

/// Why a measurement did not come to a result.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The specification is outside the limits.
    #[error("the measurement cannot be done: {0}")]
    Spec(#[from] SpecError),
    /// No connection to the responder.
    #[error("no measurement responder at {target}: {source}")]
    Connect {
        /// Where it should be.
        target: SocketAddr,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
    /// The responder serves another session from this address, or too many in all.
    #[error("the responder at {target} is busy: {detail}")]
    Busy {
        /// The responder.
        target: SocketAddr,
        /// Its words.
        detail: String,
    },
    /// The responder refused for another reason.
    #[error("the responder at {target} refused ({reason:?}): {detail}")]
    Refused {
        /// The responder.
        target: SocketAddr,
        /// Its reason.
        reason: Refusal,
        /// Its words.
        detail: String,
    },
    /// What arrived is not this protocol.
    #[error("{target} does not speak the measurement protocol: {detail}")]
    Protocol {
        /// The other end.
        target: SocketAddr,
        /// What was wrong.
        detail: String,
    },
    /// No UDP packet made it to the responder and back.
    #[error("UDP to {target} does not come back")]
    UdpSilent {
        /// Where the packets went.
        target: SocketAddr,
    },
    /// The connection broke in the middle.
    #[error("the {test} test with {target} broke off: {source}")]
    Io {
        /// The responder.
        target: SocketAddr,
        /// Which test.
        test: TestKind,
        /// What the kernel said.
        #[source]
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests;
