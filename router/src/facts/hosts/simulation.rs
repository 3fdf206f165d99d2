//! Many gateways, hosts that move at random, and sessions between the gateways that delay, break and resume.
//! The clock is a number, so the same seed is the same run.

use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::net::Ipv4Addr;

use super::whole::Decision;
use super::*;

const GATEWAYS: usize = 5;
const PORTS: u64 = 3;
const HOSTS: usize = 24;
const VIPS: usize = 4;
/// The first hosts exist twice, at two gateways.
const TWINS: usize = 3;
/// Local entries live that long without a frame.
const AGE_S: u64 = 300;
/// Seconds in which everything moves and breaks.
const CHAOS_S: u64 = 1200;
/// Seconds in which only twins disturb: longer than the first three freezes.
const QUIET_S: u64 = 3000;

/// A route's key: segment, MAC, address.
type Route = (Vni, MacAddr, Option<IpAddr>);
type Routes = BTreeMap<Route, u32>;

#[derive(Clone, Debug, Hash)]
enum Message {
    Update(Route, Option<u32>),
    /// Everything was told again: what was not is gone (End-of-RIB, RFC 4724 section 2).
    Complete,
}

/// What one gateway was told by one other.
#[derive(Default)]
struct Session {
    down_until: Option<u64>,
    queue: VecDeque<(u64, Message)>,
    heard: Routes,
    /// Heard before the session broke and not told again.
    stale: BTreeSet<Route>,
}

struct Gateway {
    hosts: Hosts,
    /// Decides the same by looks at what has changed only.
    by_changes: Hosts,
    /// What the last look was at.
    before: (Seen, Claims),
    /// What was forgotten since.
    forgotten: Dirty,
    mac_local: BTreeMap<Station, (PortKey, u64)>,
    nb_local: BTreeMap<Address, (MacAddr, PortKey, u64)>,
    told: Routes,
}

struct World {
    random: u64,
    now: u64,
    gateways: Vec<Gateway>,
    /// By receiver and sender.
    sessions: BTreeMap<(usize, usize), Session>,
    /// Where each host is: gateway and port; a twin is at the second place too.
    places: Vec<Vec<(usize, PortKey)>>,
    /// Which host has each shared address.
    owners: Vec<usize>,
    digest: DefaultHasher,
    /// Updates about each host's MAC.
    updates: BTreeMap<MacAddr, u64>,
}

fn vni() -> Vni {
    Vni::new(1000).unwrap()
}

fn vtep(gateway: usize) -> IpAddr {
    Ipv4Addr::new(10, 255, 0, gateway as u8 + 1).into()
}

fn mac(host: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 1, host as u8])
}

fn own_ip(host: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, host as u8).into()
}

fn vip(number: usize) -> IpAddr {
    Ipv4Addr::new(10, 0, 1, number as u8).into()
}

/// The keys under which two maps differ.
fn differing<K: Ord + Copy, V: PartialEq>(a: &BTreeMap<K, V>, b: &BTreeMap<K, V>) -> BTreeSet<K> {
    a.keys().chain(b.keys()).filter(|key| a.get(*key) != b.get(*key)).copied().collect()
}

impl Gateway {
    /// What is learnt again after it was forgotten is new, be it as it was.
    fn forget(&mut self, decision: &Decision) {
        let seen = &mut self.before.0;
        let is_gone = |address: &Address, mac: MacAddr| {
            decision.forget.contains(&(address.0, mac))
                || decision.forget_addresses.contains(&(*address, mac))
        };
        let stations = seen.stations.extract_if(.., |station, _| decision.forget.contains(station));
        self.forgotten.stations.extend(stations.map(|(station, _)| station));
        let addresses = seen.addresses.extract_if(.., |address, n| is_gone(address, n.mac));
        self.forgotten.addresses.extend(addresses.map(|(address, _)| address));
    }

    fn dirty(&mut self, seen: &Seen, claims: &Claims) -> Dirty {
        let (seen_before, claims_before) = &self.before;
        let Dirty { mut stations, mut addresses } = std::mem::take(&mut self.forgotten);
        stations.extend(differing(&seen_before.stations, &seen.stations));
        stations.extend(differing(&claims_before.stations, &claims.stations));
        addresses.extend(differing(&seen_before.addresses, &seen.addresses));
        addresses.extend(differing(&claims_before.addresses, &claims.addresses));
        Dirty { stations, addresses }
    }
}

