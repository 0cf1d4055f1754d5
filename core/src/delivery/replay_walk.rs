//! The steps of a replay of a range. One step reads the next rows, makes deliveries of those that were asked for, and
//! stores how far it has come, all in one transaction. If a worker dies in the middle, the replay goes on after the
//! last complete step, so no event is replayed twice and none is left out.
//!
//! Deliveries are read by the subscription's index; where missed events are asked for, the tenant's events follow.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    delivery::replay::{ReplayedStatus, State, Walk, cancel_waiting, stored_statuses},
    event::{
        self,
        audience::{Facts, Interest, wants},
        event_type::{EventType, EventTypePatterns},
        metadata::Metadata,
    },
    id::{DeliveryId, EventId, SubscriptionId},
    page::id_floor,
    queue::{
        self,
        accept::{self, Origin},
        rows::NewDeliveryRow,
    },
    subscription::store::interest,
};

/// Rows that one step reads, at most.
const EXAMINED_PER_STEP_MAX: u16 = 1000;
/// How long a replay rests after one of its steps failed.
const RETRY_AFTER_SECONDS: f64 = 10.0;
/// Milliseconds of work that one step makes due: the shorter, the sooner a cancellation takes effect.
const STEP_MS: i64 = 500;

/// A replay whose next step is due; its row stays locked until the transaction ends.
struct Due {
    id: Uuid,
    tenant_id: String,
    subscription_id: Uuid,
    until: DateTime<Utc>,
    event_types: EventTypePatterns,
    statuses: Vec<ReplayedStatus>,
    rate_per_second: i32,
    walking: Walk,
    position: Uuid,
    now: DateTime<Utc>,
}

struct DueRow {
    id: Uuid,
    to_cancel: Option<Uuid>,
    tenant_id: String,
    subscription_id: Uuid,
    until: DateTime<Utc>,
    event_types: Vec<String>,
    statuses: Vec<String>,
    rate_per_second: i32,
    walking: String,
    position: Uuid,
    now: DateTime<Utc>,
}

impl TryFrom<DueRow> for Due {
    type Error = Error;

    fn try_from(row: DueRow) -> Result<Self> {
        Ok(Self {
            id: row.id,
            tenant_id: row.tenant_id,
            subscription_id: row.subscription_id,
            until: row.until,
            event_types: EventTypePatterns::from_stored(&row.event_types)?,
            statuses: stored_statuses(&row.statuses)?,
            rate_per_second: row.rate_per_second,
            walking: row.walking.parse().map_err(Error::internal)?,
            position: row.position,
            now: row.now,
        })
    }
}

/// The rows that a step has read.
struct Looked {
    /// Events to deliver again, each with the delivery that is replayed; `None` for a missed event.
    chosen: Vec<(Uuid, Option<Uuid>)>,
    examined: usize,
    /// The last row that was read; `None` where there was none.
    position: Option<Uuid>,
    /// Whether no rows are left to read.
    at_end: bool,
}

/// Makes the next step of one replay that is due, if there is one; returns how many deliveries it made. The step of a
/// replay that was canceled cancels deliveries. `pool` is of
/// [`crate::database::Session::FanOut`].
pub async fn step(pool: &PgPool) -> Result<Option<usize>> {
    let mut transaction = pool.begin().await?;
    let due = sqlx::query_as!(
        DueRow,
        r#"SELECT id, tenant_id, subscription_id, until, event_types, statuses, rate_per_second, walking, position,
                  to_cancel, clock_timestamp() AS "now!"
             FROM replays
            WHERE (state = 'running' OR to_cancel IS NOT NULL) AND next_step_at <= clock_timestamp()
            ORDER BY next_step_at LIMIT 1 FOR UPDATE SKIP LOCKED"#
    );
    let Some(due) = due.fetch_optional(&mut *transaction).await? else {
        return Ok(None);
    };
    let id = due.id;
    let gone_on = match (due.to_cancel, Due::try_from(due)) {
        (Some(to_cancel), _) => cancel_waiting(&mut transaction, id, to_cancel).await.map(|()| 0),
        (None, Ok(due)) => go_on(&mut transaction, &due).await,
        (None, Err(error)) => Err(error),
    };
    match gone_on {
        Ok(made) => {
            transaction.commit().await?;
            Ok(Some(made))
        }
        Err(error) => {
            transaction.rollback().await?;
            // The replay rests for a while, because other replays wait behind it.
            sqlx::query!(
                "UPDATE replays SET next_step_at = clock_timestamp() + make_interval(secs => $2) WHERE id = $1",
                id,
                RETRY_AFTER_SECONDS
            )
            .execute(pool)
            .await?;
            Err(error)
        }
    }
}

