//! The engine as a process, in namespaces. Needs root, `ping`, `iperf3`, `wireguard-go` and `wg`;
//! fails without them. The topology is drawn in `topology/mod.rs`.

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use topology::{PATIENCE, Pair, Wire, echo, run, time_to_echo, wait_until};
use watari_link::daemon::lock_path;
use watari_link::protocol::{
    DeviceConfig, Event, PathState, PeerConfig, ProbeConfig, ProbesConfig, RefusalCode,
};
use watari_link::{Client, ClientError, PrivateKey, spawn_detached};

/// How long after its start a restarted engine may take until packets cross again.
const BACK_WITHIN: Duration = Duration::from_secs(1);

fn refused(result: Result<impl std::fmt::Debug, ClientError>) -> (RefusalCode, Option<String>) {
    match result.unwrap_err() {
        ClientError::Refused(refusal) => (refusal.code, refusal.field),
        other => panic!("{other}"),
    }
}

#[test]
fn as_root_two_engines_carry_ipv4_ipv6_and_tcp() {
    let mut wire = Wire::new();
    let (a, b, _) = wire.tunnel();
    assert!(wire.b.pings("10.9.0.1") && wire.a.pings("fd09::2") && wire.b.pings("fd09::1"));
    let server = wire.b.command("iperf3").args(["-s", "-1"]).stdout(Stdio::null()).spawn();
    wire.keep(server.expect("iperf3"));
    wait_until("iperf3 listens", || wire.b.run("ss", &["-Hltn"]).contains(":5201"));
    wire.a.run("iperf3", &["-c", "10.9.0.2", "-t", "1"]);
    let (sent, received) = (a.peer().tx_bytes, b.peer().rx_bytes);
    println!("sealed {} Mbit in one second", sent * 8 / 1_000_000);
    assert!(sent > 1_000_000 && received > 1_000_000, "{sent} sent, {received} received");
    // The kernel itself asks for IPv6 routers on every interface; nothing else may be dropped.
    let drops = a.device().drops;
    assert!(drops.iter().all(|drop| drop.reason == "no_peer" && drop.packets < 10), "{drops:?}");
}

#[test]
fn as_root_the_outer_packets_may_be_ipv6() {
    let wire = Wire::new();
    let mut pair = Pair::new(&wire);
    pair.a.peers[0].endpoint = Some("[2001:db8::2]:51820".parse().unwrap());
    pair.b.peers[0].endpoint = None;
    let (a, b) = (wire.engine(&wire.a), wire.engine(&wire.b));
    a.client().set_device(pair.a).unwrap();
    b.client().set_device(pair.b).unwrap();
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    assert_eq!(b.peer().endpoint, Some("[2001:db8::1]:51820".parse().unwrap()));
}

#[test]
fn as_root_it_interoperates_with_wireguard_go_whoever_begins() {
    for we_begin in [true, false] {
        let mut wire = Wire::new();
        let mut pair = Pair::new(&wire);
        let device = wire.wireguard_go(&pair);
        if !we_begin {
            pair.a.peers[0].endpoint = None;
        }
        let a = wire.engine(&wire.a);
        a.client().set_device(pair.a).unwrap();
        wire.a.address("wtwg0");
        if we_begin {
            wait_until("a handshake", || a.peer().session.is_some());
            wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
        } else {
            wait_until("a ping crosses", || wire.b.pings("10.9.0.1"));
        }
        assert!(wire.b.pings("10.9.0.1") && wire.a.pings("fd09::2"), "we begin: {we_begin}");
        let shown = wire.b.run("wg", &["show", &device, "latest-handshakes"]);
        assert!(!shown.trim_end().ends_with("\t0"), "{shown}");
    }
}