impl World {
    fn new(seed: u64, limits: DampingLimits) -> Self {
        let gateway = |n| Gateway {
            hosts: Hosts::new(vtep(n), limits),
            by_changes: Hosts::new(vtep(n), limits),
            before: Default::default(),
            forgotten: Dirty::default(),
            mac_local: BTreeMap::new(),
            nb_local: BTreeMap::new(),
            told: Routes::new(),
        };
        let pairs = (0..GATEWAYS).flat_map(|a| (0..GATEWAYS).map(move |b| (a, b))).filter(|(a, b)| a != b);
        let mut world = Self {
            random: seed,
            now: 0,
            gateways: (0..GATEWAYS).map(gateway).collect(),
            sessions: pairs.map(|pair| (pair, Session::default())).collect(),
            places: Vec::new(),
            owners: (0..VIPS).map(|n| TWINS + n).collect(),
            digest: DefaultHasher::new(),
            updates: BTreeMap::new(),
        };
        for host in 0..HOSTS {
            let first = (world.below(GATEWAYS as u64) as usize, world.port());
            let twin = ((first.0 + 1) % GATEWAYS, world.port());
            world.places.push(if host < TWINS { vec![first, twin] } else { vec![first] });
        }
        world
    }

    /// A number below `limit` (splitmix64).
    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn port(&mut self) -> PortKey {
        PortKey::vlan(1, 100 + self.below(PORTS) as u16)
    }

    fn chaos(&mut self) {
        for host in TWINS..HOSTS {
            // On the average a move in two minutes, one in four of them to another port only.
            if self.below(120) == 0 {
                let gateway = if self.below(4) == 0 {
                    self.places[host][0].0 as u64
                } else {
                    self.below(GATEWAYS as u64)
                };
                self.places[host] = vec![(gateway as usize, self.port())];
            }
        }
        for n in 0..VIPS {
            if self.below(150) == 0 {
                self.owners[n] = TWINS + self.below((HOSTS - TWINS) as u64) as usize;
            }
        }
        if self.below(40) == 0 {
            let (a, b) = (self.below(GATEWAYS as u64) as usize, self.below(GATEWAYS as u64) as usize);
            let (until, keeps) = (self.now + 5 + self.below(60), self.below(2) == 0);
            for pair in [(a, b), (b, a)] {
                let Some(session) = self.sessions.get_mut(&pair) else { continue };
                session.queue.clear();
                session.down_until = Some(until);
                if keeps {
                    session.stale = session.heard.keys().copied().collect();
                } else {
                    session.heard.clear();
                }
            }
        }
    }

    /// A host sends a frame, and says whose its addresses are.
    fn speak(&mut self, host: usize) {
        let now = self.now;
        let owned = (0..VIPS).filter(|n| self.owners[*n] == host).map(vip);
        let addresses: Vec<IpAddr> = owned.chain([own_ip(host)]).collect();
        for (gateway, port) in &self.places[host] {
            let gateway = &mut self.gateways[*gateway];
            // As the datapath does: what is frozen at a port is heard there alone.
            if gateway.hosts.frozen_at().get(&(vni(), mac(host))).is_some_and(|at| at != port) {
                continue;
            }
            let before = gateway.mac_local.insert((vni(), mac(host)), (*port, now));
            if before.is_some_and(|(old, _)| old != *port) {
                gateway.hosts.port_moved((vni(), mac(host)));
                gateway.by_changes.port_moved((vni(), mac(host)));
            }
            for ip in &addresses {
                gateway.nb_local.insert((vni(), *ip), (mac(host), *port, now));
            }
        }
    }

    fn deliver(&mut self) {
        let mut resumed = Vec::new();
        for (pair, session) in &mut self.sessions {
            match session.down_until {
                Some(until) if until > self.now => continue,
                Some(_) => {
                    session.down_until = None;
                    resumed.push(*pair);
                }
                None => {}
            }
            while session.queue.front().is_some_and(|(at, _)| *at <= self.now) {
                match session.queue.pop_front().unwrap().1 {
                    Message::Update(route, Some(sequence)) => {
                        session.heard.insert(route, sequence);
                        session.stale.remove(&route);
                    }
                    Message::Update(route, None) => drop(session.heard.remove(&route)),
                    Message::Complete => {
                        for route in std::mem::take(&mut session.stale) {
                            session.heard.remove(&route);
                        }
                    }
                }
            }
        }
        for (to, from) in resumed {
            let all: Vec<_> = self.gateways[from].told.iter().map(|(r, n)| (*r, *n)).collect();
            for (route, sequence) in all {
                self.send(to, from, Message::Update(route, Some(sequence)));
            }
            self.send(to, from, Message::Complete);
        }
    }

