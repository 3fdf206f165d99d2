//! Tokens: made, listed, rotated, prolonged, revoked. A token whole is in the answer that makes it, and nowhere else.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_config::names::Duration;
use watari_config::read::{Path as At, Problems, Read};

use super::Api;
use super::problem::{FieldError, Problem};
use super::request::{Path, Tree};
use crate::access::token::{LastUse, Refusal, Revoked, Secret, Token, TokenId, Wish};
use crate::access::tokens::{TokenError, Tokens};
use crate::actor::{Actor, Role};
use crate::events::now;

/// How long the former token stays good after a rotation, where nobody says so.
const OVERLAP: SignedDuration = SignedDuration::from_mins(5);

/// Whether a token is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Standing {
    /// It is.
    Valid,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

/// What is known of a token.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct TokenShown {
    /// Its public name.
    id: TokenId,
    /// Who it is for.
    name: String,
    /// What it may do.
    role: Role,
    /// The tenants it is bound to; empty: all of them, and what belongs to none.
    tenants: Vec<String>,
    /// The prefixes it may be used from; empty: anywhere.
    sources: Vec<String>,
    /// Whether it is good.
    state: Standing,
    /// When it was made, UTC.
    #[schema(value_type = String, format = DateTime)]
    created: Timestamp,
    /// Who made it.
    created_by: String,
    /// Until when it is good, UTC.
    #[schema(value_type = String, format = DateTime)]
    expires: Timestamp,
    /// When and by whom it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked: Option<Revoked>,
    /// The token that took its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaced_by: Option<TokenId>,
    /// Its last use.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_used: Option<LastUse>,
}

impl From<Token> for TokenShown {
    fn from(token: Token) -> Self {
        let state = match token.good(now()) {
            Ok(()) => Standing::Valid,
            Err(Refusal::Revoked) => Standing::Revoked,
            Err(_) => Standing::Expired,
        };
        Self {
            id: token.id,
            name: token.name,
            role: token.role,
            tenants: token.tenants.iter().map(ToString::to_string).collect(),
            sources: token.sources.iter().map(ToString::to_string).collect(),
            state,
            created: token.created,
            created_by: token.created_by,
            expires: token.expires,
            revoked: token.revoked,
            replaced_by: token.replaced_by,
            last_used: token.last_used,
        }
    }
}

/// A token that was just made.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct TokenMade {
    /// What is known of it.
    #[serde(flatten)]
    shown: TokenShown,
    /// The token itself: for `Authorization: Bearer …`. It is shown this once.
    token: String,
}

/// A token to be made.
#[derive(ToSchema)]
#[allow(dead_code, reason = "read field by field, so that every wrong one is named")]
struct TokenRequest {
    /// Who it is for: 1 to 64 characters; stands in the audit log.
    name: String,
    /// What it may do: admin, operator or viewer.
    role: Role,
    /// The tenants it is bound to; absent or empty: none.
    tenants: Option<Vec<String>>,
    /// The prefixes it may be used from, e.g. `192.0.2.0/24`; absent or empty: anywhere.
    sources: Option<Vec<String>>,
    /// How long it lives, e.g. `12h`; a day where absent, unless the bootstrap file says otherwise.
    life: Option<String>,
}

/// A rotation.
#[derive(ToSchema)]
#[allow(dead_code, reason = "read field by field, so that every wrong one is named")]
struct RotateRequest {
    /// How long the former token stays good, at most `1h`; `5m` where absent.
    overlap: Option<String>,
}

/// A prolongation.
#[derive(ToSchema)]
#[allow(dead_code, reason = "read field by field, so that every wrong one is named")]
struct ExtendRequest {
    /// How long it lives from now on, e.g. `12h`.
    life: String,
}

/// Reads the fields of a small body, all of them.
struct Fields<'a> {
    tree: &'a Value,
    problems: Problems,
}

impl<'a> Fields<'a> {
    fn of(tree: &'a Value, known: &[&str]) -> Self {
        let mut problems = Problems::default();
        match tree {
            Value::Object(fields) => {
                for field in fields.keys().filter(|field| !known.contains(&field.as_str())) {
                    let message = format!("unknown field; known are {}", known.join(", "));
                    problems.add(&At::root().field(field), message);
                }
            }
            Value::Null => {}
            _ => problems.add(&At::root(), "must be an object"),
        }
        Self { tree, problems }
    }

