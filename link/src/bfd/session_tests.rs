//! The sentences of RFC 5880 §6.8, one test each: a session against packets made by hand.

use super::*;
use crate::key::BfdSecret;
use crate::protocol::BfdAuthenticationKind;

const MS: u32 = 1_000;

fn settings() -> Settings {
    Settings {
        desired_min_tx_us: 50 * MS,
        required_min_rx_us: 50 * MS,
        detect_mult: 3,
        passive: false,
        admin_down: false,
        authentication: None,
    }
}

/// What the neighbour says: 50 ms × 3, as it is once Up.
fn said(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        control_plane_independent: false,
        demand: false,
        detect_mult: 3,
        my_discriminator: 9,
        your_discriminator: 7,
        desired_min_tx_us: 50 * MS,
        required_min_rx_us: 50 * MS,
        required_min_echo_rx_us: 0,
    }
}

fn at(ms: u64) -> Moment {
    Moment::from_millis(ms)
}

/// A session under test, its clock, and what it sent.
struct Bench {
    session: Session,
    now: Moment,
    sent: Vec<(Moment, Packet)>,
    random: u32,
}

impl Bench {
    fn new(settings: Settings) -> Self {
        let session = Session::new(settings, NonZeroU32::new(7).unwrap(), 0, at(0));
        Self { session, now: at(0), sent: Vec::new(), random: 0 }
    }

    /// Up, with its Poll Sequence ended.
    fn up(settings: Settings) -> Self {
        let mut bench = Self::new(settings);
        bench.hear(said(State::Init));
        bench.hear(Packet { is_final: true, ..said(State::Up) });
        assert_eq!(bench.session.state(), State::Up);
        bench.sent.clear();
        bench
    }

    fn note(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            if let Output::Send(datagram) = output {
                let packet = Received::decode(datagram.bytes()).unwrap().packet;
                self.sent.push((self.now, packet));
            }
        }
    }

    fn hear(&mut self, packet: Packet) {
        let sealed = packet.encode(0);
        let received = Received::decode(&sealed).unwrap();
        let outputs = self.session.receive(&received, self.now, self.random).unwrap();
        self.note(outputs);
    }

    fn configure(&mut self, settings: Settings) {
        let outputs = self.session.configure(settings, self.now, self.random);
        self.note(outputs);
    }

    /// Lets time pass up to a moment; every deadline is met on time.
    fn run_to(&mut self, end: Moment) {
        while let Some(due) = self.session.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let outputs = self.session.on_timer(self.now, self.random);
            self.note(outputs);
        }
        self.now = end;
    }

    /// Lets time pass while the neighbour is heard every 50 ms.
    fn run_heard(&mut self, end: Moment, packet: Packet) {
        while self.now < end {
            let next = (self.now + at(50)).min(end);
            self.run_to(next);
            self.hear(packet);
        }
    }

    fn last(&self) -> Packet {
        self.sent.last().unwrap().1
    }
}

#[test]
fn section_6_2_every_state_follows_what_is_received() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (Down, AdminDown, Down),
        (Down, Down, Init),
        (Down, Init, Up),
        (Down, Up, Down),
        (Init, AdminDown, Down),
        (Init, Down, Init),
        (Init, Init, Up),
        (Init, Up, Up),
        (Up, AdminDown, Down),
        (Up, Down, Down),
        (Up, Init, Up),
        (Up, Up, Up),
        (AdminDown, Down, AdminDown),
        (AdminDown, Init, AdminDown),
        (AdminDown, Up, AdminDown),
        (AdminDown, AdminDown, AdminDown),
    ];
    for (before, heard, after) in table {
        let mut bench = Bench::new(Settings { admin_down: before == AdminDown, ..settings() });
        match before {
            Init => bench.hear(said(Down)),
            Up => bench.hear(said(Init)),
            _ => {}
        }
        assert_eq!(bench.session.state(), before);
        bench.hear(said(heard));
        assert_eq!(bench.session.state(), after, "{before:?} hears {heard:?}");
        let signaled = before != after && after == Down;
        assert_eq!(bench.session.diagnostic() == Diagnostic::NEIGHBOR_SIGNALED_DOWN, signaled);
    }
}

