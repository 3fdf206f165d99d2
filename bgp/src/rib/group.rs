//! Neighbours with equal export rules, and what they were told (Adj-RIB-Out, once for all of them).
//!
//! A route that changed waits in the group's list, once however often it changes. A *round* takes some of the list,
//! compares what should be told with what was, and packs the difference once; every member gets the same octets.
//!
//! A round waits for all members to have room. A member that is still full [`PATIENCE_MS`] later, while others have
//! room, falls *behind*: the others go on, and of it is kept which routes it has to be told, a bit each. When it reads
//! again it is told these routes as they are then, and keeps up again. Whoever joins a group that was told something
//! starts that way too. So memory is bounded by the number of routes, whatever a member does, and a stuck member costs
//! the others one wait.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use super::chunks::Bits;
use super::export::{ExportRules, Exported};
use super::index::MixState;
use super::interval::Interval;
use super::pack::{Packed, TooLarge};
use super::paths::{Path, SourceId};
use super::sets::SetId;
use super::slots::told_as;
use super::table::Rib;
use super::told::Told;
use crate::speaker::Source;
use crate::time::Instant;
use crate::types::{Family, PathId, PeerId};
use crate::wire::{RouteRefresh, encode_end_of_rib};

/// Octets, shared by everybody who is sent them.
pub type Octets = Arc<Vec<u8>>;

/// Routes looked at in one round.
const ROUND: usize = 4_096;
/// A member with so many octets waiting has no room.
const FULL: usize = 64 * 1024;
/// How long a round waits for a member that has no room.
const PATIENCE_MS: u64 = 100;

/// One neighbour.
#[derive(Debug, Default)]
pub(crate) struct Member {
    /// What was packed and not taken yet, each with its number of messages.
    queue: VecDeque<(Octets, u64)>,
    queued: usize,
    /// Routes it has to be told, and where to go on with them.
    pub(super) behind: Option<(Bits, u32)>,
    /// Of these, paths that it may have been told and that are to be withdrawn, where it is told several of a route.
    pub(super) gone: BTreeSet<(u32, SourceId)>,
    /// It fell behind once: it is not waited for again.
    is_slow: bool,
    /// The End-of-RIB is still to be sent, after everything that waits.
    end_of_rib_due: bool,
    /// It is told everything again, and the end of that afterwards (RFC 7313 §4).
    refresh_end_due: bool,
    /// It has asked for everything again while it was still being told; `true`: with marks. However often it asks, it is told
    /// once more.
    refresh_wanted: Option<bool>,
}

impl Member {
    fn has_room(&self) -> bool {
        self.queued < FULL
    }

    fn push(&mut self, octets: Octets, messages: u64) {
        if !octets.is_empty() {
            self.queued += octets.len();
            self.queue.push_back((octets, messages));
        }
    }

    /// The next octets, and how many messages they are.
    pub(crate) fn take(&mut self) -> Option<(Octets, u64)> {
        let next = self.queue.pop_front()?;
        self.queued -= next.0.len();
        Some(next)
    }

    /// It has to be told this route by itself.
    pub(super) fn owe(&mut self, at: u32) {
        self.behind.get_or_insert_with(Default::default).0.insert(at);
    }
}

/// Members with the same rules.
#[derive(Debug)]
pub(crate) struct Group {
    pub(super) rules: ExportRules,
    pub(super) told: Told,
    /// How many of each neighbour.
    counts: BTreeMap<SourceId, usize>,
    waiting: VecDeque<u32>,
    is_waiting: Bits,
    interval: Interval,
    blocked_since: Option<Instant>,
    pub(super) members: BTreeMap<PeerId, Member>,
}

/// The groups of a table.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: Vec<Group>,
}

