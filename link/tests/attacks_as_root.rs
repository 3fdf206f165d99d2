//! What an attacker on the path can send to an engine that carries traffic: a flood of initiations with good
//! MACs, messages of others, and what is no message at all. Needs root, `ping` and `iperf3`; fails without. The messages are
//! made with the protocol core; what each of them costs and changes inside is told by its own tests
//! (`src/wg/attack_tests.rs`).

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use std::net::UdpSocket;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use topology::{Host, Running, Wire, echo, time_to_echo, wait_until};
use watari_link::wg::{Identity, Input, Now, Output, Peer};
use watari_link::{PrivateKey, PublicKey};

/// Where end b listens.
const TARGET: &str = "192.0.2.2:51820";

/// An initiation to `target` by somebody it does not know.
fn initiation(target: PublicKey) -> Vec<u8> {
    let identity = Arc::new(Identity::new(&PrivateKey::generate().expect("key")));
    let mut stranger = Peer::new(identity, target, None, 7);
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("clock");
    let now = Now { ms: 0, unix_ns: u64::try_from(unix.as_nanos()).expect("this century") };
    let mut random = |bytes: &mut [u8]| getrandom::fill(bytes).expect("random");
    let mut outputs = Vec::new();
    stranger.handle(Input::Call, now, &mut random, &mut outputs).expect("an initiation");
    match outputs.pop() {
        Some(Output::Initiation { message, .. }) => message.to_vec(),
        other => panic!("{other:?}"),
    }
}

/// Sends from a host until it is dropped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Flood {
    /// Initiations by 64 strangers, so many each millisecond.
    fn begin(host: &Host, target: PublicKey, each_ms: usize) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counter) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = host.inside(move || {
            let messages: Vec<Vec<u8>> = (0..64).map(|_| initiation(target)).collect();
            let socket = UdpSocket::bind("192.0.2.1:0").expect("bind");
            let mut messages = messages.iter().cycle();
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                for message in messages.by_ref().take(each_ms) {
                    let _ = socket.send_to(message, TARGET);
                    counter.fetch_add(1, Ordering::Relaxed);
                }
                // The rhythm of the flood, not a wait for something.
                next += Duration::from_millis(1);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, sent, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the flood ended early");
    }
}

/// How often the engine dropped a packet for this reason.
fn drops(engine: &Running, reason: &str) -> u64 {
    let drops = engine.device().drops;
    drops.iter().find(|drop| drop.reason == reason).map_or(0, |drop| drop.packets)
}

/// CPU time of the engine so far, in clock ticks of 10 ms.
fn cpu_ticks(engine: &Running) -> u64 {
    let pid = engine.client().hello().pid;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum()
}

#[test]
fn as_root_a_flood_of_initiations_loses_no_ping_and_a_restarted_peer_comes_through() {
    let wire = Wire::new();
    let (mut a, b, pair) = wire.tunnel();
    echo(&wire.b, "10.9.0.2:7");
    time_to_echo(&wire.a, "10.9.0.2:7");
    let (before, sessions) = (cpu_ticks(&b), b.peer().handshakes);
    let flood = Flood::begin(&wire.a, pair.b.private_key.public_key(), 5);
    wait_until("the gate is under load", || drops(&b, "under_load") > 0);
    let pings = wire.a.run("ping", &["-n", "-i", "0.02", "-c", "150", "-W", "2", "10.9.0.2"]);
    let summary = pings.lines().find(|line| line.contains("packet loss")).expect("a summary");
    assert!(summary.contains(" 0% packet loss"), "{summary}");
    let (ticks, sent) = (cpu_ticks(&b) - before, flood.sent.load(Ordering::Relaxed));
    println!("{sent} initiations, {} us of CPU each, cookies included", ticks * 10_000 / sent.max(1));
    assert_eq!(b.peer().handshakes, sessions, "strangers made no session");
    a.kill();
    a.start();
    println!("back through the flood after {:?}", time_to_echo(&wire.a, "10.9.0.2:7"));
    assert!(drops(&b, "unknown_peer") > 0, "some strangers were let in, and turned away");
    drop(flood);
}

