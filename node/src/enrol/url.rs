//! Where the enrolment listener is: `https://HOST[:PORT][/enrol]`, nothing more.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::ENROL_PATH;

/// Port when the URL names none.
const PORT_DEFAULT: u16 = 443;

/// The address of an enrolment listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolUrl {
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// The text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no enrolment URL: {fault} (expected https://HOST[:PORT][/enrol])")]
pub struct UrlError {
    /// What was given.
    pub text: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

impl FromStr for EnrolUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        parse(text).map_err(|fault| UrlError { text: text.to_owned(), fault })
    }
}

fn parse(text: &str) -> Result<EnrolUrl, &'static str> {
    let rest = text.strip_prefix("https://").ok_or("it does not begin with https://")?;
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if !matches!(path, "" | "/") && path != ENROL_PATH {
        return Err("it has another path");
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(inner) => {
            let (host, rest) = inner.split_once(']').ok_or("a bracket is missing")?;
            host.parse::<Ipv6Addr>().map_err(|_| "the address in brackets is not IPv6")?;
            (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, Some("")),
        },
    };
    let port = match port.ok_or("something follows the bracket")? {
        "" => PORT_DEFAULT,
        digits => digits.parse().ok().filter(|p| *p != 0).ok_or("the port is not 1 to 65535")?,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
    if host.is_empty() || !host.chars().all(plain) {
        return Err("the host is missing or has odd characters");
    }
    Ok(EnrolUrl { host: host.to_owned(), port })
}

impl fmt::Display for EnrolUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "https://[{}]:{}{ENROL_PATH}", self.host, self.port)
        } else {
            write!(f, "https://{}:{}{ENROL_PATH}", self.host, self.port)
        }
    }
}

impl Serialize for EnrolUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EnrolUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        let cases = [
            ("https://192.0.2.1:8443", "192.0.2.1", 8443),
            ("https://192.0.2.1:8443/enrol", "192.0.2.1", 8443),
            ("https://gw.example.net/", "gw.example.net", 443),
            ("https://[2001:db8::1]:8443", "2001:db8::1", 8443),
            ("https://[2001:db8::1]", "2001:db8::1", 443),
        ];
        for (text, host, port) in cases {
            let url: EnrolUrl = text.parse().expect(text);
            assert_eq!((url.host.as_str(), url.port), (host, port));
            assert_eq!(url.to_string().parse::<EnrolUrl>().expect("it reads back"), url);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "http://192.0.2.1",
            "192.0.2.1:8443",
            "https://",
            "https://:8443",
            "https://192.0.2.1:0",
            "https://192.0.2.1:x",
            "https://192.0.2.1/other",
            "https://u@192.0.2.1",
            "https://[2001:db8::1",
            "https://[nonsense]:1",
            "https://[2001:db8::1]8443",
            "https://2001:db8::1",
        ] {
            assert!(text.parse::<EnrolUrl>().is_err(), "{text}");
        }
    }
}
