//! What `POST /deliveries` does: an event for one URL, without a subscription.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{ApiResponse, Object, payload::Json, types::Any};
use postrider_core::{
    Result as CoreResult,
    delivery::inline::{self, InlineDelivery},
    event::{
        event_type::EventType,
        idempotency::{KeyNamespace, fingerprint, key},
    },
    id::{DeliveryId, EventId},
    queue::{
        accept::{Accepted, EventKey, NewEvent},
        retry_policy::RetryPolicy,
    },
    subscription::settings::{CustomHeaders, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX, TIMEOUT_MS_MIN, parse_metadata},
    trust::{
        signature::SignatureScheme,
        signing_secret::{SigningSecret, SigningSecrets},
        target_policy::TargetPolicy,
        target_url::TargetUrl,
    },
    validation::Problems,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    access::Access,
    app::App,
    events::{
        body::{CONTENT_TYPE, Rules, check_times, parse_payload},
        ingest::{AcceptedStatus, Shown},
        publish::is_again,
    },
    serve::{
        body::{self, Brings, Input, JsonBody},
        problem::ApiError,
    },
    subscriptions::{retry_policy_body::RetryPolicyBody, signature_body::SignatureSchemeName},
};

/// An event, and the URL that it is for.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct InlineDeliveryInput {
    /// Where it goes: an absolute http or https URL, at most 2048 bytes, without user name and fragment.
    target_url: String,
    /// What has happened, as for an event; `webhook.received` where absent.
    event_type: Option<String>,
    /// Any JSON value. Its text is delivered byte for byte as it stands here.
    payload: Any<Box<RawValue>>,
    /// Whose it is; the key's own tenant where absent, or else `default`.
    tenant_id: Option<String>,
    /// What it is signed with: `whsec_` and 24 to 64 bytes as base64; for `standard_v1a`, `whsk_` and an Ed25519 key
    /// pair. Unsigned where absent.
    secret: Option<String>,
    /// How it is signed; `standard` where absent.
    signature_scheme: Option<SignatureSchemeName>,
    /// Headers sent with each attempt; at most 32, 8 KiB in all; stored sealed.
    #[serde(default)]
    #[oai(default)]
    headers: BTreeMap<String, String>,
    /// Your own notes, kept with the event.
    #[serde(default)]
    #[oai(default)]
    metadata: BTreeMap<String, String>,
    /// When it is tried again; 10 attempts over about 75 hours where absent.
    #[serde(default, deserialize_with = "body::maybe_object")]
    retry_policy: Option<RetryPolicyBody>,
    /// Milliseconds an attempt may take, 1000 to 60000; 15000 where absent.
    timeout_ms: Option<u32>,
    /// When it is to be delivered, up to 366 days ahead; at once where absent or past (RFC 3339).
    deliver_at: Option<DateTime<Utc>>,
    /// From when on nobody wants it any more (RFC 3339).
    expires_at: Option<DateTime<Utc>>,
}

impl Input for InlineDeliveryInput {
    const BRINGS: Brings = Brings::Payload;
}

/// The answer to an inline delivery.
#[derive(Debug, ApiResponse)]
pub enum InlineResponse {
    /// The delivery is on disk.
    #[oai(status = 202)]
    Accepted(Json<Shown>),
}

/// Stores an event for one URL; answers its delivery.
///
/// # Errors
/// As the route.
pub async fn create(
    app: &App,
    access: &Access,
    header: Option<&str>,
    body: JsonBody<InlineDeliveryInput>,
) -> Result<Shown, ApiError> {
    let tenant = access.creates_for(body.value.tenant_id.as_deref())?;
    let event_key = header.map(|text| event_key(text, &body.bytes)).transpose()?;
    let now = Utc::now();
    let key_of_the_past = event_key.as_ref().filter(|_| body.value.expires_at.is_some_and(|at| at <= now));
    let is_again = is_again(app, &tenant, key_of_the_past.map(|key| key.text.clone())).await?;
    let rules = Rules { at: "", payload_bytes_max: app.payload_bytes_max, now, is_again };
    let (mut event, inline) = body.value.parse(tenant, &app.target_policy, rules)?;
    event.key = event_key;
    let id = DeliveryId::of(event.id);
    let ttl = app.key_ttl.seconds;
    let stored = inline::accept(&app.inline, &app.keyring, &event, (id, &inline), ttl).await?;
    let (event_id, delivery_id) = match stored.accepted {
        Accepted::Repeated { event_id, delivery_ids, .. } => (event_id, delivery_ids.first().copied()),
        Accepted::New | Accepted::KeyReused => {
            metrics::counter!("postrider_events_accepted_total").increment(1);
            app.intake.note_stored(&stored.armed, stored.took, std::iter::once((stored.lane_id, id.0)));
            (event.id, Some(id))
        }
    };
    Ok(Shown::new(event_id, delivery_id, AcceptedStatus::Pending))
}

fn event_key(text: &str, body: &[u8]) -> Result<EventKey, ApiError> {
    let text = key(KeyNamespace::EventHeader, text).map_err(|why| ApiError::invalid("Idempotency-Key", why))?;
    Ok(EventKey { text, fingerprint: fingerprint([b"POST /deliveries", body]), verdict: 0 })
}

impl InlineDeliveryInput {
    /// Checks everything at once.
    fn parse(
        self,
        tenant_id: String,
        policy: &TargetPolicy,
        rules: Rules<'_>,
    ) -> CoreResult<(NewEvent, InlineDelivery)> {
        let mut problems = Problems::default();
        let event_type = self.event_type.map_or(Ok(EventType::default()), |text| text.parse());
        let event_type = problems.take("event_type", event_type);
        let metadata = problems.take("metadata", parse_metadata(self.metadata));
        let target_url = problems.take("target_url", TargetUrl::parse(&self.target_url, policy));
        let headers = problems.take("headers", CustomHeaders::parse(self.headers, &CustomHeaders::default()));
        let signature_scheme: SignatureScheme = self.signature_scheme.map(Into::into).unwrap_or_default();
        let secret = self.secret.map(|text| {
            let secret = SigningSecret::parse(&text)?;
            signature_scheme.check(&secret).map(|()| secret)
        });
        let secret = secret.and_then(|parsed| problems.take("secret", parsed));
        let retry_policy = self.retry_policy.map_or_else(RetryPolicy::default, |body| body.parse(&mut problems));
        let timeout_ms = self.timeout_ms.unwrap_or(TIMEOUT_MS_DEFAULT);
        let within = (TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(&timeout_ms);
        problems.require(within, "timeout_ms", format!("must be from {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX}"));
        check_times(self.deliver_at, self.expires_at, rules, &mut problems);
        let payload = parse_payload(self.payload, rules, &mut problems);
        problems.into_result()?;
        let (Some(event_type), Some(metadata), Some(target_url), Some(headers)) =
            (event_type, metadata, target_url, headers)
        else {
            unreachable!("each of them is there, or noted as a problem");
        };
        let event = NewEvent {
            id: EventId::new(),
            tenant_id,
            event_type,
            posted_to: None,
            content_type: CONTENT_TYPE.to_owned(),
            payload,
            metadata,
            external_id: None,
            ordering_key: None,
            deliver_at: self.deliver_at.filter(|at| *at > rules.now),
            expires_at: self.expires_at,
            key: None,
            deliveries: Vec::new(),
        };
        let secrets = secret.map(SigningSecrets::only);
        Ok((event, InlineDelivery { target_url, secrets, signature_scheme, headers, retry_policy, timeout_ms }))
    }
}