    fn required<T: Read>(&mut self, field: &str) -> Option<T> {
        let here = At::root().field(field);
        match self.tree.get(field) {
            Some(value) => T::read(value, &here, &mut self.problems),
            None => T::absent(&here, &mut self.problems),
        }
    }

    /// The outer `None` for a wrong value, the inner one for none.
    fn optional<T: Read>(&mut self, field: &str) -> Option<Option<T>> {
        let value = self.tree.get(field).unwrap_or(&Value::Null);
        Option::<T>::read(value, &At::root().field(field), &mut self.problems)
    }

    fn end(self) -> Problem {
        Problem::request().with_errors(self.problems.into_vec())
    }
}

fn signed(length: Duration) -> SignedDuration {
    SignedDuration::from_secs(i64::try_from(length.seconds()).unwrap_or(i64::MAX))
}

fn wish(tree: &Value) -> Result<Wish, Problem> {
    let mut fields = Fields::of(tree, &["name", "role", "tenants", "sources", "life"]);
    let name = fields.required::<String>("name");
    let role = fields.required::<String>("role").and_then(|word| {
        let role = serde_json::from_value::<Role>(Value::String(word)).ok();
        if role.is_none() {
            fields.problems.add(&At::root().field("role"), "must be admin, operator or viewer");
        }
        role
    });
    let tenants = fields.optional("tenants");
    let sources = fields.optional("sources");
    let life = fields.optional::<Duration>("life");
    match (name, role, tenants, sources, life) {
        (Some(name), Some(role), Some(tenants), Some(sources), Some(life)) if fields.problems.is_empty() => {
            Ok(Wish {
                name,
                role,
                tenants: tenants.unwrap_or_default(),
                sources: sources.unwrap_or_default(),
                life: life.map(signed),
            })
        }
        _ => Err(fields.end()),
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let detail = error.to_string();
        match error {
            TokenError::Invalid(wrong) => {
                let errors = wrong.into_iter().map(|w| FieldError::new(w.field, w.why));
                Self { errors: errors.collect(), ..Self::request() }
            }
            TokenError::NotFound(_) => Self::not_found().with_detail(detail),
            TokenError::Ended(_) | TokenError::Full => Self::conflict().with_detail(detail),
            TokenError::Forbidden(forbidden) => forbidden.into(),
            TokenError::Random(_) => Self::internal().with_detail(detail),
            TokenError::Store(error) => error.into(),
        }
    }
}

/// Does something with the tokens on a thread that may block.
async fn with_tokens<T: Send + 'static>(
    api: &Api,
    f: impl FnOnce(&Tokens) -> Result<T, TokenError> + Send + 'static,
) -> Result<T, Problem> {
    let tokens = api.tokens.clone();
    let done = tokio::task::spawn_blocking(move || f(&tokens)).await;
    Ok(done.map_err(|_| Problem::internal())??)
}

/// What holds a secret is kept by nobody on the way.
fn made((token, secret): (Token, Secret)) -> impl IntoResponse {
    let made = TokenMade { shown: token.into(), token: secret.expose().to_owned() };
    (StatusCode::CREATED, [(header::CACHE_CONTROL, "no-store")], Json(made))
}

/// The tokens, newest first; those that have ended for thirty days more.
#[utoipa::path(get, path = "/tokens", tag = "tokens", responses((status = 200, body = Vec<TokenShown>)))]
async fn list(State(api): State<Arc<Api>>, Extension(actor): Extension<Actor>) -> Json<Vec<TokenShown>> {
    Json(api.tokens.list(&actor.scope).into_iter().map(TokenShown::from).collect())
}

/// Makes a token. An administrator who is bound to tenants makes tokens for these.
#[utoipa::path(post, path = "/tokens", tag = "tokens", request_body = TokenRequest,
    responses((status = 201, body = TokenMade), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn create(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Tree(tree): Tree,
) -> Result<impl IntoResponse, Problem> {
    let wish = wish(&tree)?;
    check_tenants(&api, &wish)?;
    with_tokens(&api, move |tokens| tokens.create(&actor, wish)).await.map(made)
}

/// A tenant that does not exist is a mistyped one.
fn check_tenants(api: &Api, wish: &Wish) -> Result<(), Problem> {
    let desired = api.brain.desired();
    let known = &desired.document().tenants;
    let unknown = wish.tenants.iter().enumerate().filter(|(_, tenant)| !known.contains_key(*tenant));
    let errors: Vec<FieldError> = unknown
        .map(|(i, tenant)| FieldError::new(format!("tenants[{i}]"), format!("there is no tenants.{tenant}")))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(Problem { errors, ..Problem::request() }) }
}

