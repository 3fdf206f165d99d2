//! Addresses, permanent neighbours and routes of the plan.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType, RouteVia,
};
use rtnetlink::RouteMessageBuilder;
use watari_config::Mac;
use watari_planner::item::{Key, Ns, System, Value};
use watari_planner::{Action, Op};

use super::netlink::{Dump, KernelRoute, Netlink, failed, gone_is_fine, is_errno};
use super::{DriverError, PROTOCOL_PLAN};

/// Adds our addresses, neighbours and routes to `system`. On a device of ours all of them are ours.
pub fn observe(dumps: &BTreeMap<Ns, Dump>, alias: &str, system: &mut System) {
    let is_mark = |a: &str| a == alias || a.strip_prefix(alias).is_some_and(|rest| rest.starts_with(':'));
    for (ns, dump) in dumps {
        let names: BTreeMap<u32, &str> = dump
            .links
            .iter()
            .filter(|l| l.alias.as_deref().is_some_and(is_mark))
            .map(|l| (l.index, l.name.as_str()))
            .collect();
        let ours = |index: u32| names.get(&index).filter(|n| n.starts_with("wt")).map(|n| (*n).to_owned());
        for (index, net) in &dump.addresses {
            if let Some(device) = ours(*index)
                && !is_link_local(net)
            {
                system.insert(Key::Address(ns.clone(), device, *net), Value::Present);
            }
        }
        for (index, ip, mac) in &dump.neighbours {
            if let (Some(device), Ok(mac)) = (ours(*index), Mac::new(*mac)) {
                system.insert(Key::Neighbour(ns.clone(), device, *ip), Value::Neighbour(mac));
            }
        }
        // Those through a nexthop object are bundles.
        for route in dump.routes.iter().filter(|r| r.protocol == PROTOCOL_PLAN && r.nexthop.is_none()) {
            // The device of an underlay route is the kernel's choice, by the next hop; tunnels say their source.
            let chosen = *ns == Ns::Root && route.source.is_none();
            let device = route.oif.and_then(ours).filter(|_| !chosen).unwrap_or_default();
            let value =
                Value::Route { via: route.via, source: route.source, metric: route.metric, mtu: route.mtu };
            system.insert(Key::Route(ns.clone(), route.prefix, device), value);
        }
    }
}

