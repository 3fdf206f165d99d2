//! The peer's machine, sentence by sentence of the whitepaper's §6, and what it does beside: quick calls,
//! persistent keepalive, crossed handshakes.

use super::super::limits::{
    KEEPALIVE_TIMEOUT_MS, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME_MS, REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME_MS, REKEY_ATTEMPT_TIME_MS, REKEY_TIMEOUT_MS,
};
use super::super::timers::CALL_AGAIN_MS;
use super::super::world::{FAIR, Refused, TICK_MS, Weather, World};
use super::*;

const INITIATION: u8 = 1;
const RESPONSE: u8 = 2;
const DATA: u8 = 4;

/// Nothing arrives.
const CUT: Weather = Weather { lost: 1_000, ..FAIR };

fn sealing(world: &World, node: usize) -> Option<u32> {
    world.nodes[node].peer.sessions().sealing(world.now_ms).map(|session| session.local_index())
}

/// Both sides send a packet each `every_ms`.
fn talk(world: &mut World, for_ms: u64, every_ms: u64, senders: &[usize]) {
    let end = world.now_ms + for_ms;
    while world.now_ms < end {
        for &node in senders {
            world.send(node, b"packet");
        }
        world.run_until((world.now_ms + every_ms).min(end));
    }
}

fn within_a_tick(at: u64, wanted: u64) -> bool {
    (wanted..=wanted + TICK_MS).contains(&at)
}

// §6.2: limits of a session.

#[test]
fn after_120_s_the_initiator_renews_the_session_when_it_sends() {
    let mut world = World::connected(1);
    let first = sealing(&world, 0);
    talk(&mut world, REKEY_AFTER_TIME_MS + 500, 200, &[0]);
    let initiations = world.times(0, INITIATION);
    assert_eq!(initiations.len(), 2, "{initiations:?}");
    assert!((REKEY_AFTER_TIME_MS..REKEY_AFTER_TIME_MS + 400).contains(&initiations[1]), "{initiations:?}");
    assert!(sealing(&world, 0).is_some() && sealing(&world, 0) != first);
    assert!(world.times(1, INITIATION).is_empty(), "the responder leaves it to the initiator");
}

#[test]
fn a_session_that_nobody_uses_is_not_renewed() {
    let mut world = World::connected(2);
    world.send(0, b"once");
    world.run_for(REJECT_AFTER_TIME_MS * 2);
    assert_eq!(world.times(0, INITIATION).len() + world.times(1, INITIATION).len(), 1);
    assert_eq!((sealing(&world, 0), sealing(&world, 1)), (None, None));
}

#[test]
fn after_2_60_messages_a_session_is_renewed_by_whoever_sent_them() {
    for node in [0, 1] {
        let mut world = World::connected(3);
        let session = world.nodes[node].peer.sessions().sealing(world.now_ms).unwrap();
        session.take_counters(REKEY_AFTER_MESSAGES - 10).unwrap();
        world.run_for(REKEY_TIMEOUT_MS);
        assert_eq!(world.log.len(), 2, "one handshake so far");
        session.take_counters(10).unwrap();
        world.run_for(TICK_MS + 40);
        assert_ne!(sealing(&world, node), Some(session.local_index()));
        assert_eq!(world.times(node, INITIATION).len(), if node == 0 { 2 } else { 1 });
    }
}

#[test]
fn after_165_s_the_initiator_renews_the_session_when_it_receives() {
    let mut world = World::connected(4);
    // It has sent nothing since it was 120 s old: its marks alone say that it received.
    world.now_ms = 165_100;
    let session = world.nodes[0].peer.sessions().sealing(world.now_ms).unwrap();
    assert!(!session.note_received(session.born_ms() + 164_999, false, 32));
    world.run_for(TICK_MS);
    assert_eq!(world.times(0, INITIATION).len(), 1);
    assert!(!session.note_received(session.born_ms() + 165_000, false, 32));
    world.run_for(TICK_MS);
    assert_eq!(world.times(0, INITIATION).len(), 2);
}

#[test]
fn after_180_s_a_session_neither_sends_nor_receives_until_a_new_one_is_made() {
    let mut world = World::connected(5);
    world.run_until(179_900);
    world.weather = CUT;
    let (old, born) = {
        let session = world.nodes[1].peer.sessions().sealing(world.now_ms).unwrap();
        (super::super::world::seal(&session, session.take_counters(1).unwrap(), b"late"), session.born_ms())
    };
    world.run_until(born + REJECT_AFTER_TIME_MS + 20);
    assert_eq!(world.nodes[0].receive(&old, world.now_ms), Err(Refused::NoSession));
    world.weather = FAIR;
    world.log_data = true;
    world.send(0, b"new");
    world.run_for(60);
    assert_eq!(world.nodes[1].arrived, [padded(b"new")]);
    let kinds: Vec<u8> = world.log.iter().skip(2).map(|(_, _, datagram)| datagram[0]).collect();
    assert_eq!(kinds, [INITIATION, RESPONSE, DATA, DATA]);
}

