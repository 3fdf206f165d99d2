//! Tables that the plan writes: what is configured, not learnt. Few entries, changed by the operator.

use crate::{Ip4Bytes, IpBytes, MacBytes};

/// The one entry of the map `config`: what every program must know about this gateway.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The collect-metadata VXLAN device; 0 while there is none (nothing is then sent to a VTEP).
    pub vxlan_ifindex: u32,
    /// UDP port of VXLAN.
    pub vxlan_port: u16,
    /// [`Config::OWN_ENCAP`] and so on.
    pub flags: u8,
    /// DSCP of the outer header, 0–63 (pipe model, RFC 2983 §4); [`Config::DSCP_INNER`] copies the inner one's.
    pub dscp: u8,
    /// Our own VTEP address, source of every encapsulated packet.
    pub local_vtep: IpBytes,
    /// The gateway MAC, the same at every gateway of the fabric.
    pub anycast_mac: MacBytes,
    /// Our unique MAC: Router's MAC of EVPN (RFC 9135 §3.2) and source of our probes.
    pub router_mac: MacBytes,
    /// Where the VXLAN device counts, as in [`Port::slot`]; given out by the loader.
    pub vxlan_slot: u32,
}

impl Config {
    /// The programs write and take off VXLAN headers themselves where they can; without it everything goes
    /// through the VXLAN device.
    pub const OWN_ENCAP: u8 = 1;
    /// [`Config::dscp`]: the inner DSCP is copied to the outer header (uniform model, RFC 2983 §4.1).
    pub const DSCP_INNER: u8 = 0xff;
}

/// What a frame came in by, and what one goes out by: a device and its VLAN tags. 0 means no tag.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortKey {
    /// Index of the device.
    pub ifindex: u32,
    /// VLAN id of the outer (or only) tag, 1–4094, with [`PortKey::S_TAG`] if it is an 802.1ad one; 0 for untagged.
    pub outer: u16,
    /// VLAN id of the inner tag (802.1Q); 0 for one tag or none.
    pub inner: u16,
}

impl PortKey {
    /// In [`PortKey::outer`]: the tag is an S-tag (802.1ad, TPID 0x88a8) and not an 802.1Q one (0x8100).
    pub const S_TAG: u16 = 0x8000;

    /// A device, untagged.
    #[must_use]
    pub const fn untagged(ifindex: u32) -> Self {
        Self { ifindex, outer: 0, inner: 0 }
    }
    /// A VLAN of a device.
    #[must_use]
    pub const fn vlan(ifindex: u32, vid: u16) -> Self {
        Self { ifindex, outer: vid, inner: 0 }
    }
    /// A C-VLAN inside an S-VLAN of a device (QinQ).
    #[must_use]
    pub const fn qinq(ifindex: u32, s_vid: u16, c_vid: u16) -> Self {
        Self { ifindex, outer: s_vid | Self::S_TAG, inner: c_vid }
    }
}

/// What stands behind a port.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortKind {
    /// An attachment of a segment: a VLAN of a trunk, or a local interface.
    Segment = 1,
    /// The veth into a tenant's namespace: the gateway's own IP stack.
    Core = 2,
    /// One end of a cross-connect: everything goes on to the other end.
    Cross = 3,
    /// The L3 device behind which a tenant's nodes are.
    Node = 4,
}

impl PortKind {
    /// The kind with this number.
    #[must_use]
    pub const fn from_u8(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Segment,
            2 => Self::Core,
            3 => Self::Cross,
            4 => Self::Node,
            _ => return None,
        })
    }
}

