//! `/events`: publishing events, listing them, reading their payloads, explaining who wants them, and replaying them.

pub mod body;
pub mod challenge;
pub mod ingest;
pub(crate) mod matching;
pub mod publish;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path, Query},
    payload::{Binary, Json},
    types::ToJSON,
};
use postrider_core::{
    delivery::replay_now::{self, To},
    event::{self, Event, Filter, filter::Check, idempotency::Creation},
    id::{EventId, SubscriptionId},
};
use serde::Deserialize;

use crate::{
    access::auth::{Ingest, Key, Manage, Read},
    app::{App, Tag},
    events::{
        body::{BatchInput, EventInput},
        publish::{BatchResponse, PublishResponse},
    },
    replays::{Replayed, ReplayedResponse},
    serve::{
        body::{Input, JsonBody},
        idempotency::stored_answer,
        list::{self, List, Wanted},
        problem::ApiError,
        request_trace::RequestTrace,
    },
};

/// The routes of `/events`.
pub struct EventsApi(pub App);

/// An event that was accepted, without its payload.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Event")]
pub struct EventView {
    /// The event's id, such as `evt_0198c0de2f3a7b1c9d4e5f60718293a4`. Receivers see it as the header `webhook-id`.
    id: String,
    /// The tenant that the event belongs to.
    tenant_id: String,
    /// What has happened, such as `order.created`.
    event_type: String,
    /// The subscription that the event was posted to; absent where it was published to all.
    subscription_id: Option<String>,
    /// Notes of the producer, which subscriptions can filter by.
    metadata: BTreeMap<String, String>,
    /// The producer's own id for the event, where it gave one.
    external_id: Option<String>,
    /// What the event is to be kept in order with. It is stored and not yet acted upon.
    ordering_key: Option<String>,
    /// When deliveries of the event are due, where that is not at once (RFC 3339).
    deliver_at: Option<DateTime<Utc>>,
    /// From this time on nobody wants the event any more: what has not been delivered is canceled (RFC 3339).
    expires_at: Option<DateTime<Utc>>,
    /// The content type of the payload, such as `application/json`.
    content_type: String,
    /// How the payload was packed before it was posted, such as `gzip`; absent where it was not.
    content_encoding: Option<String>,
    /// Bytes of the payload.
    payload_bytes: u32,
    /// The id of the trace that the event belongs to (W3C Trace Context), 32 hexadecimal digits; absent where it
    /// belongs to none.
    trace_id: Option<String>,
    /// The place in that trace, as the header `traceparent` has it: that of the request that brought the event where
    /// its span was recorded, or else the producer's own.
    traceparent: Option<String>,
    /// What tracing systems have noted about the trace, as the header `tracestate` has it; at most 512 characters.
    tracestate: Option<String>,
    /// When the event was accepted (RFC 3339).
    created_at: DateTime<Utc>,
}

/// An event's payload.
#[derive(Debug, ApiResponse)]
pub enum PayloadResponse {
    /// The payload, byte for byte as it was accepted. It is sent as a download of no particular type, so that no
    /// browser runs it.
    #[oai(status = 200)]
    Payload(
        Binary<Vec<u8>>,
        /// The content type that the payload came with, such as `application/json`.
        #[oai(header = "X-Payload-Content-Type")]
        String,
        /// How the payload was packed before it was posted, such as `gzip`; absent where it was not.
        #[oai(header = "X-Payload-Content-Encoding")]
        Option<String>,
    ),
}

/// Whether a subscription wants an event, and why.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Match")]
pub struct MatchView {
    /// The id of the event.
    event_id: String,
    /// The id of the subscription.
    subscription_id: String,
    /// Whether the subscription, as it is now, would get the event.
    matches: bool,
    /// Everything that has to hold for that, and whether it does.
    checks: Vec<CheckView>,
}

