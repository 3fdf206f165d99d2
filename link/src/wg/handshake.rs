//! The handshake: one message each way, out of which both sides have a session (whitepaper §5.4.2, §5.4.3).
//!
//! ```text
//! initiator                                                        responder
//!   Contact::initiate  ── initiation: e, es, s, ss, time ──▶  Identity::introduce   whose is it? (1 DH)
//!        │                                                    Contact::recognise    authentic? (no DH)
//!        ▼                                                         ▼
//!   Initiated::conclude ◀── response: e, ee, se, psk ───────  Recognised::respond   (2 DH)
//! ```
//!
//! Nothing here knows about time or repetition: whether an initiation is stale, or one too many, is
//! the peer's to decide between recognising and responding, so that a refused one costs no more.

use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use super::limits::{INITIATION_LEN, RESPONSE_LEN, TAG_LEN};
use super::message::{INITIATION, RESPONSE, array_at, index_at};
use super::noise::{Secret, Symmetric, Unauthentic, dh};
use super::session::{Agreed, Role, SessionKeys};
use super::timestamp::Timestamp;
use crate::key::{PresharedKey, PrivateKey, PublicKey};

/// Why a handshake message, or the making of one, ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// Not made with the keys it claims.
    #[error("a handshake message that is not authentic")]
    Unauthentic,
    /// A public key is a point of low order; the secret would be known to everybody.
    #[error("a public key of low order")]
    WeakKey,
    /// The initiation is of another peer than it was given to.
    #[error("a handshake of another peer")]
    WrongPeer,
    /// An initiation that is not later than the last one accepted: a replay, or one overtaken.
    #[error("a stale handshake initiation")]
    Stale,
    /// A peer that initiates more often than it has reason to.
    #[error("a handshake initiation too soon after the last")]
    TooSoon,
    /// A response or a cookie for a message that is not waiting for one.
    #[error("an answer to nothing that was asked")]
    Unasked,
}

impl From<Unauthentic> for HandshakeError {
    fn from(_: Unauthentic) -> Self {
        Self::Unauthentic
    }
}

fn agree(secret: &StaticSecret, public: &[u8; 32]) -> Result<Secret, HandshakeError> {
    dh(secret, public).ok_or(HandshakeError::WeakKey)
}

fn public_of(secret: &StaticSecret) -> [u8; 32] {
    x25519_dalek::PublicKey::from(secret).to_bytes()
}

/// Who we are on a device. The secret is wiped when dropped.
pub struct Identity {
    secret: StaticSecret,
    public: PublicKey,
}

/// An initiation whose sender is known, but not yet proven: the message may be a replay, or made up
/// by somebody who knows the sender's public key.
pub struct Introduction {
    public_key: PublicKey,
    symmetric: Symmetric,
    ephemeral: [u8; 32],
    sender_index: u32,
    timestamp: [u8; 12 + TAG_LEN],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.public)
    }
}

impl std::fmt::Debug for Introduction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Introduction({}, {:#010x})", self.public_key, self.sender_index)
    }
}

impl Identity {
    /// The identity of this private key.
    pub fn new(key: &PrivateKey) -> Self {
        Self { secret: key.to_secret(), public: key.public_key() }
    }

    /// Its public key.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The secret that our static key and a peer's share.
    pub(super) fn shared_with(&self, peer: &PublicKey) -> Result<Secret, HandshakeError> {
        agree(&self.secret, peer.as_bytes())
    }

    /// Finds out whose initiation this is: one Diffie-Hellman operation. Pass it through the gate first.
    ///
    /// # Errors
    /// It is not for us, or nothing that makes sense.
    pub fn introduce(&self, message: &[u8; INITIATION_LEN]) -> Result<Introduction, HandshakeError> {
        let mut symmetric = Symmetric::new(self.public.as_bytes());
        let ephemeral = array_at(message, 8);
        symmetric.mix_ephemeral(&ephemeral);
        let key = symmetric.mix_for_field(&*agree(&self.secret, &ephemeral)?);
        let mut public_key = [0; 32];
        symmetric.open_field(&key, &message[40..88], &mut public_key)?;
        Ok(Introduction {
            public_key: PublicKey::from_bytes(public_key),
            symmetric,
            ephemeral,
            sender_index: index_at(message, 4),
            timestamp: array_at(message, 88),
        })
    }
}

impl Introduction {
    /// Who says to have sent it.
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

/// What is fixed between us and one peer.
pub(super) struct Contact {
    public: PublicKey,
    /// `None` where their key is a point of low order: no handshake succeeds.
    static_shared: Option<Secret>,
    /// Zeros without one.
    preshared: Secret,
}

/// An initiation that its owner made, and what answering it needs.
pub(super) struct Recognised {
    symmetric: Symmetric,
    ephemeral: [u8; 32],
    sender_index: u32,
    pub(super) timestamp: Timestamp,
}

/// An initiation of ours that waits for its response. Its secrets are wiped when dropped.
pub(super) struct Initiated {
    pub(super) local_index: u32,
    symmetric: Symmetric,
    ephemeral: StaticSecret,
}

impl Contact {
    pub(super) fn new(identity: &Identity, public: PublicKey, preshared: Option<&PresharedKey>) -> Self {
        let preshared = preshared.map_or([0; 32], PresharedKey::to_bytes);
        Self {
            static_shared: dh(&identity.secret, public.as_bytes()),
            public,
            preshared: Zeroizing::new(preshared),
        }
    }

