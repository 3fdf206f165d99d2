//! Answers as tables for people. Generic over the JSON, so that a new field is shown without a new line here.

use std::io::Write as _;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Map, Value};

/// Prints a line; a reader that closed the pipe wants no more.
pub(super) fn line(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout(), "{}", text.as_ref());
}

/// Prints JSON for programs.
pub(super) fn json(value: &Value) {
    line(serde_json::to_string_pretty(value).unwrap_or_default());
}

fn table(header: Vec<String>, rows: Vec<Vec<String>>) {
    if rows.is_empty() {
        return line("(none)");
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(header).add_rows(rows);
    for row in table.lines() {
        line(row.trim_end());
    }
}

/// A value in one cell.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::Number(n) => n.to_string(),
        Value::String(s) => s.clone(),
        Value::Array(list) if list.is_empty() => "-".to_owned(),
        Value::Array(list) => list.iter().map(cell).collect::<Vec<_>>().join(" "),
        Value::Object(map) => {
            map.iter().map(|(k, v)| format!("{k}={}", cell(v))).collect::<Vec<_>>().join(" ")
        }
    }
}

/// Objects by name, a column for each field that any of them has.
pub(super) fn objects(objects: &Map<String, Value>) {
    let mut columns: Vec<&String> = Vec::new();
    for (key, value) in objects.values().filter_map(Value::as_object).flatten() {
        if !value.is_null() && !columns.contains(&key) {
            columns.push(key);
        }
    }
    let header = std::iter::once("NAME".to_owned()).chain(columns.iter().map(|c| heading(c))).collect();
    let row = |(name, object): (&String, &Value)| {
        let fields = columns.iter().map(|c| cell(object.get(c.as_str()).unwrap_or(&Value::Null)));
        std::iter::once(name.clone()).chain(fields).collect()
    };
    table(header, objects.iter().map(row).collect());
}

/// A list of objects, with these fields as columns.
pub(super) fn rows(list: &Value, columns: &[&str]) {
    let rows = list.as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |object: &Value| columns.iter().map(|c| cell(object.get(c).unwrap_or(&Value::Null))).collect();
    table(columns.iter().map(|c| heading(c)).collect(), rows.iter().map(row).collect());
}

/// One object, a line for each field, those of inner objects with their path.
pub(super) fn fields(object: &Value) {
    let mut rows = Vec::new();
    flatten("", object, &mut rows);
    table(vec!["FIELD".to_owned(), "VALUE".to_owned()], rows);
}

fn flatten(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    let below = |key: &dyn std::fmt::Display| match path {
        "" => key.to_string(),
        _ => format!("{path}.{key}"),
    };
    match value {
        Value::Object(map) if !map.is_empty() => map.iter().for_each(|(k, v)| flatten(&below(k), v, rows)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            list.iter().enumerate().for_each(|(i, v)| flatten(&below(&i), v, rows));
        }
        other => rows.push(vec![path.to_owned(), cell(other)]),
    }
}

/// The steps of a plan.
pub(super) fn plan(plan: &Value) {
    let ops = plan.get("ops").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if ops.is_empty() {
        return line("nothing is to be done");
    }
    let row = |op: &Value| {
        let field = |name| op.get(name).unwrap_or(&Value::Null);
        vec![cell(field("action")), item(field("key")), cell(field("owner"))]
    };
    let header = ["ACTION", "ITEM", "FOR"].map(str::to_owned).to_vec();
    table(header, ops.iter().map(row).collect());
    if let Some(touches) =
        plan.get("touches").filter(|touches| touches.as_array().is_some_and(|t| !t.is_empty()))
    {
        line("");
        rows(touches, &["effect", "object", "traffic"]);
    }
}

/// The key of an item: `address root lo 10.0.0.1/32`.
fn item(key: &Value) -> String {
    match key {
        Value::Object(map) => {
            map.iter().map(|(kind, v)| format!("{} {}", kind.replace('_', " "), cell(v))).collect()
        }
        other => cell(other).replace('_', " "),
    }
}

/// The head of `plan` and `status`, and the state of each object.
pub(super) fn status(seen: &Value) {
    let number = |field| seen.get(field).and_then(Value::as_u64).unwrap_or(0);
    let settled = if seen.get("settled") == Some(&Value::Bool(true)) { "settled" } else { "not settled" };
    let at = seen.get("at").and_then(Value::as_str).unwrap_or_default();
    line(format!(
        "generation {} of {}, {settled}, seen {at}",
        number("generation"),
        number("desired_generation")
    ));
    let Some(Value::Object(states)) = seen.pointer("/status/objects") else { return };
    objects(states);
}

/// What changed, one object a line, and the revision.
pub(super) fn changes(answer: &Value) {
    let list = answer.get("changes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for change in list {
        let word = |field| change.get(field).and_then(Value::as_str).unwrap_or_default();
        line(format!("{:8} {}", word("change"), word("object")));
    }
    let revision = answer.get("revision").and_then(Value::as_u64).unwrap_or(0);
    match (answer.get("dry_run") == Some(&Value::Bool(true)), list.is_empty()) {
        (true, _) => line(format!("dry run: revision {revision} stays")),
        (false, true) => line(format!("nothing changed; revision {revision}")),
        (false, false) => line(format!("revision {revision}")),
    }
}

fn heading(field: &str) -> String {
    field.replace('_', " ").to_uppercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_are_short_and_say_all() {
        assert_eq!(cell(&json!({"trunk": "eth1", "vid": 100})), "trunk=eth1 vid=100");
        assert_eq!(cell(&json!(["10.0.0.0/24", "fd00::/64"])), "10.0.0.0/24 fd00::/64");
        assert_eq!(cell(&json!(null)), "-");
    }

    #[test]
    fn an_item_of_a_plan_is_readable() {
        assert_eq!(item(&json!({"address": ["root", "lo", "10.0.0.1/32"]})), "address root lo 10.0.0.1/32");
        assert_eq!(item(&json!({"tenant_entry": 5000})), "tenant entry 5000");
        assert_eq!(item(&json!("gateway_entry")), "gateway entry");
    }

    #[test]
    fn inner_fields_have_their_path() {
        let mut rows = Vec::new();
        flatten("", &json!({"a": {"b": 1}, "c": [{"d": 2}], "e": [3, 4]}), &mut rows);
        let rows: Vec<String> = rows.into_iter().map(|r| r.join("=")).collect();
        assert_eq!(rows, ["a.b=1", "c.0.d=2", "e=3 4"]);
    }
}
