//! Tables of addresses: MAC, neighbour and route. Each has exactly one writer; look-up goes static, local, remote.

use crate::{Ip4Bytes, IpBytes, MacBytes, PortKey};

/// Key of `mac_static`, `mac_frozen`, `mac_local` and `mac_remote`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacKey {
    /// The segment.
    pub vni: u32,
    /// The address.
    pub mac: MacBytes,
    /// Zero.
    pub pad: u16,
}

impl MacKey {
    /// The key of `mac` in segment `vni`.
    #[must_use]
    pub const fn new(vni: u32, mac: MacBytes) -> Self {
        Self { vni, mac, pad: 0 }
    }
}

/// Map `mac_static`, written by the plan: pinned addresses and nodes. A frame with such a source from
/// another port is dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacStatic {
    /// Where it is. For a node: its L3 device, untagged.
    pub port: PortKey,
    /// 1 if `port` is an L3 device: the Ethernet header is taken off.
    pub is_node: u32,
}

/// Map `mac_local`, written by the programs alone: learnt on attachments. The owner of the ageing
/// removes entries whose `last_seen_ns` is too old.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacLocal {
    /// Where it was last seen.
    pub port: PortKey,
    /// When, boot clock. Renewed at most once a second.
    pub last_seen_ns: u64,
}

/// Map `mac_remote`, written by the EVPN syncer alone (type 2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacRemote {
    /// The gateway behind which it is.
    pub vtep: IpBytes,
    /// [`MacRemote::STICKY`].
    pub flags: u32,
    /// Its mobility sequence (RFC 7432 §7.7), for those who look.
    pub sequence: u32,
}

impl MacRemote {
    /// The far gateway pinned it (RFC 7432 §7.7): not learnt here, a local frame from it is dropped.
    pub const STICKY: u32 = 1;
}

/// Key of `nb_static`, `nb_local` and `nb_remote`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NeighKey {
    /// The segment.
    pub vni: u32,
    /// The address.
    pub ip: IpBytes,
}

impl NeighKey {
    /// The key of `ip` in segment `vni`.
    #[must_use]
    pub const fn new(vni: u32, ip: core::net::IpAddr) -> Self {
        Self { vni, ip: crate::ip_bytes(ip) }
    }
}

/// Map `nb_static`, written by the plan: the gateway's own addresses, nodes, pinned hosts.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighStatic {
    /// Its MAC.
    pub mac: MacBytes,
    /// [`NeighStatic::OWN`].
    pub flags: u16,
}

impl NeighStatic {
    /// An address of this gateway itself: nobody else may claim it.
    pub const OWN: u16 = 1;
}

/// Map `nb_local`, written by the programs alone: learnt from ARP and ND on attachments.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighLocal {
    /// Its MAC.
    pub mac: MacBytes,
    /// [`NeighLocal::ROUTER`] and so on.
    pub flags: u16,
    /// Where it was last seen.
    pub port: PortKey,
    /// When, boot clock.
    pub last_seen_ns: u64,
}

impl NeighLocal {
    /// It advertised itself as a router (RFC 4861 §4.4).
    pub const ROUTER: u16 = 1;
    /// Its advertisements override (RFC 4861 §4.4); always so for IPv4.
    pub const OVERRIDE: u16 = 2;
    /// A far gateway's host has announced the address since: the next announcement here is spread, although it
    /// says nothing new.
    pub const CONTESTED: u16 = 4;
}

/// Map `nb_remote`, written by the EVPN syncer alone (type 2 with an address).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NeighRemote {
    /// Its MAC.
    pub mac: MacBytes,
    /// [`NeighRemote::ROUTER`] and so on.
    pub flags: u16,
}

impl NeighRemote {
    /// The neighbour advertisement carries the router flag (RFC 9047).
    pub const ROUTER: u16 = 1;
    /// The neighbour advertisement carries the override flag (RFC 9047).
    pub const OVERRIDE: u16 = 2;
    /// The far gateway pinned it (RFC 7432 §15.2, RFC 9047 §2): nobody here may claim it with another MAC.
    pub const PINNED: u16 = 4;
}

/// Data of a key of the longest-prefix map `routes4`. The prefix length counts the 32 bits of the tenant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey4 {
    /// The tenant, big endian.
    pub tenant: [u8; 4],
    /// The prefix, host bits zero.
    pub addr: Ip4Bytes,
}

