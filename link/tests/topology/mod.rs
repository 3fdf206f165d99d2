//! Two namespaces and a wire, engines in them, and all of it gone afterwards.
//!
//! ```text
//!  ns …a                                   ns …b
//!  v0 192.0.2.1/24, 2001:db8::1/64 ─ veth ─ v0 192.0.2.2/24, 2001:db8::2/64
//!  wtwg0 10.9.0.1/24, fd09::1/64  ═ tunnel ═ wtwg0 10.9.0.2/24, fd09::2/64
//! ```
//!
//! Needs root, `ip` and what the single test names; without them the test fails.

use std::fs::File;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use watari_link::protocol::{DeviceConfig, DeviceStatus, PeerConfig, PeerStatus};
use watari_link::{Client, PrivateKey};

/// Longest wait for anything in these tests.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

static COUNT: AtomicU32 = AtomicU32::new(0);

/// Waits until `what` holds; panics after [`PATIENCE`].
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command; panics with its words if it fails.
pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", words(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn words(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A namespace with its end of the wire.
pub(crate) struct Host {
    pub(crate) namespace: String,
    pub(crate) outer: IpAddr,
    pub(crate) inner4: String,
    pub(crate) inner6: String,
}

impl Host {
    /// Runs a command in it.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        let prefix = ["netns", "exec", &self.namespace, program];
        run("ip", &[&prefix, arguments].concat())
    }

    /// A command to be run in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, program]);
        command
    }

    /// Runs `ip` for it.
    pub(crate) fn ip(&self, arguments: &[&str]) -> String {
        run("ip", &[&["-n", &self.namespace], arguments].concat())
    }

    /// Puts the tunnel addresses on an interface.
    pub(crate) fn address(&self, device: &str) {
        self.ip(&["address", "replace", &self.inner4, "dev", device]);
        self.ip(&["-6", "address", "replace", &self.inner6, "dev", device, "nodad"]);
    }

    /// Calls `work` in a thread inside the namespace.
    pub(crate) fn inside<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let path = format!("/run/netns/{}", self.namespace);
        thread::spawn(move || {
            let file = File::open(&path).expect(&path);
            setns(file, CloneFlags::CLONE_NEWNET).expect("setns needs root");
            work()
        })
    }

    /// True if one ping crosses to an address.
    pub(crate) fn pings(&self, address: &str) -> bool {
        let mut command = self.command("ping");
        let output = command.args(["-n", "-c", "1", "-W", "1", address]).output().expect("ping");
        output.status.success()
    }
}

/// The two hosts. Dropping it ends what was started in them and removes them.
pub(crate) struct Wire {
    pub(crate) a: Host,
    pub(crate) b: Host,
    pub(crate) folder: tempfile::TempDir,
    /// Unique on this machine.
    pub(crate) tag: String,
    children: Vec<Child>,
}

impl Wire {
    /// Makes namespaces and wire.
    pub(crate) fn new() -> Self {
        let tag = format!("{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let host = |side: &str, number: u8| Host {
            namespace: format!("wtlk{tag}{side}"),
            outer: IpAddr::from([192, 0, 2, number]),
            inner4: format!("10.9.0.{number}/24"),
            inner6: format!("fd09::{number}/64"),
        };
        let wire = Self {
            a: host("a", 1),
            b: host("b", 2),
            folder: tempfile::tempdir().expect("folder"),
            tag,
            children: Vec::new(),
        };
        for host in [&wire.a, &wire.b] {
            run("ip", &["netns", "add", &host.namespace]);
            host.ip(&["link", "set", "lo", "up"]);
        }
        let (a, b) = (wire.a.namespace.as_str(), wire.b.namespace.as_str());
        run("ip", &["link", "add", "v0", "netns", a, "type", "veth", "peer", "v0", "netns", b]);
        for (host, number) in [(&wire.a, 1), (&wire.b, 2)] {
            host.ip(&["address", "add", &format!("192.0.2.{number}/24"), "dev", "v0"]);
            host.ip(&["-6", "address", "add", &format!("2001:db8::{number}/64"), "dev", "v0", "nodad"]);
            host.ip(&["link", "set", "v0", "up"]);
        }
        wire
    }

