//! What changed between two documents, object by object.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use watari_config::Document;
use watari_config::document::KINDS;

/// The most objects that a summary names.
const SUMMARY_OBJECTS_MAX: usize = 8;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// It was not there before.
    Created,
    /// It was there and is another now.
    Changed,
    /// It is gone.
    Removed,
}

impl ChangeKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// One object that changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ObjectChange {
    /// What happened to it.
    pub change: ChangeKind,
    /// Its path, e.g. `segments.lab`.
    pub object: String,
    /// What it was; absent when it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Value>,
    /// What it is; absent when it was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
}

/// The document as a tree, as the API and the store show it.
pub fn tree(document: &Document) -> Map<String, Value> {
    match serde_json::to_value(document) {
        Ok(Value::Object(map)) => map,
        _ => unreachable!("a document has no keys that JSON cannot write"),
    }
}

/// The objects in which `before` and `after` differ, in the order of the kinds, then by name.
pub fn diff(before: &Document, after: &Document) -> Vec<ObjectChange> {
    diff_trees(&tree(before), &tree(after))
}

/// As [`diff`], on trees.
pub fn diff_trees(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    changes.extend(one("fabric".to_owned(), before.get("fabric"), after.get("fabric")));
    for kind in KINDS {
        let empty = Map::new();
        let of = |tree: &'_ Map<String, Value>| tree.get(kind).and_then(Value::as_object).cloned();
        let (b, a) = (of(before), of(after));
        let (b, a) = (b.as_ref().unwrap_or(&empty), a.as_ref().unwrap_or(&empty));
        let mut names: Vec<&String> = b.keys().chain(a.keys().filter(|k| !b.contains_key(*k))).collect();
        names.sort();
        changes.extend(names.into_iter().filter_map(|n| one(format!("{kind}.{n}"), b.get(n), a.get(n))));
    }
    changes
}

fn one(object: String, before: Option<&Value>, after: Option<&Value>) -> Option<ObjectChange> {
    let change = match (before, after) {
        (None, Some(_)) => ChangeKind::Created,
        (Some(_), None) => ChangeKind::Removed,
        (Some(b), Some(a)) if a != b => ChangeKind::Changed,
        _ => return None,
    };
    Some(ObjectChange { change, object, before: before.cloned(), after: after.cloned() })
}

/// What stands in place of a hash of a token wherever a node is shown.
const SECRET: &str = "(secret)";

/// Changes without secrets: as the API shows them and the audit log keeps them.
pub fn without_secrets(mut changes: Vec<ObjectChange>) -> Vec<ObjectChange> {
    for change in changes.iter_mut().filter(|c| c.object.starts_with("nodes.")) {
        change.before.iter_mut().chain(change.after.iter_mut()).for_each(hide_token);
    }
    changes
}

/// Hides the hash of a node's token.
pub fn hide_token(node: &mut Value) {
    if let Some(token) = node.get_mut("token_sha256").filter(|t| !t.is_null()) {
        *token = Value::from(SECRET);
    }
}

/// One line: `created segments.lab, changed tunnels.ab and 3 more`.
pub fn summary(changes: &[ObjectChange]) -> String {
    let named = changes.iter().take(SUMMARY_OBJECTS_MAX);
    let words: Vec<String> = named.map(|c| format!("{} {}", c.change.as_str(), c.object)).collect();
    match changes.len().saturating_sub(SUMMARY_OBJECTS_MAX) {
        0 if words.is_empty() => "nothing changed".to_owned(),
        0 => words.join(", "),
        more => format!("{} and {more} more", words.join(", ")),
    }
}
