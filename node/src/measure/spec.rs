//! What to measure: the tests, their length and shape, and the limits of both.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{
    RR_PAYLOAD_BYTES_MAX, STREAMS_MAX, TEST_MS_MAX, TEST_MS_MIN, TOTAL_MS_MAX, UDP_PAYLOAD_BYTES_MAX,
    UDP_PAYLOAD_BYTES_MIN,
};

/// One kind of test. "Reverse" means that the responder sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TestKind {
    /// TCP throughput, initiator to responder.
    Tcp,
    /// TCP throughput, responder to initiator.
    TcpReverse,
    /// UDP throughput, initiator to responder.
    Udp,
    /// UDP throughput, responder to initiator.
    UdpReverse,
    /// Request and answer in turn over one TCP connection.
    RrTcp,
    /// Request and answer in turn over UDP.
    RrUdp,
}

impl TestKind {
    /// Every kind, in the order in which they run.
    pub const ALL: [Self; 6] =
        [Self::Tcp, Self::TcpReverse, Self::Udp, Self::UdpReverse, Self::RrTcp, Self::RrUdp];

    /// True when its data travels over UDP.
    pub fn is_udp(self) -> bool {
        matches!(self, Self::Udp | Self::UdpReverse | Self::RrUdp)
    }

    /// The word for it on the command line and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::TcpReverse => "tcp-reverse",
            Self::Udp => "udp",
            Self::UdpReverse => "udp-reverse",
            Self::RrTcp => "rr-tcp",
            Self::RrUdp => "rr-udp",
        }
    }
}

impl fmt::Display for TestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for TestKind {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        Self::ALL.into_iter().find(|k| k.as_str() == text).ok_or_else(|| SpecError::Unknown(text.to_owned()))
    }
}

/// What one call of [`super::run`] does. The default is one second each of `tcp`, `udp`, `rr-tcp`
/// and `rr-udp`, four streams, UDP at 100 Mbit/s in packets of 1,200 bytes, requests of 1 byte over
/// TCP and of the smallest size over UDP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Spec {
    /// The tests, run one after the other in the order of [`TestKind::ALL`]; never empty.
    pub tests: Vec<TestKind>,
    /// Length of each test in milliseconds, [`TEST_MS_MIN`] to [`TEST_MS_MAX`]; the sum over all
    /// tests is at most [`TOTAL_MS_MAX`].
    pub test_ms: u32,
    /// Parallel TCP streams, 1 to [`STREAMS_MAX`].
    pub streams: u8,
    /// Paced rate of UDP payload in bit/s; `None` sends as fast as the socket takes it.
    pub udp_rate_bit_s: Option<u64>,
    /// UDP payload in bytes, [`UDP_PAYLOAD_BYTES_MIN`] to [`UDP_PAYLOAD_BYTES_MAX`].
    pub udp_payload_bytes: u16,
    /// Size of request and answer in bytes, 1 to [`RR_PAYLOAD_BYTES_MAX`]; over UDP at least the
    /// data header is sent.
    pub rr_payload_bytes: u16,
    /// Local address to measure from; `None` lets the kernel choose.
    pub source: Option<IpAddr>,
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            tests: vec![TestKind::Tcp, TestKind::Udp, TestKind::RrTcp, TestKind::RrUdp],
            test_ms: 1_000,
            streams: 4,
            udp_rate_bit_s: Some(100_000_000),
            udp_payload_bytes: 1_200,
            rr_payload_bytes: 1,
            source: None,
        }
    }
}

/// A specification outside the limits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No test is asked for.
    #[error("no test is asked for")]
    Empty,
    /// The word is no test.
    #[error("`{0}` is no test (tcp, tcp-reverse, udp, udp-reverse, rr-tcp, rr-udp)")]
    Unknown(String),
    /// A value is outside its limits.
    #[error("{field} is {value}, it must be {min} to {max}")]
    Limit {
        /// Name of the field.
        field: &'static str,
        /// What was asked for.
        value: u64,
        /// Smallest value allowed.
        min: u64,
        /// Largest value allowed.
        max: u64,
    },
}

impl Spec {
    /// The tests in running order, each once.
    pub fn ordered(&self) -> Vec<TestKind> {
        TestKind::ALL.into_iter().filter(|k| self.tests.contains(k)).collect()
    }

    /// Longest time that the whole measurement may take, in milliseconds: tests, set-up and drain.
    pub fn limit_ms(&self) -> u64 {
        let tests = self.ordered().len() as u64;
        tests * (u64::from(self.test_ms) + super::initiator::OVERHEAD_MS_MAX)
    }

    /// Checks every limit.
    ///
    /// # Errors
    /// The first value outside its limits.
    pub fn check(&self) -> Result<(), SpecError> {
        if self.tests.is_empty() {
            return Err(SpecError::Empty);
        }
        let total = u64::from(self.test_ms) * self.ordered().len() as u64;
        limit("test_ms", self.test_ms.into(), TEST_MS_MIN.into(), TEST_MS_MAX.into())?;
        limit("sum of test_ms", total, 0, TOTAL_MS_MAX.into())?;
        limit("streams", self.streams.into(), 1, STREAMS_MAX.into())?;
        limit(
            "udp_payload_bytes",
            self.udp_payload_bytes.into(),
            UDP_PAYLOAD_BYTES_MIN.into(),
            UDP_PAYLOAD_BYTES_MAX.into(),
        )?;
        limit("rr_payload_bytes", self.rr_payload_bytes.into(), 1, RR_PAYLOAD_BYTES_MAX.into())?;
        limit(
            "udp_rate_bit_s",
            self.udp_rate_bit_s.unwrap_or(UDP_RATE_BIT_S_MIN),
            UDP_RATE_BIT_S_MIN,
            UDP_RATE_BIT_S_MAX,
        )
    }
}

/// Slowest paced UDP rate in bit/s.
const UDP_RATE_BIT_S_MIN: u64 = 1_000;
/// Fastest paced UDP rate in bit/s.
const UDP_RATE_BIT_S_MAX: u64 = 1_000_000_000_000;

pub(super) fn limit(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), SpecError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(SpecError::Limit { field, value, min, max }) }
}
