//! The text: a request read line by line, an answer written. Pure, and bounded before anything is kept: a line has
//! [`LINE_BYTES_MAX`] octets, a request [`LINES_MAX`] lines.

use std::fmt::Write as _;
use std::net::SocketAddr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::key::{PresharedKey, PrivateKey, PublicKey};
use crate::protocol::{ALLOWED_IPS_MAX, DeviceConfig, DeviceStatus, PEERS_MAX};

/// Longest line, in octets: the longest key, `=`, and the longest value are half of it.
pub(super) const LINE_BYTES_MAX: usize = 256;
/// Most lines of a request: every peer with everything that it may have, and all allowed-ips.
pub(super) const LINES_MAX: usize = PEERS_MAX * 8 + ALLOWED_IPS_MAX + 16;

/// Error numbers of Linux, as answers carry them (negative).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl Errno {
    /// What is asked for is the documents' to say.
    pub(crate) const PERM: Self = Self(libc::EPERM);
    pub(crate) const IO: Self = Self(libc::EIO);
    /// There is no such device any more.
    pub(crate) const NODEV: Self = Self(libc::ENODEV);
    pub(crate) const INVAL: Self = Self(libc::EINVAL);
    /// A line that is none of the protocol's.
    pub(crate) const PROTO: Self = Self(libc::EPROTO);
    pub(crate) const ADDRINUSE: Self = Self(libc::EADDRINUSE);
}

/// What is asked.
#[derive(Debug, PartialEq)]
pub(super) enum Operation {
    Get,
    Set(Vec<Change>),
}

/// One line of a set operation. From [`Change::Peer`] on the lines are about that peer.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// `None`: the device has no key from here on.
    PrivateKey(Option<PrivateKey>),
    ListenPort(u16),
    /// 0: none.
    Mark(u32),
    ReplacePeers,
    Peer(PublicKey),
    Remove,
    /// Nothing, if there is no such peer.
    UpdateOnly,
    PresharedKey(Option<PresharedKey>),
    Endpoint(SocketAddr),
    Keepalive(u16),
    ReplaceAllowedIps,
    AllowedIp(IpNet),
    /// Taken away again (`allowed_ip=-…`).
    RemoveAllowedIp(IpNet),
}

/// Reads a request as it comes, line by line.
#[derive(Debug, Default)]
pub(super) struct Reader {
    is_set: Option<bool>,
    changes: Vec<Change>,
    in_peer: bool,
    lines: usize,
    failed: Option<Errno>,
}

impl Reader {
    /// Takes a line without its end; `Some` with the empty one, which ends the request. What is wrong is said then.
    pub(super) fn line(&mut self, line: &[u8]) -> Option<Result<Operation, Errno>> {
        if line.is_empty() {
            return Some(std::mem::take(self).end());
        }
        self.lines += 1;
        if self.failed.is_none()
            && let Err(errno) = self.take(line)
        {
            self.failed = Some(errno);
        }
        None
    }

    fn take(&mut self, line: &[u8]) -> Result<(), Errno> {
        if line.len() > LINE_BYTES_MAX || self.lines > LINES_MAX {
            return Err(Errno::INVAL);
        }
        let line = std::str::from_utf8(line).map_err(|_| Errno::PROTO)?;
        let (key, value) = line.split_once('=').ok_or(Errno::PROTO)?;
        match (self.is_set, key, value) {
            (None, "get", "1") => self.is_set = Some(false),
            (None, "set", "1") => self.is_set = Some(true),
            (Some(true), ..) => {
                if let Some(change) = change(key, value, self.in_peer)? {
                    self.in_peer |= matches!(change, Change::Peer(_));
                    self.changes.push(change);
                }
            }
            _ => return Err(Errno::PROTO),
        }
        Ok(())
    }

    fn end(self) -> Result<Operation, Errno> {
        if let Some(errno) = self.failed {
            return Err(errno);
        }
        match self.is_set {
            Some(true) => Ok(Operation::Set(self.changes)),
            Some(false) => Ok(Operation::Get),
            None => Err(Errno::PROTO),
        }
    }
}

/// What a line of a set operation says; nothing, if it only confirms what is so anyway.
fn change(key: &str, value: &str, in_peer: bool) -> Result<Option<Change>, Errno> {
    let number = || value.parse::<u16>().map_err(|_| Errno::INVAL);
    let must_be_true = |change| if value == "true" { Ok(change) } else { Err(Errno::INVAL) };
    Ok(Some(match (key, in_peer) {
        ("private_key", false) => {
            Change::PrivateKey(secret(value)?.map(|bytes| PrivateKey::from_bytes(*bytes)))
        }
        ("listen_port", false) => Change::ListenPort(number()?),
        ("fwmark", false) => Change::Mark(mark(value)?),
        ("replace_peers", false) => must_be_true(Change::ReplacePeers)?,
        ("public_key", _) => Change::Peer(PublicKey::from_bytes(*secret(value)?.ok_or(Errno::INVAL)?)),
        ("remove", true) => must_be_true(Change::Remove)?,
        ("update_only", true) => must_be_true(Change::UpdateOnly)?,
        ("preshared_key", true) => {
            Change::PresharedKey(secret(value)?.map(|bytes| PresharedKey::from_bytes(*bytes)))
        }
        ("endpoint", true) => Change::Endpoint(value.parse().map_err(|_| Errno::INVAL)?),
        ("persistent_keepalive_interval", true) => Change::Keepalive(number()?),
        ("replace_allowed_ips", true) => must_be_true(Change::ReplaceAllowedIps)?,
        ("allowed_ip", true) => allowed_ip(value)?,
        ("protocol_version", true) if value == "1" => return Ok(None),
        _ => return Err(Errno::INVAL),
    }))
}

