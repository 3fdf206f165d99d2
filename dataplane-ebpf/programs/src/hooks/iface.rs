//! A local interface that is an attachment by itself. What no port entry knows is dropped.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::Hook;

use super::Arrival;
use crate::skb::Skb;

#[classifier]
#[inline(always)]
pub fn iface(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    Arrival::tagged(Hook::Interface, skb).enter_by_flow(ctx)
}
