//! The proof of each attach: watches what the system shows of a node, then probes it from every gateway
//! that has its segment, and writes its receipt.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use watari_config::desired::probe_addresses;
use watari_config::{Desired, Name};

use super::here::Here;
use super::internal::{self, PROBE_PATH, PROBE_WAIT_MAX, ProbeAnswer, ProbeAsk};
use super::receipt::{Probe, Receipt, ReceiptState, Seen};
use super::{Nodes, echo, is_in_place, join, token};
use crate::events::now;
use crate::run::stopped;
use crate::view::View;

/// How often is looked where nothing rings.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The pause before probes that failed are sent again.
const PAUSE: Duration = Duration::from_millis(500);

/// The receipts, and the nodes for which probes are on their way.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) receipts: BTreeMap<Name, Receipt>,
    proving: BTreeSet<Name>,
}

impl Ledger {
    /// The nodes whose probes are to be started, each named once.
    fn start_proving(&mut self) -> Vec<Name> {
        let Self { receipts, proving } = self;
        let probing = receipts.values().filter(|r| r.state == ReceiptState::Probing);
        probing.map(|r| r.node.clone()).filter(|name| proving.insert(name.clone())).collect()
    }
}

/// Watches and probes until `stop`.
pub async fn run(nodes: Arc<Nodes>, mut stop: watch::Receiver<bool>) {
    let mut view = nodes.brain.view();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stopped(&mut stop) => return,
            changed = view.changed() => if changed.is_err() { return },
            _ = tick.tick() => {}
        }
        for name in nodes.start_proving() {
            tokio::spawn(prove(nodes.clone(), name));
        }
    }
}

impl Nodes {
    /// The nodes whose probes are to be started, each named once: whoever asks must start them.
    fn start_proving(&self) -> Vec<Name> {
        self.look();
        self.with_ledger(Ledger::start_proving)
    }

    /// Brings the receipts up to what the system shows. Anybody may look: who starts the probes is not decided here.
    pub(super) fn look(&self) {
        let (desired, view, now) = (self.brain.desired(), self.brain.view().borrow().clone(), now());
        self.with_ledger(|ledger| {
            let nodes: BTreeMap<_, _> = desired.nodes().collect();
            ledger.receipts.retain(|name, receipt| {
                nodes.get(name).is_some_and(|node| receipt.asked_at() == Some(node.created))
            });
            for (name, node) in nodes {
                let has_enrolled = node.public_key.is_some();
                let made_anew = || Receipt::derived(name.clone(), node.created, has_enrolled, now);
                let receipt = ledger.receipts.entry(name.clone()).or_insert_with(made_anew);
                if has_enrolled {
                    receipt.enrolled(now);
                }
                let before = receipt.state;
                if now >= token::good_until(node) {
                    receipt.token_expired();
                }
                let tenant = &desired.document().segments[&node.segment].tenant;
                receipt.see(seen(&view, name, tenant), now);
                if before != receipt.state {
                    tell(self, receipt);
                }
            }
        });
    }
}

fn seen(view: &View, name: &Name, tenant: &Name) -> Seen {
    let announced = view.facts["announced"].as_array();
    Seen {
        applied: is_in_place(view, name, tenant),
        handshake: !view.status["objects"][format!("nodes.{name}")]["handshake_age_s"].is_null(),
        announced: announced.is_some_and(|names| names.iter().any(|n| n == name.as_str())),
    }
}

/// An event when a receipt has come to its end.
fn tell(nodes: &Nodes, receipt: &Receipt) {
    let object = format!("nodes.{}", receipt.node);
    match receipt.state {
        ReceiptState::Ready => {
            let took = receipt.ready_ms.unwrap_or_default();
            let message = if receipt.derived {
                format!("proved again, {took} ms after the restart")
            } else {
                format!("ready {took} ms after its enrolment")
            };
            nodes.brain.events().emit("ready", object, message);
        }
        ReceiptState::Failed => {
            let reason = receipt.reason.clone().unwrap_or_default();
            nodes.brain.events().emit("failed", object, format!("not proved: {reason}"));
        }
        _ => {}
    }
}

