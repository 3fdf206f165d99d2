//! Who is calling: root over the Unix socket, or a bearer token (RFC 6750). Every request passes here,
//! whichever module serves it; [`crate::access`] says what each needs.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::{Body, HttpBody as _};
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::problem::Problem;
use super::{Api, PREFIX};
use crate::access::operation::need;
use crate::access::token::TokenId;
use crate::actor::{Actor, Need, Role, authorize};
use crate::events::now;
use crate::store::{Note, Outcome};

/// The most bytes of a path in the audit log.
const ACTION_BYTES_MAX: usize = 500;

/// Where a connection comes from.
#[derive(Clone, Debug)]
pub enum Caller {
    /// The Unix socket, with what the kernel says of the other end (SO_PEERCRED).
    Unix {
        /// Its user.
        uid: u32,
        /// Its process, where the kernel knows it.
        pid: Option<i32>,
    },
    /// TCP.
    Tcp(SocketAddr),
}

impl Caller {
    fn from(&self) -> String {
        match self {
            Self::Unix { pid: Some(pid), .. } => format!("unix pid {pid}"),
            Self::Unix { uid, pid: None } => format!("unix uid {uid}"),
            Self::Tcp(address) => address.to_string(),
        }
    }
}

/// What is known of a credential: its SHA-256, never itself.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// Keeps the hash of `token`.
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Whether `token` is the one; takes the same time for every wrong one.
    pub fn is(&self, token: &str) -> bool {
        self.0.ct_eq(&Self::of(token).0).into()
    }
}

/// Lets a request pass with its [`Actor`] in the extensions, or answers a problem. What was refused, and what was done that no
/// document keeps, goes into the audit log.
pub async fn check(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    if asked.need == Some(Need::Nothing) {
        return next.run(request).await;
    }
    let actor = match actor(&api, &request) {
        Ok(actor) => actor,
        Err(stranger) => {
            api.ledger.add(asked.refused_stranger(caller(&request), &stranger));
            return Problem::unauthenticated().with_detail(stranger.why).into_response();
        }
    };
    // Without a route there is nothing to guard: whoever is known is told so.
    let need = asked.need.unwrap_or(Need::Known);
    if let Err(forbidden) = authorize(&actor, need) {
        api.ledger.add(asked.note(&actor, Outcome::Refused, &forbidden.to_string()));
        return Problem::from(forbidden).into_response();
    }
    // No document keeps it, and the caller may be gone before it ends: it is entered first, or not done.
    if matches!(need, Need::Act | Need::Inspect) {
        let note = asked.note(&actor, Outcome::Done, "begun");
        if let Err(error) = api.brain.with_store(move |store| store.note(&[note])).await {
            return Problem::from(error).into_response();
        }
    }
    request.extensions_mut().insert(actor.clone());
    let response = next.run(request).await;
    note_failure(&api, &asked, &actor, response.status());
    ends_with_token(&api, &actor, response)
}

/// What is asked for, in the words of the audit log.
struct Asked {
    need: Option<Need>,
    changes: bool,
    action: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let (method, path) = (request.method(), request.uri().path());
        let route =
            request.extensions().get::<MatchedPath>().and_then(|path| path.as_str().strip_prefix(PREFIX));
        let mut path = path.to_owned();
        path.truncate(path.floor_char_boundary(ACTION_BYTES_MAX));
        Self {
            need: route.map(|route| need(method, route)),
            changes: !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS),
            action: format!("{method} {path}"),
        }
    }

    fn note(&self, actor: &Actor, outcome: Outcome, why: &str) -> Note {
        Note { outcome, ..Note::done(actor, self.action.clone(), why, now()) }
    }

    fn refused_stranger(&self, from: String, stranger: &Stranger) -> Note {
        Note {
            at: now(),
            who: "nobody".to_owned(),
            token: stranger.token.clone(),
            role: None,
            from,
            action: self.action.clone(),
            outcome: Outcome::Refused,
            times: 1,
            summary: stranger.why.clone(),
        }
    }
}

/// Notes that a request did not succeed that was to change something. What a document keeps is in the log already when it did, by
/// the same transaction.
fn note_failure(api: &Api, asked: &Asked, actor: &Actor, status: StatusCode) {
    if asked.need.is_none() {
        return;
    }
    if status.is_client_error() && (asked.changes || status == StatusCode::FORBIDDEN) {
        api.ledger.add(asked.note(actor, Outcome::Refused, &format!("refused with {status}")));
    } else if status.is_server_error() && asked.changes {
        api.ledger.add(asked.note(actor, Outcome::Failed, &format!("failed with {status}")));
    }
}

/// An answer that goes on ends with the token that asked for it.
fn ends_with_token(api: &Arc<Api>, actor: &Actor, response: Response) -> Response {
    let goes_on = response.body().size_hint().exact().is_none();
    let Some(id) = actor.token.clone().filter(|_| goes_on) else { return response };
    let tokens = api.tokens.clone();
    response.map(|body| {
        let ended = async move { tokens.ended(&id).await };
        Body::from_stream(body.into_data_stream().take_until(Box::pin(ended)))
    })
}

fn caller(request: &Request) -> String {
    request.extensions().get::<Caller>().map_or_else(|| "unknown".to_owned(), Caller::from)
}

/// Why nobody was recognised, and the name of the token where it is one of ours.
struct Stranger {
    why: String,
    token: Option<TokenId>,
}

impl Stranger {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), token: None }
    }
}

/// Who it is.
fn actor(api: &Api, request: &Request) -> Result<Actor, Stranger> {
    let (caller, from) = (request.extensions().get::<Caller>(), caller(request));
    if let Some(token) = bearer(request.headers())? {
        if api.token.as_ref().is_some_and(|t| t.is(token)) {
            return Ok(Actor::new("bootstrap-token", Role::Admin, from));
        }
        let ip = match caller {
            Some(Caller::Tcp(address)) => Some(address.ip()),
            _ => None,
        };
        let admitted = api.tokens.admit(token, ip, &from, now());
        return admitted.map_err(|(why, token)| Stranger { why: why.to_string(), token });
    }
    match caller {
        Some(Caller::Unix { uid, .. }) if *uid == 0 || *uid == api.own_uid => {
            Ok(Actor::new("root", Role::Admin, from))
        }
        Some(Caller::Unix { uid, .. }) => Err(Stranger::new(format!("user {uid} is not root"))),
        _ => Err(Stranger::new("there is no header `Authorization: Bearer …`")),
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Stranger> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed = || Stranger::new("the header must be `Authorization: Bearer TOKEN`");
    let (scheme, token) = value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or_else(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(malformed()) }
}
