#![no_std]
//! Layouts shared by the eBPF programs and their loader: keys and values of every map, the numbered
//! drop reasons and counters, and the form of one packet on its way through the pipeline.
//!
//! Everything that lies in a map is `repr(C)` with its padding written out, so that two equal keys have
//! equal bytes. Addresses are byte arrays in network order, an IPv4 address inside a 16-byte field is
//! IPv4-mapped (`::ffff:a.b.c.d`); everything else is in host order. Times are nanoseconds of the boot
//! clock (`CLOCK_BOOTTIME`), which also counts while the machine sleeps.
//!
//! Whoever changes the meaning or the size of what lies in a map raises that map's version in [`layout`] and
//! registers a migration: a loader that finds older maps carries their entries over.

pub mod account;
pub mod beacon;
pub mod flow;
pub mod layout;
pub mod limits;
pub mod meta;
pub mod plan;
pub mod table;
pub mod trace;
pub mod watch;

pub use account::{Counter, DropReason, Event, EventKind, PortStats};
pub use flow::{Flow, FlowKey};
pub use layout::{MapKind, MapLayout, Role, layout_number};
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
