//! Paths, 8 octets each, and the lists of them: a single path stands in its route; more stand together in a block
//! whose size is the next power of two, so that a look at all paths of a route is a look at one place.

use super::RejectReason;
use super::chunks::{CHUNK, Chunks};
use super::sets::SetId;
use crate::types::Asn;

/// The most paths of one key.
pub(super) const PATHS_MAX: usize = CHUNK;

/// Who told a path, numbered within a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(pub(super) u32);

/// One path: what it says, and who said so with what came of it. Two octets of flags leave room for 2^24 sources: a
/// neighbour with many paths of one key is as many sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Path {
    pub(crate) set: SetId,
    tag: u32,
}

const SOURCE_BITS: u32 = 24;
const STALE: u32 = 1 << SOURCE_BITS;
const REJECTED_SHIFT: u32 = SOURCE_BITS + 1;
const REJECTED: u32 = 0x7 << REJECTED_SHIFT;

/// A reason without what the table does not know: which AS it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejected {
    Policy = 1,
    AsLoop = 2,
    ReflectionLoop = 3,
    NextHopSelf = 4,
    AsSet = 5,
    RouteLeak = 6,
    Blackhole = 7,
}

impl Rejected {
    pub(crate) const fn reason(self, local_asn: Asn) -> RejectReason {
        match self {
            Rejected::Policy => RejectReason::Policy,
            Rejected::AsLoop => RejectReason::AsLoop(local_asn),
            Rejected::ReflectionLoop => RejectReason::ReflectionLoop,
            Rejected::NextHopSelf => RejectReason::NextHopSelf,
            Rejected::AsSet => RejectReason::AsSet,
            Rejected::RouteLeak => RejectReason::RouteLeak,
            Rejected::Blackhole => RejectReason::Blackhole,
        }
    }
}

impl Path {
    /// No path.
    pub(crate) const NONE: Path = Path { set: SetId::NONE, tag: 0 };

    pub(super) const fn new(set: SetId, source: SourceId, rejected: Option<Rejected>) -> Path {
        let rejected = match rejected {
            None => 0,
            Some(rejected) => (rejected as u32) << REJECTED_SHIFT,
        };
        Path { set, tag: source.0 | rejected }
    }

    pub(crate) fn is_some(self) -> bool {
        self.set != SetId::NONE
    }

    pub(crate) const fn source(self) -> SourceId {
        SourceId(self.tag & (STALE - 1))
    }

    pub(crate) const fn is_stale(self) -> bool {
        self.tag & STALE != 0
    }

    pub(super) const fn fresh(self) -> Path {
        Path { set: self.set, tag: self.tag & !STALE }
    }

    pub(super) const fn stale(self) -> Path {
        Path { tag: self.tag | STALE, ..self }
    }

    pub(crate) const fn rejected(self) -> Option<Rejected> {
        match (self.tag & REJECTED) >> REJECTED_SHIFT {
            1 => Some(Rejected::Policy),
            2 => Some(Rejected::AsLoop),
            3 => Some(Rejected::ReflectionLoop),
            4 => Some(Rejected::NextHopSelf),
            5 => Some(Rejected::AsSet),
            6 => Some(Rejected::RouteLeak),
            7 => Some(Rejected::Blackhole),
            _ => None,
        }
    }

    /// The same path, judged otherwise.
    pub(super) const fn judged(self, rejected: Option<Rejected>) -> Path {
        let judged = Path::new(self.set, self.source(), rejected);
        if self.is_stale() { judged.stale() } else { judged }
    }

    /// The same route: a path that merely became stale, or fresh again, is no other one (RFC 4724 §4.2).
    pub(crate) fn same_route(self, other: Path) -> bool {
        self.set == other.set && (self.set == SetId::NONE || self.source() == other.source())
    }
}

/// The paths of one route.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PathList {
    /// The only path; of several, `set` is where their block is.
    one: Path,
    count: u16,
}

/// The blocks of a table.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    paths: Chunks<Path>,
    /// Free blocks of 2, 4, 8 … paths.
    free: [Vec<u32>; CHUNK.trailing_zeros() as usize],
}

impl PathList {
    pub(super) const fn len(&self) -> usize {
        self.count as usize
    }

    const fn block(&self) -> u32 {
        self.one.tag
    }
}

/// Which size a block for so many paths has: 2 to the power of this plus 1.
const fn class(count: usize) -> usize {
    count.next_power_of_two().trailing_zeros() as usize - 1
}

impl Blocks {
    pub(super) fn get<'a>(&'a self, list: &'a PathList) -> &'a [Path] {
        match list.count {
            0 => &[],
            1 => std::slice::from_ref(&list.one),
            count => self.paths.slice(list.block(), usize::from(count)),
        }
    }

