//! What a group was told (Adj-RIB-Out): by the number of a route its path, 8 octets each; or its paths, where the members
//! take several (RFC 7911).

use super::chunks::Chunks;
use super::paths::{Blocks, Path, PathList, SourceId};

#[derive(Debug)]
pub(super) enum Told {
    One(Chunks<Path>),
    Several { lists: Chunks<PathList>, blocks: Box<Blocks> },
}

impl Told {
    pub(super) fn new(several: bool) -> Told {
        if several {
            Told::Several { lists: Chunks::default(), blocks: Box::default() }
        } else {
            Told::One(Chunks::default())
        }
    }

    const fn is_several(&self) -> bool {
        matches!(self, Told::Several { .. })
    }

    /// Nothing was told of any route.
    pub(super) fn clear(&mut self) {
        *self = Told::new(self.is_several());
    }

    fn len(&self) -> u32 {
        match self {
            Told::One(paths) => paths.len(),
            Told::Several { lists, .. } => lists.len(),
        }
    }

    /// Makes room for so many numbers.
    pub(super) fn grow(&mut self, numbers: u32) {
        while self.len() < numbers {
            match self {
                Told::One(paths) => paths.push(Path::NONE),
                Told::Several { lists, .. } => lists.push(PathList::default()),
            }
        }
    }

    /// The paths of a route.
    pub(super) fn paths(&self, at: u32) -> &[Path] {
        if at >= self.len() {
            return &[];
        }
        match self {
            Told::One(paths) => {
                let path = paths.get(at);
                if path.is_some() { std::slice::from_ref(path) } else { &[] }
            }
            Told::Several { lists, blocks } => blocks.get(lists.get(at)),
        }
    }

    /// The only path of a route, or none.
    pub(super) fn one(&self, at: u32) -> Path {
        self.paths(at).first().copied().unwrap_or(Path::NONE)
    }

    /// The path of a source, or none.
    pub(super) fn of(&self, at: u32, source: SourceId) -> Path {
        self.paths(at).iter().copied().find(|path| path.source() == source).unwrap_or(Path::NONE)
    }

    /// Puts a path in the place of the only one, or of the one from the same source: there may be none of it, and `path`
    /// may be none where there is one. What was there before.
    pub(super) fn put(&mut self, at: u32, path: Path) -> Path {
        match self {
            Told::One(paths) => std::mem::replace(paths.get_mut(at), path),
            Told::Several { lists, blocks } => {
                let list = lists.get_mut(at);
                let found = blocks.get_mut(list).iter_mut().find(|old| old.source() == path.source());
                if let Some(old) = found {
                    return std::mem::replace(old, path);
                }
                blocks.push(list, path);
                Path::NONE
            }
        }
    }

    /// Takes the path of a source away.
    pub(super) fn remove(&mut self, at: u32, source: SourceId) -> Path {
        match self {
            Told::One(paths) => std::mem::replace(paths.get_mut(at), Path::NONE),
            Told::Several { lists, blocks } => {
                let list = lists.get_mut(at);
                let which = blocks.get(list).iter().position(|path| path.source() == source);
                which.map_or(Path::NONE, |which| blocks.remove(list, which))
            }
        }
    }

    /// Numbers of the routes that were told.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (0..self.len()).filter(|at| !self.paths(*at).is_empty())
    }

    /// Every path with the number of its route.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, Path)> {
        (0..self.len()).flat_map(|at| self.paths(at).iter().map(move |path| (at, *path)))
    }
}
