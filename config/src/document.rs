//! The objects an operator writes. One struct a kind; maps are keyed by the object's name.
//!
//! The same document goes to every gateway: each realises the objects that name it and knows the
//! others from the rest. `README.md` shows a whole one.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use jiff::Timestamp;
use serde::Serialize;

use crate::endpoint::Endpoints;
use crate::guard::Guard;
use crate::names::{Asn, IfName, Mac, Mtu, Name, Vid, Vni, WgKey};
use crate::neighbour::{Asns, NeighbourAddress};
use crate::read::{object, read_by_text};
use crate::secret::SecretRef;
use crate::tags::{Tags, Tpid};

object! {
    /// Everything that an operator asks of the gateways.
    #[derive(Default)]
    pub struct Document {
        /// Values that hold for the whole fabric.
        pub fabric: Fabric = Fabric::default(),
        /// Places with gateways.
        pub sites: BTreeMap<Name, Site>,
        /// VMs that run `watari`.
        pub gateways: BTreeMap<Name, Gateway>,
        /// Isolation domains.
        pub tenants: BTreeMap<Name, Tenant>,
        /// L2 broadcast domains that span sites.
        pub segments: BTreeMap<Name, Segment>,
        /// Where segments meet the world.
        pub attachments: BTreeMap<Name, Attachment>,
        /// Links between gateways.
        pub tunnels: BTreeMap<Name, Tunnel>,
        /// Where a tenant leaves the overlay: links to campus and cloud routers.
        pub exits: BTreeMap<Name, Exit>,
        /// BGP neighbours on exits.
        pub peers: BTreeMap<Name, Peer>,
        /// Static routes.
        pub routes: BTreeMap<Name, Route>,
        /// Address ranges from which gateways allocate, sliced.
        pub pools: BTreeMap<Name, Pool>,
        /// Attached machines. Made by `POST /api/v1/nodes`, not written by hand.
        pub nodes: BTreeMap<Name, Node>,
    }
}

object! {
    /// Values that hold for the whole fabric.
    pub struct Fabric {
        /// The gateway MAC that every gateway answers to (anycast).
        pub anycast_mac: Mac = Mac::ANYCAST,
        /// UDP port of VXLAN (RFC 7348: 4789; Docker's swarm uses the same one).
        pub vxlan_port: u16 = 4789,
        /// DSCP of the outer header of VXLAN: `inherit` the inner one's (uniform model), or a number from 0 to 63
        /// for all (pipe model, RFC 2983).
        pub dscp: Dscp = Dscp::Inherit,
        /// Who writes the outer header: `auto`, the programs where they can, or `device`, the VXLAN device always.
        pub encapsulation: Encapsulation = Encapsulation::Auto,
    }
}

impl Default for Fabric {
    fn default() -> Self {
        Self {
            anycast_mac: Mac::ANYCAST,
            vxlan_port: 4789,
            dscp: Dscp::Inherit,
            encapsulation: Encapsulation::Auto,
        }
    }
}

/// DSCP of the outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// That of the inner header (uniform model, RFC 2983 section 4.1).
    Inherit,
    /// One for all packets, 0 … 63 (pipe model, RFC 2983 section 4).
    Fixed(u8),
}

impl std::str::FromStr for Dscp {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "inherit" {
            return Ok(Self::Inherit);
        }
        let number = s.parse().ok().filter(|n| *n <= 63);
        number.map(Self::Fixed).ok_or_else(|| "must be inherit or a number from 0 to 63".to_owned())
    }
}

impl Serialize for Dscp {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Inherit => s.serialize_str("inherit"),
            Self::Fixed(number) => s.serialize_u8(*number),
        }
    }
}
read_by_text!(Dscp);

/// Who writes the outer header of VXLAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Encapsulation {
    /// The programs where they can, the VXLAN device for the rest.
    Auto,
    /// The VXLAN device, always.
    Device,
}

object! {
    /// A place with one or more gateways.
    pub struct Site {
        /// For people.
        pub description: String = String::new(),
    }
}

