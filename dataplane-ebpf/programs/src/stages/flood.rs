//! Flood: copies to the local ports of the segment and to its remote gateways, at the segment's rate. A frame
//! from a remote gateway never goes to another one; none goes back to where it came from.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use watari_abi::{
    Counter, DropReason, IpBytes, Meta, Port, PortBucketKey, PortKey, Segment, StepKind,
    plan::{FLOOD_PORTS_MAX, FLOOD_VTEPS_MAX},
};

use crate::{
    fdb::same_port,
    headers::mac_number,
    maps,
    out::{Decision, END, Pkt, slot_of},
};

const BROADCAST: u64 = 0xffff_ffff_ffff;

#[classifier]
#[inline(always)]
pub fn st_flood(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let (vni, copy) = (p.meta().vni, p.meta().copy);
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(segment) = (unsafe { maps::segments.get(vni) }) else { return Err(DropReason::UnknownVni) };
    if let Err(reason) = limits(p, segment) {
        p.step(StepKind::NoCopies, |step| step.number = reason as u32);
        return Err(reason);
    }
    p.explain_copies();
    to_ports(p)?;
    if p.meta().flags & Meta::LOCAL_ONLY == 0 {
        to_vteps(p)?;
    }
    let copies = p.meta().copies;
    if copy == Meta::COPY_QUESTION {
        p.count(Counter::Gleaned, 1);
        p.count(Counter::FloodCopies, copies);
        return Err(DropReason::NeighbourUnknown);
    }
    if copies == 0 && copy == Meta::COPY_UNKNOWN {
        return Err(DropReason::UnknownUnicast);
    }
    p.flooded(copies)
}

/// What segment and attachment let through.
#[inline(always)]
fn limits(p: &Pkt, segment: &Segment) -> Result<(), DropReason> {
    allowed(p, segment)?;
    storm(p)?;
    if p.may_copy(segment) { Ok(()) } else { Err(DropReason::FloodRate) }
}

/// What the segment's policy says.
#[inline(always)]
fn allowed(p: &Pkt, segment: &Segment) -> Result<(), DropReason> {
    let (needed, reason) = match p.meta().copy {
        Meta::COPY_QUESTION => return Ok(()),
        Meta::COPY_UNKNOWN => (Segment::FLOOD_UNKNOWN, DropReason::UnknownUnicast),
        _ if mac_number(p.meta().dst) == BROADCAST => (Segment::FLOOD_BROADCAST, DropReason::FloodDisabled),
        _ => (Segment::FLOOD_MULTICAST, DropReason::FloodDisabled),
    };
    if segment.flags & needed == 0 { Err(reason) } else { Ok(()) }
}

/// What the guard of the attachment lets it send to more than one receiver. A question of our own is not its.
#[inline(always)]
fn storm(p: &Pkt) -> Result<(), DropReason> {
    if p.meta().flags & Meta::GUARDED == 0 || p.meta().copy == Meta::COPY_QUESTION {
        return Ok(());
    }
    let key = PortBucketKey { port: p.meta().port, kind: PortBucketKey::STORM };
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(port) = (unsafe { maps::ports.get(key.port) }) else { return Ok(()) };
    if port.guard & Port::GUARD_STORM == 0 || p.may_send(&key, port.storm_rate, port.storm_burst) {
        return Ok(());
    }
    p.event_guarded(DropReason::StormRate, [0; 16]);
    Err(DropReason::StormRate)
}

// One copy is a function of its own, exported, with the packet and a number as arguments: the verifier then looks at it
// once, and not once for every state in which a loop may arrive there.

const _: () = assert!(FLOOD_PORTS_MAX.is_power_of_two() && FLOOD_VTEPS_MAX.is_power_of_two());

