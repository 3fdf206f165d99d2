#![no_std]
//! Layouts shared by the eBPF programs and their loader: keys and values of every map, the numbered
//! drop reasons and counters, and the form of one packet on its way through the pipeline.
//!
//! Everything that lies in a map is `repr(C)` with its padding written out, so that two equal keys have
//! equal bytes. Addresses are byte arrays in network order, an IPv4 address inside a 16-byte field is
//! IPv4-mapped (`::ffff:a.b.c.d`); everything else is in host order. Times are nanoseconds of the boot
//! clock (`CLOCK_BOOTTIME`), which also counts while the machine sleeps.
//!
//! Whoever changes the meaning or the size of a layout raises [`LAYOUT_VERSION`]: a loader that finds
//! pinned maps of another version makes new ones instead of adopting them.

pub mod account;
pub mod beacon;
pub mod limits;
pub mod meta;
pub mod plan;
pub mod table;
pub mod trace;
pub mod watch;

pub use account::{Counter, DropReason, Event, EventKind, PortStats};
pub use meta::{Hook, Meta, Scratch, Stage, Verdict};
pub use plan::{
    Config, FloodPorts, FloodVteps, GuardIp, GuardIpKey, GuardMacKey, Node, NodeKey, Port, PortKey, PortKind,
    Remote, Segment, SegmentKind, Tenant, TunnelKey, Wire,
};
pub use table::{
    Bucket, MacKey, MacLocal, MacRemote, MacStatic, NeighKey, NeighLocal, NeighRemote, NeighStatic,
    PortBucketKey, Route, RouteKey4, RouteKey6, RouteKind, RouteOrigin,
};
pub use trace::{Entry, Report, Step, StepKind};
pub use watch::{Sample, SampleHead, Watch};

/// Version of all layouts and of their meaning together.
pub const LAYOUT_VERSION: u32 = 2;

/// One number for [`LAYOUT_VERSION`], the sizes of all layouts and the limits of all maps: pinned maps
/// are adopted only under the same number.
#[must_use]
pub const fn layout_number() -> u64 {
    let facts = [
        LAYOUT_VERSION as usize,
        size_of::<Config>(),
        size_of::<PortKey>() + size_of::<Port>() * 256,
        size_of::<Segment>() + size_of::<Tenant>() * 256,
        size_of::<NodeKey>() + size_of::<Node>() * 256,
        size_of::<TunnelKey>(),
        size_of::<MacKey>() + size_of::<MacStatic>() * 256,
        size_of::<MacLocal>() + size_of::<MacRemote>() * 256,
        size_of::<NeighKey>() + size_of::<NeighStatic>() * 256,
        size_of::<NeighLocal>() + size_of::<NeighRemote>() * 256,
        size_of::<RouteKey4>() + size_of::<RouteKey6>() * 256,
        size_of::<Route>(),
        size_of::<FloodPorts>() + size_of::<FloodVteps>() * 4096,
        size_of::<Bucket>() + size_of::<PortStats>() * 256,
        size_of::<Event>() + size_of::<Scratch>() * 256,
        size_of::<Remote>() + size_of::<Wire>() * 256,
        size_of::<GuardMacKey>() + size_of::<GuardIpKey>() * 256 + size_of::<GuardIp>() * 4096,
        size_of::<PortBucketKey>() + size_of::<Entry>() * 256,
        size_of::<Watch>() + size_of::<Sample>() * 256,
        limits::SUM as usize,
    ];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut index = 0;
    while index < facts.len() {
        hash = (hash ^ facts[index] as u64).wrapping_mul(0x0100_0000_01b3);
        index += 1;
    }
    hash
}

/// A MAC address, as on the wire.
pub type MacBytes = [u8; 6];
/// An IPv4 address in network order.
pub type Ip4Bytes = [u8; 4];
/// An IPv6 address, or an IPv4-mapped one, in network order.
pub type IpBytes = [u8; 16];

/// `skb->mark` of a packet that a tunnel hook has accepted for the VXLAN socket ("wtri"). It survives
/// decapsulation inside one namespace; the VXLAN device's hook drops what does not carry it.
pub const TUNNEL_MARK: u32 = 0x7774_7269;

/// An address as it lies in a key: IPv4 becomes IPv4-mapped.
#[must_use]
pub const fn ip_bytes(ip: core::net::IpAddr) -> IpBytes {
    match ip {
        core::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        core::net::IpAddr::V6(v6) => v6.octets(),
    }
}

/// The address that lies in a key: IPv4-mapped becomes IPv4.
#[must_use]
pub const fn ip_from_bytes(bytes: IpBytes) -> core::net::IpAddr {
    core::net::Ipv6Addr::from_octets(bytes).to_canonical()
}

#[cfg(feature = "user")]
mod pod {
    //! aya reads and writes map entries as bytes: every type here is `repr(C)`, plain and without padding.
    use crate::*;
    macro_rules! pod {
        ($($name:ty),* $(,)?) => { $(
            // SAFETY: `repr(C)`, only integers and arrays of them, padding written out as fields.
            unsafe impl aya::Pod for $name {}
        )* };
    }
    pod!(
        Bucket,
        Config,
        Entry,
        Event,
        FloodPorts,
        FloodVteps,
        GuardIp,
        GuardIpKey,
        GuardMacKey,
        MacKey,
        MacLocal,
        MacRemote,
        MacStatic,
        Meta,
        NeighKey,
        NeighLocal,
        NeighRemote,
        NeighStatic,
        Node,
        NodeKey,
        Port,
        PortBucketKey,
        PortKey,
        PortStats,
        Remote,
        Route,
        RouteKey4,
        RouteKey6,
        Segment,
        Tenant,
        TunnelKey,
        Watch,
        Wire,
    );
}
