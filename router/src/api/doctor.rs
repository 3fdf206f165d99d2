//! The MTU doctor: how large a packet each tunnel carries, hop by hop, and why.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;
use super::problem::Problem;
use super::request::Query;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Which {
    /// Only this tunnel.
    tunnel: Option<String>,
}

/// For each tunnel of this gateway the hops from its hosts to the wire with the MTU of each, what was measured in both
/// directions, at which size it breaks, what limits it, and what could be done. Sizes are those of IP packets, in bytes.
#[utoipa::path(get, path = "/doctor/mtu", tag = "gateway", params(Which), responses(
    (status = 200, body = Vec<Value>),
    (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn mtu(State(api): State<Arc<Api>>, Query(which): Query<Which>) -> Result<Json<Vec<Value>>, Problem> {
    let view = api.brain.view().borrow().clone();
    let mut tunnels = view.facts["mtu"].as_array().cloned().unwrap_or_default();
    if let Some(name) = which.tunnel {
        tunnels.retain(|tunnel| tunnel["tunnel"] == name.as_str());
        if tunnels.is_empty() {
            return Err(
                Problem::not_found().with_detail(format!("no tunnel of this gateway is named {name:?}"))
            );
        }
    }
    Ok(Json(tunnels))
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(mtu))
}
