//! An agent on loopback addresses, called by controllers and by others. No root needed.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::measure::{Spec, TestKind};

const CONTROLLER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));

/// An agent on a thread of its own; it stops when dropped.
struct Running {
    agent: SocketAddr,
    measure: SocketAddr,
    folder: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn agent() -> Running {
    let folder = tempfile::tempdir().expect("a folder");
    let options = AgentOptions {
        node: "node-1".into(),
        lease_expires: "2030-01-01T00:00:00Z".into(),
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        port: 0,
        controllers: vec![CONTROLLER],
        measure_port: 0,
        measure_allowed: vec!["127.0.0.0/8".parse().expect("a prefix")],
        socket: Some(folder.path().join("agent.sock")),
    };
    let (stop, stopped) = oneshot::channel::<()>();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let agent = Agent::bind(&options).expect("an agent");
            sender.send((agent.addresses()[0], agent.measure_addresses()[0])).expect("a receiver");
            agent.serve(async { drop(stopped.await) }).await;
        });
    });
    let (agent, measure) = receiver.recv_timeout(Duration::from_secs(10)).expect("it listens");
    Running { agent, measure, folder, stop: Some(stop), thread: Some(thread) }
}

fn request(to: SocketAddr, test_ms: u32) -> MeasureRequest {
    let spec = Spec { tests: vec![TestKind::RrTcp], test_ms, ..Spec::default() };
    MeasureRequest { target: to.ip(), port: to.port(), spec }
}

/// What comes back for raw bytes sent by the controller, until the agent hangs up.
fn raw(agent: SocketAddr, bytes: &[u8]) -> String {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::new(CONTROLLER, 0).into()).expect("the controller's address");
    socket.connect(&agent.into()).expect("a connection");
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(bytes).expect("it is sent");
    let mut text = Vec::new();
    // The answer counts, not how the connection ends: a body that was not read ends it with a reset.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn post(body: &str) -> Vec<u8> {
    format!("POST /v1/measure HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len())
        .into_bytes()
}

#[test]
fn a_controller_gets_facts_and_so_does_the_socket() {
    let running = agent();
    let facts = fetch_facts(running.agent, Some(CONTROLLER)).expect("facts");
    assert_eq!((facts.node.as_str(), facts.lease_expires.as_str()), ("node-1", "2030-01-01T00:00:00Z"));
    assert!(facts.inventory.cpus > 0 && facts.tasks > 0);
    let local = call_local(&running.folder.path().join("agent.sock")).expect("facts");
    assert_eq!(local.inventory, facts.inventory);
}

#[test]
fn others_are_hung_up_on() {
    let running = agent();
    let error = fetch_facts(running.agent, Some(STRANGER)).expect_err("not a controller");
    assert!(matches!(error, CallError::Io { .. }), "{error}");
    let error =
        request_measure(running.agent, None, &request(running.measure, 200)).expect_err("not a controller");
    assert!(matches!(error, CallError::Io { .. }), "{error}");
}

#[test]
fn the_agent_measures_from_its_node() {
    let running = agent();
    let report =
        request_measure(running.agent, Some(CONTROLLER), &request(running.measure, 200)).expect("a report");
    assert_eq!(report.target, running.measure);
    assert!(report.rr_tcp.expect("a result").transactions > 0);
}

#[test]
fn one_measurement_at_a_time() {
    let running = agent();
    let (agent, measure) = (running.agent, running.measure);
    let both = [(); 2].map(|()| {
        std::thread::spawn(move || request_measure(agent, Some(CONTROLLER), &request(measure, 1_500)))
    });
    let answers = both.map(|thread| thread.join().expect("the thread"));
    let (done, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert_eq!((done.len(), refused.len()), (1, 1), "{refused:?}");
    let Some(Err(CallError::Problem { problem, .. })) = refused.into_iter().next() else {
        panic!("no problem")
    };
    assert_eq!((problem.kind.as_str(), problem.status), (PROBLEM_BUSY, 409));
    request_measure(agent, Some(CONTROLLER), &request(measure, 100)).expect("afterwards it is free again");
}

#[test]
fn a_measurement_that_fails_is_a_problem_that_says_why() {
    let running = agent();
    let nowhere = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 9);
    let error =
        request_measure(running.agent, Some(CONTROLLER), &request(nowhere, 100)).expect_err("nobody there");
    let CallError::Problem { problem, .. } = error else { panic!("{error}") };
    assert_eq!((problem.kind.as_str(), problem.status), (PROBLEM_MEASURE, 502));
    assert!(problem.detail.as_ref().expect("a detail").contains("127.0.0.1:9"));
}

#[test]
fn bad_requests_are_named_and_change_nothing() {
    let running = agent();
    let long = "x".repeat(REQUEST_BYTES_MAX + 1);
    let cases: [(&[u8], &str); 8] = [
        (b"GET /v1/none HTTP/1.1\r\nhost: a\r\n\r\n", "404"),
        (b"DELETE /v1/facts HTTP/1.1\r\nhost: a\r\n\r\n", "405"),
        (b"garbage\r\n\r\n", "400"),
        (&post("{}"), "400"),
        (&post(r#"{"target": "127.0.0.1", "spec": {"tests": ["tcp"], "nonsense": 1}}"#), "400"),
        (&post(r#"{"target": "127.0.0.1", "spec": {"test_ms": 4000000}}"#), "422"),
        (&post(r#"{"target": "127.0.0.1", "spec": {"tests": []}}"#), "422"),
        (&post(&long), "413"),
    ];
    for (bytes, status) in cases {
        let answer = raw(running.agent, bytes);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown}: {answer}");
    }
    let named = raw(running.agent, &post(r#"{"target": "127.0.0.1", "spec": {"nonsense": 1}}"#));
    assert!(named.contains("nonsense") && named.contains("application/problem+json"), "{named}");
    fetch_facts(running.agent, Some(CONTROLLER)).expect("it still answers");
}
