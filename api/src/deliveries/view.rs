//! Deliveries and attempts as JSON, as answers show them.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use poem_openapi::{Enum, Object};
use postrider_core::{
    delivery::{Delivery, Status},
    id::{DeliveryId, EventId, JobId, SubscriptionId},
    queue::attempt::Attempt,
};

/// Where a delivery stands: `pending` waits for its first or next attempt; `in_flight` is being attempted right now;
/// `succeeded` has been answered with 2xx; `dead_letter` was given up; `canceled` was called off before it succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case", rename = "DeliveryStatus")]
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

/// A delivery: one event, owed to one subscription or to one URL.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Delivery")]
pub struct DeliveryView {
    /// The delivery's id, such as `dlv_0198c0de2f3a7b1c9d4e5f60718293a4`.
    id: String,
    /// The id of the event that is delivered.
    event_id: String,
    /// The tenant that the delivery belongs to.
    tenant_id: String,
    /// The id of the subscription that gets it; absent for an inline delivery.
    subscription_id: Option<String>,
    /// Where an inline delivery goes; absent for one to a subscription.
    target_url: Option<String>,
    /// The id of the delivery that this one replays, if it replays one.
    replay_of: Option<String>,
    /// The id of the job that has made this delivery, if one has.
    job_id: Option<String>,
    /// The event's type, such as `order.created`; absent once retention has removed the event.
    event_type: Option<String>,
    /// Where the delivery stands.
    status: StatusName,
    /// How many attempts have been made, one that is under way included.
    attempt_count: u32,
    /// When the next attempt is due, but not before the receiver's `Retry-After`, the circuit and the rate limit of its
    /// subscription allow one; only while the delivery is pending, and absent while it waits for an earlier delivery of
    /// its `ordering_key` (RFC 3339).
    next_attempt_at: Option<DateTime<Utc>>,
    /// The HTTP status of the last finished attempt, such as 503; absent where no answer arrived.
    last_status_code: Option<u16>,
    /// Why the last finished attempt failed, for a person; at most 1000 characters.
    last_error: Option<String>,
    /// Milliseconds that the last finished attempt took; absent where the worker died meanwhile.
    last_duration_ms: Option<u32>,
    /// From this time on the delivery is canceled instead of attempted (RFC 3339).
    expires_at: Option<DateTime<Utc>>,
    /// `expired` where the delivery was canceled because its event had expired.
    cancel_reason: Option<String>,
    /// When the delivery came to be (RFC 3339).
    created_at: DateTime<Utc>,
    /// When the delivery came to its end, whichever end that was (RFC 3339).
    finished_at: Option<DateTime<Utc>>,
}

/// One HTTP request of a delivery, and what came of it.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Attempt")]
pub struct AttemptView {
    /// Which attempt of the delivery it is; 1 is the first.
    number: u32,
    /// When the request began (RFC 3339).
    started_at: DateTime<Utc>,
    /// Milliseconds until the answer was read or the attempt failed; absent where the worker died meanwhile.
    duration_ms: Option<u32>,
    /// What that time was spent on, as far as the attempt came.
    phases: Option<PhasesView>,
    /// The IP address to which the connection was made, such as `203.0.113.7`; absent where none was made.
    peer_address: Option<String>,
    /// Whether the request went over a connection that had been opened for an earlier attempt, so that it needed no
    /// look-up, connecting or TLS handshake; absent where no connection was made.
    connection_reused: Option<bool>,
    /// The HTTP status, such as 200; absent where no answer arrived.
    status_code: Option<u16>,
    /// Why it failed: `http_status`, `timeout`, `dns`, `connect`, `tls`, `blocked_target`, `protocol`, `aborted` (the
    /// receiver asked to give the delivery up), `shutdown`, `worker_busy`, `payload_gone` or `lease_lost`. Absent where
    /// it succeeded.
    error_kind: Option<String>,
    /// Why it failed, for a person; at most 1000 characters.
    error: Option<String>,
    /// The first 64 headers of the response. Values of one name are joined by `, `.
    response_headers: Option<BTreeMap<String, String>>,
    /// The first 16 KiB of the response body, where they are text.
    response_body: Option<String>,
    /// The first 16 KiB of the response body as base64, where they are not text.
    response_body_base64: Option<String>,
    /// Whether the response body was longer than what is shown.
    response_truncated: bool,
}

/// How long the phases of an attempt took, in microseconds. A phase that the attempt did not come to, or did not need,
/// is absent; the phase in which it failed lasts until it failed.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "AttemptPhases")]
#[expect(clippy::struct_field_names, reason = "each field names its unit")]
pub struct PhasesView {
    /// Microseconds of looking up the host's name. Absent where the target's host is an address.
    dns_us: Option<u32>,
    /// Microseconds of opening the TCP connection.
    connect_us: Option<u32>,
    /// Microseconds of the TLS handshake.
    tls_us: Option<u32>,
    /// Microseconds from the beginning of the attempt until the status and the headers of the answer had arrived. The
    /// phases above are part of it.
    first_byte_us: Option<u32>,
    /// Microseconds from the beginning of the attempt to its end: `duration_ms`, but finer.
    total_us: u32,
}

/// All attempts of a delivery.
#[derive(Debug, Object)]
pub struct AttemptList {
    /// The attempts, the first one first.
    pub(crate) data: Vec<AttemptView>,
}

/// Turns a delivery into the JSON that answers show.
pub(crate) fn view(delivery: &Delivery) -> DeliveryView {
    DeliveryView {
        id: delivery.id.to_string(),
        event_id: EventId(delivery.event_id).to_string(),
        tenant_id: delivery.tenant_id.clone(),
        subscription_id: delivery.subscription_id.map(|id| SubscriptionId(id).to_string()),
        target_url: delivery.target_url.clone(),
        replay_of: delivery.replay_of.map(|id| DeliveryId(id).to_string()),
        job_id: delivery.job_id.map(|id| JobId(id).to_string()),
        event_type: delivery.event_type.clone(),
        status: delivery.status.into(),
        attempt_count: delivery.attempt_count.unsigned_abs(),
        next_attempt_at: delivery.next_attempt_at,
        last_status_code: delivery.last_status_code.map(i16::unsigned_abs),
        last_error: delivery.last_error.clone(),
        last_duration_ms: delivery.last_duration_ms.map(i32::unsigned_abs),
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
        phases: attempt.total_us.map(|total_us| PhasesView {
            dns_us: attempt.dns_us.map(i32::unsigned_abs),
            connect_us: attempt.connect_us.map(i32::unsigned_abs),
            tls_us: attempt.tls_us.map(i32::unsigned_abs),
            first_byte_us: attempt.first_byte_us.map(i32::unsigned_abs),
            total_us: total_us.unsigned_abs(),
        }),
        peer_address: attempt.peer_address,
        connection_reused: attempt.is_reused,
        status_code: attempt.status_code.map(i16::unsigned_abs),
        error_kind: attempt.error_kind,
        error: attempt.error,
        response_headers: attempt.response_headers.map(|headers| joined(headers.0)),
        response_body: text,
        response_body_base64: base64,
        response_truncated: attempt.response_truncated,
    }
}
