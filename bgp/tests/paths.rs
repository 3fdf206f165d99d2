//! Several paths of a route (RFC 7911) against a plain model: whatever neighbours announce and withdraw path by path, lose,
//! refuse to read or ask for again, the right one is selected, and every neighbour ends up with the paths that it should
//! have, judged by the octets that it was sent.
//!
//! ```text
//!   0 external, tells several and is told all ───┐
//!   1 external, tells several and is told one    ├─ speaker, AS 65000
//!   2 internal client, tells one, is told all    │
//!   3 internal, tells several, is told some ─────┘
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use watari_bgp::speaker::{Speaker, SpeakerConfig};
use watari_bgp::wire::*;
use watari_bgp::*;

const PEERS: usize = 4;
const PREFIXES: usize = 5;
const IDS: u32 = 4;
const OWN: Asn = Asn(65_000);
const V4: Family = Family::Ipv4Unicast;
const CONTEXT: EncodeContext = EncodeContext { four_octet_as: true, message_limit: 4_096 };

#[derive(Clone, Debug)]
enum Step {
    /// A neighbour announces one path of some prefixes, a bit each, with one of a few sets of attributes.
    Announce(usize, u8, u32, usize),
    Withdraw(usize, u8, u32),
    /// The connection is lost: its paths are kept, and are stale.
    Lose(usize),
    /// It is back, with what it had of every second prefix; perhaps it does not tell several paths any more.
    Return(usize, bool),
    /// It reads nothing.
    Stall(usize),
    Read(usize),
    Refresh(usize),
    /// It is told a part of the prefixes, or all.
    Filter(usize, bool),
    /// Neighbour 3 is told so many paths, 0 for all.
    Limit(u16),
    Originate(usize, bool),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = 0..PEERS;
    let (some, id) = (any::<u8>(), 0..IDS);
    let step = prop_oneof![
        8 => (peer.clone(), some, id.clone(), 0..6_usize).prop_map(|(p, s, i, a)| Step::Announce(p, s, i, a)),
        4 => (peer.clone(), some, id).prop_map(|(p, s, i)| Step::Withdraw(p, s, i)),
        1 => peer.clone().prop_map(Step::Lose),
        1 => (peer.clone(), any::<bool>()).prop_map(|(p, plain)| Step::Return(p, plain)),
        1 => peer.clone().prop_map(Step::Stall),
        1 => peer.clone().prop_map(Step::Read),
        1 => peer.clone().prop_map(Step::Refresh),
        1 => (peer, any::<bool>()).prop_map(|(p, all)| Step::Filter(p, all)),
        1 => (0..4_u16).prop_map(Step::Limit),
        1 => (0..PREFIXES, any::<bool>()).prop_map(|(p, is)| Step::Originate(p, is)),
        1 => (0..300_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..80)
}

fn prefix(n: usize) -> ipnet::IpNet {
    format!("198.51.{n}.0/24").parse().unwrap()
}

fn chosen(bits: u8) -> Vec<usize> {
    (0..PREFIXES).filter(|n| bits & (1 << n) != 0).collect()
}

fn is_external(peer: usize) -> bool {
    peer < 2
}

fn asn(peer: usize) -> Asn {
    if is_external(peer) { Asn(65_001 + peer as u32) } else { OWN }
}

fn address(peer: usize) -> [u8; 4] {
    [10, 0, 0, 10 + peer as u8]
}

fn tells_several(peer: usize) -> bool {
    peer != 2
}

fn takes_several(peer: usize) -> bool {
    peer != 1
}

fn attributes(peer: usize, variant: usize) -> PathAttributes {
    let own = is_external(peer).then(|| asn(peer));
    let far = if variant == 1 { vec![Asn(100), Asn(200)] } else { vec![Asn(100)] };
    PathAttributes {
        as_path: AsPath::sequence(own.into_iter().chain(far)),
        next_hop: Some(NextHop::V4(address(peer).into())),
        origin: if variant == 2 { Origin::Egp } else { Origin::Igp },
        med: (variant == 3).then_some(30),
        local_pref: (!is_external(peer)).then_some(100),
        // Two of them differ in nothing that the decision looks at.
        communities: if variant == 5 { vec![Community::NO_EXPORT] } else { vec![Community(variant as u32)] },
        ..PathAttributes::default()
    }
}

fn local() -> PathAttributes {
    PathAttributes { communities: vec![Community(7)], ..PathAttributes::default() }
}

/// A neighbour, and what it was sent so far.
#[derive(Default)]
struct Peer {
    conn: Option<ConnId>,
    stalled: bool,
    unwritten: usize,
    octets: Vec<u8>,
    has: BTreeMap<(ipnet::IpNet, PathId), PathAttributes>,
    end_of_rib: bool,
    narrow: bool,
    /// It tells one path of a route for now.
    plain: bool,
    /// The model: what it announced, as long as it counts.
    told: BTreeMap<(usize, u32), usize>,
}

struct Run {
    speaker: Speaker,
    now: Instant,
    peers: Vec<Peer>,
    local: Vec<bool>,
    limit: u16,
    conns: u64,
    eager: bool,
}

fn config(peer: usize, narrow: bool, limit: u16) -> PeerConfig {
    let ends = ((IpAddr::from([10, 0, 0, 1]), OWN), (IpAddr::from(address(peer)), asn(peer)));
    let mut config = PeerConfig::new(InstanceId(0), ends.0, ends.1);
    config.families = vec![V4];
    config.policy = Policy::accept_all();
    config.passive = true;
    config.hold_time_s = 0;
    config.route_reflector_client = peer == 2;
    let send = if peer == 3 && limit > 0 { PathsSent::Best(limit) } else { PathsSent::All };
    let send = takes_several(peer).then_some(send);
    config.add_path = vec![(V4, AddPath { receive: tells_several(peer), send })];
    if narrow {
        let rules = (0..PREFIXES / 2).map(|n| PrefixRule::exact(prefix(n))).collect();
        config.policy.export = Filter::Prefixes(rules);
    }
    config
}

impl Run {
    fn new(eager: bool) -> Run {
        let router_id = RouterId([10, 0, 0, 1].into());
        let mut run = Run {
            speaker: Speaker::new(SpeakerConfig { router_id, seed: 3 }),
            now: Instant::from_millis(1),
            peers: (0..PEERS).map(|_| Peer::default()).collect(),
            local: vec![false; PREFIXES],
            limit: 2,
            conns: 0,
            eager,
        };
        for peer in 0..PEERS {
            run.input(Input::AddPeer(PeerId(peer as u32), Box::new(config(peer, false, 2))));
            run.connect(peer, false);
        }
        run
    }

