//! What crosses a tunnel, measured by two engines as processes. Needs root and `ping`; fails without them. The topology is drawn in
//! `topology/mod.rs`.

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use topology::{PATIENCE, Pair, Running, Wire, wait_until};
use watari_link::protocol::{Event, PathMtuConfig, PathMtuPhase, PathMtuStatus, PathMtusConfig, RefusalCode};
use watari_link::{Client, ClientError};

/// What the devices of the tunnel take, far more than the wire.
const DEVICE_MTU: u16 = 8920;

fn paths(own: u8, far: u8, max: u16) -> PathMtusConfig {
    let path = |name: &str, net: &str| PathMtuConfig {
        name: name.to_owned(),
        local: format!("{net}{own}").parse().unwrap(),
        remote: format!("{net}{far}").parse().unwrap(),
        device: "wtwg0".to_owned(),
        max,
    };
    PathMtusConfig {
        paths: vec![path("four", "10.9.0."), path("six", "fd09::")],
        ..PathMtusConfig::default()
    }
}

fn list(engine: &Running) -> Vec<PathMtuStatus> {
    engine.client().list_path_mtus().unwrap().paths
}

/// Both paths at both ends have found this size in both directions. An engine may pad packets to multiples of 16.
fn is_found(engines: [&Running; 2], mtu: u16) -> bool {
    let is_right = |found: Option<u16>| found.is_some_and(|found| (mtu - 15..=mtu).contains(&found));
    engines
        .iter()
        .flat_map(|engine| list(engine))
        .all(|path| is_right(path.mtu) && is_right(path.far_mtu) && path.phase == PathMtuPhase::Complete)
}

/// Two engines whose outer packets are of one family; a session is made.
fn tunnel(wire: &Wire, outer: [&str; 2]) -> (Running, Running) {
    let mut pair = Pair::new(wire);
    (pair.a.mtu, pair.b.mtu) = (DEVICE_MTU, DEVICE_MTU);
    pair.a.peers[0].endpoint = Some(outer[1].parse().unwrap());
    pair.b.peers[0].endpoint = Some(outer[0].parse().unwrap());
    let (a, b) = (wire.engine(&wire.a), wire.engine(&wire.b));
    a.client().set_device(pair.a).unwrap();
    b.client().set_device(pair.b).unwrap();
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    (a, b)
}

fn is_measured(outer: [&str; 2], overhead: u16) {
    let wire = Wire::new();
    let (a, b) = tunnel(&wire, outer);
    a.client().set_path_mtus(paths(1, 2, DEVICE_MTU)).unwrap();
    wait_until("probes go out", || list(&a).iter().all(|path| path.sent > 3));
    assert!(
        list(&a).iter().all(|path| path.phase == PathMtuPhase::Silent && path.mtu.is_none()),
        "nobody answers"
    );
    let mut events = a.client().subscribe().unwrap();
    b.client().set_path_mtus(paths(2, 1, DEVICE_MTU)).unwrap();
    wait_until("1500 to be found", || is_found([&a, &b], 1500 - overhead));
    assert!(a.client().set_path_mtus(paths(1, 2, DEVICE_MTU)).unwrap().touched.is_empty());
    for path in list(&a) {
        assert_eq!((path.breaks_at, path.black_holes), (path.mtu.map(|mtu| mtu + 1), 0), "{path:?}");
    }
    // Larger packets cross all the same, in pieces: the probes did not.
    let large = ["-n", "-c", "1", "-W", "1", "-M", "dont", "-s", "6000", "10.9.0.2"];
    wait_until("a ping in pieces", || wire.a.command("ping").args(large).output().unwrap().status.success());
    for mtu in [1400, 1500] {
        for host in [&wire.a, &wire.b] {
            host.ip(&["link", "set", "v0", "mtu", &mtu.to_string()]);
        }
        wait_until(&format!("{mtu} to be found"), || is_found([&a, &b], mtu - overhead));
    }
    assert!(list(&a).iter().all(|path| path.black_holes == 1), "{:?}", list(&a));
    let mut told = Vec::new();
    while told.len() < 3 {
        if let Event::PathMtu { name, mtu } = events.next(PATIENCE).unwrap().expect("an event")
            && name == "four"
        {
            told.push(mtu);
        }
    }
    assert!(told[0] > 1400 && told[1..].iter().any(|mtu| *mtu <= 1400 - overhead), "{told:?}");
}

#[test]
fn as_root_what_crosses_is_measured_over_ipv4() {
    is_measured(["192.0.2.1:51820", "192.0.2.2:51820"], 60);
}

#[test]
fn as_root_what_crosses_is_measured_over_ipv6() {
    is_measured(["[2001:db8::1]:51820", "[2001:db8::2]:51820"], 80);
}

#[test]
fn as_root_paths_are_stored_and_measured_again_after_kill_9() {
    let wire = Wire::new();
    let (mut a, b) = tunnel(&wire, ["192.0.2.1:51820", "192.0.2.2:51820"]);
    a.client().set_path_mtus(paths(1, 2, DEVICE_MTU)).unwrap();
    b.client().set_path_mtus(paths(2, 1, DEVICE_MTU)).unwrap();
    wait_until("1500 to be found", || is_found([&a, &b], 1440));
    a.kill();
    wait_until("silence", || list(&b).iter().all(|path| path.phase == PathMtuPhase::Silent));
    assert!(list(&b).iter().all(|path| path.mtu.is_some()), "what was found stays");
    a.start();
    wait_until("1500 to be found again", || is_found([&a, &b], 1440));
    // The bound may change without a new search from the beginning.
    let touched = a.client().set_path_mtus(paths(1, 2, 1300)).unwrap().touched;
    assert_eq!(touched, ["paths[four].max", "paths[six].max"]);
    wait_until("the bound", || {
        list(&a).iter().all(|path| path.mtu == Some(1300) && path.breaks_at.is_none())
    });
}

#[test]
fn as_root_a_path_that_cannot_be_is_refused() {
    let wire = Wire::new();
    let a = wire.engine(&wire.a);
    let mut config = paths(1, 2, 1279);
    let mut client: Client = a.client();
    match client.set_path_mtus(config.clone()).unwrap_err() {
        ClientError::Refused(refusal) => {
            assert_eq!(
                (refusal.code, refusal.field.as_deref()),
                (RefusalCode::Invalid, Some("paths[1].max"))
            );
        }
        other => panic!("{other}"),
    }
    config.paths.truncate(1);
    client.set_path_mtus(config).unwrap();
    wait_until("the error is told", || list(&a)[0].error.is_some());
}
