//! Beacons on a wire, watched by `tcpdump` at its other end. Needs root and `tcpdump`; fails without them.

#[allow(dead_code, reason = "the other test uses the rest")]
mod topology;

use std::io::Read as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use topology::{Wire, wait_until};
use watari_abi::beacon::Beacon;
use watari_link::protocol::{BeaconConfig, RefusalCode, VlanTag};
use watari_link::{Client, ClientError};

const ORIGIN: [u8; 6] = [2, 0x57, 0xd4, 0, 0, 1];

fn beacon(vids: &[u16]) -> BeaconConfig {
    let tpids = if vids.len() == 2 { [0x88a8, 0x8100] } else { [0x8100; 2] };
    let tags = vids.iter().zip(tpids).map(|(vid, tpid)| VlanTag { tpid, vid: *vid }).collect();
    let port_id = vids.iter().map(|vid| u64::from(*vid)).sum();
    BeaconConfig { device: "v0".to_owned(), tags, origin: ORIGIN, vni: 1000, port_id, blocked: false }
}

/// A frame that came out of the wire: when (by the kernel's clock), its tags, and what it says.
#[derive(Clone, Debug)]
struct Seen {
    at: Duration,
    vids: Vec<u16>,
    beacon: Beacon,
}

fn decode(at: Duration, frame: &[u8]) -> Option<Seen> {
    let (mut vids, mut rest) = (Vec::new(), &frame[12..]);
    while matches!(rest[..2], [0x81, 0x00] | [0x88, 0xa8]) {
        vids.push(u16::from_be_bytes([rest[2], rest[3]]) & 0xfff);
        rest = &rest[4..];
    }
    let beacon = Beacon::parse(&[&frame[..12], rest].concat())?;
    Some(Seen { at, vids, beacon })
}

/// Everything that is sent to the group of beacons and comes out at a host, from the moment this returns.
fn watch(wire: &mut Wire) -> Arc<Mutex<Vec<Seen>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    // Room for a burst of hundreds: by default each frame takes the place of the largest, and the last ones find none.
    let room = "-s 256 -B 16384 --immediate-mode -U -w -";
    let arguments = ["-i", "v0", "-Q", "in"].into_iter().chain(room.split(' '));
    let arguments = arguments.chain(["ether dst 03:57:54:00:00:01"]);
    let mut command = wire.b.command("tcpdump");
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    wire.keep(child);
    let noted = Arc::clone(&seen);
    // The file's header comes once it listens.
    let mut header = [0; 24];
    out.read_exact(&mut header).unwrap();
    std::thread::spawn(move || {
        let mut record = [0; 16];
        while out.read_exact(&mut record).is_ok() {
            // Seconds, microseconds, bytes that follow, bytes of the whole.
            let field = |n: usize| u32::from_ne_bytes(record[4 * n..4 * n + 4].try_into().unwrap());
            let at = Duration::new(field(0).into(), field(1) * 1000);
            let mut frame = vec![0; field(2) as usize];
            out.read_exact(&mut frame).unwrap();
            noted.lock().unwrap().push(decode(at, &frame).expect("a beacon"));
        }
    });
    seen
}

fn of(seen: &Mutex<Vec<Seen>>, vids: &[u16]) -> Vec<Seen> {
    seen.lock().unwrap().iter().filter(|s| s.vids == vids).cloned().collect()
}

fn since(client: &mut Client) -> Vec<u64> {
    client.list_beacons().unwrap().iter().map(|b| b.since_ms).collect()
}

#[test]
fn as_root_beacons_leave_with_their_tags_five_times_a_second() {
    let mut wire = Wire::new();
    let engine = wire.engine(&wire.a);
    let seen = watch(&mut wire);
    let places: [&[u16]; 3] = [&[], &[100], &[5, 300]];
    engine.client().set_beacons(places.map(beacon).to_vec()).unwrap();
    wait_until("eleven beacons of each place", || places.iter().all(|vids| of(&seen, vids).len() >= 11));
    for vids in places {
        let frames = of(&seen, vids);
        let took = frames[10].at - frames[0].at;
        assert!((1500..3500).contains(&took.as_millis()), "{vids:?}: ten intervals took {took:?}");
        let Beacon { origin, vni, port_id, flags, .. } = frames[0].beacon;
        assert_eq!((origin, vni, flags), (ORIGIN, 1000, 0));
        assert_eq!(port_id, vids.iter().map(|vid| u64::from(*vid)).sum::<u64>());
    }
    let blocked = BeaconConfig { blocked: true, ..beacon(&[100]) };
    let touched = engine.client().set_beacons(vec![blocked]).unwrap().touched;
    assert_eq!(touched, ["beacons[v0.100].changed", "beacons[v0].removed", "beacons[v0.5.300].removed"]);
    let says_blocked = |s: &Seen| s.beacon.flags == watari_abi::beacon::BLOCKED;
    wait_until("it says that it is blocked", || of(&seen, &[100]).last().is_some_and(says_blocked));
    let (last, untagged) = (of(&seen, &[100]).len(), of(&seen, &[]).len());
    wait_until("five more", || of(&seen, &[100]).len() >= last + 5);
    assert_eq!(of(&seen, &[]).len(), untagged, "a removed one goes on");
    let status = engine.client().list_beacons().unwrap().swap_remove(0);
    assert!(status.sent >= 16 && status.failed == 0 && status.error.is_none(), "{status:?}");
}

