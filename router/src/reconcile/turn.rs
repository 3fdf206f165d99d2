//! One turn of the loop, and what is remembered from turn to turn.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::{Value, json};
use watari_config::Desired;
use watari_config::desired::device::is_overlay;
use watari_planner::item::{Key, PortAt};
use watari_planner::path_mtu::explained;
use watari_planner::wanted::wanted;
use watari_planner::{Action, Engine, Observed, Op, Plan, Value as Item, Verdict, plan, status, touched};

use super::retry::Retries;
use crate::brain::Brain;
use crate::drivers::netlink::Wakeup;
use crate::drivers::{DriverError, Drivers};
use crate::facts::Board;
use crate::loops::{self, LoopGuard};
use crate::resolver::Resolver;
use crate::view::View;

/// Whether the engine in user space makes overlays, which are there, and what runs each WireGuard device.
type Overlays = (bool, BTreeSet<String>, BTreeMap<String, Engine>);

/// The drivers, and what went wrong with them before.
pub(super) struct Turns {
    brain: Arc<Brain>,
    drivers: Drivers,
    board: Board,
    guard: Arc<LoopGuard>,
    retries: Retries,
    resolver: Resolver,
    /// The verdicts that the last turn began with, and whether this one's are others.
    loops: BTreeMap<PortAt, Verdict>,
    loops_changed: bool,
    /// Likewise what the engines are and make of overlays.
    overlays: Overlays,
    overlays_changed: bool,
    /// Number of ops of the very first plan: none, when the system was found as it was left.
    first_ops: Option<usize>,
    /// The generation that was last seen to be in place.
    settled_generation: Option<u64>,
    /// What was last said about reading back, so that it is said once.
    blind: Option<String>,
}

impl Turns {
    pub(super) fn new(
        brain: Arc<Brain>,
        drivers: Drivers,
        board: Board,
        guard: Arc<LoopGuard>,
        wakeup: Wakeup,
    ) -> Self {
        Self {
            brain,
            drivers,
            board,
            guard,
            retries: Retries::default(),
            resolver: Resolver::new(wakeup),
            loops: BTreeMap::new(),
            loops_changed: false,
            overlays: Overlays::default(),
            overlays_changed: false,
            first_ops: None,
            settled_generation: None,
            blind: None,
        }
    }

    /// The plan for a desired state that is not stored, and as `touches` the traffic that it touches.
    pub(super) async fn preview(&mut self, desired: &Desired) -> Value {
        match self.look_at(desired, false).await {
            Ok((observed, plan)) => {
                let now = self.brain.desired();
                let touched = touched(&plan, &wanted(&now, &observed), &now, desired);
                let mut shown = as_json(&plan);
                shown["touches"] = as_json(&touched);
                shown
            }
            Err(error) => json!({ "error": error.to_string() }),
        }
    }

    /// Looks, does what is to be done, looks again, publishes.
    pub(super) async fn turn(&mut self, desired: &Desired) {
        let (observed, plan) = match self.look(desired).await {
            Ok(seen) => seen,
            Err(error) => return self.is_blind(&error),
        };
        self.blind = None;
        self.drivers.tend(&observed);
        self.loops_changed = self.loops != observed.loops;
        self.loops.clone_from(&observed.loops);
        let overlays = (observed.overlays_possible, observed.overlays.clone(), observed.engines.clone());
        self.overlays_changed = self.overlays != overlays;
        self.overlays = overlays;
        self.retries.keep(|key| plan.ops.iter().any(|op| op.key == *key));
        if self.first_ops.is_none() {
            self.first_ops = Some(plan.ops.len());
            let message = format!("found the system {} ops away from the desired state", plan.ops.len());
            self.brain.events().emit("started", format!("gateways.{}", self.brain.gateway()), message);
        }
        if plan.is_empty() {
            return self.publish(desired, &observed, &plan);
        }
        self.carry_out(&plan).await;
        match self.look(desired).await {
            Ok((observed, plan)) => self.publish(desired, &observed, &plan),
            Err(error) => self.is_blind(&error),
        }
    }

