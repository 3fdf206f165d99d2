//! Looking at live traffic: what the brain asks for, and the records that the programs write to the ring
//! buffer `samples`. Nothing is written unless somebody looks, and looking ends by itself.

use crate::{IpBytes, PortKey};

/// The most bytes of a frame that a sample carries: a full Ethernet frame, not a super-frame.
pub const SNAP_BYTES_MAX: usize = 1536;

/// Map `watch`, one entry, written by the brain for `watari monitor` and `watari capture`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// [`Watch::DROPS`] and so on; 0 for nothing.
    pub flags: u32,
    /// [`Watch::FLOWS`]: one frame of so many.
    pub sample_every: u32,
    /// Bytes taken of each frame, [`SNAP_BYTES_MAX`] at most.
    pub snap_bytes: u32,
    /// Only frames of this VNI; 0 for any. A frame that was dropped before its segment was known has none.
    pub vni: u32,
    /// [`Watch::CAPTURE`]: only frames of this port, in and out; zero for any.
    pub port: PortKey,
    /// Nothing is written after this time, boot clock.
    pub until_ns: u64,
    /// Records per second and CPU at most.
    pub rate: u32,
    /// Zero.
    pub pad: u32,
}

impl Watch {
    /// Dropped frames, with their reason.
    pub const DROPS: u32 = 1;
    /// A sample of the frames that came in.
    pub const FLOWS: u32 = 2;
    /// Every frame that came in or went out.
    pub const CAPTURE: u32 = 4;
}

/// Head of a record of the ring buffer `samples`; [`SampleHead::captured`] bytes of the frame follow, from its Ethernet
/// header on, without the tags of the port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleHead {
    /// When, boot clock.
    pub time_ns: u64,
    /// Where it came in ([`SampleHead::OUT`]: where it went out).
    pub port: PortKey,
    /// Its VNI; 0 for none yet.
    pub vni: u32,
    /// Length of the frame in bytes.
    pub len: u32,
    /// The remote gateway that it came from or goes to; zero for none.
    pub vtep: IpBytes,
    /// Packets that it stands for.
    pub packets: u32,
    /// Bytes that follow.
    pub captured: u32,
    /// [`SampleHead::IN`], [`SampleHead::OUT`] or [`SampleHead::DROP`].
    pub direction: u8,
    /// [`SampleHead::DROP`]: a [`crate::DropReason`].
    pub reason: u8,
    /// The [`crate::Hook`] by which it came in.
    pub hook: u8,
    /// Zero.
    pub pad: u8,
    /// Zero.
    pub pad2: u32,
}

impl SampleHead {
    /// It came in.
    pub const IN: u8 = 1;
    /// It went out.
    pub const OUT: u8 = 2;
    /// It was dropped.
    pub const DROP: u8 = 3;
}

/// Working memory for one sample on one CPU.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Start of the second in which records are counted, boot clock.
    pub since_ns: u64,
    /// Records in that second.
    pub records: u64,
    /// Frames since the last one of [`Watch::FLOWS`].
    pub skipped: u64,
    /// The record.
    pub head: SampleHead,
    /// Bytes of the frame.
    pub data: [u8; SNAP_BYTES_MAX],
}
