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

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    destinations: BTreeMap<Key, Destination>,
    dirty: BTreeSet<Key>,
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

    /// Puts a path in the place of the one from the same source. Returns whether there was none.
    pub(crate) fn insert(&mut self, key: Key, path: Path) -> bool {
        let destination = self.destinations.entry(key.clone()).or_default();
        let new = match destination.paths.iter_mut().find(|p| p.source == path.source) {
            Some(old) => {
                *old = path;
                false
            }
            None => {
                destination.paths.push(path);
                true
            }
        };
        self.dirty.insert(key);
        new
    }

    /// Removes the path of `source`. Returns whether there was one.
    pub(crate) fn remove(&mut self, key: &Key, source: Source) -> bool {
        let Some(destination) = self.destinations.get_mut(key) else { return false };
        let before = destination.paths.len();
        destination.paths.retain(|p| p.source != source);
        let removed = destination.paths.len() < before;
        if removed {
            self.dirty.insert(key.clone());
        }
        removed
    }

    /// Removes the paths of `source` that `doomed` names. Returns how many.
    pub(crate) fn remove_where(&mut self, source: Source, doomed: impl Fn(&Path) -> bool) -> usize {
        let mut removed = 0;
        for (key, destination) in &mut self.destinations {
            let before = destination.paths.len();
            destination.paths.retain(|p| p.source != source || !doomed(p));
            if destination.paths.len() < before {
                removed += before - destination.paths.len();
                self.dirty.insert(key.clone());
            }
        }
        removed
    }

    /// Marks all paths of `source` stale; those that already are, are removed (RFC 4724 §4.2). Returns how many.
    pub(crate) fn mark_stale(&mut self, source: Source) -> usize {
        let removed = self.remove_where(source, |p| p.stale);
        self.for_each_of(source, |_, path| {
            path.stale = true;
            false
        });
        removed
    }

    /// Visits the paths of `source`; where `change` says so, the key is decided again.
    pub(crate) fn for_each_of(&mut self, source: Source, mut change: impl FnMut(&Key, &mut Path) -> bool) {
        for (key, destination) in &mut self.destinations {
            let mut changed = false;
            for path in destination.paths.iter_mut().filter(|p| p.source == source) {
                changed |= change(key, path);
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
