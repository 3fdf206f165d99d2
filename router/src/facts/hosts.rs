//! The one table in which it is decided where a station and an address are: learnt here, or claimed by another
//! gateway. Pure; time is an argument. RFC 7432 section 15, RFC 9161 section 3.7, RFC 9721.
//!
//! ```text
//!   a station learnt here
//!     we hold it, nobody claims more ──▶ advertised, sequence as before
//!     we hold it, a claim is greater ──▶ it moved away: forget it here, once
//!     new, nobody claims it          ──▶ hold it, sequence as it was last (0 at first)
//!     new, another claims it         ──▶ it moved to us: hold it, sequence = theirs + 1
//!     new, the claim is sticky       ──▶ never advertised; the programs drop its frames
//!   an address learnt here with a station that we hold
//!     another MAC elsewhere claims it ─▶ as above, where the sequence is that of the address's station
//!   N moves of one within M seconds  ──▶ duplicate: frozen
//! ```
//! **Frozen** means that this gateway tells nobody of a further move: what it holds it goes on advertising
//! with the sequence it had, what it does not hold it does not advertise. It still yields to a greater claim, so
//! that never two advertise for long. A freeze ends by time or by an operator; the entry that was learnt and is not
//! held is then forgotten, so that the station's next frame says where it is. A station that has moved between ports
//! here alone stays in the datapath as well at the port where it was then, for as long as it is known there.
//! A freeze outlives the daemon ([`Freeze`]): a restart sets nothing free.

mod claims;
mod duplicates;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod whole;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use watari_bgp::evpn::mobility::{Claim, Damping, DampingLimits, compare, local_sequence};
use watari_bgp::types::MacAddr;
use watari_bgp::{Instant, NeighbourFlags};
use watari_config::Vni;
use watari_dataplane::PortKey;

pub use self::claims::{Bound, Claims, Told};
use self::duplicates::Duplicates;
pub use self::duplicates::{Duplicate, Place, Sighting, Subject};

/// A station of a segment.
pub type Station = (Vni, MacAddr);
/// An address of a segment.
pub type Address = (Vni, IpAddr);

/// An address that was learnt here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC.
    pub mac: MacAddr,
    /// Where it was last heard.
    pub port: PortKey,
    /// What its owner says of it (RFC 9047).
    pub flags: NeighbourFlags,
}

/// What is learnt on attachments here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Stations and where each was last heard.
    pub stations: BTreeMap<Station, PortKey>,
    /// Addresses.
    pub addresses: BTreeMap<Address, Neighbour>,
    /// Stations that the document pins here; advertised as such without being learnt.
    pub pinned: BTreeSet<Station>,
}

/// What is new and an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It moves too often and is frozen.
    Frozen(Subject),
    /// Its freeze has ended by time.
    Thawed(Subject),
    /// It is learnt here though another gateway, the one named, has pinned it.
    Pinned(Subject, IpAddr),
    /// It is pinned here and at the gateway named (RFC 7432 section 15.2).
    PinnedTwice(Subject, IpAddr),
}

/// A freeze, from one run of the daemon to the next. Its times are of the clock that goes on between the two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freeze {
    /// What is frozen.
    pub subject: Subject,
    /// Since when.
    pub since: Instant,
    /// Until when.
    pub until: Instant,
    /// How often it was frozen, this time included.
    pub freezes: u32,
    /// Where it was seen, the newest last.
    pub seen: Vec<Sighting>,
    /// The port where the datapath hears it and nowhere else, if there is one ([`Hosts::frozen_at`]).
    pub at: Option<PortKey>,
}

/// Stations and addresses of which something has changed: learnt, forgotten, moved, claimed by others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Stations.
    pub stations: BTreeSet<Station>,
    /// Addresses.
    pub addresses: BTreeSet<Address>,
}

impl Dirty {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.stations.is_empty() && self.addresses.is_empty()
    }
}

/// What follows from a look at the stations and addresses that have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Stations that are advertised since, or no more, or with another sequence.
    pub stations: BTreeSet<Station>,
    /// Addresses of which the same is true, with the MAC they had before.
    pub addresses: BTreeMap<Address, Option<MacAddr>>,
    /// Stations that moved away: their local entries are to be removed.
    pub forget: Vec<Station>,
    /// Addresses that moved away to another MAC: the local entries of these pairs are to be removed.
    pub forget_addresses: Vec<(Address, MacAddr)>,
    /// What is new.
    pub notices: Vec<Notice>,
}

