//! What the other gateways claim: every type 2 route of each station, and of each station and address the claim
//! that wins. Changed route by route: a change looks at its own station and address only.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use watari_bgp::NeighbourFlags;
use watari_bgp::evpn::mobility::{Claim, compare};
use watari_bgp::types::MacAddr;
use watari_config::Vni;

use super::{Address, Dirty, Station};

/// An address of a station behind another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its MAC.
    pub mac: MacAddr,
    /// The gateway's claim to it.
    pub claim: Claim,
    /// What the gateway says of it; `None` if it says nothing (RFC 9047).
    pub flags: Option<NeighbourFlags>,
}

impl Bound {
    /// `Greater` if it wins over `other`; of two that claim the same, the one with the lower MAC, so that every order
    /// of routes ends alike.
    fn compare(&self, other: &Self) -> Ordering {
        let flags = |f: Option<NeighbourFlags>| f.map(|f| (f.router, f.is_override, f.immutable));
        compare(&self.claim, &other.claim)
            .then_with(|| other.mac.cmp(&self.mac))
            .then_with(|| flags(self.flags).cmp(&flags(other.flags)))
    }
}

/// One type 2 route of another gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The station.
    pub station: Station,
    /// Its address, if the route has one.
    pub ip: Option<IpAddr>,
    /// The gateway's claim.
    pub claim: Claim,
    /// What the gateway says of the address (RFC 9047).
    pub flags: Option<NeighbourFlags>,
}

/// What the other gateways claim: of each station and address, the claim that wins among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Stations.
    pub stations: BTreeMap<Station, Claim>,
    /// Addresses, each of a station that its gateway has won.
    pub addresses: BTreeMap<Address, Bound>,
    /// All routes of each station. Those of several gateways have different distinguishers; they meet here.
    pub(super) told: BTreeMap<Station, Vec<Told>>,
    /// The stations of which somebody says that they have an address.
    pub(super) macs: BTreeSet<(Vni, IpAddr, MacAddr)>,
}

impl Claims {
    /// The winners among the routes of all other gateways.
    pub fn of(routes: &[Told]) -> Self {
        let (mut claims, mut dirty) = (Self::default(), Dirty::default());
        routes.iter().for_each(|told| claims.add(*told, &mut dirty));
        claims
    }

    /// Takes a route; what may have another winner by it goes to `dirty`.
    pub fn add(&mut self, told: Told, dirty: &mut Dirty) {
        self.told.entry(told.station).or_default().push(told);
        if let Some(ip) = told.ip {
            self.macs.insert((told.station.0, ip, told.station.1));
        }
        let before = self.stations.get(&told.station);
        let wins = before.is_none_or(|c| compare(&told.claim, c) == Ordering::Greater);
        self.settle(&told, wins.then_some(told.claim).or(before.copied()), dirty);
    }

    /// Takes back a route that was [added](Self::add).
    pub fn remove(&mut self, told: &Told, dirty: &mut Dirty) {
        let Some(all) = self.told.get_mut(&told.station) else { return };
        let Some(at) = all.iter().position(|t| t == told) else { return };
        all.swap_remove(at);
        let is_address_gone = !all.iter().any(|t| t.ip == told.ip);
        let winner = all.iter().map(|t| t.claim).max_by(compare);
        if all.is_empty() {
            self.told.remove(&told.station);
        }
        if let (Some(ip), true) = (told.ip, is_address_gone) {
            self.macs.remove(&(told.station.0, ip, told.station.1));
        }
        self.settle(told, winner, dirty);
    }

