//! The arguments of the hot SQL functions: rows of composite types, one array of each. The types are defined in
//! `migrations/0003_queue.sql`; the fields of these structs have the same order.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{
    Encode, Postgres, Type,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgTypeInfo},
    types::Json,
};
use uuid::Uuid;

use crate::{
    database::composite,
    event::{
        content_encoding::ContentEncoding,
        metadata::Metadata,
        new_event::{KeptAnswer, NewDelivery, NewEvent},
        trace_context::TraceContext,
    },
    id::DeliveryId,
    queue::{Counts, Disposition, Report},
};

/// A row of the composite type `new_event`.
#[derive(Encode)]
pub(crate) struct NewEventRow<'a> {
    id: Uuid,
    tenant_id: &'a str,
    event_type: &'a str,
    posted_to: Option<Uuid>,
    is_inline: bool,
    content_type: &'a str,
    content_encoding: Option<&'a str>,
    payload: &'a [u8],
    metadata: Option<Json<&'a Metadata>>,
    external_id: Option<&'a str>,
    ordering_key: Option<&'a str>,
    deliver_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    traceparent: Option<&'a str>,
    tracestate: Option<&'a str>,
}
composite!(NewEventRow, "new_event");

impl<'a> NewEventRow<'a> {
    /// The row of an event; `is_inline` where the event is for one URL only.
    pub(crate) fn of(event: &'a NewEvent, is_inline: bool) -> Self {
        Self {
            id: event.id.0,
            tenant_id: &event.tenant_id,
            event_type: event.event_type.as_str(),
            posted_to: event.posted_to.map(|id| id.0),
            is_inline,
            content_type: &event.content_type,
            content_encoding: event.content_encoding.as_ref().map(ContentEncoding::as_str),
            payload: &event.payload,
            metadata: (!event.metadata.is_empty()).then_some(Json(&event.metadata)),
            external_id: event.external_id.as_deref(),
            ordering_key: event.ordering_key.as_deref(),
            deliver_at: event.deliver_at,
            expires_at: event.expires_at,
            traceparent: event.trace.as_ref().map(TraceContext::traceparent),
            tracestate: event.trace.as_ref().and_then(TraceContext::tracestate),
        }
    }
}

/// A row of the composite type `event_key`.
#[derive(Encode)]
pub(crate) struct EventKeyRow<'a> {
    event_id: Uuid,
    tenant_id: &'a str,
    key: &'a str,
    fingerprint: &'a [u8],
    answer: Vec<u8>,
}
composite!(EventKeyRow, "event_key");

impl<'a> EventKeyRow<'a> {
    /// The row of the key with which the event came, if it has one. `deliveries` become part of the stored answer.
    pub(crate) fn of(event: &'a NewEvent, deliveries: impl Iterator<Item = DeliveryId>) -> Option<Self> {
        let key = event.key.as_ref()?;
        Some(Self {
            event_id: event.id.0,
            tenant_id: &event.tenant_id,
            key: &key.text,
            fingerprint: &key.fingerprint,
            answer: KeptAnswer { verdict: key.verdict, delivery_ids: deliveries.collect() }.to_bytes(),
        })
    }
}

/// A row of the composite type `new_delivery`.
#[derive(Encode)]
pub(crate) struct NewDeliveryRow<'a> {
    pub(crate) id: Uuid,
    pub(crate) event_id: Uuid,
    pub(crate) tenant_id: &'a str,
    /// The subscription; `None` for an inline delivery.
    pub(crate) subscription_id: Option<Uuid>,
    pub(crate) lane_id: Uuid,
    /// Milliseconds that a lease lasts in a lane of inline deliveries; `None` where the subscription decides.
    pub(crate) lease_ms: Option<i32>,
    /// When the delivery is due; `None` means at once.
    pub(crate) due_at: Option<DateTime<Utc>>,
    pub(crate) replay_of: Option<Uuid>,
}
composite!(NewDeliveryRow, "new_delivery");