object! {
    /// A VM that runs `watari`: a VTEP (RFC 7348) and EVPN PE (RFC 7432, RFC 8365).
    pub struct Gateway {
        /// The site it stands at.
        pub site: Name,
        /// Underlay address of the VTEP, IPv4 or IPv6; those of all gateways are of one family.
        pub vtep: IpAddr,
        /// BGP identifier (RFC 6286), unique among the gateways; the VTEP address where that is IPv4.
        pub router_id: Option<Ipv4Addr>,
        /// Its AS number; gateways of one number speak iBGP.
        pub asn: Asn,
        /// The device towards the WAN: VXLAN that arrives there is dropped.
        pub uplink: Option<IfName>,
        /// Devices that carry 802.1Q VLANs.
        pub trunks: Vec<IfName>,
        /// The address under which WireGuard of other gateways and nodes reaches it.
        pub public_address: Option<IpAddr>,
        /// Its WireGuard public key, as `watari facts` shows it.
        pub wireguard_key: Option<WgKey>,
    }
}

object! {
    /// An isolation domain with an address space and a routing table of its own.
    pub struct Tenant {
        /// VNI of routed traffic between gateways (RFC 9135 section 4, RFC 9136 section 4.4).
        pub l3vni: Vni,
        /// UDP port of the tenant's node-facing WireGuard device at each gateway.
        pub node_port: u16 = 51900,
        /// Its BGP peers exchange routes with each other and no more: what they tell is used for no packet of ours
        /// and told to no other gateway. For a route server, a reflector or a collector.
        pub exchange_only: bool = false,
    }
}

object! {
    /// One L2 broadcast domain that spans sites.
    pub struct Segment {
        /// The tenant it belongs to.
        pub tenant: Name,
        /// Its VXLAN network identifier.
        pub vni: Vni,
        /// Its subnets, at most one of each family.
        pub subnets: Vec<IpNet>,
        /// The gateway's addresses, one in each subnet, the same at every gateway (anycast).
        pub gateway: Vec<IpAddr>,
        /// MTU of the hosts in bytes. It may be more than a tunnel carries.
        pub mtu: Mtu,
        /// What happens to a frame for a MAC that nobody knows.
        pub unknown_unicast: Flooding = Flooding::Flood,
        /// What happens to broadcast that the gateway does not answer itself.
        pub broadcast: Flooding = Flooding::Flood,
        /// What happens to multicast.
        pub multicast: Flooding = Flooding::Flood,
        /// Broadcast, multicast and unknown-unicast frames per second that one gateway lets through.
        pub flood_rate: u32 = 1000,
        /// Seconds without a frame after which a station is forgotten, 10 … 1,000,000 (IEEE 802.1Q section 8.8.3).
        pub mac_age_s: u32 = 300,
        /// Hosts that are pinned to an attachment: nobody else may use their MAC or addresses.
        pub static_hosts: Vec<StaticHost>,
    }
}

object! {
    /// A host that is pinned to an attachment.
    pub struct StaticHost {
        /// Its MAC.
        pub mac: Mac,
        /// Its addresses in the segment.
        pub addresses: Vec<IpAddr>,
        /// The attachment that it is behind.
        pub attachment: Name,
    }
}

/// What happens to a frame that has more than one receiver, or a receiver that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Flooding {
    /// It goes to every attachment of the segment, within `flood_rate`.
    Flood,
    /// It is dropped and counted.
    Drop,
}

object! {
    /// A VLAN of a trunk: one tag, or two (QinQ). A frame with two tags belongs to the pair alone, never to its
    /// outer VLAN.
    pub struct VlanPort {
        /// The device.
        pub trunk: IfName,
        /// The VLAN id of the only tag, or of the outer one.
        pub vid: Vid,
        /// The VLAN id of the inner tag (QinQ).
        pub inner_vid: Option<Vid>,
        /// The kind of the only or outer tag: `802.1q`, or `802.1ad` (an S-tag). Where nothing is said, 802.1ad
        /// with an inner tag and 802.1q without one.
        pub outer_tpid: Option<Tpid>,
    }
}

