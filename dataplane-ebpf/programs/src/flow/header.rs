//! The header of a TCP or UDP packet in one piece: what the flow cache asks of a packet, read in one or two look-ups of
//! its bytes. Offsets count from an Ethernet header at `AT`.

use watari_abi::{IpBytes, Scratch};

use crate::{
    headers::{IPV4, IPV6, TCP, UDP, halves, mapped, part},
    out::Pkt,
};

use super::mix;

/// Ethernet, IPv4 without options, TCP up to its flags (or UDP and six bytes of payload).
pub const BYTES_V4: u32 = 48;
/// The same over IPv6.
pub const BYTES_V6: u32 = 68;
const SYN: u8 = 0x02;
/// More fragments, or a fragment's offset.
const FRAGMENT: u16 = 0x3fff;

/// What it says.
pub struct Header {
    pub ethertype: u16,
    pub protocol: u8,
    pub tos: u8,
    /// Where the transport header begins, from the Ethernet header.
    pub transport: u32,
    /// UDP: the destination port. TCP: 0.
    pub to_port: u16,
    /// Of addresses, ports and protocol; not 0.
    pub hash: u32,
    /// Neither SYN nor DHCP: nothing that a guard or the stage `Mtu` looks at.
    pub plain: bool,
}

/// `N` bytes of the working memory.
#[inline(always)]
pub fn get<const N: usize>(scratch: &Scratch, at: usize) -> [u8; N] {
    part(&scratch.frame, at)
}

/// Reads the header behind `AT`; the working memory holds [`BYTES_V4`] bytes from there. `None` for anything but TCP and
/// UDP over IPv4 without options or IPv6 without extension headers, in one piece.
#[inline(always)]
pub fn read<const AT: usize>(p: &Pkt) -> Option<Header> {
    let ethertype = u16::from_be_bytes(get(p.scratch(), AT + 12));
    match ethertype {
        IPV4 => v4::<AT>(p.scratch()),
        IPV6 => {
            const MORE: u32 = BYTES_V6 - BYTES_V4;
            let from = AT as u32 + BYTES_V4;
            // SAFETY: `AT + BYTES_V6` is within the buffer of `BUILD_BYTES` for every `AT` in use.
            let room = unsafe { p.scratch().frame.as_mut_ptr().add(from as usize) };
            p.skb.load_raw(from, room, MORE).ok()?;
            v6::<AT>(p.scratch())
        }
        _ => None,
    }
}

#[inline(always)]
fn v4<const AT: usize>(scratch: &Scratch) -> Option<Header> {
    let [version, tos] = get(scratch, AT + 14);
    let fragment = u16::from_be_bytes(get(scratch, AT + 20)) & FRAGMENT != 0;
    if version != 0x45 || fragment {
        return None;
    }
    let addresses = u64::from_ne_bytes(get(scratch, AT + 26));
    let start = Start { ethertype: IPV4, protocol: get::<1>(scratch, AT + 23)[0], tos, transport: 34 };
    transport(start, addresses, get(scratch, AT + 34), get::<1>(scratch, AT + 47)[0])
}

#[inline(always)]
fn v6<const AT: usize>(scratch: &Scratch) -> Option<Header> {
    let [first, second] = get(scratch, AT + 14);
    if first >> 4 != 6 {
        return None;
    }
    let tos = first << 4 | second >> 4;
    let start = Start { ethertype: IPV6, protocol: get::<1>(scratch, AT + 20)[0], tos, transport: 54 };
    let ((a, b), (c, d)) = (halves(get(scratch, AT + 22)), halves(get(scratch, AT + 38)));
    let addresses = mix(mix(a, b), mix(c, d));
    transport(start, addresses, get(scratch, AT + 54), get::<1>(scratch, AT + 67)[0])
}

struct Start {
    ethertype: u16,
    protocol: u8,
    tos: u8,
    transport: u32,
}

#[inline(always)]
fn transport(start: Start, addresses: u64, ports: [u8; 4], tcp_flags: u8) -> Option<Header> {
    let Start { ethertype, protocol, tos, transport } = start;
    let (from_port, to_port) =
        (u16::from_be_bytes([ports[0], ports[1]]), u16::from_be_bytes([ports[2], ports[3]]));
    let (plain, to_port) = match protocol {
        TCP => (tcp_flags & SYN == 0, 0),
        UDP => (!is_dhcp(from_port) && !is_dhcp(to_port), to_port),
        _ => return None,
    };
    let what = u64::from(u32::from_ne_bytes(ports)) << 8 | u64::from(protocol);
    let hash = mix(addresses, what) as u32 | 1;
    Some(Header { ethertype, protocol, tos, transport, to_port, hash, plain })
}

/// The source address of a header that was read.
#[inline(always)]
pub fn source<const AT: usize>(scratch: &Scratch, ethertype: u16) -> IpBytes {
    if ethertype == IPV4 { mapped(get(scratch, AT + 26)) } else { get(scratch, AT + 22) }
}

/// Its destination address.
#[inline(always)]
pub fn target<const AT: usize>(scratch: &Scratch, ethertype: u16) -> IpBytes {
    if ethertype == IPV4 { mapped(get(scratch, AT + 30)) } else { get(scratch, AT + 38) }
}

/// DHCPv4 and DHCPv6, of either end.
#[inline(always)]
fn is_dhcp(port: u16) -> bool {
    port == 67 || port == 68 || port == 546 || port == 547
}
