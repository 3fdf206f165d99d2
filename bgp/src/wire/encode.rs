//! Encoding of UPDATEs: routes that share their attributes share messages, as many as fit (RFC 4271 §9.2).
//!
//! IPv4 unicast with an IPv4 next hop uses the fields of the base message; all else MP_REACH_NLRI, put first
//! (RFC 7606 §5.1).

use super::attributes as code;
use super::header::{HEADER_LEN, MessageType, message};
use super::nlri;
use super::path;
use super::reader::{put_ip, put_u24};
use crate::attrs::{NextHop, PathAttributes};
use crate::nlri::Nlri;
use crate::types::{Asn, Family, PathId};

/// What the sender must know of the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeContext {
    /// AS numbers have 4 octets.
    pub four_octet_as: bool,
    /// Longest message, header included.
    pub message_limit: usize,
}

/// The attributes leave no room for a single route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("attributes of {0} octets leave no room for a route")]
pub struct AttributesTooLarge(pub usize);

/// The longest NLRI: an EVPN type 5 route for IPv6.
const NLRI_MAX: usize = 60;

/// Messages that announce `routes`, all of `family`, with `attrs` (next hop included).
///
/// # Errors
/// No message can be built, because of the attributes' size.
pub fn encode_announce(
    family: Family,
    attrs: &PathAttributes,
    routes: &[Nlri],
    ctx: &EncodeContext,
) -> Result<Vec<Vec<u8>>, AttributesTooLarge> {
    announce(family, attrs, routes, nlri::encode, ctx)
}

/// As [`encode_announce`], each route with its path identifier (RFC 7911 §3).
///
/// # Errors
/// As [`encode_announce`].
pub fn encode_announce_paths(
    family: Family,
    attrs: &PathAttributes,
    paths: &[(PathId, Nlri)],
    ctx: &EncodeContext,
) -> Result<Vec<Vec<u8>>, AttributesTooLarge> {
    announce(family, attrs, paths, put_path, ctx)
}

fn put_path(path: &(PathId, Nlri), out: &mut Vec<u8>) {
    out.extend_from_slice(&path.0.0.to_be_bytes());
    nlri::encode(&path.1, out);
}

fn announce<R>(
    family: Family,
    attrs: &PathAttributes,
    routes: &[R],
    put: impl Fn(&R, &mut Vec<u8>),
    ctx: &EncodeContext,
) -> Result<Vec<Vec<u8>>, AttributesTooLarge> {
    let base = family == Family::Ipv4Unicast && matches!(attrs.next_hop, Some(NextHop::V4(_)));
    let mut common = Vec::new();
    put_attributes(attrs, base, ctx.four_octet_as, &mut common);
    // Header, two length fields, MP_REACH's own header, AFI, SAFI, next hop and reserved octet.
    let overhead = HEADER_LEN + 4 + common.len() + if base { 0 } else { 4 + 5 + 32 };
    if overhead + NLRI_MAX > ctx.message_limit {
        return Err(AttributesTooLarge(common.len()));
    }
    let mut messages = Vec::new();
    for_each_field(routes, put, ctx.message_limit - overhead, |field| {
        let mut attributes = Vec::with_capacity(common.len() + field.len() + 64);
        if !base {
            put_attribute(&mut attributes, code::MP_REACH, |out| {
                put_mp_reach(family, attrs.next_hop, field, out)
            });
        }
        attributes.extend_from_slice(&common);
        messages.push(update(&[], &attributes, if base { field } else { &[] }));
    });
    Ok(messages)
}

/// Messages that withdraw `routes`, all of `family`.
pub fn encode_withdraw(family: Family, routes: &[Nlri], ctx: &EncodeContext) -> Vec<Vec<u8>> {
    withdraw(family, routes, nlri::encode, ctx)
}

/// As [`encode_withdraw`], each route with its path identifier (RFC 7911 §3).
pub fn encode_withdraw_paths(family: Family, paths: &[(PathId, Nlri)], ctx: &EncodeContext) -> Vec<Vec<u8>> {
    withdraw(family, paths, put_path, ctx)
}

