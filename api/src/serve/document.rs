//! Completes the `OpenAPI` document that the library makes. The library cannot express some rules, so they are added
//! here: the document then describes exactly what the api does, and generators of clients understand it. The
//! descriptions themselves stand with the types and operations.

mod operations;
mod schemas;

use serde_json::{Map, Value};

/// The chapters, in the order in which a newcomer reads them.
const CHAPTERS: [&str; 14] = [
    "Subscriptions",
    "Events",
    "Ingest",
    "Deliveries",
    "Dead letters",
    "Jobs",
    "Emitters",
    "Demo",
    "Statistics",
    "Live",
    "API keys",
    "Portal links",
    "Audit log",
    "Health",
];

/// Completes the document that the library makes.
///
/// # Panics
/// When two groups of routes share a path, because most readers would keep only one of them; or when a name in these
/// tables is not that of a chapter or an operation.
#[must_use]
pub fn complete(spec: &str) -> String {
    let mut document: Value = serde_json::from_str(spec).expect("the document is JSON");
    let paths = document["paths"].as_object().expect("the document has paths");
    for path in paths.keys() {
        assert_eq!(spec.matches(&format!("\"{path}\": {{")).count(), 1, "the routes of {path} stand in several groups");
    }
    schemas::complete(&mut document);
    operations::complete(document["paths"].as_object_mut().expect("the document has paths"));
    if let Some(chapters) = document["tags"].as_array_mut() {
        let place = |chapter: &Value| CHAPTERS.iter().position(|name| chapter["name"] == **name);
        assert!(chapters.iter().all(|chapter| place(chapter).is_some()), "the chapters are {CHAPTERS:?}");
        chapters.sort_by_key(place);
    }
    serde_json::to_string_pretty(&document).expect("a value has a JSON form")
}

/// Calls `change` with the path, the method and the description of every operation.
fn each_operation(paths: &mut Map<String, Value>, mut change: impl FnMut(&str, &str, &mut Map<String, Value>)) {
    for (path, operations) in paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            change(path, method, operation.as_object_mut().expect("an operation is an object"));
        }
    }
}
