//! The enrolment listener: TLS, one route, the only thing beside WireGuard and IKE that may face the public.
//!
//! Every refusal of a token is the same one, whether it is wrong, used, expired or of a node that is gone.
//! A request that is repeated with the same token and the same key gets the same reply: its first answer may
//! have been lost on the way. Which tokens were used by whom is remembered in memory, until they expire.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use watari_config::{Document, Name, WgKey};
use watari_node::enrol::{
    ENROL_PATH, EnrolReply, EnrolRequest, PROBLEM_REQUEST, PROBLEM_TOKEN, PROBLEM_UNAVAILABLE, Problem,
    REQUEST_BYTES_MAX,
};

use super::limit::{Limiter, Rate};
use super::listen::{self, Gate, Peer};
use super::{Nodes, join, token};
use crate::actor::{Actor, Role};
use crate::brain::{ChangeError, Head};
use crate::events::now;
use crate::run::stopped;
use crate::store::token_sha256;

/// What one address may ask: machines behind one NAT start together.
const RATE: Rate = Rate { burst: 60, per_s: 2 };
/// The most connections at a time.
const CONNECTIONS_MAX: usize = 128;
/// The most of them from one address.
const PER_ADDRESS_MAX: usize = 16;
/// How long a connection may last.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(20);
/// How long the reply waits for the node to be put in place: a handshake that comes too early is tried again
/// after five seconds only.
const APPLY_WAIT_MAX: Duration = Duration::from_secs(3);
/// The pause before a failed listener is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The most used tokens that are remembered.
const USED_MAX: usize = 4096;

struct Enrolment {
    nodes: Arc<Nodes>,
    limiter: Mutex<Limiter>,
    used: Mutex<HashMap<String, Use>>,
}

/// Who used a token.
#[derive(Clone, Debug)]
struct Use {
    node: Name,
    key: WgKey,
    until: Timestamp,
}

/// Listens until `stop`, again after a failure.
pub async fn run(nodes: Arc<Nodes>, address: SocketAddr, mut stop: watch::Receiver<bool>) {
    let enrolment =
        Enrolment { nodes: nodes.clone(), limiter: Mutex::new(Limiter::new(RATE)), used: Mutex::default() };
    let router = Router::new()
        .route(ENROL_PATH, post(enrol))
        .fallback(|| async { StatusCode::NOT_FOUND })
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(Arc::new(enrolment));
    let mut told = false;
    loop {
        let opened = listen::bind(address).map_err(|e| e.to_string());
        let tls = nodes.brain.secrets().tls_server().map_err(|e| e.to_string());
        let failure = match opened.and_then(|listener| Ok((listener, tls?))) {
            Ok((listener, tls)) => {
                let gate = Gate {
                    connections_max: CONNECTIONS_MAX,
                    per_address_max: PER_ADDRESS_MAX,
                    connection_wait_max: CONNECTION_WAIT_MAX,
                    admit: |_| true,
                    tls: Some(TlsAcceptor::from(tls)),
                };
                tokio::select! {
                    () = listen::serve(listener, gate, router.clone()) => continue,
                    () = stopped(&mut stop) => return,
                }
            }
            Err(failure) => failure,
        };
        if !std::mem::replace(&mut told, true) {
            let message = format!("cannot listen for nodes on {address}: {failure}");
            nodes.brain.events().emit("failed", "enrol", message);
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = stopped(&mut stop) => return,
        }
    }
}

async fn enrol(
    State(enrolment): State<Arc<Enrolment>>,
    Extension(Peer(peer)): Extension<Peer>,
    body: Bytes,
) -> Response {
    match enrolment.answer(peer, &body).await {
        Ok(reply) => Json(reply).into_response(),
        Err(problem) => {
            let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response = (status, Json(*problem)).into_response();
            let kind = HeaderValue::from_static("application/problem+json");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
    }
}

fn refused_token() -> Box<Problem> {
    let problem = Problem::new(PROBLEM_TOKEN, 403, "The token cannot be used");
    Box::new(problem.with_detail("it is wrong, used or expired; ask the operator for a new one"))
}

fn refused_request(detail: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::new(PROBLEM_REQUEST, 400, "The request is not right").with_detail(detail))
}

fn unavailable(detail: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::new(PROBLEM_UNAVAILABLE, 503, "The gateway cannot enrol now").with_detail(detail))
}

impl Enrolment {
    async fn answer(&self, peer: SocketAddr, body: &[u8]) -> Result<EnrolReply, Box<Problem>> {
        let admitted = {
            let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
            limiter.admit(peer.ip(), Instant::now())
        };
        if !admitted {
            let problem = Problem::new(PROBLEM_UNAVAILABLE, 429, "Too many requests from this address");
            return Err(Box::new(problem));
        }
        let request: EnrolRequest =
            serde_json::from_slice(body).map_err(|e| refused_request(e.to_string()))?;
        request.check().map_err(|errors| {
            let mut problem = refused_request("some fields are wrong");
            problem.errors = errors;
            problem
        })?;
        let key = WgKey::new(*request.public_key.as_bytes())
            .map_err(|e| refused_request(format!("public_key: {e}")))?;
        let own_key = self.nodes.brain.secrets().wireguard_public();
        if key == own_key {
            return Err(refused_request("public_key: is the gateway's own"));
        }
        let name = self.admit(peer, &request, key).await?;
        let reply = join::reply(&self.nodes.brain.desired(), &name, own_key);
        // It may have been detached since.
        reply.ok_or_else(refused_token)
    }

