//! Path attributes as the RIB keeps them: parsed once, compared and interned as one value.
//!
//! The wire form is in [`crate::wire`]. Field order is the order of the type codes; what the speaker does
//! not know but must pass on (optional transitive, RFC 4271 §5) is in [`PathAttributes::unknown`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::community::{Community, ExtCommunity, LargeCommunity, NeighbourFlags, RouteTarget};
use crate::types::{Asn, MacAddr, RouterId};

/// ORIGIN (RFC 4271 §5.1.1); a lower value is preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Interior to the originating AS.
    #[default]
    Igp,
    /// Learnt by EGP.
    Egp,
    /// By other means.
    Incomplete,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Origin::Igp => "igp",
            Origin::Egp => "egp",
            Origin::Incomplete => "incomplete",
        })
    }
}

/// One segment of an AS_PATH.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum AsSegment {
    /// Ordered.
    Sequence(Vec<Asn>),
    /// Unordered; counts as one hop.
    Set(Vec<Asn>),
    /// Ordered, within a confederation (RFC 5065); counts as nothing.
    ConfedSequence(Vec<Asn>),
    /// Unordered, within a confederation; counts as nothing.
    ConfedSet(Vec<Asn>),
}

/// AS_PATH, always with 4-octet numbers (RFC 6793).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct AsPath(pub Vec<AsSegment>);

impl AsPath {
    /// A path of one sequence.
    pub fn sequence(asns: impl IntoIterator<Item = Asn>) -> AsPath {
        let asns: Vec<Asn> = asns.into_iter().collect();
        if asns.is_empty() { AsPath::default() } else { AsPath(vec![AsSegment::Sequence(asns)]) }
    }

    /// Its length as the decision process counts (RFC 4271 §9.1.2.2 a, RFC 5065 §5.3).
    pub fn hops(&self) -> usize {
        self.0
            .iter()
            .map(|s| match s {
                AsSegment::Sequence(a) => a.len(),
                AsSegment::Set(_) => 1,
                AsSegment::ConfedSequence(_) | AsSegment::ConfedSet(_) => 0,
            })
            .sum()
    }

    /// How many numbers it has, of whatever kind.
    pub fn numbers(&self) -> usize {
        let of = |segment: &AsSegment| match segment {
            AsSegment::Sequence(a)
            | AsSegment::Set(a)
            | AsSegment::ConfedSequence(a)
            | AsSegment::ConfedSet(a) => a.len(),
        };
        self.0.iter().map(of).sum()
    }

    /// The neighbouring AS that MED is compared within: the first of a leading sequence.
    pub fn neighbor(&self) -> Option<Asn> {
        let first =
            self.0.iter().find(|s| !matches!(s, AsSegment::ConfedSequence(_) | AsSegment::ConfedSet(_)))?;
        match first {
            AsSegment::Sequence(a) => a.first().copied(),
            _ => None,
        }
    }

    /// Whether it has an AS_SET or AS_CONFED_SET (RFC 9774).
    pub fn has_set(&self) -> bool {
        self.0.iter().any(|s| matches!(s, AsSegment::Set(_) | AsSegment::ConfedSet(_)))
    }

    /// Whether `asn` occurs anywhere in it.
    pub fn contains(&self, asn: Asn) -> bool {
        self.iter().any(|a| a == asn)
    }

    /// Every number in it, in order.
    pub fn iter(&self) -> impl Iterator<Item = Asn> + '_ {
        self.0.iter().flat_map(|s| match s {
            AsSegment::Sequence(a)
            | AsSegment::Set(a)
            | AsSegment::ConfedSequence(a)
            | AsSegment::ConfedSet(a) => a.iter().copied(),
        })
    }

    /// The path with `asn` in front (RFC 4271 §5.1.2 b).
    pub fn prepended(&self, asn: Asn) -> AsPath {
        let mut segments = self.0.clone();
        match segments.first_mut() {
            Some(AsSegment::Sequence(a)) if a.len() < 255 => a.insert(0, asn),
            _ => segments.insert(0, AsSegment::Sequence(vec![asn])),
        }
        AsPath(segments)
    }
}

impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            let (open, asns, close) = match segment {
                AsSegment::Sequence(a) => ("", a, ""),
                AsSegment::Set(a) => ("{", a, "}"),
                AsSegment::ConfedSequence(a) => ("(", a, ")"),
                AsSegment::ConfedSet(a) => ("[", a, "]"),
            };
            f.write_str(if i == 0 { "" } else { " " })?;
            f.write_str(open)?;
            for (j, asn) in asns.iter().enumerate() {
                write!(f, "{}{asn}", if j == 0 { "" } else { " " })?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

/// The next hop of NEXT_HOP or MP_REACH_NLRI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address.
    V6(Ipv6Addr),
    /// A global and a link-local IPv6 address (RFC 2545 §3).
    V6LinkLocal(Ipv6Addr, Ipv6Addr),
}

impl NextHop {
    /// The (global) address.
    pub const fn addr(self) -> IpAddr {
        match self {
            NextHop::V4(a) => IpAddr::V4(a),
            NextHop::V6(a) | NextHop::V6LinkLocal(a, _) => IpAddr::V6(a),
        }
    }

