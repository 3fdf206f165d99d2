//! Who a BGP neighbour is: one router by its address and AS, or whoever connects from a prefix and is of one of several
//! ASes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::Serialize;
use serde_json::Value;

use crate::names::Asn;
use crate::read::{Path, Problems, Read, read_by_text, read_text};

/// The most entries of a list of AS numbers.
pub const ASN_RANGES_MAX: usize = 256;

/// Where neighbours are: `10.30.0.2`, or `10.30.0.0/24` for all who connect from there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NeighbourAddress {
    /// One neighbour.
    One(IpAddr),
    /// Each address of the prefix may be one.
    Prefix(IpNet),
}

impl NeighbourAddress {
    /// The address of the one neighbour.
    pub fn one(&self) -> Option<IpAddr> {
        match self {
            Self::One(address) => Some(*address),
            Self::Prefix(_) => None,
        }
    }

    /// The prefix that neighbours may come from.
    pub fn prefix(&self) -> Option<IpNet> {
        match self {
            Self::One(_) => None,
            Self::Prefix(prefix) => Some(*prefix),
        }
    }

    /// Whether sessions are IPv4's.
    pub fn is_ipv4(&self) -> bool {
        match self {
            Self::One(address) => address.is_ipv4(),
            Self::Prefix(prefix) => prefix.addr().is_ipv4(),
        }
    }

    /// Whether it lies within `net` as a whole.
    pub fn is_within(&self, net: &IpNet) -> bool {
        match self {
            Self::One(address) => net.contains(address),
            Self::Prefix(prefix) => net.contains(prefix),
        }
    }
}

impl fmt::Display for NeighbourAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(f),
            Self::Prefix(prefix) => prefix.fmt(f),
        }
    }
}

impl FromStr for NeighbourAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let prefix = || text.parse().map(Self::Prefix);
        let read = text.parse().map(Self::One).or_else(|_| prefix());
        read.map_err(|_| "must be an address, as in 10.30.0.2, or a prefix, as in 10.30.0.0/24".to_owned())
    }
}

impl Serialize for NeighbourAddress {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}
read_by_text!(NeighbourAddress);

/// AS numbers from the first to the last: `65001`, or `65010-65020`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AsnRange {
    /// The lowest.
    pub first: Asn,
    /// The highest.
    pub last: Asn,
}

impl FromStr for AsnRange {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| text.trim().parse::<Asn>().map_err(|e| e.to_string());
        let range = Self { first: number(first)?, last: number(last)? };
        if range.first > range.last {
            return Err(format!("{text} ends before it begins"));
        }
        Ok(range)
    }
}

impl Serialize for AsnRange {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.first == self.last {
            return self.first.serialize(s);
        }
        s.collect_str(&format_args!("{}-{}", self.first, self.last))
    }
}
read_by_text!(AsnRange);

/// Of which AS neighbours are: `65001`, or a list of numbers and ranges, as in `[65001, 65010-65020]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asns(Vec<AsnRange>);

impl Asns {
    /// The only number.
    pub fn one(&self) -> Option<Asn> {
        match self.0.as_slice() {
            [range] if range.first == range.last => Some(range.first),
            _ => None,
        }
    }

    /// Whether this AS is among them.
    pub fn contains(&self, asn: Asn) -> bool {
        self.0.iter().any(|range| (range.first..=range.last).contains(&asn))
    }

    /// All ranges, in the order of the document.
    pub fn ranges(&self) -> &[AsnRange] {
        &self.0
    }
}

impl From<Asn> for Asns {
    fn from(asn: Asn) -> Self {
        Self(vec![AsnRange { first: asn, last: asn }])
    }
}

impl Serialize for Asns {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(s),
            several => several.serialize(s),
        }
    }
}

impl Read for Asns {
    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        use crate::schema::{either, list, number, text};
        let one = || either(number(), text());
        either(one(), list(one()))
    }

    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        let Some(items) = value.as_array() else {
            return read_text(value, at, problems).map(|one| Self(vec![one]));
        };
        if items.is_empty() || items.len() > ASN_RANGES_MAX {
            problems.add(at, format!("must have from 1 to {ASN_RANGES_MAX} entries"));
            return None;
        }
        let read: Vec<_> =
            items.iter().enumerate().map(|(i, item)| read_text(item, &at.index(i), problems)).collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_address_is_one_neighbour_and_a_prefix_many() {
        let read = |text: &str| text.parse::<NeighbourAddress>();
        let [one, net] = ["10.30.0.2", "2001:db8::/64"].map(|text| read(text).unwrap());
        assert_eq!((one.one(), one.prefix()), (Some([10, 30, 0, 2].into()), None));
        assert_eq!((net.one(), net.prefix()), (None, Some("2001:db8::/64".parse().unwrap())));
        assert!(one.is_ipv4() && !net.is_ipv4());
        let within = |net: &str| one.is_within(&net.parse().unwrap());
        assert!(within("10.30.0.0/24") && !within("10.31.0.0/24"));
        assert!(read("10.30.0.0/22").unwrap().is_within(&"10.30.0.1/16".parse().unwrap()));
        assert!(!read("10.30.0.0/22").unwrap().is_within(&"10.30.0.1/24".parse().unwrap()));
        assert!(["10.30.0", "10.30.0.0/33", "lab", ""].iter().all(|text| read(text).is_err()));
    }

    #[test]
    fn as_numbers_read_and_are_written_as_they_were() {
        let read = |value: &Value| {
            let mut problems = Problems::default();
            let read = Asns::read(value, &Path::root().field("asn"), &mut problems);
            read.ok_or_else(|| problems.as_slice().iter().map(|p| p.path.clone()).collect::<Vec<_>>())
        };
        for value in [json!(65001), json!("65010-65020"), json!([65001, "65010-65020"])] {
            assert_eq!(serde_json::to_value(read(&value).unwrap()).unwrap(), value);
        }
        let asn = |number| Asn::new(number).unwrap();
        let some = read(&json!([65001, "65010-65020"])).unwrap();
        let known = [65001, 65002, 65010, 65020, 65021].map(|number| some.contains(asn(number)));
        assert_eq!((known, some.one()), ([true, false, true, true, false], None));
        assert_eq!(read(&json!(65001)).unwrap().one(), Some(asn(65001)));
        assert_eq!(
            read(&json!([65001, 0, "7-", "9-8"])),
            Err(vec!["asn[1]".into(), "asn[2]".into(), "asn[3]".into()])
        );
        assert_eq!(read(&json!([])), Err(vec!["asn".into()]));
    }
}
