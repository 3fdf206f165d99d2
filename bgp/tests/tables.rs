//! The tables against a plain model: whatever neighbours announce, withdraw, refuse to read, lose or ask for again, the
//! same path is selected as by going through the steps of RFC 4271 §9.1.2.2 one after the other, and every neighbour
//! ends up with the routes that it should have, judged by the octets that it was sent.
//!
//! ```text
//!   0, 1 external ─┐
//!   2, 3 internal ─┴─ speaker, AS 65000           0, 1 have the same rules, 2 is a client of a reflector, 3 is not
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;
use watari_bgp::speaker::{SEND_CREDIT, SETTLE_MS, Speaker, SpeakerConfig};
use watari_bgp::wire::{
    Capability, EncodeContext, GracefulRestart, MessageType, Open, ParseContext, RouteRefresh, Update,
    encode_announce, encode_end_of_rib, encode_keepalive, encode_withdraw, next_frame,
};
use watari_bgp::*;

const PEERS: usize = 4;
const PREFIXES: usize = 12;
const OWN: Asn = Asn(65_000);
const CONTEXT: EncodeContext = EncodeContext { four_octet_as: true, message_limit: 4_096 };

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// A neighbour announces some prefixes, a bit each, with one of a few sets of attributes.
    Announce(usize, u16, usize),
    Withdraw(usize, u16),
    /// The connection is lost: its routes are kept, and are stale.
    Lose(usize),
    /// It is back, and has sent everything that it has.
    Return(usize),
    /// Nothing that it is sent is reported written.
    Stall(usize),
    Read(usize),
    Refresh(usize),
    /// It is told a part of the prefixes, or all.
    Filter(usize, bool),
    Originate(usize),
    Unoriginate(usize),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let peer = 0..PEERS;
    let some = any::<u16>();
    let step = prop_oneof![
        6 => (peer.clone(), some, 0..6_usize).prop_map(|(p, s, a)| Step::Announce(p, s, a)),
        3 => (peer.clone(), some).prop_map(|(p, s)| Step::Withdraw(p, s)),
        1 => peer.clone().prop_map(Step::Lose),
        1 => peer.clone().prop_map(Step::Return),
        1 => peer.clone().prop_map(Step::Stall),
        1 => peer.clone().prop_map(Step::Read),
        1 => peer.clone().prop_map(Step::Refresh),
        1 => (peer, any::<bool>()).prop_map(|(p, all)| Step::Filter(p, all)),
        1 => (0..PREFIXES).prop_map(Step::Originate),
        1 => (0..PREFIXES).prop_map(Step::Unoriginate),
        1 => (0..300_u64).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..80)
}

fn prefix(n: usize) -> ipnet::IpNet {
    format!("198.51.{n}.0/24").parse().unwrap()
}

