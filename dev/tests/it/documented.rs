//! The statuses that the `OpenAPI` document lists for each operation. Every answer that a test gets is compared with
//! them, so a status that the document does not list makes a test fail.

use std::{collections::BTreeSet, sync::OnceLock};

use reqwest::Method;
use serde_json::Value;

/// A method, the segments of a path, and the statuses that the document lists for them.
type Operation = (String, Vec<String>, BTreeSet<u16>);

fn segments(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(str::to_owned).collect()
}

/// All operations of the committed document. Another test compares that document with the one that the api serves.
fn operations() -> &'static [Operation] {
    static OPERATIONS: OnceLock<Vec<Operation>> = OnceLock::new();
    OPERATIONS.get_or_init(|| {
        let text = std::fs::read_to_string(dev::workspace().join("docs/openapi.json")).expect("the document");
        let document: Value = serde_json::from_str(&text).expect("the document is JSON");
        let of_path = |(path, methods): (&String, &Value)| -> Vec<Operation> {
            let methods = methods.as_object().expect("operations").iter();
            let statuses = |operation: &Value| -> BTreeSet<u16> {
                let responses = operation["responses"].as_object().expect("responses");
                responses.keys().map(|status| status.parse().expect("a status")).collect()
            };
            methods.map(|(method, said)| (method.to_uppercase(), segments(path), statuses(said))).collect()
        };
        document["paths"].as_object().expect("paths").iter().flat_map(of_path).collect()
    })
}

/// Asserts that the document lists this status for the operation. It lists no status for an operation that it does not
/// know.
#[track_caller]
pub fn assert_documented(method: &Method, path: &str, status: u16) {
    let asked = segments(path);
    let fits = |known: &[String]| {
        known.len() == asked.len()
            && known.iter().zip(&asked).all(|(known, asked)| known.starts_with('{') || known == asked)
    };
    let mut fitting: Vec<_> =
        operations().iter().filter(|(of, known, _)| of == method.as_str() && fits(known)).collect();
    // A path without parameters fits best: `/dead-letters/purge` also looks like `/dead-letters/{id}`.
    fitting.sort_by_key(|(_, known, _)| known.iter().filter(|segment| segment.starts_with('{')).count());
    if let Some((_, known, statuses)) = fitting.first() {
        let path = known.join("/");
        assert!(statuses.contains(&status), "{method} /{path} answers {status}, and its document lists {statuses:?}");
    }
}
