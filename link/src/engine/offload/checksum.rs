//! The Internet checksum (RFC 1071), as sums that are kept unfolded until they are written.
//!
//! A one's-complement sum does not depend on the order of the octets inside its words (RFC 1071 §2
//! (B)), so memory is read in words of the machine's own order and only the folded result is put
//! back in that order.

use std::ops::Add;

use super::{IPV4_HEADER, IPV6_HEADER};

/// A sum of 16-bit words in the machine's order that is not yet folded. Adding cannot overflow for
/// less than 4 GiB of input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    /// Of octets at an even distance from the begin of what is summed. An odd last one is followed
    /// by a zero.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        // Four independent chains of 32-bit words in 64-bit accumulators: the compiler makes vector
        // instructions of it, and no carry is ever lost.
        let mut lanes = [0_u64; 4];
        let mut blocks = bytes.chunks_exact(32);
        for block in &mut blocks {
            for (lane, pair) in lanes.iter_mut().zip(block.chunks_exact(8)) {
                let word = u64::from_ne_bytes(pair.try_into().unwrap_or_default());
                *lane += (word & 0xffff_ffff) + (word >> 32);
            }
        }
        let mut sum: u64 = lanes.iter().sum();
        let mut words = blocks.remainder().chunks_exact(2);
        for word in &mut words {
            sum += u64::from(u16::from_ne_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            sum += u64::from(u16::from_ne_bytes([*last, 0]));
        }
        Self(sum)
    }

    /// Of one 16-bit number.
    pub(crate) fn word(value: u16) -> Self {
        Self(u64::from(value.to_be()))
    }

    /// Of a checksum field as it stands in a packet.
    pub(crate) fn field(bytes: [u8; 2]) -> Self {
        Self(u64::from(u16::from_ne_bytes(bytes)))
    }

    /// This less another number: its one's complement is added.
    pub(crate) fn less(self, value: u16) -> Self {
        self + Self::word(!value)
    }

    /// Folded to 16 bits, as octets of a packet, not complemented: what a field holds whose
    /// checksum is left to somebody later.
    pub(crate) fn partial(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The checksum, as octets of a packet.
    pub(crate) fn complete(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// True if what was summed includes its own right checksum.
    pub(crate) fn is_valid(self) -> bool {
        self.fold() == 0xffff
    }

    fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap_or(u16::MAX)
    }
}

impl Add for Sum {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let (sum, carry) = self.0.overflowing_add(other.0);
        // 2^64 is 1 in this arithmetic, as 2^16 is.
        Self(sum + u64::from(carry))
    }
}

/// The pseudo-header without its length (RFC 9293 §3.1, RFC 8200 §8.1): addresses and protocol. The
/// packet holds a whole IP header of its version.
pub(crate) fn addresses(packet: &[u8], protocol: u8) -> Sum {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..IPV4_HEADER] } else { &packet[8..IPV6_HEADER] };
    Sum::of(addresses) + Sum::word(protocol.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 §4.1, word by word.
    fn slow(bytes: &[u8]) -> u16 {
        let mut sum = 0_u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::of(&bytes).partial(), [0xdd, 0xf2]);
        assert_eq!(Sum::of(&bytes).complete(), [0x22, 0x0d]);
    }

    #[test]
    fn a_whole_super_packet_of_ones_does_not_overflow() {
        assert_eq!(Sum::of(&[0xff; 65_536]).partial(), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_slow_way(bytes in prop::collection::vec(any::<u8>(), 0..3000)) {
            prop_assert_eq!(Sum::of(&bytes).partial(), slow(&bytes).to_be_bytes());
        }

        #[test]
        fn parts_of_even_length_add_up(
            left in prop::collection::vec(any::<u8>(), 0..200),
            right in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let left = &left[..left.len() & !1];
            let whole = [left, &right].concat();
            prop_assert_eq!((Sum::of(left) + Sum::of(&right)).partial(), slow(&whole).to_be_bytes());
        }

        #[test]
        fn what_is_taken_away_was_not_there(bytes in prop::collection::vec(any::<u8>(), 2..64), word: u16) {
            let sum = Sum::of(&bytes);
            let back = (sum + Sum::word(word)).less(word);
            // Zero has two forms in one's complement.
            let (a, b) = (u16::from_be_bytes(sum.partial()), u16::from_be_bytes(back.partial()));
            prop_assert!(a == b || (a % 0xffff == 0 && b % 0xffff == 0));
        }
    }
}