    fn input(&mut self, input: Input) {
        let outputs = if self.eager {
            self.speaker.handle(input, self.now)
        } else {
            self.speaker.push(input, self.now)
        };
        self.perform(outputs);
    }

    fn perform(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            let Output::Send(id, conn, octets) = output else { continue };
            let peer = &mut self.peers[id.0 as usize];
            if peer.conn != Some(conn) {
                continue;
            }
            peer.octets.extend_from_slice(&octets);
            peer.unwritten += octets.len();
            self.read(id.0 as usize);
        }
    }

    /// A neighbour reads, unless it does not.
    fn read(&mut self, n: usize) {
        let peer = &mut self.peers[n];
        let Some(conn) = peer.conn.filter(|_| !peer.stalled && peer.unwritten > 0) else { return };
        let written = std::mem::take(&mut peer.unwritten);
        let octets = std::mem::take(&mut peer.octets);
        let ids: FamilySet = takes_several(n).then_some(V4).into_iter().collect();
        let mut rest = &octets[..];
        while let Some(frame) = next_frame(rest, 4_096).unwrap() {
            if frame.kind == MessageType::Update {
                let ctx = ParseContext { internal: !is_external(n), peer_asn: OWN, four_octet_as: true };
                let update = Update::decode_with_ids(frame.body, &ctx, ids).unwrap();
                assert!(!update.treat_as_withdraw && update.discarded == 0);
                peer.end_of_rib |= update.end_of_rib().is_some();
                for (id, route) in update.withdrawn.paths() {
                    peer.has.remove(&(route.key.as_prefix().unwrap(), id));
                }
                for (id, route) in update.announced.paths() {
                    assert_eq!(id != PathId::default(), takes_several(n));
                    peer.has.insert((route.key.as_prefix().unwrap(), id), update.attrs.clone());
                }
            }
            rest = &rest[frame.len..];
        }
        assert!(rest.is_empty());
        self.input(Input::Written(PeerId(n as u32), conn, written));
    }

