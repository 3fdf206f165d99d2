//! Enrolment: how a fresh machine becomes a node.
//!
//! ```text
//!   node                                             gateway, enrolment listener (TLS, pinned)
//!    │  makes an X25519 key; it never leaves              │
//!    │── POST /enrol  EnrolRequest{token, public_key} ───▶│  token used up, peer and addresses set
//!    │◀── 200 EnrolReply{addresses, wireguard, agent} ────│
//!    │◀── 4xx application/problem+json  Problem ──────────│
//! ```
//! The token is good once. The same request with the same public key may be repeated after a lost
//! answer: the listener should give the same reply then. Problem details follow RFC 9457, times
//! RFC 3339, keys are the standard base64 of 32 bytes (as `wg` prints them).

mod client;
mod pin;
mod url;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use client::{ClientError, ClientOptions, enrol};
pub use pin::{Pin, PinError, PinnedVerifier};
pub use url::{EnrolUrl, UrlError};
pub use watari_link::PublicKey;

/// The one route of the enrolment listener.
pub const ENROL_PATH: &str = "/enrol";
/// Largest request body that the listener should read, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest reply body that the client reads, in bytes.
pub const REPLY_BYTES_MAX: usize = 256 * 1024;
/// Most prefixes in one reply.
pub const PREFIXES_MAX: usize = 1024;
/// Most controllers in one reply.
pub const CONTROLLERS_MAX: usize = 64;
/// Most GPUs that an inventory lists.
pub const GPUS_MAX: usize = 64;
/// Longest host name, in bytes (RFC 1035 §2.3.4).
pub const HOSTNAME_BYTES_MAX: usize = 253;
/// Longest token, in bytes.
pub const TOKEN_BYTES_MAX: usize = 512;
/// Smallest tunnel MTU: what IPv6 needs (RFC 8200 §5).
pub const MTU_MIN: u16 = 1280;
/// Largest tunnel MTU that is accepted.
pub const MTU_MAX: u16 = 9216;
/// Default port of the node's agent on its overlay addresses.
pub const AGENT_PORT_DEFAULT: u16 = 4791;

/// `type` of the problem when the token is unknown, used or expired; final, no retry helps.
pub const PROBLEM_TOKEN: &str = "urn:watari:problem:enrol-token";
/// `type` of the problem when the request itself is wrong.
pub const PROBLEM_REQUEST: &str = "urn:watari:problem:enrol-request";
/// `type` of the problem when the gateway cannot serve now; a later attempt may succeed.
pub const PROBLEM_UNAVAILABLE: &str = "urn:watari:problem:enrol-unavailable";

/// What kind of machine a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// It has at least one GPU that may be used.
    Gpu,
    /// Any other machine.
    Cpu,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gpu => "gpu",
            Self::Cpu => "cpu",
        })
    }
}

/// One GPU of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// Product name, or `vendor:device` in hexadecimal when no driver tells one.
    pub model: String,
    /// PCI address, as the kernel writes it (`0000:17:00.0`).
    pub pci: String,
    /// Memory in bytes, when the driver tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
}

/// What a node is made of, as its kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// Logical processors online.
    pub cpus: u32,
    /// Main memory in bytes.
    pub memory_bytes: u64,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Name of the operating system (`PRETTY_NAME` of os-release), empty when unknown.
    pub os: String,
    /// GPUs found on the PCI bus; empty is normal.
    #[serde(default)]
    pub gpus: Vec<Gpu>,
}

/// What a node sends to become one. `Debug` does not show the token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The one-shot token of the join command.
    pub token: String,
    /// The node's WireGuard public key.
    pub public_key: PublicKey,
    /// The node's own host name.
    pub hostname: String,
    /// What the node says it is.
    pub kind: NodeKind,
    /// What it is made of.
    pub inventory: Inventory,
}

impl fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnrolRequest")
            .field("token", &"(secret)")
            .field("public_key", &self.public_key)
            .field("hostname", &self.hostname)
            .field("kind", &self.kind)
            .field("inventory", &self.inventory)
            .finish()
    }
}

