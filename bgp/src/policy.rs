//! The minimal policy: which prefixes pass in and out of one peer.
//!
//! RFC 8212: without a policy nothing passes from or to an external peer, so the default of a [`Policy`] is
//! [`Filter::None`] in both directions; internal peers get [`Policy::accept_all`]. EVPN routes are matched by
//! `All` alone: route targets, not prefixes, decide about them.

use ipnet::IpNet;

use crate::nlri::Key;

/// What passes from (import) and to (export) a peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// From the peer into the tables.
    pub import: Filter,
    /// From the tables to the peer.
    pub export: Filter,
}

impl Policy {
    /// Everything passes both ways.
    pub const fn accept_all() -> Policy {
        Policy { import: Filter::All, export: Filter::All }
    }
}

/// A set of prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    /// Nothing.
    #[default]
    None,
    /// Everything.
    All,
    /// What any of the rules matches.
    Prefixes(Vec<PrefixRule>),
}

/// A prefix with the lengths that are meant: without `ge` and `le` only the prefix itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixRule {
    /// The covering prefix.
    pub net: IpNet,
    /// Shortest accepted length; the prefix's own if absent.
    pub ge: Option<u8>,
    /// Longest accepted length; with `ge` alone the family's longest, else the prefix's own.
    pub le: Option<u8>,
}

impl PrefixRule {
    /// The prefix itself and nothing more specific.
    pub const fn exact(net: IpNet) -> PrefixRule {
        PrefixRule { net, ge: None, le: None }
    }

    /// The prefix and everything more specific.
    pub fn or_longer(net: IpNet) -> PrefixRule {
        PrefixRule { net, ge: None, le: Some(net.max_prefix_len()) }
    }

    /// Whether `net` lies within the rule.
    pub fn matches(&self, net: IpNet) -> bool {
        let own = self.net.prefix_len();
        let shortest = self.ge.unwrap_or(own).max(own);
        let longest = match (self.le, self.ge) {
            (Some(le), _) => le,
            (None, Some(_)) => self.net.max_prefix_len(),
            (None, None) => own,
        };
        (shortest..=longest).contains(&net.prefix_len()) && self.net.contains(&net)
    }
}

impl Filter {
    /// Whether `key` passes.
    pub fn accepts(&self, key: &Key) -> bool {
        match (self, key) {
            (Filter::All, _) => true,
            (Filter::Prefixes(rules), Key::Prefix(net)) => rules.iter().any(|r| r.matches(*net)),
            (Filter::None, _) | (Filter::Prefixes(_), Key::Evpn(_)) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[test]
    fn rules_match_by_cover_and_length() {
        let exact = PrefixRule::exact(net("10.0.0.0/8"));
        assert!(exact.matches(net("10.0.0.0/8")));
        assert!(!exact.matches(net("10.1.0.0/16")));
        let ge = PrefixRule { net: net("10.0.0.0/8"), ge: Some(16), le: None };
        assert!(!ge.matches(net("10.0.0.0/8")));
        assert!(ge.matches(net("10.1.2.3/32")));
        let window = PrefixRule { net: net("10.0.0.0/8"), ge: Some(16), le: Some(24) };
        assert!(window.matches(net("10.1.0.0/16")));
        assert!(!window.matches(net("10.1.2.128/25")));
        assert!(!window.matches(net("11.0.0.0/16")));
        assert!(PrefixRule::or_longer(net("2001:db8::/32")).matches(net("2001:db8:1::/48")));
        assert!(!PrefixRule::or_longer(net("0.0.0.0/0")).matches(net("::/0")));
    }

    #[test]
    fn without_a_policy_nothing_passes() {
        let policy = Policy::default();
        assert!(!policy.import.accepts(&Key::prefix(net("10.0.0.0/8"))));
        assert!(!policy.export.accepts(&Key::prefix(net("10.0.0.0/8"))));
    }
}
