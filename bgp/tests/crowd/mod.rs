//! Any number of speakers under a virtual clock, where everything takes time: each connection has a delay of its own and
//! keeps its order, nothing else does; timers run late, each node by its own measure; a node may hang. All of it
//! comes from one seed, and a digest of everything that was ever said shows that two runs were the same.
//!
//! ```text
//!  speaker ── outputs ──▶ perform ──▶ events, by time ──▶ give ──▶ speaker
//!     └────── next deadline + lateness ───────┘
//! ```
//! `topology` draws who speaks with whom, `model` says what everybody should know in the end.
#![allow(unreachable_pub)]

pub mod model;
pub mod topology;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use watari_bgp::speaker::{Candidate, Speaker, SpeakerConfig};
use watari_bgp::*;

use topology::{Kind, Link, Topology};

const INSTANCE: InstanceId = InstanceId(0);
/// Microseconds of a millisecond: the world counts those, speakers these.
const MS: u64 = 1_000;

/// A small generator with a seed: the same run every time.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d)
    }

    /// 0 to `sides` - 1.
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// An index into a list.
    pub fn pick(&mut self, len: usize) -> usize {
        self.roll(len as u64) as usize
    }
}

/// One speaker.
struct Node {
    speaker: Speaker,
    alive: bool,
    /// Its how manieth life: what was meant for an earlier one does not reach it.
    life: u32,
    configs: BTreeMap<PeerId, PeerConfig>,
    /// Attempts to connect to each peer: of several the last counts.
    attempts: BTreeMap<PeerId, u32>,
    /// Which deadline its next tick is for.
    scheduled: Option<Instant>,
    /// Until when it does nothing at all.
    hangs_until: u64,
}

/// A connection: which nodes, and until when each direction is busy with what was sent before.
struct Wire {
    ends: [usize; 2],
    busy: [u64; 2],
    delay: u64,
}

enum Event {
    Give {
        node: usize,
        life: u32,
        input: Input,
    },
    /// Something at the end of a connection: only while the connection is there.
    Arrive {
        conn: ConnId,
        node: usize,
        input: Input,
    },
    /// The other side of a connection is gone, and what it said before has arrived.
    Closed {
        conn: ConnId,
        node: usize,
        peer: PeerId,
    },
    Reach {
        node: usize,
        life: u32,
        peer: PeerId,
        attempt: u32,
    },
    Tick {
        node: usize,
        deadline: Instant,
    },
}

impl Event {
    fn node(&self) -> usize {
        match self {
            Event::Give { node, .. }
            | Event::Arrive { node, .. }
            | Event::Closed { node, .. }
            | Event::Reach { node, .. }
            | Event::Tick { node, .. } => *node,
        }
    }
}

/// All speakers, their connections and the clock.
pub struct Crowd {
    nodes: Vec<Node>,
    wires: BTreeMap<ConnId, Wire>,
    /// Sessions that can no longer connect.
    severed: BTreeSet<[usize; 2]>,
    /// By time in microseconds, then in the order in which they were made.
    events: BTreeMap<(u64, u64), Event>,
    made: u64,
    next_conn: u64,
    now: u64,
    dice: Dice,
    digest: u64,
    /// Inputs given so far.
    pub inputs: u64,
}

/// The address of a node's sessions.
fn address(node: usize) -> Ipv4Addr {
    Ipv4Addr::from(0xac10_0000 + node as u32)
}

/// What node `from` knows of a session with `to`.
fn config(topology: &Topology, link: &Link, from: usize, to: usize) -> PeerConfig {
    let asn = |node: usize| Asn(topology.routers[node].asn);
    let end = |node: usize| (address(node).into(), asn(node));
    let mut config = PeerConfig::new(INSTANCE, end(from), end(to));
    config.families = vec![Family::Ipv4Unicast];
    config.policy = Policy::accept_all();
    config.role = match link.kind {
        Kind::Up if link.ends[0] == from => Some(Role::Customer),
        Kind::Up => Some(Role::Provider),
        Kind::Peer => Some(Role::Peer),
        Kind::Free | Kind::Mesh | Kind::Star => None,
    };
    config.route_reflector_client = link.kind == Kind::Star && link.ends[0] == from;
    config
}

/// The prefix of a number.
pub fn prefix(number: usize) -> IpNet {
    Ipv4Net::new(Ipv4Addr::from(0xc000_0000 + ((number as u32) << 8)), 24).unwrap().into()
}

fn originated(number: usize) -> Input {
    let attrs = Box::new(PathAttributes::default());
    Input::Originate { instance: INSTANCE, nlri: prefix(number).into(), attrs }
}

