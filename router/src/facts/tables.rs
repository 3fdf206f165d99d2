//! Tables of the datapath that hold what was learnt from others. What one entry should be is said in one place;
//! by it the entries that have changed are written, and now and then whole tables are compared with it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_bgp::NeighbourFlags;
use watari_config::Vni;
use watari_dataplane::{
    Dataplane, FloodVteps, MacKey, MacRemote, NeighKey, NeighRemote, Pod, PortKey, Prefix, Route,
    RouteOrigin, Table, ip_bytes,
};

use super::hosts::{Address, Hosts, Station};
use super::import::{Changed, Imported, TenantPrefix};
use crate::drivers::DriverError;

/// What may be removed: nothing of a family whose peers have not told everything again after our restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MayRemove {
    /// Stations, floods and prefixes of other gateways.
    pub evpn: bool,
    /// Prefixes of campus routers.
    pub unicast: bool,
}

impl MayRemove {
    /// Everything may be removed.
    pub const ALL: Self = Self { evpn: true, unicast: true };
}

/// Prefixes that were learnt before our restart and are kept until the peers have told everything again. They are told
/// on like learnt ones, else each side would hear for a moment that what is behind the other has gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Of campus routers.
    pub campus: BTreeSet<TenantPrefix>,
    /// Of other gateways.
    pub fabric: BTreeSet<TenantPrefix>,
}

impl Kept {
    /// What is kept now.
    ///
    /// # Errors
    /// When the routes cannot be read.
    pub fn read(maps: &Dataplane, may_remove: MayRemove) -> Result<Self, DriverError> {
        let mut kept = Self::default();
        if may_remove == MayRemove::ALL {
            return Ok(kept);
        }
        for (prefix, route) in maps.routes.entries()? {
            let net = IpNet::new(prefix.address(), prefix.length());
            let (Ok(tenant), Ok(net)) = (Vni::new(prefix.tenant), net) else { continue };
            if route.origin == RouteOrigin::Bgp as u8 && !may_remove.unicast {
                kept.campus.insert((tenant, net));
            } else if route.origin == RouteOrigin::Evpn as u8 && !may_remove.evpn {
                kept.fabric.insert((tenant, net));
            }
        }
        Ok(kept)
    }
}

/// What the tables should hold.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// What others told us.
    pub imported: &'a Imported,
    /// What we hold: a station or address that we hold is not remote.
    pub hosts: &'a Hosts,
    /// Prefixes that campus routers told us.
    pub campus: &'a BTreeSet<TenantPrefix>,
    /// Prefixes that are kept.
    pub kept: &'a Kept,
}

impl Wanted<'_> {
    fn mac(&self, station: &Station) -> Option<MacRemote> {
        let claim = self.imported.claims.stations.get(station)?;
        let flags = if claim.sticky { MacRemote::STICKY } else { 0 };
        let is_here = self.hosts.held().contains_key(station);
        (!is_here).then(|| MacRemote { vtep: ip_bytes(claim.vtep), flags, sequence: claim.sequence })
    }

    fn frozen(&self, station: &Station) -> Option<PortKey> {
        self.hosts.frozen_at().get(station).copied()
    }

    fn neighbour(&self, address: &Address) -> Option<NeighRemote> {
        let bound = self.imported.claims.addresses.get(address)?;
        let is_here = self.hosts.bound().contains_key(address)
            || self.hosts.held().contains_key(&(address.0, bound.mac));
        let is_pinned = bound.claim.sticky || bound.flags.is_some_and(|f| f.immutable);
        let pinned = if is_pinned { NeighRemote::PINNED } else { 0 };
        (!is_here)
            .then(|| NeighRemote { mac: bound.mac.0, flags: remote_flags(address.1, bound.flags) | pinned })
    }

    /// Whether there is a route of somebody to the prefix.
    pub fn has_route(&self, prefix: &TenantPrefix) -> bool {
        self.campus.contains(prefix) || self.imported.prefix(prefix).is_some()
    }

    /// A campus router's go before another gateway's.
    fn route(&self, prefix: &TenantPrefix) -> Option<Route> {
        if self.campus.contains(prefix) || self.kept.campus.contains(prefix) {
            return Some(Route::exit(RouteOrigin::Bgp));
        }
        self.imported.prefix(prefix).map(|remote| {
            Route::remote(RouteOrigin::Evpn, remote.l3vni.get(), ip_bytes(remote.vtep), remote.router_mac.0)
        })
    }
}

/// What a neighbour advertisement that we send for it says. Of an owner of whom nothing was told we say what nearly
/// every host says of itself: no router, and that it is the one (RFC 4861 section 7.2.4).
fn remote_flags(ip: IpAddr, flags: Option<NeighbourFlags>) -> u16 {
    let flags = flags.unwrap_or(NeighbourFlags { is_override: true, ..NeighbourFlags::default() });
    let bit = |set: bool, flag: u16| if set && ip.is_ipv6() { flag } else { 0 };
    bit(flags.router, NeighRemote::ROUTER) | bit(flags.is_override, NeighRemote::OVERRIDE)
}

