//! The facts as the API shows them.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use watari_bgp::State;
use watari_bgp::speaker::Source;
use watari_bgp::types::InstanceId;
use watari_dataplane::Dataplane;

use super::import::{Imported, Routes};
use super::originate::Learnt;
use super::peers::Numbers;
use crate::bgp::Bgp;

/// The most entries of one list that are shown.
const SHOWN_MAX: usize = 1000;

/// What the facts are made of.
pub(super) struct Shown<'a> {
    pub(super) maps: &'a Dataplane,
    pub(super) learnt: &'a Learnt,
    pub(super) imported: &'a Imported,
    pub(super) best: &'a BTreeMap<InstanceId, Routes>,
}

/// Stations, neighbours, prefixes and counters.
pub(super) fn facts(shown: &Shown<'_>) -> Value {
    let local = shown.learnt.stations.iter().map(|((vni, mac), sequence)| {
        json!({ "vni": vni, "mac": mac.to_string(), "at": "here", "sequence": sequence })
    });
    let remote = shown.imported.claims.iter().map(|((vni, mac), claim)| {
        json!({
            "vni": vni, "mac": mac.to_string(), "at": claim.vtep.to_string(),
            "sequence": claim.sequence, "sticky": claim.sticky,
        })
    });
    let near = shown
        .learnt
        .addresses
        .iter()
        .map(|(vni, ip, mac)| json!({ "vni": vni, "address": ip, "mac": mac.to_string(), "at": "here" }));
    let far = shown.imported.neighbours.iter().map(|((vni, ip), mac)| {
        let at = shown.imported.claims.get(&(*vni, *mac)).map(|c| c.vtep.to_string());
        json!({ "vni": vni, "address": ip, "mac": mac.to_string(), "at": at })
    });
    let fabric = shown.imported.prefixes.iter().map(|((l3vni, prefix), remote)| {
        json!({ "l3vni": l3vni, "prefix": prefix, "from": "fabric", "via": remote.vtep })
    });
    json!({
        "macs": local.chain(remote).take(SHOWN_MAX).collect::<Vec<_>>(),
        "neighbours": near.chain(far).take(SHOWN_MAX).collect::<Vec<_>>(),
        "routes": campus(shown.best).into_iter().chain(fabric).take(SHOWN_MAX).collect::<Vec<_>>(),
        "flood": shown.imported.flood,
        "datapath": datapath(shown.maps),
    })
}

fn campus(best: &BTreeMap<InstanceId, Routes>) -> Vec<Value> {
    let tenants = best.iter().filter(|(instance, _)| instance.0 != 0);
    let routes = tenants.flat_map(|(instance, routes)| routes.iter().map(move |r| (instance, r)));
    let learnt = routes.filter(|(_, (_, best))| best.source != Source::Local);
    learnt
        .map(|(instance, (key, best))| {
            json!({
                "l3vni": instance.0, "prefix": key.to_string(), "from": "campus",
                "via": best.next_hop(), "stale": best.stale,
            })
        })
        .collect()
}

/// Counters: of each port, of what was dropped by reason, of what the pipeline did by itself.
fn datapath(maps: &Dataplane) -> Value {
    let names: BTreeMap<u32, String> = nix::net::if_::if_nameindex()
        .map(|list| list.iter().map(|i| (i.index(), i.name().to_string_lossy().into_owned())).collect())
        .unwrap_or_default();
    let mut ports = serde_json::Map::new();
    for (key, stats) in maps.stats.ports().unwrap_or_default() {
        let device = names.get(&key.ifindex).cloned().unwrap_or_else(|| format!("#{}", key.ifindex));
        let name = if key.outer == 0 { device } else { format!("{device}.{}", key.outer) };
        let value = json!({
            "rx_packets": stats.rx_packets, "rx_bytes": stats.rx_bytes,
            "tx_packets": stats.tx_packets, "tx_bytes": stats.tx_bytes, "drops": stats.drops,
        });
        ports.insert(name, value);
    }
    let drops = maps.stats.drops().unwrap_or_default();
    let drops: BTreeMap<_, _> =
        drops.into_iter().filter(|(_, n)| *n > 0).map(|(r, n)| (r.name(), n)).collect();
    let counters = maps.stats.counters().unwrap_or_default();
    let counters: BTreeMap<_, _> =
        counters.into_iter().filter(|(_, n)| *n > 0).map(|(c, n)| (c.name(), n)).collect();
    json!({ "ports": ports, "drops": drops, "counters": counters, "adoption": format!("{:?}", maps.adoption()) })
}

/// Adds the BGP sessions, and the state of each neighbour's object.
pub(super) async fn bgp(facts: &mut Value, bgp: &Bgp, numbers: &Numbers, restarted: bool, awaiting: bool) {
    let peers = bgp.query(|speaker, now| (speaker.peers(), now)).await;
    let Ok((peers, now)) = peers else { return };
    let mut sessions = Vec::new();
    let mut objects = serde_json::Map::new();
    for peer in peers {
        let path = numbers.path(peer.peer).unwrap_or_default().to_owned();
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
        if path.starts_with("peers.") {
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
