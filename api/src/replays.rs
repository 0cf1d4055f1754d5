//! `/replays`: events of a subscription's past, delivered again.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Enum, Object, OpenApi,
    param::{Header, Path, Query},
    payload::Json,
    types::ToJSON,
};
use postrider_core::{
    delivery::replay::{self, NewReplay, RATE_DEFAULT, RATE_MAX, Replay, ReplayedStatus, State},
    event::{event_type::EventTypePatterns, idempotency::Creation},
    id::{DeliveryId, ReplayId, SubscriptionId},
    validation::{Problems, moment},
};
use serde::Deserialize;

use crate::{
    access::auth::{Key, Manage, Read},
    app::{App, Tag},
    serve::{
        body::{Input, JsonBody},
        idempotency::stored_answer,
        list::{List, Wanted},
        problem::ApiError,
    },
};

/// The routes of `/replays`.
pub struct ReplaysApi(pub App);

/// Which part of a subscription's past is to be replayed.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct ReplayInput {
    /// Only events of this time or later, such as `2026-01-31T09:00:00Z` (RFC 3339).
    since: DateTime<Utc>,
    /// Only events before this time; now where absent (RFC 3339).
    until: Option<DateTime<Utc>>,
    /// Patterns of event types, such as `order.*`; at most 100. Only events of these types; of every type where the
    /// list is empty or absent.
    #[serde(default)]
    #[oai(default)]
    event_types: Vec<String>,
    /// How the events stand with the subscription: `succeeded`, `dead_letter`, `canceled`, or `missed` for those that
    /// it wants now and has no delivery of. `["dead_letter", "missed"]` where the list is empty or absent.
    #[serde(default)]
    #[oai(default)]
    statuses: Vec<String>,
    /// How many deliveries a second are made, 1 to 1000; 100 where absent.
    rate_per_second: Option<u32>,
}

impl Input for ReplayInput {}

/// How far a replay has come: `running` goes on; `completed` has looked at everything; `canceled` was stopped by
/// somebody, or by the deletion or disabling of its subscription.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Enum)]
#[oai(rename_all = "snake_case")]
pub enum ReplayState {
    /// It goes on.
    Running,
    /// Everything has been looked at.
    Completed,
    /// Somebody has stopped it, or its subscription was deleted or disabled.
    Canceled,
}

/// A replay of a range of a subscription's past.
#[derive(Debug, Object)]
#[oai(skip_serializing_if_is_none, rename = "Replay")]
pub struct ReplayView {
    /// The replay's id, such as `rpl_0198c0de2f3a7b1c9d4e5f60718293a4`; `GET /deliveries?replay_id=` lists what it has
    /// made.
    id: String,
    /// The tenant that the replay belongs to.
    tenant_id: String,
    /// The id of the subscription that gets the deliveries.
    subscription_id: String,
    /// Only events of this time or later (RFC 3339).
    since: DateTime<Utc>,
    /// Only events before this time (RFC 3339).
    until: DateTime<Utc>,
    /// Patterns of the event types that are replayed. An empty list means every type.
    event_types: Vec<String>,
    /// How the events stand with the subscription that are replayed.
    statuses: Vec<String>,
    /// How many deliveries a second are made, at most.
    rate_per_second: u32,
    /// How far the replay has come.
    state: ReplayState,
    /// The part of the range that has been looked at, from 0 to 1.
    progress: f64,
    /// How many deliveries and events have been looked at.
    examined_count: u64,
    /// How many deliveries have been made.
    replayed_count: u64,
    /// When the replay was asked for (RFC 3339).
    created_at: DateTime<Utc>,
    /// When the replay came to its end; absent while it is running (RFC 3339).
    finished_at: Option<DateTime<Utc>>,
}

/// The answer to a request for a replay.
#[derive(Debug, ApiResponse)]
pub enum Begun {
    /// The replay is on disk, and begins within a second.
    #[oai(status = 202)]
    Accepted(
        Json<ReplayView>,
        /// The path of the replay, such as `/replays/rpl_0198c0de2f3a7b1c9d4e5f60718293a4`.
        #[oai(header = "Location")]
        String,
    ),
}

/// Fresh deliveries.
#[derive(Debug, Object)]
#[oai(rename = "ReplayedDeliveries")]
pub struct Replayed {
    /// The ids of the fresh deliveries.
    delivery_ids: Vec<String>,
}

/// The answer to a replay that is made at once.
#[derive(Debug, ApiResponse)]
pub enum ReplayedResponse {
    /// The fresh deliveries are on disk.
    #[oai(status = 202)]
    Accepted(Json<Replayed>),
}

impl Replayed {
    /// The answer that lists the deliveries with these ids.
    #[must_use]
    pub fn of(ids: &[DeliveryId]) -> Self {
        Self { delivery_ids: ids.iter().map(ToString::to_string).collect() }
    }
}

