//! What a request carries, taken apart: body, query and path, each refusal as a problem.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, header, request::Parts};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use watari_config::parse_text;
use watari_config::read::DOCUMENT_BYTES_MAX;

use super::problem::Problem;

/// The largest number of a sequence: of the format `int64`.
pub const NUMBER_MAX: u64 = i64::MAX as u64;
/// The most bytes of a body.
pub const BODY_BYTES_MAX: usize = DOCUMENT_BYTES_MAX;
/// How long a body may take to arrive.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);

/// The body as a tree of values: JSON or YAML by its content type (YAML, which JSON is a part of, where
/// none is given).
#[derive(Debug)]
pub struct Tree(pub Value);

impl<S: Send + Sync> FromRequest<S> for Tree {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        check_type(request.headers())?;
        let bytes = read(request.into_body()).await?;
        let text = String::from_utf8(bytes).map_err(|_| Problem::syntax().with_detail("it is not UTF-8"))?;
        let parsed = tokio::task::spawn_blocking(move || parse_text(&text)).await;
        let parsed = parsed.map_err(|_| Problem::internal())?;
        parsed.map(Self).map_err(|problems| Problem::syntax().with_errors(problems))
    }
}

fn check_type(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let known = ["application/json", "application/yaml", "application/x-yaml", "text/yaml", "text/x-yaml"];
    if known.iter().any(|k| essence.eq_ignore_ascii_case(k)) {
        return Ok(());
    }
    Err(Problem::media_type().with_detail(format!("it is {essence:?}")))
}

async fn read(body: Body) -> Result<Vec<u8>, Problem> {
    let collected = tokio::time::timeout(BODY_WAIT_MAX, Limited::new(body, BODY_BYTES_MAX).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Problem::too_large().with_detail(format!("at most {BODY_BYTES_MAX} bytes are taken")))
        }
        Ok(Err(error)) => Err(Problem::syntax().with_detail(format!("the body broke off: {error}"))),
        Err(_) => Err(Problem::too_slow()),
    }
}

/// The parameters of the query; an unknown one is refused, as `deny_unknown_fields` says.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Problem))]
pub struct Query<T>(pub T);

/// Reads a number of the query that is `MAX` at most: as the description says, not quietly less than was asked for.
///
/// # Errors
/// Another value.
pub fn at_most<'de, const MAX: u64, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: TryFrom<u64>,
{
    let number = u64::deserialize(deserializer)?;
    let fitting = Some(number).filter(|number| *number <= MAX).and_then(|number| T::try_from(number).ok());
    fitting.ok_or_else(|| serde::de::Error::custom(format!("{number} is more than {MAX}")))
}

/// The parameters of the path.
#[derive(Debug, FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(Problem))]
pub struct Path<T>(pub T);

/// The revision of the header `If-Match`; `None` when it is absent or `*`.
#[derive(Clone, Copy, Debug)]
pub struct IfMatch(pub Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else { return Ok(Self(None)) };
        let text = value.to_str().unwrap_or_default().trim();
        if text == "*" {
            return Ok(Self(None));
        }
        let revision = text.trim_matches('"').parse();
        let wrong = |_| Problem::parameter().with_detail("If-Match must be a revision, e.g. \"12\"");
        revision.map(|r| Self(Some(r))).map_err(wrong)
    }
}

/// The typed body of a small request, for routes that take no document.
#[derive(Debug)]
pub struct Typed<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Typed<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Tree(tree) = Tree::from_request(request, state).await?;
        let read = serde_json::from_value(tree);
        read.map(Self).map_err(|e| Problem::invalid().with_detail(e.to_string()))
    }
}
