//! What a TUN interface with a virtio-net header asks of user space, without any system call:
//! super-packets are split into packets on the way out, packets are put together to super-packets on
//! the way in, checksums are completed, verified or left to the kernel.
//!
//! ```text
//!  out:  virtio header + one packet of up to 64 KiB ─ split ─▶ packets of the path's MTU
//!  in:   packets in order of arrival ─ classify ─ coalesce ─▶ virtio header + one packet of up to 64 KiB
//! ```
//!
//! A packet may carry VXLAN ([`vxlan`]): then the packet inside is what is split and put together, and the outer header is
//! written before every packet that comes out.
//!
//! Splitting what was put together gives back the same packets, byte for byte; the one exception are
//! identification fields of IPv4 packets that must not be fragmented, which mean nothing
//! (RFC 6864 §4.1). Nothing here allocates, and no input makes it panic.

pub(crate) mod checksum;
pub(crate) mod classify;
pub(crate) mod coalesce;
pub(crate) mod ecn;
#[cfg(test)]
pub(super) mod properties;
pub(crate) mod split;
pub(crate) mod virtio;
pub(crate) mod vxlan;

/// Largest IP packet that either family can describe here, in bytes.
pub(crate) const IP_PACKET_MAX: usize = 65_535;

/// Octets of an IPv6 header (RFC 8200 §3).
const IPV6_HEADER: usize = 40;
/// Octets of an IPv4 header without options (RFC 791 §3.1).
const IPV4_HEADER: usize = 20;
/// Octets of a TCP header without options (RFC 9293 §3.1).
const TCP_HEADER: usize = 20;
/// Octets of a UDP header (RFC 768).
const UDP_HEADER: usize = 8;
/// Protocol numbers (RFC 9293, RFC 768).
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Where the checksum is inside a transport header.
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;
/// TCP flags, octet 13 (RFC 9293 §3.1).
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// A big-endian 16-bit field; the caller knows that it is there.
fn get16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn get32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// A length that was checked to be at most [`IP_PACKET_MAX`], as its field has it.
fn field(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}