async fn go_on(transaction: &mut PgConnection, due: &Due) -> Result<usize> {
    // Two replays of one subscription take turns, so that each sees the deliveries that the other has made.
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('replay ' || $1::text, 0))",
        due.subscription_id.to_string()
    )
    .fetch_one(&mut *transaction)
    .await?;
    // The cache is not used here: nobody holds one connection while waiting for another.
    let Some(interest) = interest(transaction, SubscriptionId(due.subscription_id)).await? else {
        finish(transaction, due, State::Canceled).await?;
        return Ok(0);
    };
    let make_max = usize::try_from(i64::from(due.rate_per_second) * STEP_MS / 1000).unwrap_or(1).max(1);
    let looked = match due.walking {
        Walk::Deliveries => look_at_deliveries(transaction, due, make_max).await?,
        Walk::Events => look_at_events(transaction, due, &interest, make_max).await?,
    };
    store_deliveries(transaction, due, &looked.chosen).await?;
    let made = looked.chosen.len();
    let pause =
        Duration::from_secs(1) * u32::try_from(made).unwrap_or(u32::MAX) / due.rate_per_second.unsigned_abs().max(1);
    let next = due.walking.next(&due.statuses).filter(|_| looked.at_end);
    let (walking, position) = match next {
        Some(next) => (next, None),
        None => (due.walking, looked.position),
    };
    sqlx::query!(
        "UPDATE replays
            SET walking = $2, position = coalesce($3, CASE WHEN walking <> $2 THEN uuid_floor(since) ELSE position END),
                examined_count = examined_count + $4, replayed_count = replayed_count + $5,
                next_step_at = clock_timestamp() + make_interval(secs => $6)
          WHERE id = $1",
        due.id,
        walking.as_str(),
        position,
        i64::try_from(looked.examined).unwrap_or(i64::MAX),
        i64::try_from(made).unwrap_or(i64::MAX),
        pause.as_secs_f64(),
    )
    .execute(&mut *transaction)
    .await?;
    if looked.at_end && next.is_none() {
        finish(transaction, due, State::Completed).await?;
    }
    Ok(made)
}

