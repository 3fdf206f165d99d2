//! What the others told us, as entries of our tables. Pure. It is changed route by route: each change says which
//! entries may be others by it, and costs what hangs on that route, whatever the number of the others.
//!
//! An EVPN route counts where its route target is that of a segment or tenant present here. Routes of one
//! station or prefix by several gateways have different distinguishers; they meet here and one wins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use watari_bgp::evpn::EvpnKey;
use watari_bgp::evpn::mobility::Claim;
use watari_bgp::nlri::Key;
use watari_bgp::speaker::{Best, Source};
use watari_bgp::types::MacAddr;
use watari_config::Vni;

use super::fabric::{Fabric, target_vni};
use super::hosts::{Claims, Dirty, Told};

/// Best routes of others, by key.
pub type Routes = BTreeMap<Key, Best>;

/// A prefix of a tenant, by its L3VNI.
pub type TenantPrefix = (Vni, IpNet);

/// A prefix behind another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Remote {
    /// The gateway.
    pub vtep: IpAddr,
    /// VNI to send with: the one it told us.
    pub l3vni: Vni,
    /// Its Router's MAC.
    pub router_mac: MacAddr,
}

/// Entries that may have changed.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// Stations and addresses.
    pub hosts: Dirty,
    /// Segments whose list of gateways to flood to.
    pub floods: BTreeSet<Vni>,
    /// Prefixes.
    pub prefixes: BTreeSet<TenantPrefix>,
}

impl Changed {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.floods.is_empty() && self.prefixes.is_empty()
    }
}

/// How many routes say the same thing. The first one in order is the one that counts.
type Counted<T> = BTreeMap<T, usize>;

/// What other gateways told us about the segments and tenants here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// The winning claim to each station and address.
    pub claims: Claims,
    flood: BTreeMap<Vni, Counted<IpAddr>>,
    prefixes: BTreeMap<TenantPrefix, Counted<Remote>>,
}

/// What one route comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Host(Told),
    Flood(Vni, IpAddr),
    Prefix(TenantPrefix, Remote),
}

/// Everything that `routes` come to.
pub fn import(fabric: &Fabric, routes: &Routes) -> Imported {
    let (mut imported, mut changed) = (Imported::default(), Changed::default());
    for (key, best) in routes {
        imported.replace(fabric, key, None, Some(best), &mut changed);
    }
    imported
}

impl Imported {
    /// Takes the new best route of a key in the place of the old one. Both are read by the same `fabric`: when that
    /// changes, everything is to be [imported](import) anew.
    pub fn replace(
        &mut self,
        fabric: &Fabric,
        key: &Key,
        old: Option<&Best>,
        new: Option<&Best>,
        changed: &mut Changed,
    ) {
        let old = old.map_or_else(Vec::new, |best| parts(fabric, key, best));
        let new = new.map_or_else(Vec::new, |best| parts(fabric, key, best));
        if old == new {
            return;
        }
        for part in old {
            self.remove(&part, changed);
        }
        for part in new {
            self.add(part, changed);
        }
    }

