//! The API of nodes: attach, renew, detach, receipt.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use watari_config::document::NodeKind;
use watari_config::{Mac, Name};

use super::attach::{self, Wish};
use super::receipt::Receipt;
use super::{Nodes, join, token};
use crate::actor::Actor;
use crate::api::document::Answer;
use crate::api::edit;
use crate::api::problem::Problem;
use crate::api::request::{Path, Query, Tree};
use crate::brain::{Applied, ChangeError, Head};
use crate::events::now;
use crate::store::{token_sha256, tree};

/// The longest time a detach may wait, seconds.
const WAIT_S_MAX: u32 = 600;

/// What is asked when a node is attached.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "it is the schema; the body is read field by field, so that each wrong one is named"
)]
struct AttachRequest {
    /// Its name; one is made where it is absent.
    name: Option<String>,
    /// Its segment; may be absent where this gateway has one only.
    segment: Option<String>,
    /// `gpu` or `cpu`, which is the default.
    kind: Option<String>,
    /// `l3`, which is the default.
    mode: Option<String>,
    /// How long it may live: `90s`, `15m`, `12h`, `7d`; `24h` is the default.
    lease: Option<String>,
}

/// A lease.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it is the schema; the body is read field by field")]
struct RenewRequest {
    /// How long the node may live from now on: `90s`, `15m`, `12h`, `7d`.
    lease: String,
}

/// The WireGuard end that a node configures; it makes its private key itself and sends it nowhere.
#[derive(Debug, Serialize, ToSchema)]
struct Wireguard {
    /// The gateway's public key.
    public_key: String,
    /// Where the gateway listens.
    endpoint: String,
    /// What the gateway may send from.
    allowed_ips: Vec<String>,
    /// MTU of the node's device in bytes.
    mtu: u16,
    /// Seconds between keepalives.
    keepalive_s: u16,
}

/// An attached node, and how it is joined.
#[derive(Debug, Serialize, ToSchema)]
struct Attached {
    /// Its name.
    #[schema(value_type = String)]
    name: Name,
    /// The gateway that serves it.
    #[schema(value_type = String)]
    gateway: Name,
    /// Its segment.
    #[schema(value_type = String)]
    segment: Name,
    /// What kind of machine it is.
    #[schema(value_type = String)]
    kind: NodeKind,
    /// Its addresses, one /32 and one /128.
    addresses: Vec<String>,
    /// The MAC under which the hosts of the segment see it.
    #[schema(value_type = String)]
    mac: Mac,
    /// Until when it may live, UTC.
    #[schema(value_type = String, format = DateTime)]
    expires: Timestamp,
    /// Until when its token is good, UTC.
    #[schema(value_type = String, format = DateTime)]
    token_expires: Timestamp,
    /// Its WireGuard end.
    wireguard: Wireguard,
    /// The command that makes a machine this node. It carries the one-shot token.
    join_command: String,
    /// The same as user data for cloud-init (`#cloud-config`).
    cloud_init: String,
    /// The newest revision.
    revision: u64,
    /// The generation of the desired state.
    generation: u64,
}

/// A renewed lease.
#[derive(Debug, Serialize, ToSchema)]
struct Renewed {
    /// The node.
    name: String,
    /// Until when it may live, UTC.
    #[schema(value_type = String, format = DateTime)]
    expires: Timestamp,
    /// The newest revision.
    revision: u64,
}

/// How long a detach waits.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct WaitArgs {
    /// Seconds to wait until nothing of it is left at this gateway, at most 600.
    #[param(maximum = 600)]
    wait_s: u32,
}

