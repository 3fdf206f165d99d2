//! One session: a pair of transport keys, what counts messages out, and what remembers counters in
//! (whitepaper §5.4.6).
//!
//! A session is shared: every packet thread holds an `Arc<Session>` and seals and opens on its own. What is
//! common is one atomic counter, taken by the batch, and one replay window, taken by the batch under its
//! own lock. Nothing is allocated for a message.

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::handover::{HandoverError, SessionState};
use super::limits::{HEADER_LEN, OVERHEAD, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME_MS, TAG_LEN};
use super::replay::ReplayWindow;
use super::traffic::Traffic;

/// First four bytes of a data message: type 4 and three reserved zeros.
const DATA: [u8; 4] = [4, 0, 0, 0];
/// What is sealed is padded to a multiple of this.
const PADDING: usize = 16;
/// A session that has not sealed or opened anything.
const NEVER: u64 = u64::MAX;

/// Which side of the handshake we were. The initiator is the one that renews a session by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We asked.
    Initiator,
    /// We answered; the session is ours to seal with once the other side has used it.
    Responder,
}

/// The two keys of a session. Wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct SessionKeys {
    /// What we seal with.
    pub seal: [u8; 32],
    /// What the other side seals with.
    pub open: [u8; 32],
}

impl fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKeys(hidden)")
    }
}

/// What a handshake agreed on.
#[derive(Debug, Clone)]
pub struct Agreed {
    /// Our name for the session: the receiver of what we open.
    pub local_index: u32,
    /// The other side's name for it: the receiver of what we seal.
    pub remote_index: u32,
    /// Both transport keys.
    pub keys: SessionKeys,
    /// Which side we were.
    pub role: Role,
    /// When it was agreed, on the caller's clock, in ms.
    pub born_ms: u64,
}

/// A data message that was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Its number; it is for [`Session::accept`] to say whether it is a replay.
    pub counter: u64,
    /// Where the plaintext lies in the datagram, padding included. Empty: a keepalive.
    pub range: Range<usize>,
}

/// Why a data message was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Shorter than a header and a tag.
    #[error("{0} bytes are no data message")]
    Truncated(usize),
    /// Another type, or reserved bytes that are not zero.
    #[error("not a data message")]
    NotData,
    /// For another session.
    #[error("a message for session {0:#010x}")]
    WrongIndex(u32),
    /// Its counter is past [`REJECT_AFTER_MESSAGES`].
    #[error("counter {0} is past the last one")]
    CounterSpent(u64),
    /// Not made with this session's key.
    #[error("a message that is not authentic")]
    Forged,
}

/// A key that is wiped when dropped. ring leaves its keys in memory.
struct TransportKey(LessSafeKey);

fn chacha20_poly1305(key: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).expect("a ChaCha20-Poly1305 key has 32 bytes"))
}

impl Drop for TransportKey {
    fn drop(&mut self) {
        self.0 = chacha20_poly1305(&[0; 32]);
        // The write has to happen although nothing reads it.
        std::hint::black_box(&mut self.0);
    }
}

/// What changes while a session is in use, on cache lines of its own: the keys beside it are read by every
/// thread for every message.
#[repr(align(128))]
struct Use {
    next_counter: AtomicU64,
    sealed_ms: AtomicU64,
    opened_ms: AtomicU64,
    in_use: AtomicBool,
}

/// A session with a peer. See the module for how it is shared.
pub struct Session {
    local_index: u32,
    remote_index: u32,
    role: Role,
    born_ms: u64,
    /// As bytes, for a successor; ring does not give them back.
    keys: SessionKeys,
    seal_key: TransportKey,
    open_key: TransportKey,
    usage: Use,
    replay: Mutex<ReplayWindow>,
    traffic: Arc<Traffic>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { local_index, remote_index, role, born_ms, .. } = self;
        write!(f, "Session({local_index:#010x} to {remote_index:#010x}, {role:?}, born at {born_ms} ms)")
    }
}

/// Bytes of the data message that carries `plaintext_len` bytes through an interface of this MTU: padded to
/// 16, but never so that padding makes it longer than a full packet's (whitepaper §5.4.6). What is
/// longer than the MTU is not padded.
pub fn sealed_len(plaintext_len: usize, mtu: usize) -> usize {
    padded_len(plaintext_len, mtu) + OVERHEAD
}

