//! Statistics as JSON.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::Object;
use postrider_core::{
    stats::{
        Accepted, Outcomes, Percentiles, Step, Totals,
        causes::{Cause, Causes},
    },
    tally::class::{Class, Kind},
};

/// The numbers of a span of time.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Stats")]
pub struct TotalsView {
    /// The beginning of the span that was counted (RFC 3339).
    since: DateTime<Utc>,
    /// The end of the span (RFC 3339), which is not part of it.
    until: DateTime<Utc>,
    /// Events that were accepted. Absent for a single subscription.
    accepted: Option<AcceptedView>,
    /// Attempts that began in the span. Absent for an event type.
    attempts: Option<AttemptsView>,
    /// Deliveries whose attempts began in the span. Absent for an event type.
    deliveries: Option<DeliveriesView>,
}

/// Events that were accepted.
#[derive(Debug, Object)]
#[oai(rename = "AcceptedStats")]
pub struct AcceptedView {
    /// How many, those included that no subscription wanted; repeated requests are not counted.
    events: u64,
    /// Bytes of their payloads.
    bytes: u64,
}

/// Attempts by their outcomes.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "AttemptStats")]
pub struct AttemptsView {
    /// All attempts.
    total: u64,
    /// Attempts that succeeded.
    succeeded: u64,
    /// Attempts that failed, without those that failed through a fault of Postrider's.
    failed: u64,
    /// The share of successes among these two, 0 to 1, such as 0.998; absent where there were none.
    success_rate: Option<f64>,
    /// How many attempts had each outcome, such as `{"succeeded": 12, "http_5xx": 3, "timeout": 1}`. Outcomes that did
    /// not occur are left out. New words may be added.
    outcomes: BTreeMap<String, u64>,
    /// Bytes of payloads that receivers answered to.
    bytes: u64,
    /// How long attempts took, in milliseconds; absent where none was measured.
    duration_ms: Option<PercentilesView>,
}

/// Deliveries by how they ended.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "DeliveryStats")]
pub struct DeliveriesView {
    /// Deliveries that succeeded.
    succeeded: u64,
    /// Deliveries that were given up.
    dead_letters: u64,
    /// Deliveries that a worker canceled: their event had expired, or their subscription was gone.
    canceled: u64,
    /// The time from the acceptance of an event (or its `deliver_at`) to its success, in milliseconds; absent where
    /// nothing succeeded.
    latency_ms: Option<PercentilesView>,
    /// The time from the acceptance of an event (or its `deliver_at`) to the beginning of its first attempt, in
    /// milliseconds; absent where no first attempt was made.
    wait_ms: Option<PercentilesView>,
}

/// Estimates: the values are counted in buckets, within which they are taken to be spread evenly. Values beyond the
/// last bucket are shown as its bound.
#[derive(Debug, Object)]
#[oai(rename = "Percentiles")]
pub struct PercentilesView {
    /// The median, such as 41.5.
    p50: f64,
    /// About 95 % of the values are smaller.
    p95: f64,
    /// About 99 % of the values are smaller.
    p99: f64,
}

/// Numbers as a series.
#[derive(Debug, Object)]
#[oai(rename = "StatsHistory")]
pub struct HistoryView {
    /// The span of a point: `1m`, `1h` or `1d`.
    step: String,
    /// The points, the oldest first.
    points: Vec<TotalsView>,
}

/// Why attempts failed.
#[derive(Debug, Object)]
#[oai(rename = "StatsCauses")]
pub struct CausesView {
    /// The beginning of the span that was counted (RFC 3339).
    since: DateTime<Utc>,
    /// The end of the span (RFC 3339).
    until: DateTime<Utc>,
    /// The causes, the most frequent first.
    causes: Vec<CauseView>,
    /// Whether there are more causes than are shown.
    is_more: bool,
}

/// Failures of one subscription for one cause.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "StatsCause")]
pub struct CauseView {
    /// The tenant of the subscription, such as `acme`.
    tenant_id: String,
    /// The subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`; absent for inline deliveries.
    subscription_id: Option<String>,
    /// Why the attempts failed, in one word, such as `http_5xx` or `timeout`.
    cause: String,
    /// How many attempts failed so.
    count: u64,
    /// When the first of these attempts began (RFC 3339).
    first_at: DateTime<Utc>,
    /// When the last of these attempts began (RFC 3339).
    last_at: DateTime<Utc>,
    /// The delivery of the last attempt, such as `dlv_0198c0de2f3a7b1c9d4e5f60718293a4`.
    sample_delivery_id: String,
    /// The HTTP status of the last attempt, such as 503; absent where no answer arrived.
    status_code: Option<u16>,
}

impl TotalsView {
    /// The numbers as answers show them.
    #[must_use]
    pub fn of(totals: &Totals) -> Self {
        Self {
            since: totals.since,
            until: totals.until,
            accepted: totals.accepted.map(|Accepted { events, bytes }| AcceptedView { events, bytes }),
            attempts: totals.outcomes.as_ref().map(AttemptsView::of),
            deliveries: totals.outcomes.as_ref().map(DeliveriesView::of),
        }
    }
}

impl AttemptsView {
    fn of(outcomes: &Outcomes) -> Self {
        let attempts = outcomes.classes().filter(|(class, _)| class.kind() != Kind::End);
        Self {
            total: outcomes.attempts(),
            succeeded: outcomes.of_kind(Kind::Success),
            failed: outcomes.of_kind(Kind::Failure),
            success_rate: outcomes.success_rate(),
            outcomes: attempts.map(|(class, count)| (class.to_string(), count)).collect(),
            bytes: outcomes.bytes,
            duration_ms: outcomes.durations().map(PercentilesView::of),
        }
    }
}

impl DeliveriesView {
    fn of(outcomes: &Outcomes) -> Self {
        Self {
            succeeded: outcomes.of(Class::Succeeded),
            dead_letters: outcomes.of(Class::DeadLetter),
            canceled: outcomes.of(Class::Canceled),
            latency_ms: outcomes.latencies().map(PercentilesView::of),
            wait_ms: outcomes.waits().map(PercentilesView::of),
        }
    }
}

impl PercentilesView {
    fn of(percentiles: Percentiles) -> Self {
        let [p50, p95, p99] =
            [percentiles.p50, percentiles.p95, percentiles.p99].map(|millis| (millis * 1000.0).round() / 1000.0);
        Self { p50, p95, p99 }
    }
}

impl HistoryView {
    /// The series as answers show it.
    #[must_use]
    pub fn of(step: Step, points: &[Totals]) -> Self {
        Self { step: step.to_string(), points: points.iter().map(TotalsView::of).collect() }
    }
}

impl CausesView {
    /// The causes as answers show them.
    #[must_use]
    pub fn of(causes: &Causes) -> Self {
        Self {
            since: causes.since,
            until: causes.until,
            causes: causes.causes.iter().map(CauseView::of).collect(),
            is_more: causes.is_more,
        }
    }
}

impl CauseView {
    fn of(cause: &Cause) -> Self {
        Self {
            tenant_id: cause.tenant_id.clone(),
            subscription_id: cause.subscription.map(|id| id.to_string()),
            cause: cause.class.to_string(),
            count: cause.count,
            first_at: cause.first_at,
            last_at: cause.last_at,
            sample_delivery_id: cause.delivery.to_string(),
            status_code: cause.status_code,
        }
    }
}
