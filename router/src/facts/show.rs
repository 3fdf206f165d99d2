//! The facts as the API shows them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use watari_bgp::Instant;
use watari_bgp::State;
use watari_bgp::types::{InstanceId, PeerId};
use watari_config::Desired;
use watari_dataplane::{Dataplane, PortKey, PortStats};
use watari_planner::wanted::place;

use super::hosts::{Duplicate, Hosts, Place, Seen, Subject};
use super::import::{Imported, Routes};
use super::peers::Numbers;
use crate::bgp::{Bgp, Neighbour, PeerSettings};
use crate::drivers::datapath::port_key;

/// The most entries of one list that are shown.
const SHOWN_MAX: usize = 1000;

/// What the facts are made of.
pub(super) struct Shown<'a> {
    pub(super) desired: &'a Desired,
    pub(super) seen: &'a Seen,
    pub(super) maps: &'a Dataplane,
    pub(super) imported: &'a Imported,
    pub(super) best: &'a BTreeMap<InstanceId, Routes>,
    pub(super) hosts: &'a Hosts,
}

/// What is small and asked for at each turn: duplicates, and as `objects` the state of each.
pub(super) fn brief(hosts: &Hosts, now: Instant) -> Value {
    json!({
        "duplicates": duplicates(hosts, now),
        "pinned_elsewhere": pinned(hosts),
        "objects": duplicate_objects(hosts),
    })
}

/// Stations, neighbours, prefixes and counters: for those who ask. Of long lists the first entries are shown, and how
/// many there are.
pub(super) fn facts(shown: &Shown<'_>) -> Value {
    let (hosts, claims) = (shown.hosts, &shown.imported.claims);
    let local = hosts.held().iter().map(|((vni, mac), sequence)| {
        json!({ "vni": vni, "mac": mac.to_string(), "at": "here", "sequence": sequence })
    });
    let remote = claims.stations.iter().map(|((vni, mac), claim)| {
        json!({
            "vni": vni, "mac": mac.to_string(), "at": claim.vtep.to_string(),
            "sequence": claim.sequence, "sticky": claim.sticky,
        })
    });
    let near = hosts.bound().iter().map(|((vni, ip), (mac, flags))| {
        let (mac, router) = (mac.to_string(), flags.router);
        json!({ "vni": vni, "address": ip, "mac": mac, "at": "here", "router": router })
    });
    let far = claims.addresses.iter().map(|((vni, ip), bound)| {
        let (mac, at) = (bound.mac.to_string(), bound.claim.vtep.to_string());
        let router = bound.flags.is_some_and(|f| f.router);
        json!({ "vni": vni, "address": ip, "mac": mac, "at": at, "router": router })
    });
    let fabric = shown.imported.prefixes().map(|((l3vni, prefix), remote)| {
        json!({ "l3vni": l3vni, "prefix": prefix, "from": "fabric", "via": remote.vtep })
    });
    let flood: BTreeMap<_, Vec<_>> =
        shown.imported.flooded().map(|vni| (vni, shown.imported.flood(vni).collect())).collect();
    json!({
        "macs": local.chain(remote).take(SHOWN_MAX).collect::<Vec<_>>(),
        "neighbours": near.chain(far).take(SHOWN_MAX).collect::<Vec<_>>(),
        "routes": campus(shown.best).chain(fabric).take(SHOWN_MAX).collect::<Vec<_>>(),
        "counts": {
            "macs": { "here": hosts.held().len(), "elsewhere": claims.stations.len() },
            "neighbours": { "here": hosts.bound().len(), "elsewhere": claims.addresses.len() },
            "routes": { "campus": campus(shown.best).count(), "fabric": shown.imported.prefixes().count() },
        },
        "flood": flood,
        "attachments": attachments(shown),
        "datapath": datapath(shown.maps),
    })
}

fn is_mac(subject: &Subject) -> bool {
    matches!(subject, Subject::Station(_))
}

fn pinned(hosts: &Hosts) -> Vec<Value> {
    let shown = hosts.pinned_elsewhere().iter().take(SHOWN_MAX).map(|(subject, vtep)| {
        let kind = if is_mac(subject) { "mac" } else { "address" };
        json!({ "vni": subject.vni(), kind: subject.to_string(), "pinned_by": vtep })
    });
    shown.collect()
}