fn padded_len(plaintext_len: usize, mtu: usize) -> usize {
    plaintext_len.next_multiple_of(PADDING).min(mtu.max(plaintext_len))
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The session that a data message is for, without any other check; `None` if it cannot be one.
pub fn receiver_of(datagram: &[u8]) -> Option<u32> {
    let (kind, rest) = datagram.split_first_chunk::<4>()?;
    let receiver = rest.first_chunk::<4>()?;
    (*kind == DATA && datagram.len() >= OVERHEAD).then(|| u32::from_le_bytes(*receiver))
}

impl Session {
    /// A session that nothing has crossed yet; `traffic` is its peer's.
    pub fn new(agreed: &Agreed, traffic: Arc<Traffic>) -> Self {
        Self {
            local_index: agreed.local_index,
            remote_index: agreed.remote_index,
            role: agreed.role,
            born_ms: agreed.born_ms,
            keys: agreed.keys.clone(),
            seal_key: TransportKey(chacha20_poly1305(&agreed.keys.seal)),
            open_key: TransportKey(chacha20_poly1305(&agreed.keys.open)),
            usage: Use {
                next_counter: AtomicU64::new(0),
                sealed_ms: AtomicU64::new(NEVER),
                opened_ms: AtomicU64::new(NEVER),
                in_use: AtomicBool::new(agreed.role == Role::Initiator),
            },
            replay: Mutex::default(),
            traffic,
        }
    }

    /// Our name for it: the receiver of what we open.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// The other side's name for it.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Which side of its handshake we were.
    pub fn role(&self) -> Role {
        self.role
    }

    /// When it was agreed, on the caller's clock, in ms.
    pub fn born_ms(&self) -> u64 {
        self.born_ms
    }

    /// The marks of its peer.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// True while it may seal and open: younger than
    /// [`REJECT_AFTER_TIME_MS`]. Ask once for a batch.
    pub fn is_alive(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.born_ms) < REJECT_AFTER_TIME_MS
    }

    /// Takes `n` counters for one batch: the first of them, the others follow. `None`: fewer are left before
    /// [`REJECT_AFTER_MESSAGES`], the session is spent. A counter taken and not used is a gap, which does no
    /// harm; one used twice would break the cipher.
    pub fn take_counters(&self, n: u64) -> Option<u64> {
        let take = |next: u64| next.checked_add(n).filter(|&after| after <= REJECT_AFTER_MESSAGES);
        self.usage.next_counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()
    }

    /// Messages that were sealed, or may have been.
    pub fn counters_taken(&self) -> u64 {
        self.usage.next_counter.load(Ordering::Relaxed)
    }

    /// Seals in place. `buffer` holds `plaintext_len` bytes behind [`HEADER_LEN`] free ones; header, padding
    /// and tag are written around them. The result is the length of the message, [`sealed_len`].
    /// `counter` is from [`Session::take_counters`] and used for nothing else. An empty
    /// plaintext is a keepalive. `mtu` bounds the padding: the interface's MTU, or what is carried at most.
    ///
    /// # Panics
    /// `buffer` is shorter than [`sealed_len`].
    pub fn seal(&self, counter: u64, buffer: &mut [u8], plaintext_len: usize, mtu: usize) -> usize {
        let padded = padded_len(plaintext_len, mtu);
        let message = &mut buffer[..padded + OVERHEAD];
        let (header, body) = message.split_at_mut(HEADER_LEN);
        header[..4].copy_from_slice(&DATA);
        header[4..8].copy_from_slice(&self.remote_index.to_le_bytes());
        header[8..].copy_from_slice(&counter.to_le_bytes());
        let (plaintext, tag) = body.split_at_mut(padded);
        plaintext[plaintext_len..].fill(0);
        let sealed = self.seal_key.0.seal_in_place_separate_tag(nonce(counter), Aad::empty(), plaintext);
        // ring refuses only what is longer than 256 GiB.
        tag.copy_from_slice(sealed.expect("a datagram is not too long to seal").as_ref());
        padded + OVERHEAD
    }

    /// Opens in place, without the replay check: that is [`Session::accept`], to be asked for authentic
    /// messages only, before anything is done with them.
    ///
    /// # Errors
    /// See [`OpenError`]; what the datagram holds then is undefined.
    pub fn open(&self, datagram: &mut [u8]) -> Result<Opened, OpenError> {
        let len = datagram.len();
        if len < OVERHEAD {
            return Err(OpenError::Truncated(len));
        }
        let (header, body) = datagram.split_at_mut(HEADER_LEN);
        let word = |at: usize| <[u8; 4]>::try_from(&header[at..at + 4]).unwrap_or_default();
        if word(0) != DATA {
            return Err(OpenError::NotData);
        }
        let receiver = u32::from_le_bytes(word(4));
        if receiver != self.local_index {
            return Err(OpenError::WrongIndex(receiver));
        }
        let counter = u64::from(u32::from_le_bytes(word(8))) | u64::from(u32::from_le_bytes(word(12))) << 32;
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(OpenError::CounterSpent(counter));
        }
        let opened = self.open_key.0.open_in_place(nonce(counter), Aad::empty(), body);
        opened.map_err(|_| OpenError::Forged)?;
        Ok(Opened { counter, range: HEADER_LEN..len - TAG_LEN })
    }

    /// Takes note of the counter of one opened message. False: a replay, or older than the window.
    pub fn accept(&self, counter: u64) -> bool {
        self.replay().accept(counter)
    }

    /// The replay window, locked: for the counters of a batch.
    pub fn replay(&self) -> MutexGuard<'_, ReplayWindow> {
        crate::lock(&self.replay)
    }

    /// To be called once for a batch that was sealed and sent: `bytes` on the wire together, `data` if one of
    /// them at least is no keepalive.
    pub fn note_sent(&self, now_ms: u64, data: bool, bytes: u64) {
        follow(&self.usage.sealed_ms, now_ms);
        self.traffic.sent(now_ms, data, bytes);
    }

    /// To be called once for a batch that was opened and accepted: `bytes` on the wire together, `data` if
    /// one of them at least is no keepalive. True, once in a responder's session: the other side has
    /// begun to use it; the peer's machine has to be told (`Input::Confirmed`), and seals with it from then.
    #[must_use]
    pub fn note_received(&self, now_ms: u64, data: bool, bytes: u64) -> bool {
        follow(&self.usage.opened_ms, now_ms);
        self.traffic.received(now_ms, data, bytes);
        !self.usage.in_use.load(Ordering::Relaxed) && !self.usage.in_use.swap(true, Ordering::Relaxed)
    }

    /// When it last sealed something that was sent.
    pub fn sealed_ms(&self) -> Option<u64> {
        Some(self.usage.sealed_ms.load(Ordering::Relaxed)).filter(|&at| at != NEVER)
    }

    /// When it last opened something authentic.
    pub fn opened_ms(&self) -> Option<u64> {
        Some(self.usage.opened_ms.load(Ordering::Relaxed)).filter(|&at| at != NEVER)
    }

    /// Takes out what a successor needs. From here on no counter is to be had and none is accepted.
    pub(super) fn hand_over(&self) -> SessionState {
        let (window_seen, window_next) = self.replay().close();
        SessionState {
            local_index: self.local_index,
            remote_index: self.remote_index,
            seal_key: self.keys.seal,
            open_key: self.keys.open,
            initiator: self.role == Role::Initiator,
            in_use: self.usage.in_use.load(Ordering::Relaxed),
            born_ms: self.born_ms,
            sealed_ms: self.sealed_ms(),
            opened_ms: self.opened_ms(),
            next_counter: self.usage.next_counter.swap(REJECT_AFTER_MESSAGES, Ordering::Relaxed),
            window_next,
            window_seen,
        }
    }

    /// The session of a former owner.
    pub(super) fn take_up(state: &SessionState, traffic: Arc<Traffic>) -> Result<Self, HandoverError> {
        let mut session = Self::new(&state.agreed(), traffic);
        session.usage = Use {
            next_counter: AtomicU64::new(state.next_counter),
            sealed_ms: AtomicU64::new(state.sealed_ms.unwrap_or(NEVER)),
            opened_ms: AtomicU64::new(state.opened_ms.unwrap_or(NEVER)),
            in_use: AtomicBool::new(state.in_use),
        };
        session.replay = Mutex::new(state.window()?);
        Ok(session)
    }
}

fn follow(mark: &AtomicU64, now_ms: u64) {
    if mark.load(Ordering::Relaxed) != now_ms {
        mark.store(now_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