impl<'a> NewDeliveryRow<'a> {
    /// The row of a delivery to a subscription that is made with its event.
    pub(crate) fn of(event: &'a NewEvent, delivery: &NewDelivery) -> Self {
        Self {
            id: delivery.id.0,
            event_id: event.id.0,
            tenant_id: &event.tenant_id,
            subscription_id: Some(delivery.subscription_id.0),
            lane_id: delivery.subscription_id.0,
            lease_ms: None,
            due_at: event.deliver_at,
            replay_of: None,
        }
    }
}

/// A word of the enum `delivery_status`.
#[derive(Clone, Copy)]
struct StatusWord(&'static str);

impl Type<Postgres> for StatusWord {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_name("delivery_status")
    }
}

impl Encode<'_, Postgres> for StatusWord {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        <&str as Encode<Postgres>>::encode_by_ref(&self.0, buffer)
    }
}

/// A row of the composite type `outcome`.
#[derive(Encode)]
pub(crate) struct OutcomeRow<'a> {
    delivery_id: Uuid,
    lease_token: i64,
    subscription_id: Option<Uuid>,
    status: StatusWord,
    delay_ms: Option<i64>,
    rest_ms: Option<i64>,
    is_excused: bool,
    is_awaited: bool,
    number: i32,
    started_at: Option<DateTime<Utc>>,
    duration_ms: Option<i32>,
    status_code: Option<i16>,
    error_kind: Option<&'static str>,
    error: Option<String>,
    response_headers: Option<Json<&'a [(String, String)]>>,
    response_body: Option<&'a [u8]>,
    response_truncated: bool,
    dns_us: Option<i32>,
    connect_us: Option<i32>,
    tls_us: Option<i32>,
    first_byte_us: Option<i32>,
    total_us: Option<i32>,
    peer_address: Option<String>,
    is_reused: Option<bool>,
}
composite!(OutcomeRow, "outcome");

impl<'a> OutcomeRow<'a> {
    /// The row that `record_outcomes` takes for this report.
    pub(crate) fn of(report: &'a Report) -> Self {
        let outcome = report.outcome.as_ref();
        let response = outcome.and_then(|outcome| outcome.response.as_ref());
        let failure = outcome.and_then(|outcome| outcome.failure.as_ref());
        let phases = outcome.map(|outcome| outcome.phases).unwrap_or_default();
        let (status, delay_ms, rest_ms, is_excused) = match report.disposition {
            Disposition::Succeeded => ("succeeded", None, None, false),
            Disposition::DeadLetter { lane_rests } => ("dead_letter", None, lane_rests.map(millis), false),
            Disposition::Canceled => ("canceled", None, None, false),
            Disposition::Retry { after, lane_rests, counts } => {
                // Where no attempt was made its number is given back, so there is nothing to excuse.
                let is_excused = counts == Counts::No && outcome.is_some();
                ("pending", Some(millis(after)), lane_rests.map(millis), is_excused)
            }
        };
        Self {
            delivery_id: report.delivery_id,
            lease_token: report.lease_token,
            subscription_id: report.subscription_id,
            status: StatusWord(status),
            delay_ms,
            rest_ms,
            is_excused,
            is_awaited: report.is_awaited,
            number: report.attempt_number,
            started_at: outcome.map(|outcome| outcome.started_at),
            duration_ms: outcome.map(|outcome| i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX)),
            status_code: response.map(|response| i16::try_from(response.status_code).unwrap_or(i16::MAX)),
            error_kind: failure.map(|failure| failure.kind.as_str()),
            error: failure.map(|failure| failure.message.replace('\0', "\u{fffd}")),
            response_headers: response.map(|response| Json(response.headers.as_slice())),
            response_body: response.map(|response| response.body.as_slice()),
            response_truncated: response.is_some_and(|response| response.truncated),
            dns_us: phases.dns.map(micros),
            connect_us: phases.connect.map(micros),
            tls_us: phases.tls.map(micros),
            first_byte_us: phases.first_byte.map(micros),
            total_us: outcome.map(|outcome| micros(outcome.duration)),
            peer_address: phases.peer.map(|peer| peer.to_string()),
            is_reused: phases.is_reused,
        }
    }
}

/// Microseconds, at most those of some 35 minutes, which is longer than any attempt.
fn micros(duration: Duration) -> i32 {
    i32::try_from(duration.as_micros()).unwrap_or(i32::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
