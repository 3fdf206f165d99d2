//! Who asks for something, and what each role may do: the one place where that is decided.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::access::scope::Scope;
use crate::access::token::TokenId;

/// What a credential is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Reads everything, changes objects, sees packets.
    Operator,
    /// Reads.
    Viewer,
    /// An attached machine: nothing of the operator API but itself.
    Node,
}

/// What an operation needs. Those called `…Own` are open to callers that are bound to tenants: they see the objects of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// No credential.
    Nothing,
    /// Any credential.
    Known,
    /// Look at what belongs to all tenants: status, facts, events, routes.
    Read,
    /// Look at objects.
    ReadOwn,
    /// Read packets that others send.
    Inspect,
    /// Change what belongs to all tenants.
    Change,
    /// Change objects.
    ChangeOwn,
    /// Do something that no document says.
    Act,
    /// Read the audit log.
    Audit,
    /// Make, see and end tokens; of callers bound to tenants, those bound to these.
    Tokens,
    /// What nobody has said anything of: an administrator who is bound to no tenant.
    Unlisted,
}

impl Need {
    /// Whether callers that are bound to tenants may do it.
    pub fn is_open_to_tenants(self) -> bool {
        matches!(self, Self::Nothing | Self::Known | Self::ReadOwn | Self::ChangeOwn | Self::Tokens)
    }
}

/// Somebody who asks for something; stands in the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// Who: the name of a token, `root`, `bootstrap-token`, `lease` …
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Of which tenants.
    pub scope: Scope,
    /// The token that was shown.
    pub token: Option<TokenId>,
    /// From where: `unix pid 812`, `203.0.113.7:40112`, `watari`.
    pub from: String,
}

impl Actor {
    /// An actor that is bound to no tenants.
    pub fn new(name: impl Into<String>, role: Role, from: impl Into<String>) -> Self {
        Self { name: name.into(), role, scope: Scope::All, token: None, from: from.into() }
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

/// The credential is good, but not for this.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Forbidden {
    /// The role does not allow it.
    #[error("{actor} has the role {role:?}, which does not allow this", role = actor.role)]
    Role {
        /// Who.
        actor: Box<Actor>,
    },
    /// It concerns all tenants.
    #[error("{actor} is bound to tenants, and this concerns all of them")]
    Tenants {
        /// Who.
        actor: Box<Actor>,
    },
    /// These objects are not the caller's.
    #[error("{}", .0.join("; "))]
    Objects(Vec<String>),
}

/// Whether `actor` may do what needs `need`.
///
/// # Errors
/// Says who was refused, and why.
pub fn authorize(actor: &Actor, need: Need) -> Result<(), Forbidden> {
    let allowed = match actor.role {
        Role::Admin => true,
        Role::Operator => !matches!(need, Need::Audit | Need::Tokens | Need::Unlisted),
        Role::Viewer => matches!(need, Need::Nothing | Need::Known | Need::Read | Need::ReadOwn),
        Role::Node => matches!(need, Need::Nothing | Need::Known),
    };
    if !allowed {
        return Err(Forbidden::Role { actor: Box::new(actor.clone()) });
    }
    if !need.is_open_to_tenants() && !actor.scope.is_all() {
        return Err(Forbidden::Tenants { actor: Box::new(actor.clone()) });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_do_what_it_says() {
        let may = |role, need| authorize(&Actor::new("x", role, "y"), need).is_ok();
        assert!(may(Role::Admin, Need::Audit) && may(Role::Admin, Need::Tokens));
        assert!(may(Role::Operator, Need::Change) && may(Role::Operator, Need::Inspect));
        assert!(!may(Role::Operator, Need::Audit) && !may(Role::Operator, Need::Tokens));
        assert!(may(Role::Admin, Need::Unlisted) && !may(Role::Operator, Need::Unlisted));
        assert!(may(Role::Viewer, Need::Read) && !may(Role::Viewer, Need::Inspect));
        assert!(!may(Role::Viewer, Need::Change) && !may(Role::Viewer, Need::Act));
        assert!(may(Role::Node, Need::Known) && !may(Role::Node, Need::ReadOwn));
    }

    #[test]
    fn who_is_bound_to_tenants_does_not_do_what_concerns_all() {
        let scope = Scope::of(&["lab".parse().unwrap()]);
        let bound = Actor { scope, ..Actor::new("x", Role::Admin, "y") };
        for need in [Need::Read, Need::Inspect, Need::Change, Need::Act, Need::Audit, Need::Unlisted] {
            assert!(matches!(authorize(&bound, need), Err(Forbidden::Tenants { .. })), "{need:?}");
        }
        assert!([Need::ReadOwn, Need::ChangeOwn, Need::Tokens].iter().all(|n| authorize(&bound, *n).is_ok()));
    }
}
