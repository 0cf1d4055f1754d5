//! Replays: a person asks for an event to be delivered again. A replay is a new delivery that refers to the old one;
//! the old one stays as it is. A replay of one delivery or one event is made at once ([`crate::delivery::replay_now`]).
//! A replay of a subscription's time range is an object with progress, a rate and an end. It is defined here, and
//! [`crate::delivery::replay_walk`] makes its steps.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    access::audit::{self, Actor, NewEntry},
    event::{
        event_type::EventTypePatterns,
        idempotency::{self, Creation, IdempotentRequest},
    },
    id::{ReplayId, SubscriptionId},
    page::{Page, Span, id_floor},
    queue,
    text_enum::text_enum,
    trust::seal::Keyring,
};

/// Deliveries a second that a replay may make, at most.
pub const RATE_MAX: u32 = 1000;
/// Deliveries a second that a replay makes where no rate is given.
pub const RATE_DEFAULT: u32 = 100;
/// Deliveries that one transaction cancels, at most, when a replay is canceled.
const CANCELED_AT_ONCE_MAX: usize = 5_000;
/// How long a request goes on canceling a replay's deliveries; workers do the rest.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(3);

text_enum! {
    /// The state of an event with the subscription, by which a replay chooses events.
    pub enum ReplayedStatus {
        /// Its delivery succeeded.
        Succeeded = "succeeded",
        /// Its delivery became a dead letter.
        DeadLetter = "dead_letter",
        /// Its delivery was canceled.
        Canceled = "canceled",
        /// The subscription wants the event, but there is no delivery: the event was accepted before the subscription
        /// existed, or while it was disabled.
        Missed = "missed",
    }
}

text_enum! {
    /// The rows that a replay is reading.
    pub enum Walk {
        /// The subscription's deliveries.
        Deliveries = "deliveries",
        /// The tenant's events, for those that the subscription has missed.
        Events = "events",
    }
}

impl Walk {
    /// The rows that a replay of these statuses reads first. Where it asks for missed events and others, the events
    /// come after the deliveries.
    fn first(statuses: &[ReplayedStatus]) -> Self {
        if statuses == [ReplayedStatus::Missed] { Self::Events } else { Self::Deliveries }
    }

    /// The rows that a replay of these statuses reads after these; `None` where it is at its end.
    pub(crate) fn next(self, statuses: &[ReplayedStatus]) -> Option<Self> {
        match self {
            Self::Deliveries if statuses.contains(&ReplayedStatus::Missed) => Some(Self::Events),
            Self::Deliveries | Self::Events => None,
        }
    }
}

/// Parses statuses that were valid when they were stored.
pub(crate) fn stored_statuses(words: &[String]) -> Result<Vec<ReplayedStatus>> {
    words.iter().map(|word| word.parse().map_err(|why: String| Error::internal(why))).collect()
}

text_enum! {
    /// How far a replay has come.
    pub enum State {
        /// Its next step is to come.
        Running = "running",
        /// Its whole range has been read.
        Completed = "completed",
        /// Somebody has canceled it, or its subscription was deleted or disabled.
        Canceled = "canceled",
    }
}

/// A replay that is about to be created.
#[derive(Clone, Debug)]
pub struct NewReplay {
    /// The subscription to which events are delivered again.
    pub subscription_id: SubscriptionId,
    /// The beginning of the range, which is part of it.
    pub since: DateTime<Utc>,
    /// The end of the range, which is not part of it.
    pub until: DateTime<Utc>,
    /// Only events whose types match one of these patterns; an empty list means every type.
    pub event_types: EventTypePatterns,
    /// Only events in one of these states with the subscription; never empty.
    pub statuses: Vec<ReplayedStatus>,
    /// Deliveries a second that the replay makes, at most.
    pub rate_per_second: u32,
}

/// A replay of a range, and how far it has come.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Identifies the replay; its deliveries refer to it.
    pub id: ReplayId,
    /// The tenant to which the replay belongs.
    pub tenant_id: String,
    /// The subscription to which events are delivered again.
    pub subscription_id: Uuid,
    /// The beginning of the range, which is part of it.
    pub since: DateTime<Utc>,
    /// The end of the range, which is not part of it.
    pub until: DateTime<Utc>,
    /// Only events whose types match one of these patterns; an empty list means every type.
    pub event_types: EventTypePatterns,
    /// Only events in one of these states with the subscription.
    pub statuses: Vec<ReplayedStatus>,
    /// Deliveries a second that the replay makes, at most.
    pub rate_per_second: i32,
    /// Whether the replay goes on.
    pub state: State,
    /// Deliveries and events that the replay has read.
    pub examined_count: i64,
    /// Deliveries that the replay has made.
    pub replayed_count: i64,
    /// The share of the range that has been read, from 0 to 1.
    pub progress: f64,
    /// When the replay was created.
    pub created_at: DateTime<Utc>,
    /// When the replay was completed or canceled.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Creates a replay of a range; a worker makes its first step within a second.
