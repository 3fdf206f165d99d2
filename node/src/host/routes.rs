//! Which routes a node needs, and the difference to those that are there.
//!
//! Every prefix of the reply goes into the tunnel device. When one of them covers the gateway's own
//! endpoint, the tunnel's packets would be sent into the tunnel: the endpoint then gets a host route
//! along the way that it had before.

use std::net::IpAddr;

use ipnet::IpNet;

use super::HostError;
use super::netlink::{Netlink, ROUTE_PROTOCOL, Route};

/// What is to be done to the routes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteChanges {
    /// To be added, host routes first: a packet to the endpoint never meets a prefix without them.
    pub add: Vec<Route>,
    /// To be removed; all ours.
    pub remove: Vec<Route>,
}

/// What a node wants of its routes.
#[derive(Debug, Clone, Copy)]
pub struct RouteWish<'a> {
    /// Index of the tunnel device.
    pub device: u32,
    /// What goes into the tunnel.
    pub prefixes: &'a [IpNet],
    /// The node's own addresses: sources of what it sends.
    pub addresses: &'a [IpNet],
    /// The gateway's public address.
    pub endpoint: IpAddr,
    /// The way to it, as it is without the tunnel.
    pub path: Option<&'a Route>,
}

impl RouteWish<'_> {
    /// True when one of the prefixes covers the gateway's endpoint.
    pub fn covers_endpoint(&self) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&self.endpoint))
    }

    /// The routes that are to be there.
    fn wanted(&self) -> Result<Vec<Route>, HostError> {
        let mut wanted = Vec::new();
        if self.covers_endpoint() {
            let path = self.path.ok_or(HostError::NoPath { endpoint: self.endpoint })?;
            wanted.push(Route {
                destination: IpNet::from(self.endpoint),
                device: path.device,
                gateway: path.gateway,
                source: None,
                protocol: ROUTE_PROTOCOL,
            });
        }
        let own = |v4: bool| self.addresses.iter().map(IpNet::addr).find(|a| a.is_ipv4() == v4);
        let in_tunnel = self.prefixes.iter().flat_map(halves).filter_map(|prefix| {
            let source = own(prefix.addr().is_ipv4())?;
            Some(Route {
                destination: prefix,
                device: self.device,
                gateway: None,
                source: Some(source),
                protocol: ROUTE_PROTOCOL,
            })
        });
        // A prefix that is the endpoint itself cannot go into the tunnel that it carries.
        wanted.extend(in_tunnel.filter(|r| r.destination != IpNet::from(self.endpoint)));
        wanted.dedup();
        Ok(wanted)
    }

    /// The difference between what is wanted and what is `present`. Routes of others are never in
    /// it; a route of another to one of the prefixes is an error.
    ///
    /// # Errors
    /// [`HostError::ForeignRoute`], [`HostError::NoPath`].
    pub fn changes(&self, present: &[Route]) -> Result<RouteChanges, HostError> {
        let wanted = self.wanted()?;
        let mut changes = RouteChanges::default();
        for route in wanted.iter().filter(|w| !present.contains(w)) {
            let same = present.iter().find(|p| p.destination == route.destination && !self.is_ours(p));
            match same {
                Some(_) if route.device != self.device => {}
                Some(foreign) => {
                    return Err(HostError::ForeignRoute { prefix: route.destination, route: words(foreign) });
                }
                None => changes.add.push(route.clone()),
            }
        }
        changes.remove = present.iter().filter(|p| self.is_ours(p) && !wanted.contains(p)).cloned().collect();
        Ok(changes)
    }

    /// Ours are the routes with our protocol through our device, and the endpoint's host route.
    fn is_ours(&self, route: &Route) -> bool {
        route.protocol == ROUTE_PROTOCOL
            && (route.device == self.device || route.destination == IpNet::from(self.endpoint))
    }
}

/// The default route as its two halves, which take precedence over the default route of others
/// without touching it; any other prefix as it is.
fn halves(prefix: &IpNet) -> Vec<IpNet> {
    let prefix = prefix.trunc();
    if prefix.prefix_len() > 0 {
        return vec![prefix];
    }
    prefix.subnets(1).map(Iterator::collect).unwrap_or_default()
}

fn words(route: &Route) -> String {
    let gateway = route.gateway.map(|g| format!("via {g}, ")).unwrap_or_default();
    format!("{gateway}device {}, protocol {}", route.device, route.protocol)
}

/// Makes the routes be as wished; returns what was changed.
///
/// # Errors
/// A foreign route is in the way, or the kernel refused.
pub async fn sync(netlink: &Netlink, wish: RouteWish<'_>) -> Result<RouteChanges, HostError> {
    let present = netlink.routes().await?;
    let path = endpoint_path(netlink, &wish, &present).await?;
    let wish = RouteWish { path: path.as_ref(), ..wish };
    let changes = wish.changes(&present)?;
    // What is replaced goes first: the same destination cannot be there twice.
    for route in &changes.remove {
        netlink.delete_route(route).await?;
    }
    for route in &changes.add {
        netlink.add_route(route).await?;
    }
    Ok(changes)
}

