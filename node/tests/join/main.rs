//! `watari-node join`, `status`, `up` and `leave` as programs, against a gateway made of an
//! enrolment listener and a `watari-link`. Needs root; fails without.
//!
//! ```text
//!   namespace …-n (the fresh machine)              namespace …-g (the gateway)
//!   ┌──────────────────────────────┐              ┌──────────────────────────────┐
//!   │ wt0   10.77.0.9  fd77::9     │              │ wtgw  10.77.0.1  fd77::1     │
//!   │   (watari-link)              │              │   (watari-link) UDP 51820    │
//!   │ eth0  192.0.2.2/24           ├──── veth ────┤ eth0  192.0.2.1/24           │
//!   │       foreign route 198.51.100.0/24         │ enrolment listener (TLS)     │
//!   └──────────────────────────────┘              └──────────────────────────────┘
//! ```

mod gateway;
mod namespace;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use watari_node::agent::{self, CallError, MeasureRequest};
use watari_node::measure::{Responder, ResponderOptions, Spec, TestKind};
use watari_node::node::NodeStatus;

use gateway::{DEVICE, Gateway, MTU, TOKEN};
use namespace::Namespace;

const NODE: &str = env!("CARGO_BIN_EXE_watari-node");
const AGENT: &str = "10.77.0.9:4791";
const CONTROLLER: &str = "10.77.0.1";
const FOREIGN: &str = "198.51.100.0/24";
/// One topology at a time: the names of its namespaces are the process's.
static TURN: Mutex<()> = Mutex::new(());

struct Topology {
    gateway: Gateway,
    node_ns: Namespace,
    gateway_ns: Namespace,
    folder: tempfile::TempDir,
    link: PathBuf,
}

impl Topology {
    fn new() -> Self {
        namespace::sweep();
        let link = build_link();
        let (node_ns, gateway_ns) = (Namespace::new("n"), Namespace::new("g"));
        let peer = ["peer", "name", "eth0", "netns", gateway_ns.name()];
        node_ns.ip(&[&["link", "add", "eth0", "type", "veth"], peer.as_slice()].concat());
        for (namespace, address) in [(&node_ns, "192.0.2.2/24"), (&gateway_ns, "192.0.2.1/24")] {
            namespace.ip(&["addr", "add", address, "dev", "eth0"]);
            namespace.ip(&["link", "set", "eth0", "up"]);
        }
        node_ns.ip(&["route", "add", FOREIGN, "via", "192.0.2.1"]);
        let folder = tempfile::tempdir().expect("a folder");
        let gateway = Gateway::start(&gateway_ns, &link, folder.path());
        for address in ["10.77.0.1/24", "10.77.0.77/24"] {
            gateway_ns.ip(&["addr", "add", address, "dev", DEVICE]);
        }
        gateway_ns.ip(&["addr", "add", "fd77::1/64", "dev", DEVICE, "nodad"]);
        Self { gateway, node_ns, gateway_ns, folder, link }
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    fn node(&self, arguments: &[&str]) -> Output {
        let state = self.state();
        let state = ["--state", state.to_str().expect("a plain path")];
        self.node_ns.run(NODE, &[arguments, state.as_slice()].concat())
    }

    fn join(&self, pin: &str, more: &[&str]) -> Output {
        let url = format!("https://{}", self.gateway.address);
        let link = self.link.to_str().expect("a plain path");
        let fixed = ["join", &url, "--token", TOKEN, "--pin", pin];
        let engine = ["--link-binary", link];
        let engine = if more.contains(&"--link-binary") { &[] } else { engine.as_slice() };
        self.node(&[&fixed, engine, more].concat())
    }

    fn joined(&self) {
        let output = self.join(&self.gateway.pin.to_string(), &[]);
        assert!(output.status.success(), "join: {}", words(&output));
    }

    fn status(&self) -> (bool, NodeStatus) {
        let output = self.node(&["status", "--json"]);
        let status =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", words(&output)));
        (output.status.success(), status)
    }

    /// Our routes in the node's main table.
    fn our_routes(&self) -> String {
        ["-4", "-6"].map(|family| self.node_ns.ip(&[family, "route", "show", "proto", "221"])).concat()
    }

    /// Nothing of a node is left: device, routes, processes; what was there before still is.
    fn assert_clean(&self) {
        let links = self.node_ns.ip(&["-br", "link"]);
        assert!(!links.contains("wt0"), "{links}");
        assert_eq!(self.our_routes(), "");
        wait_until("the end of every process of the node", || self.node_ns.processes().is_empty());
        let routes = self.node_ns.ip(&["route"]);
        assert!(routes.contains(FOREIGN) && routes.contains("192.0.2.0/24"), "{routes}");
    }

    /// Runs `work` in the gateway's namespace.
    fn at_gateway<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.gateway_ns.enter(work).join().expect("the work in the gateway's namespace")
    }
}

