//! What is asked when a node is attached, and the document after it. Pure: time, name and token are arguments.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use watari_config::allocate::{NODES_MAX, node_addresses, node_mac};
use watari_config::document::{Node, NodeKind, NodeMode};
use watari_config::names::Duration;
use watari_config::read::Read;
use watari_config::{Desired, Document, Name, Path, Problem, Problems};

use crate::brain::{ChangeError, Head};

/// How long a node lives where nobody says how long.
const LEASE_DEFAULT: &str = "24h";
/// The fields of a request.
const FIELDS: [&str; 5] = ["name", "segment", "kind", "mode", "lease"];

/// What somebody wants to attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Its name; one is made where it is absent.
    pub name: Option<Name>,
    /// Its segment; where it is absent, the only one that is present here.
    pub segment: Option<Name>,
    /// What kind of machine it is.
    pub kind: NodeKind,
    /// How it is attached.
    pub mode: NodeMode,
    /// How long it may live.
    pub lease: Duration,
}

impl Wish {
    /// Reads the body of a request.
    ///
    /// # Errors
    /// Every wrong field.
    pub fn read(tree: &Value) -> Result<Self, Vec<Problem>> {
        let mut problems = Problems::default();
        let root = Path::root();
        let Some(fields) = tree.as_object() else {
            problems.add(&root, "must be an object");
            return Err(problems.into_vec());
        };
        for field in fields.keys().filter(|f| !FIELDS.contains(&f.as_str())) {
            problems.add(&root.field(field), format!("unknown field; known are {}", FIELDS.join(", ")));
        }
        let default = |text: &str| Value::from(text);
        let name = optional(tree, "name", &mut problems);
        let segment = optional(tree, "segment", &mut problems);
        let kind = with_default(tree, "kind", default("cpu"), &mut problems);
        let mode = with_default(tree, "mode", default("l3"), &mut problems);
        let lease = with_default(tree, "lease", default(LEASE_DEFAULT), &mut problems);
        match (name, segment, kind, mode, lease) {
            (Some(name), Some(segment), Some(kind), Some(mode), Some(lease)) => {
                problems.or(Self { name, segment, kind, mode, lease })
            }
            _ => Err(problems.into_vec()),
        }
    }
}

/// Reads the length of a lease out of `{"lease": "24h"}`.
///
/// # Errors
/// Every wrong field.
pub fn read_lease(tree: &Value) -> Result<Duration, Vec<Problem>> {
    let mut problems = Problems::default();
    let root = Path::root();
    for field in tree.as_object().into_iter().flat_map(|o| o.keys()).filter(|f| *f != "lease") {
        problems.add(&root.field(field), "unknown field; known is lease");
    }
    let here = root.field("lease");
    let lease = match tree.get("lease") {
        Some(value) => Duration::read(value, &here, &mut problems),
        None => Duration::absent(&here, &mut problems),
    };
    match lease {
        Some(lease) => problems.or(lease),
        None => Err(problems.into_vec()),
    }
}

fn optional<T: Read>(tree: &Value, field: &str, problems: &mut Problems) -> Option<Option<T>> {
    let value = tree.get(field).unwrap_or(&Value::Null);
    Option::<T>::read(value, &Path::root().field(field), problems)
}

fn with_default<T: Read>(tree: &Value, field: &str, default: Value, problems: &mut Problems) -> Option<T> {
    let value = tree.get(field).filter(|v| !v.is_null()).unwrap_or(&default);
    T::read(value, &Path::root().field(field), problems)
}

/// The end of a lease that begins `now`.
pub fn lease_end(now: Timestamp, lease: Duration) -> Timestamp {
    let length = SignedDuration::from_secs(i64::try_from(lease.seconds()).unwrap_or(i64::MAX));
    now.checked_add(length).unwrap_or(Timestamp::MAX)
}

/// The document with the node `name`, allocated out of this gateway's slices.
///
/// # Errors
/// Every field that stands in the way.
pub fn attach(
    head: &Head,
    name: &Name,
    wish: &Wish,
    token_sha256: String,
    now: Timestamp,
) -> Result<Document, ChangeError> {
    let desired = head.desired.as_ref();
    let mut problems = Problems::default();
    let root = Path::root();
    if desired.document().nodes.contains_key(name) {
        problems.add(&root.field("name"), format!("there is a node {name} already"));
    }
    check_gateway(desired, &mut problems);
    if desired.nodes().count() >= NODES_MAX {
        return Err(ChangeError::Conflict(format!("this gateway serves {NODES_MAX} nodes already")));
    }
    let segment = segment(desired, wish, &mut problems);
    let addresses = segment.as_ref().and_then(|segment| {
        let given = node_addresses(desired, segment);
        given.map_err(|e| problems.add(&root.field("segment"), e.to_string())).ok()
    });
    let (Some(segment), Some(addresses)) = (segment, addresses) else {
        return Err(ChangeError::Invalid(problems.into_vec()));
    };
    let mut document = problems.or(desired.document().clone()).map_err(ChangeError::Invalid)?;
    let node = Node {
        gateway: desired.gateway_name().clone(),
        segment,
        kind: wish.kind,
        mode: wish.mode,
        mac: node_mac(&document, name, &addresses),
        addresses,
        public_key: None,
        token_sha256: Some(token_sha256),
        created: now,
        expires: lease_end(now, wish.lease),
    };
    document.nodes.insert(name.clone(), node);
    Ok(document)
}

