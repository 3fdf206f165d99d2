//! Communities: plain (RFC 1997), large (RFC 8092) and extended (RFC 4360), with the extended ones that
//! EVPN gives a meaning to (RFC 7432 §7.7 and §7.8, RFC 9012 §4.1, RFC 9047 §2, RFC 9135 §4.2).

use std::fmt;
use std::str::FromStr;

use crate::types::{Admin, Asn, MacAddr, ParseAdminError};

/// A plain community (RFC 1997): AS number in the upper, value in the lower 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// Not beyond the confederation or AS.
    pub const NO_EXPORT: Community = Community(0xffff_ff01);
    /// To no peer.
    pub const NO_ADVERTISE: Community = Community(0xffff_ff02);
    /// Traffic for it is to be dropped (RFC 7999). Stays inside our AS, as with [`Community::NO_EXPORT`].
    pub const BLACKHOLE: Community = Community(0xffff_029a);
    /// To no external peer, those within a confederation included.
    pub const NO_EXPORT_SUBCONFED: Community = Community(0xffff_ff03);
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Community::NO_EXPORT => f.write_str("no-export"),
            Community::BLACKHOLE => f.write_str("blackhole"),
            Community::NO_ADVERTISE => f.write_str("no-advertise"),
            Community::NO_EXPORT_SUBCONFED => f.write_str("no-export-subconfed"),
            Community(v) => write!(f, "{}:{}", v >> 16, v & 0xffff),
        }
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity {
    /// Global administrator.
    pub admin: u32,
    /// First local part.
    pub data1: u32,
    /// Second local part.
    pub data2: u32,
}

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.admin, self.data1, self.data2)
    }
}

/// An extended community (RFC 4360), kept as the 8 octets of the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtCommunity(pub [u8; 8]);

/// What an ARP or neighbour advertisement for an address says of it (RFC 9047 §2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NeighbourFlags {
    /// The owner is a router: bit R of the neighbour advertisement (RFC 4861 §4.4). IPv6 only.
    pub router: bool,
    /// Bit O of the neighbour advertisement: it replaces what the asker had. IPv6 only.
    pub is_override: bool,
    /// The address belongs to this MAC and to no other (bit I).
    pub immutable: bool,
}

/// The tunnel type VXLAN of the encapsulation community (RFC 9012 §4.1).
const TUNNEL_VXLAN: u16 = 8;

impl ExtCommunity {
    /// Encapsulation VXLAN (RFC 9012 §4.1).
    pub const ENCAP_VXLAN: ExtCommunity = ExtCommunity([0x03, 0x0c, 0, 0, 0, 0, 0, TUNNEL_VXLAN as u8]);
    /// Default gateway (RFC 7432 §7.8).
    pub const DEFAULT_GATEWAY: ExtCommunity = ExtCommunity([0x03, 0x0d, 0, 0, 0, 0, 0, 0]);

    /// Router's MAC (RFC 9135 §4.2): the inner destination for frames that this router shall route.
    pub const fn router_mac(mac: MacAddr) -> ExtCommunity {
        let [a, b, c, d, e, f] = mac.0;
        ExtCommunity([0x06, 0x03, a, b, c, d, e, f])
    }

    /// MAC mobility (RFC 7432 §7.7).
    pub const fn mac_mobility(sticky: bool, sequence: u32) -> ExtCommunity {
        let [a, b, c, d] = sequence.to_be_bytes();
        ExtCommunity([0x06, 0x00, sticky as u8, 0, a, b, c, d])
    }

    /// ARP/ND (RFC 9047 §2), for a type 2 route with an address.
    pub const fn arp_nd(flags: NeighbourFlags) -> ExtCommunity {
        let octet = flags.router as u8 | (flags.is_override as u8) << 1 | (flags.immutable as u8) << 3;
        ExtCommunity([0x06, 0x08, octet, 0, 0, 0, 0, 0])
    }

    /// The flags of an ARP/ND community; bits that have no meaning are passed over.
    pub const fn as_arp_nd(self) -> Option<NeighbourFlags> {
        let [t, s, octet, ..] = self.0;
        if t != 0x06 || s != 0x08 {
            return None;
        }
        let (router, is_override, immutable) = (octet & 1 != 0, octet & 2 != 0, octet & 8 != 0);
        Some(NeighbourFlags { router, is_override, immutable })
    }

    /// The route target in it.
    pub const fn as_route_target(self) -> Option<RouteTarget> {
        match (self.0[0], self.0[1]) {
            (0x00..=0x02, 0x02) => Some(RouteTarget(self)),
            _ => None,
        }
    }

    /// The Router's MAC in it.
    pub const fn as_router_mac(self) -> Option<MacAddr> {
        let [t, s, a, b, c, d, e, f] = self.0;
        if t == 0x06 && s == 0x03 { Some(MacAddr([a, b, c, d, e, f])) } else { None }
    }

