//! Groups whose members are told several paths of a route (RFC 7911). What is told of a route is a list, and every path in it
//! is announced and withdrawn by itself, by the identifier that its source has.

use super::group::{Exports, Group, Sorted};
use super::paths::{Path, SourceId};
use super::sets::SetId;
use super::table::Rib;
use crate::peer::PathsSent;
use crate::types::PeerId;

impl Group {
    /// What should be told of a route.
    fn wanted_paths(&self, rib: &Rib, at: u32, limit: PathsSent) -> Vec<Path> {
        let limit = match limit {
            PathsSent::All => usize::MAX,
            PathsSent::Best(limit) => usize::from(limit),
        };
        rib.best_of(at, limit, |path| self.may_go(rib, at, path))
    }

    /// Compares what should be told of a route with what was, and notes the difference.
    pub(super) fn look_at_several(
        &mut self,
        rib: &mut Rib,
        at: u32,
        limit: PathsSent,
        exports: &mut Exports,
        sorted: &mut Sorted,
        released: &mut Vec<SetId>,
    ) {
        let wanted = self.wanted_paths(rib, at, limit);
        let told = self.told.paths(at);
        let is_told = |path: &Path| told.iter().any(|before| before.same_route(*path));
        let fresh: Vec<Path> = wanted.iter().copied().filter(|path| !is_told(path)).collect();
        let is_wanted = |path: &Path| wanted.iter().any(|after| after.source() == path.source());
        let gone: Vec<Path> = told.iter().copied().filter(|path| !is_wanted(path)).collect();
        if fresh.is_empty() && gone.is_empty() {
            return;
        }
        for member in self.members.values_mut() {
            if let Some((behind, _)) = &mut member.behind {
                behind.insert(at);
                member.gone.extend(gone.iter().map(|path| (at, path.source())));
            }
        }
        for path in gone {
            sorted.withdraw_path(at, path.source(), Some(rib.root(path)));
            self.told.remove(at, path.source());
            self.count(rib, path, Path::NONE);
            released.push(path.set);
        }
        for path in fresh {
            let before = self.told.of(at, path.source());
            if !before.is_some() || !exports.agree(self, rib, before, path) {
                sorted.announce(at, path);
            }
            rib.sets.retain(path.set);
            self.told.put(at, path);
            self.count(rib, before, path);
            released.push(before.set);
        }
    }

    /// Tells a member what it has missed of a route: every path that is told now but its own, and which of those that it may
    /// know are gone.
    pub(super) fn catch_up_several(
        &mut self,
        rib: &Rib,
        (peer, own): (PeerId, Option<SourceId>),
        at: u32,
        sorted: &mut Sorted,
    ) {
        let told = self.told.paths(at);
        told.iter().filter(|path| Some(rib.root(**path)) != own).for_each(|path| sorted.announce(at, *path));
        let Some(member) = self.members.get_mut(&peer) else { return };
        let of_it = (at, SourceId::default())..(at + 1, SourceId::default());
        let gone: Vec<(u32, SourceId)> = member.gone.range(of_it).copied().collect();
        for path in gone {
            member.gone.remove(&path);
            if !self.told.of(at, path.1).is_some() {
                sorted.withdraw_path(at, path.1, None);
            }
        }
    }
}
