//! Tables of the datapath that hold what was learnt: one subtraction for each, wanted − present and back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_bgp::types::MacAddr;
use watari_config::Vni;
use watari_dataplane::{
    Dataplane, FloodVteps, MacKey, MacRemote, NeighKey, NeighRemote, Port, PortKey, Prefix, Route,
    RouteOrigin, Table, ip_bytes,
};

use super::hosts::Station;
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

/// Stations and addresses that were learnt on attachments here.
#[derive(Clone, Debug, Default)]
pub struct Local {
    /// Stations.
    pub stations: Vec<Station>,
    /// Their addresses.
    pub addresses: BTreeSet<(Vni, IpAddr, MacAddr)>,
}

/// Nanoseconds without a frame after which a station is forgotten (IEEE 802.1Q section 8.8.3: 300 s).
const AGE_NS_MAX: u64 = 300 * 1_000_000_000;

/// Reads what the programs learnt, and removes what is too old or belongs to a segment or attachment that is gone.
///
/// # Errors
/// When a table cannot be read.
pub fn read_local(
    maps: &Dataplane,
    segments: &BTreeMap<Vni, Vni>,
    now_ns: u64,
) -> Result<Local, DriverError> {
    let mut local = Local::default();
    let ports = maps.ports.entries()?;
    let keep = |number: u32, port: &PortKey, seen: u64| {
        let vni = Vni::new(number).ok().filter(|v| segments.contains_key(v));
        // With its attachment a station goes at once: nobody is there to answer for it. So it does where the loop
        // guard blocked that: it is to be reached by the other one.
        let attached = ports.get(port).is_some_and(|p| p.vni == number && p.flags & Port::BLOCKED == 0);
        vni.filter(|_| attached && now_ns.saturating_sub(seen) < AGE_NS_MAX)
    };
    for (key, entry) in maps.mac_local.entries()? {
        match keep(key.vni, &entry.port, entry.last_seen_ns) {
            Some(vni) => local.stations.push((vni, MacAddr(key.mac))),
            None => drop(maps.mac_local.remove(&key)?),
        }
    }
    for (key, entry) in maps.nb_local.entries()? {
        let ip = watari_dataplane::abi::ip_from_bytes(key.ip);
        match keep(key.vni, &entry.port, entry.last_seen_ns) {
            Some(vni) => drop(local.addresses.insert((vni, ip, MacAddr(entry.mac)))),
            None => drop(maps.nb_local.remove(&key)?),
        }
    }
    Ok(local)
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

/// Removes stations that moved away, with their addresses.
///
/// # Errors
/// When a table cannot be changed.
pub fn forget(maps: &Dataplane, stations: &[Station]) -> Result<(), DriverError> {
    for (vni, mac) in stations {
        maps.mac_local.remove(&MacKey::new(vni.get(), mac.0))?;
        for (key, entry) in maps.nb_local.entries()? {
            if key.vni == vni.get() && entry.mac == mac.0 {
                maps.nb_local.remove(&key)?;
            }
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

/// Brings all tables of learnt facts to what is wanted. A station that is here is not remote.
///
/// # Errors
/// When a table is full or cannot be changed.
pub fn write(
    maps: &Dataplane,
    imported: &Imported,
    here: &BTreeSet<Station>,
    campus: &BTreeSet<(Vni, IpNet)>,
    may_remove: MayRemove,
) -> Result<(), DriverError> {
    let elsewhere = imported.claims.iter().filter(|(station, _)| !here.contains(*station));
    let macs = elsewhere.map(|((vni, mac), claim)| {
        let flags = if claim.sticky { MacRemote::STICKY } else { 0 };
        let remote = MacRemote { vtep: ip_bytes(claim.vtep), flags, sequence: claim.sequence };
        (MacKey::new(vni.get(), mac.0), remote)
    });
    let stations = sync(&maps.mac_remote, &macs.collect(), may_remove.evpn);
    let neighbours = imported.neighbours.iter().filter(|((vni, _), mac)| !here.contains(&(*vni, **mac)));
    let neighbours = neighbours
        .map(|((vni, ip), mac)| (NeighKey::new(vni.get(), *ip), NeighRemote { mac: mac.0, flags: 0 }));
    let addresses = sync(&maps.nb_remote, &neighbours.collect(), may_remove.evpn);
    let flooded = flood(maps, imported, may_remove.evpn);
    stations.and(addresses).and(flooded).and(routes(maps, imported, campus, may_remove))
}

fn flood(maps: &Dataplane, imported: &Imported, remove: bool) -> Result<(), DriverError> {
    let present = maps.flood_vteps.entries()?;
    for (vni, vteps) in &imported.flood {
        let mut list: BTreeSet<[u8; 16]> = vteps.iter().map(|v| ip_bytes((*v).into())).collect();
        if let (false, Some(now)) = (remove, present.get(&vni.get())) {
            list.extend(now.as_slice());
        }
        let list: Vec<_> = list.into_iter().collect();
        let wanted = FloodVteps::new(&list).ok_or_else(|| DriverError::Limit {
            what: format!("number of gateways in VNI {vni}"),
            limit: watari_dataplane::abi::plan::FLOOD_VTEPS_MAX,
        })?;
        if present.get(&vni.get()) != Some(&wanted) {
            maps.flood_vteps.upsert(&vni.get(), &wanted)?;
        }
    }
    let wanted = |number: &u32| Vni::new(*number).is_ok_and(|v| imported.flood.contains_key(&v));
    for number in present.keys().filter(|n| remove && !wanted(n)) {
        maps.flood_vteps.remove(number)?;
    }
    Ok(())
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
        let route = Route::remote(
            RouteOrigin::Evpn,
            remote.l3vni.get(),
            ip_bytes(remote.vtep.into()),
            remote.router_mac.0,
        );
        wanted.insert(Prefix::new(l3vni.get(), net.addr(), net.prefix_len())?, route);
    }
    for (l3vni, net) in campus {
        let prefix = Prefix::new(l3vni.get(), net.addr(), net.prefix_len())?;
        wanted.insert(prefix, Route::exit(RouteOrigin::Bgp));
    }
    let is_plans = |route: &Route| route.origin == RouteOrigin::Plan as u8;
    for (prefix, route) in &wanted {
        let now = present.get(prefix);
        if now != Some(route) && !now.is_some_and(is_plans) {
            maps.routes.upsert(prefix, route)?;
        }
    }
    for (prefix, route) in present.iter().filter(|(p, r)| !wanted.contains_key(*p) && !is_plans(r)) {
        let may = if route.origin == RouteOrigin::Bgp as u8 { may_remove.unicast } else { may_remove.evpn };
        if may {
            maps.routes.remove(prefix)?;
        }
    }
    Ok(())
}
