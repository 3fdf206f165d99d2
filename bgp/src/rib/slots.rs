//! Several paths of a route by one neighbour (RFC 7911).
//!
//! A path is known by its source. A neighbour that tells several paths of a route has several sources, its *slots*: of
//! the paths of one route each has another one, the lowest that was free. So there are as many slots as it ever had
//! paths of one route, however it chooses its path identifiers; some choose another one for every path of the table.
//! Which identifier stands for which slot is kept here, and only for identifiers that are not 0: tables without add-path
//! keep nothing.
//!
//! Towards others a path's identifier is its source plus one: no two paths of a route share it, and it stays the same
//! as long as the neighbour tells the path.

use std::collections::{BTreeMap, HashMap};

use super::index::MixState;
use super::paths::SourceId;
use crate::types::PathId;

/// The most paths of a route that are kept of one neighbour.
pub(super) const SLOTS_MAX: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Slots {
    /// The slots of a neighbour but for the first, by the first.
    further: BTreeMap<SourceId, Vec<SourceId>>,
    /// By the number of the route.
    ids: HashMap<(u32, SourceId), PathId, MixState>,
}

impl Slots {
    /// All slots of a neighbour.
    pub(super) fn of(&self, root: SourceId) -> impl Iterator<Item = SourceId> {
        std::iter::once(root).chain(self.further.get(&root).into_iter().flatten().copied())
    }

    /// One more slot.
    pub(super) fn add(&mut self, root: SourceId, slot: SourceId) {
        self.further.entry(root).or_default().push(slot);
    }

    /// Which identifier a path has that its neighbour has told.
    pub(super) fn id(&self, at: u32, slot: SourceId) -> PathId {
        self.ids.get(&(at, slot)).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, at: u32, slot: SourceId, id: PathId) {
        if id != PathId::default() {
            self.ids.insert((at, slot), id);
        }
    }

    pub(super) fn forget(&mut self, at: u32, slot: SourceId) {
        self.ids.remove(&(at, slot));
    }
}

/// Under which identifier others are told a path.
pub(crate) const fn told_as(source: SourceId) -> PathId {
    PathId(source.0 + 1)
}
