//! One table of one instance and family: all paths of every key (Adj-RIB-In, kept in one place for all peers,
//! rejected paths included so that a changed policy needs no new session), the selected one (Loc-RIB), and what
//! each [group](super::group) of neighbours was told (Adj-RIB-Out).
//!
//! ```text
//!   key ─ hash ─▶ index ─▶ number of the route ┬▶ keys    5, 17 or more octets
//!                                              ├▶ routes  12 octets: its only path, or where its paths are
//!                                              └▶ groups  8 octets each: the path that was told
//! ```
//! A route keeps its number as long as anybody may still have to be told of it, so everything about it is found by
//! number, and everything that waits is a bit or a number in a list. Numbers are given in the order in which routes
//! arrive: routes that share attributes are near each other. The selected path is the first of its route.
//!
//! A table touches nothing outside of it, so several of them, each with a part of the keys, could live on threads of
//! their own.

use std::collections::{BTreeMap, BinaryHeap};

use super::chunks::Chunks;
use super::decision::{Advertiser, Contender, Reason, select};
use super::group::Groups;
use super::index::Index;
use super::keys::Keys;
use super::paths::{Blocks, Path, PathList, Rejected, SourceId};
use super::sets::{SetId, Sets};
use super::slots::{SLOTS_MAX, Slots};
use crate::nlri::Key;
use crate::speaker::{Best, Source};
use crate::types::{Family, PathId};

/// Fewer routes without paths are not worth a look at all.
const GHOSTS_MIN: usize = 1_024;

/// A route's paths, and what is known of them.
#[derive(Clone, Copy, Debug, Default)]
struct Route {
    paths: PathList,
    state: u16,
}

/// The first path is selected.
const SELECTED: u16 = 1;
/// It is in the list of those to be decided.
const DIRTY: u16 = 2;
/// Its number is free.
const FREE: u16 = 4;
/// Somebody wanted to know what is selected while it was to be decided.
const ASKED: u16 = 8;

/// Who tells paths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teller {
    pub(super) source: Source,
    pub(super) advertiser: Advertiser,
    /// The first slot of its neighbour, where everything is counted.
    root: SourceId,
    /// Some of its neighbour's paths have or had identifiers.
    has_ids: bool,
    counts: PathCounts,
}

/// How many paths of one source there are, so that nobody need walk a table to tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathCounts {
    /// All of them.
    pub(crate) paths: usize,
    /// Of these, rejected.
    pub(crate) rejected: usize,
    /// Of these, stale.
    pub(crate) stale: usize,
}

impl PathCounts {
    fn add(&mut self, path: Path) {
        self.paths += 1;
        self.rejected += usize::from(path.rejected().is_some());
        self.stale += usize::from(path.is_stale());
    }

    fn take(&mut self, path: Path) {
        self.paths -= 1;
        self.rejected -= usize::from(path.rejected().is_some());
        self.stale -= usize::from(path.is_stale());
    }
}

impl std::ops::AddAssign for PathCounts {
    fn add_assign(&mut self, other: PathCounts) {
        self.paths += other.paths;
        self.rejected += other.rejected;
        self.stale += other.stale;
    }
}

/// Routes, their paths, and who told them.
#[derive(Debug)]
pub(crate) struct Rib {
    pub(super) family: Family,
    pub(super) keys: Keys,
    pub(crate) sets: Sets,
    pub(super) seed: u64,
    index: Index,
    routes: Chunks<Route>,
    blocks: Blocks,
    tellers: Vec<Teller>,
    numbers: BTreeMap<Source, SourceId>,
    slots: Slots,
    /// Routes that changed, with what was selected before.
    dirty: Vec<(u32, Path)>,
    /// Routes whose selected path is the same, but not for the groups.
    resent: Vec<u32>,
    free: Vec<u32>,
    /// Routes without a path whose numbers are not free, and how many are worth a look.
    ghosts: usize,
    reclaim_at: usize,
}

/// The table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) rib: Rib,
    pub(crate) groups: Groups,
    /// Selection waits for the peers' End-of-RIB (RFC 4724 §4.1).
    pub(crate) deferring: bool,
}

