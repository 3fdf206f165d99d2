//! What proves a change: everything that held before it must hold after it. Pure: says what is to be probed, and what came
//! of it; [`super::probes`] sends.
//!
//! * Each object that was `up` must be `up` again.
//! * What answered an echo request must answer again: BGP neighbours on exits, the other gateways' own addresses in each
//!   segment (small and as large as a node may send), nodes, and hosts that are known here.
//!
//! What was said of an object that the change removes is no longer asked: the removal was wanted.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use watari_config::desired::{device, probe_addresses};
use watari_config::{Desired, Name};

use crate::nodes::echo;
use crate::nodes::join::node_mtu;
use crate::view::View;

/// The most hosts that are probed; of more, those with the lowest addresses of each segment.
pub const HOSTS_MAX: usize = 64;
/// The most BGP neighbours, and the most nodes, that are probed.
const PEERS_MAX: usize = 64;
/// The most probes of segments.
const SEGMENTS_MAX: usize = 128;

/// Something that can hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// The object's state is `up`.
    Up {
        /// Its path, e.g. `tunnels.ab`.
        object: String,
    },
    /// An echo request is answered.
    Echo(Echo),
}

/// An echo request from this gateway.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Echo {
    /// The object that it is about.
    pub object: String,
    /// Who is asked.
    pub whom: Whom,
    /// The tenant in whose namespace it is sent.
    pub tenant: Name,
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub target: IpAddr,
    /// Bytes of the IP packet.
    pub bytes: u16,
}

/// Who is asked by an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Whom {
    /// A BGP neighbour.
    Peer,
    /// Another gateway.
    Gateway,
    /// Another gateway, with a packet as large as a node may send.
    GatewayInFull,
    /// A node.
    Node,
    /// A host that is known.
    Host,
}

impl Probe {
    /// The object that it is about.
    pub fn object(&self) -> &str {
        match self {
            Self::Up { object } | Self::Echo(Echo { object, .. }) => object,
        }
    }
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Up { object } => write!(f, "{object} is up"),
            Self::Echo(Echo { object, tenant, source, target, bytes, .. }) => {
                write!(f, "{object}: {target} answers {source} in tenant {tenant}, {bytes} bytes")
            }
        }
    }
}

/// A probe that does not hold any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Failed {
    /// The probe, in words.
    pub probe: String,
    /// The object that it is about.
    pub object: String,
    /// What was seen instead.
    pub reason: String,
}

/// What came of a proof, as it is told to whoever asked for the change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Proof {
    /// What held before and after.
    pub held: Vec<String>,
    /// What was not asked any more, since the change removed its object.
    pub gone: Vec<String>,
    /// What held before and not after; the change went back then.
    pub failed: Vec<Failed>,
    /// How many probes there were of objects that whoever asked does not see.
    pub hidden: usize,
    /// How long it took until it was decided, milliseconds from the change on.
    pub ms: u64,
}

/// What came of a proof, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// What held before and after.
    pub held: Vec<Probe>,
    /// What was not asked any more.
    pub gone: Vec<Probe>,
    /// What held before and not after, with what was seen instead.
    pub failed: Vec<(Probe, String)>,
    /// How long it took, milliseconds.
    pub ms: u64,
}

impl Verdict {
    /// As it is told to somebody who sees the objects that `sees` says.
    pub fn told(&self, sees: impl Fn(&str) -> bool) -> Proof {
        let words = |probes: &[Probe]| -> Vec<String> {
            let mut words: Vec<String> =
                probes.iter().filter(|probe| sees(probe.object())).map(ToString::to_string).collect();
            words.sort();
            words
        };
        let failed = self.failed.iter().filter(|(probe, _)| sees(probe.object()));
        let failed: Vec<Failed> = failed
            .map(|(probe, reason)| Failed {
                probe: probe.to_string(),
                object: probe.object().to_owned(),
                reason: reason.clone(),
            })
            .collect();
        let (held, gone) = (words(&self.held), words(&self.gone));
        let all = self.held.len() + self.gone.len() + self.failed.len();
        Proof { hidden: all - held.len() - gone.len() - failed.len(), held, gone, failed, ms: self.ms }
    }
}

