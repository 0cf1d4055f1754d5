//! `/deliveries`: what was owed to whom, how far it has come, and every attempt at it.

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use poem_openapi::{
    Enum, Object, OpenApi,
    param::{Path, Query},
    payload::Json,
};
use postrider_core::{
    attempt::{self, Attempt},
    delivery::{self, Delivery, Filter, Status},
    id::{DeliveryId, EventId, SubscriptionId},
};

use crate::{
    App, Tag,
    auth::Admin,
    find,
    list::{List, Wanted},
    problem::ApiError,
};

/// The delivery routes.
pub struct DeliveriesApi(pub App);

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum StatusName {
    /// Waiting for its first or next attempt.
    Pending,
    /// A worker is at it.
    InFlight,
    /// The receiver has it.
    Succeeded,
    /// Out of attempts, or refused for good.
    DeadLetter,
    /// Called off before it succeeded.
    Canceled,
}

impl From<Status> for StatusName {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::InFlight => Self::InFlight,
            Status::Succeeded => Self::Succeeded,
            Status::DeadLetter => Self::DeadLetter,
            Status::Canceled => Self::Canceled,
        }
    }
}

impl From<StatusName> for Status {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Pending => Self::Pending,
            StatusName::InFlight => Self::InFlight,
            StatusName::Succeeded => Self::Succeeded,
            StatusName::DeadLetter => Self::DeadLetter,
            StatusName::Canceled => Self::Canceled,
        }
    }
}

/// A delivery: one event owed to one subscription.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct DeliveryView {
    /// Its id.
    id: String,
    /// What is delivered.
    event_id: String,
    /// To whom.
    subscription_id: String,
    /// The event's type; absent once retention has removed the event.
    event_type: Option<String>,
    /// Where it stands.
    status: StatusName,
    /// Attempts so far, one that is under way included.
    attempt_count: u16,
    /// When the next attempt is due; only while pending.
    next_attempt_at: Option<DateTime<Utc>>,
    /// HTTP status of the last finished attempt, where an answer arrived.
    last_status_code: Option<u16>,
    /// Why the last finished attempt failed.
    last_error: Option<String>,
    /// When it came to be.
    created_at: DateTime<Utc>,
    /// When it came to its end.
    finished_at: Option<DateTime<Utc>>,
}

/// One HTTP try of a delivery.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none)]
pub struct AttemptView {
    /// 1 is the first.
    number: u16,
    /// When the request began.
    started_at: DateTime<Utc>,
    /// Milliseconds until the answer was read or the attempt failed; absent where the worker died meanwhile.
    duration_ms: Option<u32>,
    /// HTTP status, where an answer arrived.
    status_code: Option<u16>,
    /// Why it failed: `http_status`, `timeout`, `dns`, `connect`, `tls`, `blocked_target`, `protocol`, `shutdown`,
    /// `payload_gone` or `lease_lost`; absent for a success.
    error_kind: Option<String>,
    /// What happened, for a person.
    error: Option<String>,
    /// The first 64 response headers, values of one name joined by `, `.
    response_headers: Option<BTreeMap<String, String>>,
    /// The first 16 KiB of the response body, where they are text.
    response_body: Option<String>,
    /// The same as base64, where they are not text.
    response_body_base64: Option<String>,
    /// Whether the response body was longer.
    response_truncated: bool,
}

/// All attempts of a delivery.
#[derive(Debug, Object)]
pub struct AttemptList {
    /// First to last.
    data: Vec<AttemptView>,
}

type One = Result<Json<DeliveryView>, ApiError>;

#[OpenApi(tag = "Tag::Deliveries")]
impl DeliveriesApi {
    /// List deliveries
    #[oai(path = "/deliveries", method = "get", operation_id = "list_deliveries")]
    async fn list(
        &self,
        _admin: Admin,
        /// Only this subscription's.
        subscription_id: Query<Option<String>>,
        /// Only those that stand so.
        status: Query<Option<StatusName>>,
        /// Items of a page, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<DeliveryView>>, ApiError> {
        let subscription = subscription_id.0.map(|text| text.parse::<SubscriptionId>()).transpose();
        let subscription = subscription.map_err(|why| ApiError::invalid("subscription_id", why.to_string()))?;
        self.page(Filter { subscription, status: status.0.map(Into::into) }, limit.0, cursor.0).await
    }

