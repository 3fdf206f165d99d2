//! The beacon of the loop guard: the frame that a gateway sends on each of its attachments, so that whoever
//! sees it elsewhere knows that the two places are one broadcast domain.
//!
//! ```text
//!  0  destination 03:57:54:00:00:01   a locally administered group: bridges copy it like any other
//!  6  source      02:57:54:03:..:..   ends like the origin's Router's MAC
//! 12  [tags of the attachment]        not counted in the offsets that follow
//! 12  EtherType   88B5                for local experiments (IEEE 802 §9.2.3)
//! 14  magic       "WTLP"
//! 18  version     1
//! 19  flags       BLOCKED: the origin's port is blocked
//! 20  origin      Router's MAC of the gateway that sends it
//! 26  vni         segment of the attachment, big endian
//! 30  since       Unix time in ms, UTC, at which this attachment began to send, big endian
//! 38  port        which attachment of the origin it is, big endian
//! 46  zeros up to 60
//! ```
//! In a [`crate::Event`] of kind `Beacon` a program reports `origin` as `mac`, `since` and `port` (16 bytes as on
//! the wire) as `ip`, `vni` as `origin_vni` and `flags` as `flags`; the event's `vni` and `port` say where the
//! beacon was seen.

use crate::MacBytes;

/// Destination of every beacon.
pub const DESTINATION: MacBytes = [0x03, 0x57, 0x54, 0x00, 0x00, 0x01];
/// The first four bytes of the source of every beacon.
pub const SOURCE_PREFIX: [u8; 4] = [0x02, 0x57, 0x54, 0x03];
/// EtherType of a beacon: local experimental 1 (IEEE 802 §9.2.3).
pub const ETHERTYPE: u16 = 0x88b5;
/// The first bytes behind the EtherType.
pub const MAGIC: [u8; 4] = *b"WTLP";
/// Version of the form; a beacon of another one is none.
pub const VERSION: u8 = 1;
/// [`Beacon::flags`]: the port that sends it is blocked.
pub const BLOCKED: u8 = 1;

/// Offset of [`MAGIC`] in an untagged frame.
pub const MAGIC_AT: usize = 14;
/// Offset of the version.
pub const VERSION_AT: usize = 18;
/// Offset of the flags.
pub const FLAGS_AT: usize = 19;
/// Offset of the origin's Router's MAC.
pub const ORIGIN_AT: usize = 20;
/// Offset of the VNI.
pub const VNI_AT: usize = 26;
/// Offset of the time.
pub const SINCE_AT: usize = 30;
/// Offset of the port id.
pub const PORT_AT: usize = 38;
/// Bytes behind the EtherType that mean something, from [`MAGIC_AT`] on.
pub const PAYLOAD_BYTES: usize = 32;
/// Bytes of an untagged beacon: the shortest Ethernet frame (without its check sequence).
pub const FRAME_BYTES: usize = 60;

/// What a beacon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beacon {
    /// [`BLOCKED`].
    pub flags: u8,
    /// Router's MAC of the gateway that sends it.
    pub origin: MacBytes,
    /// Segment of the attachment that it left by.
    pub vni: u32,
    /// Since when that attachment has been sending, in ms of Unix time, UTC.
    pub since_ms: u64,
    /// Which attachment of its gateway that is.
    pub port_id: u64,
}

impl Beacon {
    /// The frame, without tags.
    #[must_use]
    pub fn frame(&self) -> [u8; FRAME_BYTES] {
        let mut frame = [0; FRAME_BYTES];
        frame[..6].copy_from_slice(&DESTINATION);
        frame[6..10].copy_from_slice(&SOURCE_PREFIX);
        frame[10..12].copy_from_slice(&self.origin[4..]);
        frame[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
        frame[MAGIC_AT..VERSION_AT].copy_from_slice(&MAGIC);
        frame[VERSION_AT] = VERSION;
        frame[FLAGS_AT] = self.flags;
        frame[ORIGIN_AT..VNI_AT].copy_from_slice(&self.origin);
        frame[VNI_AT..SINCE_AT].copy_from_slice(&self.vni.to_be_bytes());
        frame[SINCE_AT..PORT_AT].copy_from_slice(&self.since_ms.to_be_bytes());
        frame[PORT_AT..PORT_AT + 8].copy_from_slice(&self.port_id.to_be_bytes());
        frame
    }

    /// Reads an untagged frame; `None` for what is no beacon of this [`VERSION`].
    #[must_use]
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let payload = frame.get(MAGIC_AT..MAGIC_AT + PAYLOAD_BYTES)?;
        if frame[..6] != DESTINATION || frame[12..14] != ETHERTYPE.to_be_bytes() {
            return None;
        }
        if payload[..4] != MAGIC || payload[4] != VERSION {
            return None;
        }
        Some(Self {
            flags: frame[FLAGS_AT],
            origin: frame[ORIGIN_AT..VNI_AT].try_into().ok()?,
            vni: u32::from_be_bytes(frame[VNI_AT..SINCE_AT].try_into().ok()?),
            since_ms: u64::from_be_bytes(frame[SINCE_AT..PORT_AT].try_into().ok()?),
            port_id: u64::from_be_bytes(frame[PORT_AT..PORT_AT + 8].try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEACON: Beacon = Beacon {
        flags: BLOCKED,
        origin: [2, 0x57, 0xd4, 255, 0, 7],
        vni: 0x0a_0b0c,
        since_ms: 0x0102_0304_0506_0708,
        port_id: 0x1112_1314_1516_1718,
    };

    #[test]
    fn a_beacon_lies_on_the_wire_as_it_is_drawn() {
        let frame = BEACON.frame();
        let head = [3, 0x57, 0x54, 0, 0, 1, 2, 0x57, 0x54, 3, 0, 7, 0x88, 0xb5];
        assert_eq!(frame[..14], head);
        assert_eq!(&frame[14..20], b"WTLP\x01\x01");
        assert_eq!(frame[20..30], [2, 0x57, 0xd4, 255, 0, 7, 0, 0x0a, 0x0b, 0x0c]);
        assert_eq!(frame[30..38], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(frame[38..46], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(frame[46..], [0; 14]);
    }

    #[test]
    fn what_was_written_is_read_and_nothing_else() {
        let frame = BEACON.frame();
        assert_eq!(Beacon::parse(&frame), Some(BEACON));
        assert_eq!(Beacon::parse(&frame[..45]), None);
        for at in [0, 5, 12, 13, 14, 17, 18] {
            let mut other = frame;
            other[at] ^= 2;
            assert_eq!(Beacon::parse(&other), None, "byte {at}");
        }
    }
}