impl Groups {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.groups.iter_mut()
    }

    fn of(&self, peer: PeerId) -> Option<usize> {
        self.groups.iter().position(|group| group.members.contains_key(&peer))
    }

    pub(crate) fn member(&mut self, peer: PeerId) -> Option<&mut Member> {
        self.groups.iter_mut().find_map(|group| group.members.get_mut(&peer))
    }

    /// A neighbour that was told nothing so far joins those with the same rules.
    pub(crate) fn join(&mut self, rib: &mut Rib, peer: PeerId, rules: ExportRules) {
        self.leave(rib, peer);
        let at = self.with_rules(rib, rules);
        let group = &mut self.groups[at];
        let mut member = Member { end_of_rib_due: true, ..Member::default() };
        if group.len() > 0 {
            group.told.numbers().for_each(|at| member.owe(at));
        }
        group.members.insert(peer, member);
    }

    /// A neighbour's rules are others now: it is told what differs.
    pub(crate) fn change_rules(&mut self, rib: &mut Rib, peer: PeerId, rules: ExportRules) {
        let Some(from) = self.of(peer).filter(|at| self.groups[*at].rules != rules) else { return };
        let to = self.with_rules(rib, rules);
        let Some(mut member) = self.groups[from].members.remove(&peer) else { return };
        let (old, new) = (&self.groups[from], &self.groups[to]);
        let mut same: HashMap<(SetId, SourceId), bool, MixState> = HashMap::default();
        for at in 0..rib.numbers() {
            let (before, after) = (old.told.paths(at), new.told.paths(at));
            let mut is_same = before.len() == after.len();
            for path in before {
                let kept = new.told.of(at, path.source());
                is_same &= path.same_route(kept)
                    && *same.entry((path.set, path.source())).or_insert_with(|| {
                        old.export(rib, *path).is_some_and(|e| Some(e) == new.export(rib, kept))
                    });
                if !kept.is_some() && new.is_told_several() {
                    member.gone.insert((at, path.source()));
                }
            }
            if !is_same {
                member.owe(at);
            }
        }
        self.groups[to].members.insert(peer, member);
        self.drop_empty(rib);
    }

    /// A neighbour is gone.
    pub(crate) fn leave(&mut self, rib: &mut Rib, peer: PeerId) {
        self.groups.iter_mut().for_each(|group| drop(group.members.remove(&peer)));
        self.drop_empty(rib);
    }

    /// A neighbour is to be told everything again (RFC 2918), between its marks if it is to have them: once it has read
    /// what it is being told, so that a neighbour that asks again and again takes neither time nor memory.
    pub(crate) fn refresh(&mut self, peer: PeerId, marked: bool) {
        if let Some(member) = self.member(peer) {
            member.refresh_wanted = Some(marked);
        }
    }

    /// What a neighbour was told: numbers of routes with the paths.
    pub(crate) fn advertised(&self, rib: &Rib, peer: PeerId) -> Vec<(u32, Path)> {
        let Some(at) = self.of(peer) else { return Vec::new() };
        let (group, own) = (&self.groups[at], rib.source_id(Source::Peer(peer)));
        let behind = group.members.get(&peer).and_then(|member| member.behind.as_ref());
        let told = group.told.iter();
        told.filter(|(at, path)| {
            Some(rib.root(*path)) != own && !behind.is_some_and(|(behind, _)| behind.has(*at))
        })
        .collect()
    }

    /// How many routes a neighbour was told, those included that it still has to read.
    pub(crate) fn advertised_len(&self, rib: &Rib, peer: PeerId) -> usize {
        let Some(at) = self.of(peer) else { return 0 };
        let own = rib.source_id(Source::Peer(peer));
        let own = own.and_then(|own| self.groups[at].counts.get(&own)).copied().unwrap_or(0);
        self.groups[at].len() - own
    }

    /// Whether a neighbour is told several paths of a route.
    pub(crate) fn is_told_several(&self, peer: PeerId) -> bool {
        self.of(peer).is_some_and(|at| self.groups[at].is_told_several())
    }

    /// The attributes of a path as a neighbour was told them.
    pub(crate) fn attributes(&self, rib: &Rib, peer: PeerId, path: Path) -> crate::attrs::PathAttributes {
        let group = self.of(peer).map(|at| &self.groups[at]);
        group.and_then(|group| group.export(rib, path)).map(|e| e.value()).unwrap_or_default()
    }

    /// Packs what waits, as far as there is room; whether anything was.
    pub(crate) fn advance(&mut self, rib: &mut Rib, now: Instant) -> bool {
        let mut done = false;
        for group in &mut self.groups {
            done |= group.advance(rib, now);
        }
        done
    }

    /// When a round that waits for a member goes on without it, or for the interval between two.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let blocked = self.groups.iter().filter_map(|group| Some(group.blocked_since? + PATIENCE_MS));
        let held = self.groups.iter().filter(|group| !group.waiting.is_empty());
        blocked.chain(held.filter_map(|group| group.interval.deadline())).min()
    }

    /// The group with these rules; a new one looks at every route first.
    fn with_rules(&mut self, rib: &mut Rib, rules: ExportRules) -> usize {
        if let Some(at) = self.groups.iter().position(|group| group.rules == rules) {
            return at;
        }
        let seed = rib.seed ^ self.groups.len() as u64;
        let mut group = Group::new(rules, seed);
        let selected: Vec<u32> = rib.occupied().filter(|at| rib.selected(*at).is_some()).collect();
        selected.into_iter().for_each(|at| group.look_at(at));
        while !group.waiting.is_empty() {
            group.round(rib, ROUND);
        }
        self.groups.push(group);
        self.groups.len() - 1
    }

    fn drop_empty(&mut self, rib: &mut Rib) {
        for group in self.groups.extract_if(.., |group| group.members.is_empty()) {
            group.told.iter().for_each(|(_, path)| rib.sets.release(path.set));
        }
    }
}

