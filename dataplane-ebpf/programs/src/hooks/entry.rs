//! The entry of tests and traces: takes from `skb->cb` what a kernel test run cannot set (see [`watari_abi::meta`]),
//! and enters where the hook that it names would.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Hook, PortKey};

use super::{Arrival, finish, tunl, uplnk, vxlan};
use crate::{
    out::{END, Pkt},
    skb::Skb,
};

#[classifier]
pub fn entry(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let [ifindex, tags, vni, vtep, how] = skb.cb();
    skb.set_cb([0; 5]);
    let Some(hook) = Hook::from_u8(how as u8) else { return END };
    let arrival = Arrival {
        hook,
        port: PortKey { ifindex, outer: tags as u16, inner: (tags >> 16) as u16 },
        vni,
        vtep: vtep.to_be_bytes(),
        flags: (how >> 16) as u8,
    };
    match hook {
        Hook::Vxlan => vxlan::enter(ctx, arrival),
        Hook::Tunnel => before_socket(ctx, arrival, tunl::run),
        Hook::Uplink => before_socket(ctx, arrival, uplnk::run),
        _ => arrival.enter(ctx),
    }
}

#[inline(always)]
fn before_socket(ctx: TcContext, arrival: Arrival, run: impl FnOnce(&Pkt) -> crate::out::Decision) -> i32 {
    let Some(packet) = arrival.open(ctx) else { return END };
    let decision = run(&packet);
    finish(&packet, decision)
}
