//! Mtu: hosts on VLANs that exist keep 1500 bytes, and the way to a far gateway carries less. Here comes what
//! the stage `Encap` finds too large, and what opens a TCP connection.
//!
//! - TCP: the maximum segment size of SYN and SYN-ACK is lowered to what crosses (RFC 9293 §3.7.1, RFC 6691), on the
//!   way there and on the way from there; no option is added.
//! - IPv4 that must not be fragmented, and IPv6: an ICMP error goes back to the sender ([`crate::toobig`]).
//! - Other IPv4, and IPv6 up to 1280 bytes, which every link must carry (RFC 8200 §5): the outer packet is
//!   fragmented by the kernel and put together by the far one.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use watari_abi::{Counter, DropReason, Meta, Stage, StepKind};

use crate::{
    fit::{Inner, mtu_towards},
    headers::{ETH_BYTES, IPV4, is_mapped},
    out::{Decision, END, Pkt},
    skb::Skb,
};

const DONT_FRAGMENT: u8 = 0x40;
const MINIMUM_V6: u32 = 1280;
const TCP_BYTES: u32 = 20;
const TCP_SUM: u32 = 16;
const DATA_OFFSET: u32 = 12;
/// One byte each, at the worst: no more fit in a TCP header.
const OPTIONS_MAX: u32 = 40;
const OPTION_END: u8 = 0;
const OPTION_NONE: u8 = 1;
const OPTION_MSS: u8 = 2;
const MSS_BYTES: u8 = 4;

#[classifier]
#[inline(always)]
pub fn st_mtu(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let arrived = p.meta().fit == Meta::FIT_ARRIVED;
    let far = if arrived { p.meta().vtep } else { p.meta().out_vtep };
    let mtu = mtu_towards(&far);
    let inner = p.inner()?;
    let inner = p.behind_extensions(inner);
    if !arrived && let Some(bytes) = p.largest(&inner) {
        if bytes > mtu && !is_to_be_fragmented(p, bytes)? {
            return p.too_big(&inner, mtu);
        }
        if bytes > mtu {
            fragment(p)?;
        }
    }
    if mtu != 0 && p.is_syn(&inner) {
        clamp(p, &inner, mtu)?;
    }
    p.go(if arrived { Stage::Classify } else { Stage::Encap })
}

#[inline(always)]
fn is_to_be_fragmented(p: &Pkt, bytes: u32) -> Result<bool, DropReason> {
    if p.meta().ethertype == IPV4 {
        return Ok(p.skb.load::<1>(ETH_BYTES + 6)?[0] & DONT_FRAGMENT == 0);
    }
    Ok(bytes <= MINIMUM_V6)
}

/// Only an outer IPv4 packet is fragmented: what the kernel encapsulates in IPv6 it refuses to fragment (decision 11).
#[inline(always)]
fn fragment(p: &Pkt) -> Result<(), DropReason> {
    let far = p.meta().out_vtep;
    if !is_mapped(&far) {
        return Err(DropReason::TooBigSilent);
    }
    p.meta().fit = Meta::FIT_FRAGMENT;
    p.count(Counter::Fragmented, p.skb.packets());
    Ok(())
}

/// Lowers the maximum segment size, if the packet has the option.
#[inline(always)]
fn clamp(p: &Pkt, inner: &Inner, mtu: u32) -> Result<(), DropReason> {
    let tcp = inner.transport;
    let headers = if p.meta().ethertype == IPV4 { 40 } else { 60 };
    if mtu <= headers {
        return Ok(());
    }
    let limit = mtu - headers;
    let Ok([offset]) = p.skb.load::<1>(tcp + DATA_OFFSET) else { return Ok(()) };
    let end = tcp + u32::from(offset >> 4) * 4;
    let mut at = tcp + TCP_BYTES;
    let mut looked_at = 0;
    while looked_at < OPTIONS_MAX && at + u32::from(MSS_BYTES) <= end {
        looked_at += 1;
        let next = wt_option(p.skb.raw(), at);
        if next == at || next == 0 {
            break;
        }
        at = next;
    }
    match p.skb.load::<4>(at) {
        Ok([OPTION_MSS, MSS_BYTES, high, low]) if at + u32::from(MSS_BYTES) <= end => {
            lower(p, tcp, at + 2, [high, low], limit)
        }
        _ => Ok(()),
    }
}

/// Where the option behind the one at `at` is; `at` itself if that one is the segment size, 0 behind the last. Exported,
/// so that the verifier looks at it once and not once for every option.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_option(skb: *mut __sk_buff, at: u32) -> u32 {
    match Skb::new(&TcContext::new(skb)).load::<2>(at) {
        Ok([OPTION_NONE, _]) => at + 1,
        Ok([OPTION_MSS, MSS_BYTES]) => at,
        Ok([kind, length]) if kind != OPTION_END && length >= 2 => at + u32::from(length),
        _ => 0,
    }
}

/// Writes the lower value and mends the checksum. Both changes together leave the sum of the whole packet as it is,
/// and a checksum that a device will write covers the header itself.
#[inline(always)]
fn lower(p: &Pkt, tcp: u32, at: u32, old: [u8; 2], limit: u32) -> Result<(), DropReason> {
    if u32::from(u16::from_be_bytes(old)) <= limit {
        return Ok(());
    }
    let new = (limit as u16).to_be_bytes();
    let (mut from, mut to) = (u16::from_ne_bytes(old), u16::from_ne_bytes(new));
    if (at - tcp) & 1 != 0 {
        // Behind an odd number of bytes the two lie in different words of the sum.
        (from, to) = (from.swap_bytes(), to.swap_bytes());
    }
    p.skb.fix_l4_sum(tcp + TCP_SUM, from, to)?;
    p.skb.store(at, &new, 0)?;
    p.count(Counter::MssClamped, 1);
    p.step(StepKind::MssClamp, |step| step.number = limit);
    Ok(())
}