fn padded(plaintext: &[u8]) -> Vec<u8> {
    let mut padded = plaintext.to_vec();
    padded.resize(plaintext.len().next_multiple_of(16), 0);
    padded
}

#[test]
fn a_spent_session_sends_nothing_until_a_new_one_is_made() {
    let mut world = World::connected(6);
    let session = world.nodes[0].peer.sessions().sealing(world.now_ms).unwrap();
    session.take_counters(REJECT_AFTER_MESSAGES - session.counters_taken()).unwrap();
    world.send(0, b"waits");
    assert_eq!(world.nodes[0].waiting.len(), 1);
    // REKEY_TIMEOUT after the initiation of the first session.
    world.run_for(REKEY_TIMEOUT_MS + 200);
    assert_eq!(world.nodes[1].arrived, [padded(b"waits")]);
}

// §6.3: rotation.

#[test]
fn the_responder_seals_with_a_session_from_its_first_message_on() {
    let mut world = World::new(7);
    world.input(0, Input::Call);
    world.run_for(10);
    assert_eq!(sealing(&world, 1), None, "the response is on its way");
    world.weather = CUT;
    world.run_for(10);
    assert!(sealing(&world, 0).is_some(), "the initiator may send");
    world.run_for(60);
    assert_eq!(sealing(&world, 1), None, "its keepalive was lost");
    world.weather = FAIR;
    world.send(0, b"first");
    world.run_for(10);
    assert!(sealing(&world, 1).is_some());
    assert_eq!((world.nodes[0].readies, world.nodes[1].readies), (1, 1));
    assert_eq!(world.nodes[1].peer.handshakes(), 1);
    assert_eq!(world.nodes[1].peer.established_ms(), Some(world.now_ms));
}

#[test]
fn a_message_in_the_old_session_that_is_overtaken_by_a_rekey_is_opened() {
    let mut world = World::connected(8);
    let old = world.nodes[1].peer.sessions().sealing(world.now_ms).unwrap();
    let late = super::super::world::seal(&old, old.take_counters(1).unwrap(), b"late");
    for _ in 0..2 {
        world.run_for(REKEY_TIMEOUT_MS + 400);
        world.input(0, Input::Call);
        world.run_for(60);
    }
    assert_ne!(sealing(&world, 1), Some(old.local_index()));
    world.launch(1, vec![late.clone(), late]);
    world.run_for(20);
    assert_eq!(world.nodes[0].arrived, [padded(b"late")]);
    assert_eq!(world.nodes[0].refused, [Refused::Replayed]);
}

#[test]
fn handshakes_that_cross_both_succeed_and_nothing_is_lost() {
    let mut world = World::new(9);
    world.send(0, b"from 0");
    world.send(1, b"from 1");
    world.run_for(200);
    assert_eq!(world.nodes[0].arrived, [padded(b"from 1")]);
    assert_eq!(world.nodes[1].arrived, [padded(b"from 0")]);
    assert!(world.nodes.iter().all(|node| node.refused.is_empty()));
    // Whichever sessions the two settled on, they stay with them.
    talk(&mut world, 30_000, 50, &[0, 1]);
    assert_eq!(world.times(0, INITIATION).len() + world.times(1, INITIATION).len(), 2);
    assert_eq!((world.nodes[0].arrived.len(), world.nodes[1].arrived.len()), (601, 601));
}

// §6.4: initiations and their repetition.

#[test]
fn the_first_packet_begins_a_handshake_and_arrives_after_it() {
    let mut world = World::new(10);
    world.send(0, b"first");
    world.send(0, b"second");
    world.run_for(40);
    assert_eq!(world.nodes[1].arrived, [padded(b"first"), padded(b"second")]);
    assert_eq!(world.times(0, INITIATION), [0]);
}

#[test]
fn an_initiation_is_repeated_each_5_s_with_jitter_and_new_keys_for_90_s() {
    let mut world = World::new(11);
    world.weather = CUT;
    world.send(0, b"nobody is there");
    world.run_until(REKEY_ATTEMPT_TIME_MS + 30_000);
    let times = world.times(0, INITIATION);
    let pauses: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let allowed = REKEY_TIMEOUT_MS..=REKEY_TIMEOUT_MS + REKEY_JITTER_MS + TICK_MS;
    assert!(pauses.iter().all(|pause| allowed.contains(pause)), "{pauses:?}");
    assert!(pauses.iter().any(|pause| *pause != pauses[0]), "no jitter: {pauses:?}");
    assert!((17..=18).contains(&times.len()), "{times:?}");
    assert_eq!((world.nodes[0].gave_up, world.nodes[0].waiting.len()), (1, 0));
    let ephemerals: std::collections::BTreeSet<Vec<u8>> =
        world.log.iter().map(|(_, _, datagram)| datagram[8..40].to_vec()).collect();
    assert_eq!(ephemerals.len(), times.len());
}

