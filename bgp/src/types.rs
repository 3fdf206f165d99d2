//! The small values of BGP: numbers and identifiers with their ranges and their printed form.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// An autonomous system number, 4 octets (RFC 6793).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(pub u32);

impl Asn {
    /// AS_TRANS, which stands for a 4-octet number where only 2 octets fit (RFC 6793 §9).
    pub const TRANS: Asn = Asn(23456);

    /// The number as it fits into 2 octets, AS_TRANS if it does not.
    pub const fn to_two_octets(self) -> u16 {
        if self.0 > 0xffff { 23456 } else { self.0 as u16 }
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A BGP Identifier: any non-zero 4 octets, unique within an AS (RFC 6286).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouterId(pub Ipv4Addr);

impl fmt::Display for RouterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which of a neighbour's paths of a route it is (RFC 7911 §3): any 4 octets, chosen by who tells it. 0 stands for a path
/// that was told without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathId(pub u32);

impl fmt::Display for PathId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A peer, numbered by the caller. Never reused for another neighbour while the first is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

/// A set of tables that see each other: the underlay or one tenant, numbered by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(pub u32);

/// One TCP connection, numbered by the caller and never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// An address family that the speaker carries (RFC 4760, RFC 7432).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// AFI 1, SAFI 1.
    Ipv4Unicast,
    /// AFI 2, SAFI 1.
    Ipv6Unicast,
    /// AFI 25, SAFI 70.
    L2vpnEvpn,
}

impl Family {
    /// Every family, in the order in which tables are walked.
    pub const ALL: [Family; 3] = [Family::Ipv4Unicast, Family::Ipv6Unicast, Family::L2vpnEvpn];

    /// The AFI and SAFI numbers.
    pub const fn afi_safi(self) -> (u16, u8) {
        match self {
            Family::Ipv4Unicast => (1, 1),
            Family::Ipv6Unicast => (2, 1),
            Family::L2vpnEvpn => (25, 70),
        }
    }

    /// The family of these numbers, `None` if the speaker does not carry it.
    pub const fn from_afi_safi(afi: u16, safi: u8) -> Option<Family> {
        match (afi, safi) {
            (1, 1) => Some(Family::Ipv4Unicast),
            (2, 1) => Some(Family::Ipv6Unicast),
            (25, 70) => Some(Family::L2vpnEvpn),
            _ => None,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Ipv4Unicast => "ipv4-unicast",
            Family::Ipv6Unicast => "ipv6-unicast",
            Family::L2vpnEvpn => "l2vpn-evpn",
        })
    }
}

/// Some of the families.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FamilySet(u8);

impl FamilySet {
    /// None of them.
    pub const EMPTY: FamilySet = FamilySet(0);

    /// Whether it is one of them.
    pub const fn contains(self, family: Family) -> bool {
        self.0 & (1 << family as u8) != 0
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those that are in both.
    #[must_use]
    pub const fn and(self, other: FamilySet) -> FamilySet {
        FamilySet(self.0 & other.0)
    }

    /// In the order of [`Family::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::ALL.into_iter().filter(move |family| self.contains(*family))
    }
}

impl FromIterator<Family> for FamilySet {
    fn from_iter<I: IntoIterator<Item = Family>>(families: I) -> FamilySet {
        FamilySet(families.into_iter().fold(0, |all, family| all | 1 << family as u8))
    }
}

/// A VXLAN network identifier carried as a label (RFC 8365 §5.1.3): 24 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The largest value.
    pub const MAX: u32 = 0xff_ffff;

    /// `None` if `value` does not fit into 24 bits.
    pub const fn new(value: u32) -> Option<Vni> {
        if value > Self::MAX { None } else { Some(Vni(value)) }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An Ethernet segment identifier (RFC 7432 §5); all zero means single-homed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Esi(pub [u8; 10]);

impl Esi {
    /// Single-homed.
    pub const ZERO: Esi = Esi([0; 10]);
}

impl fmt::Display for Esi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, octet) in self.0.iter().enumerate() {
            write!(f, "{}{octet:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

/// A route distinguisher (RFC 4364 §4.2), kept as the 8 octets of the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rd(pub [u8; 8]);

impl Rd {
    /// Type 1, an IPv4 address and a number: what RFC 7432 §7.9 recommends for EVPN.
    pub const fn from_ip(ip: Ipv4Addr, number: u16) -> Rd {
        let [a, b, c, d] = ip.octets();
        let [n0, n1] = number.to_be_bytes();
        Rd([0, 1, a, b, c, d, n0, n1])
    }

    /// Type 0, a 2-octet AS number and a number.
    pub const fn from_asn2(asn: u16, number: u32) -> Rd {
        let [a0, a1] = asn.to_be_bytes();
        let [n0, n1, n2, n3] = number.to_be_bytes();
        Rd([0, 0, a0, a1, n0, n1, n2, n3])
    }
}

impl fmt::Display for Rd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [t0, t1, a, b, c, d, e, g] = self.0;
        match (t0, t1) {
            (0, 0) => write!(f, "{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, g])),
            (0, 1) => write!(f, "{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([e, g])),
            (0, 2) => write!(f, "{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, g])),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

/// Why a text is not a route distinguisher or route target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not of the form ASN:NUMBER or IPV4:NUMBER")]
pub struct ParseAdminError(pub(crate) String);

/// The administrator and number of a route distinguisher or route target in its printed form.
pub(crate) enum Admin {
    As2(u16, u32),
    Ip(Ipv4Addr, u16),
    As4(u32, u16),
}

impl FromStr for Admin {
    type Err = ParseAdminError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || ParseAdminError(s.to_owned());
        let (admin, number) = s.rsplit_once(':').ok_or_else(bad)?;
        if let Ok(ip) = admin.parse::<Ipv4Addr>() {
            return Ok(Admin::Ip(ip, number.parse().map_err(|_| bad())?));
        }
        let asn: u32 = admin.parse().map_err(|_| bad())?;
        match u16::try_from(asn) {
            Ok(asn) => Ok(Admin::As2(asn, number.parse().map_err(|_| bad())?)),
            Err(_) => Ok(Admin::As4(asn, number.parse().map_err(|_| bad())?)),
        }
    }
}

impl FromStr for Rd {
    type Err = ParseAdminError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s.parse::<Admin>()? {
            Admin::As2(asn, number) => Rd::from_asn2(asn, number),
            Admin::Ip(ip, number) => Rd::from_ip(ip, number),
            Admin::As4(asn, number) => {
                let ([a, b, c, d], [n0, n1]) = (asn.to_be_bytes(), number.to_be_bytes());
                Rd([0, 2, a, b, c, d, n0, n1])
            }
        })
    }
}

/// Orders addresses as the last tie-break does: as numbers, IPv4 before IPv6 (RFC 4271 §9.1.2.2 g).
pub(crate) fn address_order(ip: IpAddr) -> (u8, u128) {
    match ip {
        IpAddr::V4(v4) => (4, u128::from(u32::from(v4))),
        IpAddr::V6(v6) => (6, u128::from(v6)),
    }
}
