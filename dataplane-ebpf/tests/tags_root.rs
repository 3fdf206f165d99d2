//! Tags with real frames: 802.1Q, 802.1ad, both, none, and VLAN 0, between three trunks and two tenants. Needs root, `ip`.
//!
//! ```text
//!           tenant 1 (segment 1000)         tenant 2 (segment 2000)
//!  trunk 1  S 100 with C 10, C 20           C 10
//!  trunk 2  S 200                           C 20
//!  trunk 3  untagged                        C 10
//! ```

mod rig;

use std::collections::BTreeMap;

use rig::{frames::*, netns::*, wire::Wire, *};
use watari_dataplane::*;

const C: u16 = 0x8100;
const S: u16 = 0x88a8;
const KIND: u16 = 0x9000;

/// Tags as they are on the wire, outermost first.
type Tags = &'static [(u16, u16)];

const Q: Tags = &[(S, 100), (C, 10)];

/// Where a frame was seen, and its tags (TPID, VID).
type Seen = (usize, Vec<(u16, u16)>);

struct Bench {
    rig: Rig,
    _gateway: Netns,
    _hosts: Vec<Netns>,
    wires: Vec<Wire>,
    /// Tags of all frames that came out of each trunk, by their number.
    seen: BTreeMap<u8, Vec<Seen>>,
    number: u8,
}

impl Bench {
    fn new(name: &str) -> Self {
        let rig = Rig::bare(name);
        let gateway = Netns::new(&format!("{name}g"));
        let hosts: Vec<_> = (1..=3).map(|number| Netns::new(&format!("{name}{number}"))).collect();
        let mut index = [0; 3];
        for (position, host) in hosts.iter().enumerate() {
            host.run("sysctl -qw net.ipv6.conf.default.disable_ipv6=1");
            let trunk = format!("t{}", position + 1);
            veth((host, "eth0"), (&gateway, &trunk));
            index[position] = gateway.index_of(&trunk);
        }
        let d = &rig.dataplane;
        d.set_config(&Config { anycast_mac: ANYCAST, router_mac: ROUTER, ..Config::default() }).unwrap();
        let [one, two, three] = index;
        let s_tag = PortKey { ifindex: two, outer: 200 | PortKey::S_TAG, inner: 0 };
        let first = [PortKey::qinq(one, 100, 10), PortKey::vlan(one, 20), s_tag, PortKey::untagged(three)];
        let second = [PortKey::vlan(one, 10), PortKey::vlan(two, 20), PortKey::vlan(three, 10)];
        for (tenant, vni, ports) in [(1, L2, first.as_slice()), (2, L2_OTHER, &second)] {
            d.segments.upsert(&vni, &Segment::l2(tenant, 10_000, 1000)).unwrap();
            d.flood_ports.upsert(&vni, &FloodPorts::new(ports).unwrap()).unwrap();
            for port in ports {
                d.ports.upsert(port, &Port::segment(tenant, vni)).unwrap();
            }
        }
        gateway.enter(|| index.iter().for_each(|trunk| d.attach(*trunk, Hook::Trunk).unwrap()));
        let wires = hosts.iter().map(|host| Wire::open(host, "eth0")).collect();
        Self { rig, _gateway: gateway, _hosts: hosts, wires, seen: BTreeMap::new(), number: 0 }
    }

    /// Sends a frame with these tags into a trunk; returns its number.
    fn send(&mut self, trunk: usize, tags: &[(u16, u16)], dst: [u8; 6], src: [u8; 6]) -> u8 {
        self.number += 1;
        let mut frame = [dst, src].concat();
        for (kind, tci) in tags {
            frame.extend_from_slice(&kind.to_be_bytes());
            frame.extend_from_slice(&tci.to_be_bytes());
        }
        frame.extend_from_slice(&KIND.to_be_bytes());
        frame.extend_from_slice(&[self.number; 50]);
        self.wires[trunk - 1].send(&frame);
        self.number
    }

    fn look(&mut self) {
        for (position, wire) in self.wires.iter().enumerate() {
            while let Some(frame) = wire.receive() {
                let (mut tags, mut at) = (Vec::new(), 12);
                let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
                while [C, S].contains(&word(at)) {
                    tags.push((word(at), word(at + 2)));
                    at += 4;
                }
                if word(at) == KIND {
                    self.seen.entry(frame[at + 2]).or_default().push((position + 1, tags));
                }
            }
        }
    }

