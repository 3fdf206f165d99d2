//! The audit log: read, exported line by line, and checked.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::history::{LIST_MAX, ListArgs};
use super::problem::Problem;
use super::request::{NUMBER_MAX, Query, at_most};
use crate::events::now;
use crate::store::{AuditCheck, AuditEntry, StoreError};

/// Which part of the log is exported.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LineArgs {
    /// Entries with a higher number.
    #[serde(deserialize_with = "at_most::<NUMBER_MAX, _, _>")]
    after: u64,
    /// The most entries; at most 1000.
    #[param(maximum = 1000)]
    #[serde(deserialize_with = "at_most::<1000, _, _>")]
    limit: usize,
}

impl Default for LineArgs {
    fn default() -> Self {
        Self { after: 0, limit: LIST_MAX }
    }
}

/// Writes what waits to be written, so that who reads the log sees what happened before; it waits on when the store fails.
pub async fn write_waiting(api: &Api) -> Result<(), StoreError> {
    let notes = api.ledger.take(now());
    if notes.is_empty() {
        return Ok(());
    }
    let (written, ledger) = (notes.clone(), &api.ledger);
    let kept = api.brain.with_store(move |store| store.note(&written)).await;
    kept.inspect_err(|_| ledger.put_back(notes))
}

/// Who did what, from where and when, and how it ended; newest first.
#[utoipa::path(get, path = "/audit", tag = "audit", params(ListArgs), responses((status = 200, body = Vec<AuditEntry>)))]
async fn list(
    State(api): State<Arc<Api>>,
    Query(args): Query<ListArgs>,
) -> Result<Json<Vec<AuditEntry>>, Problem> {
    write_waiting(&api).await?;
    let limit = args.limit;
    Ok(Json(api.brain.with_store(move |s| s.audit(limit)).await?))
}

/// The log as JSON lines, oldest first: `{"prev":…,"hash":…,"entry":…}`, where the hash is the SHA-256 of `prev` and of the text
/// of the entry.
#[utoipa::path(get, path = "/audit/lines", tag = "audit", params(LineArgs),
    responses((status = 200, content_type = "application/x-ndjson", body = String)))]
async fn lines(
    State(api): State<Arc<Api>>,
    Query(args): Query<LineArgs>,
) -> Result<impl IntoResponse, Problem> {
    write_waiting(&api).await?;
    let limit = args.limit;
    let lines = api.brain.with_store(move |s| s.audit_lines(args.after, limit)).await?;
    let text: String = lines.iter().map(|line| line.to_text() + "\n").collect();
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], text))
}

/// Whether the log is whole: nothing in it was changed or taken away.
#[utoipa::path(get, path = "/audit/check", tag = "audit", responses((status = 200, body = AuditCheck)))]
async fn check(State(api): State<Arc<Api>>) -> Result<Json<AuditCheck>, Problem> {
    write_waiting(&api).await?;
    Ok(Json(api.brain.with_store(|s| s.check_audit()).await?))
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(lines)).routes(routes!(check))
}
