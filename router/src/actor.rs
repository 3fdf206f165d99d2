//! Who asks for something, and what each role may do: the one place where that is decided.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a credential is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Reads everything, changes objects.
    Operator,
    /// Reads.
    Viewer,
    /// An attached machine: nothing of the operator API.
    Node,
}

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Look at documents, status, facts or events.
    Read,
    /// Change, attach, detach or measure.
    Change,
    /// Read the audit log.
    Audit,
}

/// Somebody who asks for something; stands in the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// Who: `root`, `bootstrap-token`, `lease` …
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// From where: `unix pid 812`, `203.0.113.7:40112`, `watari`.
    pub from: String,
}

impl Actor {
    /// An actor.
    pub fn new(name: impl Into<String>, role: Role, from: impl Into<String>) -> Self {
        Self { name: name.into(), role, from: from.into() }
    }

    /// A part of the daemon itself, such as the expiry of leases.
    pub fn own(name: impl Into<String>) -> Self {
        Self::new(name, Role::Admin, "watari")
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.name, self.from)
    }
}

/// The role does not allow the action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{actor} has the role {role:?}, which does not allow this", role = actor.role)]
pub struct Forbidden {
    actor: Actor,
}

/// Whether `actor` may do `action`.
///
/// # Errors
/// Says who was refused.
pub fn authorize(actor: &Actor, action: Action) -> Result<(), Forbidden> {
    let allowed = match actor.role {
        Role::Admin => true,
        Role::Operator => action != Action::Audit,
        Role::Viewer => action == Action::Read,
        Role::Node => false,
    };
    if allowed { Ok(()) } else { Err(Forbidden { actor: actor.clone() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_it_says() {
        let may = |role, action| authorize(&Actor::new("x", role, "y"), action).is_ok();
        assert!(may(Role::Admin, Action::Audit));
        assert!(may(Role::Operator, Action::Change) && !may(Role::Operator, Action::Audit));
        assert!(may(Role::Viewer, Action::Read) && !may(Role::Viewer, Action::Change));
        assert!(!may(Role::Node, Action::Read));
    }
}