impl VlanPort {
    /// The tags.
    pub fn tags(&self) -> Tags {
        match (self.inner_vid, self.outer_tpid) {
            (Some(inner), tpid) => Tags::Double(tpid.unwrap_or(Tpid::Dot1ad), self.vid, inner),
            (None, tpid) => Tags::Single(tpid.unwrap_or(Tpid::Dot1q), self.vid),
        }
    }
}

object! {
    /// Where a segment meets the world at a gateway: a VLAN of a trunk, or a whole interface, untagged.
    pub struct Attachment {
        /// The gateway.
        pub gateway: Name,
        /// The segment.
        pub segment: Name,
        /// A VLAN of a trunk …
        pub vlan: Option<VlanPort>,
        /// … or a device of its own; a trunk's untagged frames, if it is a trunk.
        pub interface: Option<IfName>,
        /// Beacons are sent from it, and it is blocked while it would close a loop.
        pub loop_guard: bool = true,
        /// What the hosts there may send.
        pub guard: Option<Guard>,
    }
}

/// Whether something may be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Permit {
    /// It may.
    Allow,
    /// What it sends is dropped and counted.
    Deny,
}

/// How large packets of a tunnel may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelMtu {
    /// As large as the device below the tunnel allows.
    Auto,
    /// No larger than this.
    Bytes(Mtu),
}

impl TunnelMtu {
    /// The number, where there is one.
    pub fn bytes(self) -> Option<Mtu> {
        match self {
            Self::Auto => None,
            Self::Bytes(mtu) => Some(mtu),
        }
    }
}

impl std::str::FromStr for TunnelMtu {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "auto" {
            return Ok(Self::Auto);
        }
        s.parse()
            .map(Self::Bytes)
            .map_err(|error: crate::names::NameError| format!("must be auto, or {error}"))
    }
}

impl Serialize for TunnelMtu {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => s.serialize_str("auto"),
            Self::Bytes(mtu) => mtu.serialize(s),
        }
    }
}
read_by_text!(TunnelMtu);

impl Tunnel {
    /// What it is taken to carry before anything was measured, in bytes: the number in the document, else what crosses any
    /// Ethernet: 1500, less 80 of WireGuard over IPv6.
    pub fn assumed_mtu(&self) -> u16 {
        match self.mtu {
            TunnelMtu::Bytes(mtu) => mtu.get(),
            TunnelMtu::Auto if self.wireguard.is_some() => 1420,
            TunnelMtu::Auto => 1500,
        }
    }
}

object! {
    /// A link between two gateways that carries the overlay: `wireguard` or `direct`.
    pub struct Tunnel {
        /// The two gateways.
        pub between: Vec<Name>,
        /// WireGuard over any IP path …
        pub wireguard: Option<WireguardTunnel>,
        /// … or plain VXLAN over a trusted VLAN of the L2VPN.
        pub direct: Option<DirectTunnel>,
        /// The largest IP packet it may be asked to carry: `auto`, what the device below it allows, or a number of bytes. What
        /// really crosses is measured, and never exceeded.
        pub mtu: TunnelMtu = TunnelMtu::Auto,
        /// The tunnel with the lowest number carries the traffic while it is up. WireGuard tunnels of one number share it by
        /// flow.
        pub preference: u16 = 100,
        /// Its share among tunnels of one preference between the same gateways, 1 … 100: this in the sum of those that are
        /// up.
        pub weight: u8 = 1,
    }
}

object! {
    /// A WireGuard tunnel.
    pub struct WireguardTunnel {
        /// Address or DNS name, and UDP port, at which each gateway is reached, by the gateway's name: one, or a list of
        /// up to 8 for a gateway with several uplinks or both families, of which the best by measurement is used. One of
        /// the two gateways may be absent: that one starts the handshake.
        pub endpoints: BTreeMap<Name, Endpoints>,
        /// UDP port each gateway listens on, where it is not the endpoint's.
        pub listen_ports: BTreeMap<Name, u16>,
        /// Seconds between keepalives; 0 for none.
        pub keepalive_s: u16 = 15,
        /// DSCP of the outer header: `inherit` the inner one's (uniform model), or a number from 0 to 63 for all (pipe
        /// model, RFC 2983). The kernel's WireGuard knows 0 alone. ECN crosses in either case (RFC 6040).
        pub dscp: Dscp = Dscp::Fixed(0),
    }
}