    /// The addresses that somebody says a station has.
    pub fn addresses_of(&self, station: &Station) -> impl Iterator<Item = Address> + '_ {
        let vni = station.0;
        self.told.get(station).into_iter().flatten().filter_map(move |told| Some((vni, told.ip?)))
    }

    /// Writes the winner of a route's station, and those of the addresses that hang on it.
    fn settle(&mut self, told: &Told, winner: Option<Claim>, dirty: &mut Dirty) {
        let before = match winner {
            Some(claim) => self.stations.insert(told.station, claim),
            None => self.stations.remove(&told.station),
        };
        if before != winner {
            dirty.stations.insert(told.station);
        }
        // An address counts for the gateway that won its station, so with another one all of them are new.
        if before.map(|c| c.vtep) != winner.map(|c| c.vtep) {
            let all: Vec<Address> = self.addresses_of(&told.station).collect();
            all.into_iter().for_each(|address| self.settle_address(address, dirty));
        }
        if let Some(ip) = told.ip {
            self.settle_address((told.station.0, ip), dirty);
        }
    }

    fn settle_address(&mut self, address: Address, dirty: &mut Dirty) {
        let (vni, ip) = address;
        let macs = self.macs.range((vni, ip, MacAddr([0; 6]))..=(vni, ip, MacAddr([0xff; 6])));
        let all = macs.filter_map(|(_, _, mac)| self.told.get(&(vni, *mac))).flatten();
        let counts = all.filter(|told| {
            told.ip == Some(ip) && self.stations.get(&told.station).is_some_and(|c| c.vtep == told.claim.vtep)
        });
        let bound = counts.map(|told| Bound { mac: told.station.1, claim: told.claim, flags: told.flags });
        let winner = bound.max_by(Bound::compare);
        let before = match winner {
            Some(bound) => self.addresses.insert(address, bound),
            None => self.addresses.remove(&address),
        };
        if before != winner {
            dirty.addresses.insert(address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The winners by their definition: all routes at once.
    fn defined(routes: &[Told]) -> (BTreeMap<Station, Claim>, BTreeMap<Address, Bound>) {
        let mut stations: BTreeMap<Station, Claim> = BTreeMap::new();
        for told in routes {
            let slot = stations.entry(told.station).or_insert(told.claim);
            if compare(&told.claim, slot) == Ordering::Greater {
                *slot = told.claim;
            }
        }
        let mut addresses: BTreeMap<Address, Bound> = BTreeMap::new();
        for told in routes.iter().filter(|t| stations[&t.station].vtep == t.claim.vtep) {
            let Some(ip) = told.ip else { continue };
            let bound = Bound { mac: told.station.1, claim: told.claim, flags: told.flags };
            let slot = addresses.entry((told.station.0, ip)).or_insert(bound);
            if bound.compare(slot) == Ordering::Greater {
                *slot = bound;
            }
        }
        (stations, addresses)
    }

    fn random_route(random: &mut impl FnMut(u32) -> u32) -> Told {
        let flags =
            NeighbourFlags { router: random(2) == 0, is_override: random(2) == 0, immutable: random(4) == 0 };
        Told {
            station: (Vni::new(1 + random(2)).unwrap(), MacAddr([2, 0, 0, 0, 0, random(5) as u8])),
            ip: (random(4) > 0).then(|| IpAddr::from([10, 0, 0, random(6) as u8])),
            claim: Claim {
                sticky: random(8) == 0,
                sequence: random(3),
                vtep: [10, 255, 0, random(4) as u8].into(),
            },
            flags: (random(3) == 0).then_some(flags),
        }
    }

    /// Routes come and go at random: at each step the winners are those of all routes at once, and whatever has
    /// another winner was said to be dirty.
    #[test]
    fn route_by_route_the_same_win_as_all_at_once() {
        let mut state = 1_u64;
        let mut random = |below: u32| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u32 % below
        };
        let (mut claims, mut routes): (Claims, Vec<Told>) = Default::default();
        for step in 0..20_000 {
            let (before, mut dirty) = (claims.clone(), Dirty::default());
            if routes.len() > 40 || (!routes.is_empty() && random(2) == 0) {
                let gone = routes.swap_remove(random(routes.len() as u32) as usize);
                claims.remove(&gone, &mut dirty);
            } else {
                routes.push(random_route(&mut random));
                claims.add(routes[routes.len() - 1], &mut dirty);
            }
            let (stations, addresses) = defined(&routes);
            assert_eq!((&claims.stations, &claims.addresses), (&stations, &addresses), "step {step}");
            let all = before.stations.keys().chain(stations.keys());
            let mut missed = all.filter(|s| before.stations.get(*s) != stations.get(*s));
            assert!(missed.all(|s| dirty.stations.contains(s)), "step {step}: {dirty:?}");
            let all = before.addresses.keys().chain(addresses.keys());
            let mut missed = all.filter(|a| before.addresses.get(*a) != addresses.get(*a));
            assert!(missed.all(|a| dirty.addresses.contains(a)), "step {step}: {dirty:?}");
        }
        routes.iter().for_each(|told| claims.remove(told, &mut Dirty::default()));
        assert_eq!(claims, Claims::default(), "nothing is left behind");
    }
}
