//! What stands before a handshake costs us anything: mac1, and under load cookies and rates (whitepaper §5.3,
//! §5.4.4, §5.4.7).
//!
//! The [`Gate`] is a device's. A message whose mac1 does not fit is dropped: its sender does not even know our
//! public key. Under load a sender has to show with mac2 that it receives what is sent to its address, by a
//! cookie that we answer its first message with; then its address has a rate, and all addresses together
//! have one. So a flood costs a hash, or a hash and a cookie; never a Diffie-Hellman operation more
//! than [`HANDSHAKES_UNDER_LOAD_PER_SECOND`].
//!
//! Memory is bounded: rates are kept in a fixed table that is addressed by a keyed hash of the
//! address, so that nobody can aim at another's place in it.

use std::net::{IpAddr, SocketAddr};

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Random;
use super::handshake::HandshakeError;
use super::limits::{COOKIE_REPLY_LEN, COOKIE_TIME_MS, INITIATION_LEN, RESPONSE_LEN};
use super::message::{COOKIE_REPLY, array_at, index_at};
use super::noise::{Secret, hash, mac};
use crate::key::PublicKey;

/// Handshake messages per second that a device takes from anybody. Above it, it is under load.
pub const HANDSHAKES_PER_SECOND: u32 = 100;
/// Handshake messages per second that a device takes under load, from senders with a good cookie.
pub const HANDSHAKES_UNDER_LOAD_PER_SECOND: u32 = 1_000;
/// Being under load lasts this much longer than its cause, in ms.
const LOAD_LASTS_MS: u64 = 1_000;
/// Period of both rates, in ms.
const PERIOD_MS: u64 = 1_000;
/// Under load one address (IPv4) or one /64 (IPv6) has one handshake message in so many ms …
const SOURCE_INTERVAL_MS: u64 = 50;
/// … and so many at once.
const SOURCE_BURST: u64 = 5;
/// Places in the table of rates.
const SOURCES: usize = 8_192;

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

type Mac = [u8; 16];

fn equal(a: &Mac, b: &Mac) -> bool {
    a.ct_eq(b).into()
}

fn mac1_key(receiver: &PublicKey) -> [u8; 32] {
    hash(&[LABEL_MAC1, receiver.as_bytes()])
}

fn cookie_cipher(sender_of_cookie: &PublicKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&hash(&[LABEL_COOKIE, sender_of_cookie.as_bytes()]).into())
}

/// What the gate says about a handshake message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may cost us something.
    Enter,
    /// Not made for our key.
    BadMac,
    /// Under load: it is dropped, and this is sent back to where it came from.
    Cookie([u8; COOKIE_REPLY_LEN]),
    /// Under load, with a good cookie: one too many from its address, or from all together.
    TooMany,
}

/// The gate of one device.
pub struct Gate {
    mac1_key: [u8; 32],
    cookie_cipher: XChaCha20Poly1305,
    secret: Option<CookieSecret>,
    period_started_ms: u64,
    /// Messages with a good mac1 in this period.
    arrived: u32,
    /// Those of them that were let in under load.
    entered: u32,
    loaded_until_ms: u64,
    sources: Option<Sources>,
}

/// What cookies are made of.
struct CookieSecret {
    bytes: Secret,
    born_ms: u64,
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { arrived, entered, loaded_until_ms, .. } = self;
        write!(f, "Gate({arrived} arrived, {entered} entered, loaded until {loaded_until_ms} ms)")
    }
}

impl Gate {
    /// The gate of the device with this public key.
    pub fn new(public_key: &PublicKey) -> Self {
        Self {
            mac1_key: mac1_key(public_key),
            cookie_cipher: cookie_cipher(public_key),
            secret: None,
            period_started_ms: 0,
            arrived: 0,
            entered: 0,
            loaded_until_ms: 0,
            sources: None,
        }
    }

    /// Judges a handshake initiation or response that came from `from`, at `now_ms` on the caller's clock.
    /// `busy`: the caller has reasons of its own to call this load (a queue that is filling).
    ///
    /// # Panics
    /// `message` is neither as long as an initiation nor as long as a response.
    pub fn judge(
        &mut self,
        message: &[u8],
        from: SocketAddr,
        now_ms: u64,
        busy: bool,
        random: &mut Random<'_>,
    ) -> Verdict {
        assert!([INITIATION_LEN, RESPONSE_LEN].contains(&message.len()), "{} bytes", message.len());
        let (covered, macs) = message.split_at(message.len() - 32);
        let (mac1, mac2): (Mac, Mac) = (array_at(macs, 0), array_at(macs, 16));
        if !equal(&mac(&self.mac1_key, &[covered]), &mac1) {
            return Verdict::BadMac;
        }
        if !self.under_load(now_ms, busy) {
            return Verdict::Enter;
        }
        let cookie = self.cookie_for(from, now_ms, random);
        if !equal(&mac(&cookie, &[covered, &mac1]), &mac2) {
            return Verdict::Cookie(self.reply(index_at(message, 4), &cookie, &mac1, random));
        }
        let sources = self.sources.get_or_insert_with(|| Sources::new(random));
        if self.entered >= HANDSHAKES_UNDER_LOAD_PER_SECOND || !sources.allow(from.ip(), now_ms) {
            return Verdict::TooMany;
        }
        self.entered += 1;
        Verdict::Enter
    }

