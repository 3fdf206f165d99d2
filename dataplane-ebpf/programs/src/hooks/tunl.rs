//! A tunnel device, before the VXLAN socket: VXLAN is let in, marked, only if its outer source is a VTEP that is
//! bound to this tunnel. Everything else on the device is none of our business. Later fragments carry no port
//! and pass: without the first one, which does, nothing is reassembled.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Counter, DropReason, Hook, IpBytes, TUNNEL_MARK, TunnelKey};

use super::Arrival;
use crate::{
    headers::{IPV4, IPV6, UDP, mapped, part},
    maps,
    out::{Decision, END, NEXT, Pkt},
};

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
    let Some(source) = vxlan_source(p) else { return Ok(NEXT) };
    let key = TunnelKey { ifindex: p.meta().port.ifindex, vtep: source };
    // SAFETY: only its presence counts.
    let bound = unsafe { maps::vteps.get(key) }.is_some();
    p.step_bound(&key, bound);
    if !bound {
        return Err(DropReason::VtepNotBound);
    }
    p.skb.set_mark(TUNNEL_MARK);
    p.count(Counter::TunnelAccepted, 1);
    Ok(NEXT)
}

/// The outer source of a packet for the VXLAN socket.
#[inline(always)]
pub fn vxlan_source(p: &Pkt) -> Option<IpBytes> {
    let port = p.config().ok()?.vxlan_port;
    match p.skb.protocol() {
        IPV4 => {
            let header = p.skb.load_network::<20>(0)?;
            let later_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
            if header[9] != UDP || later_fragment {
                return None;
            }
            let ports = p.skb.load_network::<4>(u32::from(header[0] & 0x0f) * 4)?;
            (u16::from_be_bytes([ports[2], ports[3]]) == port).then(|| mapped(part(&header, 12)))
        }
        IPV6 => {
            let header = p.skb.load_network::<40>(0)?;
            if header[6] != UDP {
                return None;
            }
            let ports = p.skb.load_network::<4>(40)?;
            (u16::from_be_bytes([ports[2], ports[3]]) == port).then(|| part(&header, 8))
        }
        _ => None,
    }
}
