//! The two-site document with a node, for the tests of this module.

use std::sync::Arc;

use watari_config::{Desired, Document, parse_text, read_document};

use crate::brain::Head;
use crate::store::token_sha256;

const WHOLE: &str = include_str!("../../../config/tests/two_sites.yaml");
/// A WireGuard public key.
pub(crate) const KEY: &str = "YWIoFTr3DM8HbBv4vUrMjzaWxQg3yUfvRbCqnTVWQVk=";

fn document(more: &str) -> Document {
    let tree = parse_text(&format!("{WHOLE}{more}")).expect("YAML");
    read_document(&tree).unwrap_or_else(|problems| panic!("{problems:#?}"))
}

/// Gateway `gw-a` without nodes.
pub(crate) fn head() -> Head {
    let desired = Desired::new(document(""), "gw-a".parse().expect("a name"), 4).expect("valid");
    Head { revision: 4, desired: Arc::new(desired), trial: None }
}

/// Gateway `gw-a` with the node `gpu-1`.
pub(crate) fn with_node(token: Option<&str>, key: Option<&str>) -> Desired {
    let token = token.map(|t| format!("    token_sha256: \"{}\"\n", token_sha256(t))).unwrap_or_default();
    let key = key.map(|k| format!("    public_key: \"{k}\"\n")).unwrap_or_default();
    let node = format!(
        "nodes:\n  gpu-1:\n    gateway: gw-a\n    segment: lab-net\n    kind: gpu\n    \
         addresses: [10.10.0.130, \"fd00:10::a:2\"]\n    mac: \"02:47:00:00:00:01\"\n{token}{key}    \
         created: \"2026-01-01T00:00:00Z\"\n    expires: \"2026-01-02T00:00:00Z\"\n"
    );
    Desired::new(document(&node), "gw-a".parse().expect("a name"), 5).expect("valid")
}
