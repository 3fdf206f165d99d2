//! Which places of the map `port_counts` are given out. Pure: time is an argument.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// So long a slot rests that was given back: by then no program runs that had found it before.
const REST: Duration = Duration::from_secs(1);

/// A slot for somebody else than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) slot: u32,
    /// A program may still count there for the former holder.
    pub(crate) is_warm: bool,
}

/// Slots from 1 up to a limit; 0 stands for none and is never given out.
#[derive(Debug)]
pub(crate) struct Slots {
    /// The first number that is no slot.
    limit: u32,
    taken: BTreeSet<u32>,
    /// Given back less than [`REST`] ago, the oldest first; they count as taken.
    resting: VecDeque<(Instant, u32)>,
    /// Where the next look begins: behind the last one that was given out, so that a slot rests long.
    next: u32,
}

impl Slots {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, taken: BTreeSet::new(), resting: VecDeque::new(), next: 1 }
    }

    /// Marks a slot that is in use. False if it is no slot, or somebody else's already.
    pub(crate) fn occupy(&mut self, slot: u32) -> bool {
        slot > 0 && slot < self.limit && self.taken.insert(slot)
    }

    /// Gives out a slot; `None` if all are taken.
    pub(crate) fn give(&mut self, now: Instant) -> Option<Given> {
        while let Some((since, slot)) = self.resting.front().copied()
            && now.saturating_duration_since(since) >= REST
        {
            self.resting.pop_front();
            self.taken.remove(&slot);
        }
        let free = (self.next..self.limit).chain(1..self.next).find(|slot| !self.taken.contains(slot));
        let given = match free {
            Some(slot) => Given { slot, is_warm: false },
            None => Given { slot: self.resting.pop_front()?.1, is_warm: true },
        };
        self.taken.insert(given.slot);
        self.next = given.slot + 1;
        Some(given)
    }

    /// Takes a slot back.
    pub(crate) fn free(&mut self, slot: u32, now: Instant) {
        if self.taken.contains(&slot) && self.resting.iter().all(|(_, resting)| *resting != slot) {
            self.resting.push_back((now, slot));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cold(slot: u32) -> Option<Given> {
        Some(Given { slot, is_warm: false })
    }

    #[test]
    fn none_is_given_twice_and_zero_never() {
        let (mut slots, now) = (Slots::new(4), Instant::now());
        assert!(slots.occupy(2) && !slots.occupy(2) && !slots.occupy(0) && !slots.occupy(4));
        assert_eq!([slots.give(now), slots.give(now), slots.give(now)], [cold(1), cold(3), None]);
    }

    #[test]
    fn one_that_was_given_back_comes_last_and_after_a_rest() {
        let (mut slots, now) = (Slots::new(4), Instant::now());
        let given = [slots.give(now), slots.give(now)];
        assert_eq!(given, [cold(1), cold(2)]);
        slots.free(1, now);
        slots.free(1, now);
        assert_eq!(slots.give(now), cold(3));
        assert_eq!(slots.give(now), Some(Given { slot: 1, is_warm: true }), "none else was left");
        assert_eq!(slots.give(now), None);
        slots.free(2, now);
        assert_eq!(slots.give(now + REST), cold(2));
        slots.free(7, now);
        assert_eq!(slots.give(now + REST), None, "7 was never given out");
    }
}