    /// Order is kept within a session; between sessions it is not.
    fn send(&mut self, to: usize, from: usize, message: Message) {
        (self.now, to, from, &message).hash(&mut self.digest);
        let at = self.now + self.below(4);
        let session = self.sessions.get_mut(&(to, from)).unwrap();
        if session.down_until.is_none() {
            let at = session.queue.back().map_or(at, |(last, _)| at.max(*last));
            session.queue.push_back((at, message));
        }
    }

    fn claims(&self, at: usize) -> Claims {
        let mut told = Vec::new();
        for ((_, from), session) in self.sessions.range((at, 0)..(at + 1, 0)) {
            told.extend(session.heard.iter().map(|((vni, mac, ip), sequence)| Told {
                station: (*vni, *mac),
                ip: *ip,
                claim: Claim { sticky: false, sequence: *sequence, vtep: vtep(*from) },
                flags: None,
            }));
        }
        Claims::of(&told)
    }

    fn look(&mut self, at: usize) {
        let (now, claims) = (self.now, self.claims(at));
        let gateway = &mut self.gateways[at];
        gateway.mac_local.retain(|_, (_, heard)| now - *heard < AGE_S);
        gateway.nb_local.retain(|_, (_, _, heard)| now - *heard < AGE_S);
        let neighbour = |(mac, port, _): &(MacAddr, PortKey, u64)| Neighbour {
            mac: *mac,
            port: *port,
            flags: NeighbourFlags::default(),
        };
        let seen = Seen {
            stations: gateway.mac_local.iter().map(|(s, (port, _))| (*s, *port)).collect(),
            addresses: gateway.nb_local.iter().map(|(a, entry)| (*a, neighbour(entry))).collect(),
            pinned: BTreeSet::new(),
        };
        let now = Instant::from_millis(now * 1000);
        let decision = gateway.hosts.decide(now, &seen, &claims);
        let mut dirty = gateway.dirty(&seen, &claims);
        let change = gateway.by_changes.look(now, &seen, &claims, &mut dirty);
        assert_eq!(gateway.by_changes.outcome(), gateway.hosts.outcome(), "at {now:?}");
        assert_eq!(change.forget, decision.forget, "at {now:?}");
        assert_eq!(change.forget_addresses, decision.forget_addresses, "at {now:?}");
        for (station, port) in gateway.hosts.frozen_at() {
            assert_eq!(seen.stations.get(station), Some(port), "frozen where it is, at {now:?}");
            let is_frozen = gateway.hosts.duplicates().any(|d| d.subject == Subject::Station(*station));
            assert!(is_frozen, "at {now:?}");
        }
        gateway.before = (seen, claims);
        gateway.forget(&decision);
        for station in &decision.forget {
            gateway.mac_local.remove(station);
            gateway.nb_local.retain(|_, (mac, ..)| *mac != station.1);
        }
        for (address, mac) in &decision.forget_addresses {
            if gateway.nb_local.get(address).is_some_and(|(m, ..)| m == mac) {
                gateway.nb_local.remove(address);
            }
        }
        let mut told: Routes = decision.advertise.iter().map(|((v, m), n)| ((*v, *m, None), *n)).collect();
        for ((vni, ip), (mac, _)) in &decision.addresses {
            told.insert((*vni, *mac, Some(*ip)), decision.advertise[&(*vni, *mac)]);
        }
        let old = std::mem::replace(&mut gateway.told, told.clone());
        let mut changes: Vec<_> =
            told.iter().filter(|(r, n)| old.get(*r) != Some(*n)).map(|(r, n)| (*r, Some(*n))).collect();
        changes.extend(old.keys().filter(|r| !told.contains_key(*r)).map(|r| (*r, None)));
        for (route, sequence) in changes {
            *self.updates.entry(route.1).or_default() += 1;
            for to in (0..GATEWAYS).filter(|to| *to != at) {
                self.send(to, at, Message::Update(route, sequence));
            }
        }
    }

    fn run(&mut self, seconds: u64, is_chaos: bool) {
        for _ in 0..seconds {
            self.now += 1;
            if is_chaos {
                self.chaos();
            }
            for host in 0..HOSTS {
                // Twins never stop talking.
                if host < TWINS || self.below(20) == 0 {
                    self.speak(host);
                }
            }
            self.deliver();
            for at in 0..GATEWAYS {
                self.look(at);
            }
        }
    }

    /// Gateways that advertise the route.
    fn tellers(&self, route: Route) -> Vec<usize> {
        (0..GATEWAYS).filter(|at| self.gateways[*at].told.contains_key(&route)).collect()
    }

