//! Route: packets to the gateway's MAC, from the tenant's namespace and from nodes, by the tenant's longest match.
//!
//! A packet loses a hop (RFC 1812 §5.3.1, RFC 8200 §3) unless it stays what it is for its sender: from the
//! namespace (the kernel there has counted, or is the sender itself), and between a node and its own segment
//! (which is one link to both).

use aya_ebpf::{macros::classifier, maps::lpm_trie::Key, programs::TcContext};
use watari_abi::{
    Counter, DropReason, EventKind, Hook, IpBytes, MacBytes, Meta, NodeKey, PortKey, Route, RouteKey4,
    RouteKey6, RouteKind, Stage, StepKind,
};

use crate::{
    fdb::{Place, owner_of, place_of},
    headers::{ETH_BYTES, IPV4, mapped, part, unmapped},
    maps,
    nd::{ARP_FRAME, ND_FRAME, build_arp_question, build_solicit},
    out::{Decision, END, Pkt},
    skb::RECOMPUTE_CSUM,
};

const TTL_V4: u32 = 22;
const SUM_V4: u32 = 24;
const HOPS_V6: u32 = 21;
const TENANT_BITS: u32 = 32;

#[classifier]
#[inline(always)]
pub fn st_route(ctx: TcContext) -> i32 {
    let Some(packet) = Pkt::open(ctx) else { return END };
    packet.ended(run(&packet))
}

/// What the IP header says.
struct Ip {
    src: IpBytes,
    dst: IpBytes,
    hops: u8,
    v4: bool,
}

#[inline(always)]
fn run(p: &Pkt) -> Decision {
    let ip = if p.meta().ethertype == IPV4 { read_v4(p)? } else { read_v6(p)? };
    let hook = p.meta().hook;
    if hook == Hook::Node as u8 {
        guard_node(p, &ip)?;
    }
    let tenant = p.meta().tenant.to_be_bytes();
    let route = if ip.v4 {
        let data = RouteKey4 { tenant, addr: unmapped(ip.dst) };
        maps::routes4.get(Key::new(TENANT_BITS + 32, data))
    } else {
        maps::routes6.get(Key::new(TENANT_BITS + 128, RouteKey6 { tenant, addr: ip.dst }))
    };
    let Some(route) = route else {
        p.step_ip(StepKind::NoRoute, ip.dst, p.meta().tenant);
        return Err(DropReason::NoRoute);
    };
    step_route(p, route, &ip);
    let from_core = hook == Hook::Core as u8;
    let Some(kind) = RouteKind::from_u8(route.kind) else { return Err(DropReason::NoRoute) };
    match kind {
        RouteKind::Blackhole => Err(DropReason::Blackhole),
        RouteKind::Own | RouteKind::Exit if from_core => Err(DropReason::CoreLoop),
        RouteKind::Own => to_core(p, Counter::PuntedOwn),
        RouteKind::Exit => to_core(p, Counter::Exited),
        RouteKind::Remote if p.from_vxlan() && !p.may_cross(&route.vtep) => Err(DropReason::MeshToMesh),
        RouteKind::Connected | RouteKind::Remote | RouteKind::Node => {
            let same_link = hook == Hook::Node as u8
                && (kind == RouteKind::Node || (kind == RouteKind::Connected && route.vni == p.meta().vni));
            if !from_core && !same_link {
                if ip.hops <= 1 {
                    return to_core(p, Counter::PuntedTtl);
                }
            }
            onward(p, route, kind, &ip, !from_core && !same_link)
        }
    }
}

/// The route and, if it has one, its next step.
#[inline(always)]
fn step_route(p: &Pkt, route: &Route, ip: &Ip) {
    let tenant = p.meta().tenant;
    p.step(StepKind::Route, |step| {
        step.number = u32::from(route.kind);
        step.flags = u16::from(route.origin);
        step.ip = ip.dst;
        step.port.ifindex = tenant;
    });
    p.step(StepKind::RouteVia, |step| {
        let remote = route.kind == RouteKind::Remote as u8;
        step.number = route.vni;
        step.ip = if remote { route.vtep } else { route.gateway };
        step.mac = route.mac;
        step.port.ifindex = route.ifindex;
        step.flags = u16::from(route.kind);
    });
}

#[inline(always)]
fn read_v4(p: &Pkt) -> Result<Ip, DropReason> {
    let header = p.skb.load::<20>(ETH_BYTES)?;
    let total = u32::from(u16::from_be_bytes([header[2], header[3]]));
    let words = u32::from(header[0] & 0x0f);
    if header[0] >> 4 != 4 || words < 5 || total < words * 4 || total + ETH_BYTES > p.meta().len {
        return Err(DropReason::Malformed);
    }
    let (src, dst): ([u8; 4], [u8; 4]) = (part(&header, 12), part(&header, 16));
    if dst[0] >= 224 {
        return Err(DropReason::MulticastNotRouted);
    }
    if src[0] >= 224 || src[0] == 127 || src[0] == 0 {
        return Err(DropReason::SourceIpInvalid);
    }
    Ok(Ip { src: mapped(src), dst: mapped(dst), hops: header[8], v4: true })
}

#[inline(always)]
fn read_v6(p: &Pkt) -> Result<Ip, DropReason> {
    let header = p.skb.load::<40>(ETH_BYTES)?;
    let payload = u32::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || payload + 40 + ETH_BYTES > p.meta().len {
        return Err(DropReason::Malformed);
    }
    let (src, dst): (IpBytes, IpBytes) = (part(&header, 8), part(&header, 24));
    if dst[0] == 0xff {
        return Err(DropReason::MulticastNotRouted);
    }
    if src[0] == 0xff || crate::headers::is_zero(src) {
        return Err(DropReason::SourceIpInvalid);
    }
    Ok(Ip { src, dst, hops: header[7], v4: false })
}

