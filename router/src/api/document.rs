//! The whole document: read, replaced, merged into.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::{Extension, Json};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_config::Document;

use super::problem::Problem;
use super::proving::{self, Proving};
use super::request::{IfMatch, Query, Tree};
use super::{Api, edit};
use crate::actor::Actor;
use crate::brain::{Applied, Asked, ChangeError, Head};
use crate::store::{ChangeKind, ObjectChange, without_secrets};
use crate::trial::proof::Proof;
use crate::trial::{TRIAL_S_MAX, TRIAL_S_MIN, Trial};

/// The longest time a request may wait for its change to be applied, seconds.
const WAIT_S_MAX: u32 = 600;
/// The shortest and longest time that a proof may take, seconds: health is known anew after one and a half.
const PROVE_S_MIN: u32 = 2;
const PROVE_S_MAX: u32 = 300;
/// The most characters of a reason.
const REASON_MAX: usize = 500;

/// How a change is to be made.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ChangeArgs {
    /// Answer what would be done, and change nothing.
    pub dry_run: bool,
    /// Seconds to wait until the gateway is as desired, at most 600.
    #[param(maximum = 600)]
    pub wait_s: u32,
    /// The change is on trial for so many seconds, 5 to 3600, and goes back unless it is confirmed before, also when the
    /// daemon was not there at the end. 0: it is kept at once.
    #[param(maximum = 3600)]
    pub confirm_s: u32,
    /// What held before the change must hold within so many seconds after it, 2 to 300, else it goes back. 0: nothing is
    /// proved.
    #[param(maximum = 300)]
    pub prove_s: u32,
    /// Why, for the history; one line, at most 500 characters.
    #[param(max_length = 500)]
    pub reason: Option<String>,
}

impl ChangeArgs {
    fn check(&self) -> Result<(), Problem> {
        let refused = |detail: String| Err(Problem::parameter().with_detail(detail));
        if self.wait_s > WAIT_S_MAX {
            return refused(format!("wait_s is at most {WAIT_S_MAX}"));
        }
        if self.confirm_s != 0 && !(TRIAL_S_MIN..=TRIAL_S_MAX).contains(&self.confirm_s) {
            return refused(format!("confirm_s is 0 or from {TRIAL_S_MIN} to {TRIAL_S_MAX}"));
        }
        if self.prove_s != 0 && !(PROVE_S_MIN..=PROVE_S_MAX).contains(&self.prove_s) {
            return refused(format!("prove_s is 0 or from {PROVE_S_MIN} to {PROVE_S_MAX}"));
        }
        if self.confirm_s != 0 && self.confirm_s <= self.prove_s {
            return refused("the time to confirm must be longer than the time to prove".to_owned());
        }
        check_reason(self.reason.as_ref())
    }
}

/// Refuses a reason that is more than a line.
pub(super) fn check_reason(reason: Option<&String>) -> Result<(), Problem> {
    let is_line =
        |reason: &String| reason.chars().count() <= REASON_MAX && !reason.chars().any(char::is_control);
    if reason.is_none_or(is_line) {
        return Ok(());
    }
    Err(Problem::parameter().with_detail(format!("reason is one line of at most {REASON_MAX} characters")))
}

/// What a change made, or would make.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Answer {
    /// True when nothing was kept.
    pub dry_run: bool,
    /// The newest revision.
    pub revision: u64,
    /// The generation of the desired state; absent in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Whether the document is (or would be) another.
    pub changed: bool,
    /// The objects that changed, with what they were and are.
    pub changes: Vec<ObjectChange>,
    /// What this gateway would do; only in a dry run, and not for callers that are bound to tenants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<Value>,
    /// Whether the gateway became as desired within `wait_s`; absent without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<bool>,
    /// Until when it has to be confirmed; absent where it is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// What proved it; absent without `prove_s`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof: Option<Proof>,
}

