//! What happened: a bounded ring for those who ask later, and a broadcast for those who listen.
//!
//! Sequence numbers start at 1 with each start of the daemon; a reader that fell behind the ring sees a
//! gap in them.

use std::collections::VecDeque;
use std::sync::Mutex;

use jiff::{Timestamp, Unit};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use utoipa::ToSchema;

/// The most events that are kept.
pub const EVENTS_MAX: usize = 2000;
/// The most events a listener may lag behind before it loses some.
const LAG_MAX: usize = 512;
/// The most bytes of a message that are kept.
const MESSAGE_BYTES_MAX: usize = 2000;

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows by one with each event since the start of the daemon.
    pub seq: u64,
    /// When, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What kind of thing: `changed`, `repaired`, `failed`, `tunnel-up` …
    pub kind: String,
    /// The object it is about, e.g. `tunnels.ab`; empty when it is about the gateway.
    pub object: String,
    /// One sentence.
    pub message: String,
}

/// One message of a stream of server-sent events (WHATWG HTML, section 9.2), as the description of the API shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerSent {
    /// Its number, for `Last-Event-ID`; absent where a stream cannot be resumed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<String>,
    /// What kind of message it is.
    pub event: String,
    /// What it says, as JSON.
    pub data: String,
}

/// The time now, UTC, to the millisecond: finer digits help nobody who reads them.
pub fn now() -> Timestamp {
    Timestamp::now().round(Unit::Millisecond).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The events since the start of the daemon.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<Ring>,
    told: broadcast::Sender<Event>,
}

#[derive(Debug)]
struct Ring {
    next: u64,
    events: VecDeque<Event>,
}

impl Default for Events {
    fn default() -> Self {
        let ring = Ring { next: 1, events: VecDeque::with_capacity(EVENTS_MAX) };
        Self { ring: Mutex::new(ring), told: broadcast::channel(LAG_MAX).0 }
    }
}

impl Events {
    /// Notes an event and tells it to the listeners and the log.
    pub fn emit(&self, kind: &str, object: impl Into<String>, message: impl Into<String>) {
        let (object, mut message) = (object.into(), message.into());
        if message.len() > MESSAGE_BYTES_MAX {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
        }
        tracing::info!(kind, object, "{message}");
        let mut ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let event = Event { seq: ring.next, at: now(), kind: kind.to_owned(), object, message };
        ring.next += 1;
        if ring.events.len() == EVENTS_MAX {
            ring.events.pop_front();
        }
        ring.events.push_back(event.clone());
        // Under the lock, so that listeners see the order of the ring; an error means nobody listens.
        let _ = self.told.send(event);
    }

    /// The kept events with a number above `after`, oldest first.
    pub fn after(&self, after: u64) -> Vec<Event> {
        let ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        ring.events.iter().filter(|e| e.seq > after).cloned().collect()
    }

    /// The kept events above `after`, and a receiver of those that follow: none is missed or doubled.
    pub fn follow(&self, after: u64) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let ring = self.ring.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let past = ring.events.iter().filter(|e| e.seq > after).cloned().collect();
        (past, self.told.subscribe())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_is_bounded_and_numbers_go_on() {
        let events = Events::default();
        for i in 0..EVENTS_MAX + 5 {
            events.emit("changed", "sites.a", format!("{i}"));
        }
        let kept = events.after(0);
        assert_eq!(kept.len(), EVENTS_MAX);
        assert_eq!(kept[0].seq, 6);
        assert_eq!(events.after(EVENTS_MAX as u64 + 4).len(), 1);
    }

    #[test]
    fn a_follower_misses_nothing_and_sees_nothing_twice() {
        let events = Events::default();
        events.emit("changed", "sites.a", "one");
        let (past, mut future) = events.follow(0);
        events.emit("changed", "sites.a", "two");
        assert_eq!(past.len(), 1);
        assert_eq!(future.try_recv().unwrap().seq, 2);
        assert!(future.try_recv().is_err());
    }
}