    /// The link-local address beside the global one.
    pub const fn link_local(self) -> Option<Ipv6Addr> {
        match self {
            NextHop::V6LinkLocal(_, ll) => Some(ll),
            _ => None,
        }
    }
}

impl From<IpAddr> for NextHop {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(a) => NextHop::V4(a),
            IpAddr::V6(a) => NextHop::V6(a),
        }
    }
}

/// AGGREGATOR (RFC 4271 §5.1.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Aggregator {
    /// AS of the aggregating speaker.
    pub asn: Asn,
    /// Its BGP Identifier or address.
    pub address: Ipv4Addr,
}

/// PMSI_TUNNEL (RFC 6514 §5): how broadcast reaches the originator of an inclusive multicast route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PmsiTunnel {
    /// Flags octet; bit 0 is "leaf information required".
    pub flags: u8,
    /// Tunnel type; 6 is ingress replication.
    pub tunnel_type: u8,
    /// The 24 bits of the label field: a VNI with VXLAN (RFC 8365 §5.1.3).
    pub label: u32,
    /// Tunnel identifier; the VTEP's address with ingress replication.
    pub identifier: Vec<u8>,
}

impl PmsiTunnel {
    /// Tunnel type of ingress replication.
    pub const INGRESS_REPLICATION: u8 = 6;

    /// Ingress replication to `vtep` with `vni`.
    pub fn ingress_replication(vni: crate::types::Vni, vtep: IpAddr) -> PmsiTunnel {
        let identifier = match vtep {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        };
        PmsiTunnel { flags: 0, tunnel_type: Self::INGRESS_REPLICATION, label: vni.get(), identifier }
    }

    /// The tunnel's address, if it is ingress replication.
    pub fn endpoint(&self) -> Option<IpAddr> {
        if self.tunnel_type != Self::INGRESS_REPLICATION {
            return None;
        }
        match self.identifier.len() {
            4 => <[u8; 4]>::try_from(&self.identifier[..]).ok().map(|a| IpAddr::V4(a.into())),
            16 => <[u8; 16]>::try_from(&self.identifier[..]).ok().map(|a| IpAddr::V6(a.into())),
            _ => None,
        }
    }
}

/// An attribute the speaker passes on without knowing it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UnknownAttribute {
    /// Flags octet, with Partial set when it came from a peer (RFC 4271 §5).
    pub flags: u8,
    /// Type code.
    pub type_code: u8,
    /// Value as received.
    pub value: Vec<u8>,
}

/// The attributes of a path, next hop included. Interned: equal values share one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathAttributes {
    /// Type 1.
    pub origin: Origin,
    /// Type 2 (and 17 merged into it).
    pub as_path: AsPath,
    /// Type 3, or the next hop of type 14. `None` in a local route means "this router".
    pub next_hop: Option<NextHop>,
    /// Type 4, MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// Type 5; absent means 100.
    pub local_pref: Option<u32>,
    /// Type 6.
    pub atomic_aggregate: bool,
    /// Type 7 (and 18 merged into it).
    pub aggregator: Option<Aggregator>,
    /// Type 8.
    pub communities: Vec<Community>,
    /// Type 9 (RFC 4456).
    pub originator_id: Option<RouterId>,
    /// Type 10 (RFC 4456).
    pub cluster_list: Vec<Ipv4Addr>,
    /// Type 16.
    pub ext_communities: Vec<ExtCommunity>,
    /// Type 22.
    pub pmsi_tunnel: Option<PmsiTunnel>,
    /// Type 32.
    pub large_communities: Vec<LargeCommunity>,
    /// Type 35, Only to Customer (RFC 9234 §5): the AS that set it.
    pub otc: Option<Asn>,
    /// Optional transitive attributes of other types, by type code.
    pub unknown: Vec<UnknownAttribute>,
}

impl PathAttributes {
    /// LOCAL_PREF when none is given.
    pub const DEFAULT_LOCAL_PREF: u32 = 100;

    /// The route targets.
    pub fn route_targets(&self) -> impl Iterator<Item = RouteTarget> + '_ {
        self.ext_communities.iter().filter_map(|c| c.as_route_target())
    }

    /// Router's MAC (RFC 9135 §4.2).
    pub fn router_mac(&self) -> Option<MacAddr> {
        self.ext_communities.iter().find_map(|c| c.as_router_mac())
    }

    /// MAC mobility as (sticky, sequence); absent counts as sequence 0 (RFC 7432 §15).
    pub fn mac_mobility(&self) -> (bool, u32) {
        self.ext_communities.iter().find_map(|c| c.as_mac_mobility()).unwrap_or((false, 0))
    }

    /// Flags of the address of a type 2 route; `None` without the community (RFC 9047 §2).
    pub fn neighbour_flags(&self) -> Option<NeighbourFlags> {
        self.ext_communities.iter().find_map(|c| c.as_arp_nd())
    }

    /// Whether the default gateway community is there (RFC 7432 §7.8).
    pub fn is_default_gateway(&self) -> bool {
        self.ext_communities.contains(&ExtCommunity::DEFAULT_GATEWAY)
    }
}
