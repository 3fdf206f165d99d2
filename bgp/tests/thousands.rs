//! Hundreds of speakers on topologies drawn by lot, and two thousand of them: sessions break, speakers are killed, come
//! back or do not, hang until their neighbours give them up; timers go off in any order; routes come and go
//! meanwhile. In the end everybody has exactly what an independent model says. Same seed, same run.

mod crowd;

use std::collections::{BTreeMap, BTreeSet};

use crowd::model::Model;
use crowd::topology::Topology;
use crowd::{Crowd, Dice, prefix};
use watari_bgp::{RestartConfig, Source};

/// Until everything that was kept for anybody is gone: 120 s for who restarts, then 60 s of deferral, 360 s until what
/// is stale is removed, and the time that a neighbour rests after errors.
const CALM_MS: u64 = 900_000;

/// What is done to a crowd, and what it was told.
struct Trial {
    seed: u64,
    topology: Topology,
    crowd: Crowd,
    dice: Dice,
    dead: BTreeSet<usize>,
    severed: BTreeSet<[usize; 2]>,
    /// Who originates each prefix.
    owners: Vec<BTreeSet<usize>>,
    /// Who comes back when, in milliseconds from the start.
    returns: BTreeMap<(u64, usize), ()>,
    /// What happened how often.
    seen: BTreeMap<&'static str, u32>,
}

