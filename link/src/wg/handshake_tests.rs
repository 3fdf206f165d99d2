//! Handshakes without time: who agrees with whom, on what, at what price, and what is refused.

use super::super::noise::DH_OPERATIONS;
use super::super::world::{Dice, key};
use super::*;

const STAMP: Timestamp = Timestamp::from_bytes([7; 12]);

struct Side {
    identity: Identity,
    contact: Contact,
}

fn sides(preshared: [Option<PresharedKey>; 2]) -> [Side; 2] {
    let [first, second] = preshared;
    let side = |own: u8, other: u8, preshared: Option<PresharedKey>| {
        let identity = Identity::new(&key(own));
        let contact = Contact::new(&identity, key(other).public_key(), preshared.as_ref());
        Side { identity, contact }
    };
    [side(0, 1, first), side(1, 0, second)]
}

fn ephemeral(seed: u64) -> Secret {
    let mut bytes = Zeroizing::new([0; 32]);
    Dice::new(seed).fill(&mut *bytes);
    bytes
}

fn initiate(side: &Side) -> ([u8; INITIATION_LEN], Initiated) {
    side.contact.initiate(&side.identity, 0x11, ephemeral(1), &STAMP).unwrap()
}

fn respond(
    side: &Side,
    message: &[u8; INITIATION_LEN],
) -> Result<([u8; RESPONSE_LEN], Agreed), HandshakeError> {
    let recognised = side.contact.recognise(side.identity.introduce(message)?)?;
    assert_eq!(recognised.timestamp, STAMP);
    recognised.respond(&side.contact, 0x22, ephemeral(2), 5)
}

fn dh_operations<T>(run: impl FnOnce() -> T) -> (T, u64) {
    let before = DH_OPERATIONS.get();
    let result = run();
    (result, DH_OPERATIONS.get() - before)
}

#[test]
fn both_sides_agree_with_and_without_a_preshared_key() {
    for preshared in [None, Some(PresharedKey::from_bytes([9; 32]))] {
        let [a, b] = sides([preshared.clone(), preshared]);
        let (message, initiated) = initiate(&a);
        let (response, responders) = respond(&b, &message).unwrap();
        let initiators = initiated.conclude(&a.identity, &a.contact, &response, 5).unwrap();
        assert_eq!(initiators.keys.seal, responders.keys.open);
        assert_eq!(initiators.keys.open, responders.keys.seal);
        assert_ne!(initiators.keys.open, initiators.keys.seal);
        assert_eq!((initiators.local_index, initiators.remote_index), (0x11, 0x22));
        assert_eq!((responders.local_index, responders.remote_index), (0x22, 0x11));
    }
}

#[test]
fn a_preshared_key_on_one_side_or_another_one_fails_at_the_response() {
    let key = |byte| Some(PresharedKey::from_bytes([byte; 32]));
    for preshared in [[None, key(1)], [key(1), None], [key(1), key(2)]] {
        let [a, b] = sides(preshared);
        let (message, initiated) = initiate(&a);
        let (response, _) = respond(&b, &message).expect("the initiation does not depend on it");
        let concluded = initiated.conclude(&a.identity, &a.contact, &response, 5);
        assert_eq!(concluded.unwrap_err(), HandshakeError::Unauthentic);
    }
}

#[test]
fn a_bit_flipped_in_any_field_is_refused_on_both_ways() {
    let [a, b] = sides([None, None]);
    let (message, initiated) = initiate(&a);
    // The MACs behind the fields are the gate's. The sender's index is in no transcript: mac1 covers it,
    // and a wrong one leads to a session that the initiator does not know.
    for position in (0..116).filter(|position| !(0..8).contains(position)) {
        let mut flipped = message;
        flipped[position] ^= 1 << (position % 8);
        // The top bit of a coordinate is ignored (RFC 7748 §5), but it is in the transcript.
        assert!(respond(&b, &flipped).is_err(), "initiation, {position}");
    }
    let (response, _) = respond(&b, &message).unwrap();
    for position in 12..60 {
        let mut flipped = response;
        flipped[position] ^= 1 << (position % 8);
        let concluded = initiated.conclude(&a.identity, &a.contact, &flipped, 5);
        assert!(concluded.is_err(), "response, {position}");
    }
    initiated.conclude(&a.identity, &a.contact, &response, 5).expect("forgeries change nothing");
}

#[test]
fn an_initiation_of_another_peer_is_not_taken() {
    let [a, b] = sides([None, None]);
    let stranger = Contact::new(&b.identity, key(9).public_key(), None);
    let introduction = b.identity.introduce(&initiate(&a).0).unwrap();
    assert_eq!(introduction.public_key(), a.identity.public_key());
    assert_eq!(stranger.recognise(introduction).err(), Some(HandshakeError::WrongPeer));
}

#[test]
fn knowing_a_peers_public_key_is_not_being_it() {
    let [a, b] = sides([None, None]);
    // Somebody with a key of their own claims to be node 0: all but the secret is known.
    let liar = Identity { secret: key(9).to_secret(), public: *a.identity.public_key() };
    let contact = Contact::new(&liar, *b.identity.public_key(), None);
    let (message, _) = contact.initiate(&liar, 1, ephemeral(3), &STAMP).unwrap();
    let introduction = b.identity.introduce(&message).expect("an introduction is no proof");
    assert_eq!(introduction.public_key(), a.identity.public_key());
    assert_eq!(b.contact.recognise(introduction).err(), Some(HandshakeError::Unauthentic));
}

#[test]
fn low_order_points_are_refused_wherever_they_come_in() {
    let [a, b] = sides([None, None]);
    let (mut message, initiated) = initiate(&a);
    message[8..40].fill(0);
    assert_eq!(b.identity.introduce(&message).unwrap_err(), HandshakeError::WeakKey);
    let mut response = respond(&b, &initiate(&a).0).unwrap().0;
    response[12..44].fill(0);
    let concluded = initiated.conclude(&a.identity, &a.contact, &response, 5);
    assert_eq!(concluded.unwrap_err(), HandshakeError::WeakKey);
    let weak = Contact::new(&a.identity, PublicKey::from_bytes([0; 32]), None);
    let made = weak.initiate(&a.identity, 1, ephemeral(4), &STAMP);
    assert_eq!(made.err(), Some(HandshakeError::WeakKey));
}

#[test]
fn a_message_costs_what_the_module_says() {
    let [a, b] = sides([None, None]);
    let ((message, initiated), cost) = dh_operations(|| initiate(&a));
    assert_eq!(cost, 1);
    let (introduction, cost) = dh_operations(|| b.identity.introduce(&message).unwrap());
    assert_eq!(cost, 1);
    let (recognised, cost) = dh_operations(|| b.contact.recognise(introduction).unwrap());
    assert_eq!(cost, 0);
    let ((response, _), cost) = dh_operations(|| recognised.respond(&b.contact, 1, ephemeral(2), 0).unwrap());
    assert_eq!(cost, 2);
    let (_, cost) = dh_operations(|| initiated.conclude(&a.identity, &a.contact, &response, 0).unwrap());
    assert_eq!(cost, 2);
}

#[test]
fn secrets_do_not_show() {
    let [a, b] = sides([None, None]);
    let introduction = b.identity.introduce(&initiate(&a).0).unwrap();
    let shown = format!("{:?} {introduction:?}", a.identity);
    assert_eq!(shown, format!("Identity({0}) Introduction({0}, 0x00000011)", a.identity.public_key()));
}
