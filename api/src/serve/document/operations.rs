//! Completes the operations: the statuses that each can answer, and the descriptions of parameters that several share.

use serde_json::{Map, Value};

use crate::serve::document::each_operation;

/// Operations that can answer 409 because the state of a thing forbids them. Operations that take an idempotency key
/// can answer 409 as well, and are not listed here.
const CONFLICTING: [&str; 11] = [
    "replace_subscription",
    "change_subscription",
    "pause_subscription",
    "resume_subscription",
    "enable_subscription",
    "test_subscription",
    "retry_delivery",
    "cancel_delivery",
    "change_job",
    "retry_dead_letter",
    "start_demo",
];
/// Operations to which a limit of requests, streams or exports applies, so that they can answer 429.
const LIMITED: [&str; 6] =
    ["publish_event", "publish_events", "create_delivery", "ingest", "watch", "export_deliveries"];

/// Operations that answer 404 where the operator has not switched them on.
const SWITCHED: [&str; 3] = ["start_demo", "get_demo", "stop_demo"];

/// Descriptions of parameters that mean the same in every operation. A parameter's own description comes first.
const PARAMETERS: [(&str, &str); 15] = [
    ("limit", "How many items a page holds, 1 to 250; 50 where absent."),
    ("cursor", "The `next_cursor` of the page before. Absent for the first page, which has the newest items."),
    (
        "tenant_id",
        "Only what belongs to this tenant, such as `acme`. A key that is bound to a tenant sees only what belongs to \
         that one, and gets 404 for another.",
    ),
    ("subscription_id", "Only what belongs to this subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("event_id", "Only deliveries of this event, such as `evt_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("job_id", "Only deliveries that this job has made, such as `job_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("status", "Only deliveries that stand so, such as `pending`."),
    (
        "error_kind",
        "Only deliveries whose last attempt failed for this cause: an `error_kind` of the log of attempts, such as \
         `timeout`, or `not_attempted` where no attempt was made.",
    ),
    (
        "cause",
        "Only deliveries whose last attempt failed for this cause: a class of the statistics, such as `timeout`, \
         `http_5xx` or `http_429`.",
    ),
    ("inline_only", "Whether only inline deliveries are meant, which go to a URL; false where absent."),
    (
        "replays_only",
        "Whether only replays are meant, which were made later than their events because somebody asked; false where \
         absent.",
    ),
    ("status_code", "Only deliveries whose last attempt was answered with this status, such as 503."),
    (
        "metadata",
        "Only what has this entry in its metadata, as `key:value`, such as `region:eu`. May be repeated: then all \
         entries have to be there.",
    ),
    ("since", "Only what came to be at this time or later, such as `2026-01-31T09:00:00Z` (RFC 3339)."),
    ("until", "Only what came to be before this time, such as `2026-02-01T00:00:00Z` (RFC 3339)."),
];
/// The name and the description of the header that makes a request safe to repeat.
const IDEMPOTENCY_KEY: (&str, &str) = (
    "Idempotency-Key",
    "A key of your own for this request, such as a UUID; at most 255 characters. A second request with the same key \
     is not carried out, but gets the answer that the first one got; 409 where it asks for something else. Keys are \
     remembered for 24 hours, unless the operator has chosen another time.",
);
/// What the id in a path stands for, by the beginning of the path.
const PATH_IDS: [(&str, &str); 9] = [
    ("/subscriptions/", "The id of the subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/webhooks/ingest/", "The id of the subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/events/", "The id of the event, such as `evt_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/deliveries/", "The id of the delivery, such as `dlv_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/dead-letters/", "The id of the delivery that was given up, such as `dlv_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/jobs/", "The id of the job, such as `job_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/emitters/", "The id of the emitter, such as `emt_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/api-keys/", "The id of the API key, such as `key_0198c0de2f3a7b1c9d4e5f60718293a4`."),
    ("/portal-links/", "The id of the portal link, such as `key_0198c0de2f3a7b1c9d4e5f60718293a4`."),
];

/// Adds descriptions to parameters, and removes statuses that an operation never answers, because the library lists
/// every status for every operation.
///
/// # Panics
/// When a name in these tables is not that of an operation.
pub fn complete(paths: &mut Map<String, Value>) {
    let mut known = Vec::new();
    each_operation(paths, |path, method, operation| {
        known.extend(operation.get("operationId").and_then(Value::as_str).map(str::to_owned));
        for parameter in operation.get_mut("parameters").and_then(Value::as_array_mut).into_iter().flatten() {
            describe(path, parameter);
        }
        let all = operation.get("responses").cloned();
        let mut kept = all.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
        kept.retain(|status, _| can_answer(status, method, operation));
        operation.insert("responses".to_owned(), kept.into());
    });
    for name in CONFLICTING.into_iter().chain(LIMITED).chain(SWITCHED) {
        assert!(known.iter().any(|id| id == name), "there is no operation {name}");
    }
}

fn describe(path: &str, parameter: &mut Value) {
    // The library says that a list in the query is required, but an empty list can be left out.
    if parameter["in"] == "query" && parameter["schema"]["type"] == "array" {
        parameter["required"] = false.into();
    }
    if parameter.get("description").is_some() {
        return;
    }
    let name = parameter["name"].as_str().unwrap_or_default();
    let meaning = if parameter["in"] == "path" {
        PATH_IDS.iter().find(|(beginning, _)| path.starts_with(beginning))
    } else {
        PARAMETERS.iter().chain([&IDEMPOTENCY_KEY]).find(|(known, _)| *known == name)
    };
    if let Some((_, meaning)) = meaning {
        parameter["description"] = (*meaning).into();
    }
}

/// Whether an operation ever answers this status. None answers 405, because a method that a path does not know is not
/// an operation of the document.
fn can_answer(status: &str, method: &str, operation: &Map<String, Value>) -> bool {
    let parameters = operation.get("parameters").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let takes = |name: &str| parameters.iter().any(|parameter| parameter["name"] == name);
    let is_one_of = |names: &[&str]| names.iter().any(|name| operation["operationId"] == **name);
    let has_body = operation.contains_key("requestBody");
    match status {
        "404" if is_one_of(&SWITCHED) => true,
        "400" | "404" => has_body || !parameters.is_empty(),
        "401" | "403" => operation.contains_key("security"),
        "405" => false,
        // Both statuses are about the body: 408 when it arrives too slowly, 413 when it is too long.
        "408" | "413" => has_body,
        // The body of an ingest may be packed; JSON for us may not.
        "415" => has_body && operation["operationId"] != "ingest",
        "409" => takes(IDEMPOTENCY_KEY.0) || is_one_of(&CONFLICTING),
        // Any request that changes something can be refused with 422 for a header that stands there twice.
        "422" => takes("limit") || takes("since") || takes("topics") || ["post", "put", "patch"].contains(&method),
        "429" => is_one_of(&LIMITED),
        _ => true,
    }
}
