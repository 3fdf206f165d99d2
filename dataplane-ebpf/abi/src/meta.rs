//! One packet on its way through the pipeline: what its hook knows of it, and what was decided.
//!
//! A hook takes [`Meta`] from the device, the tag and the tunnel key. The entry program of tests and of
//! `watari trace` takes it from the page [`crate::trace::Entry`], because a kernel test run can set neither tag nor
//! tunnel key, and writes the [`Verdict`] there.

use crate::{FlowKey, IpBytes, MacBytes, PortKey, flow::HEAD_WORDS, trace::Report};

/// Where a packet enters.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// An operator's NIC with VLANs: what no port entry knows passes to the kernel.
    Trunk = 1,
    /// A local interface that is an attachment.
    Interface = 2,
    /// The root end of the veth to a tenant's namespace.
    Core = 3,
    /// The eBPF end of a cross-connected veth.
    Cross = 4,
    /// The L3 device of a tenant's nodes.
    Node = 5,
    /// A tunnel device: lets VXLAN in from bound VTEPs only.
    Tunnel = 6,
    /// An uplink: lets no VXLAN in.
    Uplink = 7,
    /// The collect-metadata VXLAN device.
    Vxlan = 8,
}

impl Hook {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Trunk,
        Self::Interface,
        Self::Core,
        Self::Cross,
        Self::Node,
        Self::Tunnel,
        Self::Uplink,
        Self::Vxlan,
    ];
    /// Short name: of its program and in its pin.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Trunk => "trunk",
            Self::Interface => "iface",
            Self::Core => "core",
            Self::Cross => "cross",
            Self::Node => "node",
            Self::Tunnel => "tunl",
            Self::Uplink => "uplnk",
            Self::Vxlan => "vxlan",
        }
    }
    /// The hook with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Trunk,
            2 => Self::Interface,
            3 => Self::Core,
            4 => Self::Cross,
            5 => Self::Node,
            6 => Self::Tunnel,
            7 => Self::Uplink,
            8 => Self::Vxlan,
            _ => return None,
        })
    }
}

/// A stage of the pipeline: index into the map `pipeline`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Classify, guard, learn, and switch what is known.
    Classify = 0,
    /// ARP and neighbour discovery.
    Answer = 1,
    /// Copies for more than one receiver.
    Flood = 2,
    /// Longest match, neighbour, hop limit.
    Route = 3,
    /// From one end of a cross-connect to the other.
    Cross = 4,
    /// To a far gateway: MTU, segment size, outer header.
    Encap = 5,
    /// What a guarded attachment may send.
    Guard = 6,
    /// Out of a `direct` tunnel: the outer header comes off.
    Decap = 7,
    /// What the way to or from a far gateway does not carry: segment size, ICMP errors.
    Mtu = 8,
}

impl Stage {
    /// All of them, in the order of their index.
    pub const ALL: &'static [Self] = &[
        Self::Classify,
        Self::Answer,
        Self::Flood,
        Self::Route,
        Self::Cross,
        Self::Encap,
        Self::Guard,
        Self::Decap,
        Self::Mtu,
    ];
    /// Name of its program.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Classify => "st_classify",
            Self::Answer => "st_answer",
            Self::Flood => "st_flood",
            Self::Route => "st_route",
            Self::Cross => "st_cross",
            Self::Encap => "st_encap",
            Self::Guard => "st_guard",
            Self::Decap => "st_decap",
            Self::Mtu => "st_mtu",
        }
    }
}

/// The longest frame that a stage builds by itself.
pub const BUILD_BYTES: usize = 192;

/// Working memory of one packet on one CPU. It is no table: what it holds means nothing afterwards.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    /// The packet.
    pub meta: Meta,
    /// Where answers and questions are built.
    pub frame: [u8; BUILD_BYTES],
    /// The flow that the packet is of, if [`Meta::path`] says that it is of one.
    pub flow: FlowKey,
    /// The outer headers that the flow cache writes, two bytes from the start.
    pub outer: [u64; HEAD_WORDS],
    /// Start of the second in which events are counted, boot clock.
    pub events_since_ns: u64,
    /// Events in that second: 16 bits for each class of events.
    pub events: u64,
}