/// Data of a key of the longest-prefix map `routes6`. The prefix length counts the 32 bits of the tenant.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RouteKey6 {
    /// The tenant, big endian.
    pub tenant: [u8; 4],
    /// The prefix, host bits zero.
    pub addr: IpBytes,
}

/// What to do with a packet whose destination matches.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// An address of this gateway: to the tenant's namespace as it is.
    Own = 1,
    /// A subnet of segment `vni`: neighbour table, or a question from `gateway`.
    Connected = 2,
    /// Behind the gateway `vtep`, whose Router's MAC is `mac`, by L3VNI `vni`.
    Remote = 3,
    /// Out of the overlay: to the tenant's namespace, which routes on.
    Exit = 4,
    /// A node behind the L3 device `ifindex`.
    Node = 5,
    /// Nowhere: dropped and counted.
    Blackhole = 6,
}

impl RouteKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Own,
            2 => Self::Connected,
            3 => Self::Remote,
            4 => Self::Exit,
            5 => Self::Node,
            6 => Self::Blackhole,
            _ => return None,
        })
    }
}

/// Who wrote a route: each writer subtracts only among its own.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteOrigin {
    /// The plan: own addresses, subnets, nodes, static routes.
    Plan = 1,
    /// EVPN types 2 and 5.
    Evpn = 2,
    /// BGP with a router outside.
    Bgp = 3,
}

impl RouteOrigin {
    /// The origin with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Plan,
            2 => Self::Evpn,
            3 => Self::Bgp,
            _ => return None,
        })
    }
}

/// Maps `routes4` and `routes6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// A [`RouteKind`].
    pub kind: u8,
    /// A [`RouteOrigin`].
    pub origin: u8,
    /// `Remote`: the far gateway's Router's MAC.
    pub mac: MacBytes,
    /// `Connected`: the segment. `Remote`: the L3VNI.
    pub vni: u32,
    /// `Node`: the L3 device.
    pub ifindex: u32,
    /// `Remote`: the far gateway.
    pub vtep: IpBytes,
    /// `Connected`: our address in the subnet, the sender of questions; IPv4-mapped in `routes4`.
    pub gateway: IpBytes,
}

impl Route {
    const fn of(kind: RouteKind, origin: RouteOrigin) -> Self {
        Self {
            kind: kind as u8,
            origin: origin as u8,
            mac: [0; 6],
            vni: 0,
            vtep: [0; 16],
            ifindex: 0,
            gateway: [0; 16],
        }
    }
    /// An address of this gateway.
    #[must_use]
    pub const fn own() -> Self {
        Self::of(RouteKind::Own, RouteOrigin::Plan)
    }
    /// A subnet of segment `vni` in which `gateway` is our address.
    #[must_use]
    pub const fn connected(vni: u32, gateway: core::net::IpAddr) -> Self {
        Self { vni, gateway: crate::ip_bytes(gateway), ..Self::of(RouteKind::Connected, RouteOrigin::Plan) }
    }
    /// Behind another gateway.
    #[must_use]
    pub const fn remote(origin: RouteOrigin, l3vni: u32, vtep: IpBytes, router_mac: MacBytes) -> Self {
        Self { vni: l3vni, vtep, mac: router_mac, ..Self::of(RouteKind::Remote, origin) }
    }
    /// Out of the overlay.
    #[must_use]
    pub const fn exit(origin: RouteOrigin) -> Self {
        Self::of(RouteKind::Exit, origin)
    }
    /// A node behind `ifindex`.
    #[must_use]
    pub const fn node(ifindex: u32) -> Self {
        Self { ifindex, ..Self::of(RouteKind::Node, RouteOrigin::Plan) }
    }
    /// Dropped.
    #[must_use]
    pub const fn blackhole(origin: RouteOrigin) -> Self {
        Self::of(RouteKind::Blackhole, origin)
    }
}

/// Map `buckets`, written by the programs: VNI → what a segment may still flood.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Thousandths of a frame.
    pub tokens_milli: u64,
    /// When it was last filled, boot clock.
    pub filled_ns: u64,
}

/// Key of the map `port_buckets`: an attachment and what is limited there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortBucketKey {
    /// The attachment.
    pub port: PortKey,
    /// [`PortBucketKey::STORM`] and so on.
    pub kind: u32,
}

impl PortBucketKey {
    /// Frames with more than one receiver.
    pub const STORM: u32 = 1;
    /// ICMP errors sent to the attachment (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f).
    pub const ERRORS: u32 = 2;
}
