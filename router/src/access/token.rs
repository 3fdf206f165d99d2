//! Tokens as pure rules: what they look like, how long they live, and when one is good. No clock, no randomness.
//!
//! A token is `wtr_ID_SECRET`: eight octets that name it everywhere, and 256 random bits, both in hexadecimal: nothing of it
//! needs quoting, and scanners for leaked secrets know it by its beginning. It is shown once; what is kept is its SHA-256.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq as _;
use utoipa::ToSchema;
use watari_config::Name;

use super::scope::Scope;
use crate::actor::Role;
use crate::store::token_sha256;

/// Octets of the name.
const ID_BYTES: usize = 8;
/// Octets of the secret.
const SECRET_BYTES: usize = 32;
/// Before every token.
const PREFIX: &str = "wtr_";
/// The most characters of who a token is for.
const NAME_CHARS_MAX: usize = 64;
/// The most prefixes from which a token may be used.
const SOURCES_MAX: usize = 64;
/// The most tenants of a token.
const TENANTS_MAX: usize = 256;

/// The public name of a token: 16 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
pub struct TokenId(String);

impl TokenId {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no name of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token is named by 16 hexadecimal digits")]
pub struct NoTokenId;

impl TryFrom<String> for TokenId {
    type Error = NoTokenId;

    fn try_from(text: String) -> Result<Self, NoTokenId> {
        let is_hex = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if text.len() == 2 * ID_BYTES && is_hex { Ok(Self(text)) } else { Err(NoTokenId) }
    }
}

/// The octets of which a token is made; random.
pub type Seed = [u8; ID_BYTES + SECRET_BYTES];

/// A token whole. It is given to its owner and kept nowhere.
pub struct Secret {
    id: TokenId,
    text: String,
}

impl Secret {
    /// The token of `seed`.
    pub fn of(seed: &Seed) -> Self {
        let (id, secret) = seed.split_at(ID_BYTES);
        let (id, secret) = (hex::encode(id), hex::encode(secret));
        Self { text: format!("{PREFIX}{id}_{secret}"), id: TokenId(id) }
    }

    /// Its public name.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// What its owner is given.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.id)
    }
}

/// The public name in a token; `None` where `text` is none.
pub fn named_by(text: &str) -> Option<TokenId> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    let is_hex = secret.bytes().all(|b| b.is_ascii_hexdigit());
    if secret.len() != 2 * SECRET_BYTES || !is_hex {
        return None;
    }
    TokenId::try_from(id.to_owned()).ok()
}

/// When and by whom a token was revoked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Revoked {
    /// When, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// By whom.
    pub by: String,
}

/// When and from where a token was used last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastUse {
    /// When, UTC.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// From where.
    pub from: String,
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its public name.
    pub id: TokenId,
    /// Who it is for; stands in the audit log.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The tenants it is bound to; empty: all of them, and what belongs to none.
    #[serde(default, with = "names")]
    pub tenants: Vec<Name>,
    /// The prefixes it may be used from; empty: anywhere.
    #[serde(default)]
    pub sources: Vec<IpNet>,
    /// When it was made, UTC.
    pub created: Timestamp,
    /// Who made it.
    pub created_by: String,
    /// Until when it is good, UTC.
    pub expires: Timestamp,
    /// Whether it was revoked.
    #[serde(default)]
    pub revoked: Option<Revoked>,
    /// The token that took its place.
    #[serde(default)]
    pub replaced_by: Option<TokenId>,
    /// Its last use, up to a minute late.
    #[serde(default)]
    pub last_used: Option<LastUse>,
    /// SHA-256 of the whole token, in hexadecimal.
    pub sha256: String,
}

/// Why a token is not good. What is told to the caller is the same for those that do not exist and those whose secret is
/// another, so that nobody learns which names exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is not of the form of a token.
    #[error("the token is malformed")]
    Malformed,
    /// There is none of this name, or its secret is another.
    #[error("the token is not known")]
    Unknown,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It was revoked.
    #[error("the token was revoked")]
    Revoked,
    /// It may not be used from there.
    #[error("the token may not be used from here")]
    Source,
}

