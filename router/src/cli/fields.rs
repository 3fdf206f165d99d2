//! `watari explain segment.mtu`: what the documentation of the code says of a field, out of the description of the API.

use serde_json::{Value, json};
use watari_config::document::KINDS;

use super::To;
use super::commands::{CommandError, known_kind, show};
use super::table;

pub(super) const EXAMPLES: &str = "\
Examples:
  watari explain                       the kinds of object
  watari explain segment               the fields of a segment
  watari explain segment.mtu           one of them
  watari explain tunnel.wireguard.endpoints";

/// What is known of a field, or of the kinds.
#[derive(Debug, PartialEq)]
struct Explained {
    path: String,
    kind: String,
    required: bool,
    description: String,
    /// The fields inside: name, kind, whether it must be given, the first sentence.
    fields: Vec<(String, String, bool, String)>,
}

/// Prints the documentation of `path`; needs no gateway.
pub(super) fn explain(to: &To, path: Option<&str>) -> Result<(), CommandError> {
    let description = serde_json::to_value(crate::api::description()).unwrap_or(Value::Null);
    let explained = look_up(&description, path.unwrap_or_default())?;
    let fields: Vec<Value> = explained
        .fields
        .iter()
        .map(|(name, kind, required, says)| {
            json!({ "field": name, "type": kind, "required": required, "description": says })
        })
        .collect();
    let answer = json!({
        "path": explained.path, "type": explained.kind, "required": explained.required,
        "description": explained.description, "fields": fields,
    });
    show(to, &answer, |answer| {
        let must = if explained.required { ", must be given" } else { "" };
        table::line(format!("{}: {}{must}", explained.path, explained.kind));
        for line in wrapped(&explained.description) {
            table::line(format!("  {line}"));
        }
        if !explained.fields.is_empty() {
            table::line("");
            table::rows(&answer["fields"], &["field", "type", "required", "description"]);
        }
    });
    Ok(())
}

/// Goes down from the kind through fields, lists and maps.
fn look_up(description: &Value, path: &str) -> Result<Explained, CommandError> {
    let document = &description["components"]["schemas"]["Document"];
    // `metadata` and `spec` are where others have them; here the fields are the object's own.
    let mut words = path.split('.').filter(|word| !word.is_empty() && *word != "spec");
    let Some(kind) = words.next() else {
        return Ok(explained(
            "document",
            document,
            true,
            "Everything that an operator asks of the gateways.",
        ));
    };
    let kind = if kind == "fabric" { kind } else { known_kind(kind)? };
    let of_kind = &document["properties"][kind];
    let says = of_kind["description"].as_str().unwrap_or_default();
    let mut here =
        (if KINDS.contains(&kind) { &of_kind["additionalProperties"] } else { of_kind }, false, says);
    let mut at = kind.to_owned();
    for word in words {
        let inside = inner(here.0);
        let field = &inside["properties"][word];
        if field.is_null() {
            let known: Vec<String> =
                explained(&at, here.0, false, "").fields.into_iter().map(|f| f.0).collect();
            return Err(CommandError::Field { path: format!("{at}.{word}"), known });
        }
        let required = is_required(inside, word);
        here = (field, required, field["description"].as_str().unwrap_or_default());
        at = format!("{at}.{word}");
    }
    Ok(explained(&at, here.0, here.1, here.2))
}

/// What is inside a list or a map, however deep.
fn inner(schema: &Value) -> &Value {
    let inside = [&schema["items"], &schema["additionalProperties"]].into_iter().find(|s| s.is_object());
    match inside {
        Some(inside) => inner(inside),
        None => match schema["oneOf"].as_array() {
            Some(choices) => {
                choices.iter().map(inner).find(|c| c["properties"].is_object()).unwrap_or(schema)
            }
            None => schema,
        },
    }
}

fn explained(path: &str, schema: &Value, required: bool, description: &str) -> Explained {
    let inside = inner(schema);
    let fields = inside["properties"].as_object().into_iter().flatten();
    let fields = fields.map(|(name, field)| {
        let says = field["description"].as_str().unwrap_or_default();
        let first = says.split_once(". ").map_or(says, |(first, _)| first).to_owned();
        (name.clone(), kind_of(field), is_required(inside, name), first)
    });
    Explained {
        path: path.to_owned(),
        kind: kind_of(schema),
        required,
        description: description.to_owned(),
        fields: fields.collect(),
    }
}

fn is_required(schema: &Value, field: &str) -> bool {
    schema["required"].as_array().is_some_and(|required| required.iter().any(|name| name == field))
}

/// `text`, `list of number`, `map of object` …
fn kind_of(schema: &Value) -> String {
    let named = |name: &str| match name {
        "string" => "text".to_owned(),
        "integer" | "number" => "number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => format!("list of {}", kind_of(&schema["items"])),
        "object" if schema["additionalProperties"].is_object() => {
            format!("map of {}", kind_of(&schema["additionalProperties"]))
        }
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::String(name) => named(name),
        Value::Array(names) => {
            let words = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            words.map(named).collect::<Vec<_>>().join(" or ")
        }
        _ => {
            let choices = schema["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
            choices.iter().filter(|c| c["type"] != "null").map(kind_of).collect::<Vec<_>>().join(" or ")
        }
    }
}

/// Lines of at most a hundred characters.
fn wrapped(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < 100 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Result<Explained, String> {
        let description = serde_json::to_value(crate::api::description()).unwrap();
        look_up(&description, path).map_err(|e| e.to_string())
    }

    #[test]
    fn a_field_is_explained_by_its_documentation() {
        let mtu = of("segment.mtu").unwrap();
        assert_eq!((mtu.path.as_str(), mtu.kind.as_str(), mtu.required), ("segments.mtu", "number", true));
        assert!(mtu.description.contains("in bytes"), "{mtu:?}");
        assert_eq!(of("segments.spec.mtu").unwrap(), mtu, "as others write it");
        assert_eq!(of("segment.subnets").unwrap().kind, "list of text");
        assert!(of("fabric.vxlan_port").unwrap().description.contains("UDP port"));
    }

    #[test]
    fn what_is_inside_is_listed_through_lists_and_maps() {
        let names = |path: &str| of(path).unwrap().fields.into_iter().map(|f| f.0).collect::<Vec<_>>();
        assert!(names("").contains(&"segments".to_owned()));
        assert!(names("attachment.vlan").contains(&"inner_vid".to_owned()));
        assert!(names("segment.static_hosts").contains(&"mac".to_owned()));
        assert!(names("tunnel.direct.ends").contains(&"address".to_owned()));
        assert_eq!(of("attachment.vlan.trunk").unwrap().path, "attachments.vlan.trunk");
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused_with_those_that_do() {
        let refused = of("segment.mtv").unwrap_err();
        assert!(refused.contains("segments.mtv") && refused.contains("flood_rate"), "{refused}");
        assert!(of("segmentation").is_err());
    }

    #[test]
    fn every_field_of_every_kind_has_a_documentation() {
        for kind in KINDS {
            for (name, ..) in of(kind).unwrap().fields {
                let field = of(&format!("{kind}.{name}")).unwrap();
                assert!(!field.description.is_empty() && !field.kind.is_empty(), "{kind}.{name}");
            }
        }
    }
}