/// One token.
#[utoipa::path(get, path = "/tokens/{id}", tag = "tokens", params(("id" = String, Path, description = "Its public name")),
    responses((status = 200, body = TokenShown), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn show(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<TokenShown>, Problem> {
    Ok(Json(api.tokens.one(&id, &actor.scope)?.into()))
}

/// Revokes a token: from now on it is good for nothing, and what it watches ends.
#[utoipa::path(delete, path = "/tokens/{id}", tag = "tokens", params(("id" = String, Path, description = "Its public name")),
    responses((status = 200, body = TokenShown), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn revoke(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<TokenShown>, Problem> {
    Ok(Json(with_tokens(&api, move |tokens| tokens.revoke(&actor, &id)).await?.into()))
}

/// Makes a token in place of this one: for the same person, role, tenants and prefixes; it lives no longer.
#[utoipa::path(post, path = "/tokens/{id}/rotate", tag = "tokens", request_body = RotateRequest,
    params(("id" = String, Path, description = "Its public name")),
    responses((status = 201, body = TokenMade), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn rotate(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Tree(tree): Tree,
) -> Result<impl IntoResponse, Problem> {
    rotated(&api, actor, id, &tree).await
}

async fn rotated(
    api: &Api,
    actor: Actor,
    id: String,
    tree: &Value,
) -> Result<impl IntoResponse + use<>, Problem> {
    let mut fields = Fields::of(tree, &["overlap"]);
    let overlap = match fields.optional::<Duration>("overlap") {
        Some(overlap) if fields.problems.is_empty() => overlap.map_or(OVERLAP, signed),
        _ => return Err(fields.end()),
    };
    with_tokens(api, move |tokens| tokens.rotate(&actor, &id, overlap)).await.map(made)
}

/// Lets a token live for so long from now on, within the longest life that the gateway allows.
#[utoipa::path(post, path = "/tokens/{id}/extend", tag = "tokens", request_body = ExtendRequest,
    params(("id" = String, Path, description = "Its public name")),
    responses((status = 200, body = TokenShown), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn extend(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    Tree(tree): Tree,
) -> Result<Json<TokenShown>, Problem> {
    let mut fields = Fields::of(&tree, &["life"]);
    let life = match fields.required::<Duration>("life") {
        Some(life) if fields.problems.is_empty() => signed(life),
        _ => return Err(fields.end()),
    };
    Ok(Json(with_tokens(&api, move |tokens| tokens.extend(&actor, &id, life)).await?.into()))
}

/// The token that asks.
#[utoipa::path(get, path = "/tokens/self", tag = "tokens",
    responses((status = 200, body = TokenShown), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn show_own(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
) -> Result<Json<TokenShown>, Problem> {
    let id = own(&actor)?;
    Ok(Json(api.tokens.one(id.as_str(), &actor.scope)?.into()))
}

/// Makes a token in place of the one that asks.
#[utoipa::path(post, path = "/tokens/self/rotate", tag = "tokens", request_body = RotateRequest,
    responses((status = 201, body = TokenMade), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn rotate_own(
    State(api): State<Arc<Api>>,
    Extension(actor): Extension<Actor>,
    Tree(tree): Tree,
) -> Result<impl IntoResponse, Problem> {
    let id = own(&actor)?.to_string();
    rotated(&api, actor, id, &tree).await
}

fn own(actor: &Actor) -> Result<&TokenId, Problem> {
    let without = || Problem::not_found().with_detail(format!("{} shows no token of this list", actor.name));
    actor.token.as_ref().ok_or_else(without)
}

/// The routes of this module.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show_own))
        .routes(routes!(rotate_own))
        .routes(routes!(show, revoke))
        .routes(routes!(rotate))
        .routes(routes!(extend))
}