/// Builds `watari-link` beside the program under test: it is another package's program.
fn build_link() -> PathBuf {
    let folder = Path::new(NODE).parent().expect("a folder");
    let target = folder.parent().expect("a target folder");
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "watari-link", "--bin", "watari-link", "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(build.status.success(), "watari-link does not build: {}", words(&build));
    folder.join("watari-link")
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asserts that it failed with one sentence that has `part` in it.
fn assert_refused(output: &Output, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(part), "`{part}` is not in: {text}");
    assert_eq!(text.lines().count(), 1, "one sentence: {text}");
    assert!(!text.contains(TOKEN), "{text}");
}

fn wait_until(what: &str, mut probe: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !probe() {
        assert!(Instant::now() < deadline, "{what} did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn ping(topology: &Topology, target: &str, more: &[&str]) {
    let output = topology.node_ns.run("ping", &[more, &["-c", "1", "-W", "5", target]].concat());
    assert!(output.status.success(), "ping {target}: {}", words(&output));
}

#[test]
fn root_a_machine_joins_comes_up_again_and_leaves() {
    let _turn = TURN.lock();
    let topology = Topology::new();
    topology.joined();
    assert_on_the_network(&topology);
    assert_agent_serves(&topology);
    assert_refused(&topology.join(&topology.gateway.pin.to_string(), &[]), "already");

    assert_repaired(&topology);

    // As after a reboot: no process, no device, no route; the state is all that is left.
    topology.node_ns.kill_all();
    wait_until("the end of the processes", || topology.node_ns.processes().is_empty());
    if topology.node_ns.ip(&["-br", "link"]).contains("wt0") {
        topology.node_ns.ip(&["link", "del", "wt0"]);
    }
    let (success, status) = topology.status();
    assert!(!success && !status.healthy && !status.faults.is_empty(), "{status:?}");
    let output = topology.node(&["up"]);
    assert!(output.status.success(), "up: {}", words(&output));
    assert_on_the_network(&topology);
    assert_eq!(topology.gateway.asked.lock().expect("the list").len(), 1, "no token is needed again");

    // `up` on what is up already changes nothing.
    let before = topology.our_routes();
    assert!(topology.node(&["up"]).status.success());
    assert_eq!(topology.our_routes(), before);

    let output = topology.node(&["leave"]);
    assert!(output.status.success(), "leave: {}", words(&output));
    topology.assert_clean();
    let left: Vec<_> = std::fs::read_dir(topology.state()).into_iter().flatten().flatten().collect();
    assert!(!topology.state().exists(), "{left:?}");
    assert_refused(&topology.node(&["leave"]), "no node");
    assert_refused(&topology.node(&["up"]), "no node");
}

fn assert_on_the_network(topology: &Topology) {
    assert!(topology.gateway.handshakes() > 0);
    for target in [CONTROLLER, "fd77::1"] {
        ping(topology, target, &[]);
    }
    // A packet of the full MTU crosses, one byte more does not fit.
    ping(topology, CONTROLLER, &["-M", "do", "-s", &(MTU - 28).to_string()]);
    let routes = topology.our_routes();
    for part in ["10.77.0.0/24 dev wt0", "fd77::/64 dev wt0", "192.0.0.0/16 dev wt0", "192.0.2.1 dev eth0"] {
        assert!(routes.contains(part), "{part}: {routes}");
    }
    let link = topology.node_ns.ip(&["-d", "link", "show", "wt0"]);
    assert!(link.contains("alias watari:node:wt0") && link.contains(&format!("mtu {MTU}")), "{link}");
    let (success, status) = topology.status();
    assert!(success && status.healthy, "{status:?}");
    assert_eq!(status.node, "gpu-1");
    assert!(status.agent_pid.is_some() && status.handshake_age_s.is_some(), "{status:?}");
    let asked = topology.gateway.asked.lock().expect("the list").clone();
    let key = std::fs::read_to_string(topology.state().join("key")).expect("the key");
    assert!(asked.iter().all(|body| !body.contains(key.trim())), "the private key never leaves");
}

/// What somebody takes away is back soon, without anybody's doing.
fn assert_repaired(topology: &Topology) {
    topology.node_ns.ip(&["route", "del", "10.77.0.0/24"]);
    wait_until("the route", || topology.our_routes().contains("10.77.0.0/24 dev wt0"));
    topology.node_ns.ip(&["addr", "del", "10.77.0.9/32", "dev", "wt0"]);
    wait_until("the address", || {
        topology.node_ns.ip(&["addr", "show", "dev", "wt0"]).contains("10.77.0.9/32")
    });
    let engine = topology.node_ns.processes().into_iter().find(|pid| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        command.trim() == "watari-link"
    });
    topology.node_ns.kill(engine.expect("an engine runs"));
    wait_until("the tunnel", || {
        topology.node_ns.run("ping", &["-c", "1", "-W", "1", CONTROLLER]).status.success()
    });
    wait_until("a healthy node", || topology.status().1.healthy);
}

fn assert_agent_serves(topology: &Topology) {
    let (agent, controller): (SocketAddr, IpAddr) =
        (AGENT.parse().expect("an address"), CONTROLLER.parse().expect("an address"));
    let facts = topology.at_gateway(move || agent::fetch_facts(agent, Some(controller))).expect("facts");
    assert_eq!(facts.node, "gpu-1");
    let stranger = "10.77.0.77".parse().expect("an address");
    let error =
        topology.at_gateway(move || agent::fetch_facts(agent, Some(stranger))).expect_err("not a controller");
    assert!(matches!(error, CallError::Io { .. }), "{error}");
    let report = topology.at_gateway(move || {
        let listen = vec![SocketAddr::new(controller, 0)];
        let responder = Responder::start(&ResponderOptions { listen, allowed: None }).expect("a responder");
        let spec = Spec { tests: vec![TestKind::Tcp, TestKind::RrUdp], test_ms: 300, ..Spec::default() };
        let port = responder.addresses()[0].port();
        agent::request_measure(agent, Some(controller), &MeasureRequest { target: controller, port, spec })
    });
    let report = report.expect("a report");
    assert_eq!(report.source.to_string(), "10.77.0.9");
    assert!(report.tcp.expect("tcp").bytes > 0 && report.rr_udp.expect("rr-udp").transactions > 0);
}

#[test]
fn root_a_join_that_fails_leaves_nothing_and_says_why() {
    let _turn = TURN.lock();
    let topology = Topology::new();
    let (pin, wrong) = (topology.gateway.pin.to_string(), format!("sha256:{}", "00".repeat(32)));
    assert_refused(&topology.join(&wrong, &[]), "another certificate");
    assert_refused(&topology.join(&pin, &["--interface", "a/b"]), "no name for a device");
    assert_refused(&topology.join(&pin, &["--link-binary", "/nonexistent"]), "watari-link");

    // A foreign device or route is seen before the token is used, or stays as it is.
    topology.node_ns.ip(&["link", "add", "wt0", "type", "bridge"]);
    assert_refused(&topology.join(&pin, &[]), "not ours");
    topology.node_ns.ip(&["link", "del", "wt0"]);
    assert!(topology.gateway.asked.lock().expect("the list").is_empty(), "the token was not used");
    topology.assert_clean();

    topology.node_ns.ip(&["route", "add", "10.77.0.0/24", "via", "192.0.2.1"]);
    assert_refused(&topology.join(&pin, &[]), "10.77.0.0/24");
    let routes = topology.node_ns.ip(&["route"]);
    assert!(routes.contains("10.77.0.0/24 via 192.0.2.1"), "{routes}");
    assert!(topology.node(&["leave"]).status.success());
    topology.node_ns.ip(&["route", "del", "10.77.0.0/24"]);
    topology.assert_clean();

    assert_refused(&topology.join(&pin, &[]), "it was used before");
    topology.assert_clean();
}

#[test]
fn root_a_gateway_that_does_not_answer_is_a_clear_error() {
    let _turn = TURN.lock();
    let topology = Topology::new();
    topology.gateway.answers.store(false, Ordering::Relaxed);
    assert_refused(
        &topology.join(&topology.gateway.pin.to_string(), &["--wait", "1"]),
        "did not answer within 1 s",
    );
    let (success, status) = topology.status();
    assert!(!success && status.faults.iter().any(|f| f.contains("no session")), "{status:?}");
    assert!(topology.node(&["leave"]).status.success());
    topology.assert_clean();
}