/// One condition that has to hold.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "MatchCheck")]
pub struct CheckView {
    /// The condition, such as `payload.order.total $gte 100`.
    rule: String,
    /// Whether the condition holds.
    holds: bool,
    /// What the event or the subscription has there, shortened.
    found: Option<String>,
}

/// How an event is replayed. No body at all means the same as `{}`.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct EventReplayInput {
    /// Who gets the event again: `all` who want it now, or `missing`, those of them who have no delivery of it. `all`
    /// where absent.
    #[oai(validator(pattern = "^(all|missing)$"))]
    to: Option<String>,
}

impl Input for EventReplayInput {
    const MAY_BE_EMPTY: bool = true;
}

#[OpenApi(tag = "Tag::Events")]
impl EventsApi {
    /// Publish an event
    ///
    /// It goes to every subscription of the tenant whose event types and filters it passes. The event and all its
    /// deliveries are on disk before the answer is sent. With an `id` or an `Idempotency-Key`, sending it again does no
    /// harm.
    #[oai(path = "/events", method = "post", operation_id = "publish_event")]
    async fn publish(
        &self,
        key: Key<Ingest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        trace: RequestTrace,
        body: JsonBody<EventInput>,
    ) -> Result<PublishResponse, ApiError> {
        let published = publish::one(&self.0, &key, idempotency_key.0.as_deref(), &trace, body).await?;
        Ok(PublishResponse::Accepted(Json(published)))
    }

    /// Publish many events
    ///
    /// 1 to 1000 events, and 5 MiB in all. All of them are stored or none. The answer has an entry for each, in the
    /// same order.
    #[oai(path = "/events/batch", method = "post", operation_id = "publish_events")]
    async fn publish_batch(
        &self,
        key: Key<Ingest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        trace: RequestTrace,
        body: JsonBody<BatchInput>,
    ) -> Result<BatchResponse, ApiError> {
        let published = publish::many(&self.0, &key, idempotency_key.0.as_deref(), &trace, body).await?;
        Ok(BatchResponse::Accepted(Json(published)))
    }

    /// List events
    ///
    /// The newest first. A page looks at a bounded number of events: where few pass the filters, it may be short or
    /// empty and have a `next_cursor` all the same.
    #[oai(path = "/events", method = "get", operation_id = "list_events")]
    async fn list(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        /// Only events of exactly this type, such as `order.created`.
        event_type: Query<Option<String>>,
        /// Only events that were posted to this subscription by its ingest URL. Published events are not among them.
        subscription_id: Query<Option<String>>,
        metadata: Query<Vec<String>>,
        /// Only the event to which its producer gave this id, such as `order-42-created`.
        external_id: Query<Option<String>>,
        /// Whether only events are listed of which there is no delivery, because nobody wanted them; false where
        /// absent.
        without_deliveries: Query<Option<bool>>,
        since: Query<Option<DateTime<Utc>>>,
        until: Query<Option<DateTime<Utc>>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<EventView>>, ApiError> {
        let filter = Filter {
            tenant_id: key.lists(tenant_id.0.as_deref())?,
            event_type: list::parsed("event_type", event_type.0.as_deref())?,
            subscription: key.find_named(&self.0.pool, "subscription_id", subscription_id.0.as_deref()).await?,
            metadata: list::metadata(metadata.0)?,
            external_id: list::external_id(external_id.0)?,
            deliveries: list::deliveries(without_deliveries.0),
            span: list::span(since.0, until.0)?,
        };
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: EventId| id.0)?;
        let found = event::list(&self.0.pool, &filter, wanted.page()).await?;
        Ok(Json(wanted.found(found, |one| EventId(one.id), |id| EventId(id).to_string(), view)))
    }

