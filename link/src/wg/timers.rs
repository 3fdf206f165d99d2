//! What is due, by the whitepaper's §6: a pure look at the clock, at the session in use, and at the marks of what
//! crossed. What is done about it, and everything that is remembered, is in `peer`.

use super::limits::{
    KEEPALIVE_TIMEOUT_MS, REJECT_AFTER_TIME_MS, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME_MS,
    REKEY_ATTEMPT_TIME_MS, REKEY_TIMEOUT_MS,
};
use super::session::{Role, Session};
use super::traffic::Traffic;

/// A new peer, or one of a restarted engine, is called again so long after the first call if it has not
/// answered, in ms. A call lost to an address resolution, or to a far side that starts at the same moment, must
/// not cost 5 s. This is the one thing where we initiate sooner than `REKEY_TIMEOUT` allows; afterwards
/// its rhythm goes on.
pub const CALL_AGAIN_MS: [u64; 4] = [250, 500, 1_000, 2_000];

/// Initiations that go out until one is answered.
#[derive(Debug, Clone)]
pub(super) struct Attempt {
    /// When it began, or when a packet last asked for a session.
    wanted_ms: u64,
    /// When the next initiation is due.
    next_ms: u64,
    /// When the quick calls began, if this attempt has them.
    called_ms: Option<u64>,
    /// Initiations made.
    pub(super) made: u32,
}

impl Attempt {
    /// Begins now, but keeps `REKEY_TIMEOUT` from the last initiation.
    pub(super) fn begin(now_ms: u64, last_initiation_ms: Option<u64>) -> Self {
        let earliest = last_initiation_ms.map_or(now_ms, |last| last + REKEY_TIMEOUT_MS);
        Self { wanted_ms: now_ms, next_ms: earliest.max(now_ms), called_ms: None, made: 0 }
    }

    /// Begins now, with the quick calls.
    pub(super) fn call(now_ms: u64) -> Self {
        Self { wanted_ms: now_ms, next_ms: now_ms, called_ms: Some(now_ms), made: 0 }
    }

    /// A packet waits for the session: the end of the attempt moves away.
    pub(super) fn want(&mut self, now_ms: u64) {
        self.wanted_ms = now_ms;
    }

    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.wanted_ms) >= REKEY_ATTEMPT_TIME_MS
    }

    pub(super) fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.next_ms
    }

    /// An initiation was made now; `jitter_ms` is added to the pause that follows.
    pub(super) fn made_one(&mut self, now_ms: u64, jitter_ms: u64) {
        let quick = self.called_ms.zip(CALL_AGAIN_MS.get(self.made as usize));
        self.next_ms = match quick {
            Some((called_ms, after_ms)) => called_ms + after_ms,
            None => now_ms + REKEY_TIMEOUT_MS + jitter_ms,
        };
        self.made = self.made.saturating_add(1);
    }
}

/// True if a handshake is to begin, none being under way. `jitter_ms` keeps two sides that lost each other from
/// calling in step.
pub(super) fn handshake_due(
    now_ms: u64,
    current: Option<&Session>,
    traffic: &Traffic,
    jitter_ms: u64,
) -> bool {
    let silent_ms = KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS + jitter_ms;
    passed(now_ms, traffic.unanswered_since_ms(), silent_ms) || current.is_some_and(wants_renewal)
}

/// True if what crossed in this session asks for the next one.
fn wants_renewal(session: &Session) -> bool {
    if session.counters_taken() >= REKEY_AFTER_MESSAGES {
        return true;
    }
    // Both ends see the same age: one of them is to act.
    let ours = session.role() == Role::Initiator;
    let sent_old = session.sealed_ms().is_some_and(|at| at >= session.born_ms() + REKEY_AFTER_TIME_MS);
    // What is received may have no answer by us that would renew it in time.
    let old_on_receipt = REJECT_AFTER_TIME_MS - KEEPALIVE_TIMEOUT_MS - REKEY_TIMEOUT_MS;
    let received_old = session.opened_ms().is_some_and(|at| at >= session.born_ms() + old_on_receipt);
    ours && (sent_old || received_old)
}

/// True if something was received that is owed an answer for too long.
pub(super) fn answer_due(now_ms: u64, traffic: &Traffic) -> bool {
    passed(now_ms, traffic.owed_since_ms(), KEEPALIVE_TIMEOUT_MS)
}

/// True if nothing has crossed for the interval of the persistent keepalive; an interval of 0 is none.
pub(super) fn persistent_due(now_ms: u64, traffic: &Traffic, interval_ms: u64) -> bool {
    interval_ms > 0 && traffic.crossed_ms().is_none_or(|last| now_ms.saturating_sub(last) >= interval_ms)
}

fn passed(now_ms: u64, since_ms: Option<u64>, wait_ms: u64) -> bool {
    since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= wait_ms)
}
