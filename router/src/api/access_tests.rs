//! Who may do what, over the whole API: every operation with every credential, and what the audit log says of it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt as _;
use jiff::SignedDuration;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use watari_config::Name;

use super::PREFIX;
use super::auth::Caller;
use super::tests::{Fixture, Reply};
use crate::access::operation;
use crate::access::token::{Policy, Revoked, Secret, Token, Wish};
use crate::actor::{Actor, Role};
use crate::events::now;

const TENANT: &str = "lab";
const HERE: &str = "192.0.2.7";

/// Who may do an operation: the least role, and whether callers bound to tenants may. Written down a second time on purpose.
fn expected(method: &Method, path: &str) -> (Role, bool) {
    let is_read = *method == Method::GET || path == "/trace";
    let first = path.split('/').nth(1).unwrap_or_default();
    match (first, path) {
        ("openapi.json", _) | (_, "/tokens/self" | "/tokens/self/rotate") => (Role::Node, true),
        ("tokens", _) => (Role::Admin, true),
        ("audit", _) => (Role::Admin, false),
        ("monitor" | "capture" | "measure", _) => (Role::Operator, false),
        (
            "plan" | "status" | "facts" | "events" | "doctor" | "bgp" | "duplicates" | "revisions" | "trace"
            | "why",
            _,
        ) => (if is_read { Role::Viewer } else { Role::Operator }, false),
        _ => (if is_read { Role::Viewer } else { Role::Operator }, true),
    }
}

fn rank(role: Role) -> u8 {
    match role {
        Role::Node => 0,
        Role::Viewer => 1,
        Role::Operator => 2,
        Role::Admin => 3,
    }
}

/// A route for each operation that other modules bring: it answers 200.
fn others() -> Vec<OpenApiRouter> {
    let theirs = [
        "/nodes/{name}/receipt",
        "/nodes/{name}/renew",
        "/trace",
        "/why",
        "/monitor",
        "/capture",
        "/measure",
    ];
    let mut router = OpenApiRouter::new();
    for (method, path, _) in operation::all() {
        let is_theirs = theirs.contains(&path.as_str())
            || (path == "/nodes" && method == Method::POST)
            || (path == "/nodes/{name}" && method == Method::DELETE);
        if is_theirs {
            let filter = axum::routing::MethodFilter::try_from(method).unwrap();
            router = router.route(&path, axum::routing::on(filter, || async { "done" }));
        }
    }
    vec![router]
}

/// Makes a token and lets `edit` spoil it.
fn token(api: &Fixture, seed: u8, role: Role, tenants: &[&str], edit: impl FnOnce(&mut Token)) -> String {
    let secret = Secret::of(&[seed; 40]);
    let policy = Policy { life: SignedDuration::from_hours(1), life_max: SignedDuration::from_hours(1) };
    let tenants = tenants.iter().map(|t| t.parse::<Name>().unwrap()).collect();
    let role_made = if role == Role::Node { Role::Viewer } else { role };
    let wish = Wish { name: format!("t{seed}"), role: role_made, tenants, sources: vec![], life: None };
    let mut token = policy.make(wish, &secret, "test", now()).unwrap();
    token.role = role;
    edit(&mut token);
    api.brain.store().keep_tokens(&[token], &[], &[]).unwrap();
    secret.expose().to_owned()
}

async fn ask(api: &Fixture, method: &Method, path: &str, token: Option<&str>) -> StatusCode {
    let address: SocketAddr = format!("{HERE}:4000").parse().unwrap();
    let mut request = Request::builder()
        .method(method.clone())
        .uri(format!("{PREFIX}{path}"))
        .extension(Caller::Tcp(address));
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    // The head alone: the answer of a stream has no end.
    api.head(request.body(Body::empty()).unwrap()).await
}

fn concrete(path: &str) -> String {
    let filled = path.replace("{vni}", "100").replace("{n}", "1").replace("{address}", "10.0.0.1");
    let filled = filled.replace("{name}", "none").replace("{id}", "none").replace("{neighbour}", "none");
    assert!(!filled.contains('{'), "{path}");
    filled
}

