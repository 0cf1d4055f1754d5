//! The steps of emitters. A step takes one emitter that is due, makes the events that are due by now, and stores them
//! together with how far the emitter has come, in one transaction. Until then its next step is put off by a lease, so
//! that other workers leave it alone; if the worker dies, another goes on when the lease is over. A worker that was too
//! slow finds that the count is not what it has read, and stores nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    accept::{
        event_input::{EventInput, Rules},
        publish::fan_out,
        sample::addressed_to,
    },
    emitter::{
        METADATA_KEY, Status,
        schedule::{Due, Rate, Schedule},
        template::{Filling, Template},
    },
    event::{CONTENT_TYPE_JSON, new_event::NewEvent},
    id::{EmitterId, SubscriptionId},
    queue::accept::{Atomicity, LeftAlone, Notification, accept, left_alone},
    subscription::{Subscription, cache::SubscriptionCache},
    tally::AcceptedEvent,
};

/// For how long a step keeps other workers away from its emitter.
const LEASE_SECONDS: f64 = 3.0;
/// How long an emitter rests after one of its steps failed.
const RETRY_AFTER_SECONDS: f64 = 5.0;
/// Deliveries after which a step makes no further event.
const DELIVERIES_PER_STEP: usize = 2_000;

/// The result of looking for an emitter that is due.
#[derive(Debug)]
pub enum Step {
    /// One was due, and these events were stored.
    Made(Emission),
    /// None is due; the next one will be after this time. `None` where no emitter is running.
    NoneDue(Option<Duration>),
}

/// The events that a step has stored.
#[derive(Clone, Debug, Default)]
pub struct Emission {
    /// The events.
    pub accepted: Vec<AcceptedEvent>,
    /// Lanes that the step armed; their workers still need a wake-up.
    pub armed: Vec<Uuid>,
    /// Lanes that the step left alone.
    pub left_alone: LeftAlone,
}

/// An emitter whose step this worker has leased.
struct Leased {
    id: EmitterId,
    tenant_id: String,
    subscription_id: Option<SubscriptionId>,
    event_type: String,
    template: Template,
    schedule: Schedule,
    emitted: i64,
    skipped: i64,
    now: DateTime<Utc>,
}

/// How an emitter stands after a step.
struct After {
    emitted: i64,
    skipped: i64,
    status: Status,
    next_step_at: DateTime<Utc>,
    error: Option<&'static str>,
}

/// Makes the step of one emitter that is due, if there is one. A step that fails is noted with its emitter and tried
/// again after a while. `pool` is of [`crate::database::Session::FanOut`].
///
/// # Errors
/// When the database is away.
pub async fn step(pool: &PgPool, cache: &SubscriptionCache) -> Result<Step> {
    let Some((id, leased)) = lease(pool).await? else {
        return Ok(Step::NoneDue(next_due(pool).await?));
    };
    let made = match leased {
        Ok(leased) => go_on(pool, cache, &leased).await,
        Err(error) => Err(error),
    };
    match made {
        Ok(emission) => Ok(Step::Made(emission)),
        Err(error) => {
            tracing::warn!(?error, emitter_id = %EmitterId(id), "a step of an emitter failed; it is tried again later");
            sqlx::query!(
                "UPDATE emitters
                    SET last_error = $2, last_error_at = clock_timestamp(),
                        next_step_at = clock_timestamp() + make_interval(secs => $3)
                  WHERE id = $1 AND status = 'running'",
                id,
                error.to_string(),
                RETRY_AFTER_SECONDS
            )
            .execute(pool)
            .await?;
            Ok(Step::Made(Emission::default()))
        }
    }
}

/// Takes the emitter that has been due longest, and keeps other workers away from it for a while.
async fn lease(pool: &PgPool) -> Result<Option<(Uuid, Result<Leased>)>> {
    let row = sqlx::query!(
        r#"UPDATE emitters SET next_step_at = clock_timestamp() + make_interval(secs => $1)
            WHERE id = (SELECT id FROM emitters
                         WHERE status = 'running' AND next_step_at <= clock_timestamp()
                         ORDER BY next_step_at LIMIT 1 FOR UPDATE SKIP LOCKED)
           RETURNING id, tenant_id, subscription_id, event_type, template, rate_per_second, emitted, skipped,
                     started_at, ends_at, clock_timestamp() AS "now!""#,
        LEASE_SECONDS
    );
    let Some(row) = row.fetch_optional(pool).await? else { return Ok(None) };
    let rate = Rate::parse(row.rate_per_second).map_err(Error::internal);
    let template = Template::from_stored(&row.template).map_err(Error::internal);
    let leased = rate.and_then(|rate| {
        Ok(Leased {
            id: EmitterId(row.id),
            tenant_id: row.tenant_id,
            subscription_id: row.subscription_id.map(SubscriptionId),
            event_type: row.event_type,
            template: template?,
            schedule: Schedule { rate, started_at: row.started_at, ends_at: row.ends_at },
            emitted: row.emitted,
            skipped: row.skipped,
            now: row.now,
        })
    });
    Ok(Some((row.id, leased)))
}