impl Token {
    /// Whether `text` is this token, good at `now` and from `from` (`None`: the Unix socket, which has no address).
    ///
    /// # Errors
    /// Why not; the secret is compared first, in the same time for every wrong one.
    pub fn admits(&self, text: &str, from: Option<IpAddr>, now: Timestamp) -> Result<(), Refusal> {
        if !bool::from(self.sha256.as_bytes().ct_eq(token_sha256(text).as_bytes())) {
            return Err(Refusal::Unknown);
        }
        self.good(now)?;
        let is_source = |ip: IpAddr| self.sources.iter().any(|net| net.contains(&ip.to_canonical()));
        if self.sources.is_empty() || from.is_some_and(is_source) { Ok(()) } else { Err(Refusal::Source) }
    }

    /// Whether it is good at `now`, wherever from.
    ///
    /// # Errors
    /// Why not.
    pub fn good(&self, now: Timestamp) -> Result<(), Refusal> {
        match &self.revoked {
            Some(_) => Err(Refusal::Revoked),
            None if now >= self.expires => Err(Refusal::Expired),
            None => Ok(()),
        }
    }

    /// The tenants that it sees.
    pub fn scope(&self) -> Scope {
        Scope::of(&self.tenants)
    }

    /// When it ended, or will.
    pub fn ends(&self) -> Timestamp {
        self.revoked.as_ref().map_or(self.expires, |revoked| revoked.at.min(self.expires))
    }
}

/// How long tokens live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Where nobody says how long.
    pub life: SignedDuration,
    /// At most, from the moment of asking.
    pub life_max: SignedDuration,
}

/// What a new token shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Who it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// The tenants it is bound to.
    pub tenants: Vec<Name>,
    /// The prefixes it may be used from.
    pub sources: Vec<IpNet>,
    /// How long it lives.
    pub life: Option<SignedDuration>,
}

/// A wrong field of a wish.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub struct WrongField {
    /// The field.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Policy {
    /// The end of a life that begins `now`.
    ///
    /// # Errors
    /// When it is longer than the policy allows, or no time at all.
    pub fn end(&self, life: Option<SignedDuration>, now: Timestamp) -> Result<Timestamp, WrongField> {
        let life = life.unwrap_or(self.life.min(self.life_max));
        let wrong = |why: String| WrongField { field: "life", why };
        if life > self.life_max {
            return Err(wrong(format!("is longer than {} s, the longest here", self.life_max.as_secs())));
        }
        if !life.is_positive() {
            return Err(wrong("must be at least a second".to_owned()));
        }
        now.checked_add(life).map_err(|_| wrong("ends beyond all time".to_owned()))
    }

    /// The token of `secret` for `wish`.
    ///
    /// # Errors
    /// Every wrong field.
    pub fn make(
        &self,
        wish: Wish,
        secret: &Secret,
        by: &str,
        now: Timestamp,
    ) -> Result<Token, Vec<WrongField>> {
        let mut wrong = Vec::new();
        let mut check = |field, holds: bool, why: &str| {
            if !holds {
                wrong.push(WrongField { field, why: why.to_owned() });
            }
        };
        let length = wish.name.chars().count();
        let visible = wish.name.chars().all(|c| !c.is_control()) && wish.name.trim() == wish.name;
        check("name", (1..=NAME_CHARS_MAX).contains(&length), "must have 1 to 64 characters");
        check("name", visible, "must not begin or end with a space, nor hold control characters");
        check("role", wish.role != Role::Node, "nodes have tokens of their own: POST /api/v1/nodes");
        check("sources", wish.sources.len() <= SOURCES_MAX, "are at most 64");
        check("tenants", wish.tenants.len() <= TENANTS_MAX, "are at most 256");
        let expires = self.end(wish.life, now).map_err(|field| wrong.push(field));
        let (Ok(expires), []) = (expires, wrong.as_slice()) else { return Err(wrong) };
        Ok(Token {
            id: secret.id().clone(),
            name: wish.name,
            role: wish.role,
            tenants: wish.tenants,
            sources: wish.sources,
            created: now,
            created_by: by.to_owned(),
            expires,
            revoked: None,
            replaced_by: None,
            last_used: None,
            sha256: token_sha256(secret.expose()),
        })
    }
}

/// Names as text.
mod names {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use watari_config::Name;

