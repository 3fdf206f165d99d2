//! The replay window: which message counters of a session have been seen (RFC 6479).
//!
//! A ring of words, one bit for each counter; sliding it clears whole words and shifts nothing. One word of
//! the ring is always partly ahead of the highest counter, so that the window is a word narrower than
//! the ring.

use super::limits::REJECT_AFTER_MESSAGES;

/// Words of the ring: 1 KiB for each session. A datagram of 64 segments may be overtaken by a hundred others
/// (several cores open for one peer, several paths lead to it) and is still accepted.
const WORDS: usize = 128;
const WORD_BITS: u64 = 64;

/// How far a counter may be behind the highest one seen, in messages, and still be judged by its bit.
pub const REPLAY_WINDOW: u64 = (WORDS as u64 - 1) * WORD_BITS;

/// What has been seen of one session. Only counters of authentic messages belong in here: one forged high
/// counter would close the window for all true ones.
#[derive(Clone)]
pub struct ReplayWindow {
    seen: [u64; WORDS],
    /// One above the highest counter seen.
    next: u64,
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self { seen: [0; WORDS], next: 0 }
    }
}

impl ReplayWindow {
    /// Takes note of a counter. True: it was not seen before. False: seen, [`REPLAY_WINDOW`] or more behind
    /// the highest, or past [`REJECT_AFTER_MESSAGES`]; nothing has changed then.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter >= REJECT_AFTER_MESSAGES {
            return false;
        }
        if counter >= self.next {
            self.slide(counter);
        } else if self.next - counter > REPLAY_WINDOW {
            return false;
        }
        let bit = 1 << (counter % WORD_BITS);
        let word = &mut self.seen[slot(counter / WORD_BITS)];
        let fresh = *word & bit == 0;
        *word |= bit;
        fresh
    }

    /// One above the highest counter seen; 0 before the first.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Takes the content out; from here on every counter counts as seen.
    pub(super) fn close(&mut self) -> (Vec<u64>, u64) {
        let content = (self.seen.to_vec(), self.next);
        self.next = u64::MAX;
        content
    }

    /// The window with this content; `None` if it is not as large.
    pub(super) fn restore(seen: &[u64], next: u64) -> Option<Self> {
        Some(Self { seen: seen.try_into().ok()?, next })
    }

    /// Makes `counter`, which is not below `next`, the highest one.
    fn slide(&mut self, counter: u64) {
        let top = self.next.saturating_sub(1) / WORD_BITS;
        let ahead = counter / WORD_BITS - top;
        for step in 1..=ahead.min(WORDS as u64) {
            self.seen[slot(top + step)] = 0;
        }
        self.next = counter + 1;
    }
}

/// Where a word lies in the ring.
fn slot(word: u64) -> usize {
    // The remainder is below 128.
    (word % WORDS as u64) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The same rule over a set of everything ever seen.
    #[derive(Default)]
    struct Naive(BTreeSet<u64>);

    impl Naive {
        fn accept(&mut self, counter: u64) -> bool {
            let highest = self.0.last().copied();
            let behind = highest.map_or(0, |highest| highest.saturating_sub(counter));
            counter < REJECT_AFTER_MESSAGES && behind < REPLAY_WINDOW && self.0.insert(counter)
        }
    }

    /// Counters that walk on, jump by words, by rings and far away, and come back.
    fn walk() -> impl Strategy<Value = Vec<i64>> {
        let near = -200_i64..200;
        let ring = -9_000_i64..9_000;
        let far = -100_000_i64..1_000_000;
        proptest::collection::vec(prop_oneof![6 => near, 3 => ring, 1 => far], 1..400)
    }

    proptest! {
        #[test]
        fn a_window_accepts_what_a_set_of_all_counters_would(start in 0_u64..20_000, steps in walk()) {
            let (mut window, mut naive) = (ReplayWindow::default(), Naive::default());
            let mut counter = start;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                prop_assert_eq!(window.accept(counter), naive.accept(counter), "counter {}", counter);
            }
        }
    }

    #[test]
    fn every_counter_of_a_shuffled_window_is_accepted_once() {
        let mut window = ReplayWindow::default();
        // 5 and 8128 have no common divisor: every counter once, far out of order.
        let order = (0..REPLAY_WINDOW).map(|position| position * 5 % REPLAY_WINDOW);
        assert!(order.clone().all(|counter| window.accept(counter)));
        assert!(!order.clone().any(|counter| window.accept(counter)));
    }

    #[test]
    fn the_edge_of_the_window_is_exact() {
        for highest in [REPLAY_WINDOW - 1, REPLAY_WINDOW, 100_000, 100_031, 100_032, 100_063] {
            let mut window = ReplayWindow::default();
            assert!(window.accept(highest));
            assert!(window.accept(highest - (REPLAY_WINDOW - 1)), "{highest}");
            assert!(highest < REPLAY_WINDOW || !window.accept(highest - REPLAY_WINDOW), "{highest}");
        }
    }

    #[test]
    fn counters_past_the_limit_are_refused_and_change_nothing() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(3));
        assert!(!window.accept(REJECT_AFTER_MESSAGES));
        assert!(!window.accept(u64::MAX));
        assert!(window.accept(2));
        assert!(window.accept(REJECT_AFTER_MESSAGES - 1));
        assert!(!window.accept(4));
    }
}
