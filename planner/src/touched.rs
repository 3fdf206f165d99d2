//! Which traffic a plan touches, and how: what an operator wants to know before it is carried out.
//!
//! Each op belongs to the object that wants its item, or wanted it before; of an object the strongest effect counts. What
//! only watches (probes, BFD, beacons) and settings touch no packet and are left out.

use std::collections::BTreeMap;

use serde::Serialize;
use watari_config::document::VlanPort;
use watari_config::{Desired, Document, IfName, Name};

use crate::item::Key;
use crate::plan::{Action, Op, Plan};
use crate::wanted::Wanted;

/// What happens to the traffic of an object, from the weakest to the strongest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It begins: it was not carried before.
    Begins,
    /// It is treated another way, or goes another way, from one packet to the next; none is lost for it.
    Changes,
    /// It may pause while a device is made anew.
    Pauses,
    /// Something of it ends: it is not carried any more.
    Ends,
}

/// The traffic of one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Touched {
    /// The object's path, e.g. `attachments.a-lan`.
    pub object: String,
    /// What happens to its traffic.
    pub effect: Effect,
    /// Which traffic that is, in words.
    pub traffic: String,
}

/// The traffic that `plan`, which leads from `before` to `after`, touches; the strongest effects first. `wanted` is what was
/// wanted before.
pub fn touched(plan: &Plan, wanted: &Wanted, before: &Desired, after: &Desired) -> Vec<Touched> {
    let mut objects: BTreeMap<String, Effect> = BTreeMap::new();
    let mut note = |object: String, effect: Effect| {
        let known = objects.entry(object).or_insert(effect);
        *known = effect.max(*known);
    };
    for op in &plan.ops {
        let Some(effect) = effect(op) else { continue };
        let owner = match op.owner.as_str() {
            "" => wanted.items.get(&op.key).map(|item| item.owner.clone()),
            owner => Some(owner.to_owned()),
        };
        // What nobody wants and nobody wanted is a leftover: no object's traffic.
        if let Some(owner) = owner {
            note(owner, effect);
        }
    }
    peers(before, after).into_iter().for_each(|(object, effect)| note(object, effect));
    let mut touched: Vec<Touched> = objects
        .into_iter()
        .map(|(object, effect)| {
            let (now, was) = (after.document(), before.document());
            let traffic = traffic(now, &object).or_else(|| traffic(was, &object)).unwrap_or_default();
            Touched { object, effect, traffic }
        })
        .collect();
    touched.sort_by(|a, b| b.effect.cmp(&a.effect).then_with(|| a.object.cmp(&b.object)));
    touched
}

/// What an op does to packets; `None` for one that touches none.
fn effect(op: &Op) -> Option<Effect> {
    match (&op.key, op.action) {
        (Key::Sysctl(..) | Key::Beacon(_) | Key::Probe(_) | Key::PathMtu(_) | Key::Bfd(_), _) => None,
        (_, Action::Create) => Some(Effect::Begins),
        // The tables of a guard say who may; the port, whether anybody is asked.
        (Key::GuardMac(..) | Key::GuardIp(..), _) => Some(Effect::Changes),
        (_, Action::Remove) => Some(Effect::Ends),
        (
            Key::Namespace(_) | Key::Vxlan(_) | Key::Veth(_) | Key::Wireguard(_) | Key::Wire(_),
            Action::Change,
        ) => Some(Effect::Pauses),
        (_, Action::Change) => Some(Effect::Changes),
    }
}

/// Sessions of BGP are no items; the routes that are learnt from them carry packets all the same.
fn peers(before: &Desired, after: &Desired) -> Vec<(String, Effect)> {
    let of = |desired: &Desired| -> BTreeMap<Name, _> {
        desired.peers().map(|(name, peer, _)| (name.clone(), peer.clone())).collect()
    };
    let (before, after) = (of(before), of(after));
    let gone = before.keys().filter(|name| !after.contains_key(*name)).map(|name| (name, Effect::Ends));
    let present = after.iter().filter_map(|(name, peer)| match before.get(name) {
        None => Some((name, Effect::Begins)),
        Some(was) if !was.disabled && peer.disabled => Some((name, Effect::Ends)),
        Some(was) if was.disabled && !peer.disabled => Some((name, Effect::Begins)),
        Some(was) if was != peer => Some((name, Effect::Pauses)),
        Some(_) => None,
    });
    gone.chain(present).map(|(name, effect)| (format!("peers.{name}"), effect)).collect()
}

/// Whose packets the object carries; `None` where it is not in the document.
fn traffic(document: &Document, object: &str) -> Option<String> {
    let (kind, name) = object.split_once('.')?;
    let name: Name = name.parse().ok()?;
    Some(match kind {
        "gateways" => "everything that this gateway carries".to_owned(),
        "tenants" => format!("routed packets of tenant {name}"),
        "segments" => format!("frames of segment {name}"),
        "attachments" => {
            let attachment = document.attachments.get(&name)?;
            format!(
                "frames of segment {} {}",
                attachment.segment,
                place(&attachment.vlan, &attachment.interface)
            )
        }
        "tunnels" => {
            let ends: Vec<&str> = document.tunnels.get(&name)?.between.iter().map(Name::as_str).collect();
            format!("what crosses between {} by it", ends.join(" and "))
        }
        "exits" => {
            let exit = document.exits.get(&name)?;
            format!(
                "packets between tenant {} and its routers {}",
                exit.tenant,
                place(&exit.vlan, &exit.interface)
            )
        }
        "peers" => {
            let peer = document.peers.get(&name)?;
            let tenant = &document.exits.get(&peer.exit)?.tenant;
            format!("packets of tenant {tenant} by routes from {}", peer.address)
        }
        "routes" => {
            let route = document.routes.get(&name)?;
            format!("packets to {}", route.prefix)
        }
        "nodes" => format!("packets of node {name}"),
        _ => return None,
    })
}

fn place(vlan: &Option<VlanPort>, interface: &Option<IfName>) -> String {
    match (vlan, interface) {
        (Some(vlan), _) => format!("at {} of {}", vlan.tags(), vlan.trunk),
        (None, Some(interface)) => format!("at {interface}, untagged"),
        (None, None) => String::new(),
    }
}
