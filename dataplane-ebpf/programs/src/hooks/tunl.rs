//! A tunnel device, before the VXLAN socket: VXLAN is let in, marked, only if its outer source is a VTEP that is
//! bound to this tunnel. Everything else on the device is none of our business.
//!
//! The kernel puts fragments together and goes along the chain of IPv6 extension headers before its socket sees VXLAN, so
//! this hook looks behind them as well:
//! - The first fragment has the ports, and its mark becomes that of the whole packet: without it nothing gets on.
//! - A later one has none and passes without a mark; but one that says it is from a VTEP comes out of that VTEP's tunnel or
//!   is dropped. Else whoever guesses an identification could put bytes of their own behind a first fragment that was let in.
//!   Of IPv6 the protocol is no criterion: only the first fragment's counts (RFC 8200 §4.5).
//! - To our VTEP's address no chain goes that cannot be followed to its end. To other addresses, to which the socket is
//!   bound as well, it goes unmarked, and ends at the hook of the VXLAN device.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Config, Counter, DropReason, Hook, IpBytes, TUNNEL_MARK, TunnelKey};

use super::Arrival;
use crate::{
    chain::upper_layer_of_network,
    headers::{IPV4, IPV6, UDP, mapped, part, same_ip},
    maps,
    out::{Decision, END, NEXT, Pkt},
};

const FRAGMENT_OFFSET: u16 = 0x1fff;
const V6_BYTES: u32 = 40;

#[classifier]
#[inline(always)]
pub fn tunl(ctx: TcContext) -> i32 {
    let arrival = Arrival::untagged(Hook::Tunnel, crate::skb::Skb::new(&ctx).ifindex());
    let Some(packet) = arrival.open(ctx) else { return END };
    let decision = run(&packet);
    packet.ended(decision)
}

#[inline(always)]
pub fn run(p: &Pkt) -> Decision {
    let outer = outer(p)?;
    let (Outer::Vxlan(source) | Outer::Later(source)) = outer else { return Ok(NEXT) };
    let key = TunnelKey { ifindex: p.meta().port.ifindex, vtep: source };
    // SAFETY: only its presence counts.
    let bound = unsafe { maps::vteps.get(key) }.is_some();
    p.step_bound(&key, bound);
    if !bound {
        return Err(DropReason::VtepNotBound);
    }
    if let Outer::Vxlan(_) = outer {
        p.skb.set_mark(TUNNEL_MARK);
        p.count(Counter::TunnelAccepted, 1);
    }
    Ok(NEXT)
}

/// What a packet is to the VXLAN socket.
pub enum Outer {
    /// Nothing.
    Other,
    /// VXLAN, or its first fragment, with this source.
    Vxlan(IpBytes),
    /// A later fragment with a VTEP for its source: what it belongs to, only the first one says.
    Later(IpBytes),
}

impl Outer {
    #[inline(always)]
    fn later(source: IpBytes) -> Self {
        // SAFETY: only its presence counts.
        if unsafe { maps::remotes.get(source) }.is_some() { Self::Later(source) } else { Self::Other }
    }

    #[inline(always)]
    fn first(p: &Pkt, config: &Config, transport: u32, source: IpBytes) -> Self {
        match p.skb.load_network::<4>(transport) {
            Some([_, _, high, low]) if u16::from_be_bytes([high, low]) == config.vxlan_port => {
                Self::Vxlan(source)
            }
            _ => Self::Other,
        }
    }
}

/// Fails for a chain of headers to our VTEP that cannot be followed.
#[inline(always)]
pub fn outer(p: &Pkt) -> Result<Outer, DropReason> {
    let Ok(config) = p.config() else { return Ok(Outer::Other) };
    match p.skb.protocol() {
        IPV4 => Ok(outer_v4(p, config)),
        IPV6 => outer_v6(p, config),
        _ => Ok(Outer::Other),
    }
}

#[inline(always)]
fn outer_v4(p: &Pkt, config: &Config) -> Outer {
    let Some(header) = p.skb.load_network::<20>(0) else { return Outer::Other };
    if header[9] != UDP {
        return Outer::Other;
    }
    let source = mapped(part(&header, 12));
    if u16::from_be_bytes([header[6], header[7]]) & FRAGMENT_OFFSET != 0 {
        return Outer::later(source);
    }
    Outer::first(p, config, u32::from(header[0] & 0x0f) * 4, source)
}

#[inline(always)]
fn outer_v6(p: &Pkt, config: &Config) -> Result<Outer, DropReason> {
    let Some(header) = p.skb.load_network::<{ V6_BYTES as usize }>(0) else { return Ok(Outer::Other) };
    let source: IpBytes = part(&header, 8);
    if header[6] == UDP {
        return Ok(Outer::first(p, config, V6_BYTES, source));
    }
    match upper_layer_of_network(p, header[6], V6_BYTES) {
        Ok(Some(upper)) if upper.protocol == UDP => Ok(Outer::first(p, config, upper.offset, source)),
        Ok(Some(_)) => Ok(Outer::Other),
        Ok(None) => Ok(Outer::later(source)),
        Err(reason) if same_ip(part(&header, 24), config.local_vtep) => Err(reason),
        Err(_) => Ok(Outer::Other),
    }
}
