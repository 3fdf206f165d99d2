//! Classify: device and tags, or VNI, tell segment and tenant. Guard: the source. Learn. Then the frame goes
//! to where its kind belongs, or is switched right here.

use aya_ebpf::{macros::classifier, programs::TcContext};
use watari_abi::{Config, DropReason, Hook, Meta, Port, PortKey, PortKind, SegmentKind, Stage, StepKind};

use crate::{
    headers::{
        ARP, ETH_BYTES, ICMPV6, IPV4, IPV6, ND_ADVERT, ND_SOLICIT, is_link_local, is_tag, part, same_mac,
    },
    maps,
    out::{Decision, END, Pkt},
};

#[classifier]
#[inline(always)]
pub fn st_classify(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

/// What a frame is, by where it came from.
enum Arrived {
    /// It has gone its way.
    Gone(i32),
    /// A packet for the tenant's routes.
    Routed,
    /// A frame of a segment, from an attachment with this guard.
    Near(u16),
    /// A frame of a segment, from a far gateway.
    Far,
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let arrived = if p.from_vxlan() { from_vxlan(p)? } else { from_port(p)? };
    let guard = match arrived {
        Arrived::Gone(action) => return Ok(action),
        Arrived::Routed => return routed(p),
        Arrived::Near(guard) => Some(guard),
        Arrived::Far => None,
    };
    allowed(p)?;
    match guard {
        None => p.far_source()?,
        // The guard sends back what it lets through.
        Some(guard) if guard != 0 && p.meta().flags & Meta::GUARDED == 0 => return p.go(Stage::Guard),
        Some(guard) => p.source(guard)?,
    }
    switched(p)
}

#[inline(always)]
fn from_port(p: &Pkt) -> Result<Arrived, DropReason> {
    let key = p.meta().port;
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(port) = (unsafe { maps::ports.get(key) }) else { return unknown_port(p).map(Arrived::Gone) };
    if p.meta().flags & Meta::GUARDED != 0 {
        return Ok(Arrived::Near(port.guard));
    }
    (p.meta().slot, p.meta().hook_slot) = (port.slot, port.slot);
    strip_tags(p)?;
    read_ethernet(p)?;
    let meta = p.meta();
    meta.tenant = port.tenant;
    // Of a segment's ports alone; zero for the others, until a route or a node tells.
    meta.vni = port.vni;
    step_port(p, port);
    p.count_rx();
    if port.kind == PortKind::Segment as u8 && p.is_beacon() {
        return p.beacon().map(Arrived::Gone);
    }
    if port.flags & Port::BLOCKED != 0 {
        return Err(DropReason::LoopBlocked);
    }
    match PortKind::from_u8(port.kind) {
        Some(PortKind::Segment) => Ok(Arrived::Near(port.guard)),
        Some(PortKind::Core) if p.meta().hook == Hook::Core as u8 => Ok(Arrived::Routed),
        Some(PortKind::Node) if p.meta().hook == Hook::Node as u8 => Ok(Arrived::Routed),
        Some(PortKind::Cross) => crossed(p, port).map(Arrived::Gone),
        _ => Err(DropReason::UnknownPort),
    }
}

#[inline(always)]
fn step_port(p: &Pkt, port: &Port) {
    let key = p.meta().port;
    let kind = match PortKind::from_u8(port.kind) {
        Some(PortKind::Core) => StepKind::CorePort,
        Some(PortKind::Cross) => StepKind::CrossPort,
        Some(PortKind::Node) => StepKind::NodePort,
        _ => StepKind::Attachment,
    };
    p.step(kind, |step| {
        step.port = key;
        step.number = port.vni;
        step.flags = port.guard;
    });
}

/// A trunk may carry more than ours: the kernel gets the rest, but no inner tag behind one that is a port by itself
/// (double-tag hopping). Other devices are ours alone.
#[inline(always)]
fn unknown_port(p: &Pkt) -> Decision {
    let (hook, port) = (p.meta().hook, p.meta().port);
    p.step(StepKind::NoPort, |step| step.port = port);
    if port.inner != 0 {
        let outer = PortKey { inner: 0, ..port };
        // SAFETY: only its presence counts.
        if unsafe { maps::ports.get(outer) }.is_some() {
            return Err(DropReason::UnexpectedTag);
        }
    }
    if hook == Hook::Trunk as u8 {
        return p.passed();
    }
    if hook == Hook::Interface as u8 && (port.outer != 0 || port.inner != 0) {
        return Err(DropReason::UnexpectedTag);
    }
    Err(DropReason::UnknownPort)
}

/// Takes the port's tags off. Behind the second the kernel brings up a third one, if there is one.
#[inline(always)]
fn strip_tags(p: &Pkt) -> Result<(), DropReason> {
    let flags = p.meta().flags;
    if flags & (Meta::ONE_TAG | Meta::TWO_TAGS) != 0 {
        p.skb.vlan_pop()?;
    }
    if flags & Meta::TWO_TAGS != 0 {
        p.skb.vlan_pop()?;
        if p.skb.vid().is_some() {
            return Err(DropReason::UnexpectedTag);
        }
    }
    Ok(())
}

#[inline(always)]
fn read_ethernet(p: &Pkt) -> Result<(), DropReason> {
    let header = p.skb.load::<{ ETH_BYTES as usize }>(0)?;
    let (length, packets) = (p.skb.len(), p.skb.packets());
    let meta = p.meta();
    meta.dst = part(&header, 0);
    meta.src = part(&header, 6);
    meta.ethertype = u16::from_be_bytes([header[12], header[13]]);
    meta.len = length;
    meta.packets = packets;
    Ok(())
}

#[inline(always)]
fn from_vxlan(p: &Pkt) -> Result<Arrived, DropReason> {
    let (vni, config) = (p.meta().vni, p.config()?);
    // What its hook saw of a device that is none of ours any more counts by that device.
    p.meta().slot = if p.meta().port.ifindex == config.vxlan_ifindex { config.vxlan_slot } else { 0 };
    read_ethernet(p)?;
    if p.meta().fit == Meta::FIT_UNKNOWN && p.opens_from_afar() {
        p.meta().fit = Meta::FIT_ARRIVED;
        return p.go(Stage::Mtu).map(Arrived::Gone);
    }
    p.count_rx();
    // SAFETY: read at once; plan entries are replaced whole.
    let segment = unsafe { maps::segments.get(vni) };
    let vtep = p.meta().vtep;
    let Some(segment) = segment else {
        p.step_ip(StepKind::NoSegment, vtep, vni);
        return Err(DropReason::UnknownVni);
    };
    p.step_ip(StepKind::FromVtep, vtep, vni);
    p.meta().tenant = segment.tenant;
    if segment.kind == SegmentKind::L2 as u8 {
        return Ok(Arrived::Far);
    }
    if segment.kind != SegmentKind::L3 as u8 || !same_mac(p.meta().dst, config.router_mac) {
        return Err(DropReason::WrongVni);
    }
    Ok(Arrived::Routed)
}

#[inline(always)]
fn routed(p: &Pkt) -> Decision {
    let ethertype = p.meta().ethertype;
    if ethertype != IPV4 && ethertype != IPV6 {
        return Err(DropReason::NotRoutable);
    }
    p.go(Stage::Route)
}

#[inline(always)]
fn crossed(p: &Pkt, port: &Port) -> Decision {
    let (dst, ethertype) = (p.meta().dst, p.meta().ethertype);
    if is_link_local(dst, ethertype) {
        return Err(DropReason::LinkLocalProtocol);
    }
    let ip = ethertype == IPV4 || ethertype == IPV6;
    if port.flags & Port::ENGINE != 0 {
        return if ip { p.go(Stage::Decap) } else { Err(DropReason::VxlanInvalid) };
    }
    if port.flags & Port::TUNNEL != 0 && p.config()?.flags & Config::OWN_ENCAP != 0 && ethertype != ARP {
        return if ip { p.go(Stage::Decap) } else { p.to_port(&port.peer) };
    }
    let answers = port.answer_mac[0] | port.answer_mac[1] | port.answer_mac[2] | port.answer_mac[5] != 0;
    if answers && (ethertype == ARP || ethertype == IPV6) {
        return p.go(Stage::Cross);
    }
    p.to_port(&port.peer)
}

/// Frames of no segment: what must not leave its link, and what has a tag more than its port. Without the second an
/// untagged attachment would carry it into somebody's VLAN.
#[inline(always)]
fn allowed(p: &Pkt) -> Result<(), DropReason> {
    let (dst, ethertype) = (p.meta().dst, p.meta().ethertype);
    // A beacon that comes out of the overlay tells nothing of the wires here.
    if is_link_local(dst, ethertype) || p.is_beacon() {
        return Err(DropReason::LinkLocalProtocol);
    }
    if is_tag(ethertype) { Err(DropReason::UnexpectedTag) } else { Ok(()) }
}

/// A frame of a segment, from somebody who may send it.
#[inline(always)]
fn switched(p: &Pkt) -> Decision {
    let (dst, ethertype) = (p.meta().dst, p.meta().ethertype);
    if ethertype == ARP || (ethertype == IPV6 && is_neighbour_discovery(p)?) {
        return p.go(Stage::Answer);
    }
    let config = p.config()?;
    if same_mac(dst, config.anycast_mac) || same_mac(dst, config.router_mac) {
        return routed(p);
    }
    p.forward()
}

/// A neighbour solicitation or advertisement, right behind the IPv6 header.
#[inline(always)]
pub fn is_neighbour_discovery(p: &Pkt) -> Result<bool, DropReason> {
    let next = p.skb.load::<1>(20)?;
    if next[0] != ICMPV6 {
        return Ok(false);
    }
    let kind = p.skb.load::<1>(54)?;
    Ok(kind[0] == ND_SOLICIT || kind[0] == ND_ADVERT)
}