    pub(super) fn serialize<S: Serializer>(names: &[Name], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(names.iter().map(Name::as_str))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Name>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        texts.iter().map(|text| text.parse().map_err(serde::de::Error::custom)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy =
        Policy { life: SignedDuration::from_hours(24), life_max: SignedDuration::from_hours(24 * 30) };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn wish() -> Wish {
        Wish { name: "alice".to_owned(), role: Role::Operator, tenants: vec![], sources: vec![], life: None }
    }

    fn made(wish: Wish) -> (Token, Secret) {
        let secret = Secret::of(&[7; 40]);
        (POLICY.make(wish, &secret, "root", at(0)).unwrap(), secret)
    }

    #[test]
    fn a_token_names_itself_and_nothing_else_is_one() {
        let secret = Secret::of(&[0xab; 40]);
        assert_eq!(secret.expose().len(), 4 + 16 + 1 + 64);
        assert_eq!(named_by(secret.expose()).as_ref(), Some(secret.id()));
        let short = &secret.expose()[..84];
        let foreign = secret.expose().replace("wtr_", "wtx_");
        for wrong in ["", "wtr_", "wtr__", short, &foreign, "wtr_abababababababab_zz"] {
            assert_eq!(named_by(wrong), None, "{wrong}");
        }
        assert!(!format!("{secret:?}").contains(&"ab".repeat(32)));
    }

    #[test]
    fn a_token_is_good_until_its_end_and_no_longer() {
        let (token, secret) = made(wish());
        assert_eq!(token.expires, at(86_400));
        let admits = |text: &str, seconds| token.admits(text, None, at(seconds));
        assert_eq!(admits(secret.expose(), 0), Ok(()));
        assert_eq!(admits(secret.expose(), 86_399), Ok(()));
        assert_eq!(admits(secret.expose(), 86_400), Err(Refusal::Expired));
        assert_eq!(admits(Secret::of(&[8; 40]).expose(), 0), Err(Refusal::Unknown));
        let revoked = Token { revoked: Some(Revoked { at: at(5), by: "root".to_owned() }), ..token };
        assert_eq!(revoked.admits(secret.expose(), None, at(6)), Err(Refusal::Revoked));
        assert_eq!(revoked.ends(), at(5));
    }

    #[test]
    fn a_token_bound_to_prefixes_is_good_from_these_alone() {
        let sources = vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        let (token, secret) = made(Wish { sources, ..wish() });
        let from = |ip: &str| token.admits(secret.expose(), Some(ip.parse().unwrap()), at(1));
        assert_eq!(from("192.0.2.77"), Ok(()));
        assert_eq!(from("::ffff:192.0.2.77"), Ok(()), "IPv4 on an IPv6 socket");
        assert_eq!(from("2001:db8:1::1"), Ok(()));
        assert_eq!(from("198.51.100.1"), Err(Refusal::Source));
        assert_eq!(
            token.admits(secret.expose(), None, at(1)),
            Err(Refusal::Source),
            "a socket has no address"
        );
    }

    #[test]
    fn every_wrong_field_of_a_wish_is_named() {
        let life = Some(SignedDuration::from_hours(24 * 31));
        let wish = Wish { name: " x\n".to_owned(), role: Role::Node, life, ..wish() };
        let wrong = POLICY.make(wish, &Secret::of(&[7; 40]), "root", at(0)).unwrap_err();
        let fields: Vec<_> = wrong.iter().map(|w| w.field).collect();
        assert_eq!(fields, ["name", "role", "life"]);
        assert!(POLICY.end(Some(SignedDuration::ZERO), at(0)).is_err());
        let short = Policy { life_max: SignedDuration::from_hours(1), ..POLICY };
        assert_eq!(short.end(None, at(0)), Ok(at(3_600)), "the longest life bounds the usual one");
    }

    #[test]
    fn what_is_kept_reads_back() {
        let (token, secret) = made(Wish { tenants: vec!["lab".parse().unwrap()], ..wish() });
        let json = serde_json::to_string(&token).unwrap();
        assert!(!json.contains(secret.expose()));
        assert_eq!(serde_json::from_str::<Token>(&json).unwrap(), token);
    }
}
