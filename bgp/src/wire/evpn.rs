//! EVPN NLRI (RFC 7432 §7, RFC 9136 §3.1): route type, length, and the fields of the type.
//!
//! ```text
//!  1  rd 8 | esi 10 | tag 4 | label 3
//!  2  rd 8 | esi 10 | tag 4 | 48 | mac 6 | 0, 32 or 128 | ip | label 3 | (label 3)
//!  3  rd 8 | tag 4 | 32 or 128 | originator
//!  4  rd 8 | esi 10 | 32 or 128 | originator
//!  5  rd 8 | esi 10 | tag 4 | prefix length | prefix | gateway | label 3
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::reader::{Reader, put_ip, put_u24};
use crate::evpn::EvpnKey;
use crate::nlri::{Key, Nlri, NlriData};
use crate::types::{Esi, MacAddr, Rd, Vni};

fn label(reader: &mut Reader<'_>) -> Option<Vni> {
    reader.u24().and_then(Vni::new)
}

fn rd(reader: &mut Reader<'_>) -> Option<Rd> {
    reader.array().map(Rd)
}

fn esi(reader: &mut Reader<'_>) -> Option<Esi> {
    reader.array().map(Esi)
}

/// The route in the `body` of one NLRI; `None` if the type is unknown or the body does not fit the type.
pub(super) fn decode(route_type: u8, body: &[u8]) -> Option<Nlri> {
    let mut r = Reader::new(body);
    let (key, data) = match route_type {
        1 => ethernet_ad(&mut r)?,
        2 => mac_ip(&mut r)?,
        3 => imet(&mut r)?,
        4 => ethernet_segment(&mut r)?,
        5 => ip_prefix(&mut r)?,
        _ => return None,
    };
    r.is_empty().then_some(Nlri { key: Key::Evpn(key), data })
}

fn ethernet_ad(r: &mut Reader<'_>) -> Option<(EvpnKey, NlriData)> {
    let key = EvpnKey::EthernetAd { rd: rd(r)?, esi: esi(r)?, tag: r.u32()? };
    Some((key, NlriData { label1: label(r)?, ..NlriData::default() }))
}

fn mac_ip(r: &mut Reader<'_>) -> Option<(EvpnKey, NlriData)> {
    let (rd, esi, tag) = (rd(r)?, esi(r)?, r.u32()?);
    if r.u8()? != 48 {
        return None;
    }
    let mac = MacAddr(r.array()?);
    let ip = match r.u8()? {
        0 => None,
        bits => Some(r.ip(bits)?),
    };
    let label1 = label(r)?;
    let label2 = if r.is_empty() { None } else { Some(label(r)?) };
    Some((EvpnKey::MacIp { rd, tag, mac, ip }, NlriData { esi, label1, label2, gateway: None }))
}

fn imet(r: &mut Reader<'_>) -> Option<(EvpnKey, NlriData)> {
    let (rd, tag, bits) = (rd(r)?, r.u32()?, r.u8()?);
    Some((EvpnKey::Imet { rd, tag, originator: r.ip(bits)? }, NlriData::default()))
}

fn ethernet_segment(r: &mut Reader<'_>) -> Option<(EvpnKey, NlriData)> {
    let (rd, esi, bits) = (rd(r)?, esi(r)?, r.u8()?);
    Some((EvpnKey::EthernetSegment { rd, esi, originator: r.ip(bits)? }, NlriData::default()))
}

fn ip_prefix(r: &mut Reader<'_>) -> Option<(EvpnKey, NlriData)> {
    let (rd, esi, tag, len) = (rd(r)?, esi(r)?, r.u32()?, r.u8()?);
    let bits = if r.len() == 4 + 4 + 3 { 32 } else { 128 };
    let (addr, gateway) = (r.ip(bits)?, r.ip(bits)?);
    let prefix = IpNet::new(addr, len).ok()?.trunc();
    let gateway = (!gateway.is_unspecified()).then_some(gateway);
    Some((EvpnKey::IpPrefix { rd, tag, prefix }, NlriData { esi, label1: label(r)?, label2: None, gateway }))
}

/// Appends a whole NLRI.
pub(super) fn encode(key: &EvpnKey, data: &NlriData, out: &mut Vec<u8>) {
    out.extend_from_slice(&[key.route_type(), 0]);
    let start = out.len();
    out.extend_from_slice(&key.rd().0);
    match key {
        EvpnKey::EthernetAd { esi, tag, .. } => {
            out.extend_from_slice(&esi.0);
            out.extend_from_slice(&tag.to_be_bytes());
            put_u24(out, data.label1.get());
        }
        EvpnKey::MacIp { tag, mac, ip, .. } => {
            out.extend_from_slice(&data.esi.0);
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(48);
            out.extend_from_slice(&mac.0);
            out.push(ip.map_or(0, address_bits));
            if let Some(ip) = ip {
                put_ip(out, *ip);
            }
            put_u24(out, data.label1.get());
            if let Some(label2) = data.label2 {
                put_u24(out, label2.get());
            }
        }
        EvpnKey::Imet { tag, originator, .. } => {
            out.extend_from_slice(&tag.to_be_bytes());
            out.push(address_bits(*originator));
            put_ip(out, *originator);
        }
        EvpnKey::EthernetSegment { esi, originator, .. } => {
            out.extend_from_slice(&esi.0);
            out.push(address_bits(*originator));
            put_ip(out, *originator);
        }
        EvpnKey::IpPrefix { tag, prefix, .. } => {
            out.extend_from_slice(&data.esi.0);
            out.extend_from_slice(&tag.to_be_bytes());
            encode_prefix(*prefix, data, out);
        }
    }
    // The longest route has 58 octets.
    out[start - 1] = (out.len() - start) as u8;
}

/// Prefix and gateway have the same length: a gateway of the other family cannot be said and is left zero.
fn encode_prefix(prefix: IpNet, data: &NlriData, out: &mut Vec<u8>) {
    out.push(prefix.prefix_len());
    put_ip(out, prefix.addr());
    let gateway = match (prefix, data.gateway) {
        (IpNet::V4(_), Some(g @ IpAddr::V4(_))) | (IpNet::V6(_), Some(g @ IpAddr::V6(_))) => g,
        (IpNet::V4(_), _) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        (IpNet::V6(_), _) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    put_ip(out, gateway);
    put_u24(out, data.label1.get());
}

const fn address_bits(ip: IpAddr) -> u8 {
    match ip {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
