//! The prober against a path in a virtual world: a clock that jumps from event to event, and a
//! path with delay, loss and cuts.

use std::collections::BTreeMap;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// How far the far side's clock is ahead.
const FAR_CLOCK: Duration = Duration::from_secs(86_400);
const TIMING: Timing = Timing { interval: ms(100), dead_after: ms(500) };

/// prober ── request ──▶ (delay/2, lost if `carries` says so) ──▶ answer ──▶ prober
struct World {
    now: Moment,
    prober: Prober,
    delay: Duration,
    /// What the way there takes beside half of the delay.
    late_out: Duration,
    /// Answers under way, with the far clock's time in them.
    in_flight: BTreeMap<(Moment, u64), u64>,
    changes: Vec<(Moment, PathState)>,
    sends: Vec<Moment>,
}

impl World {
    fn new() -> Self {
        let now = ms(1_000);
        Self {
            now,
            prober: Prober::new(TIMING, now),
            delay: ms(20),
            late_out: ms(0),
            in_flight: BTreeMap::new(),
            changes: Vec::new(),
            sends: Vec::new(),
        }
    }

    fn take(&mut self, input: Input, carries: &impl Fn(Moment, u64) -> bool) {
        for output in self.prober.handle(self.now, input) {
            match output {
                Output::Send { sequence } => {
                    self.sends.push(self.now);
                    if carries(self.now, sequence) {
                        let answered = self.now + self.delay / 2 + self.late_out;
                        let arrival = (answered + self.delay / 2, sequence);
                        self.in_flight.insert(arrival, nanos(answered + FAR_CLOCK));
                    }
                }
                Output::State(state) => self.changes.push((self.now, state)),
            }
        }
    }

    /// Runs until `end`, from event to event.
    fn run(&mut self, end: Moment, carries: impl Fn(Moment, u64) -> bool) {
        for turn in 0.. {
            assert!(turn < 100_000, "the prober does not let time go on");
            let timer = self.prober.next_deadline();
            let arrival = self.in_flight.first_key_value().map(|(key, at)| (*key, *at));
            match arrival {
                Some(((at, sequence), answered_at_ns)) if at <= timer && at <= end => {
                    self.in_flight.remove(&(at, sequence));
                    self.now = self.now.max(at);
                    self.take(Input::Answer { sequence, answered_at_ns }, &carries);
                }
                _ if timer <= end => {
                    self.now = self.now.max(timer);
                    self.take(Input::Timer, &carries);
                }
                _ => break,
            }
        }
        self.now = self.now.max(end);
    }
}

#[test]
fn a_path_is_down_until_two_answers_crossed() {
    let mut world = World::new();
    assert_eq!(world.prober.state(), PathState::Down);
    world.run(ms(1_050), |_, _| true);
    assert_eq!(world.prober.state(), PathState::Down);
    world.run(ms(2_000), |_, _| true);
    assert_eq!(world.changes, [(ms(1_120), PathState::Up)]);
}

#[test]
fn probes_keep_their_rhythm() {
    let mut world = World::new();
    world.run(ms(1_950), |_, _| true);
    let expected: Vec<Moment> = (10..20).map(|n| ms(n * 100)).collect();
    assert_eq!(world.sends, expected);
}

#[test]
fn a_cut_path_is_down_after_dead_after_and_not_before() {
    let mut world = World::new();
    world.run(ms(10_000), |at, _| at < ms(5_000));
    // The last answer came to the probe of 4.9 s.
    assert_eq!(world.changes[1..], [(ms(4_920) + TIMING.dead_after, PathState::Down)]);
    assert_eq!(world.prober.state(), PathState::Down);
}

#[test]
fn a_mended_path_comes_back_by_itself() {
    let mut world = World::new();
    world.run(ms(10_000), |at, _| !(ms(3_000)..ms(6_000)).contains(&at));
    let states: Vec<PathState> = world.changes.iter().map(|(_, state)| *state).collect();
    assert_eq!(states, [PathState::Up, PathState::Down, PathState::Up]);
    assert_eq!(world.changes[2].0, ms(6_120));
    assert_eq!(world.prober.changes(), 3);
}

#[test]
fn loss_alone_does_not_take_a_path_down() {
    let mut world = World::new();
    world.run(ms(60_000), |_, sequence| sequence % 4 != 0);
    assert_eq!(world.changes.len(), 1);
    let loss = world.prober.loss_permille(world.now);
    assert!((240..=260).contains(&loss), "{loss}");
}

