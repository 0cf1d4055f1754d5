//! Completes the schemas for generators of clients: lists are named by their nouns, references are plain, and requests
//! refuse unknown fields.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The library's name for the schema of a list is this prefix and the name of its items.
const LIST: &str = "List_";
/// References to schemas begin with this path.
const SCHEMAS: &str = "#/components/schemas/";
/// Fields of requests that may be left out but must not be null, each with the name of its schema.
const NEVER_NULL: [(&str, &str); 1] = [("SubscriptionPatch", "target_url")];

/// Renames the lists, makes references plain, and completes the schemas of requests.
pub fn complete(document: &mut Value) {
    rename_lists(document);
    plain_references(document);
    for name in requested(document) {
        if let Some(schema) = document["components"]["schemas"][&name].as_object_mut() {
            complete_schema(&name, schema);
        }
    }
}

/// Turns the library's name of a list, such as `List_Subscription`, into ours, `SubscriptionList`.
fn list_name(name: &str) -> Option<String> {
    name.strip_prefix(LIST).map(|item| format!("{item}List"))
}

fn rename_lists(document: &mut Value) {
    if let Some(schemas) = document["components"]["schemas"].as_object_mut() {
        let renamed = std::mem::take(schemas).into_iter().map(|(name, mut schema)| match list_name(&name) {
            Some(list) => {
                schema["title"] = list.clone().into();
                (list, schema)
            }
            None => (name, schema),
        });
        *schemas = renamed.collect();
    }
    each_object(document, &|entries| {
        let to = entries.get("$ref").and_then(Value::as_str).and_then(|to| to.strip_prefix(SCHEMAS));
        if let Some(list) = to.and_then(list_name) {
            entries.insert("$ref".to_owned(), format!("{SCHEMAS}{list}").into());
        }
    });
}

/// Makes references plain. Where a reference has a description, the library writes an `allOf` of the reference and of a
/// schema that holds only the description. Generators take that for a second type, and some drop the whole schema. The
/// description also stands beside the `allOf`, so the `allOf` keeps the reference alone.
fn plain_references(document: &mut Value) {
    each_object(document, &|entries| {
        let Some(Value::Array(parts)) = entries.get_mut("allOf") else { return };
        let (references, beside): (Vec<_>, Vec<_>) =
            std::mem::take(parts).into_iter().partition(|part| part.get("$ref").is_some());
        *parts = references;
        for (key, value) in beside.into_iter().filter_map(|part| part.as_object().cloned()).flatten() {
            entries.entry(key).or_insert(value);
        }
    });
}

/// Calls `change` for every object of the document, the innermost first.
fn each_object(value: &mut Value, change: &impl Fn(&mut Map<String, Value>)) {
    match value {
        Value::Object(entries) => {
            entries.values_mut().for_each(|value| each_object(value, change));
            change(entries);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each_object(item, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The names of all schemas that a request body uses, directly or inside another schema.
fn requested(document: &Value) -> BTreeSet<String> {
    let mut waiting: Vec<&Value> = Vec::new();
    for path in document["paths"].as_object().into_iter().flatten().map(|(_, path)| path) {
        waiting
            .extend(path.as_object().into_iter().flatten().filter_map(|(_, operation)| operation.get("requestBody")));
    }
    let mut names = BTreeSet::new();
    while let Some(value) = waiting.pop() {
        match value {
            Value::Object(entries) => {
                let name = entries.get("$ref").and_then(Value::as_str).and_then(|to| to.rsplit('/').next());
                if let Some(name) = name.filter(|name| names.insert((*name).to_owned())) {
                    waiting.push(&document["components"]["schemas"][name]);
                }
                waiting.extend(entries.values());
            }
            Value::Array(items) => waiting.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    names
}

/// Says of a request's schema that other fields are refused, and which of its fields may be null.
fn complete_schema(name: &str, schema: &mut Map<String, Value>) {
    if !schema.contains_key("properties") {
        return;
    }
    schema.entry("additionalProperties").or_insert(json!(false));
    let required: Vec<_> = schema.get("required").and_then(Value::as_array).into_iter().flatten().cloned().collect();
    for (field, property) in schema["properties"].as_object_mut().into_iter().flatten() {
        // The description tells the default in words. As `default`, some generators make the field required, and others
        // drop the whole schema.
        let has_default = property.as_object_mut().is_some_and(|property| property.remove("default").is_some());
        let is_optional = !required.contains(&json!(field)) && !has_default;
        if is_optional && !NEVER_NULL.contains(&(name, field.as_str())) {
            let to = property.get("$ref").cloned();
            if let Some(to) = to {
                // OpenAPI 3.0 ignores whatever stands beside a `$ref`, so the reference is wrapped.
                *property = json!({"allOf": [{"$ref": to}]});
            }
            property["nullable"] = true.into();
        }
    }
    if let Some(example) = schema.get_mut("example").and_then(Value::as_object_mut) {
        example.retain(|_, value| !value.is_null());
    }
}
