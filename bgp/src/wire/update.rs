//! UPDATE (RFC 4271 §4.3, RFC 4760) with revised error handling (RFC 7606).
//!
//! ```text
//!  withdrawn length 2 | withdrawn NLRI | attributes length 2 | attributes | NLRI
//! ```
//! What cannot be walked ends the session; a bad attribute turns announcements into withdrawals or is dropped.

use super::attributes::{self, Builder, Fault, RawAttribute};
use super::nlri::NlriIter;
use super::notification::Notification;
use super::reader::Reader;
use crate::attrs::{NextHop, PathAttributes};
use crate::types::{Asn, Family, FamilySet};

/// What the receiver must know of the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseContext {
    /// An internal peer.
    pub internal: bool,
    /// Its AS.
    pub peer_asn: Asn,
    /// AS numbers have 4 octets.
    pub four_octet_as: bool,
}

/// MP_REACH_NLRI of a family we carry.
#[derive(Clone, Debug)]
pub struct MpReach<'a> {
    /// Next hop of all its routes.
    pub next_hop: NextHop,
    /// The routes; their family is that of the attribute.
    pub nlri: NlriIter<'a>,
}

/// An UPDATE, borrowed from the received octets. Every NLRI field in it has been checked to be walkable.
#[derive(Clone, Debug)]
pub struct Update<'a> {
    /// IPv4 unicast routes withdrawn in the base message.
    pub withdrawn: NlriIter<'a>,
    /// IPv4 unicast routes announced in the base message.
    pub announced: NlriIter<'a>,
    /// Announced routes of any family, unknown families left out.
    pub reach: Option<MpReach<'a>>,
    /// Withdrawn routes of any family, unknown families left out.
    pub unreach: Option<NlriIter<'a>>,
    /// The attributes. `next_hop` is that of the base message: those of `reach` have their own.
    pub attrs: PathAttributes,
    /// The announced routes must be taken as withdrawn (RFC 7606 §2).
    pub treat_as_withdraw: bool,
    /// There is no attribute but, perhaps, one MP_UNREACH_NLRI of a family we carry.
    bare: bool,
    /// NEXT_HOP is there, but is none.
    no_next_hop: bool,
    /// Attributes that were left out because they were malformed or did not belong there.
    pub discarded: usize,
}

fn malformed() -> Notification {
    Notification::new(Notification::MALFORMED_ATTRIBUTES)
}

/// `ids`: the families whose routes have path identifiers.
fn checked<'a>(family: Family, octets: &'a [u8], ids: FamilySet) -> Result<NlriIter<'a>, Notification> {
    let nlri = NlriIter::new(family, octets).with_ids(ids.contains(family));
    nlri.check().map_err(|_| Notification::new(Notification::INVALID_NETWORK))?;
    Ok(nlri)
}

impl<'a> Update<'a> {
    /// From the body of a message, on a session without add-path.
    ///
    /// # Errors
    /// The NOTIFICATION for a message whose routes cannot be told (RFC 7606 §3 and §5.3): session reset.
    pub fn decode(body: &'a [u8], ctx: &ParseContext) -> Result<Update<'a>, Notification> {
        Update::decode_with_ids(body, ctx, FamilySet::EMPTY)
    }

    /// From the body of a message; routes of the families `ids` have path identifiers (RFC 7911 §3).
    ///
    /// # Errors
    /// As [`Update::decode`].
    pub fn decode_with_ids(
        body: &'a [u8],
        ctx: &ParseContext,
        ids: FamilySet,
    ) -> Result<Update<'a>, Notification> {
        let mut reader = Reader::new(body);
        let len = usize::from(reader.u16().ok_or_else(malformed)?);
        let withdrawn = reader.take(len).ok_or_else(malformed)?;
        let len = usize::from(reader.u16().ok_or_else(malformed)?);
        let attributes = reader.part(len).ok_or_else(malformed)?;
        let mut update = Update {
            withdrawn: checked(Family::Ipv4Unicast, withdrawn, ids)?,
            announced: checked(Family::Ipv4Unicast, reader.rest(), ids)?,
            reach: None,
            unreach: None,
            attrs: PathAttributes::default(),
            treat_as_withdraw: false,
            bare: true,
            no_next_hop: false,
            discarded: 0,
        };
        let seen = update.attributes(attributes, ctx, ids)?;
        update.require_mandatory(&seen)?;
        Ok(update)
    }

    /// The family whose End-of-RIB this is (RFC 4724 §2).
    pub fn end_of_rib(&self) -> Option<Family> {
        let bare = self.bare && self.withdrawn.is_empty() && self.announced.is_empty();
        match &self.unreach {
            _ if !bare => None,
            None => Some(Family::Ipv4Unicast),
            Some(nlri) => nlri.is_empty().then_some(nlri.family()),
        }
    }

