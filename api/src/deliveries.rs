//! `/deliveries`: each event that is owed to a subscription or a URL, how far it has come, and every attempt at it.

pub mod export;
pub mod inline;
pub mod view;

use chrono::{DateTime, Utc};
use poem_openapi::{
    OpenApi,
    param::{Header, Path, Query},
    payload::Json,
    types::ToJSON,
};
use postrider_core::{
    delivery::{self, list as delivery_list, replay_now},
    event::idempotency::Creation,
    id::{DeliveryId, EventId, SubscriptionId},
    queue::attempt,
};

use crate::{
    access::auth::{Ingest, Key, Manage, Read},
    app::{App, Tag},
    deliveries::{
        export::{Exported, Format},
        inline::{InlineDeliveryInput, InlineResponse},
        view::{AttemptList, DeliveryView, StatusName, attempt_view, view},
    },
    replays::{Replayed, ReplayedResponse},
    serve::{
        body::JsonBody,
        idempotency::stored_answer,
        list::{self, List, Wanted},
        problem::ApiError,
        request_trace::RequestTrace,
    },
};

/// The routes of `/deliveries`.
pub struct DeliveriesApi(pub App);

type One = Result<Json<DeliveryView>, ApiError>;

#[OpenApi(tag = "Tag::Deliveries")]
impl DeliveriesApi {
    /// Deliver to a URL
    ///
    /// Sends an event to one URL, without a subscription: with the same checks of the target, the same retries and the
    /// same log.
    #[oai(path = "/deliveries", method = "post", operation_id = "create_delivery")]
    async fn create(
        &self,
        key: Key<Ingest>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        trace: RequestTrace,
        body: JsonBody<InlineDeliveryInput>,
    ) -> Result<InlineResponse, ApiError> {
        let created = inline::create(&self.0, &key, idempotency_key.0.as_deref(), &trace, body).await?;
        Ok(InlineResponse::Accepted(Json(created)))
    }

