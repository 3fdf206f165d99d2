//! Tenants never meet: whatever comes in, from whichever port, no port and no VNI of another tenant sees it. Frames are
//! random and adversarial, and mutations of a corpus that is kept in `corpus/`, cut and lengthened at every byte. Needs root.
//!
//! `WATARI_FUZZ_FRAMES` says how many random frames (20,000 if not set), `WATARI_FUZZ_SEED` from which seed; the seed is
//! printed. Both tenants have the same addresses, a core, nodes, routes and remote hosts.

mod rig;

use std::{collections::BTreeMap, fs, path::Path};

use rig::{frames::*, *};
use watari_dataplane::*;

const CORE_OTHER: PortKey = PortKey::untagged(9101);
const NODES_OTHER: PortKey = PortKey::untagged(9201);
const L3_OTHER: u32 = 5002;
const FRAMES: u64 = 20_000;
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Mutations of each file of the corpus.
const MUTATIONS: usize = 100;
/// Every length up to this.
const LONGEST: usize = 200;

/// Pseudo-random numbers (xorshift64).
struct Random(u64);

impl Random {
    fn new() -> Self {
        let seed = std::env::var("WATARI_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(SEED);
        println!("WATARI_FUZZ_SEED={seed}");
        Self(seed)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
    fn one<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next() as u8).collect()
    }
}

fn tenant_of_port(port: &PortKey) -> Option<u32> {
    [(1, [A, B, C, CORE, NODES]), (2, [OTHER, OTHER_B, OTHER_B, CORE_OTHER, NODES_OTHER])]
        .into_iter()
        .find_map(|(tenant, ports)| ports.contains(port).then_some(tenant))
}

fn tenant_of_vni(vni: u32) -> Option<u32> {
    match vni {
        L2 | L2_SECOND | L3 => Some(1),
        L2_OTHER | L3_OTHER => Some(2),
        _ => None,
    }
}

/// Both tenants with everything a tenant has, and a `direct` tunnel on the wire.
fn scene(name: &str) -> Rig {
    let rig = Rig::new(name);
    second_tenant(&rig).unwrap();
    for (port, vni, mac, last) in [
        (A, L2, HOST_A, 10),
        (B, L2, HOST_B, 11),
        (OTHER, L2_OTHER, HOST_A, 10),
        (OTHER_B, L2_OTHER, HOST_B, 11),
    ] {
        rig.heard(port, vni, mac, &format!("10.0.0.{last}"));
        rig.heard(port, vni, mac, &format!("fd00::{last}"));
    }
    rig.heard(C, L2_SECOND, HOST_C, "10.0.1.12");
    rig
}

fn second_tenant(rig: &Rig) -> Result<(), Error> {
    let d = &rig.dataplane;
    let tenant = Tenant { core_ifindex: CORE_OTHER.ifindex, l3vni: L3_OTHER, core_mac: CORE_MAC, pad: 0 };
    d.tenants.upsert(&2, &tenant)?;
    d.segments.upsert(&L3_OTHER, &Segment::l3(2))?;
    d.ports.upsert(&CORE_OTHER, &Port::core(2))?;
    d.ports.upsert(&NODES_OTHER, &Port::node(2))?;
    for (vni, tenant) in [(L2, 1), (L2_SECOND, 1), (L2_OTHER, 2)] {
        let mut segment = Segment::l2(tenant, 1_000_000, 1_000_000);
        segment.flags |= Segment::FLOOD_UNKNOWN | Segment::PLAIN_DEVICES;
        d.segments.upsert(&vni, &segment)?;
        d.flood_vteps.upsert(&vni, &FloodVteps::new(&[FAR]).unwrap())?;
    }
    let mut wire = Port::cross(WIRE_END);
    wire.flags |= Port::TUNNEL;
    wire.tunnel_ifindex = TUNNEL.ifindex;
    d.ports.upsert(&WIRE, &wire)?;
    let node = NodeKey { ifindex: NODES_OTHER.ifindex, ip: ip_bytes(ip("10.0.0.77")) };
    d.nodes.upsert(&node, &Node { vni: L2_OTHER, mac: NODE_MAC, pad: 0 })?;
    d.mac_static.upsert(&MacKey::new(L2_OTHER, NODE_MAC), &MacStatic { port: NODES_OTHER, is_node: 1 })?;
    let far = MacRemote { vtep: FAR, flags: 0, sequence: 0 };
    d.mac_remote.upsert(&MacKey::new(L2_OTHER, HOST_R), &far)?;
    let neighbour = NeighRemote { mac: HOST_R, flags: NeighRemote::OVERRIDE };
    d.nb_remote.upsert(&NeighKey::new(L2_OTHER, ip("10.0.0.18")), &neighbour)?;
    for gateway in ["10.0.0.1", "fd00::1"] {
        let own = NeighStatic { mac: ANYCAST, flags: NeighStatic::OWN };
        d.nb_static.upsert(&NeighKey::new(L2_OTHER, ip(gateway)), &own)?;
        d.routes.upsert(&Prefix::host(2, ip(gateway)), &Route::own())?;
        let length = if gateway.contains(':') { 64 } else { 24 };
        let route = Route::connected(L2_OTHER, ip(gateway));
        d.routes.upsert(&Prefix::new(2, ip(gateway), length)?, &route)?;
    }
    let remote = Route::remote(RouteOrigin::Evpn, L3_OTHER, FAR, FAR_ROUTER);
    d.routes.upsert(&Prefix::new(2, ip("10.9.0.0"), 16)?, &remote)?;
    d.routes.upsert(&Prefix::host(2, ip("10.0.0.77")), &Route::node(NODES_OTHER.ifindex))?;
    d.routes.upsert(&Prefix::new(2, ip("0.0.0.0"), 0)?, &Route::exit(RouteOrigin::Plan))
}