/// Who is left out, and the path identifier.
type Whom = (Option<SourceId>, Option<PathId>);

/// What a round has to say, sorted by what can share messages.
#[derive(Default)]
pub(super) struct Sorted {
    /// Routes with one path each, in lists threaded through `next`.
    sets: Vec<(Path, u32)>,
    by_set: HashMap<(SetId, SourceId), usize, MixState>,
    next: Vec<(u32, u32)>,
    /// Withdrawn routes with the set that they had, by who told them, if that one is not to hear of it, and with which path
    /// identifier.
    withdrawn: BTreeMap<Whom, Vec<(u32, SetId)>>,
}

const END: u32 = u32::MAX;

impl Sorted {
    pub(super) fn announce(&mut self, at: u32, path: Path) {
        let key = (path.set, path.source());
        let last = self.sets.len().wrapping_sub(1);
        let is_last = self.sets.last().is_some_and(|(p, _)| (p.set, p.source()) == key);
        let which = if is_last {
            last
        } else {
            *self.by_set.entry(key).or_insert_with(|| {
                self.sets.push((path, END));
                self.sets.len() - 1
            })
        };
        let (_, head) = &mut self.sets[which];
        self.next.push((at, *head));
        *head = self.next.len() as u32 - 1;
    }

    fn withdraw(&mut self, at: u32, set: SetId, told_by: Option<SourceId>) {
        self.withdrawn.entry((told_by, None)).or_default().push((at, set));
    }

    /// One of several paths.
    pub(super) fn withdraw_path(&mut self, at: u32, source: SourceId, told_by: Option<SourceId>) {
        self.withdrawn.entry((told_by, Some(told_as(source)))).or_default().push((at, SetId::NONE));
    }

    /// The routes of a list, in the order in which they came, backwards.
    fn routes(&self, head: u32) -> impl Iterator<Item = u32> {
        let node = move |link: u32| (link != END).then(|| self.next[link as usize]);
        std::iter::successors(node(head), move |(_, link)| node(*link)).map(|(at, _)| at)
    }
}

/// What some members have to be told that others have not: their own routes come and go in the table.
#[derive(Default)]
struct Apart(BTreeMap<PeerId, Sorted>);

impl Group {
    fn new(rules: ExportRules, seed: u64) -> Group {
        Group {
            interval: Interval::new(rules.interval_ms, seed),
            told: Told::new(rules.several.is_some()),
            rules,
            counts: BTreeMap::new(),
            waiting: VecDeque::new(),
            is_waiting: Bits::default(),
            blocked_since: None,
            members: BTreeMap::new(),
        }
    }

    /// Whether its members are told several paths of a route.
    pub(super) const fn is_told_several(&self) -> bool {
        self.rules.several.is_some()
    }

    /// A route has changed.
    pub(super) fn look_at(&mut self, at: u32) {
        if self.is_waiting.insert(at) {
            self.waiting.push_back(at);
        }
    }

