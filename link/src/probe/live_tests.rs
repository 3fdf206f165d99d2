//! Two probers, each with its own view of one path, and traffic between them, in a virtual world of milliseconds.

use std::collections::BTreeMap;

use crate::probe::core::{Input, Moment, Output, Prober, Timing, nanos};
use crate::protocol::PathState;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The defaults of a tunnel.
const TIMING: Timing = Timing { interval: ms(100), dead_after: ms(800) };
/// Between two packets of a flow.
const PACKET_EVERY: u64 = 5;

#[derive(Clone, Copy)]
enum Packet {
    Data,
    Request { sequence: u64, age: Option<Duration> },
    Answer { sequence: u64, at: Moment },
}

struct End {
    prober: Prober,
    received: u64,
    sends: Vec<Moment>,
    changes: Vec<(Moment, PathState)>,
    /// It is of a version that says nothing of what it hears.
    is_old: bool,
}

struct World {
    now: Moment,
    ends: [End; 2],
    one_way: Duration,
    /// Whether the way that begins at each end carries.
    carries: [bool; 2],
    /// Whether traffic begins at each end.
    flows: [bool; 2],
    wire: BTreeMap<(Moment, u64), (usize, Packet)>,
    number: u64,
}

impl World {
    fn new(one_way: Duration) -> Self {
        let now = ms(10_000);
        let end = |offset| End {
            prober: Prober::new(TIMING, now + offset),
            received: 0,
            sends: Vec::new(),
            changes: Vec::new(),
            is_old: false,
        };
        Self {
            now,
            ends: [end(ms(0)), end(ms(37))],
            one_way,
            carries: [true; 2],
            flows: [false; 2],
            wire: BTreeMap::new(),
            number: 0,
        }
    }

    fn send(&mut self, from: usize, packet: Packet) {
        if self.carries[from] {
            self.number += 1;
            self.wire.insert((self.now + self.one_way, self.number), (1 - from, packet));
        }
    }

    fn take(&mut self, at: usize, input: Input) {
        for output in self.ends[at].prober.handle(self.now, input) {
            match output {
                Output::Send { sequence } => {
                    self.ends[at].sends.push(self.now);
                    let age = self.ends[at].prober.heard_age(self.now).filter(|_| !self.ends[at].is_old);
                    self.send(at, Packet::Request { sequence, age });
                }
                Output::State(state) => self.ends[at].changes.push((self.now, state)),
            }
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            self.now += ms(1);
            while let Some((&(at, number), &(to, packet))) = self.wire.first_key_value() {
                if at > self.now {
                    break;
                }
                self.wire.remove(&(at, number));
                self.ends[to].received += 1;
                if !matches!(packet, Packet::Data) {
                    self.ends[to].prober.probe_came();
                }
                match packet {
                    Packet::Data => {}
                    Packet::Request { sequence, age } => {
                        if let Some(age) = age {
                            self.ends[to].prober.told(self.now, age);
                        }
                        let at = self.now;
                        self.send(to, Packet::Answer { sequence, at });
                    }
                    Packet::Answer { sequence, at } => {
                        self.take(to, Input::Answer { sequence, answered_at_ns: nanos(at) });
                    }
                }
            }
            for from in 0..2 {
                if self.flows[from] && self.now.as_millis().is_multiple_of(u128::from(PACKET_EVERY)) {
                    self.send(from, Packet::Data);
                }
                if self.ends[from].prober.next_deadline() <= self.now {
                    let received = self.ends[from].received;
                    self.ends[from].prober.counted(self.now, received);
                    self.take(from, Input::Timer);
                }
            }
        }
    }

    /// Requests of each end during a time.
    fn requests(&mut self, duration: Duration) -> [usize; 2] {
        let before = [0, 1].map(|end: usize| self.ends[end].sends.len());
        self.run(duration);
        [0, 1].map(|end: usize| self.ends[end].sends.len() - before[end])
    }

    /// How long after now each end is down.
    fn down_after(&mut self) -> [Duration; 2] {
        let cut = self.now;
        self.run(ms(3_000));
        [0, 1].map(|end: usize| match self.ends[end].changes.last() {
            Some((at, PathState::Down)) => *at - cut,
            other => panic!("end {end}: {other:?}"),
        })
    }
}

