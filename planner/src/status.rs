//! The state of each object, from what was read back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;
use watari_config::desired::device;
use watari_config::document::{Dscp, WireguardTunnel};
use watari_config::endpoint::Endpoint;
use watari_config::{Desired, Name};

use crate::item::{Key, Value};
use crate::observed::{EndpointHealth, Engine, Observed, Resolution, TunnelHealth};
use crate::said::with_whom;
use crate::wanted::{Wanted, place, wanted};

/// A WireGuard peer that lives shakes hands again after two minutes; one minute is left for losses.
const HANDSHAKE_AGE_S_MAX: u64 = 180;

/// How an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectState {
    /// Everything it needs is there; a tunnel: packets cross to the far side and back.
    Up,
    /// Something is still to be done.
    Pending,
    /// Everything is there, but packets do not cross.
    Down,
    /// Something failed, or stands in the way.
    Error,
}

/// The status of one object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ObjectStatus {
    /// How it is.
    pub state: ObjectState,
    /// Why it is not up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Seconds until the next try, after a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_s: Option<u64>,
    /// Round-trip time in microseconds, of a tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// The largest IP packet that crosses to the far gateway, as measured, in bytes, of a tunnel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u16>,
    /// The same from the far gateway to here, as that one says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_mtu_back: Option<u16>,
    /// What its probes measure, of a tunnel: round trip, loss, and each direction by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<TunnelHealth>,
    /// What runs the WireGuard device, of a tunnel that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Its share of the traffic to the far gateway in percent, of a tunnel in a bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_percent: Option<f64>,
    /// Where the far gateway is reached, of a WireGuard tunnel.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointHealth>,
    /// The DNS names among them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub names: BTreeMap<String, Resolution>,
    /// Seconds since the last handshake, of a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshake_age_s: Option<u64>,
}

/// The status of everything on this gateway.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Of the `Desired` it is about.
    pub generation: u64,
    /// Nothing is left to be done and nothing failed.
    pub settled: bool,
    /// Objects by path, e.g. `tunnels.ab`.
    pub objects: BTreeMap<String, ObjectStatus>,
}

/// The state of each object of `desired` on this gateway.
pub fn status(desired: &Desired, observed: &Observed) -> Status {
    let wanted = wanted(desired, observed);
    let mut objects = present_objects(desired);
    items(&wanted, observed, &mut objects);
    tunnels(desired, observed, &mut objects);
    nodes(desired, observed, &mut objects);
    looped(desired, observed, &mut objects);
    for (owner, reason) in &wanted.blocked {
        set(&mut objects, owner, ObjectState::Error, reason.clone());
    }
    let present = &observed.system;
    let settled = wanted.blocked.is_empty()
        && wanted.items.iter().all(|(key, item)| present.get(key) == Some(&item.value))
        && present.keys().all(|key| wanted.items.contains_key(key));
    Status { generation: desired.generation(), settled, objects }
}

/// Every object that this gateway realises, up until something is found to be missing.
fn present_objects(desired: &Desired) -> BTreeMap<String, ObjectStatus> {
    let up = ObjectStatus {
        state: ObjectState::Up,
        reason: None,
        retry_s: None,
        rtt_us: None,
        path: None,
        path_mtu: None,
        path_mtu_back: None,
        engine: None,
        share_percent: None,
        endpoints: Vec::new(),
        names: BTreeMap::new(),
        handshake_age_s: None,
    };
    let mut paths: Vec<String> = Vec::new();
    if desired.gateway().is_some() {
        paths.push(format!("gateways.{}", desired.gateway_name()));
    }
    paths.extend(desired.tenants().map(|(n, _)| format!("tenants.{n}")));
    paths.extend(desired.segments().map(|(n, _)| format!("segments.{n}")));
    paths.extend(desired.attachments().map(|(n, _)| format!("attachments.{n}")));
    paths.extend(desired.tunnels().map(|(n, ..)| format!("tunnels.{n}")));
    paths.extend(desired.exits().map(|(n, _)| format!("exits.{n}")));
    paths.extend(desired.routes().map(|(n, _)| format!("routes.{n}")));
    paths.extend(desired.nodes().map(|(n, _)| format!("nodes.{n}")));
    paths.into_iter().map(|p| (p, up.clone())).collect()
}

fn set(objects: &mut BTreeMap<String, ObjectStatus>, owner: &str, state: ObjectState, reason: String) {
    if let Some(object) = objects.get_mut(owner) {
        object.state = state;
        object.reason = Some(reason);
    }
}

