//! Tables of the datapath that hold what was learnt: one subtraction for each, wanted − present and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_bgp::NeighbourFlags;
use watari_bgp::types::MacAddr;
use watari_config::Vni;
use watari_dataplane::{
    Dataplane, FloodVteps, MacKey, MacRemote, NeighKey, NeighLocal, NeighRemote, Port, PortKey, Prefix,
    Route, RouteOrigin, Table, ip_bytes,
};

use super::hosts::{Decision, Neighbour, Seen};
use super::import::Imported;
use crate::drivers::DriverError;

/// What may be removed: nothing of a family whose peers have not told everything again after our restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MayRemove {
    /// Stations, floods and prefixes of other gateways.
    pub evpn: bool,
    /// Prefixes of campus routers.
    pub unicast: bool,
}

/// Reads what the programs learnt, and removes what is too old, belongs to a segment or attachment that is gone, or was
/// learnt on a port whose loop has `parted`.
///
/// # Errors
/// When a table cannot be read.
pub fn read_local(
    maps: &Dataplane,
    ages_ns: &BTreeMap<Vni, u64>,
    parted: &BTreeSet<PortKey>,
    now_ns: u64,
) -> Result<Seen, DriverError> {
    let mut seen = Seen::default();
    let ports = maps.ports.entries()?;
    let keep = |number: u32, port: &PortKey, last_ns: u64| {
        let (vni, age_ns) = Vni::new(number).ok().and_then(|v| Some((v, *ages_ns.get(&v)?)))?;
        // With its attachment a station goes at once: nobody is there to answer for it. So it does where the loop
        // guard blocked that: it is to be reached by the other one.
        let attached = ports.get(port).is_some_and(|p| p.vni == number && p.flags & Port::BLOCKED == 0);
        let attached = attached && !parted.contains(port);
        (attached && now_ns.saturating_sub(last_ns) < age_ns).then_some(vni)
    };
    for (key, entry) in maps.mac_local.entries()? {
        match keep(key.vni, &entry.port, entry.last_seen_ns) {
            Some(vni) => drop(seen.stations.insert((vni, MacAddr(key.mac)), entry.port)),
            None => drop(maps.mac_local.remove(&key)?),
        }
    }
    for (key, entry) in maps.nb_local.entries()? {
        let ip = watari_dataplane::abi::ip_from_bytes(key.ip);
        match keep(key.vni, &entry.port, entry.last_seen_ns) {
            Some(vni) => {
                let flags = local_flags(ip, entry.flags);
                let neighbour = Neighbour { mac: MacAddr(entry.mac), port: entry.port, flags };
                seen.addresses.insert((vni, ip), neighbour);
            }
            None => drop(maps.nb_local.remove(&key)?),
        }
    }
    correct_counts(maps, &ports, &seen)?;
    Ok(seen)
}

/// The programs count the MACs of each attachment that has a limit as they learn them; what was removed is taken off
/// here, by the table that was just read.
fn correct_counts(maps: &Dataplane, ports: &BTreeMap<PortKey, Port>, seen: &Seen) -> Result<(), DriverError> {
    let present = maps.port_macs.entries()?;
    let mut wanted: BTreeMap<PortKey, u32> = ports
        .iter()
        .filter(|(_, port)| port.guard & Port::GUARD_LIMIT != 0)
        .map(|(key, _)| (*key, 0))
        .collect();
    for port in seen.stations.values() {
        if let Some(count) = wanted.get_mut(port) {
            *count += 1;
        }
    }
    for (port, count) in &wanted {
        // Where nothing was ever learnt the programs have made no entry, and none is needed.
        if present.get(port).copied().unwrap_or(0) != *count {
            maps.port_macs.upsert(port, count)?;
        }
    }
    for port in present.keys().filter(|port| !wanted.contains_key(*port)) {
        maps.port_macs.remove(port)?;
    }
    Ok(())
}

/// What the owner of an address says of it. Only neighbour advertisements say anything (RFC 9047 section 2).
fn local_flags(ip: IpAddr, flags: u16) -> NeighbourFlags {
    let has = |flag| ip.is_ipv6() && flags & flag != 0;
    NeighbourFlags {
        router: has(NeighLocal::ROUTER),
        is_override: has(NeighLocal::OVERRIDE),
        immutable: false,
    }
}