    fn under_load(&mut self, now_ms: u64, busy: bool) -> bool {
        if now_ms.saturating_sub(self.period_started_ms) >= PERIOD_MS {
            (self.period_started_ms, self.arrived, self.entered) = (now_ms, 0, 0);
        }
        self.arrived = self.arrived.saturating_add(1);
        if busy || self.arrived > HANDSHAKES_PER_SECOND {
            self.loaded_until_ms = now_ms + LOAD_LASTS_MS;
        }
        now_ms < self.loaded_until_ms
    }

    /// The cookie that address and port have of us: a MAC under a secret that changes every two minutes.
    fn cookie_for(&mut self, from: SocketAddr, now_ms: u64, random: &mut Random<'_>) -> Mac {
        let fresh = |secret: &CookieSecret| now_ms.saturating_sub(secret.born_ms) < COOKIE_TIME_MS;
        if !self.secret.as_ref().is_some_and(fresh) {
            let mut bytes = Zeroizing::new([0; 32]);
            random(&mut *bytes);
            self.secret = Some(CookieSecret { bytes, born_ms: now_ms });
        }
        let secret = self.secret.as_ref().map_or(&[0; 32], |secret| &*secret.bytes);
        let port = from.port().to_be_bytes();
        match from.ip() {
            IpAddr::V4(address) => mac(secret, &[&address.octets(), &port]),
            IpAddr::V6(address) => mac(secret, &[&address.octets(), &port]),
        }
    }

    fn reply(
        &self,
        receiver: u32,
        cookie: &Mac,
        mac1: &Mac,
        random: &mut Random<'_>,
    ) -> [u8; COOKIE_REPLY_LEN] {
        let mut message = [0; COOKIE_REPLY_LEN];
        let (head, field) = message.split_at_mut(32);
        let (header, nonce) = head.split_at_mut(8);
        header[..4].copy_from_slice(&COOKIE_REPLY);
        header[4..].copy_from_slice(&receiver.to_le_bytes());
        random(nonce);
        let (body, tag) = field.split_at_mut(16);
        body.copy_from_slice(cookie);
        let sealed = self.cookie_cipher.encrypt_in_place_detached((&*nonce).into(), mac1, body);
        tag.copy_from_slice(&sealed.expect("a cookie is not too long to seal"));
        message
    }
}

/// When each address may send next. Generic cell rate: a place holds the time at which its burst is whole
/// again, less the burst.
struct Sources {
    key: Secret,
    whole_at_ms: Box<[u64; SOURCES]>,
}

impl Sources {
    fn new(random: &mut Random<'_>) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        random(&mut *key);
        Self { key, whole_at_ms: Box::new([0; SOURCES]) }
    }

    fn allow(&mut self, from: IpAddr, now_ms: u64) -> bool {
        let place = match from {
            IpAddr::V4(address) => mac(&*self.key, &[&address.octets()]),
            IpAddr::V6(address) => mac(&*self.key, &[&address.octets()[..8]]),
        };
        let whole_at = &mut self.whole_at_ms[usize::from(u16::from_le_bytes([place[0], place[1]])) % SOURCES];
        let earliest = (*whole_at).max(now_ms);
        if earliest - now_ms > (SOURCE_BURST - 1) * SOURCE_INTERVAL_MS {
            return false;
        }
        *whole_at = earliest + SOURCE_INTERVAL_MS;
        true
    }
}

/// The other end of the gate: what we put into the MACs of what we send to one peer, and the cookie that
/// it gave us.
pub(super) struct Macs {
    mac1_key: [u8; 32],
    cookie_cipher: XChaCha20Poly1305,
    /// The last message sent: our index and its mac1. A cookie is for it and for no other, and only once.
    last: Option<(u32, Mac)>,
    cookie: Option<(Zeroizing<Mac>, u64)>,
}

impl Macs {
    pub(super) fn new(peer: &PublicKey) -> Self {
        Self { mac1_key: mac1_key(peer), cookie_cipher: cookie_cipher(peer), last: None, cookie: None }
    }

    /// Completes an initiation or response of ours.
    pub(super) fn write(&mut self, message: &mut [u8], now_ms: u64) {
        let local_index = index_at(message, 4);
        let (covered, macs) = message.split_at_mut(message.len() - 32);
        let mac1 = mac(&self.mac1_key, &[covered]);
        macs[..16].copy_from_slice(&mac1);
        self.last = Some((local_index, mac1));
        self.cookie.take_if(|(_, since_ms)| now_ms.saturating_sub(*since_ms) >= COOKIE_TIME_MS);
        if let Some((cookie, _)) = &self.cookie {
            macs[16..].copy_from_slice(&mac(&**cookie, &[covered, &mac1]));
        }
    }

    /// Takes the cookie out of a reply to the last message. The next message will carry it; nothing is sent
    /// now (whitepaper §5.3).
    pub(super) fn receive(
        &mut self,
        message: &[u8; COOKIE_REPLY_LEN],
        now_ms: u64,
    ) -> Result<(), HandshakeError> {
        let (local_index, mac1) = self.last.ok_or(HandshakeError::Unasked)?;
        if index_at(message, 4) != local_index {
            return Err(HandshakeError::Unasked);
        }
        let mut cookie: Zeroizing<Mac> = Zeroizing::new(array_at(message, 32));
        let nonce: [u8; 24] = array_at(message, 8);
        let tag: Mac = array_at(message, 48);
        self.cookie_cipher
            .decrypt_in_place_detached((&nonce).into(), &mac1, &mut *cookie, (&tag).into())
            .map_err(|_| HandshakeError::Unauthentic)?;
        self.last = None;
        self.cookie = Some((cookie, now_ms));
        Ok(())
    }
}

#[cfg(test)]
#[path = "cookie_tests.rs"]
mod tests;