    /// Exactly these copies of a frame come out, and nothing else does: a last frame shows that all have passed.
    #[track_caller]
    fn expect(&mut self, number: u8, copies: &[(usize, Tags)]) {
        let last = self.send(2, &[(C, 20)], BROADCAST, [2, 0, 0, 0, 0, 0xee]);
        wait_until("the last frame", || {
            self.look();
            self.seen.get(&last).is_some_and(|seen| seen.len() == 2)
        });
        let mut seen = self.seen.remove(&number).unwrap_or_default();
        let mut wanted: Vec<_> = copies.iter().map(|(trunk, tags)| (*trunk, tags.to_vec())).collect();
        seen.sort();
        wanted.sort();
        assert_eq!(seen, wanted);
    }
}

#[test]
fn root_every_kind_of_tag_is_taken_off_and_put_on_and_tenants_stay_apart() {
    let mut bench = Bench::new("tags");
    let first: [(usize, Tags); 4] = [(1, Q), (1, &[(C, 20)]), (2, &[(S, 200)]), (3, &[])];
    let second: [(usize, Tags); 3] = [(1, &[(C, 10)]), (2, &[(C, 20)]), (3, &[(C, 10)])];
    for places in [first.as_slice(), &second] {
        // A broadcast of each place comes out of all others of its tenant, with their tags.
        for (position, (trunk, tags)) in places.iter().enumerate() {
            let src = [2, 0, 0, places.len() as u8, 0, position as u8];
            let number = bench.send(*trunk, tags, BROADCAST, src);
            let others: Vec<_> = places.iter().copied().filter(|place| place != &places[position]).collect();
            bench.expect(number, &others);
        }
        // And from each to each, by the addresses learnt: translation of every kind into every other.
        for (from, (trunk, tags)) in places.iter().enumerate() {
            for (to, place) in places.iter().enumerate().filter(|(to, _)| *to != from) {
                let mac = |position| [2, 0, 0, places.len() as u8, 0, position as u8];
                let number = bench.send(*trunk, tags, mac(to), mac(from));
                bench.expect(number, &[*place]);
            }
        }
    }
    assert_eq!(bench.rig.counters()["drop rewrite-failed"], 0);
}

#[test]
fn root_a_tag_of_vlan_zero_is_none_and_an_inner_tag_hops_nowhere() {
    let mut bench = Bench::new("hop");
    let untagged: [(usize, Tags); 3] = [(1, Q), (1, &[(C, 20)]), (2, &[(S, 200)])];
    for tags in [&[(C, 5 << 13)], &[(S, 0)]] {
        let number = bench.send(3, tags, BROADCAST, HOST_A);
        bench.expect(number, &untagged);
    }
    // Priority inside an S-VLAN that is one attachment.
    let number = bench.send(2, &[(S, 200), (C, 0)], BROADCAST, HOST_B);
    bench.expect(number, &[(1, Q), (1, &[(C, 20)]), (3, &[])]);

    let before = bench.rig.counters()["drop unexpected-tag"];
    let hops: [(usize, Tags); 6] = [
        (1, &[(C, 20), (C, 10)]),
        (1, &[(C, 20), (S, 10)]),
        (2, &[(S, 200), (C, 20)]),
        (3, &[(C, 10), (C, 10)]),
        (3, &[(C, 0), (C, 10)]),
        (1, &[(S, 100), (C, 10), (C, 10)]),
    ];
    for (trunk, tags) in hops {
        let number = bench.send(trunk, tags, BROADCAST, HOST_C);
        bench.expect(number, &[]);
    }
    assert_eq!(bench.rig.counters()["drop unexpected-tag"], before + hops.len() as i128);
    // The same number with a tag of the other kind is nobody's VLAN: the kernel's matter.
    let passed = bench.rig.counters()["passed-to-kernel"];
    let number = bench.send(1, &[(S, 20)], BROADCAST, HOST_C);
    bench.expect(number, &[]);
    assert_eq!(bench.rig.counters()["passed-to-kernel"], passed + 1);
}
