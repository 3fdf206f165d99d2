//! The root end of the veth to a tenant's namespace.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::Hook;

use super::Arrival;
use crate::skb::Skb;

#[classifier]
#[inline(always)]
pub fn core(ctx: TcContext) -> i32 {
    let ifindex = Skb::new(&ctx).ifindex();
    Arrival::untagged(Hook::Core, ifindex).enter(ctx)
}
