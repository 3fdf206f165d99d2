//! What the programs learnt on attachments here, as it was last read. A hint makes us read one entry; a walk reads
//! all of them and finds what hints have not told: what aged, and what was lost.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use watari_bgp::NeighbourFlags;
use watari_bgp::types::MacAddr;
use watari_config::Vni;
use watari_dataplane::{Dataplane, MacKey, NeighKey, NeighLocal, Port, PortKey};

use super::hosts::{Address, Change, Dirty, Hosts, Neighbour, Seen, Station};
use crate::drivers::DriverError;

/// Until when an entry counts.
#[derive(Clone, Copy, Debug)]
pub struct Age<'a> {
    /// Nanoseconds without a frame after which a station of each segment here is forgotten.
    pub ages_ns: &'a BTreeMap<Vni, u64>,
    /// Time of the datapath's clock.
    pub now_ns: u64,
    /// Ports whose loop has parted: who was learnt there may be behind another one.
    pub parted: &'a BTreeSet<PortKey>,
}

impl Age<'_> {
    /// The segment of an entry that counts: not too old, and of a segment and attachment that are here.
    fn keep(&self, number: u32, at: &PortKey, port: Option<&Port>, last_ns: u64) -> Option<Vni> {
        let (vni, age_ns) = Vni::new(number).ok().and_then(|v| Some((v, *self.ages_ns.get(&v)?)))?;
        // With its attachment a station goes at once: nobody is there to answer for it. So it does where the loop
        // guard blocked that: it is to be reached by the other one.
        let attached = port.is_some_and(|p| p.vni == number && p.flags & Port::BLOCKED == 0);
        let attached = attached && !self.parted.contains(at);
        (attached && self.now_ns.saturating_sub(last_ns) < age_ns).then_some(vni)
    }
}

/// Stations and addresses here.
#[derive(Debug, Default)]
pub struct Local {
    seen: Seen,
}

impl Local {
    /// What was last read.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Takes which stations the document pins here.
    pub fn pin(&mut self, pinned: BTreeSet<Station>, dirty: &mut Dirty) {
        dirty.stations.extend(self.seen.pinned.symmetric_difference(&pinned));
        self.seen.pinned = pinned;
    }

    /// Reads everything, and removes what is too old or belongs to a segment or attachment that is gone.
    ///
    /// # Errors
    /// When a table cannot be read or changed; what was read before stands then.
    pub fn walk(&mut self, maps: &Dataplane, age: Age<'_>, dirty: &mut Dirty) -> Result<(), DriverError> {
        let mut seen = Seen { pinned: self.seen.pinned.clone(), ..Seen::default() };
        let ports = maps.ports.entries()?;
        for (key, entry) in maps.mac_local.entries()? {
            match age.keep(key.vni, &entry.port, ports.get(&entry.port), entry.last_seen_ns) {
                Some(vni) => drop(seen.stations.insert((vni, MacAddr(key.mac)), entry.port)),
                None => drop(maps.mac_local.remove(&key)?),
            }
        }
        for (key, entry) in maps.nb_local.entries()? {
            let ip = watari_dataplane::abi::ip_from_bytes(key.ip);
            match age.keep(key.vni, &entry.port, ports.get(&entry.port), entry.last_seen_ns) {
                Some(vni) => drop(seen.addresses.insert((vni, ip), neighbour(ip, &entry))),
                None => drop(maps.nb_local.remove(&key)?),
            }
        }
        correct_counts(maps, &ports, &seen)?;
        differing(&self.seen.stations, &seen.stations, &mut dirty.stations);
        differing(&self.seen.addresses, &seen.addresses, &mut dirty.addresses);
        self.seen = seen;
        Ok(())
    }

