//! Where the far end of a WireGuard tunnel is reached: an address or a DNS name, each with a UDP port; one place or
//! several, for a gateway that has more than one uplink or both families.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::Serialize;
use serde_json::Value;

use crate::read::{Path, Problems, Read, read_text};

/// The most places of one gateway in one tunnel, and the most addresses that are used of them all together.
pub const ENDPOINTS_MAX: usize = 8;
/// The most octets of a DNS name in text (RFC 1035 section 2.3.4, less the root's).
const NAME_OCTETS_MAX: usize = 253;
/// The most octets of one label of it.
const LABEL_OCTETS_MAX: usize = 63;

/// One place: `198.51.100.7:51820`, `[2001:db8::7]:51820` or `vpn.example.org:51820`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// An address.
    Address(SocketAddr),
    /// A name, of which all addresses are meant.
    Named {
        /// The name, in lower case, without a dot at its end.
        host: String,
        /// UDP port.
        port: u16,
    },
}

impl Endpoint {
    /// Its UDP port.
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Named { port, .. } => *port,
        }
    }

    /// Its address, where it is written as one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip()),
            Self::Named { .. } => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let shape = "must be ADDRESS:PORT, [IPv6 ADDRESS]:PORT or NAME:PORT";
        let (host, port) = text.rsplit_once(':').ok_or_else(|| shape.to_owned())?;
        let port = port.parse().map_err(|_| shape.to_owned())?;
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if !is_name(&host) {
            return Err(format!("{shape}; {host:?} is no DNS name"));
        }
        Ok(Self::Named { host, port })
    }
}

/// A host name (RFC 1123 section 2.1): labels of letters, digits and inner hyphens, of which the last is no number (an
/// address with a digit missing is a mistake, not a name).
fn is_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_OCTETS_MAX).contains(&label.len())
            && label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = host.rsplit('.').next().unwrap_or_default();
    host.len() <= NAME_OCTETS_MAX && host.split('.').all(label) && !last.bytes().all(|o| o.is_ascii_digit())
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// The places of one gateway: one, or a list. All lead to the same UDP port of it, unless something between translates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints(Vec<Endpoint>);

impl Endpoints {
    /// All places, in the order of the document.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none; validation refuses that.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first one, whose port the gateway listens on where nothing else is said.
    pub fn first(&self) -> Option<&Endpoint> {
        self.0.first()
    }
}

impl FromIterator<Endpoint> for Endpoints {
    fn from_iter<I: IntoIterator<Item = Endpoint>>(places: I) -> Self {
        Self(places.into_iter().collect())
    }
}

impl Serialize for Endpoints {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(s),
            several => several.serialize(s),
        }
    }
}

impl Read for Endpoints {
    #[cfg(feature = "schema")]
    fn schema() -> crate::schema::Schema {
        crate::schema::either(crate::schema::text(), crate::schema::list(crate::schema::text()))
    }

    fn read(value: &Value, at: &Path, problems: &mut Problems) -> Option<Self> {
        let Some(list) = value.as_array() else {
            return read_text(value, at, problems).map(|one| Self(vec![one]));
        };
        let read: Vec<_> =
            list.iter().enumerate().map(|(i, item)| read_text(item, &at.index(i), problems)).collect();
        read.into_iter().collect::<Option<_>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn addresses_and_names_are_told_apart() {
        let address = |text: &str| Endpoint::Address(text.parse().unwrap());
        let named = |host: &str, port| Endpoint::Named { host: host.to_owned(), port };
        for (text, endpoint) in [
            ("192.0.2.7:51820", address("192.0.2.7:51820")),
            ("[2001:db8::7]:1", address("[2001:db8::7]:1")),
            ("VPN.example.org:51820", named("vpn.example.org", 51820)),
            ("gw-1.example.org.:9", named("gw-1.example.org", 9)),
            ("3com.example:9", named("3com.example", 9)),
        ] {
            assert_eq!(text.parse(), Ok(endpoint), "{text}");
        }
        for text in [
            "192.0.2.7",
            "192.0.2:51820",
            "300.0.2.7:51820",
            "2001:db8::7:51820x",
            ":51820",
            "a..b:1",
            "-a.b:1",
            "a_b.c:1",
            "vpn.example.org:",
            "vpn.example.org:70000",
            "",
        ] {
            assert!(text.parse::<Endpoint>().is_err(), "{text}");
        }
        assert!(format!("{}.org:1", "a".repeat(64)).parse::<Endpoint>().is_err());
    }

    #[test]
    fn one_place_or_a_list_reads_and_is_written_as_it_was() {
        for value in
            [json!("192.0.2.7:51820"), json!(["192.0.2.7:51820", "[2001:db8::7]:51820", "vpn.example:1"])]
        {
            let mut problems = Problems::default();
            let read = Endpoints::read(&value, &Path::root(), &mut problems).unwrap();
            assert_eq!(serde_json::to_value(&read).unwrap(), value);
        }
        let mut problems = Problems::default();
        let bad = json!(["192.0.2.7", "192.0.2.8:1", 5]);
        assert_eq!(Endpoints::read(&bad, &Path::root().field("e"), &mut problems), None);
        let paths: Vec<_> = problems.as_slice().iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(paths, ["e[0]", "e[2]"]);
    }
}
