//! BFD against the real thing: FRR's `bfdd` and BIRD, single hop and multihop, IPv4 and IPv6. Needs root, `ip`,
//! `/usr/lib/frr/bfdd`, `vtysh` and `bird`; fails without them.

#[allow(dead_code, reason = "the other tests use the rest")]
mod topology;

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use topology::{Running, Wire, wait_until};
use watari_link::key::BfdSecret;
use watari_link::protocol::{
    BfdAuthentication, BfdAuthenticationKind, BfdConfig, BfdHops, BfdState, BfdStatus, Event,
};

/// 50 ms × 3: the detection time of every session here, both ways.
const DETECTION: Duration = Duration::from_millis(150);
/// What a loaded machine may add before a change is seen.
const SLACK: Duration = Duration::from_millis(350);

fn session(name: &str, local: &str, remote: &str, hops: BfdHops) -> BfdConfig {
    BfdConfig {
        name: name.to_owned(),
        netns: None,
        device: (hops == BfdHops::Single).then(|| "v0".to_owned()),
        local: Some(local.parse().unwrap()),
        remote: remote.parse().unwrap(),
        hops,
        desired_min_tx_us: 50_000,
        required_min_rx_us: 50_000,
        detect_mult: 3,
        passive: false,
        admin_down: false,
        authentication: None,
    }
}

const MULTI: BfdHops = BfdHops::Multi { ttl_min: 254 };

/// Both kinds over both families. A neighbour beyond a router has an address of its own there.
fn four() -> Vec<BfdConfig> {
    vec![
        session("multi4", "192.0.2.1", "198.51.100.2", MULTI),
        session("multi6", "2001:db8::1", "2001:db8:2::2", MULTI),
        session("single4", "192.0.2.1", "192.0.2.2", BfdHops::Single),
        session("single6", "2001:db8::1", "2001:db8::2", BfdHops::Single),
    ]
}

/// The far addresses of the multihop sessions, on the far host's loopback.
fn beyond(wire: &Wire) {
    wire.b.ip(&["address", "add", "198.51.100.2/32", "dev", "lo"]);
    wire.b.ip(&["-6", "address", "add", "2001:db8:2::2/128", "dev", "lo", "nodad"]);
    wire.a.ip(&["route", "add", "198.51.100.2/32", "via", "192.0.2.2"]);
    wire.a.ip(&["-6", "route", "add", "2001:db8:2::2/128", "via", "2001:db8::2"]);
}

fn list(engine: &Running) -> Vec<BfdStatus> {
    engine.client().list_bfd().unwrap().sessions
}

fn all_are(engine: &Running, state: BfdState) -> bool {
    let sessions = list(engine);
    !sessions.is_empty() && sessions.iter().all(|s| s.state == state)
}

/// FRR's `bfdd` in the far host, alone: without zebra it knows no interfaces, so single-hop sessions are by
/// address only.
struct Frr {
    namespace: String,
    folder: PathBuf,
}

