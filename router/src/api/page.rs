//! The description of the API for people: a page that reads `openapi.json` of the same gateway, and works without any other
//! network. It says nothing that needs a credential: the reader's token fetches the rest.

use std::sync::Arc;

use axum::http::header;
use axum::response::{Html, IntoResponse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Api;

const PAGE: &str = include_str!("page.html");

/// What the browser may do: its own style and script, which are named by their hashes, and requests to this gateway.
fn policy() -> String {
    let hash = |element: &str| {
        let (open, close) = (format!("<{element}>"), format!("</{element}>"));
        let inside = PAGE
            .split_once(&open)
            .and_then(|(_, rest)| rest.split_once(&close))
            .map_or("", |(inside, _)| inside);
        STANDARD.encode(Sha256::digest(inside))
    };
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hash("style"),
        hash("script")
    )
}

/// This description as a page for people.
#[utoipa::path(get, path = "/docs", tag = "gateway", security(()),
    responses((status = 200, content_type = "text/html", body = String)))]
async fn page() -> impl IntoResponse {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, policy()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    (headers, Html(PAGE))
}

/// The route of the page.
pub(super) fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new().routes(routes!(page))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!PAGE.contains(foreign), "{foreign}");
        }
        assert!(!PAGE.contains("innerHTML"), "nothing of the description is taken for markup");
    }

    #[test]
    fn what_runs_in_it_is_named_by_its_hash() {
        let empty = STANDARD.encode(Sha256::digest(""));
        let policy = policy();
        assert!(!policy.contains(&empty), "{policy}");
        assert_eq!(policy.matches("sha256-").count(), 2, "{policy}");
    }
}
