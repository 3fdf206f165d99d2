//! Everything that a gateway can have, as a key and a value.
//!
//! Devices stand here under their names. Where the kernel or a map knows an index instead, the driver
//! translates both ways; an entry of a device that is gone reads back as `#<index>`, which nobody wants, so it goes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use serde::Serialize;
use watari_config::document::{Dscp, VlanPort};
use watari_config::{Mac, Tags, Vni, WgKey};

/// A network namespace: that of the gateway, or a tenant's by its name below `/run/netns`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ns {
    /// The one the daemon runs in.
    Root,
    /// A tenant's.
    Tenant(String),
}

impl fmt::Display for Ns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Tenant(name) => write!(f, " in {name}"),
        }
    }
}

/// A device and the tags of a VLAN of it, or its untagged frames.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PortAt {
    /// The device.
    pub device: String,
    /// The tags.
    pub tags: Tags,
}

impl PortAt {
    /// The untagged frames of a device.
    pub fn untagged(device: impl Into<String>) -> Self {
        Self { device: device.into(), tags: Tags::Untagged }
    }

    /// A VLAN of a trunk.
    pub fn vlan(vlan: &VlanPort) -> Self {
        Self { device: vlan.trunk.to_string(), tags: vlan.tags() }
    }
}

impl fmt::Display for PortAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.device, self.tags)
    }
}

/// Which program watches a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HookKind {
    /// A trunk with VLANs.
    Trunk,
    /// A whole interface that is an attachment or exit.
    Interface,
    /// The veth to a tenant's namespace.
    Core,
    /// The eBPF end of a cross-connected veth.
    Cross,
    /// The L3 device of a tenant's nodes.
    Node,
    /// A tunnel device.
    Tunnel,
    /// The uplink.
    Uplink,
    /// The VXLAN device.
    Vxlan,
}

/// What identifies an item. **The order of the variants is the order in which items are made.**
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// A network namespace, by name.
    Namespace(String),
    /// The collect-metadata VXLAN device, by name.
    Vxlan(String),
    /// A veth pair, by the name of its end in the gateway's namespace.
    Veth(String),
    /// A WireGuard device, by name.
    Wireguard(String),
    /// The overlay of a WireGuard device in user space, by the name of the device.
    Overlay(String),
    /// A setting below `/proc/sys`.
    Sysctl(Ns, String),
    /// An address of a device.
    Address(Ns, String, IpNet),
    /// A permanent neighbour of a device.
    Neighbour(Ns, String, IpAddr),
    /// A kernel route: namespace, prefix, device.
    Route(Ns, IpNet, String),
    /// Tunnels that share the traffic to a VTEP by flow, by its prefix.
    Bundle(IpNet),
    /// The one entry about this gateway.
    GatewayEntry,
    /// A tenant, by its L3VNI.
    TenantEntry(Vni),
    /// A VNI.
    SegmentEntry(Vni),
    /// A VTEP that VXLAN may come from, out of this device.
    TunnelVtep(String, IpAddr),
    /// What is known of a far gateway, by its VTEP.
    Remote(IpAddr),
    /// Where VXLAN for a tunnel goes, by its device: the wire on which the packets of a `direct` tunnel meet the network (the
    /// device is the kernel's end of its veth), or the TAP of an engine in user space.
    Wire(String),
    /// An address of a node behind this device.
    NodeEntry(String, IpAddr),
    /// A pinned MAC of a segment.
    StaticMac(Vni, Mac),
    /// A pinned neighbour of a segment.
    StaticNeighbour(Vni, IpAddr),
    /// A route of a tenant (by its L3VNI) in the datapath.
    TenantRoute(Vni, IpNet),
    /// A MAC that a guarded attachment may use. The tables of a guard are there before the port that asks for
    /// them: no frame is ever let through unseen.
    GuardMac(PortAt, Mac),
    /// A prefix that a guarded attachment may use.
    GuardIp(PortAt, IpNet),
    /// What a frame from there belongs to.
    Port(PortAt),
    /// Local ports of a segment that get a copy of a flooded frame.
    FloodPorts(Vni),
    /// A program on a device.
    Hook(String, HookKind),
    /// VXLAN that arrives in a WireGuard device comes out of the TAP of its overlay. Whoever takes it there is there before.
    OverlayInbound(String),
    /// A beacon of the loop guard, by where it leaves.
    Beacon(PortAt),
    /// A path probe, by the name of its tunnel.
    Probe(String),
    /// The measurement of what crosses a tunnel, by its name.
    PathMtu(String),
    /// A BFD session, by the path of the object that it watches.
    Bfd(String),
}

