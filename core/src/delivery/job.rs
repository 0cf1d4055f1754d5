//! Jobs: something is done with all deliveries that match a filter. They are retried, canceled, replayed, marked
//! resolved, or taken off the list of dead letters. A job has progress, an end, and a rate where it needs one. It is
//! defined here; [`filter`] says which deliveries it is about, [`count`] counts them first, `look` finds them, `act`
//! does something with them, and [`walk`] makes the steps.

pub(crate) mod act;
pub mod count;
pub mod filter;
pub(crate) mod look;
pub mod walk;

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool, types::Json};
use uuid::Uuid;

use crate::{
    Error, Result,
    access::audit::{self, Actor, NewEntry},
    delivery::job::{
        filter::{Filter, StoredFilter},
        look::{ROWS_PER_LOOK_MAX, next_ids},
    },
    event::idempotency::{self, Creation, IdempotentRequest},
    id::{JobId, SubscriptionId},
    page::{Page, id_floor},
    text_enum::text_enum,
    trust::seal::Keyring,
};

/// Deliveries a second that a job may retry, replay or change, at most, where it has a rate.
pub const RATE_MAX: u32 = 1000;
/// Deliveries a second that a job retries or replays where no rate is given.
pub const RATE_DEFAULT: u32 = 100;
/// Deliveries that one transaction cancels, at most, when a replay is canceled.
const CANCELED_AT_ONCE_MAX: usize = 5_000;
/// How long a request goes on canceling what a replay has made; workers do the rest.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(3);

text_enum! {
    /// What a job does with each delivery.
    pub enum Action {
        /// A pending one is due at once, a finished one gets a fresh round of attempts.
        Retry = "retry",
        /// A pending one is called off.
        Cancel = "cancel",
        /// A new delivery of the same event is made to the same subscription.
        Replay = "replay",
        /// A dead letter is marked resolved.
        Resolve = "resolve",
        /// A dead letter is taken off the list.
        Purge = "purge",
    }
}

impl Action {
    /// The rate of a job for which none is given; `None` means as fast as the steps go, because nothing is sent.
    #[must_use]
    pub fn rate_default(self) -> Option<u32> {
        match self {
            Self::Retry | Self::Replay => Some(RATE_DEFAULT),
            Self::Cancel | Self::Resolve | Self::Purge => None,
        }
    }
}

text_enum! {
    /// The rows that a job reads, in the order of their ids.
    pub enum Walk {
        /// Deliveries: of a subscription, of a tenant, those that a job made, or all.
        Deliveries = "deliveries",
        /// The list of dead letters.
        DeadLetters = "dead_letters",
        /// Deliveries that are not finished.
        Queue = "queue",
        /// The deliveries of one event.
        Event = "event",
        /// The tenant's events, for those that a subscription has missed.
        Events = "events",
    }
}

text_enum! {
    /// How far a job has come.
    pub enum State {
        /// Its next step is to come.
        Running = "running",
        /// All rows have been read.
        Completed = "completed",
        /// Somebody has canceled it, or the subscription to which it replays was deleted or disabled.
        Canceled = "canceled",
    }
}

/// A job that is about to be created.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// What is done with each delivery.
    pub action: Action,
    /// Which deliveries it is about.
    pub filter: Filter,
    /// Deliveries a second, at most; `None` means as fast as the steps go.
    pub rate_per_second: Option<u32>,
}

