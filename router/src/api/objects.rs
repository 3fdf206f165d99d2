//! Each kind of object: listed, read, written, removed. The kinds differ in nothing but their schema, so
//! their routes and their part of the OpenAPI document are made in one loop.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use axum::{Extension, Json};
use serde_json::Value;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathItem,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Required, ResponseBuilder, Schema};
use utoipa::{IntoParams as _, PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use watari_config::document;

use super::document::{Answer, ChangeArgs, etag, make};
use super::problem::Problem;
use super::request::{IfMatch, Path, Query, Tree};
use super::{Api, edit};
use crate::actor::Actor;

/// A kind: its name in paths, its schema's name, its schema.
type Kind = (&'static str, String, RefOr<Schema>);

fn kind<T: ToSchema + PartialSchema>(name: &'static str) -> Kind {
    (name, T::name().into_owned(), T::schema())
}

fn kinds() -> [Kind; 11] {
    [
        kind::<document::Site>("sites"),
        kind::<document::Gateway>("gateways"),
        kind::<document::Tenant>("tenants"),
        kind::<document::Segment>("segments"),
        kind::<document::Attachment>("attachments"),
        kind::<document::Tunnel>("tunnels"),
        kind::<document::Exit>("exits"),
        kind::<document::Peer>("peers"),
        kind::<document::Route>("routes"),
        kind::<document::Pool>("pools"),
        kind::<document::Node>("nodes"),
    ]
}

/// Nodes are read here; attaching and detaching are routes of their own.
fn is_written_here(kind: &str) -> bool {
    kind != "nodes"
}

/// The routes of all kinds, with their part of the OpenAPI document.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    let mut router = OpenApiRouter::new();
    for (kind, schema_name, schema) in kinds() {
        let (list, one) = (format!("/{kind}"), format!("/{kind}/{{name}}"));
        router = router.route(&list, list_route(kind)).route(&one, object_route(kind));
        let openapi = router.get_openapi_mut();
        openapi.components.get_or_insert_default().schemas.insert(schema_name.clone(), schema);
        openapi.paths.paths.insert(list, PathItem::new(HttpMethod::Get, list_operation(kind, &schema_name)));
        openapi.paths.paths.insert(one, object_item(kind, &schema_name));
    }
    router
}

fn list_route(kind: &'static str) -> MethodRouter<Arc<Api>> {
    get(move |State(api): State<Arc<Api>>, Extension(actor): Extension<Actor>| async move {
        let head = api.brain.head();
        (etag(head.revision), Json(actor.scope.seen(edit::shown(head.desired.document())).remove(kind)))
    })
}

fn object_route(kind: &'static str) -> MethodRouter<Arc<Api>> {
    let route = get(
        move |State(api): State<Arc<Api>>, Extension(actor): Extension<Actor>, Path(name): Path<String>| async move {
            read(&api, &actor, kind, &name)
        },
    );
    if !is_written_here(kind) {
        return route;
    }
    route
        .put(
            move |State(api): State<Arc<Api>>,
                  Extension(actor): Extension<Actor>,
                  Path(name): Path<String>,
                  Query(args): Query<ChangeArgs>,
                  IfMatch(wanted): IfMatch,
                  Tree(object): Tree| async move {
                let path = format!("{kind}.{name}");
                let made = make(&api, actor, args, format!("put {path}"), move |head| {
                    edit::check_revision(head, wanted)?;
                    edit::put(head, kind, &name, object)
                });
                made.await.map_err(|problem| problem.within(&path))
            },
        )
        .delete(
            move |State(api): State<Arc<Api>>,
                  Extension(actor): Extension<Actor>,
                  Path(name): Path<String>,
                  Query(args): Query<ChangeArgs>,
                  IfMatch(wanted): IfMatch| async move {
                make(&api, actor, args, format!("delete {kind}.{name}"), move |head| {
                    edit::check_revision(head, wanted)?;
                    edit::removed(head, kind, &name)
                })
                .await
                .map_err(Problem::without_pointers)
            },
        )
}

fn read(api: &Api, actor: &Actor, kind: &str, name: &str) -> Result<impl IntoResponse + use<>, Problem> {
    let head = api.brain.head();
    let tree = actor.scope.seen(edit::shown(head.desired.document()));
    let object: Option<Value> = tree.get(kind).and_then(|objects| objects.get(name)).cloned();
    let missing = || Problem::not_found().with_detail(format!("there is no {kind}.{name}"));
    Ok((etag(head.revision), Json(object.ok_or_else(missing)?)))
}

fn schema_ref(name: &str) -> RefOr<Schema> {
    RefOr::Ref(Ref::from_schema_name(name))
}

fn answered(operation: OperationBuilder, description: &str, schema: RefOr<Schema>) -> OperationBuilder {
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let problem = ContentBuilder::new().schema(Some(schema_ref("Problem"))).build();
    let refused = ResponseBuilder::new().description("Refused").content("application/problem+json", problem);
    operation
        .response("200", ResponseBuilder::new().description(description).content("application/json", content))
        .response("4XX", refused)
}

fn operation(id: &str, kind: &str, summary: String) -> OperationBuilder {
    OperationBuilder::new().operation_id(Some(format!("{id}_{kind}"))).tag(kind).summary(Some(summary))
}

fn list_operation(kind: &str, schema: &str) -> Operation {
    let by_name = watari_config::schema::map(schema_ref(schema));
    answered(operation("list", kind, format!("All {kind}, by name")), "The objects by name", by_name).build()
}

fn object_item(kind: &str, schema: &str) -> PathItem {
    let named = |operation: OperationBuilder| {
        let name = ParameterBuilder::new().name("name").parameter_in(ParameterIn::Path);
        operation.parameter(name.required(Required::True).schema(Some(watari_config::schema::text())))
    };
    let read = named(operation("get", kind, format!("One of the {kind}")));
    let mut item = PathItem::new(HttpMethod::Get, answered(read, "The object", schema_ref(schema)));
    if !is_written_here(kind) {
        return item;
    }
    let with_args = |operation: OperationBuilder| {
        let args = ChangeArgs::into_params(|| Some(ParameterIn::Query));
        args.into_iter().fold(named(operation), OperationBuilder::parameter)
    };
    let content = || ContentBuilder::new().schema(Some(schema_ref(schema))).build();
    let body = RequestBodyBuilder::new()
        .content("application/json", content())
        .content("application/yaml", content())
        .required(Some(Required::True));
    let put = with_args(operation("put", kind, format!("Creates or replaces one of the {kind}")));
    let put = answered(put.request_body(Some(body.build())), "What changed", schema_ref(&Answer::name()));
    let delete = with_args(operation("delete", kind, format!("Removes one of the {kind}")));
    item.put = Some(put.build());
    item.delete = Some(answered(delete, "What changed", schema_ref(&Answer::name())).build());
    item
}

/// What is answered to a method that a route does not have.
pub async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> (StatusCode, Problem) {
    let detail = format!("{method} is not possible for {}", uri.path());
    (StatusCode::METHOD_NOT_ALLOWED, Problem::wrong_method().with_detail(detail))
}
