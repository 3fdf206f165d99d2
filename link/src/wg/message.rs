//! What a datagram is, by its first four bytes and its length (whitepaper §5.4). Nothing here is authentic.

use super::limits::{COOKIE_REPLY_LEN, INITIATION_LEN, OVERHEAD, RESPONSE_LEN};

pub(super) const INITIATION: [u8; 4] = [1, 0, 0, 0];
pub(super) const RESPONSE: [u8; 4] = [2, 0, 0, 0];
pub(super) const COOKIE_REPLY: [u8; 4] = [3, 0, 0, 0];
pub(super) const DATA: [u8; 4] = [4, 0, 0, 0];

/// A datagram of the right type and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Somebody asks for a session: for `Gate::judge`, then `Identity::introduce`.
    Initiation(&'a [u8; INITIATION_LEN]),
    /// An answer to a peer of ours: for `Gate::judge`, then the peer that [`Message::receiver`] names.
    Response(&'a [u8; RESPONSE_LEN]),
    /// A responder under load: for the peer that [`Message::receiver`] names.
    CookieReply(&'a [u8; COOKIE_REPLY_LEN]),
    /// A packet or a keepalive: for the session that [`Message::receiver`] names.
    Data(&'a [u8]),
}

impl<'a> Message<'a> {
    /// Reads type and length. `None`: no WireGuard message (another type, reserved bytes that are not zero, a
    /// handshake message too short or too long, a data message without room for a tag).
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        match *datagram.first_chunk::<4>()? {
            INITIATION => datagram.try_into().ok().map(Self::Initiation),
            RESPONSE => datagram.try_into().ok().map(Self::Response),
            COOKIE_REPLY => datagram.try_into().ok().map(Self::CookieReply),
            DATA if datagram.len() >= OVERHEAD => Some(Self::Data(datagram)),
            _ => None,
        }
    }

    /// Our index that the message is for; an initiation is for none.
    pub fn receiver(&self) -> Option<u32> {
        match self {
            Self::Initiation(_) => None,
            Self::Response(bytes) => Some(index_at(*bytes, 8)),
            Self::CookieReply(bytes) => Some(index_at(*bytes, 4)),
            Self::Data(bytes) => Some(index_at(bytes, 4)),
        }
    }
}

/// The index at `offset` of a message whose length has been checked.
pub(super) fn index_at(message: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(array_at(message, offset))
}

/// The bytes at `offset` of a message whose length has been checked.
pub(super) fn array_at<const N: usize>(message: &[u8], offset: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&message[offset..offset + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_length_of_each_type_is_a_message() {
        for (kind, fits) in [(1, 148..149), (2, 92..93), (3, 64..65), (4, 32..70_000), (0, 0..0), (5, 0..0)] {
            for len in (0..300).chain([65_507, 65_535, 69_999]) {
                let mut datagram = vec![0; len];
                if let Some(first) = datagram.first_mut() {
                    *first = kind;
                }
                assert_eq!(
                    Message::parse(&datagram).is_some(),
                    fits.contains(&len),
                    "type {kind}, {len} bytes"
                );
            }
        }
    }

    #[test]
    fn reserved_bytes_are_zero() {
        for position in 1..4 {
            let mut datagram = [0; 148];
            datagram[0] = 1;
            datagram[position] = 1;
            assert_eq!(Message::parse(&datagram), None);
        }
    }

    #[test]
    fn the_receiver_is_where_the_whitepaper_puts_it() {
        let bytes: Vec<u8> = (0..148).collect();
        for (kind, len, wanted) in
            [(2, 92, Some(0x0b0a_0908)), (3, 64, Some(0x0706_0504)), (4, 40, Some(0x0706_0504))]
        {
            let mut datagram = bytes[..len].to_vec();
            datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
            assert_eq!(Message::parse(&datagram).unwrap().receiver(), wanted);
        }
        let mut initiation = bytes;
        initiation[..4].copy_from_slice(&INITIATION);
        assert_eq!(Message::parse(&initiation).unwrap().receiver(), None);
    }
}
