//! The engine is replaced while packets cross: descriptors and sessions pass to a successor, and nothing is lost. Needs root,
//! `ip` and `iperf3`; fails without them.

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use topology::{Host, PATIENCE, Pair, Running, Wire, wait_until};
use watari_link::protocol::{
    BfdConfig, BfdHops, BfdState, PathMtuConfig, PathMtuPhase, PathMtusConfig, PathState, ProbeConfig,
    ProbesConfig, RefusalCode, Request, TakeOverRequest,
};
use watari_link::{Client, ClientError, HANDOVER_VERSION, spawn, spawn_detached};

/// Datagrams of the counted flow in a second.
const RATE: u32 = 20_000;
/// Octets of each.
const DATAGRAM: usize = 200;

/// A flow of numbered datagrams from one host to the other, all of which have to arrive once and in order.
struct Flow {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Seen>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    received: u64,
    out_of_order: u64,
}

impl Flow {
    fn start(from: &Host, to: &Host, address: &'static str) -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (seen, ended) = (Arc::clone(&received), Arc::clone(&stop));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let receiver = to.inside(move || {
            let socket = UdpSocket::bind(address).expect(address);
            setsockopt(&socket.as_fd(), sockopt::RcvBufForce, &(64 << 20)).expect("root");
            socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
            ready.send(()).expect("test");
            receive(&socket, &seen, &ended)
        });
        is_ready.recv_timeout(PATIENCE).expect("the receiver");
        let ended = Arc::clone(&stop);
        let sender = from.inside(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.connect(address).expect("connect");
            send(&socket, &ended)
        });
        Self { stop, received, sender, receiver }
    }

    fn wait_for(&self, more: u64) {
        let from = self.received.load(Ordering::Relaxed);
        wait_until("datagrams arrive", || self.received.load(Ordering::Relaxed) >= from + more);
    }

    /// Ends it; every datagram has arrived, once, in order.
    fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().expect("sender");
        let seen = self.receiver.join().expect("receiver");
        assert_eq!(seen, Seen { received: sent, out_of_order: 0 }, "{sent} sent");
        sent
    }
}

/// Sends at the rate until it is stopped.
fn send(socket: &UdpSocket, stop: &AtomicBool) -> u64 {
    let (began, mut sent) = (Instant::now(), 0_u64);
    let mut datagram = [0; DATAGRAM];
    while !stop.load(Ordering::Relaxed) {
        let due = u64::try_from(began.elapsed().as_micros()).unwrap() * u64::from(RATE) / 1_000_000;
        // After a pause of our own the rate goes on; what was missed is not made up for at once.
        let until = due.min(sent + 40);
        while sent < until {
            datagram[..8].copy_from_slice(&sent.to_be_bytes());
            socket.send(&datagram).expect("send");
            sent += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    sent
}

fn receive(socket: &UdpSocket, received: &AtomicU64, stop: &AtomicBool) -> Seen {
    let (mut seen, mut next, mut buffer) = (Seen::default(), 0, [0; 2048]);
    loop {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let number = u64::from_be_bytes(buffer[..8].try_into().expect("eight octets"));
                seen.out_of_order += u64::from(number < next);
                next = number + 1;
                seen.received += 1;
                received.store(seen.received, Ordering::Relaxed);
            }
            // Nothing for two seconds, and nothing comes any more.
            Err(_) if stop.load(Ordering::Relaxed) => return seen,
            Err(_) => {}
        }
    }
}

#[test]
fn as_root_nothing_is_lost_of_20000_packets_a_second_over_several_upgrades() {
    let wire = Wire::new();
    let (mut a, mut b, _) = wire.tunnel();
    let before = a.peer();
    let pid = a.client().hello().pid;
    let out = Flow::start(&wire.a, &wire.b, "10.9.0.2:7000");
    let mut longest = Duration::ZERO;
    for round in 0..5 {
        out.wait_for(5_000);
        let engine = if round % 2 == 0 { &mut a } else { &mut b };
        let began = Instant::now();
        engine.upgrade();
        longest = longest.max(began.elapsed());
    }
    out.wait_for(5_000);
    let sent = out.end();
    println!("{sent} datagrams over 5 upgrades, the longest of {longest:?} from start to hello");
    let after = a.peer();
    assert_ne!(a.client().hello().pid, pid);
    assert_eq!(after.handshakes, before.handshakes, "the session went on");
    assert_eq!(
        after.session.map(|session| session.local_index),
        before.session.map(|session| session.local_index)
    );
    assert!(after.tx_bytes > sent * 200, "counters go on");
    for engine in [&a, &b] {
        let drops = engine.device().drops;
        assert!(drops.iter().all(|drop| drop.reason == "no_peer"), "{drops:?}");
    }
}

