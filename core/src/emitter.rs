//! Emitters: streams of sample events at a rate, to one subscription or to all subscriptions of a tenant that want
//! them. Somebody starts one, and workers make its events in short steps ([`crate::emitter::step`]) until its time is
//! over or somebody stops it. When each event is due is told by [`crate::emitter::schedule`], and what is in it by
//! [`crate::emitter::template`].

pub mod input;
pub mod schedule;
pub mod step;
pub mod template;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    access::audit::{self, Actor, NewEntry},
    emitter::{input::NewEmitter, schedule::Rate, template::Template},
    event::idempotency::{self, Creation, IdempotentRequest},
    id::{EmitterId, SubscriptionId},
    page::Page,
    text_enum::text_enum,
    trust::seal::Keyring,
};

/// Emitters of one tenant that run at the same time, at most.
pub const RUNNING_PER_TENANT_MAX: i64 = 10;
/// The entry of an event's metadata that names the emitter which has made it.
pub const METADATA_KEY: &str = "postrider_emitter";
/// Days for which an emitter can be read that has ended or was stopped.
pub const KEPT_DAYS: i32 = 7;
/// Emitters that one call of [`retire`] removes, at most.
const RETIRED_AT_ONCE_MAX: i64 = 10_000;

text_enum! {
    /// Whether an emitter goes on.
    pub enum Status {
        /// Its time is not over.
        Running = "running",
        /// Somebody has stopped it, or its subscription was deleted.
        Stopped = "stopped",
        /// Its time is over.
        Ended = "ended",
    }
}

/// An emitter, and how far it has come.
#[derive(Clone, Debug)]
pub struct Emitter {
    /// Identifies the emitter; its events name it in their metadata.
    pub id: EmitterId,
    /// The tenant to which the emitter and its events belong.
    pub tenant_id: String,
    /// The subscription that gets the events; `None` where they are published to all of the tenant that want them.
    pub subscription_id: Option<SubscriptionId>,
    /// The type of its events.
    pub event_type: String,
    /// How many events a second it makes.
    pub rate: Rate,
    /// What the payloads of its events are made of.
    pub template: Template,
    /// Whether it goes on.
    pub status: Status,
    /// How many events it has made.
    pub emitted: i64,
    /// How many events it has left out because they were too late, as after an outage of all workers.
    pub skipped: i64,
    /// When it was started; its first event was due then.
    pub started_at: DateTime<Utc>,
    /// When its time is over.
    pub ends_at: DateTime<Utc>,
    /// When it ended or was stopped.
    pub finished_at: Option<DateTime<Utc>>,
    /// Why a step of it failed last.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<DateTime<Utc>>,
}

/// Starts an emitter; a worker makes its first event within a second.
///
/// # Errors
/// A conflict where the tenant has as many running emitters as it may have.
pub async fn create(
    pool: &PgPool,
    keyring: &Keyring,
    actor: Actor,
    new: &NewEmitter,
    idempotent: Option<&IdempotentRequest>,
    answer: impl Fn(&Emitter) -> Vec<u8>,
) -> Result<Creation<Emitter>> {
    let mut transaction = pool.begin().await?;
    if let Some(answer) = idempotency::begin(&mut transaction, keyring, idempotent).await? {
        return Ok(Creation::Before(answer));
    }
    let created = insert(&mut transaction, actor, new).await?;
    idempotency::finish(&mut transaction, keyring, idempotent, || answer(&created)).await?;
    transaction.commit().await?;
    Ok(Creation::Now(created))
}

/// Does what [`create`] does, in the caller's transaction.
pub(crate) async fn insert(connection: &mut PgConnection, actor: Actor, new: &NewEmitter) -> Result<Emitter> {
    // Emitters of one tenant are started one after the other, so that two that come at once are both counted.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('emitters ' || $1::text, 0))", new.tenant_id)
        .fetch_one(&mut *connection)
        .await?;
    let running = sqlx::query_scalar!(
        r#"SELECT count(*) AS "running!" FROM emitters
            WHERE tenant_id = $1 AND status = 'running' AND ends_at > now()"#,
        new.tenant_id
    );
    if running.fetch_one(&mut *connection).await? >= RUNNING_PER_TENANT_MAX {
        return Err(Error::Conflict(format!(
            "{RUNNING_PER_TENANT_MAX} emitters of this tenant are running, and more may not; stop one first"
        )));
    }
    let id = EmitterId::new();
    sqlx::query!(
        "INSERT INTO emitters (id, tenant_id, subscription_id, event_type, template, rate_per_second, next_step_at,
                               started_at, ends_at)
         VALUES ($1, $2, $3, $4, $5, $6, now(), now(), now() + make_interval(secs => $7))",
        id.0,
        new.tenant_id,
        new.subscription_id.map(|id| id.0),
        new.event_type.as_str(),
        new.template.to_text(),
        new.rate.per_second(),
        f64::from(new.duration_seconds),
    )
    .execute(&mut *connection)
    .await?;
    let created = fetch(&mut *connection, id).await?;
    note(connection, actor, "emitter.created", &created).await?;
    Ok(created)
}

