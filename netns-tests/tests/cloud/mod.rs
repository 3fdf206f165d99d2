//! A machine of the cloud on its way into the flat network: asked for at gateway B, joined with the very command
//! of the answer, proved by its receipt.
//!
//! ```text
//!   host-a ─ VLAN 100 ═ [gw-a] ── WireGuard over the WAN ── [gw-b] ═ VLAN 200 ─ host-b
//!                                                             │ enrolment, WireGuard
//!                                                    wan ─── [cloud]
//! ```
#![allow(dead_code, reason = "each test program uses its part")]

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use netns_tests::gateway::program;
use netns_tests::links::veth;
use netns_tests::process::{self, Ended};
use netns_tests::topology::{self, Topology, Tunnel};
use netns_tests::{Gateway, Ns, World, wait_until};
use serde_json::{Value, json};

/// How long a join, and the proof after it, may take on a machine that does other things too.
pub(crate) const JOIN: Duration = Duration::from_secs(60);

const LISTEN: &str = "0.0.0.0:8443";
/// Folders that a fresh machine has to itself: state and sockets of the node's agent lie there.
const OWN_FOLDERS: [&str; 2] = ["/var/lib", "/run"];

/// Both sites, joined by WireGuard; nodes enrol at gateway B. `prepare` adds to the topology and the document.
pub(crate) fn world(prepare: impl FnOnce(&mut Topology, &mut Value) -> Result<()>) -> Result<World> {
    let mut topology = Topology::build()?;
    let a = Gateway::start(&topology.a.gateway, "gw-a", &json!({}))?;
    let b = Gateway::start(&topology.b.gateway, "gw-b", &json!({ "enrol": { "listen": LISTEN } }))?;
    let keys = [a.wireguard_key()?, b.wireguard_key()?];
    let mut document = topology::document(&[Tunnel::Wireguard], [&keys[0], &keys[1]]);
    prepare(&mut topology, &mut document)?;
    let world = World { topology, a, b, document };
    for gateway in [&world.a, &world.b] {
        gateway.apply(&world.document)?;
    }
    world.a.settle()?;
    world.b.settle()?;
    world.tunnel_is_up("ab-wg")?;
    Ok(world)
}

/// What the API answers to who asks for a node.
#[derive(Debug, Clone)]
pub(crate) struct Invitation {
    /// The node.
    pub(crate) name: String,
    /// Its addresses, IPv4 first.
    pub(crate) addresses: [IpAddr; 2],
    /// The MAC under which the hosts see it.
    pub(crate) mac: String,
    /// The one-shot token, out of the command.
    pub(crate) token: String,
    /// What is to be run on the machine.
    pub(crate) join_command: String,
    /// The whole answer.
    pub(crate) answer: Value,
}

impl Invitation {
    /// Asks `gateway`.
    pub(crate) fn ask(gateway: &Gateway, body: &Value) -> Result<Self> {
        Self::read(gateway.api().post("/api/v1/nodes", body)?.success()?)
    }

    /// A node of this name in the flat network, for an hour.
    pub(crate) fn named(gateway: &Gateway, name: &str) -> Result<Self> {
        Self::ask(gateway, &json!({ "name": name, "segment": "flat", "lease": "1h" }))
    }

    /// Reads an answer.
    pub(crate) fn read(answer: Value) -> Result<Self> {
        let text = |field: &str| -> Result<String> {
            Ok(answer[field].as_str().with_context(|| format!("no {field} in {answer:#}"))?.to_owned())
        };
        let texts = answer["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let addresses: Vec<IpAddr> =
            texts.map(|text| text.split('/').next().unwrap_or_default().parse()).collect::<Result<_, _>>()?;
        let [v4 @ IpAddr::V4(_), v6 @ IpAddr::V6(_)] = addresses[..] else {
            anyhow::bail!("one address of each family is wanted: {answer:#}");
        };
        let (name, mac, join_command) = (text("name")?, text("mac")?, text("join_command")?);
        let token = after(&join_command, "--token").context("a command without a token")?.to_owned();
        Ok(Self { name, addresses: [v4, v6], mac, token, join_command, answer })
    }
}

/// The word after `option` in a command line.
pub(crate) fn after<'a>(line: &'a str, option: &str) -> Option<&'a str> {
    line.split_whitespace().skip_while(|word| *word != option).nth(1)
}

/// A cloud machine with the node's programs and nothing else of its own.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Where it is.
    pub(crate) ns: Ns,
}

impl Machine {
    /// Makes `ns` a fresh machine: nothing was ever stored on it.
    pub(crate) fn fresh(ns: &Ns) -> Result<Self> {
        for folder in OWN_FOLDERS {
            ns.exec(&format!("mount -t tmpfs -o mode=0755 fresh {folder}"))?;
        }
        Ok(Self { ns: ns.clone() })
    }

    /// One more machine on a leg of the WAN of its own: 198.18.`leg`.2. Legs 1 to 3 are taken.
    pub(crate) fn another(wan: &Ns, leg: u8) -> Result<Self> {
        let ns = Ns::machine(&format!("cloud-{leg}"))?;
        let port = format!("w{leg}");
        veth(&ns, "eth0", wan, &port)?;
        wan.address(&port, &[&format!("198.18.{leg}.1/30")])?;
        ns.address("eth0", &[&format!("198.18.{leg}.2/30")])?;
        ns.route("default", &format!("198.18.{leg}.1"))?;
        Self::fresh(&ns)
    }

    /// Runs a command line there, with the programs under test first in its PATH.
    pub(crate) fn try_run(&self, line: &str) -> Result<Ended> {
        let folder = program("watari-node")?;
        let folder = folder.parent().context("a program in a folder")?.display().to_string();
        let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = self.ns.command("sh");
        process::finish(command.args(["-c", line]).env("PATH", path), JOIN)
    }

    /// The same for what must succeed; its standard output.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let ended = self.try_run(line)?;
        ensure!(ended.status.success(), "{line}: {}\n{}{}", ended.status, ended.out, ended.err);
        Ok(ended.out)
    }

    /// Joins with the command as it was answered, and waits for the receipt.
    pub(crate) fn join(&self, gateway: &Gateway, invitation: &Invitation) -> Result<Value> {
        self.run(&invitation.join_command)?;
        ready(gateway, &invitation.name)
    }
}

/// The receipt of a node, once it is ready.
pub(crate) fn ready(gateway: &Gateway, name: &str) -> Result<Value> {
    wait_until(JOIN, &format!("the receipt of {name} to be ready"), || {
        let receipt = gateway.get(&format!("/api/v1/nodes/{name}/receipt"))?;
        ensure!(receipt["ready"] == true, "{receipt:#}");
        Ok::<_, anyhow::Error>(receipt)
    })
}
