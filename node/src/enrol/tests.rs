//! The client against a TLS server in this process with a certificate made on the spot.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::pki_types::PrivatePkcs8KeyDer;

use super::*;

/// A server that answers each connection with the next of its answers, and keeps what it was asked.
struct Server {
    url: EnrolUrl,
    pin: Pin,
    thread: JoinHandle<Vec<String>>,
}

fn server(answers: Vec<String>) -> Server {
    let certified = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).expect("a certificate");
    let der = certified.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let pin = Pin::of_certificate(&der);
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![der], key.into())
            .expect("a key that fits");
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let config = Arc::new(config);
    let thread = std::thread::spawn(move || {
        let mut asked = Vec::new();
        for answer in answers {
            let (stream, _) = listener.accept().expect("a connection");
            asked.push(serve(stream, &config, &answer));
        }
        asked
    });
    Server { url: EnrolUrl { host: "127.0.0.1".into(), port }, pin, thread }
}

/// Reads one request and writes the answer; returns the request, empty when TLS failed.
fn serve(mut stream: std::net::TcpStream, config: &Arc<rustls::ServerConfig>, answer: &str) -> String {
    let mut connection = rustls::ServerConnection::new(Arc::clone(config)).expect("a connection");
    let mut tls = rustls::Stream::new(&mut connection, &mut stream);
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match tls.read(&mut chunk) {
            Ok(0) | Err(_) => return String::new(),
            Ok(count) => request.extend_from_slice(&chunk[..count]),
        }
        let text = String::from_utf8_lossy(&request);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|l| l.strip_prefix("content-length: "));
            length.is_some_and(|l| body.len() >= l.parse().expect("a number"))
        });
        if whole {
            break;
        }
    }
    tls.write_all(answer.as_bytes()).expect("the answer is sent");
    tls.conn.send_close_notify();
    let _ = tls.flush();
    String::from_utf8_lossy(&request).into_owned()
}

fn http(status: &str, kind: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn reply() -> EnrolReply {
    EnrolReply {
        node: "gpu-1".into(),
        addresses: vec!["10.0.0.9/32".parse().expect("v4"), "fd00::9/128".parse().expect("v6")],
        mtu: 1370,
        prefixes: vec!["10.0.0.0/24".parse().expect("a prefix")],
        wireguard: WireguardParameters {
            public_key: key(),
            endpoint: "192.0.2.1:51820".parse().expect("an endpoint"),
            keepalive_s: 15,
            allowed_ips: vec!["0.0.0.0/0".parse().expect("a prefix")],
        },
        lease_expires: "2030-01-01T00:00:00Z".into(),
        agent: AgentParameters {
            port: AGENT_PORT_DEFAULT,
            controllers: vec!["10.0.0.2".parse().expect("v4")],
        },
    }
}

fn key() -> PublicKey {
    "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=".parse().expect("a key")
}

fn request() -> EnrolRequest {
    EnrolRequest {
        token: "wt-secret".into(),
        public_key: key(),
        hostname: "host".into(),
        kind: NodeKind::Cpu,
        inventory: Inventory {
            cpus: 2,
            memory_bytes: 1 << 30,
            kernel: "6.6".into(),
            os: "x".into(),
            gpus: vec![],
        },
    }
}

fn quick() -> ClientOptions {
    ClientOptions {
        attempts: 3,
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(20),
        connect_limit: Duration::from_secs(5),
        reply_limit: Duration::from_secs(5),
    }
}

#[test]
fn the_pinned_server_gets_the_request_and_its_reply_is_read() {
    let answer = http("200 OK", "application/json", &serde_json::to_string(&reply()).expect("JSON"));
    let server = server(vec![answer]);
    let got = enrol(&server.url, server.pin, &request(), &quick()).expect("enrolled");
    assert_eq!(got, reply());
    let asked = server.thread.join().expect("the server ends");
    let (head, body) = asked[0].split_once("\r\n\r\n").expect("a request");
    assert!(head.starts_with("POST /enrol HTTP/1.1\r\n"), "{head}");
    assert_eq!(serde_json::from_str::<EnrolRequest>(body).expect("JSON"), request());
}

#[test]
fn another_certificate_gets_nothing() {
    let server = server(vec![String::new()]);
    let wrong = Pin::of_certificate(b"another");
    let error = enrol(&server.url, wrong, &request(), &quick()).expect_err("it is not trusted");
    assert!(matches!(error, ClientError::Pin { .. }), "{error}");
    assert_eq!(server.thread.join().expect("the server ends"), [""], "no request arrived");
}

/// Every bit counts: a pin that differs in one bit is another pin.
#[test]
fn a_pin_is_compared_whole() {
    let certified = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).expect("a certificate");
    let pin = Pin::of_certificate(certified.cert.der());
    assert!(pin.matches(certified.cert.der()));
    let mut der = certified.cert.der().to_vec();
    *der.last_mut().expect("bytes") ^= 1;
    assert!(!pin.matches(&der));
    let text = pin.to_string();
    assert_eq!(text.parse::<Pin>(), Ok(pin));
    for wrong in [&text[..text.len() - 1], &text[7..], "sha256:", "sha1:00"] {
        assert_eq!(wrong.parse::<Pin>(), Err(PinError), "{wrong}");
    }
}

