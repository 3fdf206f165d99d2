//! The loop guard in a virtual world: gateways with attachments, bridges that join some of them, beacons that are
//! lost, clocks that disagree, brains that restart or are away.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use watari_config::{Mac, Name, Vni};
use watari_planner::item::PortAt;
use watari_planner::loops::{HOLD, HOLD_MAX, LoopPeer, Loops, OwnPort, YIELD_AFTER, port_id};

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A beacon leaves so often.
const INTERVAL: u64 = 200;
/// How often the guard is told that time passes.
const TICK: u64 = 500;
/// Within so long a loop is cut: the interval, and two beacons that are lost one after the other.
const CUT_WITHIN: u64 = 1000;
/// The most beacons that are lost one after the other between two attachments.
const LOST_MAX: u32 = 2;

struct Attachment {
    gateway: usize,
    at: PortAt,
    own: OwnPort,
    /// The bridge behind it.
    bridge: Option<usize>,
    /// What the datapath does and the beacon says: it outlives the brain.
    blocked: bool,
}

/// A gateway: its brain, and what its clock adds to the time of the world.
struct Gateway {
    mac: Mac,
    loops: Option<Loops>,
    skew: u64,
}

struct World {
    now: u64,
    gateways: Vec<Gateway>,
    attachments: Vec<Attachment>,
    /// How many beacons were lost in a row, from one attachment to another.
    lost: BTreeMap<(usize, usize), u32>,
    /// Pairs of attachments in which the second hears nothing of the first.
    deaf: Vec<(usize, usize)>,
    dice: u64,
    loss_percent: u64,
}

impl World {
    fn new(skews: &[u64], ages: &[(usize, u64)], seed: u64, loss_percent: u64) -> Self {
        let gateway = |(n, skew): (usize, &u64)| {
            let mac = Mac::new([2, 0x57, 0xd4, 0, 0, n as u8 + 1]).unwrap();
            Gateway { mac, loops: None, skew: *skew }
        };
        let gateways: Vec<Gateway> = skews.iter().enumerate().map(gateway).collect();
        let attachment = |(n, (gateway, since)): (usize, &(usize, u64))| {
            let at = PortAt::untagged(format!("eth{n}"));
            let name: Name = format!("gw-{gateway}").parse().unwrap();
            let port_id = port_id(&name, &at);
            // Two segments, so that some bridges join different ones.
            let vni = Vni::new(1000 + n as u32 % 2).unwrap();
            let since_ms = Some(since + skews[*gateway]);
            let own = OwnPort { vni, since_ms, port_id };
            Attachment { gateway: *gateway, at, own, bridge: None, blocked: false }
        };
        let attachments = ages.iter().enumerate().map(attachment).collect();
        let mut world = Self {
            now: 1_000_000,
            gateways,
            attachments,
            lost: BTreeMap::new(),
            deaf: Vec::new(),
            dice: seed | 1,
            loss_percent,
        };
        (0..world.gateways.len()).for_each(|gateway| world.start(gateway));
        world
    }

    /// A brain starts: it knows what the datapath and the sender of beacons know.
    fn start(&mut self, gateway: usize) {
        self.gateways[gateway].loops = Some(Loops::default());
        let own = self.attachments.iter().filter(|a| a.gateway == gateway);
        let ports = own.map(|a| (a.at.clone(), a.own)).collect();
        let blocked: Vec<_> = self.attachments.iter().filter(|a| a.blocked).map(|a| a.at.clone()).collect();
        let (now, mac) = (self.local_time(gateway), self.gateways[gateway].mac);
        let loops = self.gateways[gateway].loops.as_mut().unwrap();
        loops.set_ports(mac, ports, |at| blocked.contains(at), now);
    }

    fn local_time(&self, gateway: usize) -> Duration {
        ms(self.now + self.gateways[gateway].skew)
    }

    fn roll(&mut self) -> u64 {
        // xorshift64 (Marsaglia 2003).
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice
    }

