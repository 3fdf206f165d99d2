//! The vocabulary as types: a value of one of these is well-formed wherever it is met.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Serialize, Serializer};

use crate::read::read_by_text;

/// Why a text is not the value it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// An object's name with a character or length it may not have.
    #[error("a name has 1 to 32 of a-z, 0-9 and '-', and starts with a letter")]
    Name,
    /// A device name the kernel would not take.
    #[error("a device name has 1 to 15 characters, no '/', no space, and is not '.' or '..'")]
    IfName,
    /// Out of 1 … 2^24 − 1.
    #[error("a VNI is a number from 1 to 16777215 (RFC 7348 section 5)")]
    Vni,
    /// Out of 1 … 4094.
    #[error("a VLAN id is a number from 1 to 4094 (IEEE 802.1Q)")]
    Vid,
    /// Out of 1 … 2^32 − 1, or reserved.
    #[error("an AS number is a number from 1 to 4294967294 other than 23456 and 65535 (RFC 6793, RFC 7300)")]
    Asn,
    /// Not six octets, or a group address.
    #[error("a MAC address is six octets in hexadecimal with ':', not all zero, and no group address")]
    Mac,
    /// Out of 576 … 9216.
    #[error("an MTU is a number of bytes from 576 to 9216; 1280 at least where IPv6 is used (RFC 8200)")]
    Mtu,
    /// Not 32 octets in base64, or all zero.
    #[error("a WireGuard key is 32 octets in base64 (44 characters), not all zero")]
    WgKey,
    /// Not `<number><unit>`.
    #[error("a duration is a number with a unit, s, m, h or d, from 1 s to 366 d, e.g. 12h")]
    Duration,
}

macro_rules! number {
    ($(#[$meta:meta])* $name:ident($inner:ty), $error:ident, $valid:expr) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// The value, if it is in range.
            ///
            /// # Errors
            /// Says the range when it is not.
            pub fn new(value: $inner) -> Result<Self, NameError> {
                let valid: fn($inner) -> bool = $valid;
                if valid(value) { Ok(Self(value)) } else { Err(NameError::$error) }
            }

            /// The number.
            pub fn get(self) -> $inner {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                s.parse().map_err(|_| NameError::$error).and_then(Self::new)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl crate::read::Read for $name {
            fn read(
                value: &serde_json::Value,
                at: &crate::read::Path,
                problems: &mut crate::read::Problems,
            ) -> Option<Self> {
                crate::read::read_text(value, at, problems)
            }

            #[cfg(feature = "schema")]
            fn schema() -> crate::schema::Schema {
                crate::schema::number()
            }
        }
    };
}

number!(
    /// VXLAN network identifier, 24 bits (RFC 7348).
    Vni(u32), Vni, |v| (1..1 << 24).contains(&v)
);
number!(
    /// VLAN identifier (IEEE 802.1Q), 1 … 4094.
    Vid(u16), Vid, |v| (1..=4094).contains(&v)
);
number!(
    /// Autonomous system number, four octets (RFC 6793).
    Asn(u32), Asn, |v| v != 0 && v != 23456 && v != 65535 && v != u32::MAX
);
number!(
    /// Layer-3 MTU in bytes.
    Mtu(u16), Mtu, |v| (576..=9216).contains(&v)
);

/// The name of an object: the key under which it stands in a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A device name for the object of this name: `prefix`, eight hexadecimal digits of its hash, and
    /// `suffix`. It depends on the name alone, so a restarted daemon finds its devices again and a
    /// changed document renames nothing. Validation refuses two objects that meet in one hash.
    pub fn device(&self, prefix: &str, suffix: &str) -> String {
        format!("{prefix}{:08x}{suffix}", fnv1a(self.0.as_bytes()))
    }
}

/// FNV-1a, 32 bits: stable for ever, which is what a device name needs of it.
pub(crate) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, b| (hash ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let well_formed = s.len() <= 32
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
        if well_formed { Ok(Self(s.to_owned())) } else { Err(NameError::Name) }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name of a network device of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct IfName(String);

impl IfName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IfName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let well_formed = (1..=15).contains(&s.len())
            && s != "."
            && s != ".."
            && s.chars().all(|c| c.is_ascii_graphic() && c != '/' && c != ':');
        if well_formed { Ok(Self(s.to_owned())) } else { Err(NameError::IfName) }
    }
}

