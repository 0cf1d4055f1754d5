//! `POST /webhooks/ingest/{subscription_id}`: whatever arrives is the payload. The answer is sent after the commit.

use std::collections::BTreeMap;

use poem::Request;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Header, Path},
    payload::{Binary, Json},
};
use postrider_core::{
    event::{
        CONTENT_TYPE_CHARACTERS_MAX, CONTENT_TYPE_DEFAULT,
        audience::Facts,
        event_type::EventType,
        idempotency::{KEY_CHARACTERS_MAX, KeyNamespace, fingerprint, key},
    },
    id::{DeliveryId, EventId, SubscriptionId},
    queue::accept::{Accepted, EventKey, NewDelivery, NewEvent},
    subscription::{State, Subscription},
    trust::inbound_signature::Provider,
    validation::{self, Problems},
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::{
    access::ingest_credential::{IngestCredential, Opens},
    app::{App, Tag},
    serve::{
        body_room::{Caller, read},
        idempotency::HEADER,
        problem::ApiError,
    },
};

/// The ingest routes.
pub struct IngestApi(pub App);

/// What became of an accepted event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum AcceptedStatus {
    /// It is stored and will be delivered.
    Pending,
    /// It is stored, and the subscription does not want events of its type.
    Filtered,
    /// It is stored, and the subscription is disabled.
    Disabled,
}

/// An accepted event.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Accepted")]
pub struct Shown {
    /// The event's id; its receiver sees it as `webhook-id`.
    event_id: String,
    /// The delivery it caused, where it caused one.
    delivery_id: Option<String>,
    /// What became of it.
    status: AcceptedStatus,
}

/// The answer to an accepted event.
#[derive(Debug, ApiResponse)]
pub enum IngestResponse {
    /// The event is on disk. Nothing that was answered so is lost.
    #[oai(status = 202)]
    Accepted(Json<Shown>),
    /// Slack asks, signed, whether this is the right URL, and gets its challenge back; nothing is stored.
    #[oai(status = 200)]
    Challenge(Json<Challenge>),
}

/// The answer to Slack's `url_verification`.
#[derive(Debug, Deserialize, Object)]
pub struct Challenge {
    /// What Slack sent.
    challenge: String,
}

#[OpenApi]
impl IngestApi {
    /// Post an event to a subscription
    ///
    /// The body, of any content type and byte for byte, is the payload. It is stored before the answer is sent, and
    /// delivered asynchronously. An event whose type the subscription does not want, or that comes while it is
    /// disabled, is stored all the same and not delivered: a provider that relays its webhooks should not see errors
    /// because of a filter.
    #[oai(path = "/webhooks/ingest/:subscription_id", method = "post", tag = "Tag::Ingest", operation_id = "ingest")]
    async fn ingest(
        &self,
        credential: IngestCredential<'_>,
        /// The subscription.
        subscription_id: Path<String>,
        /// The event's type: segments of letters, digits, `_` and `-`, joined by dots. `webhook.received` where absent.
        #[oai(name = "X-Event-Type")]
        event_type: Header<Option<String>>,
        /// At most 255 characters. A request with a key that was used before gets the answer it got then; 409 where it
        /// asks for something else.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: Header<Option<String>>,
        /// What the event is to be kept in order with; at most 255 characters. Stored, not yet acted upon.
        #[oai(name = "X-Ordering-Key")]
        ordering_key: Header<Option<String>>,
        request: &Request,
        payload: Binary<poem::Body>,
    ) -> Result<IngestResponse, ApiError> {
        let found = match subscription_id.0.parse() {
            Ok(id) => self.0.cache.get(id).await?,
            Err(_) => None,
        };
        // Nobody's body is read who cannot open anything.
        let opens = credential.opens(found.as_deref())?;
        let subscription = found.ok_or_else(|| ApiError::not_found("subscription"))?;
        let id = subscription.id;
        let from = if opens == Opens::ByKey { Caller::Key } else { Caller::Anybody(id) };
        let payload = read(request, payload.0, self.0.payload_bytes_max, from).await?;
        let signed = match opens {
            Opens::ByKey | Opens::ToAll => None,
            Opens::IfSigned => credential.verify(&subscription, &payload).await?.once,
        };
        if opens == Opens::IfSigned
            && subscription.ingest_provider() == Provider::Slack
            && let Some(challenge) = challenge(&payload)
        {
            return Ok(IngestResponse::Challenge(Json(challenge)));
        }
        let content_type = request.content_type().unwrap_or(CONTENT_TYPE_DEFAULT);
        let event_type = Self::check(event_type.0.as_deref(), content_type, ordering_key.0.as_deref())?;
        let metadata = BTreeMap::new();
        let status = verdict(&subscription, &Facts::new(&event_type, &metadata, &payload));
        let event_id = EventId::new();
        let key = match Self::key(id, idempotency_key.0.as_deref(), signed.as_deref())? {
            None => None,
            Some(text) => Some(EventKey {
                text,
                fingerprint: fingerprint([
                    b"POST /webhooks/ingest",
                    id.0.as_bytes().as_slice(),
                    event_type.as_str().as_bytes(),
                    content_type.as_bytes(),
                    ordering_key.0.as_deref().unwrap_or_default().as_bytes(),
                    &payload,
                ]),
                verdict: status as u8,
            }),
        };
        let delivery = (status == AcceptedStatus::Pending)
            .then(|| NewDelivery { id: DeliveryId::of(event_id), subscription_id: id });
        let event = NewEvent {
            id: event_id,
            tenant_id: subscription.tenant_id.clone(),
            event_type,
            posted_to: Some(id),
            content_type: content_type.to_owned(),
            payload,
            metadata,
            external_id: None,
            ordering_key: ordering_key.0,
            deliver_at: None,
            expires_at: None,
            key,
            deliveries: delivery.into_iter().collect(),
        };
        let accepted = self.0.intake.accept(vec![event]).await?.into_iter().next();
        Ok(IngestResponse::Accepted(Json(match accepted {
            Some(Accepted::Repeated { event_id, verdict, delivery_ids }) => {
                Shown::new(event_id, delivery_ids.first().copied(), AcceptedStatus::from_verdict(verdict))
            }
            Some(Accepted::New | Accepted::KeyReused) | None => {
                metrics::counter!("postrider_events_accepted_total").increment(1);
                Shown::new(event_id, delivery.map(|delivery| delivery.id), status)
            }
        })))
    }
}