    fn connect(&mut self, n: usize, plain: bool) {
        self.conns += 1;
        let (peer, conn) = (PeerId(n as u32), ConnId(self.conns));
        let told = std::mem::take(&mut self.peers[n].told);
        let narrow = self.peers[n].narrow;
        let plain = plain || !tells_several(n);
        self.peers[n] = Peer { conn: Some(conn), narrow, plain, ..Peer::default() };
        self.input(Input::TcpAccepted(peer, conn));
        let graceful = GracefulRestart {
            restarted: !told.is_empty(),
            notification: true,
            restart_time_s: 4_000,
            families: vec![(1, 1, true)],
        };
        let mut capabilities = vec![
            Capability::MultiProtocol(1, 1),
            Capability::FourOctetAs(asn(n)),
            Capability::RouteRefresh,
            Capability::GracefulRestart(graceful),
        ];
        let mode = match (takes_several(n), !plain) {
            (true, true) => Some(AddPathMode::Both),
            (true, false) => Some(AddPathMode::Receive),
            (false, true) => Some(AddPathMode::Send),
            (false, false) => None,
        };
        capabilities.extend(mode.map(|mode| Capability::AddPath(vec![(1, 1, mode)])));
        let router_id = RouterId(address(n).into());
        let open = Open { asn: asn(n), hold_time_s: 0, router_id, capabilities };
        self.input(Input::Bytes(peer, conn, open.encode()));
        self.input(Input::Bytes(peer, conn, encode_keepalive()));
        self.peers[n].told = told;
    }

    fn say(&mut self, n: usize, messages: Vec<Vec<u8>>) {
        if let Some(conn) = self.peers[n].conn {
            self.input(Input::Bytes(PeerId(n as u32), conn, messages.concat()));
        }
    }

    fn announce(&mut self, n: usize, routes: Vec<usize>, id: u32, variant: usize) {
        let id = if self.peers[n].plain { 0 } else { id };
        self.peers[n].told.extend(routes.iter().map(|p| ((*p, id), variant)));
        let attrs = attributes(n, variant);
        let paths: Vec<(PathId, Nlri)> = routes.into_iter().map(|p| (PathId(id), prefix(p).into())).collect();
        let routes: Vec<Nlri> = paths.iter().map(|(_, route)| route.clone()).collect();
        let messages = if self.peers[n].plain {
            encode_announce(V4, &attrs, &routes, &CONTEXT)
        } else {
            encode_announce_paths(V4, &attrs, &paths, &CONTEXT)
        };
        self.say(n, messages.unwrap());
    }

