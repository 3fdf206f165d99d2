//! The sessions that a peer has at a time, shared between its machine, which makes and retires them, and the
//! packet threads, which look one up for each batch.
//!
//! A rekey loses nothing because sessions overlap: the initiator seals with a new session at once, which the
//! responder can open since it sent its response; the responder seals with it from the first message
//! that arrives in it; and what was sealed with an earlier session and is still on its way finds it here, until
//! it is 180 s old or [`KEPT`] later ones have come. Handshakes that cross make two sessions, and each side
//! may seal with its own: both stay.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::limits::REJECT_AFTER_MESSAGES;
use super::session::Session;

/// Sessions kept beside the one that is sealed with. A rekey needs one, crossed handshakes two; the
/// others are for initiations that were repeated because their responses were slow.
const KEPT: usize = 4;

/// The sessions of one peer.
#[derive(Debug, Default)]
pub struct Sessions {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// In the order in which they were made.
    all: Vec<Arc<Session>>,
    /// The local index of the one to seal with.
    current: Option<u32>,
}

impl Known {
    fn find(&self, local_index: u32) -> Option<&Arc<Session>> {
        self.all.iter().find(|session| session.local_index() == local_index)
    }

    fn current(&self) -> Option<&Arc<Session>> {
        self.find(self.current?)
    }
}

impl Sessions {
    /// The session to seal a batch with. `None`: there is none, or it is too old or spent: ask the machine
    /// (`Input::Want`) and let the packets wait.
    pub fn sealing(&self, now_ms: u64) -> Option<Arc<Session>> {
        let known = self.read();
        let session = known.current()?;
        let usable = session.is_alive(now_ms) && session.counters_taken() < REJECT_AFTER_MESSAGES;
        usable.then(|| Arc::clone(session))
    }

    /// The session with this local index to open a batch with. `None`: not ours, or too old.
    pub fn opening(&self, local_index: u32, now_ms: u64) -> Option<Arc<Session>> {
        self.read().find(local_index).filter(|session| session.is_alive(now_ms)).cloned()
    }

    /// The session that is sealed with, whatever its age.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        self.read().current().cloned()
    }

    pub(super) fn contains(&self, local_index: u32) -> bool {
        self.read().find(local_index).is_some()
    }

    /// Takes a session in that is opened with; it is not sealed with before [`Sessions::promote`].
    pub(super) fn add(&self, session: Arc<Session>) {
        let mut known = self.write();
        known.all.push(session);
        if known.all.len() > KEPT + 1 {
            let current = known.current;
            let oldest = known.all.iter().position(|session| Some(session.local_index()) != current);
            if let Some(oldest) = oldest {
                known.all.remove(oldest);
            }
        }
    }

    /// Seals with this session from here on, unless it is gone or a later one is sealed with already. True
    /// if there is a session to seal with now that was not.
    pub(super) fn promote(&self, local_index: u32) -> bool {
        let mut known = self.write();
        let place = |index: u32| known.all.iter().position(|session| session.local_index() == index);
        let Some(wanted) = place(local_index) else { return false };
        if known.current.and_then(place).is_some_and(|current| current >= wanted) {
            return false;
        }
        known.current = Some(local_index);
        true
    }

    /// Retires what is too old.
    pub(super) fn expire(&self, now_ms: u64) {
        if self.read().all.iter().all(|session| session.is_alive(now_ms)) {
            return;
        }
        let mut known = self.write();
        known.all.retain(|session| session.is_alive(now_ms));
        if known.current().is_none() {
            known.current = None;
        }
    }

    /// Takes everything out: the sessions in the order in which they were made, and which is sealed with.
    pub(super) fn take_out(&self) -> (Vec<Arc<Session>>, Option<u32>) {
        let known = std::mem::take(&mut *self.write());
        (known.all, known.current)
    }

    /// Puts in what [`Sessions::take_out`] took.
    pub(super) fn put_in(&self, all: Vec<Arc<Session>>, current: Option<u32>) {
        *self.write() = Known { all, current };
    }

    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits::REJECT_AFTER_TIME_MS;
    use super::super::session::{Agreed, Role, SessionKeys};
    use super::*;

    fn session(local_index: u32, born_ms: u64) -> Arc<Session> {
        let keys = SessionKeys { seal: [1; 32], open: [2; 32] };
        let agreed = Agreed { local_index, remote_index: 1, keys, role: Role::Responder, born_ms };
        Arc::new(Session::new(&agreed, Arc::default()))
    }

    fn sealing(sessions: &Sessions, now_ms: u64) -> Option<u32> {
        sessions.sealing(now_ms).map(|session| session.local_index())
    }

    #[test]
    fn a_session_is_opened_with_before_it_is_sealed_with() {
        let sessions = Sessions::default();
        sessions.add(session(1, 0));
        assert!(sessions.opening(1, 0).is_some() && sessions.opening(2, 0).is_none());
        assert_eq!(sealing(&sessions, 0), None);
        assert!(sessions.promote(1));
        assert_eq!(sealing(&sessions, 0), Some(1));
    }

    #[test]
    fn an_earlier_session_never_takes_the_place_of_a_later_one() {
        let sessions = Sessions::default();
        for index in 1..=3 {
            sessions.add(session(index, 0));
        }
        assert!(sessions.promote(2));
        assert!(!sessions.promote(1) && !sessions.promote(2) && !sessions.promote(9));
        assert_eq!(sealing(&sessions, 0), Some(2));
        assert!(sessions.promote(3));
        assert!(sessions.opening(1, 0).is_some(), "what is on its way in it can be opened");
    }

    #[test]
    fn later_sessions_push_out_the_oldest_but_never_the_one_in_use() {
        let sessions = Sessions::default();
        sessions.add(session(1, 0));
        sessions.promote(1);
        for index in 2..=20 {
            sessions.add(session(index, 0));
        }
        assert_eq!(sealing(&sessions, 0), Some(1));
        let opened: Vec<u32> = (1..=20).filter(|&index| sessions.contains(index)).collect();
        assert_eq!(opened, [1, 17, 18, 19, 20]);
    }

    #[test]
    fn after_180_seconds_a_session_is_neither_sealed_nor_opened_with_and_then_gone() {
        let sessions = Sessions::default();
        sessions.add(session(1, 0));
        sessions.promote(1);
        sessions.add(session(2, 100));
        assert_eq!(sealing(&sessions, REJECT_AFTER_TIME_MS - 1), Some(1));
        assert_eq!(sealing(&sessions, REJECT_AFTER_TIME_MS), None);
        assert!(sessions.opening(1, REJECT_AFTER_TIME_MS).is_none());
        sessions.expire(REJECT_AFTER_TIME_MS);
        assert!(!sessions.contains(1) && sessions.contains(2) && sessions.current().is_none());
        assert!(sessions.promote(2), "the younger one may take over");
    }

    #[test]
    fn a_spent_session_is_not_sealed_with() {
        let sessions = Sessions::default();
        sessions.add(session(1, 0));
        sessions.promote(1);
        let session = sessions.sealing(0).unwrap();
        session.take_counters(REJECT_AFTER_MESSAGES).unwrap();
        assert_eq!(sealing(&sessions, 0), None);
    }
}
