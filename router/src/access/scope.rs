//! What somebody who is bound to tenants sees of the document and may change in it. Pure.
//!
//! Such a caller sees the objects of its tenants: the tenant, its segments, their attachments, pools and nodes, its exits
//! with their peers, and its routes. It changes what is the tenant's own: segments, pools, nodes, peers and routes. What takes
//! something of a gateway that all tenants share – VLANs, interfaces, addresses of the underlay – stays with the operators
//! of the gateway: attachments, exits, tunnels, gateways, sites, and the tenants themselves. So do passwords of peers, since
//! a document names the file that the daemon, as root, shall read.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use watari_config::Name;

use crate::store::ObjectChange;

/// The kinds of object that belong to a tenant.
const OWNED: [&str; 8] = ["tenants", "segments", "attachments", "exits", "peers", "routes", "pools", "nodes"];
/// Of these, what somebody bound to tenants may change.
const CHANGED: [&str; 5] = ["segments", "peers", "routes", "pools", "nodes"];

/// Which tenants somebody is bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// None: everything is seen, what belongs to no tenant too.
    All,
    /// These.
    Tenants(BTreeSet<Name>),
}

type Tree = Map<String, Value>;

impl Scope {
    /// Bound to `tenants`; to none of them where there are none.
    pub fn of(tenants: &[Name]) -> Self {
        if tenants.is_empty() { Self::All } else { Self::Tenants(tenants.iter().cloned().collect()) }
    }

    /// Whether nothing is hidden.
    pub fn is_all(&self) -> bool {
        *self == Self::All
    }

    /// Whether whoever has `other` sees nothing that this one does not.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Tenants(_), Self::All) => false,
            (Self::Tenants(own), Self::Tenants(other)) => other.is_subset(own),
        }
    }

    fn has(&self, tenant: &str) -> bool {
        match self {
            Self::All => true,
            Self::Tenants(tenants) => tenants.iter().any(|t| t.as_str() == tenant),
        }
    }

    /// The part of a document that is seen; every kind stays, be it empty.
    pub fn seen(&self, mut tree: Tree) -> Tree {
        if self.is_all() {
            return tree;
        }
        let whole = tree.clone();
        tree.shift_remove("fabric");
        for (kind, objects) in &mut tree {
            let Value::Object(objects) = objects else { continue };
            objects.retain(|name, object| tenant_of(&whole, kind, name, object).is_some_and(|t| self.has(t)));
        }
        tree
    }

    /// Whether the object is seen.
    pub fn sees(&self, tree: &Tree, kind: &str, name: &str) -> bool {
        let object = || tree.get(kind)?.get(name);
        self.is_all() || object().and_then(|o| tenant_of(tree, kind, name, o)).is_some_and(|t| self.has(t))
    }

    /// Whether `changes`, which lead from `before` to `after`, are all within it.
    ///
    /// # Errors
    /// The objects that are not, each with a word why.
    pub fn check(&self, before: &Tree, after: &Tree, changes: &[ObjectChange]) -> Result<(), Vec<String>> {
        if self.is_all() {
            return Ok(());
        }
        let refused: Vec<String> =
            changes.iter().filter_map(|change| self.refusal(before, after, change)).collect();
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }

    fn refusal(&self, before: &Tree, after: &Tree, change: &ObjectChange) -> Option<String> {
        let path = &change.object;
        let Some((kind, name)) = path.split_once('.') else {
            return Some(format!("{path} belongs to no tenant"));
        };
        if !OWNED.contains(&kind) {
            return Some(format!("{path} belongs to no tenant"));
        }
        let foreign = |tree, object: &Option<Value>| {
            let tenant = object.as_ref().map(|object| tenant_of(tree, kind, name, object));
            tenant.is_some_and(|tenant| !tenant.is_some_and(|tenant| self.has(tenant)))
        };
        if foreign(before, &change.before) || foreign(after, &change.after) {
            return Some(format!("{path} is not of the caller's tenants"));
        }
        if !CHANGED.contains(&kind) {
            return Some(format!("{path} takes what all tenants of a gateway share"));
        }
        let password = |object: &Option<Value>| object.as_ref().and_then(|o| o.get("password")).cloned();
        let names_another =
            password(&change.after).is_some_and(|p| !p.is_null() && password(&change.before) != Some(p));
        names_another.then(|| format!("{path} names a password, which is a file of the gateway"))
    }
}

