//! Authentication: what is sealed is verified by whoever knows the secret, once, and nothing else is.

use super::*;
use crate::bfd::wire::{Diagnostic, State};
use crate::key::BfdSecret;

const KINDS: [BfdAuthenticationKind; 3] = [
    BfdAuthenticationKind::Simple,
    BfdAuthenticationKind::KeyedSha1,
    BfdAuthenticationKind::MeticulousKeyedSha1,
];

fn by(kind: BfdAuthenticationKind, secret: &str) -> BfdAuthentication {
    BfdAuthentication { kind, key_id: 7, secret: BfdSecret::new(secret) }
}

fn packet() -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Down,
        poll: false,
        is_final: false,
        control_plane_independent: true,
        demand: false,
        detect_mult: 3,
        my_discriminator: 7,
        your_discriminator: 0,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 50_000,
        required_min_echo_rx_us: 0,
    }
}

fn fresh(transmitted: u32) -> Sequence {
    Sequence { transmitted, received: None }
}

fn check(bytes: &[u8], with: &BfdAuthentication, sequence: &mut Sequence) -> Result<(), Discard> {
    verify(&Received::decode(bytes).unwrap(), Some(with), sequence)
}

#[test]
fn what_is_sealed_is_verified_and_every_bit_counts() {
    for kind in KINDS {
        let with = by(kind, "secret");
        let sealed = seal(&packet(), Some(&with), &mut fresh(41));
        check(sealed.bytes(), &with, &mut fresh(0)).unwrap();
        for at in 0..sealed.bytes().len() * 8 {
            let mut bytes = sealed.bytes().to_vec();
            bytes[at / 8] ^= 1 << (at % 8);
            let Ok(received) = Received::decode(&bytes) else { continue };
            let taken = verify(&received, Some(&with), &mut fresh(0)).is_ok();
            // A password covers no other field.
            let outside = kind == BfdAuthenticationKind::Simple && at / 8 < MANDATORY_LENGTH;
            assert!(!taken || outside, "{kind:?}: bit {at}");
        }
    }
}

#[test]
fn section_6_7_4_the_hash_is_sha1_over_the_packet_with_the_padded_key() {
    let with = by(BfdAuthenticationKind::KeyedSha1, "key");
    let sealed = seal(&packet(), Some(&with), &mut fresh(0));
    let mut expected = sealed.bytes()[..32].to_vec();
    expected.extend(b"key");
    expected.resize(52, 0);
    assert_eq!(&sealed.bytes()[32..], digest(&SHA1, &expected).as_ref());
    assert_eq!(&sealed.bytes()[24..32], [4, 28, 7, 0, 0, 0, 0, 1]);
}

#[test]
fn another_secret_key_or_kind_is_refused() {
    for kind in KINDS {
        let sealed = seal(&packet(), Some(&by(kind, "secret")), &mut fresh(0));
        let other = |with| check(sealed.bytes(), &with, &mut fresh(0)).unwrap_err();
        assert_eq!(other(by(kind, "secres")), Discard::AuthenticationMismatch);
        assert_eq!(other(by(kind, "secretly")), Discard::AuthenticationMismatch);
        assert_eq!(other(BfdAuthentication { key_id: 8, ..by(kind, "secret") }), Discard::AuthenticationForm);
        for another in KINDS.into_iter().filter(|k| *k != kind) {
            assert_eq!(other(by(another, "secret")), Discard::AuthenticationForm);
        }
    }
}

#[test]
fn section_6_8_6_the_a_bit_is_set_exactly_where_authentication_is_in_use() {
    let with = by(BfdAuthenticationKind::Simple, "secret");
    let (plain, sealed) = (seal(&packet(), None, &mut fresh(0)), seal(&packet(), Some(&with), &mut fresh(0)));
    assert_eq!(check(plain.bytes(), &with, &mut fresh(0)), Err(Discard::AuthenticationPresence));
    let received = Received::decode(sealed.bytes()).unwrap();
    assert_eq!(verify(&received, None, &mut fresh(0)), Err(Discard::AuthenticationPresence));
}

#[test]
fn section_6_7_4_a_sequence_number_is_taken_within_three_times_detect_mult() {
    let numbered =
        |kind, number: u32| seal(&packet(), Some(&by(kind, "s")), &mut fresh(number.wrapping_sub(1)));
    for (kind, again) in
        [(BfdAuthenticationKind::KeyedSha1, true), (BfdAuthenticationKind::MeticulousKeyedSha1, false)]
    {
        // The circle of 32 bits is crossed.
        for last in [5_u32, u32::MAX - 4] {
            let taken = |number: u32| {
                let mut sequence = Sequence { transmitted: 0, received: Some(last) };
                check(numbered(kind, number).bytes(), &by(kind, "s"), &mut sequence).is_ok()
                    && sequence.received == Some(number)
            };
            assert_eq!(taken(last), again, "the same one again");
            assert!(taken(last.wrapping_add(1)) && taken(last.wrapping_add(9)));
            assert!(!taken(last.wrapping_add(10)) && !taken(last.wrapping_sub(1)));
        }
    }
}

#[test]
fn a_forged_first_packet_does_not_lock_the_neighbour_out() {
    let kind = BfdAuthenticationKind::MeticulousKeyedSha1;
    let mut sequence = fresh(0);
    let forged = seal(&packet(), Some(&by(kind, "guess")), &mut fresh(3_000_000));
    assert!(check(forged.bytes(), &by(kind, "secret"), &mut sequence).is_err());
    let honest = seal(&packet(), Some(&by(kind, "secret")), &mut fresh(10));
    check(honest.bytes(), &by(kind, "secret"), &mut sequence).unwrap();
}
