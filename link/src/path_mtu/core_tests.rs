//! The search over paths in a virtual world: a clock that jumps from event to event, a path whose MTU changes, that loses and
//! reorders, and carries another size on the way back.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const RANGE: Range = Range { floor: FLOOR_V4, base: BASE_V4, max: 1500 };
const JUMBO: Range = Range { floor: FLOOR_V4, base: BASE_V4, max: 9000 };
/// Bytes of the small probe and of every answer.
const SMALL: u16 = 60;

/// How a path is.
#[derive(Debug, Clone, Copy)]
struct Path {
    mtu: u16,
    /// One way.
    delay: Duration,
    /// Up to so much more, at random.
    jitter: Duration,
    /// Packets lost, of a thousand.
    loss: u64,
}

const GOOD: Path = Path { mtu: 1500, delay: ms(10), jitter: ms(0), loss: 0 };

struct World {
    now: Moment,
    search: Search,
    path: Path,
    random: u64,
    in_flight: BTreeMap<(Moment, u64), ()>,
    found: Vec<(Moment, u16)>,
    sent: Vec<(Moment, Option<u16>)>,
    /// What our own device takes.
    device: u16,
}

impl World {
    fn new(range: Range, path: Path) -> Self {
        let now = ms(1_000);
        Self {
            now,
            search: Search::new(range, now),
            path,
            random: 0x9e37_79b9_7f4a_7c15,
            in_flight: BTreeMap::new(),
            found: Vec::new(),
            sent: Vec::new(),
            device: u16::MAX,
        }
    }

    fn dice(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below.max(1)
    }

    fn take(&mut self, input: Input) {
        for output in self.search.handle(self.now, input) {
            match output {
                Output::Send { sequence, size } => self.send(sequence, size),
                Output::Found(mtu) => self.found.push((self.now, mtu)),
            }
        }
    }

    fn send(&mut self, sequence: u64, size: Option<u16>) {
        self.sent.push((self.now, size));
        if size.is_some_and(|size| size > self.device) {
            return self.take(Input::Refused { sequence });
        }
        let lost = self.dice(1000) < self.path.loss || self.dice(1000) < self.path.loss;
        if lost || size.unwrap_or(SMALL) > self.path.mtu {
            return;
        }
        let jitter = u64::try_from(self.path.jitter.as_micros()).unwrap();
        let late = Duration::from_micros(self.dice(jitter + 1));
        self.in_flight.insert((self.now + self.path.delay * 2 + late, sequence), ());
    }