    /// Uses the token up for the node it belongs to; answers the node's name.
    async fn admit(
        &self,
        peer: SocketAddr,
        request: &EnrolRequest,
        key: WgKey,
    ) -> Result<Name, Box<Problem>> {
        let hash = token_sha256(&request.token);
        if let Some(name) = self.used_before(&hash, key) {
            return Ok(name);
        }
        let chosen = Arc::new(OnceLock::new());
        let (chosen_there, token) = (chosen.clone(), request.token.clone());
        let actor = Actor::new(format!("node {}", request.hostname), Role::Node, peer.to_string());
        let change = move |head: &Head| enrolled(head, &token, key, now(), &chosen_there);
        let made = self.nodes.brain.change(actor, "enrol", change).await;
        let made = match made {
            Ok(made) => made,
            // The same request twice at once: the second finds the token used by itself.
            Err(ChangeError::NotFound { .. }) => match self.used_before(&hash, key) {
                Some(name) => return Ok(name),
                None => {
                    tracing::warn!(%peer, "enrolment refused: no such token");
                    return Err(refused_token());
                }
            },
            Err(ChangeError::Invalid(problems)) => {
                let lines: Vec<String> = problems.iter().map(|p| p.message.clone()).collect();
                return Err(refused_request(format!("public_key: {}", lines.join("; "))));
            }
            Err(error) => return Err(unavailable(error.to_string())),
        };
        let Some((name, until)) = chosen.get().cloned() else { return Err(refused_token()) };
        self.remember(hash, Use { node: name.clone(), key, until });
        let gpus = request.inventory.gpus.len();
        let message = format!("{} enrolled from {peer}: {}, {gpus} GPUs", request.hostname, request.kind);
        self.nodes.brain.events().emit("enrolled", format!("nodes.{name}"), message);
        self.nodes.enrolled(&name, now());
        self.nodes.wait_in_place(&name, made.generation, APPLY_WAIT_MAX).await;
        Ok(name)
    }

    fn used_before(&self, hash: &str, key: WgKey) -> Option<Name> {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.get(hash).filter(|u| u.key == key && now() < u.until).map(|u| u.node.clone())
    }

    fn remember(&self, hash: String, usage: Use) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.len() >= USED_MAX {
            let now = now();
            used.retain(|_, u| now < u.until);
        }
        if used.len() < USED_MAX {
            used.insert(hash, usage);
        }
    }
}

/// The document in which the owner of `token` has the key, and the token is used up. One change: of two
/// machines with one token the second finds none.
fn enrolled(
    head: &Head,
    token: &str,
    key: WgKey,
    now: Timestamp,
    chosen: &OnceLock<(Name, Timestamp)>,
) -> Result<Document, ChangeError> {
    let desired = head.desired.as_ref();
    let unknown = || ChangeError::NotFound { object: "token".to_owned() };
    let name = token::owner(desired, token, now).ok_or_else(unknown)?;
    let mut document = desired.document().clone();
    let node = document.nodes.get_mut(name).ok_or_else(unknown)?;
    let _ = chosen.set((name.clone(), token::good_until(node)));
    (node.public_key, node.token_sha256) = (Some(key), None);
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nodes::samples;
    use watari_config::Desired;

    #[test]
    fn a_token_makes_one_node_once() {
        let desired = samples::with_node(Some("t"), None);
        let created = desired.document().nodes.values().next().unwrap().created;
        let key: WgKey = samples::KEY.parse().unwrap();
        let head = Head { revision: 1, desired: desired.into(), trial: None };
        let chosen = OnceLock::new();
        let document = enrolled(&head, "t", key, created, &chosen).unwrap();
        assert_eq!(chosen.get().unwrap().0.as_str(), "gpu-1");
        let node = &document.nodes[&"gpu-1".parse::<Name>().unwrap()];
        assert_eq!((node.public_key, &node.token_sha256), (Some(key), &None));
        let after = Desired::new(document, "gw-a".parse().unwrap(), 2).unwrap();
        let head = Head { revision: 2, desired: after.into(), trial: None };
        let again = enrolled(&head, "t", key, created, &OnceLock::new());
        assert!(matches!(again, Err(ChangeError::NotFound { .. })));
    }

    #[test]
    fn every_refusal_of_a_token_is_the_same() {
        let expired = samples::with_node(Some("t"), None);
        let late = "2026-01-01T01:00:00Z".parse().unwrap();
        let early = "2026-01-01T00:00:00Z".parse().unwrap();
        let key: WgKey = samples::KEY.parse().unwrap();
        let head = Head { revision: 1, desired: expired.into(), trial: None };
        let refusals = [("t", late), ("wrong", early), ("", early)]
            .map(|(token, at)| enrolled(&head, token, key, at, &OnceLock::new()).unwrap_err().to_string());
        assert!(refusals.iter().all(|r| *r == refusals[0]), "{refusals:?}");
    }
}
