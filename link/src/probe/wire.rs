//! The probe on the wire: one UDP datagram of [`LENGTH`] bytes, integers in network byte order.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+---------------+---------------+
//! |          magic "WTPP"  (32 bits)                              |
//! +---------------+---------------+-------------------------------+
//! |  version = 1  | 1 req, 2 ans  |        reserved, zero         |
//! +---------------+---------------+-------------------------------+
//! |  nonce (64 bits): of the asker, random per start              |
//! |  sequence (64 bits): of the asker, from 1                     |
//! |  asked at (64 bits): asker's clock, ns                        |
//! |  answered at (64 bits): answerer's clock, ns                  |
//! |  in a request: 1 + how long ago the asker received anything   |
//! |  on the path, ns; 0: it does not say                          |
//! +---------------------------------------------------------------+
//! ```
//!
//! An answer repeats nonce, sequence and "asked at". The clocks have no common origin: only
//! differences of one clock mean something. The nonce keeps answers to a former start, and answers
//! made up by somebody who does not see the requests, from counting.

use std::time::Duration;

/// Length of every probe, in bytes.
pub(crate) const LENGTH: usize = 40;

const MAGIC: [u8; 4] = *b"WTPP";
const VERSION: u8 = 1;

/// Who asks and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Answer,
}

/// A probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) kind: Kind,
    pub(crate) nonce: u64,
    pub(crate) sequence: u64,
    pub(crate) asked_at_ns: u64,
    pub(crate) answered_at_ns: u64,
}

impl Probe {
    pub(crate) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = match self.kind {
            Kind::Request => 1,
            Kind::Answer => 2,
        };
        for (offset, value) in
            [(8, self.nonce), (16, self.sequence), (24, self.asked_at_ns), (32, self.answered_at_ns)]
        {
            bytes[offset..offset + 8].copy_from_slice(&value.to_be_bytes());
        }
        bytes
    }

    /// None: it is no probe of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        if bytes[..4] != MAGIC || bytes[4] != VERSION || bytes[6..8] != [0, 0] {
            return None;
        }
        let kind = match bytes[5] {
            1 => Kind::Request,
            2 => Kind::Answer,
            _ => return None,
        };
        let word = |offset: usize| -> Option<u64> {
            Some(u64::from_be_bytes(bytes[offset..offset + 8].try_into().ok()?))
        };
        Some(Self {
            kind,
            nonce: word(8)?,
            sequence: word(16)?,
            asked_at_ns: word(24)?,
            answered_at_ns: word(32)?,
        })
    }

    /// How long before it sent this request the asker had received anything; `None`: it does not say.
    pub(crate) fn heard_age(&self) -> Option<Duration> {
        let said = (self.kind == Kind::Request).then_some(self.answered_at_ns)?;
        said.checked_sub(1).map(Duration::from_nanos)
    }

    /// The answer to a request.
    pub(crate) fn answer(&self, answered_at_ns: u64) -> Self {
        Self { kind: Kind::Answer, answered_at_ns, ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: Probe = Probe {
        kind: Kind::Request,
        nonce: 0x0102_0304_0506_0708,
        sequence: 9,
        asked_at_ns: 10,
        answered_at_ns: 0,
    };

    #[test]
    fn what_is_encoded_is_decoded() {
        assert_eq!(Probe::decode(&REQUEST.encode()), Some(REQUEST));
        let answer = REQUEST.answer(77);
        assert_eq!(Probe::decode(&answer.encode()), Some(answer));
        assert_eq!((answer.nonce, answer.sequence, answer.asked_at_ns), (REQUEST.nonce, 9, 10));
    }

    #[test]
    fn a_request_says_what_its_sender_hears_and_an_answer_does_not() {
        let saying = Probe { answered_at_ns: 1 + 5_000_000, ..REQUEST };
        assert_eq!(REQUEST.heard_age(), None, "a former version");
        assert_eq!(saying.heard_age(), Some(Duration::from_millis(5)));
        assert_eq!(saying.answer(9).heard_age(), None);
    }

    #[test]
    fn the_layout_is_fixed() {
        let bytes = REQUEST.encode();
        assert_eq!(&bytes[..16], b"WTPP\x01\x01\0\0\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(bytes[23], 9);
        assert_eq!(bytes[31], 10);
    }

    #[test]
    fn anything_else_is_refused() {
        let good = REQUEST.encode();
        for position in 0..8 {
            let mut bad = good;
            bad[position] ^= 0xff;
            assert_eq!(Probe::decode(&bad), None, "byte {position}");
        }
        assert_eq!(Probe::decode(&good[..LENGTH - 1]), None);
        assert_eq!(Probe::decode(&[good.as_slice(), &[0]].concat()), None);
        assert_eq!(Probe::decode(&[]), None);
    }
}