    fn arrives(&mut self, from: usize, to: usize) -> bool {
        if self.deaf.contains(&(from, to)) {
            return false;
        }
        let is_lost = self.roll() % 100 < self.loss_percent;
        let lost = self.lost.entry((from, to)).or_default();
        *lost = if is_lost && *lost < LOST_MAX { *lost + 1 } else { 0 };
        *lost == 0
    }

    fn beacon(&mut self, from: usize) {
        let sender = &self.attachments[from];
        let Some(bridge) = sender.bridge else { return };
        let (origin, blocked) = (self.gateways[sender.gateway].mac, sender.blocked);
        let OwnPort { vni, since_ms, port_id } = sender.own;
        let peer = LoopPeer { since_ms: since_ms.unwrap(), origin, port_id, vni };
        for to in 0..self.attachments.len() {
            if to == from || self.attachments[to].bridge != Some(bridge) || !self.arrives(from, to) {
                continue;
            }
            let (gateway, at) = (self.attachments[to].gateway, self.attachments[to].at.clone());
            let now = self.local_time(gateway);
            if let Some(loops) = &mut self.gateways[gateway].loops {
                loops.seen(&at, peer, blocked, now);
            }
        }
    }

    /// The brains do what they decided.
    fn carry_out(&mut self) {
        for attachment in &mut self.attachments {
            if let Some(loops) = &self.gateways[attachment.gateway].loops {
                attachment.blocked = loops.verdicts().get(&attachment.at).is_some_and(|v| v.blocked);
            }
        }
    }

    /// Lets time pass, in steps of 20 ms.
    fn run(&mut self, duration: u64) {
        for _ in 0..duration / 20 {
            self.now += 20;
            for from in 0..self.attachments.len() {
                // Each has a phase of its own.
                if (self.now + 60 * from as u64).is_multiple_of(INTERVAL) {
                    self.beacon(from);
                }
            }
            if self.now.is_multiple_of(TICK) {
                for gateway in 0..self.gateways.len() {
                    let now = self.local_time(gateway);
                    if let Some(loops) = &mut self.gateways[gateway].loops {
                        loops.tick(now);
                    }
                }
            }
            self.carry_out();
        }
    }

    fn open(&self, bridge: usize) -> Vec<usize> {
        let behind = self.attachments.iter().enumerate().filter(|(_, a)| a.bridge == Some(bridge));
        behind.filter(|(_, a)| !a.blocked).map(|(n, _)| n).collect()
    }

    /// Every bridge has one way into the overlay, and the earliest one; what is behind no bridge is open.
    fn check(&self) -> Result<(), TestCaseError> {
        for attachment in self.attachments.iter().filter(|a| a.bridge.is_none()) {
            prop_assert!(!attachment.blocked, "{} is blocked for nothing", attachment.at);
        }
        for bridge in 0..self.attachments.len() {
            let behind = self.attachments.iter().enumerate().filter(|(_, a)| a.bridge == Some(bridge));
            let order = |a: &Attachment| (a.own.since_ms, self.gateways[a.gateway].mac, a.own.port_id);
            let first = behind.min_by_key(|(_, a)| order(a)).map(|(n, _)| n);
            prop_assert_eq!(self.open(bridge), first.into_iter().collect::<Vec<_>>(), "bridge {}", bridge);
        }
        Ok(())
    }

    fn join(&mut self, bridges: &[Option<usize>]) {
        for (attachment, bridge) in self.attachments.iter_mut().zip(bridges) {
            attachment.bridge = *bridge;
        }
    }
}

/// Gateways' clocks, attachments with gateway and age, the bridge of each, seed, loss.
type Setup = (Vec<u64>, Vec<(usize, u64)>, Vec<Option<usize>>, u64, u64);

