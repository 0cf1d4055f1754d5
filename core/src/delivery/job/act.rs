//! What a job does with the deliveries that it has chosen. Each function changes what can be changed at this moment,
//! waits for nobody who is changing the same row, and tells how many it has changed. It runs in the transaction of the
//! caller.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::{
    Result,
    delivery::{
        self,
        job::{Action, look::Chosen},
    },
    id::{DeliveryId, JobId},
    queue::{
        self,
        accept::{self, Origin},
        rows::NewDeliveryRow,
    },
    subscription::settings::LEASE_MARGIN_MS,
};

/// For whom replays are made, and how far apart they are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) job: JobId,
    pub(crate) rate_per_second: Option<i32>,
    /// The present time by the database's clock.
    pub(crate) now: DateTime<Utc>,
}

/// Does it with the chosen deliveries; returns with how many.
pub(crate) async fn act(connection: &mut PgConnection, action: Action, chosen: &[Chosen], pace: Pace) -> Result<usize> {
    if chosen.is_empty() {
        return Ok(0);
    }
    let ids: Vec<Uuid> = chosen.iter().map(|one| one.id).collect();
    match action {
        Action::Retry => retry(connection, &ids).await,
        Action::Cancel => cancel(connection, &ids).await,
        Action::Replay => replay(connection, chosen, pace).await,
        Action::Resolve => resolve(connection, &ids).await,
        Action::Purge => purge(connection, &ids).await,
    }
}

/// Makes pending deliveries due, and gives finished ones a fresh round of attempts. Unlike a retry of one delivery, it
/// leaves receivers alone that have asked for a rest, and circuits that are open: many are not sent at once to one that
/// is in trouble.
async fn retry(connection: &mut PgConnection, ids: &[Uuid]) -> Result<usize> {
    let hastened = sqlx::query_scalar!(
        "UPDATE queue SET due_at = least(due_at, clock_timestamp())
          WHERE delivery_id IN (SELECT q.delivery_id FROM queue q
                                 WHERE q.delivery_id = ANY ($1)
                                   AND (q.lease_token IS NULL OR q.due_at <= clock_timestamp())
                                   FOR UPDATE SKIP LOCKED)
         RETURNING delivery_id",
        ids
    );
    let mut due: Vec<Uuid> = hastened.fetch_all(&mut *connection).await?;
    due.extend(delivery::put_back(connection, ids).await?);
    if !due.is_empty() {
        arm_lanes_of(connection, &due).await?;
    }
    Ok(due.len())
}

/// Makes the lanes of these queued deliveries due, in the order in which lanes are locked. A lane that somebody else
/// has locked is noted, and a worker arms it soon. The workers are woken when the transaction commits.
async fn arm_lanes_of(connection: &mut PgConnection, ids: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "WITH armed AS MATERIALIZED (
             SELECT l.lane_id, l.lease_ms,
                    arm_lane(l.lane_id, NULL, clock_timestamp(), l.lease_ms, false, interval '0') AS is_armed
               FROM (SELECT DISTINCT q.lane_id, 2 * x.timeout_ms + $2 AS lease_ms
                       FROM queue q LEFT JOIN inline_deliveries x ON x.delivery_id = q.delivery_id
                      WHERE q.delivery_id = ANY ($1) ORDER BY q.lane_id) l)
         INSERT INTO lanes_to_arm (lane_id, lease_ms, moment, is_scheduled)
         SELECT lane_id, lease_ms, clock_timestamp(), false FROM armed WHERE is_armed IS NULL",
        ids,
        LEASE_MARGIN_MS,
    )
    .execute(&mut *connection)
    .await?;
    queue::call_workers(connection).await
}

/// Cancels those of these deliveries that wait and that no worker is attempting.
pub(crate) async fn cancel(connection: &mut PgConnection, ids: &[Uuid]) -> Result<usize> {
    // The queue row is locked before the delivery's record, as everywhere.
    let canceled = sqlx::query!(
        "DELETE FROM queue
          WHERE delivery_id IN (SELECT q.delivery_id FROM queue q
                                 WHERE q.delivery_id = ANY ($1)
                                   AND (q.lease_token IS NULL OR q.due_at <= clock_timestamp())
                                   FOR UPDATE SKIP LOCKED)
         RETURNING delivery_id, lane_id",
        ids
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
    Ok(canceled.len())
}

/// Makes deliveries, due one after the other at the job's rate; the workers are woken when the transaction commits. A
/// dead letter that is replayed is marked resolved.
async fn replay(connection: &mut PgConnection, chosen: &[Chosen], pace: Pace) -> Result<usize> {
    let replayed: Vec<Uuid> = chosen.iter().filter_map(|one| one.replay_of).collect();
    // Dead letters are locked before lanes, in the order that everybody uses.
    resolve(connection, &replayed).await?;
    let rate = pace.rate_per_second.map_or(i64::MAX, i64::from);
    let apart = TimeDelta::microseconds(1_000_000 / rate.max(1));
    let deliveries = chosen.iter().zip(0..).filter_map(|(one, place): (_, i32)| {
        let subscription = one.subscription_id?;
        Some(NewDeliveryRow {
            id: DeliveryId::new().0,
            event_id: one.event_id,
            tenant_id: &one.tenant_id,
            subscription_id: Some(subscription),
            lane_id: subscription,
            lease_ms: None,
            due_at: Some(pace.now + apart * place),
            replay_of: one.replay_of,
        })
    });
    let deliveries: Vec<_> = deliveries.collect();
    let made = deliveries.len();
    accept::store_deliveries(connection, deliveries, Origin::Replay(Some(pace.job.0))).await?;
    queue::call_workers(connection).await?;
    Ok(made)
}

async fn resolve(connection: &mut PgConnection, ids: &[Uuid]) -> Result<usize> {
    let resolved = sqlx::query!(
        "UPDATE dead_letters SET resolved_at = clock_timestamp()
          WHERE delivery_id IN (SELECT x.delivery_id FROM dead_letters x
                                 WHERE x.delivery_id = ANY ($1) AND x.resolved_at IS NULL
                                   FOR UPDATE SKIP LOCKED)",
        ids
    );
    Ok(usize::try_from(resolved.execute(connection).await?.rows_affected()).unwrap_or(usize::MAX))
}

async fn purge(connection: &mut PgConnection, ids: &[Uuid]) -> Result<usize> {
    let purged = sqlx::query!(
        "DELETE FROM dead_letters
          WHERE delivery_id IN (SELECT x.delivery_id FROM dead_letters x
                                 WHERE x.delivery_id = ANY ($1) FOR UPDATE SKIP LOCKED)",
        ids
    );
    Ok(usize::try_from(purged.execute(connection).await?.rows_affected()).unwrap_or(usize::MAX))
}
