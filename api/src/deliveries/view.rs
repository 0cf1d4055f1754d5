//! Deliveries and attempts as JSON: what callers get back.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use postrider_core::{
    delivery::{Delivery, Status},
    id::{DeliveryId, EventId, ReplayId, SubscriptionId},
    queue::attempt::Attempt,
};

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum StatusName {
    /// Waiting for its first or next attempt.
    Pending,
    /// A worker is at it.
    InFlight,
    /// The receiver has it.
    Succeeded,
    /// Out of attempts, or refused for good.
    DeadLetter,
    /// Called off before it succeeded.
    Canceled,
}

impl From<Status> for StatusName {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::InFlight => Self::InFlight,
            Status::Succeeded => Self::Succeeded,
            Status::DeadLetter => Self::DeadLetter,
            Status::Canceled => Self::Canceled,
        }
    }
}

impl From<StatusName> for Status {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Pending => Self::Pending,
            StatusName::InFlight => Self::InFlight,
            StatusName::Succeeded => Self::Succeeded,
            StatusName::DeadLetter => Self::DeadLetter,
            StatusName::Canceled => Self::Canceled,
        }
    }
}

/// A delivery: one event owed to one subscription, or to one URL.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct DeliveryView {
    /// Its id.
    id: String,
    /// What is delivered.
    event_id: String,
    /// Whose it is.
    tenant_id: String,
    /// To whom; absent for an inline delivery.
    subscription_id: Option<String>,
    /// Where an inline delivery goes.
    target_url: Option<String>,
    /// The delivery that it replays, if any.
    replay_of: Option<String>,
    /// The replay of a range that made it, if one did.
    replay_id: Option<String>,
    /// The event's type; absent once retention has removed the event.
    event_type: Option<String>,
    /// Where it stands.
    status: StatusName,
    /// Attempts so far, one that is under way included.
    attempt_count: u32,
    /// When the next attempt is due; only while pending.
    next_attempt_at: Option<DateTime<Utc>>,
    /// HTTP status of the last finished attempt, where an answer arrived.
    last_status_code: Option<u16>,
    /// Why the last finished attempt failed.
    last_error: Option<String>,
    /// From when on it is canceled instead of attempted.
    expires_at: Option<DateTime<Utc>>,
    /// `expired`, where it was canceled because nobody wants it any more.
    cancel_reason: Option<String>,
    /// When it came to be.
    created_at: DateTime<Utc>,
    /// When it came to its end.
    finished_at: Option<DateTime<Utc>>,
}

/// One HTTP try of a delivery.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct AttemptView {
    /// 1 is the first.
    number: u32,
    /// When the request began.
    started_at: DateTime<Utc>,
    /// Milliseconds until the answer was read or the attempt failed; absent where the worker died meanwhile.
    duration_ms: Option<u32>,
    /// HTTP status, where an answer arrived.
    status_code: Option<u16>,
    /// Why it failed: `http_status`, `timeout`, `dns`, `connect`, `tls`, `blocked_target`, `protocol`, `shutdown`,
    /// `payload_gone` or `lease_lost`; absent for a success.
    error_kind: Option<String>,
    /// What happened, for a person.
    error: Option<String>,
    /// The first 64 response headers, values of one name joined by `, `.
    response_headers: Option<BTreeMap<String, String>>,
    /// The first 16 KiB of the response body, where they are text.
    response_body: Option<String>,
    /// The same as base64, where they are not text.
    response_body_base64: Option<String>,
    /// Whether the response body was longer.
    response_truncated: bool,
}

/// All attempts of a delivery.
#[derive(Debug, Object)]
pub struct AttemptList {
    /// First to last.
    pub(crate) data: Vec<AttemptView>,
}

/// A delivery as it is shown.
pub(crate) fn view(delivery: &Delivery) -> DeliveryView {
    DeliveryView {
        id: delivery.id.to_string(),
        event_id: EventId(delivery.event_id).to_string(),
        tenant_id: delivery.tenant_id.clone(),
        subscription_id: delivery.subscription_id.map(|id| SubscriptionId(id).to_string()),
        target_url: delivery.target_url.clone(),
        replay_of: delivery.replay_of.map(|id| DeliveryId(id).to_string()),
        replay_id: delivery.replay_id.map(|id| ReplayId(id).to_string()),
        event_type: delivery.event_type.clone(),
        status: delivery.status.into(),
        attempt_count: delivery.attempt_count.unsigned_abs(),
        next_attempt_at: delivery.next_attempt_at,
        last_status_code: delivery.last_status_code.map(i16::unsigned_abs),
        last_error: delivery.last_error.clone(),
        expires_at: delivery.expires_at,
        cancel_reason: delivery.has_expired().then(|| "expired".to_owned()),
        created_at: delivery.created_at,
        finished_at: delivery.finished_at,
    }
}

pub(crate) fn attempt_view(attempt: Attempt) -> AttemptView {
    let (text, base64) = match attempt.response_body.map(String::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(text), None),
        Some(Err(bytes)) => (None, Some(BASE64_STANDARD.encode(bytes.as_bytes()))),
    };
    let joined = |headers: Vec<(String, String)>| {
        headers.into_iter().fold(BTreeMap::<String, String>::new(), |mut joined, (name, value)| {
            joined.entry(name).and_modify(|values| values.extend([", ", &value])).or_insert(value);
            joined
        })
    };
    AttemptView {
        number: attempt.number.unsigned_abs(),
        started_at: attempt.started_at,
        duration_ms: attempt.duration_ms.map(i32::unsigned_abs),
        status_code: attempt.status_code.map(i16::unsigned_abs),
        error_kind: attempt.error_kind,
        error: attempt.error,
        response_headers: attempt.response_headers.map(|headers| joined(headers.0)),
        response_body: text,
        response_body_base64: base64,
        response_truncated: attempt.response_truncated,
    }
}