#[test]
fn section_6_8_3_a_session_that_is_not_up_asks_for_a_second_at_least() {
    let mut bench = Bench::new(settings());
    bench.run_to(at(5_000));
    let times: Vec<_> = bench.sent.iter().map(|(at, _)| at.as_millis()).collect();
    assert_eq!(times, [0, 1000, 2000, 3000, 4000, 5000]);
    assert!(bench.sent.iter().all(|(_, p)| p.desired_min_tx_us == 1_000 * MS && p.state == State::Down));
    let slow = Bench::new(Settings { desired_min_tx_us: 2_000 * MS, ..settings() });
    assert_eq!(slow.session.interval(), at(2_000));
}

#[test]
fn section_6_8_4_the_session_goes_down_when_the_detection_time_is_over() {
    let mut bench = Bench::up(settings());
    // The greater of what we require and what it desires, times its Detect Mult.
    bench.hear(Packet { desired_min_tx_us: 70 * MS, detect_mult: 4, ..said(State::Up) });
    assert_eq!(bench.session.detection_time(), at(280));
    bench.run_to(at(279));
    assert_eq!(bench.session.state(), State::Up);
    bench.run_to(at(280));
    assert_eq!(bench.session.state(), State::Down);
    assert_eq!(bench.session.diagnostic(), Diagnostic::DETECTION_TIME_EXPIRED);
    let told = bench.last();
    assert_eq!((told.state, told.diagnostic), (State::Down, Diagnostic::DETECTION_TIME_EXPIRED));
    assert_eq!(told.your_discriminator, 0, "of a silent neighbour nothing is known (§6.8.1)");
    assert_eq!(told.desired_min_tx_us, 1_000 * MS);
}

#[test]
fn section_6_8_4_init_goes_down_when_the_detection_time_is_over() {
    let mut bench = Bench::new(settings());
    bench.hear(Packet { desired_min_tx_us: 1_000 * MS, ..said(State::Down) });
    assert_eq!(bench.session.state(), State::Init);
    bench.run_to(at(3_000));
    assert_eq!(bench.session.state(), State::Down);
}

#[test]
fn section_6_8_6_a_discarded_packet_is_not_heard() {
    let secret = BfdSecret::new("secret");
    let kind = BfdAuthenticationKind::KeyedSha1;
    let authentication = Some(BfdAuthentication { kind, key_id: 1, secret });
    let mut bench = Bench::up(settings());
    bench.session.settings.authentication = authentication;
    bench.run_to(at(100));
    let sealed = said(State::Up).encode(0);
    let received = Received::decode(&sealed).unwrap();
    assert_eq!(bench.session.receive(&received, at(100), 0), Err(Discard::AuthenticationPresence));
    bench.now = at(150);
    let outputs = bench.session.on_timer(at(150), 0);
    assert!(outputs.iter().any(|o| matches!(o, Output::Change { to: State::Down, .. })));
}

#[test]
fn section_6_8_7_a_poll_is_answered_at_once_whatever_the_timer_says() {
    let mut bench = Bench::up(settings());
    bench.run_heard(at(500), said(State::Up));
    let before = bench.sent.len();
    bench.hear(Packet { poll: true, ..said(State::Up) });
    assert_eq!(bench.sent.len(), before + 1);
    assert!(bench.last().is_final && !bench.last().poll);
    let mut down = Bench::new(settings());
    down.hear(Packet { poll: true, ..said(State::Up) });
    assert!(down.last().is_final && down.last().state == State::Down, "without respect to the state");
}

#[test]
fn section_6_8_7_the_slower_side_determines_the_interval() {
    let mut bench = Bench::up(settings());
    bench.run_heard(at(1_000), Packet { required_min_rx_us: 200 * MS, ..said(State::Up) });
    bench.sent.clear();
    bench.run_heard(at(2_000), Packet { required_min_rx_us: 200 * MS, ..said(State::Up) });
    assert_eq!(bench.sent.len(), 5);
    assert_eq!(bench.session.interval(), at(200));
}