    /// Goes on for so long, from event to event.
    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        for turn in 0.. {
            assert!(turn < 1_000_000, "the search does not let time go on");
            let timer = self.search.next_deadline();
            match self.in_flight.first_key_value().map(|(key, ())| *key) {
                Some((at, sequence)) if at <= timer && at <= end => {
                    self.in_flight.remove(&(at, sequence));
                    self.now = self.now.max(at);
                    self.take(Input::Answer { sequence });
                }
                _ if timer <= end => {
                    self.now = self.now.max(timer);
                    self.take(Input::Timer);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// Changes the path; how long it takes until what is announced crosses.
    fn shrink(&mut self, mtu: u16) -> Duration {
        let began = self.now;
        self.path.mtu = mtu;
        while self.search.mtu().is_some_and(|announced| announced > mtu) {
            assert!(self.now < began + ms(30_000), "{:?} is announced over {mtu}", self.search.mtu());
            self.run(ms(1));
        }
        self.now - began
    }
}

#[test]
fn a_path_that_carries_what_the_device_does_is_found_in_three_round_trips() {
    let mut world = World::new(RANGE, GOOD);
    world.run(ms(100));
    assert_eq!(world.found, [(ms(1_060), 1500)]);
    assert_eq!(world.search.phase(), Phase::Complete);
    assert_eq!(world.search.breaks_at(), None);
}

#[test]
fn every_size_is_found_exactly() {
    for mtu in (576..=1500).chain((1500..=9000).step_by(97)) {
        let mut world = World::new(JUMBO, Path { mtu, ..GOOD });
        world.run(ms(5_000));
        assert_eq!((world.search.mtu(), world.search.phase()), (Some(mtu), Phase::Complete));
        assert_eq!(world.found.len(), 1, "announced once, when it is known");
        assert_eq!(world.search.breaks_at(), (mtu < 9000).then_some(mtu + 1));
    }
}

#[test]
fn a_search_takes_a_bounded_number_of_probes() {
    for mtu in (576..=9000).step_by(13) {
        let mut world = World::new(JUMBO, Path { mtu, ..GOOD });
        while world.search.phase() != Phase::Complete {
            world.run(ms(1));
        }
        let (probes, took) = (world.sent.len(), world.now - ms(1_000));
        assert!(probes <= 120 && took <= ms(1_800), "{mtu}: {probes} probes in {took:?}");
    }
}

#[test]
fn a_known_size_costs_two_probes_each_period() {
    let mut world = World::new(RANGE, GOOD);
    world.run(ms(1_000));
    let before = world.sent.len();
    world.run(CONFIRMATION * 100);
    assert_eq!(world.sent.len() - before, 200);
    assert!(world.sent[before..].iter().all(|(_, size)| size.is_none_or(|size| size == 1500)));
}

#[test]
fn a_black_hole_is_left_before_tcp_doubles_its_timer_a_third_time() {
    for (from, to) in [(1500, 1400), (1500, 1280), (9000, 1500), (1500, 1499), (1440, 1340), (1500, 600)] {
        for offset in [0, 37, 111, 203, 399] {
            let mut world = World::new(JUMBO, Path { mtu: from, delay: ms(1), ..GOOD });
            world.run(ms(3_000 + offset));
            assert_eq!(world.search.mtu(), Some(from));
            let took = world.shrink(to);
            assert!(took <= CONFIRMATION + ROUND_MIN * 3 + ms(10), "{from} to {to}: {took:?}");
            world.run(ms(3_000));
            assert_eq!((world.search.mtu(), world.search.black_holes()), (Some(to), 1));
        }
    }
}

#[test]
fn the_fall_is_to_the_largest_known_to_cross_and_not_to_the_base() {
    let mut world = World::new(RANGE, GOOD);
    world.run(ms(2_000));
    world.shrink(1400);
    let fallen = world.search.mtu().unwrap();
    assert!((1280..=1400).contains(&fallen), "{fallen}");
}

#[test]
fn a_device_that_takes_less_is_not_a_reason_to_fall_to_the_base() {
    for device in [1499, 1400] {
        let mut world = World::new(RANGE, GOOD);
        world.run(ms(2_000));
        world.device = device;
        let began = world.now;
        while world.search.mtu() == Some(1500) {
            assert!(world.now < began + CONFIRMATION + ms(400), "still 1500 over a device of {device}");
            world.run(ms(1));
        }
        let fallen = world.search.mtu().unwrap();
        assert!(fallen > BASE_V4 && fallen <= device, "{fallen} over a device of {device}");
        world.run(ms(3_000));
        assert_eq!((world.search.mtu(), world.search.black_holes()), (Some(device), 1));
    }
}

#[test]
fn a_path_that_grows_is_noticed_by_one_byte_more() {
    let mut world = World::new(JUMBO, Path { mtu: 1400, ..GOOD });
    world.run(ms(3_000));
    for mtu in [1401, 1500, 9000] {
        world.path.mtu = mtu;
        world.run(RAISE + ms(2_500));
        assert_eq!(world.search.mtu(), Some(mtu));
    }
    assert_eq!(world.search.black_holes(), 0);
}

#[test]
fn a_dead_path_has_no_mtu_and_keeps_the_one_it_had() {
    let mut world = World::new(RANGE, Path { mtu: 1400, ..GOOD });
    world.run(ms(3_000));
    world.path.mtu = 0;
    world.run(ms(20_000));
    assert_eq!((world.search.phase(), world.search.mtu()), (Phase::Silent, Some(1400)));
    assert_eq!(world.search.black_holes(), 0);
    let before = world.sent.len();
    world.run(ms(10_000));
    assert!(world.sent.len() - before <= 20, "{} probes into a dead path", world.sent.len() - before);
    // It comes back smaller.
    world.path.mtu = 1300;
    world.run(ms(3_000));
    assert_eq!((world.search.phase(), world.search.mtu()), (Phase::Complete, Some(1300)));
}

#[test]
fn a_far_side_that_never_answers_has_no_mtu() {
    let mut world = World::new(RANGE, Path { mtu: 0, ..GOOD });
    world.run(ms(30_000));
    assert_eq!((world.search.phase(), world.search.mtu()), (Phase::Silent, None));
    assert!(world.sent.iter().all(|(_, size)| size.is_none()), "nothing padded for nobody");
}

#[test]
fn a_path_for_small_packets_only_is_an_error_until_it_is_not() {
    let mut world = World::new(RANGE, Path { mtu: 400, ..GOOD });
    world.run(ms(5_000));
    assert_eq!((world.search.phase(), world.search.mtu()), (Phase::Error, None));
    world.path.mtu = 1500;
    world.run(ms(3_000));
    assert_eq!((world.search.phase(), world.search.mtu()), (Phase::Complete, Some(1500)));
    world.path.mtu = 400;
    world.run(ms(8_000));
    assert_eq!((world.search.phase(), world.search.mtu()), (Phase::Error, Some(FLOOR_V4)));
}

#[test]
fn what_the_own_device_refuses_is_found_without_waiting() {
    let mut world = World::new(JUMBO, Path { mtu: 9000, ..GOOD });
    world.device = 1420;
    world.run(ms(1_000));
    assert_eq!(world.search.mtu(), Some(1420));
    world.device = 1300;
    let began = world.now;
    while world.search.mtu() > Some(1300) {
        world.run(ms(1));
        assert!(world.now - began <= CONFIRMATION + ms(200));
    }
    world.run(ms(2_000));
    assert_eq!(world.search.mtu(), Some(1300));
}

#[test]
fn another_range_is_followed_at_once() {
    let mut world = World::new(RANGE, Path { mtu: 8000, ..GOOD });
    world.run(ms(1_000));
    assert!(world.search.set_range(JUMBO, world.now).is_empty());
    world.run(ms(2_000));
    assert_eq!(world.search.mtu(), Some(8000));
    let outputs = world.search.set_range(Range { max: 1300, ..RANGE }, world.now);
    assert_eq!(outputs, [Output::Found(1300)]);
    world.run(ms(1_000));
    assert_eq!((world.search.mtu(), world.search.phase()), (Some(1300), Phase::Complete));
}

#[test]
fn an_answer_counts_once_and_only_for_what_was_sent() {
    let mut search = Search::new(RANGE, ms(0));
    assert_eq!(search.handle(ms(0), Input::Timer), [Output::Send { sequence: 1, size: None }]);
    for sequence in [0, 2, 99, u64::MAX] {
        assert!(search.handle(ms(1), Input::Answer { sequence }).is_empty());
        assert_eq!(search.phase(), Phase::Silent);
    }
    assert_eq!(search.handle(ms(2), Input::Answer { sequence: 1 }).len(), 2);
    assert!(search.handle(ms(2), Input::Answer { sequence: 1 }).is_empty());
}

#[test]
fn a_late_answer_counts_too() {
    let mut world = World::new(RANGE, GOOD);
    world.run(ms(2_000));
    // The round trip is ten times what it was: rounds end before their answers come.
    world.path.delay = ms(150);
    world.run(ms(20_000));
    assert_eq!((world.search.mtu(), world.search.black_holes()), (Some(1500), 0));
}

#[test]
fn a_path_that_is_silent_in_the_middle_of_a_search_is_searched_to_the_end() {
    for after in (0..3_000).step_by(50) {
        let mut world = World::new(RANGE, GOOD);
        world.run(ms(2_000));
        world.path.mtu = 1432;
        world.run(ms(after));
        world.path.loss = 1000;
        world.run(ms(4_000));
        world.path.loss = 0;
        world.run(RAISE * 2 + ms(6_000));
        assert_eq!((world.search.mtu(), world.search.phase()), (Some(1432), Phase::Complete), "{after} ms");
    }
    let mut world = World::new(RANGE, GOOD);
    world.run(ms(2_000));
    (world.path.mtu, world.path.loss) = (9000, 1000);
    world.run(ms(4_000));
    world.search.set_range(JUMBO, world.now);
    world.path.loss = 0;
    world.run(RAISE * 2 + ms(6_000));
    assert_eq!(world.search.mtu(), Some(9000), "a range that grew meanwhile");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the path does, what is announced crosses again within the limit of detection, and in the end it is the path's.
    #[test]
    fn what_is_announced_crosses(
        delay in 0_u64..100,
        jitter in 0_u64..30,
        seed in 1_u64..,
        steps in prop::collection::vec((600_u16..9100, 0_u64..5_000), 1..8),
    ) {
        let path = Path { mtu: 1500, delay: ms(delay), jitter: ms(jitter), loss: 0 };
        let mut world = World::new(JUMBO, path);
        world.random = seed;
        world.run(ms(4_000));
        for (mtu, pause) in steps {
            let took = world.shrink(mtu);
            // A period and three rounds; twice that if a search upward was under way.
            let round = world.path.delay * 2 + world.path.jitter * 3 + ROUND_MIN + SLACK;
            prop_assert!(took <= (CONFIRMATION + round * 4) * 2, "{took:?}");
            world.run(ms(pause));
        }
        // A search that is under way ends, one byte more is tried, and all above it is searched: eight volleys of three rounds each.
        let round = world.path.delay * 2 + world.path.jitter * 3 + ROUND_MIN + SLACK;
        world.run(RAISE + CONFIRMATION + round * 24 * 2);
        prop_assert_eq!(world.search.mtu(), Some(world.path.mtu.min(9000)));
    }

    /// Loss delays, and confuses for a while at most.
    #[test]
    fn a_path_with_loss_is_measured_too(
        mtu in 600_u16..9000,
        loss in 0_u64..20,
        jitter in 0_u64..30,
        seed in 1_u64..,
    ) {
        let mut world = World::new(JUMBO, Path { mtu, delay: ms(20), jitter: ms(jitter), loss });
        world.random = seed;
        world.run(ms(20_000));
        let (mut right, mut periods) = (0_u32, 0_u32);
        for _ in 0..600 {
            world.run(ms(100));
            prop_assert!(world.search.mtu().is_none_or(|found| found <= mtu));
            periods += 1;
            right += u32::from(world.search.mtu() == Some(mtu));
        }
        prop_assert!(right * 10 >= periods * 7, "{right} of {periods} looks found {mtu}");
        let rate = world.sent.len() as f64 / 80.0;
        prop_assert!(rate < 20.0, "{rate} probes a second");
    }
}