#[test]
fn every_operation_stands_in_the_table_and_the_other_way_round() {
    let listed: BTreeSet<(String, String)> =
        operation::all().into_iter().map(|(method, path, _)| (method.to_string(), path)).collect();
    let mut found: BTreeSet<(String, String)> = BTreeSet::new();
    let nodes = crate::nodes::routes::routes().merge(crate::nodes::measure::routes());
    let nodes = serde_json::to_value(nodes.get_openapi()).unwrap();
    let explain = serde_json::to_value(crate::explain::routes().get_openapi()).unwrap();
    for document in [&serde_json::to_value(super::own_routes().get_openapi()).unwrap(), &nodes, &explain] {
        for (path, item) in document["paths"].as_object().unwrap() {
            let path = path.strip_prefix(PREFIX).unwrap_or(path);
            for method in ["get", "put", "post", "delete", "patch"] {
                if item.get(method).is_some() {
                    found.insert((method.to_uppercase(), path.to_owned()));
                }
            }
        }
    }
    // The document does not describe itself.
    found.insert(("GET".to_owned(), "/openapi.json".to_owned()));
    assert_eq!(found, listed);
}

#[tokio::test]
async fn every_operation_with_every_credential() {
    let api = Fixture::with(others());
    let past = now().checked_sub(SignedDuration::from_secs(1)).unwrap();
    let good = [
        (token(&api, 1, Role::Admin, &[], |_| {}), Role::Admin, false),
        (token(&api, 2, Role::Operator, &[], |_| {}), Role::Operator, false),
        (token(&api, 3, Role::Viewer, &[], |_| {}), Role::Viewer, false),
        (token(&api, 4, Role::Node, &[], |_| {}), Role::Node, false),
        (token(&api, 5, Role::Admin, &[TENANT], |_| {}), Role::Admin, true),
        (token(&api, 6, Role::Operator, &[TENANT], |_| {}), Role::Operator, true),
        (token(&api, 7, Role::Viewer, &[TENANT], |_| {}), Role::Viewer, true),
        (
            token(&api, 8, Role::Admin, &[], |t| t.sources = vec!["192.0.2.0/24".parse().unwrap()]),
            Role::Admin,
            false,
        ),
    ];
    let bad = [
        token(&api, 11, Role::Admin, &[], |t| t.expires = past),
        token(&api, 12, Role::Admin, &[], |t| t.revoked = Some(Revoked { at: past, by: "test".to_owned() })),
        token(&api, 13, Role::Admin, &[], |t| t.sources = vec!["198.51.100.0/24".parse().unwrap()]),
        Secret::of(&[99; 40]).expose().to_owned(),
        format!("{}02", &good[0].0[..good[0].0.len() - 2]),
        "wtr_".to_owned(),
        "not a token".to_owned(),
    ];
    let api = api.reloaded(others());
    // Nobody obeys an order here: let the answer be that, at once.
    drop(api.brain.take_orders());
    for (method, path, _) in operation::all() {
        let at = concrete(&path);
        if ["/healthz", "/docs"].contains(&path.as_str()) {
            assert_eq!(ask(&api, &method, &at, None).await, StatusCode::OK);
            continue;
        }
        for token in bad.iter().map(|t| Some(t.as_str())).chain([None]) {
            let status = ask(&api, &method, &at, token).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path} with {token:?}");
        }
        let (least, for_tenants) = expected(&method, &path);
        for (token, role, bound) in &good {
            // It would end the credential with which the others are tried.
            if path.ends_with("/self/rotate") {
                continue;
            }
            let may = rank(*role) >= rank(least) && (for_tenants || !bound);
            let status = ask(&api, &method, &at, Some(token)).await;
            assert_ne!(status, StatusCode::UNAUTHORIZED, "{method} {path} as {role:?}");
            assert_eq!(
                status != StatusCode::FORBIDDEN,
                may,
                "{method} {path} as {role:?}, bound {bound}: {status}"
            );
        }
    }
}

