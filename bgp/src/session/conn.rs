//! One TCP connection of a neighbour: from OpenSent to Established, with its two timers and the octets that
//! are not a whole message yet.

use super::state::State;
use crate::peer::Negotiated;
use crate::time::Instant;
use crate::types::ConnId;
use crate::wire::{MessageType, Notification, STANDARD_LIMIT, next_frame};

/// Who opened the connection (RFC 4271 §6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Outgoing,
    Incoming,
}

/// RFC 4271 §8.2.2: the hold timer while waiting for OPEN, "a large value".
const OPEN_HOLD_MS: u64 = 240_000;

#[derive(Debug)]
pub(super) struct Conn {
    pub(super) id: ConnId,
    pub(super) direction: Direction,
    /// OpenSent, OpenConfirm or Established.
    pub(super) state: State,
    pub(super) negotiated: Option<Negotiated>,
    pub(super) established_at: Option<Instant>,
    pub(super) hold_deadline: Option<Instant>,
    pub(super) keepalive_deadline: Option<Instant>,
    stream: Vec<u8>,
    consumed: usize,
}

impl Conn {
    pub(super) fn new(id: ConnId, direction: Direction, now: Instant) -> Conn {
        Conn {
            id,
            direction,
            state: State::OpenSent,
            negotiated: None,
            established_at: None,
            hold_deadline: Some(now + OPEN_HOLD_MS),
            keepalive_deadline: None,
            stream: Vec::new(),
            consumed: 0,
        }
    }

    pub(super) fn push(&mut self, octets: &[u8]) {
        self.stream.drain(..self.consumed);
        self.consumed = 0;
        self.stream.extend_from_slice(octets);
    }

    /// The next whole message, its body copied out of the stream.
    pub(super) fn next_message(&mut self) -> Result<Option<(MessageType, Vec<u8>)>, Notification> {
        let extended = self.negotiated.as_ref().is_some_and(|n| n.extended_messages);
        let limit = if extended { 65_535 } else { STANDARD_LIMIT };
        let Some(frame) = next_frame(&self.stream[self.consumed..], limit)? else {
            return Ok(None);
        };
        let message = (frame.kind, frame.body.to_vec());
        self.consumed += frame.len;
        Ok(Some(message))
    }

    /// Something was heard (RFC 4271 §4.4: a hold time of 0 stops both timers).
    pub(super) fn restart_hold(&mut self, now: Instant) {
        if let Some(negotiated) = &self.negotiated {
            let hold_s = negotiated.hold_time_s;
            self.hold_deadline = (hold_s != 0).then(|| now + u64::from(hold_s) * 1_000);
        }
    }

    /// A third of the hold time (RFC 4271 §10).
    pub(super) fn keepalive_interval_ms(&self) -> Option<u64> {
        let hold_s = self.negotiated.as_ref()?.hold_time_s;
        (hold_s != 0).then(|| u64::from(hold_s) * 1_000 / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode_keepalive;

    #[test]
    fn what_was_worked_on_is_not_kept() {
        let mut conn = Conn::new(ConnId(1), Direction::Incoming, Instant::ZERO);
        for _ in 0..10_000 {
            conn.push(&encode_keepalive());
            assert!(conn.next_message().unwrap().is_some());
        }
        assert!(conn.stream.len() <= 2 * STANDARD_LIMIT, "{} octets", conn.stream.len());
    }
}
