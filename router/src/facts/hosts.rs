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
//! held is then forgotten, so that the station's next frame says where it is.

mod duplicates;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use watari_bgp::evpn::mobility::{Claim, DampingLimits, compare, local_sequence};
use watari_bgp::types::MacAddr;
use watari_bgp::{Instant, NeighbourFlags};
use watari_config::Vni;
use watari_dataplane::PortKey;

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

/// What the other gateways claim: of each station and address, the claim that wins among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// Stations.
    pub stations: BTreeMap<Station, Claim>,
    /// Addresses, each of a station that its gateway has won.
    pub addresses: BTreeMap<Address, Bound>,
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

impl Claims {
    /// The winners among the routes of all other gateways. Routes of one station by several gateways have different
    /// distinguishers and are all there; they meet here and one wins.
    pub fn of(routes: &[Told]) -> Self {
        let mut claims = Self::default();
        for told in routes {
            let slot = claims.stations.entry(told.station).or_insert(told.claim);
            if compare(&told.claim, slot) == Ordering::Greater {
                *slot = told.claim;
            }
        }
        for told in routes {
            let Some(ip) = told.ip else { continue };
            let bound = Bound { mac: told.station.1, claim: told.claim, flags: told.flags };
            // An address counts for the station that won, not for one that lost its place.
            if claims.stations[&told.station].vtep != bound.claim.vtep {
                continue;
            }
            let slot = claims.addresses.entry((told.station.0, ip)).or_insert(bound);
            if compare(&bound.claim, &slot.claim) == Ordering::Greater {
                *slot = bound;
            }
        }
        claims
    }
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

/// What follows from a look at the tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Stations to advertise, each with its sequence.
    pub advertise: BTreeMap<Station, u32>,
    /// Addresses to advertise, each of a station to advertise.
    pub addresses: BTreeMap<Address, (MacAddr, NeighbourFlags)>,
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
    /// MAC of each address that we hold.
    bound: BTreeMap<Address, MacAddr>,
    /// Where each station was at the last look.
    ports: BTreeMap<Station, PortKey>,
    /// Moves between ports since the last look.
    port_moves: BTreeMap<Station, u32>,
    duplicates: Duplicates,
    /// What is learnt or pinned here and pinned elsewhere, with the gateway.
    pinned: BTreeMap<Subject, IpAddr>,
    /// Subjects that an operator has just cleared.
    cleared: BTreeSet<Subject>,
    has_looked: bool,
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
            ports: BTreeMap::new(),
            port_moves: BTreeMap::new(),
            duplicates: Duplicates::new(limits),
            pinned: BTreeMap::new(),
            cleared: BTreeSet::new(),
            has_looked: false,
        }
    }

    /// Changes our own address, which decides between equal sequences.
    pub fn set_vtep(&mut self, vtep: IpAddr) {
        self.vtep = vtep;
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

    /// Decides for what is `seen` here now and what the others claim.
    pub fn decide(&mut self, now: Instant, seen: &Seen, claims: &Claims) -> Decision {
        let mut look = Look { now, claims, decision: Decision::default(), pinned: BTreeMap::new() };
        let mut freed = std::mem::take(&mut self.cleared);
        for subject in self.duplicates.thaw(now) {
            look.decision.notices.push(Notice::Thawed(subject));
            freed.insert(subject);
        }
        if !std::mem::replace(&mut self.has_looked, true) {
            self.adopt(seen);
        }
        let held = std::mem::take(&mut self.held);
        for (station, port) in &seen.stations {
            if let Some(sequence) = self.station(&mut look, &held, *station, *port, &freed) {
                self.held.insert(*station, sequence);
            }
        }
        for (station, sequence) in &held {
            if !self.held.contains_key(station) {
                self.remember(*station, *sequence);
            }
        }
        let bound = std::mem::take(&mut self.bound);
        for (address, neighbour) in &seen.addresses {
            if let Some((mac, flags)) = self.address(&mut look, &bound, *address, neighbour, &freed) {
                self.bound.insert(*address, mac);
                look.decision.addresses.insert(*address, (mac, flags));
            }
        }
        self.ports.clone_from(&seen.stations);
        self.port_moves.clear();
        for station in &seen.pinned {
            // A claim that is not sticky goes by itself, and the gateway that makes it says so.
            if let Some(claim) = claims.stations.get(station).filter(|c| c.sticky) {
                look.pinned.insert(Subject::Station(*station), claim.vtep);
            }
        }
        for (subject, vtep) in &look.pinned {
            if !self.pinned.contains_key(subject) {
                let is_ours = matches!(subject, Subject::Station(s) if seen.pinned.contains(s));
                let notice = if is_ours { Notice::PinnedTwice } else { Notice::Pinned };
                look.decision.notices.push(notice(*subject, *vtep));
            }
        }
        self.pinned = look.pinned;
        look.decision.advertise.clone_from(&self.held);
        look.decision
    }

    /// At the first look nothing says when a station was learnt: it may have moved while nobody looked. It counts
    /// as held with the lowest sequence, so that any claim is greater and its next frame takes it back.
    fn adopt(&mut self, seen: &Seen) {
        self.held = seen.stations.keys().map(|station| (*station, 0)).collect();
        self.bound = seen.addresses.iter().map(|(address, n)| (*address, n.mac)).collect();
        self.ports.clone_from(&seen.stations);
    }

    fn claim_of_ours(&self, sequence: u32) -> Claim {
        Claim { sticky: false, sequence, vtep: self.vtep }
    }

    /// The sequence with which the station is held; `None` if it is not.
    fn station(
        &mut self,
        look: &mut Look<'_>,
        held: &BTreeMap<Station, u32>,
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
        if let Some(sequence) = held.get(&station) {
            let ours = self.claim_of_ours(*sequence);
            if claim.is_some_and(|c| compare(c, &ours) == Ordering::Greater) {
                self.moved(look, subject, [here].into_iter().chain(there));
                look.decision.forget.push(station);
                return None;
            }
            return Some(*sequence);
        }
        if freed.contains(&subject) {
            look.decision.forget.push(station);
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
        bound: &BTreeMap<Address, MacAddr>,
        address: Address,
        neighbour: &Neighbour,
        freed: &BTreeSet<Subject>,
    ) -> Option<(MacAddr, NeighbourFlags)> {
        let (subject, mac) = (Subject::Address(address), neighbour.mac);
        let here = Sighting { at: Place::Port(neighbour.port), mac };
        let before = bound.get(&address).copied();
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
                look.decision.forget_addresses.push((address, mac));
                return None;
            }
            return Some((mac, neighbour.flags));
        }
        if freed.contains(&subject) {
            look.decision.forget_addresses.push((address, mac));
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
        self.held.insert(station, local_sequence(Some(&rival.claim), Some(sequence))?);
        Some((mac, neighbour.flags))
    }

    /// Where a station is as far as we know.
    fn place_of(&self, station: Station) -> Place {
        self.ports.get(&station).map_or(Place::Gateway(self.vtep), |port| Place::Port(*port))
    }

    fn moved(&mut self, look: &mut Look<'_>, subject: Subject, seen: impl IntoIterator<Item = Sighting>) {
        if self.duplicates.moved(look.now, subject, seen) {
            look.decision.notices.push(Notice::Frozen(subject));
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
    decision: Decision,
    pinned: BTreeMap<Subject, IpAddr>,
}