///
/// # Errors
/// A conflict where the subscription is disabled.
pub async fn create(
    pool: &PgPool,
    keyring: &Keyring,
    actor: Actor,
    new: &NewReplay,
    idempotent: Option<&IdempotentRequest>,
    answer: impl Fn(&Replay) -> Vec<u8>,
) -> Result<Creation<Replay>> {
    let mut transaction = pool.begin().await?;
    if let Some(answer) = idempotency::begin(&mut transaction, keyring, idempotent).await? {
        return Ok(Creation::Before(answer));
    }
    let subscription = sqlx::query!(
        r#"SELECT tenant_id, state = 'disabled' AS "disabled!"
             FROM subscriptions WHERE id = $1 AND deleted_at IS NULL"#,
        new.subscription_id.0
    );
    let subscription = subscription.fetch_optional(&mut *transaction).await?.ok_or(Error::NotFound("subscription"))?;
    if subscription.disabled {
        return Err(Error::Conflict("the subscription is disabled; enable it first".to_owned()));
    }
    let id = ReplayId::new();
    let statuses: Vec<_> = new.statuses.iter().map(ToString::to_string).collect();
    sqlx::query!(
        "INSERT INTO replays (id, tenant_id, subscription_id, since, until, event_types, statuses, rate_per_second,
                              walking, position)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        id.0,
        subscription.tenant_id,
        new.subscription_id.0,
        new.since,
        new.until,
        &new.event_types.to_texts(),
        &statuses,
        i32::try_from(new.rate_per_second).unwrap_or(i32::MAX),
        Walk::first(&new.statuses).as_str(),
        id_floor(new.since),
    )
    .execute(&mut *transaction)
    .await?;
    let replay = fetch(&mut transaction, id).await?;
    note(&mut transaction, actor, "replay.created", &replay).await?;
    idempotency::finish(&mut transaction, keyring, idempotent, || answer(&replay)).await?;
    transaction.commit().await?;
    Ok(Creation::Now(replay))
}

/// Reads one replay.
pub async fn get(pool: &PgPool, id: ReplayId) -> Result<Replay> {
    fetch(&mut *pool.acquire().await?, id).await
}

/// Lists replays, the newest first.
pub async fn list(
    pool: &PgPool,
    tenant_id: Option<&str>,
    subscription: Option<SubscriptionId>,
    page: Page,
) -> Result<Vec<Replay>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM replays
          WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
            AND ($3::uuid IS NULL OR id < $3)
          ORDER BY id DESC
          LIMIT $4",
        tenant_id,
        subscription.map(|id| id.0),
        page.before,
        page.limit
    );
    let mut connection = pool.acquire().await?;
    let ids = ids.fetch_all(&mut *connection).await?;
    fetch_many(&mut connection, &ids).await
}

/// Cancels a replay: it makes no further delivery, and those that it has made and that still wait are canceled. If they
/// are too many for one request, workers cancel the rest. For a replay that has ended, nothing changes.
pub async fn cancel(pool: &PgPool, actor: Actor, id: ReplayId) -> Result<Replay> {
    let started = Instant::now();
    let mut transaction = pool.begin().await?;
    let canceled = sqlx::query!(
        "UPDATE replays
            SET state = 'canceled', finished_at = clock_timestamp(), to_cancel = $2, next_step_at = clock_timestamp()
          WHERE id = $1 AND state = 'running'",
        id.0,
        Uuid::max()
    );
    let canceled = canceled.execute(&mut *transaction).await?.rows_affected() == 1;
    let replay = fetch(&mut transaction, id).await?;
    if canceled {
        note(&mut transaction, actor, "replay.canceled", &replay).await?;
    }
    transaction.commit().await?;
    while started.elapsed() < CANCEL_TIME_MAX {
        let mut transaction = pool.begin().await?;
        let to_cancel = sqlx::query_scalar!(
            r#"SELECT to_cancel AS "to_cancel!" FROM replays
                WHERE id = $1 AND to_cancel IS NOT NULL FOR UPDATE SKIP LOCKED"#,
            id.0
        );
        let Some(to_cancel) = to_cancel.fetch_optional(&mut *transaction).await? else { break };
        cancel_waiting(&mut transaction, id.0, to_cancel).await?;
        transaction.commit().await?;
    }
    Ok(replay)
}

