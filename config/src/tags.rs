//! VLAN tags: what marks a frame on a trunk (IEEE 802.1Q section 9).

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::names::Vid;
use crate::read::read_by_text;

/// The tag protocol identifier of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tpid {
    /// A C-tag, 0x8100.
    Dot1q,
    /// An S-tag, 0x88a8.
    Dot1ad,
}

impl Tpid {
    /// Its name, as documents have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dot1q => "802.1q",
            Self::Dot1ad => "802.1ad",
        }
    }

    /// The EtherType.
    pub fn ethertype(self) -> u16 {
        match self {
            Self::Dot1q => 0x8100,
            Self::Dot1ad => 0x88a8,
        }
    }
}

impl FromStr for Tpid {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_lowercase().as_str() {
            "802.1q" => Ok(Self::Dot1q),
            "802.1ad" => Ok(Self::Dot1ad),
            _ => Err("must be one of 802.1q, 802.1ad".to_owned()),
        }
    }
}

impl fmt::Display for Tpid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Tpid {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.as_str())
    }
}

read_by_text!(Tpid);

/// The tags of a frame, from the outer one in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tags {
    /// None.
    #[default]
    Untagged,
    /// One tag and no other.
    Single(Tpid, Vid),
    /// Two tags; the inner one is a C-tag.
    Double(Tpid, Vid, Vid),
}

impl Tags {
    /// One C-tag (802.1Q).
    pub fn vlan(vid: Vid) -> Self {
        Self::Single(Tpid::Dot1q, vid)
    }

    /// The tags as they stand on the wire, the outer one first.
    pub fn list(self) -> Vec<(Tpid, Vid)> {
        match self {
            Self::Untagged => vec![],
            Self::Single(tpid, vid) => vec![(tpid, vid)],
            Self::Double(tpid, outer, inner) => vec![(tpid, outer), (Tpid::Dot1q, inner)],
        }
    }
}

impl fmt::Display for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untagged => f.write_str("untagged"),
            Self::Single(Tpid::Dot1q, vid) => write!(f, "VLAN {vid}"),
            Self::Single(tpid, vid) => write!(f, "VLAN {vid} ({tpid})"),
            Self::Double(Tpid::Dot1ad, outer, inner) => write!(f, "VLAN {outer}.{inner}"),
            Self::Double(tpid, outer, inner) => write!(f, "VLAN {outer}.{inner} ({tpid})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_told_apart_in_words() {
        let [a, b] = [10, 20].map(|v| Vid::new(v).unwrap());
        let all = [
            (Tags::Untagged, "untagged"),
            (Tags::vlan(a), "VLAN 10"),
            (Tags::Single(Tpid::Dot1ad, a), "VLAN 10 (802.1ad)"),
            (Tags::Double(Tpid::Dot1ad, a, b), "VLAN 10.20"),
            (Tags::Double(Tpid::Dot1q, a, b), "VLAN 10.20 (802.1q)"),
        ];
        for (tags, words) in all {
            assert_eq!(tags.to_string(), words);
        }
        assert_eq!(all[3].0.list(), [(Tpid::Dot1ad, a), (Tpid::Dot1q, b)]);
        assert!("802.1AD".parse::<Tpid>().is_ok() && "802.1p".parse::<Tpid>().is_err());
    }
}
