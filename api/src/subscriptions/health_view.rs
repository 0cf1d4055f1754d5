//! The health of a subscription's deliveries as JSON.

use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use postrider_core::subscription::{
    health::{Circuit, Health, LastFailure, Waiting},
    hold::Hold,
};

use crate::subscriptions::{flow_body::CircuitStateName, view::StateName};

/// Why deliveries that are due wait: `paused`, because the subscription is paused or disabled; `retry_after`, because
/// the receiver asked for it; `circuit`, because the circuit is open or half open; `rate_limit`, because
/// `rate_limit_per_second` allows no attempt yet; `max_in_flight`, because as many attempts are under way as may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", remote = "Hold", rename = "HoldReason")]
pub enum HoldName {
    /// The subscription is paused or disabled.
    Paused,
    /// The receiver asked to be left alone (`Retry-After`).
    RetryAfter,
    /// The circuit is open or half open.
    Circuit,
    /// The rate limit allows no attempt yet.
    RateLimit,
    /// As many attempts are under way as may be.
    MaxInFlight,
}

/// How the deliveries of a subscription fare at this moment.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "SubscriptionHealth")]
pub struct HealthView {
    /// Whether deliveries are made.
    state: StateName,
    /// The state of the circuit; absent where the circuit is switched off.
    circuit: Option<CircuitView>,
    /// How many deliveries are not finished.
    waiting: WaitingView,
    /// Since when the delivery has been due that has been due longest (RFC 3339); absent where no delivery is due.
    oldest_due_at: Option<DateTime<Utc>>,
    /// When the next attempt may begin (RFC 3339): when its delivery is due, but not before everything in `held_by`
    /// that has a known end is over. A time in the past means that the attempt is about to begin. Absent where nothing
    /// waits, and where the subscription is paused or disabled.
    next_attempt_at: Option<DateTime<Utc>>,
    /// All reasons for which deliveries that are due wait at this moment; an empty list means that none has to.
    held_by: Vec<HoldName>,
    /// When the last attempt began that succeeded (RFC 3339), among the attempts of the newest 1000 deliveries and of
    /// up to 2000 that are not finished; absent where none of these has succeeded.
    last_success_at: Option<DateTime<Utc>>,
    /// The last attempt that failed, among the attempts of the same deliveries; absent where none of these has failed.
    /// Attempts that failed through a fault of Postrider's are left out.
    last_failure: Option<FailureView>,
    /// When the first of those attempts failed after which none has succeeded (RFC 3339); absent where the last attempt
    /// succeeded.
    failing_since: Option<DateTime<Utc>>,
}

/// The state of a subscription's circuit.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "CircuitHealth")]
pub struct CircuitView {
    /// Whether the circuit lets deliveries through.
    state: CircuitStateName,
    /// When the circuit opened (RFC 3339); absent while it is closed.
    opened_at: Option<DateTime<Utc>>,
    /// When the cooldown is over and a delivery is attempted again (RFC 3339); absent unless the circuit is open.
    next_probe_at: Option<DateTime<Utc>>,
    /// How many attempts have failed since the last success, such as 12.
    failures_in_a_row: u32,
    /// For how many seconds the circuit stays open this time, such as 120; absent while it is closed.
    cooldown_seconds: Option<u32>,
}

/// How many deliveries are not finished. At most 10000 that are due are counted, and at most 10000 others.
#[derive(Debug, Object)]
#[oai(rename = "Waiting")]
pub struct WaitingView {
    /// Deliveries that are due, whether something holds them or not.
    due: u32,
    /// Deliveries that are due later, and those that wait for an earlier one of their `ordering_key`.
    scheduled: u32,
    /// Deliveries that a worker is attempting.
    in_flight: u32,
    /// Whether there are more than were counted: then each number means "at least".
    is_more: bool,
}

/// A failed attempt.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "LastFailure")]
pub struct FailureView {
    /// When the attempt began (RFC 3339).
    at: DateTime<Utc>,
    /// The HTTP status of the answer, such as 503; absent where no answer arrived.
    status_code: Option<u16>,
    /// Why the attempt failed, in one word, such as `http_status` or `timeout`.
    error_kind: String,
}

impl HealthView {
    /// The health of a subscription's deliveries as answers show it.
    #[must_use]
    pub fn of(health: Health) -> Self {
        Self {
            state: health.state.into(),
            circuit: health.circuit.as_ref().map(CircuitView::of),
            waiting: WaitingView::of(health.waiting),
            oldest_due_at: health.oldest_due_at,
            next_attempt_at: health.next_attempt_at,
            held_by: health.held_by.into_iter().map(Into::into).collect(),
            last_success_at: health.last_success_at,
            last_failure: health.last_failure.map(FailureView::of),
            failing_since: health.failing_since,
        }
    }
}

impl CircuitView {
    fn of(circuit: &Circuit) -> Self {
        Self {
            state: circuit.state.into(),
            opened_at: circuit.opened_at,
            next_probe_at: circuit.next_probe_at,
            failures_in_a_row: circuit.failures_in_a_row.unsigned_abs(),
            cooldown_seconds: circuit.cooldown_seconds.map(i32::unsigned_abs),
        }
    }
}

impl WaitingView {
    fn of(waiting: Waiting) -> Self {
        let count = |count: i64| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            due: count(waiting.due),
            scheduled: count(waiting.scheduled),
            in_flight: count(waiting.in_flight),
            is_more: waiting.is_more,
        }
    }
}

impl FailureView {
    fn of(failure: LastFailure) -> Self {
        Self { at: failure.at, status_code: failure.status_code.map(i16::unsigned_abs), error_kind: failure.error_kind }
    }
}