/// Cancels those of the replay's next deliveries before `to_cancel` that still wait, the newest first, and stores how
/// far this has come. The replay's row must be locked.
pub(crate) async fn cancel_waiting(connection: &mut PgConnection, id: Uuid, to_cancel: Uuid) -> Result<()> {
    let next = sqlx::query_scalar!(
        "SELECT id FROM deliveries WHERE replay_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        id,
        to_cancel,
        i64::try_from(CANCELED_AT_ONCE_MAX).unwrap_or(i64::MAX)
    );
    let next: Vec<Uuid> = next.fetch_all(&mut *connection).await?;
    // The queue row is locked before the delivery's record, as everywhere.
    let canceled = sqlx::query!(
        "DELETE FROM queue
          WHERE delivery_id IN (SELECT q.delivery_id FROM queue q
                                 WHERE q.delivery_id = ANY ($1)
                                   AND (q.lease_token IS NULL OR q.due_at <= clock_timestamp())
                                   FOR UPDATE SKIP LOCKED)
         RETURNING delivery_id, lane_id",
        &next
    );
    let canceled = canceled.fetch_all(&mut *connection).await?;
    let lanes: Vec<_> = canceled.iter().map(|row| row.lane_id).collect();
    let canceled: Vec<_> = canceled.iter().map(|row| row.delivery_id).collect();
    sqlx::query!(
        "UPDATE deliveries SET status = 'canceled', finished_at = clock_timestamp() WHERE id = ANY ($1)",
        &canceled
    )
    .execute(&mut *connection)
    .await?;
    queue::go_on(connection, &lanes).await?;
    let is_last = next.len() < CANCELED_AT_ONCE_MAX;
    let last = next.last().filter(|_| !is_last);
    sqlx::query!("UPDATE replays SET to_cancel = $2 WHERE id = $1", id, last).execute(connection).await?;
    Ok(())
}

async fn note(connection: &mut PgConnection, actor: Actor, action: &'static str, replay: &Replay) -> Result<()> {
    let statuses: Vec<_> = replay.statuses.iter().map(|status| status.as_str()).collect();
    let after = serde_json::json!({
        "subscription_id": SubscriptionId(replay.subscription_id).to_string(),
        "since": replay.since, "until": replay.until,
        "event_types": replay.event_types.to_texts(), "statuses": statuses,
        "rate_per_second": replay.rate_per_second, "state": replay.state.as_str(),
    });
    let (tenant_id, target_id) = (Some(replay.tenant_id.as_str()), replay.id.to_string());
    audit::record(connection, NewEntry { tenant_id, actor, action, target_id, before: None, after: Some(after) }).await
}

async fn fetch(connection: &mut PgConnection, id: ReplayId) -> Result<Replay> {
    fetch_many(connection, &[id.0]).await?.pop().ok_or(Error::NotFound("replay"))
}

async fn fetch_many(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Replay>> {
    let rows = sqlx::query!(
        r#"SELECT id, tenant_id, subscription_id, since, until, event_types, statuses, rate_per_second,
                  state::text AS "state!", walking, position, examined_count, replayed_count, created_at, finished_at
             FROM replays WHERE id = ANY ($1) ORDER BY id DESC LIMIT 1000"#,
        ids
    );
    let rows = rows.fetch_all(connection).await?.into_iter().map(|row| {
        let state = row.state.parse().map_err(Error::internal)?;
        let walking = row.walking.parse().map_err(Error::internal)?;
        let statuses = stored_statuses(&row.statuses)?;
        Ok(Replay {
            id: ReplayId(row.id),
            tenant_id: row.tenant_id,
            subscription_id: row.subscription_id,
            since: row.since,
            until: row.until,
            event_types: EventTypePatterns::from_stored(&row.event_types)?,
            rate_per_second: row.rate_per_second,
            state,
            examined_count: row.examined_count,
            replayed_count: row.replayed_count,
            progress: progress(state, &statuses, walking, row.position, (row.since, row.until)),
            statuses,
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    });
    rows.collect()
}

/// The share of the range that has been read. Where both deliveries and events are read, each counts for a half.
fn progress(
    state: State,
    statuses: &[ReplayedStatus],
    walking: Walk,
    position: Uuid,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
) -> f64 {
    if state == State::Completed {
        return 1.0;
    }
    let span = Span { since: Some(since), until: Some(until) };
    let (Some(first), Some(end)) = span.ids() else { return 0.0 };
    // Whole seconds since 1970, which fit into 32 bits.
    let seconds = |id: Uuid| f64::from(u32::try_from((id.as_u128() >> 80) / 1000).unwrap_or(u32::MAX));
    let walked = ((seconds(position) - seconds(first)) / (seconds(end) - seconds(first)).max(1.0)).clamp(0.0, 1.0);
    match (walking, Walk::first(statuses).next(statuses)) {
        (Walk::Deliveries | Walk::Events, None) => walked,
        (Walk::Deliveries, Some(_)) => walked / 2.0,
        (Walk::Events, Some(_)) => 0.5 + walked / 2.0,
    }
}