#[test]
fn as_root_traffic_is_back_within_a_second_after_kill_9() {
    let wire = Wire::new();
    let (mut a, b, _) = wire.tunnel();
    echo(&wire.b, "10.9.0.2:7");
    time_to_echo(&wire.a, "10.9.0.2:7");
    let index = a.device().link.unwrap().index;
    for _ in 0..2 {
        a.kill();
        let began = Instant::now();
        a.start();
        time_to_echo(&wire.a, "10.9.0.2:7");
        let took = began.elapsed();
        println!("back after {took:?}");
        assert!(took < BACK_WITHIN, "{took:?}");
    }
    let link = a.device().link.unwrap();
    assert_eq!((link.index, link.up, link.mtu), (index, true, 1420), "the interface was kept");
    assert!(wire.a.ip(&["address", "show", "dev", "wtwg0"]).contains("10.9.0.1/24"));
    assert!(b.peer().handshakes >= 3);
}

#[test]
fn as_root_a_restarted_engine_calls_where_its_peer_was_last() {
    let wire = Wire::new();
    let mut pair = Pair::new(&wire);
    pair.b.peers[0].endpoint = None;
    let (a, mut b) = (wire.engine(&wire.a), wire.engine(&wire.b));
    b.client().set_device(pair.b).unwrap();
    a.client().set_device(pair.a).unwrap();
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    wait_until("the endpoint is stored", || {
        std::fs::read_to_string(&b.state).unwrap().contains("192.0.2.1:51820")
    });
    echo(&wire.a, "10.9.0.1:7");
    b.kill();
    let began = Instant::now();
    b.start();
    time_to_echo(&wire.b, "10.9.0.1:7");
    assert!(began.elapsed() < BACK_WITHIN, "{:?}", began.elapsed());
}

#[test]
fn as_root_setting_the_same_again_touches_nothing_and_changes_keep_the_session() {
    let wire = Wire::new();
    let (a, b, pair) = wire.tunnel();
    let before = a.peer();
    let touched = |device: &DeviceConfig| a.client().set_device(device.clone()).unwrap().touched;
    assert!(touched(&pair.a).is_empty());

    let key = before.public_key;
    let mut device = pair.a.clone();
    device.mtu = 1380;
    assert_eq!(touched(&device), ["mtu"]);
    wire.a.ip(&["link", "set", "wtwg0", "down"]);
    assert_eq!(touched(&device), ["up"]);
    device.peers[0].keepalive_s = 25;
    assert_eq!(touched(&device), [format!("peers[{key}].keepalive_s")]);
    device.peers[0].allowed_ips.push("10.77.0.0/16".parse().unwrap());
    assert_eq!(touched(&device), [format!("peers[{key}].allowed_ips")]);
    let stranger = PrivateKey::generate().unwrap().public_key();
    device.peers.push(PeerConfig {
        public_key: stranger,
        preshared_key: None,
        endpoint: None,
        more_endpoints: Vec::new(),
        allowed_ips: vec!["10.78.0.0/16".parse().unwrap()],
        keepalive_s: 0,
    });
    assert_eq!(touched(&device), [format!("peers[{stranger}].added")]);
    device.listen_port = 51999;
    assert_eq!(touched(&device), ["listen_port"]);
    wait_until("the former port is free, though nothing crosses", || {
        !wire.a.run("ss", &["-Hlun"]).contains(":51820")
    });
    assert!(wire.a.pings("10.9.0.2"));
    device.peers.pop();
    assert_eq!(touched(&device), [format!("peers[{stranger}].removed")]);

    let after = a.peer();
    assert_eq!(after.handshakes, before.handshakes);
    assert_eq!(after.session.unwrap().local_index, before.session.unwrap().local_index);
    // The far side followed us to our new port.
    assert_eq!(b.peer().endpoint, Some("192.0.2.1:51999".parse().unwrap()));
    // And does not go back when it is told the same again.
    assert!(b.client().set_device(pair.b.clone()).unwrap().touched.is_empty());
    assert_eq!(b.peer().endpoint, Some("192.0.2.1:51999".parse().unwrap()));
    assert!(wire.b.pings("10.9.0.1"));
}