object! {
    /// Plain VXLAN over a trusted VLAN.
    pub struct DirectTunnel {
        /// Each gateway's end, by the gateway's name.
        pub ends: BTreeMap<Name, DirectEnd>,
    }
}

object! {
    /// One end of a direct tunnel.
    pub struct DirectEnd {
        /// The VLAN of the trunk.
        pub vlan: VlanPort,
        /// The gateway's address on that VLAN, with its prefix length.
        pub address: IpNet,
    }
}

object! {
    /// Where a tenant leaves the overlay at a gateway: addresses of the gateway on a VLAN or an interface,
    /// in the tenant's network namespace. Campus and cloud routers are its neighbours.
    pub struct Exit {
        /// The tenant.
        pub tenant: Name,
        /// The gateway.
        pub gateway: Name,
        /// A VLAN of a trunk …
        pub vlan: Option<VlanPort>,
        /// … or a device of its own.
        pub interface: Option<IfName>,
        /// The gateway's addresses there, with prefix length.
        pub addresses: Vec<IpNet>,
        /// MTU in bytes.
        pub mtu: Mtu = Mtu::new(1500).expect("in range"),
    }
}

object! {
    /// A BGP neighbour on an exit, or all who come from a prefix.
    pub struct Peer {
        /// The exit on which it is.
        pub exit: Name,
        /// Its address; or a prefix, as in `10.30.0.0/24`: then whoever connects from there and is of one of the ASes is
        /// a neighbour of its own, `NAME@ADDRESS`, for as long as there is a connection or anything is kept of it.
        pub address: NeighbourAddress,
        /// Its AS number; of neighbours of a prefix also a list, as in `[65001, 65010-65020]`, of which each says one in its
        /// OPEN and stays with it.
        pub asn: Asns,
        /// The most neighbours of a prefix at a time, 1 … 1024.
        pub neighbours_max: u16 = 64,
        /// The families exchanged; that of its address where nothing is said.
        pub families: Vec<Family>,
        /// Seconds without a message after which the session is given up (RFC 4271 section 4.2): 3 at least, or 0 for
        /// never, which neighbours of a prefix may not have.
        pub hold_time_s: u16 = 90,
        /// Seconds it shall keep our routes while we restart (RFC 4724 section 3), 1 … 4095.
        pub restart_time_s: u16 = 120,
        /// Prefixes taken from it, these and longer ones. Nothing without it (RFC 8212).
        pub accept: Vec<IpNet>,
        /// Prefixes told to it, these and longer ones. Nothing without it (RFC 8212).
        pub announce: Vec<IpNet>,
        /// The most prefixes taken from it in one family; one more ends the session (RFC 4486 section 4).
        pub prefixes_max: u32 = 100_000,
        /// At so many percent of `prefixes_max` an event warns; 0 for none.
        pub prefixes_warn_percent: u8 = 80,
        /// Seconds for which a neighbour that has told too much is left alone; without it the session is tried again as
        /// after any error, first after seconds, later every two minutes.
        pub prefixes_restart_s: Option<u32>,
        /// What this gateway is to the neighbour (RFC 9234): routes of a provider or peer then never reach another one,
        /// and the neighbour's own role must fit if it says one.
        pub role: Option<PeerRole>,
        /// A neighbour that does not say its role is refused (RFC 9234 section 4.2, strict mode).
        pub role_strict: bool = false,
        /// Takes paths with an AS_SET, which RFC 9774 would have refused.
        pub as_sets: bool = false,
        /// Takes routes with the BLACKHOLE community within `accept`: what is sent to them is dropped here (RFC 7999).
        pub blackhole: bool = false,
        /// Seconds, with a jitter of a quarter less, between two times that the neighbour is told of a route, 600 at most: of one
        /// that changes more often meanwhile the last state (RFC 4271 section 9.2.1.1). 0: at once.
        pub advertisement_interval_s: u16 = 0,
        /// Several paths of a route (RFC 7911); the neighbour must want the same.
        pub add_path: Option<AddPath>,
        /// Keeps the session down, until this is taken back.
        pub disabled: bool = false,
        /// Why, as the neighbour is told (RFC 9003): at most 255 bytes.
        pub disabled_because: Option<String>,
        /// Seconds between two tries to connect.
        pub connect_retry_s: u16 = 5,
        /// Waits for the neighbour to connect.
        pub passive: bool = false,
        /// Where the password of the session is, which both sides sign each segment with (TCP MD5, RFC 2385):
        /// `file:/PATH`, the first line, or `env:NAME`. A file is read again when it changes, and the session goes on.
        pub password: Option<SecretRef>,
        /// The neighbour is at most so many hops away, 1 for one on the link, and must say so too: packets that have
        /// come further are dropped (RFC 5082).
        pub ttl_security_hops: Option<u8>,
        /// The neighbour need not be on the link: the TTL of what we send to it, 2 … 255, one more than there are routers on
        /// the way. A next hop that is on no exit is reached as the tenant's `routes` say.
        pub multihop_ttl: Option<u8>,
        /// Our own address of the session, one of the exit's: that of the neighbour's subnet where nothing is said, and for
        /// one further away the first of its family.
        pub source: Option<IpAddr>,
        /// Whether packets cross is watched by BFD, and the session ends at once when they do not.
        pub bfd: Option<Bfd>,
    }
}