#[OpenApi(tag = "Tag::Replays")]
impl ReplaysApi {
    /// Replay a range of a subscription's past
    ///
    /// Makes fresh deliveries of what has been, the oldest first and at a rate. How an event stands with the
    /// subscription is told by its latest delivery, replays included. A replay survives every crash and doubles
    /// nothing.
    #[oai(path = "/subscriptions/:id/replay", method = "post", operation_id = "replay_subscription")]
    async fn create(
        &self,
        key: Key<Manage>,
        id: Path<String>,
        #[oai(name = "Idempotency-Key")] idempotency_key: Header<Option<String>>,
        body: JsonBody<ReplayInput>,
    ) -> Result<Begun, ApiError> {
        let id: SubscriptionId = key.find(&self.0.pool, &id.0).await?;
        let tenant = self.0.subscriptions.get(id).await?.tenant_id;
        let route = format!("POST /subscriptions/{id}/replay");
        let idempotent = self.0.key_ttl.request(idempotency_key.0.as_deref(), &tenant, &route, &body.bytes)?;
        let new = body.value.parse(id, Utc::now())?;
        let answer = |replay: &Replay| view(replay).to_json_string().into_bytes();
        let made = replay::create(&self.0.pool, &self.0.keyring, key.actor(), &new, idempotent.as_ref(), answer);
        let view = match made.await? {
            Creation::Now(replay) => view(&replay),
            Creation::Before(answer) => stored_answer(&answer)?,
        };
        let location = format!("/replays/{}", view.id);
        Ok(Begun::Accepted(Json(view), location))
    }

    /// List replays
    ///
    /// The newest first.
    #[oai(path = "/replays", method = "get", operation_id = "list_replays")]
    async fn list(
        &self,
        key: Key<Read>,
        tenant_id: Query<Option<String>>,
        subscription_id: Query<Option<String>>,
        limit: Query<Option<u32>>,
        cursor: Query<Option<String>>,
    ) -> Result<Json<List<ReplayView>>, ApiError> {
        let tenant = key.lists(tenant_id.0.as_deref())?;
        let subscription = key.find_named(&self.0.pool, "subscription_id", subscription_id.0.as_deref()).await?;
        let wanted = Wanted::parse(limit.0, cursor.0.as_deref(), |id: ReplayId| id.0)?;
        let found = replay::list(&self.0.pool, tenant.as_deref(), subscription, wanted.page()).await?;
        Ok(Json(wanted.list(found, |one| one.id, view)))
    }

    /// Get a replay
    #[oai(path = "/replays/:id", method = "get", operation_id = "get_replay")]
    async fn get(&self, key: Key<Read>, id: Path<String>) -> Result<Json<ReplayView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&replay::get(&self.0.pool, id).await?)))
    }

    /// Stop a replay
    ///
    /// No further delivery is made. Those that it has made and that are still waiting are canceled.
    #[oai(path = "/replays/:id/cancel", method = "post", operation_id = "cancel_replay")]
    async fn cancel(&self, key: Key<Manage>, id: Path<String>) -> Result<Json<ReplayView>, ApiError> {
        let id = key.find(&self.0.pool, &id.0).await?;
        Ok(Json(view(&replay::cancel(&self.0.pool, key.actor(), id).await?)))
    }
}

impl ReplayInput {
    fn parse(self, subscription_id: SubscriptionId, now: DateTime<Utc>) -> postrider_core::Result<NewReplay> {
        let mut problems = Problems::default();
        let until = self.until.map_or(now, |until| until.min(now));
        problems.take("since", moment(self.since));
        problems.require(self.since < until, "since", "must be before `until`, and in the past");
        let event_types = problems.take_part("event_types", EventTypePatterns::parse(&self.event_types));
        let mut statuses = Vec::new();
        for (place, word) in self.statuses.iter().enumerate() {
            let status = problems.take(&format!("statuses[{place}]"), word.parse::<ReplayedStatus>());
            statuses.extend(status.filter(|status| !statuses.contains(status)));
        }
        if self.statuses.is_empty() {
            statuses = vec![ReplayedStatus::DeadLetter, ReplayedStatus::Missed];
        }
        let rate_per_second = self.rate_per_second.unwrap_or(RATE_DEFAULT);
        let rate = format!("must be from 1 to {RATE_MAX}");
        problems.require((1..=RATE_MAX).contains(&rate_per_second), "rate_per_second", rate);
        problems.into_result()?;
        let event_types = event_types.expect("it is there, or noted as a problem");
        Ok(NewReplay { subscription_id, since: self.since, until, event_types, statuses, rate_per_second })
    }
}

fn view(replay: &Replay) -> ReplayView {
    ReplayView {
        id: replay.id.to_string(),
        tenant_id: replay.tenant_id.clone(),
        subscription_id: SubscriptionId(replay.subscription_id).to_string(),
        since: replay.since,
        until: replay.until,
        event_types: replay.event_types.to_texts(),
        statuses: replay.statuses.iter().map(ToString::to_string).collect(),
        rate_per_second: replay.rate_per_second.unsigned_abs(),
        state: match replay.state {
            State::Running => ReplayState::Running,
            State::Completed => ReplayState::Completed,
            State::Canceled => ReplayState::Canceled,
        },
        progress: replay.progress,
        examined_count: replay.examined_count.unsigned_abs(),
        replayed_count: replay.replayed_count.unsigned_abs(),
        created_at: replay.created_at,
        finished_at: replay.finished_at,
    }
}