#[test]
fn as_root_a_new_preshared_key_makes_a_new_session() {
    let wire = Wire::new();
    let (a, b, mut pair) = wire.tunnel();
    let psk = PrivateKey::generate().unwrap().reveal().parse().ok();
    pair.a.peers[0].preshared_key.clone_from(&psk);
    pair.b.peers[0].preshared_key = psk;
    let touched = a.client().set_device(pair.a).unwrap().touched;
    assert_eq!(touched, [format!("peers[{}].preshared_key", pair.b.private_key.public_key())]);
    b.client().set_device(pair.b).unwrap();
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    assert_eq!(a.peer().preshared_key_fingerprint, b.peer().preshared_key_fingerprint);
}

#[test]
fn as_root_a_foreign_interface_is_refused_and_not_touched() {
    let wire = Wire::new();
    let a = wire.engine(&wire.a);
    let mut device = Pair::new(&wire).a;
    device.name = "v0".to_owned();
    let before = wire.a.ip(&["-d", "link", "show", "v0"]);
    let foreign = (RefusalCode::Foreign, Some("name".to_owned()));
    assert_eq!(refused(a.client().set_device(device.clone())), foreign);
    assert_eq!(wire.a.ip(&["-d", "link", "show", "v0"]), before);

    wire.a.ip(&["tuntap", "add", "dev", "wtother", "mode", "tun"]);
    wire.a.ip(&["link", "set", "wtother", "alias", "somebody else"]);
    device.name = "wtother".to_owned();
    let before = wire.a.ip(&["-d", "link", "show", "wtother"]);
    assert_eq!(refused(a.client().set_device(device.clone())), foreign);
    assert_eq!(wire.a.ip(&["-d", "link", "show", "wtother"]), before);
    assert!(a.client().list_devices().unwrap().is_empty());

    // Ours, by its mark, though this engine never saw it.
    wire.a.ip(&["link", "set", "wtother", "alias", &device.alias]);
    a.client().set_device(device).unwrap();
}

#[test]
fn as_root_a_refused_change_leaves_the_tunnel_as_it_was() {
    let wire = Wire::new();
    let (a, _b, pair) = wire.tunnel();
    let before = a.device();
    let _taken = wire.a.inside(|| std::net::UdpSocket::bind("0.0.0.0:5999").unwrap()).join();
    let mut device = pair.a.clone();
    device.listen_port = 5999;
    device.peers.clear();
    let system = (RefusalCode::System, Some("listen_port".to_owned()));
    assert_eq!(refused(a.client().set_device(device)), system);
    let mut device = pair.a.clone();
    device.peers[0].public_key = pair.a.private_key.public_key();
    let invalid = (RefusalCode::Invalid, Some("peers[0].public_key".to_owned()));
    assert_eq!(refused(a.client().set_device(device)), invalid);
    assert_eq!(
        a.device().peers[0].session.as_ref().map(|s| s.local_index),
        before.peers[0].session.as_ref().map(|s| s.local_index)
    );
    assert!(wire.a.pings("10.9.0.2"));
    assert!(a.client().set_device(pair.a).unwrap().touched.is_empty());
}

#[test]
fn as_root_a_deleted_interface_is_told_and_set_anew() {
    let wire = Wire::new();
    let (a, _b, pair) = wire.tunnel();
    let session = a.peer().session.unwrap().local_index;
    let mut events = a.client().subscribe().unwrap();
    wire.a.ip(&["link", "del", "wtwg0"]);
    let lost = Event::LinkLost { device: "wtwg0".to_owned() };
    assert_eq!(events.next(PATIENCE).unwrap(), Some(lost));
    let device = a.device();
    assert!(device.link.is_none() && device.error.is_some());
    let touched = a.client().set_device(pair.a.clone()).unwrap().touched;
    assert_eq!(touched, ["created", "mtu", "up"]);
    wire.a.address("wtwg0");
    assert!(wire.a.pings("10.9.0.2"));
    let device = a.device();
    assert!(device.link.is_some() && device.error.is_none());
    assert_eq!(device.peers[0].session.as_ref().unwrap().local_index, session);
}