/// What moves too often and is frozen, and where it was seen.
fn duplicates(hosts: &Hosts, now: Instant) -> Vec<Value> {
    if hosts.duplicates().next().is_none() {
        return Vec::new();
    }
    let names = device_names();
    let one = |d: Duplicate<'_>| {
        let kind = if is_mac(&d.subject) { "mac" } else { "address" };
        let seen = d.seen.iter().map(|sighting| match sighting.at {
            Place::Port(port) => {
                json!({ "at": "here", "port": port_name(&names, &port), "mac": sighting.mac.to_string() })
            }
            Place::Gateway(vtep) => json!({ "at": vtep, "mac": sighting.mac.to_string() }),
        });
        let frozen_at = match d.subject {
            Subject::Station(station) => hosts.frozen_at().get(&station),
            Subject::Address(_) => None,
        };
        json!({
            "vni": d.subject.vni(), kind: d.subject.to_string(), "seen": seen.collect::<Vec<_>>(),
            "frozen_at": frozen_at.map(|port| port_name(&names, port)),
            "advertised": hosts.holds(&d.subject), "freezes": d.freezes,
            "frozen_s": now.millis_since(d.since) / 1000,
            "retry_s": d.until.millis_since(now) / 1000,
        })
    };
    hosts.duplicates().take(SHOWN_MAX).map(one).collect()
}

/// One sentence about something that is frozen.
pub(super) fn reason(duplicate: &Duplicate<'_>) -> String {
    let names = device_names();
    let places: Vec<String> = duplicate
        .seen
        .iter()
        .map(|sighting| match sighting.at {
            Place::Port(port) => format!("here on {}", port_name(&names, &port)),
            Place::Gateway(vtep) => format!("at gateway {vtep}"),
        })
        .collect();
    let minutes = duplicate.until.millis_since(duplicate.since) / 60_000;
    format!("moves too often, seen {}; frozen for {minutes} min", places.join(", "))
}

fn device_names() -> BTreeMap<u32, String> {
    nix::net::if_::if_nameindex()
        .map(|list| list.iter().map(|i| (i.index(), i.name().to_string_lossy().into_owned())).collect())
        .unwrap_or_default()
}

/// The device and its tags, as in `eth1.100`, `eth1.100s` for an S-tag and `eth1.100s.7` for QinQ.
fn port_name(names: &BTreeMap<u32, String>, port: &PortKey) -> String {
    let device = names.get(&port.ifindex).cloned().unwrap_or_else(|| format!("#{}", port.ifindex));
    let outer = port.outer & !PortKey::S_TAG;
    let stag = if port.outer & PortKey::S_TAG == 0 { "" } else { "s" };
    match (outer, port.inner) {
        (0, _) => device,
        (outer, 0) => format!("{device}.{outer}{stag}"),
        (outer, inner) => format!("{device}.{outer}{stag}.{inner}"),
    }
}

/// Traffic of each attachment, what was dropped of it, and how many MACs are known there.
fn attachments(shown: &Shown<'_>) -> Value {
    let indices = device_names().into_iter().map(|(index, name)| (name, index)).collect();
    let stats = shown.maps.stats.ports().unwrap_or_default();
    let mut macs: BTreeMap<PortKey, u64> = BTreeMap::new();
    for port in shown.seen.stations.values() {
        *macs.entry(*port).or_default() += 1;
    }
    let mut all = serde_json::Map::new();
    for (name, attachment) in shown.desired.attachments() {
        let key = place(attachment).and_then(|at| port_key(&indices, &at).ok());
        let Some((key, at)) = key.zip(place(attachment)) else { continue };
        let mut value = counters(&stats.get(&key).copied().unwrap_or_default());
        value["at"] = json!(at.to_string());
        value["macs"] = json!(macs.get(&key).copied().unwrap_or(0));
        all.insert(name.to_string(), value);
    }
    Value::Object(all)
}

fn counters(stats: &PortStats) -> Value {
    json!({
        "rx_packets": stats.rx_packets, "rx_bytes": stats.rx_bytes,
        "tx_packets": stats.tx_packets, "tx_bytes": stats.tx_bytes, "drops": stats.drops,
    })
}

fn campus(best: &BTreeMap<InstanceId, Routes>) -> impl Iterator<Item = Value> + '_ {
    let tenants = best.iter().filter(|(instance, _)| instance.0 != 0);
    let routes = tenants.flat_map(|(instance, routes)| routes.iter().map(move |r| (instance, r)));
    routes.map(|(instance, (key, best))| {
        json!({
            "l3vni": instance.0, "prefix": key.to_string(), "from": "campus",
            "via": best.next_hop(), "stale": best.stale,
        })
    })
}

