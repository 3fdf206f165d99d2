//! Decap: what comes out of a wire on which a `direct` tunnel ends. VXLAN with an IP packet inside is taken out of
//! its outer header here and goes on as if the VXLAN device had delivered it; the rest goes the way of the
//! cross-connect, to the kernel, with the same checks at the tunnel's device.
//!
//! What a WireGuard engine in user space gives to its TAP looks the same and goes the same way, but there is no kernel's end
//! behind it: what is not VXLAN with an IP packet inside is dropped.
//!
//! An aggregate of the kernel (GRO) keeps its tunnel state after the header is gone. Where that could reach an Ethernet
//! driver, which might believe it, aggregates take the device's way ([`watari_abi::Segment::PLAIN_DEVICES`]).

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{
    Config, Counter, DropReason, Hook, IpBytes, Meta, Port, PortKey, Scratch, Segment, Stage, StepKind,
    TunnelKey,
};

use super::encap::{OVERHEAD_V4, OVERHEAD_V6};
use crate::{
    headers::{ETH_BYTES, IPV4, IPV6, UDP, mapped, part, same_ip},
    maps,
    out::{Decision, END, Pkt},
    skb::RECOMPUTE_CSUM,
    tos::{ECN_CE, ECN_ECT1, ECN_MASK},
};

const FIXED_GSO: u64 = 1;
const NO_CSUM_RESET: u64 = 1 << 5;
const DECAP_L3_IPV4: u64 = 1 << 7;
const DECAP_L3_IPV6: u64 = 1 << 8;
pub const VNI_VALID: u8 = 0x08;
/// More fragments, or a fragment's offset.
const FRAGMENT: u16 = 0x3fff;

#[classifier]
#[inline(always)]
pub fn st_decap(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let key = p.meta().port;
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(port) = (unsafe { maps::ports.get(key) }) else { return Err(DropReason::UnknownPort) };
    let config = p.config()?;
    let outer = if p.meta().ethertype == IPV4 { outer_v4(p, config) } else { outer_v6(p, config) };
    let Some(outer) = outer else { return by_the_kernel(p, port) };
    let engine = port.flags & Port::ENGINE != 0;
    let binding = TunnelKey { ifindex: port.tunnel_ifindex, vtep: outer.source };
    // SAFETY: only its presence counts.
    let bound = unsafe { maps::vteps.get(binding) }.is_some();
    p.step_bound(&binding, bound);
    if !bound {
        return Err(DropReason::VtepNotBound);
    }
    if outer.flags & VNI_VALID == 0 {
        return Err(DropReason::VxlanInvalid);
    }
    let inner = if outer.v4 { OVERHEAD_V4 } else { OVERHEAD_V6 } as usize - ETH_BYTES as usize;
    let ethertype = u16::from_be_bytes(get(p.scratch(), inner + 12));
    if (ethertype != IPV4 && ethertype != IPV6) || !(engine || takes_whole(p, outer.vni)) {
        return by_the_kernel(p, port);
    }
    p.count(Counter::TunnelAccepted, 1);
    take_off(p, config, &outer, ethertype)
}

/// What stands before the inner packet. The bytes themselves lie in the working memory.
struct Outer {
    source: IpBytes,
    tos: u8,
    flags: u8,
    vni: u32,
    v4: bool,
}

/// `N` bytes of the working memory.
#[inline(always)]
fn get<const N: usize>(scratch: &Scratch, at: usize) -> [u8; N] {
    part(&scratch.frame, at)
}

/// VXLAN to this gateway over IPv4, without options and in one piece. A checksum, if there is one, is the kernel's matter.
#[inline(always)]
fn outer_v4(p: &Pkt, config: &Config) -> Option<Outer> {
    p.load_scratch::<OVERHEAD_V4>(ETH_BYTES).ok()?;
    let scratch = p.scratch();
    let [version, tos] = get(scratch, 0);
    let fragment = u16::from_be_bytes(get(scratch, 6)) & FRAGMENT != 0;
    let [protocol] = get(scratch, 9);
    let target: IpBytes = mapped(get(scratch, 16));
    let plain = version == 0x45 && protocol == UDP && !fragment && same_ip(target, config.local_vtep);
    if !plain || !is_vxlan(get(scratch, 20), config) {
        return None;
    }
    let vxlan: [u8; 8] = get(scratch, 28);
    Some(Outer { source: mapped(get(scratch, 12)), tos, flags: vxlan[0], vni: vni_of(&vxlan), v4: true })
}

/// VXLAN to this gateway over IPv6, without extension headers.
#[inline(always)]
fn outer_v6(p: &Pkt, config: &Config) -> Option<Outer> {
    p.load_scratch::<OVERHEAD_V6>(ETH_BYTES).ok()?;
    let scratch = p.scratch();
    let [first, second] = get(scratch, 0);
    let [next] = get(scratch, 6);
    let plain = first >> 4 == 6 && next == UDP && same_ip(get(scratch, 24), config.local_vtep);
    if !plain || !is_vxlan(get(scratch, 40), config) {
        return None;
    }
    let (vxlan, tos): ([u8; 8], u8) = (get(scratch, 48), first << 4 | second >> 4);
    Some(Outer { source: get(scratch, 8), tos, flags: vxlan[0], vni: vni_of(&vxlan), v4: false })
}

