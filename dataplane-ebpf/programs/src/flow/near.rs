//! A frame from an attachment: to a port, or encapsulated and to a wire.

use watari_abi::{Config, DropReason, Flow, Meta};

use super::{
    Seen, counted, gone,
    header::{self, Header},
    look_up, note,
};
use crate::{
    fit::Inner,
    headers::{UDP, is_mapped},
    out::{Decision, Pkt},
    stages::encap::{self, Way},
    tos::outer_tos,
};

#[inline(always)]
pub fn known(p: &Pkt, config: &Config, header: &Header) -> Seen {
    if !header.plain {
        return Seen::Not(header.hash, Meta::PATH_NONE);
    }
    let unknown = Seen::Not(header.hash, Meta::PATH_NEW);
    note::<0>(p, p.meta().port, header.ethertype, 0);
    p.scratch().flow.from = header::source::<0>(p.scratch(), header.ethertype);
    let Some(flow) = look_up(p) else { return unknown };
    if flow.kind == Flow::TO_VTEP && !fits(p, header, flow.mtu) {
        return unknown;
    }
    if p.meta().flags & Meta::ONE_TAG != 0 && p.skb.vlan_pop().is_err() {
        return unknown;
    }
    counted(p);
    let decision =
        if flow.kind == Flow::TO_PORT { p.to_port(&flow.out) } else { encapsulated(p, config, header, flow) };
    gone(p, decision)
}

/// The packet crosses, each segment of it. An aggregate of UDP may be one of a tunnel, which is not encapsulated again
/// by the programs.
#[inline(always)]
fn fits(p: &Pkt, header: &Header, mtu: u32) -> bool {
    if header.protocol == UDP && p.skb.gso_size() != 0 {
        return false;
    }
    let Header { tos, protocol, transport, .. } = *header;
    let inner = Inner { tos, protocol, transport, later_fragment: false };
    p.largest(&inner).is_some_and(|bytes| mtu == 0 || bytes <= mtu)
}

#[inline(always)]
fn encapsulated(p: &Pkt, config: &Config, header: &Header, flow: &Flow) -> Decision {
    let meta = p.meta();
    meta.out_vni = flow.vni;
    meta.out_vtep = flow.vtep;
    meta.hash = header.hash;
    let Flow { next_hop, source, out, .. } = *flow;
    let way = Way { port: out, next_hop, source, v4: is_mapped(&flow.vtep) };
    encap::own(p, config, &way, outer_tos(config, header.tos))?.ok_or(DropReason::RewriteFailed)
}