#[test]
fn probes_rest_under_traffic_in_both_directions_and_run_when_it_ends() {
    let mut world = World::new(ms(10));
    let idle = world.requests(ms(10_000));
    assert!(idle.iter().all(|count| (98..=102).contains(count)), "{idle:?}");
    world.flows = [true; 2];
    world.run(ms(2_000));
    let busy = world.requests(ms(10_000));
    assert!(busy.iter().all(|count| (9..=11).contains(count)), "{busy:?}");
    assert!(world.ends.iter().all(|end| end.prober.is_proven_by_traffic(world.now)));
    world.flows = [false; 2];
    world.run(ms(500));
    let idle = world.requests(ms(10_000));
    assert!(idle.iter().all(|count| (98..=102).contains(count)), "{idle:?}");
    assert!(world.ends.iter().all(|end| end.changes.len() == 1), "up, and never anything else");
}

#[test]
fn traffic_in_one_direction_proves_that_one_alone() {
    let mut world = World::new(ms(10));
    world.flows = [true, false];
    world.run(ms(2_000));
    let [sender, receiver] = world.requests(ms(10_000));
    assert!(sender >= 98, "nothing but answers comes back to it: {sender}");
    assert!((9..=11).contains(&receiver), "{receiver}");
}

#[test]
fn a_path_that_dies_under_traffic_is_found_dead_as_soon_as_an_idle_one() {
    for one_way in [1, 10, 60] {
        for late in 0..10 {
            let mut world = World::new(ms(one_way));
            world.flows = [true; 2];
            world.run(ms(5_000 + 13 * late));
            world.carries = [false; 2];
            let down = world.down_after();
            let limit = ms(900 + one_way);
            assert!(down.iter().all(|after| (ms(600)..=limit).contains(after)), "{one_way} ms: {down:?}");
        }
    }
}

#[test]
fn a_direction_that_dies_under_traffic_is_found_dead_at_both_ends() {
    for one_way in [1, 10, 60] {
        for late in 0..10 {
            let mut world = World::new(ms(one_way));
            world.flows = [true; 2];
            world.run(ms(5_000 + 13 * late));
            world.carries = [false, true];
            let down = world.down_after();
            assert!(down.iter().all(|after| *after < ms(1_000 + 3 * one_way)), "{one_way} ms: {down:?}");
        }
    }
}

#[test]
fn traffic_that_comes_and_goes_on_a_long_way_takes_nothing_down() {
    for one_way in [5, 50, 150] {
        let mut world = World::new(ms(one_way));
        world.run(ms(2_000));
        for turn in 0..60 {
            world.flows = [turn % 2 == 0, turn % 3 == 0];
            world.run(ms(700 + 90 * turn));
        }
        assert!(world.ends.iter().all(|end| end.changes.len() == 1), "{one_way} ms");
    }
}

#[test]
fn a_far_end_that_says_nothing_of_what_it_hears_is_asked_at_full_pace() {
    let mut world = World::new(ms(10));
    world.ends[1].is_old = true;
    world.flows = [true; 2];
    world.run(ms(2_000));
    let [to_old, to_new] = world.requests(ms(10_000));
    assert!(to_old >= 98, "{to_old}");
    assert!((9..=11).contains(&to_new), "{to_new}");
}

#[test]
fn traffic_does_not_outlive_a_far_prober_for_long() {
    let mut world = World::new(ms(10));
    world.flows = [true; 2];
    world.run(ms(5_000));
    // The far side goes on forwarding, and nobody there asks or answers any more.
    let down =
        |world: &World| world.ends[0].changes.last().is_some_and(|(_, state)| *state == PathState::Down);
    let cut = world.now;
    while !down(&world) {
        assert!(world.now - cut < ms(4_000), "still up");
        world.wire.retain(|_, (to, packet)| *to == 0 || matches!(packet, Packet::Data));
        world.ends[1].prober = Prober::new(TIMING, world.now + ms(1_000_000));
        world.run(ms(1));
    }
}
