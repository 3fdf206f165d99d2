//! The eBPF end of a cross-connected veth.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::Hook;

use super::Arrival;
use crate::skb::Skb;

#[classifier]
#[inline(always)]
pub fn cross(ctx: TcContext) -> i32 {
    let ifindex = Skb::new(&ctx).ifindex();
    Arrival::untagged(Hook::Cross, ifindex).enter(ctx)
}