impl Rib {
    fn new(family: Family, seed: u64) -> Rib {
        Rib {
            family,
            keys: Keys::new(family),
            sets: Sets::new(seed),
            seed,
            index: Index::default(),
            routes: Chunks::default(),
            blocks: Blocks::default(),
            tellers: Vec::new(),
            numbers: BTreeMap::new(),
            slots: Slots::default(),
            dirty: Vec::new(),
            resent: Vec::new(),
            free: Vec::new(),
            ghosts: 0,
            reclaim_at: GHOSTS_MIN,
        }
    }

    /// The number of a source, known under these circumstances from now on.
    pub(crate) fn teller(&mut self, source: Source, advertiser: Advertiser) -> SourceId {
        if let Some(&id) = self.numbers.get(&source) {
            if self.tellers[id.0 as usize].advertiser != advertiser {
                self.slots.of(id).for_each(|slot| self.tellers[slot.0 as usize].advertiser = advertiser);
            }
            return id;
        }
        // Numbers are not used again: a group may still have to withdraw what a former neighbour told.
        let id = SourceId(self.tellers.len() as u32);
        let counts = PathCounts::default();
        self.tellers.push(Teller { source, advertiser, root: id, has_ids: false, counts });
        self.numbers.insert(source, id);
        id
    }

    /// The first slot of the neighbour that told a path.
    pub(super) fn root(&self, path: Path) -> SourceId {
        self.told_by(path).root
    }

    fn has_ids(&self, root: SourceId) -> bool {
        self.tellers[root.0 as usize].has_ids
    }

    /// The path identifier that a path was told with, 0 without one.
    pub(crate) fn path_id(&self, at: u32, path: Path) -> PathId {
        let source = path.source();
        if self.has_ids(source) { self.slots.id(at, source) } else { PathId::default() }
    }

    /// Which of the paths at a route is the one that a neighbour told with this identifier.
    fn position(&self, at: u32, id: PathId, root: SourceId) -> Option<usize> {
        let paths = self.paths(at);
        if !self.has_ids(root) {
            return paths.iter().position(|path| path.source() == root).filter(|_| id == PathId::default());
        }
        paths.iter().position(|path| self.root(*path) == root && self.slots.id(at, path.source()) == id)
    }

    /// The slot for a path of a route: that of the path before it with this identifier, or a free one. `None` if there are
    /// too many.
    fn slot(&mut self, at: u32, id: PathId, root: SourceId) -> Option<SourceId> {
        if id == PathId::default() && !self.has_ids(root) {
            return Some(root);
        }
        self.tellers[root.0 as usize].has_ids = true;
        if let Some(known) = self.position(at, id, root) {
            return Some(self.paths(at)[known].source());
        }
        let is_free = |slot: &SourceId| self.paths(at).iter().all(|path| path.source() != *slot);
        let free = self.slots.of(root).find(is_free);
        let slot = match free {
            Some(slot) => slot,
            None => self.add_slot(root)?,
        };
        self.slots.set(at, slot, id);
        Some(slot)
    }

    fn add_slot(&mut self, root: SourceId) -> Option<SourceId> {
        if self.slots.of(root).count() >= SLOTS_MAX {
            return None;
        }
        let slot = SourceId(self.tellers.len() as u32);
        self.tellers.push(Teller { counts: PathCounts::default(), ..self.tellers[root.0 as usize] });
        self.slots.add(root, slot);
        Some(slot)
    }

    /// Whether a source is a client of ours (RFC 4456): others may be told its paths then.
    pub(crate) fn set_client(&mut self, source: Source, client: bool) {
        let Some(id) = self.source_id(source) else { return };
        if self.tellers[id.0 as usize].advertiser.client != client {
            self.slots.of(id).for_each(|slot| self.tellers[slot.0 as usize].advertiser.client = client);
            for at in 0..self.routes.len() {
                if self.selected(at).is_some() && self.paths(at).iter().any(|path| self.root(*path) == id) {
                    self.resent.push(at);
                }
            }
        }
    }

    pub(crate) fn source_id(&self, source: Source) -> Option<SourceId> {
        self.numbers.get(&source).copied()
    }

    pub(super) fn told_by(&self, path: Path) -> &Teller {
        &self.tellers[path.source().0 as usize]
    }

    pub(crate) fn source_of(&self, path: Path) -> Source {
        self.told_by(path).source
    }

    /// How many paths `source` has here.
    pub(crate) fn counts(&self, source: Source) -> PathCounts {
        self.source_id(source).map_or_else(PathCounts::default, |id| self.tellers[id.0 as usize].counts)
    }