/// The kernel makes these by itself.
fn is_link_local(net: &IpNet) -> bool {
    matches!(net.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// Makes, mends or removes one.
///
/// # Errors
/// When the device is missing, or the kernel refuses.
pub async fn apply(netlink: &Netlink, op: &Op) -> Result<(), DriverError> {
    let remove = op.action == Action::Remove;
    match (&op.key, &op.value) {
        (Key::Address(_, device, net), _) => address(netlink, op, device, *net, remove).await,
        (Key::Neighbour(_, device, ip), Value::Neighbour(mac)) => {
            neighbour(netlink, op, device, *ip, *mac, remove).await
        }
        (Key::Route(_, prefix, device), Value::Route { via, source, metric, mtu }) => {
            let route = KernelRoute {
                prefix: *prefix,
                via: *via,
                oif: if device.is_empty() { None } else { Some(0) },
                source: *source,
                metric: *metric,
                mtu: *mtu,
                protocol: PROTOCOL_PLAN,
                nexthop: None,
            };
            plan_route(netlink, op, device, route, remove).await
        }
        _ => Ok(()),
    }
}

async fn address(
    netlink: &Netlink,
    op: &Op,
    device: &str,
    net: IpNet,
    remove: bool,
) -> Result<(), DriverError> {
    let index = match netlink.index(device).await {
        Err(DriverError::Missing { .. }) if remove => return Ok(()),
        other => other?,
    };
    if remove {
        let mut message = AddressMessage::default();
        message.header.family = family(net.addr());
        message.header.prefix_len = net.prefix_len();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(net.addr()));
        return gone_is_fine(netlink.handle.address().del(message).execute().await, op.to_string());
    }
    let mut request = netlink.handle.address().add(index, net.addr(), net.prefix_len()).replace();
    // Ours by the plan: nobody else has it, and packets must not wait for duplicate detection.
    if net.addr().is_ipv6() {
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request.execute().await.map_err(failed(op.to_string()))
}

async fn neighbour(
    netlink: &Netlink,
    op: &Op,
    device: &str,
    ip: IpAddr,
    mac: Mac,
    remove: bool,
) -> Result<(), DriverError> {
    let index = match netlink.index(device).await {
        Err(DriverError::Missing { .. }) if remove => return Ok(()),
        other => other?,
    };
    if remove {
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = index;
        let destination = match ip {
            IpAddr::V4(v4) => NeighbourAddress::Inet(v4),
            IpAddr::V6(v6) => NeighbourAddress::Inet6(v6),
        };
        message.attributes.push(NeighbourAttribute::Destination(destination));
        return gone_is_fine(netlink.handle.neighbours().del(message).execute().await, op.to_string());
    }
    let request = netlink
        .handle
        .neighbours()
        .add(index, ip)
        .link_layer_address(&mac.octets())
        .state(NeighbourState::Permanent)
        .replace();
    request.execute().await.map_err(failed(op.to_string()))
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

async fn plan_route(
    netlink: &Netlink,
    op: &Op,
    device: &str,
    mut route: KernelRoute,
    remove: bool,
) -> Result<(), DriverError> {
    if route.oif.is_some() {
        route.oif = match netlink.index(device).await {
            Err(DriverError::Missing { .. }) if remove => return Ok(()),
            other => Some(other?),
        };
    }
    if remove {
        return delete_route(netlink, &route).await;
    }
    // The kernel identifies a route by prefix and metric: a change of the metric leaves the old one behind.
    let stale: Vec<KernelRoute> = netlink.routes().await?;
    let same_place = |r: &KernelRoute| {
        r.protocol == PROTOCOL_PLAN
            && r.nexthop.is_none()
            && r.prefix == route.prefix
            && (r.oif == route.oif || route.oif.is_none())
    };
    let is_there = stale.iter().any(|r| same_place(r) && r.metric == route.metric);
    if is_there {
        add_route(netlink, &route).await.map_err(failed(op.to_string()))?;
    } else {
        add_new_route(netlink, &route, op).await?;
    }
    for old in stale.iter().filter(|r| same_place(r) && r.metric != route.metric) {
        delete_route(netlink, old).await?;
    }
    Ok(())
}

/// Adds a route, or replaces the one of the same prefix and metric.
///
/// # Errors
/// The kernel's answer.
pub async fn add_route(netlink: &Netlink, route: &KernelRoute) -> Result<(), rtnetlink::Error> {
    let message = message(route);
    let added = netlink.handle.route().add(message.clone()).replace().execute().await;
    match added {
        // IPv6 replaces only what it finds by next hop; one that is there under the same metric goes first.
        Err(e) if is_errno(&e, &[libc::EEXIST]) => {
            netlink.handle.route().del(message.clone()).execute().await?;
            netlink.handle.route().add(message).execute().await
        }
        other => other,
    }
}

/// Adds a route where none of its prefix and metric may be: one that is there is not ours.
async fn add_new_route(netlink: &Netlink, route: &KernelRoute, op: &Op) -> Result<(), DriverError> {
    match netlink.handle.route().add(message(route)).execute().await {
        Err(e) if is_errno(&e, &[libc::EEXIST]) => {
            Err(DriverError::Foreign { what: format!("a route {} of metric {}", route.prefix, route.metric) })
        }
        other => other.map_err(failed(op.to_string())),
    }
}

/// Removes a route; one that is gone is fine.
///
/// # Errors
/// When the kernel refuses.
pub async fn delete_route(netlink: &Netlink, route: &KernelRoute) -> Result<(), DriverError> {
    let done = netlink.handle.route().del(message(route)).execute().await;
    gone_is_fine(done, format!("remove route {}", route.prefix))
}

fn message(route: &KernelRoute) -> RouteMessage {
    let mut message = if route.prefix.addr().is_ipv4() {
        RouteMessageBuilder::<std::net::Ipv4Addr>::new().build()
    } else {
        RouteMessageBuilder::<std::net::Ipv6Addr>::new().build()
    };
    message.header.destination_prefix_length = route.prefix.prefix_len();
    message.header.protocol = RouteProtocol::Other(route.protocol);
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => RouteAddress::Inet(v4),
        IpAddr::V6(v6) => RouteAddress::Inet6(v6),
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(address(route.prefix.addr())));
    attributes.push(RouteAttribute::Priority(route.metric));
    attributes.extend(route.oif.map(RouteAttribute::Oif));
    attributes.extend(route.nexthop.map(RouteAttribute::NhId));
    attributes.extend(route.via.map(|via| match via {
        IpAddr::V6(v6) if route.prefix.addr().is_ipv4() => RouteAttribute::Via(RouteVia::Inet6(v6)),
        via => RouteAttribute::Gateway(address(via)),
    }));
    attributes.extend(route.source.map(|source| RouteAttribute::PrefSource(address(source))));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu.into())])));
    onlink(message, route)
}

/// A next hop with its device given is on that link, whatever the addresses there say.
fn onlink(mut message: RouteMessage, route: &KernelRoute) -> RouteMessage {
    if route.via.is_none() && route.oif.is_none() && route.nexthop.is_none() {
        message.header.kind = RouteType::BlackHole;
        return message;
    }
    if route.via.is_some() && route.oif.is_some() {
        message.header.flags |= RouteFlags::Onlink;
    }
    if route.via.is_none() && route.nexthop.is_none() && route.prefix.addr().is_ipv4() {
        message.header.scope = RouteScope::Link;
    }
    message
}
