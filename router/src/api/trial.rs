//! What is on trial: shown, confirmed, undone.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::document::Answer;
use super::problem::Problem;
use super::request::{IfMatch, Query};
use crate::actor::Actor;
use crate::trial::Trial;

/// Who made a change, for callers that are bound to tenants and did not make it.
const SOMEBODY: &str = "(somebody else)";

/// How a way back is described.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct BackArgs {
    /// Why, for the history; one line, at most 500 characters.
    #[param(max_length = 500)]
    reason: Option<String>,
}

/// The change that is on trial: it goes back at its end unless it is confirmed.
#[utoipa::path(get, path = "/trial", tag = "document",
    responses((status = 200, body = Trial), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn show(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<Trial>, Problem> {
    let trial = api.brain.head().trial.clone();
    let trial = trial.ok_or_else(|| Problem::not_found().with_detail("nothing is on trial"))?;
    let mut shown = Trial::clone(&trial);
    if !actor.scope.is_all() && shown.who != actor.name {
        SOMEBODY.clone_into(&mut shown.who);
    }
    Ok(Json(shown))
}

/// Keeps what is on trial.
#[utoipa::path(post, path = "/trial/confirm", tag = "document",
    params(("If-Match" = Option<String>, Header, description = "The revision on trial; refused when it is another")),
    responses((status = 200, body = Trial), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn confirm(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    IfMatch(wanted): IfMatch,
) -> Result<Json<Trial>, Problem> {
    Ok(Json(api.brain.confirm(actor, wanted).await?))
}

/// Goes back to before what is on trial, without waiting for its end.
#[utoipa::path(post, path = "/trial/rollback", tag = "document", params(BackArgs,
    ("If-Match" = Option<String>, Header, description = "The revision on trial; refused when it is another")),
    responses((status = 200, body = Answer), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn rollback(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Query(args): Query<BackArgs>,
    IfMatch(wanted): IfMatch,
) -> Result<Json<Answer>, Problem> {
    super::document::check_reason(args.reason.as_ref())?;
    let why = args.reason.unwrap_or_else(|| format!("{} asked for it", actor.name));
    Ok(Json(api.brain.roll_back(actor, why, wanted).await?.into()))
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(confirm)).routes(routes!(rollback))
}
