//! Flood: copies to the local ports of the segment and to its remote gateways, at the segment's rate. A frame
//! from a remote gateway never goes to another one; none goes back to where it came from.

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use watari_abi::{
    Counter, DropReason, Meta, Port, PortBucketKey, PortKey, Segment, StepKind,
    plan::{FLOOD_PORTS_MAX, FLOOD_VTEPS_MAX},
};

use crate::{
    fdb::same_port,
    headers::mac_number,
    maps,
    out::{Decision, END, Pkt},
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
    done(wt_to_ports(p.skb.raw()))?;
    if p.meta().flags & Meta::LOCAL_ONLY == 0 {
        done(wt_to_vteps(p.skb.raw()))?;
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

// The two loops are functions of their own, exported, with the packet alone as argument: the verifier then looks at
// each once, and not once for every state in which the stage may arrive there.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_to_ports(skb: *mut __sk_buff) -> u32 {
    let Some(p) = Pkt::open(TcContext::new(skb)) else { return 0 };
    code(to_ports(&p, p.meta().vni))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn wt_to_vteps(skb: *mut __sk_buff) -> u32 {
    let Some(p) = Pkt::open(TcContext::new(skb)) else { return 0 };
    code(to_vteps(&p, p.meta().vni))
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

#[inline(always)]
fn to_ports(p: &Pkt, vni: u32) -> Result<(), DropReason> {
    let Some(list) = maps::flood_ports.get_ptr(vni) else { return Ok(()) };
    // A question of our own may have to go back to where the packet came from.
    let question = p.meta().copy == Meta::COPY_QUESTION;
    let send = p.meta().flags & Meta::NO_CLONE == 0;
    let mut i = 0;
    while i < FLOOD_PORTS_MAX {
        // SAFETY: a live entry, and `i` is within its array.
        let (count, port) =
            unsafe { ((*list).count, (&raw const (*list).ports).cast::<PortKey>().add(i).read()) };
        if i as u32 >= count {
            break;
        }
        i += 1;
        if !question && same_port(&port, &p.meta().port) {
            continue;
        }
        if send {
            p.tag(&port)?;
            p.skb.clone_redirect(port.ifindex);
        }
        p.count_tx(&port);
        if send {
            p.untag(&port)?;
        }
        copied(p);
    }
    Ok(())
}

#[inline(always)]
fn to_vteps(p: &Pkt, vni: u32) -> Result<(), DropReason> {
    let Some(list) = maps::flood_vteps.get_ptr(vni) else { return Ok(()) };
    let config = p.config()?;
    if config.vxlan_ifindex == 0 {
        return Ok(());
    }
    let send = p.meta().flags & Meta::NO_CLONE == 0;
    let port = PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 };
    let from_vxlan = p.from_vxlan();
    let tos = p.outer_dscp(config)?;
    let mut i = 0;
    while i < FLOOD_VTEPS_MAX {
        // SAFETY: a live entry, and `i` is within its array.
        let (count, vtep) =
            unsafe { ((*list).count, (&raw const (*list).vteps).cast::<[u8; 16]>().add(i).read()) };
        if i as u32 >= count {
            break;
        }
        i += 1;
        if from_vxlan && !p.may_cross(&vtep) {
            continue;
        }
        if send {
            p.skb.set_tunnel_key(vni, &config.local_vtep, &vtep, tos)?;
            p.skb.clone_redirect(port.ifindex);
        }
        p.count_tx(&port);
        copied(p);
    }
    Ok(())
}

/// Counts in memory: in a register, the verifier would follow each number of copies by itself.
#[inline(always)]
fn copied(p: &Pkt) {
    p.meta().copies += 1;
}