/// The objects that are up.
pub fn up(view: &View) -> Vec<Probe> {
    let objects = view.status["objects"].as_object();
    let objects = objects.into_iter().flatten().filter(|(_, object)| object["state"] == "up");
    objects.map(|(path, _)| Probe::Up { object: path.clone() }).collect()
}

/// Whether the object is up in `view`, at `generation` or later.
///
/// # Errors
/// What it is instead, with the reason where there is one.
pub fn is_up(view: &View, generation: u64, object: &str) -> Result<(), String> {
    if view.generation < generation {
        return Err("the gateway has not looked again yet".to_owned());
    }
    let object = &view.status["objects"][object];
    match object["state"].as_str() {
        Some("up") => Ok(()),
        Some(state) => Err(match object["reason"].as_str() {
            Some(reason) => format!("{state}: {reason}"),
            None => state.to_owned(),
        }),
        None => Err("it has no state at this gateway any more".to_owned()),
    }
}

/// The echo requests that say something about `desired`, 320 at most. `learnt` is what the facts know of hosts.
pub fn echoes(desired: &Desired, learnt: &Value) -> Vec<Echo> {
    let mut echoes: Vec<Echo> =
        of_peers(desired).take(PEERS_MAX).chain(of_segments(desired).take(SEGMENTS_MAX)).collect();
    echoes.extend(of_nodes(desired).take(PEERS_MAX));
    echoes.extend(of_hosts(desired, learnt));
    echoes
}

fn of_peers(desired: &Desired) -> impl Iterator<Item = Echo> + '_ {
    desired.peers().filter_map(|(name, peer, exit)| {
        // Of those that come from a prefix nobody is known to be there.
        let (target, source) = (peer.address.one()?, peer.local(exit)?);
        Some(Echo {
            object: format!("peers.{name}"),
            whom: Whom::Peer,
            tenant: exit.tenant.clone(),
            source,
            target,
            bytes: echo::SMALL_BYTES,
        })
    })
}

/// From our own address in the segment to `target`, where we have one of its family.
fn within(
    desired: &Desired,
    segment: &Name,
    object: &str,
    whom: Whom,
    target: IpAddr,
    bytes: u16,
) -> Option<Echo> {
    let own = desired.probe_addresses(segment);
    let source = own.into_iter().find(|own| own.is_ipv4() == target.is_ipv4() && *own != target)?;
    let tenant = desired.document().segments.get(segment)?.tenant.clone();
    Some(Echo { object: object.to_owned(), whom, tenant, source, target, bytes })
}

fn of_segments(desired: &Desired) -> impl Iterator<Item = Echo> + '_ {
    let far: BTreeSet<&Name> = desired.tunnels().map(|(_, _, far, _)| far).collect();
    desired.segments().flat_map(move |(name, segment)| {
        let full = node_mtu(desired.document(), segment);
        let targets: Vec<IpAddr> =
            far.iter().flat_map(|gateway| probe_addresses(desired.document(), gateway, name)).collect();
        let object = format!("segments.{name}");
        targets.into_iter().flat_map(move |target| {
            let object = object.clone();
            [(Whom::Gateway, echo::SMALL_BYTES), (Whom::GatewayInFull, full)]
                .into_iter()
                .filter_map(move |(whom, bytes)| within(desired, name, &object, whom, target, bytes))
        })
    })
}

fn of_nodes(desired: &Desired) -> impl Iterator<Item = Echo> + '_ {
    desired.nodes().flat_map(move |(name, node)| {
        let object = format!("nodes.{name}");
        let targets = node.addresses.iter();
        let one = move |target: &IpAddr| {
            within(desired, &node.segment, &object, Whom::Node, *target, echo::SMALL_BYTES)
        };
        targets.filter_map(one)
    })
}