fn probe(local: &str, remote: &str) -> ProbesConfig {
    let one = ProbeConfig {
        name: "path".to_owned(),
        local: local.parse().unwrap(),
        remote: remote.parse().unwrap(),
        device: "wtwg0".to_owned(),
        interval_ms: 50,
        dead_after_ms: 400,
    };
    ProbesConfig { probes: vec![one], ..ProbesConfig::default() }
}

#[test]
fn as_root_probes_tell_when_the_path_is_cut_and_when_it_is_back() {
    let wire = Wire::new();
    let (a, b, _) = wire.tunnel();
    let mut events = a.client().subscribe().unwrap();
    a.client().set_probes(probe("10.9.0.1", "10.9.0.2")).unwrap();
    let state = |running: &topology::Running| running.client().list_probes().unwrap().probes.swap_remove(0);
    // Nobody answers yet: the far side was not told of us.
    wait_until("probes go out", || state(&a).sent > 5);
    assert_eq!((state(&a).state, state(&a).received), (PathState::Down, 0));
    b.client().set_probes(probe("10.9.0.2", "10.9.0.1")).unwrap();
    wait_until("both are up", || [&a, &b].iter().all(|end| state(end).state == PathState::Up));
    assert!(state(&a).rtt_us.unwrap() > 0 && state(&a).answered > 0);
    wait_until("each direction is measured", || {
        let now = state(&a);
        let measured = [now.jitter_out_us, now.jitter_in_us, now.delay_change_out_us, now.delay_change_in_us];
        measured.iter().all(Option::is_some)
    });
    assert!(a.client().set_probes(probe("10.9.0.1", "10.9.0.2")).unwrap().touched.is_empty());

    wire.b.ip(&["link", "set", "v0", "down"]);
    wait_until("both are down", || [&a, &b].iter().all(|end| state(end).state == PathState::Down));
    wire.b.ip(&["link", "set", "v0", "up"]);
    wait_until("both are up", || [&a, &b].iter().all(|end| state(end).state == PathState::Up));
    let mut seen = Vec::new();
    while seen.len() < 3 {
        if let Event::Probe { name, state } = events.next(PATIENCE).unwrap().expect("an event") {
            assert_eq!(name, "path");
            seen.push(state);
        }
    }
    assert_eq!(seen, [PathState::Up, PathState::Down, PathState::Up]);
}

#[test]
fn as_root_probes_wait_for_their_device_and_survive_the_engine() {
    let wire = Wire::new();
    let (mut a, b) = (wire.engine(&wire.a), wire.engine(&wire.b));
    a.client().set_probes(probe("10.9.0.1", "10.9.0.2")).unwrap();
    b.client().set_probes(probe("10.9.0.2", "10.9.0.1")).unwrap();
    let state = |running: &topology::Running| running.client().list_probes().unwrap().probes.swap_remove(0);
    wait_until("the error is told", || state(&a).error.is_some());
    let pair = Pair::new(&wire);
    a.client().set_device(pair.a).unwrap();
    b.client().set_device(pair.b).unwrap();
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a is up", || state(&a).state == PathState::Up);
    assert_eq!(state(&a).error, None);
    a.kill();
    wait_until("b is down", || state(&b).state == PathState::Down);
    a.start();
    wait_until("b is up again", || state(&b).state == PathState::Up);
}

#[test]
fn as_root_sigterm_keeps_the_interface_and_remove_does_not() {
    let wire = Wire::new();
    let (mut a, _b, _) = wire.tunnel();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&a.socket), mode(&a.state)), (0o600, 0o600));
    a.terminate();
    assert!(!a.socket.exists());
    assert!(wire.a.ip(&["address", "show", "dev", "wtwg0"]).contains("10.9.0.1/24"));
    a.start();
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    a.client().shutdown(true).unwrap();
    assert!(!wire.a.ip(&["link"]).contains("wtwg0"));
    a.kill();
    a.start();
    assert!(a.client().list_devices().unwrap().is_empty());
}

