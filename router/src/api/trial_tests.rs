//! Changes on trial, over the API: what goes back by itself, what stays, and who may decide it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode, header};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::sync::watch;
use watari_config::Name;

use super::PREFIX;
use super::tests::{Fixture, ROOT, Reply};
use crate::access::scope::Scope;
use crate::actor::{Actor, Role};
use crate::brain::{Brain, ChangeError};
use crate::events::now;
use crate::store::{Change, RedbStore, Secrets, Store as _, TrialStep, diff};
use crate::trial::{Trial, watch as trial_watch};

const NEW: &str = r#"{ "description": "new" }"#;

/// A gateway with a document and the task that ends trials.
async fn watched() -> (Fixture, watch::Sender<bool>) {
    let api = Fixture::full().await;
    let (stopper, stop) = watch::channel(false);
    tokio::spawn(trial_watch::run(api.brain.clone(), stop));
    (api, stopper)
}

/// Waits until nothing is on trial.
async fn ended(brain: &Arc<Brain>) {
    let mut head = brain.watch_desired();
    let over = head.wait_for(|head| head.trial.is_none());
    tokio::time::timeout(Duration::from_secs(60), over).await.expect("it ends").unwrap();
}

async fn if_match(api: &Fixture, path: &str, revision: u64) -> Reply {
    let request = Request::post(format!("{PREFIX}/{path}")).extension(ROOT);
    let request = request.header(header::IF_MATCH, format!("\"{revision}\""));
    api.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn what_nobody_confirms_goes_back() {
    let (api, _stopper) = watched().await;
    let made = api.put("sites/x?confirm_s=5&reason=try%20it", NEW).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!((&made.body["trial"]["revision"], &made.body["trial"]["back_to"]), (&json!(2), &json!(1)));
    assert_eq!(api.get("trial").await.body["who"], "root");
    let other = api.put("sites/y", NEW).await;
    assert_eq!((other.status, other.problem().0), (StatusCode::CONFLICT, "on-trial"));

    ended(&api.brain).await;
    assert_eq!(api.get("sites/x").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.get("trial").await.status, StatusCode::NOT_FOUND);
    let log = api.get("revisions").await.body;
    assert_eq!((&log[0]["action"], &log[0]["who"]), (&json!("go back to 1"), &json!("trial")));
    assert_eq!(log[0]["reason"], "revision 2 of root was not confirmed");
    assert_eq!(log[1]["reason"], "try it");
    assert_eq!(api.put("sites/y", NEW).await.status, StatusCode::CREATED, "changes are possible again");
}

#[tokio::test]
async fn what_is_confirmed_stays() {
    let (api, _stopper) = watched().await;
    assert_eq!(api.put("sites/x?confirm_s=5", NEW).await.status, StatusCode::CREATED);
    let refused = if_match(&api, "trial/confirm", 1).await;
    assert_eq!((refused.status, refused.problem().0), (StatusCode::CONFLICT, "conflict"));
    assert_eq!(if_match(&api, "trial/confirm", 2).await.status, StatusCode::OK);
    assert_eq!(api.get("sites/x").await.status, StatusCode::OK);
    assert_eq!(api.revision(), 2);
    assert_eq!(api.ask(Method::POST, "trial/confirm", "").await.status, StatusCode::CONFLICT);
    assert_eq!(api.get("audit").await.body[1]["action"], "confirm");
}

#[tokio::test]
async fn a_trial_may_be_undone_at_once() {
    let (api, _stopper) = watched().await;
    api.put("sites/x?confirm_s=3600", NEW).await;
    let undone = api.ask(Method::POST, "trial/rollback?reason=wrong%20site", "").await;
    assert_eq!((undone.status, &undone.body["revision"]), (StatusCode::OK, &json!(3)));
    assert_eq!(api.get("sites/x").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.get("revisions").await.body[0]["reason"], "wrong site");
}

#[tokio::test]
async fn a_change_of_nothing_is_not_on_trial() {
    let (api, _stopper) = watched().await;
    let same = api.get("sites/a").await.body.to_string();
    let made = api.put("sites/a?confirm_s=60", &same).await;
    assert_eq!((&made.body["changed"], &made.body["trial"]), (&json!(false), &Value::Null));
    assert_eq!(api.get("trial").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn arguments_out_of_range_are_refused() {
    let api = Fixture::full().await;
    let long = format!("sites/x?reason={}", "x".repeat(501));
    for path in [
        "sites/x?confirm_s=4",
        "sites/x?confirm_s=3601",
        "sites/x?prove_s=301",
        "sites/x?prove_s=1",
        "sites/x?confirm_s=10&prove_s=10",
        "sites/x?reason=two%0Alines",
        long.as_str(),
    ] {
        assert_eq!(api.put(path, NEW).await.problem().0, "parameter", "{path}");
    }
    assert_eq!(api.revision(), 1);
}

#[tokio::test]
async fn nodes_come_and_go_during_a_trial() {
    let (api, _stopper) = watched().await;
    api.put("sites/x?confirm_s=5", NEW).await;
    let node = json!({
        "gateway": "gw-a", "segment": "lab-net", "kind": "gpu", "addresses": ["10.10.0.130"],
        "mac": "02:47:00:00:00:01", "created": "2026-01-01T00:00:00Z", "expires": "2027-01-02T00:00:00Z",
    });
    let attach = move |head: &crate::brain::Head| super::edit::put(head, "nodes", "gpu-1", node);
    api.brain.change(Actor::own("test"), "attach gpu-1", attach).await.unwrap();
    ended(&api.brain).await;
    assert_eq!(api.get("sites/x").await.status, StatusCode::NOT_FOUND);
    assert_eq!(api.get("nodes/gpu-1").await.status, StatusCode::OK, "it was not on trial");
}

/// A store in `dir` whose newest revision is on trial since `ago`.
fn left_on_trial(dir: &std::path::Path, ago: SignedDuration) -> Arc<Brain> {
    let store = RedbStore::open(dir, "gw-a").unwrap();
    let document = |site: &str| {
        let text = format!("sites: {{ {site}: {{}} }}");
        watari_config::read_document(&watari_config::parse_text(&text).unwrap()).unwrap()
    };
    let (first, second, actor) = (document("a"), document("b"), Actor::own("test"));
    let since = now() - ago;
    let until = since + SignedDuration::from_secs(60);
    let trial = Trial { revision: 2, back_to: 1, who: "alice".to_owned(), since, until, proving: false };
    let empty = watari_config::Document::default();
    for (base, before, after, step) in
        [(0, &empty, &first, TrialStep::Stay), (1, &first, &second, TrialStep::Begin(trial))]
    {
        let changes = diff(before, after);
        let (action, reason, at) = ("apply", None, since);
        let change =
            Change { base, document: after, changes, actor: &actor, action, reason, trial: step, at };
        store.commit(&change).unwrap();
    }
    drop(store);
    let store = RedbStore::open(dir, "gw-a").unwrap();
    let secrets = Secrets::load(&store, "gw-a").unwrap();
    Brain::new("gw-a".parse().unwrap(), Arc::new(store), secrets).unwrap()
}

fn has_site(brain: &Brain, site: &str) -> bool {
    brain.desired().document().sites.contains_key(&site.parse::<Name>().unwrap())
}

#[tokio::test]
async fn a_trial_that_ended_while_the_daemon_was_away_goes_back_at_its_start() {
    let dir = tempfile::tempdir().unwrap();
    let brain = left_on_trial(dir.path(), SignedDuration::from_secs(61));
    trial_watch::settle(&brain).await;
    assert!(has_site(&brain, "a") && !has_site(&brain, "b"));
    assert_eq!(brain.store().trial().unwrap(), None);
    assert_eq!(brain.head().revision, 3);
}

#[tokio::test]
async fn a_trial_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let brain = left_on_trial(dir.path(), SignedDuration::from_secs(10));
    trial_watch::settle(&brain).await;
    assert!(has_site(&brain, "b"), "its time is not over");
    let kept = brain.confirm(Actor::own("test"), None).await.unwrap();
    assert_eq!(kept.revision, 2);
    assert_eq!(brain.store().trial().unwrap(), None);
    assert!(has_site(&brain, "b"));
}

#[tokio::test]
async fn who_is_bound_to_a_tenant_does_not_decide_for_others() {
    let (api, _stopper) = watched().await;
    api.put("sites/x?confirm_s=60", NEW).await;
    let scope = Scope::of(&["lab".parse().unwrap()]);
    let bound = Actor { scope, ..Actor::new("bob", Role::Operator, "test") };
    let refused = api.brain.confirm(bound.clone(), None).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Forbidden(_)), "{refused}");
    let refused = api.brain.roll_back(bound, "no".to_owned(), None).await.unwrap_err();
    assert!(matches!(refused, ChangeError::Forbidden(_)), "{refused}");
    assert!(api.brain.head().trial.is_some());
}