    /// Gateways that want the broadcast of a segment.
    pub fn flood(&self, vni: Vni) -> impl Iterator<Item = IpAddr> + '_ {
        self.flood.get(&vni).into_iter().flat_map(|vteps| vteps.keys().copied())
    }

    /// Segments of which somebody wants the broadcast.
    pub fn flooded(&self) -> impl Iterator<Item = Vni> + '_ {
        self.flood.keys().copied()
    }

    /// Where a prefix is. Several gateways with one prefix: the lowest address, so that every look answers alike.
    pub fn prefix(&self, prefix: &TenantPrefix) -> Option<&Remote> {
        self.prefixes.get(prefix)?.keys().next()
    }

    /// All prefixes, in order.
    pub fn prefixes(&self) -> impl Iterator<Item = (&TenantPrefix, &Remote)> {
        self.prefixes.iter().filter_map(|(prefix, remotes)| Some((prefix, remotes.keys().next()?)))
    }

    fn add(&mut self, part: Part, changed: &mut Changed) {
        match part {
            Part::Host(told) => self.claims.add(told, &mut changed.hosts),
            Part::Flood(vni, vtep) => {
                changed.floods.insert(vni);
                *self.flood.entry(vni).or_default().entry(vtep).or_default() += 1;
            }
            Part::Prefix(prefix, remote) => {
                changed.prefixes.insert(prefix);
                *self.prefixes.entry(prefix).or_default().entry(remote).or_default() += 1;
            }
        }
    }

    fn remove(&mut self, part: &Part, changed: &mut Changed) {
        match part {
            Part::Host(told) => self.claims.remove(told, &mut changed.hosts),
            Part::Flood(vni, vtep) => {
                changed.floods.insert(*vni);
                take_off(&mut self.flood, vni, vtep);
            }
            Part::Prefix(prefix, remote) => {
                changed.prefixes.insert(*prefix);
                take_off(&mut self.prefixes, prefix, remote);
            }
        }
    }
}

fn take_off<K: Ord, T: Ord>(all: &mut BTreeMap<K, Counted<T>>, key: &K, what: &T) {
    let Some(counted) = all.get_mut(key) else { return };
    if let Some(count) = counted.get_mut(what) {
        *count -= 1;
        if *count == 0 {
            counted.remove(what);
        }
    }
    if counted.is_empty() {
        all.remove(key);
    }
}

/// What a route comes to by itself, whatever the others say.
fn parts(fabric: &Fabric, key: &Key, best: &Best) -> Vec<Part> {
    let (Some(evpn), Some(vtep)) = (key.as_evpn(), vtep(fabric, best)) else { return Vec::new() };
    let segments = targets(best).filter(|v| fabric.segments.contains_key(v));
    match evpn {
        EvpnKey::MacIp { mac, ip, .. } => {
            let Some(claim) = Claim::from_attributes(&best.attrs) else { return Vec::new() };
            let flags = best.attrs.neighbour_flags();
            segments.map(|vni| Part::Host(Told { station: (vni, *mac), ip: *ip, claim, flags })).collect()
        }
        EvpnKey::Imet { .. } => {
            let to = best.attrs.pmsi_tunnel.as_ref().and_then(|p| p.endpoint()).unwrap_or(vtep);
            let is_known = fabric.far.contains(&to);
            segments.filter(|_| is_known).map(|vni| Part::Flood(vni, to)).collect()
        }
        EvpnKey::IpPrefix { prefix, .. } => prefix_route(fabric, best, vtep, *prefix),
        EvpnKey::EthernetAd { .. } | EvpnKey::EthernetSegment { .. } => Vec::new(),
    }
}

/// The gateway a route of somebody else leads to: one that a tunnel leads to. Nobody is believed about others.
fn vtep(fabric: &Fabric, best: &Best) -> Option<IpAddr> {
    match (best.source, best.next_hop()?) {
        (Source::Peer(_), vtep) if fabric.far.contains(&vtep) => Some(vtep),
        _ => None,
    }
}

fn targets(best: &Best) -> impl Iterator<Item = Vni> + '_ {
    best.attrs.route_targets().filter_map(target_vni)
}

fn prefix_route(fabric: &Fabric, best: &Best, vtep: IpAddr, prefix: IpNet) -> Vec<Part> {
    // Without a Router's MAC a routed packet cannot be addressed (RFC 9136 section 4.4.1).
    let Some(router_mac) = best.attrs.router_mac() else { return Vec::new() };
    let Ok(label) = Vni::new(best.data.label1.get()) else { return Vec::new() };
    let here = targets(best).filter(|v| fabric.tenants.contains_key(v));
    let remote = Remote { vtep, l3vni: label, router_mac };
    here.map(|l3vni| Part::Prefix((l3vni, prefix), remote)).collect()
}
