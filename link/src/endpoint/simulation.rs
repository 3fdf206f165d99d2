//! The places of a peer in a virtual world: a clock that goes in ticks, and for every place a path with a delay, a loss and
//! times at which it is cut.

use std::collections::BTreeMap;

use super::*;

/// The engine's clock looks so often.
const TICK: Duration = Duration::from_millis(100);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(number: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, number], 51_820))
}

/// What a path does with a question asked at this moment: its round trip, or nothing comes back.
type Path = Box<dyn FnMut(Moment) -> Option<Duration>>;

struct World {
    now: Moment,
    endpoints: Endpoints,
    used: SocketAddr,
    paths: BTreeMap<SocketAddr, Path>,
    in_flight: BTreeMap<(Moment, u32, u64), ()>,
    asked: Vec<(Moment, SocketAddr)>,
    moves: Vec<(Moment, SocketAddr)>,
}

impl World {
    fn new(paths: Vec<Path>) -> Self {
        let now = s(1_000);
        let places: Vec<_> = (1..).map(at).take(paths.len()).collect();
        Self {
            now,
            endpoints: Endpoints::new(&places, places[0], now),
            used: places[0],
            paths: places.into_iter().zip(paths).collect(),
            in_flight: BTreeMap::new(),
            asked: Vec::new(),
            moves: Vec::new(),
        }
    }

    fn take(&mut self, input: Input) {
        for output in self.endpoints.handle(self.now, input) {
            match output {
                Output::Ask { to, place, sequence } => {
                    self.asked.push((self.now, to));
                    if let Some(delay) = self.paths.get_mut(&to).and_then(|path| path(self.now)) {
                        self.in_flight.insert((self.now + delay, place, sequence), ());
                    }
                }
                Output::Use(at) => {
                    assert_ne!(at, self.used, "moved to where it is");
                    self.used = at;
                    self.moves.push((self.now, at));
                }
            }
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.now < end {
            let tick = self.now + TICK;
            while let Some((&(arrival, place, sequence), ())) = self.in_flight.first_key_value() {
                if arrival > tick {
                    break;
                }
                self.in_flight.pop_first();
                self.now = arrival;
                self.take(Input::Answer { place, sequence });
            }
            self.now = tick;
            self.take(Input::Timer);
        }
    }
}

fn steady(delay: Duration) -> Path {
    Box::new(move |_| Some(delay))
}

fn nothing() -> Path {
    Box::new(|_| None)
}

/// Carries until `cut`, and not afterwards.
fn until(cut: Moment, delay: Duration) -> Path {
    Box::new(move |now| (now < cut).then_some(delay))
}

/// A generator of numbers from 0 to 1, always the same ones.
fn random(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1_u64 << 24) as f64
    }
}

#[test]
fn a_place_that_dies_is_left_for_the_best_that_lives_in_well_under_a_second() {
    for offset in [0, 30, 70] {
        let cut = s(1_030) + ms(offset);
        let mut world = World::new(vec![until(cut, ms(20)), steady(ms(80)), steady(ms(40))]);
        world.run(s(60));
        let [(when, to)] = world.moves[..] else { panic!("{:?}", world.moves) };
        assert_eq!(to, at(3));
        assert!(when - cut <= ms(700), "after {:?}", when - cut);
    }
}

#[test]
fn a_place_that_never_answered_is_left_once_another_does() {
    let mut world = World::new(vec![nothing(), steady(ms(30))]);
    world.run(s(5));
    assert_eq!(world.moves.len(), 1);
    assert_eq!(world.used, at(2));
}

#[test]
fn a_better_place_is_taken_after_it_has_been_better_for_a_while_and_a_slightly_better_one_never() {
    let mut world = World::new(vec![steady(ms(50)), steady(ms(30))]);
    world.run(s(60));
    let [(when, _)] = world.moves[..] else { panic!("{:?}", world.moves) };
    assert!(when >= s(1_010) && when < s(1_020), "{when:?}");
    let mut world = World::new(vec![steady(ms(50)), steady(ms(45))]);
    world.run(s(600));
    assert_eq!(world.moves, []);
}

#[test]
fn loss_counts_like_time() {
    let mut lost = random(7);
    let lossy: Path = Box::new(move |_| (lost() > 0.1).then_some(ms(20)));
    let mut world = World::new(vec![lossy, steady(ms(30))]);
    world.run(s(120));
    assert_eq!(world.used, at(2), "{:?}", world.moves);
}

#[test]
fn equal_places_that_jitter_are_not_changed_for_each_other() {
    let paths = (1..=3).map(|seed| {
        let mut jitter = random(seed);
        let path: Path = Box::new(move |_| Some(ms(40) + ms(10).mul_f64(jitter())));
        path
    });
    let mut world = World::new(paths.collect());
    world.run(s(3_600));
    assert_eq!(world.moves, []);
}

#[test]
fn a_place_that_flaps_has_to_prove_itself_longer_each_time() {
    // Better than the other, for 30 s of every 35.
    let flapping: Path = Box::new(|now| (now.as_secs() % 35 < 30).then_some(ms(10)));
    let mut world = World::new(vec![flapping, steady(ms(40))]);
    world.run(s(3_600));
    // Once there and back for each of its first deaths; without the trial it would be 200 moves.
    assert!(world.moves.len() <= 4, "{:?}", world.moves);
    assert_eq!(world.used, at(2));
}

#[test]
fn a_stranger_is_asked_seldom_and_followed_where_it_is_heard() {
    let mut world = World::new(vec![nothing(), nothing()]);
    world.run(s(20));
    let before = world.asked.len();
    world.run(s(600));
    assert!(world.asked.len() - before <= 2 * 61, "{} questions", world.asked.len() - before);
    assert_eq!(world.moves, []);
    world.take(Input::Heard(at(2)));
    world.take(Input::Heard(at(9)));
    assert_eq!(world.moves.iter().map(|(_, to)| *to).collect::<Vec<_>>(), [at(2), at(9)]);
}

#[test]
fn what_comes_from_elsewhere_moves_nothing_while_the_place_in_use_answers() {
    let mut world = World::new(vec![until(s(1_060), ms(20)), nothing()]);
    world.paths.insert(at(9), steady(ms(18)));
    world.run(s(30));
    for _ in 0..100 {
        world.take(Input::Heard(at(2)));
        world.take(Input::Heard(at(9)));
        world.run(ms(200));
    }
    assert_eq!(world.moves, [], "18 ms are not so much better than 20");
    world.run(s(20));
    let [(when, to)] = world.moves[..] else { panic!("{:?}", world.moves) };
    assert!(to == at(9) && when <= s(1_061), "{when:?} {to}");
}

#[test]
fn another_list_keeps_what_is_known_of_the_places_that_stay() {
    let mut world = World::new(vec![steady(ms(20)), steady(ms(30))]);
    world.run(s(10));
    let (now, used) = (world.now, world.used);
    world.endpoints.configure(&[at(3), at(1)], used, now);
    let places: Vec<_> = world.endpoints.measured(now).collect();
    assert_eq!(places.iter().map(|place| place.at).collect::<Vec<_>>(), [at(1), at(3)]);
    assert_eq!(places[0].alive, Some(true));
    assert_eq!(places[1].alive, None);
}
