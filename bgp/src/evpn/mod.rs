//! EVPN routes (RFC 7432 §7, RFC 9136 §3): the five types, split into key and data as [`crate::nlri`] wants
//! them, and as the whole values that a gateway works with: [`MacIp`], [`Imet`] and [`IpPrefix`].

pub mod mobility;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::nlri::{Key, Nlri, NlriData};
use crate::types::{Esi, MacAddr, Rd, Vni};

/// The key of an EVPN route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EvpnKey {
    /// Type 1, Ethernet auto-discovery.
    EthernetAd {
        /// Route distinguisher.
        rd: Rd,
        /// Ethernet segment.
        esi: Esi,
        /// Ethernet tag; 0xffffffff is the route per segment.
        tag: u32,
    },
    /// Type 2, MAC/IP advertisement.
    MacIp {
        /// Route distinguisher.
        rd: Rd,
        /// Ethernet tag.
        tag: u32,
        /// The station.
        mac: MacAddr,
        /// Its address, if known.
        ip: Option<IpAddr>,
    },
    /// Type 3, inclusive multicast Ethernet tag.
    Imet {
        /// Route distinguisher.
        rd: Rd,
        /// Ethernet tag.
        tag: u32,
        /// The originating router.
        originator: IpAddr,
    },
    /// Type 4, Ethernet segment.
    EthernetSegment {
        /// Route distinguisher.
        rd: Rd,
        /// Ethernet segment.
        esi: Esi,
        /// The originating router.
        originator: IpAddr,
    },
    /// Type 5, IP prefix.
    IpPrefix {
        /// Route distinguisher.
        rd: Rd,
        /// Ethernet tag.
        tag: u32,
        /// The prefix, host bits zero.
        prefix: IpNet,
    },
}

impl EvpnKey {
    /// The route type number.
    pub const fn route_type(&self) -> u8 {
        match self {
            EvpnKey::EthernetAd { .. } => 1,
            EvpnKey::MacIp { .. } => 2,
            EvpnKey::Imet { .. } => 3,
            EvpnKey::EthernetSegment { .. } => 4,
            EvpnKey::IpPrefix { .. } => 5,
        }
    }

    /// The route distinguisher.
    pub const fn rd(&self) -> Rd {
        match self {
            EvpnKey::EthernetAd { rd, .. }
            | EvpnKey::MacIp { rd, .. }
            | EvpnKey::Imet { rd, .. }
            | EvpnKey::EthernetSegment { rd, .. }
            | EvpnKey::IpPrefix { rd, .. } => *rd,
        }
    }
}

impl fmt::Display for EvpnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EvpnKey::EthernetAd { rd, esi, tag } => write!(f, "1:[{rd}]:[{esi}]:[{tag}]"),
            EvpnKey::MacIp { rd, tag, mac, ip: Some(ip) } => write!(f, "2:[{rd}]:[{tag}]:[{mac}]:[{ip}]"),
            EvpnKey::MacIp { rd, tag, mac, ip: None } => write!(f, "2:[{rd}]:[{tag}]:[{mac}]"),
            EvpnKey::Imet { rd, tag, originator } => write!(f, "3:[{rd}]:[{tag}]:[{originator}]"),
            EvpnKey::EthernetSegment { rd, esi, originator } => write!(f, "4:[{rd}]:[{esi}]:[{originator}]"),
            EvpnKey::IpPrefix { rd, tag, prefix } => write!(f, "5:[{rd}]:[{tag}]:[{prefix}]"),
        }
    }
}

/// A type 2 route: a station, with or without its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacIp {
    /// Route distinguisher of the originator's MAC-VRF.
    pub rd: Rd,
    /// Ethernet segment, zero when single-homed.
    pub esi: Esi,
    /// Ethernet tag, zero with the VLAN-based service.
    pub tag: u32,
    /// The station.
    pub mac: MacAddr,
    /// Its address.
    pub ip: Option<IpAddr>,
    /// L2 VNI.
    pub vni: Vni,
    /// L3 VNI (symmetric routing).
    pub l3_vni: Option<Vni>,
}

/// A type 3 route: a gateway that wants the broadcast of a segment. Its VNI is in the PMSI attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Imet {
    /// Route distinguisher of the originator's MAC-VRF.
    pub rd: Rd,
    /// Ethernet tag.
    pub tag: u32,
    /// The originating router: the VTEP's address.
    pub originator: IpAddr,
}

/// A type 5 route: a prefix in the tenant's routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpPrefix {
    /// Route distinguisher of the originator's IP-VRF.
    pub rd: Rd,
    /// Ethernet segment as overlay index, zero in the interface-less model.
    pub esi: Esi,
    /// Ethernet tag.
    pub tag: u32,
    /// The prefix; host bits are cleared.
    pub prefix: IpNet,
    /// Gateway as overlay index; `None` in the interface-less model (RFC 9136 §4.4.1).
    pub gateway: Option<IpAddr>,
    /// L3 VNI.
    pub l3_vni: Vni,
}

impl From<MacIp> for Nlri {
    fn from(r: MacIp) -> Nlri {
        let key = Key::Evpn(EvpnKey::MacIp { rd: r.rd, tag: r.tag, mac: r.mac, ip: r.ip });
        let data = NlriData { esi: r.esi, label1: r.vni, label2: r.l3_vni, gateway: None };
        Nlri { key, data }
    }
}

impl From<Imet> for Nlri {
    fn from(r: Imet) -> Nlri {
        let key = Key::Evpn(EvpnKey::Imet { rd: r.rd, tag: r.tag, originator: r.originator });
        Nlri { key, data: NlriData::default() }
    }
}

impl From<IpPrefix> for Nlri {
    fn from(r: IpPrefix) -> Nlri {
        let key = Key::Evpn(EvpnKey::IpPrefix { rd: r.rd, tag: r.tag, prefix: r.prefix.trunc() });
        let data = NlriData { esi: r.esi, label1: r.l3_vni, label2: None, gateway: r.gateway };
        Nlri { key, data }
    }
}

impl MacIp {
    /// The whole value from key and data; `None` if the key is of another type.
    pub fn from_parts(key: &Key, data: &NlriData) -> Option<MacIp> {
        let Key::Evpn(EvpnKey::MacIp { rd, tag, mac, ip }) = *key else {
            return None;
        };
        Some(MacIp { rd, esi: data.esi, tag, mac, ip, vni: data.label1, l3_vni: data.label2 })
    }
}

impl Imet {
    /// The whole value from a key; `None` if the key is of another type.
    pub fn from_key(key: &Key) -> Option<Imet> {
        let Key::Evpn(EvpnKey::Imet { rd, tag, originator }) = *key else {
            return None;
        };
        Some(Imet { rd, tag, originator })
    }
}

impl IpPrefix {
    /// The whole value from key and data; `None` if the key is of another type.
    pub fn from_parts(key: &Key, data: &NlriData) -> Option<IpPrefix> {
        let Key::Evpn(EvpnKey::IpPrefix { rd, tag, prefix }) = *key else {
            return None;
        };
        Some(IpPrefix { rd, esi: data.esi, tag, prefix, gateway: data.gateway, l3_vni: data.label1 })
    }
}
