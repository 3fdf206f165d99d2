//! How often a group may tell of the same route (RFC 4271 §9.2.1.1).
//!
//! The RFC wants a time between two messages about one destination, and would have one timer for many of them. Here what waits
//! at one moment is told together, as fast as it is read, and whatever changes from then on waits until the interval is
//! over: of a route that changes ten times meanwhile the last state is told, and nothing waits for longer than that.

use crate::time::{Instant, Jitter};

/// The interval of one group.
#[derive(Debug)]
pub(super) struct Interval {
    ms: u64,
    jitter: Jitter,
    /// Until then nothing more is told than what is left.
    not_before: Option<Instant>,
    /// Routes that are being told.
    left: usize,
}

impl Interval {
    /// Of so many milliseconds, 0 for none; `seed` makes the jitter (§10).
    pub(super) fn new(ms: u64, seed: u64) -> Interval {
        Interval { ms, jitter: Jitter::new(seed), not_before: None, left: 0 }
    }

    /// How many routes may be told of those that wait.
    pub(super) fn due(&mut self, waiting: usize, now: Instant) -> usize {
        if self.ms == 0 || waiting == 0 {
            return waiting;
        }
        if self.left == 0 && self.not_before.is_none_or(|at| at <= now) {
            self.left = waiting;
            self.not_before = Some(now + self.jitter.apply(self.ms));
        }
        self.left
    }

    /// So many routes were told of those that were due.
    pub(super) fn told(&mut self, routes: usize) {
        self.left = self.left.saturating_sub(routes);
    }

    /// When routes that wait are due, if they are not.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.not_before.filter(|_| self.left == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn what_waits_is_told_at_once_and_what_comes_later_after_the_interval() {
        let mut interval = Interval::new(10_000, 3);
        assert_eq!((interval.due(0, at(5)), interval.deadline()), (0, None));
        assert_eq!(interval.due(7, at(10)), 7);
        interval.told(4);
        // Two more have come meanwhile, and the reader is slow.
        assert_eq!((interval.due(5, at(20_000)), interval.deadline()), (3, None));
        interval.told(3);
        assert_eq!(interval.due(2, at(20_001)), 2, "the interval began with the first of them");
        interval.told(2);
        let due = interval.deadline().unwrap();
        assert!((at(20_001) + 7_500..=at(20_001) + 10_000).contains(&due), "{due:?}");
        assert_eq!(interval.due(1, at(due.as_millis() - 1)), 0);
        assert_eq!(interval.due(1, due), 1);
    }

    #[test]
    fn without_an_interval_everything_is_due() {
        let mut interval = Interval::new(0, 3);
        assert_eq!((interval.due(7, at(10)), interval.due(9, at(10))), (7, 9));
        interval.told(9);
        assert_eq!((interval.due(1, at(10)), interval.deadline()), (1, None));
    }
}
