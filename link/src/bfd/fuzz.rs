//! Random datagrams at the codec and at a session, from a seed. A short run is a test; a long one is
//! made by hand:
//!
//! ```text
//! BFD_FUZZ_INPUTS=5000000 BFD_FUZZ_SEED=1 cargo test -p watari-link --lib bfd::fuzz -- --nocapture
//! ```
//!
//! Half of the inputs are noise, half are good packets with a few octets changed, so that they come far.
//! Checked is what must hold whatever arrives: no panic, nothing taken that §6.8.6 refuses, a deadline
//! that is never further away than the slowest interval, and no more answers than packets.

use std::num::NonZeroU32;
use std::time::Duration;

use super::auth::seal;
use super::session::{Moment, Output, Session, Settings};
use super::wire::{Diagnostic, Packet, Received, State};
use crate::key::BfdSecret;
use crate::protocol::{BfdAuthentication, BfdAuthenticationKind};

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        // xorshift64*: the same inputs for the same seed, on every machine.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_be_bytes()[0]
    }

    fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 32) % end
    }
}

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn session(random: &mut Random) -> (Session, Option<BfdAuthentication>) {
    let kinds = [
        None,
        Some(BfdAuthenticationKind::Simple),
        Some(BfdAuthenticationKind::KeyedSha1),
        Some(BfdAuthenticationKind::MeticulousKeyedSha1),
    ];
    let kind = kinds[usize::try_from(random.below(4)).unwrap()];
    let authentication = kind.map(|kind| BfdAuthentication { kind, key_id: 1, secret: BfdSecret::new("s") });
    let settings = Settings {
        desired_min_tx_us: 10_000 + u32::try_from(random.below(2_000_000)).unwrap(),
        required_min_rx_us: 10_000 + u32::try_from(random.below(2_000_000)).unwrap(),
        detect_mult: random.byte().max(1),
        passive: random.below(4) == 0,
        admin_down: random.below(8) == 0,
        authentication: authentication.clone(),
    };
    (Session::new(settings, NonZeroU32::new(7).unwrap(), 0, Moment::ZERO), authentication)
}

/// A packet that a neighbour could send, sealed, with up to three octets changed.
fn nearly_good(random: &mut Random, with: Option<&BfdAuthentication>, number: u32) -> Vec<u8> {
    let states = [State::AdminDown, State::Down, State::Init, State::Up];
    let packet = Packet {
        diagnostic: Diagnostic(random.byte() & 0x1f),
        state: states[usize::try_from(random.below(4)).unwrap()],
        poll: random.below(4) == 0,
        is_final: random.below(4) == 0,
        control_plane_independent: random.below(2) == 0,
        demand: random.below(4) == 0,
        detect_mult: random.byte(),
        my_discriminator: 9,
        your_discriminator: 7,
        desired_min_tx_us: u32::try_from(random.below(3_000_000)).unwrap(),
        required_min_rx_us: u32::try_from(random.below(3_000_000)).unwrap(),
        required_min_echo_rx_us: 0,
    };
    let mut sequence = super::auth::Sequence { transmitted: number, received: None };
    let mut bytes = seal(&packet, with, &mut sequence).bytes().to_vec();
    for _ in 0..random.below(4) {
        let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
        bytes[at] = random.byte();
    }
    if random.below(8) == 0 {
        bytes.truncate(usize::try_from(random.below(60)).unwrap());
    }
    bytes
}

#[test]
fn random_datagrams_do_no_harm() {
    let inputs = from_environment("BFD_FUZZ_INPUTS", 20_000);
    let mut random = Random(from_environment("BFD_FUZZ_SEED", 1) | 1);
    let (mut taken, mut refused, mut ups) = (0_u64, 0_u64, 0_u64);
    let (mut session, mut authentication) = session(&mut random);
    let (mut now, mut number) = (Moment::ZERO, 0);
    for input in 0..inputs {
        if input % 512 == 0 {
            (session, authentication) = self::session(&mut random);
            now = Moment::ZERO;
        }
        now += Duration::from_micros(random.below(400_000));
        number += 1;
        let bytes = if random.below(2) == 0 {
            (0..random.below(64)).map(|_| random.byte()).collect()
        } else {
            nearly_good(&mut random, authentication.as_ref(), number)
        };
        let chance = u32::try_from(random.next() >> 32).unwrap();
        let outcome = Received::decode(&bytes).and_then(|received| {
            let packet = received.packet;
            assert!(packet.detect_mult > 0 && packet.my_discriminator > 0 && bytes[0] >> 5 == 1);
            assert!(bytes[1] & 1 == 0 && usize::from(bytes[3]) <= bytes.len() && bytes[3] >= 24);
            session.receive(&received, now, chance)
        });
        match outcome {
            Ok(outputs) => {
                taken += 1;
                ups += u64::from(outputs.iter().any(|o| matches!(o, Output::Change { to: State::Up, .. })));
                assert!(outputs.iter().filter(|o| matches!(o, Output::Send(_))).count() <= 1);
            }
            Err(_) => refused += 1,
        }
        for output in session.on_timer(now, chance) {
            if let Output::Send(datagram) = output {
                let sent = Received::decode(datagram.bytes()).expect("we send what we would take").packet;
                assert!(!sent.demand && sent.control_plane_independent);
            }
        }
        if let Some(due) = session.next_deadline() {
            let longest = session.interval().max(session.detection_time());
            assert!(due <= now + longest, "{due:?} is too far from {now:?}");
            assert!(due > now || session.interval().is_zero(), "what was due was done");
        }
    }
    println!("{inputs} inputs: {taken} taken, {refused} refused, {ups} times up");
    assert!(taken > inputs / 20 && refused > inputs / 4 && ups > 0, "the inputs reach everything");
}
