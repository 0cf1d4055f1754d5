//! What `POST /deliveries` does: it stores an event for one URL, without a subscription.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use poem_openapi::{ApiResponse, Object, payload::Json, types::Any};
use postrider_core::{
    accept::{RequestKey, event_input::EventInput, inline::InlineInput},
    event::CONTENT_TYPE_JSON,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    access::Access,
    app::App,
    events::{body::payload_bytes, ingest::Shown},
    serve::{
        body::{self, Brings, Input, JsonBody},
        idempotency::KEY_NAME,
        problem::ApiError,
        request_trace::RequestTrace,
    },
    subscriptions::{retry_policy_body::RetryPolicyBody, signature_body::SignatureSchemeName},
};

/// An event, and the one URL that it is for.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct InlineDeliveryInput {
    /// Where the delivery goes: an absolute http or https URL such as `https://example.com/webhooks`; at most 2048
    /// bytes, without user name and fragment.
    target_url: String,
    /// What has happened, such as `order.created`, as for an event; `webhook.received` where absent.
    event_type: Option<String>,
    /// Any JSON value. Its text is delivered byte for byte as it stands here.
    payload: Any<Box<RawValue>>,
    /// The tenant that the delivery belongs to, such as `acme`; at most 64 characters. Where absent, the key's own
    /// tenant, or else `default`.
    tenant_id: Option<String>,
    /// What the delivery is signed with: `whsec_` and 24 to 64 bytes as base64; for `standard_v1a`, `whsk_` and an
    /// Ed25519 key pair of 64 bytes as base64. Unsigned where absent.
    secret: Option<String>,
    /// How the delivery is signed; `standard` where absent.
    signature_scheme: Option<SignatureSchemeName>,
    /// Headers that are sent with each attempt, such as `{"x-team": "blue"}`: at most 32, and 8 KiB in all. They are
    /// stored sealed.
    #[serde(default)]
    #[oai(default)]
    headers: BTreeMap<String, String>,
    /// Your own notes, such as `{"region": "eu"}`: at most 50 entries, keys of 64 and values of 512 characters. They
    /// are kept with the event.
    #[serde(default)]
    #[oai(default)]
    metadata: BTreeMap<String, String>,
    /// When a failed attempt is made again; 10 attempts over about 75 hours where absent.
    #[serde(default, deserialize_with = "body::maybe_object")]
    retry_policy: Option<RetryPolicyBody>,
    /// Milliseconds that an attempt may take, 1000 to 60000; 15000 where absent.
    timeout_ms: Option<u32>,
    /// When the event is to be delivered, at most 366 days ahead, such as `2026-01-31T09:00:00Z`; at once where absent
    /// or past (RFC 3339).
    deliver_at: Option<DateTime<Utc>>,
    /// From this time on nobody wants the event any more, and the delivery is canceled. Never where absent (RFC 3339).
    expires_at: Option<DateTime<Utc>>,
}

impl Input for InlineDeliveryInput {
    const BRINGS: Brings = Brings::Payload;
}

/// The answer to an inline delivery.
#[derive(Debug, ApiResponse)]
pub enum InlineResponse {
    /// The event and its delivery are on disk. Nothing that was answered so is lost.
    #[oai(status = 202)]
    Accepted(Json<Shown>),
}

/// Stores an event for one URL and answers the event with its delivery.
///
/// # Errors
/// Those of the route `POST /deliveries`.
pub async fn create(
    app: &App,
    access: &Access,
    header: Option<&str>,
    trace: &RequestTrace,
    body: JsonBody<InlineDeliveryInput>,
) -> Result<Shown, ApiError> {
    let tenant = access.creates_for(body.value.tenant_id.as_deref())?;
    let key = header.map(|text| RequestKey { text, asked: &body.bytes });
    let (event, to) = body.value.into_core(tenant, &body.bytes, trace);
    let accepted = app.acceptor.deliver_inline(event, to, key, Utc::now()).await;
    let accepted = accepted.map_err(|error| error.renamed(&[KEY_NAME]))?;
    trace.accepted(&accepted);
    Ok(Shown::of(&accepted))
}

impl InlineDeliveryInput {
    /// The input for the core, which checks it. `tenant_id` is already decided; `body` is the request body that holds
    /// the payload's bytes, and `trace` is that request's.
    fn into_core(self, tenant_id: String, body: &Bytes, trace: &RequestTrace) -> (EventInput, InlineInput) {
        let event = EventInput {
            event_type: self.event_type,
            metadata: self.metadata,
            deliver_at: self.deliver_at,
            expires_at: self.expires_at,
            trace: trace.context(),
            ..EventInput::new(tenant_id, CONTENT_TYPE_JSON.to_owned(), payload_bytes(self.payload, body))
        };
        let to = InlineInput {
            target_url: self.target_url,
            secret: self.secret,
            signature_scheme: self.signature_scheme.map(Into::into),
            headers: self.headers,
            retry_policy: self.retry_policy.map(RetryPolicyBody::into_core),
            timeout_ms: self.timeout_ms,
        };
        (event, to)
    }
}