object! {
    /// Several paths of a route on one BGP session, each with an identifier (RFC 7911). What a neighbour tells counts path
    /// by path, for `prefixes_max` too.
    pub struct AddPath {
        /// Of which families; of all that are exchanged where nothing is said.
        pub families: Vec<Family>,
        /// The neighbour may tell several.
        pub receive: bool = true,
        /// How many the neighbour is told: `all`, or `best 2` for the two best ones. Those that it may not have do not count;
        /// of the rest it is not told its own. Without it, the best one alone.
        pub send: Option<PathsSent>,
    }
}

/// How many paths of a route a neighbour is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathsSent {
    /// All.
    All,
    /// So many, the best ones.
    Best(u16),
}

impl std::str::FromStr for PathsSent {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        if s == "all" {
            return Ok(Self::All);
        }
        let number = s.strip_prefix("best ").and_then(|number| number.trim().parse().ok());
        let number = number.filter(|number| *number > 0);
        number.map(Self::Best).ok_or_else(|| "must be all, or best and a number, as in best 2".to_owned())
    }
}

impl Serialize for PathsSent {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => s.serialize_str("all"),
            Self::Best(number) => s.serialize_str(&format!("best {number}")),
        }
    }
}
read_by_text!(PathsSent);

object! {
    /// Bidirectional Forwarding Detection with a BGP neighbour on the same link (RFC 5880, RFC 5881). The
    /// neighbour is missed after `multiplier` times the longer one of both sides' intervals; by default 0.9 s.
    pub struct Bfd {
        /// Milliseconds between packets, ours and, at the most often, the neighbour's.
        pub interval_ms: u32 = 300,
        /// So many packets lost in a row are a dead path.
        pub multiplier: u8 = 3,
    }
}

/// What a gateway is to a BGP neighbour (RFC 9234 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PeerRole {
    /// The neighbour is our customer.
    Provider,
    /// The neighbour is our provider.
    Customer,
    /// Both are peers: each tells its own and its customers' routes.
    Peer,
    /// We are a route server, the neighbour is a client.
    RouteServer,
    /// The neighbour is a route server.
    RouteServerClient,
}

/// An address family of a BGP session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// IPv4 unicast.
    Ipv4,
    /// IPv6 unicast.
    Ipv6,
}

object! {
    /// A static route at a gateway, in a tenant or, without one, in the underlay.
    pub struct Route {
        /// The gateway.
        pub gateway: Name,
        /// The tenant; the underlay without one.
        pub tenant: Option<Name>,
        /// Where to.
        pub prefix: IpNet,
        /// The next hop: for a tenant a neighbour on one of its exits. In the underlay any neighbour, or the VTEP of
        /// another gateway: then the prefix is reached through the tunnels to it, without VXLAN, and what comes from
        /// the prefix is taken from these tunnels.
        pub via: IpAddr,
    }
}

