//! Two sessions and a wire in a virtual world: delay, loss, a cut in one direction or both, reordering,
//! and configurations that change meanwhile. Whatever happens, the two agree in the end.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::time::Duration;

use proptest::prelude::*;

use super::auth::Datagram;
use super::session::{Moment, Output, Session, Settings};
use super::wire::{Received, State};
use crate::key::BfdSecret;
use crate::protocol::{BfdAuthentication, BfdAuthenticationKind};

/// Two ends; `wire` holds what is under way, by its arrival.
struct World {
    now: Moment,
    ends: [Session; 2],
    wire: BTreeMap<(Moment, u64), (usize, Datagram)>,
    delay: Duration,
    /// Of what is sent to each end, so much in 256 is lost.
    loss: [u8; 2],
    random: u64,
    count: u64,
    /// When each end left Up.
    left_up: [Option<Moment>; 2],
}

fn settings(tx_ms: u32, rx_ms: u32, detect_mult: u8) -> Settings {
    Settings {
        desired_min_tx_us: tx_ms * 1_000,
        required_min_rx_us: rx_ms * 1_000,
        detect_mult,
        passive: false,
        admin_down: false,
        authentication: None,
    }
}

impl World {
    fn new(settings: [Settings; 2], seed: u64) -> Self {
        let end = |settings, number| {
            Session::new(settings, NonZeroU32::new(number).unwrap(), number * 1_000, Moment::ZERO)
        };
        let [a, b] = settings;
        Self {
            now: Moment::ZERO,
            ends: [end(a, 1), end(b, 2)],
            wire: BTreeMap::new(),
            delay: Duration::from_millis(5),
            loss: [0, 0],
            random: seed | 1,
            count: 0,
            left_up: [None, None],
        }
    }

    fn chance(&mut self) -> u32 {
        // xorshift64: the world only has to be the same for the same seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from(self.random >> 32).unwrap()
    }

