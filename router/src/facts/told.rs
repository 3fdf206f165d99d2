//! What the speaker was told of our own routes, and the changes that are still to be told. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;

use watari_bgp::attrs::PathAttributes;
use watari_bgp::nlri::Nlri;
use watari_config::Desired;

use super::fabric::Fabric;
use super::hosts::{Change, Hosts, Station};
use super::import::TenantPrefix;
use super::originate::{
    Id, Learnt, Originated, originate, own, prefix_id, prefix_route, station_id, station_route, unicast_id,
    unicast_route,
};
use super::tables::Wanted;
use crate::bgp::LocalChange;

/// Everything that we originate, as the speaker knows it once it has taken all changes.
#[derive(Debug, Default)]
pub struct Told {
    /// What is ours by the document, whatever is learnt.
    own: Originated,
    all: Originated,
}

impl Told {
    /// Everything that was told.
    pub fn all(&self) -> &Originated {
        &self.all
    }

    /// The changes to everything that is to be originated: after one of the desired state.
    pub fn renew(&mut self, desired: &Desired, fabric: &Fabric, learnt: &Learnt) -> Vec<LocalChange> {
        let wanted = originate(desired, fabric, learnt);
        let mut changes = Vec::new();
        for (id, (nlri, attrs)) in &wanted {
            if self.all.get(id).is_none_or(|(n, a)| (n, a) != (nlri, attrs)) {
                changes.push(LocalChange::Originate(id.0, nlri.clone(), Box::new(attrs.clone())));
            }
        }
        let gone = self.all.keys().filter(|id| !wanted.contains_key(*id));
        changes.extend(gone.map(|(instance, key)| LocalChange::Withdraw(*instance, key.clone())));
        self.own = own(desired, fabric);
        self.all = wanted;
        changes
    }

    /// The changes that follow from stations and addresses that have changed, and from prefixes that may have.
    pub fn change(
        &mut self,
        fabric: &Fabric,
        change: &Change,
        prefixes: &BTreeSet<TenantPrefix>,
        wanted: &Wanted<'_>,
    ) -> Vec<LocalChange> {
        let (hosts, mut changes) = (wanted.hosts, Vec::new());
        for station in &change.stations {
            let sequence = hosts.held().get(station);
            let route = sequence.and_then(|sequence| station_route(fabric, *station, None, *sequence));
            self.set(station_id(fabric, *station, None), route, &mut changes);
            // All routes of a station carry one sequence.
            for (_, ip) in hosts.addresses_of(*station) {
                self.set_address(fabric, hosts, *station, ip, &mut changes);
            }
        }
        for ((vni, ip), before) in &change.addresses {
            let now = hosts.bound().get(&(*vni, *ip)).map(|(mac, _)| *mac);
            for mac in before.iter().chain(&now) {
                self.set_address(fabric, hosts, (*vni, *mac), *ip, &mut changes);
            }
        }
        for prefix in prefixes {
            let (l3vni, net) = *prefix;
            let is_campus = wanted.campus.contains(prefix) || wanted.kept.campus.contains(prefix);
            let route = if is_campus { prefix_route(fabric, l3vni, net) } else { None };
            self.set(prefix_id(fabric, l3vni, net), route, &mut changes);
            let is_fabric = wanted.imported.prefix(prefix).is_some() || wanted.kept.fabric.contains(prefix);
            self.set(unicast_id(l3vni, net), is_fabric.then(|| unicast_route(net)), &mut changes);
        }
        changes
    }

    fn set_address(
        &mut self,
        fabric: &Fabric,
        hosts: &Hosts,
        station: Station,
        ip: IpAddr,
        changes: &mut Vec<LocalChange>,
    ) {
        let bound = hosts.bound().get(&(station.0, ip)).filter(|(mac, _)| *mac == station.1);
        let route = bound
            .zip(hosts.held().get(&station))
            .and_then(|((_, flags), sequence)| station_route(fabric, station, Some((ip, *flags)), *sequence));
        self.set(station_id(fabric, station, Some(ip)), route, changes);
    }

    /// What is ours by the document stands, whatever was learnt of it.
    fn set(&mut self, id: Id, learnt: Option<(Nlri, PathAttributes)>, changes: &mut Vec<LocalChange>) {
        if self.own.contains_key(&id) {
            return;
        }
        match learnt {
            Some(route) if self.all.get(&id) == Some(&route) => {}
            Some(route) => {
                changes.push(LocalChange::Originate(id.0, route.0.clone(), Box::new(route.1.clone())));
                self.all.insert(id, route);
            }
            None => {
                if self.all.remove(&id).is_some() {
                    changes.push(LocalChange::Withdraw(id.0, id.1));
                }
            }
        }
    }
}
