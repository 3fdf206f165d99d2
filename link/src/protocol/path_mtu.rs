//! What is said of paths whose MTU is measured.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// UDP port of padded probes when nothing else is said.
pub const PATH_MTU_PORT_DEFAULT: u16 = 4792;
/// Smallest size tried over IPv4, in bytes (RFC 1122 §3.3.2).
pub const PATH_MTU_MIN: u16 = 576;

/// The set of paths whose MTU is measured, as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtusConfig {
    /// UDP port of the padded probes, both source and destination. Both ends of a path use the same one.
    #[serde(default = "path_mtu_port_default")]
    pub port: u16,
    /// Each name once, each (device, local, remote) once.
    pub paths: Vec<PathMtuConfig>,
}

fn path_mtu_port_default() -> u16 {
    PATH_MTU_PORT_DEFAULT
}

impl Default for PathMtusConfig {
    fn default() -> Self {
        Self { port: PATH_MTU_PORT_DEFAULT, paths: Vec::new() }
    }
}

/// A path whose MTU is measured by padded probes (RFC 8899), from our address to one of the far side through one device. Each
/// side measures its own direction; a responder answers configured remotes only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtuConfig {
    /// Chosen by the caller, unique, 1–128 bytes.
    pub name: String,
    /// Our address (the VTEP address). Same family as `remote`.
    pub local: IpAddr,
    /// The far side's.
    pub remote: IpAddr,
    /// Device the probes are bound to. It may come and go.
    pub device: String,
    /// Largest IP packet tried, bytes: [`PATH_MTU_MIN`]..=[`MTU_MAX`](super::MTU_MAX), over IPv6 [`MTU_MIN`](super::MTU_MIN) at least.
    pub max: u16,
}

/// All paths whose MTU is measured, as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtusStatus {
    /// UDP port in use.
    pub port: u16,
    /// Ordered by name.
    pub paths: Vec<PathMtuStatus>,
}

/// A path whose MTU is measured, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathMtuStatus {
    /// As configured.
    pub config: PathMtuConfig,
    /// Where the search is.
    pub phase: PathMtuPhase,
    /// The largest IP packet that crosses from here to the far side, in bytes; absent before it was found.
    pub mtu: Option<u16>,
    /// The same from the far side to here, as it says; absent before it has said so.
    pub far_mtu: Option<u16>,
    /// The smallest size that was found not to cross, in bytes; absent if the largest one tried does.
    pub breaks_at: Option<u16>,
    /// Milliseconds since `mtu` changed.
    pub since_ms: u64,
    /// How often `mtu` changed since the path was set.
    pub changes: u64,
    /// How often the size in use no longer crossed while small probes did.
    pub black_holes: u64,
    /// Probes sent, padded and not.
    pub sent: u64,
    /// Requests of the far side answered.
    pub answered: u64,
    /// What keeps it from sending (no such device, no such address), if anything does.
    pub error: Option<String>,
}

/// Where the search for a path's MTU is (RFC 8899 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PathMtuPhase {
    /// No answer comes: the path is dead, or the far side does not know these probes. `mtu` is the last one found.
    Silent,
    /// Whether the base size crosses.
    Base,
    /// What is the largest that crosses.
    Search,
    /// It is known, and confirmed all the time.
    Complete,
    /// Small probes cross, but not even 576 bytes (1280 over IPv6) do.
    Error,
}