    /// List a subscription's deliveries
    #[oai(path = "/subscriptions/:id/deliveries", method = "get", operation_id = "list_subscription_deliveries")]
    async fn list_of_subscription(
        &self,
        _admin: Admin,
        id: Path<String>,
        /// Only those that stand so.
        status: Query<Option<StatusName>>,
        /// Items of a page, 1 to 250; 50 where absent.
        limit: Query<Option<u32>>,
        /// The `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<DeliveryView>>, ApiError> {
        let subscription = self.0.subscriptions.get(find(&id.0, "subscription")?).await?.id;
        let filter = Filter { subscription: Some(subscription), status: status.0.map(Into::into) };
        self.page(filter, limit.0, cursor.0).await
    }

    /// Get a delivery
    #[oai(path = "/deliveries/:id", method = "get", operation_id = "get_delivery")]
    async fn get(&self, _admin: Admin, id: Path<String>) -> One {
        Ok(Json(view(&delivery::get(&self.0.pool, find(&id.0, "delivery")?).await?)))
    }

    /// List a delivery's attempts
    #[oai(path = "/deliveries/:id/attempts", method = "get", operation_id = "list_attempts")]
    async fn attempts(&self, _admin: Admin, id: Path<String>) -> Result<Json<AttemptList>, ApiError> {
        let id = find::<DeliveryId>(&id.0, "delivery")?;
        delivery::get(&self.0.pool, id).await?;
        let attempts = attempt::list(&self.0.pool, id).await?;
        Ok(Json(AttemptList { data: attempts.into_iter().map(attempt_view).collect() }))
    }

    /// Retry a delivery now
    ///
    /// A pending one is attempted at once; a finished one, succeeded ones included, is put back for a fresh round of
    /// attempts by its subscription's policy. Its attempts go on counting.
    #[oai(path = "/deliveries/:id/retry", method = "post", operation_id = "retry_delivery")]
    async fn retry(&self, _admin: Admin, id: Path<String>) -> One {
        Ok(Json(view(&delivery::retry(&self.0.pool, find(&id.0, "delivery")?).await?)))
    }

    /// Cancel a pending delivery
    #[oai(path = "/deliveries/:id/cancel", method = "post", operation_id = "cancel_delivery")]
    async fn cancel(&self, _admin: Admin, id: Path<String>) -> One {
        Ok(Json(view(&delivery::cancel(&self.0.pool, find(&id.0, "delivery")?).await?)))
    }
}

impl DeliveriesApi {
    async fn page(
        &self,
        filter: Filter,
        limit: Option<u32>,
        cursor: Option<String>,
    ) -> Result<Json<List<DeliveryView>>, ApiError> {
        let wanted = Wanted::parse(limit, cursor.as_deref(), |id: DeliveryId| id.0)?;
        let found = delivery::list(&self.0.pool, filter, wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.id, view)))
    }
}

/// A delivery as it is shown.
pub(crate) fn view(delivery: &Delivery) -> DeliveryView {
    DeliveryView {
        id: delivery.id.to_string(),
        event_id: EventId(delivery.event_id).to_string(),
        subscription_id: SubscriptionId(delivery.subscription_id).to_string(),
        event_type: delivery.event_type.clone(),
        status: delivery.status.into(),
        attempt_count: delivery.attempt_count.unsigned_abs(),
        next_attempt_at: delivery.next_attempt_at,
        last_status_code: delivery.last_status_code.map(i16::unsigned_abs),
        last_error: delivery.last_error.clone(),
        created_at: delivery.created_at,
        finished_at: delivery.finished_at,
    }
}

fn attempt_view(attempt: Attempt) -> AttemptView {
    let (text, base64) = match attempt.response_body.map(String::from_utf8) {
        None => (None, None),
        Some(Ok(text)) => (Some(text), None),
        Some(Err(bytes)) => (None, Some(BASE64_STANDARD.encode(bytes.as_bytes()))),
    };
    let joined = |headers: Vec<(String, String)>| {
        headers.into_iter().fold(BTreeMap::<String, String>::new(), |mut joined, (name, value)| {
            joined.entry(name).and_modify(|values| values.extend([", ", &value])).or_insert(value);
            joined
        })
    };
    AttemptView {
        number: attempt.number.unsigned_abs(),
        started_at: attempt.started_at,
        duration_ms: attempt.duration_ms.map(i32::unsigned_abs),
        status_code: attempt.status_code.map(i16::unsigned_abs),
        error_kind: attempt.error_kind,
        error: attempt.error,
        response_headers: attempt.response_headers.map(|headers| joined(headers.0)),
        response_body: text,
        response_body_base64: base64,
        response_truncated: attempt.response_truncated,
    }
}
