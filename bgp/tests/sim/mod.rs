//! Speakers wired together under a virtual clock: connections are queues of octets, connecting takes no time,
//! writing takes no time unless a link is stalled. Same inputs, same run.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use watari_bgp::speaker::{Speaker, SpeakerConfig};
use watari_bgp::*;

/// One speaker and what it said.
pub struct Node {
    pub speaker: Speaker,
    pub log: Vec<(Instant, Output)>,
    configs: BTreeMap<PeerId, PeerConfig>,
    alive: bool,
}

/// One direction of a connection: to whom, under which of the receiver's names.
#[derive(Clone, Copy)]
struct End {
    node: usize,
    peer: PeerId,
}

struct Wire {
    ends: [End; 2],
}

/// All speakers, their connections and the clock.
pub struct World {
    pub now: Instant,
    pub nodes: Vec<Node>,
    wires: BTreeMap<ConnId, Wire>,
    next_conn: u64,
    queue: VecDeque<(usize, Input)>,
    /// Nothing sent by this node is reported written.
    pub stalled: Option<usize>,
    /// Both sides' connection attempts cross before either is seen.
    pub hold_connects: bool,
    held: Vec<(usize, PeerId)>,
}

pub fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub const UNDERLAY: InstanceId = InstanceId(0);

/// A configuration between nodes `a` and `b` whose addresses are 10.0.0.(n+1).
pub fn between(a: usize, b: usize, asns: (u32, u32), families: &[Family]) -> PeerConfig {
    let addr = |n: usize| ip(&format!("10.0.0.{}", n + 1));
    let mut config = PeerConfig::new(UNDERLAY, (addr(a), Asn(asns.0)), (addr(b), Asn(asns.1)));
    config.families = families.to_vec();
    config.policy = Policy::accept_all();
    config.next_hop_v6 = Some(format!("2001:db8::{}", a + 1).parse().unwrap());
    config
}

pub fn speaker(n: usize) -> Speaker {
    let router_id = RouterId(format!("10.0.0.{}", n + 1).parse().unwrap());
    Speaker::new(SpeakerConfig { router_id, seed: n as u64 + 1 })
}

impl World {
    pub fn new(count: usize) -> World {
        let node = |n| Node { speaker: speaker(n), log: Vec::new(), configs: BTreeMap::new(), alive: true };
        World {
            now: Instant::from_millis(1_000),
            nodes: (0..count).map(node).collect(),
            wires: BTreeMap::new(),
            next_conn: 1,
            queue: VecDeque::new(),
            stalled: None,
            hold_connects: false,
            held: Vec::new(),
        }
    }

    /// The peer is named after the node it is.
    pub fn add_peer(&mut self, node: usize, remote: usize, config: PeerConfig) {
        let peer = PeerId(remote as u32);
        self.nodes[node].configs.insert(peer, config.clone());
        self.input(node, Input::AddPeer(peer, Box::new(config)));
    }

    /// A session of two nodes with the same families, configured on both.
    pub fn link(&mut self, a: usize, b: usize, asns: (u32, u32), families: &[Family]) {
        self.add_peer(a, b, between(a, b, asns, families));
        self.add_peer(b, a, between(b, a, (asns.1, asns.0), families));
    }

    /// Gives an input and everything that follows from it at this moment.
    pub fn input(&mut self, node: usize, input: Input) {
        self.queue.push_back((node, input));
        self.drain();
    }

    fn drain(&mut self) {
        let mut steps = 0;
        while let Some((node, input)) = self.queue.pop_front() {
            steps += 1;
            assert!(steps < 100_000, "the speakers never settle");
            if !self.nodes[node].alive {
                continue;
            }
            for output in self.nodes[node].speaker.handle(input, self.now) {
                self.nodes[node].log.push((self.now, output.clone()));
                self.perform(node, output);
            }
        }
    }

    fn perform(&mut self, node: usize, output: Output) {
        match output {
            Output::Connect(peer) if self.hold_connects => self.held.push((node, peer)),
            Output::Connect(peer) => self.connect(node, peer),
            Output::Send(peer, conn, octets) => {
                if self.stalled == Some(node) {
                    return;
                }
                self.queue.push_back((node, Input::Written(peer, conn, octets.len())));
                if let Some(end) = self.other_end(conn, node) {
                    self.queue.push_back((end.node, Input::Bytes(end.peer, conn, octets.to_vec())));
                }
            }
            Output::Close(_, conn) => {
                if let Some(end) = self.other_end(conn, node) {
                    self.queue.push_back((end.node, Input::TcpClosed(end.peer, conn)));
                }
                self.wires.remove(&conn);
            }
            _ => {}
        }
    }

    fn other_end(&self, conn: ConnId, node: usize) -> Option<End> {
        self.wires.get(&conn)?.ends.iter().copied().find(|e| e.node != node)
    }

    fn connect(&mut self, node: usize, peer: PeerId) {
        let remote = peer.0 as usize;
        let back = PeerId(node as u32);
        let there = self.nodes[remote].alive && self.nodes[remote].configs.contains_key(&back);
        if !there {
            self.queue.push_back((node, Input::TcpFailed(peer)));
            return;
        }
        let conn = ConnId(self.next_conn);
        self.next_conn += 1;
        self.wires.insert(conn, Wire { ends: [End { node, peer }, End { node: remote, peer: back }] });
        self.queue.push_back((node, Input::TcpConnected(peer, conn)));
        self.queue.push_back((remote, Input::TcpAccepted(back, conn)));
    }

