//! The header of a TCP or UDP packet in one piece: what the flow cache asks of a packet, read from its bytes as words
//! ([`watari_abi::flow`]).
//!
//! ```text
//!  word   0        1         2              3             4               5 …
//!  v4     ··dst    src type  IP …fragment   … source      target ports    TCP or UDP …
//!  v6     ··dst    src type  IP …next hops  source        source          target  target  ports …
//! ```

use core::arch::asm;

use crate::{
    headers::{IPV4, IPV6, TCP, UDP},
    skb::Skb,
};

use super::mix;

/// Ethernet, IPv4 without options, and TCP up to its flags, or UDP and VXLAN.
pub const BYTES_V4: u32 = 50;
/// The same over IPv6.
pub const BYTES_V6: u32 = 70;
const SYN: u64 = 0x02;
/// IPv4's version and length without options.
const PLAIN_V4: u64 = 0x45;
/// More fragments, or a fragment's offset: the last two bytes of the word.
const FRAGMENT: u64 = 0xff3f;

/// Bytes of the packet from an Ethernet header on, as long as no helper has moved them.
#[derive(Clone, Copy)]
pub struct Head(*const u8);

/// What a header says.
pub struct Header {
    pub head: Head,
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

impl Head {
    /// The Ethernet header at `at` and the bytes behind it, `bytes` of them. Some card's drivers leave the rest of a long
    /// packet in pages; what is asked for is brought up then, and whatever was read before is gone. `None` if the packet is
    /// shorter. Both numbers are constants at every call.
    #[inline(always)]
    fn of(skb: Skb, at: u32, bytes: u32) -> Option<Self> {
        Self::in_reach(skb, at, bytes).or_else(|| {
            skb.bring_up(at + bytes).ok()?;
            Self::in_reach(skb, at, bytes)
        })
    }

    #[inline(always)]
    fn in_reach(skb: Skb, at: u32, bytes: u32) -> Option<Self> {
        let (start, end) = skb.bytes();
        if start + (at + bytes) as usize > end {
            None
        } else {
            Some(Self((start + at as usize) as *const u8))
        }
    }

    /// Two bytes of zero and the destination MAC.
    #[inline(always)]
    pub fn dst(self) -> u64 {
        let word: u64;
        // SAFETY: in reach, as every header that was read; the kernel lets programs read packets unaligned.
        unsafe {
            asm!("{word} = *(u64 *)({start} + 0)", word = out(reg) word, start = in(reg) self.0,
                options(pure, readonly, nostack, preserves_flags));
        }
        word << 16
    }

    /// A word from the first one on.
    #[inline(always)]
    pub fn word<const AT: usize>(self) -> u64 {
        let word: u64;
        // SAFETY: as in `dst`.
        unsafe {
            asm!("{word} = *(u64 *)({start} + {at})", word = out(reg) word, start = in(reg) self.0,
                at = const AT * 8 - 2, options(pure, readonly, nostack, preserves_flags));
        }
        word
    }

    /// The first half of a word: of the last one that is in reach.
    #[inline(always)]
    pub fn half<const AT: usize>(self) -> u64 {
        let half: u64;
        // SAFETY: as in `dst`.
        unsafe {
            asm!("{half} = *(u32 *)({start} + {at})", half = out(reg) half, start = in(reg) self.0,
                at = const AT * 8 - 2, options(pure, readonly, nostack, preserves_flags));
        }
        half
    }
}

/// Reads the header that begins with the Ethernet header at `at` of the packet. `None` for anything but TCP and UDP over
/// IPv4 without options or IPv6 without extension headers, in one piece.
#[inline(always)]
pub fn read(skb: Skb, at: u32) -> Option<Header> {
    let head = Head::of(skb, at, BYTES_V4)?;
    let ethertype = (head.word::<1>() >> 48) as u16;
    if ethertype == IPV4.to_be() {
        return v4(head);
    }
    if ethertype != IPV6.to_be() {
        return None;
    }
    v6(Head::of(skb, at, BYTES_V6)?)
}

#[inline(always)]
fn v4(head: Head) -> Option<Header> {
    let (start, middle, end) = (head.word::<2>(), head.word::<3>(), head.word::<4>());
    if start & 0xff != PLAIN_V4 || (start >> 48) & FRAGMENT != 0 {
        return None;
    }
    let (source, target) = (middle >> 32, end & 0xffff_ffff);
    let tcp_flags = head.half::<6>() >> 8;
    let (protocol, tos) = ((middle >> 8) as u8, (start >> 8) as u8);
    transport(head, true, protocol, tos, source << 32 | target, end >> 32, tcp_flags)
}

#[inline(always)]
fn v6(head: Head) -> Option<Header> {
    let start = head.word::<2>();
    if start & 0xf0 != 0x60 {
        return None;
    }
    let tos = (start << 4 | (start >> 12) & 0x0f) as u8;
    let source = mix(head.word::<3>(), head.word::<4>());
    let addresses = mix(source, mix(head.word::<5>(), head.word::<6>()));
    let tcp_flags = head.word::<8>() >> 40;
    let ports = head.word::<7>() & 0xffff_ffff;
    transport(head, false, (start >> 48) as u8, tos, addresses, ports, tcp_flags)
}

#[inline(always)]
fn transport(
    head: Head,
    v4: bool,
    protocol: u8,
    tos: u8,
    addresses: u64,
    ports: u64,
    tcp_flags: u64,
) -> Option<Header> {
    let to_port = u16::from_be((ports >> 16) as u16);
    let (plain, to_port) = match protocol {
        TCP => (tcp_flags & SYN == 0, 0),
        UDP => (!is_dhcp(u16::from_be(ports as u16)) && !is_dhcp(to_port), to_port),
        _ => return None,
    };
    let hash = mix(addresses, ports << 8 | u64::from(protocol)) as u32 | 1;
    Some(Header { head, v4, protocol, tos, to_port, hash, plain })
}

impl Header {
    /// The packet's source address (IPv4 in the second word).
    #[inline(always)]
    pub fn source(&self) -> [u64; 2] {
        let head = self.head;
        if self.v4 { [0, head.word::<3>() >> 32] } else { [head.word::<3>(), head.word::<4>()] }
    }

    /// Its destination address.
    #[inline(always)]
    pub fn target(&self) -> [u64; 2] {
        let head = self.head;
        if self.v4 { [0, head.word::<4>() & 0xffff_ffff] } else { [head.word::<5>(), head.word::<6>()] }
    }
}

/// DHCPv4 and DHCPv6, of either end.
#[inline(always)]
fn is_dhcp(port: u16) -> bool {
    port == 67 || port == 68 || port == 546 || port == 547
}
