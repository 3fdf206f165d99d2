//! What the packet threads tell a peer's timers: marks, one set for each peer, written without a lock.
//!
//! The timers of the whitepaper (§6) ask three things: since when has data been sent that nothing
//! answered, since when has data been received that we did not answer, and when did anything authentic cross
//! last. Each is one word that is written when its answer changes: under load in both directions that is a
//! few stores for each batch, under load in one direction it is loads only.
//!
//! Marks of several threads may cross. A lost race moves a timer by the length of one batch, never more: the
//! next batch sets the mark again.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A mark that is not set.
const NEVER: u64 = u64::MAX;

/// What crossed between us and one peer. Times are milliseconds on the caller's clock.
#[derive(Debug)]
#[repr(align(128))]
pub struct Traffic {
    /// The first data sent after the last thing received.
    unanswered_since_ms: AtomicU64,
    /// The first data received after the last thing sent.
    owed_since_ms: AtomicU64,
    /// The last authentic message in either direction, keepalives and handshakes included.
    crossed_ms: AtomicU64,
    sent_bytes: AtomicU64,
    received_bytes: AtomicU64,
}

/// All marks at one moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Marks {
    unanswered_since_ms: Option<u64>,
    owed_since_ms: Option<u64>,
    crossed_ms: Option<u64>,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Default for Traffic {
    fn default() -> Self {
        Self {
            unanswered_since_ms: AtomicU64::new(NEVER),
            owed_since_ms: AtomicU64::new(NEVER),
            crossed_ms: AtomicU64::new(NEVER),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        }
    }
}

impl Traffic {
    /// Messages of together `bytes` bytes (as on the wire, UDP payload) have been sent; `data`: one of them
    /// at least carries a packet and wants an answer.
    pub fn sent(&self, now_ms: u64, data: bool, bytes: u64) {
        self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
        clear(&self.owed_since_ms);
        if data {
            begin(&self.unanswered_since_ms, now_ms);
        }
        follow(&self.crossed_ms, now_ms);
    }

    /// Authentic messages of together `bytes` bytes (as on the wire) have arrived; `data`: one of them
    /// at least carries a packet.
    pub fn received(&self, now_ms: u64, data: bool, bytes: u64) {
        self.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        clear(&self.unanswered_since_ms);
        if data {
            begin(&self.owed_since_ms, now_ms);
        }
        follow(&self.crossed_ms, now_ms);
    }

    /// Since when data goes out and nothing comes in.
    pub fn unanswered_since_ms(&self) -> Option<u64> {
        read(&self.unanswered_since_ms)
    }

    /// Since when data has come in and nothing has gone out.
    pub fn owed_since_ms(&self) -> Option<u64> {
        read(&self.owed_since_ms)
    }

    /// When something authentic crossed last.
    pub fn crossed_ms(&self) -> Option<u64> {
        read(&self.crossed_ms)
    }

    /// Bytes sent, as on the wire.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Bytes received in authentic messages, as on the wire.
    pub fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn marks(&self) -> Marks {
        Marks {
            unanswered_since_ms: self.unanswered_since_ms(),
            owed_since_ms: self.owed_since_ms(),
            crossed_ms: self.crossed_ms(),
            sent_bytes: self.sent_bytes(),
            received_bytes: self.received_bytes(),
        }
    }

    pub(super) fn set_marks(&self, marks: &Marks) {
        let set = |mark: &AtomicU64, at: Option<u64>| mark.store(at.unwrap_or(NEVER), Ordering::Relaxed);
        set(&self.unanswered_since_ms, marks.unanswered_since_ms);
        set(&self.owed_since_ms, marks.owed_since_ms);
        set(&self.crossed_ms, marks.crossed_ms);
        self.sent_bytes.store(marks.sent_bytes, Ordering::Relaxed);
        self.received_bytes.store(marks.received_bytes, Ordering::Relaxed);
    }

    /// Nothing is waited for and nothing is owed.
    pub(super) fn settle(&self) {
        clear(&self.unanswered_since_ms);
        clear(&self.owed_since_ms);
    }
}

fn read(mark: &AtomicU64) -> Option<u64> {
    Some(mark.load(Ordering::Relaxed)).filter(|&at| at != NEVER)
}

fn clear(mark: &AtomicU64) {
    if mark.load(Ordering::Relaxed) != NEVER {
        mark.store(NEVER, Ordering::Relaxed);
    }
}

fn begin(mark: &AtomicU64, now_ms: u64) {
    if mark.load(Ordering::Relaxed) == NEVER {
        mark.store(now_ms, Ordering::Relaxed);
    }
}

fn follow(mark: &AtomicU64, now_ms: u64) {
    if mark.load(Ordering::Relaxed) != now_ms {
        mark.store(now_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_unanswered_data_counts_and_anything_received_answers_it() {
        let traffic = Traffic::default();
        traffic.sent(5, false, 32);
        assert_eq!(traffic.unanswered_since_ms(), None, "a keepalive wants no answer");
        traffic.sent(10, true, 100);
        traffic.sent(20, true, 100);
        assert_eq!(traffic.unanswered_since_ms(), Some(10));
        traffic.received(30, false, 32);
        assert_eq!((traffic.unanswered_since_ms(), traffic.owed_since_ms()), (None, None));
        assert_eq!(
            (traffic.crossed_ms(), traffic.sent_bytes(), traffic.received_bytes()),
            (Some(30), 232, 32)
        );
    }

    #[test]
    fn the_first_data_received_is_owed_until_anything_is_sent() {
        let traffic = Traffic::default();
        traffic.received(10, true, 100);
        traffic.received(20, true, 100);
        assert_eq!(traffic.owed_since_ms(), Some(10));
        traffic.sent(25, false, 32);
        assert_eq!(traffic.owed_since_ms(), None);
    }
}
