//! Every refusal as problem details (RFC 9457): one form, whoever refuses, with all wrong fields at once.

use std::borrow::Cow;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::actor::Forbidden;
use crate::brain::ChangeError;
use crate::percent::escaped;
use crate::store::StoreError;

/// One wrong field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The field, e.g. `segments.lab.vni`.
    pub path: String,
    /// The same as a pointer into the body of the request (RFC 6901 section 6), e.g. `#/segments/lab/vni`; absent where it is
    /// about something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl FieldError {
    /// About the field `path`, wherever the body is the whole of which that is a part.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        let path = path.into();
        Self { pointer: Some(pointer(&path)), path, message: message.into() }
    }
}

/// `segments.lab.subnets[0]` as a pointer. Neither names of objects nor fields have dots or brackets.
fn pointer(path: &str) -> String {
    let path = if path == "(document)" { "" } else { path };
    let tokens =
        path.split(['.', '[']).map(|token| token.trim_end_matches(']')).filter(|token| !token.is_empty());
    // Whatever is no name comes from a body that may hold anything (RFC 6901 section 3; the rest is the fragment's escape).
    let escaped = |token: &str| escaped(&token.replace('~', "~0").replace('/', "~1"));
    tokens.fold("#".to_owned(), |pointer, token| format!("{pointer}/{}", escaped(token)))
}

/// Problem details (RFC 9457), served as `application/problem+json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// The kind of problem, a URN.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// One sentence, the same for every problem of this kind.
    pub title: Cow<'static, str>,
    /// The HTTP status.
    pub status: u16,
    /// What happened this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// The wrong fields, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
}

macro_rules! problems {
    ($($(#[$meta:meta])* $name:ident = $status:ident, $urn:literal, $title:literal;)*) => {
        impl Problem {
            $($(#[$meta])*
            pub fn $name() -> Self {
                Self {
                    kind: Cow::Borrowed(concat!("urn:watari:problem:", $urn)),
                    title: Cow::Borrowed($title),
                    status: StatusCode::$status.as_u16(),
                    detail: None,
                    errors: Vec::new(),
                }
            })*
        }
    };
}
problems! {
    /// The body is no YAML or JSON.
    syntax = BAD_REQUEST, "syntax", "The body is no YAML or JSON";
    /// A parameter of the query or path, or a header, is wrong.
    parameter = BAD_REQUEST, "parameter", "A parameter is wrong";
    /// There is no credential, or none that is known.
    unauthenticated = UNAUTHORIZED, "unauthenticated", "A valid bearer token is required";
    /// The credential is not enough.
    forbidden = FORBIDDEN, "forbidden", "The role does not allow this";
    /// There is no such route.
    unknown_route = NOT_FOUND, "unknown-route", "There is no such route";
    /// There is no such object.
    not_found = NOT_FOUND, "not-found", "There is no such object";
    /// The route has no such method.
    wrong_method = METHOD_NOT_ALLOWED, "wrong-method", "This method is not possible here";
    /// Something else stands in the way.
    conflict = CONFLICT, "conflict", "This cannot be done now";
    /// Another change is on trial.
    on_trial = CONFLICT, "on-trial", "A change is on trial";
    /// What held before the change did not hold after it; it went back.
    not_proved = CONFLICT, "not-proved", "The change was not proved and went back";
    /// `If-Match` names another revision.
    other_revision = PRECONDITION_FAILED, "other-revision", "The document has changed meanwhile";
    /// The body has more bytes than are taken.
    too_large = PAYLOAD_TOO_LARGE, "too-large", "The body is too large";
    /// The body came too slowly.
    too_slow = REQUEST_TIMEOUT, "too-slow", "The body did not arrive in time";
    /// The body is of a type that is not taken.
    media_type = UNSUPPORTED_MEDIA_TYPE, "media-type", "The body must be application/json or application/yaml";
    /// The document would not hold together.
    invalid = UNPROCESSABLE_ENTITY, "invalid-document", "The document is not valid";
    /// Some fields of the request are wrong.
    request = UNPROCESSABLE_ENTITY, "invalid-request", "Some fields of the request are wrong";
    /// The store or another part failed.
    internal = INTERNAL_SERVER_ERROR, "internal", "The gateway failed";
    /// The gateway cannot answer now.
    unavailable = SERVICE_UNAVAILABLE, "unavailable", "The gateway cannot answer now";
}

impl Problem {
    /// The same with what happened this time.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same with wrong fields.
    #[must_use]
    pub fn with_errors(mut self, problems: Vec<watari_config::Problem>) -> Self {
        let errors = problems.into_iter().map(|p| FieldError::new(p.path, p.message));
        self.errors.extend(errors);
        self
    }

    /// The same for a body that is the object `object` of the document alone: pointers begin there, and what is about other
    /// objects has none.
    #[must_use]
    pub fn within(mut self, object: &str) -> Self {
        let whole = pointer(object);
        for error in &mut self.errors {
            let inside =
                error.pointer.take().and_then(|p| p.strip_prefix(&whole).map(|rest| format!("#{rest}")));
            error.pointer = inside.filter(|rest| rest == "#" || rest.starts_with("#/"));
        }
        self
    }

    /// The same where nothing of it is about the body.
    #[must_use]
    pub fn without_pointers(mut self) -> Self {
        self.errors.iter_mut().for_each(|error| error.pointer = None);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"watari\""));
        }
        response
    }
}

impl From<ChangeError> for Problem {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Invalid(problems) => Self::invalid().with_errors(problems),
            ChangeError::NotFound { .. } => Self::not_found().with_detail(error.to_string()),
            ChangeError::OtherRevision { .. } => Self::other_revision().with_detail(error.to_string()),
            ChangeError::OnTrial(_) => Self::on_trial().with_detail(error.to_string()),
            ChangeError::NoTrial(detail) => Self::conflict().with_detail(detail),
            ChangeError::Conflict(detail) => Self::conflict().with_detail(detail),
            ChangeError::NoPlan => Self::unavailable().with_detail(error.to_string()),
            ChangeError::Forbidden(error) => error.into(),
            ChangeError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed");
        match error {
            StoreError::Moved { .. } => Self::other_revision().with_detail(error.to_string()),
            _ => Self::internal().with_detail(error.to_string()),
        }
    }
}

impl From<Forbidden> for Problem {
    fn from(error: Forbidden) -> Self {
        Self::forbidden().with_detail(error.to_string())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::parameter().with_detail(rejection.body_text())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::parameter().with_detail(rejection.body_text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_pointer_too() {
        assert_eq!(pointer("segments.lab.subnets[0]"), "#/segments/lab/subnets/0");
        assert_eq!(pointer("(document)"), "#");
        assert_eq!(pointer("sites.a/b~c d"), "#/sites/a~1b~0c%20d");
    }

    #[test]
    fn pointers_lead_into_the_body_that_was_sent() {
        let wrong =
            |path: &str| watari_config::Problem { path: path.to_owned(), message: "wrong".to_owned() };
        let problem = Problem::invalid().with_errors(vec![
            wrong("segments.lab.vni"),
            wrong("segments.lab"),
            wrong("segments.lab2.vni"),
        ]);
        let pointers: Vec<_> = problem.within("segments.lab").errors.into_iter().map(|e| e.pointer).collect();
        assert_eq!(pointers, [Some("#/vni".to_owned()), Some("#".to_owned()), None]);
    }
}