/// Hosts that this gateway knows at its own attachments.
fn of_hosts(desired: &Desired, learnt: &Value) -> Vec<Echo> {
    let known = learnt["neighbours"].as_array().into_iter().flatten().filter(|n| n["at"] == "here");
    let mut found: Vec<Echo> = known
        .filter_map(|neighbour| {
            let vni = neighbour["vni"].as_u64()?;
            let target: IpAddr = neighbour["address"].as_str()?.parse().ok()?;
            let (name, segment) = desired.segments().find(|(_, s)| u64::from(s.vni.get()) == vni)?;
            let is_link_local = matches!(target, IpAddr::V6(v6) if v6.is_unicast_link_local());
            // The gateway's own addresses are known like any other's.
            let is_own = segment.gateway.contains(&target) || is_link_local;
            (!is_own).then_some(())?;
            within(desired, name, &format!("segments.{name}"), Whom::Host, target, echo::SMALL_BYTES)
        })
        .collect();
    found.sort();
    found.dedup();
    found.truncate(HOSTS_MAX);
    found
}

/// What `probe` asks once `desired` is in force: from our new address, in the new size. `None` where the change has taken away
/// what it is about: the object, its place at this gateway, or whom it asks.
pub fn renewed(desired: &Desired, probe: &Probe) -> Option<Probe> {
    if !is_there(desired, probe.object()) {
        return None;
    }
    let Probe::Echo(echo) = probe else { return Some(probe.clone()) };
    let again = match echo.whom {
        Whom::Peer => of_peers(desired).find(|e| is_same(e, echo)),
        Whom::Gateway | Whom::GatewayInFull => of_segments(desired).find(|e| is_same(e, echo)),
        Whom::Node => of_nodes(desired).find(|e| is_same(e, echo)),
        Whom::Host => {
            let segment: Name = echo.object.strip_prefix("segments.")?.parse().ok()?;
            let is_here = desired.segments().any(|(name, _)| *name == segment);
            let again = || within(desired, &segment, &echo.object, Whom::Host, echo.target, echo.bytes);
            is_here.then(again).flatten()
        }
    };
    again.map(Probe::Echo)
}

fn is_same(one: &Echo, other: &Echo) -> bool {
    (one.whom, one.target) == (other.whom, other.target) && one.object == other.object
}

/// Whether the object of this path is realised at this gateway.
fn is_there(desired: &Desired, object: &str) -> bool {
    let Some((kind, name)) = object.split_once('.') else { return true };
    let Ok(name) = name.parse::<Name>() else { return true };
    let tenant = |name: &Name| desired.tenants().any(|(tenant, _)| tenant == name);
    match kind {
        "gateways" => desired.document().gateways.contains_key(&name),
        "tenants" => tenant(&name),
        "segments" => desired.segments().any(|(segment, _)| *segment == name),
        "attachments" => desired.attachments().any(|(attachment, _)| *attachment == name),
        "tunnels" => desired.tunnels().any(|(tunnel, ..)| *tunnel == name),
        "exits" => desired.exits().any(|(exit, _)| *exit == name),
        // One that is switched off is down because somebody wants it so.
        "peers" => desired.peers().any(|(peer, what, _)| *peer == name && !what.disabled),
        "routes" => desired.routes().any(|(route, _)| *route == name),
        "nodes" => desired.nodes().any(|(node, _)| *node == name),
        _ => true,
    }
}

