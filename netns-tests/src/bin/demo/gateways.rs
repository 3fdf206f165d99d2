//! Both gateways: their bootstrap files, and everything that is asked of them over REST.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::http::Api;
use netns_tests::topology::{self, GW_A_PUBLIC, GW_B_PUBLIC, Topology, Tunnel};
use netns_tests::{Gateway, Ns, wait_until};
use serde_json::{Value, json};

use crate::progress::{Progress, quote, say};

/// Where each gateway's API listens, in its own namespace.
const API: &str = "127.0.0.1:8480";
/// The port of the enrolment listener, on the public side.
const ENROL_PORT: u16 = 8443;
/// How long a gateway may take to become as desired.
const UP: Duration = Duration::from_secs(30);

/// A gateway and its REST API.
#[derive(Debug)]
pub(crate) struct Gw {
    /// The machine and its daemon.
    pub(crate) gateway: Gateway,
    api: Api,
    token: String,
}

impl Gw {
    fn start(ns: &Ns, name: &str, public: std::net::Ipv4Addr, progress: &mut Progress) -> Result<Self> {
        let token = random_token()?;
        let more = json!({
            "api": { "listen": API, "token": token },
            "enrol": { "listen": SocketAddr::new(public.into(), ENROL_PORT) },
            "wireguard_engine": "user",
        });
        let gateway = Gateway::start(ns, name, &more)?;
        progress.watch_log(name, gateway.log_path());
        let api = Api::Tcp(ns.clone(), API.parse()?);
        Ok(Self { gateway, api, token })
    }

    /// Its name in the documents.
    pub(crate) fn name(&self) -> &str {
        self.gateway.name()
    }

    /// Its machine.
    pub(crate) fn ns(&self) -> &Ns {
        self.gateway.ns()
    }

    /// One request below `/api/v1`; what it answered, successful.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let bearer = format!("Bearer {}", self.token);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        let bytes = body.map(Value::to_string).unwrap_or_default();
        let path = format!("/api/v1{path}");
        let answer = self.api.request(method, &path, &headers, bytes.as_bytes());
        let answer = answer.and_then(|answer| answer.success());
        answer.with_context(|| format!("{method} {path} at {}", self.name()))
    }

    /// A request that changes something, told to the reader.
    pub(crate) fn change(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let answer = self.ask(method, path, body)?;
        say(&format!("{}: {method} /api/v1{path}", self.name()));
        Ok(answer)
    }

    /// What is at `path`.
    pub(crate) fn get(&self, path: &str) -> Result<Value> {
        self.ask("GET", path, None)
    }

    /// The number of the newest event.
    pub(crate) fn last_event(&self) -> Result<u64> {
        let events = self.get("/events")?;
        let last = events.as_array().and_then(|events| events.last());
        Ok(last.and_then(|event| event["seq"].as_u64()).unwrap_or(0))
    }

    /// The events with a higher number.
    pub(crate) fn events_after(&self, number: u64) -> Result<Vec<Value>> {
        let events = self.get(&format!("/events?after={number}"))?;
        Ok(events.as_array().cloned().unwrap_or_default())
    }

    /// Fails unless the gateway is as desired in its newest generation.
    pub(crate) fn settled(&self) -> Result<()> {
        let seen = self.get("/status")?;
        ensure!(seen["settled"] == true, "{} is not settled", self.name());
        ensure!(seen["generation"] == seen["desired_generation"], "{} is behind", self.name());
        Ok(())
    }

    /// Fails unless it is settled and each of its objects is up.
    fn up(&self) -> Result<usize> {
        let seen = self.get("/status")?;
        let objects = seen["status"]["objects"].as_object().cloned().unwrap_or_default();
        for (path, object) in &objects {
            ensure!(
                object["state"] == "up",
                "{}: {path} is {}: {}",
                self.name(),
                object["state"],
                object["reason"]
            );
        }
        ensure!(!objects.is_empty(), "{} has nothing to show", self.name());
        self.settled()?;
        Ok(objects.len())
    }
}

/// Gateway A and gateway B.
#[derive(Debug)]
pub(crate) struct Pair {
    /// At site A.
    pub(crate) a: Gw,
    /// At site B.
    pub(crate) b: Gw,
}

impl Pair {
    /// Starts both and prints the file that each starts from.
    pub(crate) fn start(topology: &Topology, progress: &mut Progress) -> Result<Self> {
        let a = Gw::start(&topology.a.gateway, "gw-a", GW_A_PUBLIC, progress)?;
        let b = Gw::start(&topology.b.gateway, "gw-b", GW_B_PUBLIC, progress)?;
        for gw in [&a, &b] {
            let text = std::fs::read_to_string(gw.gateway.config())?;
            say(&format!("{}:", gw.gateway.config().display()));
            quote(&text);
        }
        Ok(Self { a, b })
    }

    fn both(&self) -> [&Gw; 2] {
        [&self.a, &self.b]
    }

    /// Reads both public keys, gives both gateways the one document, and waits until everything is up.
    pub(crate) fn configure(&self) -> Result<()> {
        let mut keys = Vec::new();
        for gw in self.both() {
            let facts = gw.get("/facts")?;
            let key = facts["wireguard_key"].as_str().context("facts without wireguard_key")?.to_owned();
            say(&format!("{}: GET /api/v1/facts: its WireGuard public key is {key}", gw.name()));
            keys.push(key);
        }
        let tunnels = [Tunnel::Wireguard, Tunnel::Direct];
        let document = topology::document(&tunnels, [&keys[0], &keys[1]]);
        for gw in self.both() {
            gw.change("PUT", "/document", Some(&document))?;
        }
        say(&format!("    {}", contents(&document)));
        for gw in self.both() {
            let count = wait_until(UP, &format!("{} to be up", gw.name()), || gw.up())?;
            say(&format!("{}: {count} objects, each of them up", gw.name()));
        }
        Ok(())
    }

    /// Makes `tunnel` the preferred one by changing the preference of the direct one.
    pub(crate) fn prefer(&self, tunnel: Tunnel) -> Result<()> {
        let preference = match tunnel {
            Tunnel::Direct => 50,
            Tunnel::Wireguard => 200,
        };
        for gw in self.both() {
            let mut object = gw.get("/tunnels/ab-direct")?;
            object["preference"] = preference.into();
            gw.change("PUT", "/tunnels/ab-direct?wait_s=10", Some(&object))?;
        }
        say(&format!("    preference of ab-direct {preference}, of ab-wg 100: the lower one carries"));
        Ok(())
    }

    /// `watari status` of both.
    pub(crate) fn show_status(&self) -> Result<()> {
        for gw in self.both() {
            say(&format!("watari status, on {}:", gw.name()));
            quote(&gw.gateway.cli(&["status"])?);
            wait_until(UP, &format!("{} to be up", gw.name()), || gw.up())?;
        }
        Ok(())
    }
}

/// How many objects of each kind a document has.
fn contents(document: &Value) -> String {
    let mut text = String::from("the document:");
    for (kind, objects) in document.as_object().into_iter().flatten() {
        let _ = write!(text, " {} {kind},", objects.as_object().map_or(0, serde_json::Map::len));
    }
    text.trim_end_matches(',').to_owned()
}

/// 128 bits from the kernel, in hexadecimal.
fn random_token() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 16];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")))
}