/// A job, and how far it has come.
#[derive(Clone, Debug)]
pub struct Job {
    /// Identifies the job; the deliveries that it made refer to it.
    pub id: JobId,
    /// The tenant to which the job belongs; `None` where it is about every tenant.
    pub tenant_id: Option<String>,
    /// What is done with each delivery.
    pub action: Action,
    /// Which deliveries it is about.
    pub filter: Filter,
    /// Deliveries a second, at most; `None` means as fast as the steps go.
    pub rate_per_second: Option<i32>,
    /// Whether the job goes on.
    pub state: State,
    /// Rows that the job has read.
    pub examined_count: i64,
    /// Deliveries with which it was done.
    pub done_count: i64,
    /// Deliveries that matched, but with which it could not be done.
    pub skipped_count: i64,
    /// Deliveries that the database refused to change.
    pub failed_count: i64,
    /// The share of the rows' time that has been read, from 0 to 1.
    pub progress: f64,
    /// When the job was created.
    pub created_at: DateTime<Utc>,
    /// When the job was completed or canceled.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Creates a job; a worker makes its first step within a second. The filter must break no rule of
/// [`Filter::problems`].
///
/// # Errors
/// A conflict where it replays to a subscription that is disabled.
pub async fn create(
    pool: &PgPool,
    keyring: &Keyring,
    actor: Actor,
    new: &NewJob,
    idempotent: Option<&IdempotentRequest>,
    answer: impl Fn(&Job) -> Vec<u8>,
) -> Result<Creation<Job>> {
    let mut transaction = pool.begin().await?;
    if let Some(answer) = idempotency::begin(&mut transaction, keyring, idempotent).await? {
        return Ok(Creation::Before(answer));
    }
    let mut filter = new.filter.clone();
    if let Some(id) = filter.subscription {
        let tenant = require_subscription(&mut transaction, new.action, id).await?;
        filter.tenant_id = filter.tenant_id.or(Some(tenant));
    }
    let walk = filter.first_walk(new.action);
    let began_at = began_at(&mut transaction, &filter, walk).await?;
    let id = JobId::new();
    sqlx::query!(
        "INSERT INTO jobs (id, tenant_id, subscription_id, action, filter, rate_per_second, walking, began_at,
                           position, at_once_max)
         VALUES ($1, $2, $3, $4::text::job_action, $5, $6, $7, $8, $8, $9)",
        id.0,
        filter.tenant_id,
        filter.subscription.map(|id| id.0),
        new.action.as_str(),
        Json(StoredFilter::from(&filter)) as _,
        new.rate_per_second.map(|rate| i32::try_from(rate).unwrap_or(i32::MAX)),
        walk.as_str(),
        began_at,
        i32::from(ROWS_PER_LOOK_MAX),
    )
    .execute(&mut *transaction)
    .await?;
    let job = fetch(&mut transaction, id).await?;
    note(&mut transaction, actor, "job.created", &job).await?;
    idempotency::finish(&mut transaction, keyring, idempotent, || answer(&job)).await?;
    transaction.commit().await?;
    Ok(Creation::Now(job))
}

/// The tenant of the subscription that a filter names.
///
/// # Errors
/// Not found where there is none, or where nothing can be replayed to it because it was deleted; a conflict where it is
/// disabled and something is to be replayed.
async fn require_subscription(connection: &mut PgConnection, action: Action, id: SubscriptionId) -> Result<String> {
    let row = sqlx::query!(
        r#"SELECT tenant_id, state = 'disabled' AS "disabled!", deleted_at IS NOT NULL AS "deleted!"
             FROM subscriptions WHERE id = $1"#,
        id.0
    );
    let row = row.fetch_optional(connection).await?.ok_or(Error::NotFound("subscription"))?;
    match action {
        Action::Replay if row.deleted => Err(Error::NotFound("subscription")),
        Action::Replay if row.disabled => {
            Err(Error::Conflict("the subscription is disabled; enable it first".to_owned()))
        }
        Action::Replay | Action::Retry | Action::Cancel | Action::Resolve | Action::Purge => Ok(row.tenant_id),
    }
}

/// The position before the first row that the job reads, by which its progress is measured.
async fn began_at(connection: &mut PgConnection, filter: &Filter, walk: Walk) -> Result<Uuid> {
    if let Some(since) = filter.since {
        return Ok(id_floor(since));
    }
    let first = next_ids(connection, filter, walk, Uuid::nil(), 1).await?.examined.first().copied();
    Ok(first.map_or_else(|| id_floor(filter.until), |id| Uuid::from_u128(id.as_u128().saturating_sub(1))))
}

/// Reads one job.
pub async fn get(pool: &PgPool, id: JobId) -> Result<Job> {
    fetch(&mut *pool.acquire().await?, id).await
}