fn withdraw<R>(
    family: Family,
    routes: &[R],
    put: impl Fn(&R, &mut Vec<u8>),
    ctx: &EncodeContext,
) -> Vec<Vec<u8>> {
    let room = ctx.message_limit - HEADER_LEN - 4 - 7;
    let mut messages = Vec::new();
    for_each_field(routes, put, room, |field| {
        messages.push(match family {
            Family::Ipv4Unicast => update(field, &[], &[]),
            _ => unreach(family, field),
        });
    });
    messages
}

/// The End-of-RIB of a family (RFC 4724 §2).
pub fn encode_end_of_rib(family: Family) -> Vec<u8> {
    match family {
        Family::Ipv4Unicast => update(&[], &[], &[]),
        _ => unreach(family, &[]),
    }
}

/// Cuts the routes into fields of at most `room` octets.
fn for_each_field<R>(routes: &[R], put: impl Fn(&R, &mut Vec<u8>), room: usize, mut emit: impl FnMut(&[u8])) {
    let mut field = Vec::new();
    for route in routes {
        let before = field.len();
        put(route, &mut field);
        if field.len() > room {
            let last = field.split_off(before);
            emit(&field);
            field = last;
        }
    }
    if !field.is_empty() {
        emit(&field);
    }
}

fn update(withdrawn: &[u8], attributes: &[u8], announced: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(4 + withdrawn.len() + attributes.len() + announced.len());
    body.extend_from_slice(&(withdrawn.len() as u16).to_be_bytes());
    body.extend_from_slice(withdrawn);
    body.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
    body.extend_from_slice(attributes);
    body.extend_from_slice(announced);
    message(MessageType::Update, &body)
}

fn unreach(family: Family, field: &[u8]) -> Vec<u8> {
    let mut attributes = Vec::with_capacity(field.len() + 7);
    put_attribute(&mut attributes, code::MP_UNREACH, |out| {
        put_family(family, out);
        out.extend_from_slice(field);
    });
    update(&[], &attributes, &[])
}

fn put_family(family: Family, out: &mut Vec<u8>) {
    let (afi, safi) = family.afi_safi();
    out.extend_from_slice(&afi.to_be_bytes());
    out.push(safi);
}

/// Appends the octets of a next hop: one address, or a global and a link-local one (RFC 2545 §3).
pub(crate) fn put_next_hop(next_hop: Option<NextHop>, out: &mut Vec<u8>) {
    if let Some(next_hop) = next_hop {
        put_ip(out, next_hop.addr());
        if let Some(link_local) = next_hop.link_local() {
            put_ip(out, link_local.into());
        }
    }
}

fn put_mp_reach(family: Family, next_hop: Option<NextHop>, field: &[u8], out: &mut Vec<u8>) {
    put_family(family, out);
    let len_at = out.len();
    out.push(0);
    put_next_hop(next_hop, out);
    out[len_at] = (out.len() - len_at - 1) as u8;
    out.push(0);
    out.extend_from_slice(field);
}

/// Appends an attribute whose flags follow from its type, with the length octets its value needs.
fn put_attribute(out: &mut Vec<u8>, type_code: u8, value: impl FnOnce(&mut Vec<u8>)) {
    let flags = code::category(type_code).unwrap_or(code::FLAG_OPTIONAL);
    put_attribute_with(out, flags, type_code, value);
}

fn put_attribute_with(out: &mut Vec<u8>, flags: u8, type_code: u8, value: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[flags | code::FLAG_EXTENDED, type_code, 0, 0]);
    value(out);
    let len = out.len() - start - 4;
    if len > 255 {
        out[start + 2..start + 4].copy_from_slice(&(len as u16).to_be_bytes());
    } else {
        out[start] = flags & !code::FLAG_EXTENDED;
        out[start + 2] = len as u8;
        out.remove(start + 3);
    }
}

/// Appends the attributes without any next hop, with 4-octet AS numbers.
pub(crate) fn encode_attributes(attrs: &PathAttributes, out: &mut Vec<u8>) {
    put_attributes(attrs, false, true, out);
}

/// Appends the attributes for a neighbour; with NEXT_HOP if it is that of the base message.
pub(crate) fn encode_attributes_for(
    attrs: &PathAttributes,
    base_next_hop: bool,
    four_octet_as: bool,
    out: &mut Vec<u8>,
) {
    put_attributes(attrs, base_next_hop, four_octet_as, out);
}