fn setups() -> impl Strategy<Value = Setup> {
    (1..5_usize, 2..9_usize).prop_flat_map(|(gateways, attachments)| {
        (
            prop::collection::vec(0..100_000_u64, gateways),
            prop::collection::vec((0..gateways, 0..5_u64), attachments),
            prop::collection::vec(prop::option::weighted(0.8, 0..3_usize), attachments),
            any::<u64>(),
            0..60_u64,
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_loop_is_cut_within_a_second_and_released_when_it_is_gone(
        (skews, ages, bridges, seed, loss) in setups(),
        restarts in prop::collection::vec((0..5_usize, 0..20_u64), 0..6),
    ) {
        let mut world = World::new(&skews, &ages, seed, loss);
        world.run(1000);
        world.check()?;
        world.join(&bridges);
        world.run(CUT_WITHIN);
        world.check()?;
        for (gateway, pause) in restarts {
            // Away for a moment, or started anew at once: nothing is opened or closed by it.
            let gateway = gateway % world.gateways.len();
            world.gateways[gateway].loops = None;
            world.run(pause * 20);
            world.check()?;
            world.start(gateway);
            world.run(pause * 100);
            world.check()?;
        }
        world.run(5000);
        world.check()?;
        world.join(&vec![None; ages.len()]);
        world.run(HOLD.as_millis() as u64 + 2 * TICK);
        world.check()?;
    }

    #[test]
    fn bridges_that_change_at_any_time_end_with_one_way_each(
        (skews, ages, bridges, seed, loss) in setups(),
        shuffles in prop::collection::vec((any::<u64>(), 20..6000_u64), 1..8),
    ) {
        let mut world = World::new(&skews, &ages, seed, loss);
        for (shuffle, duration) in shuffles {
            let rotated = (0..bridges.len()).map(|n| bridges[(n + shuffle as usize % bridges.len()) % bridges.len()]);
            world.join(&rotated.collect::<Vec<_>>());
            world.run(CUT_WITHIN);
            for bridge in 0..bridges.len() {
                prop_assert!(world.open(bridge).len() <= 1, "a loop at bridge {bridge}");
            }
            world.run(duration);
        }
        // At the worst every change was a flap.
        world.run(HOLD_MAX.as_millis() as u64 + CUT_WITHIN);
        world.check()?;
    }
}

fn two_gateways() -> World {
    World::new(&[0, 7000], &[(0, 0), (1, 5)], 1, 0)
}

#[test]
fn the_earlier_one_yields_to_a_later_one_whose_brain_is_away_and_takes_over_again() {
    let mut world = two_gateways();
    world.gateways[1].loops = None;
    world.join(&[Some(0); 2]);
    world.run(YIELD_AFTER.as_millis() as u64 - 400);
    assert_eq!(world.open(0), [0, 1], "it is given time");
    world.run(1000);
    assert_eq!(world.open(0), [1]);
    world.run(20_000);
    assert_eq!(world.open(0), [1], "and stays so");
    world.start(1);
    world.run(CUT_WITHIN);
    assert_eq!(world.open(0), [0]);
}

#[test]
fn the_earlier_one_yields_to_a_later_one_that_hears_nothing() {
    let mut world = two_gateways();
    world.deaf = vec![(0, 1)];
    world.join(&[Some(0); 2]);
    world.run(YIELD_AFTER.as_millis() as u64 + 1000);
    assert_eq!(world.open(0), [1]);
    world.run(30_000);
    assert_eq!(world.open(0), [1]);
    // Silence that is shorter than the hold opens nothing.
    world.deaf.push((1, 0));
    world.run(1500);
    world.deaf.pop();
    world.run(400);
    assert_eq!(world.open(0), [1]);
    world.deaf.clear();
    world.run(CUT_WITHIN);
    assert_eq!(world.open(0), [0]);
}

#[test]
fn one_that_flaps_is_held_longer_each_time_and_forgiven_after_a_quiet_minute() {
    let mut world = two_gateways();
    let mut holds = Vec::new();
    for _ in 0..7 {
        world.join(&[Some(0); 2]);
        world.run(2000);
        assert!(world.attachments[1].blocked);
        world.join(&[None; 2]);
        let began = world.now;
        while world.attachments[1].blocked {
            world.run(20);
        }
        holds.push((world.now - began).div_ceil(1000));
    }
    let doubled = [3, 6, 12, 24, 48, 60, 60];
    assert!(holds.iter().zip(doubled).all(|(held, hold)| (hold..=hold + 1).contains(held)), "{holds:?}");
    world.run(HOLD_MAX.as_millis() as u64);
    world.join(&[Some(0); 2]);
    world.run(1000);
    world.join(&[None; 2]);
    world.run(HOLD.as_millis() as u64 + 2 * TICK);
    assert!(!world.attachments[1].blocked);
}

fn alone() -> (Loops, PortAt, OwnPort, Mac) {
    let (mac, at) = (Mac::new([2, 0, 0, 0, 0, 1]).unwrap(), PortAt::untagged("eth1"));
    let own = OwnPort { vni: Vni::new(1000).unwrap(), since_ms: Some(50), port_id: 9 };
    let mut loops = Loops::default();
    assert!(!loops.set_ports(mac, BTreeMap::from([(at.clone(), own)]), |_| false, ms(0)));
    (loops, at, own, mac)
}

#[test]
fn an_attachment_that_hears_itself_is_blocked_until_it_does_not() {
    let (mut loops, at, own, mac) = alone();
    let itself = LoopPeer { since_ms: 50, origin: mac, port_id: own.port_id, vni: own.vni };
    assert!(loops.seen(&at, itself, false, ms(10)));
    let verdict = loops.verdicts()[&at];
    assert!(verdict.blocked && verdict.reflected, "{verdict:?}");
    assert_eq!(loops.unsettled(ms(1009), ms(1000)), [own.vni].into());
    assert!(loops.unsettled(ms(1010), ms(1000)).is_empty());
    assert!(!loops.seen(&at, itself, true, ms(210)), "it goes on");
    assert!(!loops.tick(ms(3209)));
    assert!(loops.tick(ms(3210)));
    assert!(loops.verdicts().is_empty());
    let former = LoopPeer { port_id: 10, ..itself };
    assert!(!loops.seen(&at, former, false, ms(4000)), "an attachment that is no more");
}

#[test]
fn who_does_not_know_its_age_is_later_than_all() {
    let (mut loops, at, own, mac) = alone();
    let unknown = BTreeMap::from([(at.clone(), OwnPort { since_ms: None, ..own })]);
    loops.set_ports(mac, unknown, |_| false, ms(0));
    let later =
        LoopPeer { since_ms: 60, origin: Mac::new([2, 0, 0, 0, 0, 2]).unwrap(), port_id: 1, vni: own.vni };
    assert!(loops.seen(&at, later, true, ms(10)) && loops.verdicts()[&at].blocked);
    assert!(loops.set_ports(mac, BTreeMap::from([(at.clone(), own)]), |_| true, ms(20)));
    let verdict = loops.verdicts()[&at];
    assert!(!verdict.blocked && verdict.with == Some(later), "{verdict:?}");
    assert!(loops.set_ports(mac, BTreeMap::new(), |_| true, ms(30)), "the attachment is gone");
}

#[test]
fn a_flood_of_forged_origins_is_bounded_and_the_earliest_counts() {
    let (mut loops, at, own, _) = alone();
    for n in 0..=255 {
        let origin = Mac::new([2, 0, 0, 0, 1, n]).unwrap();
        let forged = LoopPeer { since_ms: 100 + u64::from(n), origin, port_id: 1, vni: own.vni };
        loops.seen(&at, forged, true, ms(10));
    }
    assert!(!loops.verdicts()[&at].blocked);
    let earlier =
        LoopPeer { since_ms: 49, origin: Mac::new([2, 0, 0, 0, 0, 2]).unwrap(), port_id: 1, vni: own.vni };
    assert!(loops.seen(&at, earlier, false, ms(20)));
    assert_eq!(loops.verdicts()[&at].with, Some(earlier));
}