/// How a frame comes in.
#[derive(Clone, Copy, Debug)]
struct Way {
    hook: Hook,
    port: PortKey,
    vni: u32,
}

impl Way {
    fn port(hook: Hook, port: PortKey) -> Self {
        Self { hook, port, vni: 0 }
    }
    fn vxlan(vni: u32) -> Self {
        Self { hook: Hook::Vxlan, port: VXLAN, vni }
    }
    fn packet<'a>(&self, frame: &'a [u8]) -> Packet<'a> {
        match self.hook {
            Hook::Vxlan => Packet::from_vtep(VXLAN.ifindex, self.vni, FAR, frame),
            hook => Packet::from_port(hook, self.port, frame),
        }
    }
    /// Whose it is: the tenant of the port or of the VNI; on the wire, of the VNI in the VXLAN header.
    fn tenant(&self, frame: &[u8]) -> Option<u32> {
        if self.hook == Hook::Vxlan {
            return tenant_of_vni(self.vni);
        }
        if self.port != WIRE {
            return tenant_of_port(&self.port);
        }
        let at = match frame.get(12..14)? {
            [0x08, 0x00] => 14 + 20 + 8 + 4,
            _ => 14 + 40 + 8 + 4,
        };
        let [a, b, c] = frame.get(at..at + 3)?.try_into().ok()?;
        tenant_of_vni(u32::from_be_bytes([0, a, b, c]))
    }
}

/// Watches what leaves by which port.
struct Watcher<'a> {
    rig: &'a Rig,
    sent: BTreeMap<PortKey, u64>,
    frames: u64,
    verdicts: BTreeMap<&'static str, u64>,
}

impl<'a> Watcher<'a> {
    fn new(rig: &'a Rig) -> Self {
        Self { rig, sent: BTreeMap::new(), frames: 0, verdicts: BTreeMap::new() }
    }

    /// Sends a frame through the pipeline; nothing of it may reach another tenant.
    #[track_caller]
    fn send(&mut self, way: Way, frame: &[u8]) {
        // Every second one by the flow cache, and a second time: then it may be known.
        let by_flow = !self.frames.is_multiple_of(2);
        for _ in 0..=u8::from(by_flow) {
            self.send_one(way, frame, by_flow);
        }
    }

    #[track_caller]
    fn send_one(&mut self, way: Way, frame: &[u8], by_flow: bool) {
        let (packet, d) = (way.packet(frame), &self.rig.dataplane);
        // The kernel refuses a test run with less than an Ethernet header, or an IP header cut in the middle.
        let Ok(outcome) = (if by_flow { d.run_by_flow(&packet) } else { d.run(&packet) }) else {
            self.frames += 1;
            return;
        };
        let tenant = way.tenant(frame);
        let said = || format!("{way:?} of {tenant:?}: {:?} {frame:02x?}", outcome.verdict);
        let kind = match outcome.verdict {
            Verdict::Port(port) if way.port == WIRE || way.port == WIRE_END => {
                let wire = [WIRE, WIRE_END].contains(&port);
                assert!(wire || tenant_of_port(&port) == tenant, "{}", said());
                "port"
            }
            Verdict::Port(port) => {
                assert!(tenant.is_some() && tenant_of_port(&port) == tenant, "{}", said());
                "port"
            }
            Verdict::Vtep { .. } => "vtep",
            Verdict::Flooded { .. } => "flooded",
            Verdict::Drop(_) => "drop",
            _ => "other",
        };
        // A question of our own is copied, although the packet that caused it is dropped.
        let question = Verdict::Drop(DropReason::NeighbourUnknown as u8);
        if matches!(outcome.verdict, Verdict::Vtep { .. } | Verdict::Flooded { .. })
            || outcome.verdict == question
        {
            assert!(tenant.is_some() && tenant_of_vni(outcome.vni) == tenant, "{}", said());
        }
        for (port, stats) in self.rig.dataplane.stats.ports().unwrap() {
            let before = self.sent.insert(port, stats.tx_packets).unwrap_or(0);
            let foreign = tenant_of_port(&port).is_some_and(|owner| Some(owner) != tenant);
            assert!(!foreign || stats.tx_packets == before, "a copy by {port:?}: {}", said());
        }
        self.frames += 1;
        *self.verdicts.entry(kind).or_default() += 1;
    }

