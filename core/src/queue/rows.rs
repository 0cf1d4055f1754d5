//! The arguments of the hot SQL functions: rows of composite types, one array of each. The types are defined in
//! `migrations/0003_queue.sql`; the fields of these structs have the same order.

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
    },
    id::DeliveryId,
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
pub(crate) struct StatusWord(pub(crate) &'static str);

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
    pub(crate) delivery_id: Uuid,
    pub(crate) lease_token: i64,
    pub(crate) subscription_id: Option<Uuid>,
    pub(crate) status: StatusWord,
    pub(crate) delay_ms: Option<i64>,
    pub(crate) rest_ms: Option<i64>,
    pub(crate) is_excused: bool,
    pub(crate) is_awaited: bool,
    pub(crate) number: i32,
    pub(crate) started_at: Option<DateTime<Utc>>,
    pub(crate) duration_ms: Option<i32>,
    pub(crate) status_code: Option<i16>,
    pub(crate) error_kind: Option<&'static str>,
    pub(crate) error: Option<String>,
    pub(crate) response_headers: Option<Json<&'a [(String, String)]>>,
    pub(crate) response_body: Option<&'a [u8]>,
    pub(crate) response_truncated: bool,
    pub(crate) dns_us: Option<i32>,
    pub(crate) connect_us: Option<i32>,
    pub(crate) tls_us: Option<i32>,
    pub(crate) first_byte_us: Option<i32>,
    pub(crate) total_us: Option<i32>,
    pub(crate) peer_address: Option<String>,
    pub(crate) is_reused: Option<bool>,
}
composite!(OutcomeRow, "outcome");
