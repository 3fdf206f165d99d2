//! How often something is done that costs more the larger the tables are.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};

/// The least time between two times where nothing else is said, and the most.
const EVERY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The share of a core, as one part in so many, that it may take when it is wanted at once again and again.
const HURRIED_SHARE: u32 = 10;

/// When it is due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    share: u32,
    least: Duration,
    due: Instant,
    last: Instant,
    cost: Duration,
}

impl Pace {
    /// Due at once, then as often as one part in `share` of a core allows.
    pub(crate) fn new(share: u32) -> Self {
        Self::at_least(EVERY.0, share)
    }

    /// The same with another least time between two times.
    pub(crate) fn at_least(least: Duration, share: u32) -> Self {
        let now = Instant::now();
        Self { share, least, due: now, last: now, cost: Duration::ZERO }
    }

    /// When it is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    pub(crate) fn is_due(&self) -> bool {
        self.due <= Instant::now()
    }

    /// Makes it due at once, or a moment later if it has just been done and was dear.
    pub(crate) fn hurry(&mut self) {
        self.due = self.due.min(self.last + self.cost.saturating_mul(HURRIED_SHARE));
    }

    /// It was done, and took that long.
    pub(crate) fn done(&mut self, cost: Duration) {
        (self.last, self.cost) = (Instant::now(), cost);
        self.due = self.last + after(cost, self.share, self.least);
    }
}

fn after(cost: Duration, share: u32, least: Duration) -> Duration {
    cost.saturating_mul(share).clamp(least, EVERY.1)
}

/// Does something that does not wait; answers how much of a core it has taken. On a busy machine that is less than
/// the time that has passed.
pub(crate) fn timed<T>(what: impl FnOnce() -> T) -> (T, Duration) {
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
        let seconds = |cost_ms| after(Duration::from_millis(cost_ms), 100, EVERY.0).as_secs_f64();
        assert_eq!([1, 50, 10_000].map(seconds), [1.0, 5.0, 60.0]);
        let (sum, cost) = timed(|| (0..1_000_000_u64).map(std::hint::black_box).sum::<u64>());
        assert!(sum > 0 && cost > Duration::ZERO && cost < Duration::from_secs(10), "{cost:?}");
    }
}