    /// Lets all held connection attempts succeed at once.
    pub fn release_connects(&mut self) {
        self.hold_connects = false;
        for (node, peer) in std::mem::take(&mut self.held) {
            self.connect(node, peer);
        }
        self.drain();
    }

    /// Lets `ms` pass, deadline by deadline.
    pub fn run(&mut self, ms: u64) {
        let end = self.now + ms;
        loop {
            let alive = self.nodes.iter().filter(|n| n.alive);
            let due = alive.filter_map(|n| n.speaker.next_deadline()).min();
            match due.filter(|d| *d <= end) {
                None => break,
                Some(deadline) => self.now = self.now.max(deadline),
            }
            for node in 0..self.nodes.len() {
                let speaker = &self.nodes[node].speaker;
                if self.nodes[node].alive && speaker.next_deadline().is_some_and(|d| d <= self.now) {
                    self.input(node, Input::Tick);
                }
            }
        }
        self.now = end;
    }

    /// `kill -9`: the process is gone, the kernel closes its connections.
    pub fn kill(&mut self, node: usize) {
        self.nodes[node].alive = false;
        let cut: Vec<ConnId> = self
            .wires
            .iter()
            .filter(|(_, w)| w.ends.iter().any(|e| e.node == node))
            .map(|(c, _)| *c)
            .collect();
        for conn in cut {
            if let Some(end) = self.other_end(conn, node) {
                self.queue.push_back((end.node, Input::TcpClosed(end.peer, conn)));
            }
            self.wires.remove(&conn);
        }
        self.drain();
    }

    /// The process is back: same configuration, empty tables.
    pub fn restart(&mut self, node: usize, restart: RestartConfig) {
        self.nodes[node].speaker = speaker(node);
        self.nodes[node].alive = true;
        self.input(node, Input::StartRestart(restart));
        for (peer, config) in self.nodes[node].configs.clone() {
            self.input(node, Input::AddPeer(peer, Box::new(config)));
        }
    }

    /// The connection breaks between two living nodes.
    pub fn cut(&mut self, a: usize, b: usize) {
        let between = |w: &Wire| w.ends.iter().all(|e| e.node == a || e.node == b);
        let cut: Vec<ConnId> = self.wires.iter().filter(|(_, w)| between(w)).map(|(c, _)| *c).collect();
        for conn in cut {
            if let Some(wire) = self.wires.remove(&conn) {
                for end in wire.ends {
                    self.queue.push_back((end.node, Input::TcpClosed(end.peer, conn)));
                }
            }
        }
        self.drain();
    }

    /// `to` hears octets on its established session as if `from` had said them.
    pub fn say(&mut self, from: usize, to: usize, octets: Vec<u8>) {
        let ends = |w: &Wire| [from, to].iter().all(|n| w.ends.iter().any(|e| e.node == *n));
        let conn = *self.wires.iter().find(|(_, w)| ends(w)).expect("connected").0;
        self.input(to, Input::Bytes(PeerId(from as u32), conn, octets));
    }

    pub fn state(&self, node: usize, remote: usize) -> State {
        self.nodes[node].speaker.peer(PeerId(remote as u32)).unwrap().state
    }

    pub fn originate(&mut self, node: usize, nlri: impl Into<Nlri>, attrs: PathAttributes) {
        self.input(node, Input::Originate { instance: UNDERLAY, nlri: nlri.into(), attrs: Box::new(attrs) });
    }

    pub fn withdraw(&mut self, node: usize, nlri: impl Into<Nlri>) {
        self.input(node, Input::Withdraw { instance: UNDERLAY, key: nlri.into().key });
    }

    pub fn best(&self, node: usize, nlri: impl Into<Nlri>) -> Option<speaker::Candidate> {
        let entry = self.nodes[node].speaker.entry(UNDERLAY, &nlri.into().key)?;
        entry.best.map(|i| entry.candidates[i].clone())
    }

    pub fn mark(&self, node: usize) -> usize {
        self.nodes[node].log.len()
    }

    /// `BestChanged` of a node since a mark.
    pub fn changes(&self, node: usize, since: usize) -> Vec<(Key, Option<Best>)> {
        let change = |(_, o): &(Instant, Output)| match o {
            Output::BestChanged { key, best, .. } => Some((key.clone(), best.clone())),
            _ => None,
        };
        self.nodes[node].log[since..].iter().filter_map(change).collect()
    }

    /// Octets a node sent since a mark, all connections together.
    pub fn sent(&self, node: usize, since: usize) -> Vec<u8> {
        let octets = |(_, o): &(Instant, Output)| match o {
            Output::Send(_, _, octets) => Some(octets.to_vec()),
            _ => None,
        };
        self.nodes[node].log[since..].iter().filter_map(octets).flatten().collect()
    }

    /// Why sessions of a node went down since a mark.
    pub fn downs(&self, node: usize, since: usize) -> Vec<DownReason> {
        let down = |(_, o): &(Instant, Output)| match o {
            Output::PeerState { old: State::Established, reason, .. } => reason.clone(),
            _ => None,
        };
        self.nodes[node].log[since..].iter().filter_map(down).collect()
    }
}

/// A prefix.
pub fn net(s: &str) -> ipnet::IpNet {
    s.parse().unwrap()
}
