//! Stations and addresses that move too often and are frozen: listed, and freed by an operator who has found out
//! why (RFC 7432 section 15.1).

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_bgp::types::MacAddr;
use watari_config::{Mac, Vni};

use super::Api;
use super::problem::Problem;
use super::request::Path;
use crate::actor::Actor;
use crate::facts::hosts::Subject;

/// A duplicate that was cleared.
#[derive(Debug, Serialize, ToSchema)]
struct Cleared {
    /// The VNI of its segment.
    vni: u32,
    /// The MAC or IP address.
    cleared: String,
}

/// Everything that is frozen here: what, where it was seen, whether this gateway advertises it, and when it is
/// tried again.
#[utoipa::path(get, path = "/duplicates", tag = "gateway", responses((status = 200, body = Vec<Value>)))]
async fn list_duplicates(State(api): State<Arc<Api>>) -> Json<Value> {
    let view = api.brain.view().borrow().clone();
    let list = view.facts.get("duplicates").cloned();
    Json(list.unwrap_or_else(|| Value::Array(Vec::new())))
}

/// Ends the freeze of a MAC or IP address of a segment, and forgets its moves. This gateway only: the others
/// have tables of their own.
#[utoipa::path(delete, path = "/duplicates/{vni}/{address}", tag = "gateway",
    params(
        ("vni" = u32, Path, description = "The VNI of the segment"),
        ("address" = String, Path, description = "The MAC or IP address"),
    ),
    responses((status = 200, body = Cleared), (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn clear_duplicate(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Path((vni, address)): Path<(String, String)>,
) -> Result<Json<Cleared>, Problem> {
    let subject = subject(&vni, &address)?;
    match api.brain.clear_duplicate(&actor, subject).await {
        Some(true) => Ok(Json(Cleared { vni: subject.vni().get(), cleared: subject.to_string() })),
        Some(false) => Err(Problem::not_found().with_detail(format!("{subject} of VNI {vni} is not frozen"))),
        None => Err(Problem::unavailable().with_detail("the facts gave no answer in time")),
    }
}

fn subject(vni: &str, address: &str) -> Result<Subject, Problem> {
    let vni: Vni = vni.parse().map_err(|e| Problem::parameter().with_detail(format!("{vni:?}: {e}")))?;
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Ok(Subject::Address((vni, ip)));
    }
    let mac: Result<Mac, _> = address.parse();
    mac.map(|mac| Subject::Station((vni, MacAddr(mac.octets())))).map_err(|_| {
        Problem::parameter().with_detail(format!("{address:?} is neither a MAC address nor an IP address"))
    })
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(list_duplicates)).routes(routes!(clear_duplicate))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_and_both_kinds_of_address_are_understood() {
        let text = |vni, address| subject(vni, address).map(|s| (s.vni().get(), s.to_string()));
        assert_eq!(text("100", "02:00:00:00:00:0A").unwrap(), (100, "02:00:00:00:00:0a".to_owned()));
        assert_eq!(text("100", "10.0.0.1").unwrap(), (100, "10.0.0.1".to_owned()));
        assert_eq!(text("100", "fd00:0::1").unwrap(), (100, "fd00::1".to_owned()));
        assert_eq!(text("0", "10.0.0.1").unwrap_err().status, 400);
        assert_eq!(text("100", "host").unwrap_err().status, 400);
    }
}