#[test]
fn as_root_a_killed_engine_goes_on_with_the_beacons_and_their_age() {
    let mut wire = Wire::new();
    let mut engine = wire.engine(&wire.a);
    let seen = watch(&mut wire);
    engine.client().set_beacons(vec![beacon(&[100]), beacon(&[])]).unwrap();
    let before = since(&mut engine.client());
    engine.kill();
    let count = of(&seen, &[100]).len();
    engine.start();
    wait_until("beacons come again, unasked", || of(&seen, &[100]).len() > count + 2);
    assert_eq!(since(&mut engine.client()), before);
    let ages: Vec<u64> = of(&seen, &[100]).iter().map(|s| s.beacon.since_ms).collect();
    assert!(ages.iter().all(|age| *age == before[1]), "{ages:?} and {before:?}");
    assert!(engine.client().set_beacons(vec![beacon(&[100]), beacon(&[])]).unwrap().touched.is_empty());
    engine.client().shutdown(true).unwrap();
}

#[test]
fn as_root_a_device_may_vanish_be_down_and_come_back() {
    let mut wire = Wire::new();
    let engine = wire.engine(&wire.a);
    engine.client().set_beacons(vec![beacon(&[100])]).unwrap();
    let status = || engine.client().list_beacons().unwrap().swap_remove(0);
    wait_until("beacons leave", || status().sent > 2);
    let since = status().since_ms;
    wire.a.ip(&["link", "set", "v0", "down"]);
    wait_until("a device that is down is an error", || status().error.is_some());
    wire.a.ip(&["link", "set", "v0", "up"]);
    wait_until("up again, beacons leave", || status().error.is_none());
    wire.a.ip(&["link", "del", "v0"]);
    wait_until("a device that is gone is an error", || status().error.is_some());
    let (a, b) = (wire.a.namespace.clone(), wire.b.namespace.clone());
    topology::run("ip", &["link", "add", "v0", "netns", &a, "type", "veth", "peer", "v0", "netns", &b]);
    wire.a.ip(&["link", "set", "v0", "up"]);
    wire.b.ip(&["link", "set", "v0", "up"]);
    let seen = watch(&mut wire);
    wait_until("beacons leave by the new device", || of(&seen, &[100]).len() > 2);
    let status = status();
    assert!(status.failed > 0 && status.error.is_none(), "{status:?}");
    assert_eq!((status.since_ms, of(&seen, &[100])[0].beacon.since_ms), (since, since));
}

#[test]
fn as_root_four_thousand_beacons_are_cheap_and_more_are_refused() {
    let mut wire = Wire::new();
    let engine = wire.engine(&wire.a);
    let seen = watch(&mut wire);
    let many: Vec<_> = (1..=4094).map(|vid| beacon(&[vid])).collect();
    engine.client().set_beacons(many.clone()).unwrap();
    let began = Instant::now();
    let all = |at_least: u64| engine.client().list_beacons().unwrap().iter().all(|b| b.sent >= at_least);
    wait_until("each was sent ten times", || all(10));
    println!("4094 beacons, ten times each: {:?}", began.elapsed());
    wait_until("they reach the other end", || of(&seen, &[4094]).len() >= 2);
    let too_many = [many, vec![beacon(&[]), beacon(&[1, 2]), beacon(&[1, 3])]].concat();
    match engine.client().set_beacons(too_many).unwrap_err() {
        ClientError::Refused(refusal) => assert_eq!(refusal.code, RefusalCode::Limit),
        other => panic!("{other}"),
    }
}