/// The packet's way so far. Lives in per-CPU working memory between the stages.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The port that it came in by.
    pub port: PortKey,
    /// The segment (or L3VNI); 0 if none yet.
    pub vni: u32,
    /// The tenant; 0 if none yet.
    pub tenant: u32,
    /// The outer source of VXLAN; zero if it did not come by VXLAN.
    pub vtep: IpBytes,
    /// A [`Hook`].
    pub hook: u8,
    /// [`Meta::TRACE`] and so on.
    pub flags: u8,
    /// EtherType, host order.
    pub ethertype: u16,
    /// Length with Ethernet header, in bytes.
    pub len: u32,
    /// Packets that this frame stands for (more than 1 for a super-frame).
    pub packets: u32,
    /// Why the frame has more than one receiver: a `Meta::COPY_…`, for the stage `Flood`.
    pub copy: u32,
    /// Boot clock.
    pub now_ns: u64,
    /// Destination MAC.
    pub dst: MacBytes,
    /// Source MAC.
    pub src: MacBytes,
    /// Copies made so far.
    pub copies: u32,
    /// For the stage `Encap`: VNI of the outer header.
    pub out_vni: u32,
    /// What the stage `Mtu` has found: a `Meta::FIT_…`.
    pub fit: u32,
    /// For the stage `Encap`: the far gateway.
    pub out_vtep: IpBytes,
    /// Value of the map `epoch` when the packet came.
    pub epoch: u64,
    /// Hash of addresses and ports of a TCP or UDP packet; 0 if it is none, or not looked at.
    pub hash: u32,
    /// What the flow cache has to do with it: a `Meta::PATH_…`.
    pub path: u32,
    /// Where [`Meta::port`] counts, as in [`crate::Port::slot`]; 0 while not known.
    pub slot: u32,
    /// Where the port counts that its hook saw, which decapsulation does not change; 0 while not known.
    pub hook_slot: u32,
}

impl Meta {
    /// A trace: no table, counter, bucket is written and nothing is sent.
    pub const TRACE: u8 = 1;
    /// The decision is written to `skb->cb`.
    pub const REPORT: u8 = 2;
    /// Copies are counted but not sent.
    pub const NO_CLONE: u8 = 4;
    /// The outer tag is still in the packet's metadata.
    pub const ONE_TAG: u8 = 8;
    /// Both tags are.
    pub const TWO_TAGS: u8 = 16;
    /// Only of a test run: the flow cache is asked first, as at a trunk or interface.
    pub const FLOW: u8 = 32;
    /// The guard of its attachment has let it through.
    pub const GUARDED: u8 = 64;
    /// An announcement that says nothing new: copied to local ports only.
    pub const LOCAL_ONLY: u8 = 128;

    /// [`Meta::fit`]: not looked at.
    pub const FIT_UNKNOWN: u32 = 0;
    /// [`Meta::fit`]: it came from a far gateway, and its segment size is that of the way back.
    pub const FIT_ARRIVED: u32 = 1;
    /// [`Meta::fit`]: it may be encapsulated.
    pub const FIT_GOES: u32 = 2;
    /// [`Meta::fit`]: too large, and the outer packet is to be fragmented.
    pub const FIT_FRAGMENT: u32 = 3;

    /// [`Meta::path`]: not one that is remembered.
    pub const PATH_NONE: u32 = 0;
    /// [`Meta::path`]: remembered if it is switched.
    pub const PATH_NEW: u32 = 1;
    /// [`Meta::path`]: it was switched; remembered where it goes out.
    pub const PATH_SWITCHED: u32 = 2;

    /// [`Meta::copy`]: a group address.
    pub const COPY_GROUP: u32 = 0;
    /// [`Meta::copy`]: a MAC that nobody knows.
    pub const COPY_UNKNOWN: u32 = 1;
    /// [`Meta::copy`]: a question of our own.
    pub const COPY_QUESTION: u32 = 2;
}

/// What was decided about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was decided: the program did not report.
    None,
    /// Handed to the kernel.
    Pass,
    /// Dropped; a [`crate::DropReason`].
    Drop(u8),
    /// Ended here, on purpose.
    Consumed,
    /// Sent out by a port.
    Port(PortKey),
    /// Sent to a remote gateway.
    Vtep {
        /// The VXLAN network identifier.
        vni: u32,
        /// The remote gateway.
        vtep: IpBytes,
    },
    /// Copied.
    Flooded {
        /// How many copies.
        copies: u32,
    },
}

impl Verdict {
    /// Numbers of the actions in [`Report::action`].
    pub const PASS: u32 = 1;
    /// See [`Verdict::Drop`].
    pub const DROP: u32 = 2;
    /// See [`Verdict::Consumed`].
    pub const CONSUMED: u32 = 3;
    /// See [`Verdict::Port`].
    pub const PORT: u32 = 4;
    /// See [`Verdict::Vtep`].
    pub const VTEP: u32 = 5;
    /// See [`Verdict::Flooded`].
    pub const FLOODED: u32 = 6;

    /// The verdict that a program reported.
    #[must_use]
    pub const fn from_report(report: &Report) -> Self {
        match report.action {
            Self::PASS => Self::Pass,
            Self::DROP => Self::Drop(report.reason as u8),
            Self::CONSUMED => Self::Consumed,
            Self::PORT => Self::Port(report.port),
            Self::VTEP => Self::Vtep { vni: report.vni, vtep: report.vtep },
            Self::FLOODED => Self::Flooded { copies: report.copies },
            _ => Self::None,
        }
    }
}
