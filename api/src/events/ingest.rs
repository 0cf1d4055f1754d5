//! `POST /webhooks/ingest/{subscription_id}`: the body is the payload, whatever it is. The answer is sent after the
//! commit.

use chrono::Utc;
use poem::Request;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Header, Path},
    payload::{Binary, Json},
};
use postrider_core::{
    accept::{
        AcceptedEvent,
        ingest::{IngestKeys, Posted},
    },
    event::new_event::Verdict,
    trust::inbound_signature::Provider,
};
use serde::Deserialize;

use crate::{
    access::ingest_credential::{IngestCredential, Opens},
    app::{App, Tag},
    serve::{
        body_room::{Caller, read},
        idempotency::KEY_NAME,
        problem::ApiError,
    },
};

/// For each field of the core that ingest reads from a header, the name of that header: a broken rule is reported by
/// it.
const NAMES: [(&str, &str); 5] = [
    ("event_type", "X-Event-Type"),
    ("content_type", "Content-Type"),
    ("content_encoding", "Content-Encoding"),
    ("ordering_key", "X-Ordering-Key"),
    KEY_NAME,
];

/// The route of `POST /webhooks/ingest/{subscription_id}`.
pub struct IngestApi(pub App);

/// What became of an accepted event: `pending` is stored and will be delivered; `filtered` is stored, and the
/// subscription does not want it; `unreadable` is stored, and not delivered, because the subscription has a filter that
/// cannot read the payload; `disabled` is stored, and the subscription is disabled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum AcceptedStatus {
    /// It is stored and will be delivered.
    Pending,
    /// It is stored, and the subscription does not want it.
    Filtered,
    /// It is stored, and not delivered, because the subscription has a filter that cannot read the payload.
    Unreadable,
    /// It is stored, and the subscription is disabled.
    Disabled,
}

/// An event that was accepted for one receiver.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "AcceptedEvent")]
pub struct Shown {
    /// The event's id, such as `evt_0198c0de2f3a7b1c9d4e5f60718293a4`. Its receiver sees it as the header `webhook-id`.
    event_id: String,
    /// The id of the delivery that the event caused, such as `dlv_0198c0de2f3a7b1c9d4e5f60718293a4`; absent where it
    /// caused none.
    delivery_id: Option<String>,
    /// What became of the event.
    status: AcceptedStatus,
}

/// The answer to an accepted event.
#[derive(Debug, ApiResponse)]
pub enum IngestResponse {
    /// The event is on disk. Nothing that was answered so is lost.
    #[oai(status = 202)]
    Accepted(Json<Shown>),
    /// Slack asks, signed, whether this is the right URL, and gets its challenge back. Nothing is stored.
    #[oai(status = 200)]
    Challenge(Json<Challenge>),
}

/// The answer to Slack's `url_verification`.
#[derive(Debug, Deserialize, Object)]
pub struct Challenge {
    /// The text that Slack has sent.
    challenge: String,
}

#[OpenApi]
impl IngestApi {
    /// Post an event to a subscription
    ///
    /// The body is the payload, byte for byte and of any content type. It is on disk before the answer is sent, and is
    /// delivered afterwards. An event that the subscription does not want, or that comes while it is disabled, is
    /// stored all the same and not delivered: a provider that relays its webhooks should not see errors because of a
    /// filter.
    #[oai(path = "/webhooks/ingest/:subscription_id", method = "post", tag = "Tag::Ingest", operation_id = "ingest")]
    async fn ingest(
        &self,
        credential: IngestCredential<'_>,
        subscription_id: Path<String>,
        /// What has happened, such as `order.created`: segments of letters, digits, `_` and `-`, joined by dots; at
        /// most 128 characters. `webhook.received` where absent.
        #[oai(name = "X-Event-Type")]
        event_type: Header<Option<String>>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        /// What the event is to be kept in order with, such as `customer-42`; at most 255 characters. It is stored and
        /// not yet acted upon.
        #[oai(name = "X-Ordering-Key")]
        ordering_key: Header<Option<String>>,
        /// How the body is packed, such as `gzip` (RFC 9110 §8.4). It is sent on with the body, which stays as it is.
        /// Filters read what is packed with gzip or deflate.
        #[oai(name = "Content-Encoding")]
        content_encoding: Header<Option<String>>,
        request: &Request,
        payload: Binary<poem::Body>,
    ) -> Result<IngestResponse, ApiError> {
        let found = match subscription_id.0.parse() {
            Ok(id) => self.0.cache.get(id).await?,
            Err(_) => None,
        };
        // The credential is judged first, so that no body is read from a caller who cannot open this ingest.
        let (subscription, opens) = credential.opens(found)?;
        let caller = match &opens {
            Opens::ByKey => Caller::Key,
            Opens::ToAll | Opens::IfSigned(_) => Caller::Anybody(subscription.id),
        };
        let payload = read(request, payload.0, self.0.acceptor.payload_bytes_max, caller).await?;
        let signed = match opens {
            Opens::ByKey | Opens::ToAll => None,
            Opens::IfSigned(signature) => {
                let verified = signature.verify(&subscription, &payload).await?;
                if subscription.ingest_provider() == Provider::Slack
                    && let Some(challenge) = challenge(&payload)
                {
                    return Ok(IngestResponse::Challenge(Json(challenge)));
                }
                verified.once
            }
        };
        let posted = Posted {
            event_type: event_type.0,
            content_type: request.content_type().map(str::to_owned),
            content_encoding: content_encoding.0,
            ordering_key: ordering_key.0,
            payload,
        };
        let keys = IngestKeys { chosen: idempotency_key.0.as_deref(), signed: signed.as_deref() };
        let accepted = self.0.acceptor.ingest(&subscription, posted, keys, Utc::now()).await;
        let accepted = accepted.map_err(|error| error.renamed(&NAMES))?;
        Ok(IngestResponse::Accepted(Json(Shown::of(&accepted))))
    }
}

impl Shown {
    /// The answer to an event for one subscription or URL, which has at most one delivery.
    #[must_use]
    pub fn of(accepted: &AcceptedEvent) -> Self {
        Self {
            event_id: accepted.event_id.to_string(),
            delivery_id: accepted.delivery_ids.first().map(ToString::to_string),
            status: accepted.verdict.into(),
        }
    }
}

impl From<Verdict> for AcceptedStatus {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pending => Self::Pending,
            Verdict::Filtered => Self::Filtered,
            Verdict::Unreadable => Self::Unreadable,
            Verdict::Disabled => Self::Disabled,
        }
    }
}

/// The challenge, if the payload is Slack's question whether this URL is the right one.
fn challenge(payload: &[u8]) -> Option<Challenge> {
    let value: serde_json::Value = serde_json::from_slice(payload).ok()?;
    (value["type"] == "url_verification").then(|| serde_json::from_value(value).ok())?
}
