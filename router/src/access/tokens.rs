//! The tokens of this gateway: all in memory, each change on disk with its line in the audit log before anybody hears of it.
//!
//! The last use of a token is written at most once a minute, so that reading costs no write. Whoever serves an answer that
//! goes on learns of the end of its token by [`Tokens::ended`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

use super::scope::Scope;
use super::token::{LastUse, Policy, Refusal, Revoked, Secret, Token, TokenId, Wish, WrongField, named_by};
use crate::actor::{Actor, Forbidden};
use crate::events::now;
use crate::store::{Note, Store, StoreError};

/// The most tokens that are kept, those that have ended included.
pub const TOKENS_MAX: usize = 10_000;
/// How long a token that has ended is still listed.
const KEPT: SignedDuration = SignedDuration::from_hours(24 * 30);
/// How long the former token stays good after a rotation, at most.
pub const OVERLAP_MAX: SignedDuration = SignedDuration::from_hours(1);
/// The longest time between two looks at the clock, which may be set meanwhile.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// Why something about tokens was not done.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Wrong fields of the request.
    #[error("{} fields are wrong", .0.len())]
    Invalid(Vec<WrongField>),
    /// There is no such token, or none that the caller may see.
    #[error("there is no token {0}")]
    NotFound(String),
    /// The token has ended already.
    #[error("{0}")]
    Ended(Refusal),
    /// It would be more than the caller is.
    #[error(transparent)]
    Forbidden(#[from] Forbidden),
    /// Too many are kept.
    #[error("{TOKENS_MAX} tokens are kept, and none of them ended long ago: revoke some")]
    Full,
    /// The kernel gives no random octets.
    #[error("no random octets: {0}")]
    Random(getrandom::Error),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// All tokens.
pub struct Tokens {
    store: Arc<dyn Store>,
    policy: Policy,
    kept: Mutex<HashMap<TokenId, Token>>,
    /// Held while a change is made, from reading to memory: two changes of one token come one after the other.
    changing: Mutex<()>,
    /// Those whose last use is not on disk yet.
    used: Mutex<HashMap<TokenId, LastUse>>,
    changed: watch::Sender<u64>,
}

impl Tokens {
    /// Those in `store`.
    ///
    /// # Errors
    /// When the store fails.
    pub fn load(store: Arc<dyn Store>, policy: Policy) -> Result<Self, StoreError> {
        let kept = store.tokens()?.into_iter().map(|token| (token.id.clone(), token)).collect();
        let (changing, used) = (Mutex::new(()), Mutex::default());
        Ok(Self { store, policy, kept: Mutex::new(kept), changing, used, changed: watch::Sender::new(0) })
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<TokenId, Token>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who shows the token `text`, from the address `ip` (`None`: the Unix socket) and, in words, `from`.
    ///
    /// # Errors
    /// Why it is nobody, and the token's name where it is one of ours.
    pub fn admit(
        &self,
        text: &str,
        ip: Option<IpAddr>,
        from: &str,
        now: Timestamp,
    ) -> Result<Actor, (Refusal, Option<TokenId>)> {
        let id = named_by(text).ok_or((Refusal::Malformed, None))?;
        let kept = self.kept();
        let token = kept.get(&id).ok_or((Refusal::Unknown, None))?;
        token.admits(text, ip, now).map_err(|refusal| {
            let known = (refusal != Refusal::Unknown).then(|| id.clone());
            (refusal, known)
        })?;
        let use_ = LastUse { at: now, from: from.to_owned() };
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), use_);
        let (name, from) = (token.name.clone(), from.to_owned());
        Ok(Actor { name, role: token.role, scope: token.scope(), token: Some(id), from })
    }

    /// Resolves when the token has ended: revoked, replaced, or its time is over.
    pub async fn ended(&self, id: &TokenId) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let good = self.kept().get(id).map(|token| (token.good(now()), token.expires));
            let Some((Ok(()), expires)) = good else { return };
            let left = Duration::try_from(expires.duration_since(now())).unwrap_or(Duration::ZERO);
            tokio::select! {
                () = tokio::time::sleep(left.min(LOOK_EVERY)) => {}
                answer = changed.changed() => if answer.is_err() { return },
            }
        }
    }

    /// The tokens that `scope` contains, newest first, with their last use.
    pub fn list(&self, scope: &Scope) -> Vec<Token> {
        let mut tokens: Vec<Token> =
            self.kept().values().filter(|token| scope.contains(&token.scope())).cloned().collect();
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        for token in &mut tokens {
            if let Some(last) = used.get(&token.id) {
                token.last_used = Some(last.clone());
            }
        }
        drop(used);
        tokens.sort_by(|a, b| (b.created, &b.id).cmp(&(a.created, &a.id)));
        tokens
    }

    /// The token `id`, if `scope` contains it.
    ///
    /// # Errors
    /// [`TokenError::NotFound`].
    pub fn one(&self, id: &str, scope: &Scope) -> Result<Token, TokenError> {
        let missing = || TokenError::NotFound(id.to_owned());
        let key = TokenId::try_from(id.to_owned()).map_err(|_| missing())?;
        let mut token = self.kept().get(&key).cloned().ok_or_else(missing)?;
        if !scope.contains(&token.scope()) {
            return Err(missing());
        }
        if let Some(last) = self.used.lock().unwrap_or_else(PoisonError::into_inner).get(&key) {
            token.last_used = Some(last.clone());
        }
        Ok(token)
    }

    /// A new token; blocks on the disk.
    ///
    /// # Errors
    /// Wrong fields, more than the caller is, too many, or a failure of the store; nothing was made then.
    pub fn create(&self, actor: &Actor, wish: Wish) -> Result<(Token, Secret), TokenError> {
        if !actor.scope.contains(&Scope::of(&wish.tenants)) {
            let why = "a token must be bound to tenants of its maker".to_owned();
            return Err(Forbidden::Objects(vec![why]).into());
        }
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, secret) = (now(), new_secret()?);
        let token = self.policy.make(wish, &secret, &actor.name, at).map_err(TokenError::Invalid)?;
        let gone = self.make_room(at)?;
        let summary =
            format!("{} for {:?} as {:?} until {}", token.id, token.name, token.role, token.expires);
        self.keep(actor, "create token", summary, vec![token.clone()], gone, at)?;
        Ok((token, secret))
    }

    /// Ends a token; blocks on the disk. One that has ended already stays as it is.
    ///
    /// # Errors
    /// When there is none, or the store fails.
    pub fn revoke(&self, actor: &Actor, id: &str) -> Result<Token, TokenError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, at) = (self.one(id, &actor.scope)?, now());
        if token.revoked.is_some() {
            return Ok(token);
        }
        let revoked = Token { revoked: Some(Revoked { at, by: actor.name.clone() }), ..token };
        let summary = format!("{} of {:?}", revoked.id, revoked.name);
        self.keep(actor, "revoke token", summary, vec![revoked.clone()], Vec::new(), at)?;
        Ok(revoked)
    }

    /// A new token in place of `id`, for the same person, role, tenants and prefixes, that lives no longer; the former one is
    /// good for `overlap` more. Blocks on the disk.
    ///
    /// # Errors
    /// When there is none, it has ended, or the store fails.
    pub fn rotate(
        &self,
        actor: &Actor,
        id: &str,
        overlap: SignedDuration,
    ) -> Result<(Token, Secret), TokenError> {
        if overlap.is_negative() || overlap > OVERLAP_MAX {
            let why = format!("must be at most {} s", OVERLAP_MAX.as_secs());
            return Err(TokenError::Invalid(vec![WrongField { field: "overlap", why }]));
        }
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, at) = (self.one(id, &actor.scope)?, now());
        token.good(at).map_err(TokenError::Ended)?;
        let gone = self.make_room(at)?;
        let secret = new_secret()?;
        let ends = at.checked_add(overlap).unwrap_or(token.expires).min(token.expires);
        let fresh = Token {
            id: secret.id().clone(),
            created: at,
            created_by: actor.name.clone(),
            last_used: None,
            sha256: crate::store::token_sha256(secret.expose()),
            ..token.clone()
        };
        let former = Token { expires: ends, replaced_by: Some(fresh.id.clone()), ..token };
        let summary = format!("{} by {} of {:?}", former.id, fresh.id, fresh.name);
        self.keep(actor, "rotate token", summary, vec![fresh.clone(), former], gone, at)?;
        Ok((fresh, secret))
    }

    /// Lets a token live for `life` from now on, within the policy. Blocks on the disk.
    ///
    /// # Errors
    /// When there is none, it has ended, `life` is too long, or the store fails.
    pub fn extend(&self, actor: &Actor, id: &str, life: SignedDuration) -> Result<Token, TokenError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (token, at) = (self.one(id, &actor.scope)?, now());
        token.good(at).map_err(TokenError::Ended)?;
        let expires = self.policy.end(Some(life), at).map_err(|wrong| TokenError::Invalid(vec![wrong]))?;
        let extended = Token { expires, ..token };
        let summary = format!("{} of {:?} until {expires}", extended.id, extended.name);
        self.keep(actor, "extend token", summary, vec![extended.clone()], Vec::new(), at)?;
        Ok(extended)
    }

    /// Writes what is known of last uses; blocks on the disk.
    ///
    /// # Errors
    /// When the store fails; they are kept for the next time then.
    pub fn write_uses(&self) -> Result<(), StoreError> {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return Ok(());
        }
        let with_use = |(id, last): (&TokenId, &LastUse)| {
            self.kept().get(id).map(|token| Token { last_used: Some(last.clone()), ..token.clone() })
        };
        let tokens: Vec<Token> = used.iter().filter_map(with_use).collect();
        if let Err(error) = self.store.keep_tokens(&tokens, &[], &[]) {
            let mut waiting = self.used.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, last) in used {
                waiting.entry(id).or_insert(last);
            }
            return Err(error);
        }
        self.kept().extend(tokens.into_iter().map(|token| (token.id.clone(), token)));
        Ok(())
    }

    /// The tokens that ended long ago and leave for one more.
    fn make_room(&self, at: Timestamp) -> Result<Vec<TokenId>, TokenError> {
        let is_over = |token: &&Token| token.ends().checked_add(KEPT).is_ok_and(|until| until < at);
        let kept = self.kept();
        let gone: Vec<TokenId> = kept.values().filter(is_over).map(|token| token.id.clone()).collect();
        if kept.len() - gone.len() >= TOKENS_MAX { Err(TokenError::Full) } else { Ok(gone) }
    }

    /// On disk first, then in memory, then whoever waits hears of it.
    fn keep(
        &self,
        actor: &Actor,
        action: &str,
        summary: String,
        put: Vec<Token>,
        gone: Vec<TokenId>,
        at: Timestamp,
    ) -> Result<(), TokenError> {
        self.store.keep_tokens(&put, &gone, &[Note::done(actor, action, summary, at)])?;
        let mut kept = self.kept();
        gone.iter().for_each(|id| drop(kept.remove(id)));
        kept.extend(put.into_iter().map(|token| (token.id.clone(), token)));
        drop(kept);
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }
}

fn new_secret() -> Result<Secret, TokenError> {
    let mut seed = [0; 40];
    getrandom::fill(&mut seed).map_err(TokenError::Random)?;
    Ok(Secret::of(&seed))
}