impl Crowd {
    /// All speakers of a topology, none of them connected yet.
    pub fn new(topology: &Topology, seed: u64) -> Crowd {
        let node = |(number, router): (usize, &topology::Router)| Node {
            speaker: speaker(number, router.id),
            alive: true,
            life: 0,
            configs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            scheduled: None,
            hangs_until: 0,
        };
        let mut crowd = Crowd {
            nodes: topology.routers.iter().enumerate().map(node).collect(),
            wires: BTreeMap::new(),
            severed: BTreeSet::new(),
            events: BTreeMap::new(),
            made: 0,
            next_conn: 1,
            now: 1_000 * MS,
            dice: Dice::new(seed),
            digest: 0xcbf2_9ce4_8422_2325,
            inputs: 0,
        };
        for link in &topology.links {
            let [a, b] = link.ends;
            for (from, to) in [(a, b), (b, a)] {
                let config = config(topology, link, from, to);
                crowd.nodes[from].configs.insert(PeerId(to as u32), config.clone());
                let starts = crowd.dice.roll(5_000) * MS;
                let input = Input::AddPeer(PeerId(to as u32), Box::new(config));
                crowd.event(starts, Event::Give { node: from, life: 0, input });
            }
        }
        crowd
    }

    /// A number that depends on everything that was ever said, by whom and when.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Lets `ms` milliseconds pass.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms * MS;
        while let Some(entry) = self.events.first_entry() {
            let (at, number) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            self.now = self.now.max(at);
            let thaws = self.nodes[event.node()].hangs_until;
            if thaws > at {
                // What was made first is still first then.
                self.events.insert((thaws, number), event);
            } else {
                self.happen(event);
            }
        }
        self.now = end;
    }

    fn event(&mut self, after: u64, event: Event) {
        self.made += 1;
        self.events.insert((self.now + after, self.made), event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Give { node, life, input } if self.nodes[node].life == life => self.give(node, input),
            Event::Arrive { conn, node, input } if self.wires.contains_key(&conn) => self.give(node, input),
            Event::Closed { conn, node, peer } if self.wires.remove(&conn).is_some() => {
                self.give(node, Input::TcpClosed(peer, conn));
            }
            Event::Reach { node, life, peer, attempt } => self.reach(node, life, peer, attempt),
            Event::Tick { node, deadline } if self.nodes[node].scheduled == Some(deadline) => {
                self.nodes[node].scheduled = None;
                self.give(node, Input::Tick);
            }
            _ => {}
        }
    }
}

fn speaker(node: usize, id: u32) -> Speaker {
    let router_id = RouterId(Ipv4Addr::from(0x0a00_0000 + id));
    Speaker::new(SpeakerConfig { router_id, seed: node as u64 + 1 })
}

/// What happens to the speakers.
impl Crowd {
    fn give(&mut self, node: usize, input: Input) {
        if !self.nodes[node].alive {
            return;
        }
        self.inputs += 1;
        let now = Instant::from_millis(self.now / MS);
        for output in self.nodes[node].speaker.handle(input, now) {
            self.perform(node, output);
        }
        let due = self.nodes[node].speaker.next_deadline();
        if due != self.nodes[node].scheduled {
            self.nodes[node].scheduled = due;
            if let Some(deadline) = due {
                // Up to half a second late, and never at once: timers of one moment go off in any order.
                let late = 1 + self.dice.roll(500 * MS);
                let wait = deadline.millis_since(now) * MS + late;
                self.event(wait, Event::Tick { node, deadline });
            }
        }
    }

    fn perform(&mut self, node: usize, output: Output) {
        self.note(&(node as u64).to_be_bytes());
        self.note(&self.now.to_be_bytes());
        match output {
            Output::Connect(peer) => {
                let attempt = self.nodes[node].attempts.entry(peer).or_default();
                *attempt += 1;
                let (attempt, life) = (*attempt, self.nodes[node].life);
                let delay = 1 + self.dice.roll(50 * MS);
                self.event(delay, Event::Reach { node, life, peer, attempt });
            }
            Output::Send(peer, conn, octets) => {
                self.note(&octets);
                let (life, input) = (self.nodes[node].life, Input::Written(peer, conn, octets.len()));
                let delay = 1 + self.dice.roll(2 * MS);
                self.event(delay, Event::Give { node, life, input });
                if let Some((at, other)) = self.over(conn, node) {
                    let input = Input::Bytes(PeerId(node as u32), conn, octets.to_vec());
                    self.event(at, Event::Arrive { conn, node: other, input });
                }
            }
            Output::Close(_, conn) => self.hang_up(conn, node),
            Output::BestChanged { key, best, .. } => self.note(format!("{key:?} {best:?}").as_bytes()),
            other => self.note(format!("{other:?}").as_bytes()),
        }
    }

    /// When what a node says now on a connection arrives, counted from now, and where.
    fn over(&mut self, conn: ConnId, node: usize) -> Option<(u64, usize)> {
        let jitter = self.dice.roll(MS);
        let wire = self.wires.get_mut(&conn)?;
        let side = usize::from(wire.ends[1] == node);
        wire.busy[side] = (wire.busy[side] + 1).max(self.now + wire.delay + jitter);
        Some((wire.busy[side] - self.now, wire.ends[1 - side]))
    }