    /// Reads one station.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn read_station(
        &mut self,
        maps: &Dataplane,
        age: Age<'_>,
        station: Station,
        dirty: &mut Dirty,
    ) -> Result<(), DriverError> {
        let (vni, mac) = station;
        let entry = maps.mac_local.get(&MacKey::new(vni.get(), mac.0))?;
        let mut now = None;
        if let Some(entry) = entry {
            let port = maps.ports.get(&entry.port)?;
            now = age.keep(vni.get(), &entry.port, port.as_ref(), entry.last_seen_ns).map(|_| entry.port);
        }
        let before = match now {
            Some(port) => self.seen.stations.insert(station, port),
            None => self.seen.stations.remove(&station),
        };
        if before != now {
            dirty.stations.insert(station);
        }
        Ok(())
    }

    /// Reads one address.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub fn read_address(
        &mut self,
        maps: &Dataplane,
        age: Age<'_>,
        address: Address,
        dirty: &mut Dirty,
    ) -> Result<(), DriverError> {
        let (vni, ip) = address;
        let entry = maps.nb_local.get(&NeighKey::new(vni.get(), ip))?;
        let mut now = None;
        if let Some(entry) = entry {
            let port = maps.ports.get(&entry.port)?;
            now = age
                .keep(vni.get(), &entry.port, port.as_ref(), entry.last_seen_ns)
                .map(|_| neighbour(ip, &entry));
        }
        let before = match now {
            Some(neighbour) => self.seen.addresses.insert(address, neighbour),
            None => self.seen.addresses.remove(&address),
        };
        if before != now {
            dirty.addresses.insert(address);
        }
        Ok(())
    }

    /// Removes stations that moved away, with their addresses, and addresses that moved to another MAC. All of them
    /// are `dirty` again.
    ///
    /// # Errors
    /// When a table cannot be changed.
    pub fn forget(
        &mut self,
        maps: &Dataplane,
        hosts: &Hosts,
        change: &Change,
        dirty: &mut Dirty,
    ) -> Result<(), DriverError> {
        let of_station =
            |station: &Station| hosts.addresses_of(*station).map(|a| (a, station.1)).collect::<Vec<_>>();
        let pairs: Vec<(Address, MacAddr)> = change.forget.iter().flat_map(of_station).collect();
        for station in &change.forget {
            maps.mac_local.remove(&MacKey::new(station.0.get(), station.1.0))?;
            self.seen.stations.remove(station);
            dirty.stations.insert(*station);
        }
        for (address, mac) in pairs.iter().chain(&change.forget_addresses) {
            let key = NeighKey::new(address.0.get(), address.1);
            // One that has changed hands meanwhile is another one.
            if maps.nb_local.get(&key)?.is_some_and(|entry| entry.mac == mac.0) {
                maps.nb_local.remove(&key)?;
            }
            if self.seen.addresses.get(address).is_some_and(|n| n.mac == *mac) {
                self.seen.addresses.remove(address);
                dirty.addresses.insert(*address);
            }
        }
        Ok(())
    }
}

fn neighbour(ip: IpAddr, entry: &NeighLocal) -> Neighbour {
    Neighbour { mac: MacAddr(entry.mac), port: entry.port, flags: local_flags(ip, entry.flags) }
}

/// What the owner of an address says of it. Only neighbour advertisements say anything (RFC 9047 section 2).
pub(super) fn local_flags(ip: IpAddr, flags: u16) -> NeighbourFlags {
    let has = |flag| ip.is_ipv6() && flags & flag != 0;
    NeighbourFlags {
        router: has(NeighLocal::ROUTER),
        is_override: has(NeighLocal::OVERRIDE),
        immutable: false,
    }
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
    if !wanted.is_empty() {
        for port in seen.stations.values() {
            if let Some(count) = wanted.get_mut(port) {
                *count += 1;
            }
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

/// Adds the keys under which two maps differ. Both are walked once, side by side.
fn differing<K: Ord + Copy, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    keys: &mut BTreeSet<K>,
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let before = if order == Ordering::Greater { None } else { old.next() };
        let now = if order == Ordering::Less { None } else { new.next() };
        if before.map(|(_, value)| value) != now.map(|(_, value)| value)
            && let Some((key, _)) = before.or(now)
        {
            keys.insert(*key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tables_differ_by_what_came_went_and_changed() {
        let old = BTreeMap::from([(1, 'a'), (2, 'b'), (4, 'd'), (9, 'x')]);
        let new = BTreeMap::from([(0, 'n'), (1, 'a'), (2, 'c'), (3, 'n'), (9, 'x')]);
        let mut keys = BTreeSet::new();
        differing(&old, &new, &mut keys);
        assert_eq!(keys, [0, 2, 3, 4].into());
    }
}
