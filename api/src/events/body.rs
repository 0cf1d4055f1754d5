//! Events as JSON, as producers send them. The rules for them stand in [`postrider_core::accept::event_input`].

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use poem_openapi::{Object, types::Any};
use postrider_core::{accept::event_input::EventInput as CoreEventInput, event::CONTENT_TYPE_JSON};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::serve::{
    body::{self, Brings, Input},
    request_trace::RequestTrace,
};

/// An event to publish.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, example)]
pub struct EventInput {
    /// What has happened, such as `order.created`: segments of letters, digits, `_` and `-`, joined by `.`, `/` or
    /// `:`; at most 128 characters.
    pub event_type: String,
    /// Any JSON value. Its text is delivered byte for byte as it stands here.
    pub payload: Any<Box<RawValue>>,
    /// The tenant that the event belongs to, such as `acme`; at most 64 characters. Where absent, the key's own tenant,
    /// or else `default`.
    pub tenant_id: Option<String>,
    /// Your own notes, such as `{"region": "eu"}`: at most 50 entries, keys of 64 and values of 512 characters.
    /// Subscriptions can filter by them.
    #[serde(default)]
    #[oai(default)]
    pub metadata: BTreeMap<String, String>,
    /// Your own id for the event, such as `order-42-created`; at most 255 characters. An event with an id that was used
    /// before is not stored again, and gets the answer that the first one got.
    pub id: Option<String>,
    /// What the event is to be kept in order with, such as `customer-42`; at most 255 characters. It is stored and not
    /// yet acted upon.
    pub ordering_key: Option<String>,
    /// When the event is to be delivered, at most 366 days ahead, such as `2026-01-31T09:00:00Z`; at once where absent
    /// or past (RFC 3339).
    pub deliver_at: Option<DateTime<Utc>>,
    /// From this time on nobody wants the event any more: deliveries that have not succeeded by then are canceled.
    /// Never where absent (RFC 3339).
    pub expires_at: Option<DateTime<Utc>>,
}

/// Events that are stored together or not at all.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, rename = "EventBatchInput")]
pub struct BatchInput {
    /// 1 to 1000 events, and 5 MiB in all.
    #[serde(deserialize_with = "body::objects")]
    pub events: Vec<EventInput>,
}

impl Input for EventInput {
    const BRINGS: Brings = Brings::Payload;
}

impl Input for BatchInput {
    const BRINGS: Brings = Brings::Payloads;
}

impl EventInput {
    /// The input for the core, which checks it. `tenant_id` is already decided; `body` is the request body that holds
    /// the payload's bytes, and `trace` is that request's.
    #[must_use]
    pub fn into_core(self, tenant_id: String, body: &Bytes, trace: &RequestTrace) -> CoreEventInput {
        CoreEventInput {
            event_type: Some(self.event_type),
            metadata: self.metadata,
            id: self.id,
            ordering_key: self.ordering_key,
            deliver_at: self.deliver_at,
            expires_at: self.expires_at,
            trace: trace.context(),
            ..CoreEventInput::new(tenant_id, CONTENT_TYPE_JSON.to_owned(), payload_bytes(self.payload, body))
        }
    }
}

/// The text of a payload, together with the request body that it came in.
struct Payload {
    text: Box<RawValue>,
    _body: Bytes,
}

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        self.text.get().as_bytes()
    }
}

/// The bytes of a payload exactly as they stand in the body. They keep the body alive, so that the body's bytes count
/// as under way until the payload is stored.
#[must_use]
pub fn payload_bytes(payload: Any<Box<RawValue>>, body: &Bytes) -> Bytes {
    Bytes::from_owner(Payload { text: payload.0, _body: body.clone() })
}

impl poem_openapi::types::Example for EventInput {
    fn example() -> Self {
        let payload = RawValue::from_string("{\"order\": 42, \"total\": 120}".to_owned()).expect("it is JSON");
        Self {
            event_type: "order.created".to_owned(),
            payload: Any(payload),
            tenant_id: None,
            metadata: BTreeMap::from([("region".to_owned(), "eu".to_owned())]),
            id: Some("order-42-created".to_owned()),
            ordering_key: None,
            deliver_at: None,
            expires_at: None,
        }
    }
}