    fn perform(&mut self, end: usize, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::Send(datagram) => {
                    self.count += 1;
                    let chance = self.chance();
                    let jitter = Duration::from_micros(u64::from(chance >> 20));
                    if u32::from(self.loss[1 - end]) <= chance & 0xff {
                        self.wire.insert((self.now + self.delay + jitter, self.count), (1 - end, datagram));
                    }
                }
                Output::Change { from, .. } => {
                    if from == State::Up {
                        self.left_up[end] = Some(self.now);
                    }
                }
            }
        }
    }

    fn configure(&mut self, end: usize, settings: Settings) {
        let chance = self.chance();
        let outputs = self.ends[end].configure(settings, self.now, chance);
        self.perform(end, outputs);
    }

    fn run_for(&mut self, time: Duration) {
        let stop = self.now + time;
        loop {
            let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
            let timers = self.ends.iter().filter_map(Session::next_deadline);
            let Some(next) = timers.chain(arrival).min().filter(|at| *at <= stop) else { break };
            self.now = self.now.max(next);
            let chance = self.chance();
            if arrival.is_some_and(|at| at <= self.now) {
                let (_, (end, datagram)) = self.wire.pop_first().unwrap();
                let received = Received::decode(datagram.bytes()).unwrap();
                let outputs = self.ends[end].receive(&received, self.now, chance).unwrap_or_default();
                self.perform(end, outputs);
            } else {
                for end in 0..2 {
                    let outputs = self.ends[end].on_timer(self.now, chance);
                    self.perform(end, outputs);
                }
            }
        }
        self.now = stop;
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_sessions_come_up_within_two_seconds_and_stay() {
    let mut world = World::new([settings(50, 50, 3), settings(50, 50, 3)], 1);
    world.run_for(2 * SECOND);
    assert_eq!(world.states(), [State::Up; 2]);
    world.run_for(3_600 * SECOND);
    assert_eq!((world.states(), world.left_up), ([State::Up; 2], [None; 2]));
    // 50 ms less 12.5 % of jitter in the mean.
    let expected = 2 * 3_600 * 1_000 / 44;
    assert!(world.count.abs_diff(expected) < expected / 20, "{} packets", world.count);
}

#[test]
fn a_cut_is_noticed_by_both_within_the_detection_time() {
    let mut world = World::new([settings(50, 50, 3), settings(50, 50, 3)], 2);
    world.run_for(10 * SECOND);
    let cut = world.now;
    world.loss = [255, 255];
    world.wire.clear();
    world.run_for(SECOND);
    for left in world.left_up {
        let took = left.unwrap() - cut;
        assert!(took <= Duration::from_millis(150), "{took:?}");
    }
}

#[test]
fn a_cut_in_one_direction_takes_both_down_and_both_come_back() {
    let mut world = World::new([settings(50, 50, 3), settings(50, 50, 3)], 3);
    world.run_for(10 * SECOND);
    world.loss[0] = 255;
    world.run_for(SECOND);
    assert_eq!(world.states()[0], State::Down);
    assert_ne!(world.states()[1], State::Up, "it is told");
    world.loss = [0, 0];
    world.run_for(3 * SECOND);
    assert_eq!(world.states(), [State::Up; 2]);
}

#[test]
fn a_restarted_end_with_another_discriminator_is_met_again() {
    let mut world = World::new([settings(50, 50, 3), settings(50, 50, 3)], 4);
    world.run_for(5 * SECOND);
    world.ends[0] = Session::new(settings(50, 50, 3), NonZeroU32::new(77).unwrap(), 0, world.now);
    world.run_for(3 * SECOND);
    assert_eq!(world.states(), [State::Up; 2]);
    assert_eq!(world.ends[1].remote().discriminator, 77);
}

#[test]
fn admin_down_takes_the_far_end_down_by_word_and_not_by_silence() {
    let mut world = World::new([settings(50, 50, 3), settings(50, 50, 3)], 5);
    world.run_for(5 * SECOND);
    world.configure(0, Settings { admin_down: true, ..settings(50, 50, 3) });
    world.run_for(Duration::from_millis(20));
    assert_eq!(world.states(), [State::AdminDown, State::Down]);
    assert_eq!(world.ends[1].diagnostic().name(), "neighbor_signaled_session_down");
    world.run_for(10 * SECOND);
    assert_eq!(world.states(), [State::AdminDown, State::Down]);
    world.configure(0, settings(50, 50, 3));
    world.run_for(3 * SECOND);
    assert_eq!(world.states(), [State::Up; 2]);
}

#[test]
fn a_change_of_every_timer_while_up_takes_nothing_down() {
    let mut world = World::new([settings(50, 50, 3), settings(50, 50, 3)], 6);
    world.run_for(5 * SECOND);
    let steps =
        [(1_000, 50, 3), (50, 1_000, 3), (10, 10, 2), (100, 100, 1), (300, 20, 2), (20, 300, 5), (50, 50, 3)];
    for (number, (tx, rx, mult)) in steps.into_iter().enumerate() {
        world.configure(number % 2, settings(tx, rx, mult));
        world.run_for(5 * SECOND);
        world.configure(1 - number % 2, settings(rx, tx, mult));
        // The next change comes before the Poll Sequence of this one has ended.
        world.run_for(Duration::from_millis(3));
    }
    assert_eq!((world.states(), world.left_up), ([State::Up; 2], [None; 2]));
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (10..2_000_u32, 10..2_000_u32, 2..6_u8).prop_map(|(tx, rx, mult)| settings(tx, rx, mult))
}

fn any_authentication() -> impl Strategy<Value = Option<BfdAuthentication>> {
    let kinds = [
        BfdAuthenticationKind::Simple,
        BfdAuthenticationKind::KeyedSha1,
        BfdAuthenticationKind::MeticulousKeyedSha1,
    ];
    let one = |kind| BfdAuthentication { kind, key_id: 1, secret: BfdSecret::new("secret") };
    proptest::option::of(proptest::sample::select(kinds.to_vec()).prop_map(one))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_was_lost_both_come_up_once_the_wire_is_whole(
        a in any_settings(), b in any_settings(), authentication in any_authentication(),
        losses in proptest::collection::vec((any::<[u8; 2]>(), 1..5_000_u64), 1..6), seed in any::<u64>(),
    ) {
        let with = |s: Settings| Settings { authentication: authentication.clone(), ..s };
        let mut world = World::new([with(a), with(b)], seed);
        for (loss, ms) in losses {
            world.loss = loss;
            world.run_for(Duration::from_millis(ms));
        }
        world.loss = [0, 0];
        // Two silences of the longest detection time, and the slow start.
        world.run_for(40 * SECOND);
        prop_assert_eq!(world.states(), [State::Up; 2]);
        world.left_up = [None; 2];
        world.run_for(60 * SECOND);
        prop_assert_eq!(world.left_up, [None; 2], "on a whole wire nothing goes down");
    }
}
