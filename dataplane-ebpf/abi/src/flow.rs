//! The flow cache: what was decided about the last packet of a flow, for those that follow it within moments.
//!
//! Switching one packet takes a dozen look-ups, and the next one of the same flow takes the same way. A flow is what
//! the decision rests on: where the frame came in, its two MACs, and the source address that a guard has judged (or
//! the far gateway and VNI that it came from). Its entry holds for [`FLOW_LIFE_NS`] and no longer, and ends at once
//! when the plan writes anything (map `epoch`): nothing that is forbidden goes on because it was allowed before.
//!
//! Only TCP and UDP in one piece is taken, without SYN and without DHCP; everything else, and whatever a trace or a
//! watch looks at, goes through the pipeline. So does the first packet of every [`FLOW_LIFE_NS`], which learns, ages and
//! counts moves.

//!
//! Headers lie in words of 64 bits with two bytes before the Ethernet header, so that each field is aligned: a program reads
//! and compares words, where arrays of bytes would be copied byte by byte. Words are in the order of memory, little-endian.

use crate::{IpBytes, PortKey};

/// How long a decision holds, in nanoseconds.
pub const FLOW_LIFE_NS: u64 = 50_000_000;
/// Words of a buffer for headers: an outer header over IPv6 and the inner Ethernet header.
pub const HEAD_WORDS: usize = 12;
/// Words of an outer header up to the VXLAN header, over IPv6.
pub const OUTER_WORDS: usize = 9;

/// What a decision rests on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Where the frame came in.
    pub port: PortKey,
    /// Two bytes of zero and the destination MAC, of the inner frame.
    pub dst: u64,
    /// Its source MAC and EtherType.
    pub src: u64,
    /// The packet's source address (IPv4 in the second word); of a packet out of a `direct` tunnel the far gateway.
    pub from: [u64; 2],
    /// Of a packet out of a `direct` tunnel its VNI; else 0, which no VNI is.
    pub vni: u64,
}

/// Map `flows` (per CPU), indexed by a hash of the key: the newer of two flows takes the place.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Whose it is.
    pub key: FlowKey,
    /// Value of the map `epoch` before the decision was made.
    pub epoch: u64,
    /// End of its life, coarse monotonic clock.
    pub until_ns: u64,
    /// Where it goes out: a port, or the wire towards the far gateway.
    pub out: PortKey,
    /// Where the port counts that it came in by, as in [`crate::Port::slot`]; never 0.
    pub in_slot: u32,
    /// Where the one counts that it goes out by; never 0.
    pub out_slot: u32,
    /// The far gateway that it goes to or comes from.
    pub vtep: IpBytes,
    /// [`Flow::TO_VTEP`]: VNI of the outer header.
    pub vni: u32,
    /// [`Flow::TO_VTEP`]: the largest IP packet that crosses, 0 for not known.
    pub mtu: u32,
    /// [`Flow::TO_VTEP`] over IPv4: sum of the outer IP header without DSCP, ECN and length (RFC 1071).
    pub sum: u32,
    /// [`Flow::TO_VTEP`] or [`Flow::TO_PORT`].
    pub kind: u8,
    /// [`Flow::WHOLE`] and so on.
    pub flags: u8,
    /// Zero.
    pub pad: u16,
    /// [`Flow::TO_VTEP`]: the outer header, zero where packets differ (DSCP and ECN, lengths, checksum, source port).
    pub header: [u64; OUTER_WORDS],
}

impl Flow {
    /// [`Flow::kind`]: encapsulated by the programs and out by a wire.
    pub const TO_VTEP: u8 = 1;
    /// [`Flow::kind`]: out by a port.
    pub const TO_PORT: u8 = 2;
    /// [`Flow::flags`]: aggregates may be decapsulated ([`crate::Segment::PLAIN_DEVICES`], [`crate::Port::ENGINE`]).
    pub const WHOLE: u8 = 1;
    /// [`Flow::flags`]: the outer header is IPv6's.
    pub const OUTER_V6: u8 = 2;
    /// [`Flow::flags`]: the port is [`crate::Port::NEAR`].
    pub const NEAR: u8 = 4;
    /// [`Flow::flags`]: the wire is [`crate::Wire::ENGINE`].
    pub const ENGINE: u8 = 8;
}