/// The way to the endpoint without the tunnel. Once our host route or our prefixes are there, the
/// kernel's answer is no longer that: the host route we have made is kept then.
async fn endpoint_path(
    netlink: &Netlink,
    wish: &RouteWish<'_>,
    present: &[Route],
) -> Result<Option<Route>, HostError> {
    let pinned =
        present.iter().find(|p| p.protocol == ROUTE_PROTOCOL && p.destination == IpNet::from(wish.endpoint));
    if let Some(pinned) = pinned {
        return Ok(Some(pinned.clone()));
    }
    let found = netlink.route_to(wish.endpoint).await?;
    Ok(found.filter(|route| route.device != wish.device))
}

/// Removes all of our routes; returns how many there were. `device` is `None` when it is gone, with
/// its routes.
///
/// # Errors
/// The kernel refused.
pub async fn remove_all(
    netlink: &Netlink,
    device: Option<u32>,
    endpoint: IpAddr,
) -> Result<usize, HostError> {
    let wish = RouteWish { device: device.unwrap_or(0), prefixes: &[], addresses: &[], endpoint, path: None };
    let changes = wish.changes(&netlink.routes().await?)?;
    for route in &changes.remove {
        netlink.delete_route(route).await?;
    }
    Ok(changes.remove.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEVICE: u32 = 7;
    const UPLINK: u32 = 2;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a prefix")
    }

    fn route(destination: &str, device: u32, gateway: Option<&str>, protocol: u8) -> Route {
        let gateway = gateway.map(|g| g.parse().expect("an address"));
        Route { destination: net(destination), device, gateway, source: None, protocol }
    }

    fn with_source(route: Route, source: &str) -> Route {
        Route { source: Some(source.parse().expect("an address")), ..route }
    }

    fn wish<'a>(prefixes: &'a [IpNet], addresses: &'a [IpNet], path: Option<&'a Route>) -> RouteWish<'a> {
        let endpoint = "198.51.100.1".parse().expect("an address");
        RouteWish { device: DEVICE, prefixes, addresses, endpoint, path }
    }

    #[test]
    fn prefixes_go_into_the_tunnel_and_a_second_pass_changes_nothing() {
        let (prefixes, addresses) =
            ([net("10.0.0.0/24"), net("fd00::/64")], [net("10.0.0.9/32"), net("fd00::9/128")]);
        let wish = wish(&prefixes, &addresses, None);
        let first = wish.changes(&[route("0.0.0.0/0", UPLINK, Some("192.0.2.1"), 3)]).expect("changes");
        let expected = [
            with_source(route("10.0.0.0/24", DEVICE, None, 221), "10.0.0.9"),
            with_source(route("fd00::/64", DEVICE, None, 221), "fd00::9"),
        ];
        assert_eq!((first.add.as_slice(), first.remove.len()), (expected.as_slice(), 0));
        assert_eq!(wish.changes(&first.add).expect("changes"), RouteChanges::default());
    }

    #[test]
    fn the_endpoint_keeps_its_way_when_a_prefix_covers_it() {
        let (prefixes, addresses) = ([net("0.0.0.0/0")], [net("10.0.0.9/32")]);
        let path = route("198.51.100.1/32", UPLINK, Some("192.0.2.1"), 3);
        let default = route("0.0.0.0/0", UPLINK, Some("192.0.2.1"), 3);
        let changes = wish(&prefixes, &addresses, Some(&path))
            .changes(std::slice::from_ref(&default))
            .expect("changes");
        assert_eq!(changes.add[0], route("198.51.100.1/32", UPLINK, Some("192.0.2.1"), 221));
        let tunnel: Vec<_> = changes.add[1..].iter().map(|r| r.destination).collect();
        assert_eq!(tunnel, [net("0.0.0.0/1"), net("128.0.0.0/1")]);
        assert!(!changes.remove.contains(&default), "a foreign route is never removed");
        let error = wish(&prefixes, &addresses, None).changes(&[]).expect_err("no way");
        assert!(matches!(error, HostError::NoPath { .. }), "{error}");
    }

    #[test]
    fn a_foreign_route_to_a_prefix_stays_and_is_named() {
        let (prefixes, addresses) = ([net("10.0.0.0/24")], [net("10.0.0.9/32")]);
        let error = wish(&prefixes, &addresses, None)
            .changes(&[route("10.0.0.0/24", UPLINK, None, 2)])
            .expect_err("in the way");
        assert!(
            matches!(&error, HostError::ForeignRoute { prefix, .. } if *prefix == prefixes[0]),
            "{error}"
        );
    }

    #[test]
    fn only_ours_are_removed() {
        let present = [
            route("10.1.0.0/24", DEVICE, None, 221),
            route("10.2.0.0/24", DEVICE, None, 3),
            route("10.3.0.0/24", UPLINK, None, 221),
            route("198.51.100.1/32", UPLINK, None, 221),
            route("198.51.100.1/32", UPLINK, None, 3),
        ];
        let changes = wish(&[], &[], None).changes(&present).expect("changes");
        assert_eq!(changes.remove, [present[0].clone(), present[3].clone()]);
    }
}
