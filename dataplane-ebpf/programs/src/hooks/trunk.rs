//! An operator's NIC with VLANs. What no port entry knows goes on to the kernel untouched.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::Hook;

#[classifier]
#[inline(always)]
pub fn trunk(ctx: TcContext) -> i32 {
    super::enter_tagged(Hook::Trunk, ctx)
}