#[inline(always)]
fn is_vxlan(udp: [u8; 8], config: &Config) -> bool {
    u16::from_be_bytes([udp[2], udp[3]]) == config.vxlan_port && udp[6] | udp[7] == 0
}

#[inline(always)]
pub fn vni_of(vxlan: &[u8; 8]) -> u32 {
    u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]])
}

/// A plain packet always, an aggregate only where every device behind the segment takes it.
#[inline(always)]
fn takes_whole(p: &Pkt, vni: u32) -> bool {
    if p.skb.gso_size() == 0 {
        return true;
    }
    // SAFETY: read at once; plan entries are replaced whole.
    unsafe { maps::segments.get(vni) }.is_some_and(|segment| segment.flags & Segment::PLAIN_DEVICES != 0)
}

/// The way of the cross-connect, where there is one.
#[inline(always)]
fn by_the_kernel(p: &Pkt, port: &Port) -> Decision {
    if port.flags & Port::ENGINE != 0 {
        return Err(DropReason::VxlanInvalid);
    }
    if p.meta().ethertype == IPV6 {
        return p.go(Stage::Cross);
    }
    p.to_port(&port.peer)
}

#[inline(always)]
fn take_off(p: &Pkt, config: &Config, outer: &Outer, ethertype: u16) -> Decision {
    let v6 = ethertype == IPV6;
    if outer.v4 {
        uncover(p, OVERHEAD_V4, ethernet(p, OVERHEAD_V4), v6)?;
    } else {
        uncover(p, OVERHEAD_V6, ethernet(p, OVERHEAD_V6), v6)?;
    }
    let meta = p.meta();
    meta.hook = Hook::Vxlan as u8;
    meta.port = PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 };
    meta.slot = config.vxlan_slot;
    meta.vni = outer.vni;
    meta.vtep = outer.source;
    meta.flags &= !(Meta::ONE_TAG | Meta::TWO_TAGS);
    meta.ethertype = ethertype;
    p.step_ip(StepKind::OwnDecap, outer.source, outer.vni);
    let ecn = outer.tos & ECN_MASK;
    if ecn == ECN_CE || ecn == ECN_ECT1 {
        congestion(p, ecn, v6)?;
    }
    p.go(Stage::Classify)
}

/// The inner Ethernet header, in the working memory, which begins behind the outer one.
#[inline(always)]
fn ethernet(p: &Pkt, overhead: u32) -> *const u8 {
    // SAFETY: within the buffer of `BUILD_BYTES`.
    unsafe { p.scratch().frame.as_ptr().add((overhead - ETH_BYTES) as usize) }
}

/// Takes `overhead` bytes off, of which the last are the Ethernet header `inner`, now that of an IPv6 packet or not.
#[inline(always)]
pub fn uncover(p: &Pkt, overhead: u32, inner: *const u8, v6: bool) -> Result<(), DropReason> {
    let family = if v6 { DECAP_L3_IPV6 } else { DECAP_L3_IPV4 };
    p.skb.adjust_room(-(overhead as i32), FIXED_GSO | NO_CSUM_RESET | family)?;
    p.skb.store_raw(0, inner, ETH_BYTES, 0)?;
    p.count(Counter::Decapsulated, 1);
    Ok(())
}

/// Brings the outer ECN field to the inner header (RFC 6040 §4.2, figure 4).
#[inline(always)]
fn congestion(p: &Pkt, outer: u8, v6: bool) -> Result<(), DropReason> {
    let tos = p.tos()?;
    let inner = tos & ECN_MASK;
    if inner == 0 {
        return if outer == ECN_CE { Err(DropReason::EcnInvalid) } else { Ok(()) };
    }
    // Outer ECT(1) changes inner ECT(0) only; inner congestion stays.
    if inner == outer || inner == ECN_CE {
        return Ok(());
    }
    p.count(Counter::EcnMarked, 1);
    let marked = tos & !ECN_MASK | outer;
    if v6 {
        let [first, second] = p.skb.load::<2>(ETH_BYTES)?;
        let changed = [first & 0xf0 | marked >> 4, second & 0x0f | marked << 4];
        return p.skb.store(ETH_BYTES, &changed, RECOMPUTE_CSUM);
    }
    let first = p.skb.load::<1>(ETH_BYTES)?[0];
    let (from, to) = (u16::from_ne_bytes([first, tos]), u16::from_ne_bytes([first, marked]));
    p.skb.fix_ip_sum(ETH_BYTES + 10, from, to)?;
    p.skb.store(ETH_BYTES + 1, &[marked], 0)
}
