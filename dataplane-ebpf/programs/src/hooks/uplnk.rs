//! An uplink, before the VXLAN socket: VXLAN outside every tunnel is dropped where it arrives.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{DropReason, Hook};

use super::{Arrival, tunl::vxlan_source};
use crate::{
    out::{Decision, END, NEXT, Pkt},
    skb::Skb,
};

#[classifier]
#[inline(always)]
pub fn uplnk(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    if skb.vid().is_some() {
        // A VLAN of the same NIC: a trunk's matter, or nobody's.
        return NEXT;
    }
    let Some(packet) = Arrival::untagged(Hook::Uplink, skb.ifindex()).open(ctx) else { return END };
    let decision = run(&packet);
    packet.ended(decision)
}

#[inline(always)]
pub fn run(p: &Pkt) -> Decision {
    if vxlan_source(p).is_some() { Err(DropReason::VxlanOnUplink) } else { Ok(NEXT) }
}
