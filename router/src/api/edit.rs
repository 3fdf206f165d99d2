//! Changes of a document as edits of its tree. Pure: each answers the new document or every problem of it.

use serde_json::{Map, Value};
use watari_config::{Document, Problem, read_document};

use crate::brain::{ChangeError, Head};
use crate::store::{hide_token, tree};

/// The document as the API shows it: without secrets.
pub fn shown(document: &Document) -> Map<String, Value> {
    let mut tree = tree(document);
    if let Some(Value::Object(nodes)) = tree.get_mut("nodes") {
        nodes.values_mut().for_each(hide_token);
    }
    tree
}

/// `given` in place of the whole document. Nodes are kept: they come and go by their own routes.
pub fn replaced(head: &Head, given: Value) -> Result<Document, ChangeError> {
    let Value::Object(mut new) = given else { return read(given) };
    let current = head.desired.document();
    refuse_foreign_nodes(new.get("nodes"), current)?;
    new.insert("nodes".to_owned(), tree(current).remove("nodes").unwrap_or_default());
    read(Value::Object(new))
}

/// The objects in `given` created or replaced; all others stay. Of `fabric`, the fields given.
pub fn merged(head: &Head, given: Value) -> Result<Document, ChangeError> {
    let Value::Object(given) = given else { return read(given) };
    let current = head.desired.document();
    refuse_foreign_nodes(given.get("nodes"), current)?;
    let mut whole = tree(current);
    for (kind, objects) in given.into_iter().filter(|(kind, _)| kind != "nodes") {
        match (whole.get_mut(&kind), objects) {
            (Some(Value::Object(present)), Value::Object(objects)) => present.extend(objects),
            // Not an object, or no kind at all: reading says so, with its path.
            (_, other) => {
                whole.insert(kind, other);
            }
        }
    }
    read(Value::Object(whole))
}

/// `object` created or replaced.
pub fn put(head: &Head, kind: &str, name: &str, object: Value) -> Result<Document, ChangeError> {
    let mut whole = tree(head.desired.document());
    if let Some(Value::Object(objects)) = whole.get_mut(kind) {
        objects.insert(name.to_owned(), object);
    }
    read(Value::Object(whole))
}

/// The object removed; refused with the referring fields while others need it.
pub fn removed(head: &Head, kind: &str, name: &str) -> Result<Document, ChangeError> {
    let mut whole = tree(head.desired.document());
    let objects = whole.get_mut(kind).and_then(Value::as_object_mut);
    match objects.and_then(|o| o.shift_remove(name)) {
        Some(_) => read(Value::Object(whole)),
        None => Err(ChangeError::NotFound { object: format!("{kind}.{name}") }),
    }
}

/// An earlier document in place of the newest, with the nodes of now.
pub fn restored(head: &Head, earlier: &Document) -> Document {
    Document { nodes: head.desired.document().nodes.clone(), ..earlier.clone() }
}

/// Refuses a change that was made for another revision.
pub fn check_revision(head: &Head, wanted: Option<u64>) -> Result<(), ChangeError> {
    match wanted {
        Some(wanted) if wanted != head.revision => {
            Err(ChangeError::OtherRevision { wanted, found: head.revision })
        }
        _ => Ok(()),
    }
}

fn read(whole: Value) -> Result<Document, ChangeError> {
    read_document(&whole).map_err(ChangeError::Invalid)
}

/// Nodes in a document are taken as they were shown, so that what was read can be written back.
fn refuse_foreign_nodes(given: Option<&Value>, current: &Document) -> Result<(), ChangeError> {
    let Some(Value::Object(given)) = given else { return Ok(()) };
    let shown = shown(current);
    let known = shown.get("nodes").and_then(Value::as_object);
    let foreign = given.iter().filter(|(name, node)| known.and_then(|k| k.get(*name)) != Some(node));
    let problems: Vec<Problem> = foreign
        .map(|(name, _)| Problem {
            path: format!("nodes.{name}"),
            message: "nodes are attached by POST /api/v1/nodes and removed by DELETE, not written".to_owned(),
        })
        .collect();
    if problems.is_empty() { Ok(()) } else { Err(ChangeError::Invalid(problems)) }
}
