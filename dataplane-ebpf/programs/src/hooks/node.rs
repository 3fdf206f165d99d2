//! The L3 device of a tenant's nodes. Its packets have no link-layer header: they get one here, so that the
//! pipeline knows one form only. On the way out the kernel takes it off again.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{DropReason, Hook};

use super::Arrival;
use crate::{headers::ETH_BYTES, out::END, skb::Skb};

#[classifier]
#[inline(always)]
pub fn node(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let protocol = skb.protocol();
    let arrival = Arrival::untagged(Hook::Node, skb.ifindex());
    if dress(skb, protocol).is_err() {
        let Some(packet) = arrival.open(ctx) else { return END };
        return packet.ended(Err(DropReason::RewriteFailed));
    }
    arrival.enter(ctx)
}

#[inline(always)]
fn dress(skb: Skb, protocol: u16) -> Result<(), DropReason> {
    skb.grow_head(ETH_BYTES)?;
    skb.store(12, &protocol.to_be_bytes(), 0)
}
