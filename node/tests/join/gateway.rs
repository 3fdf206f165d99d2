//! The gateway's half for this test: an enrolment listener with a certificate made on the spot, and
//! a `watari-link` that gets the node as its peer.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use watari_link::protocol::{DeviceConfig, PeerConfig};
use watari_link::{Client, PrivateKey};
use watari_node::enrol::{
    AgentParameters, EnrolReply, EnrolRequest, PROBLEM_TOKEN, Pin, Problem, WireguardParameters,
};

use crate::namespace::Namespace;

pub(crate) const TOKEN: &str = "one-shot-token";
pub(crate) const PUBLIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const WIREGUARD_PORT: u16 = 51820;
pub(crate) const DEVICE: &str = "wtgw";
pub(crate) const MTU: u16 = 1380;

pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    pub(crate) pin: Pin,
    /// Bodies of the requests, as they came.
    pub(crate) asked: Arc<Mutex<Vec<String>>>,
    /// False: the reply names a port where nobody answers.
    pub(crate) answers: Arc<AtomicBool>,
    socket: PathBuf,
}

struct Enrolment {
    key: PrivateKey,
    socket: PathBuf,
    used: bool,
    asked: Arc<Mutex<Vec<String>>>,
    answers: Arc<AtomicBool>,
}

impl Gateway {
    /// Starts both in the namespace.
    pub(crate) fn start(namespace: &Namespace, link: &Path, folder: &Path) -> Self {
        let certified =
            rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).expect("a certificate");
        let der = certified.cert.der().clone();
        let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let pin = Pin::of_certificate(&der);
        let config = server_config(der, key.into());
        let socket = folder.join("gw.sock");
        let (asked, answers) = (Arc::default(), Arc::new(AtomicBool::new(true)));
        let mut enrolment = Enrolment {
            key: PrivateKey::generate().expect("a key"),
            socket: socket.clone(),
            used: false,
            asked: Arc::clone(&asked),
            answers: Arc::clone(&answers),
        };
        let (link, engine, state) = (link.to_owned(), socket.clone(), folder.join("gw.json"));
        let start = namespace.enter(move || {
            watari_link::spawn_detached(&link, &engine, &state).expect("the gateway's watari-link starts");
            enrolment.set_device(Vec::new());
            let listener = TcpListener::bind((PUBLIC, 0)).expect("the enrolment listener");
            let address = listener.local_addr().expect("an address");
            // Ends with the test's process: it holds nothing that outlives it.
            std::thread::spawn(move || enrolment.serve(&listener, &config));
            address
        });
        Self { address: start.join().expect("the gateway starts"), pin, asked, answers, socket }
    }

    /// The number of handshakes that the gateway's end has made.
    pub(crate) fn handshakes(&self) -> u64 {
        let devices =
            Client::connect(&self.socket).and_then(|mut c| c.list_devices()).expect("the engine answers");
        devices.iter().flat_map(|d| &d.peers).map(|p| p.handshakes).sum()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Ok(client) = Client::connect(&self.socket) {
            let _ = client.shutdown(true);
        }
    }
}

fn server_config(der: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Arc<rustls::ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![der], key)
        .expect("a key that fits");
    Arc::new(config)
}

impl Enrolment {
    fn serve(&mut self, listener: &TcpListener, config: &Arc<rustls::ServerConfig>) {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut connection = rustls::ServerConnection::new(Arc::clone(config)).expect("a connection");
            let mut tls = rustls::Stream::new(&mut connection, &mut stream);
            let Some(body) = read_body(&mut tls) else { continue };
            let (status, kind, answer) = self.answer(&body);
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
                answer.len()
            );
            let _ = tls.write_all(format!("{head}{answer}").as_bytes());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    }

    fn answer(&mut self, body: &str) -> (&'static str, &'static str, String) {
        self.asked.lock().expect("the list").push(body.to_owned());
        let request: EnrolRequest = serde_json::from_str(body).expect("an enrolment request");
        request.check().expect("within the limits");
        if self.used || request.token != TOKEN {
            let problem = Problem::new(PROBLEM_TOKEN, 403, "The token cannot be used")
                .with_detail("it was used before");
            return (
                "403 Forbidden",
                "application/problem+json",
                serde_json::to_string(&problem).expect("JSON"),
            );
        }
        self.used = true;
        self.set_device(vec![PeerConfig {
            public_key: request.public_key,
            preshared_key: None,
            endpoint: None,
            more_endpoints: Vec::new(),
            allowed_ips: ["10.77.0.9/32", "fd77::9/128"].map(|p| p.parse().expect("a prefix")).to_vec(),
            keepalive_s: 0,
        }]);
        ("200 OK", "application/json", serde_json::to_string(&self.reply()).expect("JSON"))
    }

    fn set_device(&self, peers: Vec<PeerConfig>) {
        let device = DeviceConfig {
            name: DEVICE.to_owned(),
            alias: "watari:test:gateway".to_owned(),
            private_key: self.key.clone(),
            listen_port: WIREGUARD_PORT,
            mtu: MTU,
            dscp: watari_link::protocol::Dscp::default(),
            peers,
        };
        Client::connect(&self.socket)
            .expect("the engine answers")
            .set_device(device)
            .expect("the device is set");
    }

    /// One of the prefixes covers the gateway's own public address.
    fn reply(&self) -> EnrolReply {
        let port = if self.answers.load(Ordering::Relaxed) { WIREGUARD_PORT } else { 9 };
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().expect("a prefix")).collect::<Vec<_>>();
        EnrolReply {
            node: "gpu-1".into(),
            addresses: nets(&["10.77.0.9/32", "fd77::9/128"]),
            mtu: MTU,
            prefixes: nets(&["10.77.0.0/24", "fd77::/64", "192.0.0.0/16"]),
            wireguard: WireguardParameters {
                public_key: self.key.public_key(),
                endpoint: (PUBLIC, port).into(),
                keepalive_s: 25,
                allowed_ips: nets(&["0.0.0.0/0", "::/0"]),
            },
            lease_expires: "2040-01-01T00:00:00Z".into(),
            agent: AgentParameters {
                port: 4791,
                controllers: vec!["10.77.0.1".parse().expect("v4"), "fd77::1".parse().expect("v6")],
            },
        }
    }
}

/// The body of one request; `None` when the peer went away.
fn read_body(tls: &mut rustls::Stream<'_, rustls::ServerConnection, std::net::TcpStream>) -> Option<String> {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = tls.read(&mut chunk).ok().filter(|count| *count > 0)?;
        request.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|l| l.strip_prefix("content-length: "))?.parse::<usize>().ok()?;
            if body.len() >= length {
                return Some(body.to_owned());
            }
        }
    }
}
