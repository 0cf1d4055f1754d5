//! `/events`: what was accepted, its payload as it came, who wants it and why, and once more.

pub mod body;
pub mod ingest;
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
    event::{
        self, Event, Filter,
        audience::{Facts, explain},
        event_type::EventType,
        filter::Check,
        idempotency::Creation,
    },
    id::{EventId, SubscriptionId},
    subscription::State,
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
    },
};

/// The event routes.
pub struct EventsApi(pub App);

/// An accepted event, without its payload.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct EventView {
    /// Its id; receivers see it as `webhook-id`.
    id: String,
    /// Whose it is.
    tenant_id: String,
    /// Its type.
    event_type: String,
    /// The subscription it was posted to, where it was posted to one.
    subscription_id: Option<String>,
    /// Its producer's notes.
    metadata: BTreeMap<String, String>,
    /// Its producer's own id for it.
    external_id: Option<String>,
    /// What it is to be kept in order with.
    ordering_key: Option<String>,
    /// When its deliveries are due, where that is not at once.
    deliver_at: Option<DateTime<Utc>>,
    /// From when on nobody wants it any more.
    expires_at: Option<DateTime<Utc>>,
    /// What its payload is.
    content_type: String,
    /// Bytes of its payload.
    payload_bytes: u32,
    /// When it was accepted.
    created_at: DateTime<Utc>,
}

/// An event's payload.
#[derive(Debug, ApiResponse)]
pub enum PayloadResponse {
    /// Byte for byte what was accepted.
    #[oai(status = 200)]
    Payload(
        Binary<Vec<u8>>,
        /// The content type it came with. The answer itself is sent as a download of no particular type, so that no
        /// browser runs it.
        #[oai(header = "X-Payload-Content-Type")]
        String,
    ),
}

/// Whether a subscription wants an event, and why.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct MatchView {
    /// The event.
    event_id: String,
    /// The subscription.
    subscription_id: String,
    /// Whether the subscription, as it is now, would get the event.
    matches: bool,
    /// Everything that has to hold for that, and whether it does.
    checks: Vec<CheckView>,
}

/// One thing that has to hold.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct CheckView {
    /// What is asked, as in `payload.order.total $gte 100`.
    rule: String,
    /// Whether it holds.
    holds: bool,
    /// What was found there; shortened.
    found: Option<String>,
}