/// The stations and addresses that this gateway holds, and what it remembers of those that moved.
#[derive(Clone, Debug)]
pub struct Hosts {
    vtep: IpAddr,
    /// Sequence of each station that we hold.
    held: BTreeMap<Station, u32>,
    /// Sequences of stations that left, so that one that comes back is not older than itself.
    past: BTreeMap<Station, u32>,
    /// MAC of each address that we hold, and what its owner says of it.
    bound: BTreeMap<Address, (MacAddr, NeighbourFlags)>,
    /// MAC with which each address was learnt here at the last look.
    heard: BTreeMap<Address, MacAddr>,
    /// Every pair of `bound` and `heard`, by station.
    pairs: BTreeSet<(Station, IpAddr)>,
    /// Where each station was at the last look.
    ports: BTreeMap<Station, PortKey>,
    /// Moves between ports since the last look.
    port_moves: BTreeMap<Station, u32>,
    duplicates: Duplicates,
    /// Where each station was that was then frozen and has moved between ports here alone.
    frozen_at: BTreeMap<Station, PortKey>,
    /// What is learnt or pinned here and pinned elsewhere, with the gateway.
    pinned: BTreeMap<Subject, IpAddr>,
    /// Subjects that an operator has just cleared.
    cleared: BTreeSet<Subject>,
    has_looked: bool,
    /// The next look is at everything.
    is_all_due: bool,
}

/// The most stations that left and are remembered.
const PAST_MAX: usize = 65_536;
/// The most moves of one station between ports that are counted between two looks.
const PORT_MOVES_MAX: u32 = 64;

impl Hosts {
    /// The table of the gateway with the address `vtep`.
    pub fn new(vtep: IpAddr, limits: DampingLimits) -> Self {
        Self {
            vtep,
            held: BTreeMap::new(),
            past: BTreeMap::new(),
            bound: BTreeMap::new(),
            heard: BTreeMap::new(),
            pairs: BTreeSet::new(),
            ports: BTreeMap::new(),
            port_moves: BTreeMap::new(),
            duplicates: Duplicates::new(limits),
            frozen_at: BTreeMap::new(),
            pinned: BTreeMap::new(),
            cleared: BTreeSet::new(),
            has_looked: false,
            is_all_due: true,
        }
    }

    /// Changes our own address, which decides between equal sequences.
    pub fn set_vtep(&mut self, vtep: IpAddr) {
        self.is_all_due |= self.vtep != vtep;
        self.vtep = vtep;
    }

    /// Makes the next look one at everything.
    pub fn look_at_all(&mut self) {
        self.is_all_due = true;
    }

    /// Stations to advertise, each with its sequence.
    pub fn held(&self) -> &BTreeMap<Station, u32> {
        &self.held
    }

    /// Addresses to advertise, each of a station to advertise, with what their owners say of them.
    pub fn bound(&self) -> &BTreeMap<Address, (MacAddr, NeighbourFlags)> {
        &self.bound
    }