/// Lists jobs, the newest first.
pub async fn list(
    pool: &PgPool,
    tenant_id: Option<&str>,
    subscription: Option<SubscriptionId>,
    state: Option<State>,
    page: Page,
) -> Result<Vec<Job>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM jobs
          WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
            AND ($3::text IS NULL OR state = $3::text::job_state) AND ($4::uuid IS NULL OR id < $4)
          ORDER BY id DESC
          LIMIT $5",
        tenant_id,
        subscription.map(|id| id.0),
        state.map(State::as_str),
        page.before,
        page.limit
    );
    let mut connection = pool.acquire().await?;
    let ids = ids.fetch_all(&mut *connection).await?;
    fetch_many(&mut connection, &ids).await
}

/// Changes how many deliveries a second a running job acts on; its next step keeps to it. `None` means the rate of a
/// job for which none is given.
///
/// # Errors
/// Not found where there is no such job; a conflict where it has ended.
pub async fn set_rate(pool: &PgPool, actor: Actor, id: JobId, rate: Option<u32>) -> Result<Job> {
    let mut transaction = pool.begin().await?;
    let locked = sqlx::query_scalar!("SELECT id FROM jobs WHERE id = $1 FOR UPDATE", id.0);
    locked.fetch_optional(&mut *transaction).await?.ok_or(Error::NotFound("job"))?;
    let before = fetch(&mut transaction, id).await?;
    if before.state != State::Running {
        return Err(Error::Conflict("the job has ended".to_owned()));
    }
    let rate = rate.or_else(|| before.action.rate_default()).map(|rate| i32::try_from(rate).unwrap_or(i32::MAX));
    if rate == before.rate_per_second {
        return Ok(before);
    }
    sqlx::query!("UPDATE jobs SET rate_per_second = $2 WHERE id = $1", id.0, rate).execute(&mut *transaction).await?;
    let after = fetch(&mut transaction, id).await?;
    let said = |job: &Job| Some(serde_json::json!({"rate_per_second": job.rate_per_second}));
    let (tenant_id, target_id) = (after.tenant_id.as_deref(), id.to_string());
    let entry =
        NewEntry { tenant_id, actor, action: "job.changed", target_id, before: said(&before), after: said(&after) };
    audit::record(&mut transaction, entry).await?;
    transaction.commit().await?;
    Ok(after)
}

/// Cancels a job: nothing more is done. Of a replay, those deliveries are canceled, too, that it has made and that
/// still wait; if they are too many for one request, workers cancel the rest. For a job that has ended, nothing
/// changes.
pub async fn cancel(pool: &PgPool, actor: Actor, id: JobId) -> Result<Job> {
    let started = Instant::now();
    let mut transaction = pool.begin().await?;
    let canceled = sqlx::query!(
        "UPDATE jobs
            SET state = 'canceled', finished_at = clock_timestamp(), next_step_at = clock_timestamp(),
                to_cancel = CASE WHEN action = 'replay' THEN $2::uuid END
          WHERE id = $1 AND state = 'running'",
        id.0,
        Uuid::max()
    );
    let canceled = canceled.execute(&mut *transaction).await?.rows_affected() == 1;
    let job = fetch(&mut transaction, id).await?;
    if canceled {
        note(&mut transaction, actor, "job.canceled", &job).await?;
    }
    transaction.commit().await?;
    while started.elapsed() < CANCEL_TIME_MAX {
        let mut transaction = pool.begin().await?;
        let to_cancel = sqlx::query_scalar!(
            r#"SELECT to_cancel AS "to_cancel!" FROM jobs
                WHERE id = $1 AND to_cancel IS NOT NULL FOR UPDATE SKIP LOCKED"#,
            id.0
        );
        let Some(to_cancel) = to_cancel.fetch_optional(&mut *transaction).await? else { break };
        cancel_made(&mut transaction, id.0, to_cancel).await?;
        transaction.commit().await?;
    }
    Ok(job)
}

