//! The machine of one peer: handshakes made and answered, sessions begun and retired, keepalives
//! (whitepaper §5, §6). Everything comes in as an [`Input`] with the time and a source of random bytes, everything
//! goes out as an [`Output`].
//!
//! No packet passes through here. Packet threads seal and open with what [`Peer::sessions`] has for
//! them, and the machine learns of it by marks on the session; it is locked for a handshake, for the first
//! message of a session, for a packet without a session, and by the clock.
//!
//! Where the peer is (endpoints, roaming), and packets that wait for a session, are the caller's.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::Random;
use super::cookie::Macs;
use super::handshake::{Contact, HandshakeError, Identity, Initiated, Introduction};
use super::limits::{COOKIE_REPLY_LEN, INITIATION_LEN, OVERHEAD, REKEY_JITTER_MS, RESPONSE_LEN};
use super::message::index_at;
use super::session::{Agreed, Session};
use super::sessions::Sessions;
use super::timers::{Attempt, answer_due, handshake_due, persistent_due};
use super::timestamp::Timestamp;
use super::traffic::Traffic;
use crate::key::{PresharedKey, PublicKey};

/// A peer is answered at most once in so many ms: 50 initiations per second, as in the kernel.
const INITIATION_INTERVAL_MS: u64 = 20;
/// Initiations of ours that may still be answered: the last, and the one before, whose answer is slow.
const IN_FLIGHT: usize = 2;

/// The two clocks of the caller.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic, from any beginning; the same clock for everything of a device. Up to a tick late
    /// is fine.
    pub ms: u64,
    /// Nanoseconds since the Unix epoch, for time stamps of initiations.
    pub unix_ns: u64,
}