#[test]
fn section_6_8_7_the_interval_is_reduced_by_up_to_25_percent() {
    for (detect_mult, least, most) in [(3, 37_500, 50_000), (1, 37_500, 45_000)] {
        let (mut shortest, mut longest) = (u128::MAX, 0);
        for random in 0..1_000 {
            let mut bench = Bench::up(Settings { detect_mult, ..settings() });
            bench.random = random;
            bench.run_to(at(60));
            let first = bench.sent[0].0;
            bench.hear(said(State::Up));
            bench.run_to(at(130));
            let wait = (bench.sent[1].0 - first).as_micros();
            assert!((least..=most).contains(&wait), "{wait}");
            (shortest, longest) = (shortest.min(wait), longest.max(wait));
        }
        assert_eq!((shortest, longest), (least, most), "the whole range is used");
    }
}

#[test]
fn section_6_8_7_nothing_periodic_is_sent_to_who_requires_zero() {
    let mut bench = Bench::up(settings());
    let none = Packet { required_min_rx_us: 0, ..said(State::Up) };
    bench.run_heard(at(1_000), none);
    assert_eq!(bench.sent.len(), 1, "only what was due before it said so");
    bench.hear(Packet { poll: true, ..none });
    assert!(bench.last().is_final, "a Poll is answered");
}

#[test]
fn section_6_8_7_a_passive_system_waits_for_the_first_packet() {
    let mut bench = Bench::new(Settings { passive: true, ..settings() });
    bench.run_to(at(10_000));
    assert!(bench.sent.is_empty() && bench.session.next_deadline().is_none());
    bench.hear(Packet { your_discriminator: 0, ..said(State::Down) });
    assert_eq!((bench.last().state, bench.last().your_discriminator), (State::Init, 9));
}

#[test]
fn section_6_6_periodic_packets_cease_while_the_neighbour_demands_it() {
    let mut bench = Bench::up(settings());
    let demand = Packet { demand: true, ..said(State::Up) };
    bench.hear(demand);
    bench.sent.clear();
    bench.run_heard(at(1_000), demand);
    assert!(bench.sent.is_empty(), "{:?}", bench.sent);
    // A Poll Sequence of ours is sent nevertheless, and its end is the end of sending.
    bench.configure(Settings { desired_min_tx_us: 100 * MS, ..settings() });
    bench.run_heard(at(1_100), demand);
    assert!(bench.last().poll);
    bench.hear(Packet { is_final: true, ..demand });
    bench.sent.clear();
    bench.run_heard(at(2_000), demand);
    assert!(bench.sent.is_empty());
    bench.run_heard(at(2_500), said(State::Up));
    assert!(bench.sent.len() >= 4 && !bench.last().demand);
}

#[test]
fn section_6_8_7_a_change_of_state_is_told_at_once() {
    let mut bench = Bench::new(settings());
    bench.run_to(at(100));
    bench.hear(said(State::Down));
    assert_eq!((bench.sent.last().unwrap().0, bench.last().state), (at(100), State::Init));
}

#[test]
fn section_6_8_7_the_contents_of_a_packet() {
    let mut bench = Bench::up(settings());
    bench.run_heard(at(100), said(State::Up));
    let expected = Packet {
        control_plane_independent: true,
        my_discriminator: 7,
        your_discriminator: 9,
        ..said(State::Up)
    };
    assert_eq!(bench.last(), expected);
}

#[test]
fn section_6_8_3_up_begins_a_poll_sequence_that_the_final_bit_ends() {
    let mut bench = Bench::new(settings());
    bench.hear(said(State::Init));
    assert_eq!((bench.last().poll, bench.last().desired_min_tx_us), (true, 50 * MS));
    bench.run_heard(at(200), said(State::Up));
    assert!(bench.last().poll, "until it is answered");
    bench.hear(Packet { is_final: true, ..said(State::Up) });
    bench.run_heard(at(400), said(State::Up));
    assert!(!bench.last().poll);
}

#[test]
fn section_6_8_3_a_longer_interval_is_used_only_after_the_poll_sequence() {
    let mut bench = Bench::up(settings());
    bench.configure(Settings { desired_min_tx_us: 200 * MS, ..settings() });
    bench.run_heard(at(300), said(State::Up));
    assert!(bench.sent.len() >= 6, "still every 50 ms");
    assert_eq!((bench.last().desired_min_tx_us, bench.last().poll), (200 * MS, true));
    bench.hear(Packet { is_final: true, ..said(State::Up) });
    assert_eq!(bench.session.interval(), at(200));
}

