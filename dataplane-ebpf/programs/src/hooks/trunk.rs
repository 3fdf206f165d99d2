//! An operator's NIC with VLANs. What no port entry knows goes on to the kernel untouched.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::Hook;

use super::Arrival;
use crate::skb::Skb;

#[classifier]
#[inline(always)]
pub fn trunk(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    Arrival::tagged(Hook::Trunk, skb).enter_by_flow(ctx)
}
