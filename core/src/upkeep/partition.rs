//! The daily partitions of events, deliveries, inline deliveries and attempts: made ahead of time, dropped when they
//! are old.

use chrono::{Days, NaiveDate, Utc};
use sqlx::{Connection, PgConnection, PgPool};

use crate::Result;

/// Days ahead for which partitions exist.
pub const DAYS_AHEAD: u64 = 7;
/// Days ahead below which it is an alarm.
pub const DAYS_AHEAD_ALARM: i64 = 2;
/// How long a step of retention waits for a lock before it leaves the partition for the next time.
const LOCK_TIMEOUT: &str = "5s";

/// Creates what is missing from yesterday to a week ahead.
///
/// # Errors
/// When the database is away or refuses.
#[expect(
    clippy::disallowed_methods,
    reason = "partitions are made days ahead: any clock knows well enough what day it is"
)]
pub async fn ensure(pool: &PgPool) -> std::result::Result<(), sqlx::Error> {
    let today = Utc::now().date_naive();
    let (first, last) = (today - Days::new(1), today + Days::new(DAYS_AHEAD));
    let made =
        sqlx::query_scalar!(r#"SELECT ensure_partitions($1, $2) AS "made!""#, first, last).fetch_one(pool).await?;
    if made > 0 {
        tracing::info!(made, until = %last, "created partitions");
    }
    Ok(())
}

/// Whole days after today for which every partition exists, with a metric and a loud log when they are few.
///
/// # Errors
/// When the database is away.
#[expect(clippy::disallowed_methods, reason = "whole days are counted: any clock knows well enough what day it is")]
pub async fn runway(pool: &PgPool) -> Result<i64> {
    let last = sqlx::query_scalar!(
        r#"SELECT min(last) AS last FROM (SELECT parent, max(day) AS last FROM partitions GROUP BY parent) p"#
    );
    let last = last.fetch_one(pool).await?;
    let days = last.map_or(-1, |last| (last - Utc::now().date_naive()).num_days());
    metrics::gauge!("postrider_partition_days_ahead").set(f64::from(i32::try_from(days).unwrap_or(i32::MAX)));
    if days < DAYS_AHEAD_ALARM {
        tracing::error!(days, "partitions run out: without one for its day, no event can be stored");
    }
    Ok(days)
}

/// What retention did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Partitions dropped.
    pub dropped: Vec<String>,
    /// Partitions that are old enough and still hold what an unfinished delivery needs.
    pub kept: Vec<String>,
}

/// Drops the partitions of days before `oldest`, except those that unfinished deliveries still need: nothing that was
/// acknowledged is dropped before it is delivered or dead.
///
/// # Errors
/// When the database is away or a lock cannot be had; what was dropped by then stays dropped.
pub async fn retire(pool: &PgPool, oldest: NaiveDate) -> Result<Retired> {
    let mut connection = pool.acquire().await?.detach();
    let outcome = retire_on(&mut connection, oldest).await;
    let _ = connection.close().await;
    outcome
}

#[expect(clippy::disallowed_methods, reason = "settings of the session, which have no types to check")]
async fn retire_on(connection: &mut PgConnection, oldest: NaiveDate) -> Result<Retired> {
    // The scan below may read the whole queue, and a detach waits for every older transaction.
    sqlx::query("SET statement_timeout = 0").execute(&mut *connection).await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, false)").bind(LOCK_TIMEOUT).execute(&mut *connection).await?;
    // Within a day the deliveries go first: without its record, nobody can put a delivery back into the queue.
    let old = sqlx::query!(
        r#"SELECT parent AS "parent!", name AS "name!", day AS "day!" FROM partitions WHERE day < $1
            ORDER BY day, parent <> 'deliveries', parent"#,
        oldest
    );
    let mut retired = Retired::default();
    for partition in old.fetch_all(&mut *connection).await? {
        if is_needed(connection, &partition.parent, partition.day).await? {
            retired.kept.push(partition.name);
            continue;
        }
        let dropped = match detach(connection, &partition.parent, &partition.name).await {
            Ok(()) => run(connection, format!("DROP TABLE \"{}\"", partition.name)).await,
            Err(error) => Err(error),
        };
        match dropped {
            Ok(()) => retired.dropped.push(partition.name),
            Err(error) => {
                // Somebody is using it, or the detach of another; what is left of the day is left for the next time.
                tracing::warn!(%error, partition = partition.name, "a partition was not dropped");
                retired.kept.push(partition.name);
                break;
            }
        }
    }
    // What a detach left behind that was cut short before its drop.
    let orphans = sqlx::query_scalar!(
        r#"SELECT c.relname::text AS "name!" FROM pg_class c
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
              AND c.relname ~ '^(events|deliveries|attempts|inline_deliveries)_[0-9]{8}$'
              AND to_date(right(c.relname, 8), 'YYYYMMDD') < $1"#,
        oldest
    );
    for name in orphans.fetch_all(&mut *connection).await? {
        run(connection, format!("DROP TABLE \"{name}\"")).await?;
        retired.dropped.push(name);
    }
    // Rows of the side table have no partition to go with; a day of them is few.
    sqlx::query!(
        "DELETE FROM dead_letters x
          WHERE x.delivery_id < uuid_floor($1::date::timestamp AT TIME ZONE 'UTC')
            AND NOT EXISTS (SELECT FROM deliveries d WHERE d.id = x.delivery_id)",
        oldest
    )
    .execute(&mut *connection)
    .await?;
    Ok(retired)
}

/// Whether an unfinished delivery still needs something of that day.
async fn is_needed(connection: &mut PgConnection, parent: &str, day: NaiveDate) -> Result<bool> {
    let needed = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM queue q
                WHERE CASE $1::text WHEN 'events' THEN q.event_id ELSE q.delivery_id END
                      >= uuid_floor($2::date::timestamp AT TIME ZONE 'UTC')
                  AND CASE $1::text WHEN 'events' THEN q.event_id ELSE q.delivery_id END
                      < uuid_floor(($2::date + 1)::timestamp AT TIME ZONE 'UTC'))
               OR EXISTS (
               SELECT FROM outbox o
                WHERE o.event_id >= uuid_floor($2::date::timestamp AT TIME ZONE 'UTC')
                  AND o.event_id < uuid_floor(($2::date + 1)::timestamp AT TIME ZONE 'UTC')) AS "needed!""#,
        parent,
        day
    );
    Ok(needed.fetch_one(connection).await?)
}

/// Detaches without locking out readers and writers; finishes a detach that was interrupted.
async fn detach(connection: &mut PgConnection, parent: &str, name: &str) -> std::result::Result<(), sqlx::Error> {
    let concurrently = format!("ALTER TABLE \"{parent}\" DETACH PARTITION \"{name}\" CONCURRENTLY");
    match run(connection, concurrently).await {
        // 55000 object_not_in_prerequisite_state: an earlier detach was interrupted half-way.
        Err(error) if error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55000")) => {
            run(connection, format!("ALTER TABLE \"{parent}\" DETACH PARTITION \"{name}\" FINALIZE")).await
        }
        done => done,
    }
}

/// Runs a statement whose only variable parts are names of partitions, which are our own.
async fn run(connection: &mut PgConnection, statement: String) -> std::result::Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await.map(|_| ())
}