#[test]
fn a_packet_that_wants_to_go_out_moves_the_end_of_the_attempt() {
    let mut world = World::new(12);
    world.weather = CUT;
    world.send(0, b"one");
    world.run_until(REKEY_ATTEMPT_TIME_MS - 1_000);
    world.send(0, b"another");
    world.run_until(2 * REKEY_ATTEMPT_TIME_MS - 1_200);
    assert_eq!(world.nodes[0].gave_up, 0);
    world.run_for(400);
    assert_eq!(world.nodes[0].gave_up, 1);
}

#[test]
fn after_giving_up_the_next_packet_begins_anew() {
    let mut world = World::new(13);
    world.weather = CUT;
    world.send(0, b"lost");
    world.run_until(REKEY_ATTEMPT_TIME_MS + 20_000);
    world.weather = FAIR;
    world.send(0, b"found");
    world.run_for(40);
    assert_eq!(world.nodes[1].arrived, [padded(b"found")]);
}

#[test]
fn packets_without_a_session_do_not_make_initiations_of_their_own() {
    let mut world = World::new(14);
    world.weather = CUT;
    talk(&mut world, 4_900, 10, &[0]);
    assert_eq!(world.times(0, INITIATION), [0]);
}

#[test]
fn a_response_to_the_initiation_before_the_last_is_taken() {
    let mut world = World::new(15);
    world.weather = Weather { delay_ms: (2_700, 2_700), ..FAIR };
    world.send(0, b"over a slow path");
    world.run_for(8_200);
    assert_eq!(world.nodes[1].arrived, [padded(b"over a slow path")]);
    assert!(world.times(0, INITIATION).len() >= 2);
    world.run_for(20_000);
    let refused = [Refused::Handshake(HandshakeError::Unasked)];
    assert!(world.nodes[0].refused.iter().all(|reason| refused.contains(reason)), "the later response");
}

// Beside the whitepaper: a peer that has just come is called quickly.

#[test]
fn a_call_is_repeated_after_250_500_1000_and_2000_ms_and_then_each_5_s() {
    let mut world = World::new(16);
    world.weather = CUT;
    world.input(0, Input::Call);
    world.run_until(20_000);
    let times = world.times(0, INITIATION);
    assert_eq!(times[0], 0);
    for (position, after_ms) in CALL_AGAIN_MS.into_iter().enumerate() {
        assert!(within_a_tick(times[position + 1], after_ms), "{times:?}");
    }
    let pause = times[5] - times[4];
    assert!((REKEY_TIMEOUT_MS..=REKEY_TIMEOUT_MS + REKEY_JITTER_MS + TICK_MS).contains(&pause), "{times:?}");
}

#[test]
fn both_sides_of_a_call_at_the_same_moment_have_a_session_in_two_round_trips() {
    let mut world = World::new(17);
    world.input(0, Input::Call);
    world.input(1, Input::Call);
    world.run_for(40);
    assert!(sealing(&world, 0).is_some() && sealing(&world, 1).is_some());
    world.run_for(10_000);
    assert_eq!(world.times(0, INITIATION).len() + world.times(1, INITIATION).len(), 2);
}

// §6.5: keepalives.

#[test]
fn what_was_received_is_answered_after_10_s_and_a_keepalive_is_not() {
    let mut world = World::connected(18);
    world.log_data = true;
    let before = world.now_ms;
    world.send(0, b"no answer to this");
    world.run_for(60_000);
    let keepalives = world.times(1, DATA);
    assert_eq!(keepalives.len(), 1);
    assert!(within_a_tick(keepalives[0], before + 10 + KEEPALIVE_TIMEOUT_MS), "{keepalives:?}");
    assert_eq!(world.times(0, DATA).len(), 1, "a keepalive wants no answer");
    assert_eq!(world.times(0, INITIATION).len(), 1, "and is one");
}

#[test]
fn an_answer_of_any_kind_makes_the_keepalive_needless() {
    let mut world = World::connected(19);
    world.log_data = true;
    for _ in 0..10 {
        world.send(0, b"question");
        world.run_for(5_000);
        world.send(1, b"answer");
        world.run_for(5_000);
    }
    world.run_for(9_000);
    assert_eq!((world.times(0, DATA).len(), world.times(1, DATA).len()), (10 + 1, 10));
}

