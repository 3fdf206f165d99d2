//! Nexthop objects of the kernel (include/uapi/linux/nexthop.h): what bundles of tunnels are made of. Encoded by hand, in the
//! gateway's own namespace.
//!
//! ```text
//!   nexthop  { id, device, gateway }                     one for each member
//!   group    { id, [(nexthop, weight)], resilient }      256 buckets of flows
//! ```
//! Of a resilient group each bucket belongs to a member. When a member goes, its buckets alone get another; when one comes,
//! it gets those that nothing has used for [`IDLE_TICKS`]: a flow that goes on stays where it is.

use std::io;
use std::net::IpAddr;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::PROTOCOL_PLAN;

const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const RTM_GETNEXTHOP: u16 = 106;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_GROUP_TYPE: u16 = 3;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const NHA_RES_GROUP: u16 = 12;
const NHA_RES_GROUP_BUCKETS: u16 = 1;
const NHA_RES_GROUP_IDLE_TIMER: u16 = 2;
/// A group whose buckets outlive a change of its members.
const TYPE_RESILIENT: u16 = 1;
/// The device is given: the gateway is on its link, whatever the addresses there say.
const RTNH_F_ONLINK: u32 = 4;
/// Buckets of a group: shares are exact to 0.4 %.
const BUCKETS: u16 = 256;
/// Hundredths of a second for which a bucket has to be idle before it moves without need.
const IDLE_TICKS: u32 = 100;
const NLA_F_NESTED: u16 = 1 << 15;
const HEADER: usize = 16;
const NHMSG: usize = 8;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A nexthop or group with our protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Nexthop {
    /// Its number.
    pub(super) id: u32,
    /// Index of its device.
    pub(super) oif: Option<u32>,
    /// Its gateway.
    pub(super) via: Option<IpAddr>,
    /// Of a group: nexthops with their weights.
    pub(super) group: Vec<(u32, u8)>,
    /// Who made it.
    pub(super) protocol: u8,
}

/// Every nexthop of the namespace.
///
/// # Errors
/// What the kernel said.
pub(super) fn dump() -> io::Result<Vec<Nexthop>> {
    let messages = exchange(RTM_GETNEXTHOP, DUMP, &nhmsg(0, 0, 0))?;
    Ok(messages.iter().filter_map(|message| parse(message)).collect())
}

/// Makes a nexthop through a device, or changes it.
///
/// # Errors
/// What the kernel said.
pub(super) fn set(id: u32, oif: u32, via: Option<IpAddr>, is_v4: bool) -> io::Result<()> {
    let family = if is_v4 { libc::AF_INET } else { libc::AF_INET6 };
    let flags = if via.is_some() { RTNH_F_ONLINK } else { 0 };
    let mut body = nhmsg(u8::try_from(family).unwrap_or(0), PROTOCOL_PLAN, flags);
    attribute(&mut body, NHA_ID, &id.to_ne_bytes());
    attribute(&mut body, NHA_OIF, &oif.to_ne_bytes());
    match via {
        Some(IpAddr::V4(via)) => attribute(&mut body, NHA_GATEWAY, &via.octets()),
        Some(IpAddr::V6(via)) => attribute(&mut body, NHA_GATEWAY, &via.octets()),
        None => {}
    }
    exchange(RTM_NEWNEXTHOP, ACK | CREATE | REPLACE, &body).map(drop)
}

/// Makes a resilient group of nexthops with weights from 1 on, or changes its members.
///
/// # Errors
/// What the kernel said.
pub(super) fn set_group(id: u32, members: &[(u32, u8)]) -> io::Result<()> {
    let mut entries = Vec::new();
    for (nexthop, weight) in members {
        // struct nexthop_grp: id, weight less one, and what has no meaning here.
        entries.extend(nexthop.to_ne_bytes());
        entries.extend([weight.saturating_sub(1), 0, 0, 0]);
    }
    let mut resilient = Vec::new();
    attribute(&mut resilient, NHA_RES_GROUP_BUCKETS, &BUCKETS.to_ne_bytes());
    attribute(&mut resilient, NHA_RES_GROUP_IDLE_TIMER, &IDLE_TICKS.to_ne_bytes());
    let mut body = nhmsg(0, PROTOCOL_PLAN, 0);
    attribute(&mut body, NHA_ID, &id.to_ne_bytes());
    attribute(&mut body, NHA_GROUP, &entries);
    attribute(&mut body, NHA_GROUP_TYPE, &TYPE_RESILIENT.to_ne_bytes());
    attribute(&mut body, NHA_RES_GROUP | NLA_F_NESTED, &resilient);
    exchange(RTM_NEWNEXTHOP, ACK | CREATE | REPLACE, &body).map(drop)
}