    fn withdraw(&mut self, n: usize, bits: u8, id: u32) {
        let id = if self.peers[n].plain { 0 } else { id };
        self.peers[n].told.retain(|(p, i), _| bits & (1 << p) == 0 || *i != id);
        let paths: Vec<(PathId, Nlri)> =
            chosen(bits).into_iter().map(|p| (PathId(id), prefix(p).into())).collect();
        let routes: Vec<Nlri> = paths.iter().map(|(_, route)| route.clone()).collect();
        let messages = if self.peers[n].plain {
            encode_withdraw(V4, &routes, &CONTEXT)
        } else {
            encode_withdraw_paths(V4, &paths, &CONTEXT)
        };
        self.say(n, messages);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Announce(n, bits, id, variant) if self.peers[n].conn.is_some() => {
                self.announce(n, chosen(bits), id, variant);
            }
            Step::Withdraw(n, bits, id) if self.peers[n].conn.is_some() => self.withdraw(n, bits, id),
            Step::Announce(..) | Step::Withdraw(..) => {}
            Step::Lose(n) => {
                if let Some(conn) = self.peers[n].conn.take() {
                    self.input(Input::TcpClosed(PeerId(n as u32), conn));
                }
            }
            Step::Return(n, plain) if self.peers[n].conn.is_none() => self.come_back(n, plain),
            Step::Return(..) => {}
            Step::Stall(n) => self.peers[n].stalled = true,
            Step::Read(n) => {
                self.peers[n].stalled = false;
                self.read(n);
            }
            Step::Refresh(n) => self.say(n, vec![RouteRefresh::of(V4, RouteRefresh::REQUEST).encode()]),
            Step::Filter(n, all) => {
                self.peers[n].narrow = !all;
                self.configure(n);
            }
            Step::Limit(limit) => {
                self.limit = limit;
                self.configure(3);
            }
            Step::Originate(p, true) => {
                self.local[p] = true;
                let attrs = Box::new(local());
                self.input(Input::Originate { instance: InstanceId(0), nlri: prefix(p).into(), attrs });
            }
            Step::Originate(p, false) => {
                self.local[p] = false;
                self.input(Input::Withdraw { instance: InstanceId(0), key: Key::prefix(prefix(p)) });
            }
            Step::Wait(ms) => self.wait(ms),
        }
    }

    fn configure(&mut self, n: usize) {
        let config = config(n, self.peers[n].narrow, self.limit);
        let state = |run: &Run| run.speaker.peer(PeerId(n as u32)).unwrap().state;
        let before = state(self);
        self.input(Input::UpdatePeer(PeerId(n as u32), Box::new(config)));
        assert_eq!(state(self), before, "no session is reset");
    }

    fn come_back(&mut self, n: usize, plain: bool) {
        self.connect(n, plain);
        let had = std::mem::take(&mut self.peers[n].told);
        for ((p, id), variant) in had.into_iter().filter(|((p, _), _)| p % 2 == 0) {
            self.announce(n, vec![p], id, variant);
        }
        self.say(n, vec![encode_end_of_rib(V4)]);
    }

    fn wait(&mut self, ms: u64) {
        let end = self.now + ms;
        while let Some(due) = self.speaker.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            let outputs = self.speaker.handle(Input::Tick, self.now);
            self.perform(outputs);
        }
        self.now = end;
    }

    /// Everybody reads, and time passes.
    fn rest(&mut self) {
        for n in 0..PEERS {
            self.step(&Step::Read(n));
        }
        self.wait(1_000);
        let outputs = self.speaker.settle(self.now);
        self.perform(outputs);
    }
}

/// A path of the model: who told it (`PEERS` is the speaker itself), by which identifier, with which attributes.
type Told = (usize, u32, PathAttributes);

/// RFC 4271 §9.1.2.2, one step after the other; of what is left the lowest identifier.
fn select(left: &[Told]) -> Option<Told> {
    let mut left = left.to_vec();
    let keep = |left: &mut Vec<Told>, rank: &dyn Fn(&Told) -> i64| {
        let best = left.iter().map(rank).min();
        left.retain(|path| Some(rank(path)) == best);
    };
    keep(&mut left, &|(n, ..)| i64::from(*n != PEERS));
    keep(&mut left, &|(.., a)| a.as_path.hops() as i64);
    keep(&mut left, &|(.., a)| a.origin as i64);
    let before = left.clone();
    let med = |a: &PathAttributes| a.med.unwrap_or(0);
    left.retain(|(.., a)| {
        !before.iter().any(|(.., b)| a.as_path.neighbor() == b.as_path.neighbor() && med(b) < med(a))
    });
    keep(&mut left, &|(n, ..)| i64::from(!is_external(*n)));
    keep(&mut left, &|(n, ..)| *n as i64);
    keep(&mut left, &|(_, id, _)| i64::from(*id));
    left.into_iter().next()
}

