//! The flow cache ([`watari_abi::flow`]): a frame of a flow that was switched within moments takes the same way, from the
//! hook, without the pipeline. What it does there, it does with the pipeline's own functions: count, encapsulate,
//! decapsulate, tag.
//!
//! ```text
//!  hook ── header: TCP or UDP in one piece? ── flows: same key, epoch, alive? ── near: own encapsulation, or a port
//!            │ no                                │ no                          └ far: decapsulation, a port
//!            ▼                                   ▼
//!          pipeline                            pipeline, which remembers where the frame went
//! ```

mod far;
mod header;
mod near;

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use watari_abi::{Counter, Flow, FlowKey, Meta, PortKey, Segment, flow::FLOW_LIFE_NS, limits::FLOWS_MAX};

use crate::{
    fit::mtu_towards,
    headers::{IPV4, halves, mac_number, same_ip, same_mac},
    maps,
    out::Pkt,
    stages::encap::Way,
};

/// What the flow cache knows of a frame.
pub enum Seen {
    /// Of a flow that is known: it has gone its way, with this action.
    Gone(i32),
    /// For the pipeline: hash and [`Meta::path`].
    Not(u32, u32),
}

const NOT: Seen = Seen::Not(0, Meta::PATH_NONE);

/// Asks the flow cache about a frame from `port`. `flags` are those of [`Meta`]: tags, and those of a test run.
#[inline(always)]
pub fn known(p: &Pkt, port: PortKey, flags: u8) -> Seen {
    if flags & (Meta::TWO_TAGS | Meta::TRACE) != 0 || p.load_scratch::<{ header::BYTES_V4 }>(0).is_err() {
        return NOT;
    }
    let (Some(header), Ok(config), Some(epoch)) = (header::read::<0>(p), p.config(), maps::epoch.get(0))
    else {
        return NOT;
    };
    let meta = p.meta();
    meta.epoch = *epoch;
    meta.flags = flags;
    meta.port = port;
    let ours = || same_ip(header::target::<0>(p.scratch(), header.ethertype), config.local_vtep);
    if header.to_port == config.vxlan_port && ours() {
        return if header.ethertype == IPV4 {
            far::known::<{ far::INNER_V4 }>(p, config, &header)
        } else {
            far::known::<{ far::INNER_V6 }>(p, config, &header)
        };
    }
    near::known(p, config, &header)
}

/// The flow whose key lies in the working memory, if it is known and alive. It stays there, for [`Pkt::remember_port`].
#[inline(always)]
fn look_up(p: &Pkt) -> Option<&'static Flow> {
    let key = &p.scratch().flow;
    if maps::watch.get(0).is_none_or(|watch| watch.flags != 0) {
        return None;
    }
    let flow = maps::flows.get_ptr_mut(slot(key))?;
    // SAFETY: this CPU's own entry, which no other program writes while this one runs.
    let flow = unsafe { &*flow };
    let alive = flow.epoch == p.meta().epoch && now_ns() < flow.until_ns;
    if alive && same_key(&flow.key, key) { Some(flow) } else { None }
}

/// Writes the key down, but for its address. The inner Ethernet header is at `AT` of the working memory.
#[inline(always)]
fn note<const AT: usize>(p: &Pkt, port: PortKey, ethertype: u16, vni: u32) {
    let (dst, src) = (header::get(p.scratch(), AT), header::get(p.scratch(), AT + 6));
    let key = &mut p.scratch().flow;
    key.port = port;
    key.dst = dst;
    key.src = src;
    key.ethertype = ethertype;
    key.pad = 0;
    key.vni = vni;
    key.pad2 = 0;
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
fn same_key(one: &FlowKey, other: &FlowKey) -> bool {
    one.port.ifindex == other.port.ifindex
        && one.port.outer == other.port.outer
        && one.port.inner == other.port.inner
        && same_mac(one.dst, other.dst)
        && same_mac(one.src, other.src)
        && one.ethertype == other.ethertype
        && one.vni == other.vni
        && same_ip(one.from, other.from)
}

/// Multiplies and folds: every bit of both takes part in the upper ones.
#[inline(always)]
fn mix(one: u64, other: u64) -> u64 {
    let mixed = (one ^ other.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

#[inline(always)]
fn slot(key: &FlowKey) -> u32 {
    let (high, low) = halves(key.from);
    let macs = mix(mac_number(key.dst), mac_number(key.src));
    let place =
        u64::from(key.port.ifindex) << 32 | u64::from(key.port.outer) << 16 | u64::from(key.port.inner);
    let from = mix(high, low) ^ u64::from(key.vni);
    (mix(mix(macs, place), from) as u32) & (FLOWS_MAX - 1)
}

/// What goes on by the flow cache counts as what goes through the pipeline.
#[inline(always)]
fn counted(p: &Pkt) {
    let (packets, length) = (p.skb.packets(), p.skb.len());
    let meta = p.meta();
    meta.packets = packets;
    meta.len = length;
    p.count_rx();
}

impl Pkt {
    /// A frame from an attachment is on its way to a far gateway.
    #[inline(always)]
    pub fn switched_to_vtep(&self) {
        if self.meta().path == Meta::PATH_NEW && self.scratch().flow.vni == 0 && !self.from_vxlan() {
            self.meta().path = Meta::PATH_SWITCHED;
        }
    }

    /// Remembers that the frame goes out by `port`, if it was switched and is of a flow.
    #[inline(always)]
    pub fn remember_port(&self, port: &PortKey) {
        // A packet for our VTEP on a segment's own port is a frame like any other: its key is not one of those.
        let far = self.scratch().flow.vni != 0;
        if self.meta().path != Meta::PATH_NEW || far != self.from_vxlan() {
            return;
        }
        // SAFETY: read at once; plan entries are replaced whole.
        let segment = unsafe { maps::segments.get(self.meta().vni) };
        let whole = segment.is_some_and(|segment| segment.flags & Segment::PLAIN_DEVICES != 0);
        let Some(flow) = self.place() else { return };
        flow.kind = Flow::TO_PORT;
        flow.flags = if whole { Flow::WHOLE } else { 0 };
        flow.out = *port;
    }

    /// Remembers the way to the far gateway, if the frame was switched and is of a flow.
    #[inline(always)]
    pub fn remember_way(&self, way: &Way) {
        if self.meta().path != Meta::PATH_SWITCHED {
            return;
        }
        let mtu = mtu_towards(&self.meta().out_vtep);
        let Some(flow) = self.place() else { return };
        flow.kind = Flow::TO_VTEP;
        flow.out = way.port;
        flow.vtep = self.meta().out_vtep;
        flow.vni = self.meta().out_vni;
        flow.mtu = mtu;
        flow.next_hop = way.next_hop;
        flow.source = way.source;
    }

    /// The place of the packet's flow, taken.
    #[inline(always)]
    fn place(&self) -> Option<&mut Flow> {
        let key = &self.scratch().flow;
        let flow = maps::flows.get_ptr_mut(slot(key))?;
        // SAFETY: this CPU's own entry, which no other program reads while this one runs.
        let flow = unsafe { &mut *flow };
        flow.key = *key;
        flow.epoch = self.meta().epoch;
        flow.until_ns = now_ns() + FLOW_LIFE_NS;
        Some(flow)
    }
}

/// A packet of the flow cache has gone by `decision`.
#[inline(always)]
fn gone(p: &Pkt, decision: crate::out::Decision) -> Seen {
    p.count(Counter::FlowKnown, 1);
    Seen::Gone(p.ended(decision))
}