impl Frr {
    fn start(wire: &mut Wire, config: &str) -> Self {
        let folder = PathBuf::from(format!("/run/wtfrr{}", wire.tag));
        fs::create_dir_all(&folder).unwrap();
        topology::run("chown", &["frr:frr", folder.to_str().unwrap()]);
        let namespace = wire.b.namespace.clone();
        let frr = Self { namespace, folder };
        let file = frr.path("frr.conf");
        fs::write(&file, config).unwrap();
        topology::run("chown", &["frr:frr", &file]);
        for daemon in ["zebra", "bfdd"] {
            let mut command = wire.b.command(&format!("/usr/lib/frr/{daemon}"));
            command.args(["--vty_socket", frr.folder.to_str().unwrap(), "-P", "0", "-f", &file]);
            command.args(["-z", &frr.path("zserv.api"), "-i", &frr.path(&format!("{daemon}.pid"))]);
            if daemon == "bfdd" {
                command.args(["--bfdctl", &frr.path("bfdd.sock")]);
            }
            let log = fs::File::create(frr.path(&format!("{daemon}.log"))).unwrap();
            command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
            let child = command.spawn().unwrap();
            wire.keep(child);
            wait_until("FRR answers", || frr.asks(daemon, "show version").is_some());
        }
        frr
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// What one daemon says; `None` while it does not answer.
    fn asks(&self, daemon: &str, command: &str) -> Option<String> {
        let mut vtysh = Command::new("ip");
        vtysh.args(["netns", "exec", &self.namespace, "vtysh", "--vty_socket"]).arg(&self.folder);
        let output = vtysh.args(["-d", daemon, "-c", command]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn peers(&self) -> Vec<serde_json::Value> {
        let text = self.asks("bfdd", "show bfd peers json").unwrap_or_default();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        value.as_array().cloned().unwrap_or_default()
    }

    fn all_are(&self, status: &str) -> bool {
        let peers = self.peers();
        !peers.is_empty() && peers.iter().all(|peer| peer["status"] == status)
    }

    fn configure(&self, lines: &[&str]) {
        let mut vtysh = Command::new("ip");
        vtysh.args(["netns", "exec", &self.namespace, "vtysh", "--vty_socket"]).arg(&self.folder);
        vtysh.args(["-d", "bfdd", "-c", "configure"]);
        for line in lines {
            vtysh.args(["-c", line]);
        }
        let output = vtysh.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Frr {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn frr_config() -> String {
    let peer = |line: &str| {
        format!(
            " peer {line}\n  detect-multiplier 3\n  receive-interval 50\n  transmit-interval 50\n  no shutdown\n !\n"
        )
    };
    let peers = [
        peer("192.0.2.1 interface v0"),
        peer("2001:db8::1 local-address 2001:db8::2 interface v0"),
        peer("192.0.2.1 multihop local-address 198.51.100.2"),
        peer("2001:db8::1 multihop local-address 2001:db8:2::2"),
    ];
    format!("bfd\n{}!\n", peers.concat())
}

fn bird(wire: &mut Wire, config: &str) -> String {
    let file = wire.folder.path().join("bird.conf");
    let socket = wire.folder.path().join("bird.ctl").to_str().unwrap().to_owned();
    fs::write(&file, config).unwrap();
    let mut command = wire.b.command("/usr/sbin/bird");
    command.args(["-f", "-s", &socket, "-c"]).arg(&file);
    let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wire.keep(child);
    wait_until("BIRD answers", || birdc(&socket, "show status").contains("up and running"));
    socket
}

fn birdc(socket: &str, command: &str) -> String {
    let output = Command::new("birdc").args(["-s", socket, command]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn count(text: &str, word: &str) -> usize {
    text.split_whitespace().filter(|w| *w == word).count()
}

/// Cuts the wire and measures how long it takes until every session of ours has said Down.
fn cut(wire: &Wire, engine: &Running, sessions: usize) -> Duration {
    let mut events = engine.client().subscribe().unwrap();
    wire.b.ip(&["link", "set", "v0", "down"]);
    let began = Instant::now();
    let mut down = 0;
    while down < sessions {
        let event = events.next(topology::PATIENCE).unwrap().expect("an event");
        if let Event::Bfd { state: BfdState::Down, diagnostic, .. } = event {
            assert_eq!(diagnostic, "control_detection_time_expired");
            down += 1;
        }
    }
    began.elapsed()
}

#[test]
fn as_root_frr_comes_up_is_missed_in_time_and_sees_that_we_do_not_depend_on_the_brain() {
    let mut wire = Wire::new();
    beyond(&wire);
    let engine = wire.engine(&wire.a);
    let frr = Frr::start(&mut wire, &frr_config());
    assert_eq!(engine.client().set_bfd(four()).unwrap().touched.len(), 4);
    wait_until("all of ours are up", || all_are(&engine, BfdState::Up));
    wait_until("all of FRR's are up", || frr.peers().len() == 4 && frr.all_are("up"));
    wait_until("the fast interval is agreed on", || {
        list(&engine).iter().all(|s| s.interval_us == 50_000 && s.detection_time_us == 150_000)
    });
    for peer in frr.peers() {
        let told = [&peer["remote-receive-interval"], &peer["remote-transmit-interval"]];
        assert!(told.iter().all(|ms| **ms == 50) && peer["remote-detect-multiplier"] == 3, "{peer}");
    }

    // What the brain would be is gone since set_bfd: its connection was closed. Nothing changes.
    let changes = |engine: &Running| list(engine).iter().map(|s| s.changes).collect::<Vec<_>>();
    let before = changes(&engine);
    let received = list(&engine)[0].received;
    wait_until("a hundred packets more", || list(&engine)[0].received > received + 100);
    assert_eq!(changes(&engine), before, "{:?}", list(&engine));

    let took = cut(&wire, &engine, 4);
    println!("FRR: a cut wire was noticed after {took:?}");
    assert!(took < DETECTION + SLACK, "{took:?}");
    wait_until("FRR notices too", || frr.all_are("down"));
    wire.b.ip(&["link", "set", "v0", "up"]);
    wire.b.ip(&["-6", "address", "replace", "2001:db8::2/64", "dev", "v0", "nodad"]);
    wait_until("all are up again", || all_are(&engine, BfdState::Up) && frr.all_are("up"));
}

#[test]
fn as_root_frr_is_told_when_a_session_is_shut_down_or_taken_out() {
    let mut wire = Wire::new();
    let engine = wire.engine(&wire.a);
    let config = " peer 192.0.2.1 interface v0\n  receive-interval 50\n  transmit-interval 50\n";
    let frr = Frr::start(&mut wire, &format!("bfd\n{config}"));
    let one = session("peers.x", "192.0.2.1", "192.0.2.2", BfdHops::Single);
    engine.client().set_bfd(vec![one.clone()]).unwrap();
    wait_until("both are up", || all_are(&engine, BfdState::Up) && frr.all_are("up"));

    let shut = BfdConfig { admin_down: true, ..one.clone() };
    assert_eq!(engine.client().set_bfd(vec![shut]).unwrap().touched, ["sessions[peers.x].changed"]);
    wait_until("FRR is down by our word", || {
        frr.peers().iter().all(|p| p["status"] == "down" && p["remote-diagnostic"] == "administratively down")
    });
    assert!(all_are(&engine, BfdState::AdminDown));
    engine.client().set_bfd(vec![one.clone()]).unwrap();
    wait_until("both are up again", || all_are(&engine, BfdState::Up) && frr.all_are("up"));

    let mut ours = engine.client().subscribe().unwrap();
    frr.configure(&["bfd", "peer 192.0.2.1 interface v0", "shutdown"]);
    loop {
        if let Event::Bfd { state, diagnostic, .. } =
            ours.next(topology::PATIENCE).unwrap().expect("an event")
        {
            let expected = (BfdState::Down, "neighbor_signaled_session_down");
            assert_eq!((state, diagnostic.as_str()), expected, "its word, not its silence");
            break;
        }
    }
    assert_eq!(list(&engine)[0].remote_state, BfdState::AdminDown);
    frr.configure(&["bfd", "peer 192.0.2.1 interface v0", "no shutdown"]);
    wait_until("both are up once more", || all_are(&engine, BfdState::Up) && frr.all_are("up"));

    engine.client().set_bfd(Vec::new()).unwrap();
    assert!(list(&engine).is_empty());
    wait_until("FRR is told that it is gone", || {
        frr.peers().iter().all(|p| p["remote-diagnostic"] == "administratively down")
    });
}

#[test]
fn as_root_bird_comes_up_with_every_authentication_that_we_speak() {
    let kinds = [
        ("simple", BfdAuthenticationKind::Simple),
        ("keyed sha1", BfdAuthenticationKind::KeyedSha1),
        ("meticulous keyed sha1", BfdAuthenticationKind::MeticulousKeyedSha1),
    ];
    for (words, kind) in kinds {
        let mut wire = Wire::new();
        beyond(&wire);
        let engine = wire.engine(&wire.a);
        let secret = BfdSecret::new("crossing");
        let authentication = Some(BfdAuthentication { kind, key_id: 7, secret });
        // BIRD sends multihop packets with the system's TTL, 64.
        let hops = |s: &BfdConfig| if s.hops == MULTI { BfdHops::Multi { ttl_min: 64 } } else { s.hops };
        let with = |s: BfdConfig| BfdConfig { hops: hops(&s), authentication: authentication.clone(), ..s };
        engine.client().set_bfd(four().into_iter().map(with).collect()).unwrap();
        let timers = format!(
            "min rx interval 50 ms; min tx interval 50 ms; multiplier 3; \
             authentication {words}; password \"crossing\" {{ id 7; }};"
        );
        let config = format!(
            "router id 192.0.2.2; protocol device {{ }} protocol bfd {{ interface \"v0\" {{ {timers} }}; \
             multihop {{ {timers} }}; neighbor 192.0.2.1 dev \"v0\"; neighbor 2001:db8::1 dev \"v0\"; \
             neighbor 192.0.2.1 local 198.51.100.2 multihop; \
             neighbor 2001:db8::1 local 2001:db8:2::2 multihop; }}"
        );
        let socket = bird(&mut wire, &config);
        wait_until("all of ours are up", || all_are(&engine, BfdState::Up));
        wait_until("all of BIRD's are up", || count(&birdc(&socket, "show bfd sessions"), "Up") == 4);
        assert!(list(&engine).iter().all(|s| s.config.authentication.is_none()), "no secret is shown");
        let sent = list(&engine)[0].sent;
        wait_until("forty packets more", || list(&engine)[0].sent > sent + 40);
        assert!(
            list(&engine).iter().all(|s| s.state == BfdState::Up && s.changes <= 2),
            "{:?}",
            list(&engine)
        );
        let took = cut(&wire, &engine, 4);
        println!("BIRD, {words}: a cut wire was noticed after {took:?}");
        assert!(took < DETECTION + SLACK, "{took:?}");
    }
}

/// Two engines, each with the sessions of the other.
fn two_engines(wire: &Wire) -> (Running, Running) {
    let (a, b) = (wire.engine(&wire.a), wire.engine(&wire.b));
    let one = |local, remote| session("peers.x", local, remote, BfdHops::Single);
    a.client().set_bfd(vec![one("192.0.2.1", "192.0.2.2")]).unwrap();
    b.client().set_bfd(vec![one("192.0.2.2", "192.0.2.1")]).unwrap();
    wait_until("both are up", || all_are(&a, BfdState::Up) && all_are(&b, BfdState::Up));
    (a, b)
}

#[test]
fn as_root_a_killed_engine_goes_on_from_its_state_file() {
    let wire = Wire::new();
    let (mut a, b) = two_engines(&wire);
    assert!(list(&b)[0].remote_control_plane_independent, "the C bit is set");
    let discriminator = list(&a)[0].local_discriminator;
    a.kill();
    wait_until("the other end notices", || !all_are(&b, BfdState::Up));
    a.start();
    wait_until("up again, unasked", || all_are(&a, BfdState::Up) && all_are(&b, BfdState::Up));
    assert_ne!(list(&a)[0].local_discriminator, discriminator);
    let same = session("peers.x", "192.0.2.1", "192.0.2.2", BfdHops::Single);
    assert!(a.client().set_bfd(vec![same]).unwrap().touched.is_empty());
}

#[test]
fn as_root_a_device_and_an_address_may_come_later_and_a_packet_from_afar_is_dropped() {
    let wire = Wire::new();
    let (a, b) = (wire.engine(&wire.a), wire.engine(&wire.b));
    wire.a.ip(&["address", "del", "192.0.2.1/24", "dev", "v0"]);
    a.client().set_bfd(vec![session("x", "192.0.2.1", "192.0.2.2", BfdHops::Single)]).unwrap();
    wait_until("the address is missing", || {
        list(&a)[0].error.as_deref().is_some_and(|e| e.contains("socket"))
    });
    b.client().set_bfd(vec![session("x", "192.0.2.2", "192.0.2.1", BfdHops::Single)]).unwrap();
    wire.a.ip(&["address", "add", "192.0.2.1/24", "dev", "v0"]);
    wait_until("up", || all_are(&a, BfdState::Up) && all_are(&b, BfdState::Up));
    assert_eq!(list(&a)[0].error, None);

    // RFC 5881 §5: what could have crossed a router does not get into the queue; what comes behind it does.
    let thread = wire.b.inside(|| {
        let socket = std::net::UdpSocket::bind("192.0.2.2:50000").unwrap();
        socket.set_ttl(254).unwrap();
        let octets = [0x20, 0x40, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        socket.send_to(&octets, ("192.0.2.1".parse::<IpAddr>().unwrap(), 3784)).unwrap();
        socket.set_ttl(255).unwrap();
        socket.send_to(&octets[..23], ("192.0.2.1".parse::<IpAddr>().unwrap(), 3784)).unwrap();
    });
    thread.join().unwrap();
    let drops = || a.client().list_bfd().unwrap().drops;
    wait_until("the second is counted", || {
        drops().iter().map(|d| (d.reason.as_str(), d.packets)).collect::<Vec<_>>() == [("truncated", 1)]
    });
    assert!(all_are(&a, BfdState::Up));

    wire.b.ip(&["link", "del", "v0"]);
    wait_until("a device that is gone is an error and down", || {
        list(&a)[0].error.is_some() && all_are(&a, BfdState::Down)
    });
    let (left, right) = (wire.a.namespace.as_str(), wire.b.namespace.as_str());
    topology::run("ip", &["link", "add", "v0", "netns", left, "type", "veth", "peer", "v0", "netns", right]);
    for (host, number) in [(&wire.a, 1), (&wire.b, 2)] {
        host.ip(&["address", "add", &format!("192.0.2.{number}/24"), "dev", "v0"]);
        host.ip(&["link", "set", "v0", "up"]);
    }
    wait_until("up by the new device", || all_are(&a, BfdState::Up) && all_are(&b, BfdState::Up));
}

#[test]
fn as_root_a_session_lives_in_a_namespace_that_may_be_made_anew() {
    let wire = Wire::new();
    // One engine outside of both namespaces holds a session in each.
    let folder = wire.folder.path().join("outside");
    fs::create_dir(&folder).unwrap();
    let (a, b) = (wire.a.namespace.clone(), wire.b.namespace.clone());
    let engine = wire.engine(&wire.b);
    let inside = |name: &str, netns: &str, local: &str, remote: &str| BfdConfig {
        netns: Some(format!("/run/netns/{netns}")),
        ..session(name, local, remote, BfdHops::Single)
    };
    let both = || vec![inside("a", &a, "192.0.2.1", "192.0.2.2"), inside("b", &b, "192.0.2.2", "192.0.2.1")];
    engine.client().set_bfd(both()).unwrap();
    wait_until("both are up", || all_are(&engine, BfdState::Up));
    topology::run("ip", &["netns", "del", &a]);
    wait_until("the namespace is gone", || {
        list(&engine)[0].error.is_some() && all_are(&engine, BfdState::Down)
    });
    topology::run("ip", &["netns", "add", &a]);
    let _ = Command::new("ip").args(["-n", &b, "link", "del", "v0"]).output();
    topology::run("ip", &["link", "add", "v0", "netns", &a, "type", "veth", "peer", "v0", "netns", &b]);
    for (host, number) in [(&wire.a, 1), (&wire.b, 2)] {
        host.ip(&["address", "add", &format!("192.0.2.{number}/24"), "dev", "v0"]);
        host.ip(&["link", "set", "v0", "up"]);
    }
    wait_until("both are up again", || all_are(&engine, BfdState::Up));
}
