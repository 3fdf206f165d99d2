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

use core::mem::offset_of;

use aya_ebpf::helpers::generated::bpf_ktime_get_coarse_ns;
use watari_abi::{
    Config, Counter, Flow, FlowKey, Meta, Port, PortKey, Segment, Verdict,
    flow::{FLOW_LIFE_NS, OUTER_WORDS},
    limits::FLOWS_MAX,
};

use crate::{
    account::{count_in, count_out},
    fit::mtu_towards,
    headers::unmapped,
    maps,
    out::{Decision, Exit, Pkt},
    stages::encap::{Way, sum_of_constants},
};
/// What all packets of a flow have in common in their outer header: all but DSCP and ECN, lengths, checksum and source port.
const SAME_V4: [u64; OUTER_WORDS] = [
    !0,
    !0,
    0xffff_ffff_0000_00ff,
    0xffff_ffff_0000_ffff,
    0xffff_0000_ffff_ffff,
    0xffff_ffff_ffff_0000,
    0x0000_0000_ffff_ffff,
    0,
    0,
];
/// The same over IPv6.
const SAME_V6: [u64; OUTER_WORDS] =
    [!0, !0, 0xffff_0000_ffff_00f0, !0, !0, !0, !0, 0xffff_0000_ffff_0000, !0];

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
    if flags & (Meta::TWO_TAGS | Meta::TRACE) != 0 {
        return NOT;
    }
    let (Some(header), Ok(config)) = (header::read(p.skb, 0), p.config()) else { return NOT };
    let meta = p.meta();
    meta.flags = flags;
    meta.port = port;
    if header.to_port == config.vxlan_port && header.target() == own_vtep(config, header.v4) {
        return far::known(p, config, port, &header);
    }
    near::known(p, config, port, &header)
}

#[inline(always)]
fn own_vtep(config: &Config, v4: bool) -> [u64; 2] {
    const _: () = assert!(offset_of!(Config, local_vtep) % 8 == 0);
    // SAFETY: a value of a map, which begins at a multiple of 8 bytes, and so does the address in it.
    let [high, low] = unsafe { (&raw const config.local_vtep).cast::<[u64; 2]>().read() };
    if v4 { [0, low >> 32] } else { [high, low] }
}

/// The flow of this key, if it is known and alive, and nobody looks at frames.
#[inline(always)]
fn look_up(key: &FlowKey) -> Option<&'static Flow> {
    if maps::watch.get(0).is_none_or(|watch| watch.flags != 0) {
        return None;
    }
    let flow = maps::flows.get_ptr_mut(slot(key))?;
    // SAFETY: this CPU's own entry, which no other program writes while this one runs.
    let flow = unsafe { &*flow };
    if flow.epoch != epoch()? || now_ns() >= flow.until_ns || !same_key(flow, key) {
        return None;
    }
    Some(flow)
}

/// For the pipeline, which remembers by this key where the packet goes.
#[inline(always)]
fn unknown(p: &Pkt, key: FlowKey, hash: u32) -> Seen {
    p.scratch().flow = key;
    let Some(epoch) = epoch() else { return Seen::Not(hash, Meta::PATH_NONE) };
    p.meta().epoch = epoch;
    Seen::Not(hash, Meta::PATH_NEW)
}

#[inline(always)]
fn epoch() -> Option<u64> {
    maps::epoch.get(0).copied()
}

