//! Hours of boringtun and us, on one virtual clock: its `mock-instant` feature makes its timers follow the test's
//! thread. What §6 of the whitepaper asks of two ends is asked of one of each here.

use std::collections::BTreeMap;
use std::time::Duration;

use boringtun::noise::{Tunn, TunnResult};
use mock_instant::MockClock;

use super::Input;
use super::world::{Dice, Node, TICK_MS, key};

/// Between the two, one way, in ms.
const DELAY_MS: u64 = 20;

/// Node 0 is ours, node 1 is boringtun.
struct Pair {
    ours: Node,
    oracle: Tunn,
    now_ms: u64,
    flying: BTreeMap<(u64, u64), (bool, Vec<u8>)>,
    launched: u64,
    /// Packets that boringtun brought out.
    arrived: Vec<Vec<u8>>,
    /// When and by whom (true: us) messages were sent.
    sent: Vec<(u64, bool, Vec<u8>)>,
    cut: bool,
}

impl Pair {
    fn new() -> Self {
        MockClock::set_time(Duration::ZERO);
        let peer = x25519_dalek::PublicKey::from(*key(0).public_key().as_bytes());
        Self {
            ours: Node::new(&key(0), &key(1), None, 3),
            oracle: Tunn::new(key(1).to_secret(), peer, None, None, 0x55, None),
            now_ms: 0,
            flying: BTreeMap::new(),
            launched: 0,
            arrived: Vec::new(),
            sent: Vec::new(),
            cut: false,
        }
    }

    fn launch(&mut self, by_us: bool, messages: Vec<Vec<u8>>) {
        for message in messages {
            self.sent.push((self.now_ms, by_us, message.clone()));
            self.launched += 1;
            if !self.cut {
                self.flying.insert((self.now_ms + DELAY_MS, self.launched), (by_us, message));
            }
        }
    }

    fn send_ours(&mut self, packet: &[u8]) {
        let messages = self.ours.send(packet, self.now_ms);
        self.launch(true, messages);
    }

    fn send_oracles(&mut self, packet: &[u8]) {
        let mut buffer = [0; 2_048];
        let message = match self.oracle.encapsulate(packet, &mut buffer) {
            TunnResult::WriteToNetwork(message) => vec![message.to_vec()],
            TunnResult::Done => Vec::new(),
            other => panic!("{other:?}"),
        };
        self.launch(false, message);
    }

    /// boringtun takes a message, and what it says has to be asked for again.
    fn oracle_takes(&mut self, message: &[u8]) {
        let mut buffer = [0; 2_048];
        let mut message = message;
        loop {
            match self.oracle.decapsulate(None, message, &mut buffer) {
                TunnResult::WriteToNetwork(answer) => {
                    let answer = answer.to_vec();
                    self.launch(false, vec![answer]);
                    message = &[];
                }
                TunnResult::WriteToTunnelV4(packet, _) => return self.arrived.push(packet.to_vec()),
                TunnResult::Done => return,
                other => panic!("at {} ms: {other:?}", self.now_ms),
            }
        }
    }

    fn tick(&mut self) {
        let messages = self.ours.input(Input::Tick, self.now_ms).expect("a tick");
        self.launch(true, messages);
        let mut buffer = [0; 2_048];
        if let TunnResult::WriteToNetwork(message) = self.oracle.update_timers(&mut buffer) {
            let message = message.to_vec();
            self.launch(false, vec![message]);
        }
    }

    fn run_for(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            MockClock::advance(Duration::from_millis(1));
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now_ms) {
                let (by_us, message) = entry.remove();
                if by_us {
                    self.oracle_takes(&message);
                } else {
                    let answers = self.ours.receive(&message, self.now_ms).expect("boringtun's message");
                    self.launch(true, answers);
                }
            }
            if self.now_ms.is_multiple_of(TICK_MS) {
                self.tick();
            }
        }
    }

    /// When this side sent messages of this type.
    fn times(&self, by_us: bool, kind: u8) -> Vec<u64> {
        let of = self.sent.iter().filter(|(_, by, message)| *by == by_us && message[0] == kind);
        of.map(|(at, ..)| *at).collect()
    }
}