    /// What was learnt belongs to the port that it was learnt on, and every kind of end was seen.
    fn finish(self) {
        println!("{} frames: {:?}", self.frames, self.verdicts);
        let d = &self.rig.dataplane;
        for (key, entry) in d.mac_local.entries().unwrap() {
            assert_eq!(tenant_of_vni(key.vni), tenant_of_port(&entry.port), "{key:?} {entry:?}");
        }
        for (key, entry) in d.nb_local.entries().unwrap() {
            assert_eq!(tenant_of_vni(key.vni), tenant_of_port(&entry.port), "{key:?} {entry:?}");
        }
        assert_eq!(self.rig.counters()["drop stage-missing"], 0);
        println!("{} by the flow cache", self.rig.counters()["flow-known"]);
        assert!(self.rig.counters()["flow-known"] > 50);
        for kind in ["port", "vtep", "flooded", "drop"] {
            assert!(self.verdicts.get(kind).copied().unwrap_or(0) > 50, "{kind}: {:?}", self.verdicts);
        }
    }
}

const WAYS: [(Hook, PortKey); 13] = [
    (Hook::Trunk, A),
    (Hook::Trunk, B),
    (Hook::Interface, C),
    (Hook::Trunk, OTHER),
    (Hook::Trunk, OTHER_B),
    (Hook::Core, CORE),
    (Hook::Core, CORE_OTHER),
    (Hook::Node, NODES),
    (Hook::Node, NODES_OTHER),
    (Hook::Trunk, WIRE),
    (Hook::Cross, WIRE_END),
    (Hook::Trunk, PortKey::vlan(100, 99)),
    (Hook::Trunk, PortKey { ifindex: 100, outer: 10, inner: 30 }),
];
const VNIS: [u32; 6] = [L2, L2_SECOND, L2_OTHER, L3, L3_OTHER, 77];
const MACS: [[u8; 6]; 13] = [
    HOST_A,
    HOST_B,
    HOST_C,
    HOST_R,
    ANYCAST,
    ROUTER,
    FAR_ROUTER,
    CORE_MAC,
    NODE_MAC,
    BROADCAST,
    [0x33, 0x33, 0, 0, 0, 1],
    [0; 6],
    [0x01, 0x80, 0xc2, 0, 0, 0],
];
const IPS: [&str; 12] = [
    "10.0.0.1",
    "10.0.0.10",
    "10.0.0.11",
    "10.0.0.18",
    "10.0.0.77",
    "10.0.0.99",
    "10.0.1.12",
    "10.9.0.1",
    "10.255.0.1",
    "10.255.0.2",
    "0.0.0.0",
    "255.255.255.255",
];
const IPS6: [&str; 9] =
    ["fd00::1", "fd00::10", "fd00::11", "fd00::18", "fd00::99", "fe80::1", "::", "ff02::1", "fd09::1"];

