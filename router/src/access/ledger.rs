//! Refusals on their way into the audit log.
//!
//! Whoever has no credential can ask as often as the network lets him, and the log is bounded: were each refusal an entry, he
//! could drive out of it what others did. So equal refusals of a second are one entry with a count; what is refused for want of
//! a credential has a budget of its own, and beyond it one entry a minute says how many more there were. Pure: time is an argument.

use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use crate::store::{Note, Outcome};

/// The most different refusals that wait to be written.
const WAITING_MAX: usize = 256;
/// Entries at once for callers without a good credential.
const BURST: f64 = 60.0;
/// Such entries an hour in the long run.
const PER_HOUR: f64 = 240.0;
/// The pause between two entries that only count.
const COUNT_EVERY: SignedDuration = SignedDuration::from_secs(60);

/// Refusals that are not written yet.
#[derive(Debug, Default)]
pub struct Ledger {
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    notes: Vec<Note>,
    /// What is left of the budget, and since when; full before the first use.
    budget: Option<(f64, Timestamp)>,
    /// How many found no place, and when that was last said.
    more: u64,
    said: Option<Timestamp>,
}

impl Ledger {
    /// Takes a refusal; `note.role` is absent where nobody was recognised.
    pub fn add(&self, note: Note) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |kept: &&mut Note| {
            kept.who == note.who
                && kept.action == note.action
                && kept.summary == note.summary
                && kept.outcome == note.outcome
                && address(&kept.from) == address(&note.from)
        };
        if let Some(kept) = waiting.notes.iter_mut().find(same) {
            kept.times += note.times;
        } else if waiting.notes.len() < WAITING_MAX && (note.role.is_some() || waiting.spend(note.at)) {
            waiting.notes.push(note);
        } else {
            waiting.more += 1;
        }
    }

    /// What is to be written by `now`.
    pub fn take(&self, now: Timestamp) -> Vec<Note> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes = std::mem::take(&mut waiting.notes);
        let is_due = waiting.said.is_none_or(|said| now.duration_since(said) >= COUNT_EVERY);
        if waiting.more > 0 && is_due {
            notes.push(uncounted(std::mem::take(&mut waiting.more), now));
            waiting.said = Some(now);
        }
        notes
    }
}

impl Waiting {
    /// Takes one entry out of the budget, if there is one.
    fn spend(&mut self, now: Timestamp) -> bool {
        let level = self.budget.map_or(BURST, |(left, at)| {
            let hours = now.duration_since(at).as_secs_f64().max(0.0) / 3_600.0;
            (left + hours * PER_HOUR).min(BURST)
        });
        let has_one = level >= 1.0;
        self.budget = Some((if has_one { level - 1.0 } else { level }, now));
        has_one
    }
}

fn uncounted(more: u64, at: Timestamp) -> Note {
    Note {
        at,
        who: "several".to_owned(),
        token: None,
        role: None,
        from: "several".to_owned(),
        action: "several".to_owned(),
        outcome: Outcome::Refused,
        times: more,
        summary: "refused; too many to be named one by one".to_owned(),
    }
}

/// Where somebody comes from, without the port, which is another one each time.
fn address(from: &str) -> &str {
    match from.rsplit_once(':') {
        // `[2001:db8::1]:4000` or `192.0.2.1:4000`; without brackets the last number belongs to the address.
        Some((address, _)) if address.ends_with(']') || !address.contains(':') => address,
        _ => from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actor::Role;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn refused(from: &str, action: &str, role: Option<Role>, seconds: i64) -> Note {
        Note {
            at: at(seconds),
            who: "nobody".to_owned(),
            token: None,
            role,
            from: from.to_owned(),
            action: action.to_owned(),
            outcome: Outcome::Refused,
            times: 1,
            summary: "the token is not known".to_owned(),
        }
    }

    #[test]
    fn equal_refusals_are_one_entry_with_a_count() {
        let ledger = Ledger::default();
        for port in 1..=1000 {
            ledger.add(refused(&format!("192.0.2.1:{port}"), "GET /facts", None, 0));
        }
        ledger.add(refused("192.0.2.2:9", "GET /facts", None, 0));
        let notes = ledger.take(at(1));
        assert_eq!(notes.iter().map(|n| n.times).collect::<Vec<_>>(), [1000, 1]);
        assert!(ledger.take(at(2)).is_empty());
    }

    #[test]
    fn who_has_no_credential_fills_no_log() {
        let ledger = Ledger::default();
        let mut entries = 0;
        for second in 0..3_600 {
            for host in 0..50 {
                ledger.add(refused(&format!("198.51.100.{host}:1"), &format!("GET /{second}"), None, second));
            }
            entries += ledger.take(at(second)).len();
        }
        assert!((300..=370).contains(&entries), "{entries} entries in an hour");
        ledger.add(refused("192.0.2.1:5", "PUT /document", Some(Role::Viewer), 3_600));
        let notes = ledger.take(at(3_600));
        assert!(notes.iter().any(|n| n.role.is_some()), "who is known is always named: {notes:?}");
    }

    #[test]
    fn nothing_that_was_refused_is_left_out_of_the_count() {
        let ledger = Ledger::default();
        let mut counted = 0;
        for i in 0..500_i64 {
            ledger.add(refused(&format!("2001:db8::{i:x}"), "GET /facts", None, i / 10));
            counted += ledger.take(at(i / 10)).iter().map(|n| n.times).sum::<u64>();
        }
        counted += ledger.take(at(500)).iter().map(|n| n.times).sum::<u64>();
        assert_eq!(counted, 500);
    }
}
