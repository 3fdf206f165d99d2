//! The entry of tests and traces: takes from the page [`watari_abi::Entry`] what a kernel test run cannot set, and
//! enters where the hook that it names would.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Hook, Meta};

use super::{Arrival, tunl, uplnk, vxlan};
use crate::{
    maps,
    out::{END, Pkt},
};

#[classifier]
#[inline(always)]
pub fn entry(ctx: TcContext) -> i32 {
    let Some(page) = maps::page.get_ptr(0) else { return END };
    // SAFETY: one run at a time uses the page.
    let (hook, port, vni, vtep, flags) =
        unsafe { ((*page).hook, (*page).port, (*page).vni, (*page).vtep, (*page).flags) };
    let Some(hook) = Hook::from_u8(hook) else { return END };
    let arrival = Arrival { hook, port, vni, vtep, flags, seen: (0, Meta::PATH_NONE) };
    match hook {
        Hook::Vxlan => vxlan::enter(ctx, arrival),
        Hook::Tunnel => before_socket(ctx, arrival, tunl::run),
        Hook::Uplink => before_socket(ctx, arrival, uplnk::run),
        Hook::Trunk | Hook::Interface if flags & Meta::FLOW != 0 => {
            super::enter_by_flow(hook, port, flags, ctx)
        }
        _ => arrival.enter(ctx),
    }
}

#[inline(always)]
fn before_socket(ctx: TcContext, arrival: Arrival, run: impl FnOnce(&Pkt) -> crate::out::Decision) -> i32 {
    let Some(packet) = arrival.open(ctx) else { return END };
    let decision = run(&packet);
    packet.ended(decision)
}
