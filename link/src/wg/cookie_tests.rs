//! The gate: who enters, who gets a cookie, who is dropped, and for how long.

use super::super::world::{Dice, key};
use super::*;

fn judge(gate: &mut Gate, message: &[u8], from: &str, now_ms: u64) -> Verdict {
    let mut dice = Dice::new(now_ms);
    gate.judge(message, from.parse().unwrap(), now_ms, false, &mut |bytes| dice.fill(bytes))
}

const HERE: &str = "192.0.2.1:1000";

fn gate() -> Gate {
    Gate::new(&key(1).public_key())
}

fn macs() -> Macs {
    Macs::new(&key(1).public_key())
}

/// An initiation that only its MACs are right of.
fn message(macs: &mut Macs, now_ms: u64) -> [u8; INITIATION_LEN] {
    let mut message = [0x77; INITIATION_LEN];
    message[116..].fill(0);
    macs.write(&mut message, now_ms);
    message
}

/// A gate that got too many messages.
fn loaded(now_ms: u64) -> Gate {
    let mut gate = gate();
    for _ in 0..HANDSHAKES_PER_SECOND {
        assert_eq!(judge(&mut gate, &message(&mut macs(), 0), HERE, now_ms), Verdict::Enter);
    }
    assert!(matches!(judge(&mut gate, &message(&mut macs(), 0), HERE, now_ms), Verdict::Cookie(_)));
    gate
}

fn cookie_of(verdict: Verdict) -> [u8; COOKIE_REPLY_LEN] {
    match verdict {
        Verdict::Cookie(reply) => reply,
        other => panic!("no cookie but {other:?}"),
    }
}

/// An initiator that has the cookie for `from`.
fn acquainted(gate: &mut Gate, from: &str, now_ms: u64) -> Macs {
    let mut macs = macs();
    let asked = message(&mut macs, now_ms);
    let reply = cookie_of(judge(gate, &asked, from, now_ms));
    macs.receive(&reply, now_ms).unwrap();
    macs
}

#[test]
fn a_message_for_another_key_or_changed_anywhere_has_a_bad_mac() {
    let mut gate = gate();
    let good = message(&mut macs(), 0);
    for position in 0..INITIATION_LEN - 16 {
        let mut flipped = good;
        flipped[position] ^= 0x10;
        assert_eq!(judge(&mut gate, &flipped, HERE, 0), Verdict::BadMac, "{position}");
    }
    assert_eq!(judge(&mut gate, &message(&mut Macs::new(&key(0).public_key()), 0), HERE, 0), Verdict::BadMac);
    assert_eq!(judge(&mut gate, &good, HERE, 0), Verdict::Enter, "mac2 is not looked at without load");
}

#[test]
fn a_bad_mac_is_no_load() {
    let mut gate = gate();
    for _ in 0..10_000 {
        assert_eq!(judge(&mut gate, &[0; INITIATION_LEN], HERE, 0), Verdict::BadMac);
    }
    assert_eq!(judge(&mut gate, &message(&mut macs(), 0), HERE, 0), Verdict::Enter);
}

#[test]
fn load_begins_with_too_many_messages_and_ends_a_second_after_them() {
    let mut gate = loaded(5_000);
    for now_ms in [5_001, 5_500, 5_999] {
        assert!(matches!(judge(&mut gate, &message(&mut macs(), 0), HERE, now_ms), Verdict::Cookie(_)));
    }
    // The last of them was over the rate of its second too.
    assert!(matches!(judge(&mut gate, &message(&mut macs(), 0), HERE, 6_998), Verdict::Cookie(_)));
    assert_eq!(judge(&mut gate, &message(&mut macs(), 0), HERE, 6_999), Verdict::Enter);
}

#[test]
fn a_caller_that_is_busy_is_load() {
    let mut dice = Dice::new(1);
    let verdict =
        gate().judge(&message(&mut macs(), 0), HERE.parse().unwrap(), 0, true, &mut |bytes| dice.fill(bytes));
    assert!(matches!(verdict, Verdict::Cookie(_)));
}

#[test]
fn a_cookie_lets_its_address_and_port_in_and_no_other() {
    let mut gate = loaded(0);
    let mut macs = acquainted(&mut gate, HERE, 0);
    let with_cookie = message(&mut macs, 100);
    assert_eq!(judge(&mut gate, &with_cookie, HERE, 100), Verdict::Enter);
    for elsewhere in ["192.0.2.1:1001", "192.0.2.2:1000", "[2001:db8::1]:1000"] {
        assert!(matches!(judge(&mut gate, &with_cookie, elsewhere, 100), Verdict::Cookie(_)), "{elsewhere}");
    }
    let mut flipped = with_cookie;
    flipped[INITIATION_LEN - 1] ^= 1;
    assert!(matches!(judge(&mut gate, &flipped, HERE, 100), Verdict::Cookie(_)));
}