impl EnrolRequest {
    /// Checks every limit that the types do not hold by themselves.
    ///
    /// # Errors
    /// All faults at once, each with the JSON path of its field.
    pub fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut faults = Vec::new();
        if self.token.is_empty() || self.token.len() > TOKEN_BYTES_MAX {
            faults.push(FieldError::new("token", format!("must have 1 to {TOKEN_BYTES_MAX} bytes")));
        }
        if self.hostname.is_empty()
            || self.hostname.len() > HOSTNAME_BYTES_MAX
            || self.hostname.chars().any(char::is_control)
        {
            faults.push(FieldError::new(
                "hostname",
                format!("must have 1 to {HOSTNAME_BYTES_MAX} printable bytes"),
            ));
        }
        if self.inventory.gpus.len() > GPUS_MAX {
            faults.push(FieldError::new("inventory.gpus", format!("must list at most {GPUS_MAX}")));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// The gateway's WireGuard end, as the node must configure it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireguardParameters {
    /// The gateway's public key.
    pub public_key: PublicKey,
    /// Where the gateway listens, on its public side.
    pub endpoint: SocketAddr,
    /// Persistent keepalive in seconds; 0 is off.
    pub keepalive_s: u16,
    /// What the gateway may send to the node as source addresses.
    pub allowed_ips: Vec<IpNet>,
}

/// How the node's agent is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentParameters {
    /// TCP port on the node's overlay addresses.
    pub port: u16,
    /// The gateways' probe addresses: only these may talk to the agent.
    pub controllers: Vec<IpAddr>,
}

/// What the gateway gives a node that it has accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolReply {
    /// The node's name as the operator's object has it.
    pub node: String,
    /// The node's overlay addresses: one /32 and one /128 (at least one of them).
    pub addresses: Vec<IpNet>,
    /// MTU of the tunnel device in bytes.
    pub mtu: u16,
    /// Routes to send into the tunnel.
    pub prefixes: Vec<IpNet>,
    /// The gateway's WireGuard end.
    pub wireguard: WireguardParameters,
    /// Until when the lease runs as of now, RFC 3339 in UTC.
    pub lease_expires: String,
    /// How the agent is to be run.
    pub agent: AgentParameters,
}

impl EnrolReply {
    /// Checks every limit that the types do not hold by themselves.
    ///
    /// # Errors
    /// All faults at once, each with the JSON path of its field.
    pub fn check(&self) -> Result<(), Vec<FieldError>> {
        let mut faults = Vec::new();
        check_addresses(&self.addresses, &mut faults);
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu) {
            faults.push(FieldError::new("mtu", format!("{} is outside {MTU_MIN}..={MTU_MAX}", self.mtu)));
        }
        if self.prefixes.len() > PREFIXES_MAX {
            faults.push(FieldError::new("prefixes", format!("more than {PREFIXES_MAX}")));
        }
        if self.wireguard.allowed_ips.len() > PREFIXES_MAX {
            faults.push(FieldError::new("wireguard.allowed_ips", format!("more than {PREFIXES_MAX}")));
        }
        if self.wireguard.endpoint.port() == 0 || self.wireguard.endpoint.ip().is_unspecified() {
            faults.push(FieldError::new("wireguard.endpoint", "is not an address to send to"));
        }
        if self.agent.port == 0 {
            faults.push(FieldError::new("agent.port", "must not be 0"));
        }
        if self.agent.controllers.len() > CONTROLLERS_MAX {
            faults.push(FieldError::new("agent.controllers", format!("more than {CONTROLLERS_MAX}")));
        }
        if self.lease_expires.parse::<jiff::Timestamp>().is_err() {
            faults.push(FieldError::new("lease_expires", "is not an RFC 3339 time"));
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }
}

/// Adds a fault unless there is at most one host address per family and at least one in all.
fn check_addresses(addresses: &[IpNet], faults: &mut Vec<FieldError>) {
    let v4 = addresses.iter().filter(|a| a.addr().is_ipv4()).count();
    let v6 = addresses.len() - v4;
    if v4 > 1 || v6 > 1 || addresses.is_empty() {
        faults.push(FieldError::new("addresses", "must be one /32, one /128 or both"));
    }
    for (index, address) in addresses.iter().enumerate() {
        if address.prefix_len() != address.max_prefix_len() {
            faults.push(FieldError::new(
                format!("addresses[{index}]"),
                format!("{address} is not a host address"),
            ));
        }
    }
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldError {
    /// JSON path of the field, e.g. `inventory.gpus`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl FieldError {
    /// A fault of the field at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Problem details (RFC 9457), served as `application/problem+json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Names the kind of problem; one of the `PROBLEM_…` constants, or `about:blank`.
    #[serde(rename = "type", default = "about_blank")]
    pub kind: String,
    /// One short sentence, the same for every problem of this kind.
    #[serde(default)]
    pub title: String,
    /// The HTTP status.
    #[serde(default)]
    pub status: u16,
    /// What happened this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The wrong fields, when the request is at fault.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

fn about_blank() -> String {
    "about:blank".to_owned()
}

impl Problem {
    /// A problem of one of the kinds above.
    pub fn new(kind: &str, status: u16, title: &str) -> Self {
        Self { kind: kind.to_owned(), title: title.to_owned(), status, detail: None, errors: Vec::new() }
    }

    /// The same with what happened this time.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.title.is_empty() { "refused" } else { &self.title })?;
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        for error in &self.errors {
            write!(f, "; {error}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