#[test]
fn as_root_tcp_under_full_load_goes_on_and_nothing_that_watches_the_path_notices() {
    let mut wire = Wire::new();
    let (mut a, mut b, _) = wire.tunnel();
    watch(&a, 1, 2);
    watch(&b, 2, 1);
    wait_until("both watch", || watched(&a).is_some() && watched(&b).is_some());
    let before = [watched(&a), watched(&b)];
    let server = wire.b.command("iperf3").args(["-s", "-1"]).stdout(Stdio::null()).spawn();
    wire.keep(server.expect("iperf3"));
    wait_until("iperf3 listens", || wire.b.run("ss", &["-Hltn"]).contains(":5201"));
    let mut command = wire.a.command("iperf3");
    let load = command.args(["-c", "10.9.0.2", "-t", "6", "-P", "2", "--bidir", "-i", "0.5", "-J"]);
    let load = load.stdout(Stdio::piped()).spawn().expect("iperf3");
    let began = Instant::now();
    let mut upgrades = 0;
    while began.elapsed() < Duration::from_secs(5) {
        let bytes = b.peer().rx_bytes;
        wait_until("the load crosses", || b.peer().rx_bytes > bytes + (8 << 20));
        a.upgrade();
        b.upgrade();
        upgrades += 2;
    }
    let report = load.wait_with_output().expect("iperf3");
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("its report");
    let intervals = report["intervals"].as_array().expect("intervals");
    let carried = |sum: &str| -> Vec<f64> {
        intervals.iter().map(|interval| interval[sum]["bits_per_second"].as_f64().unwrap_or(0.0)).collect()
    };
    println!("{upgrades} upgrades; bit/s by half seconds: {:?}", carried("sum"));
    assert!(intervals.len() >= 10, "{report}");
    assert!(carried("sum").iter().all(|rate| *rate > 0.0), "a half second without a byte");
    assert_eq!([watched(&a), watched(&b)], before, "no session, probe or measurement changed");
    assert!(a.peer().session.is_some() && upgrades >= 4);
}

/// Everything that watches the path, over the tunnel.
fn watch(engine: &Running, own: u8, far: u8) {
    let address = |number: u8| format!("10.9.0.{number}").parse().unwrap();
    let (local, remote, device) = (address(own), address(far), "wtwg0".to_owned());
    let mut client = engine.client();
    let probe = ProbeConfig {
        name: "far".to_owned(),
        local,
        remote,
        device: device.clone(),
        interval_ms: 200,
        dead_after_ms: 4_000,
    };
    client.set_probes(ProbesConfig { probes: vec![probe], ..ProbesConfig::default() }).unwrap();
    let path = PathMtuConfig { name: "far".to_owned(), local, remote, device: device.clone(), max: 1420 };
    client.set_path_mtus(PathMtusConfig { paths: vec![path], ..PathMtusConfig::default() }).unwrap();
    let session = BfdConfig {
        name: "far".to_owned(),
        netns: None,
        device: Some(device),
        local: Some(local),
        remote,
        hops: BfdHops::Single,
        desired_min_tx_us: 100_000,
        required_min_rx_us: 100_000,
        detect_mult: 10,
        passive: false,
        admin_down: false,
        authentication: None,
    };
    client.set_bfd(vec![session]).unwrap();
}

/// How often each changed its mind, once all are content.
fn watched(engine: &Running) -> Option<(u64, u64, u64, u32)> {
    let mut client = engine.client();
    let probe = client.list_probes().unwrap().probes.swap_remove(0);
    let path = client.list_path_mtus().unwrap().paths.swap_remove(0);
    let bfd = client.list_bfd().unwrap().sessions.swap_remove(0);
    let content = probe.state == PathState::Up
        && path.phase == PathMtuPhase::Complete
        && path.mtu == Some(1420)
        && bfd.state == BfdState::Up;
    content.then_some((probe.changes, path.changes, bfd.changes, bfd.local_discriminator))
}