/// Cancels those of the job's next deliveries before `to_cancel` that still wait, the newest first, and stores how far
/// this has come. The job's row must be locked.
pub(crate) async fn cancel_made(connection: &mut PgConnection, id: Uuid, to_cancel: Uuid) -> Result<()> {
    let next = sqlx::query_scalar!(
        "SELECT id FROM deliveries WHERE job_id = $1 AND id < $2 ORDER BY id DESC LIMIT $3",
        id,
        to_cancel,
        i64::try_from(CANCELED_AT_ONCE_MAX).unwrap_or(i64::MAX)
    );
    let next: Vec<Uuid> = next.fetch_all(&mut *connection).await?;
    act::cancel(connection, &next).await?;
    let is_last = next.len() < CANCELED_AT_ONCE_MAX;
    let last = next.last().filter(|_| !is_last);
    sqlx::query!("UPDATE jobs SET to_cancel = $2 WHERE id = $1", id, last).execute(connection).await?;
    Ok(())
}

async fn note(connection: &mut PgConnection, actor: Actor, action: &'static str, job: &Job) -> Result<()> {
    let after = serde_json::json!({
        "action": job.action.as_str(), "filter": StoredFilter::from(&job.filter),
        "rate_per_second": job.rate_per_second, "state": job.state.as_str(), "done_count": job.done_count,
    });
    let (tenant_id, target_id) = (job.tenant_id.as_deref(), job.id.to_string());
    audit::record(connection, NewEntry { tenant_id, actor, action, target_id, before: None, after: Some(after) }).await
}

async fn fetch(connection: &mut PgConnection, id: JobId) -> Result<Job> {
    fetch_many(connection, &[id.0]).await?.pop().ok_or(Error::NotFound("job"))
}

async fn fetch_many(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Job>> {
    let rows = sqlx::query!(
        r#"SELECT id, tenant_id, action::text AS "action!", filter AS "filter: Json<StoredFilter>", rate_per_second,
                  state::text AS "state!", walking, began_at, position, examined_count, done_count, skipped_count,
                  failed_count, created_at, finished_at
             FROM jobs WHERE id = ANY ($1) ORDER BY id DESC LIMIT 1000"#,
        ids
    );
    let rows = rows.fetch_all(connection).await?.into_iter().map(|row| {
        let state = row.state.parse().map_err(Error::internal)?;
        let walking = row.walking.parse().map_err(Error::internal)?;
        let action = row.action.parse().map_err(Error::internal)?;
        let filter = Filter::try_from(row.filter.0)?;
        Ok(Job {
            id: JobId(row.id),
            tenant_id: row.tenant_id,
            action,
            rate_per_second: row.rate_per_second,
            state,
            examined_count: row.examined_count,
            done_count: row.done_count,
            skipped_count: row.skipped_count,
            failed_count: row.failed_count,
            progress: match state {
                State::Completed => 1.0,
                State::Running | State::Canceled => progress(action, &filter, walking, row.began_at, row.position),
            },
            filter,
            created_at: row.created_at,
            finished_at: row.finished_at,
        })
    });
    rows.collect()
}

/// The share of the rows' time that has been read. Where both deliveries and events are read, each counts for a half.
fn progress(action: Action, filter: &Filter, walking: Walk, began_at: Uuid, position: Uuid) -> f64 {
    // Whole seconds since 1970, which fit into 32 bits.
    let seconds = |id: Uuid| f64::from(u32::try_from((id.as_u128() >> 80) / 1000).unwrap_or(u32::MAX));
    let end = seconds(id_floor(filter.until));
    let walked = ((seconds(position) - seconds(began_at)) / (end - seconds(began_at)).max(1.0)).clamp(0.0, 1.0);
    match (walking, filter.next_walk(filter.first_walk(action))) {
        (Walk::Deliveries, Some(_)) => walked / 2.0,
        (Walk::Events, Some(_)) => 0.5 + walked / 2.0,
        (Walk::Deliveries | Walk::DeadLetters | Walk::Queue | Walk::Event | Walk::Events, _) => walked,
    }
}