/// Reads one emitter.
pub async fn get(pool: &PgPool, id: EmitterId) -> Result<Emitter> {
    fetch(&mut *pool.acquire().await?, id).await
}

/// Lists emitters, the newest first.
pub async fn list(
    pool: &PgPool,
    tenant_id: Option<&str>,
    subscription: Option<SubscriptionId>,
    status: Option<Status>,
    page: Page,
) -> Result<Vec<Emitter>> {
    let ids = sqlx::query_scalar!(
        "SELECT id FROM emitters
          WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
            AND ($3::text IS NULL OR status = $3) AND ($4::uuid IS NULL OR id < $4)
          ORDER BY id DESC
          LIMIT $5",
        tenant_id,
        subscription.map(|id| id.0),
        status.map(Status::as_str),
        page.before,
        page.limit
    );
    let mut connection = pool.acquire().await?;
    let ids = ids.fetch_all(&mut *connection).await?;
    fetch_many(&mut connection, &ids).await
}

/// Stops an emitter: it makes no further event. For one that has ended, nothing changes.
pub async fn stop(pool: &PgPool, actor: Actor, id: EmitterId) -> Result<Emitter> {
    let mut transaction = pool.begin().await?;
    let stopped = stop_on(&mut transaction, actor, id).await?;
    transaction.commit().await?;
    Ok(stopped)
}

async fn stop_on(connection: &mut PgConnection, actor: Actor, id: EmitterId) -> Result<Emitter> {
    let stopped = sqlx::query!(
        "UPDATE emitters SET status = 'stopped', finished_at = clock_timestamp() WHERE id = $1 AND status = 'running'",
        id.0
    );
    let is_stopped = stopped.execute(&mut *connection).await?.rows_affected() == 1;
    let emitter = fetch(&mut *connection, id).await?;
    if is_stopped {
        note(connection, actor, "emitter.stopped", &emitter).await?;
    }
    Ok(emitter)
}

/// Stops the running emitters of these subscriptions, in the caller's transaction.
pub(crate) async fn stop_all_of(connection: &mut PgConnection, actor: Actor, subscriptions: &[Uuid]) -> Result<()> {
    let running = sqlx::query_scalar!(
        "SELECT id FROM emitters WHERE status = 'running' AND subscription_id = ANY ($1) ORDER BY id LIMIT 1000",
        subscriptions
    );
    for id in running.fetch_all(&mut *connection).await? {
        stop_on(&mut *connection, actor, EmitterId(id)).await?;
    }
    Ok(())
}

/// Removes emitters that ended or were stopped more than [`KEPT_DAYS`] days ago; returns how many. The audit log and
/// their events stay.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let retired = sqlx::query!(
        "DELETE FROM emitters
          WHERE id IN (SELECT id FROM emitters WHERE finished_at < now() - make_interval(days => $1)
                        ORDER BY finished_at LIMIT $2)",
        KEPT_DAYS,
        RETIRED_AT_ONCE_MAX
    );
    Ok(retired.execute(pool).await?.rows_affected())
}

async fn note(connection: &mut PgConnection, actor: Actor, action: &'static str, emitter: &Emitter) -> Result<()> {
    let after = json!({
        "subscription_id": emitter.subscription_id.map(|id| id.to_string()),
        "event_type": emitter.event_type, "rate_per_second": emitter.rate.per_second(),
        "ends_at": emitter.ends_at, "status": emitter.status.as_str(), "emitted": emitter.emitted,
    });
    let (tenant_id, target_id) = (Some(emitter.tenant_id.as_str()), emitter.id.to_string());
    audit::record(connection, NewEntry { tenant_id, actor, action, target_id, before: None, after: Some(after) }).await
}

async fn fetch(connection: &mut PgConnection, id: EmitterId) -> Result<Emitter> {
    fetch_many(connection, &[id.0]).await?.pop().ok_or(Error::NotFound("emitter"))
}

async fn fetch_many(connection: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Emitter>> {
    let rows = sqlx::query!(
        "SELECT id, tenant_id, subscription_id, event_type, template, rate_per_second, status, emitted, skipped,
                started_at, ends_at, finished_at, last_error, last_error_at
           FROM emitters WHERE id = ANY ($1) ORDER BY id DESC LIMIT 1000",
        ids
    );
    let rows = rows.fetch_all(connection).await?.into_iter().map(|row| {
        Ok(Emitter {
            id: EmitterId(row.id),
            tenant_id: row.tenant_id,
            subscription_id: row.subscription_id.map(SubscriptionId),
            event_type: row.event_type,
            rate: Rate::parse(row.rate_per_second).map_err(Error::internal)?,
            template: Template::from_stored(&row.template).map_err(Error::internal)?,
            status: row.status.parse().map_err(Error::internal)?,
            emitted: row.emitted,
            skipped: row.skipped,
            started_at: row.started_at,
            ends_at: row.ends_at,
            finished_at: row.finished_at,
            last_error: row.last_error,
            last_error_at: row.last_error_at,
        })
    });
    rows.collect()
}