/// A successor of our own, that can break off anywhere.
struct Torso {
    stream: UnixStream,
}

impl Torso {
    fn ask(host: &Host, socket: &Path) -> Self {
        let netns = std::fs::metadata(format!("/run/netns/{}", host.namespace)).unwrap();
        let netns = (netns.dev(), netns.ino());
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let hello = r#"{"id":1,"request":{"hello":{"protocol":1}}}"#;
        let ask = format!(
            r#"{{"id":2,"request":{{"take_over":{{"version":{HANDOVER_VERSION},"netns":[{},{}]}}}}}}"#,
            netns.0, netns.1
        );
        writeln!(stream, "{hello}\n{ask}").unwrap();
        let mut reader = BufReader::with_capacity(1, stream.try_clone().unwrap());
        let mut lines = String::new();
        reader.read_line(&mut lines).unwrap();
        reader.read_line(&mut lines).unwrap();
        assert!(lines.contains("taking_over"), "{lines}");
        Self { stream }
    }

    /// Says a word and reads what follows, descriptors and all (they are closed unread).
    fn take(&mut self, word: u8) -> Vec<u8> {
        self.stream.write_all(&[word]).unwrap();
        let mut header = [0; 12];
        self.stream.read_exact(&mut header).unwrap();
        let count = usize::try_from(u32::from_be_bytes(header[..4].try_into().unwrap())).unwrap();
        let length = usize::try_from(u64::from_be_bytes(header[4..].try_into().unwrap())).unwrap();
        let mut rest = vec![0; count.div_ceil(128) + length];
        self.stream.read_exact(&mut rest).unwrap();
        rest
    }
}

#[test]
fn as_root_a_successor_that_dies_half_way_costs_nothing() {
    let wire = Wire::new();
    let (mut a, b, _) = wire.tunnel();
    let pid = a.client().hello().pid;
    let handshakes = a.peer().handshakes;
    let out = Flow::start(&wire.a, &wire.b, "10.9.0.2:7000");
    let back = Flow::start(&wire.b, &wire.a, "10.9.0.1:7001");
    for end in 0..4 {
        out.wait_for(2_000);
        back.wait_for(2_000);
        let mut torso = Torso::ask(&wire.a, &a.socket);
        if end > 0 {
            assert!(torso.take(b'B').len() > 100, "what can be made ready");
        }
        if end > 1 {
            assert!(torso.take(b'P').len() > 100, "the sessions");
        }
        if end > 2 {
            // Alive, but it does not know what to say.
            torso.stream.write_all(b"?").unwrap();
            assert_eq!(torso.stream.read(&mut [0]).unwrap(), 0, "it is not told to go");
        }
        drop(torso);
    }
    out.wait_for(2_000);
    // One that comes after those is as good as the first.
    a.upgrade();
    out.wait_for(2_000);
    back.wait_for(2_000);
    let sent = (out.end(), back.end());
    println!("{sent:?} datagrams there and back over 4 broken handovers and a whole one");
    assert_ne!(a.client().hello().pid, pid);
    assert_eq!((a.peer().handshakes, b.peer().handshakes), (handshakes, handshakes));
    assert!(a.log().contains("not handed over; going on"));
}

#[test]
fn as_root_what_waits_for_a_session_waits_on_in_the_successor() {
    let wire = Wire::new();
    let pair = Pair::new(&wire);
    let mut a = wire.engine(&wire.a);
    a.client().set_device(pair.a.clone()).unwrap();
    wire.a.address("wtwg0");
    let sent = wire.a.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for number in 0..20_u8 {
            socket.send_to(&[number], "10.9.0.2:7000").unwrap();
        }
    });
    sent.join().unwrap();
    // There is nobody yet who could make a session.
    a.upgrade();
    a.upgrade();
    wire.b.ip(&["address", "add", "10.9.0.2/24", "dev", "lo"]);
    let arrived = wire.b.inside(|| {
        let socket = UdpSocket::bind("10.9.0.2:7000").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut byte = [0];
        let mut receive = || socket.recv(&mut byte).map(|_| byte[0]);
        (0..20).map(|_| receive().expect("a datagram")).collect::<Vec<u8>>()
    });
    let b = wire.engine(&wire.b);
    b.client().set_device(pair.b.clone()).unwrap();
    assert!(arrived.join().unwrap().into_iter().eq(0..20));
}