/// What a neighbour advertisement that we send for it says. Of an owner of whom nothing was told we say what nearly
/// every host says of itself: no router, and that it is the one (RFC 4861 section 7.2.4).
fn remote_flags(ip: IpAddr, flags: Option<NeighbourFlags>) -> u16 {
    let flags = flags.unwrap_or(NeighbourFlags { is_override: true, ..NeighbourFlags::default() });
    let bit = |set: bool, flag: u16| if set && ip.is_ipv6() { flag } else { 0 };
    bit(flags.router, NeighRemote::ROUTER) | bit(flags.is_override, NeighRemote::OVERRIDE)
}

/// Prefixes that were learnt before our restart and are kept until the peers have told everything again: of campus
/// routers, and of other gateways. They are told on like learnt ones, else each side would hear for a moment that
/// what is behind the other has gone.
///
/// # Errors
/// When the routes cannot be read.
pub fn kept(maps: &Dataplane, may_remove: MayRemove) -> Result<[BTreeSet<(Vni, IpNet)>; 2], DriverError> {
    let [mut campus, mut fabric] = [BTreeSet::new(), BTreeSet::new()];
    if may_remove.evpn && may_remove.unicast {
        return Ok([campus, fabric]);
    }
    for (prefix, route) in maps.routes.entries()? {
        let (Ok(tenant), Ok(net)) = (Vni::new(prefix.tenant), IpNet::new(prefix.address(), prefix.length()))
        else {
            continue;
        };
        if route.origin == RouteOrigin::Bgp as u8 && !may_remove.unicast {
            campus.insert((tenant, net));
        } else if route.origin == RouteOrigin::Evpn as u8 && !may_remove.evpn {
            fabric.insert((tenant, net));
        }
    }
    Ok([campus, fabric])
}

/// Removes stations that moved away, with their addresses, and addresses that moved to another MAC.
///
/// # Errors
/// When a table cannot be changed.
pub fn forget(maps: &Dataplane, decision: &Decision) -> Result<(), DriverError> {
    let stations: BTreeSet<MacKey> =
        decision.forget.iter().map(|(vni, mac)| MacKey::new(vni.get(), mac.0)).collect();
    let addresses: BTreeMap<NeighKey, _> = decision
        .forget_addresses
        .iter()
        .map(|((vni, ip), mac)| (NeighKey::new(vni.get(), *ip), mac.0))
        .collect();
    if stations.is_empty() && addresses.is_empty() {
        return Ok(());
    }
    for key in &stations {
        maps.mac_local.remove(key)?;
    }
    for (key, entry) in maps.nb_local.entries()? {
        let is_gone = stations.contains(&MacKey::new(key.vni, entry.mac));
        // One that has changed hands meanwhile is another one.
        if is_gone || addresses.get(&key) == Some(&entry.mac) {
            maps.nb_local.remove(&key)?;
        }
    }
    Ok(())
}

/// Writes what is wanted and differs; removes what is not wanted, if `remove`.
fn sync<K, V>(table: &Table<K, V>, wanted: &BTreeMap<K, V>, remove: bool) -> Result<(), DriverError>
where
    K: watari_dataplane::Pod + Ord,
    V: watari_dataplane::Pod + PartialEq,
{
    let present = table.entries()?;
    let mut first = Ok(());
    // What goes makes room for what comes.
    if remove {
        for key in present.keys().filter(|k| !wanted.contains_key(*k)) {
            first = first.and(table.remove(key).map(drop).map_err(DriverError::from));
        }
    }
    for (key, value) in wanted {
        if present.get(key) != Some(value) {
            first = first.and(table.upsert(key, value).map_err(DriverError::from));
        }
    }
    first
}