object! {
    /// Addresses of a segment that gateways may allocate, in slices: two gateways never hand out the same.
    pub struct Pool {
        /// The segment.
        pub segment: Name,
        /// Each gateway's own slices, at most one of each family, by the gateway's name. The first
        /// address of a slice is the gateway's own probe address.
        pub slices: BTreeMap<Name, Vec<IpNet>>,
    }
}

/// What kind of machine a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeKind {
    /// With GPUs.
    Gpu,
    /// Without.
    Cpu,
}

/// How a node is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeMode {
    /// A /32 and /128 of the segment behind WireGuard.
    L3,
}

object! {
    /// An attached machine.
    pub struct Node {
        /// The gateway that serves it.
        pub gateway: Name,
        /// The segment it is in.
        pub segment: Name,
        /// What kind of machine it is.
        pub kind: NodeKind,
        /// How it is attached.
        pub mode: NodeMode = NodeMode::L3,
        /// Its addresses, one of each family of the segment.
        pub addresses: Vec<IpAddr>,
        /// The MAC under which the hosts of the segment see it.
        pub mac: Mac,
        /// Its WireGuard key: known once it has enrolled.
        pub public_key: Option<WgKey>,
        /// SHA-256, in hexadecimal, of the one-shot token; gone once it was used.
        pub token_sha256: Option<String>,
        /// When it was asked for.
        pub created: Timestamp,
        /// Until when it may live.
        pub expires: Timestamp,
    }
}

macro_rules! words {
    ($type:ty { $($word:literal => $value:expr),* $(,)? }) => {
        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(s: &str) -> Result<Self, String> {
                match s {
                    $($word => Ok($value),)*
                    _ => Err(format!("must be one of {}", [$($word),*].join(", "))),
                }
            }
        }
        read_by_text!($type);
    };
}
words!(Encapsulation { "auto" => Self::Auto, "device" => Self::Device });
words!(Permit { "allow" => Self::Allow, "deny" => Self::Deny });
words!(Flooding { "flood" => Self::Flood, "drop" => Self::Drop });
words!(Family { "ipv4" => Self::Ipv4, "ipv6" => Self::Ipv6 });
words!(PeerRole {
    "provider" => Self::Provider,
    "customer" => Self::Customer,
    "peer" => Self::Peer,
    "route-server" => Self::RouteServer,
    "route-server-client" => Self::RouteServerClient,
});
words!(NodeKind { "gpu" => Self::Gpu, "cpu" => Self::Cpu });
words!(NodeMode { "l3" => Self::L3 });

/// The kinds of object of a document, in the order in which they are listed.
pub const KINDS: [&str; 11] = [
    "sites",
    "gateways",
    "tenants",
    "segments",
    "attachments",
    "tunnels",
    "exits",
    "peers",
    "routes",
    "pools",
    "nodes",
];

impl Tunnel {
    /// The gateway at the other end, seen from `this`; `None` when `this` is not at an end.
    pub fn far<'a>(&'a self, this: &Name) -> Option<&'a Name> {
        match self.between.as_slice() {
            [a, b] if a == this => Some(b),
            [a, b] if b == this => Some(a),
            _ => None,
        }
    }
}

impl Peer {
    /// Whether it may be further away than the link.
    pub fn is_far(&self) -> bool {
        self.multihop_ttl.is_some() || self.ttl_security_hops.is_some_and(|hops| hops > 1)
    }

    /// Our address of its sessions.
    pub fn local(&self, exit: &Exit) -> Option<IpAddr> {
        let near = || exit.addresses.iter().find(|net| self.address.is_within(net));
        let is_of_family = |net: &&IpNet| net.addr().is_ipv4() == self.address.is_ipv4();
        let far = || exit.addresses.iter().find(is_of_family).filter(|_| self.is_far());
        self.source.or_else(|| near().or_else(far).map(IpNet::addr))
    }

    /// The families exchanged: those given, or that of the neighbour's address.
    pub fn families(&self) -> Vec<Family> {
        if !self.families.is_empty() {
            return self.families.clone();
        }
        vec![if self.address.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }]
    }
}
