//! BGP roles and the Only-to-Customer attribute (RFC 9234): what keeps a route that was learnt from a provider or a
//! peer from being told to another one, without anybody's policy having to say so.
//!
//! ```text
//!   provider ──┐ OTC is set on the way down or sideways …
//!              ▼
//!            us ── peer        … and what bears it goes down only
//!              ▼
//!   customer ──┘
//! ```

use std::fmt;

use crate::types::Asn;

/// What *we* are to an external neighbour (RFC 9234 §4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// It is our customer: it may be told everything.
    Provider,
    /// We are a route server, it is a client.
    RouteServer,
    /// It is a route server, we are a client.
    RouteServerClient,
    /// It is our provider.
    Customer,
    /// Both tell each other their own and their customers' routes.
    Peer,
}

/// A route that came by a way it should not have taken (RFC 9234 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leak;

impl Role {
    /// The number on the wire.
    pub const fn code(self) -> u8 {
        match self {
            Role::Provider => 0,
            Role::RouteServer => 1,
            Role::RouteServerClient => 2,
            Role::Customer => 3,
            Role::Peer => 4,
        }
    }

    /// Whether a neighbour that says it has role `remote` is the other half of ours (RFC 9234 §4.2, table 2).
    pub const fn fits(self, remote: u8) -> bool {
        let other = match self {
            Role::Provider => Role::Customer,
            Role::Customer => Role::Provider,
            Role::RouteServer => Role::RouteServerClient,
            Role::RouteServerClient => Role::RouteServer,
            Role::Peer => Role::Peer,
        };
        other.code() == remote
    }

    /// OTC of a route from this neighbour as it is kept: set where it is missing.
    ///
    /// # Errors
    /// The route is a leak: from below with OTC, or from a peer with another AS than the peer's own.
    pub fn on_receive(self, otc: Option<Asn>, remote: Asn) -> Result<Option<Asn>, Leak> {
        match (self, otc) {
            (Role::Provider | Role::RouteServer, Some(_)) => Err(Leak),
            (Role::Peer, Some(asn)) if asn != remote => Err(Leak),
            (Role::Customer | Role::RouteServerClient | Role::Peer, None) => Ok(Some(remote)),
            (_, otc) => Ok(otc),
        }
    }

    /// Whether a route with this OTC may be told to this neighbour.
    pub const fn may_send(self, otc: Option<Asn>) -> bool {
        otc.is_none() || matches!(self, Role::Provider | Role::RouteServer)
    }

    /// OTC of a route as this neighbour is told: set where it is missing and the neighbour is not above us.
    pub fn on_send(self, otc: Option<Asn>, local: Asn) -> Option<Asn> {
        match self {
            Role::Provider | Role::RouteServer | Role::Peer => otc.or(Some(local)),
            Role::Customer | Role::RouteServerClient => otc,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Provider => "provider",
            Role::RouteServer => "route-server",
            Role::RouteServerClient => "route-server-client",
            Role::Customer => "customer",
            Role::Peer => "peer",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Role; 5] =
        [Role::Provider, Role::RouteServer, Role::RouteServerClient, Role::Customer, Role::Peer];

    /// RFC 9234 §4.2, table 2: five pairs fit and no other.
    #[test]
    fn roles_fit_in_pairs() {
        let pairs: Vec<(u8, u8)> =
            ALL.iter().flat_map(|a| (0..=255u8).filter(|b| a.fits(*b)).map(|b| (a.code(), b))).collect();
        assert_eq!(pairs, [(0, 3), (1, 2), (2, 1), (3, 0), (4, 4)]);
    }

    /// RFC 9234 §5, the three rules of ingress.
    #[test]
    fn a_route_from_below_with_otc_is_a_leak_and_one_from_above_gets_it() {
        let (remote, other) = (Asn(65002), Asn(65009));
        for role in [Role::Provider, Role::RouteServer] {
            assert_eq!(role.on_receive(Some(remote), remote), Err(Leak));
            assert_eq!(role.on_receive(None, remote), Ok(None));
        }
        assert_eq!(Role::Peer.on_receive(Some(other), remote), Err(Leak));
        assert_eq!(Role::Peer.on_receive(Some(remote), remote), Ok(Some(remote)));
        assert_eq!(Role::Peer.on_receive(None, remote), Ok(Some(remote)));
        for role in [Role::Customer, Role::RouteServerClient] {
            assert_eq!(role.on_receive(None, remote), Ok(Some(remote)));
            assert_eq!(role.on_receive(Some(other), remote), Ok(Some(other)));
        }
    }

    /// RFC 9234 §5, the two rules of egress: a chain up, sideways and up again is impossible.
    #[test]
    fn what_bears_otc_goes_down_only() {
        let (own, other) = (Asn(65001), Asn(65009));
        for role in ALL {
            let down = matches!(role, Role::Provider | Role::RouteServer);
            assert_eq!(role.may_send(Some(other)), down, "{role}");
            assert!(role.may_send(None));
            let marked = down || role == Role::Peer;
            assert_eq!(role.on_send(None, own), marked.then_some(own), "{role}");
            assert_eq!(role.on_send(Some(other), own), Some(other));
        }
    }
}