/// Brings all tables of learnt facts to what is wanted. A station or address that we hold is not remote.
///
/// # Errors
/// When a table is full or cannot be changed.
pub fn write(
    maps: &Dataplane,
    imported: &Imported,
    held: &Decision,
    campus: &BTreeSet<(Vni, IpNet)>,
    may_remove: MayRemove,
) -> Result<(), DriverError> {
    let claims = &imported.claims;
    let elsewhere = claims.stations.iter().filter(|(station, _)| !held.advertise.contains_key(*station));
    let macs = elsewhere.map(|((vni, mac), claim)| {
        let flags = if claim.sticky { MacRemote::STICKY } else { 0 };
        let remote = MacRemote { vtep: ip_bytes(claim.vtep), flags, sequence: claim.sequence };
        (MacKey::new(vni.get(), mac.0), remote)
    });
    let stations = sync(&maps.mac_remote, &macs.collect(), may_remove.evpn);
    let neighbours = claims.addresses.iter().filter(|(address, bound)| {
        !held.addresses.contains_key(*address) && !held.advertise.contains_key(&(address.0, bound.mac))
    });
    let neighbours = neighbours.map(|((vni, ip), bound)| {
        let value = NeighRemote { mac: bound.mac.0, flags: remote_flags(*ip, bound.flags) };
        (NeighKey::new(vni.get(), *ip), value)
    });
    let addresses = sync(&maps.nb_remote, &neighbours.collect(), may_remove.evpn);
    let flooded = flood(maps, imported, may_remove.evpn);
    stations.and(addresses).and(flooded).and(routes(maps, imported, campus, may_remove))
}

fn flood(maps: &Dataplane, imported: &Imported, remove: bool) -> Result<(), DriverError> {
    let present = maps.flood_vteps.entries()?;
    let wanted = |number: &u32| Vni::new(*number).is_ok_and(|v| imported.flood.contains_key(&v));
    let mut first = Ok(());
    // What goes makes room for what comes; what cannot be written keeps nothing else from its place.
    for number in present.keys().filter(|n| remove && !wanted(n)) {
        first = first.and(maps.flood_vteps.remove(number).map(drop).map_err(DriverError::from));
    }
    for (vni, vteps) in &imported.flood {
        let mut list: BTreeSet<[u8; 16]> = vteps.iter().map(|v| ip_bytes(*v)).collect();
        if let (false, Some(now)) = (remove, present.get(&vni.get())) {
            list.extend(now.as_slice());
        }
        let list: Vec<_> = list.into_iter().collect();
        let Some(wanted) = FloodVteps::new(&list) else {
            let what = format!("number of gateways in VNI {vni}");
            let limit = watari_dataplane::abi::plan::FLOOD_VTEPS_MAX;
            first = first.and(Err(DriverError::Limit { what, limit }));
            continue;
        };
        if present.get(&vni.get()) != Some(&wanted) {
            first = first.and(maps.flood_vteps.upsert(&vni.get(), &wanted).map_err(DriverError::from));
        }
    }
    first
}

/// One table for all routes: the plan's stand as they are, a campus router's go before another gateway's.
fn routes(
    maps: &Dataplane,
    imported: &Imported,
    campus: &BTreeSet<(Vni, IpNet)>,
    may_remove: MayRemove,
) -> Result<(), DriverError> {
    let present = maps.routes.entries()?;
    let mut wanted: BTreeMap<Prefix, Route> = BTreeMap::new();
    for ((l3vni, net), remote) in &imported.prefixes {
        let route =
            Route::remote(RouteOrigin::Evpn, remote.l3vni.get(), ip_bytes(remote.vtep), remote.router_mac.0);
        wanted.insert(Prefix::new(l3vni.get(), net.addr(), net.prefix_len())?, route);
    }
    for (l3vni, net) in campus {
        let prefix = Prefix::new(l3vni.get(), net.addr(), net.prefix_len())?;
        wanted.insert(prefix, Route::exit(RouteOrigin::Bgp));
    }
    let is_plans = |route: &Route| route.origin == RouteOrigin::Plan as u8;
    let mut first = Ok(());
    for (prefix, route) in present.iter().filter(|(p, r)| !wanted.contains_key(*p) && !is_plans(r)) {
        let may = if route.origin == RouteOrigin::Bgp as u8 { may_remove.unicast } else { may_remove.evpn };
        if may {
            first = first.and(maps.routes.remove(prefix).map(drop).map_err(DriverError::from));
        }
    }
    for (prefix, route) in &wanted {
        let now = present.get(prefix);
        if now != Some(route) && !now.is_some_and(is_plans) {
            first = first.and(maps.routes.upsert(prefix, route).map_err(DriverError::from));
        }
    }
    first
}

#[cfg(test)]
mod tests {
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
