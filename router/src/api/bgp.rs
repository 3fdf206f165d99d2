//! BGP as its speaker sees it: neighbours, tables page by page, one route with the reason why a path won, and what was
//! told by and to a neighbour.

use std::sync::Arc;

use axum::extract::State;
use axum::{Extension, Json};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_bgp::types::{Family, InstanceId};
use watari_bgp::{Key, Reset};

use super::Api;
use super::problem::Problem;
use super::request::{Path, Query};
use crate::actor::Actor;
use crate::brain::{NotReset, reset_name};
use crate::facts::ask_bgp::{Part, Question};
use crate::facts::fabric::{EVPN, tenant_instance};

/// The most routes of one page.
const PAGE_MAX: usize = 1_000;
/// Routes of a page where nothing is said.
const PAGE: usize = 100;

/// Which part of which table.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TableArgs {
    /// `ipv4-unicast`, `ipv6-unicast` or `l2vpn-evpn`; EVPN where no tenant is given, else IPv4.
    family: Option<String>,
    /// Whose routes; may be absent for EVPN, and where there is one tenant only.
    tenant: Option<String>,
    /// Goes on after this route: `next` of the page before.
    after: Option<String>,
    /// Routes of a page, at most 1000.
    limit: usize,
    /// Of what a neighbour told, only what is rejected.
    rejected: bool,
}

impl Default for TableArgs {
    fn default() -> Self {
        Self { family: None, tenant: None, after: None, limit: PAGE, rejected: false }
    }
}

/// Which route.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct RouteArgs {
    /// The prefix, e.g. 192.0.2.0/24.
    prefix: String,
    /// Whose route; may be absent where there is one tenant only.
    tenant: Option<String>,
}

async fn ask(api: &Api, question: Question, what: &str) -> Result<Json<Value>, Problem> {
    match api.brain.ask_bgp(question).await {
        Some(Value::Null) => Err(Problem::not_found().with_detail(format!("there is no {what}"))),
        Some(answer) => Ok(Json(answer)),
        None => Err(Problem::unavailable().with_detail("BGP does not run yet, or gave no answer in time")),
    }
}

fn family(text: &str) -> Result<Family, Problem> {
    let known = Family::ALL.into_iter().find(|family| family.to_string() == text);
    known.ok_or_else(|| {
        let all = Family::ALL.map(|family| family.to_string()).join(", ");
        Problem::parameter().with_detail(format!("{text:?} is no family; there are {all}"))
    })
}

/// The instance of a tenant, by its name or because there is no other.
fn instance(api: &Api, tenant: Option<&str>) -> Result<InstanceId, Problem> {
    let desired = api.brain.desired();
    let mut tenants = desired.document().tenants.iter();
    let found = match tenant {
        Some(wanted) => tenants.find(|(name, _)| name.as_str() == wanted),
        None => tenants.next().filter(|_| tenants.next().is_none()),
    };
    let missing = || match tenant {
        Some(wanted) => Problem::not_found().with_detail(format!("no tenant is named {wanted:?}")),
        None => Problem::parameter().with_detail("say which tenant: there is not exactly one"),
    };
    found.map(|(_, tenant)| tenant_instance(tenant.l3vni)).ok_or_else(missing)
}

impl TableArgs {
    fn part(&self, otherwise: Family) -> Result<Part, Problem> {
        let family = self.family.as_deref().map_or(Ok(otherwise), family)?;
        Ok(Part { family, after: self.after.clone(), limit: self.limit.clamp(1, PAGE_MAX) })
    }
}

/// All BGP neighbours with their counts.
#[utoipa::path(get, path = "/bgp/neighbours", tag = "bgp", responses((status = 200, body = Vec<Value>)))]
async fn neighbours(State(api): State<Arc<Api>>) -> Result<Json<Value>, Problem> {
    ask(&api, Question::Neighbours, "answer").await
}

/// One neighbour: counts, what was negotiated, and why it last went down. Its name is `peers.NAME` for one of the
/// document, `gateways.NAME` for another gateway.
#[utoipa::path(get, path = "/bgp/neighbours/{neighbour}", tag = "bgp", params(("neighbour" = String, Path)),
    responses((status = 200, body = Value), (status = 404, body = Problem, content_type = "application/problem+json")))]
async fn neighbour(
    State(api): State<Arc<Api>>,
    Path(neighbour): Path<String>,
) -> Result<Json<Value>, Problem> {
    let what = format!("neighbour {neighbour:?}");
    ask(&api, Question::Neighbour(neighbour), &what).await
}

