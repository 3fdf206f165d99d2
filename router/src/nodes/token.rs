//! One-shot tokens: 256 random bits with which one machine may become one node, once.
//!
//! The document keeps the SHA-256 of a token alone. It is good until it was used, until [`LIFE`] is over,
//! or until the node's lease ends, whichever comes first.

use jiff::{SignedDuration, Timestamp};
use subtle::ConstantTimeEq as _;
use watari_config::document::Node;
use watari_config::{Desired, Name};

use crate::store::token_sha256;

/// How long a token is good at most.
pub const LIFE: SignedDuration = SignedDuration::from_hours(1);
/// Octets of a token.
const TOKEN_BYTES: usize = 32;

/// A new token, in hexadecimal: nothing of it needs quoting in a shell or in YAML.
///
/// # Errors
/// When the kernel gives no random octets.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(hex::encode(bytes))
}

/// Until when the token of `node` is good.
pub fn good_until(node: &Node) -> Timestamp {
    let life_ends = node.created.checked_add(LIFE).unwrap_or(node.expires);
    life_ends.min(node.expires)
}

/// The node of this gateway for which `token` is good at `now`. Every node is compared, each in the same
/// time whatever its token, so that nothing can be read from how long the answer takes.
pub fn owner<'a>(desired: &'a Desired, token: &str, now: Timestamp) -> Option<&'a Name> {
    let given = token_sha256(token);
    let mut found = None;
    for (name, node) in desired.nodes() {
        let kept = node.token_sha256.as_deref().unwrap_or_default();
        let same: bool = kept.as_bytes().ct_eq(given.as_bytes()).into();
        if same && node.public_key.is_none() && now < good_until(node) {
            found = Some(name);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;

    #[test]
    fn tokens_are_long_and_never_the_same() {
        let (a, b) = (generate().unwrap(), generate().unwrap());
        assert_eq!((a.len(), b.len()), (64, 64));
        assert_ne!(a, b);
    }

    #[test]
    fn a_token_is_good_for_its_node_until_its_end() {
        let token = "a-token";
        let desired = samples::with_node(Some(token), None);
        let node = desired.document().nodes.values().next().unwrap();
        let at = |s: i64| node.created.checked_add(SignedDuration::from_secs(s)).unwrap();
        assert_eq!(owner(&desired, token, at(1)).map(Name::as_str), Some("gpu-1"));
        assert_eq!(owner(&desired, "another", at(1)), None);
        assert_eq!(owner(&desired, "", at(1)), None);
        assert_eq!(owner(&desired, token, at(3599)).map(Name::as_str), Some("gpu-1"));
        assert_eq!(owner(&desired, token, at(3600)), None, "an hour is its life");
    }

    #[test]
    fn a_used_token_is_nobodys() {
        let desired = samples::with_node(None, Some(samples::KEY));
        let node = desired.document().nodes.values().next().unwrap();
        assert_eq!(owner(&desired, "a-token", node.created), None);
        assert_eq!(owner(&desired, "", node.created), None, "an absent hash is no empty token's");
    }
}
