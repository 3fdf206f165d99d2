//! Sessions: both ends of a pair, what is not opened and why, and counters at their limits.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::super::limits::REKEY_AFTER_MESSAGES;
use super::*;

const MTU: usize = 1420;

fn agreed(role: Role) -> Agreed {
    let (seal, open) = match role {
        Role::Initiator => ([1; 32], [2; 32]),
        Role::Responder => ([2; 32], [1; 32]),
    };
    let (local_index, remote_index) = match role {
        Role::Initiator => (0x0000_0701, 0x0000_0902),
        Role::Responder => (0x0000_0902, 0x0000_0701),
    };
    Agreed { local_index, remote_index, keys: SessionKeys { seal, open }, role, born_ms: 1_000 }
}

fn pair() -> (Session, Session) {
    (
        Session::new(&agreed(Role::Initiator), Arc::default()),
        Session::new(&agreed(Role::Responder), Arc::default()),
    )
}

fn sealed(session: &Session, counter: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0xaa; HEADER_LEN];
    buffer.extend_from_slice(plaintext);
    buffer.resize(HEADER_LEN + plaintext.len() + PADDING + TAG_LEN, 0xaa);
    let len = session.seal(counter, &mut buffer, plaintext.len(), MTU);
    buffer.truncate(len);
    buffer
}

#[test]
fn what_one_end_seals_the_other_opens() {
    let (a, b) = pair();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let mut message = sealed(from, 7, b"over the wire");
        assert_eq!(message.len(), sealed_len(13, MTU));
        assert_eq!(receiver_of(&message), Some(to.local_index()));
        let opened = to.open(&mut message).unwrap();
        assert_eq!(opened.counter, 7);
        assert_eq!(&message[opened.range], b"over the wire\0\0\0");
    }
}

#[test]
fn a_keepalive_is_32_bytes_and_opens_to_nothing() {
    let (a, b) = pair();
    let mut message = sealed(&a, 0, b"");
    assert_eq!(message.len(), 32);
    assert!(b.open(&mut message).unwrap().range.is_empty());
}

#[test]
fn padding_is_to_16_and_never_past_the_mtu() {
    for (plaintext, mtu, padded) in [
        (0, 1420, 0),
        (1, 1420, 16),
        (16, 1420, 16),
        (1408, 1420, 1408),
        (1409, 1420, 1420),
        (1420, 1420, 1420),
        (1421, 1420, 1421),
        (65_520, 65_535, 65_520),
    ] {
        assert_eq!(sealed_len(plaintext, mtu), padded + OVERHEAD, "{plaintext} of {mtu}");
    }
}

#[test]
fn a_message_truncated_at_any_length_is_not_opened() {
    let (a, b) = pair();
    let message = sealed(&a, 3, &[9; 100]);
    for len in 0..message.len() {
        let error = b.open(&mut message[..len].to_vec()).unwrap_err();
        let wanted = if len < OVERHEAD { OpenError::Truncated(len) } else { OpenError::Forged };
        assert_eq!(error, wanted);
        assert_eq!(receiver_of(&message[..len]).is_some(), len >= OVERHEAD);
    }
    let mut longer = message.clone();
    longer.push(0);
    assert_eq!(b.open(&mut longer), Err(OpenError::Forged));
}

#[test]
fn a_bit_flipped_anywhere_is_found() {
    let (a, b) = pair();
    let message = sealed(&a, 3, &[9; 64]);
    for position in 0..message.len() {
        for bit in 0..8 {
            let mut flipped = message.clone();
            flipped[position] ^= 1 << bit;
            let error = b.open(&mut flipped).unwrap_err();
            match position {
                0..4 => assert_eq!(error, OpenError::NotData),
                4..8 => assert!(matches!(error, OpenError::WrongIndex(_))),
                _ => assert_eq!(error, OpenError::Forged, "{position}"),
            }
        }
    }
    assert!(b.open(&mut message.clone()).is_ok());
}

#[test]
fn a_message_of_another_session_is_not_opened() {
    let (a, b) = pair();
    let mut own = sealed(&a, 0, b"x");
    assert!(matches!(a.open(&mut own), Err(OpenError::WrongIndex(0x902))));
    own[4..8].copy_from_slice(&a.local_index().to_le_bytes());
    assert_eq!(a.open(&mut own), Err(OpenError::Forged), "sent back, it is not ours to open");
    drop(b);
}