    /// The addresses that were learnt here with a station, or are advertised with it.
    pub fn addresses_of(&self, station: Station) -> impl Iterator<Item = Address> + '_ {
        let last = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));
        let first = IpAddr::V4(0.into());
        self.pairs.range((station, first)..=(station, last)).map(|((vni, _), ip)| (*vni, *ip))
    }

    /// Notes that a station was heard at another port than before. A hint: a move that nobody noted is seen at the
    /// next look, as one.
    pub fn port_moved(&mut self, station: Station) {
        let moves = self.port_moves.entry(station).or_default();
        *moves = (*moves + 1).min(PORT_MOVES_MAX);
    }

    /// Everything that is frozen.
    pub fn duplicates(&self) -> impl Iterator<Item = Duplicate<'_>> {
        self.duplicates.frozen()
    }

    /// Takes up what was frozen in the run before, before the first look. Whose time is over meanwhile is free again at
    /// that look.
    pub fn restore(&mut self, freeze: Freeze) {
        let Freeze { subject, since, until, freezes, seen, at } = freeze;
        self.duplicates.restore(subject, since, Damping::of_freeze(until, freezes), seen.into());
        if let (Subject::Station(station), Some(port)) = (subject, at) {
            self.frozen_at.insert(station, port);
        }
    }

    /// Everything that is frozen, as the next run takes it up.
    pub fn freezes(&self) -> impl Iterator<Item = Freeze> + '_ {
        self.duplicates().map(|d| Freeze {
            subject: d.subject,
            since: d.since,
            until: d.until,
            freezes: d.freezes,
            seen: d.seen.iter().copied().collect(),
            at: match d.subject {
                Subject::Station(station) => self.frozen_at.get(&station).copied(),
                Subject::Address(_) => None,
            },
        })
    }

    /// Stations that are frozen and have moved between ports here alone, each with the port where it was then: the
    /// datapath is to hear them there and nowhere else. One that is no longer known here is not among them.
    pub fn frozen_at(&self) -> &BTreeMap<Station, PortKey> {
        &self.frozen_at
    }

    /// What is learnt or pinned here though another gateway has pinned it, with that gateway.
    pub fn pinned_elsewhere(&self) -> &BTreeMap<Subject, IpAddr> {
        &self.pinned
    }

    /// Whether we hold what is frozen, and so go on advertising it.
    pub fn holds(&self, subject: &Subject) -> bool {
        match *subject {
            Subject::Station(station) => self.held.contains_key(&station),
            Subject::Address(address) => self.bound.contains_key(&address),
        }
    }

    /// Ends a freeze by an operator's word, and forgets its moves. `false` if it is not frozen.
    pub fn clear(&mut self, subject: Subject) -> bool {
        let was_frozen = self.duplicates.clear(&subject);
        if was_frozen {
            self.cleared.insert(subject);
        }
        was_frozen
    }

    /// Forgets all moves in a segment and ends its freezes: a loop made them.
    pub fn forgive(&mut self, vni: Vni) {
        self.port_moves.retain(|(segment, _), _| *segment != vni);
        self.cleared.extend(self.duplicates.forgive(vni));
    }

    /// Decides for what is `seen` here now and what the others claim, of everything that may have changed since
    /// the last look. What else hangs on that is added to `dirty`.
    pub fn look(&mut self, now: Instant, seen: &Seen, claims: &Claims, dirty: &mut Dirty) -> Change {
        let mut look = Look {
            now,
            claims,
            change: Change::default(),
            pinned: BTreeMap::new(),
            was_pinned: BTreeSet::new(),
        };
        let freed = self.freed(&mut look, dirty);
        if std::mem::take(&mut self.is_all_due) {
            if !std::mem::replace(&mut self.has_looked, true) {
                self.adopt(seen);
            }
            self.add_all(seen, claims, dirty);
        }
        dirty.stations.extend(self.port_moves.keys());
        let stations = std::mem::take(&mut dirty.stations);
        for station in &stations {
            self.look_at_station(&mut look, *station, seen, &freed, dirty);
        }
        dirty.stations = stations;
        for address in &dirty.addresses {
            self.look_at_address(&mut look, *address, seen, &freed);
        }
        for station in &dirty.stations {
            match seen.stations.get(station) {
                Some(port) => drop(self.ports.insert(*station, *port)),
                None => drop(self.ports.remove(station)),
            }
        }
        self.port_moves.clear();
        for (subject, vtep) in &look.pinned {
            if !look.was_pinned.contains(subject) {
                let is_ours = matches!(subject, Subject::Station(s) if seen.pinned.contains(s));
                let notice = if is_ours { Notice::PinnedTwice } else { Notice::Pinned };
                look.change.notices.push(notice(*subject, *vtep));
            }
        }
        self.pinned.extend(look.pinned);
        look.change
    }

    /// What an operator or time has set free. The addresses of a station have waited for it.
    fn freed(&mut self, look: &mut Look<'_>, dirty: &mut Dirty) -> BTreeSet<Subject> {
        let mut freed = std::mem::take(&mut self.cleared);
        for subject in self.duplicates.thaw(look.now) {
            look.change.notices.push(Notice::Thawed(subject));
            freed.insert(subject);
        }
        for subject in &freed {
            match *subject {
                Subject::Station(station) => {
                    dirty.stations.insert(station);
                    dirty.addresses.extend(self.addresses_of(station));
                }
                Subject::Address(address) => drop(dirty.addresses.insert(address)),
            }
        }
        freed
    }

    fn add_all(&self, seen: &Seen, claims: &Claims, dirty: &mut Dirty) {
        dirty.stations.extend(seen.stations.keys().chain(self.held.keys()).chain(self.ports.keys()));
        dirty.stations.extend(claims.stations.keys().chain(&seen.pinned).chain(self.frozen_at.keys()));
        dirty.addresses.extend(seen.addresses.keys().chain(self.bound.keys()).chain(self.heard.keys()));
        dirty.addresses.extend(claims.addresses.keys());
    }

    fn look_at_station(
        &mut self,
        look: &mut Look<'_>,
        station: Station,
        seen: &Seen,
        freed: &BTreeSet<Subject>,
        dirty: &mut Dirty,
    ) {
        self.unpin(look, Subject::Station(station));
        let before = self.held.remove(&station);
        let port = seen.stations.get(&station);
        let now = port.and_then(|port| self.station(look, before, station, *port, freed));
        if let Some(sequence) = now {
            self.held.insert(station, sequence);
        }
        match port.filter(|_| self.duplicates.is_frozen_among_ports(&Subject::Station(station))) {
            Some(port) => drop(self.frozen_at.entry(station).or_insert(*port)),
            None => drop(self.frozen_at.remove(&station)),
        }
        if let (Some(sequence), None) = (before, now) {
            self.remember(station, sequence);
        }
        if before != now {
            look.change.stations.insert(station);
        }
        // A claim that is not sticky goes by itself, and the gateway that makes it says so.
        let claim = look.claims.stations.get(&station).filter(|c| c.sticky && seen.pinned.contains(&station));
        if let Some(claim) = claim {
            look.pinned.insert(Subject::Station(station), claim.vtep);
        }
        // An address hangs on whether we hold its station here, and the station it has elsewhere.
        if before.is_some() != now.is_some() {
            dirty.addresses.extend(self.addresses_of(station).chain(look.claims.addresses_of(&station)));
        }
    }

    fn look_at_address(
        &mut self,
        look: &mut Look<'_>,
        address: Address,
        seen: &Seen,
        freed: &BTreeSet<Subject>,
    ) {
        self.unpin(look, Subject::Address(address));
        let before = self.bound.remove(&address);
        let neighbour = seen.addresses.get(&address);
        let mac_before = before.map(|(mac, _)| mac);
        let now = neighbour.and_then(|n| self.address(look, mac_before, address, n, freed));
        let heard = match neighbour {
            Some(neighbour) => self.heard.insert(address, neighbour.mac),
            None => self.heard.remove(&address),
        };
        let (vni, ip) = address;
        for mac in mac_before.into_iter().chain(heard) {
            self.pairs.remove(&((vni, mac), ip));
        }
        for mac in now.map(|(mac, _)| mac).into_iter().chain(neighbour.map(|n| n.mac)) {
            self.pairs.insert(((vni, mac), ip));
        }
        if let Some(bound) = now {
            self.bound.insert(address, bound);
        }
        if before != now {
            look.change.addresses.insert(address, mac_before);
        }
    }

    /// Whether something is pinned elsewhere is found anew at each look at it.
    fn unpin(&mut self, look: &mut Look<'_>, subject: Subject) {
        if self.pinned.remove(&subject).is_some() {
            look.was_pinned.insert(subject);
        }
    }

    /// At the first look nothing says when a station was learnt: it may have moved while nobody looked. It counts
    /// as held with the lowest sequence, so that any claim is greater and its next frame takes it back.
    fn adopt(&mut self, seen: &Seen) {
        self.held = seen.stations.keys().map(|station| (*station, 0)).collect();
        self.bound = seen.addresses.iter().map(|(address, n)| (*address, (n.mac, n.flags))).collect();
        self.heard = seen.addresses.iter().map(|(address, n)| (*address, n.mac)).collect();
        self.pairs = seen.addresses.iter().map(|((vni, ip), n)| ((*vni, n.mac), *ip)).collect();
        self.ports.clone_from(&seen.stations);
    }

    fn claim_of_ours(&self, sequence: u32) -> Claim {
        Claim { sticky: false, sequence, vtep: self.vtep }
    }

    /// The sequence with which the station is held; `None` if it is not.
    fn station(
        &mut self,
        look: &mut Look<'_>,
        held: Option<u32>,
        station: Station,
        port: PortKey,
        freed: &BTreeSet<Subject>,
    ) -> Option<u32> {
        let subject = Subject::Station(station);
        let here = Sighting { at: Place::Port(port), mac: station.1 };
        let changed_port = self.ports.get(&station).is_some_and(|old| *old != port);
        let noted = self.port_moves.get(&station).copied().unwrap_or(0);
        for _ in 0..noted.max(u32::from(changed_port)) {
            let before =
                self.ports.get(&station).map(|old| Sighting { at: Place::Port(*old), mac: station.1 });
            self.moved(look, subject, before.into_iter().chain([here]));
        }
        let claim = look.claims.stations.get(&station);
        let there = claim.map(|c| Sighting { at: Place::Gateway(c.vtep), mac: station.1 });
        if let Some(sequence) = held {
            let ours = self.claim_of_ours(sequence);
            if claim.is_some_and(|c| compare(c, &ours) == Ordering::Greater) {
                self.moved(look, subject, [here].into_iter().chain(there));
                look.change.forget.push(station);
                return None;
            }
            return Some(sequence);
        }
        if freed.contains(&subject) {
            look.change.forget.push(station);
            return None;
        }
        if let Some(claim) = claim.filter(|c| c.sticky) {
            look.pinned.insert(subject, claim.vtep);
            return None;
        }
        if claim.is_some() {
            self.moved(look, subject, there.into_iter().chain([here]));
        }
        if self.duplicates.is_frozen(&subject) {
            return None;
        }
        local_sequence(claim, self.past.get(&station).copied())
    }

    /// The MAC and flags with which the address is to be advertised; `None` if it is not.
    fn address(
        &mut self,
        look: &mut Look<'_>,
        before: Option<MacAddr>,
        address: Address,
        neighbour: &Neighbour,
        freed: &BTreeSet<Subject>,
    ) -> Option<(MacAddr, NeighbourFlags)> {
        let (subject, mac) = (Subject::Address(address), neighbour.mac);
        let here = Sighting { at: Place::Port(neighbour.port), mac };
        if let Some(other) = before.filter(|b| *b != mac) {
            let there = Sighting { at: self.place_of((address.0, other)), mac: other };
            self.moved(look, subject, [there, here]);
            if self.duplicates.is_frozen(&subject) {
                // It stays with the station that had it, for as long as we hold that one.
                return self.held.contains_key(&(address.0, other)).then_some((other, neighbour.flags));
            }
        }
        let station = (address.0, mac);
        let sequence = *self.held.get(&station)?;
        // What another still says of a station that we have won is out of date.
        let is_rival = |r: &&Bound| r.mac != mac && !self.held.contains_key(&(address.0, r.mac));
        let rival = look.claims.addresses.get(&address).filter(is_rival);
        let Some(rival) = rival else {
            return (before.is_some() || !self.duplicates.is_frozen(&subject))
                .then_some((mac, neighbour.flags));
        };
        let there = Sighting { at: Place::Gateway(rival.claim.vtep), mac: rival.mac };
        if before.is_some() {
            if compare(&rival.claim, &self.claim_of_ours(sequence)) == Ordering::Greater {
                self.moved(look, subject, [here, there]);
                look.change.forget_addresses.push((address, mac));
                return None;
            }
            return Some((mac, neighbour.flags));
        }
        if freed.contains(&subject) {
            look.change.forget_addresses.push((address, mac));
            return None;
        }
        if rival.claim.sticky || rival.flags.is_some_and(|f| f.immutable) {
            look.pinned.insert(subject, rival.claim.vtep);
            return None;
        }
        // The sequence of a frozen station does not rise, so nothing can be told of its address.
        if self.duplicates.is_frozen(&Subject::Station(station)) {
            return None;
        }
        self.moved(look, subject, [there, here]);
        if self.duplicates.is_frozen(&subject) {
            return None;
        }
        // An address that comes to another MAC is newer than it was there (RFC 9721): all routes of one
        // station carry one sequence, so that of the station rises.
        let raised = local_sequence(Some(&rival.claim), Some(sequence))?;
        self.held.insert(station, raised);
        if raised != sequence {
            look.change.stations.insert(station);
        }
        Some((mac, neighbour.flags))
    }

    /// Where a station is as far as we know.
    fn place_of(&self, station: Station) -> Place {
        self.ports.get(&station).map_or(Place::Gateway(self.vtep), |port| Place::Port(*port))
    }

    fn moved(&mut self, look: &mut Look<'_>, subject: Subject, seen: impl IntoIterator<Item = Sighting>) {
        if self.duplicates.moved(look.now, subject, seen) {
            look.change.notices.push(Notice::Frozen(subject));
        }
    }

    fn remember(&mut self, station: Station, sequence: u32) {
        if self.past.len() < PAST_MAX || self.past.contains_key(&station) {
            self.past.insert(station, sequence);
        }
    }
}

/// One look at the tables, and what came of it so far.
struct Look<'a> {
    now: Instant,
    claims: &'a Claims,
    change: Change,
    pinned: BTreeMap<Subject, IpAddr>,
    /// What was pinned elsewhere at the look before.
    was_pinned: BTreeSet<Subject>,
}