/// The tenant of an object; `None` where it belongs to none.
fn tenant_of<'a>(tree: &'a Tree, kind: &str, name: &'a str, object: &'a Value) -> Option<&'a str> {
    let field = |field: &str| object.get(field).and_then(Value::as_str);
    let tenant_by = |kind: &str, name: &str| tree.get(kind)?.get(name)?.get("tenant")?.as_str();
    match kind {
        "tenants" => Some(name),
        "segments" | "exits" | "routes" => field("tenant"),
        "attachments" | "pools" | "nodes" => tenant_by("segments", field("segment")?),
        "peers" => tenant_by("exits", field("exit")?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::diff_trees;

    fn tree() -> Tree {
        let Value::Object(tree) = json!({
            "fabric": { "vxlan_port": 4789 },
            "sites": { "a": {} },
            "gateways": { "gw-a": { "site": "a" } },
            "tenants": { "lab": {}, "other": {} },
            "segments": { "l1": { "tenant": "lab", "mtu": 1370 }, "o1": { "tenant": "other", "mtu": 1370 } },
            "attachments": { "la": { "segment": "l1" }, "oa": { "segment": "o1" } },
            "tunnels": { "ab": {} },
            "exits": { "le": { "tenant": "lab" }, "oe": { "tenant": "other" } },
            "peers": { "lp": { "exit": "le", "password": null }, "op": { "exit": "oe" } },
            "routes": { "lr": { "tenant": "lab" }, "ur": { "tenant": null } },
            "pools": { "lq": { "segment": "l1" }, "oq": { "segment": "o1" } },
            "nodes": { "ln": { "segment": "l1" }, "on": { "segment": "o1" } },
        }) else {
            unreachable!()
        };
        tree
    }

    fn lab() -> Scope {
        Scope::of(&["lab".parse().unwrap()])
    }

    fn changed(edit: impl FnOnce(&mut Value)) -> Result<(), Vec<String>> {
        let before = tree();
        let mut after = Value::Object(before.clone());
        edit(&mut after);
        let Value::Object(after) = after else { unreachable!() };
        lab().check(&before, &after, &diff_trees(&before, &after))
    }

    #[test]
    fn the_objects_of_its_tenants_are_seen_and_no_others() {
        let seen = lab().seen(tree());
        let names: Vec<String> = seen
            .iter()
            .flat_map(|(kind, objects)| {
                objects.as_object().unwrap().keys().map(move |n| format!("{kind}.{n}"))
            })
            .collect();
        let own =
            ["tenants.lab", "segments.l1", "attachments.la", "exits.le", "peers.lp", "routes.lr", "pools.lq"];
        let mut own: Vec<String> = own.iter().map(ToString::to_string).collect();
        own.push("nodes.ln".to_owned());
        assert_eq!(names, own);
        assert_eq!(Scope::All.seen(tree()), tree());
        assert!(lab().sees(&tree(), "peers", "lp") && !lab().sees(&tree(), "peers", "op"));
        assert!(!lab().sees(&tree(), "gateways", "gw-a") && !lab().sees(&tree(), "routes", "ur"));
    }

    #[test]
    fn its_own_objects_are_changed() {
        assert_eq!(changed(|t| t["segments"]["l1"]["mtu"] = json!(9000)), Ok(()));
        assert_eq!(changed(|t| t["segments"]["l2"] = json!({ "tenant": "lab" })), Ok(()));
        assert_eq!(changed(|t| t["nodes"]["n2"] = json!({ "segment": "l1" })), Ok(()));
        assert_eq!(changed(|t| drop(t["routes"].as_object_mut().unwrap().remove("lr"))), Ok(()));
    }

    #[test]
    fn what_is_anothers_or_shared_is_not() {
        type Edit = fn(&mut Value);
        let refused: [(&str, Edit); 9] = [
            ("fabric", |t| t["fabric"]["vxlan_port"] = json!(1)),
            ("segments.o1", |t| t["segments"]["o1"]["mtu"] = json!(9000)),
            ("segments.l1", |t| t["segments"]["l1"]["tenant"] = json!("other")),
            ("segments.o1", |t| t["segments"]["o1"]["tenant"] = json!("lab")),
            ("attachments.la", |t| t["attachments"]["la"]["x"] = json!(1)),
            ("tenants.lab", |t| t["tenants"]["lab"]["x"] = json!(1)),
            ("routes.ur", |t| t["routes"]["ur"]["tenant"] = json!("lab")),
            ("gateways.gw-a", |t| t["gateways"]["gw-a"]["site"] = json!("b")),
            ("peers.lp", |t| t["peers"]["lp"]["password"] = json!("file:/etc/shadow")),
        ];
        for (path, edit) in refused {
            let refused = changed(edit).unwrap_err();
            assert!(refused.len() == 1 && refused[0].starts_with(path), "{path}: {refused:?}");
        }
    }

    #[test]
    fn a_scope_contains_what_sees_no_more() {
        let both = Scope::of(&["lab".parse().unwrap(), "other".parse().unwrap()]);
        assert!(Scope::All.contains(&lab()) && both.contains(&lab()) && lab().contains(&lab()));
        assert!(!lab().contains(&both) && !lab().contains(&Scope::All));
    }
}