/// Map `ports`: [`PortKey`] → what to do with a frame from there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// A [`PortKind`].
    pub kind: u8,
    /// [`Port::BLOCKED`] and so on.
    pub flags: u8,
    /// `Segment`: what its guard checks, [`Port::GUARD_MAC`] and so on; 0 for no guard.
    pub guard: u16,
    /// `Segment`: its VNI. `Cross`: 0. Else 0.
    pub vni: u32,
    /// The tenant (`Segment`, `Core`, `Node`).
    pub tenant: u32,
    /// `Cross`: where everything goes.
    pub peer: PortKey,
    /// `Cross`, the side of the wire: the MAC to answer with for the two addresses below.
    pub answer_mac: MacBytes,
    /// `Cross`: the IPv4 address that is answered for; zero for none.
    pub answer_v4: Ip4Bytes,
    /// Zero.
    pub pad: u16,
    /// `Cross`: the IPv6 address that is answered for; zero for none.
    pub answer_v6: IpBytes,
    /// `Cross` with [`Port::TUNNEL`], the side of the wire: the tunnel's device (the kernel's end of the veth), under
    /// which VTEPs are bound in the map `vteps`.
    pub tunnel_ifindex: u32,
    /// `Segment` with [`Port::GUARD_LIMIT`]: the most MACs learnt there.
    pub macs_max: u32,
    /// `Segment` with [`Port::GUARD_STORM`]: broadcast, multicast and unknown-unicast frames per second.
    pub storm_rate: u32,
    /// How many of them at once.
    pub storm_burst: u32,
    /// Where the port counts: index into the map `port_counts`, given out by the loader and never the plan's; 0 for none,
    /// and the port counts by its key, in `port_stats`.
    pub slot: u32,
}

impl Port {
    /// [`Port::flags`]: frames are dropped, beacons apart (the loop guard).
    pub const BLOCKED: u8 = 1;
    /// [`Port::flags`], `Cross`: a `direct` tunnel comes out of the wire here.
    pub const TUNNEL: u8 = 2;
    /// [`Port::flags`], `Cross` with [`Port::TUNNEL`]: the TAP of a WireGuard engine in user space. Nothing but VXLAN with an IP
    /// packet inside comes out of it, aggregates carry no tunnel state of the kernel, and there is no other end.
    pub const ENGINE: u8 = 8;
    /// [`Port::flags`], `Segment`: the device is a veth without a queue whose other end is in another network namespace.
    pub const NEAR: u8 = 4;

    /// [`Port::guard`]: the source MAC must be in `guard_macs`.
    pub const GUARD_MAC: u16 = 1;
    /// The source address, and senders of ARP and ND, must be in `guard_ips`.
    pub const GUARD_IP: u16 = 2;
    /// No DHCP server may be there.
    pub const GUARD_DHCP: u16 = 4;
    /// No router may be there: no router advertisement, no redirect.
    pub const GUARD_ROUTER: u16 = 8;
    /// At most `macs_max` MACs are learnt.
    pub const GUARD_LIMIT: u16 = 16;
    /// At most `storm_rate` frames per second that have more than one receiver.
    pub const GUARD_STORM: u16 = 32;

    /// An attachment of segment `vni`.
    #[must_use]
    pub fn segment(tenant: u32, vni: u32) -> Self {
        Self { kind: PortKind::Segment as u8, vni, tenant, ..Self::default() }
    }
    /// The veth to a tenant's namespace.
    #[must_use]
    pub fn core(tenant: u32) -> Self {
        Self { kind: PortKind::Core as u8, tenant, ..Self::default() }
    }
    /// The device of a tenant's nodes.
    #[must_use]
    pub fn node(tenant: u32) -> Self {
        Self { kind: PortKind::Node as u8, tenant, ..Self::default() }
    }
    /// The TAP of an engine, for the tunnel that has this device.
    #[must_use]
    pub fn engine(tunnel_ifindex: u32) -> Self {
        let flags = Self::TUNNEL | Self::ENGINE;
        Self { kind: PortKind::Cross as u8, flags, tunnel_ifindex, ..Self::default() }
    }
    /// One side of a cross-connect, without an address to answer for.
    #[must_use]
    pub fn cross(peer: PortKey) -> Self {
        Self { kind: PortKind::Cross as u8, peer, ..Self::default() }
    }
}