/// The namespace of the tenant of an echo request.
pub fn namespace(desired: &Desired, tenant: &Name) -> String {
    device::namespace(desired.gateway_name(), tenant)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::nodes::samples;

    #[test]
    fn gateways_nodes_and_hosts_are_asked_from_our_own_addresses() {
        let desired = samples::with_node(None, Some(samples::KEY));
        let learnt = json!({ "neighbours": [
            { "vni": 1000, "address": "10.10.0.7", "at": "here" },
            { "vni": 1000, "address": "10.10.0.8", "at": "192.0.2.2" },
            { "vni": 1000, "address": "fe80::1", "at": "here" },
            { "vni": 77, "address": "10.10.0.9", "at": "here" },
        ]});
        let lines: Vec<String> = echoes(&desired, &learnt)
            .iter()
            .map(|e| format!("{} {} {} {}", e.object, e.source, e.target, e.bytes))
            .collect();
        for line in [
            "segments.lab-net 10.10.0.129 10.10.0.193 84",
            "nodes.gpu-1 10.10.0.129 10.10.0.130 84",
            "segments.lab-net 10.10.0.129 10.10.0.7 84",
        ] {
            assert!(lines.iter().any(|l| l == line), "{line} is not in {lines:#?}");
        }
        assert!(
            !lines.iter().any(|l| l.contains("10.10.0.8") || l.contains("fe80") || l.contains("10.10.0.9"))
        );
    }

    #[test]
    fn hosts_are_bounded() {
        let desired = samples::with_node(None, Some(samples::KEY));
        let hosts: Vec<Value> = (1..=120)
            .map(|i| json!({ "vni": 1000, "address": format!("10.10.0.{i}"), "at": "here" }))
            .collect();
        assert_eq!(of_hosts(&desired, &json!({ "neighbours": hosts })).len(), HOSTS_MAX);
    }

    #[test]
    fn an_object_is_up_or_says_what_it_is_instead() {
        let objects = json!({ "objects": {
            "tunnels.ab": { "state": "up" },
            "exits.x": { "state": "down", "reason": "no carrier" },
        }});
        let view = View { status: objects, ..View::unseen() };
        assert_eq!(up(&view), [Probe::Up { object: "tunnels.ab".to_owned() }]);
        assert_eq!(is_up(&view, 0, "tunnels.ab"), Ok(()));
        assert!(is_up(&view, 1, "tunnels.ab").is_err(), "seen before the change");
        assert_eq!(is_up(&view, 0, "exits.x").unwrap_err(), "down: no carrier");
        assert!(is_up(&view, 0, "peers.p").is_err());
    }

    #[test]
    fn who_does_not_see_an_object_is_told_how_many_probes_there_were() {
        let up = |object: &str| Probe::Up { object: object.to_owned() };
        let verdict = Verdict {
            held: vec![up("segments.lab"), up("segments.other")],
            gone: vec![up("peers.other")],
            failed: vec![(up("tunnels.ab"), "down".to_owned())],
            ms: 7,
        };
        let told = verdict.told(|object| object == "segments.lab");
        assert_eq!(
            (told.held, told.gone.len(), told.failed.len(), told.hidden),
            (vec!["segments.lab is up".to_owned()], 0, 0, 3)
        );
        assert_eq!(verdict.told(|_| true).hidden, 0);
    }

    #[test]
    fn a_probe_follows_the_change() {
        let before = samples::with_node(None, Some(samples::KEY));
        let with = |edit: &dyn Fn(&mut watari_config::Document)| {
            let mut document = before.document().clone();
            edit(&mut document);
            Desired::new(document, before.gateway_name().clone(), 6).unwrap()
        };
        let echoes = echoes(&before, &Value::Null);
        let of = |whom: Whom| Probe::Echo(echoes.iter().find(|e| e.whom == whom).unwrap().clone());
        let smaller = with(&|d| d.segments.values_mut().for_each(|s| s.mtu = "1300".parse().unwrap()));
        let Some(Probe::Echo(echo)) = renewed(&smaller, &of(Whom::GatewayInFull)) else { panic!("gone") };
        assert_eq!(echo.bytes, 1300, "as large as it may be after the change");
        assert_eq!(renewed(&before, &of(Whom::Peer)), Some(of(Whom::Peer)));
        let without = with(&|d| d.tunnels.clear());
        assert_eq!(renewed(&without, &of(Whom::Gateway)), None, "nothing leads there any more");
        let off = with(&|d| d.peers.values_mut().for_each(|p| p.disabled = true));
        assert_eq!(renewed(&off, &of(Whom::Peer)), None, "it is switched off");
        let gone = with(&|d| d.nodes.clear());
        assert_eq!(renewed(&gone, &of(Whom::Node)), None, "its lease has ended");
    }

    #[test]
    fn what_the_change_removes_is_not_asked_any_more() {
        let desired = samples::with_node(None, Some(samples::KEY));
        assert!(is_there(&desired, "nodes.gpu-1"));
        assert!(!is_there(&desired, "nodes.gpu-2"));
        assert!(!is_there(&desired, "tunnels.none"));
    }
}