    /// Numbers below this are or were routes.
    pub(super) fn numbers(&self) -> u32 {
        self.routes.len()
    }

    pub(crate) fn key(&self, at: u32) -> Key {
        self.keys.key(at)
    }

    /// The number of the route.
    pub(crate) fn find(&self, key: &Key) -> Option<u32> {
        self.index.find(self.keys.hash(key, self.seed), |at| self.keys.is(at, key))
    }

    /// All paths, the selected one first.
    pub(crate) fn paths(&self, at: u32) -> &[Path] {
        self.blocks.get(&self.routes.get(at).paths)
    }

    /// The selected path, or none.
    pub(crate) fn selected(&self, at: u32) -> Path {
        let route = self.routes.get(at);
        if route.state & SELECTED == 0 { Path::NONE } else { self.blocks.get(&route.paths)[0] }
    }

    /// Whether what is selected is not known before the next decision; who asks is told of the outcome.
    pub(super) fn is_undecided(&mut self, at: u32) -> bool {
        let route = self.routes.get_mut(at);
        let is_undecided = route.state & DIRTY != 0;
        route.state |= if is_undecided { ASKED } else { 0 };
        is_undecided
    }

    /// Numbers of all routes with paths.
    pub(crate) fn occupied(&self) -> impl Iterator<Item = u32> {
        self.routes.iter().zip(0..).filter(|(route, _)| route.paths.len() > 0).map(|(_, at)| at)
    }

    /// Routes with paths and up to `limit` of them, in key order, from the first key after `after`.
    pub(crate) fn page(&self, after: Option<&Key>, limit: usize) -> Vec<(Key, u32)> {
        let mut first: BinaryHeap<(Key, u32)> = BinaryHeap::new();
        for at in self.occupied().filter(|at| self.selected(*at).is_some()) {
            let key = self.key(at);
            if after.is_some_and(|after| key <= *after) {
                continue;
            }
            if first.len() < limit {
                first.push((key, at));
            } else if first.peek().is_some_and(|last| key < last.0) {
                first.pop();
                first.push((key, at));
            }
        }
        first.into_sorted_vec()
    }

    /// The selected path for somebody who keeps it.
    pub(crate) fn best(&mut self, at: u32) -> Option<Best> {
        let path = Some(self.selected(at)).filter(|path| path.is_some())?;
        Some(Best {
            attrs: self.sets.shared(path.set),
            data: self.sets.data(path.set),
            source: self.source_of(path),
            stale: path.is_stale(),
        })
    }

    /// The step of the decision that made the selected path win.
    pub(crate) fn reason(&self, at: u32) -> Option<Reason> {
        if !self.selected(at).is_some() {
            return None;
        }
        let paths: Vec<Path> = self.paths(at).iter().copied().filter(|p| p.rejected().is_none()).collect();
        let contenders: Vec<Contender<'_>> = paths.iter().map(|path| self.contender(at, *path)).collect();
        select(&contenders).map(|(_, reason)| reason)
    }

    /// The step at which the path at `index` of [`Rib::paths`] lost against the selected one; `None` for that one itself
    /// and for one that took no part.
    pub(crate) fn lost_at(&self, at: u32, index: usize) -> Option<Reason> {
        let (best, path) = (self.selected(at), *self.paths(at).get(index)?);
        if index == 0 || !best.is_some() || path.rejected().is_some() {
            return None;
        }
        match select(&[self.contender(at, best), self.contender(at, path)])? {
            (0, reason) => Some(reason),
            // Of two alone this one would win: a third one's MED has put it out (RFC 4271 §9.1.2.2 c).
            _ => Some(Reason::Med),
        }
    }

