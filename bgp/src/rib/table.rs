//! One table of one instance and family: all paths of every key (Adj-RIB-In, kept in one place for all
//! peers, rejected paths included so that a changed policy needs no new session) and the selected one (Loc-RIB).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use super::RejectReason;
use super::decision::{self, Advertiser, Contender, Reason};
use crate::attrs::PathAttributes;
use crate::nlri::{Key, NlriData};
use crate::speaker::{Best, Source};

/// One path.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) source: Source,
    pub(crate) advertiser: Advertiser,
    pub(crate) attrs: Arc<PathAttributes>,
    pub(crate) data: NlriData,
    pub(crate) stale: bool,
    pub(crate) rejected: Option<RejectReason>,
}

impl Path {
    pub(crate) fn best(&self) -> Best {
        Best { attrs: Arc::clone(&self.attrs), data: self.data, source: self.source, stale: self.stale }
    }
}

/// All paths of one key.
#[derive(Debug, Default)]
pub(crate) struct Destination {
    pub(crate) paths: Vec<Path>,
    /// The selected path as last reported.
    reported: Option<(Best, Reason)>,
}

impl Destination {
    /// Index of the selected path.
    pub(crate) fn best_index(&self) -> Option<usize> {
        let (best, _) = self.reported.as_ref()?;
        self.paths.iter().position(|p| p.source == best.source)
    }

    pub(crate) fn best(&self) -> Option<&Path> {
        self.best_index().map(|i| &self.paths[i])
    }

    pub(crate) fn reason(&self) -> Option<Reason> {
        self.reported.as_ref().map(|(_, reason)| *reason)
    }

    /// Selects again; `Some` if what should be reported differs from what was.
    fn decide(&mut self) -> Option<Option<Best>> {
        let eligible: Vec<&Path> = self.paths.iter().filter(|p| p.rejected.is_none()).collect();
        let contenders: Vec<Contender<'_>> =
            eligible.iter().map(|p| Contender { advertiser: p.advertiser, attrs: &p.attrs }).collect();
        let selected = decision::select(&contenders).map(|(i, reason)| (eligible[i].best(), reason));
        let same = match (&self.reported, &selected) {
            (None, None) => true,
            (Some((old, _)), Some((new, _))) => same_route(old, new),
            _ => false,
        };
        self.reported = selected;
        (!same).then(|| self.reported.as_ref().map(|(best, _)| best.clone()))
    }
}

/// A path that merely became stale, or fresh again, is the same route (RFC 4724 §4.2).
fn same_route(a: &Best, b: &Best) -> bool {
    let same_attrs = Arc::ptr_eq(&a.attrs, &b.attrs) || a.attrs == b.attrs;
    a.source == b.source && a.data == b.data && same_attrs
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
    fn add(&mut self, path: &Path) {
        self.paths += 1;
        self.rejected += usize::from(path.rejected.is_some());
        self.stale += usize::from(path.stale);
    }

    fn take(&mut self, path: &Path) {
        self.paths -= 1;
        self.rejected -= usize::from(path.rejected.is_some());
        self.stale -= usize::from(path.stale);
    }
}

impl std::ops::AddAssign for PathCounts {
    fn add_assign(&mut self, other: PathCounts) {
        self.paths += other.paths;
        self.rejected += other.rejected;
        self.stale += other.stale;
    }
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    destinations: BTreeMap<Key, Destination>,
    dirty: BTreeSet<Key>,
    /// Of each source; changed wherever a path comes, goes or changes.
    counts: BTreeMap<Source, PathCounts>,
    /// Selection waits for the peers' End-of-RIB (RFC 4724 §4.1).
    pub(crate) deferring: bool,
}

impl Table {
    pub(crate) fn new(deferring: bool) -> Table {
        Table { deferring, ..Table::default() }
    }

    /// In key order, from the first key after `after`.
    pub(crate) fn iter_after(&self, after: Option<&Key>) -> impl Iterator<Item = (&Key, &Destination)> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.destinations.range((start, Bound::Unbounded))
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Destination> {
        self.destinations.get(key)
    }

    /// Keys with a selected path.
    pub(crate) fn selected(&self) -> impl Iterator<Item = &Key> {
        self.destinations.iter().filter(|(_, d)| d.reported.is_some()).map(|(key, _)| key)
    }

    /// How many paths `source` has here.
    pub(crate) fn counts(&self, source: Source) -> PathCounts {
        self.counts.get(&source).copied().unwrap_or_default()
    }

    /// Puts a path in the place of the one from the same source.
    pub(crate) fn insert(&mut self, key: Key, path: Path) {
        let counts = self.counts.entry(path.source).or_default();
        counts.add(&path);
        let destination = self.destinations.entry(key.clone()).or_default();
        match destination.paths.iter_mut().find(|p| p.source == path.source) {
            Some(old) => counts.take(&std::mem::replace(old, path)),
            None => destination.paths.push(path),
        }
        self.dirty.insert(key);
    }

    /// Removes the path of `source`, if there is one.
    pub(crate) fn remove(&mut self, key: &Key, source: Source) {
        let Some(destination) = self.destinations.get_mut(key) else { return };
        let counts = self.counts.entry(source).or_default();
        let is_gone = |path: &mut Path| path.source == source;
        let removed = destination.paths.extract_if(.., is_gone).inspect(|path| counts.take(path));
        if removed.count() > 0 {
            self.dirty.insert(key.clone());
        }
    }

    /// Removes the paths of `source` that `doomed` names.
    pub(crate) fn remove_where(&mut self, source: Source, doomed: impl Fn(&Path) -> bool) {
        let counts = self.counts.entry(source).or_default();
        for (key, destination) in &mut self.destinations {
            let is_gone = |path: &mut Path| path.source == source && doomed(path);
            let removed = destination.paths.extract_if(.., is_gone).inspect(|path| counts.take(path));
            if removed.count() > 0 {
                self.dirty.insert(key.clone());
            }
        }
        if counts.paths == 0 {
            self.counts.remove(&source);
        }
    }

    /// Marks all paths of `source` stale; those that already are, are removed (RFC 4724 §4.2).
    pub(crate) fn mark_stale(&mut self, source: Source) {
        self.remove_where(source, |p| p.stale);
        self.for_each_of(source, |_, path| {
            path.stale = true;
            false
        });
    }

    /// Visits the paths of `source`; where `change` says so, the key is decided again.
    pub(crate) fn for_each_of(&mut self, source: Source, mut change: impl FnMut(&Key, &mut Path) -> bool) {
        let counts = self.counts.entry(source).or_default();
        for (key, destination) in &mut self.destinations {
            let mut changed = false;
            for path in destination.paths.iter_mut().filter(|p| p.source == source) {
                counts.take(path);
                changed |= change(key, path);
                counts.add(path);
            }
            if changed {
                self.dirty.insert(key.clone());
            }
        }
    }

    /// Decides every key that changed; nothing while deferring. What differs from before, in key order.
    pub(crate) fn decide(&mut self) -> Vec<(Key, Option<Best>)> {
        if self.deferring {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let Some(destination) = self.destinations.get_mut(&key) else { continue };
            let change = destination.decide();
            if destination.paths.is_empty() {
                self.destinations.remove(&key);
            }
            if let Some(best) = change {
                changes.push((key, best));
            }
        }
        changes
    }
}
