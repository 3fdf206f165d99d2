//! A frame out of a `direct` tunnel: VXLAN to this gateway, decapsulated and to a port.

use watari_abi::{Config, Counter, Flow, Meta, PortKey};

use super::{
    Seen, counted, gone,
    header::{self, Header, get},
    look_up, note,
};
use crate::{
    headers::{ETH_BYTES, IPV4},
    out::{Decision, Pkt},
    stages::{
        decap,
        encap::{OVERHEAD_V4, OVERHEAD_V6},
    },
    tos::{ECN_CE, ECN_ECT1, ECN_MASK},
};

/// Where the inner Ethernet header is, over IPv4.
pub const INNER_V4: usize = OVERHEAD_V4 as usize;
/// Where the inner Ethernet header is, over IPv6.
pub const INNER_V6: usize = OVERHEAD_V6 as usize;

/// VXLAN to this gateway, by the outer header `outer`. Congestion that the outer header carries is brought inside by
/// the pipeline.
#[inline(always)]
pub fn known<const INNER: usize>(p: &Pkt, config: &Config, outer: &Header) -> Seen {
    let not = Seen::Not(outer.hash, Meta::PATH_NONE);
    let ecn = outer.tos & ECN_MASK;
    let own = config.flags & Config::OWN_ENCAP != 0;
    let length = INNER as u32 + header::BYTES_V4;
    if !own || ecn == ECN_CE || ecn == ECN_ECT1 || load(p, length).is_none() {
        return not;
    }
    let scratch = p.scratch();
    let checksum = u16::from_ne_bytes(get(scratch, INNER - 10));
    let vxlan: [u8; 8] = get(scratch, INNER - 8);
    let Some(inner) = header::read::<INNER>(p) else { return not };
    let vni = decap::vni_of(&vxlan);
    if checksum != 0 || vni == 0 || vxlan[0] & decap::VNI_VALID == 0 || !inner.plain {
        return not;
    }
    note::<INNER>(p, p.meta().port, inner.ethertype, vni);
    p.scratch().flow.from = header::source::<0>(p.scratch(), outer.ethertype);
    let unknown = Seen::Not(outer.hash, Meta::PATH_NEW);
    let Some(flow) = look_up(p) else { return unknown };
    if p.skb.gso_size() != 0 && flow.flags & Flow::WHOLE == 0 {
        return unknown;
    }
    if p.meta().flags & Meta::ONE_TAG != 0 && p.skb.vlan_pop().is_err() {
        return unknown;
    }
    counted(p);
    gone(p, uncovered::<INNER>(p, config, flow))
}

#[inline(always)]
fn load(p: &Pkt, length: u32) -> Option<()> {
    p.skb.load_raw(0, p.scratch().frame.as_mut_ptr(), length).ok()
}

#[inline(always)]
fn uncovered<const INNER: usize>(p: &Pkt, config: &Config, flow: &Flow) -> Decision {
    let inner: [u8; ETH_BYTES as usize] = get(p.scratch(), INNER);
    p.count(Counter::TunnelAccepted, 1);
    decap::uncover(p, INNER as u32, &inner, flow.key.ethertype != IPV4)?;
    let meta = p.meta();
    meta.port = PortKey { ifindex: config.vxlan_ifindex, outer: 0, inner: 0 };
    meta.vni = flow.key.vni;
    meta.vtep = flow.key.from;
    counted(p);
    p.to_port(&flow.out)
}
