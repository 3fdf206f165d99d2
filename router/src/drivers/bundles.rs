//! Bundles: several tunnels to one VTEP that share the traffic by flow. A route through a resilient group of nexthops, in
//! front of the routes that each tunnel has of its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use watari_planner::item::{BundleMember, Key, System, Value};
use watari_planner::{Action, Op};

use super::netlink::{Dump, KernelRoute, Netlink, failed};
use super::{DriverError, PROTOCOL_PLAN, addresses, nexthops};

/// Metric of the route: before that of any single tunnel.
pub const METRIC: u32 = 1;
/// Nexthops of members: this and the index of the device.
const MEMBERS_FROM: u32 = 0x5700_0000;
/// Groups: this and a hash of the VTEP.
const GROUPS_FROM: u32 = 0x5800_0000;
const NUMBERS: u32 = 0x00ff_ffff;

/// Adds our bundles to `system`.
pub fn observe(root: &Dump, system: &mut System) {
    let routes = root.routes.iter().filter(|r| r.protocol == PROTOCOL_PLAN && r.nexthop.is_some());
    let routes: Vec<&KernelRoute> = routes.collect();
    if routes.is_empty() {
        return;
    }
    let objects = match nexthops::dump() {
        Ok(objects) => objects,
        Err(error) => return tracing::warn!(%error, "nexthops could not be read"),
    };
    let names: BTreeMap<u32, &str> = root.links.iter().map(|l| (l.index, l.name.as_str())).collect();
    for route in routes {
        let group = objects.iter().find(|object| Some(object.id) == route.nexthop);
        let entries = group.map_or(&[][..], |group| &group.group);
        let member = |(id, weight): &(u32, u8)| {
            let object = objects.iter().find(|object| object.id == *id)?;
            let device = names.get(&object.oif?)?;
            Some(((*device).to_owned(), BundleMember { via: object.via, weight: *weight }))
        };
        let members = entries.iter().filter_map(member).collect();
        let value = Value::Bundle { members, source: route.source, mtu: route.mtu };
        system.insert(Key::Bundle(route.prefix), value);
    }
}

/// Makes, mends or removes one.
///
/// # Errors
/// When a device is missing, or the kernel refuses.
pub async fn apply(netlink: &Netlink, op: &Op) -> Result<(), DriverError> {
    let (Key::Bundle(prefix), Value::Bundle { members, source, mtu }) = (&op.key, &op.value) else {
        return Ok(());
    };
    let said = |error| DriverError::system(op.to_string(), error);
    let present = netlink.routes().await?;
    let present =
        present.iter().find(|r| r.protocol == PROTOCOL_PLAN && r.prefix == *prefix && r.nexthop.is_some());
    let objects = nexthops::dump().map_err(said)?;
    if op.action == Action::Remove {
        if let Some(id) = present.and_then(|route| route.nexthop) {
            let group = objects.iter().find(|object| object.id == id).cloned().unwrap_or_default();
            nexthops::remove(id).map_err(said)?;
            for (member, _) in group.group {
                nexthops::remove(member).map_err(said)?;
            }
        }
        return Ok(());
    }
    let mut group = Vec::new();
    for (device, member) in members {
        let oif = netlink.index(device).await?;
        let id = MEMBERS_FROM | oif & NUMBERS;
        let is = objects.iter().find(|object| object.id == id);
        if is.is_some_and(|object| object.protocol != PROTOCOL_PLAN) {
            return Err(DriverError::Foreign { what: format!("nexthop {id}") });
        }
        // Setting one that is as it should be would tell the whole group to begin anew.
        if is.is_none_or(|object| object.oif != Some(oif) || object.via != member.via) {
            nexthops::set(id, oif, member.via, prefix.addr().is_ipv4()).map_err(said)?;
        }
        group.push((id, member.weight));
    }
    let mut id =
        present.and_then(|route| route.nexthop).unwrap_or_else(|| GROUPS_FROM | number(prefix.addr()));
    while present.is_none() && objects.iter().any(|object| object.id == id) {
        id = GROUPS_FROM | (id + 1) & NUMBERS;
    }
    nexthops::set_group(id, &group).map_err(said)?;
    let route = KernelRoute {
        prefix: *prefix,
        via: None,
        oif: None,
        source: *source,
        metric: METRIC,
        mtu: *mtu,
        protocol: PROTOCOL_PLAN,
        nexthop: Some(id),
    };
    addresses::add_route(netlink, &route).await.map_err(failed(op.to_string()))
}

/// FNV-1a of an address, as large as a number may be.
fn number(address: IpAddr) -> u32 {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let hash = octets
        .iter()
        .fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(*octet)).wrapping_mul(0x0100_0193));
    (hash ^ hash >> 24) & NUMBERS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_vteps_differ_and_fit() {
        let numbers: std::collections::BTreeSet<u32> =
            (0..=255).map(|last| number(IpAddr::from([10, 255, 0, last]))).collect();
        assert_eq!(numbers.len(), 256);
        assert!(numbers.iter().all(|number| *number <= NUMBERS));
        assert_ne!(number("2001:db8::1".parse().unwrap()), number("2001:db8::2".parse().unwrap()));
    }
}