    /// Whether anything is kept about a route.
    pub(super) fn knows(&self, at: u32) -> bool {
        let owed = |member: &Member| member.behind.as_ref().is_some_and(|(behind, _)| behind.has(at));
        !self.told.paths(at).is_empty() || self.is_waiting.has(at) || self.members.values().any(owed)
    }

    /// Whether nothing is kept about any route.
    pub(super) fn is_at_rest(&self) -> bool {
        self.len() == 0 && self.waiting.is_empty() && self.members.values().all(|m| m.behind.is_none())
    }

    /// Numbers begin anew; nothing is kept about any.
    pub(super) fn forget_numbers(&mut self) {
        self.told.clear();
        self.is_waiting = Bits::default();
        self.waiting = VecDeque::new();
    }

    fn len(&self) -> usize {
        self.counts.values().sum()
    }

    fn export(&self, rib: &Rib, path: Path) -> Option<Exported> {
        self.rules.export(rib.family, rib.sets.parts(path.set), &rib.told_by(path).advertiser)
    }

    /// What should be told of a route.
    fn wanted(&self, rib: &Rib, at: u32) -> Path {
        let path = rib.selected(at);
        if path.is_some() && self.may_go(rib, at, path) { path } else { Path::NONE }
    }

    pub(super) fn may_go(&self, rib: &Rib, at: u32, path: Path) -> bool {
        let (rank, advertiser) = (rib.sets.rank(path.set), &rib.told_by(path).advertiser);
        self.rules.may_go(rib.family, || rib.key(at), rank, advertiser)
    }

    fn advance(&mut self, rib: &mut Rib, now: Instant) -> bool {
        let mut done = false;
        let mut due = self.interval.due(self.waiting.len(), now);
        while due > 0 && self.may_go_on(now) {
            self.round(rib, due.min(ROUND));
            self.interval.told(due.min(ROUND));
            done = true;
            due = self.interval.due(self.waiting.len(), now);
        }
        if due == 0 {
            self.blocked_since = None;
        }
        // What is still undecided is told before anybody hears that this was all; a change that waits for the interval is
        // one of what comes afterwards.
        let idle = due == 0 && !rib.is_dirty();
        let peers: Vec<PeerId> = self.members.keys().copied().collect();
        for peer in peers {
            done |= idle && self.begin_refresh(rib.family, peer);
            while self.members.get(&peer).is_some_and(|m| m.behind.is_some() && m.has_room()) {
                self.catch_up(rib, peer);
                done = true;
            }
            let Some(member) = self.members.get_mut(&peer) else { continue };
            if idle && member.behind.is_none() && std::mem::take(&mut member.end_of_rib_due) {
                member.push(Arc::new(encode_end_of_rib(rib.family)), 1);
                done = true;
            }
            if idle && member.behind.is_none() && std::mem::take(&mut member.refresh_end_due) {
                member.push(Arc::new(RouteRefresh::of(rib.family, RouteRefresh::END).encode()), 1);
                done = true;
            }
        }
        done
    }

    /// Begins to tell a member everything again, if it has asked for it and has read what it was told before. The marks (RFC 7313
    /// §4) are of no use to one that has not been told everything once.
    fn begin_refresh(&mut self, family: Family, peer: PeerId) -> bool {
        let told: Vec<u32> = match self.members.get(&peer) {
            Some(m) if m.refresh_wanted.is_some() && m.behind.is_none() && m.has_room() => {
                self.told.numbers().collect()
            }
            _ => return false,
        };
        let Some(member) = self.members.get_mut(&peer) else { return false };
        let marked = member.refresh_wanted.take() == Some(true);
        if marked && !member.end_of_rib_due && !member.refresh_end_due {
            member.push(Arc::new(RouteRefresh::of(family, RouteRefresh::BEGIN).encode()), 1);
            member.refresh_end_due = true;
        }
        told.into_iter().for_each(|at| member.owe(at));
        true
    }