#[test]
fn loss_is_measured_over_the_last_window_only() {
    let mut world = World::new();
    world.run(ms(5_000), |_, _| false);
    assert_eq!(world.prober.loss_permille(world.now), 1000);
    world.run(ms(5_000) + TIMING.interval * (PROBE_LOSS_WINDOW + 8), |_, _| true);
    assert_eq!(world.prober.loss_permille(world.now), 0);
}

#[test]
fn probes_under_way_are_not_lost_yet() {
    let mut world = World::new();
    world.delay = ms(450);
    world.run(ms(3_000), |_, _| true);
    assert_eq!(world.prober.loss_permille(world.now), 0);
}

fn answer(sequence: u64) -> Input {
    Input::Answer { sequence, answered_at_ns: 0 }
}

#[test]
fn the_direction_that_became_slower_is_told_from_the_other() {
    let mut world = World::new();
    world.run(ms(5_000), |_, _| true);
    world.late_out = ms(15);
    world.run(ms(7_000), |_, _| true);
    let (out, back) = world.prober.one_way();
    assert_eq!((out.change_us(), back.change_us()), (Some(15_000), Some(0)));
    assert_eq!(back.jitter_us(), Some(0));
    assert!(out.jitter_us().unwrap() < 15_000 / 16, "one step fades");
}

#[test]
fn an_answer_counts_once_and_only_for_what_was_asked() {
    let mut prober = Prober::new(TIMING, ms(0));
    assert_eq!(prober.handle(ms(0), Input::Timer), [Output::Send { sequence: 1 }]);
    for sequence in [0, 2, 99, u64::MAX] {
        assert!(prober.handle(ms(1), answer(sequence)).is_empty());
    }
    assert_eq!(prober.received(), 0);
    for _ in 0..5 {
        assert!(prober.handle(ms(10), answer(1)).is_empty());
    }
    assert_eq!((prober.received(), prober.state()), (1, PathState::Down));
}

#[test]
fn one_answer_now_and_then_does_not_bring_a_path_up() {
    let mut world = World::new();
    world.run(ms(30_000), |_, sequence| sequence % 10 == 0);
    assert!(world.changes.is_empty(), "{:?}", world.changes);
}

#[test]
fn the_round_trip_time_is_smoothed() {
    let mut world = World::new();
    world.run(ms(3_000), |_, _| true);
    let (smoothed, deviation) = world.prober.rtt().unwrap();
    assert!(smoothed.abs_diff(ms(20)) < Duration::from_micros(10), "{smoothed:?}");
    assert!(deviation < ms(1), "{deviation:?}");
    world.delay = ms(40);
    world.run(ms(3_400), |_, _| true);
    let (smoothed, _) = world.prober.rtt().unwrap();
    assert!(smoothed > ms(25) && smoothed < ms(40), "{smoothed:?}");
}

#[test]
fn a_stop_of_our_own_is_not_the_paths_silence() {
    let mut world = World::new();
    world.run(ms(5_000), |_, _| true);
    // Nothing is handled for ten seconds; then the timer comes first, the answers after it.
    world.now = ms(15_000);
    world.take(Input::Timer, &|_, _| true);
    world.run(ms(20_000), |_, _| true);
    assert_eq!(world.changes.len(), 1, "{:?}", world.changes);
    assert!(world.sends.len() < 40 + 55, "missed probes are not made up for");
}

#[test]
fn a_new_timing_keeps_the_state() {
    let mut world = World::new();
    world.run(ms(5_000), |_, _| true);
    let slow = Timing { interval: ms(1_000), dead_after: ms(3_000) };
    world.prober.retime(slow, world.now);
    world.run(ms(20_000), |_, _| true);
    assert_eq!(world.changes.len(), 1);
    assert!(world.sends.len() < 41 + 17);
}

#[test]
fn answers_are_bounded_and_the_bound_recovers() {
    let mut budget = AnswerBudget::new(ms(0));
    let given = (0..10_000).filter(|_| budget.take(ms(0))).count();
    assert_eq!(given, 250);
    assert!(!budget.take(ms(1)));
    let given = (0..10_000).filter(|_| budget.take(ms(2_000))).count();
    assert_eq!(given, 250);
}