/// How an event is replayed.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct EventReplayInput {
    /// `all` (which is meant where it is absent) or `missing`.
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
    /// It goes to every subscription of the tenant whose event types and filters it passes. The event and its
    /// deliveries are stored before the answer is sent. With an `id` or an `Idempotency-Key`, sending it again is safe.
    #[oai(path = "/events", method = "post", operation_id = "publish_event")]
    async fn publish(
        &self,
        key: Key<Ingest>,
        /// At most 255 characters. A request with a key that was used before gets the answer it got then; 409 where it
        /// asks for something else.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: Header<Option<String>>,
        body: JsonBody<EventInput>,
    ) -> Result<PublishResponse, ApiError> {
        let published = publish::one(&self.0, &key, idempotency_key.0.as_deref(), body).await?;
        Ok(PublishResponse::Accepted(Json(published)))
    }

    /// Publish many events
    ///
    /// At most 1000 events, and 5 MiB in all. All of them are stored or none; the answer has an entry for each.
    #[oai(path = "/events/batch", method = "post", operation_id = "publish_events")]
    async fn publish_batch(
        &self,
        key: Key<Ingest>,
        /// At most 255 characters. As for one event, for the batch as a whole.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: Header<Option<String>>,
        body: JsonBody<BatchInput>,
    ) -> Result<BatchResponse, ApiError> {
        let published = publish::many(&self.0, &key, idempotency_key.0.as_deref(), body).await?;
        Ok(BatchResponse::Accepted(Json(published)))
    }

    /// List events
    #[oai(path = "/events", method = "get", operation_id = "list_events")]
    async fn list(
        &self,
        key: Key<Read>,
        /// Only this tenant's.
        tenant_id: Query<Option<String>>,
        /// Only events of exactly this type.
        event_type: Query<Option<String>>,
        /// Only events that were posted to this subscription.
        subscription_id: Query<Option<String>>,
        /// Only events with this entry in their metadata, as `key:value`; may be repeated.
        metadata: Query<Vec<String>>,
        /// Only events of this time or later (RFC 3339).
        since: Query<Option<DateTime<Utc>>>,
        /// Only events before this time (RFC 3339).
        until: Query<Option<DateTime<Utc>>>,
        /// Items of a page, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<EventView>>, ApiError> {
        let filter = Filter {
            tenant_id: key.lists(tenant_id.0.as_deref())?,
            event_type: list::parsed("event_type", event_type.0.as_deref())?,
            subscription: key.find_named(&self.0.pool, "subscription_id", subscription_id.0.as_deref()).await?,
            metadata: list::metadata(metadata.0)?,
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
        let (content_type, payload) = event::payload(&self.0.pool, id).await?;
        Ok(PayloadResponse::Payload(Binary(payload), content_type))
    }

    /// Explain whether a subscription wants an event
    ///
    /// Every rule of the subscription as it is now, and whether the event passes it.
    #[oai(path = "/events/:id/matches", method = "get", operation_id = "explain_match")]
    async fn matches(
        &self,
        key: Key<Read>,
        id: Path<String>,
        /// The subscription.
        subscription: Query<String>,
    ) -> Result<Json<MatchView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        let event = event::get(&self.0.pool, id).await?;
        let subscription = self.0.subscriptions.get(key.find(&self.0.pool, &subscription.0).await?).await?;
        let (_, payload) = event::payload(&self.0.pool, id).await?;
        let event_type = event.event_type.parse::<EventType>().map_err(postrider_core::Error::internal)?;
        let metadata = event.metadata.map(|metadata| metadata.0).unwrap_or_default();
        let facts = Facts::new(&event_type, &metadata, &payload);
        let posted_to = event.subscription_id.map(SubscriptionId);
        let check = |rule: &str, holds, found: String| Check { rule: rule.to_owned(), holds, found: Some(found) };
        let mut checks = vec![
            check("tenant_id is the event's", subscription.tenant_id == event.tenant_id, event.tenant_id),
            check(
                "the event was posted to this subscription, or to all",
                !event.is_inline && posted_to.is_none_or(|posted_to| posted_to == subscription.id),
                match posted_to {
                    Some(posted_to) => posted_to.to_string(),
                    None if event.is_inline => "to a URL".to_owned(),
                    None => "to all".to_owned(),
                },
            ),
            check("state is not disabled", subscription.state != State::Disabled, subscription.state.to_string()),
        ];
        checks.extend(explain(&subscription.settings.event_types, &subscription.settings.filters, &facts));
        Ok(Json(MatchView {
            event_id: id.to_string(),
            subscription_id: subscription.id.to_string(),
            matches: checks.iter().all(|check| check.holds),
            checks: checks.into_iter().map(|Check { rule, holds, found }| CheckView { rule, holds, found }).collect(),
        }))
    }

    /// Replay an event
    ///
    /// Makes fresh deliveries of it, which point to those they replay, if any. An event that was posted to one
    /// subscription goes to that one only.
    #[oai(path = "/events/:id/replay", method = "post", operation_id = "replay_event")]
    async fn replay(
        &self,
        key: Key<Manage>,
        id: Path<String>,
        /// At most 255 characters. A request with a key that was used before gets the answer it got then.
        #[oai(name = "Idempotency-Key")]
        idempotency_key: Header<Option<String>>,
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
        payload_bytes: event.payload_bytes.unsigned_abs(),
        created_at: event.created_at,
    }
}
