//! Waiting for a state, with a limit and a name, instead of sleeping and hoping.
//!
//! On a machine that is slow by nature (an emulated one) every limit is stretched by `WATARI_PATIENCE`: how long a
//! test waits says nothing about what it asserts. What must happen within a time is measured by the test itself.

use std::fmt::Display;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The first pause between two looks; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause between two looks.
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a look at the system may answer: settled with a value, or not yet, perhaps with a reason.
pub trait Look {
    /// What the wait ends with.
    type Value;
    /// The value, or the reason why it is not there yet.
    ///
    /// # Errors
    /// The reason, empty where the look has none to tell.
    fn settle(self) -> Result<Self::Value, String>;
}

impl Look for bool {
    type Value = ();
    fn settle(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl<T> Look for Option<T> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Display> Look for Result<T, E> {
    type Value = T;
    fn settle(self) -> Result<T, String> {
        self.map_err(|error| format!("{error:#}"))
    }
}

/// A limit as it holds on this machine: `WATARI_PATIENCE` times as long, 1 to 100 times, and once where that is
/// not set.
#[must_use]
pub fn patient(limit: Duration) -> Duration {
    static TIMES: OnceLock<u32> = OnceLock::new();
    limit * *TIMES.get_or_init(|| times(std::env::var("WATARI_PATIENCE").ok().as_deref()))
}

/// What is no number counts as not set.
fn times(patience: Option<&str>) -> u32 {
    patience.and_then(|text| text.parse().ok()).unwrap_or(1).clamp(1, 100)
}

/// Looks until the answer is there: `true`, `Some` or `Ok`.
///
/// # Errors
/// After `limit` ([`patient`]), naming `what` was waited for and the last reason given.
pub fn wait_until<L: Look>(limit: Duration, what: &str, mut look: impl FnMut() -> L) -> Result<L::Value> {
    let (start, limit) = (Instant::now(), patient(limit));
    let mut pause = PAUSE_MIN;
    loop {
        match look().settle() {
            Ok(value) => return Ok(value),
            Err(reason) if start.elapsed() >= limit => {
                bail!("after {} ms still not: {what}: {reason}", limit.as_millis())
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Looks for the whole of `time` and fails as soon as the answer is not there: for "stays as it is".
///
/// # Errors
/// When a look fails, naming `what` and when.
pub fn holds_for<L: Look>(time: Duration, what: &str, mut look: impl FnMut() -> L) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(reason) = look().settle() {
            bail!("after {} ms no longer: {what}: {reason}", start.elapsed().as_millis());
        }
        std::thread::sleep(PAUSE_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_value() {
        let mut looks = 0;
        let got = wait_until(Duration::from_secs(1), "three looks", || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        assert_eq!(got.unwrap(), 3);
    }

    #[test]
    fn names_what_was_waited_for() {
        let error = wait_until(Duration::from_millis(20), "the sea to part", || Err::<(), _>("still wet"));
        let text = error.unwrap_err().to_string();
        assert!(text.contains("the sea to part") && text.contains("still wet"), "{text}");
    }

    #[test]
    fn patience_is_a_number_of_times() {
        let told = [None, Some("4"), Some("0"), Some("for ever"), Some("1000")];
        assert_eq!(told.map(times), [1, 4, 1, 1, 100]);
    }

    #[test]
    fn notices_what_does_not_hold() {
        let start = Instant::now();
        let held = holds_for(Duration::from_secs(5), "early", || start.elapsed() < Duration::from_millis(10));
        assert!(held.is_err());
    }
}