/// Whether a path is for neighbour `to`, if it is not its own.
fn is_for(to: usize, narrow: bool, p: usize, (from, _, attrs): &Told) -> bool {
    let internal = *from < PEERS && !is_external(*from);
    let hidden = attrs.communities.contains(&Community::NO_EXPORT) && is_external(to);
    let not_reflected = internal && !is_external(to) && *from != 2 && to != 2;
    !(hidden || not_reflected || narrow && p >= PREFIXES / 2)
}

fn passed_on(to: usize, (from, _, attrs): &Told) -> PathAttributes {
    let mut sent = attrs.clone();
    if is_external(to) || *from == PEERS {
        sent.next_hop = Some(NextHop::V4([10, 0, 0, 1].into()));
    }
    if is_external(to) {
        sent.as_path = sent.as_path.prepended(OWN);
        (sent.med, sent.local_pref) = (None, None);
    } else {
        sent.local_pref = Some(sent.local_pref.unwrap_or(100));
        if *from < PEERS && !is_external(*from) {
            sent.originator_id = Some(RouterId(address(*from).into()));
            sent.cluster_list = vec![[10, 0, 0, 1].into()];
        }
    }
    sent
}

/// The paths that neighbour `to` should have: of those that are for it the best ones, without its own.
fn should_have(run: &Run, to: usize, p: usize, paths: &[Told]) -> Vec<PathAttributes> {
    let narrow = run.peers[to].narrow;
    let mut told = Vec::new();
    if takes_several(to) {
        let mut left: Vec<Told> = paths.iter().filter(|path| is_for(to, narrow, p, path)).cloned().collect();
        let limit = if to == 3 && run.limit > 0 { usize::from(run.limit) } else { usize::MAX };
        while told.len() < limit
            && let Some(best) = select(&left)
        {
            left.retain(|path| (path.0, path.1) != (best.0, best.1));
            told.push(best);
        }
    } else {
        told.extend(select(paths).filter(|path| is_for(to, narrow, p, path)));
    }
    told.iter().filter(|(from, ..)| *from != to).map(|path| passed_on(to, path)).collect()
}

fn sorted(mut paths: Vec<PathAttributes>) -> Vec<PathAttributes> {
    paths.sort_by_key(|attrs| format!("{attrs:?}"));
    paths
}