    async fn look(&mut self, desired: &Desired) -> Result<(Observed, Plan), DriverError> {
        self.look_at(desired, true).await
    }

    /// A look for the sake of a desired state that is not in force changes nothing of what is guarded.
    async fn look_at(&mut self, desired: &Desired, in_force: bool) -> Result<(Observed, Plan), DriverError> {
        let mut observed = self.drivers.observe().await?;
        observed.names = self.resolver.known();
        let wanted = wanted(desired, &observed);
        self.drivers.observe_settings(&wanted, &mut observed);
        match in_force {
            true => {
                self.resolver.need(&wanted.names, desired, &observed);
                self.guard.look(desired, &wanted, &mut observed);
            }
            false => observed.loops = self.guard.verdicts(),
        }
        observed.failures = self.retries.failures(Instant::now());
        let plan = plan(desired, &observed);
        Ok((observed, plan))
    }

    /// Nothing is concluded, and nothing done, from a system that could not be read.
    fn is_blind(&mut self, error: &DriverError) {
        let message = error.to_string();
        if self.blind.as_deref() != Some(message.as_str()) {
            tracing::error!(%message, "the system could not be read back");
            self.brain.events().emit("error", format!("gateways.{}", self.brain.gateway()), message.clone());
            let mut view = crate::view::View::clone(&self.brain.view().borrow());
            view.settled = false;
            if let Some(status) = view.status.as_object_mut() {
                status.insert("settled".to_owned(), json!(false));
                status.insert("error".to_owned(), json!(message));
            }
            self.brain.publish(view);
            self.blind = Some(message);
        }
    }

    async fn carry_out(&mut self, plan: &Plan) {
        // What is undone in a settled generation was undone by somebody else.
        let is_repair = self.settled_generation == Some(plan.generation);
        let mut probes = Vec::new();
        for op in &plan.ops {
            if !self.retries.is_due(&op.key, &op.value, Instant::now()) {
                continue;
            }
            match self.drivers.apply(op).await {
                // They go to the engine together: whether they are there, the flush says.
                Ok(()) if told_together(&op.key) => probes.push(op),
                done => self.note(op, done, is_repair),
            }
        }
        let flushed = self.drivers.flush().map_err(|error| error.to_string());
        for op in probes {
            let done = flushed.clone().map_err(|message| DriverError::LinkAgain { message });
            self.note(op, done, is_repair);
        }
        if plan.ops.iter().any(|op| matches!(op.value, Item::SegmentPort { .. })) {
            self.guard.cut.notify_one();
        }
    }

    fn note(&mut self, op: &Op, done: Result<(), DriverError>, is_repair: bool) {
        let events = self.brain.events();
        match done {
            Ok(()) => {
                tracing::debug!(%op, owner = op.owner, "done");
                if self.retries.succeeded(&op.key) {
                    events.emit("recovered", &op.owner, format!("{} is there now", op.key));
                } else if is_repair && !self.is_our_doing(op) {
                    events.emit("repaired", &op.owner, op.to_string());
                }
            }
            Err(error) => {
                let message = error.to_string();
                if self.retries.failed(&op.key, &op.value, message.clone(), Instant::now()) {
                    tracing::warn!(%op, owner = op.owner, %message, "failed");
                    events.emit("failed", &op.owner, format!("{op}: {message}"));
                }
            }
        }
    }

    /// What follows from a change that was seen, and is not undone by somebody.
    fn is_our_doing(&self, op: &Op) -> bool {
        follows_health(op)
            || (self.loops_changed && follows_loops(op))
            || (self.overlays_changed && follows_overlays(op))
    }

