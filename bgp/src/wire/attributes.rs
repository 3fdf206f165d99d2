//! Decoding of path attributes with the error handling of RFC 7606: one function per attribute says whether
//! its value is good, to be discarded, or makes the routes withdrawn.

use std::net::Ipv4Addr;

use super::path;
use super::reader::Reader;
use super::update::ParseContext;
use crate::attrs::{Aggregator, AsPath, NextHop, Origin, PathAttributes, PmsiTunnel, UnknownAttribute};
use crate::community::{Community, ExtCommunity, LargeCommunity};
use crate::types::{Asn, RouterId};

pub(super) const ORIGIN: u8 = 1;
pub(super) const AS_PATH: u8 = 2;
pub(super) const NEXT_HOP: u8 = 3;
pub(super) const MED: u8 = 4;
pub(super) const LOCAL_PREF: u8 = 5;
pub(super) const ATOMIC_AGGREGATE: u8 = 6;
pub(super) const AGGREGATOR: u8 = 7;
pub(super) const COMMUNITIES: u8 = 8;
pub(super) const ORIGINATOR_ID: u8 = 9;
pub(super) const CLUSTER_LIST: u8 = 10;
pub(super) const MP_REACH: u8 = 14;
pub(super) const MP_UNREACH: u8 = 15;
pub(super) const EXT_COMMUNITIES: u8 = 16;
pub(super) const AS4_PATH: u8 = 17;
pub(super) const AS4_AGGREGATOR: u8 = 18;
pub(super) const PMSI_TUNNEL: u8 = 22;
pub(super) const LARGE_COMMUNITIES: u8 = 32;
pub(super) const OTC: u8 = 35;

pub(super) const FLAG_OPTIONAL: u8 = 0x80;
pub(super) const FLAG_TRANSITIVE: u8 = 0x40;
pub(super) const FLAG_PARTIAL: u8 = 0x20;
pub(super) const FLAG_EXTENDED: u8 = 0x10;

const WELL_KNOWN: u8 = FLAG_TRANSITIVE;
const OPTIONAL_TRANSITIVE: u8 = FLAG_OPTIONAL | FLAG_TRANSITIVE;
const OPTIONAL_LOCAL: u8 = FLAG_OPTIONAL;

/// The category bits an attribute must have; `None` for unknown types.
pub(super) const fn category(type_code: u8) -> Option<u8> {
    Some(match type_code {
        ORIGIN | AS_PATH | NEXT_HOP | LOCAL_PREF | ATOMIC_AGGREGATE => WELL_KNOWN,
        AGGREGATOR | COMMUNITIES | EXT_COMMUNITIES | AS4_PATH | AS4_AGGREGATOR | PMSI_TUNNEL
        | LARGE_COMMUNITIES | OTC => OPTIONAL_TRANSITIVE,
        MED | ORIGINATOR_ID | CLUSTER_LIST | MP_REACH | MP_UNREACH => OPTIONAL_LOCAL,
        _ => return None,
    })
}

/// One attribute as found in the list.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawAttribute<'a> {
    pub(super) flags: u8,
    pub(super) type_code: u8,
    pub(super) value: &'a [u8],
}

impl<'a> RawAttribute<'a> {
    /// The next attribute; `None` if its header or value does not fit into what is left.
    pub(super) fn read(reader: &mut Reader<'a>) -> Option<RawAttribute<'a>> {
        let (flags, type_code) = (reader.u8()?, reader.u8()?);
        let len =
            if flags & FLAG_EXTENDED != 0 { usize::from(reader.u16()?) } else { usize::from(reader.u8()?) };
        Some(RawAttribute { flags, type_code, value: reader.take(len)? })
    }

    pub(super) const fn has_category(&self, category: u8) -> bool {
        self.flags & (FLAG_OPTIONAL | FLAG_TRANSITIVE) == category
    }
}

/// What becomes of the routes and of the attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// RFC 7606 §2 "attribute discard".
    Discard,
    /// RFC 7606 §2 "treat-as-withdraw".
    Withdraw,
    /// An address that is no next hop (RFC 4271 §6.3): the routes that it is for cannot be used, no others.
    NextHop,
}

/// Attributes under construction.
#[derive(Debug, Default)]
pub(super) struct Builder {
    pub(super) attrs: PathAttributes,
    as4_path: Option<AsPath>,
    as4_aggregator: Option<Aggregator>,
}

fn good<T>(value: Option<T>) -> Result<T, Fault> {
    value.ok_or(Fault::Withdraw)
}

/// The whole value as one fixed-size field.
fn exact<const N: usize>(value: &[u8]) -> Option<[u8; N]> {
    value.try_into().ok()
}

/// The value as a non-empty list of fields of one size (RFC 7606 §7.8, §7.14; RFC 8092 §6).
fn list<T, const N: usize>(value: &[u8], item: impl Fn([u8; N]) -> T) -> Result<Vec<T>, Fault> {
    let (items, rest) = value.as_chunks::<N>();
    if items.is_empty() || !rest.is_empty() {
        return Err(Fault::Withdraw);
    }
    Ok(items.iter().map(|octets| item(*octets)).collect())
}

