//! The objects of the document as OpenAPI schemas. Only with the feature `schema`.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, SchemaType, Type,
};

/// A schema, or a reference to one.
pub type Schema = RefOr<utoipa::openapi::schema::Schema>;

fn of(kind: Type) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(kind))
}

/// A text.
pub fn text() -> Schema {
    RefOr::T(of(Type::String).into())
}

/// A whole number.
pub fn number() -> Schema {
    RefOr::T(of(Type::Integer).into())
}

/// A truth value.
pub fn boolean() -> Schema {
    RefOr::T(of(Type::Boolean).into())
}

/// A list of `item`.
pub fn list(item: Schema) -> Schema {
    RefOr::T(ArrayBuilder::new().items(item).into())
}

/// A map from an object's name to `item`.
pub fn map(item: Schema) -> Schema {
    RefOr::T(of(Type::Object).additional_properties(Some(AdditionalProperties::RefOr(item))).into())
}

/// A value that may be absent, which is written as null.
pub fn optional(schema: Schema) -> Schema {
    use utoipa::openapi::schema::Schema as S;
    let with_null = |kind: SchemaType| match kind {
        SchemaType::Type(kind) => SchemaType::Array(vec![kind, Type::Null]),
        other => other,
    };
    match schema {
        RefOr::T(S::Object(mut inner)) => {
            inner.schema_type = with_null(inner.schema_type);
            RefOr::T(S::Object(inner))
        }
        RefOr::T(S::Array(mut inner)) => {
            inner.schema_type = with_null(inner.schema_type);
            RefOr::T(S::Array(inner))
        }
        other => either(other, RefOr::T(of(Type::Null).into())),
    }
}

/// One schema or another.
pub fn either(one: Schema, other: Schema) -> Schema {
    RefOr::T(OneOfBuilder::new().item(one).item(other).build().into())
}

/// An object with its fields: name, description, whether it must be given, schema.
pub fn object(title: &str, fields: Vec<(&str, &str, bool, Schema)>) -> Schema {
    let mut object = of(Type::Object).title(Some(title));
    for (name, description, required, schema) in fields {
        object = object.property(name, described(schema, description));
        if required {
            object = object.required(name);
        }
    }
    RefOr::T(object.additional_properties(Some(AdditionalProperties::FreeForm(false))).into())
}

fn described(schema: Schema, description: &str) -> Schema {
    use utoipa::openapi::schema::Schema as S;
    let text = Some(description.trim().to_owned());
    match schema {
        RefOr::T(S::Object(mut inner)) => {
            inner.description = text;
            RefOr::T(S::Object(inner))
        }
        RefOr::T(S::Array(mut inner)) => {
            inner.description = text;
            RefOr::T(S::Array(inner))
        }
        RefOr::T(S::OneOf(mut inner)) => {
            inner.description = text;
            RefOr::T(S::OneOf(inner))
        }
        other => other,
    }
}
