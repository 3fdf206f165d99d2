//! A message between two engines that asks whether a place of the peer carries packets, and its answer.
//!
//! ```text
//!  0 ┌────────────────────────────────┐
//!    │ type: 0x57 asks, 0x58 answers  │ u32, little-endian, as WireGuard's types
//!  4 │ receiver: an index of the peer │ u32 LE, of any session that it knows
//!  8 │ sender: an index of ours       │ u32 LE, to which an answer goes
//! 12 │ place                          │ u32 LE, the asker's number for it
//! 16 │ sequence                       │ u64 LE
//! 24 │ nonce                          │ u64 LE, the asker's, random for each start
//! 32 │ MAC of all of the above        │ 16 octets, keyed BLAKE2s
//! 48 └────────────────────────────────┘
//! ```
//!
//! It shares the UDP port of WireGuard, so that it takes the way that data takes, and has a type that WireGuard does not
//! have, so that every other implementation drops it without a look at its sessions: no handshake, no counter, and above
//! all no roaming. The key is made of the secret that the two static keys share, and of the preshared key: both sides
//! have it without a word. An answer is as long as its question. A recorded question brings an answer to whoever
//! replays it, which says nothing; a recorded answer has a sequence number that nobody waits for.

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::handshake::Identity;
use super::message::{array_at, index_at};
use super::noise::{hash, mac};
use crate::key::{PresharedKey, PublicKey};

/// Octets of every one of these messages.
pub const ECHO_LEN: usize = 48;
const MAC_AT: usize = 32;
const ASK: u32 = 0x57;
const ANSWER: u32 = 0x58;
const LABEL: &[u8] = b"watari place echo 1";

/// Who asks and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EchoKind {
    /// A question.
    Ask,
    /// Its answer.
    Answer,
}

/// A message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Question or answer.
    pub kind: EchoKind,
    /// An index of whoever receives it.
    pub receiver: u32,
    /// An index of whoever sent it.
    pub sender: u32,
    /// The asker's number for the place.
    pub place: u32,
    /// The asker's number for the question.
    pub sequence: u64,
    /// The asker's, random for each start.
    pub nonce: u64,
}

/// What makes and checks the MACs between us and one peer. Wiped when dropped.
pub struct EchoKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for EchoKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EchoKey(…)")
    }
}

/// The receiver's index of a datagram that has the form of one of these messages.
pub fn echo_receiver(datagram: &[u8]) -> Option<u32> {
    let is_echo = datagram.len() == ECHO_LEN && matches!(index_at(datagram, 0), ASK | ANSWER);
    is_echo.then(|| index_at(datagram, 4))
}

impl EchoKey {
    /// The key between us and a peer; `None` where the peer's key is a point of low order.
    pub fn new(own: &Identity, peer: &PublicKey, preshared: Option<&PresharedKey>) -> Option<Self> {
        let shared = own.shared_with(peer).ok()?;
        let preshared = Zeroizing::new(preshared.map_or([0; 32], PresharedKey::to_bytes));
        Some(Self(Zeroizing::new(hash(&[LABEL, &*shared, &*preshared]))))
    }

    /// The message as it leaves.
    pub fn write(&self, echo: &Echo) -> [u8; ECHO_LEN] {
        let mut octets = [0; ECHO_LEN];
        let kind = match echo.kind {
            EchoKind::Ask => ASK,
            EchoKind::Answer => ANSWER,
        };
        for (at, word) in [(0, kind), (4, echo.receiver), (8, echo.sender), (12, echo.place)] {
            octets[at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        octets[16..24].copy_from_slice(&echo.sequence.to_le_bytes());
        octets[24..MAC_AT].copy_from_slice(&echo.nonce.to_le_bytes());
        let mac = mac(&*self.0, &[&octets[..MAC_AT]]);
        octets[MAC_AT..].copy_from_slice(&mac);
        octets
    }

    /// The message in a datagram; `None`: it is none, or was not made with this key.
    pub fn read(&self, datagram: &[u8]) -> Option<Echo> {
        let octets: &[u8; ECHO_LEN] = datagram.try_into().ok()?;
        let kind = match index_at(octets, 0) {
            ASK => EchoKind::Ask,
            ANSWER => EchoKind::Answer,
            _ => return None,
        };
        let expected = mac(&*self.0, &[&octets[..MAC_AT]]);
        if !bool::from(expected.ct_eq(&array_at::<16>(octets, MAC_AT))) {
            return None;
        }
        Some(Echo {
            kind,
            receiver: index_at(octets, 4),
            sender: index_at(octets, 8),
            place: index_at(octets, 12),
            sequence: u64::from_le_bytes(array_at(octets, 16)),
            nonce: u64::from_le_bytes(array_at(octets, 24)),
        })
    }
}

impl Echo {
    /// The answer to a question.
    #[must_use]
    pub fn answer(&self) -> Self {
        Self { kind: EchoKind::Answer, receiver: self.sender, sender: self.receiver, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::PrivateKey;
    use crate::wg::Message;

    const ECHO: Echo = Echo {
        kind: EchoKind::Ask,
        receiver: 0x0102_0304,
        sender: 0xa0b0_c0d0,
        place: 3,
        sequence: 9,
        nonce: 0x1122_3344_5566_7788,
    };

    fn keys(preshared: [Option<PresharedKey>; 2]) -> [EchoKey; 2] {
        let secrets = [PrivateKey::from_bytes([7; 32]), PrivateKey::from_bytes([8; 32])];
        let publics = secrets.each_ref().map(PrivateKey::public_key);
        let key = |own: usize| {
            EchoKey::new(&Identity::new(&secrets[own]), &publics[1 - own], preshared[own].as_ref()).unwrap()
        };
        [key(0), key(1)]
    }

    #[test]
    fn both_sides_have_the_same_key_and_only_with_the_same_preshared_one() {
        let [a, b] = keys([None, None]);
        assert_eq!(b.read(&a.write(&ECHO)), Some(ECHO));
        assert_eq!(a.read(&b.write(&ECHO.answer())), Some(ECHO.answer()));
        let psk = |octet| Some(PresharedKey::from_bytes([octet; 32]));
        let [a, b] = keys([psk(1), psk(1)]);
        assert_eq!(b.read(&a.write(&ECHO)), Some(ECHO));
        let [a, b] = keys([psk(1), psk(2)]);
        assert_eq!(b.read(&a.write(&ECHO)), None);
    }

    #[test]
    fn every_bit_is_covered() {
        let [a, b] = keys([None, None]);
        let good = a.write(&ECHO);
        for bit in 0..ECHO_LEN * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(b.read(&bad), None, "bit {bit}");
        }
        assert_eq!(b.read(&good[..ECHO_LEN - 1]), None);
    }

    #[test]
    fn wireguard_knows_no_such_message() {
        let [a, _] = keys([None, None]);
        for echo in [ECHO, ECHO.answer()] {
            let octets = a.write(&echo);
            assert!(Message::parse(&octets).is_none());
            assert!(crate::wg::receiver_of(&octets).is_none());
            assert_eq!(echo_receiver(&octets), Some(echo.receiver));
        }
    }
}
