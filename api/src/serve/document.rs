//! The `OpenAPI` document, completed: what the library cannot say is said here, so that the document and the api agree
//! to the letter and generators of clients understand it. What schemas and operations mean stands with their types.

mod operations;
mod schemas;

use serde_json::{Map, Value};

/// The chapters, in the order in which a newcomer needs them.
const CHAPTERS: [&str; 9] =
    ["Subscriptions", "Events", "Ingest", "Deliveries", "Dead letters", "Replays", "API keys", "Audit log", "Health"];

/// Completes the document that the library makes.
///
/// # Panics
/// When two groups of routes share a path, and one of them would vanish for most readers; or when a name that is
/// written down here is no longer that of a chapter or an operation.
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

/// The operations of all paths: each with its path, its method and what is said of it.
fn each_operation(paths: &mut Map<String, Value>, mut change: impl FnMut(&str, &str, &mut Map<String, Value>)) {
    for (path, operations) in paths {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            change(path, method, operation.as_object_mut().expect("an operation is an object"));
        }
    }
}