#[test]
fn as_root_removing_a_device_removes_its_interface_and_its_secrets() {
    let wire = Wire::new();
    let (a, _b, pair) = wire.tunnel();
    let secret = pair.a.private_key.reveal();
    assert!(std::fs::read_to_string(&a.state).unwrap().contains(&secret));
    assert_eq!(a.client().remove_device("wtwg0").unwrap().touched, ["removed"]);
    assert!(!wire.a.ip(&["link"]).contains("wtwg0"));
    assert!(!std::fs::read_to_string(&a.state).unwrap().contains(&secret));
    assert!(a.client().remove_device("wtwg0").unwrap().touched.is_empty());
    assert!(!a.log().contains(&secret), "secrets are never logged");
}

#[test]
fn as_root_a_detached_engine_outlives_its_starter_and_is_alone() {
    let wire = Wire::new();
    let socket = wire.folder.path().join("detached.sock");
    let state = wire.folder.path().join("detached.state");
    let binary = std::path::PathBuf::from(env!("CARGO_BIN_EXE_watari-link"));
    let start = || {
        let (binary, socket, state) = (binary.clone(), socket.clone(), state.clone());
        wire.a.inside(move || spawn_detached(&binary, &socket, &state)).join().unwrap().unwrap()
    };
    let hello = start();
    assert_eq!(start(), hello, "the second call finds the first engine");
    let parent = std::fs::read_to_string(format!("/proc/{}/stat", hello.pid)).unwrap();
    let fields: Vec<&str> = parent.rsplit_once(')').unwrap().1.split_whitespace().collect();
    assert_ne!(fields[1], std::process::id().to_string(), "it is no child of ours");
    assert_ne!(fields[3], run("ps", &["-o", "sess=", "-p", &std::process::id().to_string()]).trim());

    let second = wire
        .a
        .command(binary.to_str().unwrap())
        .arg("--socket")
        .arg(&socket)
        .arg("--state")
        .arg(&state)
        .output()
        .unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains(&hello.pid.to_string()));
    let mut client = Client::connect(&socket).unwrap();
    assert_eq!(client.hello(), &hello);

    client.set_device(Pair::new(&wire).a).unwrap();
    assert!(wire.a.ip(&["link"]).contains("wtwg0"), "it runs in the starter's namespace");
    client.shutdown(true).unwrap();
    wait_until("its lock is free", || {
        let lock = std::fs::File::open(lock_path(&socket)).unwrap();
        nix::fcntl::Flock::lock(lock, nix::fcntl::FlockArg::LockExclusiveNonblock).is_ok()
    });
}

#[test]
fn as_root_packets_of_nobodys_addresses_are_dropped_and_counted() {
    let wire = Wire::new();
    let (a, b, pair) = wire.tunnel();
    wire.a.ip(&["route", "add", "10.66.0.0/16", "dev", "wtwg0"]);
    assert!(!wire.a.pings("10.66.0.1"));
    wait_until("counted at a", || a.device().drops.iter().any(|d| d.reason == "no_peer"));
    // b takes it from nobody: the source is not a's.
    let mut device = pair.b.clone();
    device.peers[0].allowed_ips = vec!["10.55.0.0/16".parse().unwrap()];
    b.client().set_device(device).unwrap();
    assert!(!wire.a.pings("10.9.0.2"));
    wait_until("counted at b", || b.device().drops.iter().any(|d| d.reason == "source_not_allowed"));
    // What is no WireGuard is counted as such.
    let to: SocketAddr = "192.0.2.2:51820".parse().unwrap();
    let sent = wire.a.inside(move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"not WireGuard at all", to).unwrap();
        let mut initiation = [0; 148];
        initiation[0] = 1;
        socket.send_to(&initiation, to).unwrap();
        let mut data = [0; 64];
        data[0] = 4;
        socket.send_to(&data, to).unwrap();
    });
    sent.join().unwrap();
    for reason in ["malformed", "bad_mac", "unknown_session"] {
        wait_until(reason, || b.device().drops.iter().any(|d| d.reason == reason));
    }
}
