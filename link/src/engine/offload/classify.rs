//! What an arriving packet is, as far as putting packets together is concerned. This is the part that
//! costs (every checksum is verified), and it looks at one packet only: threads do it side by side.

use super::checksum::{self, Sum};
use super::{
    CWR, FIN, IPV4_HEADER, IPV6_HEADER, PSH, TCP, TCP_HEADER, UDP, UDP_CHECKSUM, UDP_HEADER, field, get16,
};

/// TCP flag ACK (RFC 9293 §3.1).
const ACK: u8 = 0x10;
/// "Don't fragment" among the flags and fragment offset of IPv4.
pub(super) const DONT_FRAGMENT: u16 = 0x4000;

/// A packet as the one who puts packets together sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Class {
    /// Which flow, of those whose packets must stay in order; 0: none that is known. Two flows may share
    /// a number; the packets themselves tell them apart.
    pub(super) flow: u32,
    /// Octets before the IP header that counts: of an outer header of VXLAN, else 0.
    pub(super) outer: u16,
    /// Octets of all headers; 0 if this packet is not to be put together with others.
    pub(super) headers: u16,
    /// Begin of the transport header.
    pub(super) transport: u16,
    pub(super) udp: bool,
    /// Nothing may follow in the same super-packet.
    pub(super) last: bool,
    /// Its checksums were verified.
    pub(super) verified: bool,
}

impl Class {
    /// True if it is a datagram of UDP.
    pub(crate) fn is_udp(&self) -> bool {
        self.udp
    }

    /// True if what counts is a packet inside VXLAN.
    pub(crate) fn is_inside(&self) -> bool {
        self.outer > 0
    }
}

/// Length of an IP packet by its own header; `None` if it is none, or longer than what is there.
pub(crate) fn ip_len(packet: &[u8]) -> Option<usize> {
    let length = match packet.first()? >> 4 {
        4 if packet.len() >= IPV4_HEADER => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            Some(usize::from(get16(packet, 2))).filter(|&length| header >= IPV4_HEADER && length >= header)?
        }
        6 if packet.len() >= IPV6_HEADER => IPV6_HEADER + usize::from(get16(packet, 4)),
        _ => return None,
    };
    (length <= packet.len()).then_some(length)
}

/// Looks at a packet that [`ip_len`] knows the length of and that has this length.
pub(crate) fn classify(packet: &[u8]) -> Class {
    let (protocol, transport) = if packet[0] >> 4 == 4 {
        // A fragment has no ports, and options would have to be compared: neither occurs in bulk.
        let fragment = get16(packet, 6) & !DONT_FRAGMENT != 0;
        if packet[0] & 0x0f != 5 || fragment || !Sum::of(&packet[..IPV4_HEADER]).is_valid() {
            return Class::default();
        }
        (packet[9], IPV4_HEADER)
    } else {
        (packet[6], IPV6_HEADER)
    };
    match protocol {
        TCP if packet.len() >= transport + TCP_HEADER => tcp(packet, transport),
        UDP if packet.len() >= transport + UDP_HEADER => udp(packet, transport),
        _ => Class::default(),
    }
}

/// Looks at the packet inside VXLAN, behind an outer header of so many octets ([`super::vxlan::outer_len`]). `None`: there is
/// no whole IP packet.
pub(crate) fn classify_inside(packet: &[u8], outer: usize) -> Option<Class> {
    let inner = &packet[outer..];
    let length = ip_len(inner)?;
    let class = classify(&inner[..length]);
    let shifted = |at: u16| if at > 0 { at + field(outer) } else { 0 };
    // Behind a short packet Ethernet may have filled up its frame: it is passed on as it is.
    let headers = if length == inner.len() { shifted(class.headers) } else { 0 };
    Some(Class { outer: field(outer), headers, transport: shifted(class.transport), ..class })
}

fn tcp(packet: &[u8], transport: usize) -> Class {
    let header = &packet[transport..];
    let length = usize::from(header[12] >> 4) * 4;
    let alone = Class { flow: flow(packet, transport), transport: field(transport), ..Class::default() };
    let headers = transport + length;
    if length < TCP_HEADER || headers >= packet.len() || header[13] & !(FIN | PSH | CWR) != ACK {
        return alone;
    }
    if !is_intact(packet, transport, TCP) {
        return alone;
    }
    let verified = Class { verified: true, ..alone };
    // CWR belongs to one segment alone.
    if header[13] & CWR != 0 {
        return verified;
    }
    Class { headers: field(headers), last: header[13] & (FIN | PSH) != 0, ..verified }
}

fn udp(packet: &[u8], transport: usize) -> Class {
    let header = &packet[transport..];
    let alone =
        Class { flow: flow(packet, transport), transport: field(transport), udp: true, ..Class::default() };
    let is_whole = usize::from(get16(header, 4)) == header.len() && header.len() > UDP_HEADER;
    let has_checksum = header[UDP_CHECKSUM..UDP_CHECKSUM + 2] != [0, 0];
    if !is_whole || !has_checksum || !is_intact(packet, transport, UDP) {
        return alone;
    }
    Class { headers: field(transport + UDP_HEADER), verified: true, ..alone }
}

fn is_intact(packet: &[u8], transport: usize, protocol: u8) -> bool {
    let pseudo = checksum::addresses(packet, protocol) + Sum::word(field(packet.len() - transport));
    (Sum::of(&packet[transport..]) + pseudo).is_valid()
}

/// A number for protocol, addresses and ports, never 0.
fn flow(packet: &[u8], transport: usize) -> u32 {
    let (addresses, protocol) = if packet[0] >> 4 == 4 {
        (&packet[12..IPV4_HEADER], packet[9])
    } else {
        (&packet[8..IPV6_HEADER], packet[6])
    };
    let mut hash = u64::from(protocol);
    for word in addresses.chunks_exact(4).chain([&packet[transport..transport + 4]]) {
        let word = u32::from_ne_bytes(word.try_into().unwrap_or_default());
        hash = (hash ^ u64::from(word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    u32::try_from(hash >> 32).unwrap_or(0) | 1
}
