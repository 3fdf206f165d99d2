//! A virtual world for tests: two of our peers, the network between them, a clock in ms. The network loses,
//! duplicates and delays at random (so that it reorders), from a seed; everything is repeatable.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::limits::{HEADER_LEN, OVERHEAD};
use super::session::receiver_of;
use super::{Gate, HandshakeError, Identity, Input, Message, Now, Output, Peer, Session, Verdict};
use crate::key::{PresharedKey, PrivateKey};

/// Period of the machines' clock, in ms.
pub(super) const TICK_MS: u64 = 100;
const MTU: usize = 1420;
/// Unix time at which the virtual clock begins.
const UNIX_S: u64 = 1_800_000_000;

/// A repeatable source of bytes (splitmix64).
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(super) fn fill(&mut self, bytes: &mut [u8]) {
        bytes.chunks_mut(8).for_each(|chunk| {
            let random = self.next().to_le_bytes();
            chunk.copy_from_slice(&random[..chunk.len()]);
        });
    }
}

/// The unix time that belongs to a virtual time.
pub(super) fn at(ms: u64) -> Now {
    Now { ms, unix_ns: (UNIX_S * 1_000 + ms) * 1_000_000 }
}

/// Why a datagram ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    Malformed,
    Gate,
    Handshake(HandshakeError),
    NoSession,
    NotOpened,
    Replayed,
}

/// One gateway with one peer.
pub(super) struct Node {
    pub(super) identity: Arc<Identity>,
    pub(super) gate: Gate,
    pub(super) peer: Peer,
    /// Plaintexts that wait for a session.
    pub(super) waiting: Vec<Vec<u8>>,
    /// Plaintexts that arrived, without their padding.
    pub(super) arrived: Vec<Vec<u8>>,
    pub(super) refused: Vec<Refused>,
    pub(super) readies: u32,
    pub(super) gave_up: u32,
    address: SocketAddr,
    dice: Dice,
}

impl Node {
    pub(super) fn new(
        own: &PrivateKey,
        other: &PrivateKey,
        preshared: Option<&PresharedKey>,
        seed: u64,
    ) -> Self {
        let identity = Arc::new(Identity::new(own));
        let gate = Gate::new(identity.public_key());
        let index = 0x0000_1000 + u32::try_from(seed % 7).unwrap_or(0);
        let peer = Peer::new(Arc::clone(&identity), other.public_key(), preshared, index);
        let port = 51_820 + u16::try_from(seed % 100).unwrap_or(0);
        Self {
            identity,
            gate,
            peer,
            waiting: Vec::new(),
            arrived: Vec::new(),
            refused: Vec::new(),
            readies: 0,
            gave_up: 0,
            address: SocketAddr::from(([192, 0, 2, 1], port)),
            dice: Dice::new(seed),
        }
    }

    /// Gives the machine an input; what it wants sent comes back.
    pub(super) fn input(&mut self, input: Input<'_>, now_ms: u64) -> Result<Vec<Vec<u8>>, HandshakeError> {
        let mut out = Vec::new();
        let dice = &mut self.dice;
        self.peer.handle(input, at(now_ms), &mut |bytes| dice.fill(bytes), &mut out)?;
        let mut sent = Vec::new();
        for output in out {
            match output {
                Output::Initiation { message, .. } => sent.push(message.to_vec()),
                Output::Response(message) => sent.push(message.to_vec()),
                Output::Keepalive(message) => sent.push(message.to_vec()),
                Output::Ready(_) => {
                    self.readies += 1;
                    let waiting = std::mem::take(&mut self.waiting);
                    sent.extend(waiting.iter().filter_map(|plaintext| self.seal(plaintext, now_ms)));
                }
                Output::GaveUp => {
                    self.gave_up += 1;
                    self.waiting.clear();
                }
            }
        }
        Ok(sent)
    }

    fn seal(&mut self, plaintext: &[u8], now_ms: u64) -> Option<Vec<u8>> {
        let session = self.peer.sessions().sealing(now_ms)?;
        let counter = session.take_counters(1)?;
        let message = seal(&session, counter, plaintext);
        session.note_sent(now_ms, !plaintext.is_empty(), message.len() as u64);
        Some(message)
    }

    /// Sends a packet: what goes out for it.
    pub(super) fn send(&mut self, plaintext: &[u8], now_ms: u64) -> Vec<Vec<u8>> {
        if let Some(message) = self.seal(plaintext, now_ms) {
            return vec![message];
        }
        self.waiting.push(plaintext.to_vec());
        self.input(Input::Want, now_ms).expect("the peer's key is good")
    }

    /// Takes a datagram in: what goes out for it.
    pub(super) fn receive(&mut self, datagram: &[u8], now_ms: u64) -> Result<Vec<Vec<u8>>, Refused> {
        let message = Message::parse(datagram).ok_or(Refused::Malformed)?;
        if matches!(message, Message::Initiation(_) | Message::Response(_)) {
            let dice = &mut self.dice;
            match self.gate.judge(datagram, self.address, now_ms, false, &mut |bytes| dice.fill(bytes)) {
                Verdict::Enter => {}
                Verdict::Cookie(reply) => return Ok(vec![reply.to_vec()]),
                Verdict::BadMac | Verdict::TooMany => return Err(Refused::Gate),
            }
        }
        let taken = match message {
            Message::Initiation(bytes) => {
                let introduction = self.identity.introduce(bytes).map_err(Refused::Handshake)?;
                self.input(Input::Initiation(introduction), now_ms)
            }
            Message::Response(bytes) => self.input(Input::Response(bytes), now_ms),
            Message::CookieReply(bytes) => self.input(Input::CookieReply(bytes), now_ms),
            Message::Data(bytes) => return self.open(&mut bytes.to_vec(), now_ms),
        };
        taken.map_err(Refused::Handshake)
    }