/// A frame of a random kind, with another one inside now and then.
fn frame(random: &mut Random, depth: u32) -> Vec<u8> {
    let macs = (random.one(&MACS), random.one(&MACS));
    let (v4, to_v4) = (random.one(&IPS), random.one(&IPS));
    let (v6, to_v6) = (random.one(&IPS6), random.one(&IPS6));
    let hops = random.one(&[0, 1, 2, 64, 255]);
    let length = random.below(120);
    match random.below(if depth == 0 { 11 } else { 7 }) {
        0 => {
            let ethertype = random.one(&[0x9000, 0x8100, 0x88a8, 0x88b5, 0x88cc, 0x0806, 0x0800, 0x86dd, 60]);
            ethernet(macs.0, macs.1, ethertype, &random.bytes(length))
        }
        1 => {
            let message = Arp {
                operation: random.one(&[1, 2, 3]),
                sender: (random.one(&[macs.1, HOST_A]), v4),
                target: (random.one(&MACS), to_v4),
            };
            arp(macs.0, macs.1, &message)
        }
        2 => {
            let option = random.one(&[None, Some((1, macs.1)), Some((2, macs.1)), Some((2, HOST_B))]);
            let kind = random.one(&[133, 134, 135, 136, 137]);
            let flags = random.next() as u8;
            nd(macs.0, macs.1, &Nd { kind, flags, from: v6, to: to_v6, target: random.one(&IPS6), option })
        }
        3 if length.is_multiple_of(2) => tcp(macs, (v4, to_v4), random.one(&[0x02, 0x10, 0x18]), length),
        3 => udp(macs, (v4, to_v4), hops, length),
        4 => udp(macs, (v6, to_v6), hops, length),
        5 => {
            let port = random.one(&[67, 68, 546, 547, 4789, 53]);
            udp_to(macs, (v4, to_v4), hops, port, &random.bytes(length))
        }
        6 => {
            let beacon =
                abi::beacon::Beacon { flags: 0, origin: macs.1, vni: L2_OTHER, since_ms: 1, port_id: 2 };
            beacon.frame().to_vec()
        }
        7 | 8 => {
            let inside = frame(random, depth + 1);
            let vni = random.one(&VNIS);
            let payload =
                [&[random.one(&[8, 8, 8, 0]), 0, 0, 0][..], &(vni << 8).to_be_bytes(), &inside].concat();
            udp_to(macs, (random.one(&["10.255.0.2", v4]), "10.255.0.1"), hops, 4789, &payload)
        }
        9 => {
            let inside = frame(random, depth + 1);
            let tag = [&[0, random.one(&[0, 10, 20, 30, 31])][..], &inside[12..]].concat();
            ethernet(macs.0, macs.1, random.one(&[0x8100, 0x88a8, 0x9100]), &tag)
        }
        _ => {
            let inside = frame(random, depth + 1);
            mutated(random, &inside)
        }
    }
}

/// Some bytes changed, cut or lengthened.
fn mutated(random: &mut Random, frame: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..1 + random.below(6) {
        let at = random.below(frame.len());
        frame[at] = random.one(&[random.0 as u8, 0, 0xff, frame[at] ^ 1, frame[at].wrapping_add(1)]);
    }
    match random.below(4) {
        0 => frame.truncate(14 + random.below(frame.len())),
        1 => frame.extend_from_slice(&random.bytes(20)),
        _ => {}
    }
    frame
}

#[test]
fn root_random_frames_from_every_port_never_reach_another_tenant() {
    let rig = scene("prop");
    let mut random = Random::new();
    let wanted = std::env::var("WATARI_FUZZ_FRAMES").ok().and_then(|text| text.parse().ok());
    let mut watcher = Watcher::new(&rig);
    for _ in 0..wanted.unwrap_or(FRAMES) {
        let way = if random.below(4) == 0 {
            Way::vxlan(random.one(&VNIS))
        } else {
            let (hook, port) = random.one(&WAYS);
            Way::port(hook, port)
        };
        watcher.send(way, &frame(&mut random, 0));
    }
    watcher.finish();
}

/// The files of the corpus: how the frame comes in on the first line (hook, then port or VNI), its bytes in hex.
fn corpus() -> Vec<(String, Way, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let (head, hex) = text.split_once('\n').unwrap();
            let (hook, place) = head.split_once(' ').unwrap();
            let digits: Vec<_> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
            let frame = digits.chunks(2).map(byte).collect();
            (path.file_name().unwrap().to_string_lossy().into_owned(), way(hook, place), frame)
        })
        .collect()
}

fn way(hook: &str, place: &str) -> Way {
    let hook = *Hook::ALL.iter().find(|known| known.name() == hook).unwrap();
    if hook == Hook::Vxlan {
        return Way::vxlan(place.parse().unwrap());
    }
    let (device, vid) = place.split_once('.').unwrap_or((place, "0"));
    Way::port(hook, PortKey::vlan(device.parse().unwrap(), vid.parse().unwrap()))
}

#[test]
fn root_the_corpus_cut_at_every_byte_and_mutated_never_reaches_another_tenant() {
    let rig = scene("corpus");
    let mut random = Random::new();
    let mut watcher = Watcher::new(&rig);
    let files = corpus();
    assert!(files.len() >= 30, "{}", files.len());
    for (_, way, frame) in &files {
        for length in 0..=LONGEST {
            let mut cut = frame.clone();
            cut.resize(length, 0);
            watcher.send(*way, &cut);
        }
        for _ in 0..MUTATIONS {
            watcher.send(*way, &mutated(&mut random, frame));
        }
    }
    watcher.finish();
}
