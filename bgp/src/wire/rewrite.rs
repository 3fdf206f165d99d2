//! Attributes for an external neighbour, copied from octets to octets (RFC 4271 §5.1): our AS in front, another next
//! hop, and without what stays inside an AS. What is rare is left to the values.

use std::net::Ipv4Addr;

use super::attributes as code;
use super::attributes::{Builder, RawAttribute};
use super::reader::Reader;
use super::update::ParseContext;
use crate::attrs::{PathAttributes, UnknownAttribute};
use crate::types::Asn;

const AS_SEQUENCE: u8 = 2;

/// The value of attributes that we encoded with 4-octet AS numbers, in a list without errors.
pub(crate) fn decode_attributes(octets: &[u8]) -> PathAttributes {
    let context = ParseContext { internal: true, peer_asn: Asn(0), four_octet_as: true };
    let mut builder = Builder::default();
    let mut reader = Reader::new(octets);
    while let Some(raw) = RawAttribute::read(&mut reader) {
        if code::category(raw.type_code).is_none() {
            let flags = raw.flags & !code::FLAG_EXTENDED;
            let (type_code, value) = (raw.type_code, raw.value.to_vec());
            builder.attrs.unknown.push(UnknownAttribute { flags, type_code, value });
        } else {
            // It was a value once: it has no faults.
            let _ = builder.apply(&raw, &context);
        }
    }
    builder.finish()
}

/// Appends the attributes of `octets`, as [`super::encode_attributes`] made them, for an external neighbour that
/// understands 4-octet AS numbers; `false` where only the values can tell what is to be sent: then what was appended
/// means nothing.
pub(crate) fn rewrite_attributes(
    octets: &[u8],
    local_asn: Asn,
    base_next_hop: Option<Ipv4Addr>,
    keep_med: bool,
    out: &mut Vec<u8>,
) -> bool {
    let mut rest = octets;
    while !rest.is_empty() {
        let mut reader = Reader::new(rest);
        let Some(raw) = RawAttribute::read(&mut reader) else { return false };
        let after = reader.rest();
        let whole = &rest[..rest.len() - after.len()];
        match raw.type_code {
            code::AS_PATH => {
                if !prepend(raw.value, local_asn, out) {
                    return false;
                }
                if let Some(next_hop) = base_next_hop {
                    out.extend_from_slice(&[code::FLAG_TRANSITIVE, code::NEXT_HOP, 4]);
                    out.extend_from_slice(&next_hop.octets());
                }
            }
            code::MED if !keep_med => {}
            code::LOCAL_PREF | code::ORIGINATOR_ID | code::CLUSTER_LIST => {}
            // Some of them may have to stay here.
            code::EXT_COMMUNITIES => return false,
            _ => out.extend_from_slice(whole),
        }
        rest = after;
    }
    true
}

/// The AS_PATH with one more number in front, where it begins with a sequence that has room, and its length has one
/// octet.
fn prepend(path: &[u8], asn: Asn, out: &mut Vec<u8>) -> bool {
    let (count, rest) = match path {
        [] => (0, path),
        [AS_SEQUENCE, count @ ..=254, rest @ ..] => (*count, rest),
        _ => return false,
    };
    let Ok(len) = u8::try_from(2 + 4 + rest.len()) else { return false };
    out.extend_from_slice(&[code::FLAG_TRANSITIVE, code::AS_PATH, len, AS_SEQUENCE, count + 1]);
    out.extend_from_slice(&asn.0.to_be_bytes());
    out.extend_from_slice(rest);
    true
}
