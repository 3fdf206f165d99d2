//! The cryptography of the handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s as WireGuard uses it
//! (whitepaper §5.4, "Hash", "Mac", "Hmac", "Kdf", "Aead", "Xaead"; Noise revision 34 §5.2).

use blake2::digest::{FixedOutput, KeyInit, Update};
use blake2::{Blake2s256, Blake2sMac, Digest};
use hmac::SimpleHmac;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::limits::TAG_LEN;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// 32 secret bytes, wiped when dropped.
pub(super) type Secret = Zeroizing<[u8; 32]>;

/// What did not authenticate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unauthentic;

/// BLAKE2s over the parts in order.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hasher = Blake2s256::new();
    for part in parts {
        Digest::update(&mut hasher, part);
    }
    hasher.finalize().into()
}

/// Keyed BLAKE2s with 16 bytes of output. The key has 16 or 32 bytes.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 16] {
    let mut mac: Blake2sMac<blake2::digest::consts::U16> =
        KeyInit::new_from_slice(key).expect("BLAKE2s takes keys of up to 32 bytes");
    for part in parts {
        Update::update(&mut mac, part);
    }
    mac.finalize_fixed().into()
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut hmac: SimpleHmac<Blake2s256> =
        KeyInit::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        Update::update(&mut hmac, part);
    }
    Zeroizing::new(hmac.finalize_fixed().into())
}

/// Kdf_3 of the whitepaper; Kdf_1 and Kdf_2 are its first one and two outputs.
fn kdf(key: &[u8; 32], input: &[u8]) -> [Secret; 3] {
    let extracted = hmac(key, &[input]);
    let first = hmac(&extracted, &[&[1]]);
    let second = hmac(&extracted, &[&*first, &[2]]);
    let third = hmac(&extracted, &[&*second, &[3]]);
    [first, second, third]
}

#[cfg(test)]
thread_local! {
    /// X25519 operations with somebody else's point, on this thread: what a flood would make us pay.
    pub(super) static DH_OPERATIONS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// X25519. `None`: the result is zero because the point is of low order; whoever sent it would know the
/// secret without having one (RFC 7748 §6.1).
pub(super) fn dh(secret: &StaticSecret, public: &[u8; 32]) -> Option<Secret> {
    #[cfg(test)]
    DH_OPERATIONS.with(|count| count.set(count.get() + 1));
    let shared = secret.diffie_hellman(&PublicKey::from(*public));
    shared.was_contributory().then(|| Zeroizing::new(shared.to_bytes()))
}

/// The key of one message's one encrypted field.
pub(super) struct FieldKey(Secret);

impl FieldKey {
    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*self.0).expect("the key has 32 bytes"))
    }
}

/// The state that both sides move on with each field: chaining key and transcript hash.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(super) struct Symmetric {
    chain: [u8; 32],
    hash: [u8; 32],
}

impl Symmetric {
    /// Before the first message to the owner of `responder`.
    pub(super) fn new(responder: &[u8; 32]) -> Self {
        let chain = hash(&[CONSTRUCTION]);
        let mut state = Self { chain, hash: hash(&[&chain, IDENTIFIER]) };
        state.mix_hash(responder);
        state
    }

    pub(super) fn mix_hash(&mut self, data: &[u8]) {
        self.hash = hash(&[&self.hash, data]);
    }

    /// An ephemeral public key: part of the transcript, and, because a preshared key follows, of the chain.
    pub(super) fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix(public);
    }

    /// Takes a shared secret in.
    pub(super) fn mix(&mut self, input: &[u8]) {
        let [chain, ..] = kdf(&self.chain, input);
        self.chain = *chain;
    }

    /// Takes a shared secret in; the result is for the field that follows.
    pub(super) fn mix_for_field(&mut self, input: &[u8]) -> FieldKey {
        let [chain, key, _] = kdf(&self.chain, input);
        self.chain = *chain;
        FieldKey(key)
    }

    /// Takes the preshared key in, zeros if there is none; the result is for the field that follows.
    pub(super) fn mix_preshared(&mut self, preshared: &[u8; 32]) -> FieldKey {
        let [chain, transcript, key] = kdf(&self.chain, preshared);
        self.chain = *chain;
        self.mix_hash(&*transcript);
        FieldKey(key)
    }

    /// Encrypts `plaintext` into `field`, which is a tag longer.
    pub(super) fn seal_field(&mut self, key: &FieldKey, plaintext: &[u8], field: &mut [u8]) {
        let (body, tag) = field.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let sealed = key.cipher().seal_in_place_separate_tag(nonce, Aad::from(&self.hash), body);
        tag.copy_from_slice(sealed.expect("a field is not too long to seal").as_ref());
        self.mix_hash(field);
    }

    /// Decrypts `field` into `plaintext`, which is a tag shorter. The state moves on only if it is authentic.
    pub(super) fn open_field(
        &mut self,
        key: &FieldKey,
        field: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), Unauthentic> {
        let mut buffer = [0; 32 + TAG_LEN];
        let buffer = &mut buffer[..field.len()];
        buffer.copy_from_slice(field);
        let nonce = Nonce::assume_unique_for_key([0; NONCE_LEN]);
        let opened =
            key.cipher().open_in_place(nonce, Aad::from(&self.hash), buffer).map_err(|_| Unauthentic)?;
        plaintext.copy_from_slice(opened);
        self.mix_hash(field);
        Ok(())
    }

    /// The transport keys: the initiator's, then the responder's.
    pub(super) fn split(&self) -> [Secret; 2] {
        let [initiator, responder, _] = kdf(&self.chain, &[]);
        [initiator, responder]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn the_initial_state_is_the_whitepapers() {
        // Hash(Construction), as every implementation carries it.
        let chain = hash(&[CONSTRUCTION]);
        assert_eq!(hex(&chain), "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36");
        assert_eq!(
            hex(&hash(&[&chain, IDENTIFIER])),
            "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"
        );
    }

    #[test]
    fn blake2s_is_rfc_7693s() {
        assert_eq!(
            hex(&hash(&[b"a", b"", b"bc"])),
            "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"
        );
    }

    #[test]
    fn x25519_is_rfc_7748s_and_low_order_points_are_refused() {
        let mut secret = [0; 32];
        secret[0] = 9;
        let shared = dh(&StaticSecret::from(secret), &secret).expect("RFC 7748 §5.2, one iteration");
        assert_eq!(hex(&*shared), "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079");
        let mut one = [0; 32];
        one[0] = 1;
        // A point of order 8 (RFC 7748 §7, and the list of the curve's author).
        let eight = [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
            0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ];
        for point in [[0; 32], one, eight] {
            assert_eq!(dh(&StaticSecret::from([7; 32]), &point), None);
        }
    }

    #[test]
    fn a_field_that_is_not_authentic_leaves_the_state_as_it_was() {
        let mut sealing = Symmetric::new(&[1; 32]);
        let mut opening = sealing.clone();
        let key = sealing.mix_for_field(b"secret");
        let mut field = [0; 12 + TAG_LEN];
        sealing.seal_field(&key, b"twelve bytes", &mut field);
        let key = opening.mix_for_field(b"secret");
        let before = opening.hash;
        let mut plaintext = [0; 12];
        field[3] ^= 1;
        assert_eq!(opening.open_field(&key, &field, &mut plaintext), Err(Unauthentic));
        assert_eq!(opening.hash, before);
        field[3] ^= 1;
        assert_eq!(opening.open_field(&key, &field, &mut plaintext), Ok(()));
        assert_eq!(&plaintext, b"twelve bytes");
        assert_eq!(opening.hash, sealing.hash);
    }
}
