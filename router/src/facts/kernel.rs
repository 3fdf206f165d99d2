//! Learnt routes in the kernel of the tenants' namespaces: what leaves the overlay is routed there.
//!
//! A campus router's prefix goes to its next hop on the exit; another gateway's goes back into the overlay.
//! They carry a protocol of their own, so that one look tells which are ours to remove.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::Notify;
use watari_bgp::Community;
use watari_bgp::types::InstanceId;
use watari_config::desired::device;
use watari_config::{Desired, Name, Vni};
use watari_planner::item::Ns;

use super::import::{Imported, Routes};
use super::peers::towards;
use super::tables::MayRemove;
use crate::drivers::addresses::{add_route, delete_route};
use crate::drivers::netlink::{KernelRoute, Netlink, failed};
use crate::drivers::{DriverError, PROTOCOL_LEARNT, namespace};

/// Metric of a campus router's routes: after those of the plan.
const METRIC_CAMPUS: u32 = 200;
/// Metric of other gateways' routes: after a campus router's own.
const METRIC_FABRIC: u32 = 300;
/// The next hop into the overlay.
const OVERLAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 0, 1));
const OVERLAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Connections to the tenants' namespaces.
#[derive(Default)]
pub struct KernelRoutes {
    netlinks: BTreeMap<String, Netlink>,
}

impl KernelRoutes {
    /// Brings the learnt routes of every tenant to what is wanted. A namespace that is not there yet is left
    /// for the next time.
    ///
    /// # Errors
    /// When the kernel refuses a dump or a route.
    pub async fn sync(
        &mut self,
        desired: &Desired,
        tenants: &BTreeMap<Vni, Name>,
        unicast: &BTreeMap<InstanceId, Routes>,
        imported: &Imported,
        may_remove: MayRemove,
    ) -> Result<(), DriverError> {
        let here =
            |ns: &String| tenants.values().any(|t| device::namespace(desired.gateway_name(), t) == *ns);
        // A connection keeps its namespace alive: those of tenants that are gone are closed.
        self.netlinks.retain(|ns, _| here(ns));
        let mut failed = Ok(());
        for (l3vni, tenant) in tenants {
            let ns = device::namespace(desired.gateway_name(), tenant);
            let Some(netlink) = self.netlink(&ns).await? else { continue };
            let indices: BTreeMap<String, u32> =
                netlink.links().await?.into_iter().filter(|l| l.up).map(|l| (l.name, l.index)).collect();
            let mut wanted = fabric_routes(*l3vni, imported, &indices);
            if let Some(routes) = unicast.get(&InstanceId(l3vni.get())) {
                wanted.extend(campus_routes(desired, tenant, routes, &indices));
            }
            let done = sync_namespace(netlink, &wanted, may_remove).await;
            failed = failed.and(done);
        }
        failed
    }

    async fn netlink(&mut self, ns: &str) -> Result<Option<&Netlink>, DriverError> {
        let inode = namespace::inode(ns).ok();
        if self.netlinks.get(ns).is_none_or(|n| n.inode != inode) {
            self.netlinks.remove(ns);
            if inode.is_none() {
                return Ok(None);
            }
            // The reconcile loop watches; here nobody is to be woken.
            let netlink = Netlink::connect(&Ns::Tenant(ns.to_owned()), Arc::new(Notify::new())).await?;
            self.netlinks.insert(ns.to_owned(), netlink);
        }
        Ok(self.netlinks.get(ns))
    }
}

type Wanted = BTreeMap<(IpNet, u32), KernelRoute>;

fn route(prefix: IpNet, via: IpAddr, oif: u32, metric: u32) -> ((IpNet, u32), KernelRoute) {
    let route = KernelRoute {
        prefix,
        via: Some(via),
        oif: Some(oif),
        source: None,
        metric,
        mtu: None,
        protocol: PROTOCOL_LEARNT,
        nexthop: None,
    };
    ((prefix, metric), route)
}

/// What is sent there is dropped, as the neighbour asks (RFC 7999).
fn blackhole(prefix: IpNet) -> ((IpNet, u32), KernelRoute) {
    let (key, route) = route(prefix, OVERLAY_V4, 0, METRIC_CAMPUS);
    (key, KernelRoute { via: None, oif: None, ..route })
}

fn fabric_routes(l3vni: Vni, imported: &Imported, indices: &BTreeMap<String, u32>) -> Wanted {
    let Some(core) = indices.get(device::CORE_INNER).copied() else { return Wanted::new() };
    let here = imported.prefixes().map(|(prefix, _)| prefix).filter(|(vni, _)| *vni == l3vni);
    let overlay = |prefix: &IpNet| if prefix.addr().is_ipv4() { OVERLAY_V4 } else { OVERLAY_V6 };
    here.map(|(_, prefix)| route(*prefix, overlay(prefix), core, METRIC_FABRIC)).collect()
}

fn campus_routes(
    desired: &Desired,
    tenant: &Name,
    routes: &Routes,
    indices: &BTreeMap<String, u32>,
) -> Wanted {
    let learnt = routes.iter().filter(|(_, best)| best.source != watari_bgp::speaker::Source::Local);
    learnt
        .filter_map(|(key, best)| {
            if best.attrs.communities.contains(&Community::BLACKHOLE) {
                return Some(blackhole(key.as_prefix()?));
            }
            let next_hop = best.next_hop()?;
            let (exit, via) = towards(desired, tenant, next_hop)?;
            let oif = indices.get(&device::exit(exit).1).copied()?;
            Some(route(key.as_prefix()?, via, oif, METRIC_CAMPUS))
        })
        .collect()
}

/// A route that the kernel refuses keeps no other one from its place.
async fn sync_namespace(
    netlink: &Netlink,
    wanted: &Wanted,
    may_remove: MayRemove,
) -> Result<(), DriverError> {
    let dump = netlink.routes().await?;
    let present: Vec<&KernelRoute> = dump.iter().filter(|r| r.protocol == PROTOCOL_LEARNT).collect();
    // Of one prefix and metric there may be several, with different next hops.
    let mut by_key: BTreeMap<(IpNet, u32), Vec<&KernelRoute>> = BTreeMap::new();
    for route in &present {
        by_key.entry((route.prefix, route.metric)).or_default().push(route);
    }
    let mut first = Ok(());
    for (key, route) in wanted {
        if !by_key.get(key).is_some_and(|same| same.contains(&route)) {
            let what = format!("learnt route {}", route.prefix);
            first = first.and(add_route(netlink, route).await.map_err(failed(what)));
        }
    }
    for old in present {
        let same_key = wanted.get(&(old.prefix, old.metric));
        let may = if old.metric == METRIC_CAMPUS { may_remove.unicast } else { may_remove.evpn };
        // Of the same prefix and metric, the new one has replaced it already where the kernel does so.
        let superseded = same_key.is_some_and(|new| new != old);
        if superseded || (same_key.is_none() && may) {
            first = first.and(delete_route(netlink, old).await);
        }
    }
    first
}
