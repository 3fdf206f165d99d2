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

use crate::{IpBytes, MacBytes, PortKey};

/// How long a decision holds, in nanoseconds.
pub const FLOW_LIFE_NS: u64 = 50_000_000;

/// What a decision rests on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Where the frame came in.
    pub port: PortKey,
    /// The packet's source address; of a packet out of a `direct` tunnel the far gateway.
    pub from: IpBytes,
    /// Destination MAC, of the inner frame.
    pub dst: MacBytes,
    /// Source MAC, of the inner frame.
    pub src: MacBytes,
    /// Its EtherType, host order.
    pub ethertype: u16,
    /// Zero.
    pub pad: u16,
    /// Of a packet out of a `direct` tunnel its VNI; else 0, which no VNI is.
    pub vni: u32,
    /// Zero.
    pub pad2: u32,
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
    /// [`Flow::TO_VTEP`]: the far gateway.
    pub vtep: IpBytes,
    /// Where it goes out: a port, or the wire towards the far gateway.
    pub out: PortKey,
    /// [`Flow::TO_VTEP`]: VNI of the outer header.
    pub vni: u32,
    /// [`Flow::TO_VTEP`]: the largest IP packet that crosses, 0 for not known.
    pub mtu: u32,
    /// [`Flow::TO_VTEP`]: destination MAC of the outer frame.
    pub next_hop: MacBytes,
    /// [`Flow::TO_VTEP`]: source MAC of the outer frame.
    pub source: MacBytes,
    /// [`Flow::TO_VTEP`] or [`Flow::TO_PORT`].
    pub kind: u8,
    /// [`Flow::WHOLE`].
    pub flags: u8,
    /// Zero.
    pub pad: u16,
}

impl Flow {
    /// [`Flow::kind`]: encapsulated by the programs and out by a wire.
    pub const TO_VTEP: u8 = 1;
    /// [`Flow::kind`]: out by a port.
    pub const TO_PORT: u8 = 2;
    /// [`Flow::flags`]: aggregates may be decapsulated ([`crate::Segment::PLAIN_DEVICES`]).
    pub const WHOLE: u8 = 1;
}