/// Everything but MP_REACH and MP_UNREACH, in the order of the type codes.
fn put_attributes(attrs: &PathAttributes, base_next_hop: bool, four_octet_as: bool, out: &mut Vec<u8>) {
    put_attribute(out, code::ORIGIN, |o| o.push(attrs.origin as u8));
    put_attribute(out, code::AS_PATH, |o| path::encode(&attrs.as_path, four_octet_as, o));
    if let (true, Some(next_hop)) = (base_next_hop, attrs.next_hop) {
        put_attribute(out, code::NEXT_HOP, |o| put_ip(o, next_hop.addr()));
    }
    if let Some(med) = attrs.med {
        put_attribute(out, code::MED, |o| o.extend_from_slice(&med.to_be_bytes()));
    }
    if let Some(local_pref) = attrs.local_pref {
        put_attribute(out, code::LOCAL_PREF, |o| o.extend_from_slice(&local_pref.to_be_bytes()));
    }
    if attrs.atomic_aggregate {
        put_attribute(out, code::ATOMIC_AGGREGATE, |_| {});
    }
    put_aggregator(attrs, four_octet_as, out);
    put_list(out, code::COMMUNITIES, &attrs.communities, |c, o| o.extend_from_slice(&c.0.to_be_bytes()));
    if let Some(id) = attrs.originator_id {
        put_attribute(out, code::ORIGINATOR_ID, |o| o.extend_from_slice(&id.0.octets()));
    }
    put_list(out, code::CLUSTER_LIST, &attrs.cluster_list, |c, o| o.extend_from_slice(&c.octets()));
    put_list(out, code::EXT_COMMUNITIES, &attrs.ext_communities, |c, o| o.extend_from_slice(&c.0));
    put_as4(attrs, four_octet_as, out);
    if let Some(pmsi) = &attrs.pmsi_tunnel {
        put_attribute(out, code::PMSI_TUNNEL, |o| {
            o.extend_from_slice(&[pmsi.flags, pmsi.tunnel_type]);
            put_u24(o, pmsi.label);
            o.extend_from_slice(&pmsi.identifier);
        });
    }
    put_list(out, code::LARGE_COMMUNITIES, &attrs.large_communities, |c, o| {
        for part in [c.admin, c.data1, c.data2] {
            o.extend_from_slice(&part.to_be_bytes());
        }
    });
    if let Some(asn) = attrs.otc {
        put_attribute(out, code::OTC, |o| o.extend_from_slice(&asn.0.to_be_bytes()));
    }
    for unknown in &attrs.unknown {
        put_attribute_with(out, unknown.flags, unknown.type_code, |o| o.extend_from_slice(&unknown.value));
    }
}

fn put_list<T>(out: &mut Vec<u8>, type_code: u8, items: &[T], put: impl Fn(&T, &mut Vec<u8>)) {
    if !items.is_empty() {
        put_attribute(out, type_code, |o| items.iter().for_each(|item| put(item, o)));
    }
}

fn put_aggregator(attrs: &PathAttributes, four_octet_as: bool, out: &mut Vec<u8>) {
    let Some(aggregator) = attrs.aggregator else { return };
    put_attribute(out, code::AGGREGATOR, |o| {
        if four_octet_as {
            o.extend_from_slice(&aggregator.asn.0.to_be_bytes());
        } else {
            o.extend_from_slice(&aggregator.asn.to_two_octets().to_be_bytes());
        }
        o.extend_from_slice(&aggregator.address.octets());
    });
}

/// RFC 6793 §4.2.2: what the 2-octet attributes could not say.
fn put_as4(attrs: &PathAttributes, four_octet_as: bool, out: &mut Vec<u8>) {
    if four_octet_as {
        return;
    }
    if let Some(as4) = path::as4_path(&attrs.as_path) {
        put_attribute(out, code::AS4_PATH, |o| path::encode(&as4, true, o));
    }
    if let Some(aggregator) = attrs.aggregator.filter(|a| a.asn.to_two_octets() == Asn::TRANS.0 as u16) {
        put_attribute(out, code::AS4_AGGREGATOR, |o| {
            o.extend_from_slice(&aggregator.asn.0.to_be_bytes());
            o.extend_from_slice(&aggregator.address.octets());
        });
    }
}
