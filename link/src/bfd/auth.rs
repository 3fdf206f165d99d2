//! The authentication section (RFC 5880 §4.2 to §4.4, §6.7): Simple Password, Keyed SHA1 and
//! Meticulous Keyed SHA1. MD5 is not spoken: RFC 5880 §6.7 asks for SHA1 only, and it is the stronger.
//!
//! ```text
//! Simple    type 1, len 3 + n, key id, password (1–16 octets)
//! SHA1      type 4 or 5, len 28, key id, 0, sequence number (4), hash (20)
//! ```
//!
//! The hash is over the whole packet with the key, padded with zeroes, in the place of the hash.

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY as SHA1, digest};

use serde::{Deserialize, Serialize};

use super::Discard;
use super::wire::{LENGTH_MAX, MANDATORY_LENGTH, Packet, Received};
use crate::protocol::{BfdAuthentication, BfdAuthenticationKind};

const SHA1_SECTION: usize = 28;
const SHA1_HASH: usize = 20;

/// A packet as it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Datagram {
    bytes: [u8; LENGTH_MAX],
    length: usize,
}

impl Datagram {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The state variables of authentication (§6.8.1).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Sequence {
    /// bfd.XmitAuthSeq: of the last packet sent.
    pub(super) transmitted: u32,
    /// bfd.RcvAuthSeq, `None` while bfd.AuthSeqKnown is 0.
    pub(super) received: Option<u32>,
}

/// Puts a packet into bytes, with an authentication section if there is one in use.
pub(crate) fn seal(
    packet: &Packet,
    authentication: Option<&BfdAuthentication>,
    sequence: &mut Sequence,
) -> Datagram {
    let mut bytes = [0; LENGTH_MAX];
    let Some(authentication) = authentication else {
        bytes[..MANDATORY_LENGTH].copy_from_slice(&packet.encode(0));
        return Datagram { bytes, length: MANDATORY_LENGTH };
    };
    let secret = authentication.secret.as_bytes();
    let simple = authentication.kind == BfdAuthenticationKind::Simple;
    let section = if simple { 3 + secret.len() } else { SHA1_SECTION };
    let length = MANDATORY_LENGTH + section;
    bytes[..MANDATORY_LENGTH].copy_from_slice(&packet.encode(section));
    let out = &mut bytes[MANDATORY_LENGTH..length];
    out[0] = number(authentication.kind);
    out[1] = section.to_le_bytes()[0];
    out[2] = authentication.key_id;
    if simple {
        out[3..].copy_from_slice(secret);
    } else {
        // Keyed SHA1 MAY and Meticulous MUST go on with every packet (§6.7.4).
        sequence.transmitted = sequence.transmitted.wrapping_add(1);
        out[4..8].copy_from_slice(&sequence.transmitted.to_be_bytes());
        out[8..8 + secret.len()].copy_from_slice(secret);
        let hash = digest(&SHA1, &bytes[..length]);
        bytes[length - SHA1_HASH..length].copy_from_slice(hash.as_ref());
    }
    Datagram { bytes, length }
}

/// Whether a received packet is by somebody who knows the secret, and is not an old one.
///
/// The sequence number is taken over only from a packet whose hash is right: §6.7.4 has it the other
/// way round for the first one, which would let a forged packet lock the neighbour out.
pub(crate) fn verify(
    received: &Received<'_>,
    authentication: Option<&BfdAuthentication>,
    sequence: &mut Sequence,
) -> Result<(), Discard> {
    let (authentication, section) = match (authentication, received.authentication) {
        (None, None) => return Ok(()),
        (Some(authentication), Some(section)) => (authentication, section),
        _ => return Err(Discard::AuthenticationPresence),
    };
    let secret = authentication.secret.as_bytes();
    let &[kind, _, key_id, ..] = section else { return Err(Discard::AuthenticationForm) };
    if kind != number(authentication.kind) || key_id != authentication.key_id {
        return Err(Discard::AuthenticationForm);
    }
    if authentication.kind == BfdAuthenticationKind::Simple {
        return if equal(&section[3..], secret) { Ok(()) } else { Err(Discard::AuthenticationMismatch) };
    }
    if section.len() != SHA1_SECTION {
        return Err(Discard::AuthenticationForm);
    }
    let number = u32::from_be_bytes([section[4], section[5], section[6], section[7]]);
    if let Some(last) = sequence.received {
        let ahead = number.wrapping_sub(last);
        let least = u32::from(authentication.kind == BfdAuthenticationKind::MeticulousKeyedSha1);
        let most = 3 * u32::from(received.packet.detect_mult);
        if !(least..=most).contains(&ahead) {
            return Err(Discard::AuthenticationSequence);
        }
    }
    if !equal(&hash(received.whole, secret), &section[8..]) {
        return Err(Discard::AuthenticationMismatch);
    }
    sequence.received = Some(number);
    Ok(())
}

/// The hash of a whole packet, with the key in the place of the hash.
fn hash(whole: &[u8], secret: &[u8]) -> [u8; SHA1_HASH] {
    let hash_at = MANDATORY_LENGTH + SHA1_SECTION - SHA1_HASH;
    let mut context = ring::digest::Context::new(&SHA1);
    context.update(&whole[..hash_at]);
    let mut key = [0; SHA1_HASH];
    key[..secret.len()].copy_from_slice(secret);
    context.update(&key);
    context.update(&whole[hash_at + SHA1_HASH..]);
    let mut hash = [0; SHA1_HASH];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// In a time that tells nothing of where they differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Auth Type (§4.1).
fn number(kind: BfdAuthenticationKind) -> u8 {
    match kind {
        BfdAuthenticationKind::Simple => 1,
        BfdAuthenticationKind::KeyedSha1 => 4,
        BfdAuthenticationKind::MeticulousKeyedSha1 => 5,
    }
}

#[cfg(test)]
#[path = "auth_tests.rs"]
mod tests;