/// What happens to a peer.
#[derive(Debug)]
pub enum Input<'a> {
    /// It is new, or configured anew, or we have just started: get a session, soon.
    Call,
    /// A packet waits and there is no session to seal it with.
    Want,
    /// An initiation that [`Identity::introduce`] says is this peer's.
    Initiation(Introduction),
    /// A response whose receiver is one of this peer's indices. It has passed the gate.
    Response(&'a [u8; RESPONSE_LEN]),
    /// A cookie reply whose receiver is one of this peer's indices.
    CookieReply(&'a [u8; COOKIE_REPLY_LEN]),
    /// [`Session::note_received`] said true for the session with this local index.
    Confirmed(u32),
    /// Time went on: to be called every 100 ms or so.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Output {
    /// Send this. `attempt` counts initiations from 0 since this attempt began, for a caller that tries
    /// several endpoints in turns.
    Initiation {
        /// The message.
        message: [u8; INITIATION_LEN],
        /// Which one of its attempt.
        attempt: u32,
    },
    /// Send this to where the initiation came from.
    Response([u8; RESPONSE_LEN]),
    /// Send this.
    Keepalive([u8; OVERHEAD]),
    /// There is a session, with this local index, to seal with that was not: send what waits.
    Ready(u32),
    /// Nobody answered for 90 s: drop what waits.
    GaveUp,
}

/// The machine of one peer of a device.
pub struct Peer {
    identity: Arc<Identity>,
    contact: Contact,
    macs: Macs,
    /// The upper 24 bits of every index of this peer.
    pub(super) index: u32,
    pub(super) in_flight: Vec<Initiated>,
    pub(super) attempt: Option<Attempt>,
    pub(super) last_initiation_ms: Option<u64>,
    pub(super) last_stamp: Timestamp,
    /// The latest stamp that was accepted.
    pub(super) latest_seen: Timestamp,
    answered_ms: Option<u64>,
    jitter_ms: u64,
    keepalive_ms: u64,
    pub(super) sessions: Arc<Sessions>,
    pub(super) traffic: Arc<Traffic>,
    pub(super) handshakes: u64,
    pub(super) established_ms: Option<u64>,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({}, {:#010x}, {:?})", self.contact.public_key(), self.index, self.sessions)
    }
}

impl Peer {
    /// A peer without a session. `index` has 24 bits and is unique in its device: the index of a message is
    /// `index << 8` and something, by which its peer is found.
    pub fn new(
        identity: Arc<Identity>,
        public_key: PublicKey,
        preshared_key: Option<&PresharedKey>,
        index: u32,
    ) -> Self {
        Self {
            contact: Contact::new(&identity, public_key, preshared_key),
            identity,
            macs: Macs::new(&public_key),
            index: index << 8,
            in_flight: Vec::with_capacity(IN_FLIGHT),
            attempt: None,
            last_initiation_ms: None,
            last_stamp: Timestamp::default(),
            latest_seen: Timestamp::default(),
            answered_ms: None,
            jitter_ms: 0,
            keepalive_ms: 0,
            sessions: Arc::default(),
            traffic: Arc::default(),
            handshakes: 0,
            established_ms: None,
        }
    }

    /// Sets the persistent keepalive; 0 seconds is none.
    pub fn set_keepalive(&mut self, seconds: u16) {
        self.keepalive_ms = u64::from(seconds) * 1_000;
    }

    /// The upper 24 bits of its indices, as they were given to [`Peer::new`].
    pub fn index(&self) -> u32 {
        self.index >> 8
    }

    /// What packet threads seal and open with. The same one for the life of the peer.
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// What crossed. The same one for the life of the peer, and of its sessions.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// Handshakes that led to a session in use.
    pub fn handshakes(&self) -> u64 {
        self.handshakes
    }

    /// When the last of them did, on the caller's clock.
    pub fn established_ms(&self) -> Option<u64> {
        self.established_ms
    }

    /// True while initiations go out and none has been answered.
    pub fn is_calling(&self) -> bool {
        self.attempt.is_some()
    }

    /// Takes an input; what is to be done is appended to `out`, in order.
    ///
    /// # Errors
    /// A message was not accepted, for the reason given; nothing has changed then. An initiation, response or
    /// cookie reply without an error is authentic.
    pub fn handle(
        &mut self,
        input: Input<'_>,
        now: Now,
        random: &mut Random<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), HandshakeError> {
        match input {
            Input::Call => {
                self.attempt = Some(Attempt::call(now.ms));
                self.go_on(now, random, out)
            }
            Input::Want => self.want(now, random, out),
            Input::Initiation(introduction) => self.answer(introduction, now, random, out),
            Input::Response(message) => self.conclude(message, now, out),
            Input::CookieReply(message) => self.macs.receive(message, now.ms),
            Input::Confirmed(local_index) => {
                self.establish(local_index, now, out);
                Ok(())
            }
            Input::Tick => self.tick(now, random, out),
        }
    }

    fn want(
        &mut self,
        now: Now,
        random: &mut Random<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), HandshakeError> {
        if let Some(attempt) = &mut self.attempt {
            attempt.want(now.ms);
            return Ok(());
        }
        self.begin(now, random, out)
    }

    fn begin(
        &mut self,
        now: Now,
        random: &mut Random<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), HandshakeError> {
        self.attempt = Some(Attempt::begin(now.ms, self.last_initiation_ms));
        self.go_on(now, random, out)
    }

    /// Makes the next initiation of the attempt, if it is due.
    fn go_on(
        &mut self,
        now: Now,
        random: &mut Random<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), HandshakeError> {
        let Some(number) = self.attempt.as_ref().filter(|attempt| attempt.is_due(now.ms)).map(|a| a.made)
        else {
            return Ok(());
        };
        self.draw_jitter(random);
        if let Some(attempt) = &mut self.attempt {
            attempt.made_one(now.ms, self.jitter_ms);
        }
        let stamp = Timestamp::after(&self.last_stamp, now.unix_ns);
        let local_index = self.take_index(random);
        let ephemeral = secret(random);
        let (mut message, initiated) =
            self.contact.initiate(&self.identity, local_index, ephemeral, &stamp)?;
        self.macs.write(&mut message, now.ms);
        self.last_stamp = stamp;
        self.last_initiation_ms = Some(now.ms);
        if self.in_flight.len() == IN_FLIGHT {
            self.in_flight.remove(0);
        }
        self.in_flight.push(initiated);
        self.traffic.sent(now.ms, false, INITIATION_LEN as u64);
        out.push(Output::Initiation { message, attempt: number });
        Ok(())
    }

    fn draw_jitter(&mut self, random: &mut Random<'_>) {
        let mut bytes = [0; 4];
        random(&mut bytes);
        self.jitter_ms = u64::from(u32::from_le_bytes(bytes)) % (REKEY_JITTER_MS + 1);
    }

    /// An index that neither a session nor an initiation of ours has, not to be told from former ones. 256 are more than
    /// there can be.
    fn take_index(&mut self, random: &mut Random<'_>) -> u32 {
        let mut low = [0];
        random(&mut low);
        loop {
            low[0] = low[0].wrapping_add(1);
            let index = self.index | u32::from(low[0]);
            let waiting = self.in_flight.iter().any(|initiated| initiated.local_index == index);
            if !waiting && !self.sessions.contains(index) {
                return index;
            }
        }
    }

    fn answer(
        &mut self,
        introduction: Introduction,
        now: Now,
        random: &mut Random<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), HandshakeError> {
        let recognised = self.contact.recognise(introduction)?;
        if recognised.timestamp <= self.latest_seen {
            return Err(HandshakeError::Stale);
        }
        if self.answered_ms.is_some_and(|last| now.ms.saturating_sub(last) < INITIATION_INTERVAL_MS) {
            return Err(HandshakeError::TooSoon);
        }
        let (stamp, local_index) = (recognised.timestamp, self.take_index(random));
        let (mut message, agreed) = recognised.respond(&self.contact, local_index, secret(random), now.ms)?;
        self.latest_seen = stamp;
        self.answered_ms = Some(now.ms);
        self.macs.write(&mut message, now.ms);
        self.add_session(&agreed);
        self.traffic.received(now.ms, false, INITIATION_LEN as u64);
        self.traffic.sent(now.ms, false, RESPONSE_LEN as u64);
        out.push(Output::Response(message));
        Ok(())
    }

    fn add_session(&mut self, agreed: &Agreed) {
        self.sessions.add(Arc::new(Session::new(agreed, Arc::clone(&self.traffic))));
    }

    fn conclude(
        &mut self,
        message: &[u8; RESPONSE_LEN],
        now: Now,
        out: &mut Vec<Output>,
    ) -> Result<(), HandshakeError> {
        let receiver = index_at(message, 8);
        let initiated = self.in_flight.iter().find(|initiated| initiated.local_index == receiver);
        let initiated = initiated.ok_or(HandshakeError::Unasked)?;
        let agreed = initiated.conclude(&self.identity, &self.contact, message, now.ms)?;
        self.traffic.received(now.ms, false, RESPONSE_LEN as u64);
        self.add_session(&agreed);
        self.establish(receiver, now, out);
        // The responder may seal once it has heard from us in this session.
        self.keep_alive(now, out);
        Ok(())
    }

    /// Seals with this session from here on, if it is the latest that both sides can.
    fn establish(&mut self, local_index: u32, now: Now, out: &mut Vec<Output>) {
        if !self.sessions.promote(local_index) {
            return;
        }
        self.attempt = None;
        self.in_flight.clear();
        self.handshakes += 1;
        self.established_ms = Some(now.ms);
        out.push(Output::Ready(local_index));
    }

    /// Seals an empty message, if there is a session to do it with.
    fn keep_alive(&mut self, now: Now, out: &mut Vec<Output>) -> bool {
        let Some(session) = self.sessions.sealing(now.ms) else { return false };
        let Some(counter) = session.take_counters(1) else { return false };
        let mut message = [0; OVERHEAD];
        session.seal(counter, &mut message, 0, 0);
        session.note_sent(now.ms, false, OVERHEAD as u64);
        out.push(Output::Keepalive(message));
        true
    }

    fn tick(
        &mut self,
        now: Now,
        random: &mut Random<'_>,
        out: &mut Vec<Output>,
    ) -> Result<(), HandshakeError> {
        self.sessions.expire(now.ms);
        let mut handshake = false;
        match &self.attempt {
            Some(attempt) if attempt.is_over(now.ms) => self.give_up(out),
            Some(_) => self.go_on(now, random, out)?,
            None => {
                let current = self.sessions.current();
                handshake = handshake_due(now.ms, current.as_deref(), &self.traffic, self.jitter_ms);
            }
        }
        if answer_due(now.ms, &self.traffic) && !self.keep_alive(now, out) {
            // Without a session there is nothing to answer in.
            self.traffic.settle();
        }
        if persistent_due(now.ms, &self.traffic, self.keepalive_ms)
            && !self.keep_alive(now, out)
            && self.attempt.is_none()
        {
            handshake = true;
        }
        if handshake { self.begin(now, random, out) } else { Ok(()) }
    }

    fn give_up(&mut self, out: &mut Vec<Output>) {
        self.attempt = None;
        self.in_flight.clear();
        self.traffic.settle();
        out.push(Output::GaveUp);
    }
}

fn secret(random: &mut Random<'_>) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    random(&mut *bytes);
    bytes
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
