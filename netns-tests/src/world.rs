//! The topology with real daemons on its gateways: what most integration tests start from.
//!
//! The drawing: [`crate::topology`]. Both gateways get the same document, as an operator would give it
//! to them, and have settled when [`World::start`] returns; tunnels may still be coming up.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::ping::ping;
use crate::topology::{self, HOST_B, Topology, Tunnel};
use crate::{Gateway, wait_until};

/// How long a change of state may take on a machine that does other things too.
pub const SOON: Duration = Duration::from_secs(30);

/// Both sites, with gateways that run.
#[derive(Debug)]
pub struct World {
    /// The machines. First, so that a failing test ends the daemons with their machines.
    pub topology: Topology,
    /// Gateway A.
    pub a: Gateway,
    /// Gateway B.
    pub b: Gateway,
    /// What both were told.
    pub document: Value,
}

impl World {
    /// Both gateways, joined by `tunnels`.
    ///
    /// # Errors
    /// Without root, or when a daemon does not come up or settle.
    pub fn start(tunnels: &[Tunnel]) -> Result<Self> {
        Self::start_with(tunnels, |_, _| Ok(()))
    }

    /// The same with a topology and a document that the test adds to.
    ///
    /// # Errors
    /// As [`World::start`], and those of `prepare`.
    pub fn start_with(
        tunnels: &[Tunnel],
        prepare: impl FnOnce(&mut Topology, &mut Value) -> Result<()>,
    ) -> Result<Self> {
        Self::start_in(tunnels, &json!({}), [Vec::new(), Vec::new()], prepare)
    }

    /// The same with more in both gateways' bootstrap files, and with variables in the environment of each gateway's daemon,
    /// which hands them on to what it starts.
    ///
    /// # Errors
    /// As [`World::start_with`].
    pub fn start_in(
        tunnels: &[Tunnel],
        bootstrap: &Value,
        [env_a, env_b]: [Vec<(&str, &str)>; 2],
        prepare: impl FnOnce(&mut Topology, &mut Value) -> Result<()>,
    ) -> Result<Self> {
        let mut topology = Topology::build()?;
        let a = Gateway::start_in(&topology.a.gateway, "gw-a", bootstrap, &env_a)?;
        let b = Gateway::start_in(&topology.b.gateway, "gw-b", bootstrap, &env_b)?;
        let keys = [a.wireguard_key()?, b.wireguard_key()?];
        let mut document = topology::document(tunnels, [&keys[0], &keys[1]]);
        prepare(&mut topology, &mut document)?;
        let world = Self { topology, a, b, document };
        for gateway in [&world.a, &world.b] {
            gateway.apply(&world.document)?;
        }
        world.a.settle()?;
        world.b.settle()?;
        Ok(world)
    }

    /// Host A reaches host B over IPv4 and IPv6.
    ///
    /// # Errors
    /// When it does not within [`SOON`].
    pub fn hosts_meet(&self) -> Result<()> {
        for address in topology::both(HOST_B) {
            wait_until(SOON, &format!("host-a to reach {address}"), || ping(&self.topology.a.host, address))?;
        }
        Ok(())
    }

    /// Waits until both gateways say that probes cross the tunnel.
    ///
    /// # Errors
    /// When one does not within [`SOON`], with what its status says.
    pub fn tunnel_is_up(&self, tunnel: &str) -> Result<()> {
        self.a.wait_for_state(&format!("tunnels.{tunnel}"), "up")?;
        self.b.wait_for_state(&format!("tunnels.{tunnel}"), "up")
    }
}

/// Gateway A alone, without a tunnel: for what happens at one site. `prepare` adds to the topology and to
/// the document, which has gateway B in it all the same.
///
/// # Errors
/// As [`World::start_with`].
pub fn single(
    tunnels: &[Tunnel],
    prepare: impl FnOnce(&mut Topology, &mut Value) -> Result<()>,
) -> Result<(Topology, Gateway, Value)> {
    let mut topology = Topology::build()?;
    let gateway = Gateway::start(&topology.a.gateway, "gw-a", &json!({}))?;
    let nobody = "XGIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=";
    let mut document = topology::document(tunnels, [&gateway.wireguard_key()?, nobody]);
    prepare(&mut topology, &mut document)?;
    gateway.apply(&document)?;
    gateway.settle()?;
    Ok((topology, gateway, document))
}