impl From<Applied> for Answer {
    fn from(made: Applied) -> Self {
        Self {
            dry_run: false,
            revision: made.revision,
            generation: Some(made.generation),
            changed: made.changed,
            changes: without_secrets(made.changes),
            plan: None,
            applied: None,
            trial: made.trial,
            proof: None,
        }
    }
}

/// Makes the change that `edit` describes, or only says what it would do.
pub async fn make<F>(
    api: &Api,
    actor: Actor,
    args: ChangeArgs,
    action: String,
    edit: F,
) -> Result<(StatusCode, Json<Answer>), Problem>
where
    F: FnOnce(&Head) -> Result<Document, ChangeError> + Send + 'static,
{
    args.check()?;
    if args.dry_run {
        // The plan of a gateway tells of all its tenants.
        let sees_plan = actor.scope.is_all();
        let preview = api.brain.preview(actor, edit).await?;
        let answer = Answer {
            dry_run: true,
            revision: preview.revision,
            generation: None,
            changed: !preview.changes.is_empty(),
            changes: without_secrets(preview.changes),
            plan: sees_plan.then_some(preview.plan),
            applied: None,
            trial: None,
            proof: None,
        };
        return Ok((StatusCode::OK, Json(answer)));
    }
    let asked = Asked { action, reason: args.reason, trial: None, proving: false };
    let confirm = (args.confirm_s != 0).then(|| SignedDuration::from_secs(args.confirm_s.into()));
    let (made, proof) = match args.prove_s {
        0 => (api.brain.change(actor, Asked { trial: confirm, ..asked }, edit).await?, None),
        s => {
            let wanted = Proving { within: Duration::from_secs(s.into()), confirm };
            let (made, proof) = proving::prove(&api.brain, actor, asked, wanted, edit).await?;
            (made, Some(proof))
        }
    };
    let applied = match args.wait_s {
        0 => None,
        s => Some(api.brain.wait_applied(made.generation, Duration::from_secs(s.into())).await.is_ok()),
    };
    let created = matches!(made.changes.as_slice(), [one] if one.change == ChangeKind::Created);
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Answer { applied, proof, ..Answer::from(made) })))
}

/// The header `ETag` of a revision.
pub fn etag(revision: u64) -> [(HeaderName, HeaderValue); 1] {
    let value = HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes");
    [(header::ETAG, value)]
}

/// The whole document; for callers that are bound to tenants, the objects of these. `ETag` is its revision.
#[utoipa::path(get, path = "/document", tag = "document", responses((status = 200, body = Document)))]
async fn get_document(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
) -> impl axum::response::IntoResponse {
    let head = api.brain.head();
    (etag(head.revision), Json(actor.scope.seen(edit::shown(head.desired.document()))))
}

/// Replaces the whole document. Nodes stay: they have routes of their own.
#[utoipa::path(put, path = "/document", tag = "document", params(ChangeArgs,
    ("If-Match" = Option<String>, Header, description = "The revision that is replaced; refused when it is another")),
    request_body(content((Document = "application/json"), (Document = "application/yaml"))),
    responses((status = 200, body = Answer), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn put_document(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Query(args): Query<ChangeArgs>,
    IfMatch(wanted): IfMatch,
    Tree(given): Tree,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    make(&api, actor, args, "replace".to_owned(), move |head| {
        edit::check_revision(head, wanted)?;
        edit::replaced(head, given)
    })
    .await
}

/// Creates or replaces the objects given; all others stay.
#[utoipa::path(post, path = "/apply", tag = "document", params(ChangeArgs,
    ("If-Match" = Option<String>, Header, description = "The revision that is changed; refused when it is another")),
    request_body(content((Document = "application/json"), (Document = "application/yaml"))),
    responses((status = 200, body = Answer), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn apply(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Query(args): Query<ChangeArgs>,
    IfMatch(wanted): IfMatch,
    Tree(given): Tree,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    make(&api, actor, args, "apply".to_owned(), move |head| {
        edit::check_revision(head, wanted)?;
        edit::merged(head, given)
    })
    .await
}

/// The routes of the document.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(get_document, put_document)).routes(routes!(apply))
}
