//! The clocks of the machine. Times that one process takes and its successor goes by (`crate::handover`) are times of
//! these: they have one origin for all processes, the machine's start.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time since the machine started, without what it was suspended for: for timers and round trips, because a silence of our own is
/// nobody else's.
pub(crate) fn monotonic() -> Duration {
    read(ClockId::CLOCK_MONOTONIC)
}

/// Milliseconds since the machine started, with what it was suspended for: for the age of keys, which is over for the far side
/// however long we slept.
pub(crate) fn boot_ms() -> u64 {
    u64::try_from(read(ClockId::CLOCK_BOOTTIME).as_millis()).unwrap_or(u64::MAX)
}

fn read(clock: ClockId) -> Duration {
    // Both clocks are there on every kernel that this runs on.
    clock_gettime(clock).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_go_on_and_the_second_is_never_behind() {
        let (first, second) = (monotonic(), monotonic());
        assert!(second >= first && first > Duration::ZERO);
        assert!(u128::from(boot_ms()) >= first.as_millis());
    }
}