    /// The (sticky, sequence) in it.
    pub const fn as_mac_mobility(self) -> Option<(bool, u32)> {
        let [t, s, flags, _, a, b, c, d] = self.0;
        if t == 0x06 && s == 0x00 { Some((flags & 1 != 0, u32::from_be_bytes([a, b, c, d]))) } else { None }
    }

    /// The tunnel type of an encapsulation community.
    pub const fn as_encapsulation(self) -> Option<u16> {
        let [t, s, _, _, _, _, hi, lo] = self.0;
        if t == 0x03 && s == 0x0c { Some(u16::from_be_bytes([hi, lo])) } else { None }
    }

    /// Whether it may cross an AS border (RFC 4360 §2, the T bit is 0).
    pub const fn is_transitive(self) -> bool {
        self.0[0] & 0x40 == 0
    }
}

impl fmt::Display for ExtCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(rt) = self.as_route_target() {
            write!(f, "rt:{rt}")
        } else if let Some(mac) = self.as_router_mac() {
            write!(f, "router-mac:{mac}")
        } else if let Some((sticky, seq)) = self.as_mac_mobility() {
            write!(f, "mobility:{seq}{}", if sticky { ":sticky" } else { "" })
        } else if let Some(t) = self.as_encapsulation() {
            if t == TUNNEL_VXLAN { f.write_str("encap:vxlan") } else { write!(f, "encap:{t}") }
        } else if let Some(flags) = self.as_arp_nd() {
            f.write_str("arp-nd")?;
            for (name, set) in
                [("router", flags.router), ("override", flags.is_override), ("immutable", flags.immutable)]
            {
                if set {
                    write!(f, ":{name}")?;
                }
            }
            Ok(())
        } else if *self == Self::DEFAULT_GATEWAY {
            f.write_str("default-gateway")
        } else {
            write!(f, "0x{:016x}", u64::from_be_bytes(self.0))
        }
    }
}

/// A route target (RFC 4360 §4): an extended community of type 0, 1 or 2 and subtype 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteTarget(ExtCommunity);

impl RouteTarget {
    /// ASN:NUMBER. A 4-octet AS number leaves 16 bits for the number, of which the lower ones are kept;
    /// RFC 8365 §5.1.2.1 derives the target of a segment from a 2-octet AS number and the VNI.
    pub const fn new(asn: Asn, number: u32) -> RouteTarget {
        let [n0, n1, n2, n3] = number.to_be_bytes();
        let [a0, a1, a2, a3] = asn.0.to_be_bytes();
        if asn.0 <= 0xffff {
            RouteTarget(ExtCommunity([0x00, 0x02, a2, a3, n0, n1, n2, n3]))
        } else {
            RouteTarget(ExtCommunity([0x02, 0x02, a0, a1, a2, a3, n2, n3]))
        }
    }

    /// The community that carries it.
    pub const fn community(self) -> ExtCommunity {
        self.0
    }
}

impl From<RouteTarget> for ExtCommunity {
    fn from(rt: RouteTarget) -> ExtCommunity {
        rt.0
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rd = self.0.0;
        rd[1] = rd[0];
        rd[0] = 0;
        crate::types::Rd(rd).fmt(f)
    }
}

impl FromStr for RouteTarget {
    type Err = ParseAdminError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Ok(match s.parse::<Admin>()? {
            Admin::As2(asn, number) => RouteTarget::new(Asn(u32::from(asn)), number),
            Admin::As4(asn, number) => RouteTarget::new(Asn(asn), u32::from(number)),
            Admin::Ip(ip, number) => {
                let ([a, b, c, d], [n0, n1]) = (ip.octets(), number.to_be_bytes());
                RouteTarget(ExtCommunity([0x01, 0x02, a, b, c, d, n0, n1]))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9047 §2: bit 7 is R, bit 6 is O, bit 4 is I, counted from the most significant one.
    #[test]
    fn the_arp_nd_community_has_its_bits_where_the_rfc_has_them() {
        let flags = NeighbourFlags { router: true, is_override: false, immutable: true };
        let community = ExtCommunity::arp_nd(flags);
        assert_eq!(community.0, [0x06, 0x08, 0b0000_1001, 0, 0, 0, 0, 0]);
        assert_eq!(community.to_string(), "arp-nd:router:immutable");
        let with_unknown_bits = ExtCommunity([0x06, 0x08, 0b1111_0010, 0, 0, 0, 0, 9]);
        let override_only = NeighbourFlags { is_override: true, ..NeighbourFlags::default() };
        assert_eq!(with_unknown_bits.as_arp_nd(), Some(override_only));
        assert_eq!(ExtCommunity::mac_mobility(true, 9).as_arp_nd(), None);
        for octet in 0..=255_u8 {
            let read = ExtCommunity([0x06, 0x08, octet, 0, 0, 0, 0, 0]).as_arp_nd().unwrap();
            assert_eq!(ExtCommunity::arp_nd(read).as_arp_nd(), Some(read));
        }
    }
}
