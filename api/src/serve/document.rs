//! The `OpenAPI` document, completed: what the library cannot say of requests is said here, so that the document and the
//! api agree to the letter.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// Fields of requests that may be left out, but not be null.
const NEVER_NULL: [(&str, &str); 1] = [("SubscriptionPatch", "target_url")];

/// Completes the document that the library makes.
///
/// # Panics
/// When two groups of routes share a path: one of them would vanish for most readers.
#[must_use]
pub fn complete(spec: &str) -> String {
    let mut document: Value = serde_json::from_str(spec).expect("the document is JSON");
    let paths = document["paths"].as_object().expect("the document has paths");
    for path in paths.keys() {
        assert_eq!(spec.matches(&format!("\"{path}\": {{")).count(), 1, "the routes of {path} stand in several groups");
    }
    for name in requested(&document) {
        if let Some(schema) = document["components"]["schemas"][&name].as_object_mut() {
            complete_schema(&name, schema);
        }
    }
    for operation in document["paths"].as_object_mut().into_iter().flatten().flat_map(|(_, path)| operations(path)) {
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            // A list that may be empty may be left out.
            if parameter["in"] == "query" && parameter["schema"]["type"] == "array" {
                parameter["required"] = false.into();
            }
        }
    }
    serde_json::to_string_pretty(&document).expect("a value has a JSON form")
}

fn operations(path: &mut Value) -> impl Iterator<Item = &mut Value> {
    path.as_object_mut().into_iter().flatten().map(|(_, operation)| operation)
}

/// The names of all schemas that stand in a request, directly or inside another.
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

/// Says that other fields are refused, and which may be null.
fn complete_schema(name: &str, schema: &mut Map<String, Value>) {
    if !schema.contains_key("properties") {
        return;
    }
    schema.entry("additionalProperties").or_insert(json!(false));
    let required: Vec<_> = schema.get("required").and_then(Value::as_array).into_iter().flatten().cloned().collect();
    for (field, property) in schema["properties"].as_object_mut().into_iter().flatten() {
        let is_optional = !required.contains(&json!(field)) && property.get("default").is_none();
        if is_optional && !NEVER_NULL.contains(&(name, field.as_str())) {
            let to = property.get("$ref").cloned();
            if let Some(to) = to {
                // Nothing may stand beside a reference.
                *property = json!({"allOf": [{"$ref": to}]});
            }
            property["nullable"] = true.into();
        }
    }
    if let Some(example) = schema.get_mut("example").and_then(Value::as_object_mut) {
        example.retain(|_, value| !value.is_null());
    }
}