/// Behind the last receiver.
const NO_MORE: u32 = 0xff;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_to_port(skb: *mut __sk_buff, index: u32) -> u32 {
    let Some(p) = Pkt::open(TcContext::new(skb)) else { return NO_MORE };
    to_port(&p, index)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_to_vtep(skb: *mut __sk_buff, index: u32) -> u32 {
    let Some(p) = Pkt::open(TcContext::new(skb)) else { return NO_MORE };
    to_vtep(&p, index)
}

#[inline(always)]
fn to_ports(p: &Pkt) -> Result<(), DropReason> {
    let mut index = 0;
    while index < FLOOD_PORTS_MAX as u32 {
        match wt_to_port(p.skb.raw(), index) {
            0 => index += 1,
            NO_MORE => break,
            code => return done(code),
        }
    }
    Ok(())
}

#[inline(always)]
fn to_vteps(p: &Pkt) -> Result<(), DropReason> {
    let mut index = 0;
    while index < FLOOD_VTEPS_MAX as u32 {
        match wt_to_vtep(p.skb.raw(), index) {
            0 => index += 1,
            NO_MORE => break,
            code => return done(code),
        }
    }
    Ok(())
}

/// A reason as a number; 0 for none.
#[inline(always)]
fn code(result: Result<(), DropReason>) -> u32 {
    match result {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

#[inline(always)]
fn done(code: u32) -> Result<(), DropReason> {
    match DropReason::from_u8(code as u8) {
        None => Ok(()),
        Some(reason) => Err(reason),
    }
}

/// A copy for the local port of this index; a code.
#[inline(always)]
fn to_port(p: &Pkt, index: u32) -> u32 {
    let Some(list) = maps::flood_ports.get_ptr(p.meta().vni) else { return NO_MORE };
    // SAFETY: a live entry.
    if index >= unsafe { (*list).count } {
        return NO_MORE;
    }
    // The verifier does not know that the count is no more than the array holds, but it follows a mask.
    let index = index as usize & (FLOOD_PORTS_MAX - 1);
    // SAFETY: the index is within the array.
    let port = unsafe { (&raw const (*list).ports).cast::<PortKey>().add(index).read() };
    // A question of our own may have to go back to where the packet came from.
    if p.meta().copy != Meta::COPY_QUESTION && same_port(&port, &p.meta().port) {
        return 0;
    }
    code(copy_to_port(p, &port))
}

#[inline(always)]
fn copy_to_port(p: &Pkt, port: &PortKey) -> Result<(), DropReason> {
    let send = p.meta().flags & Meta::NO_CLONE == 0;
    if send {
        p.tag(port)?;
        p.skb.clone_redirect(port.ifindex);
    }
    p.count_tx(port, slot_of(port));
    if send {
        p.untag(port)?;
    }
    copied(p);
    Ok(())
}

/// A copy for the far gateway of this index; a code.
#[inline(always)]
fn to_vtep(p: &Pkt, index: u32) -> u32 {
    let Some(list) = maps::flood_vteps.get_ptr(p.meta().vni) else { return NO_MORE };
    // SAFETY: a live entry.
    if index >= unsafe { (*list).count } {
        return NO_MORE;
    }
    // The verifier does not know that the count is no more than the array holds, but it follows a mask.
    let index = index as usize & (FLOOD_VTEPS_MAX - 1);
    // SAFETY: the index is within the array.
    let vtep = unsafe { (&raw const (*list).vteps).cast::<IpBytes>().add(index).read() };
    if p.from_vxlan() && !p.may_cross(&vtep) {
        return 0;
    }
    code(copy_to_vtep(p, &vtep))
}

#[inline(always)]
fn copy_to_vtep(p: &Pkt, vtep: &IpBytes) -> Result<(), DropReason> {
    let config = p.config()?;
    if config.vxlan_ifindex == 0 {
        return Ok(());
    }
    if p.meta().flags & Meta::NO_CLONE == 0 {
        let tos = p.outer_dscp(config)?;
        p.skb.set_tunnel_key(p.meta().vni, &config.local_vtep, vtep, tos)?;
        p.skb.clone_redirect(config.vxlan_ifindex);
    }
    p.count_tx(&PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 }, config.vxlan_slot);
    copied(p);
    Ok(())
}

/// Counts in memory: in a register, the verifier would follow each number of copies by itself.
#[inline(always)]
fn copied(p: &Pkt) {
    p.meta().copies += 1;
}