impl Builder {
    /// Takes one attribute whose category is right.
    pub(super) fn apply(&mut self, raw: &RawAttribute<'_>, ctx: &ParseContext) -> Result<(), Fault> {
        let value = raw.value;
        let attrs = &mut self.attrs;
        match raw.type_code {
            ORIGIN => attrs.origin = good(origin(value))?,
            AS_PATH => attrs.as_path = good(as_path(value, ctx))?,
            NEXT_HOP => attrs.next_hop = Some(next_hop(good(exact(value))?).ok_or(Fault::NextHop)?),
            MED => attrs.med = Some(good(exact(value).map(u32::from_be_bytes))?),
            // RFC 7606 §7.5, §7.9, §7.10: not from an external peer.
            LOCAL_PREF | ORIGINATOR_ID | CLUSTER_LIST if !ctx.internal => return Err(Fault::Discard),
            LOCAL_PREF => attrs.local_pref = Some(good(exact(value).map(u32::from_be_bytes))?),
            ATOMIC_AGGREGATE if value.is_empty() => attrs.atomic_aggregate = true,
            ATOMIC_AGGREGATE => return Err(Fault::Discard),
            AGGREGATOR => {
                attrs.aggregator = Some(aggregator(value, ctx.four_octet_as).ok_or(Fault::Discard)?);
            }
            COMMUNITIES => attrs.communities = list(value, |c| Community(u32::from_be_bytes(c)))?,
            ORIGINATOR_ID => {
                attrs.originator_id = Some(RouterId(Ipv4Addr::from(good(exact::<4>(value))?)));
            }
            CLUSTER_LIST => attrs.cluster_list = list(value, |c: [u8; 4]| Ipv4Addr::from(c))?,
            EXT_COMMUNITIES => attrs.ext_communities = list(value, ExtCommunity)?,
            AS4_PATH | AS4_AGGREGATOR if ctx.four_octet_as => return Err(Fault::Discard),
            AS4_PATH => self.as4_path = Some(path::decode(value, true).ok_or(Fault::Discard)?),
            AS4_AGGREGATOR => {
                self.as4_aggregator = Some(aggregator(value, true).ok_or(Fault::Discard)?);
            }
            PMSI_TUNNEL => attrs.pmsi_tunnel = Some(good(pmsi(value))?),
            LARGE_COMMUNITIES => attrs.large_communities = list(value, large_community)?,
            OTC => attrs.otc = Some(good(exact(value).map(|asn| Asn(u32::from_be_bytes(asn))))?),
            _ => self.keep_unknown(raw),
        }
        Ok(())
    }

    /// RFC 4271 §5: optional transitive ones travel on, marked Partial; others end here.
    fn keep_unknown(&mut self, raw: &RawAttribute<'_>) {
        if raw.has_category(OPTIONAL_TRANSITIVE) {
            let flags = OPTIONAL_TRANSITIVE | FLAG_PARTIAL;
            let unknown = UnknownAttribute { flags, type_code: raw.type_code, value: raw.value.to_vec() };
            let at = self.attrs.unknown.partition_point(|u| u.type_code < unknown.type_code);
            self.attrs.unknown.insert(at, unknown);
        }
    }

    /// The attributes with AS4_PATH and AS4_AGGREGATOR merged in (RFC 6793 §4.2.3).
    pub(super) fn finish(mut self) -> PathAttributes {
        if let Some(aggregator) = &mut self.attrs.aggregator
            && self.as4_aggregator.is_some()
        {
            if aggregator.asn != Asn::TRANS {
                return self.attrs;
            }
            if let Some(as4) = self.as4_aggregator {
                *aggregator = as4;
            }
        }
        if let Some(as4) = self.as4_path {
            self.attrs.as_path = path::merge(std::mem::take(&mut self.attrs.as_path), &as4);
        }
        self.attrs
    }
}

fn origin(value: &[u8]) -> Option<Origin> {
    match value {
        [0] => Some(Origin::Igp),
        [1] => Some(Origin::Egp),
        [2] => Some(Origin::Incomplete),
        _ => None,
    }
}

/// The path of an external peer starts with its AS (RFC 4271 §6.3), without a confederation's segments.
fn as_path(value: &[u8], ctx: &ParseContext) -> Option<AsPath> {
    let path = path::decode(value, ctx.four_octet_as)?;
    if ctx.internal {
        return Some(path);
    }
    let expected =
        if ctx.four_octet_as { ctx.peer_asn } else { Asn(u32::from(ctx.peer_asn.to_two_octets())) };
    (path.neighbor() == Some(expected) && !path::has_confederation(&path)).then_some(path)
}

fn next_hop(value: [u8; 4]) -> Option<NextHop> {
    let addr = Ipv4Addr::from(value);
    let host = !addr.is_unspecified() && !addr.is_multicast() && !addr.is_broadcast();
    host.then_some(NextHop::V4(addr))
}

fn aggregator(value: &[u8], four_octets: bool) -> Option<Aggregator> {
    let mut reader = Reader::new(value);
    let (asn, address) = (reader.asn(four_octets)?, reader.ipv4()?);
    (reader.is_empty() && asn != Asn(0)).then_some(Aggregator { asn, address })
}

fn large_community(octets: [u8; 12]) -> LargeCommunity {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = octets;
    LargeCommunity {
        admin: u32::from_be_bytes([a, b, c, d]),
        data1: u32::from_be_bytes([e, f, g, h]),
        data2: u32::from_be_bytes([i, j, k, l]),
    }
}

fn pmsi(value: &[u8]) -> Option<PmsiTunnel> {
    let mut reader = Reader::new(value);
    let (flags, tunnel_type, label) = (reader.u8()?, reader.u8()?, reader.u24()?);
    let identifier = reader.rest().to_vec();
    let tunnel = PmsiTunnel { flags, tunnel_type, label, identifier };
    // Ingress replication names an address (RFC 6514 §5).
    (tunnel_type != PmsiTunnel::INGRESS_REPLICATION || tunnel.endpoint().is_some()).then_some(tunnel)
}