/// How long it is until the next step is due.
async fn next_due(pool: &PgPool) -> Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        "SELECT extract(epoch FROM min(next_step_at) - clock_timestamp())::float8 FROM emitters
          WHERE status = 'running'"
    );
    let seconds = seconds.fetch_one(pool).await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

async fn go_on(pool: &PgPool, cache: &SubscriptionCache, leased: &Leased) -> Result<Emission> {
    // The cache is asked before the transaction begins, because nobody holds one connection while waiting for another.
    let to = match leased.subscription_id {
        Some(id) => match cache.get(id).await? {
            Some(subscription) => Some(subscription),
            None => return store(pool, leased, &[], leased.without_subscription()).await,
        },
        None => None,
    };
    let Due { skip, emit } = leased.schedule.due(leased.emitted + leased.skipped, leased.now);
    let events = leased.events(cache, to.as_deref(), emit).await?;
    let made = i64::try_from(events.len()).unwrap_or(i64::MAX);
    store(pool, leased, &events, leased.after(made, skip)).await
}

impl Leased {
    /// The next events with their deliveries, at most so many.
    async fn events(&self, cache: &SubscriptionCache, to: Option<&Subscription>, max: i64) -> Result<Vec<NewEvent>> {
        let mut deliveries = 0;
        let mut events = Vec::new();
        for number in 1..=max {
            let payload = self.template.fill(Filling::new(self.emitted + number, self.now));
            let input = EventInput {
                event_type: Some(self.event_type.clone()),
                metadata: [(METADATA_KEY.to_owned(), self.id.to_string())].into(),
                ..EventInput::new(self.tenant_id.clone(), CONTENT_TYPE_JSON.to_owned(), payload)
            };
            // How long a payload may be was checked when the emitter was started.
            let rules = Rules { payload_bytes_max: usize::MAX, now: self.now, is_repeated: false };
            let event = if let Some(subscription) = to {
                addressed_to(subscription, input, rules)?
            } else {
                let mut event = input.parse(rules)?;
                fan_out(cache, std::slice::from_mut(&mut event)).await?;
                event
            };
            deliveries += event.deliveries.len();
            events.push(event);
            if deliveries >= DELIVERIES_PER_STEP {
                break;
            }
        }
        Ok(events)
    }

    fn after(&self, made: i64, skip: i64) -> After {
        let (emitted, skipped) = (self.emitted + made, self.skipped + skip);
        let next = self.schedule.next_step(emitted + skipped, self.now);
        let status = if next.is_some() { Status::Running } else { Status::Ended };
        After { emitted, skipped, status, next_step_at: next.unwrap_or(self.now), error: None }
    }

    fn without_subscription(&self) -> After {
        let error = Some("its subscription was deleted");
        let (emitted, skipped) = (self.emitted, self.skipped);
        After { emitted, skipped, status: Status::Stopped, next_step_at: self.now, error }
    }
}

/// Stores the events and how far the emitter has come, or nothing where somebody has stopped it meanwhile or another
/// worker has gone on with it.
async fn store(pool: &PgPool, leased: &Leased, events: &[NewEvent], after: After) -> Result<Emission> {
    let mut transaction = pool.begin().await?;
    let moved = sqlx::query!(
        "UPDATE emitters
            SET emitted = $4, skipped = $5, status = $6, next_step_at = $7,
                finished_at = CASE WHEN $6 <> 'running' THEN clock_timestamp() END,
                last_error = coalesce($8, last_error),
                last_error_at = CASE WHEN $8::text IS NULL THEN last_error_at ELSE clock_timestamp() END
          WHERE id = $1 AND status = 'running' AND emitted = $2 AND skipped = $3",
        leased.id.0,
        leased.emitted,
        leased.skipped,
        after.emitted,
        after.skipped,
        after.status.as_str(),
        after.next_step_at,
        after.error,
    );
    if moved.execute(&mut *transaction).await?.rows_affected() == 0 {
        transaction.rollback().await?;
        return Ok(Emission::default());
    }
    let events: Vec<_> = events.iter().collect();
    let armed = if events.is_empty() {
        Vec::new()
    } else {
        accept(&mut *transaction, &events, Atomicity::PerEvent, 0, Notification::Afterwards).await?.armed
    };
    transaction.commit().await?;
    Ok(Emission {
        accepted: events.iter().map(|event| event.counted()).collect(),
        left_alone: left_alone(&events, &armed),
        armed,
    })
}
