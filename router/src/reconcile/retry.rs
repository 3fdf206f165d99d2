//! When an item that failed is tried again: after 1, 2, 4 … 30 seconds, or at once when what is wanted changed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use watari_planner::item::{Key, Value};
use watari_planner::observed::Failure;

/// The longest wait between two tries.
const WAIT_MAX: Duration = Duration::from_secs(30);

struct Entry {
    message: String,
    wanted: Value,
    wait: Duration,
    next: Instant,
}

/// Items that failed.
#[derive(Default)]
pub(super) struct Retries(BTreeMap<Key, Entry>);

impl Retries {
    /// Whether `key` may be tried now.
    pub(super) fn is_due(&self, key: &Key, wanted: &Value, now: Instant) -> bool {
        self.0.get(key).is_none_or(|entry| now >= entry.next || entry.wanted != *wanted)
    }

    /// Notes a failure; true when it is another one than before.
    pub(super) fn failed(&mut self, key: &Key, wanted: &Value, message: String, now: Instant) -> bool {
        let before = self.0.get(key);
        let is_new = before.is_none_or(|entry| entry.message != message);
        let same_wish = before.filter(|entry| entry.wanted == *wanted);
        let wait = same_wish.map_or(Duration::from_secs(1), |entry| (entry.wait * 2).min(WAIT_MAX));
        let entry = Entry { message, wanted: wanted.clone(), wait, next: now + wait };
        self.0.insert(key.clone(), entry);
        is_new
    }

    /// Notes that `key` is as it should be; true when it had failed.
    pub(super) fn succeeded(&mut self, key: &Key) -> bool {
        self.0.remove(key).is_some()
    }

    /// Forgets what nobody wants any more.
    pub(super) fn keep(&mut self, wanted: impl Fn(&Key) -> bool) {
        self.0.retain(|key, _| wanted(key));
    }

    /// What failed, for the status.
    pub(super) fn failures(&self, now: Instant) -> BTreeMap<Key, Failure> {
        let failure = |entry: &Entry| Failure {
            message: entry.message.clone(),
            retry_s: entry.next.saturating_duration_since(now).as_secs(),
        };
        self.0.iter().map(|(key, entry)| (key.clone(), failure(entry))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest_and_a_new_wish_is_tried_at_once() {
        let (mut retries, start) = (Retries::default(), Instant::now());
        let key = Key::Vxlan("wtvx4789".to_owned());
        let (one, two) = (Value::Present, Value::Setting("2".to_owned()));
        assert!(retries.is_due(&key, &one, start));
        assert!(retries.failed(&key, &one, "no".to_owned(), start));
        assert!(!retries.is_due(&key, &one, start));
        assert!(retries.is_due(&key, &two, start));
        assert!(!retries.failed(&key, &one, "no".to_owned(), start + Duration::from_secs(1)));
        assert_eq!(retries.failures(start + Duration::from_secs(1))[&key].retry_s, 2);
        for _ in 0..9 {
            retries.failed(&key, &one, "no".to_owned(), start);
        }
        assert_eq!(retries.failures(start)[&key].retry_s, 30);
        assert!(retries.succeeded(&key));
        assert!(retries.is_due(&key, &one, start));
    }
}