    pub(super) fn public_key(&self) -> &PublicKey {
        &self.public
    }

    fn static_shared(&self) -> Result<&Secret, HandshakeError> {
        self.static_shared.as_ref().ok_or(HandshakeError::WeakKey)
    }

    /// Writes an initiation, all but its two MACs.
    pub(super) fn initiate(
        &self,
        identity: &Identity,
        local_index: u32,
        ephemeral: Secret,
        timestamp: &Timestamp,
    ) -> Result<([u8; INITIATION_LEN], Initiated), HandshakeError> {
        let ephemeral = StaticSecret::from(*ephemeral);
        let ephemeral_public = public_of(&ephemeral);
        let mut message = [0; INITIATION_LEN];
        message[..4].copy_from_slice(&INITIATION);
        message[4..8].copy_from_slice(&local_index.to_le_bytes());
        message[8..40].copy_from_slice(&ephemeral_public);
        let mut symmetric = Symmetric::new(self.public.as_bytes());
        symmetric.mix_ephemeral(&ephemeral_public);
        let key = symmetric.mix_for_field(&*agree(&ephemeral, self.public.as_bytes())?);
        symmetric.seal_field(&key, identity.public.as_bytes(), &mut message[40..88]);
        let key = symmetric.mix_for_field(&**self.static_shared()?);
        symmetric.seal_field(&key, timestamp.as_bytes(), &mut message[88..116]);
        Ok((message, Initiated { local_index, symmetric, ephemeral }))
    }

    /// Checks that an initiation was made by this peer.
    pub(super) fn recognise(&self, introduction: Introduction) -> Result<Recognised, HandshakeError> {
        if introduction.public_key != self.public {
            return Err(HandshakeError::WrongPeer);
        }
        let Introduction { mut symmetric, ephemeral, sender_index, timestamp: field, .. } = introduction;
        let key = symmetric.mix_for_field(&**self.static_shared()?);
        let mut timestamp = [0; 12];
        symmetric.open_field(&key, &field, &mut timestamp)?;
        Ok(Recognised { symmetric, ephemeral, sender_index, timestamp: Timestamp::from_bytes(timestamp) })
    }
}

impl Recognised {
    /// Writes the response, all but its two MACs, and agrees on a session.
    pub(super) fn respond(
        self,
        contact: &Contact,
        local_index: u32,
        ephemeral: Secret,
        now_ms: u64,
    ) -> Result<([u8; RESPONSE_LEN], Agreed), HandshakeError> {
        let Self { mut symmetric, ephemeral: theirs, sender_index: remote_index, .. } = self;
        let ephemeral = StaticSecret::from(*ephemeral);
        let ephemeral_public = public_of(&ephemeral);
        let mut message = [0; RESPONSE_LEN];
        message[..4].copy_from_slice(&RESPONSE);
        message[4..8].copy_from_slice(&local_index.to_le_bytes());
        message[8..12].copy_from_slice(&remote_index.to_le_bytes());
        message[12..44].copy_from_slice(&ephemeral_public);
        symmetric.mix_ephemeral(&ephemeral_public);
        symmetric.mix(&*agree(&ephemeral, &theirs)?);
        symmetric.mix(&*agree(&ephemeral, contact.public.as_bytes())?);
        let key = symmetric.mix_preshared(&contact.preshared);
        symmetric.seal_field(&key, &[], &mut message[44..60]);
        let [initiator, responder] = symmetric.split();
        let keys = SessionKeys { seal: *responder, open: *initiator };
        Ok((message, Agreed { local_index, remote_index, keys, role: Role::Responder, born_ms: now_ms }))
    }
}

impl Initiated {
    /// Agrees on a session if the response is our peer's to this initiation; else this one goes on waiting.
    pub(super) fn conclude(
        &self,
        identity: &Identity,
        contact: &Contact,
        message: &[u8; RESPONSE_LEN],
        now_ms: u64,
    ) -> Result<Agreed, HandshakeError> {
        let mut symmetric = self.symmetric.clone();
        let theirs = array_at(message, 12);
        symmetric.mix_ephemeral(&theirs);
        symmetric.mix(&*agree(&self.ephemeral, &theirs)?);
        symmetric.mix(&*agree(&identity.secret, &theirs)?);
        let key = symmetric.mix_preshared(&contact.preshared);
        symmetric.open_field(&key, &message[44..60], &mut [])?;
        let [initiator, responder] = symmetric.split();
        let keys = SessionKeys { seal: *initiator, open: *responder };
        let remote_index = index_at(message, 4);
        let local_index = self.local_index;
        Ok(Agreed { local_index, remote_index, keys, role: Role::Initiator, born_ms: now_ms })
    }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
