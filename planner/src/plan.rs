//! Wanted − present is made or mended, present − wanted is removed: one subtraction for all kinds of item.

use std::fmt;

use serde::Serialize;
use watari_config::Desired;

use crate::item::{Key, System, Value};
use crate::observed::Observed;
use crate::wanted::{Wanted, wanted};

/// What is done with an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is there and nobody wants it.
    Remove,
    /// It is wanted and not there.
    Create,
    /// It is there and is to be another way.
    Change,
}

/// One step. It leaves no choice to who carries it out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Op {
    /// What is done.
    pub action: Action,
    /// The item.
    pub key: Key,
    /// What it shall be; what it was, for a removal.
    pub value: Value,
    /// Path of the object that wants it, e.g. `tunnels.ab`; empty for a removal.
    pub owner: String,
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = match self.action {
            Action::Remove => "remove",
            Action::Create => "create",
            Action::Change => "change",
        };
        write!(f, "{action} {}", self.key)
    }
}

/// The steps from what is to what shall be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Of the `Desired` it leads to.
    pub generation: u64,
    /// In order.
    pub ops: Vec<Op>,
}

impl Plan {
    /// Nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Decides what has to be done so that `observed` becomes `desired`.
pub fn plan(desired: &Desired, observed: &Observed) -> Plan {
    let wanted = wanted(desired, observed);
    Plan { generation: desired.generation(), ops: difference(&wanted, &observed.system) }
}

/// The steps from `present` to `wanted`: removals from the last key to the first, then the rest from first to last.
pub fn difference(wanted: &Wanted, present: &System) -> Vec<Op> {
    let removed = present.iter().rev().filter(|(key, _)| !wanted.items.contains_key(*key));
    let removed = removed.map(|(key, value)| Op {
        action: Action::Remove,
        key: key.clone(),
        value: value.clone(),
        owner: String::new(),
    });
    let made = wanted.items.iter().filter_map(|(key, item)| {
        let action = match present.get(key) {
            None => Action::Create,
            Some(value) if *value == item.value => return None,
            Some(_) => Action::Change,
        };
        Some(Op { action, key: key.clone(), value: item.value.clone(), owner: item.owner.clone() })
    });
    removed.chain(made).collect()
}
