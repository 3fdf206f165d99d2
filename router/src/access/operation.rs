//! What each operation of the API needs: the one table, in which every operation stands. One that does not is an
//! administrator's alone, and a test holds the table against the OpenAPI document.

use axum::http::Method;
use watari_config::document::KINDS;

use crate::actor::Need;

/// An operation and what it needs: method, path below the API's prefix.
pub type Operation = (Method, &'static str, Need);

const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// Every operation but those of the kinds of object.
const OPERATIONS: [Operation; 47] = [
    (GET, "/healthz", Need::Nothing),
    (GET, "/docs", Need::Nothing),
    (GET, "/openapi.json", Need::Known),
    (GET, "/document", Need::ReadOwn),
    (PUT, "/document", Need::ChangeOwn),
    (POST, "/apply", Need::ChangeOwn),
    (GET, "/nodes/{name}/receipt", Need::ReadOwn),
    (POST, "/nodes", Need::ChangeOwn),
    (DELETE, "/nodes/{name}", Need::ChangeOwn),
    (POST, "/nodes/{name}/renew", Need::ChangeOwn),
    (GET, "/plan", Need::Read),
    (GET, "/status", Need::Read),
    (GET, "/facts", Need::Read),
    (GET, "/events", Need::Read),
    (GET, "/events/stream", Need::Read),
    (GET, "/doctor/mtu", Need::Read),
    (GET, "/bgp/neighbours", Need::Read),
    (GET, "/bgp/neighbours/{neighbour}", Need::Read),
    (GET, "/bgp/neighbours/{neighbour}/received", Need::Read),
    (GET, "/bgp/neighbours/{neighbour}/advertised", Need::Read),
    (POST, "/bgp/neighbours/{neighbour}/reset", Need::Act),
    (GET, "/bgp/table", Need::Read),
    (GET, "/bgp/route", Need::Read),
    (GET, "/duplicates", Need::Read),
    (DELETE, "/duplicates/{vni}/{address}", Need::Act),
    (GET, "/revisions", Need::Read),
    (GET, "/revisions/{n}", Need::Read),
    (POST, "/revisions/{n}/restore", Need::Change),
    (GET, "/trial", Need::ReadOwn),
    (POST, "/trial/confirm", Need::ChangeOwn),
    (POST, "/trial/rollback", Need::ChangeOwn),
    // A trace changes nothing.
    (POST, "/trace", Need::Read),
    (GET, "/why", Need::Read),
    // What other people send is read here.
    (GET, "/monitor", Need::Inspect),
    (GET, "/capture", Need::Inspect),
    (POST, "/measure", Need::Act),
    (GET, "/audit", Need::Audit),
    (GET, "/audit/lines", Need::Audit),
    (GET, "/audit/check", Need::Audit),
    (GET, "/tokens", Need::Tokens),
    (POST, "/tokens", Need::Tokens),
    (GET, "/tokens/self", Need::Known),
    (POST, "/tokens/self/rotate", Need::Known),
    (GET, "/tokens/{id}", Need::Tokens),
    (DELETE, "/tokens/{id}", Need::Tokens),
    (POST, "/tokens/{id}/rotate", Need::Tokens),
    (POST, "/tokens/{id}/extend", Need::Tokens),
];

/// What the operation of a route needs.
pub fn need(method: &Method, path: &str) -> Need {
    // Whoever may GET may ask for the head alone.
    let method = if *method == Method::HEAD { &GET } else { method };
    let listed = OPERATIONS.iter().find(|(m, p, _)| m == method && *p == path);
    listed.map(|(_, _, need)| *need).or_else(|| need_of_kind(method, path)).unwrap_or(Need::Unlisted)
}

/// The kinds of object: listed, read, written, removed; nodes are written by routes of their own.
fn need_of_kind(method: &Method, path: &str) -> Option<Need> {
    let kind = path.strip_prefix('/')?;
    let (kind, is_one) = kind.strip_suffix("/{name}").map_or((kind, false), |kind| (kind, true));
    if !KINDS.contains(&kind) {
        return None;
    }
    match *method {
        Method::GET => Some(Need::ReadOwn),
        Method::PUT | Method::DELETE if is_one && kind != "nodes" => Some(Need::ChangeOwn),
        _ => None,
    }
}

/// Every operation with what it needs.
pub fn all() -> Vec<(Method, String, Need)> {
    let listed = OPERATIONS.iter().map(|(method, path, need)| (method.clone(), (*path).to_owned(), *need));
    let of_kinds = KINDS.iter().flat_map(|kind| {
        let paths = [format!("/{kind}"), format!("/{kind}/{{name}}")];
        paths.into_iter().flat_map(|path| [GET, PUT, DELETE].map(|method| (method, path.clone())))
    });
    let of_kinds =
        of_kinds.filter_map(|(method, path)| need_of_kind(&method, &path).map(|need| (method, path, need)));
    listed.chain(of_kinds).collect()
}
