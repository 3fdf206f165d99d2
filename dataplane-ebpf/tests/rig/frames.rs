//! Frames, written byte by byte, and their checksums by an own sum.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub const BROADCAST: [u8; 6] = [0xff; 6];

pub fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [dst.as_slice(), &src, &ethertype.to_be_bytes(), payload].concat()
}

fn v4(text: &str) -> [u8; 4] {
    text.parse::<Ipv4Addr>().unwrap().octets()
}

fn v6(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

/// One's complement sum of 16-bit words, folded and inverted (RFC 1071).
pub fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// What an ARP message says.
pub struct Arp<'a> {
    pub operation: u8,
    pub sender: ([u8; 6], &'a str),
    pub target: ([u8; 6], &'a str),
}

pub fn arp(dst: [u8; 6], src: [u8; 6], message: &Arp<'_>) -> Vec<u8> {
    let payload = [
        &[0, 1, 8, 0, 6, 4, 0, message.operation][..],
        &message.sender.0,
        &v4(message.sender.1),
        &message.target.0,
        &v4(message.target.1),
    ]
    .concat();
    ethernet(dst, src, 0x0806, &payload)
}

/// "Who has `target`?", from `(mac, ip)`.
pub fn arp_request(sender: ([u8; 6], &str), target: &str) -> Vec<u8> {
    arp(BROADCAST, sender.0, &Arp { operation: 1, sender, target: ([0; 6], target) })
}

/// "`sender` has it", to `target`.
pub fn arp_reply(sender: ([u8; 6], &str), target: ([u8; 6], &str)) -> Vec<u8> {
    arp(target.0, sender.0, &Arp { operation: 2, sender, target })
}

/// An UDP packet with `payload` bytes of 0x55, IPv4 or IPv6 as its addresses are.
pub fn udp(macs: ([u8; 6], [u8; 6]), addresses: (&str, &str), hops: u8, payload: usize) -> Vec<u8> {
    udp_to(macs, addresses, hops, 7, &vec![0x55; payload])
}

pub fn udp_to(
    macs: ([u8; 6], [u8; 6]),
    addresses: (&str, &str),
    hops: u8,
    port: u16,
    payload: &[u8],
) -> Vec<u8> {
    let length = 8 + payload.len() as u16;
    let mut datagram =
        [&4000_u16.to_be_bytes()[..], &port.to_be_bytes(), &length.to_be_bytes(), &[0, 0], payload].concat();
    let (dst, src) = macs;
    match (addresses.0.parse().unwrap(), addresses.1.parse().unwrap()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = [0x45, 0, 0, 0, 0, 1, 0x40, 0, hops, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            header[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            ethernet(dst, src, 0x0800, &[&header[..], &datagram].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let pseudo =
                [&from.octets()[..], &to.octets(), &[0, 0], &length.to_be_bytes(), &[0, 0, 0, 17]].concat();
            let sum = checksum(&[&pseudo, &datagram]);
            datagram[6..8].copy_from_slice(&sum.to_be_bytes());
            let header =
                [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[17, hops], &from.octets(), &to.octets()]
                    .concat();
            ethernet(dst, src, 0x86dd, &[&header[..], &datagram].concat())
        }
        _ => panic!("two families"),
    }
}

/// An ICMPv6 message of neighbour discovery. `option` is its type and the link-layer address in it.
pub struct Nd<'a> {
    pub kind: u8,
    pub flags: u8,
    pub from: &'a str,
    pub to: &'a str,
    pub target: &'a str,
    pub option: Option<(u8, [u8; 6])>,
}

pub fn nd(dst: [u8; 6], src: [u8; 6], message: &Nd<'_>) -> Vec<u8> {
    let mut body = [&[message.kind, 0, 0, 0, message.flags, 0, 0, 0][..], &v6(message.target)].concat();
    if let Some((kind, mac)) = message.option {
        body.extend_from_slice(&[kind, 1]);
        body.extend_from_slice(&mac);
    }
    let (from, to) = (v6(message.from), v6(message.to));
    let length = (body.len() as u16).to_be_bytes();
    let pseudo = [&from[..], &to, &[0, 0], &length, &[0, 0, 0, 58]].concat();
    let sum = checksum(&[&pseudo, &body]);
    body[2..4].copy_from_slice(&sum.to_be_bytes());
    let header = [&[0x60, 0, 0, 0][..], &length, &[58, 255], &from, &to].concat();
    ethernet(dst, src, 0x86dd, &[&header[..], &body].concat())
}

/// The group MAC of an IPv6 group.
pub fn group_mac(group: &str) -> [u8; 6] {
    let ip = v6(group);
    [0x33, 0x33, ip[12], ip[13], ip[14], ip[15]]
}

/// "Who has `target`?", from `(mac, ip)`; without an option if it checks for a duplicate.
pub fn solicit(sender: ([u8; 6], &str), target: &str) -> Vec<u8> {
    let last = v6(target);
    let group = format!("ff02::1:ff{:02x}:{:02x}{:02x}", last[13], last[14], last[15]);
    let option = (sender.1 != "::").then_some((1, sender.0));
    let message = Nd { kind: 135, flags: 0, from: sender.1, to: &group, target, option };
    nd(group_mac(&group), sender.0, &message)
}

/// A TCP packet of these flags with `payload` bytes, IPv4 or IPv6 as its addresses are. Its checksum is not right: nobody
/// on the way looks at it.
pub fn tcp(macs: ([u8; 6], [u8; 6]), addresses: (&str, &str), flags: u8, payload: usize) -> Vec<u8> {
    let mut frame = udp_to(macs, addresses, 64, 5201, &vec![0x55; 12 + payload]);
    let v4 = frame[12..14] == [0x08, 0x00];
    let (protocol, transport) = if v4 { (14 + 9, 34) } else { (14 + 6, 54) };
    frame[protocol] = 6;
    frame[transport + 4..transport + 20].fill(0);
    frame[transport + 12] = 0x50;
    frame[transport + 13] = flags;
    if v4 {
        frame[24..26].fill(0);
        let sum = checksum(&[&frame[14..34]]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

/// `inner` in VXLAN, from the far gateway to this one.
pub fn vxlan(vni: u32, tos: u8, inner: &[u8]) -> Vec<u8> {
    let payload = [&[8, 0, 0, 0][..], &(vni << 8).to_be_bytes(), inner].concat();
    let mut frame =
        udp_to((super::WIRE_MAC, super::FAR_ROUTER), ("10.255.0.2", "10.255.0.1"), 64, 4789, &payload);
    frame[15] = tos;
    frame[24..26].fill(0);
    let sum = checksum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}