/// Mbit/s of one TCP stream through the tunnel over two seconds, none of its half seconds without a byte; and how much of a core the
/// receiving engine took for it, in percent.
fn throughput(wire: &Wire, b: &Running) -> (u64, u64) {
    let server = wire.b.command("iperf3").args(["-s", "-1"]).stdout(Stdio::null()).spawn();
    let mut server = server.expect("iperf3");
    wait_until("iperf3 listens", || wire.b.run("ss", &["-Hltn"]).contains(":5201"));
    let (before, began) = (cpu_ticks(b), Instant::now());
    let report = wire.a.run("iperf3", &["-c", "10.9.0.2", "-t", "2", "-i", "0.5", "-J"]);
    let percent =
        (cpu_ticks(b) - before) * 1_000 / u64::try_from(began.elapsed().as_millis()).expect("seconds").max(1);
    server.wait().expect("iperf3");
    let report: serde_json::Value = serde_json::from_str(&report).expect("its report");
    let intervals = report["intervals"].as_array().expect("intervals");
    let stalled = intervals.iter().any(|interval| interval["sum"]["bytes"].as_u64() == Some(0));
    assert!(!stalled && intervals.len() >= 4, "{report}");
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate");
    ((bits / 1e6) as u64, percent)
}

#[test]
fn as_root_an_established_peer_keeps_its_throughput_under_a_flood() {
    let wire = Wire::new();
    let (_a, b, pair) = wire.tunnel();
    let target = pair.b.private_key.public_key();
    let sessions = b.peer().handshakes;
    let (mut calm, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        calm.push(throughput(&wire, &b));
        let flood = Flood::begin(&wire.a, target, 5);
        wait_until("the gate is under load", || flood.sent.load(Ordering::Relaxed) > 500);
        flooded.push(throughput(&wire, &b));
    }
    calm.sort_unstable();
    flooded.sort_unstable();
    let ((without, own), (with, flood)) = (calm[1], flooded[1]);
    println!(
        "Mbit/s and % of a core of the engine, sorted: calm {calm:?}, under 5,000 initiations/s {flooded:?}"
    );
    println!(
        "median with the flood {:.2} of that without; {flood} % of a core against {own} %",
        with as f64 / without.max(1) as f64
    );
    assert!(drops(&b, "under_load") > 1_000);
    assert_eq!(b.peer().handshakes, sessions, "strangers made no session");
}

#[test]
fn as_root_what_is_no_message_of_a_peer_is_counted_and_changes_nothing() {
    let wire = Wire::new();
    let (a, b, pair) = wire.tunnel();
    let mut before = b.peer();
    let index = before.session.as_ref().expect("a session").local_index;
    let whole = initiation(pair.b.private_key.public_key());
    let data = |receiver: u32, counter: u64| {
        let mut message = vec![4, 0, 0, 0];
        message.extend(receiver.to_le_bytes());
        message.extend(counter.to_le_bytes());
        message.resize(16 + 80 + 16, 0x5a);
        message
    };
    let mut flipped = whole.clone();
    flipped[60] ^= 1;
    let cases: [(&str, Vec<Vec<u8>>); 4] = [
        ("malformed", (1..148).chain([149, 500, 1_400]).map(|len| resized(&whole, len)).collect()),
        ("bad_mac", vec![flipped; 20]),
        ("unknown_session", vec![data(index ^ 0x0100_0000, 0); 20]),
        // Forged for the session in use: near, far, and at the end of its counters.
        ("refused", [0, 1, 50_000, u64::MAX - 10_000, u64::MAX].map(|counter| data(index, counter)).into()),
    ];
    let sends = cases.clone();
    let sent = wire.a.inside(move || {
        let socket = UdpSocket::bind("192.0.2.1:0").expect("bind");
        for message in sends.iter().flat_map(|(_, messages)| messages) {
            socket.send_to(message, TARGET).expect("send");
        }
    });
    sent.join().expect("sent");
    for (reason, messages) in &cases {
        let wanted = messages.len() as u64;
        wait_until(reason, || drops(&b, reason) >= wanted);
    }
    let mut after = b.peer();
    for status in [&mut before, &mut after] {
        status.last_handshake_age_ms = None;
        status.session.as_mut().expect("a session").age_ms = 0;
    }
    assert_eq!(after, before);
    assert!(wire.a.pings("10.9.0.2"));
    drop(a);
}

fn resized(message: &[u8], len: usize) -> Vec<u8> {
    let mut resized = message.to_vec();
    resized.resize(len, 0);
    resized
}
