//! The steps of jobs. One step reads the next rows, does something with those that match, and stores how far it has
//! come, all in one transaction. If a worker dies in the middle, the job goes on after the last complete step, so no
//! delivery is acted on twice and none is left out.
//!
//! A row that the database refuses to change does not stop a job: the step is made again with fewer and fewer
//! deliveries, until the one that fails is alone. It is then counted and passed.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{Connection, PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    delivery::job::{
        Action, State, Walk,
        act::{Pace, act},
        cancel_made,
        filter::{Filter, StoredFilter},
        look::{Bounds, Looked, ROWS_PER_LOOK_MAX, look},
    },
    event::audience::Interest,
    id::JobId,
    subscription::store::interest,
};

/// How long a job rests after one of its steps failed through no fault of a row.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// How long a replay waits for another one that reads the same deliveries.
const TURN_AFTER: Duration = Duration::from_millis(100);
/// Milliseconds of work that one step makes due: the shorter, the sooner a cancellation takes effect.
const STEP_MS: i64 = 500;
/// By how much the next step is smaller after one that failed, and larger after one that did not.
const SHRINK: usize = 10;

/// A job whose next step is due; its row stays locked until the transaction ends.
struct Due {
    id: JobId,
    action: Action,
    filter: Filter,
    rate_per_second: Option<i32>,
    walking: Walk,
    position: Uuid,
    at_once_max: usize,
    now: DateTime<Utc>,
}

struct DueRow {
    id: Uuid,
    to_cancel: Option<Uuid>,
    action: String,
    filter: Json<StoredFilter>,
    rate_per_second: Option<i32>,
    walking: String,
    position: Uuid,
    at_once_max: i32,
    now: DateTime<Utc>,
}

impl TryFrom<DueRow> for Due {
    type Error = Error;

    fn try_from(row: DueRow) -> Result<Self> {
        Ok(Self {
            id: JobId(row.id),
            action: row.action.parse().map_err(Error::internal)?,
            filter: row.filter.0.try_into()?,
            rate_per_second: row.rate_per_second,
            walking: row.walking.parse().map_err(Error::internal)?,
            position: row.position,
            at_once_max: usize::try_from(row.at_once_max).unwrap_or(1).max(1),
            now: row.now,
        })
    }
}

/// What a step has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stepped {
    /// What the job does.
    pub action: Action,
    /// With how many deliveries it was done.
    pub done: usize,
}

