//! How full the tables are.

use std::time::{Duration, Instant};

use watari_abi::{MapKind, Role, layout::MAPS};

use crate::{Dataplane, Error, dataplane::lock, raw_map::RawMap};

/// Full tables are counted in some tens of milliseconds: so often at the most.
const WALK_EVERY: Duration = Duration::from_secs(10);

/// Entries of one table, of those that it has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillLevel {
    /// The map.
    pub map: &'static str,
    /// Entries, as they were at the last walk.
    pub entries: u32,
    /// The most entries ([`watari_abi::limits`]).
    pub limit: u32,
}

/// The last walk.
pub(crate) type LastWalk = Option<(Instant, Vec<FillLevel>)>;

impl Dataplane {
    /// How full each table is: what was counted in the last ten seconds, else counted anew. Maps whose
    /// entries are always there (counters, working memory) and ring buffers are not among them.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn fill_levels(&self) -> Result<Vec<FillLevel>, Error> {
        let mut last = lock(&self.last_walk);
        if let Some((when, levels)) = last.as_ref()
            && when.elapsed() < WALK_EVERY
        {
            return Ok(levels.clone());
        }
        let mut levels = Vec::new();
        for map in MAPS {
            let is_table = matches!(map.kind, MapKind::Hash | MapKind::PerCpuHash | MapKind::Trie);
            if is_table && map.role != Role::Own {
                let entries = RawMap::open(map.name, &self.pins.map(map.name))?.count()?;
                levels.push(FillLevel { map: map.name, entries, limit: map.limit });
            }
        }
        *last = Some((Instant::now(), levels.clone()));
        Ok(levels)
    }
}