fn chosen(bits: u16) -> Vec<usize> {
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

fn attributes(peer: usize, variant: usize) -> PathAttributes {
    let own = is_external(peer).then(|| asn(peer));
    let far = match variant {
        0 | 4 => vec![Asn(100)],
        1 => vec![Asn(100), Asn(200)],
        _ => vec![Asn(200)],
    };
    PathAttributes {
        as_path: AsPath::sequence(own.into_iter().chain(far)),
        next_hop: Some(NextHop::V4(address(peer).into())),
        origin: if variant == 2 { Origin::Egp } else { Origin::Igp },
        med: (variant >= 3).then_some(10 * variant as u32),
        local_pref: (!is_external(peer)).then_some(100),
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
    has: BTreeMap<ipnet::IpNet, PathAttributes>,
    /// How many announcements it has read.
    announcements: usize,
    end_of_rib: bool,
    narrow: bool,
    /// The model: what it announced, as long as it counts.
    told: BTreeMap<usize, usize>,
}

struct Run {
    speaker: Speaker,
    now: Instant,
    peers: Vec<Peer>,
    local: BTreeMap<usize, ()>,
    conns: u64,
    /// Inputs are settled one by one, or when time passes.
    eager: bool,
}

fn config(peer: usize, narrow: bool) -> PeerConfig {
    let ends = ((IpAddr::from([10, 0, 0, 1]), OWN), (IpAddr::from(address(peer)), asn(peer)));
    let mut config = PeerConfig::new(InstanceId(0), ends.0, ends.1);
    config.families = vec![Family::Ipv4Unicast];
    config.policy = Policy::accept_all();
    config.passive = true;
    config.hold_time_s = 0;
    config.route_reflector_client = peer == 2;
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
            local: BTreeMap::new(),
            conns: 0,
            eager,
        };
        for peer in 0..PEERS {
            run.input(Input::AddPeer(PeerId(peer as u32), Box::new(config(peer, false))));
            run.connect(peer);
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
        let mut rest = &octets[..];
        while let Some(frame) = next_frame(rest, 4_096).unwrap() {
            if frame.kind == MessageType::Update {
                let ctx = ParseContext { internal: !is_external(n), peer_asn: OWN, four_octet_as: true };
                let update = Update::decode(frame.body, &ctx).unwrap();
                assert!(!update.treat_as_withdraw && update.discarded == 0);
                if update.end_of_rib().is_some() {
                    peer.end_of_rib = true;
                }
                for route in update.withdrawn.map(Result::unwrap) {
                    peer.has.remove(&route.key.as_prefix().unwrap());
                }
                for route in update.announced.map(Result::unwrap) {
                    peer.announcements += 1;
                    peer.has.insert(route.key.as_prefix().unwrap(), update.attrs.clone());
                }
            }
            rest = &rest[frame.len..];
        }
        assert!(rest.is_empty());
        self.input(Input::Written(PeerId(n as u32), conn, written));
    }

    fn connect(&mut self, n: usize) {
        if self.peers[n].conn.is_some() {
            return;
        }
        self.conns += 1;
        let (peer, conn) = (PeerId(n as u32), ConnId(self.conns));
        let fresh = Peer { conn: Some(conn), narrow: self.peers[n].narrow, ..Peer::default() };
        let told = std::mem::replace(&mut self.peers[n], fresh).told;
        self.input(Input::TcpAccepted(peer, conn));
        let graceful = GracefulRestart {
            restarted: !told.is_empty(),
            notification: true,
            restart_time_s: 4_000,
            families: vec![(1, 1, true)],
        };
        let open = Open {
            asn: asn(n),
            hold_time_s: 0,
            router_id: RouterId(address(n).into()),
            capabilities: vec![
                Capability::MultiProtocol(1, 1),
                Capability::FourOctetAs(asn(n)),
                Capability::RouteRefresh,
                Capability::GracefulRestart(graceful),
            ],
        };
        self.peers[n].told = told;
        self.input(Input::Bytes(peer, conn, open.encode()));
        self.input(Input::Bytes(peer, conn, encode_keepalive()));
    }

    fn say(&mut self, n: usize, messages: Vec<Vec<u8>>) {
        if let Some(conn) = self.peers[n].conn {
            self.input(Input::Bytes(PeerId(n as u32), conn, messages.concat()));
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Announce(n, bits, variant) if self.peers[n].conn.is_some() => {
                let routes: Vec<Nlri> = chosen(bits).into_iter().map(|p| prefix(p).into()).collect();
                let attrs = attributes(n, variant);
                self.peers[n].told.extend(chosen(bits).into_iter().map(|p| (p, variant)));
                self.say(n, encode_announce(Family::Ipv4Unicast, &attrs, &routes, &CONTEXT).unwrap());
            }
            Step::Withdraw(n, bits) if self.peers[n].conn.is_some() => {
                let routes: Vec<Nlri> = chosen(bits).into_iter().map(|p| prefix(p).into()).collect();
                self.peers[n].told.retain(|p, _| bits & (1 << p) == 0);
                self.say(n, encode_withdraw(Family::Ipv4Unicast, &routes, &CONTEXT));
            }
            Step::Announce(..) | Step::Withdraw(..) => {}
            Step::Lose(n) => {
                if let Some(conn) = self.peers[n].conn.take() {
                    self.input(Input::TcpClosed(PeerId(n as u32), conn));
                }
            }
            Step::Return(n) => self.come_back(n),
            Step::Stall(n) => self.peers[n].stalled = true,
            Step::Read(n) => {
                self.peers[n].stalled = false;
                self.read(n);
            }
            Step::Refresh(n) => self.say(n, vec![RouteRefresh { afi: 1, subtype: 0, safi: 1 }.encode()]),
            Step::Filter(n, all) => {
                self.peers[n].narrow = !all;
                self.input(Input::UpdatePeer(PeerId(n as u32), Box::new(config(n, !all))));
            }
            Step::Originate(p) => {
                self.local.insert(p, ());
                let attrs = Box::new(local());
                self.input(Input::Originate { instance: InstanceId(0), nlri: prefix(p).into(), attrs });
            }
            Step::Unoriginate(p) => {
                self.local.remove(&p);
                self.input(Input::Withdraw { instance: InstanceId(0), key: Key::prefix(prefix(p)) });
            }
            Step::Wait(ms) => self.wait(ms),
        }
    }

    /// It announces again every second one of what it had, and that is all.
    fn come_back(&mut self, n: usize) {
        if self.peers[n].conn.is_some() {
            return;
        }
        self.connect(n);
        let kept: BTreeMap<usize, usize> =
            self.peers[n].told.iter().filter(|(p, _)| **p % 2 == 0).map(|(p, v)| (*p, *v)).collect();
        for (p, variant) in &kept {
            let routes = [prefix(*p).into()];
            let messages = encode_announce(Family::Ipv4Unicast, &attributes(n, *variant), &routes, &CONTEXT);
            self.say(n, messages.unwrap());
        }
        self.say(n, vec![encode_end_of_rib(Family::Ipv4Unicast)]);
        self.peers[n].told = kept;
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

/// A path of the model: who told it (`PEERS` is the speaker itself), with which attributes.
type Told = (usize, PathAttributes);

/// RFC 4271 §9.1.2.2, one step after the other.
fn select(mut left: Vec<Told>) -> Option<Told> {
    let keep = |left: &mut Vec<Told>, rank: &dyn Fn(&Told) -> i64| {
        let best = left.iter().map(rank).min();
        left.retain(|path| Some(rank(path)) == best);
    };
    keep(&mut left, &|(n, _)| i64::from(*n != PEERS));
    keep(&mut left, &|(_, a)| -i64::from(a.local_pref.unwrap_or(100)));
    keep(&mut left, &|(_, a)| a.as_path.hops() as i64);
    keep(&mut left, &|(_, a)| a.origin as i64);
    let before = left.clone();
    let med = |a: &PathAttributes| a.med.unwrap_or(0);
    left.retain(|(_, a)| {
        !before.iter().any(|(_, b)| a.as_path.neighbor() == b.as_path.neighbor() && med(b) < med(a))
    });
    keep(&mut left, &|(n, _)| i64::from(!is_external(*n)));
    keep(&mut left, &|(n, _)| *n as i64);
    left.into_iter().next()
}

/// What neighbour `to` should have of a selected path.
fn passed_on(to: usize, narrow: bool, p: usize, (from, attrs): &Told) -> Option<PathAttributes> {
    let internal = *from < PEERS && !is_external(*from);
    let hidden = attrs.communities.contains(&Community::NO_EXPORT) && is_external(to);
    let not_reflected = internal && !is_external(to) && *from != 2 && to != 2;
    if *from == to || hidden || not_reflected || (narrow && p >= PREFIXES / 2) {
        return None;
    }
    let own_next_hop = is_external(to) || *from == PEERS;
    let mut sent = attrs.clone();
    if own_next_hop {
        sent.next_hop = Some(NextHop::V4([10, 0, 0, 1].into()));
    }
    if is_external(to) {
        sent.as_path = sent.as_path.prepended(OWN);
        (sent.med, sent.local_pref) = (None, None);
    } else {
        sent.local_pref = Some(sent.local_pref.unwrap_or(100));
        if internal {
            sent.originator_id = Some(RouterId(address(*from).into()));
            sent.cluster_list = vec![[10, 0, 0, 1].into()];
        }
    }
    Some(sent)
}

fn check(run: &Run) {
    let mut should: Vec<BTreeMap<ipnet::IpNet, PathAttributes>> = vec![BTreeMap::new(); PEERS];
    for p in 0..PREFIXES {
        let told = run.peers.iter().enumerate().filter_map(|(n, peer)| Some((n, *peer.told.get(&p)?)));
        let mut paths: Vec<Told> = told.map(|(n, variant)| (n, attributes(n, variant))).collect();
        paths.extend(run.local.contains_key(&p).then(|| (PEERS, local())));
        let entry = run.speaker.entry(InstanceId(0), &Key::prefix(prefix(p)));
        assert_eq!(entry.as_ref().map_or(0, |e| e.candidates.len()), paths.len(), "paths of {}", prefix(p));
        let best = entry.and_then(|e| e.best.map(|at| e.candidates[at].clone()));
        let wanted = select(paths);
        let source = |n| if n == PEERS { Source::Local } else { Source::Peer(PeerId(n as u32)) };
        assert_eq!(
            best.map(|b| (b.source, (*b.attrs).clone())),
            wanted.as_ref().map(|(n, attrs)| (source(*n), attrs.clone())),
            "best of {}",
            prefix(p)
        );
        for (n, peer) in run.peers.iter().enumerate() {
            if let Some(attrs) = wanted.as_ref().and_then(|best| passed_on(n, peer.narrow, p, best)) {
                should[n].insert(prefix(p), attrs);
            }
        }
    }
    for (n, peer) in run.peers.iter().enumerate().filter(|(_, peer)| peer.conn.is_some()) {
        assert_eq!(peer.has, should[n], "what neighbour {n} has");
        assert!(peer.end_of_rib, "neighbour {n} waits for the end");
        let told = run.speaker.advertised(PeerId(n as u32), Family::Ipv4Unicast);
        let told: BTreeMap<_, _> =
            told.into_iter().map(|a| (a.key.as_prefix().unwrap(), (*a.attrs).clone())).collect();
        assert_eq!(told, should[n], "what neighbour {n} is said to have");
        assert_eq!(run.speaker.peer(PeerId(n as u32)).unwrap().advertised, should[n].len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_neighbour_has_what_it_should(steps in steps(), eager in any::<bool>()) {
        let mut run = Run::new(eager);
        for step in &steps {
            run.step(step);
        }
        run.rest();
        check(&run);
        // Everybody comes back, and everything that is new is withdrawn again.
        for n in 0..PEERS {
            run.step(&Step::Return(n));
            run.step(&Step::Withdraw(n, u16::MAX));
        }
        run.rest();
        check(&run);
    }
}

/// What changes while input is waiting is told once, but it does not wait for ever.
#[test]
fn ten_neighbours_with_one_table_make_one_announcement_a_prefix() {
    let announcements = |eager, pause_ms| {
        let mut run = Run::new(eager);
        // Each time another path is the best one.
        for (n, variant) in [(0, 3), (0, 1), (1, 2), (1, 0), (0, 0)] {
            run.step(&Step::Announce(n, u16::MAX, variant));
            run.now = run.now + pause_ms;
        }
        run.rest();
        check(&run);
        run.peers[3].announcements
    };
    assert_eq!(announcements(false, 0), PREFIXES);
    assert_eq!(announcements(false, SETTLE_MS / 5), PREFIXES);
    assert!(announcements(true, 0) > 2 * PREFIXES);
    assert!(announcements(false, SETTLE_MS) > 2 * PREFIXES);
}

/// What leaves no room for a route once our AS is in front is withdrawn instead; the session stays.
#[test]
fn attributes_that_are_too_large_to_pass_on_withdraw_their_routes() {
    let mut run = Run::new(true);
    run.step(&Step::Announce(2, 1, 0));
    assert_eq!(run.peers[0].has.len(), 1);
    let communities = (0..1_004).map(Community).collect();
    let large = PathAttributes { communities, ..attributes(2, 0) };
    let roomy = EncodeContext { message_limit: 4_200, ..CONTEXT };
    let messages = encode_announce(Family::Ipv4Unicast, &large, &[prefix(0).into()], &roomy).unwrap();
    assert!(messages[0].len() <= 4_096);
    run.say(2, messages);
    assert!(run.peers[0].has.is_empty());
    // Nor does somebody get it who comes later.
    run.step(&Step::Lose(1));
    run.step(&Step::Return(1));
    assert!(run.peers[1].end_of_rib && run.peers[1].has.is_empty());
    assert!(
        run.peers[0].conn.is_some() && run.speaker.entry(InstanceId(0), &Key::prefix(prefix(0))).is_some()
    );
    run.step(&Step::Announce(2, 1, 0));
    assert!(run.peers[0].has.len() == 1 && run.peers[1].has.len() == 1);
}

/// More routes than any queue takes.
const FLOOD: u32 = 80_000;

fn flood(run: &mut Run, from: u32) {
    let routes: Vec<Nlri> = (from..from + FLOOD)
        .map(|n| ipnet::IpNet::new([10, (n >> 16) as u8, (n >> 8) as u8, n as u8].into(), 32).unwrap().into())
        .collect();
    let messages = encode_announce(Family::Ipv4Unicast, &attributes(3, 0), &routes, &CONTEXT).unwrap();
    run.say(3, messages);
}

#[test]
fn a_stuck_neighbour_costs_the_others_one_wait() {
    let mut run = Run::new(true);
    run.step(&Step::Stall(1));
    flood(&mut run, 0);
    assert!(run.peers[0].has.len() < FLOOD as usize, "it waits for the other");
    run.wait(100);
    assert_eq!(run.peers[0].has.len(), FLOOD as usize);
    flood(&mut run, FLOOD);
    assert_eq!(run.peers[0].has.len(), 2 * FLOOD as usize, "it waits no more");
    assert!(run.peers[1].unwritten <= SEND_CREDIT + 128 * 1024, "{} octets", run.peers[1].unwritten);
    // What comes and goes meanwhile is not told at all.
    run.step(&Step::Announce(2, u16::MAX, 0));
    run.step(&Step::Withdraw(2, u16::MAX));
    let before = run.peers[1].announcements;
    run.rest();
    check_equal(&run);
    assert_eq!(run.peers[1].announcements - before, 2 * FLOOD as usize);
    // It keeps up again.
    run.step(&Step::Announce(2, 1, 0));
    check_equal(&run);
    assert_eq!(run.peers[1].has.len(), 2 * FLOOD as usize + 1);
}

fn check_equal(run: &Run) {
    assert!(run.peers[0].has == run.peers[1].has, "{} {}", run.peers[0].has.len(), run.peers[1].has.len());
}
