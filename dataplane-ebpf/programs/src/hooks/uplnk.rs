//! An uplink, before the VXLAN socket: VXLAN outside every tunnel is dropped where it arrives, and so are later fragments
//! that say they are from a VTEP, behind whatever chain of headers ([`super::tunl`]).

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{DropReason, Hook};

use super::{
    Arrival,
    tunl::{Outer, outer},
};
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
    match outer(p)? {
        Outer::Other => Ok(NEXT),
        Outer::Vxlan(_) | Outer::Later(_) => Err(DropReason::VxlanOnUplink),
    }
}
