//! Refusals on their way into the audit log.
//!
//! Anybody can ask as often as the network lets him, and the log is bounded: were each refusal an entry, he could drive out of
//! it what others did. So equal refusals of a second are one entry with a count, and each caller has a budget; those whom nobody
//! recognised share one. Beyond it one entry a minute says how many more there were. Pure: time is an argument.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::token::TokenId;
use crate::actor::Role;
use crate::store::{Note, Outcome};

/// The most different refusals that wait to be written.
const WAITING_MAX: usize = 256;
/// Entries of one caller at once.
const BURST: f64 = 60.0;
/// Entries of one caller an hour in the long run.
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
    /// What is left of each caller's budget, and since when; full before the first use. There are as many as good credentials.
    budgets: HashMap<Caller, (f64, Timestamp)>,
    /// How many found no place, and when that was last said.
    more: u64,
    said: Option<Timestamp>,
}

/// Whose budget it is: the credential's; `None` for all whom nobody recognised.
type Caller = Option<(Role, Option<TokenId>)>;

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
        } else if waiting.notes.len() < WAITING_MAX && waiting.spend(&note) {
            waiting.notes.push(note);
        } else {
            waiting.more += 1;
        }
    }

    /// Takes back what could not be written.
    pub fn put_back(&self, notes: Vec<Note>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let newer = std::mem::replace(&mut waiting.notes, notes);
        let room = WAITING_MAX.saturating_sub(waiting.notes.len());
        waiting.more += newer.iter().skip(room).map(|note| note.times).sum::<u64>();
        waiting.notes.extend(newer.into_iter().take(room));
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
    /// Takes one entry out of the caller's budget, if there is one.
    fn spend(&mut self, note: &Note) -> bool {
        let caller = note.role.map(|role| (role, note.token.clone()));
        let (left, at) = self.budgets.get(&caller).copied().unwrap_or((BURST, note.at));
        let hours = note.at.duration_since(at).as_secs_f64().max(0.0) / 3_600.0;
        let level = (left + hours * PER_HOUR).min(BURST);
        let has_one = level >= 1.0;
        self.budgets.insert(caller, (if has_one { level - 1.0 } else { level }, note.at));
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
    fn nobody_fills_the_log_and_nobody_uses_up_what_is_anothers() {
        for role in [None, Some(Role::Operator)] {
            let ledger = Ledger::default();
            let mut entries = 0;
            for second in 0..3_600 {
                for host in 0..50 {
                    let from = format!("198.51.100.{host}:1");
                    ledger.add(refused(&from, &format!("GET /{second}"), role, second));
                }
                entries += ledger.take(at(second)).len();
            }
            assert!((300..=370).contains(&entries), "{entries} entries in an hour");
            ledger.add(refused("192.0.2.1:5", "PUT /document", Some(Role::Viewer), 3_600));
            let notes = ledger.take(at(3_600));
            assert!(notes.iter().any(|n| n.role == Some(Role::Viewer)), "another is still named: {notes:?}");
        }
    }

    #[test]
    fn what_could_not_be_written_waits() {
        let ledger = Ledger::default();
        ledger.add(refused("192.0.2.1:1", "GET /a", None, 0));
        let notes = ledger.take(at(0));
        ledger.add(refused("192.0.2.1:1", "GET /b", None, 1));
        ledger.put_back(notes);
        let actions: Vec<String> = ledger.take(at(1)).into_iter().map(|note| note.action).collect();
        assert_eq!(actions, ["GET /a", "GET /b"]);
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