/// The document with the weight of a tunnel, by which the fixture tells which are up.
async fn with_weight(api: &Fixture, tunnel: &str, weight: u8) -> String {
    let mut tree = api.get(&format!("tunnels/{tunnel}")).await.body;
    tree["weight"] = json!(weight);
    tree.to_string()
}

#[tokio::test]
async fn a_change_after_which_something_is_down_goes_back_and_names_it() {
    let (api, _stopper) = watched().await;
    let tunnels = api.get("tunnels").await.body;
    let name = tunnels.as_object().unwrap().keys().next().unwrap().clone();
    let broken = with_weight(&api, &name, 99).await;
    let refused = api.put(&format!("tunnels/{name}?prove_s=2"), &broken).await;
    assert_eq!(refused.status, StatusCode::CONFLICT);
    let path = format!("tunnels.{name}");
    assert_eq!(refused.problem(), ("not-proved", vec![path.as_str()]));
    assert!(refused.body["errors"][0]["message"].as_str().unwrap().contains("nothing crosses"));
    assert_eq!(api.get(&format!("tunnels/{name}")).await.body, tunnels[&name]);
    assert!(api.brain.head().trial.is_none());
    assert_eq!(api.revision(), 3);
}

#[tokio::test]
async fn a_change_after_which_everything_holds_is_kept() {
    let (api, _stopper) = watched().await;
    let tunnels = api.get("tunnels").await.body;
    let name = tunnels.as_object().unwrap().keys().next().unwrap().clone();
    let changed = with_weight(&api, &name, 7).await;
    let made = api.put(&format!("tunnels/{name}?prove_s=5"), &changed).await;
    assert_eq!(made.status, StatusCode::OK, "{}", made.body);
    let held = made.body["proof"]["held"].as_array().unwrap();
    assert!(held.contains(&json!(format!("tunnels.{name} is up"))), "{held:?}");
    assert!(made.body["trial"].is_null() && api.brain.head().trial.is_none());

    // Removed on purpose: nothing is asked of it any more.
    let gone = api.ask(Method::DELETE, &format!("tunnels/{name}?prove_s=5"), "").await;
    assert_eq!(gone.status, StatusCode::OK, "{}", gone.body);
    assert_eq!(gone.body["proof"]["gone"], json!([format!("tunnels.{name} is up")]));

    // With a time to confirm it stays on trial all the same.
    let again = api.put(&format!("tunnels/{name}?prove_s=5&confirm_s=60"), &changed).await;
    assert_eq!(again.status, StatusCode::CREATED);
    assert!(again.body["trial"].is_object() && api.brain.head().trial.is_some());
}