fn check(run: &Run) {
    let mut counts = [0; PEERS];
    for p in 0..PREFIXES {
        let mut paths: Vec<Told> = Vec::new();
        for (n, peer) in run.peers.iter().enumerate() {
            let its = peer.told.iter().filter(|((of, _), _)| *of == p);
            paths.extend(its.map(|((_, id), variant)| (n, *id, attributes(n, *variant))));
        }
        paths.extend(run.local[p].then(|| (PEERS, 0, local())));
        let entry = run.speaker.entry(InstanceId(0), &Key::prefix(prefix(p)));
        assert_eq!(entry.as_ref().map_or(0, |e| e.candidates.len()), paths.len(), "paths of {}", prefix(p));
        let best = entry.and_then(|e| e.best.map(|at| e.candidates[at].clone()));
        let source = |n| if n == PEERS { Source::Local } else { Source::Peer(PeerId(n as u32)) };
        let wanted = select(&paths).map(|(n, id, attrs)| (source(n), PathId(id), attrs));
        let best = best.map(|b| (b.source, b.path_id, (*b.attrs).clone()));
        assert_eq!(best, wanted, "best of {}", prefix(p));
        for (n, peer) in run.peers.iter().enumerate().filter(|(_, peer)| peer.conn.is_some()) {
            let should = sorted(should_have(run, n, p, &paths));
            let has = peer.has.iter().filter(|((net, _), _)| *net == prefix(p));
            assert_eq!(sorted(has.map(|(_, a)| a.clone()).collect()), should, "{} at {n}", prefix(p));
            counts[n] += should.len();
        }
    }
    for (n, peer) in run.peers.iter().enumerate().filter(|(_, peer)| peer.conn.is_some()) {
        assert!(peer.end_of_rib, "neighbour {n} waits for the end");
        let (id, received) = (PeerId(n as u32), run.speaker.received(PeerId(n as u32), V4));
        let told = run.speaker.advertised(id, V4);
        let told = told
            .into_iter()
            .map(|a| ((a.key.as_prefix().unwrap(), a.path_id.unwrap_or_default()), (*a.attrs).clone()));
        assert_eq!(told.collect::<BTreeMap<_, _>>(), peer.has, "what neighbour {n} is said to have");
        let summary = run.speaker.peer(id).unwrap();
        assert_eq!((summary.advertised, summary.received), (counts[n], peer.told.len()));
        assert_eq!(received.len(), peer.told.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_neighbour_has_the_paths_that_it_should(steps in steps(), eager in any::<bool>()) {
        let mut run = Run::new(eager);
        for step in &steps {
            run.step(step);
        }
        run.rest();
        check(&run);
        // Everybody comes back, and everything that is new is withdrawn again.
        for n in 0..PEERS {
            run.step(&Step::Return(n, false));
            for id in 0..IDS {
                run.step(&Step::Withdraw(n, u8::MAX, id));
            }
        }
        run.rest();
        check(&run);
    }
}

/// An identifier stays with its path: through other attributes, the coming and going of others, and a refresh.
#[test]
fn identifiers_stay_with_their_paths() {
    let mut run = Run::new(true);
    let ids = |run: &Run| -> BTreeMap<Vec<Community>, PathId> {
        run.peers[2].has.iter().map(|((_, id), attrs)| (attrs.communities.clone(), *id)).collect()
    };
    for id in 0..3 {
        run.announce(0, vec![0], id, id as usize);
    }
    let before = ids(&run);
    assert_eq!(before.len(), 3);
    run.announce(1, vec![0], 9, 4);
    run.step(&Step::Refresh(2));
    run.withdraw(0, 1, 1);
    let mut after = ids(&run);
    assert_eq!(after.len(), 3);
    after.retain(|path, _| before.contains_key(path));
    assert_eq!(after.len(), 2);
    assert!(after.iter().all(|(path, id)| before[path] == *id));
}

/// A neighbour that gives every path of the table another identifier takes no more than one that counts from 1; and of
/// more paths of one route than anybody has the rest is not kept.
#[test]
fn any_identifiers_will_do() {
    let mut run = Run::new(true);
    for round in 0..200_u32 {
        for p in 0..PREFIXES {
            let id = round * 1_000_003 + p as u32 * 77;
            run.announce(0, vec![p], id, 0);
            run.announce(0, vec![p], !id, 1);
            run.announce(0, vec![p], id, 2);
            run.withdraw(0, 1 << p, id);
            run.withdraw(0, 1 << p, !id);
        }
    }
    run.rest();
    check(&run);
    let told_as = |run: &Run| run.peers[2].has.keys().map(|(_, id)| id.0).max();
    run.announce(0, vec![0], u32::MAX, 0);
    assert!(told_as(&run).unwrap() < 10, "{:?}", told_as(&run));
    for id in 0..300 {
        run.announce(0, vec![1], id, 0);
    }
    let summary = run.speaker.peer(PeerId(0)).unwrap();
    assert_eq!((summary.received, summary.paths_left_out), (257, 44));
    assert_eq!(summary.state, State::Established);
}

/// A path that was told and cannot be said any more, because its attributes leave no room, is withdrawn also from a
/// neighbour that did not read when that happened.
#[test]
fn a_path_that_grows_too_large_leaves_those_that_are_behind_too() {
    let mut run = Run::new(true);
    // Neighbours 2 and 3 are told the same.
    run.step(&Step::Limit(0));
    let like_3 = PeerConfig { route_reflector_client: false, ..config(2, false, 0) };
    run.input(Input::UpdatePeer(PeerId(2), Box::new(like_3)));
    let say = |run: &mut Run, p: usize, communities: std::ops::Range<u32>| {
        let communities = communities.map(Community).collect();
        let attrs = PathAttributes { communities, ..attributes(0, 0) };
        let messages = encode_announce_paths(V4, &attrs, &[(PathId(0), prefix(p).into())], &CONTEXT);
        messages.map(|messages| run.say(0, messages)).is_ok()
    };
    assert!(say(&mut run, 0, 0..1));
    let has = |run: &Run, n: usize| run.peers[n].has.keys().any(|(net, _)| *net == prefix(0));
    assert!(has(&run, 2) && has(&run, 3));

    run.step(&Step::Stall(3));
    for round in 0..200 {
        assert!(say(&mut run, 1, round..round + 900));
    }
    run.wait(1_000);
    assert!(say(&mut run, 1, 0..1));
    // The largest that can be said to us; LOCAL_PREF comes to it.
    assert!((900..1_020).rev().any(|len| say(&mut run, 0, 0..len)));
    assert!(!has(&run, 2) && has(&run, 3));
    run.rest();
    assert!(!has(&run, 3), "it was told that the path is gone");
    let told = run.speaker.advertised(PeerId(3), V4);
    assert_eq!(told.len(), run.peers[3].has.len());
}

/// RFC 4486 §4: paths count, not prefixes.
#[test]
fn the_limit_counts_paths() {
    let mut run = Run::new(true);
    let limited = PeerConfig { max_paths: Some(3), ..config(0, false, 2) };
    run.input(Input::UpdatePeer(PeerId(0), Box::new(limited)));
    (0..3).for_each(|id| run.announce(0, vec![0], id, 0));
    assert_eq!(run.speaker.peer(PeerId(0)).unwrap().state, State::Established);
    run.announce(0, vec![0], 3, 0);
    assert_ne!(run.speaker.peer(PeerId(0)).unwrap().state, State::Established);
}

/// RFC 7911 §4: what one side offers and the other does not want is not done, and nobody is asked of another family.
#[test]
fn both_sides_have_to_agree() {
    let own = |receive, send: bool| AddPath { receive, send: send.then_some(PathsSent::All) };
    for (receive, send, mode, agreed) in [
        (true, true, Some(AddPathMode::Both), (true, true)),
        (true, true, Some(AddPathMode::Send), (true, false)),
        (true, true, Some(AddPathMode::Receive), (false, true)),
        (true, true, None, (false, false)),
        (false, true, Some(AddPathMode::Send), (false, false)),
        (true, false, Some(AddPathMode::Receive), (false, false)),
    ] {
        let config = PeerConfig { add_path: vec![(V4, own(receive, send))], ..config(1, false, 0) };
        let mut speaker = Speaker::new(SpeakerConfig { router_id: RouterId([10, 0, 0, 1].into()), seed: 3 });
        let (peer, conn, now) = (PeerId(1), ConnId(1), Instant::ZERO);
        speaker.handle(Input::AddPeer(peer, Box::new(config)), now);
        let outputs = speaker.handle(Input::TcpAccepted(peer, conn), now);
        let offered = outputs.iter().find_map(|output| match output {
            Output::Send(_, _, octets) => Open::decode(&octets[19..]).ok(),
            _ => None,
        });
        let offered = offered.unwrap().capabilities.into_iter().find(|c| matches!(c, Capability::AddPath(_)));
        let own_mode = match (receive, send) {
            (true, true) => AddPathMode::Both,
            (true, false) => AddPathMode::Receive,
            _ => AddPathMode::Send,
        };
        assert_eq!(offered, Some(Capability::AddPath(vec![(1, 1, own_mode)])));
        let mut capabilities = vec![Capability::MultiProtocol(1, 1), Capability::FourOctetAs(asn(1))];
        capabilities
            .extend(mode.map(|mode| Capability::AddPath(vec![(2, 1, AddPathMode::Both), (1, 1, mode)])));
        let open =
            Open { asn: asn(1), hold_time_s: 0, router_id: RouterId([10, 0, 0, 11].into()), capabilities };
        speaker.handle(Input::Bytes(peer, conn, open.encode()), now);
        speaker.handle(Input::Bytes(peer, conn, encode_keepalive()), now);
        let negotiated = speaker.peer(peer).unwrap().negotiated.unwrap();
        let set = |is: bool| is.then_some(V4).into_iter().collect::<FamilySet>();
        let (received, sent) = (negotiated.add_path_received, negotiated.add_path_sent);
        assert_eq!((received, sent), (set(agreed.0), set(agreed.1)), "{mode:?}");
    }
}