    fn check(&self, seed: u64) {
        let owned = (0..VIPS).map(|n| (self.owners[n], vip(n)));
        let bindings: Vec<_> = (TWINS..HOSTS).map(|host| (host, own_ip(host))).chain(owned).collect();
        for host in TWINS..HOSTS {
            let (home, _) = self.places[host][0];
            assert_eq!(self.tellers((vni(), mac(host), None)), [home], "seed {seed}: host {host}");
            for at in (0..GATEWAYS).filter(|at| *at != home) {
                let station = (vni(), mac(host));
                let winner = self.claims(at).stations.get(&station).map(|c| c.vtep);
                assert_eq!(winner, Some(vtep(home)), "seed {seed}: host {host} as gateway {at} sees it");
                let stale = self.gateways[at].mac_local.contains_key(&station);
                assert!(!stale, "seed {seed}: gateway {at} still has host {host}");
            }
        }
        for (host, ip) in bindings {
            let (home, _) = self.places[host][0];
            for other in 0..HOSTS {
                let wanted = if other == host { vec![home] } else { vec![] };
                let tellers = self.tellers((vni(), mac(other), Some(ip)));
                assert_eq!(tellers, wanted, "seed {seed}: {ip}, host {host}, told with host {other}");
            }
        }
        for twin in 0..TWINS {
            let tellers = self.tellers((vni(), mac(twin), None));
            assert!(tellers.len() <= 1, "seed {seed}: twin {twin} at {tellers:?}");
        }
    }
}

fn twin_updates(world: &World) -> u64 {
    (0..TWINS).filter_map(|twin| world.updates.get(&mac(twin))).sum()
}

#[test]
fn after_quiet_each_host_is_advertised_once_and_where_it_is() {
    for seed in 0..6 {
        let mut world = World::new(seed, DampingLimits::default());
        world.run(CHAOS_S, true);
        world.updates.clear();
        world.run(QUIET_S, false);
        world.check(seed);
        // Each twin may have thawed a few times, with a handful of moves each time.
        let updates = twin_updates(&world);
        assert!(updates < 60 * TWINS as u64, "seed {seed}: {updates} updates about {TWINS} twins");
        let frozen = |twin| {
            let subject = Subject::Station((vni(), mac(twin)));
            world.gateways.iter().any(|g| g.hosts.duplicates().any(|d| d.subject == subject))
        };
        assert!((0..TWINS).all(frozen), "seed {seed}: a twin is not frozen");
        let others = world.gateways.iter().flat_map(|g| g.hosts.duplicates());
        let others =
            others.filter(|d| (TWINS..HOSTS).any(|h| d.subject == Subject::Station((vni(), mac(h)))));
        assert_eq!(others.count(), 0, "seed {seed}: somebody else is still frozen");
    }
}

/// Two machines with one MAC on two ports of one gateway.
#[test]
fn a_pair_at_one_gateway_stays_at_one_port_while_it_is_frozen() {
    let station = (vni(), mac(TWINS));
    let mut world = World::new(3, DampingLimits::default());
    world.places[TWINS] = vec![(0, PortKey::vlan(1, 100)), (0, PortKey::vlan(1, 101))];
    let at = |world: &World| world.gateways[0].mac_local.get(&station).map(|(port, _)| *port);
    let mut freezes = 0;
    while freezes < 2 {
        let until_frozen = (0..600).find(|_| {
            world.run(1, false);
            world.speak(TWINS);
            world.gateways[0].hosts.frozen_at().contains_key(&station)
        });
        assert!(until_frozen.is_some(), "not frozen for the {freezes}th time");
        freezes += 1;
        let port = world.gateways[0].hosts.frozen_at()[&station];
        while world.gateways[0].hosts.frozen_at().contains_key(&station) {
            assert_eq!(at(&world), Some(port), "freeze {freezes}");
            world.run(1, false);
            world.speak(TWINS);
        }
        assert!(world.now > 540 * ((1 << freezes) - 1), "it ended early: {} s", world.now);
    }
    assert_eq!(world.tellers((station.0, station.1, None)), [0], "and is always told by its gateway");
}

#[test]
fn without_damping_twins_would_never_be_quiet() {
    let limits = DampingLimits { moves: usize::MAX, ..DampingLimits::default() };
    let mut world = World::new(1, limits);
    world.run(600, false);
    assert!(twin_updates(&world) > 200 * TWINS as u64, "{}", twin_updates(&world));
}

#[test]
fn the_same_seed_is_the_same_run() {
    let run = |seed| {
        let mut world = World::new(seed, DampingLimits::default());
        world.run(400, true);
        world.digest.finish()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}