fn check_gateway(desired: &Desired, problems: &mut Problems) {
    let here = Path::root().field("gateways").field(desired.gateway_name().as_str());
    match desired.gateway() {
        None => problems.add(&here, "is not in the document yet; a gateway without it attaches no nodes"),
        Some(gateway) if gateway.public_address.is_none() => {
            problems.add(&here.field("public_address"), "is required here: nodes must reach the gateway");
        }
        Some(_) => {}
    }
}

fn segment(desired: &Desired, wish: &Wish, problems: &mut Problems) -> Option<Name> {
    let here = Path::root().field("segment");
    if let Some(segment) = &wish.segment {
        if desired.document().segments.contains_key(segment) {
            return Some(segment.clone());
        }
        problems.add(&here, format!("there is no segment {segment}"));
        return None;
    }
    let present: Vec<&Name> = desired.segments().map(|(name, _)| name).collect();
    if let [one] = present.as_slice() {
        return Some((*one).clone());
    }
    problems.add(&here, format!("is required: this gateway has {} segments", present.len()));
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;
    use serde_json::json;
    use watari_config::{parse_text, read_document};

    fn at() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    fn wish(tree: Value) -> Wish {
        Wish::read(&tree).unwrap()
    }

    fn paths(error: ChangeError) -> Vec<String> {
        match error {
            ChangeError::Invalid(problems) => problems.into_iter().map(|p| p.path).collect(),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn absent_fields_have_their_defaults() {
        let read = wish(json!({}));
        assert_eq!((read.kind, read.mode, read.lease.seconds()), (NodeKind::Cpu, NodeMode::L3, 86_400));
        assert_eq!((read.name, read.segment), (None, None));
    }

    #[test]
    fn every_wrong_field_is_named() {
        let tree = json!({"name": "Not A Name", "kind": "tpu", "lease": "0s", "colour": 1, "mode": "l2"});
        let paths: Vec<_> = Wish::read(&tree).unwrap_err().into_iter().map(|p| p.path).collect();
        for path in ["name", "kind", "lease", "colour", "mode"] {
            assert!(paths.iter().any(|p| p == path), "{path} in {paths:?}");
        }
        assert_eq!(read_lease(&json!({})).unwrap_err()[0].path, "lease");
    }

    #[test]
    fn two_nodes_never_get_the_same_address() {
        let mut head = samples::head();
        let wish = wish(json!({"segment": "lab-net", "lease": "2h"}));
        for name in ["n1", "n2"] {
            let name = name.parse().unwrap();
            let document = attach(&head, &name, &wish, "00".into(), at()).unwrap();
            head.desired = Desired::new(document, "gw-a".parse().unwrap(), 5).unwrap().into();
        }
        let nodes = &head.desired.document().nodes;
        let [a, b] = ["n1", "n2"].map(|n| &nodes[&n.parse::<Name>().unwrap()]);
        assert!(a.addresses.iter().all(|ip| !b.addresses.contains(ip)), "{a:?} {b:?}");
        assert_ne!(a.mac, b.mac);
        assert_eq!(a.expires, "2026-01-01T02:00:00Z".parse::<Timestamp>().unwrap());
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let head = samples::head();
        let name: Name = "n1".parse().unwrap();
        let unknown = wish(json!({"segment": "nowhere"}));
        assert_eq!(paths(attach(&head, &name, &unknown, String::new(), at()).unwrap_err()), ["segment"]);
        let taken = samples::with_node(Some("t"), None);
        let head = Head { revision: 1, desired: taken.into(), trial: None };
        let again = attach(&head, &"gpu-1".parse().unwrap(), &wish(json!({})), String::new(), at());
        assert_eq!(paths(again.unwrap_err()), ["name"]);
    }

    #[test]
    fn a_gateway_that_nobody_reaches_attaches_nothing() {
        let text = include_str!("../../../config/tests/two_sites.yaml")
            .replace("    public_address: 203.0.113.1\n", "")
            .replace("gw-a: [10.10.0.128/26, \"fd00:10::a:0/112\"]", "gw-a: []");
        let document = read_document(&parse_text(&text).unwrap()).unwrap();
        let desired = Desired::new(document, "gw-a".parse().unwrap(), 1).unwrap();
        let head = Head { revision: 1, desired: desired.into(), trial: None };
        let refused = attach(&head, &"n1".parse().unwrap(), &wish(json!({})), String::new(), at());
        assert_eq!(paths(refused.unwrap_err()), ["gateways.gw-a.public_address", "segment"]);
    }
}
