//! What no single object can know: references, overlaps and limits. All problems at once.
//!
//! * [`overlay`]: tenants, segments, attachments, exits, peers, routes.
//! * [`underlay`]: gateways, tunnels, MTU.
//! * [`pools`]: pools and nodes.
//! * [`ports`]: VLANs and interfaces, guards, pinned hosts.

mod overlay;
mod pools;
mod ports;
mod underlay;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use serde_json::Value;

use crate::document::Document;
use crate::names::Name;
use crate::read::{Path, Problem, Problems, Read};

/// The most objects of one kind.
pub const OBJECTS_MAX: usize = 4096;
/// What VXLAN adds to an inner IP packet, by the family of the VTEPs: outer IPv4 20 or IPv6 40, UDP 8, VXLAN 8, inner
/// Ethernet 14.
pub const fn vxlan_overhead_bytes(vtep: IpAddr) -> u16 {
    if vtep.is_ipv4() { 50 } else { 70 }
}

/// UDP port on which every gateway probes the paths of its tunnels, on the same addresses as VXLAN.
pub const PROBE_PORT: u16 = 4790;
/// UDP port of the padded probes that measure what crosses, likewise.
pub const PATH_MTU_PORT: u16 = 4792;

/// Checks that the objects of `document` hold together.
///
/// # Errors
/// Every problem, each with the path of the field that is to be changed.
pub fn validate(document: &Document) -> Result<(), Vec<Problem>> {
    cross_check(document, Problems::default()).or(())
}

/// Reads a document from a tree and checks it whole: malformed fields and broken relations in one answer.
///
/// # Errors
/// Every problem, each with its path.
pub fn read_document(tree: &Value) -> Result<Document, Vec<Problem>> {
    let mut problems = Problems::default();
    match Document::read(tree, &Path::root(), &mut problems) {
        Some(document) => cross_check(&document, problems).or(document),
        None => Err(problems.into_vec()),
    }
}

/// Checks `document`, of which the objects with a problem in `malformed` were left out.
fn cross_check(document: &Document, malformed: Problems) -> Problems {
    let mut check = Check { document, malformed: malformed.as_slice().to_vec(), problems: malformed };
    check.limits();
    underlay::check(&mut check);
    overlay::check(&mut check);
    pools::check(&mut check);
    ports::check(&mut check);
    check.problems
}

/// The document under validation and what was found.
struct Check<'a> {
    document: &'a Document,
    /// Objects with one of these are not in `document`, but the operator did write them.
    malformed: Vec<Problem>,
    problems: Problems,
}

impl Check<'_> {
    fn limits(&mut self) {
        let d = self.document;
        let counts = [
            ("sites", d.sites.len()),
            ("gateways", d.gateways.len()),
            ("tenants", d.tenants.len()),
            ("segments", d.segments.len()),
            ("attachments", d.attachments.len()),
            ("tunnels", d.tunnels.len()),
            ("exits", d.exits.len()),
            ("peers", d.peers.len()),
            ("routes", d.routes.len()),
            ("pools", d.pools.len()),
            ("nodes", d.nodes.len()),
        ];
        for (kind, count) in counts.into_iter().filter(|(_, n)| *n > OBJECTS_MAX) {
            self.add(&at(kind), format!("{count} objects; at most {OBJECTS_MAX} are possible"));
        }
    }

    fn add(&mut self, path: &Path, message: impl Into<String>) {
        self.problems.add(path, message);
    }

    /// Notes a problem when `name` is no key of `map`.
    fn reference<T>(&mut self, map: &BTreeMap<Name, T>, kind: &str, name: &Name, path: &Path) -> bool {
        let known = map.contains_key(name);
        if !known && !self.is_malformed(&format!("{kind}s.{name}")) {
            self.add(path, format!("no {kind} is named {name:?}", name = name.as_str()));
        }
        known
    }

    fn is_malformed(&self, object: &str) -> bool {
        let below = |p: &Problem| {
            p.path.strip_prefix(object).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.malformed.iter().any(below)
    }
}

/// The path of kind `kind`.
fn at(kind: &str) -> Path {
    Path::root().field(kind)
}

/// Things that may exist once, each with the path of its first use.
struct Unique<K>(BTreeMap<K, Path>);

impl<K: Ord> Unique<K> {
    fn new() -> Self {
        Self(BTreeMap::new())
    }

    /// Takes `key` for `path`; notes a problem when another has it.
    fn take(&mut self, key: K, what: impl Display, path: &Path, problems: &mut Problems) {
        match self.0.get(&key) {
            Some(first) => problems.add(path, format!("{what} is already used by {first}")),
            None => {
                self.0.insert(key, path.clone());
            }
        }
    }
}