/// What a VNI stands for.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentKind {
    /// A broadcast domain.
    L2 = 1,
    /// The routed VNI of a tenant (symmetric IRB, RFC 9135).
    L3 = 2,
}

/// Map `segments`: VNI → its tenant and its policy for what has more than one receiver.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// A [`SegmentKind`].
    pub kind: u8,
    /// [`Segment::FLOOD_UNKNOWN`] and so on.
    pub flags: u8,
    /// MTU of the segment in bytes; 0 for not set.
    pub mtu: u16,
    /// The tenant.
    pub tenant: u32,
    /// Copied frames per second (broadcast, multicast, unknown unicast, and questions of our own); 0 stops all.
    pub flood_rate: u32,
    /// How many of them at once.
    pub flood_burst: u32,
}

impl Segment {
    /// Unknown unicast is flooded instead of dropped.
    pub const FLOOD_UNKNOWN: u8 = 1;
    /// Broadcast is flooded.
    pub const FLOOD_BROADCAST: u8 = 2;
    /// Multicast is flooded.
    pub const FLOOD_MULTICAST: u8 = 4;
    /// Every device behind which the tenant's hosts and nodes are here takes an aggregate that the programs
    /// have decapsulated (a veth does; an Ethernet driver may stumble over tunnel state that stays on it).
    pub const PLAIN_DEVICES: u8 = 8;

    /// A broadcast domain that floods broadcast and multicast at `flood_rate` frames per second.
    #[must_use]
    pub const fn l2(tenant: u32, flood_rate: u32, flood_burst: u32) -> Self {
        Self {
            kind: SegmentKind::L2 as u8,
            flags: Self::FLOOD_BROADCAST | Self::FLOOD_MULTICAST,
            mtu: 0,
            tenant,
            flood_rate,
            flood_burst,
        }
    }
    /// A tenant's routed VNI.
    #[must_use]
    pub const fn l3(tenant: u32) -> Self {
        Self { kind: SegmentKind::L3 as u8, flags: 0, mtu: 0, tenant, flood_rate: 0, flood_burst: 0 }
    }
}

/// Map `tenants`: tenant → the port to its namespace and its L3VNI.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tenant {
    /// The root end of the veth to the namespace; 0 for none.
    pub core_ifindex: u32,
    /// VNI of routed traffic between gateways; 0 for none.
    pub l3vni: u32,
    /// MAC of the far end (`wt-core`) of that veth.
    pub core_mac: MacBytes,
    /// Zero.
    pub pad: u16,
}

/// Most local ports of one segment on one gateway that a frame is copied to.
pub const FLOOD_PORTS_MAX: usize = 32;
/// Most remote gateways that a frame of one segment is copied to.
pub const FLOOD_VTEPS_MAX: usize = 128;

/// Map `flood_ports`: VNI → local ports that get a copy. Written by the plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodPorts {
    /// How many of `ports` are valid.
    pub count: u32,
    /// The ports, the first `count` valid, the rest zero.
    pub ports: [PortKey; FLOOD_PORTS_MAX],
}

impl FloodPorts {
    /// A list; `None` if there are more than [`FLOOD_PORTS_MAX`].
    #[must_use]
    pub fn new(list: &[PortKey]) -> Option<Self> {
        let mut ports = [PortKey::default(); FLOOD_PORTS_MAX];
        ports.get_mut(..list.len())?.copy_from_slice(list);
        Some(Self { count: list.len() as u32, ports })
    }
    /// The valid part.
    #[must_use]
    pub fn as_slice(&self) -> &[PortKey] {
        self.ports.get(..self.count as usize).unwrap_or(&self.ports)
    }
}

/// Map `flood_vteps`: VNI → remote VTEPs that get a copy (head-end replication, RFC 8365 §5.1.3
/// from EVPN type 3). Written by the EVPN syncer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloodVteps {
    /// How many of `vteps` are valid.
    pub count: u32,
    /// The VTEPs, the first `count` valid, the rest zero.
    pub vteps: [IpBytes; FLOOD_VTEPS_MAX],
}