    /// Whether the next round need not wait for anybody, or has waited long enough.
    fn may_go_on(&mut self, now: Instant) -> bool {
        let keeps_up = |m: &Member| m.behind.is_none();
        let (mut ready, mut full, mut slow) = (0, 0, 0);
        for member in self.members.values().filter(|m| keeps_up(m)) {
            ready += usize::from(member.has_room());
            full += usize::from(!member.has_room());
            slow += usize::from(!member.has_room() && member.is_slow);
        }
        if full == 0 {
            self.blocked_since = None;
            return true;
        }
        // With nobody else to go on for there is nothing to lose by waiting.
        if ready == 0 {
            self.blocked_since = None;
            return false;
        }
        let since = *self.blocked_since.get_or_insert(now);
        if now.millis_since(since) < PATIENCE_MS && slow < full {
            return false;
        }
        for member in self.members.values_mut().filter(|m| keeps_up(m) && !m.has_room()) {
            member.is_slow = true;
            member.behind = Some(Default::default());
        }
        self.blocked_since = None;
        true
    }

    /// Takes so many of the list and tells what differs.
    fn round(&mut self, rib: &mut Rib, routes: usize) {
        self.told.grow(rib.numbers());
        let (mut sorted, mut apart) = (Sorted::default(), Apart::default());
        let mut exports = Exports::default();
        let mut released = Vec::new();
        let is_heard = self.members.values().any(|m| m.behind.is_none());
        for _ in 0..routes {
            let Some(at) = self.waiting.pop_front() else { break };
            self.is_waiting.remove(at);
            if rib.is_undecided(at) {
                continue;
            }
            if let Some(limit) = self.rules.several {
                self.look_at_several(rib, at, limit, &mut exports, &mut sorted, &mut released);
                continue;
            }
            let (before, after) = (self.told.one(at), self.wanted(rib, at));
            if before.same_route(after) {
                continue;
            }
            for member in self.members.values_mut() {
                if let Some((behind, _)) = &mut member.behind {
                    behind.insert(at);
                }
            }
            if is_heard {
                self.sort(rib, at, before, after, &mut exports, &mut sorted, &mut apart);
            }
            rib.sets.retain(after.set);
            self.told.put(at, after);
            self.count(rib, before, after);
            released.push(before.set);
        }
        if is_heard {
            let packed = self.pack(rib, &sorted, &mut exports, &mut released);
            self.hand_out(rib, packed);
            for (peer, sorted) in apart.0 {
                let packed = self.pack(rib, &sorted, &mut exports, &mut released);
                if let Some(member) = self.members.get_mut(&peer) {
                    member.push(Arc::new(packed.octets), packed.messages);
                }
            }
        }
        released.into_iter().for_each(|set| rib.sets.release(set));
    }

    pub(super) fn count(&mut self, rib: &Rib, before: Path, after: Path) {
        if before.is_some()
            && let Some(count) = self.counts.get_mut(&rib.root(before))
        {
            *count -= 1;
        }
        if after.is_some() {
            *self.counts.entry(rib.root(after)).or_default() += 1;
        }
    }

    /// Sorts one route into what everybody is told and what single members are. No route goes to who told it: what it
    /// was told before of others is withdrawn, and what it was not told before because it was its own is announced.
    #[expect(clippy::too_many_arguments, reason = "the parts of one round")]
    fn sort(
        &self,
        rib: &Rib,
        at: u32,
        before: Path,
        after: Path,
        exports: &mut Exports,
        sorted: &mut Sorted,
        apart: &mut Apart,
    ) {
        if !after.is_some() {
            sorted.withdraw(at, before.set, Some(rib.root(before)));
            return;
        }
        if !before.is_some() {
            sorted.announce(at, after);
            return;
        }
        let moved = rib.root(before) != rib.root(after);
        let is_same = exports.agree(self, rib, before, after);
        if !is_same {
            sorted.announce(at, after);
        }
        if let Some(peer) = self.keeping_up(rib, after).filter(|_| moved) {
            apart.0.entry(peer).or_default().withdraw(at, before.set, None);
        }
        if let Some(peer) = self.keeping_up(rib, before).filter(|_| moved && is_same) {
            apart.0.entry(peer).or_default().announce(at, after);
        }
    }

    /// The member that told a path, if it is one and not behind.
    fn keeping_up(&self, rib: &Rib, path: Path) -> Option<PeerId> {
        let Source::Peer(peer) = rib.source_of(path) else { return None };
        self.members.get(&peer).is_some_and(|m| m.behind.is_none()).then_some(peer)
    }