/// What an item is like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// It is there, and that is all.
    Present,
    /// A VXLAN device.
    Vxlan {
        /// UDP port.
        port: u16,
        /// MTU in bytes.
        mtu: u16,
    },
    /// A veth pair.
    Veth {
        /// The other end.
        peer: String,
        /// The namespace of the other end.
        peer_ns: Ns,
        /// MAC of the kernel's end: that in the tenant's namespace, or the one that is not `…p`.
        mac: Mac,
        /// The end that has `mac`.
        mac_end: String,
        /// MTU in bytes of both ends.
        mtu: u16,
    },
    /// A WireGuard device.
    Wireguard(Wireguard),
    /// An overlay.
    Overlay {
        /// Its TAP.
        tap: String,
        /// Our VTEP address.
        vtep: IpAddr,
        /// UDP port of VXLAN.
        port: u16,
    },
    /// The text of a setting.
    Setting(String),
    /// A kernel route.
    Route {
        /// The next hop; on link without one.
        via: Option<IpAddr>,
        /// The preferred source.
        source: Option<IpAddr>,
        /// The lower one wins.
        metric: u32,
        /// MTU of what goes that way, bytes; that of the device without it.
        mtu: Option<u16>,
    },
    /// Tunnels that share traffic.
    Bundle {
        /// Those that carry, by device.
        members: BTreeMap<String, BundleMember>,
        /// The preferred source.
        source: Option<IpAddr>,
        /// MTU of what goes that way, bytes: what the narrowest member carries.
        mtu: Option<u16>,
    },
    /// The MAC of a neighbour.
    Neighbour(Mac),
    /// About this gateway.
    Gateway {
        /// The VXLAN device.
        vxlan: String,
        /// Its UDP port.
        vxlan_port: u16,
        /// Our VTEP address.
        vtep: IpAddr,
        /// The gateway MAC of the fabric.
        anycast_mac: Mac,
        /// Our own.
        router_mac: Mac,
        /// DSCP of the outer header, 0 … 63; the inner one's without it.
        dscp: Option<u8>,
        /// The programs write the outer header where they can.
        own_encap: bool,
    },
    /// A tenant.
    Tenant {
        /// The port to its namespace.
        core: String,
        /// The MAC at the far end of that port.
        core_mac: Mac,
    },
    /// A VNI of a broadcast domain.
    L2Segment {
        /// L3VNI of its tenant.
        tenant: Vni,
        /// MTU in bytes.
        mtu: u16,
        /// Unknown unicast is flooded.
        flood_unknown: bool,
        /// Broadcast is flooded.
        flood_broadcast: bool,
        /// Multicast is flooded.
        flood_multicast: bool,
        /// Copied frames per second.
        flood_rate: u32,
        /// Every device behind which the tenant's hosts are takes an aggregate that was decapsulated.
        plain: bool,
    },
    /// A VNI of routed traffic; its number is the tenant's.
    L3Segment {
        /// As that of its broadcast domains.
        plain: bool,
    },
    /// A far gateway.
    Remote {
        /// The largest IP packet of a tenant, in bytes, that crosses to it in VXLAN.
        mtu: u16,
        /// It is no gateway of the mesh: what comes from it may go on to others.
        spoke: bool,
    },
    /// A node behind a device.
    Node {
        /// Its segment.
        vni: Vni,
        /// Its MAC there.
        mac: Mac,
    },
    /// Where a pinned MAC is: an attachment, or the device of a tenant's nodes.
    StaticMac {
        /// The place.
        at: PortAt,
        /// It is a node's.
        node: bool,
    },
    /// A pinned neighbour.
    StaticNeighbour {
        /// Its MAC.
        mac: Mac,
        /// It is this gateway itself.
        own: bool,
    },
    /// A route of a tenant.
    TenantRoute(TenantRoute),
    /// An attachment.
    SegmentPort {
        /// The tenant's L3VNI.
        tenant: Vni,
        /// The segment.
        vni: Vni,
        /// It would close a loop: nothing passes but beacons.
        blocked: bool,
        /// Its device is among [`crate::Observed::near_devices`].
        near: bool,
        /// What is checked of what comes in there.
        guard: PortGuard,
    },
    /// A prefix that an attachment may use.
    GuardIp {
        /// The MAC that must go with it; any without one.
        mac: Option<Mac>,
    },
    /// The port to a tenant's namespace, or to its nodes.
    TenantPort {
        /// The tenant's L3VNI.
        tenant: Vni,
        /// It leads to nodes.
        nodes: bool,
    },
    /// One side of a cross-connect.
    CrossPort {
        /// The other side.
        peer: PortAt,
        /// MAC, IPv4 and IPv6 address to answer questions for.
        answer: Option<(Mac, Option<Ipv4Addr>, Option<std::net::Ipv6Addr>)>,
        /// The kernel's end of the veth, where a `direct` tunnel comes out of the wire.
        tunnel: Option<String>,
    },
    /// The TAP of an engine in user space, for the tunnel that has this device.
    EnginePort {
        /// The WireGuard device.
        tunnel: String,
    },
    /// Ports, sorted.
    Ports(Vec<PortAt>),
    /// A place on a wire.
    Wire(PortAt),
    /// The TAP of an engine in user space.
    EngineWire(String),
    /// A beacon of the loop guard.
    Beacon {
        /// Our Router's MAC.
        origin: Mac,
        /// Segment of the attachment.
        vni: Vni,
        /// Which attachment it is: [`crate::loops::port_id`].
        port_id: u64,
        /// The attachment is blocked.
        blocked: bool,
    },
    /// A path probe.
    Probe {
        /// Our address.
        local: IpAddr,
        /// The far side's.
        remote: IpAddr,
        /// Through this device.
        device: String,
    },
    /// The measurement of what crosses.
    PathMtu {
        /// Our address.
        local: IpAddr,
        /// The far side's.
        remote: IpAddr,
        /// Through this device.
        device: String,
        /// The largest size tried, bytes.
        max: u16,
    },
    /// A BFD session over one hop.
    Bfd {
        /// The namespace that it is in.
        ns: Ns,
        /// Through this device.
        device: String,
        /// Our address.
        local: IpAddr,
        /// The neighbour's.
        remote: IpAddr,
        /// Milliseconds between packets.
        interval_ms: u32,
        /// So many lost in a row are a dead path.
        multiplier: u8,
    },
}