#[test]
fn cookies_end_after_two_minutes_on_both_sides() {
    let mut gate = loaded(0);
    let mut macs = acquainted(&mut gate, HERE, 0);
    let load = |gate: &mut Gate, now_ms| {
        for _ in 0..=HANDSHAKES_PER_SECOND {
            judge(gate, &message(&mut self::macs(), 0), "198.51.100.1:9", now_ms);
        }
    };
    load(&mut gate, COOKIE_TIME_MS - 1);
    let late = message(&mut macs, COOKIE_TIME_MS - 1);
    assert_eq!(judge(&mut gate, &late, HERE, COOKIE_TIME_MS - 1), Verdict::Enter);
    load(&mut gate, COOKIE_TIME_MS + 2_000);
    assert!(matches!(judge(&mut gate, &late, HERE, COOKIE_TIME_MS + 2_000), Verdict::Cookie(_)));
    let without = message(&mut macs, COOKIE_TIME_MS);
    assert_eq!(without[INITIATION_LEN - 16..], [0; 16], "an old cookie is forgotten");
}

#[test]
fn a_cookie_reply_is_for_the_last_message_only_and_only_once() {
    let mut gate = loaded(0);
    let mut macs = macs();
    let asked = message(&mut macs, 0);
    let reply = cookie_of(judge(&mut gate, &asked, HERE, 0));
    for position in 4..COOKIE_REPLY_LEN {
        let mut flipped = reply;
        flipped[position] ^= 1;
        let wanted = if position < 8 { HandshakeError::Unasked } else { HandshakeError::Unauthentic };
        assert_eq!(macs.receive(&flipped, 0), Err(wanted), "{position}");
    }
    assert_eq!(macs.receive(&reply, 0), Ok(()));
    assert_eq!(macs.receive(&reply, 0), Err(HandshakeError::Unasked), "replayed");
    let mut other = [0x78; INITIATION_LEN];
    other[4..8].copy_from_slice(&asked[4..8]);
    macs.write(&mut other, 0);
    assert_eq!(macs.receive(&reply, 0), Err(HandshakeError::Unauthentic), "a reply to an earlier message");
}

#[test]
fn under_load_an_address_has_5_at_once_and_20_a_second() {
    let mut gate = loaded(0);
    let mut macs = acquainted(&mut gate, HERE, 0);
    let with_cookie = message(&mut macs, 0);
    let entered = |gate: &mut Gate, range: std::ops::Range<u64>| {
        range.filter(|&now_ms| judge(gate, &with_cookie, HERE, now_ms) == Verdict::Enter).count()
    };
    let at_once = (0..10).filter(|_| entered(&mut gate, 1..2) == 1).count();
    assert_eq!(at_once, 5);
    assert_eq!(entered(&mut gate, 51..1_051), 20);
}

#[test]
fn a_64_of_ipv6_is_one_source() {
    let mut sources = Sources::new(&mut |bytes: &mut [u8]| bytes.fill(3));
    let allowed = |sources: &mut Sources, address: &str| sources.allow(address.parse().unwrap(), 0);
    let within = (0..100).filter(|host| allowed(&mut sources, &format!("2001:db8::{host:x}"))).count();
    assert_eq!(within, 5);
    assert!(allowed(&mut sources, "2001:db8:0:1::1"));
    assert!(allowed(&mut sources, "192.0.2.1"));
}

#[test]
fn all_addresses_together_have_a_rate_and_a_bounded_table() {
    let mut gate = loaded(0);
    let mut entered = 0;
    for source in 0..3_000_u32 {
        let from = format!("10.{}.{}.1:5", source / 250, source % 250);
        let mut macs = acquainted(&mut gate, &from, 1);
        let with_cookie = message(&mut macs, 1);
        entered += u32::from(judge(&mut gate, &with_cookie, &from, 1) == Verdict::Enter);
    }
    assert_eq!(entered, HANDSHAKES_UNDER_LOAD_PER_SECOND);
    assert_eq!(gate.sources.as_ref().map(|sources| sources.whole_at_ms.len()), Some(SOURCES));
}