/// The Ethernet header of a flow's packets, as its key has it: 14 bytes.
#[inline(always)]
fn ethernet(flow: &Flow) -> *const u8 {
    const _: () = assert!(offset_of!(FlowKey, src) == offset_of!(FlowKey, dst) + 8);
    // SAFETY: two bytes into the first of two words that lie side by side.
    unsafe { (&raw const flow.key.dst).cast::<u8>().add(2) }
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

#[inline(always)]
fn same_key(flow: &Flow, other: &FlowKey) -> bool {
    const _: () = assert!(offset_of!(Flow, key) == 0 && offset_of!(FlowKey, port) == 0);
    // SAFETY: a value of a map, which begins at a multiple of 8 bytes, and with the port.
    let place = unsafe { core::ptr::from_ref(flow).cast::<u64>().read() };
    let one = &flow.key;
    place == place_number(&other.port)
        && one.dst == other.dst
        && one.src == other.src
        && one.from[0] == other.from[0]
        && one.from[1] == other.from[1]
        && one.vni == other.vni
}

/// The port as it lies in memory.
#[inline(always)]
fn place_number(port: &PortKey) -> u64 {
    u64::from(port.ifindex) | u64::from(port.outer) << 32 | u64::from(port.inner) << 48
}

/// Multiplies and folds: every bit of both takes part in the upper ones.
#[inline(always)]
fn mix(one: u64, other: u64) -> u64 {
    let mixed = (one ^ other.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

#[inline(always)]
fn slot(key: &FlowKey) -> u32 {
    let place = place_number(&key.port) ^ key.vni << 20;
    let from = key.from[0] ^ key.from[1].rotate_left(17);
    (mix(mix(key.dst, key.src), mix(place, from)) as u32) & (FLOWS_MAX - 1)
}

/// What goes on by the flow cache counts as what goes through the pipeline: here at the port that it came in by. Returns
/// packets and bytes. Nobody watches, or the flow would not be known.
#[inline(always)]
fn arrived(p: &Pkt, flow: &Flow) -> (u32, u32) {
    let (packets, length) = (p.skb.packets(), p.skb.len());
    let meta = p.meta();
    meta.packets = packets;
    meta.slot = flow.in_slot;
    count_in(flow.in_slot, packets, length);
    (packets, length)
}

/// Out by the port of a flow.
#[inline(always)]
fn to_port(p: &Pkt, flow: &Flow, packets: u32, length: u32) -> Decision {
    count_out(flow.out_slot, packets, length);
    p.report(Verdict::PORT, |report| report.port = flow.out);
    p.tag(&flow.out)?;
    Ok(p.out_by(&Exit { port: flow.out, slot: flow.out_slot, near: flow.flags & Flow::NEAR != 0 }))
}

impl Pkt {
    /// A frame from an attachment is on its way to a far gateway.
    #[inline(always)]
    pub fn switched_to_vtep(&self) {
        if self.meta().path == Meta::PATH_NEW && self.scratch().flow.vni == 0 && !self.from_vxlan() {
            self.meta().path = Meta::PATH_SWITCHED;
        }
    }

    /// Remembers that the frame goes out by a port, if it was switched and is of a flow. Ports without a slot are none that
    /// the plan has, or just before they get theirs.
    #[inline(always)]
    pub fn remember_port(&self, exit: &Exit) {
        // A packet for our VTEP on a segment's own port is a frame like any other: its key is not one of those.
        let far = self.scratch().flow.vni != 0;
        if self.meta().path != Meta::PATH_NEW || far != self.from_vxlan() {
            return;
        }
        // SAFETY: read at once; plan entries are replaced whole.
        let segment = unsafe { maps::segments.get(self.meta().vni) };
        let in_slot = self.meta().hook_slot;
        if in_slot == 0 || exit.slot == 0 || (far && self.meta().slot == 0) {
            return;
        }
        let plain = segment.is_some_and(|segment| segment.flags & Segment::PLAIN_DEVICES != 0);
        // SAFETY: as above.
        let from = unsafe { maps::ports.get(self.scratch().flow.port) };
        let whole = plain || from.is_some_and(|from| from.flags & Port::ENGINE != 0);
        let Some(flow) = self.place() else { return };
        flow.kind = Flow::TO_PORT;
        flow.flags = if whole { Flow::WHOLE } else { 0 } | if exit.near { Flow::NEAR } else { 0 };
        flow.out = exit.port;
        (flow.in_slot, flow.out_slot) = (in_slot, exit.slot);
    }

    /// Remembers the way to the far gateway, if the frame was switched and is of a flow. Its outer header lies where
    /// frames are built.
    #[inline(always)]
    pub fn remember_way(&self, config: &Config, way: &Way) {
        let in_slot = self.meta().hook_slot;
        let slots = in_slot != 0 && way.slot != 0 && config.vxlan_slot != 0;
        if self.meta().path != Meta::PATH_SWITCHED || !slots {
            return;
        }
        let vtep = self.meta().out_vtep;
        let mtu = mtu_towards(&vtep);
        let Some(flow) = self.place() else { return };
        flow.kind = Flow::TO_VTEP;
        flow.flags = if way.v4 { 0 } else { Flow::OUTER_V6 } | if way.engine { Flow::ENGINE } else { 0 };
        flow.out = way.port;
        (flow.in_slot, flow.out_slot) = (in_slot, way.slot);
        flow.vtep = vtep;
        flow.vni = self.meta().out_vni;
        flow.mtu = mtu;
        flow.sum = sum_of_constants(unmapped(config.local_vtep), unmapped(vtep));
        let masks = if way.v4 { &SAME_V4 } else { &SAME_V6 };
        flow.header[0] = self.built(0) << 16 & masks[0];
        let mut at = 1;
        while at < OUTER_WORDS {
            flow.header[at] = self.built(at * 8 - 2) & masks[at];
            at += 1;
        }
    }

    /// Eight bytes of the frame that was built.
    #[inline(always)]
    fn built(&self, at: usize) -> u64 {
        // SAFETY: below `BUILD_BYTES - 8` at every call.
        unsafe { self.scratch().frame.as_ptr().add(at).cast::<u64>().read_unaligned() }
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
fn gone(p: &Pkt, decision: Decision) -> Seen {
    p.count(Counter::FlowKnown, 1);
    Seen::Gone(p.ended(decision))
}
