//! The gateway's own secrets, made at the first start and kept in the store: its WireGuard key and the
//! key and certificate with which it speaks TLS. They never leave the machine; their public halves are facts.

use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest as _, Sha256};
use watari_config::WgKey;
use watari_node::enrol::Pin;
use x25519_dalek::{PublicKey, StaticSecret};

use super::{Store, StoreError};

const WIREGUARD: &str = "wireguard-private-key";
/// Certificate and key stand in one value, so that no crash can leave one of another pair.
const TLS: &str = "tls-certificate-and-key";

/// Why the secrets could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel gave no random bytes.
    #[error("no random bytes from the kernel: {0}")]
    Random(getrandom::Error),
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),
    /// A stored secret is malformed.
    #[error("the stored {0} is malformed")]
    Malformed(&'static str),
    /// The certificate and key do not serve TLS.
    #[error("the stored certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

/// The gateway's secrets. `Debug` shows the public halves only.
#[derive(Clone)]
pub struct Secrets {
    wireguard: StaticSecret,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = self.wireguard_public();
        f.debug_struct("Secrets").field("wireguard", &public).field("tls", &self.tls_pin()).finish()
    }
}

impl Secrets {
    /// The secrets kept in `store`; made and kept first where there are none.
    ///
    /// # Errors
    /// When the store fails or keeps something malformed.
    pub fn load(store: &dyn Store, gateway: &str) -> Result<Self, SecretsError> {
        let wireguard = match store.secret(WIREGUARD)? {
            Some(key) => key,
            None => store.keep_secret(WIREGUARD, &new_key()?)?,
        };
        let wireguard: [u8; 32] =
            wireguard.try_into().map_err(|_| SecretsError::Malformed("WireGuard key"))?;
        let tls = match store.secret(TLS)? {
            Some(pair) => pair,
            None => store.keep_secret(TLS, &new_pair(gateway)?)?,
        };
        let (certificate, key) = split_pair(&tls).ok_or(SecretsError::Malformed("certificate"))?;
        Ok(Self { wireguard: StaticSecret::from(wireguard), certificate, key })
    }

    /// The WireGuard private key, 32 octets.
    pub fn wireguard_private(&self) -> [u8; 32] {
        self.wireguard.to_bytes()
    }

    /// The WireGuard public key: what other gateways and nodes know this one by.
    pub fn wireguard_public(&self) -> WgKey {
        let text = BASE64.encode(PublicKey::from(&self.wireguard).as_bytes());
        text.parse().expect("32 octets in base64")
    }

    /// The fingerprint of the TLS certificate, for clients and nodes to pin.
    pub fn tls_pin(&self) -> Pin {
        Pin::of_certificate(&self.certificate)
    }

    /// How to serve TLS with this certificate: TLS 1.2 and 1.3, HTTP/1.1, no client certificates.
    ///
    /// # Errors
    /// When the stored certificate and key do not fit each other.
    pub fn tls_server(&self) -> Result<Arc<ServerConfig>, SecretsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()));
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![CertificateDer::from(self.certificate.clone())], key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// What is kept of a token: SHA-256 in hexadecimal. Tokens are random, so no salt is needed.
pub fn token_sha256(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

/// A new X25519 private key, clamped (RFC 7748 section 5) as the kernel shows it when it is read back.
fn new_key() -> Result<[u8; 32], SecretsError> {
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(SecretsError::Random)?;
    key[0] &= 0b1111_1000;
    key[31] = key[31] & 0b0111_1111 | 0b0100_0000;
    Ok(key)
}

/// A new self-signed certificate and its key: the certificate's length in four octets, it, the key.
fn new_pair(gateway: &str) -> Result<Vec<u8>, SecretsError> {
    let made = rcgen::generate_simple_self_signed(vec![gateway.to_owned(), "localhost".to_owned()])?;
    let certificate = made.cert.der();
    let length = u32::try_from(certificate.len()).expect("a certificate is small");
    let mut pair = length.to_be_bytes().to_vec();
    pair.extend_from_slice(certificate);
    pair.extend_from_slice(&made.signing_key.serialize_der());
    Ok(pair)
}

fn split_pair(pair: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (length, rest) = pair.split_first_chunk::<4>()?;
    let (certificate, key) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    (!certificate.is_empty() && !key.is_empty()).then(|| (certificate.to_vec(), key.to_vec()))
}
