//! How the delay of one direction varies, out of send and receive times by two clocks that have no common origin. Their
//! difference, the relative transit time, means nothing; how it changes does (RFC 3550 §6.4.1, RFC 5481 §3).
//!
//! *Jitter* is RFC 3550's: the mean deviation of transit times between packets, smoothed over sixteen. The *change* is that
//! of the last packet against the best of the last [`WINDOW`]: what waits in queues of that direction, or a path that has
//! become longer. The two clocks drift apart by 50 µs a second at worst, which the window is short enough for.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Packets among which the best is looked for.
const WINDOW: usize = 128;
/// A jump so large is the other clock's: its process was started anew. In nanoseconds.
const JUMP_NS: u64 = 1_000_000_000;

/// The delay of one direction.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct OneWay {
    /// Relative transit times in nanoseconds, the newest last.
    transits: VecDeque<i64>,
    /// Sixteen times the jitter, in nanoseconds (RFC 3550 §A.8).
    jitter16_ns: u64,
}

impl OneWay {
    /// Takes a packet that was sent and received at these times, in nanoseconds of either clock.
    pub(crate) fn take(&mut self, sent_ns: u64, received_ns: u64) {
        let transit = received_ns.wrapping_sub(sent_ns).cast_signed();
        if let Some(last) = self.transits.back() {
            let difference = transit.wrapping_sub(*last).unsigned_abs();
            if difference > JUMP_NS {
                *self = Self::default();
            } else {
                self.jitter16_ns += difference;
                self.jitter16_ns -= (self.jitter16_ns - difference + 8) >> 4;
            }
        }
        if self.transits.len() == WINDOW {
            self.transits.pop_front();
        }
        self.transits.push_back(transit);
    }

    /// Jitter in microseconds; `None` before the second packet.
    pub(crate) fn jitter_us(&self) -> Option<u64> {
        (self.transits.len() > 1).then_some((self.jitter16_ns >> 4) / 1_000)
    }

    /// How much later than the best the last packet came, in microseconds; `None` before the second packet.
    pub(crate) fn change_us(&self) -> Option<u64> {
        let (last, best) = (self.transits.back()?, self.transits.iter().min()?);
        (self.transits.len() > 1).then_some(last.wrapping_sub(*best).unsigned_abs() / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Packets every 100 ms with these delays, by a far clock that is `offset` ahead.
    fn with_delays(offset: u64, delays_ms: &[u64]) -> OneWay {
        let mut way = OneWay::default();
        for (number, delay) in (0..).zip(delays_ms) {
            let sent = number * 100 * MS;
            way.take(sent, (sent + delay * MS).wrapping_add(offset));
        }
        way
    }

    #[test]
    fn clocks_need_no_common_origin() {
        let delays = [10, 12, 10, 40];
        for offset in [0, 77 * MS, u64::MAX / 2 + 5, u64::MAX - 15 * MS] {
            let way = with_delays(offset, &delays);
            assert_eq!(way.change_us(), Some(30_000), "{offset}");
            assert_eq!(way.jitter_us(), with_delays(0, &delays).jitter_us());
        }
    }

    #[test]
    fn rfc_3550_a_8_jitter_follows_the_mean_difference_by_a_sixteenth() {
        assert_eq!(with_delays(0, &[10]).jitter_us(), None);
        assert_eq!(with_delays(0, &[10, 26]).jitter_us(), Some(1_000));
        assert_eq!(with_delays(0, &[10; 50]).jitter_us(), Some(0));
        let swinging: Vec<u64> = (0..400).map(|n| 10 + 8 * (n % 2)).collect();
        assert!(with_delays(0, &swinging).jitter_us().unwrap().abs_diff(8_000) < 10);
    }

    #[test]
    fn a_path_that_became_longer_is_the_usual_one_after_a_window() {
        let mut delays = vec![10; 20];
        delays.extend([25; 100]);
        assert_eq!(with_delays(0, &delays).change_us(), Some(15_000));
        delays.extend([25; 100]);
        assert_eq!(with_delays(0, &delays).change_us(), Some(0));
    }

    #[test]
    fn a_far_clock_that_begins_anew_is_not_taken_for_delay() {
        let mut way = with_delays(500_000 * MS, &[10, 11, 10]);
        way.take(300 * MS, 5 * MS);
        assert_eq!((way.jitter_us(), way.change_us()), (None, None));
        way.take(400 * MS, 105 * MS);
        assert_eq!((way.jitter_us(), way.change_us()), (Some(0), Some(0)));
    }
}