#[test]
fn as_root_strangers_and_other_versions_are_refused_and_the_engine_goes_on() {
    let wire = Wire::new();
    let (a, _b, _) = wire.tunnel();
    let namespace = std::fs::metadata(format!("/run/netns/{}", wire.a.namespace)).unwrap();
    let netns = (namespace.dev(), namespace.ino());
    let own = std::fs::metadata("/proc/self/ns/net").unwrap();
    let elsewhere = (own.dev(), own.ino());
    let asked = |version, netns| {
        let request = Request::TakeOver(TakeOverRequest { version, netns });
        match a.client().request(request).unwrap_err() {
            ClientError::Refused(refusal) => refusal.code,
            other => panic!("{other}"),
        }
    };
    assert_eq!(asked(HANDOVER_VERSION + 1, netns), RefusalCode::Version);
    assert_eq!(asked(HANDOVER_VERSION, elsewhere), RefusalCode::Foreign);
    assert!(wire.a.pings("10.9.0.2"));
    // The program itself, in another namespace: it ends and says why.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_watari-link"));
    command.arg("--take-over").arg("--socket").arg(&a.socket).arg("--state").arg(&a.state);
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("another network namespace"), "{words}");
    assert!(wire.a.pings("10.9.0.2"));
}

#[test]
fn as_root_a_program_that_an_update_replaced_is_renewed_and_only_then() {
    let wire = Wire::new();
    let pair = Pair::new(&wire);
    let b = wire.engine(&wire.b);
    b.client().set_device(pair.b.clone()).unwrap();
    let path = |name: &str| wire.folder.path().join(name);
    let (program, socket, state) = (path("watari-link"), path("renewed.sock"), path("renewed.state"));
    let install = || {
        std::fs::copy(env!("CARGO_BIN_EXE_watari-link"), path("next")).unwrap();
        std::fs::rename(path("next"), &program).unwrap();
    };
    install();
    let place = (program.clone(), socket.clone(), state.clone());
    let first =
        wire.a.inside(move || spawn_detached(&place.0, &place.1, &place.2).unwrap().pid).join().unwrap();
    let renew = || {
        let place = (program.clone(), socket.clone(), state.clone());
        wire.a.inside(move || spawn::renew(&place.0, &place.1, &place.2).unwrap()).join().unwrap()
    };
    let client = || Client::connect(&socket).unwrap();
    client().set_device(pair.a.clone()).unwrap();
    wire.a.address("wtwg0");
    wire.b.address("wtwg0");
    wait_until("a ping crosses", || wire.a.pings("10.9.0.2"));
    let handshakes = b.peer().handshakes;
    assert!(renew().is_none(), "it runs what is installed");
    install();
    let renewed = renew().expect("another file is in its place");
    assert_ne!(renewed.pid, first);
    assert!(renew().is_none() && client().hello().pid == renewed.pid);
    assert!(wire.a.pings("10.9.0.2"));
    assert_eq!(b.peer().handshakes, handshakes);
    client().shutdown(true).unwrap();
    wait_until("it has ended", || !socket.exists());
}

#[test]
fn as_root_one_command_replaces_the_engine_and_it_stays() {
    let wire = Wire::new();
    let (mut a, _b, _) = wire.tunnel();
    let pid = a.client().hello().pid;
    let mut command = wire.a.command(env!("CARGO_BIN_EXE_watari-link"));
    command.arg("--upgrade").arg("--socket").arg(&a.socket).arg("--state").arg(&a.state);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    a.wait_for_end();
    let hello = a.client().hello().clone();
    assert_ne!(hello.pid, pid);
    let lock = std::fs::read_to_string(watari_link::daemon::lock_path(&a.socket)).unwrap();
    assert_eq!(lock.trim(), hello.pid.to_string());
    assert!(wire.a.pings("10.9.0.2"));
    // Nobody else gets in while it runs, and it ends as any other.
    let mut second = wire.a.command(env!("CARGO_BIN_EXE_watari-link"));
    let second = second.arg("--socket").arg(&a.socket).arg("--state").arg(&a.state).output().unwrap();
    assert!(String::from_utf8_lossy(&second.stderr).contains("another watari-link"));
    a.client().shutdown(true).unwrap();
    wait_until("it has ended", || !a.socket.exists());
}