    /// Keeps a started process, to be ended with the wire.
    pub(crate) fn keep(&mut self, child: Child) {
        self.children.push(child);
    }

    /// Starts an engine in a host and waits until it answers.
    pub(crate) fn engine(&self, host: &Host) -> Running {
        self.engine_with(host, &[])
    }

    /// Starts an engine with more arguments.
    pub(crate) fn engine_with(&self, host: &Host, arguments: &[&str]) -> Running {
        let name = &host.namespace;
        let socket = self.folder.path().join(format!("{name}.sock"));
        let state = self.folder.path().join(format!("{name}.state"));
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let mut running = Running { namespace: name.clone(), socket, state, arguments, child: None };
        running.start();
        running
    }

    /// Starts wireguard-go as end b of the pair; the name of its interface. It shares one folder of
    /// sockets between all namespaces, so the name is unique.
    pub(crate) fn wireguard_go(&mut self, pair: &Pair) -> String {
        let device = format!("wtg{}", self.tag);
        let mut command = self.b.command("wireguard-go");
        let child = command.args(["-f", &device]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.keep(child.expect("wireguard-go"));
        let socket = format!("/var/run/wireguard/{device}.sock");
        wait_until("wireguard-go listens", || std::path::Path::new(&socket).exists());
        let key_file = |name: &str, text: &str| {
            let path = self.folder.path().join(name);
            std::fs::write(&path, text).expect("key file");
            path.display().to_string()
        };
        let peer = &pair.b.peers[0];
        let psk = peer.preshared_key.as_ref().expect("preshared key").reveal();
        let (own, psk) = (key_file("own", &pair.b.private_key.reveal()), key_file("psk", &psk));
        let far = peer.public_key.to_string();
        wait_until("wg configures it", || {
            let keys = ["set", &device, "listen-port", "51820", "private-key", &own, "peer", &far];
            let rest = ["preshared-key", &psk, "allowed-ips", "10.9.0.1/32,fd09::1/128"];
            let mut command = self.b.command("wg");
            command.args(keys).args(rest).args(["endpoint", "192.0.2.1:51820"]);
            command.output().expect("wg").status.success()
        });
        self.b.address(&device);
        self.b.ip(&["link", "set", &device, "up", "mtu", "1420"]);
        device
    }

    /// Two engines with one device each that know each other; addresses are on, a session is made.
    pub(crate) fn tunnel(&self) -> (Running, Running, Pair) {
        let pair = Pair::new(self);
        let (a, b) = (self.engine(&self.a), self.engine(&self.b));
        a.client().set_device(pair.a.clone()).expect("device of a");
        b.client().set_device(pair.b.clone()).expect("device of b");
        self.a.address("wtwg0");
        self.b.address("wtwg0");
        wait_until("a ping crosses", || self.a.pings("10.9.0.2"));
        (a, b, pair)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        // wireguard-go leaves its socket behind when it is killed.
        let _ = std::fs::remove_file(format!("/var/run/wireguard/wtg{}.sock", self.tag));
        for host in [&self.a, &self.b] {
            let _ = Command::new("ip").args(["netns", "del", &host.namespace]).output();
        }
    }
}

/// The configurations of both ends.
pub(crate) struct Pair {
    pub(crate) a: DeviceConfig,
    pub(crate) b: DeviceConfig,
}

impl Pair {
    pub(crate) fn new(wire: &Wire) -> Self {
        let keys = [PrivateKey::generate().expect("key"), PrivateKey::generate().expect("key")];
        let preshared_key = Some(PrivateKey::generate().expect("key").reveal().parse().expect("key"));
        let device = |own: usize, far: &Host, number: u8| DeviceConfig {
            name: "wtwg0".to_owned(),
            alias: "watari:test:tunnel/t".to_owned(),
            private_key: keys[own].clone(),
            listen_port: 51820,
            mtu: 1420,
            dscp: watari_link::protocol::Dscp::default(),
            peers: vec![PeerConfig {
                public_key: keys[1 - own].public_key(),
                preshared_key: preshared_key.clone(),
                endpoint: Some(SocketAddr::new(far.outer, 51820)),
                more_endpoints: Vec::new(),
                allowed_ips: vec![
                    format!("10.9.0.{number}/32").parse().expect("prefix"),
                    format!("fd09::{number}/128").parse().expect("prefix"),
                ],
                keepalive_s: 0,
            }],
        };
        Self { a: device(0, &wire.b, 2), b: device(1, &wire.a, 1) }
    }
}

/// An engine that was started as a child.
pub(crate) struct Running {
    namespace: String,
    pub(crate) socket: PathBuf,
    pub(crate) state: PathBuf,
    /// Besides socket and state.
    pub(crate) arguments: Vec<String>,
    child: Option<Child>,
}

impl Running {
    /// Starts it (again) and waits until it answers.
    pub(crate) fn start(&mut self) {
        self.child = Some(self.spawn(&[]));
        wait_until("the engine answers", || Client::connect(&self.socket).is_ok());
    }

