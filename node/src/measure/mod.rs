//! Measurement between two places: throughput, loss, transactions per second, latency.
//!
//! ```text
//!  initiator                                      responder ([`Responder`])
//!     │── TCP: magic, length, JSON Hello::Session ──────────▶│  one session per peer, named limits
//!     │◀───────────── Reply::Accepted{session, udp_port} ────│
//!     │══ TCP streams (Hello::Stream{session}) or UDP ══════▶│  data, both ways
//!     │◀──────────────────── Reply::Finished{counts} ────────│
//! ```
//! Everything is blocking, on std sockets and threads: a gateway measures from inside a tenant by
//! entering the tenant's network namespace on the calling thread; the threads made here inherit it.
//! Rates are what the *receiver* counted, in payload bits per second. No clock is compared across
//! machines: only round trips are timed, and jitter is that of RFC 3550 §6.4.1, which needs none.

mod report;
mod spec;

pub use report::{Report, RequestResponse, TcpThroughput, UdpThroughput};
pub use spec::{Spec, SpecError, TestKind};

/// Default TCP port of the responder.
pub const PORT_DEFAULT: u16 = 4792;
/// Longest single test in milliseconds.
pub const TEST_MS_MAX: u32 = 60_000;
/// Shortest single test in milliseconds.
pub const TEST_MS_MIN: u32 = 100;
/// Longest sum of all tests of one specification in milliseconds.
pub const TOTAL_MS_MAX: u32 = 180_000;
/// Most parallel TCP streams.
pub const STREAMS_MAX: u8 = 16;
/// Smallest UDP payload in bytes: the data header. With IPv4 over Ethernet this is a 64-byte frame.
pub const UDP_PAYLOAD_BYTES_MIN: u16 = 18;
/// Largest UDP payload in bytes.
pub const UDP_PAYLOAD_BYTES_MAX: u16 = 8_900;
/// Largest request and answer in bytes.
pub const RR_PAYLOAD_BYTES_MAX: u16 = 8_900;
/// Most sessions that one responder serves at a time, over all peers.
pub const SESSIONS_MAX: usize = 16;
