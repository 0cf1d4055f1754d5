//! What the api counts of requests: how long each took, by route. Its other counters stand with what they count, and
//! the meaning of all of them in `core/src/process/metrics.rs`.

use std::time::Instant;

use poem::http::{Method, StatusCode};
use postrider_core::process::metrics::at_zero;

/// Shows the counters of an api that has done nothing yet, so that an alert sees their first step.
pub fn begin() {
    at_zero("postrider_events_accepted_total", "source", ["ingest", "events", "inline"]);
    at_zero("postrider_filter_verdicts_total", "verdict", ["passed", "filtered", "unreadable"]);
    at_zero("postrider_ingest_rate_limited_total", "limit", ["key", "subscription"]);
    at_zero("postrider_connections_refused_total", "reason", ["too_many", "accept_failed"]);
    metrics::counter!("postrider_ingest_event_types_missing_total").increment(0);
}

/// A request has been answered. `route` is the path as the `OpenAPI` document writes it.
pub(crate) fn answered(route: &'static str, method: &Method, status: StatusCode, began: Instant) {
    let labels = [("route", route), ("method", method_label(method)), ("status_class", status_class(status))];
    metrics::histogram!("postrider_http_request_duration_seconds", &labels).record(began.elapsed());
}

/// The method, or `other` for those that no route knows: callers can make up as many as they like.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

fn status_class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
