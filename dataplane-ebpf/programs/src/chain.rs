//! The chain of IPv6 extension headers (RFC 8200 §4), as far as a guard, or a hook before the VXLAN socket, follows it.

use watari_abi::DropReason;

use crate::out::Pkt;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
/// The most extension headers that are followed.
const HEADERS_MAX: u32 = 6;

/// The upper layer of an IPv6 packet.
pub struct Upper {
    pub protocol: u8,
    /// Where it begins, counted as the chain's own place was.
    pub offset: u32,
    /// A fragment header stands before it.
    pub fragment: bool,
}

/// Follows the chain from the header of kind `next` at `offset` from the Ethernet header. `None` for a later fragment,
/// which has no upper layer.
///
/// Fails if the chain is too long, or ends before the upper layer is seen (RFC 7113 §3, RFC 7112).
#[inline(always)]
pub fn upper_layer(p: &Pkt, next: u8, offset: u32) -> Result<Option<Upper>, DropReason> {
    follow(next, offset, |offset| p.skb.load::<8>(offset).ok())
}

/// The same with offsets from the network header, whether or not the device has a link-layer header.
#[inline(always)]
pub fn upper_layer_of_network(p: &Pkt, next: u8, offset: u32) -> Result<Option<Upper>, DropReason> {
    follow(next, offset, |offset| p.skb.load_network::<8>(offset))
}

#[inline(always)]
fn follow(next: u8, offset: u32, load: impl Fn(u32) -> Option<[u8; 8]>) -> Result<Option<Upper>, DropReason> {
    let (mut next, mut offset, mut fragment) = (next, offset, false);
    let mut followed = 0;
    while followed <= HEADERS_MAX {
        if !matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION) {
            return Ok(Some(Upper { protocol: next, offset, fragment }));
        }
        let Some(header) = load(offset) else { return Err(DropReason::HeaderChain) };
        let length = u32::from(header[1]);
        offset += match next {
            FRAGMENT => 8,
            AUTHENTICATION => length * 4 + 8,
            _ => length * 8 + 8,
        };
        if next == FRAGMENT {
            if u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
                return Ok(None);
            }
            fragment = true;
        }
        next = header[0];
        followed += 1;
    }
    Err(DropReason::HeaderChain)
}
