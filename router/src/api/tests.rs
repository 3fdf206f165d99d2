//! The API over an in-process router: what is refused, how, and that nothing has changed then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;
use watari_bgp::Reset;
use watari_config::{Bootstrap, Document, parse_text, read_document};

use super::auth::{Caller, Token};
use super::serve::Listeners;
use super::{Api, PREFIX, router};
use crate::access::token::Policy;
use crate::access::tokens::Tokens;
use crate::actor::Actor;
use crate::brain::{Brain, ChangeError, NotReset, Order};
use crate::cli::client::{self, Client};
use crate::run::stopped;
use crate::store::{RedbStore, Secrets};
use crate::view::View;

const WHOLE: &str = include_str!("../../../config/tests/two_sites.yaml");
pub(super) const TOKEN: &str = "0123456789abcdef0123456789abcdef";
pub(super) const ROOT: Caller = Caller::Unix { uid: 0, pid: Some(1) };
const OWN_UID: u32 = 4242;

pub(super) struct Fixture {
    pub(super) brain: Arc<Brain>,
    router: Router,
    pub(super) tokens: Arc<Tokens>,
    stopper: watch::Sender<bool>,
}

/// What came back.
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Reply {
    /// The problem's kind and the paths of its errors; fails when it is no problem document.
    #[track_caller]
    pub(super) fn problem(&self) -> (&str, Vec<&str>) {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{}", self.body);
        assert_eq!(self.body["status"], self.status.as_u16());
        assert!(self.body["title"].is_string());
        let kind = self.body["type"].as_str().unwrap().strip_prefix("urn:watari:problem:").unwrap();
        let errors = self.body["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        (kind, errors.iter().map(|e| e["path"].as_str().unwrap()).collect())
    }
}

impl Fixture {
    pub(super) fn new() -> Self {
        Self::with(Vec::new())
    }

    pub(super) fn with(others: Vec<OpenApiRouter>) -> Self {
        let store = RedbStore::in_memory("gw-a").unwrap();
        let secrets = Secrets::load(&store, "gw-a").unwrap();
        let brain = Brain::new("gw-a".parse().unwrap(), Arc::new(store), secrets).unwrap();
        let (stopper, stop) = watch::channel(false);
        tokio::spawn(turns(brain.clone(), stop));
        Self::of(brain, stopper, others)
    }

    fn of(brain: Arc<Brain>, stopper: watch::Sender<bool>, others: Vec<OpenApiRouter>) -> Self {
        let stop = stopper.subscribe();
        let policy = Policy { life: SignedDuration::from_hours(1), life_max: SignedDuration::from_hours(24) };
        let tokens = Arc::new(Tokens::load(brain.store().clone(), policy).unwrap());
        let api = Api {
            brain: brain.clone(),
            token: Some(Token::of(TOKEN)),
            tokens: tokens.clone(),
            ledger: Arc::default(),
            own_uid: OWN_UID,
            stop,
        };
        Self { router: router(Arc::new(api), others), brain, tokens, stopper }
    }

    pub(super) async fn full() -> Self {
        let fixture = Self::new();
        assert_eq!(fixture.put("document", WHOLE).await.status, StatusCode::OK);
        fixture
    }

    /// The same gateway after a restart of the daemon, as far as the API goes.
    pub(super) fn reloaded(self, others: Vec<OpenApiRouter>) -> Self {
        Self::of(self.brain, self.stopper, others)
    }

    pub(super) async fn response(&self, request: Request<Body>) -> axum::response::Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// The status alone: of an answer that has no end, too.
    pub(super) async fn head(&self, request: Request<Body>) -> StatusCode {
        self.response(request).await.status()
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Reply {
        let (head, body) = self.response(request).await.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply { status: head.status, headers: head.headers, body }
    }

    pub(super) async fn ask(&self, method: Method, path: &str, body: &str) -> Reply {
        let request = Request::builder().method(method).uri(format!("{PREFIX}/{path}")).extension(ROOT);
        self.send(request.body(Body::from(body.to_owned())).unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.ask(Method::GET, path, "").await
    }

    pub(super) async fn put(&self, path: &str, body: &str) -> Reply {
        self.ask(Method::PUT, path, body).await
    }

    pub(super) fn revision(&self) -> u64 {
        self.brain.head().revision
    }
}

/// The states of tunnels: up, but for those of the weight 99.
fn states(desired: &watari_config::Desired) -> Value {
    let state = |weight: u8| if weight == 99 { "down" } else { "up" };
    let tunnels = desired.tunnels().map(|(name, tunnel, ..)| {
        (format!("tunnels.{name}"), json!({ "state": state(tunnel.weight), "reason": "nothing crosses" }))
    });
    json!({ "objects": tunnels.collect::<serde_json::Map<_, _>>() })
}

/// A reconcile loop in which everything succeeds at once.
async fn turns(brain: Arc<Brain>, mut stop: watch::Receiver<bool>) {
    let (mut head, mut dry_runs) = (brain.watch_desired(), brain.take_dry_runs().unwrap());
    loop {
        let desired = head.borrow_and_update().desired.clone();
        let status = states(&desired);
        brain.publish(View { generation: desired.generation(), settled: true, status, ..View::unseen() });
        tokio::select! {
            () = stopped(&mut stop) => return,
            Some(asked) = dry_runs.recv() => {
                let plan = json!({ "generation": asked.desired.generation(), "ops": [] });
                let _ = asked.reply.send(plan);
            }
            _ = head.changed() => {}
        }
    }
}

#[tokio::test]
async fn a_bad_document_is_refused_with_all_errors_and_changes_nothing() {
    let api = Fixture::full().await;
    let bad =
        WHOLE.replace("vni: 1000", "vni: 0").replace("site: a", "site: c").replace("vid: 200", "vid: 5000");
    for (method, path) in [(Method::PUT, "document"), (Method::POST, "apply")] {
        let reply = api.ask(method, path, &bad).await;
        assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
        let (kind, paths) = reply.problem();
        assert_eq!(kind, "invalid-document");
        for path in ["segments.lab-net.vni", "gateways.gw-a.site", "attachments.b-lan.vlan.vid"] {
            assert!(paths.contains(&path), "{path} is not in {paths:?}");
        }
    }
    assert_eq!(api.revision(), 1);
    let log = api.get("audit").await.body;
    let outcomes: Vec<&Value> = log.as_array().unwrap().iter().map(|entry| &entry["outcome"]).collect();
    assert_eq!(outcomes, ["refused", "refused", "done"]);
}

#[tokio::test]
async fn a_body_that_cannot_be_read_is_a_problem() {
    let api = Fixture::new();
    let (reply, deep) = (api.put("document", "sites: [").await, "[".repeat(100_000));
    assert_eq!((reply.status, reply.problem().0), (StatusCode::BAD_REQUEST, "syntax"));
    assert_eq!(api.put("document", &deep).await.problem().0, "syntax");
    let reply = api.put("document", "just text").await;
    assert_eq!(reply.problem(), ("invalid-document", vec!["(document)"]));
    let reply = api.put("document", &" ".repeat(super::request::BODY_BYTES_MAX + 1)).await;
    assert_eq!((reply.status, reply.problem().0), (StatusCode::PAYLOAD_TOO_LARGE, "too-large"));
    let typed =
        Request::put(format!("{PREFIX}/document")).extension(ROOT).header("content-type", "text/html");
    let reply = api.send(typed.body(Body::from("{}")).unwrap()).await;
    assert_eq!(reply.problem().0, "media-type");
    let json = Request::put(format!("{PREFIX}/document")).extension(ROOT);
    let json = json.header("content-type", "application/json; charset=utf-8");
    let reply = api.send(json.body(Body::from(r#"{"sites":{"a":{}}}"#)).unwrap()).await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(api.revision(), 1);
}

#[tokio::test]
async fn unknown_routes_methods_and_parameters_are_problems() {
    let api = Fixture::new();
    assert_eq!(api.get("nonsense").await.problem().0, "unknown-route");
    let reply = api.ask(Method::POST, "segments", "{}").await;
    assert_eq!((reply.status, reply.problem().0), (StatusCode::METHOD_NOT_ALLOWED, "wrong-method"));
    assert!(reply.headers.contains_key(header::ALLOW), "{:?}", reply.headers);
    assert_eq!(api.put("nodes/n1", "{}").await.problem().0, "wrong-method");
    assert_eq!(api.put("document?dryrun=true", WHOLE).await.problem().0, "parameter");
    assert_eq!(api.put("document?wait_s=601", WHOLE).await.problem().0, "parameter");
    assert_eq!(api.get("revisions/one").await.problem().0, "parameter");
    assert_eq!(api.get("revisions?limit=1001").await.problem().0, "parameter");
    assert_eq!(api.get("events?after=9223372036854775808").await.problem().0, "parameter");
    assert_eq!(api.get("revisions/7").await.problem().0, "not-found");
    assert_eq!(api.get("segments/nothing").await.problem().0, "not-found");
    assert_eq!(api.revision(), 0);
}

#[tokio::test]
async fn only_root_and_the_token_get_in() {
    let api = Fixture::new();
    let tcp = Caller::Tcp(SocketAddr::from(([192, 0, 2, 1], 4000)));
    let stranger = Caller::Unix { uid: 1000, pid: None };
    let own = Caller::Unix { uid: OWN_UID, pid: None };
    let good = format!("Bearer {TOKEN}");
    let cases = [
        (ROOT, None, 200),
        (own, None, 200),
        (stranger.clone(), None, 401),
        (stranger, Some(good.as_str()), 200),
        (tcp.clone(), None, 401),
        (tcp.clone(), Some(good.as_str()), 200),
        (tcp.clone(), Some("Bearer 0123456789abcdef0123456789abcdee"), 401),
        (tcp.clone(), Some("Basic cm9vdDpyb290"), 401),
        (tcp.clone(), Some("Bearer"), 401),
        (ROOT, Some("Bearer wrong"), 401),
    ];
    for (caller, authorization, expected) in cases {
        let mut request = Request::get(format!("{PREFIX}/document")).extension(caller.clone());
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        let reply = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status, expected, "{caller:?} {authorization:?}");
        if expected == 401 {
            assert_eq!(reply.problem().0, "unauthenticated");
            assert!(reply.headers.contains_key(header::WWW_AUTHENTICATE));
        }
    }
    for path in ["healthz", "docs", "nonsense", "openapi.json"] {
        let request = Request::get(format!("{PREFIX}/{path}")).extension(tcp.clone());
        let reply = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.status.is_success(), ["healthz", "docs"].contains(&path), "{path}");
    }
}

#[tokio::test]
async fn apply_merges_and_what_is_the_same_makes_no_revision() {
    let api = Fixture::full().await;
    let reply = api.ask(Method::POST, "apply", "sites: { c: { description: new } }").await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(reply.body["changes"][0]["object"], "sites.c");
    assert_eq!((reply.body["revision"].as_u64(), reply.body["generation"].as_u64()), (Some(2), Some(2)));
    assert_eq!(api.get("sites").await.body.as_object().unwrap().len(), 3);
    let again = api.ask(Method::POST, "apply", "sites: { c: { description: new } }").await;
    assert_eq!((again.status, &again.body["changed"]), (StatusCode::OK, &json!(false)));
    assert_eq!(api.put("document", WHOLE).await.body["changes"][0]["change"], "removed");
    let fabric = api.ask(Method::POST, "apply", "fabric: { vxlan_port: 8472 }").await;
    assert_eq!(fabric.body["changes"][0]["object"], "fabric");
    assert_eq!(api.get("document").await.body["fabric"]["anycast_mac"], "02:57:54:00:00:01");
    assert_eq!(api.ask(Method::POST, "apply", "sights: {}").await.problem().1, ["sights"]);
    assert_eq!(api.ask(Method::POST, "apply", "sites: 7").await.problem().1, ["sites"]);
    assert_eq!(api.revision(), 4);
}

#[tokio::test]
async fn an_object_is_written_read_and_removed() {
    let api = Fixture::full().await;
    assert_eq!(api.put("sites/c", "{}").await.status, StatusCode::CREATED);
    assert_eq!(api.put("sites/c", "description: x").await.status, StatusCode::OK);
    assert_eq!(api.get("sites/c").await.body, json!({ "description": "x" }));
    assert_eq!(api.put("sites/Not%20A%20Name", "{}").await.problem().0, "invalid-document");
    assert_eq!(api.put("segments/lab-net", "mtu: 1").await.problem().0, "invalid-document");
    assert_eq!(api.ask(Method::DELETE, "sites/c", "").await.status, StatusCode::OK);
    assert_eq!(api.ask(Method::DELETE, "sites/c", "").await.problem().0, "not-found");
}

#[tokio::test]
async fn an_object_that_others_need_is_not_removed() {
    let api = Fixture::full().await;
    let reply = api.ask(Method::DELETE, "segments/lab-net", "").await;
    assert_eq!(reply.status, StatusCode::UNPROCESSABLE_ENTITY);
    let (_, paths) = reply.problem();
    assert_eq!(paths, ["attachments.a-lan.segment", "attachments.b-lan.segment", "pools.lab-nodes.segment"]);
    assert_eq!(api.revision(), 1);
}

#[tokio::test]
async fn a_dry_run_answers_the_plan_and_changes_nothing() {
    let api = Fixture::new();
    let reply = api.put("document?dry_run=true", WHOLE).await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!((&reply.body["dry_run"], &reply.body["changed"]), (&json!(true), &json!(true)));
    assert_eq!(reply.body["plan"]["generation"], 1);
    assert_eq!(api.put("document?dry_run=true", "sites: 7").await.problem().0, "invalid-document");
    assert_eq!(api.revision(), 0);
    assert!(api.get("sites").await.body.as_object().unwrap().is_empty());
    assert!(api.brain.store().head().unwrap().is_none());
}

#[tokio::test]
async fn if_match_guards_against_a_lost_update() {
    let api = Fixture::full().await;
    assert_eq!(api.get("document").await.headers[header::ETAG], "\"1\"");
    let put = |revision: &str| {
        let request = Request::put(format!("{PREFIX}/sites/c")).extension(ROOT);
        request.header(header::IF_MATCH, revision).body(Body::from("{}")).unwrap()
    };
    let reply = api.send(put("\"7\"")).await;
    assert_eq!((reply.status, reply.problem().0), (StatusCode::PRECONDITION_FAILED, "other-revision"));
    assert_eq!(api.send(put("newest")).await.problem().0, "parameter");
    assert_eq!(api.send(put("\"1\"")).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_change_may_wait_until_it_is_applied() {
    let api = Fixture::new();
    assert_eq!(api.put("document?wait_s=30", WHOLE).await.body["applied"], true);
    api.stopper.send(true).unwrap();
    let wait = api.brain.wait_applied(99, Duration::from_millis(10)).await;
    assert_eq!(wait.unwrap_err().generation, 1);
}

#[tokio::test]
async fn revisions_are_shown_compared_and_restored() {
    let api = Fixture::full().await;
    api.put("sites/c", "{}").await;
    api.put("sites/c", "description: x").await;
    let list = api.get("revisions?limit=2").await.body;
    assert_eq!((&list[0]["revision"], &list[0]["action"]), (&json!(3), &json!("put sites.c")));
    assert_eq!(list.as_array().unwrap().len(), 2);
    let shown = api.get("revisions/3").await.body;
    assert_eq!(shown["changes"][0]["before"], json!({ "description": "" }));
    assert_eq!(shown["document"]["sites"]["c"]["description"], "x");
    let compared = api.get("revisions/3?against=1").await.body;
    assert_eq!(compared["changes"][0]["change"], "created");
    let restored = api.ask(Method::POST, "revisions/1/restore", "").await;
    assert_eq!(restored.body["revision"], 4);
    assert_eq!(api.get("revisions/4?against=1").await.body["changes"], json!([]));
    assert_eq!(api.get("audit").await.body[0]["action"], "restore 1");
}

fn with_node(document: &Document) -> Document {
    let mut tree = crate::store::tree(document);
    let node = json!({ "gateway": "gw-a", "segment": "lab-net", "kind": "gpu", "mode": "l3",
        "addresses": ["10.10.0.140", "fd00:10::a:40"], "mac": "02:47:00:00:00:01",
        "token_sha256": "ab".repeat(32),
        "created": "2026-01-01T00:00:00Z", "expires": "2026-01-02T00:00:00Z" });
    tree.insert("nodes".to_owned(), json!({ "n1": node }));
    read_document(&Value::Object(tree)).unwrap()
}

#[tokio::test]
async fn nodes_are_kept_by_documents_and_their_tokens_are_not_shown() {
    let api = Fixture::full().await;
    let attach = |head: &crate::brain::Head| Ok::<_, ChangeError>(with_node(head.desired.document()));
    let applied = api.brain.change(Actor::own("test"), "attach n1", attach).await.unwrap();
    assert_eq!(applied.changes[0].object, "nodes.n1");

    let shown = api.get("document").await.body;
    assert_eq!(shown["nodes"]["n1"]["token_sha256"], "(secret)");
    assert_eq!(api.get("nodes/n1").await.body["token_sha256"], "(secret)");
    let revision = api.get("revisions/2").await.body;
    assert!(!revision.to_string().contains("abab"), "{revision}");

    assert_eq!(api.put("document", WHOLE).await.body["changed"], false);
    assert_eq!(api.put("document", &shown.to_string()).await.body["changed"], false);
    let mut other = shown.clone();
    other["nodes"]["n1"]["kind"] = json!("cpu");
    assert_eq!(api.put("document", &other.to_string()).await.problem().1, ["nodes.n1"]);
    assert_eq!(api.ask(Method::POST, "apply", &other.to_string()).await.problem().1, ["nodes.n1"]);
    assert_eq!(api.ask(Method::POST, "revisions/1/restore", "").await.body["changed"], false);
}

#[tokio::test]
async fn the_openapi_document_lists_every_route() {
    let api = Fixture::full().await;
    let openapi = api.get("openapi.json").await.body;
    let paths = openapi["paths"].as_object().unwrap();
    for kind in watari_config::document::KINDS {
        let one = &paths[&format!("{PREFIX}/{kind}/{{name}}")];
        assert!(one["get"].is_object() && paths[&format!("{PREFIX}/{kind}")]["get"].is_object(), "{kind}");
        assert_eq!(one["put"].is_object() && one["delete"].is_object(), kind != "nodes", "{kind}");
    }
    let ours = [
        "document",
        "apply",
        "plan",
        "status",
        "facts",
        "doctor/mtu",
        "duplicates",
        "duplicates/{vni}/{address}",
        "events",
        "events/stream",
        "revisions",
        "revisions/{n}",
        "revisions/{n}/restore",
        "audit",
        "docs",
        "healthz",
    ];
    for path in ours {
        assert!(paths.contains_key(&format!("{PREFIX}/{path}")), "{path}");
    }
    for (path, item) in paths {
        let path = path.strip_prefix("/api/v1/").unwrap().replace("{name}", "x").replace("{n}", "1");
        if path != "events/stream" && item["get"].is_object() {
            let reply = api.get(&path).await;
            assert_ne!(reply.body["type"], "urn:watari:problem:unknown-route", "{path}");
        }
    }
    let text = openapi.to_string();
    let references = text.split("#/components/schemas/").skip(1).map(|r| r.split('"').next().unwrap());
    for name in references {
        assert!(openapi["components"]["schemas"][name].is_object(), "schema {name} is not there");
    }
    let segment = &openapi["components"]["schemas"]["Segment"];
    assert!(segment["properties"]["vni"]["description"].is_string(), "{segment}");
}

#[tokio::test]
async fn other_modules_bring_routes_to_the_same_paths() {
    let attach =
        axum::routing::post(|axum::Extension(actor): axum::Extension<Actor>| async move { actor.name });
    let api = Fixture::with(vec![OpenApiRouter::new().route("/nodes", attach)]);
    assert_eq!(api.ask(Method::POST, "nodes", "").await.status, StatusCode::OK);
    assert_eq!(api.get("nodes").await.body, json!({}));
}

#[tokio::test]
async fn the_doctor_speaks_of_one_tunnel_or_all() {
    let api = Fixture::new();
    assert_eq!(api.get("doctor/mtu").await.body, json!([]));
    let facts = json!({ "mtu": [{ "tunnel": "ab", "carried": 1340 }, { "tunnel": "ac", "carried": 1500 }] });
    api.brain.publish(View { facts: facts.clone(), ..View::unseen() });
    assert_eq!(api.get("doctor/mtu").await.body, facts["mtu"]);
    assert_eq!(api.get("doctor/mtu?tunnel=ac").await.body, json!([facts["mtu"][1]]));
    assert_eq!(api.get("doctor/mtu?tunnel=ad").await.problem().0, "not-found");
    assert_eq!(api.get("doctor/mtu?tunel=ab").await.problem().0, "parameter");
}

#[tokio::test]
async fn a_duplicate_is_listed_and_cleared() {
    let api = Fixture::new();
    let none = api.ask(Method::DELETE, "duplicates/100/02:00:00:00:00:01", "").await;
    assert_eq!(none.problem().0, "unavailable", "nobody takes the request");
    let mut orders = api.brain.take_orders().unwrap();
    tokio::spawn(async move {
        while let Some(Order::Clear { subject, reply }) = orders.recv().await {
            let _ = reply.send(subject.to_string() == "02:00:00:00:00:01");
        }
    });
    assert_eq!(api.get("duplicates").await.body, json!([]));
    let facts = json!({ "duplicates": [{ "vni": 100, "mac": "02:00:00:00:00:01" }] });
    api.brain.publish(View { facts: facts.clone(), ..View::unseen() });
    assert_eq!(api.get("duplicates").await.body, facts["duplicates"]);
    let cleared = api.ask(Method::DELETE, "duplicates/100/02:00:00:00:00:01", "").await;
    assert_eq!((cleared.status, &cleared.body["vni"]), (StatusCode::OK, &json!(100)));
    let events = api.brain.events().after(0);
    let event = events.iter().find(|e| e.kind == "duplicate").expect("an event");
    assert_eq!(event.message, "cleared by root from unix pid 1");
    let other = api.ask(Method::DELETE, "duplicates/100/10.0.0.1", "").await;
    assert_eq!(other.problem().0, "not-found");
    assert_eq!(api.ask(Method::DELETE, "duplicates/100/x", "").await.problem().0, "parameter");
}

#[tokio::test]
async fn a_neighbour_is_reset_or_it_is_said_why_not() {
    let api = Fixture::new();
    let mut orders = api.brain.take_orders().unwrap();
    tokio::spawn(async move {
        while let Some(Order::Reset { neighbour, reset, reply }) = orders.recv().await {
            let _ = reply.send(match (neighbour.as_str(), reset) {
                ("peers.near", _) => Ok(()),
                ("peers.far", Reset::SoftIn) => Err(NotReset::NoRefresh),
                _ => Err(NotReset::Unknown),
            });
        }
    });
    let reset = async |path: &str| api.ask(Method::POST, &format!("bgp/neighbours/{path}"), "").await;
    for (path, done) in [
        ("near/reset", "reset"),
        ("near/reset?soft=in", "soft reset in"),
        ("near/reset?soft=out", "soft reset out"),
    ] {
        let reply = reset(&format!("peers.{path}")).await;
        assert_eq!((reply.status, &reply.body["done"]), (StatusCode::OK, &json!(done)), "{}", reply.body);
    }
    let events = api.brain.events().after(0);
    let event = events.iter().find(|e| e.kind == "bgp").expect("an event");
    assert_eq!(
        (event.object.as_str(), event.message.as_str()),
        ("peers.near", "reset by root from unix pid 1")
    );
    assert_eq!(reset("peers.far/reset?soft=in").await.problem().0, "conflict");
    assert_eq!(reset("peers.far/reset").await.problem().0, "not-found");
    assert_eq!(reset("peers.near/reset?soft=both").await.problem().0, "parameter");
    assert_eq!(reset("peers.near/reset?hard=yes").await.problem().0, "parameter");
    let log = api.get("audit").await.body.to_string();
    assert!(log.contains("POST /api/v1/bgp/neighbours/peers.near/reset"), "{log}");
}

#[tokio::test]
async fn events_tell_what_happened() {
    let api = Fixture::full().await;
    api.brain.events().emit("repaired", "tunnels.ab-wg", "its address was gone");
    let events = api.get("events").await.body;
    assert_eq!((&events[0]["kind"], &events[1]["object"]), (&json!("changed"), &json!("tunnels.ab-wg")));
    assert_eq!(api.get("events?after=1").await.body.as_array().unwrap().len(), 1);

    let request = Request::get(format!("{PREFIX}/events/stream?after=1")).extension(ROOT);
    let response = api.router.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
    let mut body = response.into_body();
    let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&first).contains("its address was gone"));
    api.brain.events().emit("failed", "", "second");
    let second = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(String::from_utf8_lossy(&second).contains("second"));
    api.stopper.send(true).unwrap();
    assert!(body.frame().await.is_none(), "the stream ends with the daemon");
}

#[tokio::test]
async fn facts_have_the_public_halves_only() {
    let api = Fixture::new();
    let facts = api.get("facts").await.body;
    assert_eq!(facts["gateway"], "gw-a");
    assert_eq!(facts["wireguard_key"], json!(api.brain.secrets().wireguard_public()));
    assert_eq!(facts["tls_fingerprint"], json!(api.brain.secrets().tls_pin()));
}

#[tokio::test]
async fn changes_happen_one_after_the_other() {
    let api = Fixture::new();
    let puts = (0..40).map(|i| {
        let brain = api.brain.clone();
        tokio::spawn(async move {
            let put =
                move |head: &crate::brain::Head| super::edit::put(head, "sites", &format!("s{i}"), json!({}));
            brain.change(Actor::own("test"), format!("put {i}"), put).await.unwrap()
        })
    });
    let mut revisions = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        revisions.push(put.await.unwrap().revision);
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (1..=40).collect::<Vec<_>>());
    assert_eq!(api.brain.desired().document().sites.len(), 40);
}

#[tokio::test]
async fn a_change_whose_caller_went_away_is_whole() {
    let api = Fixture::new();
    let (started, mut begun) = tokio::sync::mpsc::channel(1);
    let change = api.brain.change(Actor::own("test"), "put", move |head| {
        started.blocking_send(()).unwrap();
        super::edit::put(head, "sites", "a", json!({}))
    });
    tokio::select! {
        _ = begun.recv() => {}
        _ = change => {}
    }
    let mut head = api.brain.watch_desired();
    let published = head.wait_for(|h| h.revision == 1);
    tokio::time::timeout(Duration::from_secs(10), published).await.unwrap().unwrap();
    assert_eq!(api.brain.store().head().unwrap().unwrap().revision.revision, 1);
}

#[tokio::test]
async fn the_listeners_serve_root_tls_and_nobody_else() {
    let api = Fixture::full().await;
    let dir = tempfile::tempdir().unwrap();
    // The system picks a free port; it is taken again at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = Bootstrap::parse("gateway: gw-a\nstate_dir: /s\nrun_dir: /r\napi: {}\n").unwrap().api;
    (config.listen, config.tls) = (Some(port), true);
    let listeners = Listeners::open(dir.path(), &config, api.brain.secrets()).await.unwrap();
    let serving = tokio::spawn(listeners.serve(api.router.clone(), api.stopper.subscribe()));

    let pin = api.brain.secrets().tls_pin().to_string();
    let url = format!("https://{port}");
    let token = || Some(TOKEN.to_owned());
    let good = Client::url(&url, Some(&pin), token()).unwrap();
    assert_eq!(good.get("sites/a").await.unwrap()["description"], "University A");
    let other_pin = format!("sha256:{}", "0".repeat(64));
    let refused = Client::url(&url, Some(&other_pin), token()).unwrap().get("sites").await.unwrap_err();
    assert!(matches!(refused, client::ClientError::Connect { .. }), "{refused}");
    let refused = Client::url(&url, Some(&pin), None).unwrap().get("sites").await.unwrap_err();
    assert!(matches!(&refused, client::ClientError::Refused(p) if p.status == 401), "{refused}");
    assert!(Client::url(&url, None, None).is_err(), "https needs a fingerprint");

    let socket = dir.path().join(super::serve::SOCKET);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let answer = Client::unix(&socket, token()).get("sites").await.unwrap();
    assert_eq!(answer.as_object().unwrap().len(), 2);

    api.stopper.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    assert!(!socket.exists());
}

/// `watari openapi > docs/openapi.json` writes it anew.
#[test]
fn the_description_that_is_checked_in_is_this_one() {
    let checked_in: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let now = serde_json::to_value(super::description()).unwrap();
    for (path, item) in now["paths"].as_object().unwrap() {
        assert_eq!(&checked_in["paths"][path], item, "{path}");
    }
    assert!(checked_in == now, "docs/openapi.json is of another version");
}

/// What a gateway serves is what is checked in, but for the operations of parts that it is not given here.
#[tokio::test]
async fn the_description_that_is_served_is_this_one() {
    let served = Fixture::new().get("openapi.json").await.body;
    let whole = serde_json::to_value(super::description()).unwrap();
    for (path, item) in served["paths"].as_object().unwrap() {
        // Nodes are listed here and attached by a part that is not.
        let is_shared = path.ends_with("/nodes") || path.ends_with("/nodes/{name}");
        assert!(is_shared || &whole["paths"][path] == item, "{path}");
    }
    assert_eq!(whole["openapi"], "3.1.0");
    let refused = &whole["paths"]["/api/v1/status"]["get"]["responses"]["4XX"]["content"];
    assert!(refused["application/problem+json"].is_object(), "{refused}");
    assert_eq!(whole["paths"]["/api/v1/healthz"]["get"]["security"], json!([]));
}

#[test]
fn the_example_document_is_valid() {
    read_document(&parse_text(WHOLE).unwrap()).unwrap();
}