/// An IPv4 packet with a number.
fn packet(number: u32) -> Vec<u8> {
    let mut packet = vec![0; 32];
    packet[..4].copy_from_slice(&[0x45, 0, 0, 32]);
    packet[24..28].copy_from_slice(&number.to_be_bytes());
    packet
}

/// Packets for two hours by those who send; all arrive, in order. `first`: who begins (true: we).
fn chat(first: bool, we_send: bool, it_sends: bool) -> Pair {
    let mut pair = Pair::new();
    let mut dice = Dice::new(9);
    let (mut by_us, mut by_it) = (0, 0);
    if first {
        pair.send_ours(&packet(by_us));
        by_us += 1;
    } else {
        pair.send_oracles(&packet(by_it));
        by_it += 1;
    }
    pair.run_for(500);
    while pair.now_ms < 7_200_000 {
        if we_send {
            pair.send_ours(&packet(by_us));
            by_us += 1;
        }
        if it_sends {
            pair.send_oracles(&packet(by_it));
            by_it += 1;
        }
        pair.run_for(1 + dice.below(2_000));
    }
    pair.run_for(100);
    assert_eq!(pair.arrived, (0..by_us).map(packet).collect::<Vec<_>>());
    assert_eq!(pair.ours.arrived, (0..by_it).map(packet).collect::<Vec<_>>());
    pair
}

#[test]
fn two_hours_in_sessions_that_we_began_lose_nothing() {
    let pair = chat(true, true, true);
    assert!((55..=62).contains(&pair.times(true, 1).len()), "{:?}", pair.times(true, 1));
    assert!(pair.times(false, 1).is_empty(), "boringtun leaves it to us");
}

#[test]
fn two_hours_in_sessions_that_boringtun_began_lose_nothing() {
    let pair = chat(false, true, true);
    assert!((55..=62).contains(&pair.times(false, 1).len()), "{:?}", pair.times(false, 1));
    assert!(pair.times(true, 1).is_empty(), "we leave it to boringtun");
}

#[test]
fn two_hours_of_packets_one_way_lose_nothing_whoever_began() {
    for first in [true, false] {
        chat(first, true, false);
        chat(first, false, true);
    }
}

#[test]
fn what_one_side_sends_the_other_answers_within_10_s_and_no_handshake_follows() {
    let mut pair = Pair::new();
    pair.send_ours(&packet(0));
    pair.run_for(30_000);
    let before = pair.sent.len();
    pair.send_ours(&packet(1));
    pair.run_for(1_000);
    pair.send_oracles(&packet(0));
    pair.run_for(30_000);
    let sent: Vec<(u64, bool, usize)> =
        pair.sent[before..].iter().map(|(at, by_us, message)| (*at, *by_us, message.len())).collect();
    let [(asked, true, 64), (answered, false, 32), (asked_us, false, 64), (we_answered, true, 32)] = sent[..]
    else {
        panic!("{sent:?}");
    };
    // boringtun counts from what it sent last: after a pause it answers at once.
    assert!(answered - asked <= 10_200, "{sent:?}");
    assert!((10_000..10_200).contains(&(we_answered - asked_us)), "{sent:?}");
}

#[test]
fn after_a_cut_both_call_each_5_s_and_find_each_other() {
    let mut pair = Pair::new();
    pair.send_ours(&packet(0));
    pair.run_for(1_000);
    pair.cut = true;
    for number in 1..60 {
        pair.send_ours(&packet(number));
        pair.send_oracles(&packet(number));
        pair.run_for(1_000);
    }
    for by_us in [true, false] {
        let calls = pair.times(by_us, 1);
        let calls: Vec<u64> = calls.into_iter().filter(|at| *at > 1_000).collect();
        assert!(
            (15_000..17_500).contains(&calls[0]),
            "15 s after the first packet without an answer: {calls:?}"
        );
        assert!(calls.windows(2).all(|pair| (5_000..5_600).contains(&(pair[1] - pair[0]))), "{calls:?}");
    }
    pair.cut = false;
    pair.run_for(6_000);
    let (ours, its) = (pair.ours.arrived.len(), pair.arrived.len());
    pair.send_ours(&packet(100));
    pair.send_oracles(&packet(100));
    pair.run_for(100);
    assert_eq!((pair.ours.arrived.len(), pair.arrived.len()), (ours + 1, its + 1));
}