    /// Get an event
    #[oai(path = "/events/:id", method = "get", operation_id = "get_event")]
    async fn get(&self, key: Key<Read>, id: Path<String>) -> Result<Json<EventView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&event::get(&self.0.pool, id).await?)))
    }

    /// Get an event's payload
    #[oai(path = "/events/:id/payload", method = "get", operation_id = "get_event_payload")]
    async fn payload(&self, key: Key<Read>, id: Path<String>) -> Result<PayloadResponse, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        let payload = event::payload(&self.0.pool, id).await?;
        let content_encoding = payload.content_encoding.map(|encoding| encoding.as_str().to_owned());
        Ok(PayloadResponse::Payload(Binary(payload.bytes), payload.content_type, content_encoding))
    }

    /// Explain whether a subscription wants an event
    ///
    /// Shows every rule of the subscription as it is now, and whether the event passes it.
    #[oai(path = "/events/:id/matches", method = "get", operation_id = "explain_match")]
    async fn matches(
        &self,
        key: Key<Read>,
        id: Path<String>,
        /// The id of the subscription, such as `sub_0198c0de2f3a7b1c9d4e5f60718293a4`.
        subscription: Query<String>,
    ) -> Result<Json<MatchView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        let event = event::get(&self.0.pool, id).await?;
        let subscription = self.0.subscriptions.get(key.find(&self.0.pool, &subscription.0).await?).await?;
        let payload = event::payload(&self.0.pool, id).await?;
        let checks = matching::checks(&event, &payload, &subscription)?;
        Ok(Json(MatchView {
            event_id: id.to_string(),
            subscription_id: subscription.id.to_string(),
            matches: checks.iter().all(|check| check.holds),
            checks: checks.into_iter().map(|Check { rule, holds, found }| CheckView { rule, holds, found }).collect(),
        }))
    }

    /// Replay an event
    ///
    /// Makes fresh deliveries of the event, each of which points to the one it replays, if there is one. An event that
    /// was posted to one subscription goes to that one only.
    #[oai(path = "/events/:id/replay", method = "post", operation_id = "replay_event")]
    async fn replay(
        &self,
        key: Key<Manage>,
        id: Path<String>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<EventReplayInput>,
    ) -> Result<ReplayedResponse, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        let to = match body.value.to.as_deref() {
            None | Some("all") => To::All,
            Some("missing") => To::Missing,
            Some(_) => return Err(ApiError::invalid("to", "must be `all` or `missing`")),
        };
        let tenant = event::get(&self.0.pool, id).await?.tenant_id;
        let route = format!("POST /events/{id}/replay");
        let idempotent = self.0.key_ttl.request(idempotency_key.0.as_deref(), &tenant, &route, &body.bytes)?;
        let made =
            replay_now::of_event(&self.0.pool, &self.0.keyring, &self.0.cache, (id, to), idempotent.as_ref(), |ids| {
                Replayed::of(ids).to_json_string().into_bytes()
            });
        Ok(ReplayedResponse::Accepted(Json(match made.await? {
            Creation::Now(ids) => Replayed::of(&ids),
            Creation::Before(answer) => stored_answer(&answer)?,
        })))
    }
}

fn view(event: &Event) -> EventView {
    let trace = event.trace();
    EventView {
        id: EventId(event.id).to_string(),
        tenant_id: event.tenant_id.clone(),
        event_type: event.event_type.clone(),
        subscription_id: event.subscription_id.map(|id| SubscriptionId(id).to_string()),
        metadata: event.metadata.clone().map(|metadata| metadata.0.into_entries()).unwrap_or_default(),
        external_id: event.external_id.clone(),
        ordering_key: event.ordering_key.clone(),
        deliver_at: event.deliver_at,
        expires_at: event.expires_at,
        content_type: event.content_type.clone(),
        content_encoding: event.content_encoding.clone(),
        payload_bytes: event.payload_bytes.unsigned_abs(),
        trace_id: trace.as_ref().map(|trace| trace.trace_id().to_owned()),
        traceparent: event.traceparent.clone(),
        tracestate: event.tracestate.clone(),
        created_at: event.created_at,
    }
}