fn mac_key((vni, mac): &Station) -> MacKey {
    MacKey::new(vni.get(), mac.0)
}

fn neighbour_key((vni, ip): &Address) -> NeighKey {
    NeighKey::new(vni.get(), *ip)
}

fn prefix_key((l3vni, net): &TenantPrefix) -> Result<Prefix, DriverError> {
    Ok(Prefix::new(l3vni.get(), net.addr(), net.prefix_len())?)
}

/// Writes the entries that may have changed. Routes of the `plans` stand as they are.
///
/// # Errors
/// When a table is full or cannot be changed; what could not be written keeps nothing else from its place.
pub fn write(
    maps: &Dataplane,
    wanted: &Wanted<'_>,
    changed: &Changed,
    plans: &BTreeSet<Prefix>,
    may_remove: MayRemove,
) -> Result<(), DriverError> {
    let stations = changed.hosts.stations.iter().map(|s| (mac_key(s), wanted.mac(s)));
    let macs = put(&maps.mac_remote, stations, may_remove.evpn);
    let frozen = changed.hosts.stations.iter().map(|s| (mac_key(s), wanted.frozen(s)));
    let macs = macs.and(put(&maps.mac_frozen, frozen, true));
    let addresses = changed.hosts.addresses.iter().map(|a| (neighbour_key(a), wanted.neighbour(a)));
    let neighbours = put(&maps.nb_remote, addresses, may_remove.evpn);
    let mut done = macs.and(neighbours);
    for vni in &changed.floods {
        let present = maps.flood_vteps.get(&vni.get())?;
        done = done.and(flood(maps, wanted.imported, *vni, present.as_ref(), may_remove.evpn));
    }
    for tenant_prefix in &changed.prefixes {
        let prefix = prefix_key(tenant_prefix)?;
        if plans.contains(&prefix) {
            continue;
        }
        let written = match wanted.route(tenant_prefix) {
            Some(route) => maps.routes.upsert(&prefix, &route),
            None if may_remove == MayRemove::ALL => maps.routes.remove(&prefix).map(drop),
            None => Ok(()),
        };
        done = done.and(written.map_err(DriverError::from));
    }
    done
}

/// Writes entries, or removes those that should not be there, if `remove`. What goes makes room for what comes.
fn put<K: Pod + Ord, V: Pod>(
    table: &Table<K, V>,
    entries: impl Iterator<Item = (K, Option<V>)>,
    remove: bool,
) -> Result<(), DriverError> {
    let (mut done, mut come) = (Ok(()), Vec::new());
    for (key, value) in entries {
        match value {
            Some(value) => come.push((key, value)),
            None if remove => done = done.and(table.remove(&key).map(drop)),
            None => {}
        }
    }
    for (key, value) in come {
        done = done.and(table.upsert(&key, &value));
    }
    done.map_err(DriverError::from)
}

/// Compares all tables with what they should hold, and corrects them. Answers which routes are the plan's.
///
/// # Errors
/// When a table is full or cannot be read or changed.
pub fn compare(
    maps: &Dataplane,
    wanted: &Wanted<'_>,
    may_remove: MayRemove,
) -> Result<BTreeSet<Prefix>, DriverError> {
    let claims = &wanted.imported.claims;
    let stations = claims.stations.keys().filter_map(|s| Some((mac_key(s), wanted.mac(s)?)));
    let macs = sync(&maps.mac_remote, stations.collect(), may_remove.evpn);
    let frozen = wanted.hosts.frozen_at().iter().map(|(station, port)| (mac_key(station), *port));
    let macs = macs.and(sync(&maps.mac_frozen, frozen.collect(), true));
    let addresses = claims.addresses.keys().filter_map(|a| Some((neighbour_key(a), wanted.neighbour(a)?)));
    let neighbours = sync(&maps.nb_remote, addresses.collect(), may_remove.evpn);
    let flooded = compare_floods(maps, wanted.imported, may_remove.evpn);
    let plans = compare_routes(maps, wanted, may_remove);
    macs.and(neighbours).and(flooded).and(plans)
}