/// What a test asks of a gateway through its API.
impl Gateway {
    /// Its WireGuard public key.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn wireguard_key(&self) -> Result<String> {
        let facts = self.get("/api/v1/facts")?;
        Ok(facts["wireguard_key"].as_str().context("facts without a WireGuard key")?.to_owned())
    }

    /// Waits until the newest generation is in place.
    ///
    /// # Errors
    /// When it is not within [`SOON`], with the status.
    pub fn settle(&self) -> Result<()> {
        wait_until(SOON, &format!("{} to settle", self.name()), || {
            let status = self.get("/api/v1/status")?;
            ensure!(status["generation"] == status["desired_generation"], "an older one: {status:#}");
            ensure!(status["settled"] == true, "{status:#}\n{:#}", self.get("/api/v1/plan")?);
            Ok(())
        })
    }

    /// The status of one object, e.g. `tunnels.ab-wg`.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn object(&self, path: &str) -> Result<Value> {
        Ok(self.get("/api/v1/status")?["status"]["objects"][path].clone())
    }

    /// Waits until an object is in a state.
    ///
    /// # Errors
    /// When it is not within [`SOON`], with what it is instead.
    pub fn wait_for_state(&self, path: &str, state: &str) -> Result<()> {
        wait_until(SOON, &format!("{path} {state} at {}", self.name()), || {
            let object = self.object(path)?;
            ensure!(object["state"] == state, "{object}");
            Ok(())
        })
    }

    /// What it has learnt and counted.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn facts(&self) -> Result<Value> {
        self.get("/api/v1/facts")
    }

    /// Waits for the number of ops of the first plan after its start.
    ///
    /// # Errors
    /// When there is none within [`SOON`].
    pub fn first_plan_ops(&self) -> Result<u64> {
        wait_until(SOON, "the first plan", || {
            self.facts()?["first_plan_ops"].as_u64().context("not made yet")
        })
    }

    /// How many packets were dropped for a reason, by its name.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        Ok(self.facts()?["datapath"]["drops"][reason].as_u64().unwrap_or(0))
    }

    /// How often the datapath did something of its own accord, by the counter's name.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn counter(&self, name: &str) -> Result<u64> {
        Ok(self.facts()?["datapath"]["counters"][name].as_u64().unwrap_or(0))
    }

    /// Counters of one port, e.g. `trunk0.100`.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn port(&self, port: &str) -> Result<Port> {
        let value = self.facts()?["datapath"]["ports"][port].clone();
        let number = |field: &str| value[field].as_u64().unwrap_or(0);
        Ok(Port {
            rx_packets: number("rx_packets"),
            rx_bytes: number("rx_bytes"),
            tx_packets: number("tx_packets"),
            tx_bytes: number("tx_bytes"),
            drops: number("drops"),
        })
    }

    /// Events with a higher number than `after`, oldest first.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn events_after(&self, after: u64) -> Result<Vec<Value>> {
        let events = self.get(&format!("/api/v1/events?after={after}"))?;
        Ok(events.as_array().cloned().unwrap_or_default())
    }

    /// The number of the newest event.
    ///
    /// # Errors
    /// When the API does not answer.
    pub fn last_event(&self) -> Result<u64> {
        Ok(self.events_after(0)?.last().and_then(|event| event["seq"].as_u64()).unwrap_or(0))
    }
}

/// Counters of a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// Packets that came in.
    pub rx_packets: u64,
    /// Their bytes, without the tag.
    pub rx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Packets among those that came in that were dropped.
    pub drops: u64,
}

impl std::ops::Sub for Port {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            rx_packets: self.rx_packets - before.rx_packets,
            rx_bytes: self.rx_bytes - before.rx_bytes,
            tx_packets: self.tx_packets - before.tx_packets,
            tx_bytes: self.tx_bytes - before.tx_bytes,
            drops: self.drops - before.drops,
        }
    }
}