    fn publish(&mut self, desired: &Desired, observed: &Observed, plan: &Plan) {
        let status_now = status(desired, observed);
        let mut facts = self.board.read();
        let mut shown = as_json(&status_now);
        if let (Some(objects), Some(peers)) =
            (shown["objects"].as_object_mut(), facts["objects"].take().as_object())
        {
            objects.extend(peers.iter().map(|(path, object)| (path.clone(), object.clone())));
        }
        show_bfd(observed, &mut shown);
        self.guard.report(desired, observed, self.brain.events());
        let before = self.brain.view().borrow().status.clone();
        self.report_changes(&before, &shown);
        if status_now.settled && self.settled_generation != Some(desired.generation()) {
            self.settled_generation = Some(desired.generation());
        }
        if let Some(object) = facts.as_object_mut() {
            object.remove("objects");
            object.insert("first_plan_ops".to_owned(), json!(self.first_ops));
            object.insert("loops".to_owned(), loops::shown(desired, observed));
            object.insert("tunnels".to_owned(), as_json(&observed.tunnels));
            object.insert("mtu".to_owned(), as_json(&explained(desired, observed)));
            object.insert("bfd".to_owned(), as_json(&observed.bfd));
            object.insert("devices".to_owned(), as_json(&observed.devices));
        }
        self.brain.publish(View {
            generation: desired.generation(),
            settled: status_now.settled && plan.is_empty(),
            at: Timestamp::now(),
            plan: as_json(plan),
            status: shown,
            facts,
        });
    }

    /// An event for every object whose state is another one than at the last turn.
    fn report_changes(&self, before: &Value, now: &Value) {
        let (Some(objects), old) = (now["objects"].as_object(), &before["objects"]) else { return };
        for (path, object) in objects {
            let (from, to) = (&old[path]["state"], &object["state"]);
            // Of a duplicate the facts have told already, when it was found.
            if from != to && (!from.is_null() || to != "up") && to != "duplicate" {
                let reason = object["reason"].as_str().map(|r| format!(": {r}")).unwrap_or_default();
                let from = from.as_str().unwrap_or("unknown");
                let to = to.as_str().unwrap_or("unknown");
                self.brain.events().emit("state", path, format!("{from} -> {to}{reason}"));
            }
        }
    }
}

/// Adds its BFD session to each object that has one, or why there is none.
fn show_bfd(observed: &Observed, shown: &mut Value) {
    let Some(objects) = shown["objects"].as_object_mut() else { return };
    let failed = observed.failures.iter().filter_map(|(key, failure)| match key {
        Key::Bfd(path) => Some((path, json!({ "state": "error", "error": failure.message }))),
        _ => None,
    });
    let sessions = observed.bfd.iter().map(|(path, health)| (path, as_json(health)));
    for (path, bfd) in sessions.chain(failed) {
        if let Some(object) = objects.get_mut(path) {
            object["bfd"] = bfd;
        }
    }
}

/// What `watari-link` takes whole, at the end of a turn.
fn told_together(key: &Key) -> bool {
    matches!(key, Key::Probe(_) | Key::PathMtu(_) | Key::Bfd(_) | Key::Beacon(_))
        || matches!(key, Key::Overlay(_) | Key::OverlayInbound(_))
}

/// The metric of a tunnel's route changes with the tunnel's health, its MTU and that of the overlay with the path's: our own
/// doing, not somebody's.
fn follows_health(op: &Op) -> bool {
    let follows = matches!(op.key, Key::Route(..) | Key::Bundle(_) | Key::Remote(_) | Key::PathMtu(_));
    op.action == Action::Change && follows
}

/// What changes with the verdict on an attachment, likewise.
fn follows_loops(op: &Op) -> bool {
    let follows = matches!(op.key, Key::Port(_) | Key::FloodPorts(_) | Key::Beacon(_));
    op.action == Action::Change && follows
}

/// What changes when the engine in user space begins or ceases to take VXLAN whole.
fn follows_overlays(op: &Op) -> bool {
    match &op.key {
        Key::Overlay(_) | Key::OverlayInbound(_) => true,
        Key::Hook(device, _) => is_overlay(device),
        _ => matches!(op.value, Item::EngineWire(_) | Item::EnginePort { .. }),
    }
}

fn as_json<T: serde::Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_else(|error| json!({ "error": error.to_string() }))
}
