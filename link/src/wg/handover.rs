//! What a successor of this process needs to go on with a peer's sessions, so that an upgrade loses nothing: keys,
//! counters, replay windows, time stamps and marks.
//!
//! Handing over ends what is handed over: from then on the former owner's sessions seal nothing (no counter is left)
//! and accept nothing (every counter counts as seen). Whatever its threads still try, no
//! counter is used twice and no message is accepted twice. A successor that fails gives the state back, and the
//! former owner takes it up like any other.
//!
//! Times are absolute: both clocks have to be the same one (the machine's, not the process's).

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::replay::ReplayWindow;
use super::session::{Agreed, Role, SessionKeys};
use super::traffic::Marks;

/// A session on its way to another process. It holds keys: it is for a channel that nobody else reads, and wiped
/// when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct SessionState {
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) seal_key: [u8; 32],
    pub(super) open_key: [u8; 32],
    pub(super) initiator: bool,
    pub(super) in_use: bool,
    pub(super) born_ms: u64,
    pub(super) sealed_ms: Option<u64>,
    pub(super) opened_ms: Option<u64>,
    pub(super) next_counter: u64,
    pub(super) window_next: u64,
    pub(super) window_seen: Vec<u64>,
}

/// A peer's sessions and clocks on their way to another process.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerState {
    /// On the former owner's clock.
    pub(super) taken_ms: u64,
    pub(super) sessions: Vec<SessionState>,
    pub(super) current: Option<u32>,
    pub(super) last_stamp: [u8; 12],
    pub(super) latest_seen: [u8; 12],
    pub(super) last_initiation_ms: Option<u64>,
    /// An initiation was waiting for its answer; it cannot be taken up, and is made again.
    pub(super) calling: bool,
    pub(super) handshakes: u64,
    pub(super) established_ms: Option<u64>,
    pub(super) marks: Marks,
}

/// Why a peer's state cannot be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandoverError {
    /// Sessions would seem younger than they are.
    #[error("the clock is at {now_ms} ms, the state was taken at {taken_ms} ms")]
    ClockBehind {
        /// Of the successor.
        now_ms: u64,
        /// Of the former owner.
        taken_ms: u64,
    },
    /// A replay window of another form.
    #[error("a replay window of {0} words")]
    Window(usize),
    /// A session that the peer's index does not lead to.
    #[error("session {0:#010x} is not of this peer")]
    Index(u32),
    /// Two sessions of one index: a message for it would be for either.
    #[error("session {0:#010x} comes twice")]
    Twice(u32),
}

impl fmt::Debug for SessionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionState({:#010x}, keys hidden)", self.local_index)
    }
}

impl fmt::Debug for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerState(taken at {} ms, {:?})", self.taken_ms, self.sessions)
    }
}

impl SessionState {
    pub(super) fn agreed(&self) -> Agreed {
        Agreed {
            local_index: self.local_index,
            remote_index: self.remote_index,
            keys: SessionKeys { seal: self.seal_key, open: self.open_key },
            role: if self.initiator { Role::Initiator } else { Role::Responder },
            born_ms: self.born_ms,
        }
    }

    pub(super) fn window(&self) -> Result<ReplayWindow, HandoverError> {
        let words = self.window_seen.len();
        ReplayWindow::restore(&self.window_seen, self.window_next).ok_or(HandoverError::Window(words))
    }
}

impl super::Peer {
    /// Takes the sessions out, for a successor. This peer has none afterwards, and those that threads still hold
    /// seal and accept nothing; the threads should have stopped before, or what they read is lost.
    pub fn hand_over(&mut self, now: super::Now) -> PeerState {
        let (sessions, current) = self.sessions.take_out();
        PeerState {
            taken_ms: now.ms,
            sessions: sessions.iter().map(|session| session.hand_over()).collect(),
            current,
            last_stamp: *self.last_stamp.as_bytes(),
            latest_seen: *self.latest_seen.as_bytes(),
            last_initiation_ms: self.last_initiation_ms,
            calling: self.attempt.take().is_some(),
            handshakes: self.handshakes,
            established_ms: self.established_ms,
            marks: self.traffic.marks(),
        }
    }

    /// Goes on with the sessions of a former owner of this peer: one of the same identity, key, preshared key and
    /// index. True: an initiation was under way, and `Input::Want` or `Input::Call` should follow.
    ///
    /// # Errors
    /// See [`HandoverError`]; nothing has changed then.
    pub fn take_up(&mut self, state: &PeerState, now: super::Now) -> Result<bool, HandoverError> {
        if now.ms < state.taken_ms {
            return Err(HandoverError::ClockBehind { now_ms: now.ms, taken_ms: state.taken_ms });
        }
        let mut sessions = Vec::with_capacity(state.sessions.len());
        for session in &state.sessions {
            if session.local_index & !0xff != self.index {
                return Err(HandoverError::Index(session.local_index));
            }
            if sessions.iter().any(|other: &Arc<super::Session>| other.local_index() == session.local_index) {
                return Err(HandoverError::Twice(session.local_index));
            }
            sessions.push(Arc::new(super::Session::take_up(session, Arc::clone(&self.traffic))?));
        }
        self.sessions.put_in(sessions, state.current);
        // Initiations of our own would be answered in sessions that the former owner does not know of.
        self.in_flight.clear();
        self.attempt = None;
        self.last_stamp = super::Timestamp::from_bytes(state.last_stamp);
        self.latest_seen = super::Timestamp::from_bytes(state.latest_seen);
        self.last_initiation_ms = state.last_initiation_ms;
        self.handshakes = state.handshakes;
        self.established_ms = state.established_ms;
        self.traffic.set_marks(&state.marks);
        Ok(state.calling)
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