impl Trial {
    fn new(seed: u64, routers: usize, prefixes: usize, with_roles: bool) -> Trial {
        let mut dice = Dice::new(seed);
        let topology = Topology::draw(routers, with_roles, &mut dice);
        let mut crowd = Crowd::new(&topology, seed);
        crowd.run(60_000);
        let mut owners = vec![BTreeSet::new(); prefixes];
        for (number, owners) in owners.iter_mut().enumerate() {
            // Some are told at several places.
            for _ in 0..1 + dice.roll(4) / 3 {
                let owner = dice.pick(routers);
                owners.insert(owner);
                crowd.originate(owner, number);
            }
        }
        Trial {
            seed,
            topology,
            crowd,
            dice,
            dead: BTreeSet::new(),
            severed: BTreeSet::new(),
            owners,
            returns: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// One thing after another, some milliseconds between them.
    fn disturb(&mut self, times: usize) {
        let mut clock = 0;
        for _ in 0..times {
            let pause = self.dice.roll(2_000);
            self.pass(&mut clock, pause);
            self.disturb_once(clock);
        }
        while let Some(((at, _), ())) = self.returns.first_key_value() {
            let pause = at.saturating_sub(clock);
            self.pass(&mut clock, pause);
        }
        self.crowd.run(CALM_MS);
    }

    /// Lets time pass; who is due comes back.
    fn pass(&mut self, clock: &mut u64, pause: u64) {
        self.crowd.run(pause);
        *clock += pause;
        while let Some((&(at, node), ())) = self.returns.first_key_value() {
            if at > *clock {
                break;
            }
            self.returns.remove(&(at, node));
            let kept = self.dice.roll(3) > 0;
            let restart = RestartConfig { forwarding_preserved: kept, selection_deferral_ms: 60_000 };
            let is_its = |number: &usize| self.owners[*number].contains(&node);
            let originated: Vec<usize> = (0..self.owners.len()).filter(is_its).collect();
            self.dead.remove(&node);
            self.crowd.restart(node, self.topology.routers[node].id, restart, &originated);
        }
    }

    fn disturb_once(&mut self, clock: u64) {
        let (node, ends) = (
            self.dice.pick(self.topology.routers.len()),
            self.topology.links[self.dice.pick(self.topology.links.len())].ends,
        );
        let what = match self.dice.roll(20) {
            0..=6 => {
                self.crowd.cut(ends);
                "cut"
            }
            7 => {
                self.crowd.sever(ends);
                self.severed.insert(ends);
                "severed"
            }
            8..=13 if self.dead.contains(&node) => "dead already",
            8..=11 => {
                let back = clock + 1_000 + self.dice.roll(150_000);
                self.crowd.kill(node);
                self.dead.insert(node);
                self.returns.insert((back, node), ());
                "restarted"
            }
            12 => {
                self.crowd.kill(node);
                self.dead.insert(node);
                "killed"
            }
            13 => {
                let ms = self.dice.roll(200_000);
                self.crowd.hang(node, ms);
                "hung"
            }
            _ => self.change_a_route(),
        };
        *self.seen.entry(what).or_default() += 1;
    }

    fn change_a_route(&mut self) -> &'static str {
        let number = self.dice.pick(self.owners.len());
        let owner = self.owners[number].first().copied().filter(|_| self.dice.roll(2) == 0);
        if let Some(owner) = owner {
            self.owners[number].remove(&owner);
            self.crowd.withdraw(owner, number);
            return "withdrawn";
        }
        let owner = self.dice.pick(self.topology.routers.len());
        self.owners[number].insert(owner);
        self.crowd.originate(owner, number);
        "originated"
    }

    /// Every session that can be is up, and everybody has what the model says. How many routes that were.
    fn check(&self) -> usize {
        let alive = |node: usize| !self.dead.contains(&node);
        let connected = |ends: [usize; 2]| !self.severed.contains(&ends);
        for link in &self.topology.links {
            let wanted = link.ends.iter().all(|node| alive(*node)) && connected(link.ends);
            assert_eq!(self.crowd.established(link.ends), wanted, "seed {}: {link:?}", self.seed);
        }
        let model = Model::new(&self.topology, alive, connected);
        let mut routes = 0;
        for (number, owners) in self.owners.iter().enumerate() {
            let known = model.solve(owners.iter().copied().filter(|owner| alive(*owner)));
            for node in (0..self.topology.routers.len()).filter(|node| alive(*node)) {
                let wanted = known[node].as_ref().map(|known| (known.path.clone(), known.via));
                let found = self.crowd.best(node, number).map(|best| {
                    assert!(!best.stale, "seed {}: node {node}, {}", self.seed, prefix(number));
                    let via = match best.source {
                        Source::Local => None,
                        Source::Peer(peer) => Some(peer.0 as usize),
                    };
                    (best.attrs.as_path.iter().map(|asn| asn.0).collect::<Vec<_>>(), via)
                });
                assert_eq!(found, wanted, "seed {}: node {node}, {}", self.seed, prefix(number));
                routes += usize::from(wanted.is_some());
            }
        }
        routes
    }
}

fn trial(seed: u64, routers: usize, prefixes: usize, with_roles: bool, times: usize) -> Trial {
    let mut trial = Trial::new(seed, routers, prefixes, with_roles);
    trial.disturb(times);
    let routes = trial.check();
    println!(
        "seed {seed}: {routers} speakers, {} sessions, {} inputs, {routes} routes as the model has them, {:?}",
        trial.topology.links.len(),
        trial.crowd.inputs,
        trial.seen,
    );
    assert!(routes > prefixes * routers / 4, "seed {seed}: too little is reached");
    trial
}

#[test]
fn hundreds_of_speakers_converge_to_the_routes_of_the_model() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..6 {
        for (what, times) in trial(seed, 150, 16, seed % 3 > 0, 60).seen {
            *seen.entry(what).or_default() += times;
        }
    }
    for what in ["cut", "severed", "restarted", "killed", "hung", "withdrawn", "originated"] {
        assert!(seen[what] > 5, "too little happened: {seen:?}");
    }
}

#[test]
#[ignore = "half a minute on its own: `script/test --long`"]
fn two_thousand_speakers_converge_to_the_routes_of_the_model() {
    trial(2_000, 2_000, 24, true, 300);
}

#[test]
fn the_same_seed_is_the_same_run() {
    let digest = |seed| trial(seed, 60, 8, true, 30).crowd.digest();
    let first = digest(7);
    assert_eq!(first, digest(7));
    assert_ne!(first, digest(8));
}
