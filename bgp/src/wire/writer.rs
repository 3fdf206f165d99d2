//! UPDATEs written straight into a buffer: the routes of one field, cut into as many messages as they need.

use super::attributes as code;
use super::header::{HEADER_LEN, MARKER, MessageType};
use crate::types::Family;

/// Two octets each for the length of the withdrawn routes and of the attributes.
const LENGTHS: usize = 4;
/// Flags, type, and two octets of length.
const ATTRIBUTE_HEADER: usize = 4;
/// The longest NLRI: an EVPN type 5 route for IPv6.
const NLRI_MAX: usize = 60;

#[derive(Debug)]
enum Field<'a> {
    /// Of the base message, behind its attributes.
    Announced,
    /// Of the base message, before its attributes.
    Withdrawn,
    /// In MP_REACH_NLRI, with this next hop; the other attributes follow.
    Reach(&'a [u8]),
    /// In MP_UNREACH_NLRI.
    Unreach,
}

/// Writes messages with one list of attributes.
#[derive(Debug)]
pub(crate) struct UpdateWriter<'a> {
    family: Family,
    field: Field<'a>,
    attributes: &'a [u8],
    limit: usize,
    /// Where the open message begins, and its field.
    open: Option<(usize, usize)>,
    messages: u64,
}

impl<'a> UpdateWriter<'a> {
    /// Announcements; NEXT_HOP is among the attributes if `next_hop` is empty. `None` if there is no room for a route.
    pub(crate) fn announce(
        family: Family,
        next_hop: &'a [u8],
        attributes: &'a [u8],
        limit: usize,
    ) -> Option<UpdateWriter<'a>> {
        let field = if next_hop.is_empty() { Field::Announced } else { Field::Reach(next_hop) };
        let overhead = HEADER_LEN + LENGTHS + ATTRIBUTE_HEADER + 5 + next_hop.len() + attributes.len();
        let writer = UpdateWriter { family, field, attributes, limit, open: None, messages: 0 };
        (overhead + NLRI_MAX <= limit).then_some(writer)
    }

    /// Withdrawals.
    pub(crate) fn withdraw(family: Family, limit: usize) -> UpdateWriter<'a> {
        let field = if family == Family::Ipv4Unicast { Field::Withdrawn } else { Field::Unreach };
        UpdateWriter { family, field, attributes: &[], limit, open: None, messages: 0 }
    }

    /// Appends a route, whose NLRI `put` writes.
    pub(crate) fn route(&mut self, out: &mut Vec<u8>, put: impl Fn(&mut Vec<u8>)) {
        let (start, _) =
            *self.open.get_or_insert_with(|| begin(out, self.family, &self.field, self.attributes));
        let before = out.len();
        put(out);
        if out.len() - start + self.tail_len() > self.limit {
            out.truncate(before);
            self.end(out);
            self.open = Some(begin(out, self.family, &self.field, self.attributes));
            put(out);
        }
    }

    /// Ends the last message; how many there are.
    pub(crate) fn finish(mut self, out: &mut Vec<u8>) -> u64 {
        self.end(out);
        self.messages
    }

    /// Octets that follow the field.
    const fn tail_len(&self) -> usize {
        match self.field {
            Field::Announced | Field::Unreach => 0,
            Field::Withdrawn => 2,
            Field::Reach(_) => self.attributes.len(),
        }
    }

    fn end(&mut self, out: &mut Vec<u8>) {
        let Some((start, field)) = self.open.take() else { return };
        let len = out.len() - field;
        match self.field {
            Field::Announced => {}
            Field::Withdrawn => {
                put_len(out, field - 2, len);
                out.extend_from_slice(&[0, 0]);
            }
            Field::Reach(_) | Field::Unreach => {
                let attribute = start + HEADER_LEN + LENGTHS;
                let value_len = out.len() - attribute - ATTRIBUTE_HEADER;
                put_len(out, attribute + 2, value_len);
                out.extend_from_slice(self.attributes);
                let attributes_len = out.len() - attribute;
                put_len(out, attribute - 2, attributes_len);
            }
        }
        let message_len = out.len() - start;
        put_len(out, start + MARKER.len(), message_len);
        self.messages += 1;
    }
}

/// Opens a message up to its field: where it begins, and where the field does.
fn begin(out: &mut Vec<u8>, family: Family, field: &Field<'_>, attributes: &[u8]) -> (usize, usize) {
    let start = out.len();
    out.extend_from_slice(&MARKER);
    out.extend_from_slice(&[0, 0, MessageType::Update as u8]);
    // No withdrawn routes; or their length, which is not known yet.
    out.extend_from_slice(&[0, 0]);
    let (afi, safi) = family.afi_safi();
    let [afi0, afi1] = afi.to_be_bytes();
    match field {
        Field::Withdrawn => {}
        Field::Announced => {
            out.extend_from_slice(&(attributes.len() as u16).to_be_bytes());
            out.extend_from_slice(attributes);
        }
        Field::Reach(next_hop) => {
            let flags = code::FLAG_OPTIONAL | code::FLAG_EXTENDED;
            out.extend_from_slice(&[
                0,
                0,
                flags,
                code::MP_REACH,
                0,
                0,
                afi0,
                afi1,
                safi,
                next_hop.len() as u8,
            ]);
            out.extend_from_slice(next_hop);
            out.push(0);
        }
        Field::Unreach => {
            let flags = code::FLAG_OPTIONAL | code::FLAG_EXTENDED;
            out.extend_from_slice(&[0, 0, flags, code::MP_UNREACH, 0, 0, afi0, afi1, safi]);
        }
    }
    (start, out.len())
}

fn put_len(out: &mut [u8], at: usize, len: usize) {
    out[at..at + 2].copy_from_slice(&(len as u16).to_be_bytes());
}