    /// What cannot be said, because its attributes are too large, is withdrawn instead.
    fn pack(
        &mut self,
        rib: &Rib,
        sorted: &Sorted,
        exports: &mut Exports,
        released: &mut Vec<SetId>,
    ) -> Packed {
        let limit = self.rules.context.message_limit;
        let mut packed = Packed::default();
        for (whom, routes) in &sorted.withdrawn {
            packed.withdraw(rib, limit, routes.iter().copied(), *whom);
        }
        for &(path, head) in &sorted.sets {
            let Some(exported) = exports.of(self, rib, path) else { continue };
            let routes = sorted.routes(head);
            let id = self.is_told_several().then(|| told_as(path.source()));
            let done = packed.announce(rib, exported, path.set, limit, routes, (Some(rib.root(path)), id));
            if let Err(TooLarge) = done {
                packed.withdraw(rib, limit, sorted.routes(head).map(|at| (at, path.set)), (None, id));
                for at in sorted.routes(head) {
                    let told = self.told.remove(at, path.source());
                    self.count(rib, told, Path::NONE);
                    released.push(told.set);
                    if id.is_some() {
                        self.owe_end((at, path.source()));
                    }
                }
            }
        }
        packed
    }

    /// Members that are behind may know one of several paths that is told no longer.
    fn owe_end(&mut self, path: (u32, SourceId)) {
        for member in self.members.values_mut().filter(|member| member.behind.is_some()) {
            member.owe(path.0);
            member.gone.insert(path);
        }
    }

    /// Gives every member that keeps up what is not its own.
    fn hand_out(&mut self, rib: &Rib, mut packed: Packed) {
        if packed.is_empty() {
            return;
        }
        let whole = Arc::new(std::mem::take(&mut packed.octets));
        let mut rest: Vec<(&mut Member, SourceId)> = Vec::new();
        for (peer, member) in self.members.iter_mut().filter(|(_, m)| m.behind.is_none()) {
            match rib.source_id(Source::Peer(*peer)).filter(|source| packed.leaves_out(*source)) {
                None => member.push(Arc::clone(&whole), packed.messages),
                Some(source) => rest.push((member, source)),
            }
        }
        for (member, source) in rest {
            let (octets, messages) = packed.without(&whole, source);
            member.push(Arc::new(octets), messages);
        }
    }

    /// Tells a member some of what it has missed.
    fn catch_up(&mut self, rib: &mut Rib, peer: PeerId) {
        let own = rib.source_id(Source::Peer(peer));
        let Some((behind, from)) = self.members.get_mut(&peer).and_then(|m| m.behind.as_mut()) else {
            return;
        };
        let mut routes = Vec::new();
        *from = behind.take(*from, ROUND, &mut routes);
        let mut sorted = Sorted::default();
        for at in routes {
            if self.is_told_several() {
                self.catch_up_several(rib, (peer, own), at, &mut sorted);
                continue;
            }
            let path = self.told.one(at);
            if path.is_some() && Some(rib.root(path)) != own {
                sorted.announce(at, path);
            } else {
                sorted.withdraw(at, path.set, None);
            }
        }
        let mut released = Vec::new();
        let packed = self.pack(rib, &sorted, &mut Exports::default(), &mut released);
        released.into_iter().for_each(|set| rib.sets.release(set));
        let Some(member) = self.members.get_mut(&peer) else { return };
        member.push(Arc::new(packed.octets), packed.messages);
        if member.behind.as_ref().is_some_and(|(behind, _)| behind.is_empty()) {
            member.behind = None;
        }
    }
}

/// Sets as a group tells them, made once a round.
#[derive(Default)]
pub(super) struct Exports {
    made: HashMap<(SetId, SourceId), Option<Exported>, MixState>,
}

impl Exports {
    fn of(&mut self, group: &Group, rib: &Rib, path: Path) -> Option<&Exported> {
        let key = (path.set, path.source());
        self.made.entry(key).or_insert_with(|| group.export(rib, path)).as_ref()
    }

    /// Whether two paths look the same.
    pub(super) fn agree(&mut self, group: &Group, rib: &Rib, a: Path, b: Path) -> bool {
        self.of(group, rib, a);
        self.of(group, rib, b);
        let made = |path: Path| self.made.get(&(path.set, path.source()));
        made(a) == made(b)
    }
}
