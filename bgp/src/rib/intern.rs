//! One allocation per distinct set of attributes, shared by every path that has it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::attrs::PathAttributes;

/// Below this many sets nothing is swept.
const SWEEP_FLOOR: usize = 1_024;

/// The attribute sets in use. Unused ones are swept whenever their number has doubled.
#[derive(Debug)]
pub(crate) struct AttributePool {
    sets: HashSet<Arc<PathAttributes>>,
    sweep_at: usize,
}

impl AttributePool {
    pub(crate) fn new() -> AttributePool {
        AttributePool { sets: HashSet::new(), sweep_at: SWEEP_FLOOR }
    }

    /// The shared form of `attrs`: equal values give the same allocation.
    pub(crate) fn intern(&mut self, attrs: PathAttributes) -> Arc<PathAttributes> {
        if let Some(shared) = self.sets.get(&attrs) {
            return Arc::clone(shared);
        }
        if self.sets.len() >= self.sweep_at {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
            self.sweep_at = SWEEP_FLOOR.max(self.sets.len() * 2);
        }
        let shared = Arc::new(attrs);
        self.sets.insert(Arc::clone(&shared));
        shared
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_sets_share_and_unused_ones_are_swept() {
        let mut pool = AttributePool::new();
        let set = |med| PathAttributes { med: Some(med), ..PathAttributes::default() };
        let kept = pool.intern(set(0));
        assert!(Arc::ptr_eq(&kept, &pool.intern(set(0))));
        for med in 1..10 * SWEEP_FLOOR as u32 {
            pool.intern(set(med));
        }
        assert!(pool.sets.len() <= SWEEP_FLOOR + 1, "{}", pool.sets.len());
        assert!(Arc::ptr_eq(&kept, &pool.intern(set(0))));
    }
}