    fn open(&mut self, datagram: &mut [u8], now_ms: u64) -> Result<Vec<Vec<u8>>, Refused> {
        let receiver = receiver_of(datagram).ok_or(Refused::Malformed)?;
        let session = self.peer.sessions().opening(receiver, now_ms).ok_or(Refused::NoSession)?;
        let opened = session.open(datagram).map_err(|_| Refused::NotOpened)?;
        if !session.accept(opened.counter) {
            return Err(Refused::Replayed);
        }
        let plaintext = &datagram[opened.range];
        let confirmed = session.note_received(now_ms, !plaintext.is_empty(), datagram.len() as u64);
        if !plaintext.is_empty() {
            self.arrived.push(plaintext.to_vec());
        }
        if !confirmed {
            return Ok(Vec::new());
        }
        Ok(self
            .input(Input::Confirmed(session.local_index()), now_ms)
            .expect("a confirmation is never refused"))
    }
}

/// The data message that carries a plaintext.
pub(super) fn seal(session: &Session, counter: u64, plaintext: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; HEADER_LEN];
    buffer.extend_from_slice(plaintext);
    buffer.resize(plaintext.len() + OVERHEAD + 16, 0);
    let len = session.seal(counter, &mut buffer, plaintext.len(), MTU);
    buffer.truncate(len);
    buffer
}

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weather {
    /// Lost, of a thousand.
    pub(super) lost: u64,
    /// Delivered twice, of a thousand.
    pub(super) doubled: u64,
    /// Least and greatest delay, in ms.
    pub(super) delay_ms: (u64, u64),
}

/// Nothing is lost, and everything takes 10 ms.
pub(super) const FAIR: Weather = Weather { lost: 0, doubled: 0, delay_ms: (10, 10) };

/// The world: nodes 0 and 1.
pub(super) struct World {
    pub(super) nodes: [Node; 2],
    pub(super) now_ms: u64,
    pub(super) weather: Weather,
    /// By time and order of sending: to whom, and what.
    flying: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    /// Every datagram sent: when, by whom, and what.
    pub(super) log: Vec<(u64, usize, Vec<u8>)>,
    pub(super) log_data: bool,
    sent: u64,
    dice: Dice,
}

/// The private key of node 0 or 1.
pub(super) fn key(node: u8) -> PrivateKey {
    PrivateKey::from_bytes([0x40 + node; 32])
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        Self::with_keys(seed, [None, None])
    }

    pub(super) fn with_keys(seed: u64, preshared: [Option<PresharedKey>; 2]) -> Self {
        let [first, second] = &preshared;
        Self {
            nodes: [
                Node::new(&key(0), &key(1), first.as_ref(), seed.wrapping_mul(2) + 1),
                Node::new(&key(1), &key(0), second.as_ref(), seed.wrapping_mul(2) + 2),
            ],
            now_ms: 0,
            weather: FAIR,
            flying: BTreeMap::new(),
            log: Vec::new(),
            log_data: false,
            sent: 0,
            dice: Dice::new(seed ^ 0x5eed),
        }
    }

    /// Puts datagrams of `from` on the network.
    pub(super) fn launch(&mut self, from: usize, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            if self.log_data || datagram[0] != 4 {
                self.log.push((self.now_ms, from, datagram.clone()));
            }
            let copies = if self.dice.below(1_000) < self.weather.doubled { 2 } else { 1 };
            for _ in 0..copies {
                let (least, greatest) = self.weather.delay_ms;
                let arrives = self.now_ms + least + self.dice.below(greatest - least + 1);
                if self.dice.below(1_000) >= self.weather.lost {
                    self.sent += 1;
                    self.flying.insert((arrives, self.sent), (1 - from, datagram.clone()));
                }
            }
        }
    }

    pub(super) fn input(&mut self, node: usize, input: Input<'_>) {
        let datagrams = self.nodes[node].input(input, self.now_ms).expect("an input of our own");
        self.launch(node, datagrams);
    }

    pub(super) fn send(&mut self, node: usize, plaintext: &[u8]) {
        let datagrams = self.nodes[node].send(plaintext, self.now_ms);
        self.launch(node, datagrams);
    }

    /// Lets the world go on until then.
    pub(super) fn run_until(&mut self, end_ms: u64) {
        while self.now_ms < end_ms {
            self.now_ms += 1;
            while let Some(entry) = self.flying.first_entry().filter(|entry| entry.key().0 <= self.now_ms) {
                let (to, datagram) = entry.remove();
                match self.nodes[to].receive(&datagram, self.now_ms) {
                    Ok(answers) => self.launch(to, answers),
                    Err(reason) => self.nodes[to].refused.push(reason),
                }
            }
            if self.now_ms.is_multiple_of(TICK_MS) {
                self.input(0, Input::Tick);
                self.input(1, Input::Tick);
            }
        }
    }

    pub(super) fn run_for(&mut self, ms: u64) {
        self.run_until(self.now_ms + ms);
    }

    /// When `node` sent messages of this type.
    pub(super) fn times(&self, node: usize, kind: u8) -> Vec<u64> {
        let of = self.log.iter().filter(|(_, from, datagram)| *from == node && datagram[0] == kind);
        of.map(|(at, ..)| *at).collect()
    }

    /// A world in which node 0 called node 1 and both can seal.
    pub(super) fn connected(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.input(0, Input::Call);
        world.run_for(40);
        assert!(world.nodes.iter().all(|node| node.peer.sessions().sealing(40).is_some()));
        world
    }
}
