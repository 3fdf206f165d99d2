//! The probe of sizes on the wire: one UDP datagram, [`LENGTH`] bytes and padding, integers in network byte order.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +---------------------------------------------------------------+
//! |          magic "WTPM"  (32 bits)                              |
//! +---------------+---------------+-------------------------------+
//! |  version = 1  | 1 req, 2 ans  |  size: of the request's IP    |
//! |               |               |  packet, bytes                |
//! +---------------+---------------+-------------------------------+
//! |  nonce (64 bits): of the asker, random per start              |
//! |  sequence (64 bits): of the asker, from 1                     |
//! +-------------------------------+-------------------------------+
//! |  mtu: what the sender found   |  reserved: zero, not looked   |
//! |  to cross its way; 0: nothing |  at by the receiver           |
//! +-------------------------------+-------------------------------+
//! |  zeroes, as many as the size asks for; none in an answer      |
//! +---------------------------------------------------------------+
//! ```
//!
//! An answer repeats nonce and sequence; its size is what arrived, so that a request cut short on its way does not count. It is
//! never longer than the request: who forges requests gains nothing. A far side that does not know these probes does not
//! answer them, which the search takes for a path without a known MTU; the probes of health are apart from these.

use std::net::IpAddr;

/// Length of an answer, and of a request without padding, in bytes.
pub(crate) const LENGTH: usize = 28;

const MAGIC: [u8; 4] = *b"WTPM";
const VERSION: u8 = 1;
const UDP_HEADER: u16 = 8;
const UDP: u8 = 17;

/// Who asks and who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Answer,
}

/// A probe without its padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SizeProbe {
    pub(crate) kind: Kind,
    pub(crate) size: u16,
    pub(crate) nonce: u64,
    pub(crate) sequence: u64,
    pub(crate) mtu: u16,
}

/// Bytes of IP and UDP header in front of a probe between addresses of this family.
pub(crate) const fn headers(address: IpAddr) -> u16 {
    UDP_HEADER + if address.is_ipv4() { 20 } else { 40 }
}

/// Size of the IP packet of a probe without padding, in bytes.
pub(crate) const fn smallest(address: IpAddr) -> u16 {
    headers(address) + LENGTH as u16
}

impl SizeProbe {
    pub(crate) fn encode(&self) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = VERSION;
        bytes[5] = match self.kind {
            Kind::Request => 1,
            Kind::Answer => 2,
        };
        bytes[6..8].copy_from_slice(&self.size.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.nonce.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[24..26].copy_from_slice(&self.mtu.to_be_bytes());
        bytes
    }

    /// None: it is no probe of this version, or an answer with something behind it.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; LENGTH] = bytes.first_chunk()?;
        if head[..4] != MAGIC || head[4] != VERSION {
            return None;
        }
        let kind = match head[5] {
            1 => Kind::Request,
            2 if bytes.len() == LENGTH => Kind::Answer,
            _ => return None,
        };
        let short = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let long = |at: usize| Some(u64::from_be_bytes(*head[at..].first_chunk()?));
        Some(Self { kind, size: short(6), nonce: long(8)?, sequence: long(16)?, mtu: short(24) })
    }
}

/// Whether this IP packet is a request that must reach the far end of the tunnel whole: what carries it must not be fragmented, or
/// the probe would say that its size crosses where only pieces of it do.
pub(crate) fn must_stay_whole(packet: &[u8]) -> bool {
    let (protocol, payload) = match packet.first() {
        Some(0x45) => (packet.get(9), packet.get(28..34)),
        Some(first) if first >> 4 == 6 => (packet.get(6), packet.get(48..54)),
        _ => return false,
    };
    protocol == Some(&UDP) && payload.is_some_and(|bytes| bytes[..4] == MAGIC && bytes[5] == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: SizeProbe =
        SizeProbe { kind: Kind::Request, size: 1400, nonce: 0x0102_0304_0506_0708, sequence: 9, mtu: 1280 };

    #[test]
    fn what_is_encoded_is_decoded_with_padding_and_without() {
        let bytes = REQUEST.encode();
        assert_eq!(SizeProbe::decode(&bytes), Some(REQUEST));
        assert_eq!(SizeProbe::decode(&[&bytes[..], &[0; 1000]].concat()), Some(REQUEST));
        let answer = SizeProbe { kind: Kind::Answer, ..REQUEST };
        assert_eq!(SizeProbe::decode(&answer.encode()), Some(answer));
    }

    #[test]
    fn the_layout_is_fixed() {
        let bytes = REQUEST.encode();
        assert_eq!(&bytes[..16], b"WTPM\x01\x01\x05\x78\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(&bytes[23..], [9, 5, 0, 0, 0]);
    }

    #[test]
    fn anything_else_is_refused() {
        let good = REQUEST.encode();
        for position in 0..6 {
            let mut bad = good;
            bad[position] ^= 0xff;
            assert_eq!(SizeProbe::decode(&bad), None, "byte {position}");
        }
        assert_eq!(SizeProbe::decode(&good[..LENGTH - 1]), None);
        let answer = SizeProbe { kind: Kind::Answer, ..REQUEST }.encode();
        assert_eq!(SizeProbe::decode(&[&answer[..], &[0]].concat()), None, "answers have no padding");
    }

    #[test]
    fn requests_alone_must_stay_whole() {
        let inside = |head: Vec<u8>, kind| {
            let probe = SizeProbe { kind, ..REQUEST };
            [head, vec![0; 8], probe.encode().to_vec(), vec![0; 100]].concat()
        };
        let mut v4 = vec![0; 20];
        (v4[0], v4[9]) = (0x45, UDP);
        let mut v6 = vec![0; 40];
        (v6[0], v6[6]) = (0x60, UDP);
        for head in [v4, v6] {
            assert!(must_stay_whole(&inside(head.clone(), Kind::Request)));
            assert!(!must_stay_whole(&inside(head.clone(), Kind::Answer)));
            let tcp: Vec<u8> = head.iter().map(|byte| if *byte == UDP { 6 } else { *byte }).collect();
            assert!(!must_stay_whole(&inside(tcp, Kind::Request)));
            assert!(!must_stay_whole(&head));
        }
        assert!(!must_stay_whole(&[]));
    }
}