#[test]
fn a_used_token_is_a_clear_final_error() {
    let problem =
        Problem::new(PROBLEM_TOKEN, 403, "The token cannot be used").with_detail("it was used at 10:00:00Z");
    let body = serde_json::to_string(&problem).expect("JSON");
    let server = server(vec![http("403 Forbidden", "application/problem+json", &body)]);
    let error = enrol(&server.url, server.pin, &request(), &quick()).expect_err("refused");
    assert!(matches!(&error, ClientError::Token(p) if *p == problem), "{error}");
    assert!(error.to_string().contains("it was used at 10:00:00Z"), "{error}");
    assert!(!error.to_string().contains("wt-secret"), "{error}");
}

#[test]
fn replies_that_cannot_be_used_are_refused() {
    let mut bad = reply();
    bad.mtu = 100;
    let cases = [
        serde_json::to_string(&bad).expect("JSON"),
        "{}".to_owned(),
        "not JSON".to_owned(),
        " ".repeat(REPLY_BYTES_MAX + 1),
    ];
    for body in cases {
        let server = server(vec![http("200 OK", "application/json", &body)]);
        let error = enrol(&server.url, server.pin, &request(), &quick()).expect_err("refused");
        assert!(matches!(error, ClientError::Reply { .. }), "{error}");
    }
    let server = server(vec![http("500 Internal Server Error", "text/plain", "oops")]);
    let error = enrol(&server.url, server.pin, &request(), &quick()).expect_err("refused");
    assert!(matches!(&error, ClientError::Refused(p) if p.status == 500), "{error}");
}

#[test]
fn only_a_connection_that_cannot_be_made_is_tried_again() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("an address");
    let url = EnrolUrl { host: "127.0.0.1".into(), port: free.port() };
    let error = enrol(&url, Pin::of_certificate(b""), &request(), &quick()).expect_err("nobody is there");
    assert!(matches!(error, ClientError::Connect { attempts: 3, .. }), "{error}");
    // A server that hangs up after the request is asked once.
    let server = server(vec![String::new()]);
    let error = enrol(&server.url, server.pin, &request(), &quick()).expect_err("no reply");
    assert!(matches!(error, ClientError::NoReply { .. }), "{error}");
    assert_eq!(server.thread.join().expect("the server ends").len(), 1);
}

#[test]
fn faults_of_a_reply_are_all_named() {
    let mut bad = reply();
    bad.addresses = vec!["10.0.0.0/24".parse().expect("a prefix")];
    bad.agent.port = 0;
    bad.lease_expires = "tomorrow".into();
    bad.wireguard.endpoint = "0.0.0.0:1".parse().expect("an endpoint");
    let paths: Vec<_> = bad.check().expect_err("wrong").into_iter().map(|f| f.path).collect();
    assert_eq!(paths, ["addresses[0]", "wireguard.endpoint", "agent.port", "lease_expires"]);
    assert_eq!(reply().check(), Ok(()));
}

#[test]
fn debug_output_does_not_show_the_token() {
    assert!(!format!("{:?}", request()).contains("wt-secret"));
}
