//! BFD in the control protocol: sessions as they are wanted, and as they are.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::DropCount;
use crate::key::BfdSecret;

/// Most BFD sessions of one engine.
pub const BFD_SESSIONS_MAX: usize = 1024;
/// Shortest BFD interval, in microseconds.
pub const BFD_INTERVAL_MIN_US: u32 = 10_000;
/// Longest BFD interval, in microseconds.
pub const BFD_INTERVAL_MAX_US: u32 = 60_000_000;
/// Longest name of a BFD session, in bytes.
pub const BFD_NAME_BYTES_MAX: usize = 128;

/// The set of BFD sessions as it is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdSessionsConfig {
    /// Each name once, each (netns, device, local, remote, kind of hops) once.
    pub sessions: Vec<BfdConfig>,
}

/// A BFD session as it is wanted (RFC 5880, asynchronous mode). One that is taken out of the set says
/// AdminDown for a detection time, so that the neighbour does not take it for a dead path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdConfig {
    /// Chosen by the caller, unique, 1–128 bytes.
    pub name: String,
    /// Path of the network namespace to be in; the engine's own without one. It may come and go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Device that the packets must come in by and leave through. It may come and go: the session is
    /// down meanwhile. A link-local neighbour needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Our address; the kernel's choice without one. Same family as `remote`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// The neighbour's.
    pub remote: IpAddr,
    /// How far away it is.
    pub hops: BfdHops,
    /// Desired Min TX Interval in microseconds, [`BFD_INTERVAL_MIN_US`]..=[`BFD_INTERVAL_MAX_US`].
    pub desired_min_tx_us: u32,
    /// Required Min RX Interval in microseconds, same bounds.
    pub required_min_rx_us: u32,
    /// Detect Mult, 1–255: so many packets of ours lost in a row make the neighbour say down.
    pub detect_mult: u8,
    /// Wait for the neighbour's first packet (RFC 5880 §6.1).
    #[serde(default)]
    pub passive: bool,
    /// Hold the session in AdminDown.
    #[serde(default)]
    pub admin_down: bool,
    /// Of every packet, both ways.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authentication: Option<BfdAuthentication>,
}

/// How far away a BFD neighbour is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BfdHops {
    /// On the same link (RFC 5881): port 3784, what has a TTL other than 255 is dropped.
    Single,
    /// Behind routers (RFC 5883): port 4784.
    Multi {
        /// What has a smaller TTL or hop limit is dropped, 1–255: 254 for one router between, 1 for any
        /// number.
        ttl_min: u8,
    },
}

/// Authentication of a BFD session (RFC 5880 §6.7).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdAuthentication {
    /// How.
    pub kind: BfdAuthenticationKind,
    /// Auth Key ID: the same at both ends.
    pub key_id: u8,
    /// The same at both ends: 1–16 bytes for `simple`, 1–20 for the others.
    pub secret: BfdSecret,
}

/// Kinds of BFD authentication. MD5 (types 2 and 3) is not spoken: RFC 5880 §6.7 demands SHA1 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BfdAuthenticationKind {
    /// The secret in the clear (type 1).
    Simple,
    /// Type 4.
    KeyedSha1,
    /// Type 5: every packet has a greater sequence number than the one before.
    MeticulousKeyedSha1,
}

/// All BFD sessions as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdSessionsStatus {
    /// Ordered by name.
    pub sessions: Vec<BfdStatus>,
    /// Packets dropped since the engine started, by reason; zeroes left out.
    pub drops: Vec<DropCount>,
}

/// A BFD session as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdStatus {
    /// As configured, without `authentication`.
    pub config: BfdConfig,
    /// The kind of authentication in use.
    pub authentication: Option<BfdAuthenticationKind>,
    /// State of our end (bfd.SessionState).
    pub state: BfdState,
    /// Milliseconds since `state` changed.
    pub since_ms: u64,
    /// How often `state` changed since the session was set.
    pub changes: u64,
    /// Why it changed last (bfd.LocalDiag), such as `control_detection_time_expired`.
    pub diagnostic: String,
    /// Our discriminator.
    pub local_discriminator: u32,
    /// The neighbour's; 0 while it is not heard.
    pub remote_discriminator: u32,
    /// What the neighbour said of its end.
    pub remote_state: BfdState,
    /// Its diagnostic.
    pub remote_diagnostic: String,
    /// Its C bit: its sessions outlive its control plane (RFC 5882 §4.3).
    pub remote_control_plane_independent: bool,
    /// Agreed time between our packets in microseconds, before jitter.
    pub interval_us: u64,
    /// So long after the last packet of the neighbour the session goes down, in microseconds; 0 while
    /// it is not heard.
    pub detection_time_us: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets received.
    pub received: u64,
    /// What keeps it from sending (no such device, no such address), if anything does.
    pub error: Option<String>,
}

/// State of a BFD session (RFC 5880 §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BfdState {
    /// Held down by the operator.
    AdminDown,
    /// The neighbour is not heard.
    Down,
    /// The neighbour is heard, and does not hear us yet.
    Init,
    /// Packets cross in both directions.
    Up,
}