impl fmt::Display for IfName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An individual MAC address (IEEE 802, EUI-48).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

impl Mac {
    /// The default anycast gateway MAC of a fabric (locally administered).
    pub const ANYCAST: Self = Self([0x02, 0x57, 0x54, 0x00, 0x00, 0x01]);

    /// An individual address.
    ///
    /// # Errors
    /// For a group address and for all zero.
    pub fn new(octets: [u8; 6]) -> Result<Self, NameError> {
        if octets[0] & 1 == 1 || octets == [0; 6] { Err(NameError::Mac) } else { Ok(Self(octets)) }
    }

    /// The octets in transmission order.
    pub fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for Mac {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let mut octets = [0; 6];
        let mut parts = s.split(':');
        for octet in &mut octets {
            let part = parts.next().filter(|p| p.len() == 2).ok_or(NameError::Mac)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| NameError::Mac)?;
        }
        if parts.next().is_some() { Err(NameError::Mac) } else { Self::new(octets) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A WireGuard public key (Curve25519), base64 in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WgKey([u8; 32]);

impl WgKey {
    /// A key of these octets.
    ///
    /// # Errors
    /// For all zero, which no key pair has.
    pub fn new(octets: [u8; 32]) -> Result<Self, NameError> {
        if octets == [0; 32] { Err(NameError::WgKey) } else { Ok(Self(octets)) }
    }

    /// The octets.
    pub fn octets(&self) -> [u8; 32] {
        self.0
    }
}

impl FromStr for WgKey {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let octets = BASE64.decode(s).map_err(|_| NameError::WgKey)?;
        octets.try_into().map_err(|_| NameError::WgKey).and_then(Self::new)
    }
}

impl fmt::Display for WgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for WgKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for WgKey {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

/// A length of time, whole seconds, written `90s`, `15m`, `12h` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration {
    seconds: u64,
}

impl Duration {
    /// The longest one: 366 days. Nothing lives for ever.
    pub const SECONDS_MAX: u64 = 366 * 86_400;

    /// A day.
    pub const DAY: Self = Self { seconds: 86_400 };
    /// Thirty days.
    pub const MONTH: Self = Self { seconds: 30 * 86_400 };

    /// Whole seconds, 1 … [`Self::SECONDS_MAX`].
    ///
    /// # Errors
    /// When out of range.
    pub fn from_seconds(seconds: u64) -> Result<Self, NameError> {
        if (1..=Self::SECONDS_MAX).contains(&seconds) {
            Ok(Self { seconds })
        } else {
            Err(NameError::Duration)
        }
    }

    /// The whole seconds.
    pub fn seconds(self) -> u64 {
        self.seconds
    }
}

impl FromStr for Duration {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let unit = s.chars().last().ok_or(NameError::Duration)?;
        let scale = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(NameError::Duration),
        };
        let number: u64 = s[..s.len() - 1].parse().map_err(|_| NameError::Duration)?;
        Self::from_seconds(number.checked_mul(scale).ok_or(NameError::Duration)?)
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scale, unit) = match self.seconds {
            s if s % 86_400 == 0 => (86_400, 'd'),
            s if s % 3_600 == 0 => (3_600, 'h'),
            s if s % 60 == 0 => (60, 'm'),
            _ => (1, 's'),
        };
        write!(f, "{}{unit}", self.seconds / scale)
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

read_by_text!(Name, IfName, Mac, WgKey, Duration);
