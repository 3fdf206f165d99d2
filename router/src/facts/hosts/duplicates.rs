//! Stations and addresses that move too often: counted, frozen, and free again by time or by an operator.
//! Pure. RFC 7432 section 15.1 for MACs, RFC 9161 section 3.7 for addresses.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::IpAddr;

use watari_bgp::Instant;
use watari_bgp::evpn::mobility::{Damping, DampingLimits};
use watari_bgp::types::MacAddr;
use watari_config::Vni;
use watari_dataplane::PortKey;

use super::{Address, Station};

/// The most stations and addresses whose moves are counted at a time. Of those beyond it moves are not counted,
/// so they are not frozen; nothing else changes for them.
const COUNTED_MAX: usize = 65_536;
/// The most places that are remembered of one.
const PLACES_MAX: usize = 8;

/// What can be a duplicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A station.
    Station(Station),
    /// An address, with whichever MAC.
    Address(Address),
}

impl Subject {
    /// The segment.
    pub fn vni(&self) -> Vni {
        match self {
            Self::Station((vni, _)) | Self::Address((vni, _)) => *vni,
        }
    }
}

impl fmt::Display for Subject {
    /// The MAC or the address, without the segment.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Station((_, mac)) => mac.fmt(f),
            Self::Address((_, ip)) => ip.fmt(f),
        }
    }
}

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// On an attachment here.
    Port(PortKey),
    /// Behind another gateway.
    Gateway(IpAddr),
}

/// Where something was seen, with which MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sighting {
    /// Where.
    pub at: Place,
    /// The MAC it had there.
    pub mac: MacAddr,
}

/// Something that is frozen.
#[derive(Clone, Copy, Debug)]
pub struct Duplicate<'a> {
    /// What.
    pub subject: Subject,
    /// Since when.
    pub since: Instant,
    /// Until when, unless an operator clears it.
    pub until: Instant,
    /// How often it was frozen, this time included.
    pub freezes: u32,
    /// Where it was seen lately, the newest last.
    pub seen: &'a VecDeque<Sighting>,
}

#[derive(Clone, Debug, Default)]
struct Moves {
    damping: Damping,
    since: Instant,
    seen: VecDeque<Sighting>,
}

/// What moved lately.
#[derive(Clone, Debug)]
pub(super) struct Duplicates {
    limits: DampingLimits,
    moves: BTreeMap<Subject, Moves>,
    frozen: BTreeSet<Subject>,
    /// When the times were last looked at.
    thawed: Option<Instant>,
}

/// How often the times of what moved are looked at, in milliseconds.
const THAW_EVERY_MS: u64 = 1000;

impl Duplicates {
    pub(super) fn new(limits: DampingLimits) -> Self {
        Self { limits, moves: BTreeMap::new(), frozen: BTreeSet::new(), thawed: None }
    }

    /// Notes a move and the places it was between. `true` if it is frozen from here on.
    pub(super) fn moved(
        &mut self,
        now: Instant,
        subject: Subject,
        seen: impl IntoIterator<Item = Sighting>,
    ) -> bool {
        if self.moves.len() >= COUNTED_MAX && !self.moves.contains_key(&subject) {
            return false;
        }
        let moves = self.moves.entry(subject).or_default();
        for sighting in seen {
            moves.seen.retain(|s| *s != sighting);
            if moves.seen.len() == PLACES_MAX {
                moves.seen.pop_front();
            }
            moves.seen.push_back(sighting);
        }
        let is_frozen = moves.damping.moved(now, &self.limits);
        if is_frozen {
            moves.since = now;
            self.frozen.insert(subject);
        }
        is_frozen
    }

    /// Takes up a freeze of the run before, with what was known of it. Beyond the limit none is.
    pub(super) fn restore(
        &mut self,
        subject: Subject,
        since: Instant,
        damping: Damping,
        seen: VecDeque<Sighting>,
    ) {
        if self.moves.len() < COUNTED_MAX {
            self.moves.insert(subject, Moves { damping, since, seen });
            self.frozen.insert(subject);
        }
    }

    pub(super) fn is_frozen(&self, subject: &Subject) -> bool {
        self.frozen.contains(subject)
    }

    /// Whether it is frozen and was seen on ports here alone.
    pub(super) fn is_frozen_among_ports(&self, subject: &Subject) -> bool {
        let is_here = |moves: &Moves| moves.seen.iter().all(|s| matches!(s.at, Place::Port(_)));
        self.is_frozen(subject) && self.moves.get(subject).is_some_and(is_here)
    }

    /// Ends freezes whose time is over, and forgets what has been calm for long. Answers what was freed.
    pub(super) fn thaw(&mut self, now: Instant) -> Vec<Subject> {
        let mut freed = Vec::new();
        if self.thawed.is_some_and(|last| now.millis_since(last) < THAW_EVERY_MS) {
            return freed;
        }
        self.thawed = Some(now);
        for (subject, moves) in &mut self.moves {
            if moves.damping.thaw(now) {
                self.frozen.remove(subject);
                freed.push(*subject);
            }
        }
        self.moves.retain(|_, moves| !moves.damping.is_calm(now, &self.limits));
        freed
    }

    /// Ends a freeze and forgets its moves. `false` if it is not frozen.
    pub(super) fn clear(&mut self, subject: &Subject) -> bool {
        let was_frozen = self.frozen.remove(subject);
        if was_frozen {
            self.moves.remove(subject);
        }
        was_frozen
    }

    /// Forgets all moves in a segment. Answers what was frozen.
    pub(super) fn forgive(&mut self, vni: Vni) -> Vec<Subject> {
        self.moves.retain(|subject, _| subject.vni() != vni);
        let frozen: Vec<_> = self.frozen.iter().filter(|subject| subject.vni() == vni).copied().collect();
        self.frozen.retain(|subject| subject.vni() != vni);
        frozen
    }

    pub(super) fn frozen(&self) -> impl Iterator<Item = Duplicate<'_>> {
        self.frozen.iter().filter_map(|subject| {
            let moves = self.moves.get(subject)?;
            let until = moves.damping.frozen_until()?;
            let (since, freezes) = (moves.since, moves.damping.freezes());
            Some(Duplicate { subject: *subject, since, until, freezes, seen: &moves.seen })
        })
    }
}