fn items(wanted: &Wanted, observed: &Observed, objects: &mut BTreeMap<String, ObjectStatus>) {
    for (key, item) in &wanted.items {
        if observed.system.get(key) == Some(&item.value) {
            continue;
        }
        match observed.failures.get(key) {
            Some(failure) => {
                set(objects, &item.owner, ObjectState::Error, format!("{key}: {}", failure.message));
                if let Some(object) = objects.get_mut(&item.owner) {
                    object.retry_s = Some(failure.retry_s);
                }
            }
            None if objects.get(&item.owner).is_some_and(|o| o.state == ObjectState::Up) => {
                set(objects, &item.owner, ObjectState::Pending, format!("{key} is not there yet"));
            }
            None => {}
        }
    }
}

fn tunnels(desired: &Desired, observed: &Observed, objects: &mut BTreeMap<String, ObjectStatus>) {
    for (name, tunnel, far, gateway) in desired.tunnels() {
        let owner = format!("tunnels.{name}");
        let health = observed.tunnels.get(name).cloned().unwrap_or_default();
        let Some(object) = objects.get_mut(&owner) else { continue };
        object.rtt_us = health.rtt_us;
        object.path = observed.tunnels.get(name).cloned();
        let path = observed.path_mtus.get(name);
        object.path_mtu = path.and_then(|path| path.mtu);
        object.path_mtu_back = path.and_then(|path| path.far_mtu);
        if let Some(wireguard) = &tunnel.wireguard {
            reached(name, wireguard, far, observed, object);
            object.share_percent = share(observed, gateway.vtep, &device::wireguard(name));
        }
        if object.state == ObjectState::Up && !health.up {
            object.state = ObjectState::Down;
            object.reason = Some("no probe comes back from the far gateway".to_owned());
        }
    }
}

/// The share of a device in the bundle to a VTEP, if it is or could be in one.
fn share(observed: &Observed, vtep: IpAddr, device: &str) -> Option<f64> {
    let Value::Bundle { members, .. } = observed.system.get(&Key::Bundle(IpNet::from(vtep)))? else {
        return None;
    };
    let sum: u32 = members.values().map(|member| u32::from(member.weight)).sum();
    let own = members.get(device).map_or(0, |member| member.weight);
    Some((f64::from(own) * 1000.0 / f64::from(sum.max(1))).round() / 10.0)
}

/// Where the far gateway of a WireGuard tunnel is reached, and by what.
fn reached(
    name: &Name,
    tunnel: &WireguardTunnel,
    far: &Name,
    observed: &Observed,
    object: &mut ObjectStatus,
) {
    let device = device::wireguard(name);
    object.engine = observed.engines.get(&device).copied();
    object.endpoints = observed.endpoints.get(&device).cloned().unwrap_or_default();
    for place in tunnel.endpoints.get(far).iter().flat_map(|places| places.iter()) {
        if let Endpoint::Named { host, .. } = place {
            let found = observed.names.get(host).cloned().unwrap_or_default();
            object.names.insert(host.clone(), found);
        }
    }
    if object.engine == Some(Engine::Kernel) && tunnel.dscp != Dscp::Fixed(0) && object.reason.is_none() {
        object.reason = Some("the kernel's WireGuard sends DSCP 0, whatever the document says".to_owned());
    }
}

fn nodes(desired: &Desired, observed: &Observed, objects: &mut BTreeMap<String, ObjectStatus>) {
    for (name, node) in desired.nodes() {
        let owner = format!("nodes.{name}");
        let Some(object) = objects.get_mut(&owner) else { continue };
        let Some(key) = node.public_key else {
            object.state = ObjectState::Pending;
            object.reason = Some("has not enrolled yet".to_owned());
            continue;
        };
        let tenant = &desired.document().segments[&node.segment].tenant;
        let peers = observed.handshakes.get(&device::node(tenant));
        object.handshake_age_s = peers.and_then(|p| p.get(&key.to_string()).copied().flatten());
        let is_silent = object.handshake_age_s.is_none_or(|age| age > HANDSHAKE_AGE_S_MAX);
        if object.state == ObjectState::Up && is_silent {
            object.state = ObjectState::Down;
            object.reason = Some(match object.handshake_age_s {
                Some(age) => format!("its last handshake is {age} s old"),
                None => "no handshake yet".to_owned(),
            });
        }
    }
}

/// Attachments at which there is a loop: down where they are blocked, and said where another one is.
fn looped(desired: &Desired, observed: &Observed, objects: &mut BTreeMap<String, ObjectStatus>) {
    if observed.loops.is_empty() {
        return;
    }
    for (name, attachment) in desired.attachments().filter(|(_, attachment)| attachment.loop_guard) {
        let verdict = place(attachment).and_then(|at| observed.loops.get(&at));
        let Some((verdict, object)) = verdict.zip(objects.get_mut(&format!("attachments.{name}"))) else {
            continue;
        };
        if object.state != ObjectState::Up {
            continue;
        }
        if verdict.blocked {
            object.state = ObjectState::Down;
        }
        object.reason = Some(with_whom(desired, verdict));
    }
}
