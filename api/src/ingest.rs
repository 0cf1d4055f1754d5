//! `POST /webhooks/ingest/{subscription_id}`: whatever arrives is the payload. The answer is sent after the commit.

use poem::Request;
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Header, Path},
    payload::{Binary, Json},
};
use postrider_core::{
    event::{CONTENT_TYPE_CHARACTERS_MAX, CONTENT_TYPE_DEFAULT, NewEvent},
    event_type::EventType,
    id::{DeliveryId, EventId, SubscriptionId},
    queue::NewDelivery,
    subscription::{State, Subscription},
};

use crate::{App, Tag, auth::IngestCredential, body, find, problem::ApiError};

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
#[oai(skip_serializing_if_is_none)]
pub struct Accepted {
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
    Accepted(Json<Accepted>),
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
        credential: IngestCredential,
        /// The subscription.
        subscription_id: Path<String>,
        /// The event's type: segments of letters, digits, `_` and `-`, joined by dots. `webhook.received` where absent.
        #[oai(name = "X-Event-Type")]
        event_type: Header<Option<String>>,
        request: &Request,
        payload: Binary<poem::Body>,
    ) -> Result<IngestResponse, ApiError> {
        let id = find::<SubscriptionId>(&subscription_id.0, "subscription")?;
        // Nobody's body is read for a subscription that is not there.
        let subscription = self.0.cache.get(id).await?.ok_or_else(|| ApiError::not_found("subscription"))?;
        let payload = body::read(payload.0, self.0.payload_bytes_max).await?;
        credential.check(&subscription, &payload)?;
        let event_type = match &event_type.0 {
            Some(text) => text.parse().map_err(|why: String| ApiError::invalid("X-Event-Type", why))?,
            None => EventType::default(),
        };
        let content_type = request.content_type().unwrap_or(CONTENT_TYPE_DEFAULT);
        if content_type.len() > CONTENT_TYPE_CHARACTERS_MAX {
            return Err(ApiError::invalid("Content-Type", "must be at most 255 bytes long"));
        }

        let status = verdict(&subscription, &event_type);
        let event = NewEvent {
            id: EventId::new(),
            tenant_id: subscription.tenant_id.clone(),
            event_type,
            posted_to: Some(id),
            content_type: content_type.to_owned(),
            payload,
        };
        let event_id = event.id;
        let delivery = (status == AcceptedStatus::Pending).then(|| NewDelivery {
            id: DeliveryId::new(),
            event_id,
            subscription_id: id,
            lane_id: id.0,
        });
        self.0.intake.accept(event, delivery.into_iter().collect()).await?;
        metrics::counter!("postrider_events_accepted_total").increment(1);
        Ok(IngestResponse::Accepted(Json(Accepted {
            event_id: event_id.to_string(),
            delivery_id: delivery.map(|delivery| delivery.id.to_string()),
            status,
        })))
    }
}

fn verdict(subscription: &Subscription, event_type: &EventType) -> AcceptedStatus {
    match subscription.state {
        State::Disabled => AcceptedStatus::Disabled,
        State::Active | State::Paused if !subscription.wants(event_type) => AcceptedStatus::Filtered,
        State::Active | State::Paused => AcceptedStatus::Pending,
    }
}
