//! What an attacker can send, and what it costs and changes: replays of each kind of message, stale
//! initiations, floods, indices of others, messages too long, too short and changed; and inputs without
//! sense by the million (`WATARI_FUZZ_INPUTS`, `WATARI_FUZZ_SEED`).

use std::collections::HashSet;

use super::cookie::Macs;
use super::limits::{INITIATION_LEN, OVERHEAD, REJECT_AFTER_MESSAGES, RESPONSE_LEN};
use super::noise::DH_OPERATIONS;
use super::world::{Dice, Refused, World, key, seal};
use super::{
    Gate, HANDSHAKES_PER_SECOND, HANDSHAKES_UNDER_LOAD_PER_SECOND, HandshakeError, Input, Message,
    REPLAY_WINDOW, ReplayWindow, Verdict,
};

const SEED: u64 = 0x57_47;
/// Inputs of the run that is part of every test run.
const INPUTS: u64 = 20_000;

fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn dh_operations() -> u64 {
    DH_OPERATIONS.get()
}

/// What makes a node the same as before.
fn state(world: &World, node: usize) -> (Option<u32>, u64, usize, bool) {
    let node = &world.nodes[node];
    let sealing = node.peer.sessions().sealing(world.now_ms).map(|session| session.local_index());
    (sealing, node.peer.handshakes(), node.arrived.len(), node.peer.is_calling())
}

/// A world in which every kind of message was sent, with all of them.
fn recorded() -> (World, Vec<(usize, Vec<u8>)>) {
    let mut world = World::new(70);
    world.log_data = true;
    world.send(0, b"from 0");
    world.run_for(60);
    world.send(1, b"from 1");
    world.run_for(60);
    let sent = world.log.iter().map(|(_, from, datagram)| (1 - from, datagram.clone())).collect();
    (world, sent)
}

#[test]
fn a_replay_of_any_message_is_refused_and_changes_nothing() {
    let (mut world, sent) = recorded();
    assert!((1..=2).chain([4]).all(|kind| sent.iter().any(|(_, datagram)| datagram[0] == kind)));
    world.run_for(2_000);
    for (to, datagram) in sent {
        let (before, cost) = (state(&world, to), dh_operations());
        let refused = world.nodes[to].receive(&datagram, world.now_ms);
        let wanted = match datagram[0] {
            1 => Refused::Handshake(HandshakeError::Stale),
            2 => Refused::Handshake(HandshakeError::Unasked),
            _ => Refused::Replayed,
        };
        assert_eq!(refused, Err(wanted));
        assert_eq!(state(&world, to), before);
        assert!(dh_operations() - cost <= 1, "a replay costs one operation at most");
    }
}

#[test]
fn a_stale_initiation_is_refused_after_a_later_one_and_an_equal_one_too() {
    let mut world = World::new(71);
    let early = world.nodes[0].input(Input::Call, 0).unwrap().remove(0);
    let late = world.nodes[0].input(Input::Call, 1_000).unwrap().remove(0);
    assert!(world.nodes[1].receive(&late, 1_010).is_ok());
    for stale in [&early, &late] {
        let refused = world.nodes[1].receive(stale, 5_000);
        assert_eq!(refused, Err(Refused::Handshake(HandshakeError::Stale)));
    }
}

#[test]
fn initiations_of_a_peer_come_50_a_second_at_most() {
    let mut world = World::new(72);
    let messages: Vec<Vec<u8>> =
        (0..10).map(|n| world.nodes[0].input(Input::Call, n).unwrap().remove(0)).collect();
    let cost = dh_operations();
    let taken =
        messages.iter().zip(0..).filter(|(message, n)| world.nodes[1].receive(message, 100 + n).is_ok());
    assert_eq!(taken.count(), 1);
    assert_eq!(dh_operations() - cost, 10 + 2);
    assert_eq!(
        world.nodes[1].receive(&messages[9], 120).map(|sent| sent.len()),
        Ok(1),
        "it was not consumed"
    );
}

#[test]
fn the_wrong_index_is_refused() {
    let (mut world, sent) = recorded();
    for (to, datagram) in sent.iter().filter(|(_, datagram)| datagram[0] != 1) {
        let at = if datagram[0] == 2 { 8 } else { 4 };
        for bit in 0..32 {
            let mut wrong = datagram.clone();
            wrong[at + bit / 8] ^= 1 << (bit % 8);
            let before = state(&world, *to);
            assert!(world.nodes[*to].receive(&wrong, world.now_ms).is_err());
            assert_eq!(state(&world, *to), before);
        }
    }
}

