//! A local interface that is an attachment by itself. What no port entry knows is dropped.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::Hook;

#[classifier]
#[inline(always)]
pub fn iface(ctx: TcContext) -> i32 {
    super::enter_tagged(Hook::Interface, ctx)
}