    fn attributes(
        &mut self,
        mut reader: Reader<'a>,
        ctx: &ParseContext,
        ids: FamilySet,
    ) -> Result<Seen, Notification> {
        let mut seen = Seen::default();
        let mut builder = Builder::default();
        while !reader.is_empty() {
            let next = reader.rest().get(1).copied();
            let Some(raw) = RawAttribute::read(&mut reader) else {
                // RFC 7606 §4: lengths that do not fit make the routes withdrawn, unless they hide which ones (§5.3).
                if matches!(next, Some(attributes::MP_REACH | attributes::MP_UNREACH)) {
                    return Err(Notification::new(Notification::OPTIONAL_ATTRIBUTE));
                }
                self.treat_as_withdraw = true;
                break;
            };
            let repeated = seen.insert(raw.type_code);
            self.bare &= raw.type_code == attributes::MP_UNREACH;
            if matches!(raw.type_code, attributes::MP_REACH | attributes::MP_UNREACH) {
                if repeated {
                    return Err(malformed());
                }
                self.multi_protocol(&raw, ids, &mut seen)?;
            } else if repeated {
                // RFC 7606 §3 g: the first one counts.
                self.discarded += 1;
            } else {
                self.single(&raw, &mut builder, ctx)?;
            }
        }
        self.attrs = builder.finish();
        Ok(seen)
    }

    fn single(
        &mut self,
        raw: &RawAttribute<'_>,
        builder: &mut Builder,
        ctx: &ParseContext,
    ) -> Result<(), Notification> {
        let fault = match attributes::category(raw.type_code) {
            // RFC 7606 §3 c, of all attributes: none of their RFCs wants it otherwise.
            Some(category) if !raw.has_category(category) => Some(Fault::Withdraw),
            None if raw.flags & attributes::FLAG_OPTIONAL == 0 => {
                let mut data = vec![raw.flags, raw.type_code, raw.value.len().min(255) as u8];
                data.extend_from_slice(raw.value);
                return Err(Notification::with_data(Notification::UNRECOGNIZED_WELL_KNOWN, data));
            }
            _ => builder.apply(raw, ctx).err(),
        };
        match fault {
            Some(Fault::Withdraw) => self.treat_as_withdraw = true,
            Some(Fault::NextHop) => self.no_next_hop = true,
            Some(Fault::Discard) => self.discarded += 1,
            None => {}
        }
        Ok(())
    }

    /// RFC 7606 §5.3 and §7.11: what makes these two unreadable ends the session.
    fn multi_protocol(
        &mut self,
        raw: &RawAttribute<'a>,
        ids: FamilySet,
        seen: &mut Seen,
    ) -> Result<(), Notification> {
        let bad = || Notification::new(Notification::OPTIONAL_ATTRIBUTE);
        let mut reader = Reader::new(raw.value);
        let (afi, safi) = (reader.u16().ok_or_else(bad)?, reader.u8().ok_or_else(bad)?);
        let family = Family::from_afi_safi(afi, safi);
        if !raw.has_category(attributes::FLAG_OPTIONAL) {
            self.treat_as_withdraw = true;
        }
        if raw.type_code == attributes::MP_UNREACH {
            self.unreach = family.map(|f| checked(f, reader.rest(), ids)).transpose()?;
            seen.foreign_family |= family.is_none();
            self.bare &= family.is_some();
            return Ok(());
        }
        let len = usize::from(reader.u8().ok_or_else(bad)?);
        let next_hop = reader.take(len).ok_or_else(bad)?;
        reader.u8().ok_or_else(bad)?;
        let Some(family) = family else {
            seen.foreign_family = true;
            return Ok(());
        };
        let next_hop = decode_next_hop(family, next_hop).ok_or_else(bad)?;
        self.reach = Some(MpReach { next_hop, nlri: checked(family, reader.rest(), ids)? });
        Ok(())
    }

    /// RFC 7606 §3 d and §5.2: mandatory attributes, and errors in a message without routes to withdraw.
    fn require_mandatory(&mut self, seen: &Seen) -> Result<(), Notification> {
        let base = !self.announced.is_empty();
        let mp = self.reach.is_some();
        let missing = !seen.contains(attributes::ORIGIN)
            || !seen.contains(attributes::AS_PATH)
            || (base && !seen.contains(attributes::NEXT_HOP));
        if ((base || mp) && missing) || (base && self.no_next_hop) {
            self.treat_as_withdraw = true;
        }
        if self.treat_as_withdraw && !base && !mp && !seen.foreign_family {
            return Err(malformed());
        }
        Ok(())
    }
}

/// RFC 4760 §3, RFC 2545 §3; EVPN takes an address of either kind (RFC 7432 §7), and so does IPv4 where it was agreed on
/// (RFC 8950 §3), which is for the session to say.
fn decode_next_hop(family: Family, octets: &[u8]) -> Option<NextHop> {
    let mut reader = Reader::new(octets);
    let next_hop = match (family, octets.len()) {
        (Family::Ipv4Unicast | Family::L2vpnEvpn, 4) => NextHop::V4(reader.ipv4()?),
        (_, 16) => NextHop::V6(reader.ipv6()?),
        (Family::Ipv4Unicast | Family::Ipv6Unicast, 32) => {
            NextHop::V6LinkLocal(reader.ipv6()?, reader.ipv6()?)
        }
        _ => return None,
    };
    Some(next_hop)
}

/// Which attributes occurred.
#[derive(Debug, Default)]
struct Seen {
    types: [u64; 4],
    /// An MP attribute of a family we do not carry.
    foreign_family: bool,
}

impl Seen {
    fn insert(&mut self, type_code: u8) -> bool {
        let (word, bit) = (usize::from(type_code >> 6), 1u64 << (type_code & 63));
        let repeated = self.types[word] & bit != 0;
        self.types[word] |= bit;
        repeated
    }

    const fn contains(&self, type_code: u8) -> bool {
        self.types[(type_code >> 6) as usize] & (1u64 << (type_code & 63)) != 0
    }
}