    /// List deliveries
    ///
    /// The newest first. A page looks at a bounded number of deliveries: where few pass the filters, it may be short or
    /// empty and have a `next_cursor` all the same.
    #[oai(path = "/deliveries", method = "get", operation_id = "list_deliveries")]
    async fn list(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        event_id: Query<Option<String>>,
        job_id: Query<Option<String>>,
        status: Query<Option<StatusName>>,
        /// Only deliveries of events of exactly this type, such as `order.created`.
        event_type: Query<Option<String>>,
        metadata: Query<Vec<String>>,
        /// Only deliveries of which an attempt took longer than this, in milliseconds: from 1 to 86400000.
        slower_than_ms: Query<Option<u32>>,
        /// Only deliveries with at least so many attempts, one that is under way included: from 1 to 1000000.
        min_attempts: Query<Option<u32>>,
        cause: Query<Option<String>>,
        inline_only: Query<Option<bool>>,
        replays_only: Query<Option<bool>>,
        since: Query<Option<DateTime<Utc>>>,
        until: Query<Option<DateTime<Utc>>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<DeliveryView>>, ApiError> {
        let pool = &self.0.pool;
        let filter = delivery_list::Filter {
            tenant_id: key.lists(tenant_id.0.as_deref())?,
            subscription: key.find_named(pool, "subscription_id", subscription_id.0.as_deref()).await?,
            event: key.find_named(pool, "event_id", event_id.0.as_deref()).await?,
            job: key.find_named(pool, "job_id", job_id.0.as_deref()).await?,
            status: status.0.map(Into::into),
            event_type: list::parsed("event_type", event_type.0.as_deref())?,
            metadata: list::metadata(metadata.0)?,
            slower_than_ms: list::slower_than(slower_than_ms.0)?,
            min_attempts: list::min_attempts(min_attempts.0)?,
            cause: list::parsed("cause", cause.0.as_deref())?,
            destinations: list::destinations(inline_only.0),
            origins: list::origins(replays_only.0),
            span: list::span(since.0, until.0)?,
        };
        self.page(&filter, limit.0, cursor.0).await
    }

    /// Export deliveries
    ///
    /// The same list as a file, with the same filters, the newest first: 100000 deliveries at most, and as many as can
    /// be read and sent in two minutes. The last line says whether these are all, and otherwise has a cursor with which
    /// another export goes on. In CSV that line begins with `#`, and a text that a spreadsheet would take for a formula
    /// has an apostrophe before it. In NDJSON it is an object with the field `export`.
    #[oai(path = "/deliveries/export", method = "get", operation_id = "export_deliveries")]
    async fn export(
        &self,
        key: Key<Read>,
        /// How the deliveries are written; `csv` where absent.
        format: Query<Option<Format>>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        event_id: Query<Option<String>>,
        job_id: Query<Option<String>>,
        status: Query<Option<StatusName>>,
        /// Only deliveries of events of exactly this type, such as `order.created`.
        event_type: Query<Option<String>>,
        metadata: Query<Vec<String>>,
        /// Only deliveries of which an attempt took longer than this, in milliseconds: from 1 to 86400000.
        slower_than_ms: Query<Option<u32>>,
        /// Only deliveries with at least so many attempts, one that is under way included: from 1 to 1000000.
        min_attempts: Query<Option<u32>>,
        cause: Query<Option<String>>,
        inline_only: Query<Option<bool>>,
        replays_only: Query<Option<bool>>,
        since: Query<Option<DateTime<Utc>>>,
        until: Query<Option<DateTime<Utc>>>,
        /// The cursor in the last line of the export that was stopped.
        cursor: Query<Option<String>>,
    ) -> Result<Exported, ApiError> {
        let pool = &self.0.pool;
        let filter = delivery_list::Filter {
            tenant_id: key.lists(tenant_id.0.as_deref())?,
            subscription: key.find_named(pool, "subscription_id", subscription_id.0.as_deref()).await?,
            event: key.find_named(pool, "event_id", event_id.0.as_deref()).await?,
            job: key.find_named(pool, "job_id", job_id.0.as_deref()).await?,
            status: status.0.map(Into::into),
            event_type: list::parsed("event_type", event_type.0.as_deref())?,
            metadata: list::metadata(metadata.0)?,
            slower_than_ms: list::slower_than(slower_than_ms.0)?,
            min_attempts: list::min_attempts(min_attempts.0)?,
            cause: list::parsed("cause", cause.0.as_deref())?,
            destinations: list::destinations(inline_only.0),
            origins: list::origins(replays_only.0),
            span: list::span(since.0, until.0)?,
        };
        let wanted = Wanted::parse(None, cursor.0.as_deref(), |id: DeliveryId| id.0)?;
        let format = format.0.unwrap_or(Format::Csv);
        export::begin((&self.0.exports, key.actor()), pool, filter, format, wanted.page().before).await
    }

    /// List a subscription's deliveries
    #[oai(path = "/subscriptions/:id/deliveries", method = "get", operation_id = "list_subscription_deliveries")]
    async fn list_of_subscription(
        &self,
        key: Key<Read>,
        id: Path<String>,
        status: Query<Option<StatusName>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<DeliveryView>>, ApiError> {
        let id: SubscriptionId = key.find(&self.0.pool, &id.0).await?;
        self.0.subscriptions.get(id).await?;
        let filter = delivery_list::Filter {
            subscription: Some(id),
            status: status.0.map(Into::into),
            ..delivery_list::Filter::default()
        };
        self.page(&filter, limit.0, cursor.0).await
    }

    /// List an event's deliveries
    ///
    /// Those that were made when it was accepted, and those of its replays.
    #[oai(path = "/events/:id/deliveries", method = "get", operation_id = "list_event_deliveries")]
    async fn list_of_event(
        &self,
        key: Key<Read>,
        id: Path<String>,
        status: Query<Option<StatusName>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<DeliveryView>>, ApiError> {
        let id: EventId = key.find(&self.0.pool, &id.0).await?;
        postrider_core::event::get(&self.0.pool, id).await?;
        let filter = delivery_list::Filter {
            event: Some(id),
            status: status.0.map(Into::into),
            ..delivery_list::Filter::default()
        };
        self.page(&filter, limit.0, cursor.0).await
    }

    /// Get a delivery
    #[oai(path = "/deliveries/:id", method = "get", operation_id = "get_delivery")]
    async fn get(&self, key: Key<Read>, id: Path<String>) -> One {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&delivery::get(&self.0.pool, id).await?)))
    }

