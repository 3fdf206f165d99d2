//! What fits on the way to a far gateway: a look at each packet that is cheap where it does fit.
//!
//! A super-frame counts as its largest segment: the headers and `gso_size`, which is payload alone. A TCP
//! stream whose segments fit is never stopped, however large its super-frames are.

use watari_abi::{DropReason, IpBytes};

use crate::{
    headers::{ETH_BYTES, IPV4, IPV6, TCP, UDP},
    maps,
    out::Pkt,
};

/// Extension headers (RFC 8200 §4) that are stepped over on the way to the transport header.
pub const EXTENSIONS_MAX: u32 = 4;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION: u8 = 60;
const SYN: u8 = 0x02;
const FLAGS: u32 = 13;
/// Where the length of the TCP header stands.
const DATA_OFFSET: u32 = 12;
/// More than an offset of zero in an IPv4 header's word of flags and fragment offset.
const FRAGMENT_OFFSET: u16 = 0x1fff;
const IPV6_BYTES: u32 = 40;
/// `gso_size` of a packet whose segments have sizes of their own (SCTP).
const GSO_BY_FRAGS: u32 = 0xffff;

/// What the IP header of a packet says.
pub struct Inner {
    pub tos: u8,
    pub protocol: u8,
    /// Where the transport header begins, from the Ethernet header.
    pub transport: u32,
    pub later_fragment: bool,
}

/// The largest IP packet that crosses to a far gateway; 0 if not known.
#[inline(always)]
pub fn mtu_towards(vtep: &IpBytes) -> u32 {
    // SAFETY: read at once; plan entries are replaced whole.
    unsafe { maps::remotes.get(vtep) }.map_or(0, |remote| u32::from(remote.mtu))
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    next == HOP_BY_HOP || next == ROUTING || next == DESTINATION
}

impl Pkt {
    /// The IP header; of IPv6 without extension headers.
    #[inline(always)]
    pub fn inner(&self) -> Result<Inner, DropReason> {
        if self.meta().ethertype == IPV4 {
            let header = self.skb.load::<20>(ETH_BYTES)?;
            return Ok(Inner {
                tos: header[1],
                protocol: header[9],
                transport: ETH_BYTES + u32::from(header[0] & 0x0f) * 4,
                later_fragment: u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET != 0,
            });
        }
        let header = self.skb.load::<8>(ETH_BYTES)?;
        Ok(Inner {
            tos: header[0] << 4 | header[1] >> 4,
            protocol: header[6],
            transport: ETH_BYTES + IPV6_BYTES,
            later_fragment: false,
        })
    }

    /// Steps over IPv6 extension headers.
    #[inline(always)]
    pub fn behind_extensions(&self, inner: Inner) -> Inner {
        let Inner { mut protocol, mut transport, .. } = inner;
        if self.meta().ethertype == IPV6 {
            let mut steps = 0;
            while steps < EXTENSIONS_MAX && is_extension(protocol) {
                let Ok([next, length]) = self.skb.load::<2>(transport) else { break };
                protocol = next;
                transport += (u32::from(length) + 1) * 8;
                steps += 1;
            }
        }
        Inner { protocol, transport, ..inner }
    }

    /// The first or second packet of a TCP connection. No super-frame is one.
    #[inline(always)]
    pub fn is_syn(&self, inner: &Inner) -> bool {
        if inner.protocol != TCP || inner.later_fragment || self.skb.gso_size() != 0 {
            return false;
        }
        self.skb.load::<1>(inner.transport + FLAGS).is_ok_and(|flags| flags[0] & SYN != 0)
    }

    /// Bytes of the largest IP packet that this becomes; `None` if that takes a closer look.
    #[inline(always)]
    pub fn largest(&self, inner: &Inner) -> Option<u32> {
        let segment = self.skb.gso_size();
        if segment == 0 {
            return Some(self.skb.len() - ETH_BYTES);
        }
        if segment == GSO_BY_FRAGS {
            return Some(0);
        }
        let header = match inner.protocol {
            UDP => 8,
            TCP => {
                let [offset] = self.skb.load::<1>(inner.transport + DATA_OFFSET).ok()?;
                u32::from(offset >> 4) * 4
            }
            _ => return None,
        };
        Some(inner.transport - ETH_BYTES + header + segment)
    }

    /// Whether the stage `Mtu` has to look at this packet for the far gateway.
    #[inline(always)]
    pub fn needs_a_look(&self, inner: &Inner, mtu: u32) -> bool {
        let v6 = self.meta().ethertype == IPV6;
        self.largest(inner).is_none_or(|bytes| bytes > mtu)
            || self.is_syn(inner)
            || (v6 && is_extension(inner.protocol))
    }

    /// Whether the stage `Mtu` has to look at this packet from a far gateway: it opens a TCP connection.
    #[inline(always)]
    pub fn opens_from_afar(&self) -> bool {
        let ethertype = self.meta().ethertype;
        if (ethertype != IPV4 && ethertype != IPV6) || self.skb.gso_size() != 0 {
            return false;
        }
        self.inner().is_ok_and(|inner| self.is_syn(&inner))
    }
}
