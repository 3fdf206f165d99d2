//! REST over the brain: routes, credentials, problem details, listeners.
//!
//! * [`document`], [`objects`]: the desired state; [`trial`], [`proving`]: changes that go back by themselves.
//! * [`observe`]: what was seen. [`duplicates`]: what moves too often. [`doctor`]: what fits.
//!   [`bgp`]: neighbours and routes. [`history`]: revisions. [`audit`]: the audit log. [`tokens`]: credentials.
//! * [`auth`]: who calls. [`request`]: what a request carries. [`problem`]: every refusal (RFC 9457).
//! * [`serve`]: the Unix socket, TCP and TLS.
//!
//! Other modules bring routes of their own: an `OpenApiRouter` with its state already given, with paths
//! below `/api/v1`, is handed to [`router`]. A path parameter at a place where there is one already must
//! have the same name (`/nodes/{name}`). Who calls is in the extension [`Actor`](crate::actor::Actor).

#[cfg(test)]
mod access_tests;
pub mod audit;
pub mod auth;
pub mod bgp;
pub mod doctor;
pub mod document;
pub mod duplicates;
pub mod edit;
pub mod history;
pub mod objects;
pub mod observe;
mod page;
pub mod problem;
mod proving;
pub mod request;
pub mod serve;
#[cfg(test)]
mod tests;
pub mod tokens;
pub mod trial;
#[cfg(test)]
mod trial_tests;

use std::sync::Arc;

use axum::http::Uri;
use axum::{Json, Router, middleware, routing};
use tokio::sync::watch;
use utoipa::PartialSchema as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, ResponseBuilder,
};
use utoipa_axum::router::OpenApiRouter;

use crate::access::ledger::Ledger;
use crate::access::tokens::Tokens;
use crate::brain::Brain;
use auth::Token;
use problem::Problem;

/// Before every path.
pub const PREFIX: &str = "/api/v1";

/// What the routes share.
pub struct Api {
    /// The brain.
    pub brain: Arc<Brain>,
    /// The token of the bootstrap file, if there is one: an administrator's, without an end.
    pub token: Option<Token>,
    /// All other tokens.
    pub tokens: Arc<Tokens>,
    /// Refusals that are to be in the audit log.
    pub ledger: Arc<Ledger>,
    /// The user as which the daemon runs; it may use the Unix socket, as root may.
    pub own_uid: u32,
    /// Becomes true when the daemon ends.
    pub stop: watch::Receiver<bool>,
}

/// The whole API: the routes of this module and those of others.
pub fn router(api: Arc<Api>, others: Vec<OpenApiRouter>) -> Router {
    let own = own_routes().with_state(api.clone());
    let all = others.into_iter().fold(own, OpenApiRouter::merge);
    let (router, openapi) = OpenApiRouter::with_openapi(head()).nest(PREFIX, all).split_for_parts();
    let openapi = Arc::new(finished(openapi));
    let served = routing::get(move || async move { Json(openapi.as_ref().clone()) });
    router
        .route(&format!("{PREFIX}/openapi.json"), served)
        .fallback(unknown_route)
        .method_not_allowed_fallback(objects::wrong_method)
        .layer(middleware::from_fn_with_state(api, auth::check))
}

/// The whole description, without a gateway.
pub fn description() -> OpenApi {
    let nodes = crate::nodes::routes::routes().merge(crate::nodes::measure::routes());
    let parts = [own_routes().into_openapi(), nodes.into_openapi(), crate::explain::routes().into_openapi()];
    let all = parts
        .into_iter()
        .fold(OpenApiRouter::<()>::new(), |all, part| all.merge(OpenApiRouter::with_openapi(part)));
    finished(OpenApiRouter::with_openapi(head()).nest(PREFIX, all).into_openapi())
}

fn own_routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .merge(document::routes())
        .merge(objects::routes())
        .merge(observe::routes())
        .merge(bgp::routes())
        .merge(doctor::routes())
        .merge(duplicates::routes())
        .merge(history::routes())
        .merge(trial::routes())
        .merge(audit::routes())
        .merge(tokens::routes())
        .merge(page::routes())
}

async fn unknown_route(uri: Uri) -> Problem {
    let detail = format!("{} is none; {PREFIX}/openapi.json lists them", uri.path());
    Problem::unknown_route().with_detail(detail)
}

/// The head of the OpenAPI document.
fn head() -> OpenApi {
    let licence = LicenseBuilder::new().name("Apache-2.0 OR MIT").build();
    let info = InfoBuilder::new()
        .title("Watari")
        .description(Some("An inter-cloud virtual router: the API of one gateway."))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(licence));
    OpenApiBuilder::new().info(info).security(Some([SecurityRequirement::new("bearer", [""; 0])])).build()
}

/// The description with what is the same for all operations: refusals, and the credential that each needs.
fn finished(mut openapi: OpenApi) -> OpenApi {
    let refusals = [("4XX", "Refused"), ("5XX", "The gateway failed, or cannot answer now")];
    for (path, item) in &mut openapi.paths.paths {
        let methods = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        for operation in methods.into_iter().flatten() {
            if path.ends_with("/healthz") || path.ends_with("/docs") {
                operation.security = Some(Vec::new());
                continue;
            }
            for (status, description) in refusals {
                let problem = Ref::from_schema_name("Problem");
                let content = ContentBuilder::new().schema(Some(problem)).build();
                let refused = ResponseBuilder::new()
                    .description(description)
                    .content("application/problem+json", content);
                let responses = &mut operation.responses.responses;
                responses.entry(status.to_owned()).or_insert_with(|| refused.build().into());
            }
        }
    }
    let components = openapi.components.get_or_insert_default();
    components.schemas.insert("Problem".to_owned(), Problem::schema());
    components.schemas.insert("FieldError".to_owned(), problem::FieldError::schema());
    let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
    components.security_schemes.insert("bearer".to_owned(), RefOr::T(bearer));
    openapi
}