#[test]
fn data_without_an_answer_for_15_s_begins_a_handshake() {
    let mut world = World::connected(20);
    world.weather = CUT;
    let before = world.now_ms;
    talk(&mut world, 16_000, 100, &[0]);
    let initiations = world.times(0, INITIATION);
    let wanted = before + KEEPALIVE_TIMEOUT_MS + REKEY_TIMEOUT_MS;
    assert!((wanted..=wanted + REKEY_JITTER_MS + TICK_MS).contains(&initiations[1]), "{initiations:?}");
    assert!(sealing(&world, 0).is_some(), "the session is used until it is replaced");
}

#[test]
fn a_peer_that_lost_its_state_is_reached_again() {
    let mut world = World::connected(21);
    let fresh = World::new(22);
    let [_, restarted] = fresh.nodes;
    world.nodes[1] = restarted;
    talk(&mut world, 17_000, 100, &[0]);
    assert!(!world.nodes[1].arrived.is_empty());
    assert!(world.nodes[1].refused.iter().all(|reason| *reason == Refused::NoSession));
}

#[test]
fn a_persistent_keepalive_goes_out_when_nothing_crossed_for_its_interval() {
    let mut world = World::connected(23);
    world.log_data = true;
    world.nodes[0].peer.set_keepalive(25);
    world.run_for(110_000);
    let keepalives = world.times(0, DATA);
    assert_eq!(keepalives.len(), 4, "{keepalives:?}");
    assert!(keepalives.windows(2).all(|pair| within_a_tick(pair[1] - pair[0], 25_000)), "{keepalives:?}");
    world.nodes[0].peer.set_keepalive(0);
    world.run_for(110_000);
    assert_eq!(world.times(0, DATA).len(), 4);
}

#[test]
fn a_persistent_keepalive_holds_a_session_for_hours_and_brings_a_peer_back() {
    let mut world = World::new(24);
    world.nodes[0].peer.set_keepalive(20);
    world.run_for(3_600_000);
    let handshakes = world.times(0, INITIATION).len();
    assert!((25..=30).contains(&handshakes), "one each 120 to 140 s: {handshakes}");
    world.weather = CUT;
    world.run_for(600_000);
    assert!(world.nodes[0].gave_up >= 1);
    world.weather = FAIR;
    world.run_for(30_000);
    assert!(sealing(&world, 0).is_some());
}

// §6.6: cookies.

#[test]
fn a_cookie_reply_sends_nothing_and_the_next_initiation_carries_the_cookie() {
    let mut world = World::new(25);
    load(&mut world, 1);
    world.send(0, b"packet");
    world.run_for(2_000);
    assert_eq!(world.times(1, 3).len(), 1, "a cookie");
    assert_eq!(world.times(0, INITIATION).len(), 1, "no second initiation because of it");
    world.run_until(REKEY_TIMEOUT_MS - 100);
    load(&mut world, 1);
    world.run_for(700);
    load(&mut world, 1);
    world.run_for(700);
    assert_eq!(world.nodes[1].arrived, [padded(b"packet")]);
    let last = world.log.iter().rfind(|(_, _, datagram)| datagram[0] == INITIATION).unwrap();
    assert_ne!(last.2[132..], [0; 16], "mac2");
}

/// Brings the gate of a node under load: messages of somebody who knows its public key.
fn load(world: &mut World, node: usize) {
    let stranger = World::new(999);
    let mut initiator = stranger.nodes.into_iter().next().unwrap();
    if node == 0 {
        unreachable!("only node 1 is brought under load");
    }
    let message = initiator.send(b"x", 0).remove(0);
    for _ in 0..=super::super::HANDSHAKES_PER_SECOND {
        let from = std::net::SocketAddr::from(([198, 51, 100, 9], 9));
        let now_ms = world.now_ms;
        world.nodes[node].gate.judge(&message, from, now_ms, false, &mut |bytes| bytes.fill(5));
    }
}

// What a machine promises its caller.

#[test]
fn indices_begin_with_the_peers_and_are_never_given_twice_at_a_time() {
    let mut world = World::connected(26);
    for _ in 0..600 {
        world.input(0, Input::Call);
        world.run_for(50);
        let index = sealing(&world, 0).unwrap();
        assert_eq!(index >> 8, world.nodes[0].peer.index >> 8);
    }
    assert_eq!(world.nodes[0].peer.handshakes(), 601);
    assert!(world.nodes[0].refused.is_empty() && world.nodes[1].refused.is_empty());
}

#[test]
fn without_its_ephemeral_key_a_response_is_nothing() {
    let mut world = World::new(27);
    world.input(0, Input::Call);
    world.run_for(10);
    let response = world.log.iter().find(|(_, _, datagram)| datagram[0] == RESPONSE).unwrap().2.clone();
    world.run_for(100);
    assert!(world.nodes[0].peer.in_flight.is_empty(), "wiped with the handshake that needed it");
    let again = world.nodes[0].receive(&response, world.now_ms);
    assert_eq!(again, Err(Refused::Handshake(HandshakeError::Unasked)));
}