/// Writes what is wanted and differs; removes what is not wanted, if `remove`. Both sides are walked once, side by
/// side.
fn sync<K, V>(table: &Table<K, V>, mut wanted: Vec<(K, V)>, remove: bool) -> Result<(), DriverError>
where
    K: Pod + Ord,
    V: Pod + PartialEq,
{
    let mut present = table.list()?;
    present.sort_unstable_by_key(|(key, _)| *key);
    wanted.sort_unstable_by_key(|(key, _)| *key);
    let (mut present, mut wanted) = (present.into_iter().peekable(), wanted.into_iter().peekable());
    let (mut gone, mut come) = (Vec::new(), Vec::new());
    loop {
        let order = match (present.peek(), wanted.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        match order {
            Ordering::Less => gone.extend(present.next().map(|(key, _)| (key, None))),
            Ordering::Greater => come.extend(wanted.next()),
            Ordering::Equal => {
                let (is, should) = (present.next(), wanted.next());
                come.extend(should.filter(|(_, value)| is.is_some_and(|(_, found)| found != *value)));
            }
        }
    }
    let come = come.into_iter().map(|(key, value)| (key, Some(value)));
    put(table, gone.into_iter().chain(come), remove)
}

fn compare_floods(maps: &Dataplane, imported: &Imported, remove: bool) -> Result<(), DriverError> {
    let present = maps.flood_vteps.entries()?;
    let gone = present.keys().filter_map(|number| Vni::new(*number).ok());
    let all: BTreeSet<Vni> = imported.flooded().chain(gone).collect();
    let mut done = Ok(());
    for vni in all {
        done = done.and(flood(maps, imported, vni, present.get(&vni.get()), remove));
    }
    done
}

/// Brings one segment's list of gateways to what is wanted.
fn flood(
    maps: &Dataplane,
    imported: &Imported,
    vni: Vni,
    present: Option<&FloodVteps>,
    remove: bool,
) -> Result<(), DriverError> {
    let mut list: BTreeSet<[u8; 16]> = imported.flood(vni).map(ip_bytes).collect();
    if let (false, Some(now)) = (remove, present) {
        list.extend(now.as_slice());
    }
    if list.is_empty() {
        if present.is_some() {
            maps.flood_vteps.remove(&vni.get())?;
        }
        return Ok(());
    }
    let list: Vec<_> = list.into_iter().collect();
    let wanted = FloodVteps::new(&list).ok_or_else(|| DriverError::Limit {
        what: format!("number of gateways in VNI {vni}"),
        limit: watari_dataplane::abi::plan::FLOOD_VTEPS_MAX,
    })?;
    if present != Some(&wanted) {
        maps.flood_vteps.upsert(&vni.get(), &wanted)?;
    }
    Ok(())
}

/// One table for all routes: the plan's stand as they are.
fn compare_routes(
    maps: &Dataplane,
    wanted: &Wanted<'_>,
    may_remove: MayRemove,
) -> Result<BTreeSet<Prefix>, DriverError> {
    let present = maps.routes.entries()?;
    let fabric = wanted.imported.prefixes().map(|(prefix, _)| prefix);
    let all = fabric.chain(wanted.campus).chain(&wanted.kept.campus);
    let mut routes: BTreeMap<Prefix, Route> = BTreeMap::new();
    for tenant_prefix in all {
        if let Some(route) = wanted.route(tenant_prefix) {
            routes.insert(prefix_key(tenant_prefix)?, route);
        }
    }
    let is_plans = |route: &Route| route.origin == RouteOrigin::Plan as u8;
    let mut done = Ok(());
    for (prefix, route) in present.iter().filter(|(p, r)| !routes.contains_key(*p) && !is_plans(r)) {
        let may = if route.origin == RouteOrigin::Bgp as u8 { may_remove.unicast } else { may_remove.evpn };
        if may {
            done = done.and(maps.routes.remove(prefix).map(drop));
        }
    }
    for (prefix, route) in &routes {
        let now = present.get(prefix);
        if now != Some(route) && !now.is_some_and(is_plans) {
            done = done.and(maps.routes.upsert(prefix, route));
        }
    }
    done?;
    Ok(present.into_iter().filter(|(_, route)| is_plans(route)).map(|(prefix, _)| prefix).collect())
}

#[cfg(test)]
mod tests {
    use watari_dataplane::NeighLocal;

    use super::super::local::local_flags;
    use super::*;

    /// RFC 9047 section 2: the flags are those of neighbour advertisements, so of IPv6 only.
    #[test]
    fn flags_of_neighbour_advertisements_pass_through() {
        let [v4, v6]: [IpAddr; 2] = [[10, 0, 0, 1].into(), "fd00::1".parse().unwrap()];
        let both = NeighLocal::ROUTER | NeighLocal::OVERRIDE;
        let router = NeighbourFlags { router: true, is_override: false, immutable: false };
        assert_eq!(local_flags(v6, NeighLocal::ROUTER), router);
        assert_eq!(local_flags(v4, both), NeighbourFlags::default());
        assert_eq!(
            remote_flags(v6, Some(local_flags(v6, both))),
            NeighRemote::ROUTER | NeighRemote::OVERRIDE
        );
        assert_eq!(remote_flags(v6, Some(router)), NeighRemote::ROUTER);
        assert_eq!(remote_flags(v6, Some(NeighbourFlags::default())), 0);
        assert_eq!(remote_flags(v6, None), NeighRemote::OVERRIDE, "nothing was told");
        assert_eq!(remote_flags(v4, Some(local_flags(v6, both))), 0);
    }
}
