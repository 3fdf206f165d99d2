//! Hours of two peers over networks of every weather, in a virtual world: what a fair network never loses, and what
//! a bad one never breaks.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::Input;
use super::limits::{REKEY_ATTEMPT_TIME_MS, REKEY_TIMEOUT_MS};
use super::world::{Dice, Refused, Weather, World};

fn packet(node: usize, number: u64) -> [u8; 16] {
    let mut bytes = [0x40 + u8::try_from(node).unwrap_or(0); 16];
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// Packets each node sends, at random times up to `pause_ms` apart, for so long. How many it sent.
fn chat(world: &mut World, for_ms: u64, pause_ms: u64, seed: u64) -> [u64; 2] {
    let mut dice = Dice::new(seed);
    let mut sent = [0; 2];
    let mut next = [world.now_ms; 2];
    let end = world.now_ms + for_ms;
    while world.now_ms < end {
        for node in 0..2 {
            if world.now_ms >= next[node] {
                world.send(node, &packet(node, sent[node]));
                sent[node] += 1;
                next[node] = world.now_ms + 1 + dice.below(pause_ms);
            }
        }
        world.run_until(next[0].min(next[1]).min(end));
    }
    sent
}

/// How often each packet of `from` arrived.
fn arrivals(world: &World, from: usize) -> BTreeMap<Vec<u8>, u32> {
    let mut counts = BTreeMap::new();
    for plaintext in &world.nodes[1 - from].arrived {
        *counts.entry(plaintext.clone()).or_insert(0) += 1;
    }
    counts
}

/// All that was sent arrived, once.
fn all_arrived_once(world: &World, sent: [u64; 2]) {
    for (from, sent) in sent.into_iter().enumerate() {
        let counts = arrivals(world, from);
        for number in 0..sent {
            assert_eq!(counts.get(&packet(from, number)[..]), Some(&1), "packet {number} of node {from}");
        }
        assert_eq!(counts.len() as u64, sent);
    }
}

#[test]
fn two_hours_of_rekeys_on_a_fair_network_lose_nothing() {
    let mut world = World::new(1);
    let sent = chat(&mut world, 7_200_000, 900, 5);
    world.run_for(500);
    all_arrived_once(&world, sent);
    let initiations = world.times(0, 1).len() + world.times(1, 1).len();
    assert!((58..=64).contains(&initiations), "one each 120 s: {initiations}");
    assert!(world.nodes.iter().all(|node| node.refused.is_empty()));
}

#[test]
fn rekeys_lose_nothing_where_packets_overtake_each_other_by_seconds() {
    let mut world = World::connected(2);
    world.weather = Weather { lost: 0, doubled: 0, delay_ms: (1, 2_000) };
    let sent = chat(&mut world, 3_600_000, 400, 6);
    world.run_for(10_000);
    all_arrived_once(&world, sent);
}

#[test]
fn what_is_doubled_arrives_once() {
    let mut world = World::connected(3);
    world.weather = Weather { lost: 0, doubled: 700, delay_ms: (5, 60) };
    let sent = chat(&mut world, 1_800_000, 300, 7);
    world.run_for(1_000);
    all_arrived_once(&world, sent);
    assert!(world.nodes.iter().any(|node| node.refused.contains(&Refused::Replayed)));
}

#[test]
fn initiations_by_both_sides_all_the_time_lose_nothing() {
    let mut world = World::connected(4);
    world.weather = Weather { lost: 0, doubled: 100, delay_ms: (5, 90) };
    let mut dice = Dice::new(8);
    let mut sent = [0; 2];
    for _ in 0..3_000 {
        for (node, sent) in sent.iter_mut().enumerate() {
            world.send(node, &packet(node, *sent));
            *sent += 1;
            if dice.below(12) == 0 {
                world.input(node, Input::Call);
            }
        }
        world.run_for(1 + dice.below(150));
    }
    world.run_for(1_000);
    all_arrived_once(&world, sent);
    assert!(world.nodes[0].peer.handshakes() > 100);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_weather_nothing_arrives_twice_and_fair_weather_brings_everything_back(
        seed in any::<u64>(),
        lost in 0_u64..700,
        doubled in 0_u64..300,
        slowest in 10_u64..3_000,
    ) {
        let mut world = World::new(seed);
        world.weather = Weather { lost, doubled, delay_ms: (1, slowest) };
        chat(&mut world, 900_000, 2_000, seed);
        for from in 0..2 {
            prop_assert!(arrivals(&world, from).values().all(|&count| count == 1));
        }
        world.weather = super::world::FAIR;
        // Both may be waiting for an answer that was lost.
        chat(&mut world, 15_000 + 2 * REKEY_TIMEOUT_MS, 2_000, seed ^ 1);
        world.nodes.iter_mut().for_each(|node| node.arrived.clear());
        let before = (world.nodes[0].gave_up, world.nodes[1].gave_up);
        let sent = chat(&mut world, REKEY_ATTEMPT_TIME_MS + 400_000, 900, seed ^ 2);
        world.run_for(500);
        for (from, sent) in sent.into_iter().enumerate() {
            prop_assert_eq!(arrivals(&world, from).len() as u64, sent);
        }
        prop_assert_eq!((world.nodes[0].gave_up, world.nodes[1].gave_up), before);
    }
}
