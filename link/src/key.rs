//! WireGuard keys as values: Curve25519 public keys, and the two secrets (private key, preshared
//! key) that never show in `Debug`, in logs or in a read-back.
//!
//! On the wire of the control socket and in the state file a key is 44 characters of base64, as
//! `wg(8)` writes it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of every WireGuard key, in bytes.
pub const KEY_LEN: usize = 32;

/// A key that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64, or base64 with other padding than `wg(8)` writes.
    #[error("a WireGuard key is 44 characters of base64")]
    NotBase64,
    /// Base64 of some other length.
    #[error("a WireGuard key has 32 bytes, this one has {0}")]
    WrongLength(usize),
    /// All bytes are zero: the low-order point, and the "no key" of other tools.
    #[error("the all-zero key is no key")]
    Zero,
}

fn parse(text: &str) -> Result<[u8; KEY_LEN], KeyError> {
    let mut bytes = STANDARD.decode(text).map_err(|_| KeyError::NotBase64)?;
    let key = <[u8; KEY_LEN]>::try_from(bytes.as_slice());
    let length = bytes.len();
    bytes.zeroize();
    let key = key.map_err(|_| KeyError::WrongLength(length))?;
    if key == [0; KEY_LEN] {
        return Err(KeyError::Zero);
    }
    Ok(key)
}

/// Reads a key out of a string without ever putting the string into an error.
fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; KEY_LEN], D::Error> {
    let mut text = String::deserialize(deserializer)?;
    let key = parse(&text).map_err(de::Error::custom);
    text.zeroize();
    key
}

/// A peer's or our own Curve25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The key's bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The first eight characters of the base64 form: enough for a log line.
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&STANDARD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(text).map(Self)
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// A device's private key. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; KEY_LEN]);

impl PrivateKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// A new key from the system's random source.
    ///
    /// # Errors
    /// The system's random source failed.
    pub fn generate() -> std::io::Result<Self> {
        let mut bytes = [0; KEY_LEN];
        getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
        Ok(Self(bytes))
    }

    /// The public key that belongs to it.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(*x25519_dalek::PublicKey::from(&self.to_secret()).as_bytes())
    }

    /// The key in base64, for a document or another tool. The caller keeps it secret.
    pub fn reveal(&self) -> String {
        STANDARD.encode(self.0)
    }

    pub(crate) fn to_secret(&self) -> x25519_dalek::StaticSecret {
        x25519_dalek::StaticSecret::from(self.0)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(hidden)")
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(text).map(Self)
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// A preshared key of two peers. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PresharedKey([u8; KEY_LEN]);

impl PresharedKey {
    /// The key with these bytes.
    pub const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// The key in base64, for a document or another tool. The caller keeps it secret.
    pub fn reveal(&self) -> String {
        STANDARD.encode(self.0)
    }

    /// What a read-back shows instead of the key: 16 hexadecimal digits out of SHA-256 over a label
    /// and the key. Equal keys have equal fingerprints; the 256 random bits stay hidden.
    pub fn fingerprint(&self) -> String {
        let digest = Sha256::new().chain_update(b"watari-link preshared key").chain_update(self.0).finalize();
        digest[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(crate) fn to_bytes(&self) -> [u8; KEY_LEN] {
        self.0
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(hidden)")
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        parse(text).map(Self)
    }
}

impl Serialize for PresharedKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.reveal())
    }
}

impl<'de> Deserialize<'de> for PresharedKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// The shared secret of a BFD session: any bytes, written as text. Wiped when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct BfdSecret(String);

impl BfdSecret {
    /// The secret with these bytes.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for BfdSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BfdSecret(hidden)")
    }
}

impl Serialize for BfdSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for BfdSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_show_in_debug_output() {
        let private = PrivateKey::from_bytes([7; 32]);
        let preshared = PresharedKey::from_bytes([9; 32]);
        let bfd = BfdSecret::new("xyzzy");
        let shown = format!("{private:?} {preshared:?} {bfd:?}");
        assert!(!shown.contains("xyzzy"), "{shown}");
        assert!(!shown.contains(&private.reveal()) && !shown.contains(&preshared.reveal()));
        assert!(!shown.contains('7') && !shown.contains('9'), "{shown}");
    }

    #[test]
    fn a_public_key_is_the_one_wg_derives() {
        // RFC 7748 §6.1, Alice's key pair.
        let private = PrivateKey::from_str("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").unwrap();
        let public = PublicKey::from_str("hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=").unwrap();
        assert_eq!(private.public_key(), public);
    }

    #[test]
    fn malformed_keys_are_refused_by_reason() {
        assert_eq!(PublicKey::from_str("x"), Err(KeyError::NotBase64));
        assert_eq!(PublicKey::from_str("AAAA"), Err(KeyError::WrongLength(3)));
        let zero = STANDARD.encode([0; 32]);
        assert_eq!(PublicKey::from_str(&zero), Err(KeyError::Zero));
    }

    #[test]
    fn fingerprints_tell_preshared_keys_apart() {
        let one = PresharedKey::from_bytes([1; 32]);
        assert_eq!(one.fingerprint(), one.clone().fingerprint());
        assert_ne!(one.fingerprint(), PresharedKey::from_bytes([2; 32]).fingerprint());
        assert_eq!(one.fingerprint().len(), 16);
    }
}