/// What a neighbour told, rejected routes with the reason, and those that lost with the step of the decision.
#[utoipa::path(get, path = "/bgp/neighbours/{neighbour}/received", tag = "bgp",
    params(("neighbour" = String, Path), TableArgs),
    responses((status = 200, body = Value), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn received(
    State(api): State<Arc<Api>>,
    Path(neighbour): Path<String>,
    Query(args): Query<TableArgs>,
) -> Result<Json<Value>, Problem> {
    let (part, rejected, what) =
        (args.part(usual(&neighbour))?, args.rejected, format!("neighbour {neighbour:?}"));
    ask(&api, Question::Received { neighbour, part, rejected }, &what).await
}

/// What a neighbour was told, as it reads it.
#[utoipa::path(get, path = "/bgp/neighbours/{neighbour}/advertised", tag = "bgp",
    params(("neighbour" = String, Path), TableArgs),
    responses((status = 200, body = Value), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn advertised(
    State(api): State<Arc<Api>>,
    Path(neighbour): Path<String>,
    Query(args): Query<TableArgs>,
) -> Result<Json<Value>, Problem> {
    let (part, what) = (args.part(usual(&neighbour))?, format!("neighbour {neighbour:?}"));
    ask(&api, Question::Advertised { neighbour, part }, &what).await
}

/// The family that a neighbour speaks where nothing is said.
fn usual(neighbour: &str) -> Family {
    if neighbour.starts_with("gateways.") { Family::L2vpnEvpn } else { Family::Ipv4Unicast }
}

/// The best paths of a table, in order.
#[utoipa::path(get, path = "/bgp/table", tag = "bgp", params(TableArgs),
    responses((status = 200, body = Value), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn table(State(api): State<Arc<Api>>, Query(args): Query<TableArgs>) -> Result<Json<Value>, Problem> {
    let otherwise = if args.tenant.is_some() { Family::Ipv4Unicast } else { Family::L2vpnEvpn };
    let part = args.part(otherwise)?;
    let is_evpn = part.family == Family::L2vpnEvpn;
    let instance = if is_evpn { EVPN } else { instance(&api, args.tenant.as_deref())? };
    ask(&api, Question::Table { instance, part }, "table").await
}

/// All paths of a prefix: which one won and by which step of the decision, and at which step each of the others lost.
#[utoipa::path(get, path = "/bgp/route", tag = "bgp", params(RouteArgs),
    responses((status = 200, body = Value), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn route(State(api): State<Arc<Api>>, Query(args): Query<RouteArgs>) -> Result<Json<Value>, Problem> {
    let bad = |e| Problem::parameter().with_detail(format!("{:?}: {e}", args.prefix));
    let prefix: IpNet = args.prefix.parse().map_err(bad)?;
    let instance = instance(&api, args.tenant.as_deref())?;
    let question = Question::Route { instance, key: Key::prefix(prefix) };
    ask(&api, question, &format!("path of {prefix}")).await
}

/// How a neighbour begins anew.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ResetArgs {
    /// `in`: only what the neighbour tells, it is asked for everything (RFC 2918); `out`: only what it is told. Without it the
    /// session ends and begins again.
    soft: Option<String>,
}

impl ResetArgs {
    fn reset(&self) -> Result<Reset, Problem> {
        match self.soft.as_deref() {
            None => Ok(Reset::Hard),
            Some("in") => Ok(Reset::SoftIn),
            Some("out") => Ok(Reset::SoftOut),
            Some(other) => {
                Err(Problem::parameter().with_detail(format!("soft: {other:?} is neither in nor out")))
            }
        }
    }
}

/// A neighbour that begins anew.
#[derive(Debug, Serialize, ToSchema)]
struct Begun {
    /// Its name.
    neighbour: String,
    /// `reset`, `soft reset in` or `soft reset out`.
    done: &'static str,
}

/// Lets a neighbour begin anew: its session, or only what it tells or is told. Also one that rests after an error is tried
/// at once.
#[utoipa::path(post, path = "/bgp/neighbours/{neighbour}/reset", tag = "bgp",
    params(("neighbour" = String, Path), ResetArgs),
    responses((status = 200, body = Begun), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn reset(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Path(neighbour): Path<String>,
    Query(args): Query<ResetArgs>,
) -> Result<Json<Begun>, Problem> {
    let reset = args.reset()?;
    match api.brain.reset_neighbour(&actor, &neighbour, reset).await {
        Some(Ok(())) => Ok(Json(Begun { neighbour, done: reset_name(reset) })),
        Some(Err(NotReset::Unknown)) => {
            Err(Problem::not_found().with_detail(format!("there is no neighbour {neighbour:?}")))
        }
        Some(Err(why)) => Err(Problem::conflict().with_detail(format!("{neighbour}: {why}"))),
        None => Err(Problem::unavailable().with_detail("BGP does not run yet, or gave no answer in time")),
    }
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(neighbours))
        .routes(routes!(neighbour))
        .routes(routes!(received))
        .routes(routes!(advertised))
        .routes(routes!(reset))
        .routes(routes!(table))
        .routes(routes!(route))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_a_family_and_a_limit() {
        let args = TableArgs { limit: 5_000, ..TableArgs::default() };
        let part = args.part(Family::L2vpnEvpn).unwrap();
        assert_eq!((part.family, part.limit), (Family::L2vpnEvpn, PAGE_MAX));
        let args = TableArgs { family: Some("ipv6-unicast".to_owned()), limit: 0, ..TableArgs::default() };
        let part = args.part(Family::L2vpnEvpn).unwrap();
        assert_eq!((part.family, part.limit), (Family::Ipv6Unicast, 1));
        assert_eq!(family("ipv5").unwrap_err().status, 400);
    }
}