/// Removes a nexthop or group, and the routes through it; one that is gone is fine.
///
/// # Errors
/// What the kernel said.
pub(super) fn remove(id: u32) -> io::Result<()> {
    let mut body = nhmsg(0, 0, 0);
    attribute(&mut body, NHA_ID, &id.to_ne_bytes());
    match exchange(RTM_DELNEXTHOP, ACK, &body) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(drop),
    }
}

/// struct nhmsg: family, scope, protocol, reserved, flags.
fn nhmsg(family: u8, protocol: u8, flags: u32) -> Vec<u8> {
    let mut body = vec![family, 0, protocol, 0];
    body.extend(flags.to_ne_bytes());
    body
}

fn attribute(body: &mut Vec<u8>, kind: u16, data: &[u8]) {
    let length = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(data);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn word(octets: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*octets.first_chunk()?))
}

fn half(octets: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*octets.get(at..)?.first_chunk()?))
}

/// A message without its header.
fn parse(message: &[u8]) -> Option<Nexthop> {
    let mut found = Nexthop { protocol: *message.get(2)?, ..Nexthop::default() };
    let mut rest = message.get(NHMSG..)?;
    while rest.len() >= 4 {
        let length = usize::from(half(rest, 0)?).max(4);
        let (kind, data) = (half(rest, 2)? & !NLA_F_NESTED, rest.get(4..length)?);
        match kind {
            NHA_ID => found.id = word(data)?,
            NHA_OIF => found.oif = word(data),
            NHA_GATEWAY => {
                let four = <[u8; 4]>::try_from(data).map(IpAddr::from);
                found.via = four.or_else(|_| <[u8; 16]>::try_from(data).map(IpAddr::from)).ok();
            }
            NHA_GROUP => {
                let entry = |entry: &[u8]| Some((word(entry)?, entry.get(4)?.saturating_add(1)));
                found.group = data.chunks_exact(8).filter_map(entry).collect();
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(found)
}

/// Sends one request and gathers what comes back until the kernel says that it is done.
fn exchange(kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let length = u32::try_from(HEADER + body.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((REQUEST | flags).to_ne_bytes());
    request.extend(1_u32.to_ne_bytes());
    request.extend(0_u32.to_ne_bytes());
    request.extend(body);
    socket.send(&request, 0)?;
    let mut messages = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = datagram.as_slice();
        while rest.len() >= HEADER {
            let length = word(rest).and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
            let message = rest.get(HEADER..length).ok_or(io::ErrorKind::InvalidData)?;
            match half(rest, 4) {
                Some(NLMSG_DONE) => return Ok(messages),
                Some(NLMSG_ERROR) => {
                    let code = word(message).map_or(0, u32::cast_signed);
                    return if code == 0 { Ok(messages) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                _ => messages.push(message.to_vec()),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nexthop_and_a_group_are_read() {
        let mut member = nhmsg(2, PROTOCOL_PLAN, 0);
        attribute(&mut member, NHA_ID, &7_u32.to_ne_bytes());
        attribute(&mut member, NHA_OIF, &3_u32.to_ne_bytes());
        attribute(&mut member, NHA_GATEWAY, &[192, 0, 2, 1]);
        let via = Some(IpAddr::from([192, 0, 2, 1]));
        let expected = Nexthop { id: 7, oif: Some(3), via, group: vec![], protocol: PROTOCOL_PLAN };
        assert_eq!(parse(&member), Some(expected));
        let mut group = nhmsg(0, PROTOCOL_PLAN, 0);
        attribute(&mut group, NHA_ID, &9_u32.to_ne_bytes());
        attribute(&mut group, NHA_RES_GROUP | NLA_F_NESTED, &[0; 8]);
        let entries = [7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0];
        attribute(&mut group, NHA_GROUP, &entries);
        let expected =
            Nexthop { id: 9, group: vec![(7, 1), (8, 3)], protocol: PROTOCOL_PLAN, ..Nexthop::default() };
        assert_eq!(parse(&group), Some(expected));
        for length in 0..group.len() {
            // Cut anywhere: something or nothing, never a panic.
            let _ = parse(&group[..length]);
        }
    }
}
