//! What a route is about: the key under which paths compete, and the part of the NLRI that belongs to the
//! path (labels, ESI and gateway of EVPN routes are no part of the key, RFC 7432 §7).

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::evpn::EvpnKey;
use crate::types::{Esi, Family, Vni};

/// The key under which paths compete. Ordered, so that dumps and updates have one order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A unicast prefix with zero host bits.
    Prefix(IpNet),
    /// An EVPN route.
    Evpn(EvpnKey),
}

impl Key {
    /// The key of a unicast prefix; host bits are cleared.
    pub fn prefix(net: IpNet) -> Key {
        Key::Prefix(net.trunc())
    }

    /// The family that carries it.
    pub const fn family(&self) -> Family {
        match self {
            Key::Prefix(IpNet::V4(_)) => Family::Ipv4Unicast,
            Key::Prefix(IpNet::V6(_)) => Family::Ipv6Unicast,
            Key::Evpn(_) => Family::L2vpnEvpn,
        }
    }

    /// The prefix, if it is one.
    pub const fn as_prefix(&self) -> Option<IpNet> {
        match self {
            Key::Prefix(net) => Some(*net),
            Key::Evpn(_) => None,
        }
    }

    /// The EVPN key, if it is one.
    pub const fn as_evpn(&self) -> Option<&EvpnKey> {
        match self {
            Key::Prefix(_) => None,
            Key::Evpn(key) => Some(key),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Prefix(net) => net.fmt(f),
            Key::Evpn(key) => key.fmt(f),
        }
    }
}

/// What an NLRI says beside its key. All empty for unicast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NlriData {
    /// Ethernet segment of types 2 and 5 (of type 1 and 4 it is in the key).
    pub esi: Esi,
    /// MPLS label 1 of type 2, the label of types 1 and 5: a VNI (RFC 8365 §5.1.3).
    pub label1: Vni,
    /// MPLS label 2 of type 2: the L3 VNI of symmetric routing (RFC 9135 §4.1).
    pub label2: Option<Vni>,
    /// Gateway address of type 5 (RFC 9136 §3.1); `None` is all zero.
    pub gateway: Option<IpAddr>,
}

/// A whole NLRI.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nlri {
    /// What paths compete for.
    pub key: Key,
    /// What belongs to the path.
    pub data: NlriData,
}

impl From<IpNet> for Nlri {
    fn from(net: IpNet) -> Nlri {
        Nlri { key: Key::prefix(net), data: NlriData::default() }
    }
}
