//! AS_PATH on the wire, in 2 and 4 octets, and the merging of AS4_PATH (RFC 6793 §4.2).

use super::reader::Reader;
use crate::attrs::{AsPath, AsSegment};
use crate::types::Asn;

const AS_SET: u8 = 1;
const AS_SEQUENCE: u8 = 2;
const AS_CONFED_SEQUENCE: u8 = 3;
const AS_CONFED_SET: u8 = 4;

/// `None` if malformed in the sense of RFC 7606 §7.2, or if it contains AS 0 (RFC 7607).
pub(super) fn decode(value: &[u8], four_octets: bool) -> Option<AsPath> {
    let mut reader = Reader::new(value);
    let mut segments = Vec::new();
    while !reader.is_empty() {
        let (kind, count) = (reader.u8()?, reader.u8()?);
        let asns: Vec<Asn> = (0..count).map(|_| reader.asn(four_octets)).collect::<Option<_>>()?;
        if asns.is_empty() || asns.contains(&Asn(0)) {
            return None;
        }
        segments.push(match kind {
            AS_SET => AsSegment::Set(asns),
            AS_SEQUENCE => AsSegment::Sequence(asns),
            AS_CONFED_SEQUENCE => AsSegment::ConfedSequence(asns),
            AS_CONFED_SET => AsSegment::ConfedSet(asns),
            _ => return None,
        });
    }
    Some(AsPath(segments))
}

/// Appends the path; numbers that do not fit into 2 octets become AS_TRANS.
pub(super) fn encode(path: &AsPath, four_octets: bool, out: &mut Vec<u8>) {
    for segment in &path.0 {
        let (kind, asns) = match segment {
            AsSegment::Set(a) => (AS_SET, a),
            AsSegment::Sequence(a) => (AS_SEQUENCE, a),
            AsSegment::ConfedSequence(a) => (AS_CONFED_SEQUENCE, a),
            AsSegment::ConfedSet(a) => (AS_CONFED_SET, a),
        };
        for part in asns.chunks(255) {
            out.extend_from_slice(&[kind, part.len() as u8]);
            for asn in part {
                if four_octets {
                    out.extend_from_slice(&asn.0.to_be_bytes());
                } else {
                    out.extend_from_slice(&asn.to_two_octets().to_be_bytes());
                }
            }
        }
    }
}

const fn is_confederation(segment: &AsSegment) -> bool {
    matches!(segment, AsSegment::ConfedSequence(_) | AsSegment::ConfedSet(_))
}

/// Whether any segment is one of a confederation (RFC 5065 §5: not from a peer outside of it).
pub(super) fn has_confederation(path: &AsPath) -> bool {
    path.0.iter().any(is_confederation)
}

/// What an AS4_PATH beside a 2-octet path has to say; `None` if the 2-octet one says it all.
pub(super) fn as4_path(path: &AsPath) -> Option<AsPath> {
    path.iter().any(|a| a.0 > 0xffff).then(|| without_confederation(path))
}

fn without_confederation(path: &AsPath) -> AsPath {
    AsPath(path.0.iter().filter(|s| !is_confederation(s)).cloned().collect())
}

/// The true path out of a 2-octet AS_PATH and an AS4_PATH: the leading part of the first that the second does
/// not cover, then the second (RFC 6793 §4.2.3).
pub(super) fn merge(path: AsPath, as4: &AsPath) -> AsPath {
    let as4 = without_confederation(as4);
    let (total, covered) = (path.hops(), as4.hops());
    if total < covered {
        return path;
    }
    let mut missing = total - covered;
    let mut segments = Vec::new();
    for segment in path.0 {
        match segment {
            s if is_confederation(&s) => segments.push(s),
            _ if missing == 0 => break,
            AsSegment::Sequence(mut asns) => {
                asns.truncate(missing);
                missing -= asns.len();
                segments.push(AsSegment::Sequence(asns));
            }
            set => {
                missing -= 1;
                segments.push(set);
            }
        }
    }
    for segment in as4.0 {
        match (segments.last_mut(), segment) {
            (Some(AsSegment::Sequence(head)), AsSegment::Sequence(tail)) => head.extend(tail),
            (_, segment) => segments.push(segment),
        }
    }
    AsPath(segments)
}
