#![no_std]
#![no_main]
//! A host on one VLAN, on a kernel without 802.1Q: what it sends is tagged once or twice, what arrives with these
//! tags and no other is untagged, everything else that arrives is dropped. For tests and the demo only.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_OK, TC_ACT_SHOT},
    helpers::generated::{bpf_skb_vlan_pop, bpf_skb_vlan_push},
    macros::classifier,
    programs::TcContext,
};

/// The VLAN id; the loader writes it.
#[unsafe(no_mangle)]
static HOST_VID: u32 = 0;

/// EtherType of the only or outer tag, in host order; the loader writes it.
#[unsafe(no_mangle)]
static HOST_TPID: u32 = 0x8100;

/// The VLAN id of the inner tag, 0 for none; the loader writes it.
#[unsafe(no_mangle)]
static HOST_INNER: u32 = 0;

/// EtherType of a C-tag.
const TPID_CUSTOMER: u32 = 0x8100;
const VID_MASK: u32 = 0x0fff;

fn set(value: *const u32) -> u32 {
    // SAFETY: a plain read of a static; volatile because the loader writes the value into the object.
    unsafe { core::ptr::read_volatile(value) }
}

fn push(ctx: &TcContext, tpid: u32, vid: u32) -> bool {
    // SAFETY: the context of this program.
    unsafe { bpf_skb_vlan_push(skb(ctx), (tpid as u16).to_be(), vid as u16) == 0 }
}

/// Takes the outermost tag off if it is this one.
fn pop(ctx: &TcContext, tpid: u32, vid: u32) -> bool {
    let proto = u32::from((tpid as u16).to_be());
    // SAFETY: the context of this program.
    unsafe {
        let (present, tci, seen) = ((*skb(ctx)).vlan_present, (*skb(ctx)).vlan_tci, (*skb(ctx)).vlan_proto);
        present != 0 && seen == proto && tci & VID_MASK == vid && bpf_skb_vlan_pop(skb(ctx)) == 0
    }
}

fn skb(ctx: &TcContext) -> *mut __sk_buff {
    ctx.skb.skb
}

/// What the host sends.
#[classifier]
pub fn hv_egress(ctx: TcContext) -> i32 {
    let inner = set(&raw const HOST_INNER);
    let tagged = inner == 0 || push(&ctx, TPID_CUSTOMER, inner);
    let pushed = tagged && push(&ctx, set(&raw const HOST_TPID), set(&raw const HOST_VID));
    if pushed { TC_ACT_OK } else { TC_ACT_SHOT }
}

/// What arrives for the host.
#[classifier]
pub fn hv_ingress(ctx: TcContext) -> i32 {
    if !pop(&ctx, set(&raw const HOST_TPID), set(&raw const HOST_VID)) {
        return TC_ACT_SHOT;
    }
    // With the outer tag off the kernel shows the next one.
    let inner = set(&raw const HOST_INNER);
    if inner != 0 && !pop(&ctx, TPID_CUSTOMER, inner) {
        return TC_ACT_SHOT;
    }
    // SAFETY: the context of this program.
    let more = unsafe { (*skb(&ctx)).vlan_present };
    if more == 0 { TC_ACT_OK } else { TC_ACT_SHOT }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
