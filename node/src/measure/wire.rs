//! The control protocol: frames on a TCP connection.
//!
//! ```text
//!  0      1      2      3        4        6
//!  'W'    'T'    'M'    version  length   JSON, `length` bytes (big endian, 1 to 1,024)
//! ```
//! The version is read before anything else, so that a later one can change all that follows it.
//! A frame has to arrive whole before its deadline: a peer that drips bytes is hung up on.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::spec::TestKind;

/// Default TCP port of the responder; UDP tests use the same number when it is free.
pub const PORT_DEFAULT: u16 = 4792;
/// Version of the control protocol.
pub(super) const VERSION: u8 = 1;
/// Longest JSON of one frame in bytes.
pub(super) const FRAME_BYTES_MAX: usize = 1024;
/// How long a peer may take for its first frame.
pub(super) const HELLO_MS_MAX: u64 = 5_000;

const MAGIC: [u8; 3] = *b"WTM";
const PREFIX_BYTES: usize = 6;

/// What the initiator says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Request {
    /// First frame of the control connection.
    Session(SessionRequest),
    /// First frame of a data connection.
    Stream {
        /// Id of the session that it belongs to.
        session: u64,
    },
    /// The responder may send now.
    Go {},
    /// The initiator has sent all of its UDP packets.
    Sent {
        /// How many the socket took.
        packets: u64,
    },
}

/// One test, as the responder must know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SessionRequest {
    pub(super) test: TestKind,
    pub(super) test_ms: u32,
    pub(super) streams: u8,
    pub(super) payload_bytes: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rate_bit_s: Option<u64>,
}

/// What the responder says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Answer {
    /// The session or stream is taken.
    Accepted {
        /// Random id of the session.
        session: u64,
        /// Where UDP data goes to, in tests that have any.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        udp_port: Option<u16>,
    },
    /// It is not.
    Refused {
        /// Why, for programs.
        reason: Refusal,
        /// Why, for people.
        detail: String,
    },
    /// The responder has sent all of its UDP packets.
    Sent {
        /// How many the socket took.
        packets: u64,
    },
    /// The test is over; what the responder counted.
    Finished(Counts),
}

/// Why a responder refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Another session of this peer runs, or too many in all.
    Busy,
    /// A value is outside the responder's limits.
    Limit,
    /// The frame cannot be read.
    Malformed,
    /// The responder speaks another version.
    Version,
    /// No such session.
    Unknown,
    /// The responder's system refused.
    System,
}

/// What one end counted in a test. Fields that a test does not use stay 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Counts {
    /// Payload received.
    pub(super) bytes: u64,
    /// From the first byte or packet received to the last.
    pub(super) took_us: u64,
    /// TCP segments sent again by this end.
    pub(super) retransmits: u64,
    /// Different UDP packets received.
    pub(super) packets: u64,
    /// Of these, after one that was sent later.
    pub(super) reordered: u64,
    /// Received more than once.
    pub(super) duplicates: u64,
    /// RFC 3550 §6.4.1.
    pub(super) jitter_us: f64,
}

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the connection was closed")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it does not begin with the protocol's magic")]
    Magic,
    #[error("protocol version {0}, not {VERSION}")]
    Version(u8),
    #[error("a frame of {0} bytes, the limit is 1 to {FRAME_BYTES_MAX}")]
    Length(usize),
    #[error("a frame that is no message: {0}")]
    Json(#[from] serde_json::Error),
}

impl FrameError {
    /// What to tell a peer that sent this; `None` when nobody is listening.
    pub(super) fn refusal(&self) -> Option<Answer> {
        let reason = match self {
            Self::Closed | Self::Io(_) => return None,
            Self::Version(_) => Refusal::Version,
            Self::Magic | Self::Length(_) | Self::Json(_) => Refusal::Malformed,
        };
        Some(Answer::Refused { reason, detail: self.to_string() })
    }
}

/// Reads one frame; all of it must be there at `until`.
pub(super) fn read_frame<T: DeserializeOwned>(stream: &TcpStream, until: Instant) -> Result<T, FrameError> {
    let mut prefix = [0; PREFIX_BYTES];
    read_exact_until(stream, &mut prefix, until)?;
    if prefix[..3] != MAGIC {
        return Err(FrameError::Magic);
    }
    if prefix[3] != VERSION {
        return Err(FrameError::Version(prefix[3]));
    }
    let length = usize::from(u16::from_be_bytes([prefix[4], prefix[5]]));
    if length == 0 || length > FRAME_BYTES_MAX {
        return Err(FrameError::Length(length));
    }
    let mut body = [0; FRAME_BYTES_MAX];
    read_exact_until(stream, &mut body[..length], until)?;
    Ok(serde_json::from_slice(&body[..length])?)
}

/// Fills `buffer` or fails when `until` has come.
fn read_exact_until(mut stream: &TcpStream, buffer: &mut [u8], until: Instant) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < buffer.len() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::from(io::ErrorKind::TimedOut).into());
        }
        stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        match stream.read(&mut buffer[filled..]) {
            Ok(0) => return Err(FrameError::Closed),
            Ok(count) => filled += count,
            Err(error) if is_retry(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// True for the errors after which a blocking call with a timeout is simply made again.
pub(super) fn is_retry(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

/// Writes one frame in one call.
pub(super) fn write_frame<T: Serialize>(mut stream: &TcpStream, message: &T) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    debug_assert!(body.len() <= FRAME_BYTES_MAX, "messages are made of bounded fields");
    let length = u16::try_from(body.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut frame = Vec::with_capacity(PREFIX_BYTES + body.len());
    frame.extend_from_slice(&MAGIC);
    frame.push(VERSION);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&body);
    stream.write_all(&frame)
}