    pub(super) fn get_mut<'a>(&'a mut self, list: &'a mut PathList) -> &'a mut [Path] {
        match list.count {
            0 => &mut [],
            1 => std::slice::from_mut(&mut list.one),
            count => self.paths.slice_mut(list.block(), usize::from(count)),
        }
    }

    /// Appends a path; `false` if there are too many.
    pub(super) fn push(&mut self, list: &mut PathList, path: Path) -> bool {
        let count = list.len();
        if count >= PATHS_MAX {
            return false;
        }
        if count == 0 {
            *list = PathList { one: path, count: 1 };
            return true;
        }
        if count == 1 || count.is_power_of_two() {
            self.resize(list, count + 1);
        }
        list.count += 1;
        self.get_mut(list)[count] = path;
        true
    }

    /// Removes the path at `at`; the last one takes its place.
    pub(super) fn remove(&mut self, list: &mut PathList, at: usize) -> Path {
        let count = list.len();
        let paths = self.get_mut(list);
        let removed = paths[at];
        paths[at] = paths[count - 1];
        match count {
            1 => *list = PathList::default(),
            2 => {
                let left = paths[0];
                self.free[0].push(list.block());
                *list = PathList { one: left, count: 1 };
            }
            _ => {
                if (count - 1).is_power_of_two() {
                    self.resize(list, count - 1);
                }
                list.count -= 1;
            }
        }
        removed
    }

    /// Moves the paths to a block for `room` paths.
    fn resize(&mut self, list: &mut PathList, room: usize) {
        let block = self.allocate(class(room));
        let kept = list.len().min(room);
        for n in 0..kept {
            let path = self.get(list)[n];
            *self.paths.get_mut(block + n as u32) = path;
        }
        if list.count > 1 {
            self.free[class(list.len())].push(list.block());
        }
        list.one = Path { set: SetId::NONE, tag: block };
    }

    fn allocate(&mut self, class: usize) -> u32 {
        if let Some(block) = self.free[class].pop() {
            return block;
        }
        // What is left of a chunk is too short for a larger block: it is cut into smaller ones.
        let size = 2_u32 << class;
        while !self.paths.len().is_multiple_of(size) {
            let at = self.paths.len();
            let part = 1_u32 << at.trailing_zeros();
            (0..part).for_each(|_| self.paths.push(Path::NONE));
            self.free[part.trailing_zeros() as usize - 1].push(at);
        }
        let at = self.paths.len();
        (0..size).for_each(|_| self.paths.push(Path::NONE));
        at
    }

    /// Paths for which there is room, used or not.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.paths.len() as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(n: u32) -> Path {
        Path::new(SetId::NONE, SourceId(n), None)
    }

    #[test]
    fn a_path_is_eight_octets_and_a_list_twelve() {
        assert_eq!((size_of::<Path>(), size_of::<PathList>()), (8, 12));
        let rejected = Path::new(SetId::NONE, SourceId(0xff_ffff), Some(Rejected::NextHopSelf)).stale();
        assert_eq!(rejected.source(), SourceId(0xff_ffff));
        assert_eq!((rejected.rejected(), rejected.is_stale()), (Some(Rejected::NextHopSelf), true));
        assert_eq!((rejected.judged(None).rejected(), rejected.judged(None).is_stale()), (None, true));
    }

    /// Lists of any length, grown and shrunk side by side, against plain vectors; blocks are used again.
    #[test]
    fn lists_keep_their_paths_and_give_room_back() {
        let mut blocks = Blocks::default();
        let mut lists = vec![(PathList::default(), Vec::<u32>::new()); 40];
        let mut state = 5_u32;
        for step in 0..200_000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let (which, coin) = ((state >> 8) as usize % lists.len(), state >> 24);
            let (list, model) = &mut lists[which];
            if coin < 128 && model.len() < 100 {
                assert!(blocks.push(list, path(step)));
                model.push(step & 0xff_ffff);
            } else if !model.is_empty() {
                let at = coin as usize % model.len();
                assert_eq!(blocks.remove(list, at).source().0, model.swap_remove(at));
            }
            let kept: Vec<u32> = blocks.get(list).iter().map(|p| p.source().0).collect();
            assert_eq!(kept, *model);
        }
        assert!(blocks.room() < 40 * 128 * 3, "{} for 40 lists of at most 100", blocks.room());
        let mut full = PathList::default();
        assert!((0..PATHS_MAX as u32).all(|n| blocks.push(&mut full, path(n))));
        assert!(!blocks.push(&mut full, path(0)));
    }
}