/// A tunnel in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct BundleMember {
    /// The next hop; on link without one.
    pub via: Option<IpAddr>,
    /// Its share is this in the sum of all, 1 … 100.
    pub weight: u8,
}

/// What is checked of what comes in by an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PortGuard {
    /// The source MAC must be one of [`Key::GuardMac`].
    pub macs: bool,
    /// The source address must be in one of [`Key::GuardIp`].
    pub addresses: bool,
    /// No DHCP server may be there.
    pub no_dhcp_server: bool,
    /// No router may be there.
    pub no_router: bool,
    /// The most MACs that are learnt there; 0 for no limit.
    pub macs_max: u32,
    /// Frames per second with more than one receiver; 0 for no limit.
    pub storm_rate: u32,
}

/// A WireGuard device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Wireguard {
    /// Our public key: says which private one is in use without showing it.
    pub own_key: WgKey,
    /// UDP port; 0 for any.
    pub listen_port: u16,
    /// MTU in bytes.
    pub mtu: u16,
    /// DSCP of the outer header.
    pub dscp: Dscp,
    /// Peers by key.
    pub peers: BTreeMap<WgKey, WireguardPeer>,
}

/// A WireGuard peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WireguardPeer {
    /// Where it is reached, in the order of preference before anything was measured; it may roam.
    pub endpoints: Vec<SocketAddr>,
    /// Prefixes behind it, sorted.
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; 0 for none.
    pub keepalive_s: u16,
}