    fn contender(&self, at: u32, path: Path) -> Contender<'_> {
        let teller = self.told_by(path);
        let id = if teller.has_ids { self.slots.id(at, path.source()) } else { PathId::default() };
        Contender { advertiser: &teller.advertiser, rank: self.sets.rank(path.set), id }
    }

    /// The paths that take part and that `admit` lets through; of more than `limit` those that the decision prefers, in this
    /// order.
    pub(super) fn best_of(&self, at: u32, limit: usize, admit: impl Fn(Path) -> bool) -> Vec<Path> {
        let takes_part = |path: &Path| path.rejected().is_none() && admit(*path);
        let mut left: Vec<Path> = self.paths(at).iter().copied().filter(takes_part).collect();
        if left.len() <= limit {
            return left;
        }
        let mut best = Vec::with_capacity(limit);
        while best.len() < limit {
            let contenders: Vec<Contender<'_>> = left.iter().map(|path| self.contender(at, *path)).collect();
            let Some((winner, _)) = select(&contenders) else { break };
            best.push(left.remove(winner));
        }
        best
    }

    /// Notes that a route is about to change.
    fn touch(&mut self, at: u32) {
        let route = self.routes.get_mut(at);
        if route.state & DIRTY != 0 {
            return;
        }
        route.state |= DIRTY;
        let selected = self.selected(at);
        self.sets.retain(selected.set);
        self.dirty.push((at, selected));
    }

    /// Puts a path, whose set has been counted for it, in the place of the one from the same neighbour with the same
    /// identifier. `false` if it is not kept, because there are too many.
    pub(crate) fn insert(
        &mut self,
        key: &Key,
        id: PathId,
        set: SetId,
        root: SourceId,
        rejected: Option<Rejected>,
    ) -> bool {
        let hash = self.keys.hash(key, self.seed);
        let at = self.index.find(hash, |at| self.keys.is(at, key)).or_else(|| self.add(hash, key));
        let place = at.and_then(|at| Some((at, self.slot(at, id, root)?)));
        let Some((at, source)) = place else {
            self.sets.release(set);
            return false;
        };
        self.touch(at);
        let path = Path::new(set, source, rejected);
        let route = self.routes.get_mut(at);
        let counts = &mut self.tellers[root.0 as usize].counts;
        let paths = self.blocks.get_mut(&mut route.paths);
        if let Some(old) = paths.iter_mut().find(|p| p.source() == source) {
            let old = std::mem::replace(old, path);
            counts.take(old);
            counts.add(path);
            self.sets.release(old.set);
            return true;
        }
        let was_empty = route.paths.len() == 0;
        if self.blocks.push(&mut route.paths, path) {
            counts.add(path);
            self.ghosts -= usize::from(was_empty);
            return true;
        }
        self.slots.forget(at, source);
        self.sets.release(set);
        false
    }

    /// A new route without paths.
    fn add(&mut self, hash: u64, key: &Key) -> Option<u32> {
        let at = self.free.last().copied().unwrap_or(self.routes.len());
        if !self.keys.put(at, key) {
            return None;
        }
        if self.free.pop().is_some() {
            *self.routes.get_mut(at) = Route::default();
        } else {
            self.routes.push(Route::default());
        }
        self.ghosts += 1;
        if self.index.has_room() {
            self.index.insert(hash, at);
        } else {
            let (keys, seed) = (&self.keys, self.seed);
            let known = self.routes.iter().zip(0..).filter(|(route, _)| route.state & FREE == 0);
            self.index.lay_out(self.routes.len() as usize, known.map(|(_, at)| (keys.hash_at(at, seed), at)));
        }
        Some(at)
    }

    /// Removes the path of `source` with this identifier, if there is one.
    pub(crate) fn remove(&mut self, key: &Key, id: PathId, source: SourceId) {
        let Some(at) = self.find(key) else { return };
        if let Some(which) = self.position(at, id, source) {
            self.touch(at);
            self.drop_path(at, which);
        }
    }

    fn drop_path(&mut self, at: u32, which: usize) {
        let route = self.routes.get_mut(at);
        let removed = self.blocks.remove(&mut route.paths, which);
        if which == 0 {
            route.state &= !SELECTED;
        }
        self.ghosts += usize::from(route.paths.len() == 0);
        let Teller { root, has_ids, .. } = self.tellers[removed.source().0 as usize];
        if has_ids {
            self.slots.forget(at, removed.source());
        }
        self.tellers[root.0 as usize].counts.take(removed);
        self.sets.release(removed.set);
    }

    /// Removes the paths of `source` that `doomed` names.
    pub(crate) fn remove_where(&mut self, source: Source, doomed: impl Fn(Path) -> bool) {
        let Some(source) = self.source_id(source) else { return };
        let has_ids = self.has_ids(source);
        for at in 0..self.routes.len() {
            while let Some(which) = self.paths(at).iter().position(|path| {
                let is_its = path.source() == source || has_ids && self.root(*path) == source;
                is_its && doomed(*path)
            }) {
                self.touch(at);
                self.drop_path(at, which);
            }
        }
    }

    /// Marks all paths of `source` stale; those that already are, are removed (RFC 4724 §4.2).
    pub(crate) fn mark_stale(&mut self, source: Source) {
        self.remove_where(source, Path::is_stale);
        self.for_each_of(source, |_, _, path| path.stale());
    }

    /// Marks all paths of `source` stale, or fresh.
    pub(crate) fn set_stale(&mut self, source: Source, stale: bool) {
        self.for_each_of(source, |_, _, path| if stale { path.stale() } else { path.fresh() });
    }

    /// Judges every path of `source` anew.
    pub(crate) fn judge_again(
        &mut self,
        source: Source,
        judge: impl Fn(&Key, &Sets, Path) -> Option<Rejected>,
    ) {
        self.for_each_of(source, |keys, sets, path| path.judged(judge(keys, sets, path)));
    }

    fn for_each_of(&mut self, source: Source, change: impl Fn(&Key, &Sets, Path) -> Path) {
        let Some(source) = self.source_id(source) else { return };
        for at in 0..self.routes.len() {
            for which in 0..self.paths(at).len() {
                let old = self.paths(at)[which];
                if self.root(old) != source {
                    continue;
                }
                let new = change(&self.keys.key(at), &self.sets, old);
                if new == old {
                    continue;
                }
                if new.rejected() != old.rejected() {
                    self.touch(at);
                }
                self.blocks.get_mut(&mut self.routes.get_mut(at).paths)[which] = new;
                let counts = &mut self.tellers[source.0 as usize].counts;
                counts.take(old);
                counts.add(new);
            }
        }
    }

    /// Routes with paths.
    fn live(&self) -> usize {
        self.routes.len() as usize - self.free.len() - self.ghosts
    }

    /// Numbers are given from the first one on: nobody knows any.
    fn begin_anew(&mut self) {
        (self.routes, self.keys) = (Chunks::default(), Keys::new(self.family));
        (self.index, self.blocks) = (Index::default(), Blocks::default());
        (self.free, self.ghosts, self.reclaim_at) = (Vec::new(), 0, GHOSTS_MIN);
    }

    /// Whether there is something to decide.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty() || !self.resent.is_empty()
    }

    /// Decides every route that changed, and notes those whose selected path differs from before, in the order in which
    /// they were touched; in `touched` all of them, where somebody wants to know.
    fn decide(&mut self, changed: &mut Vec<u32>, mut touched: Option<&mut Vec<u32>>) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for (at, before) in dirty.drain(..) {
            if let Some(touched) = &mut touched {
                touched.push(at);
            }
            let was_asked = self.routes.get(at).state & ASKED != 0;
            self.select(at);
            if !self.selected(at).same_route(before) {
                changed.push(at);
            } else if was_asked {
                self.resent.push(at);
            }
            self.sets.release(before.set);
        }
        if dirty.capacity() <= GHOSTS_MIN {
            self.dirty = dirty;
        }
    }

    /// Puts the best path first.
    fn select(&mut self, at: u32) {
        let winner = match self.paths(at) {
            [] => None,
            [path] => path.rejected().is_none().then_some(0),
            paths => self.winner(at, paths),
        };
        let route = self.routes.get_mut(at);
        route.state &= !(DIRTY | SELECTED | ASKED);
        if let Some(winner) = winner {
            route.state |= SELECTED;
            self.blocks.get_mut(&mut route.paths).swap(0, winner);
        }
    }

    fn winner(&self, at: u32, paths: &[Path]) -> Option<usize> {
        let mut eligible = paths.iter().enumerate().filter(|(_, path)| path.rejected().is_none());
        let (mut best, first) = eligible.next().map(|(n, path)| (n, self.contender(at, *path)))?;
        let (mut leader, mut meds_agree) = (first, true);
        for (n, path) in eligible {
            let next = self.contender(at, *path);
            meds_agree &= next.rank.med == leader.rank.med;
            if next.beats(&leader) {
                (best, leader) = (n, next);
            }
        }
        if meds_agree {
            return Some(best);
        }
        // MED makes no order of paths: the steps are gone through with all of them.
        let eligible: Vec<usize> = (0..paths.len()).filter(|n| paths[*n].rejected().is_none()).collect();
        let contenders: Vec<Contender<'_>> = eligible.iter().map(|n| self.contender(at, paths[*n])).collect();
        select(&contenders).map(|(winner, _)| eligible[winner])
    }
}