#[test]
fn a_replayed_message_opens_but_is_not_accepted() {
    let (a, b) = pair();
    let message = sealed(&a, 5, b"once");
    for wanted in [true, false] {
        let opened = b.open(&mut message.clone()).unwrap();
        assert_eq!(b.accept(opened.counter), wanted);
    }
}

#[test]
fn counters_of_threads_never_meet() {
    let (a, _) = pair();
    let taken: Vec<u64> = std::thread::scope(|scope| {
        let take = || (0..200).map(|n| (a.take_counters(n % 5 + 1).unwrap(), n % 5 + 1)).collect::<Vec<_>>();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        let batches = threads.into_iter().flat_map(|thread| thread.join().unwrap());
        batches.flat_map(|(first, n)| first..first + n).collect()
    });
    let distinct: BTreeSet<u64> = taken.iter().copied().collect();
    assert_eq!((distinct.len(), taken.len()), (2_400, 2_400));
    assert_eq!(a.counters_taken(), 2_400);
}

#[test]
fn no_counter_is_given_past_the_limit() {
    let (a, b) = pair();
    a.usage.next_counter.store(REJECT_AFTER_MESSAGES - 3, Ordering::Relaxed);
    assert!(a.counters_taken() > REKEY_AFTER_MESSAGES);
    assert_eq!(a.take_counters(4), None);
    assert_eq!(a.take_counters(u64::MAX), None);
    assert_eq!(a.take_counters(3), Some(REJECT_AFTER_MESSAGES - 3));
    assert_eq!(a.take_counters(1), None);
    assert_eq!(a.take_counters(0), Some(REJECT_AFTER_MESSAGES), "nothing is always to be had");
    let opened = b.open(&mut sealed(&a, REJECT_AFTER_MESSAGES - 1, b"the last")).unwrap();
    assert!(b.accept(opened.counter));
    let past = b.open(&mut sealed(&a, REJECT_AFTER_MESSAGES, b"one too many"));
    assert_eq!(past, Err(OpenError::CounterSpent(REJECT_AFTER_MESSAGES)));
}

#[test]
fn a_session_lives_180_seconds() {
    let (a, _) = pair();
    assert!(a.is_alive(0), "a batch may look at a clock that is a tick behind");
    assert!(a.is_alive(1_000 + REJECT_AFTER_TIME_MS - 1));
    assert!(!a.is_alive(1_000 + REJECT_AFTER_TIME_MS));
}

#[test]
fn the_first_message_confirms_a_responders_session_once() {
    let (a, b) = pair();
    assert!(!a.note_received(5, true, 64), "the initiator needs no confirmation");
    assert!(b.note_received(5, false, 32));
    assert!(!b.note_received(6, false, 32));
    assert_eq!((b.opened_ms(), b.sealed_ms()), (Some(6), None));
}

#[test]
fn keys_do_not_show() {
    let shown = format!("{:?} {:?}", agreed(Role::Initiator), pair().0);
    assert!(!shown.contains("[1") && shown.contains("hidden"), "{shown}");
}

proptest! {
    #[test]
    fn any_plaintext_crosses(plaintext in proptest::collection::vec(any::<u8>(), 0..3000), counter in 0..REJECT_AFTER_MESSAGES) {
        let (a, b) = pair();
        let mut message = sealed(&a, counter, &plaintext);
        let opened = b.open(&mut message).unwrap();
        prop_assert_eq!(opened.counter, counter);
        let inner = &message[opened.range];
        prop_assert_eq!(&inner[..plaintext.len()], &plaintext[..]);
        prop_assert!(inner[plaintext.len()..].iter().all(|&byte| byte == 0));
    }

    #[test]
    fn whatever_arrives_is_refused_without_a_panic(mut datagram in proptest::collection::vec(any::<u8>(), 0..200), shaped in any::<bool>()) {
        let (_, b) = pair();
        if shaped && datagram.len() >= 8 {
            datagram[..4].copy_from_slice(&DATA);
            datagram[4..8].copy_from_slice(&b.local_index().to_le_bytes());
        }
        prop_assert!(b.open(&mut datagram).is_err());
    }
}