impl FloodVteps {
    /// A list; `None` if there are more than [`FLOOD_VTEPS_MAX`].
    #[must_use]
    pub fn new(list: &[IpBytes]) -> Option<Self> {
        let mut vteps = [IpBytes::default(); FLOOD_VTEPS_MAX];
        vteps.get_mut(..list.len())?.copy_from_slice(list);
        Some(Self { count: list.len() as u32, vteps })
    }
    /// The valid part.
    #[must_use]
    pub fn as_slice(&self) -> &[IpBytes] {
        self.vteps.get(..self.count as usize).unwrap_or(&self.vteps)
    }
}

/// Key of the map `vteps`: a tunnel device and a VTEP that may be the outer source of VXLAN from it.
/// The value is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelKey {
    /// The tunnel device.
    pub ifindex: u32,
    /// The remote VTEP behind it.
    pub vtep: IpBytes,
}

/// Map `remotes`: VTEP → what is known of the gateway (or spoke) behind it. Written by the plan. A VTEP
/// without an entry is a mesh gateway of unknown path MTU.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// The largest IP packet of a tenant, in bytes, that crosses to it in VXLAN; 0 for not known.
    pub mtu: u16,
    /// [`Remote::SPOKE`].
    pub flags: u8,
    /// Zero.
    pub pad: u8,
}

impl Remote {
    /// A spoke (an L2 node): what comes from it may go on to gateways and to other spokes. Between gateways
    /// (the mesh) nothing is passed on.
    pub const SPOKE: u8 = 1;
}

/// Map `wires`: a tunnel's device, as a route look-up names it → where VXLAN for it goes instead: the wire on which a
/// `direct` tunnel's packets meet the network, or the TAP of a WireGuard engine in user space. Written by the plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wire {
    /// The trunk and its tags, or the TAP.
    pub port: PortKey,
    /// [`Wire::ENGINE`].
    pub flags: u32,
}

impl Wire {
    /// [`Wire::flags`]: the TAP of an engine, which takes VXLAN with the packet inside whole. No next hop, no
    /// encapsulation in the kernel's sense: the outer header stands before the frame, and the engine repeats it before every segment.
    pub const ENGINE: u32 = 1;

    /// Where a `direct` tunnel meets the network.
    #[must_use]
    pub const fn direct(port: PortKey) -> Self {
        Self { port, flags: 0 }
    }
    /// The TAP of an engine.
    #[must_use]
    pub const fn engine(ifindex: u32) -> Self {
        Self { port: PortKey::untagged(ifindex), flags: Self::ENGINE }
    }
}

/// Key of the map `guard_macs`, written by the plan: a MAC that a guarded attachment may use. The value is 1.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuardMacKey {
    /// The attachment.
    pub port: PortKey,
    /// The address.
    pub mac: MacBytes,
    /// Zero.
    pub pad: u16,
}

/// Data of a key of the longest-prefix map `guard_ips`, written by the plan: a prefix that a guarded attachment may
/// use. The prefix length counts the 64 bits of the port. IPv4 is IPv4-mapped (96 bits more).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuardIpKey {
    /// The attachment.
    pub port: PortKey,
    /// The prefix, host bits zero.
    pub ip: IpBytes,
}

/// Map `guard_ips`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardIp {
    /// The MAC that must go with the address; zero for any.
    pub mac: MacBytes,
    /// Zero.
    pub pad: u16,
}

/// Key of the map `nodes`: the L3 device and one address of a node behind it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeKey {
    /// The tenant's node device.
    pub ifindex: u32,
    /// An address of the node.
    pub ip: IpBytes,
}

/// Map `nodes`: the node's place in the flat network. A packet from the device whose source is not
/// in this map is dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The segment that the address belongs to.
    pub vni: u32,
    /// The MAC that stands for the node in the segment.
    pub mac: MacBytes,
    /// Zero.
    pub pad: u16,
}
