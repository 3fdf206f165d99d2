#![no_std]
#![no_main]
//! A host on one VLAN, on a kernel without 802.1Q: what it sends is tagged, what arrives with the tag is
//! untagged, everything else that arrives is dropped. For tests and the demo only.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT},
    helpers::generated::{bpf_skb_vlan_pop, bpf_skb_vlan_push},
    macros::classifier,
    programs::TcContext,
};

/// The VLAN id; the loader writes it.
#[unsafe(no_mangle)]
static HOST_VID: u32 = 0;

/// EtherType of the tag, in network order.
const TPID: u16 = 0x8100_u16.to_be();
const VID_MASK: u32 = 0x0fff;

fn vid() -> u32 {
    // SAFETY: a plain read; volatile because the loader writes the value into the object.
    unsafe { core::ptr::read_volatile(&raw const HOST_VID) }
}

fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// What the host sends.
#[classifier]
pub fn hv_egress(ctx: TcContext) -> i32 {
    // SAFETY: the context of this program.
    let pushed = unsafe { bpf_skb_vlan_push(skb(&ctx), TPID, vid() as u16) };
    if pushed == 0 { TC_ACT_OK } else { TC_ACT_SHOT }
}

/// What arrives for the host.
#[classifier]
pub fn hv_ingress(ctx: TcContext) -> i32 {
    // SAFETY: the context of this program.
    let (present, tci) = unsafe { ((*skb(&ctx)).vlan_present, (*skb(&ctx)).vlan_tci) };
    if present == 0 || tci & VID_MASK != vid() {
        return TC_ACT_SHOT;
    }
    // SAFETY: the context of this program.
    let popped = unsafe { bpf_skb_vlan_pop(skb(&ctx)) };
    if popped == 0 { TC_ACT_OK } else { TC_ACT_SHOT }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
