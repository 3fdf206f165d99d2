//! Earlier revisions, shown, compared and restored.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_config::Document;

use super::document::{Answer, ChangeArgs, make};
use super::problem::Problem;
use super::request::{IfMatch, Path, Query, at_most};
use super::{Api, edit};
use crate::actor::Actor;
use crate::store::{ObjectChange, Revision, Stored, diff, without_secrets};

/// The most entries of one list.
pub(super) const LIST_MAX: usize = 1000;

/// How much of a list is wanted.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListArgs {
    /// The most entries, newest first; at most 1000.
    #[param(maximum = 1000)]
    #[serde(deserialize_with = "at_most::<1000, _, _>")]
    pub(super) limit: usize,
}

impl Default for ListArgs {
    fn default() -> Self {
        Self { limit: 100 }
    }
}

/// What a revision is compared with.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct CompareArgs {
    /// The revision whose document is the starting point of `changes`; without it, the one before.
    against: Option<u64>,
}

/// A revision with its document and what it changed.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct Shown {
    /// The revision.
    #[serde(flatten)]
    revision: Revision,
    /// The objects that differ from the revision it is compared with.
    changes: Vec<ObjectChange>,
    /// The document as it was then.
    #[schema(value_type = Document)]
    document: Value,
}

/// The newest revisions, newest first.
#[utoipa::path(get, path = "/revisions", tag = "history", params(ListArgs), responses((status = 200, body = Vec<Revision>)))]
async fn list(
    State(api): State<Arc<Api>>,
    Query(args): Query<ListArgs>,
) -> Result<Json<Vec<Revision>>, Problem> {
    let limit = args.limit;
    Ok(Json(api.brain.with_store(move |s| s.revisions(limit)).await?))
}

/// One revision, with its document and what it changed.
#[utoipa::path(get, path = "/revisions/{n}", tag = "history", params(("n" = u64, Path), CompareArgs),
    responses((status = 200, body = Shown), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn show(
    State(api): State<Arc<Api>>,
    Path(n): Path<u64>,
    Query(args): Query<CompareArgs>,
) -> Result<Json<Shown>, Problem> {
    let stored = kept(&api, n).await?;
    let changes = match args.against {
        Some(other) => diff(&kept(&api, other).await?.document, &stored.document),
        None => api.brain.with_store(move |s| s.journal(n)).await?.map(|j| j.changes).unwrap_or_default(),
    };
    let document = Value::Object(edit::shown(&stored.document));
    Ok(Json(Shown { revision: stored.revision, changes: without_secrets(changes), document }))
}

async fn kept(api: &Api, n: u64) -> Result<Stored, Problem> {
    let stored = api.brain.with_store(move |s| s.revision(n)).await?;
    stored.ok_or_else(|| Problem::not_found().with_detail(format!("revision {n} is not kept")))
}

/// Makes the document of an earlier revision the newest again, as a new revision. Nodes stay as they are now.
#[utoipa::path(post, path = "/revisions/{n}/restore", tag = "history", params(("n" = u64, Path), ChangeArgs),
    responses((status = 200, body = Answer), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn restore(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Path(n): Path<u64>,
    Query(args): Query<ChangeArgs>,
    IfMatch(wanted): IfMatch,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    let earlier = kept(&api, n).await?.document;
    make(&api, actor, args, format!("restore {n}"), move |head| {
        edit::check_revision(head, wanted)?;
        Ok(edit::restored(head, &earlier))
    })
    .await
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(show)).routes(routes!(restore))
}
