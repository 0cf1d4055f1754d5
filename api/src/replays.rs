//! Replays: events are delivered again. A range of a subscription's past is replayed by a [job](crate::jobs); what is
//! replayed at once is answered by the ids of the fresh deliveries.

use chrono::{DateTime, Utc};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Header, Path},
    payload::Json,
};
use postrider_core::{
    delivery::job::{
        Action, NewJob, RATE_DEFAULT, RATE_MAX,
        filter::{Filter, MatchedStatus},
    },
    event::event_type::EventTypePatterns,
    id::{DeliveryId, SubscriptionId},
    validation::{Problems, moment},
};
use serde::Deserialize;

use crate::{
    access::auth::{Key, Manage},
    app::{App, Tag},
    jobs::{Begun, begin},
    serve::{
        body::{Input, JsonBody},
        problem::ApiError,
    },
};

/// The route that replays a range.
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

#[OpenApi(tag = "Tag::Jobs")]
impl ReplaysApi {
    /// Replay a range of a subscription's past
    ///
    /// Makes fresh deliveries of what has been, the oldest first and at a rate. How an event stands with the
    /// subscription is told by its latest delivery, replays included. It is a job like those of `POST /jobs`, but by
    /// default it also delivers what the subscription has missed.
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
        begin(&self.0, &key, &new, idempotent.as_ref()).await
    }
}

impl ReplayInput {
    fn parse(self, subscription: SubscriptionId, now: DateTime<Utc>) -> postrider_core::Result<NewJob> {
        let mut problems = Problems::default();
        let until = self.until.map_or(now, |until| until.min(now));
        problems.take("since", moment(self.since));
        problems.require(self.since < until, "since", "must be before `until`, and in the past");
        let event_types = problems.take_part("event_types", EventTypePatterns::parse(&self.event_types));
        let mut statuses = Vec::new();
        for (place, word) in self.statuses.iter().enumerate() {
            let status = word.parse::<MatchedStatus>().ok().filter(|one| Action::Replay.statuses().contains(one));
            let status = status.ok_or_else(|| "must be succeeded, dead_letter, canceled or missed".to_owned());
            let status = problems.take(&format!("statuses[{place}]"), status);
            statuses.extend(status.filter(|status| !statuses.contains(status)));
        }
        if self.statuses.is_empty() {
            statuses = vec![MatchedStatus::DeadLetter, MatchedStatus::Missed];
        }
        let rate_per_second = self.rate_per_second.unwrap_or(RATE_DEFAULT);
        let rate = format!("must be from 1 to {RATE_MAX}");
        problems.require((1..=RATE_MAX).contains(&rate_per_second), "rate_per_second", rate);
        problems.into_result()?;
        let filter = Filter {
            subscription: Some(subscription),
            statuses,
            event_types: event_types.unwrap_or_default(),
            since: Some(self.since),
            ..Filter::all(Action::Replay, until)
        };
        Ok(NewJob { action: Action::Replay, filter, rate_per_second: Some(rate_per_second) })
    }
}
