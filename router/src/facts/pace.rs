//! How often something is done that costs more the larger the tables are.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The least and the most time between two times.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The share of a core, as one part in so many, that it may take when it is wanted at once again and again.
const HURRIED_SHARE: u32 = 10;

/// When it is due.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    share: u32,
    due: Instant,
    last: Instant,
    cost: Duration,
}

impl Pace {
    /// Due at once, then as often as one part in `share` of a core allows.
    pub(super) fn new(share: u32) -> Self {
        let now = Instant::now();
        Self { share, due: now, last: now, cost: Duration::ZERO }
    }

    /// When it is due.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    pub(super) fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    /// Makes it due at once, or a moment later if it has just been done and was dear.
    pub(super) fn hurry(&mut self) {
        self.due = self.due.min(self.last + self.cost.saturating_mul(HURRIED_SHARE));
    }

    /// It was done, and took that long.
    pub(super) fn done(&mut self, cost: Duration) {
        (self.last, self.cost) = (Instant::now(), cost);
        self.due = self.last + after(cost, self.share);
    }
}

fn after(cost: Duration, share: u32) -> Duration {
    cost.saturating_mul(share).clamp(EVERY.0, EVERY.1)
}

/// Does something that does not wait; answers how much of a core it has taken. On a busy machine that is less than
/// the time that has passed.
pub(super) fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
    let spent = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from);
    let start = spent();
    let done = what();
    (done, spent().saturating_sub(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_at_once_is_done_at_once_unless_it_is_dear() {
        let mut pace = Pace::new(100);
        pace.done(Duration::ZERO);
        assert!(!pace.is_due());
        pace.hurry();
        assert!(pace.is_due());
        pace.done(Duration::from_secs(60));
        pace.hurry();
        assert!(!pace.is_due() && pace.due() <= Instant::now() + Duration::from_secs(60));
    }

    #[test]
    fn what_costs_little_is_done_each_second_and_what_costs_much_each_minute() {
        let seconds = |cost_ms| after(Duration::from_millis(cost_ms), 100).as_secs_f64();
        assert_eq!([1, 50, 10_000].map(seconds), [1.0, 5.0, 60.0]);
        let (sum, cost) = timed(|| (0..1_000_000_u64).map(std::hint::black_box).sum::<u64>());
        assert!(sum > 0 && cost > Duration::ZERO && cost < Duration::from_secs(10), "{cost:?}");
    }
}