    /// List a delivery's attempts
    ///
    /// All of them, the first one first.
    #[oai(path = "/deliveries/:id/attempts", method = "get", operation_id = "list_attempts")]
    async fn attempts(&self, key: Key<Read>, id: Path<String>) -> Result<Json<AttemptList>, ApiError> {
        let id: DeliveryId = key.find(&self.0.pool, &id.0).await?;
        delivery::get(&self.0.pool, id).await?;
        let attempts = attempt::list(&self.0.pool, id).await?;
        Ok(Json(AttemptList { data: attempts.into_iter().map(attempt_view).collect() }))
    }

    /// Retry a delivery now
    ///
    /// A pending delivery is attempted at once. A finished one, even if it has succeeded, gets a fresh round of
    /// attempts by its retry policy; the numbers of its attempts go on. 409 while a worker is at it.
    #[oai(path = "/deliveries/:id/retry", method = "post", operation_id = "retry_delivery")]
    async fn retry(&self, key: Key<Manage>, id: Path<String>) -> One {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&delivery::retry(&self.0.pool, id).await?)))
    }

    /// Cancel a pending delivery
    ///
    /// 409 while a worker is at it, and where it is finished.
    #[oai(path = "/deliveries/:id/cancel", method = "post", operation_id = "cancel_delivery")]
    async fn cancel(&self, key: Key<Manage>, id: Path<String>) -> One {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&delivery::cancel(&self.0.pool, id).await?)))
    }

    /// Replay a finished delivery
    ///
    /// Makes a fresh delivery to the same place, which points to this one; this one stays as it is. Where it is a dead
    /// letter, that is marked resolved.
    #[oai(path = "/deliveries/:id/replay", method = "post", operation_id = "replay_delivery")]
    async fn replay(
        &self,
        key: Key<Manage>,
        id: Path<String>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
    ) -> Result<ReplayedResponse, ApiError> {
        let pool = &self.0.pool;
        let id: DeliveryId = key.find(pool, &id.0).await?;
        let tenant = delivery::get(pool, id).await?.tenant_id;
        let route = format!("POST /deliveries/{id}/replay");
        let idempotent = self.0.key_ttl.request(idempotency_key.0.as_deref(), &tenant, &route, &[])?;
        let answer = |fresh| Replayed::of(&[fresh]).to_json_string().into_bytes();
        let made = replay_now::of_delivery(pool, &self.0.keyring, id, idempotent.as_ref(), answer).await?;
        Ok(ReplayedResponse::Accepted(Json(match made {
            Creation::Now(fresh) => Replayed::of(&[fresh]),
            Creation::Before(answer) => stored_answer(&answer)?,
        })))
    }
}

impl DeliveriesApi {
    async fn page(
        &self,
        filter: &delivery_list::Filter,
        limit: Option<u32>,
        cursor: Option<String>,
    ) -> Result<Json<List<DeliveryView>>, ApiError> {
        let wanted = Wanted::parse(limit, cursor.as_deref(), |id: DeliveryId| id.0)?;
        let found = delivery_list::list(&self.0.pool, filter, wanted.page()).await?;
        Ok(Json(wanted.found(found, |one| one.id, |id| DeliveryId(id).to_string(), view)))
    }
}