/// A node sends with its own addresses only; they tell which segment it lives in and by which MAC.
#[inline(always)]
fn guard_node(p: &Pkt, ip: &Ip) -> Result<(), DropReason> {
    let key = NodeKey { ifindex: p.meta().port.ifindex, ip: ip.src };
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(node) = (unsafe { maps::nodes.get(key) }) else { return Err(DropReason::SourceIpUnknown) };
    p.step(StepKind::NodeAddress, |step| {
        step.ip = ip.src;
        step.mac = node.mac;
        step.number = node.vni;
    });
    let meta = p.meta();
    meta.vni = node.vni;
    meta.src = node.mac;
    Ok(())
}

/// To the tenant's namespace: the gateway's own IP stack.
#[inline(always)]
fn to_core(p: &Pkt, counter: Counter) -> Decision {
    let tenant = p.meta().tenant;
    // SAFETY: read at once; plan entries are replaced whole.
    let Some(tenant) = (unsafe { maps::tenants.get(tenant) }) else { return Err(DropReason::NoCore) };
    if tenant.core_ifindex == 0 {
        return Err(DropReason::NoCore);
    }
    let config = p.config()?;
    p.step(StepKind::ToCore, |step| {
        step.number = counter as u32;
        step.mac = tenant.core_mac;
        step.port.ifindex = tenant.core_ifindex;
    });
    address(p, &tenant.core_mac, &config.anycast_mac)?;
    p.count(counter, 1);
    p.to_port(&PortKey { ifindex: tenant.core_ifindex, outer: 0, inner: 0 })
}

#[inline(always)]
fn onward(p: &Pkt, route: &Route, kind: RouteKind, ip: &Ip, hop: bool) -> Decision {
    if kind == RouteKind::Connected {
        return connected(p, route, ip, hop);
    }
    if hop {
        lose_hop(p, ip)?;
    }
    if kind == RouteKind::Node {
        return p.to_port(&PortKey { ifindex: route.ifindex, outer: 0, inner: 0 });
    }
    let config = p.config()?;
    address(p, &route.mac, &config.router_mac)?;
    p.to_vtep(route.vni, &route.vtep)
}

#[inline(always)]
fn connected(p: &Pkt, route: &Route, ip: &Ip, hop: bool) -> Decision {
    let Some(owner) = owner_of(p, route.vni, ip.dst) else { return ask(p, route, ip) };
    if owner.own {
        let from_core = p.meta().hook == Hook::Core as u8;
        return if from_core { Err(DropReason::CoreLoop) } else { to_core(p, Counter::PuntedOwn) };
    }
    let place = place_of(p, route.vni, owner.mac);
    match place {
        Place::Nowhere => return ask(p, route, ip),
        Place::Vtep(vtep) if p.from_vxlan() && !p.may_cross(&vtep) => return Err(DropReason::MeshToMesh),
        _ => {}
    }
    let source = source_mac(p, route, ip, hop)?;
    if hop {
        lose_hop(p, ip)?;
    }
    address(p, &owner.mac, &source)?;
    p.meta().vni = route.vni;
    p.to_place(place)
}

/// Who sends into the segment: the node itself, the gateway's address that the namespace sends from, or the gateway.
#[inline(always)]
fn source_mac(p: &Pkt, route: &Route, ip: &Ip, hop: bool) -> Result<MacBytes, DropReason> {
    let hook = p.meta().hook;
    if hook == Hook::Node as u8 && !hop {
        return Ok(p.meta().src);
    }
    if hook == Hook::Core as u8
        && let Some(sender) = owner_of(p, route.vni, ip.src)
        && sender.own
    {
        return Ok(sender.mac);
    }
    Ok(p.config()?.anycast_mac)
}

/// Turns the packet into a question for its destination.
#[inline(always)]
fn ask(p: &Pkt, route: &Route, ip: &Ip) -> Decision {
    let config = p.config()?;
    p.event(EventKind::Gleaned, [0; 6], ip.dst);
    p.step_ip(StepKind::Ask, ip.dst, route.vni);
    if ip.v4 {
        let (sender, target) = (unmapped(route.gateway), unmapped(ip.dst));
        build_arp_question(p.scratch(), &config.anycast_mac, sender, target);
        p.become_question::<ARP_FRAME>()?;
    } else {
        build_solicit(p.scratch(), &config.anycast_mac, &route.gateway, &ip.dst);
        p.become_question::<ND_FRAME>()?;
    }
    let meta = p.meta();
    meta.vni = route.vni;
    meta.copy = Meta::COPY_QUESTION;
    p.go(Stage::Flood)
}

/// Writes the Ethernet addresses. They are outside every checksum.
#[inline(always)]
fn address(p: &Pkt, dst: &MacBytes, src: &MacBytes) -> Result<(), DropReason> {
    p.skb.store(0, dst, 0)?;
    p.skb.store(6, src, 0)
}

#[inline(always)]
fn lose_hop(p: &Pkt, ip: &Ip) -> Result<(), DropReason> {
    p.count(Counter::Routed, 1);
    let hops = ip.hops - 1;
    p.step(StepKind::Hop, |step| step.number = u32::from(hops));
    if !ip.v4 {
        return p.skb.store(HOPS_V6, &[hops], RECOMPUTE_CSUM);
    }
    // The header's own checksum makes up for the change, so the packet's sum stays as it is.
    let protocol = p.skb.load::<1>(TTL_V4 + 1)?;
    let from = u16::from_ne_bytes([ip.hops, protocol[0]]);
    let to = u16::from_ne_bytes([hops, protocol[0]]);
    p.skb.fix_ip_sum(SUM_V4, from, to)?;
    p.skb.store(TTL_V4, &[hops], 0)
}