#[test]
fn truncated_lengthened_and_changed_messages_are_refused() {
    let (mut world, sent) = recorded();
    for (to, datagram) in sent {
        let before = state(&world, to);
        for len in 0..datagram.len() {
            assert!(world.nodes[to].receive(&datagram[..len], world.now_ms).is_err(), "{len} bytes");
        }
        for longer in [1, 16, 1_000, 65_000] {
            let mut oversized = datagram.clone();
            oversized.resize(datagram.len() + longer, 0);
            assert!(world.nodes[to].receive(&oversized, world.now_ms).is_err());
        }
        for position in 0..datagram.len() {
            let mut changed = datagram.clone();
            changed[position] ^= 0x40;
            world.now_ms += 1_000; // Out of reach of the gate's load.
            assert!(world.nodes[to].receive(&changed, world.now_ms).is_err(), "byte {position}");
        }
        world.now_ms = 120;
        assert_eq!(state(&world, to), before);
    }
}

#[test]
fn the_largest_datagram_is_sealed_and_opened() {
    let world = World::connected(73);
    let [a, b] = [0, 1].map(|node| world.nodes[node].peer.sessions().sealing(world.now_ms).unwrap());
    let mut message = seal(&a, a.take_counters(1).unwrap(), &vec![7; 65_507 - OVERHEAD]);
    assert_eq!(message.len(), 65_507);
    let opened = b.open(&mut message).unwrap();
    assert!(b.accept(opened.counter));
}

#[test]
fn counters_at_their_limit_are_the_last() {
    let mut world = World::connected(74);
    let session = world.nodes[0].peer.sessions().sealing(world.now_ms).unwrap();
    let message = seal(&session, REJECT_AFTER_MESSAGES - 1, b"last");
    assert!(world.nodes[1].receive(&message, world.now_ms).is_ok());
    for counter in [REJECT_AFTER_MESSAGES, u64::MAX] {
        let message = seal(&session, counter, b"past it");
        assert_eq!(world.nodes[1].receive(&message, world.now_ms), Err(Refused::NotOpened));
    }
    let behind = seal(&session, REJECT_AFTER_MESSAGES - 1 - REPLAY_WINDOW, b"too old");
    assert_eq!(world.nodes[1].receive(&behind, world.now_ms), Err(Refused::Replayed));
}

/// Initiations by strangers who know our public key, from `sources` addresses, `each` per ms, for so
/// long; a source uses a cookie it got. How many got through the gate.
fn flood(world: &mut World, sources: u8, each: u64, for_ms: u64) -> u64 {
    let strangers: Vec<World> = (0..u64::from(sources)).map(|n| World::new(1_000 + n)).collect();
    let mut strangers: Vec<_> =
        strangers.into_iter().map(|world| world.nodes.into_iter().next().unwrap()).collect();
    let mut messages: Vec<Vec<u8>> = strangers.iter_mut().map(|node| node.send(b"x", 0).remove(0)).collect();
    let mut acquainted = vec![false; usize::from(sources)];
    let (mut dice, mut entered) = (Dice::new(3), 0);
    let node = &mut world.nodes[1];
    for step in 0..for_ms * each {
        let now_ms = world.now_ms + step / each;
        let source = usize::try_from(step).unwrap() % usize::from(sources);
        let from = std::net::SocketAddr::from(([203, 0, 113, u8::try_from(source).unwrap()], 7));
        match node.gate.judge(&messages[source], from, now_ms, false, &mut |bytes| dice.fill(bytes)) {
            Verdict::Enter => {
                entered += 1;
                let Some(Message::Initiation(bytes)) = Message::parse(&messages[source]) else {
                    unreachable!()
                };
                let _ = node.identity.introduce(bytes);
            }
            Verdict::Cookie(reply) if !acquainted[source] => {
                strangers[source].receive(&reply, now_ms).unwrap();
                messages[source] = strangers[source].input(Input::Call, now_ms).unwrap().remove(0);
                acquainted[source] = true;
            }
            _ => {}
        }
    }
    entered
}

#[test]
fn a_flood_of_initiations_costs_a_bounded_number_of_operations() {
    let mut world = World::connected(75);
    let making = 255 * 4; // What the strangers pay, on the same thread: keys of contacts, initiations.
    let before = dh_operations();
    let entered = flood(&mut world, 255, 100, 3_000);
    let cost = dh_operations() - before;
    // Three seconds touch four periods of the gate.
    let bound = u64::from(HANDSHAKES_PER_SECOND) + 4 * u64::from(HANDSHAKES_UNDER_LOAD_PER_SECOND);
    assert!(entered <= bound, "{entered} of 300000");
    assert!(entered > bound / 2, "good cookies are let in: {entered}");
    assert!(cost <= entered + making, "{cost}");
}

#[test]
fn a_peer_is_reached_while_strangers_flood() {
    let mut world = World::new(76);
    flood(&mut world, 200, 10, 1_000);
    world.now_ms += 1_000;
    world.send(0, b"through the flood");
    for _ in 0..70 {
        flood(&mut world, 20, 2, 100);
        world.run_for(100);
    }
    assert_eq!(world.nodes[1].arrived.len(), 1);
}

