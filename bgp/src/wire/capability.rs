//! Capabilities (RFC 5492 §4): those the speaker acts on, all others kept as they are and ignored.

use super::reader::Reader;
use crate::types::Asn;

/// One capability of an OPEN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Code 1 (RFC 4760 §8): AFI and SAFI.
    MultiProtocol(u16, u8),
    /// Code 2 (RFC 2918).
    RouteRefresh,
    /// Code 5 (RFC 8950 §4): AFI, SAFI and the AFI of a next hop that may be used for it.
    ExtendedNextHop(Vec<(u16, u16, u16)>),
    /// Code 6 (RFC 8654).
    ExtendedMessage,
    /// Code 9 (RFC 9234 §4.1): the sender's role.
    Role(u8),
    /// Code 64 (RFC 4724 §3).
    GracefulRestart(GracefulRestart),
    /// Code 65 (RFC 6793).
    FourOctetAs(Asn),
    /// Code 69 (RFC 7911 §4): AFI, SAFI, and which of several paths the sender can do.
    AddPath(Vec<(u16, u8, AddPathMode)>),
    /// Code 70 (RFC 7313 §3.1).
    EnhancedRefresh,
    /// Any other, or one of the above with a length that is not its own (ignored, RFC 5492 §5).
    Unknown {
        /// Code.
        code: u8,
        /// Value, at most 255 octets.
        value: Vec<u8>,
    },
}

/// What the sender of an add-path capability can do (RFC 7911 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddPathMode {
    /// 1: take several paths of a route.
    Receive = 1,
    /// 2: tell several.
    Send = 2,
    /// 3: both.
    Both = 3,
}

impl AddPathMode {
    /// Whether it takes several paths.
    pub const fn receives(self) -> bool {
        self as u8 & 1 != 0
    }

    /// Whether it tells several.
    pub const fn sends(self) -> bool {
        self as u8 & 2 != 0
    }

    const fn of(octet: u8) -> Option<AddPathMode> {
        match octet {
            1 => Some(AddPathMode::Receive),
            2 => Some(AddPathMode::Send),
            3 => Some(AddPathMode::Both),
            _ => None,
        }
    }
}

/// The value of the graceful restart capability.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R bit.
    pub restarted: bool,
    /// N bit (RFC 8538 §2).
    pub notification: bool,
    /// Restart time in seconds, 12 bits.
    pub restart_time_s: u16,
    /// AFI, SAFI and F bit.
    pub families: Vec<(u16, u8, bool)>,
}

const CODE_MULTI_PROTOCOL: u8 = 1;
const CODE_ROUTE_REFRESH: u8 = 2;
const CODE_EXTENDED_NEXT_HOP: u8 = 5;
const CODE_EXTENDED_MESSAGE: u8 = 6;
const CODE_ROLE: u8 = 9;
const CODE_GRACEFUL_RESTART: u8 = 64;
const CODE_FOUR_OCTET_AS: u8 = 65;
const CODE_ADD_PATH: u8 = 69;
const CODE_ENHANCED_REFRESH: u8 = 70;

const FLAG_RESTART: u16 = 0x8000;
const FLAG_NOTIFICATION: u16 = 0x4000;
const FLAG_FORWARDING: u8 = 0x80;

