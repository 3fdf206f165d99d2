//! The header before every packet of a TUN interface that was attached with `IFF_VNET_HDR`: struct
//! `virtio_net_hdr` of `linux/virtio_net.h` (VIRTIO 1.2 §5.1.6), 10 octets in the machine's order.

/// Octets of the header.
pub(crate) const HEADER: usize = 10;

/// The checksum at `checksum_start + checksum_offset` holds the pseudo-header's sum only.
const NEEDS_CHECKSUM: u8 = 1;
/// The checksum was found right.
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Beside the TCP kinds: the first segment alone keeps CWR.
const GSO_ECN: u8 = 0x80;

/// What kind of super-packet follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gso {
    /// One packet.
    None,
    /// TCP over IPv4, to be split.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either, to be split into datagrams.
    Udp,
}

/// Where a checksum begins and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Partial {
    /// First octet that it covers, from the begin of the packet.
    pub(crate) start: u16,
    /// Of its field, from `start`.
    pub(crate) offset: u16,
}

/// The header, read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) gso: Gso,
    /// Payload octets of every segment but the last. Meaningless without a kind.
    pub(crate) segment: u16,
    /// Octets of all headers. A hint: the reader does not trust it.
    pub(crate) headers: u16,
    pub(crate) partial: Option<Partial>,
    /// The checksum is known to be right.
    pub(crate) valid: bool,
}

impl Header {
    /// Before one packet about which nothing is known.
    pub(crate) const PLAIN: Self =
        Self { gso: Gso::None, segment: 0, headers: 0, partial: None, valid: false };

    /// Reads it; `None` if the kind is unknown (UFO, or a later one), or there is no whole header.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCPV4 => Gso::Tcp4,
            GSO_TCPV6 => Gso::Tcp6,
            GSO_UDP_L4 => Gso::Udp,
            _ => return None,
        };
        let partial = Partial { start: word(6), offset: word(8) };
        Some(Self {
            gso,
            segment: word(4),
            headers: word(2),
            partial: (bytes[0] & NEEDS_CHECKSUM != 0).then_some(partial),
            valid: bytes[0] & DATA_VALID != 0,
        })
    }

    /// As octets.
    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = u8::from(self.partial.is_some()) * NEEDS_CHECKSUM + u8::from(self.valid) * DATA_VALID;
        bytes[1] = match self.gso {
            Gso::None => GSO_NONE,
            Gso::Tcp4 => GSO_TCPV4,
            Gso::Tcp6 => GSO_TCPV6,
            Gso::Udp => GSO_UDP_L4,
        };
        bytes[2..4].copy_from_slice(&self.headers.to_ne_bytes());
        bytes[4..6].copy_from_slice(&self.segment.to_ne_bytes());
        if let Some(partial) = self.partial {
            bytes[6..8].copy_from_slice(&partial.start.to_ne_bytes());
            bytes[8..10].copy_from_slice(&partial.offset.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            for partial in [None, Some(Partial { start: 20, offset: 16 })] {
                for valid in [false, true] {
                    let header = Header { gso, segment: 1368, headers: 52, partial, valid };
                    assert_eq!(Header::parse(&header.to_bytes()), Some(header));
                }
            }
        }
        assert_eq!(Header::PLAIN.to_bytes(), [0; HEADER]);
    }

    #[test]
    fn unknown_kinds_and_short_headers_are_none() {
        assert_eq!(Header::parse(&[0; HEADER - 1]), None);
        // UFO, and a TUN interface's UDP tunnel kinds.
        for kind in [2, 3, 6, 0x20, 0x41] {
            assert_eq!(Header::parse(&[0, kind, 0, 0, 0, 0, 0, 0, 0, 0]), None, "{kind}");
        }
        let ecn = Header::parse(&[1, GSO_TCPV4 | GSO_ECN, 0, 0, 1, 0, 20, 0, 16, 0]).unwrap();
        assert_eq!(ecn.gso, Gso::Tcp4);
    }
}