/// What the datapath does with a packet of a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TenantRoute {
    /// An address of this gateway: to the tenant's namespace.
    Own,
    /// A subnet of a segment here.
    Connected {
        /// The segment.
        vni: Vni,
        /// Our address in it, sender of questions.
        gateway: IpAddr,
    },
    /// Out of the overlay, through the tenant's namespace.
    Exit,
    /// A node behind a device.
    Node {
        /// The device.
        device: String,
    },
}

/// All items, by key.
pub type System = BTreeMap<Key, Value>;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "namespace {name}"),
            Self::Vxlan(name) => write!(f, "vxlan device {name}"),
            Self::Veth(name) => write!(f, "veth {name}"),
            Self::Wireguard(name) => write!(f, "wireguard device {name}"),
            Self::Overlay(device) => write!(f, "overlay of {device}"),
            Self::Sysctl(ns, path) => write!(f, "setting {path}{ns}"),
            Self::Address(ns, device, net) => write!(f, "address {net} of {device}{ns}"),
            Self::Neighbour(ns, device, ip) => write!(f, "neighbour {ip} of {device}{ns}"),
            Self::Route(ns, prefix, device) => write!(f, "route {prefix} dev {device}{ns}"),
            Self::Bundle(prefix) => write!(f, "bundle to {prefix}"),
            Self::GatewayEntry => write!(f, "datapath gateway entry"),
            Self::TenantEntry(vni) => write!(f, "datapath tenant {vni}"),
            Self::SegmentEntry(vni) => write!(f, "datapath vni {vni}"),
            Self::TunnelVtep(device, vtep) => write!(f, "datapath vtep {vtep} behind {device}"),
            Self::Remote(vtep) => write!(f, "datapath gateway behind vtep {vtep}"),
            Self::Wire(device) => write!(f, "datapath wire of {device}"),
            Self::NodeEntry(device, ip) => write!(f, "datapath node {ip} behind {device}"),
            Self::StaticMac(vni, mac) => write!(f, "datapath mac {mac} of vni {vni}"),
            Self::StaticNeighbour(vni, ip) => write!(f, "datapath neighbour {ip} of vni {vni}"),
            Self::TenantRoute(vni, prefix) => write!(f, "datapath route {prefix} of tenant {vni}"),
            Self::GuardMac(at, mac) => write!(f, "datapath guard of {at}: mac {mac}"),
            Self::GuardIp(at, net) => write!(f, "datapath guard of {at}: address {net}"),
            Self::Port(at) => write!(f, "datapath port {at}"),
            Self::FloodPorts(vni) => write!(f, "datapath flood ports of vni {vni}"),
            Self::Hook(device, kind) => write!(f, "program {kind:?} on {device}"),
            Self::OverlayInbound(device) => write!(f, "overlay of {device} for what arrives"),
            Self::Beacon(at) => write!(f, "beacon on {at}"),
            Self::Probe(tunnel) => write!(f, "probe of tunnel {tunnel}"),
            Self::PathMtu(tunnel) => write!(f, "path MTU of tunnel {tunnel}"),
            Self::Bfd(owner) => write!(f, "BFD session of {owner}"),
        }
    }
}
