//! The header of a TCP or UDP packet in one piece: what the flow cache asks of a packet, read in one or two look-ups of
//! its bytes into words ([`watari_abi::flow`]).
//!
//! ```text
//!  word   0        1         2              3             4               5 …
//!  v4     ··dst    src type  IP …fragment   … source      target ports    TCP or UDP …
//!  v6     ··dst    src type  IP …next hops  source        source          target  target  ports …
//! ```

use watari_abi::flow::HEAD_WORDS;

use crate::{
    headers::{IPV4, IPV6, TCP, UDP},
    out::Pkt,
};

use super::mix;

/// Ethernet, IPv4 without options, and TCP up to its flags, or UDP and VXLAN.
pub const BYTES_V4: u32 = 50;
/// The same over IPv6.
pub const BYTES_V6: u32 = 70;
/// Bytes before the Ethernet header.
const SHIFT: u32 = 2;
const SYN: u64 = 0x02;
/// IPv4's version and length without options.
const PLAIN_V4: u64 = 0x45;
/// More fragments, or a fragment's offset: the last two bytes of the word.
const FRAGMENT: u64 = 0xff3f;

/// A buffer of words.
pub type Words = *mut [u64; HEAD_WORDS];

/// What a header says.
pub struct Header {
    pub v4: bool,
    pub protocol: u8,
    pub tos: u8,
    /// UDP: the destination port. TCP: 0.
    pub to_port: u16,
    /// Of addresses, ports and protocol; not 0.
    pub hash: u32,
    /// Neither SYN nor DHCP: nothing that a guard or the stage `Mtu` looks at.
    pub plain: bool,
}

/// A word of a buffer.
#[inline(always)]
pub fn word(words: Words, at: usize) -> u64 {
    // SAFETY: a buffer of the working memory; constants at every call, below `HEAD_WORDS`.
    unsafe { words.cast::<u64>().add(at).read() }
}

/// Writes a word of a buffer.
#[inline(always)]
pub fn set(words: Words, at: usize, value: u64) {
    // SAFETY: as in `word`.
    unsafe { words.cast::<u64>().add(at).write(value) }
}

/// Where the bytes of a buffer begin that stand for the packet's from `at` on.
#[inline(always)]
pub fn bytes(words: Words, at: u32) -> *mut u8 {
    // SAFETY: constants at every call, within the buffer.
    unsafe { words.cast::<u8>().add((SHIFT + at) as usize) }
}

/// Reads the header behind the Ethernet header at `at` of the packet into `words`. `None` for anything but TCP and UDP
/// over IPv4 without options or IPv6 without extension headers, in one piece.
#[inline(always)]
pub fn read(p: &Pkt, words: Words, at: u32) -> Option<Header> {
    p.skb.load_raw(at, bytes(words, 0), BYTES_V4).ok()?;
    let ethertype = (word(words, 1) >> 48) as u16;
    if ethertype == IPV4.to_be() {
        return v4(words);
    }
    if ethertype != IPV6.to_be() {
        return None;
    }
    p.skb.load_raw(at + BYTES_V4, bytes(words, BYTES_V4), BYTES_V6 - BYTES_V4).ok()?;
    v6(words)
}

#[inline(always)]
fn v4(words: Words) -> Option<Header> {
    let (start, middle, end) = (word(words, 2), word(words, 3), word(words, 4));
    if start & 0xff != PLAIN_V4 || (start >> 48) & FRAGMENT != 0 {
        return None;
    }
    let (source, target) = (middle >> 32, end & 0xffff_ffff);
    let tcp_flags = word(words, 6) >> 8;
    let (protocol, tos) = ((middle >> 8) as u8, (start >> 8) as u8);
    transport(true, protocol, tos, source << 32 | target, end >> 32, tcp_flags)
}

#[inline(always)]
fn v6(words: Words) -> Option<Header> {
    let start = word(words, 2);
    if start & 0xf0 != 0x60 {
        return None;
    }
    let tos = (start << 4 | (start >> 12) & 0x0f) as u8;
    let source = mix(word(words, 3), word(words, 4));
    let addresses = mix(source, mix(word(words, 5), word(words, 6)));
    let tcp_flags = word(words, 8) >> 40;
    transport(false, (start >> 48) as u8, tos, addresses, word(words, 7) & 0xffff_ffff, tcp_flags)
}

#[inline(always)]
fn transport(v4: bool, protocol: u8, tos: u8, addresses: u64, ports: u64, tcp_flags: u64) -> Option<Header> {
    let to_port = u16::from_be((ports >> 16) as u16);
    let (plain, to_port) = match protocol {
        TCP => (tcp_flags & SYN == 0, 0),
        UDP => (!is_dhcp(u16::from_be(ports as u16)) && !is_dhcp(to_port), to_port),
        _ => return None,
    };
    let hash = mix(addresses, ports << 8 | u64::from(protocol)) as u32 | 1;
    Some(Header { v4, protocol, tos, to_port, hash, plain })
}

/// The source address of a header that was read.
#[inline(always)]
pub fn source(words: Words, v4: bool) -> [u64; 2] {
    if v4 { [0, word(words, 3) >> 32] } else { [word(words, 3), word(words, 4)] }
}

/// Its destination address.
#[inline(always)]
pub fn target(words: Words, v4: bool) -> [u64; 2] {
    if v4 { [0, word(words, 4) & 0xffff_ffff] } else { [word(words, 5), word(words, 6)] }
}

/// DHCPv4 and DHCPv6, of either end.
#[inline(always)]
fn is_dhcp(port: u16) -> bool {
    port == 67 || port == 68 || port == 546 || port == 547
}