/// One input without sense: a message that was sent with a few bytes changed, or random bytes of
/// any length that begin like a message or not. What could be a handshake message mostly gets a good mac1: anybody
/// who knows our public key can make it.
fn input(dice: &mut Dice, sent: &[(usize, Vec<u8>)], to: usize) -> Vec<u8> {
    let chosen = usize::try_from(dice.below(sent.len() as u64)).unwrap();
    let mut bytes = sent[chosen].1.clone();
    match dice.below(4) {
        0 => {
            bytes = vec![0; usize::try_from(dice.below(400)).unwrap()];
            dice.fill(&mut bytes);
            let kind = u8::try_from(dice.below(6)).unwrap();
            bytes.iter_mut().zip([kind, 0, 0, 0]).for_each(|(byte, head)| *byte = head);
        }
        1 => bytes.truncate(usize::try_from(dice.below(bytes.len() as u64)).unwrap()),
        2 => bytes.extend(std::iter::repeat_n(0x55, usize::try_from(1 + dice.below(2_000)).unwrap())),
        _ => {}
    }
    let len = bytes.len() as u64;
    for _ in 0..dice.below(6) {
        if len > 0 {
            bytes[usize::try_from(dice.below(len)).unwrap()] ^= u8::try_from(1 + dice.below(255)).unwrap();
        }
    }
    if [INITIATION_LEN, RESPONSE_LEN].contains(&bytes.len()) && dice.below(4) > 0 {
        Macs::new(&key(u8::try_from(to).unwrap()).public_key()).write(&mut bytes, 0);
    }
    bytes
}

#[test]
fn nothing_without_sense_changes_a_peer() {
    let (mut world, sent) = recorded();
    let (seed, inputs) = (setting("WATARI_FUZZ_SEED", SEED), setting("WATARI_FUZZ_INPUTS", INPUTS));
    let mut dice = Dice::new(seed);
    let before = [state(&world, 0), state(&world, 1)];
    let (mut parsed, cost) = (0_u64, dh_operations());
    for number in 0..inputs {
        let to = usize::try_from(dice.below(2)).unwrap();
        let bytes = input(&mut dice, &sent, to);
        if number.is_multiple_of(50) {
            // The clock stands still, and load is not what is tried here.
            world.nodes[to].gate = Gate::new(&key(u8::try_from(to).unwrap()).public_key());
        }
        if let Some(message) = Message::parse(&bytes) {
            parsed += 1;
            assert_eq!(message.receiver().is_none(), bytes[0] == 1);
        }
        // A cookie reply to a message is an answer that changes nothing either.
        if let Ok(answers) = world.nodes[to].receive(&bytes, world.now_ms) {
            assert!(answers.iter().all(|answer| answer[0] == 3), "input {number}: {bytes:02x?}");
        }
        assert_eq!(state(&world, to), before[to], "input {number}: {bytes:02x?}");
    }
    let paid = dh_operations() - cost;
    println!(
        "seed {seed}: {inputs} datagrams, {parsed} of a message's form, {paid} Diffie-Hellman operations"
    );
    world.send(0, b"still");
    world.send(1, b"here");
    world.run_for(60);
    assert_eq!(
        (world.nodes[0].arrived.len(), world.nodes[1].arrived.len()),
        (before[0].2 + 1, before[1].2 + 1)
    );
}

#[test]
fn a_replay_window_agrees_with_a_record_of_everything_seen() {
    let (seed, inputs) = (setting("WATARI_FUZZ_SEED", SEED), setting("WATARI_FUZZ_INPUTS", INPUTS));
    let mut dice = Dice::new(seed);
    let (mut window, mut seen) = (ReplayWindow::default(), HashSet::new());
    let mut highest: Option<u64> = None;
    let mut accepted: u64 = 0;
    for number in 0..inputs {
        // Around the highest one: mostly near, at times beyond the window, seldom far away or at the end.
        let reach = [3, 70, 9_000, 9_000, 1 << 20][usize::try_from(dice.below(5)).unwrap()];
        let (from, step) = (highest.unwrap_or(0), dice.below(reach));
        let mut counter =
            if dice.below(3) == 0 { from.saturating_add(step) } else { from.saturating_sub(step) };
        if dice.below(50_000) == 0 {
            counter = REJECT_AFTER_MESSAGES + 100 - dice.below(20_000);
        }
        let in_reach = highest.is_none_or(|highest| highest.saturating_sub(counter) < REPLAY_WINDOW);
        let wanted = counter < REJECT_AFTER_MESSAGES && in_reach && seen.insert(counter);
        assert_eq!(window.accept(counter), wanted, "input {number}: {counter}");
        if wanted {
            (highest, accepted) = (highest.max(Some(counter)), accepted + 1);
        }
        if dice.below(60_000) == 0 {
            (window, highest) = (ReplayWindow::default(), Some(dice.below(1 << 40)));
            assert!(window.accept(highest.unwrap_or(0)));
            seen = HashSet::from([highest.unwrap_or(0)]);
        }
    }
    println!("seed {seed}: {inputs} counters, {accepted} accepted");
}