/// Probes a node until its receipt is ready, has failed, or is gone.
async fn prove(nodes: Arc<Nodes>, name: Name) {
    loop {
        let desired = nodes.brain.desired();
        let wanted = probes(&desired, &name);
        let missing = nodes.with_ledger(|ledger| {
            let receipt = ledger.receipts.get_mut(&name);
            receipt.map(|r| {
                r.expect(wanted);
                r.missing()
            })
        });
        let missing = missing.filter(|m| !m.is_empty());
        let Some(missing) = missing else { break };
        join_all(missing.into_iter().map(|probe| one(&nodes, &desired, &name, probe))).await;
        let done = nodes.with_ledger(|l| l.receipts.get(&name).is_none_or(|r| r.missing().is_empty()));
        if done {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    nodes.with_ledger(|ledger| ledger.proving.remove(&name));
}

async fn one(nodes: &Nodes, desired: &Desired, name: &Name, probe: Probe) {
    let result = send(nodes, desired, name, &probe).await;
    nodes.with_ledger(|ledger| {
        let Some(receipt) = ledger.receipts.get_mut(name) else { return };
        let before = receipt.state;
        receipt.probed(&probe, result, now());
        if before != receipt.state {
            tell(nodes, receipt);
        }
    });
}

/// Sends a probe from its gateway; the round-trip time in microseconds.
async fn send(nodes: &Nodes, desired: &Desired, name: &Name, probe: &Probe) -> Result<u64, String> {
    let document = desired.document();
    let node = document.nodes.get(name).ok_or("the node is gone")?;
    let segment = &document.segments[&node.segment];
    let (l3vni, vni) = (document.tenants[&segment.tenant].l3vni.get(), segment.vni.get());
    if probe.gateway == *nodes.brain.gateway() {
        let here = Here::find(desired, l3vni, vni).map_err(|e| e.to_string())?;
        let rtt = here.probe(probe.target, probe.bytes).await.map_err(|e| e.to_string())?;
        return Ok(rtt.as_micros() as u64);
    }
    let far = document.gateways.get(&probe.gateway).ok_or("the gateway is gone")?;
    let ask = ProbeAsk { l3vni, vni, target: probe.target, bytes: probe.bytes };
    let own = desired.gateway().map(|g| g.vtep);
    let answer: ProbeAnswer =
        internal::ask(own, far.vtep, PROBE_PATH, &ask, PROBE_WAIT_MAX).await.map_err(|e| e.to_string())?;
    answer.rtt_us.ok_or_else(|| answer.error.unwrap_or_else(|| "no reason given".to_owned()))
}

/// The probes that prove the node: from this gateway and every one that a tunnel leads to and that has an
/// address of its own in the segment; to each address of the node, a small packet and one of full size.
fn probes(desired: &Desired, name: &Name) -> Vec<Probe> {
    let document = desired.document();
    let Some(node) = document.nodes.get(name) else { return Vec::new() };
    let full = join::node_mtu(document, &document.segments[&node.segment]);
    let far: BTreeSet<&Name> = desired.tunnels().map(|(_, _, far, _)| far).collect();
    let mut probes = Vec::new();
    for gateway in std::iter::once(desired.gateway_name()).chain(far) {
        let own = probe_addresses(document, gateway, &node.segment);
        let reached = node.addresses.iter().filter(|t| own.iter().any(|a| a.is_ipv4() == t.is_ipv4()));
        for target in reached {
            for bytes in [echo::SMALL_BYTES, full] {
                probes.push(Probe::new(gateway.clone(), *target, bytes));
            }
        }
    }
    probes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    /// Whoever reads a receipt may be the one whose look brings it to its probes; the task that sends them finds it then.
    #[test]
    fn probes_are_started_once_whoever_brought_the_receipt_to_them() {
        let (name, now): (Name, _) = ("gpu-1".parse().unwrap(), now());
        let mut receipt = Receipt::asked(name.clone(), now);
        receipt.enrolled(now);
        let mut ledger = Ledger::default();
        ledger.receipts.insert(name.clone(), receipt);
        assert!(ledger.start_proving().is_empty());
        let all = Seen { applied: true, handshake: true, announced: true };
        ledger.receipts.get_mut(&name).unwrap().see(all, now);
        assert_eq!(ledger.start_proving(), std::slice::from_ref(&name));
        assert!(ledger.start_proving().is_empty(), "they are on their way");
        ledger.proving.remove(&name);
        assert_eq!(ledger.start_proving(), [name]);
    }

    #[test]
    fn a_node_is_proved_from_both_gateways_in_both_families_and_at_full_size() {
        let desired = samples::with_node(None, Some(samples::KEY));
        let probes = probes(&desired, &"gpu-1".parse().unwrap());
        let lines: Vec<_> =
            probes.iter().map(|p| format!("{} {} {}", p.gateway, p.target, p.bytes)).collect();
        let wanted = ["gw-a", "gw-b"].iter().flat_map(|gateway| {
            ["10.10.0.130", "fd00:10::a:2"].iter().flat_map(move |target| {
                [84, 1370].iter().map(move |bytes| format!("{gateway} {target} {bytes}"))
            })
        });
        assert_eq!(lines, wanted.collect::<Vec<_>>());
    }
}