async fn finish(connection: &mut PgConnection, due: &Due, state: State) -> Result<()> {
    sqlx::query!(
        "UPDATE replays SET state = $2::text::replay_state, finished_at = clock_timestamp() WHERE id = $1",
        due.id,
        state.as_str()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads the next deliveries of the subscription that are not themselves replays, one for each event. The event's state
/// with the subscription is the status of its latest delivery, which may be a replay that was not canceled. An event
/// that is gone or has expired is not chosen.
async fn look_at_deliveries(connection: &mut PgConnection, due: &Due, make_max: usize) -> Result<Looked> {
    let statuses: Vec<_> = due.statuses.iter().map(ToString::to_string).collect();
    let rows = sqlx::query!(
        r#"SELECT d.id, d.event_id, e.event_type AS "event_type?", coalesce(l.id, d.id) AS "latest!",
                  (coalesce(l.status, d.status)::text = ANY ($4)
                   AND (e.expires_at IS NULL OR e.expires_at > clock_timestamp())) AS "meant!"
             FROM (SELECT id, event_id, subscription_id, status FROM deliveries
                    WHERE subscription_id = $1 AND id > $2 AND id < $3 AND replay_of IS NULL
                    ORDER BY id LIMIT $5) d
             LEFT JOIN LATERAL (SELECT x.event_type, x.expires_at FROM events x
                                 WHERE x.id = d.event_id OFFSET 0) e ON true
             LEFT JOIN LATERAL (SELECT r.id, r.status FROM deliveries r
                                 WHERE r.event_id = d.event_id AND r.is_replay AND r.subscription_id = d.subscription_id
                                   AND r.status <> 'canceled'
                                 ORDER BY r.id DESC LIMIT 1) l ON true
            ORDER BY d.id"#,
        due.subscription_id,
        due.position,
        id_floor(due.until),
        &statuses,
        i64::from(EXAMINED_PER_STEP_MAX),
    );
    let rows = rows.fetch_all(connection).await?;
    let mut looked = Looked { chosen: Vec::new(), examined: 0, position: None, at_end: false };
    let all = rows.len();
    for row in rows {
        looked.examined += 1;
        looked.position = Some(row.id);
        if row.meant && row.event_type.is_some_and(|event_type| is_of(&due.event_types, &event_type)) {
            looked.chosen.push((row.event_id, Some(row.latest)));
            if looked.chosen.len() == make_max {
                break;
            }
        }
    }
    looked.at_end = looked.examined == all && all < usize::from(EXAMINED_PER_STEP_MAX);
    Ok(looked)
}

/// Reads the tenant's next events, and chooses those that the subscription wants now and has no delivery of.
async fn look_at_events(
    connection: &mut PgConnection,
    due: &Due,
    interest: &Interest,
    make_max: usize,
) -> Result<Looked> {
    let rows = sqlx::query!(
        r#"SELECT e.id, e.event_type, e.metadata AS "metadata: Json<Metadata>",
                  ((e.subscription_id IS NULL OR e.subscription_id = $1)
                   AND NOT e.is_inline
                   AND (e.expires_at IS NULL OR e.expires_at > clock_timestamp())
                   AND NOT EXISTS (SELECT FROM outbox o WHERE o.event_id = e.id)
                   AND NOT EXISTS (SELECT FROM deliveries d
                                    WHERE d.id >= (left(e.id::text, 19) || '8000-000000000000')::uuid
                                      AND d.id <= (left(e.id::text, 19) || 'bfff-ffffffffffff')::uuid
                                      AND d.event_id = e.id AND d.subscription_id = $1)
                   AND NOT EXISTS (SELECT FROM deliveries d
                                    WHERE d.event_id = e.id AND d.is_replay AND d.subscription_id = $1
                                      AND d.status <> 'canceled')) AS "missed!"
             FROM (SELECT id, event_type, metadata, subscription_id, expires_at, is_inline FROM events
                    WHERE tenant_id = $2 AND id > $3 AND id < $4
                    ORDER BY id LIMIT $5) e
            ORDER BY e.id"#,
        due.subscription_id,
        due.tenant_id,
        due.position,
        id_floor(due.until),
        i64::from(EXAMINED_PER_STEP_MAX),
    );
    let rows = rows.fetch_all(&mut *connection).await?;
    let mut looked = Looked { chosen: Vec::new(), examined: 0, position: None, at_end: false };
    let all = rows.len();
    for row in rows {
        looked.examined += 1;
        looked.position = Some(row.id);
        if !row.missed || !is_of(&due.event_types, &row.event_type) {
            continue;
        }
        let event_type: EventType = row.event_type.parse().map_err(Error::internal)?;
        let metadata = row.metadata.map(|metadata| metadata.0).unwrap_or_default();
        // A payload may be large, so it is read only where a filter needs it and every other condition holds.
        let payload = if interest.filters.payload.is_some() {
            match event::payload(&mut *connection, EventId(row.id)).await {
                Ok(payload) => Some(payload),
                // Retention has removed the event a moment ago.
                Err(Error::NotFound(_)) => continue,
                Err(error) => return Err(error),
            }
        } else {
            None
        };
        let bytes = payload.as_ref().map_or(&[][..], |payload| &payload.bytes);
        let content_encoding = payload.as_ref().and_then(|payload| payload.content_encoding.as_ref());
        let facts = Facts::new(&event_type, &metadata, bytes, content_encoding);
        if wants(&interest.event_types, &interest.filters, &facts) {
            looked.chosen.push((row.id, None));
            if looked.chosen.len() == make_max {
                break;
            }
        }
    }
    looked.at_end = looked.examined == all && all < usize::from(EXAMINED_PER_STEP_MAX);
    Ok(looked)
}

/// Makes deliveries, due one after the other at the replay's rate; the workers are woken when the transaction commits.
async fn store_deliveries(connection: &mut PgConnection, due: &Due, chosen: &[(Uuid, Option<Uuid>)]) -> Result<()> {
    if chosen.is_empty() {
        return Ok(());
    }
    let apart = TimeDelta::microseconds(1_000_000 / i64::from(due.rate_per_second).max(1));
    let deliveries = chosen.iter().zip(0..).map(|((event, of), place): (_, i32)| NewDeliveryRow {
        id: DeliveryId::new().0,
        event_id: *event,
        tenant_id: &due.tenant_id,
        subscription_id: Some(due.subscription_id),
        lane_id: due.subscription_id,
        lease_ms: None,
        due_at: Some(due.now + apart * place),
        replay_of: *of,
    });
    accept::store_deliveries(connection, deliveries.collect(), Origin::Replay(Some(due.id))).await?;
    queue::call_workers(connection).await
}

fn is_of(patterns: &EventTypePatterns, event_type: &str) -> bool {
    event_type.parse().is_ok_and(|event_type| patterns.match_any(&event_type))
}