/// Counters: of each port, of what was dropped by reason, of what the pipeline did by itself; how full each table is.
fn datapath(maps: &Dataplane) -> Value {
    let names = device_names();
    let mut ports = serde_json::Map::new();
    for (key, stats) in maps.stats.ports().unwrap_or_default() {
        let name = port_name(&names, &key);
        ports.insert(name, counters(&stats));
    }
    let drops = maps.stats.drops().unwrap_or_default();
    let drops: BTreeMap<_, _> =
        drops.into_iter().filter(|(_, n)| *n > 0).map(|(r, n)| (r.name(), n)).collect();
    let counters = maps.stats.counters().unwrap_or_default();
    let counters: BTreeMap<_, _> =
        counters.into_iter().filter(|(_, n)| *n > 0).map(|(c, n)| (c.name(), n)).collect();
    let tables: BTreeMap<_, _> = maps
        .fill_levels()
        .unwrap_or_default()
        .into_iter()
        .map(|level| (level.map, json!({ "entries": level.entries, "limit": level.limit })))
        .collect();
    json!({
        "ports": ports, "drops": drops, "counters": counters, "tables": tables,
        "adoption": format!("{:?}", maps.adoption()),
    })
}

/// The state of each duplicate, as an object beside those of the document.
fn duplicate_objects(hosts: &Hosts) -> serde_json::Map<String, Value> {
    let object = |duplicate: Duplicate<'_>| {
        let path = format!("duplicates.{}.{}", duplicate.subject.vni(), duplicate.subject);
        (path, json!({ "state": "duplicate", "reason": reason(&duplicate) }))
    };
    hosts.duplicates().take(SHOWN_MAX).map(object).collect()
}

/// Adds the BGP sessions, and the state of each neighbour's object; that of a prefix says how many have come.
pub(super) async fn bgp(
    facts: &mut Value,
    bgp: &Bgp,
    (numbers, settings): (&Numbers, &BTreeMap<PeerId, PeerSettings>),
    restarted: bool,
    awaiting: bool,
) {
    let peers = bgp.query(|speaker, now| (speaker.peers(), now)).await;
    let Ok((peers, now)) = peers else { return };
    let mut sessions = Vec::new();
    let mut objects = facts["objects"].take().as_object().cloned().unwrap_or_default();
    for (id, range) in settings.iter().filter_map(|(id, s)| Some((id, s.range.as_ref()?))) {
        let came = peers.iter().filter(|peer| peer.dynamic_of == Some(*id));
        let neighbours = json!({
            "known": came.clone().count(), "limit": range.neighbours_max,
            "established": came.filter(|peer| peer.state == State::Established).count(),
        });
        let path = numbers.path(*id).unwrap_or_default().to_owned();
        objects.insert(path, json!({ "state": "up", "neighbours": neighbours }));
    }
    for peer in peers {
        let came_from = peer.dynamic_of.map(|_| peer.remote_addr);
        let path = numbers.name(Neighbour { peer: peer.dynamic_of.unwrap_or(peer.peer), came_from });
        let established = peer.state == State::Established;
        let keeps = !established && peer.stale > 0;
        let state = if established { "up" } else { "down" };
        let reason = match (&peer.last_down, keeps) {
            (_, true) => Some("restarting; its routes are kept".to_owned()),
            (Some(reason), _) if !established => Some(reason.to_string()),
            (None, _) if !established => Some(format!("{:?}", peer.state).to_lowercase()),
            _ => None,
        };
        sessions.push(json!({
            "neighbour": path, "address": peer.remote_addr, "asn": peer.remote_asn.0,
            "state": format!("{:?}", peer.state), "since_s": now.millis_since(peer.since) / 1000,
            "received": peer.received, "rejected": peer.rejected, "stale": peer.stale,
            "advertised": peer.advertised, "reason": reason,
        }));
        if path.starts_with("peers.") && peer.dynamic_of.is_none() {
            let mut object = json!({ "state": state });
            if let Some(reason) = reason {
                object["reason"] = json!(reason);
            }
            objects.insert(path, object);
        }
    }
    facts["bgp"] = json!({ "sessions": sessions, "restarted": restarted, "awaiting_peers": awaiting });
    facts["objects"] = Value::Object(objects);
}
