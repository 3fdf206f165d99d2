//! The collect-metadata VXLAN device. Only what a tunnel hook has marked comes further: the VXLAN socket
//! binds to any address, and a spoofed VTEP must not reach a tenant.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{DropReason, Hook, TUNNEL_MARK};

use super::Arrival;
use crate::{out::END, skb::Skb};

#[classifier]
#[inline(always)]
pub fn vxlan(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let mut arrival = Arrival::untagged(Hook::Vxlan, skb.ifindex());
    if let Some((vni, vtep)) = skb.tunnel_key() {
        arrival.vni = vni;
        arrival.vtep = vtep;
    }
    enter(ctx, arrival)
}

/// Enters the pipeline if the packet has the mark, and takes it off. The inner frame carries no tag (RFC 7348 §6.1)
/// but one of VLAN 0: its segment is the VNI's.
#[inline(always)]
pub fn enter(ctx: TcContext, arrival: Arrival) -> i32 {
    let skb = Skb::new(&ctx);
    if skb.mark() == TUNNEL_MARK {
        skb.set_mark(0);
        match skb.vid() {
            None => return arrival.enter(ctx),
            Some(0) if skb.vlan_pop().is_ok() => return arrival.enter(ctx),
            Some(_) => return refuse(ctx, arrival, DropReason::UnexpectedTag),
        }
    }
    refuse(ctx, arrival, DropReason::VxlanNotFromTunnel)
}

#[inline(always)]
fn refuse(ctx: TcContext, arrival: Arrival, reason: DropReason) -> i32 {
    let Some(packet) = arrival.open(ctx) else { return END };
    packet.ended(Err(reason))
}