#[test]
fn section_6_8_3_a_shorter_interval_is_used_at_once() {
    let mut bench = Bench::up(settings());
    bench.hear(Packet { required_min_rx_us: 10 * MS, ..said(State::Up) });
    bench.configure(Settings { desired_min_tx_us: 20 * MS, ..settings() });
    assert_eq!(bench.session.interval(), at(20));
}

#[test]
fn section_6_8_3_a_shorter_required_interval_detects_only_after_the_poll_sequence() {
    let slow = Settings { required_min_rx_us: 200 * MS, ..settings() };
    let mut bench = Bench::up(slow);
    assert_eq!(bench.session.detection_time(), at(600));
    bench.configure(settings());
    bench.run_heard(at(100), said(State::Up));
    assert_eq!((bench.session.detection_time(), bench.last().required_min_rx_us), (at(600), 50 * MS));
    bench.hear(Packet { is_final: true, ..said(State::Up) });
    assert_eq!(bench.session.detection_time(), at(150));
    bench.configure(Settings { required_min_rx_us: 300 * MS, ..settings() });
    assert_eq!(bench.session.detection_time(), at(900), "a longer one at once");
}

#[test]
fn section_6_5_what_changes_within_a_poll_sequence_gets_one_of_its_own() {
    let mut bench = Bench::up(settings());
    bench.configure(Settings { desired_min_tx_us: 100 * MS, ..settings() });
    bench.run_heard(at(100), said(State::Up));
    assert!(bench.last().poll);
    bench.configure(Settings { desired_min_tx_us: 200 * MS, ..settings() });
    // This one answers what was asked before.
    bench.hear(Packet { is_final: true, ..said(State::Up) });
    assert_eq!(bench.session.interval(), at(50));
    bench.run_heard(at(200), said(State::Up));
    assert!(bench.last().poll);
    bench.hear(Packet { is_final: true, ..said(State::Up) });
    assert_eq!(bench.session.interval(), at(200));
}

#[test]
fn section_6_8_12_detect_mult_changes_without_a_poll_sequence() {
    let mut bench = Bench::up(settings());
    bench.configure(Settings { detect_mult: 5, ..settings() });
    bench.run_heard(at(60), said(State::Up));
    assert_eq!((bench.last().detect_mult, bench.last().poll), (5, false));
}

#[test]
fn section_6_8_16_admin_down_is_told_and_left_again() {
    let mut bench = Bench::up(settings());
    bench.configure(Settings { admin_down: true, ..settings() });
    let told = bench.last();
    assert_eq!((told.state, told.diagnostic), (State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN));
    bench.hear(said(State::Up));
    bench.run_to(at(4_000));
    assert_eq!(bench.session.state(), State::AdminDown);
    assert!(bench.sent.len() >= 4, "it goes on saying so");
    bench.configure(settings());
    assert_eq!((bench.last().state, bench.last().diagnostic), (State::Down, Diagnostic::NONE));
}

#[test]
fn section_6_8_1_sequence_numbers_are_forgotten_after_two_detection_times() {
    let kind = BfdAuthenticationKind::MeticulousKeyedSha1;
    let authentication = BfdAuthentication { kind, key_id: 1, secret: BfdSecret::new("s") };
    let authenticated = Settings { authentication: Some(authentication.clone()), ..settings() };
    let mut session = Session::new(authenticated, NonZeroU32::new(7).unwrap(), 0, at(0));
    let mut hear = |number: u32, now| {
        let mut sequence = Sequence { transmitted: number - 1, received: None };
        let sealed = auth::seal(&said(State::Down), Some(&authentication), &mut sequence);
        session.receive(&Received::decode(sealed.bytes()).unwrap(), now, 0).map(drop)
    };
    hear(1_000, at(0)).unwrap();
    assert_eq!(hear(5, at(299)), Err(Discard::AuthenticationSequence));
    hear(5, at(300)).unwrap();
}

#[test]
fn a_stop_of_our_own_does_not_burst() {
    let mut bench = Bench::up(settings());
    bench.now = at(140);
    let outputs = bench.session.on_timer(at(140), 0);
    bench.note(outputs);
    bench.hear(said(State::Up));
    bench.run_to(at(185));
    assert_eq!(bench.sent.len(), 1, "{:?}", bench.sent);
}