/// Makes the next step of one job that is due, if there is one. The step of a replay that was canceled cancels
/// deliveries. `pool` is of [`crate::database::Session::FanOut`].
pub async fn step(pool: &PgPool) -> Result<Option<Stepped>> {
    let mut transaction = pool.begin().await?;
    // Filters differ widely, so each statement is planned for its own.
    sqlx::query_scalar!("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
        .fetch_one(&mut *transaction)
        .await?;
    let due = sqlx::query_as!(
        DueRow,
        r#"SELECT id, action::text AS "action!", filter AS "filter: Json<StoredFilter>", rate_per_second, walking,
                  position, at_once_max, to_cancel, clock_timestamp() AS "now!"
             FROM jobs
            WHERE (state = 'running' OR to_cancel IS NOT NULL) AND next_step_at <= clock_timestamp()
            ORDER BY next_step_at LIMIT 1 FOR UPDATE SKIP LOCKED"#
    );
    let Some(due) = due.fetch_optional(&mut *transaction).await? else {
        return Ok(None);
    };
    let id = due.id;
    let gone_on = match (due.to_cancel, Due::try_from(due)) {
        (Some(to_cancel), _) => {
            let canceled = cancel_made(&mut transaction, id, to_cancel).await;
            canceled.map(|()| Stepped { action: Action::Replay, done: 0 })
        }
        (None, Ok(due)) => go_on(&mut transaction, &due).await,
        (None, Err(error)) => Err(error),
    };
    match gone_on {
        Ok(stepped) => {
            transaction.commit().await?;
            Ok(Some(stepped))
        }
        Err(error) => {
            transaction.rollback().await?;
            // The job rests for a while, because other jobs wait behind it. Its next step is smaller, in case that this
            // one took too long.
            sqlx::query!(
                "UPDATE jobs SET next_step_at = clock_timestamp() + make_interval(secs => $2),
                                 at_once_max = greatest(at_once_max / $3, 1)
                  WHERE id = $1",
                id,
                RETRY_AFTER.as_secs_f64(),
                i32::try_from(SHRINK).unwrap_or(1)
            )
            .execute(pool)
            .await?;
            Err(error)
        }
    }
}

async fn go_on(connection: &mut PgConnection, due: &Due) -> Result<Stepped> {
    let stepped = |done| Stepped { action: due.action, done };
    let mut wanted: Option<Interest> = None;
    if due.action == Action::Replay {
        if !takes_its_turn(connection, &due.filter).await? {
            let update = sqlx::query!(
                "UPDATE jobs SET next_step_at = clock_timestamp() + make_interval(secs => $2) WHERE id = $1",
                due.id.0,
                TURN_AFTER.as_secs_f64()
            );
            update.execute(connection).await?;
            return Ok(stepped(0));
        }
        if let Some(subscription) = due.filter.subscription {
            // The cache is not used here: nobody holds one connection while waiting for another.
            wanted = interest(connection, subscription).await?;
            if wanted.is_none() {
                finish(connection, due, State::Canceled).await?;
                return Ok(stepped(0));
            }
        }
    }
    let bounds = Bounds { rows: ROWS_PER_LOOK_MAX, chosen: due.at_once_max.min(made_at_once(due.rate_per_second)) };
    let looked =
        look(connection, due.action, &due.filter, wanted.as_ref(), (due.walking, due.position), bounds).await?;
    let pace = Pace { job: due.id, rate_per_second: due.rate_per_second, now: due.now };
    // What fails is undone alone, so that the job's row stays locked.
    let mut attempt = connection.begin().await?;
    let acted = act(&mut attempt, due.action, &looked.chosen, pace).await;
    match acted {
        Ok(done) => {
            attempt.commit().await?;
            let skipped = looked.skipped + looked.chosen.len() - done;
            let counts = Counts { done, skipped, failed: 0 };
            let at_once_max = due.at_once_max.saturating_mul(SHRINK).min(usize::from(ROWS_PER_LOOK_MAX));
            advance(connection, due, &looked, counts, at_once_max).await?;
            Ok(stepped(done))
        }
        Err(error @ Error::Unavailable(_)) => Err(error),
        Err(error) => {
            attempt.rollback().await?;
            let failing = looked.chosen.len();
            tracing::warn!(job_id = %due.id, ?error, failing, "a step of a job failed, and is made again in parts");
            if failing > 1 {
                store_at_once_max(connection, due, (failing / SHRINK).max(1)).await?;
            } else {
                let counts = Counts { done: 0, skipped: looked.skipped, failed: failing };
                advance(connection, due, &looked, counts, 1).await?;
            }
            Ok(stepped(0))
        }
    }
}

/// Deliveries that one step makes or changes at this rate.
fn made_at_once(rate_per_second: Option<i32>) -> usize {
    let of_rate = |rate: i32| usize::try_from(i64::from(rate) * STEP_MS / 1000).unwrap_or(1).max(1);
    rate_per_second.map_or(usize::from(ROWS_PER_LOOK_MAX), of_rate)
}

/// Replays that read the same deliveries take turns, so that each sees what the others have made. Nobody waits: whoever
/// comes second tries again. Returns whether it is this one's turn, which lasts until the transaction ends.
async fn takes_its_turn(connection: &mut PgConnection, filter: &Filter) -> Result<bool> {
    let turn = sqlx::query_scalar!(
        r#"SELECT (CASE WHEN $1::text IS NULL AND $2::text IS NULL
                        THEN pg_try_advisory_xact_lock(hashtextextended('replay', 0))
                        ELSE pg_try_advisory_xact_lock_shared(hashtextextended('replay', 0)) END)
              AND (CASE WHEN $1::text IS NULL THEN true
                        WHEN $2::text IS NULL
                        THEN pg_try_advisory_xact_lock(hashtextextended('replay of ' || $1, 0))
                        ELSE pg_try_advisory_xact_lock_shared(hashtextextended('replay of ' || $1, 0)) END)
              AND ($2::text IS NULL OR pg_try_advisory_xact_lock(hashtextextended('replay to ' || $2, 0)))
                  AS "turn!""#,
        filter.tenant_id,
        filter.subscription.map(|id| id.to_string()),
    );
    Ok(turn.fetch_one(connection).await?)
}

/// What became of the deliveries of a step.
struct Counts {
    done: usize,
    skipped: usize,
    failed: usize,
}

/// Stores how far the step has come, and when the next one is due.
async fn advance(
    connection: &mut PgConnection,
    due: &Due,
    looked: &Looked,
    counts: Counts,
    at_once_max: usize,
) -> Result<()> {
    let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let paced = u32::try_from(counts.done).unwrap_or(u32::MAX);
    let rate = due.rate_per_second.map(|rate| rate.unsigned_abs().max(1));
    let pause = rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) * paced / rate);
    let next = due.filter.next_walk(due.walking).filter(|_| looked.at_end);
    let (walking, position) = match next {
        Some(next) => (next, None),
        None => (due.walking, Some(looked.position.unwrap_or(due.position))),
    };
    sqlx::query!(
        "UPDATE jobs
            SET walking = $2, position = coalesce($3, began_at), at_once_max = $4,
                examined_count = examined_count + $5, done_count = done_count + $6,
                skipped_count = skipped_count + $7, failed_count = failed_count + $8,
                next_step_at = clock_timestamp() + make_interval(secs => $9)
          WHERE id = $1",
        due.id.0,
        walking.as_str(),
        position,
        i32::try_from(at_once_max).unwrap_or(1),
        number(looked.examined),
        number(counts.done),
        number(counts.skipped),
        number(counts.failed),
        pause.as_secs_f64(),
    )
    .execute(&mut *connection)
    .await?;
    if looked.at_end && next.is_none() {
        finish(connection, due, State::Completed).await?;
    }
    Ok(())
}

async fn store_at_once_max(connection: &mut PgConnection, due: &Due, at_once_max: usize) -> Result<()> {
    sqlx::query!(
        "UPDATE jobs SET at_once_max = $2, next_step_at = clock_timestamp() WHERE id = $1",
        due.id.0,
        i32::try_from(at_once_max).unwrap_or(1)
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn finish(connection: &mut PgConnection, due: &Due, state: State) -> Result<()> {
    sqlx::query!(
        "UPDATE jobs SET state = $2::text::job_state, finished_at = clock_timestamp() WHERE id = $1",
        due.id.0,
        state.as_str()
    )
    .execute(connection)
    .await?;
    Ok(())
}