impl Capability {
    /// Appends code, length and value.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Capability::MultiProtocol(afi, safi) => {
                out.extend_from_slice(&[CODE_MULTI_PROTOCOL, 4]);
                out.extend_from_slice(&afi.to_be_bytes());
                out.extend_from_slice(&[0, *safi]);
            }
            Capability::RouteRefresh => out.extend_from_slice(&[CODE_ROUTE_REFRESH, 0]),
            Capability::ExtendedMessage => out.extend_from_slice(&[CODE_EXTENDED_MESSAGE, 0]),
            Capability::FourOctetAs(asn) => {
                out.extend_from_slice(&[CODE_FOUR_OCTET_AS, 4]);
                out.extend_from_slice(&asn.0.to_be_bytes());
            }
            Capability::ExtendedNextHop(triples) => {
                let triples = &triples[..triples.len().min(42)];
                out.extend_from_slice(&[CODE_EXTENDED_NEXT_HOP, (6 * triples.len()) as u8]);
                for part in triples.iter().flat_map(|(afi, safi, next_hop)| [afi, safi, next_hop]) {
                    out.extend_from_slice(&part.to_be_bytes());
                }
            }
            Capability::Role(role) => out.extend_from_slice(&[CODE_ROLE, 1, *role]),
            Capability::EnhancedRefresh => out.extend_from_slice(&[CODE_ENHANCED_REFRESH, 0]),
            Capability::AddPath(families) => {
                let families = &families[..families.len().min(63)];
                out.extend_from_slice(&[CODE_ADD_PATH, (4 * families.len()) as u8]);
                for (afi, safi, mode) in families {
                    out.extend_from_slice(&afi.to_be_bytes());
                    out.extend_from_slice(&[*safi, *mode as u8]);
                }
            }
            Capability::GracefulRestart(gr) => gr.encode(out),
            Capability::Unknown { code, value } => {
                let value = &value[..value.len().min(255)];
                out.extend_from_slice(&[*code, value.len() as u8]);
                out.extend_from_slice(value);
            }
        }
    }

    fn decode(code: u8, value: &[u8]) -> Capability {
        let known = match (code, value) {
            (CODE_MULTI_PROTOCOL, [a0, a1, _, safi]) => {
                Some(Capability::MultiProtocol(u16::from_be_bytes([*a0, *a1]), *safi))
            }
            (CODE_ROUTE_REFRESH, []) => Some(Capability::RouteRefresh),
            (CODE_EXTENDED_NEXT_HOP, _) => next_hops(value).map(Capability::ExtendedNextHop),
            (CODE_ROLE, [role]) => Some(Capability::Role(*role)),
            (CODE_ADD_PATH, _) => add_path(value).map(Capability::AddPath),
            (CODE_ENHANCED_REFRESH, []) => Some(Capability::EnhancedRefresh),
            (CODE_EXTENDED_MESSAGE, []) => Some(Capability::ExtendedMessage),
            (CODE_FOUR_OCTET_AS, [a, b, c, d]) => {
                Some(Capability::FourOctetAs(Asn(u32::from_be_bytes([*a, *b, *c, *d]))))
            }
            (CODE_GRACEFUL_RESTART, _) => GracefulRestart::decode(value).map(Capability::GracefulRestart),
            _ => None,
        };
        known.unwrap_or_else(|| Capability::Unknown { code, value: value.to_vec() })
    }

    /// All capabilities of one optional parameter; `None` if the lengths do not add up.
    pub(super) fn decode_all(value: &[u8], into: &mut Vec<Capability>) -> Option<()> {
        let mut reader = Reader::new(value);
        while !reader.is_empty() {
            let code = reader.u8()?;
            let len = reader.u8()?;
            into.push(Capability::decode(code, reader.take(usize::from(len))?));
        }
        Some(())
    }
}

/// The value of the extended next hop capability; `None` if it is not a list of triples.
fn next_hops(value: &[u8]) -> Option<Vec<(u16, u16, u16)>> {
    let mut reader = Reader::new(value);
    let mut triples = Vec::new();
    while !reader.is_empty() {
        triples.push((reader.u16()?, reader.u16()?, reader.u16()?));
    }
    Some(triples)
}

/// The value of the add-path capability; `None` if it is no list, or says what nobody knows: then all of it is ignored
/// (RFC 7911 §4).
fn add_path(value: &[u8]) -> Option<Vec<(u16, u8, AddPathMode)>> {
    let mut reader = Reader::new(value);
    let mut families = Vec::new();
    while !reader.is_empty() {
        families.push((reader.u16()?, reader.u8()?, AddPathMode::of(reader.u8()?)?));
    }
    Some(families)
}

impl GracefulRestart {
    fn encode(&self, out: &mut Vec<u8>) {
        let families = &self.families[..self.families.len().min(63)];
        out.extend_from_slice(&[CODE_GRACEFUL_RESTART, (2 + 4 * families.len()) as u8]);
        let mut head = self.restart_time_s & 0x0fff;
        head |= if self.restarted { FLAG_RESTART } else { 0 };
        head |= if self.notification { FLAG_NOTIFICATION } else { 0 };
        out.extend_from_slice(&head.to_be_bytes());
        for (afi, safi, forwarding) in families {
            out.extend_from_slice(&afi.to_be_bytes());
            out.extend_from_slice(&[*safi, if *forwarding { FLAG_FORWARDING } else { 0 }]);
        }
    }

    fn decode(value: &[u8]) -> Option<GracefulRestart> {
        let mut reader = Reader::new(value);
        let head = reader.u16()?;
        let mut families = Vec::new();
        while !reader.is_empty() {
            let (afi, safi, flags) = (reader.u16()?, reader.u8()?, reader.u8()?);
            families.push((afi, safi, flags & FLAG_FORWARDING != 0));
        }
        Some(GracefulRestart {
            restarted: head & FLAG_RESTART != 0,
            notification: head & FLAG_NOTIFICATION != 0,
            restart_time_s: head & 0x0fff,
            families,
        })
    }
}