/// Attaches a node: allocates its addresses and makes the one-shot token with which it joins.
#[utoipa::path(post, path = "/nodes", tag = "nodes", request_body = AttachRequest,
    responses((status = 201, body = Attached), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn attach_node(
    State(nodes): State<Arc<Nodes>>,
    Extension(actor): Extension<Actor>,
    Tree(tree): Tree,
) -> Result<(StatusCode, Json<Attached>), Problem> {
    let wish = Wish::read(&tree).map_err(|problems| Problem::request().with_errors(problems))?;
    if nodes.enrol.is_none() {
        let detail = "this gateway attaches no nodes: its bootstrap file has no `enrol`";
        return Err(Problem::conflict().with_detail(detail));
    }
    let random = |error: getrandom::Error| Problem::internal().with_detail(error.to_string());
    let secret = token::generate().map_err(random)?;
    let name = match &wish.name {
        Some(name) => name.clone(),
        None => made_name(wish.kind).map_err(random)?,
    };
    let (asked, hash, at) = (name.clone(), token_sha256(&secret), now());
    let change = move |head: &Head| attach::attach(head, &asked, &wish, hash, at);
    let made = nodes.brain.change(actor, format!("attach {name}"), change).await.map_err(refusal)?;
    nodes.asked(&name, at);
    let invited = invitation(&nodes, name, &secret, &made);
    let gone = || Problem::conflict().with_detail("it was detached at once");
    Ok((StatusCode::CREATED, Json(invited.ok_or_else(gone)?)))
}

/// What is answered to who attached the node; `None` when it is gone already.
fn invitation(nodes: &Nodes, name: Name, secret: &str, made: &Applied) -> Option<Attached> {
    let (desired, secrets) = (nodes.brain.desired(), nodes.brain.secrets());
    let node = desired.document().nodes.get(&name)?;
    let told = join::reply(&desired, &name, secrets.wireguard_public())?;
    let address = join::enrol_address(nodes.enrol.as_ref()?, desired.gateway()?)?;
    let pin = secrets.tls_pin();
    Some(Attached {
        gateway: node.gateway.clone(),
        segment: node.segment.clone(),
        kind: node.kind,
        addresses: told.addresses.iter().map(ToString::to_string).collect(),
        mac: node.mac,
        expires: node.expires,
        token_expires: token::good_until(node),
        wireguard: Wireguard {
            public_key: told.wireguard.public_key.to_string(),
            endpoint: told.wireguard.endpoint.to_string(),
            allowed_ips: told.wireguard.allowed_ips.iter().map(ToString::to_string).collect(),
            mtu: told.mtu,
            keepalive_s: told.wireguard.keepalive_s,
        },
        join_command: join::join_command(address, secret, &pin),
        cloud_init: join::cloud_init(&name, address, secret, &pin),
        revision: made.revision,
        generation: made.generation,
        name,
    })
}

/// A refused request is no wrong document: its fields are those of the request.
fn refusal(error: ChangeError) -> Problem {
    match error {
        ChangeError::Invalid(problems) => Problem::request().with_errors(problems),
        other => other.into(),
    }
}

/// A name that nobody gave: its kind and six random digits.
fn made_name(kind: NodeKind) -> Result<Name, getrandom::Error> {
    let mut bytes = [0; 3];
    getrandom::fill(&mut bytes)?;
    let word = match kind {
        NodeKind::Gpu => "gpu",
        NodeKind::Cpu => "cpu",
    };
    Ok(format!("{word}-{}", hex::encode(bytes)).parse().expect("letters and digits"))
}

fn known_name(name: &str) -> Result<Name, Problem> {
    let unknown = || Problem::not_found().with_detail(format!("there is no nodes.{name}"));
    name.parse().map_err(|_| unknown())
}

/// Detaches a node: it leaves the document, the kernel, and the other gateways' tables.
#[utoipa::path(delete, path = "/nodes/{name}", tag = "nodes",
    params(("name" = String, Path, description = "The node"), WaitArgs),
    responses((status = 200, body = Answer), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn detach_node(
    State(nodes): State<Arc<Nodes>>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Query(args): Query<WaitArgs>,
) -> Result<Json<Answer>, Problem> {
    if args.wait_s > WAIT_S_MAX {
        return Err(Problem::parameter().with_detail(format!("wait_s is at most {WAIT_S_MAX}")));
    }
    let action = format!("detach {name}");
    let made = nodes.brain.change(actor, action, move |head| edit::removed(head, "nodes", &name)).await?;
    let limit = Duration::from_secs(args.wait_s.into());
    let applied = match args.wait_s {
        0 => None,
        _ => Some(nodes.brain.wait_applied(made.generation, limit).await.is_ok()),
    };
    Ok(Json(Answer { applied, ..Answer::from(made) }))
}

/// The receipt of a node: each stage with its time, and every probe.
#[utoipa::path(get, path = "/nodes/{name}/receipt", tag = "nodes",
    params(("name" = String, Path, description = "The node")),
    responses((status = 200, body = Receipt), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn get_receipt(
    State(nodes): State<Arc<Nodes>>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
) -> Result<Json<Receipt>, Problem> {
    let missing = || Problem::not_found().with_detail(format!("there is no nodes.{name}"));
    let desired = nodes.brain.desired();
    if !actor.scope.is_all() && !actor.scope.sees(&tree(desired.document()), "nodes", &name) {
        return Err(missing());
    }
    nodes.receipt(&known_name(&name)?).map(Json).ok_or_else(missing)
}

/// Renews the lease of a node: it ends so long after now.
#[utoipa::path(post, path = "/nodes/{name}/renew", tag = "nodes", request_body = RenewRequest,
    params(("name" = String, Path, description = "The node")),
    responses((status = 200, body = Renewed), (status = "4XX", body = Problem, content_type = "application/problem+json")))]
async fn renew_node(
    State(nodes): State<Arc<Nodes>>,
    Extension(actor): Extension<Actor>,
    Path(name): Path<String>,
    Tree(tree): Tree,
) -> Result<Json<Renewed>, Problem> {
    let lease = attach::read_lease(&tree).map_err(|problems| Problem::request().with_errors(problems))?;
    let (key, expires) = (known_name(&name)?, attach::lease_end(now(), lease));
    let change = move |head: &Head| {
        let mut document = head.desired.document().clone();
        let missing = || ChangeError::NotFound { object: format!("nodes.{key}") };
        document.nodes.get_mut(&key).ok_or_else(missing)?.expires = expires;
        Ok(document)
    };
    let made = nodes.brain.change(actor, format!("renew {name}"), change).await?;
    Ok(Json(Renewed { name, expires, revision: made.revision }))
}

/// The routes of nodes. Listing and reading them are among those of all objects.
pub fn routes() -> OpenApiRouter<Arc<Nodes>> {
    OpenApiRouter::new()
        .routes(routes!(attach_node))
        .routes(routes!(detach_node))
        .routes(routes!(get_receipt))
        .routes(routes!(renew_node))
}