#[tokio::test]
async fn nobody_confirms_what_is_still_being_proved() {
    let (api, _stopper) = watched().await;
    let broken = with_weight(&api, "ab-wg", 99).await;
    let (proving, deciding) = tokio::join!(api.put("tunnels/ab-wg?prove_s=3", &broken), async {
        let mut head = api.brain.watch_desired();
        let begun = head.wait_for(|head| head.trial.is_some());
        tokio::time::timeout(Duration::from_secs(20), begun).await.expect("it begins").unwrap();
        let confirmed = api.ask(Method::POST, "trial/confirm", "").await;
        let another = api.put("sites/x?prove_s=3", NEW).await;
        (confirmed, another)
    });
    let (confirmed, another) = deciding;
    assert_eq!((confirmed.status, confirmed.problem().0), (StatusCode::CONFLICT, "conflict"));
    assert_eq!(another.problem().0, "on-trial");
    assert_eq!(proving.problem(), ("not-proved", vec!["tunnels.ab-wg"]));
    assert_eq!(api.revision(), 3, "it went back all the same");
}

#[tokio::test]
async fn what_was_proved_may_then_be_confirmed() {
    let (api, _stopper) = watched().await;
    let changed = with_weight(&api, "ab-wg", 7).await;
    let made = api.put("tunnels/ab-wg?prove_s=2&confirm_s=60", &changed).await;
    assert_eq!((made.status, &made.body["trial"]["proving"]), (StatusCode::OK, &json!(false)));
    assert_eq!(api.ask(Method::POST, "trial/confirm", "").await.status, StatusCode::OK);
    assert_eq!(api.brain.store().trial().unwrap(), None);
}

#[tokio::test]
async fn a_failed_proof_goes_back_whoever_asked_for_the_change() {
    let (api, _stopper) = watched().await;
    let scope = Scope::of(&["lab".parse().unwrap()]);
    let bound = Actor { scope, ..Actor::new("bob", Role::Operator, "test") };
    let asked = crate::brain::Asked {
        trial: Some(SignedDuration::from_secs(60)),
        ..crate::brain::Asked::from("put sites.x")
    };
    // Somebody else's change: the bound caller is not told what is in it.
    let put = |head: &crate::brain::Head| super::edit::put(head, "sites", "x", json!({}));
    api.brain.change(Actor::own("test"), asked, put).await.unwrap();
    let refused = api.brain.roll_back(bound.clone(), "no".to_owned(), None).await.unwrap_err().to_string();
    assert!(refused.contains("bound to tenants") && !refused.contains("sites.x"), "{refused}");
    api.brain.roll_back(Actor { scope: Scope::All, ..bound }, "not proved".to_owned(), None).await.unwrap();
    assert!(api.brain.head().trial.is_none());
}
