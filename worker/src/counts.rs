//! What the worker counts of deliveries and attempts. The meaning of each metric stands in
//! `core/src/process/metrics.rs`.

use std::time::Instant;

use chrono::Utc;
use postrider_core::{
    delivery::job::Action,
    id::EventId,
    process::metrics::at_zero,
    queue::{
        Claimed, Disposition, Report,
        attempt::{ErrorKind, Outcome},
        payload::ClaimedEvent,
    },
};

/// The cause of a dead letter that could never be attempted.
const NOT_ATTEMPTED: &str = "not_attempted";
/// What may come of a delivery, by the words of the metric.
const STATUSES: [&str; 4] = ["succeeded", "dead_letter", "canceled", "retry"];

/// Shows the counters of a worker that has done nothing yet, so that an alert sees their first step.
pub fn begin() {
    at_zero("postrider_events_accepted_total", "source", ["sql", "emitter"]);
    at_zero("postrider_filter_verdicts_total", "verdict", ["passed", "filtered", "unreadable"]);
    at_zero("postrider_deliveries_total", "status", STATUSES);
    let causes = ErrorKind::ALL.map(ErrorKind::as_str).into_iter().chain([NOT_ATTEMPTED]);
    at_zero("postrider_dead_letters_created_total", "cause", causes);
    at_zero("postrider_job_deliveries_total", "action", Action::ALL.map(Action::as_str));
    metrics::counter!("postrider_delivery_attempts_total", "result" => "success", "status_class" => "2xx").increment(0);
    for name in [
        "postrider_requests_resent_total",
        "postrider_leases_lost_total",
        "postrider_lanes_repaired_total",
        "postrider_archive_failures_total",
    ] {
        metrics::counter!(name).increment(0);
    }
}

/// An attempt begins: counts how long it has been due. In a lane with limits deliveries wait on purpose, so there it is
/// not counted.
pub fn begins(claimed: &Claimed, claimed_at: Instant) {
    if let Some(late) = claimed.late {
        let attempt = if claimed.attempt_number == 1 { "first" } else { "retry" };
        metrics::histogram!("postrider_delivery_wait_seconds", "attempt" => attempt)
            .record(late + claimed_at.elapsed());
    }
}

/// An attempt has ended.
pub fn attempted(outcome: &Outcome) {
    let result = outcome.failure.as_ref().map_or("success", |failure| failure.kind.as_str());
    let class = outcome.response.as_ref().map_or("none", |response| status_class(response.status_code));
    metrics::counter!("postrider_delivery_attempts_total", "result" => result, "status_class" => class).increment(1);
    metrics::histogram!("postrider_delivery_attempt_duration_seconds").record(outcome.duration);
}

/// A delivery has succeeded. One that was made later than its event, by a replay, is not counted: its event's age says
/// nothing.
pub fn succeeded(claimed: &Claimed, event: Option<&ClaimedEvent>) {
    let (first, last) = EventId(claimed.event_id).delivery_ids();
    if let Some(event) = event.filter(|_| (first..=last).contains(&claimed.delivery_id)) {
        let took = (Utc::now() - event.created_at).to_std().unwrap_or_default();
        metrics::histogram!("postrider_delivery_latency_seconds").record(took);
    }
}

/// An outcome has been written down; returns its word.
#[must_use]
pub fn recorded(report: &Report) -> &'static str {
    let status = match report.disposition {
        Disposition::Succeeded => "succeeded",
        Disposition::DeadLetter { .. } => "dead_letter",
        Disposition::Canceled => "canceled",
        Disposition::Retry { .. } => "retry",
    };
    metrics::counter!("postrider_deliveries_total", "status" => status).increment(1);
    if let Disposition::DeadLetter { .. } = report.disposition {
        let failure = report.outcome.as_ref().and_then(|outcome| outcome.failure.as_ref());
        // Without an attempt it is given up because it could never be attempted.
        let cause = failure.map_or(NOT_ATTEMPTED, |failure| failure.kind.as_str());
        metrics::counter!("postrider_dead_letters_created_total", "cause" => cause).increment(1);
    }
    status
}

/// The class of an HTTP status; `other` for statuses that HTTP does not define.
fn status_class(status: u16) -> &'static str {
    match status / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        5 => "5xx",
        _ => "other",
    }
}
