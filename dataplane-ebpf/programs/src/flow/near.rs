//! A frame from an attachment: to a port, or encapsulated and to a wire.

use watari_abi::{Config, Counter, DropReason, Flow, FlowKey, Meta, PortKey, Verdict, flow::HEAD_WORDS};

use super::{
    Seen, arrived, gone,
    header::{BYTES_V4, BYTES_V6, Header},
    look_up, to_port, unknown,
};
use crate::{
    account::count_out,
    fit::Inner,
    headers::{ETH_BYTES, UDP},
    out::{Decision, Pkt},
    skb::RECOMPUTE_CSUM,
    stages::encap::{ENCAP_V4, ENCAP_V6, make_room, sent, source_port},
    tos::{ECN_MASK, outer_tos},
};

/// The outer header that is written, as [`watari_abi::flow`] has it.
type Words = *mut [u64; HEAD_WORDS];
/// Bytes before the Ethernet header.
const SHIFT: u32 = 2;

#[inline(always)]
pub fn known(p: &Pkt, config: &Config, port: PortKey, header: &Header) -> Seen {
    if !header.plain {
        return Seen::Not(header.hash, Meta::PATH_NONE);
    }
    let head = header.head;
    let (dst, src) = (head.dst(), head.word::<1>());
    let key = FlowKey { port, dst, src, from: header.source(), vni: 0 };
    let Some(flow) = look_up(&key) else { return unknown(p, key, header.hash) };
    if flow.kind == Flow::TO_VTEP && !fits(p, header, flow.mtu) {
        return unknown(p, key, header.hash);
    }
    if p.meta().flags & Meta::ONE_TAG != 0 && p.skb.vlan_pop().is_err() {
        return unknown(p, key, header.hash);
    }
    let (packets, length) = arrived(p, flow);
    if flow.kind == Flow::TO_PORT {
        return gone(p, to_port(p, flow, packets, length));
    }
    count_out(config.vxlan_slot, packets, length);
    gone(p, encapsulated(p, config, flow, header.hash, outer_tos(config, header.tos)))
}

/// The packet crosses, each segment of it. An aggregate of UDP may be one of a tunnel, which is not encapsulated again
/// by the programs.
#[inline(always)]
fn fits(p: &Pkt, header: &Header, mtu: u32) -> bool {
    if p.skb.gso_size() == 0 {
        return mtu == 0 || p.skb.len() - ETH_BYTES <= mtu;
    }
    let transport = if header.v4 { 34 } else { 54 };
    let inner = Inner { tos: header.tos, protocol: header.protocol, transport, later_fragment: false };
    header.protocol != UDP && p.largest(&inner).is_some_and(|bytes| mtu == 0 || bytes <= mtu)
}

/// Writes the outer header, as `stages::encap` has done for the packet before.
#[inline(always)]
fn encapsulated(p: &Pkt, config: &Config, flow: &Flow, hash: u32, tos: u8) -> Decision {
    let out = flow.out;
    p.report(Verdict::VTEP, |report| {
        report.port = out;
        report.vni = flow.vni;
        report.vtep = flow.vtep;
    });
    let v4 = flow.flags & Flow::OUTER_V6 == 0;
    let (bytes, flags) = if v4 { (BYTES_V4, ENCAP_V4) } else { (BYTES_V6, ENCAP_V6) };
    if make_room(p, flow.flags & Flow::ENGINE != 0, bytes, flags).is_err() {
        return through_device(p, config, flow, tos);
    }
    let tos = u64::from(tos);
    if v4 {
        write_v4(p, flow, hash, tos);
        store::<BYTES_V4>(p)?;
    } else {
        write_v6(p, flow, hash, tos);
        store::<BYTES_V6>(p)?;
    }
    p.count(Counter::Encapsulated, 1);
    count_out(flow.out_slot, p.skb.packets(), p.skb.len());
    p.tag(&out)?;
    Ok(sent(p, flow.flags & Flow::ENGINE != 0, out.ifindex))
}

/// For what the kernel's helper does not encapsulate: a packet that counts as encapsulated already, because a container
/// tunnels of its own or a network card says so. The VXLAN device does, as in `stages::encap`.
#[inline(always)]
fn through_device(p: &Pkt, config: &Config, flow: &Flow, tos: u8) -> Decision {
    p.count(Counter::ThroughDevice, 1);
    p.skb.set_tunnel_key(flow.vni, &config.local_vtep, &flow.vtep, tos & !ECN_MASK)?;
    Ok(p.skb.redirect(config.vxlan_ifindex))
}

#[inline(always)]
fn store<const OVERHEAD: u32>(p: &Pkt) -> Result<(), DropReason> {
    let outer = words(p);
    p.skb.store_raw(0, bytes(outer, 0), ETH_BYTES, 0)?;
    p.skb.store_raw(ETH_BYTES, bytes(outer, ETH_BYTES), OVERHEAD, RECOMPUTE_CSUM)
}

#[inline(always)]
fn words(p: &Pkt) -> Words {
    &raw mut p.scratch().outer
}

/// Writes a word.
#[inline(always)]
fn set(words: Words, at: usize, value: u64) {
    // SAFETY: the working memory; constants at every call, below `HEAD_WORDS`.
    unsafe { words.cast::<u64>().add(at).write(value) }
}

/// Where the bytes begin that stand for the packet's from `at` on.
#[inline(always)]
fn bytes(words: Words, at: u32) -> *const u8 {
    // SAFETY: constants at every call, within the buffer.
    unsafe { words.cast::<u8>().add((SHIFT + at) as usize) }
}

/// Sixteen bits in network order.
#[inline(always)]
fn wire(value: u32) -> u64 {
    u64::from((value as u16).to_be())
}

#[inline(always)]
fn write_v4(p: &Pkt, flow: &Flow, hash: u32, tos: u64) {
    let (to, length) = (words(p), p.skb.len() - ETH_BYTES);
    let mut sum = flow.sum + tos as u32 + (length & 0xffff);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let header = &flow.header;
    ethernet(to, header);
    set(to, 2, header[2] | tos << 8 | wire(length) << 16);
    set(to, 3, header[3] | wire(!sum) << 16);
    set(to, 4, header[4] | wire(u32::from(source_port(hash))) << 32);
    set(to, 5, header[5] | wire(length - 20));
    let (dst, src) = (flow.key.dst, flow.key.src);
    set(to, 6, header[6] | (dst >> 16) << 32);
    set(to, 7, dst >> 48 | src << 16);
    set(to, 8, src >> 48);
}

#[inline(always)]
fn write_v6(p: &Pkt, flow: &Flow, hash: u32, tos: u64) {
    let (to, length) = (words(p), p.skb.len() - ETH_BYTES - 40);
    let header = &flow.header;
    ethernet(to, header);
    set(to, 2, header[2] | tos >> 4 | (tos & 0x0f) << 12 | wire(length) << 32);
    set(to, 3, header[3]);
    set(to, 4, header[4]);
    set(to, 5, header[5]);
    set(to, 6, header[6]);
    set(to, 7, header[7] | wire(u32::from(source_port(hash))) | wire(length) << 32);
    set(to, 8, header[8]);
    let (dst, src) = (flow.key.dst, flow.key.src);
    set(to, 9, dst >> 16 | src << 48);
    set(to, 10, src >> 16);
}

#[inline(always)]
fn ethernet(to: Words, header: &[u64]) {
    set(to, 0, header[0]);
    set(to, 1, header[1]);
}
