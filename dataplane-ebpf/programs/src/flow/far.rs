//! A frame out of a `direct` tunnel: VXLAN to this gateway, decapsulated and to a port.

use watari_abi::{Config, Counter, Flow, FlowKey, Meta, PortKey};

use super::{
    Seen, arrived, ethernet, gone,
    header::{self, BYTES_V4, BYTES_V6, Header},
    look_up, to_port, unknown,
};
use crate::{
    account::count_in,
    out::{Decision, Pkt},
    stages::decap,
    tos::{ECN_CE, ECN_ECT1, ECN_MASK},
};

/// VXLAN to this gateway, by the outer header `outer`. Congestion that the outer header carries is brought inside by
/// the pipeline.
#[inline(always)]
pub fn known(p: &Pkt, config: &Config, port: PortKey, outer: &Header) -> Seen {
    let not = Seen::Not(outer.hash, Meta::PATH_NONE);
    let ecn = outer.tos & ECN_MASK;
    if config.flags & Config::OWN_ENCAP == 0 || ecn == ECN_CE || ecn == ECN_ECT1 {
        return not;
    }
    // Over IPv4: length, checksum, flags in word 5. Over IPv6: checksum in word 7, flags in word 8, and the VNI.
    let head = outer.head;
    let (checksum, flags, vni) = if outer.v4 {
        (head.word::<5>() >> 16 & 0xffff, head.word::<5>() >> 32, head.half::<6>())
    } else {
        (head.word::<7>() >> 48, head.word::<8>(), head.word::<8>() >> 32)
    };
    let vni = u64::from((vni as u32).to_be() >> 8);
    if checksum != 0 || flags & u64::from(decap::VNI_VALID) == 0 || vni == 0 {
        return not;
    }
    let from = outer.source();
    // From here on the outer header is not read any more: looking for the inner one may move it.
    let header = if outer.v4 { header::read(p.skb, BYTES_V4) } else { header::read(p.skb, BYTES_V6) };
    let Some(header) = header else { return not };
    if !header.plain {
        return not;
    }
    let inner = header.head;
    let key = FlowKey { port, dst: inner.dst(), src: inner.word::<1>(), from, vni };
    let Some(flow) = look_up(&key) else { return unknown(p, key, outer.hash) };
    if p.skb.gso_size() != 0 && flow.flags & Flow::WHOLE == 0 {
        return unknown(p, key, outer.hash);
    }
    if p.meta().flags & Meta::ONE_TAG != 0 && p.skb.vlan_pop().is_err() {
        return unknown(p, key, outer.hash);
    }
    arrived(p, flow);
    gone(p, uncovered(p, config, flow, (outer.v4, header.v4)))
}

#[inline(always)]
fn uncovered(p: &Pkt, config: &Config, flow: &Flow, (outer_v4, v4): (bool, bool)) -> Decision {
    p.count(Counter::TunnelAccepted, 1);
    if outer_v4 {
        decap::uncover(p, BYTES_V4, ethernet(flow), !v4)?;
    } else {
        decap::uncover(p, BYTES_V6, ethernet(flow), !v4)?;
    }
    let meta = p.meta();
    meta.port = PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 };
    meta.slot = config.vxlan_slot;
    let (packets, length) = (p.skb.packets(), p.skb.len());
    meta.packets = packets;
    count_in(config.vxlan_slot, packets, length);
    to_port(p, flow, packets, length)
}
