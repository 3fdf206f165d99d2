//! What the gateway sees and says of itself: plan, status, facts, events, health. From the view that the
//! reconcile loop published, never from what was asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{self, KeepAlive, Sse};
use futures::Stream;
use futures::stream;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast;
use tokio::sync::watch;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::problem::Problem;
use super::request::{NUMBER_MAX, Query, at_most};
use crate::events::{Event, ServerSent};
use crate::run::stopped;

/// How often a silent event stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A part of the view, with what it belongs to.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Seen {
    /// The generation that the reconcile loop last worked on; 0 before its first turn.
    generation: u64,
    /// The newest generation that is desired.
    desired_generation: u64,
    /// The gateway is as desired at `generation`.
    settled: bool,
    /// When it was seen, UTC.
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    /// The plan that is still to be carried out.
    #[serde(skip_serializing_if = "Option::is_none")]
    plan: Option<Value>,
    /// Each object's state.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Value>,
}

fn seen(api: &Api) -> (Seen, Arc<crate::view::View>) {
    let view = api.brain.view().borrow().clone();
    let seen = Seen {
        generation: view.generation,
        desired_generation: api.brain.desired().generation(),
        settled: view.settled,
        at: view.at,
        plan: None,
        status: None,
    };
    (seen, view)
}

/// What is still to be done; empty when the gateway is as desired.
#[utoipa::path(get, path = "/plan", tag = "gateway", responses((status = 200, body = Seen)))]
async fn plan(State(api): State<Arc<Api>>) -> Json<Seen> {
    let (seen, view) = seen(&api);
    Json(Seen { plan: Some(as_value(&view.plan)), ..seen })
}

/// Each object's state, from what was read back.
#[utoipa::path(get, path = "/status", tag = "gateway", responses((status = 200, body = Seen)))]
async fn status(State(api): State<Arc<Api>>) -> Json<Seen> {
    let (seen, view) = seen(&api);
    Json(Seen { status: Some(as_value(&view.status)), ..seen })
}

/// The gateway's own facts: name, public halves of its keys, kernel, counters, MACs, routes, BGP. Of MACs, neighbours
/// and routes the first thousand; `counts` says how many there are.
#[utoipa::path(get, path = "/facts", tag = "gateway", responses((status = 200, body = Value)))]
async fn facts(State(api): State<Arc<Api>>) -> Json<Value> {
    let (_, view) = seen(&api);
    let mut facts = Map::new();
    let secrets = api.brain.secrets();
    facts.insert("gateway".to_owned(), json!(api.brain.gateway()));
    facts.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    facts.insert("wireguard_key".to_owned(), json!(secrets.wireguard_public()));
    facts.insert("tls_fingerprint".to_owned(), json!(secrets.tls_pin()));
    if let Ok(uname) = nix::sys::utsname::uname() {
        facts.insert("kernel".to_owned(), json!(uname.release().to_string_lossy()));
    }
    for part in [Some(as_value(&view.facts)), api.brain.learnt().await] {
        if let Some(Value::Object(part)) = part {
            facts.extend(part);
        }
    }
    Json(Value::Object(facts))
}

fn as_value<T: Serialize>(part: &T) -> Value {
    serde_json::to_value(part).unwrap_or(Value::Null)
}

/// Which events are wanted.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct EventArgs {
    /// Only events with a higher number.
    #[serde(deserialize_with = "at_most::<NUMBER_MAX, _, _>")]
    after: u64,
}

/// The newest events, oldest first.
#[utoipa::path(get, path = "/events", tag = "gateway", params(EventArgs), responses((status = 200, body = Vec<Event>)))]
async fn events(State(api): State<Arc<Api>>, Query(args): Query<EventArgs>) -> Json<Vec<Event>> {
    Json(api.brain.events().after(args.after))
}

/// The newest events and all that follow, as server-sent events: `data` is the event as JSON, `id` its number.
/// `Last-Event-ID` is honoured.
#[utoipa::path(get, path = "/events/stream", tag = "gateway", params(EventArgs),
    responses((status = 200, content_type = "text/event-stream", body = ServerSent)))]
async fn event_stream(
    State(api): State<Arc<Api>>,
    Query(args): Query<EventArgs>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok());
    let (past, future) = api.brain.events().follow(last.unwrap_or(args.after));
    let following = Following { past: past.into_iter(), future, stop: api.stop.clone() };
    let stream = stream::unfold(following, |mut f| async move {
        let event = f.next().await?;
        let data = serde_json::to_string(&event).unwrap_or_default();
        Some((Ok(sse::Event::default().id(event.seq.to_string()).event("event").data(data)), f))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

struct Following {
    past: std::vec::IntoIter<Event>,
    future: broadcast::Receiver<Event>,
    stop: watch::Receiver<bool>,
}

impl Following {
    /// The next event; `None` when the daemon ends. A reader that is too slow misses some and sees the gap
    /// in the numbers.
    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.past.next() {
            return Some(event);
        }
        loop {
            let received = tokio::select! {
                received = self.future.recv() => received,
                () = stopped(&mut self.stop) => return None,
            };
            match received {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Whether the API answers; needs no credential and says nothing else.
#[utoipa::path(get, path = "/healthz", tag = "gateway", responses((status = 200, body = Value)))]
async fn healthz() -> Json<Value> {
    Json(json!({ "status": "ok" }))
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(plan))
        .routes(routes!(status))
        .routes(routes!(facts))
        .routes(routes!(events))
        .routes(routes!(event_stream))
        .routes(routes!(healthz))
}