async fn with(api: &Fixture, token: &str, method: Method, path: &str, body: &str) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(format!("{PREFIX}/{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"));
    api.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

async fn created(api: &Fixture, body: Value) -> (String, String) {
    let reply = api.ask(Method::POST, "tokens", &body.to_string()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{}", reply.body);
    assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
    let text = |field: &str| reply.body[field].as_str().unwrap().to_owned();
    (text("id"), text("token"))
}

#[tokio::test]
async fn a_token_is_made_shown_once_rotated_prolonged_and_revoked() {
    let api = Fixture::full().await;
    let (id, first) = created(&api, json!({ "name": "alice", "role": "viewer", "life": "30m" })).await;
    let own = with(&api, &first, Method::GET, "tokens/self", "").await;
    assert_eq!((&own.body["name"], &own.body["state"]), (&json!("alice"), &json!("valid")));
    assert!(own.body["last_used"]["at"].is_string() && own.body.get("token").is_none(), "{}", own.body);

    let rotated = with(&api, &first, Method::POST, "tokens/self/rotate", "{\"overlap\": \"1s\"}").await;
    assert_eq!(rotated.status, StatusCode::CREATED, "{}", rotated.body);
    let second = rotated.body["token"].as_str().unwrap().to_owned();
    assert_eq!(rotated.body["expires"], own.body["expires"], "it lives no longer");
    assert_eq!(api.get(&format!("tokens/{id}")).await.body["replaced_by"], rotated.body["id"]);
    assert_eq!(with(&api, &second, Method::GET, "sites", "").await.status, StatusCode::OK);

    let second_id = rotated.body["id"].as_str().unwrap();
    let too_long = api.ask(Method::POST, &format!("tokens/{second_id}/extend"), "life: 25h").await;
    assert_eq!(too_long.problem(), ("invalid-request", vec!["life"]));
    let extended = api.ask(Method::POST, &format!("tokens/{second_id}/extend"), "life: 24h").await;
    assert_eq!(extended.status, StatusCode::OK, "{}", extended.body);

    assert_eq!(api.ask(Method::DELETE, &format!("tokens/{second_id}"), "").await.body["state"], "revoked");
    let refused = with(&api, &second, Method::GET, "sites", "").await;
    assert_eq!(
        (refused.status, &refused.body["detail"]),
        (StatusCode::UNAUTHORIZED, &json!("the token was revoked"))
    );
    assert_eq!(api.ask(Method::DELETE, "tokens/0123456789abcdef", "").await.problem().0, "not-found");

    let log = api.get("audit").await.body.to_string();
    for action in ["create token", "rotate token", "extend token", "revoke token", "the token was revoked"] {
        assert!(log.contains(action), "{action} is not in {log}");
    }
    assert!(!log.contains(&first) && !log.contains(&second), "no token is in the log");
}

#[tokio::test]
async fn every_wrong_field_of_a_token_is_named_and_none_is_made() {
    let api = Fixture::full().await;
    let body = json!({ "name": 1, "role": "king", "sources": ["x"], "life": "0s", "colour": "red" });
    let reply = api.ask(Method::POST, "tokens", &body.to_string()).await;
    let (kind, fields) = reply.problem();
    assert_eq!(kind, "invalid-request");
    for field in ["name", "role", "sources[0]", "life", "colour"] {
        assert!(fields.contains(&field), "{field} is not in {fields:?}");
    }
    let forever = api.ask(Method::POST, "tokens", "{name: a, role: viewer, life: 25h}").await;
    assert_eq!(forever.problem(), ("invalid-request", vec!["life"]));
    let nobody = api.ask(Method::POST, "tokens", "{name: a, role: viewer, tenants: [nobody]}").await;
    assert_eq!(nobody.problem(), ("invalid-request", vec!["tenants[0]"]));
    assert_eq!(api.get("tokens").await.body, json!([]));
}

#[tokio::test]
async fn who_is_bound_to_a_tenant_sees_and_changes_its_objects_alone() {
    let api = Fixture::full().await;
    let other = "tenants: {other: {l3vni: 5001, node_port: 51901}}\nsegments: {far: {tenant: other, vni: 4711, subnets: [10.9.0.0/24], gateway: [10.9.0.1], mtu: 1370}}";
    let applied = api.ask(Method::POST, "apply", other).await;
    assert_eq!(applied.status, StatusCode::OK, "{}", applied.body);
    let (_, token) = created(&api, json!({ "name": "bob", "role": "admin", "tenants": ["other"] })).await;
    let get = async |path: &str| with(&api, &token, Method::GET, path, "").await;
    assert_eq!(get("segments").await.body.as_object().unwrap().keys().collect::<Vec<_>>(), ["far"]);
    assert_eq!(get("segments/lab-net").await.status, StatusCode::NOT_FOUND);
    let document = get("document").await.body;
    assert_eq!((document["gateways"].clone(), document.get("fabric")), (json!({}), None));

    let mut far = document["segments"]["far"].clone();
    far["mtu"] = json!(1280);
    let put = with(&api, &token, Method::PUT, "segments/far", &far.to_string()).await;
    assert_eq!(put.status, StatusCode::OK, "{}", put.body);
    far["tenant"] = json!("lab");
    let stolen = with(&api, &token, Method::PUT, "segments/far", &far.to_string()).await;
    assert_eq!(stolen.problem().0, "forbidden");
    let gone = with(&api, &token, Method::DELETE, "tunnels/ab-wg", "").await;
    assert_eq!(gone.problem().0, "forbidden");
    assert_eq!(with(&api, &token, Method::PUT, "document", "sites: {}").await.problem().0, "forbidden");

    let more = json!({ "name": "c", "role": "viewer" }).to_string();
    assert_eq!(
        with(&api, &token, Method::POST, "tokens", &more).await.problem().0,
        "forbidden",
        "no more than it is"
    );
    let fewer = json!({ "name": "c", "role": "viewer", "tenants": ["other"] }).to_string();
    assert_eq!(with(&api, &token, Method::POST, "tokens", &fewer).await.status, StatusCode::CREATED);
    assert_eq!(get("tokens").await.body.as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_stream_ends_with_its_token() {
    let api = Fixture::full().await;
    let (id, token) = created(&api, json!({ "name": "watcher", "role": "viewer" })).await;
    let request = Request::builder()
        .uri(format!("{PREFIX}/events/stream"))
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .body(Body::empty())
        .unwrap();
    let mut body = api.response(request).await.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data(), "what happened before comes first");
    let (tokens, root) = (api.tokens.clone(), Actor::own("test"));
    tokio::task::spawn_blocking(move || tokens.revoke(&root, &id)).await.unwrap().unwrap();
    let ended = async { while body.frame().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it ends with its token");
}

#[tokio::test]
async fn refusals_are_in_the_log_and_the_log_is_whole() {
    let api = Fixture::full().await;
    let (_, viewer) = created(&api, json!({ "name": "carol", "role": "viewer" })).await;
    assert_eq!(with(&api, &viewer, Method::DELETE, "sites/a", "").await.status, StatusCode::FORBIDDEN);
    assert_eq!(with(&api, "wtr_x", Method::GET, "facts", "").await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(api.put("document", "sites: 1").await.status, StatusCode::UNPROCESSABLE_ENTITY);

    let log = api.get("audit").await.body;
    let refused: Vec<&Value> = log.as_array().unwrap().iter().filter(|e| e["outcome"] == "refused").collect();
    let of =
        |who: &str| refused.iter().find(|e| e["who"] == who).unwrap_or_else(|| panic!("{who}: {refused:?}"));
    assert_eq!(
        (&of("carol")["action"], &of("carol")["role"]),
        (&json!("DELETE /api/v1/sites/a"), &json!("viewer"))
    );
    assert_eq!(of("nobody")["summary"], "the token is malformed");
    assert_eq!(of("root")["summary"], "refused with 422 Unprocessable Entity");
    let check = api.get("audit/check").await.body;
    assert_eq!((&check["intact"], &check["entries"]), (&json!(true), &json!(log.as_array().unwrap().len())));
}
