//! Handing sessions over: nothing is lost, no counter is used twice, nothing is accepted twice, and what cannot be
//! taken up is refused.

use std::sync::Arc;

use super::super::limits::{REJECT_AFTER_TIME_MS, REKEY_AFTER_TIME_MS};
use super::super::world::{Refused, World, at, key, seal};
use super::super::{Identity, Input, Peer};
use super::*;

/// The peer of node 0 as a process that has just started makes it.
fn successor(world: &World) -> Peer {
    let identity = Arc::new(Identity::new(&key(0)));
    Peer::new(identity, key(1).public_key(), None, world.nodes[0].peer.index >> 8)
}

fn over_the_wire(state: &PeerState) -> PeerState {
    let text = serde_json::to_string(state).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Node 0 is another process from here on.
fn replace(world: &mut World) {
    let state = world.nodes[0].peer.hand_over(at(world.now_ms));
    let mut next = successor(world);
    let calling = next.take_up(&over_the_wire(&state), at(world.now_ms)).unwrap();
    world.nodes[0].peer = next;
    if calling {
        world.input(0, Input::Call);
    }
}

#[test]
fn traffic_rekeys_and_timers_go_on_over_a_hundred_successors() {
    let mut world = World::connected(80);
    let mut number: u32 = 0;
    while world.now_ms < 3_600_000 {
        for node in 0..2 {
            world.send(node, &[&number.to_be_bytes()[..], &[7; 12]].concat());
        }
        number += 1;
        if number.is_multiple_of(40) {
            replace(&mut world);
        }
        world.run_for(731);
    }
    world.run_for(100);
    for node in &world.nodes {
        assert_eq!(node.arrived.len(), number as usize);
        assert_eq!(node.refused, [], "nothing was refused, so nothing was sent twice");
    }
    let initiations = world.times(0, 1).len() + world.times(1, 1).len();
    assert!((28..=34).contains(&initiations), "one each 120 s: {initiations}");
    assert_eq!(world.nodes[0].peer.handshakes(), initiations as u64);
}

#[test]
fn the_former_owner_seals_nothing_and_accepts_nothing() {
    let mut world = World::connected(81);
    let [ours, theirs] = [0, 1].map(|node| world.nodes[node].peer.sessions().sealing(world.now_ms).unwrap());
    let taken = ours.take_counters(5).unwrap();
    let state = world.nodes[0].peer.hand_over(at(world.now_ms));
    assert_eq!(ours.take_counters(1), None);
    let mut message = seal(&theirs, theirs.take_counters(1).unwrap(), b"late");
    let opened = ours.open(&mut message.clone()).unwrap();
    assert!(!ours.accept(opened.counter));
    assert!(world.nodes[0].peer.sessions().sealing(world.now_ms).is_none());
    let mut next = successor(&world);
    next.take_up(&state, at(world.now_ms)).unwrap();
    let session = next.sessions().sealing(world.now_ms).unwrap();
    assert_eq!(session.take_counters(1), Some(taken + 5));
    let opened = session.open(&mut message).unwrap();
    assert!(session.accept(opened.counter) && !session.accept(opened.counter));
}

#[test]
fn what_was_received_before_is_a_replay_after() {
    let mut world = World::connected(82);
    world.log_data = true;
    world.send(1, b"once");
    world.run_for(20);
    let message = world.log.last().unwrap().2.clone();
    replace(&mut world);
    assert_eq!(world.nodes[0].receive(&message, world.now_ms), Err(Refused::Replayed));
}

#[test]
fn a_stale_initiation_stays_stale() {
    let mut world = World::new(83);
    world.input(1, Input::Call);
    world.run_for(40);
    let initiation = world.log[0].2.clone();
    replace(&mut world);
    world.run_for(1_000);
    let refused = world.nodes[0].receive(&initiation, world.now_ms);
    assert_eq!(refused, Err(Refused::Handshake(super::super::HandshakeError::Stale)));
}

#[test]
fn a_session_grows_no_younger_by_it() {
    let mut world = World::connected(84);
    world.run_until(REKEY_AFTER_TIME_MS);
    replace(&mut world);
    let born = world.nodes[0].peer.sessions().sealing(world.now_ms).unwrap().born_ms();
    world.run_until(born + REJECT_AFTER_TIME_MS);
    assert!(world.nodes[0].peer.sessions().sealing(world.now_ms).is_none());
}

#[test]
fn a_call_that_was_under_way_is_made_again() {
    let mut world = World::new(85);
    world.input(0, Input::Call);
    world.run_for(5);
    replace(&mut world);
    // The first is on its way, and node 1 takes no two in 20 ms: the next one is after 250 ms.
    world.run_for(400);
    assert!(world.nodes[0].peer.sessions().sealing(world.now_ms).is_some());
}

#[test]
fn a_former_owner_that_takes_its_own_back_goes_on_as_before() {
    let mut world = World::connected(88);
    world.input(0, Input::Call);
    assert!(world.nodes[0].peer.is_calling());
    let state = world.nodes[0].peer.hand_over(at(world.now_ms));
    world.run_for(5);
    let calling = world.nodes[0].peer.take_up(&state, at(world.now_ms)).unwrap();
    assert!(calling && !world.nodes[0].peer.is_calling());
    world.input(0, Input::Call);
    for number in 0..20_u32 {
        world.send(0, &[&number.to_be_bytes()[..], &[7; 12]].concat());
        world.run_for(50);
    }
    assert_eq!(world.nodes[1].arrived.len(), 20);
    assert!(!world.nodes[1].refused.contains(&Refused::Replayed), "no counter was used twice");
}

#[test]
fn what_does_not_belong_to_a_peer_is_refused_and_changes_nothing() {
    let mut world = World::connected(86);
    world.run_for(1_000);
    let state = world.nodes[0].peer.hand_over(at(world.now_ms));
    let mut next = successor(&world);
    let behind = next.take_up(&state, at(world.now_ms - 1));
    let (now_ms, taken_ms) = (world.now_ms - 1, world.now_ms);
    assert_eq!(behind, Err(HandoverError::ClockBehind { now_ms, taken_ms }));
    let mut other = over_the_wire(&state);
    other.sessions[0].local_index += 0x100;
    assert!(matches!(next.take_up(&other, at(world.now_ms)), Err(HandoverError::Index(_))));
    let mut other = over_the_wire(&state);
    let twin = over_the_wire(&state).sessions.swap_remove(0);
    let index = twin.local_index;
    other.sessions.push(twin);
    assert_eq!(next.take_up(&other, at(world.now_ms)), Err(HandoverError::Twice(index)));
    let mut other = over_the_wire(&state);
    other.sessions[0].window_seen.pop();
    assert_eq!(next.take_up(&other, at(world.now_ms)), Err(HandoverError::Window(127)));
    assert!(next.sessions().sealing(world.now_ms).is_none() && next.handshakes() == 0);
    assert_eq!(next.take_up(&state, at(world.now_ms)), Ok(false), "the state is as good as before");
}

#[test]
fn keys_do_not_show() {
    let mut world = World::connected(87);
    let shown = format!("{:?}", world.nodes[0].peer.hand_over(at(world.now_ms)));
    assert!(shown.len() < 100 && shown.contains("hidden"), "{shown}");
}
