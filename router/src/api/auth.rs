//! Who is calling: root over the Unix socket, or a bearer token (RFC 6750). Every request passes here,
//! whichever module serves it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::problem::Problem;
use super::{Api, PREFIX};
use crate::actor::{Action, Actor, Role, authorize};

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

/// Lets a request pass with its [`Actor`] in the extensions, or answers a problem.
pub async fn check(State(api): State<Arc<Api>>, mut request: Request, next: Next) -> Response {
    if request.uri().path() == format!("{PREFIX}/healthz") {
        return next.run(request).await;
    }
    let admitted = actor(&api, &request).and_then(|actor| {
        authorize(&actor, action(request.method(), request.uri().path()))?;
        Ok(actor)
    });
    match admitted {
        Ok(actor) => {
            request.extensions_mut().insert(actor);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn actor(api: &Api, request: &Request) -> Result<Actor, Problem> {
    let caller = request.extensions().get::<Caller>();
    let from = caller.map_or_else(|| "unknown".to_owned(), Caller::from);
    if let Some(token) = bearer(request.headers())? {
        let known = api.token.as_ref().is_some_and(|t| t.is(token));
        let actor = known.then(|| Actor::new("bootstrap-token", Role::Admin, from));
        return actor.ok_or_else(|| Problem::unauthenticated().with_detail("the token is not known"));
    }
    match caller {
        Some(Caller::Unix { uid, .. }) if *uid == 0 || *uid == api.own_uid => {
            Ok(Actor::new("root", Role::Admin, from))
        }
        Some(Caller::Unix { uid, .. }) => {
            Err(Problem::unauthenticated().with_detail(format!("user {uid} is not root")))
        }
        _ => Err(Problem::unauthenticated().with_detail("there is no header `Authorization: Bearer …`")),
    }
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let malformed =
        || Problem::unauthenticated().with_detail("the header must be `Authorization: Bearer TOKEN`");
    let (scheme, token) = value.to_str().ok().and_then(|v| v.split_once(' ')).ok_or_else(malformed)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(Some(token.trim())) } else { Err(malformed()) }
}

fn action(method: &Method, path: &str) -> Action {
    match *method {
        Method::GET | Method::HEAD if path.starts_with(&format!("{PREFIX}/audit")) => Action::Audit,
        Method::GET | Method::HEAD | Method::OPTIONS => Action::Read,
        // A trace changes nothing.
        Method::POST if path == format!("{PREFIX}/trace") => Action::Read,
        _ => Action::Change,
    }
}