impl Table {
    pub(crate) fn new(family: Family, deferring: bool, seed: u64) -> Table {
        Table { rib: Rib::new(family, seed), groups: Groups::default(), deferring }
    }

    /// Decides every route that changed; nothing while deferring. Those that differ are for the groups to look at, and
    /// in `changed`.
    pub(crate) fn decide(&mut self, changed: &mut Vec<u32>) {
        if self.deferring || !self.rib.is_dirty() {
            return;
        }
        let several = self.groups.iter().any(super::group::Group::is_told_several);
        let mut touched = Vec::new();
        self.rib.decide(changed, several.then_some(&mut touched));
        let resent = std::mem::take(&mut self.rib.resent);
        for group in self.groups.iter_mut() {
            let looked_at = if group.is_told_several() { &touched } else { &*changed };
            looked_at.iter().chain(&resent).for_each(|at| group.look_at(*at));
        }
    }

    /// Whether many routes have no path.
    pub(crate) fn has_ghosts(&self) -> bool {
        self.rib.ghosts >= self.rib.reclaim_at.max(self.rib.live() / 2)
    }

    /// Frees the numbers of routes without paths once there are many: those of which nobody has to be told. Where few
    /// could be freed, it is tried again once there are twice as many.
    pub(crate) fn reclaim(&mut self) {
        if !self.has_ghosts() || self.rib.is_dirty() {
            return;
        }
        let rib = &mut self.rib;
        let live = rib.live();
        if live == 0 && self.groups.iter().all(|group| group.is_at_rest()) {
            self.groups.iter_mut().for_each(super::group::Group::forget_numbers);
            rib.begin_anew();
            return;
        }
        for at in 0..rib.routes.len() {
            let route = rib.routes.get(at);
            let is_ghost = route.paths.len() == 0 && route.state & FREE == 0;
            if is_ghost && !self.groups.iter().any(|group| group.knows(at)) {
                rib.index.remove(rib.keys.hash_at(at, rib.seed), at);
                rib.routes.get_mut(at).state = FREE;
                rib.free.push(at);
                rib.ghosts -= 1;
            }
        }
        rib.reclaim_at = GHOSTS_MIN.max(2 * rib.ghosts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attrs::PathAttributes;
    use crate::nlri::NlriData;
    use crate::types::{PeerId, RouterId};

    fn key(n: u32) -> Key {
        Key::prefix(ipnet::IpNet::V4(ipnet::Ipv4Net::new_assert(n.into(), 32)))
    }

    /// Of ever new prefixes only those that live are kept, and what they say.
    #[test]
    fn memory_follows_the_routes_that_live() {
        const LIVE: u32 = 3_000;
        let mut table = Table::new(Family::Ipv4Unicast, false, 9);
        let source = Source::Peer(PeerId(1));
        let (router_id, address) = (RouterId([10, 0, 0, 9].into()), [10, 0, 0, 9].into());
        let advertiser = Advertiser { local: false, internal: false, client: false, router_id, address };
        let id = table.rib.teller(source, advertiser);
        let mut changed = Vec::new();
        let churn = 20 * LIVE;
        for n in 0..churn {
            let attrs = PathAttributes { med: Some(n / 7), ..PathAttributes::default() };
            let set = table.rib.sets.intern(&attrs, &NlriData::default());
            assert!(table.rib.insert(&key(n), PathId::default(), set, id, None));
            if n >= LIVE {
                table.rib.remove(&key(n - LIVE), PathId::default(), id);
            }
            table.decide(&mut changed);
            table.reclaim();
        }
        assert_eq!(changed.len() as u32, 2 * churn - LIVE);
        assert!(table.rib.numbers() < 2 * LIVE, "{} numbers", table.rib.numbers());
        assert!(table.rib.sets.len() as u32 <= LIVE / 7 + 2, "{} sets", table.rib.sets.len());
        let keys: Vec<Key> = table.rib.page(None, usize::MAX).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, (churn - LIVE..churn).map(key).collect::<Vec<_>>());
        let some = table.rib.page(Some(&keys[10]), 5);
        assert_eq!(some.into_iter().map(|(key, _)| key).collect::<Vec<_>>(), keys[11..16]);
        table.rib.remove_where(source, |_| true);
        table.decide(&mut changed);
        table.reclaim();
        assert_eq!((table.rib.numbers(), table.rib.sets.len()), (0, 0));
        assert_eq!(table.rib.counts(source), PathCounts::default());
    }
}