    /// Has a successor take over, and waits until it answers and the former process has ended well.
    pub(crate) fn upgrade(&mut self) {
        let successor = self.spawn(&["--take-over"]);
        let pid = successor.id();
        wait_until("the successor answers", || {
            Client::connect(&self.socket).is_ok_and(|client| client.hello().pid == pid)
        });
        self.wait_for_end();
        self.child = Some(successor);
    }

    /// Waits for the end of a process that hands over.
    pub(crate) fn wait_for_end(&mut self) {
        let mut child = self.child.take().expect("runs");
        assert!(child.wait().expect("wait").success());
    }

    fn spawn(&self, more: &[&str]) -> Child {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace, env!("CARGO_BIN_EXE_watari-link")]);
        command
            .arg("--socket")
            .arg(&self.socket)
            .arg("--state")
            .arg(&self.state)
            .args(&self.arguments)
            .args(more);
        let log = File::options().create(true).append(true).open(self.state.with_extension("log"));
        command.stdin(Stdio::null()).stderr(log.expect("log"));
        // A test that is killed takes its engines along.
        // SAFETY: prctl is async-signal-safe.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                Ok(())
            });
        }
        command.spawn().expect("start watari-link")
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().expect("runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// Sends SIGTERM and waits for its end.
    pub(crate) fn terminate(&mut self) {
        let mut child = self.child.take().expect("runs");
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("SIGTERM");
        assert!(child.wait().expect("wait").success());
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket).expect("connect")
    }

    pub(crate) fn device(&self) -> DeviceStatus {
        self.client().list_devices().expect("list").swap_remove(0)
    }

    /// The first peer of the first device.
    pub(crate) fn peer(&self) -> PeerStatus {
        self.device().peers.swap_remove(0)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.state.with_extension("log")).expect("log")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Answers every datagram at an address of a host, until the test process ends.
pub(crate) fn echo(host: &Host, address: &'static str) {
    let (ready, is_ready) = std::sync::mpsc::channel();
    host.inside(move || {
        let socket = UdpSocket::bind(address).expect(address);
        ready.send(()).expect("test");
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&buffer[..length], from);
        }
    });
    is_ready.recv_timeout(PATIENCE).expect("echo");
}

/// Asks the echo every 10 ms until an answer to a new question comes; returns how long it took.
pub(crate) fn time_to_echo(host: &Host, to: &'static str) -> Duration {
    let asked = host.inside(move || {
        let began = Instant::now();
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(10))).expect("timeout");
        let mut buffer = [0; 8];
        while began.elapsed() < PATIENCE {
            // Refused while the interface has no reader; that is what is being waited for.
            let _ = socket.send_to(b"question", to);
            if socket.recv(&mut buffer).is_ok() {
                return began.elapsed();
            }
        }
        panic!("no echo from {to} within {PATIENCE:?}");
    });
    asked.join().expect("echo")
}