fn allowed_ip(value: &str) -> Result<Change, Errno> {
    let (text, removes) = match value.strip_prefix('-') {
        Some(text) => (text, true),
        None => (value.strip_prefix('+').unwrap_or(value), false),
    };
    let prefix: IpNet = text.parse().map_err(|_| Errno::INVAL)?;
    let prefix = prefix.trunc();
    Ok(if removes { Change::RemoveAllowedIp(prefix) } else { Change::AllowedIp(prefix) })
}

fn mark(value: &str) -> Result<u32, Errno> {
    let parsed = match value.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None if value.is_empty() => return Ok(0),
        None => value.parse(),
    };
    parsed.map_err(|_| Errno::INVAL)
}

/// 32 octets in 64 hexadecimal digits; `None`: all are zero, which is no key.
fn secret(value: &str) -> Result<Option<Zeroizing<[u8; 32]>>, Errno> {
    let digits = value.as_bytes();
    let mut bytes = Zeroizing::new([0; 32]);
    if digits.len() != 64 {
        return Err(Errno::INVAL);
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Ok(Some(bytes).filter(|bytes| **bytes != [0; 32]))
}

fn nibble(digit: u8) -> Result<u8, Errno> {
    let value = char::from(digit).to_digit(16).ok_or(Errno::INVAL)?;
    // Below 16.
    Ok(value as u8)
}

fn hex(bytes: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// A device as it is shown.
pub(crate) struct Shown {
    pub(crate) config: DeviceConfig,
    pub(crate) status: DeviceStatus,
    /// It has a private key that somebody gave it.
    pub(crate) has_key: bool,
    /// Mark of its outer packets; 0: none.
    pub(crate) mark: u32,
}

/// Octets of one peer's lines without its allowed-ips, and of one allowed-ip: text that outgrows its memory would leave keys.
const PEER_BYTES: usize = 640;
const ALLOWED_IP_BYTES: usize = 64;

/// The answer to a get operation. `now_ns`: nanoseconds since the Unix epoch.
pub(super) fn answer(shown: &Shown, now_ns: u128) -> Zeroizing<String> {
    let Shown { config, status, .. } = shown;
    let prefixes: usize = status.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    let room = 256 + status.peers.len() * PEER_BYTES + prefixes * ALLOWED_IP_BYTES;
    let mut text = Zeroizing::new(String::with_capacity(room));
    // Writing to a string does not fail.
    if shown.has_key {
        let _ = writeln!(text, "private_key={}", *hex(&config.private_key.to_secret().to_bytes()));
    }
    let _ = writeln!(text, "listen_port={}", status.bound_port);
    if shown.mark != 0 {
        let _ = writeln!(text, "fwmark={}", shown.mark);
    }
    for peer in &status.peers {
        let _ = writeln!(text, "public_key={}", *hex(peer.public_key.as_bytes()));
        let configured = config.peers.iter().find(|other| other.public_key == peer.public_key);
        if let Some(key) = configured.and_then(|peer| peer.preshared_key.as_ref()) {
            let _ = writeln!(text, "preshared_key={}", *hex(&key.to_bytes()));
        }
        let _ = writeln!(text, "protocol_version=1");
        if let Some(endpoint) = peer.endpoint {
            let _ = writeln!(text, "endpoint={endpoint}");
        }
        let age_ns = peer.last_handshake_age_ms.map(|age| u128::from(age) * 1_000_000);
        let at_ns = age_ns.map_or(0, |age| now_ns.saturating_sub(age));
        let _ = writeln!(text, "last_handshake_time_sec={}", at_ns / 1_000_000_000);
        let _ = writeln!(text, "last_handshake_time_nsec={}", at_ns % 1_000_000_000);
        let _ = writeln!(text, "tx_bytes={}\nrx_bytes={}", peer.tx_bytes, peer.rx_bytes);
        let _ = writeln!(text, "persistent_keepalive_interval={}", peer.keepalive_s);
        for prefix in &peer.allowed_ips {
            let _ = writeln!(text, "allowed_ip={prefix}");
        }
    }
    text.push_str("errno=0\n\n");
    text
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