impl Shown {
    /// An event that was accepted.
    #[must_use]
    pub fn new(event_id: EventId, delivery_id: Option<DeliveryId>, status: AcceptedStatus) -> Self {
        Self { event_id: event_id.to_string(), delivery_id: delivery_id.map(|id| id.to_string()), status }
    }
}

impl IngestApi {
    /// The key under which a request that is sent again is found: the caller's own, or what the signature says. The
    /// caller's is not signed, so it cannot stand where a signature has to keep replays out.
    fn key(
        subscription: SubscriptionId,
        header: Option<&str>,
        signed: Option<&str>,
    ) -> Result<Option<String>, ApiError> {
        let (source, text) = match (header, signed) {
            (None, None) => return Ok(None),
            (Some(text), None) => (KeyNamespace::EventHeader, text.to_owned()),
            (None, Some(once)) => (KeyNamespace::Signature(subscription), hex::encode(Sha256::digest(once))),
            (Some(_), Some(_)) => {
                let why = "cannot be used beside a signature with a timestamp, which makes a request that is sent \
                           again the same by itself";
                return Err(ApiError::invalid(HEADER, why));
            }
        };
        key(source, &text).map(Some).map_err(|why| ApiError::invalid(HEADER, why))
    }

    /// Checks what the headers say.
    fn check(event_type: Option<&str>, content_type: &str, ordering_key: Option<&str>) -> Result<EventType, ApiError> {
        let mut problems = Problems::default();
        let event_type = match event_type {
            Some(text) => problems.take("X-Event-Type", text.parse()),
            None => Some(EventType::default()),
        };
        problems.require(
            content_type.len() <= CONTENT_TYPE_CHARACTERS_MAX,
            "Content-Type",
            format!("must be at most {CONTENT_TYPE_CHARACTERS_MAX} bytes long"),
        );
        if let Some(text) = ordering_key {
            problems.take("X-Ordering-Key", validation::text(text, KEY_CHARACTERS_MAX));
        }
        problems.into_result()?;
        Ok(event_type.unwrap_or_default())
    }
}

impl AcceptedStatus {
    /// The status behind a byte that was kept with an answer.
    fn from_verdict(verdict: u8) -> Self {
        let known = [Self::Pending, Self::Filtered, Self::Disabled].into_iter().find(|known| *known as u8 == verdict);
        known.unwrap_or(Self::Pending)
    }
}

/// What Slack sends to find out whether a URL is the right one.
fn challenge(payload: &[u8]) -> Option<Challenge> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    (value["type"] == "url_verification").then(|| serde_json::from_value(value).ok())?
}

fn verdict(subscription: &Subscription, facts: &Facts<'_>) -> AcceptedStatus {
    match subscription.state {
        State::Disabled => AcceptedStatus::Disabled,
        State::Active | State::Paused if !subscription.wants(facts) => AcceptedStatus::Filtered,
        State::Active | State::Paused => AcceptedStatus::Pending,
    }
}