    fn hang_up(&mut self, conn: ConnId, node: usize) {
        if let Some((at, other)) = self.over(conn, node) {
            self.event(at, Event::Closed { conn, node: other, peer: PeerId(node as u32) });
        }
    }

    fn reach(&mut self, node: usize, life: u32, peer: PeerId, attempt: u32) {
        let remote = peer.0 as usize;
        let here = &self.nodes[node];
        if here.life != life || !here.alive || here.attempts.get(&peer) != Some(&attempt) {
            return;
        }
        // A machine that hangs has a kernel that accepts.
        let there = self.nodes[remote].alive && !self.severed.contains(&pair(node, remote));
        if !there {
            return self.give(node, Input::TcpFailed(peer));
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        let delay = 100 + self.dice.roll(40 * MS);
        self.wires.insert(conn, Wire { ends: [node, remote], busy: [0, 0], delay });
        let accepted = Input::TcpAccepted(PeerId(node as u32), conn);
        if let Some((at, other)) = self.over(conn, node) {
            self.event(at, Event::Arrive { conn, node: other, input: accepted });
        }
        self.give(node, Input::TcpConnected(peer, conn));
    }

    fn note(&mut self, octets: &[u8]) {
        for octet in octets {
            self.digest = (self.digest ^ u64::from(*octet)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

fn pair(a: usize, b: usize) -> [usize; 2] {
    [a.min(b), a.max(b)]
}

/// What happens to the crowd.
impl Crowd {
    /// A node originates a prefix; one that hangs as soon as it can.
    pub fn originate(&mut self, node: usize, number: usize) {
        self.told(node, originated(number));
    }

    /// It does no longer.
    pub fn withdraw(&mut self, node: usize, number: usize) {
        self.told(node, Input::Withdraw { instance: INSTANCE, key: Key::prefix(prefix(number)) });
    }

    fn told(&mut self, node: usize, input: Input) {
        let life = self.nodes[node].life;
        self.event(0, Event::Give { node, life, input });
    }

    /// The connections between two nodes break; what was under way is lost.
    pub fn cut(&mut self, [a, b]: [usize; 2]) {
        let between = |wire: &Wire| pair(wire.ends[0], wire.ends[1]) == pair(a, b);
        let cut: Vec<ConnId> = self.wires.iter().filter(|(_, w)| between(w)).map(|(conn, _)| *conn).collect();
        for conn in cut {
            self.wires.remove(&conn);
            for (node, other) in [(a, b), (b, a)] {
                let (life, input) = (self.nodes[node].life, Input::TcpClosed(PeerId(other as u32), conn));
                let delay = 1 + self.dice.roll(200 * MS);
                self.event(delay, Event::Give { node, life, input });
            }
        }
    }

    /// Two nodes will never meet again.
    pub fn sever(&mut self, [a, b]: [usize; 2]) {
        self.severed.insert(pair(a, b));
        self.cut([a, b]);
    }

    /// `kill -9`: the process is gone, the kernel closes its connections.
    pub fn kill(&mut self, node: usize) {
        let its: Vec<ConnId> =
            self.wires.iter().filter(|(_, w)| w.ends.contains(&node)).map(|(conn, _)| *conn).collect();
        for conn in its {
            self.hang_up(conn, node);
        }
        let node = &mut self.nodes[node];
        (node.alive, node.life, node.scheduled, node.hangs_until) = (false, node.life + 1, None, 0);
    }

    /// The process is back: same configuration, empty tables, and what it originates.
    pub fn restart(&mut self, node: usize, id: u32, restart: RestartConfig, prefixes: &[usize]) {
        self.nodes[node].speaker = speaker(node, id);
        self.nodes[node].alive = true;
        self.give(node, Input::StartRestart(restart));
        for (peer, config) in self.nodes[node].configs.clone() {
            self.give(node, Input::AddPeer(peer, Box::new(config)));
        }
        for number in prefixes {
            self.give(node, originated(*number));
        }
        self.give(node, Input::LocalRoutesComplete);
    }

    /// It does nothing for so many milliseconds: no timer, no answer.
    pub fn hang(&mut self, node: usize, ms: u64) {
        self.nodes[node].hangs_until = self.now + ms * MS;
    }

    /// The selected path of a node to a prefix.
    pub fn best(&self, node: usize, number: usize) -> Option<Candidate> {
        let entry = self.nodes[node].speaker.entry(INSTANCE, &Key::prefix(prefix(number)))?;
        entry.best.map(|i| entry.candidates[i].clone())
    }

    /// Whether a session is established at both ends.
    pub fn established(&self, [a, b]: [usize; 2]) -> bool {
        let up = |node: usize, peer: usize| {
            let told = self.nodes[node].speaker.peer(PeerId(peer as u32));
            told.is_some_and(|told| told.state == State::Established)
        };
        up(a, b) && up(b, a)
    }
}
