//! Whether a core has nothing to do. A second thread in a lane is worth its hand-over only then: on a machine
//! whose cores are all busy (with the traffic's own ends, with interrupts) it takes the core from somebody who
//! is needed for the same packets.
//!
//! The idle time of `/proc/stat` is looked at over one tick of the clock in which no lane has helpers, every
//! [`PERIOD_TICKS`]; in between the answer stands.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

/// Ticks of the clock (100 ms each) for which an answer stands.
const PERIOD_TICKS: u64 = 20;
/// Idle time in one tick that makes a spare core, in the kernel's ticks of 10 ms.
const IDLE_TICKS: u64 = 4;

/// What is known of idle cores.
#[derive(Debug)]
pub(super) struct Spare {
    file: Option<File>,
    before: Option<u64>,
    ticks: u64,
}

impl Spare {
    pub(super) fn new() -> Self {
        Self { file: File::open("/proc/stat").ok(), before: None, ticks: 0 }
    }

    /// To be called once a tick: whether lanes may have helpers from here on. `None`: as before.
    pub(super) fn look(&mut self) -> Option<bool> {
        let phase = self.ticks % PERIOD_TICKS;
        self.ticks += 1;
        match phase {
            0 => {
                self.before = self.idle();
                // Without the file nothing is known, and helpers are as good a guess as none.
                Some(self.before.is_none())
            }
            1 => {
                let (before, now) = (self.before?, self.idle()?);
                Some(now.saturating_sub(before) >= IDLE_TICKS)
            }
            _ => None,
        }
    }

    fn idle(&self) -> Option<u64> {
        let mut bytes = [0; 256];
        let length = self.file.as_ref()?.read_at(&mut bytes, 0).ok()?;
        idle_of(std::str::from_utf8(&bytes[..length]).ok()?)
    }
}

/// Idle time of all cores since the start, in the kernel's ticks: the fourth number of the first line
/// (proc_stat(5)).
fn idle_of(stat: &str) -> Option<u64> {
    stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fourth_number_is_idle_time() {
        let stat = "cpu  43197 105 22053 1066493 1061 0 1123 0 0 0\ncpu0 21 0 11 7 1 0 1 0 0 0\n";
        assert_eq!(idle_of(stat), Some(1_066_493));
        assert_eq!((idle_of(""), idle_of("cpu0 1 2 3 4"), idle_of("cpu 1 2 3")), (None, None, None));
    }

    #[test]
    fn it_answers_after_one_tick_without_helpers() {
        let mut spare = Spare::new();
        assert!(spare.idle().is_some(), "this machine has /proc/stat");
        assert_eq!(spare.look(), Some(false));
        spare.before = spare.before.map(|idle| idle.saturating_sub(IDLE_TICKS));
        assert_eq!((spare.look(), spare.look()), (Some(true), None));
        // So much cannot have been idle.
        (spare.ticks, spare.before) = (1, Some(u64::MAX));
        assert_eq!(spare.look(), Some(false));
    }
}
