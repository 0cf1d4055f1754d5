//! The partitions of events, deliveries, inline deliveries, attempts and statistics, each of a day or a month. They are
//! made ahead of time, and dropped when they are old. The view `partitioned_tables` in `migrations` lists the tables.

use chrono::{Days, NaiveDate, Utc};
use sqlx::{Connection, PgConnection, PgPool};

use crate::Result;

/// Days ahead for which partitions are made.
pub const DAYS_AHEAD: u64 = 7;
/// Days ahead below which an error is logged.
pub const DAYS_AHEAD_ALARM: i64 = 2;
/// How long a step of retention waits for a lock; after that the partition stays until the next run.
const LOCK_TIMEOUT: &str = "5s";

/// Creates missing partitions, from yesterday's to [`DAYS_AHEAD`] days ahead.
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

/// The number of days after today for which every partition exists; logged as an error where it is small.
///
/// # Errors
/// When the database is away.
#[expect(clippy::disallowed_methods, reason = "whole days are counted: any clock knows well enough what day it is")]
pub async fn runway(pool: &PgPool) -> Result<i64> {
    let last = sqlx::query_scalar!(
        r#"SELECT min(last) AS last FROM (SELECT parent, max(last_day) AS last FROM partitions GROUP BY parent) p"#
    );
    let last = last.fetch_one(pool).await?;
    let days = last.map_or(-1, |last| (last - Utc::now().date_naive()).num_days());
    if days < DAYS_AHEAD_ALARM {
        tracing::error!(days, "partitions run out: without one for its day, no event can be stored");
    }
    Ok(days)
}

/// Statistics of each table are kept for this many days.
pub const STATISTICS_DAYS: [(&str, u64); 5] = [
    ("stats_minute", MINUTES_DAYS),
    ("accepted_minute", MINUTES_DAYS),
    ("stats_causes", CAUSES_DAYS),
    ("stats_hour", HOURS_DAYS),
    ("accepted_hour", HOURS_DAYS),
];
/// Days for which sums of minutes are kept.
pub const MINUTES_DAYS: u64 = 3;
/// Days for which causes of failures are kept.
pub const CAUSES_DAYS: u64 = 30;
/// Days for which sums of hours are kept.
pub const HOURS_DAYS: u64 = 400;

/// The result of one run of retention.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retired {
    /// Partitions that were dropped.
    pub dropped: Vec<String>,
    /// Partitions that are old enough, but contain something that an unfinished delivery needs.
    pub kept: Vec<String>,
}

/// Drops the partitions of days before `oldest`, except those that unfinished deliveries still need. So no accepted
/// event is dropped before its deliveries are finished.
///
/// # Errors
/// When the database is away or a lock is not free in time; what was dropped by then stays dropped.
pub async fn retire(pool: &PgPool, oldest: NaiveDate) -> Result<Retired> {
    let mut connection = patient(pool).await?;
    let outcome = retire_on(&mut connection, oldest).await;
    let _ = connection.close().await;
    outcome
}

/// Drops the partitions of statistics that are older than [`STATISTICS_DAYS`] say, but no minutes that have not been
/// folded into hours; returns their names. It does not depend on how long deliveries are kept.
///
/// # Errors
/// When the database is away or a lock is not free in time; what was dropped by then stays dropped.
pub async fn retire_statistics(pool: &PgPool, today: NaiveDate) -> Result<Vec<String>> {
    let mut connection = patient(pool).await?;
    let outcome = retire_statistics_on(&mut connection, today).await;
    let _ = connection.close().await;
    outcome
}

async fn retire_statistics_on(connection: &mut PgConnection, today: NaiveDate) -> Result<Vec<String>> {
    let (tables, oldest): (Vec<_>, Vec<_>) =
        STATISTICS_DAYS.iter().map(|(table, days)| ((*table).to_owned(), today - Days::new(*days))).unzip();
    let old = sqlx::query!(
        r#"SELECT p.parent AS "parent!", p.name AS "name!", true AS "is_attached!"
             FROM partitions p JOIN unnest($1::text[], $2::date[]) AS k (parent, oldest) ON k.parent = p.parent
            WHERE p.last_day < k.oldest AND p.last_day < (SELECT folded_until FROM stats_folding)::date
            UNION ALL
           SELECT k.parent, c.relname::text, false
             FROM pg_class c JOIN unnest($1::text[], $2::date[]) AS k (parent, oldest)
                             ON c.relname ~ ('^' || k.parent || '_[0-9]{8}$')
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
            LIMIT 1000"#,
        &tables,
        &oldest
    );
    let mut dropped = Vec::new();
    for partition in old.fetch_all(&mut *connection).await? {
        // What is not attached was detached by a process that stopped before it dropped it.
        if partition.is_attached {
            detach(connection, &partition.parent, &partition.name).await?;
        }
        run(connection, format!("DROP TABLE \"{}\"", partition.name)).await?;
        dropped.push(partition.name);
    }
    Ok(dropped)
}

/// A connection of its own whose statements may take as long as they need, but wait for no lock for long.
#[expect(clippy::disallowed_methods, reason = "settings of the session, which have no types to check")]
async fn patient(pool: &PgPool) -> Result<PgConnection> {
    let mut connection = pool.acquire().await?.detach();
    // Scans may read the whole queue, and detaching a partition waits for every older transaction.
    sqlx::query("SET statement_timeout = 0").execute(&mut connection).await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, false)").bind(LOCK_TIMEOUT).execute(&mut connection).await?;
    Ok(connection)
}

async fn retire_on(connection: &mut PgConnection, oldest: NaiveDate) -> Result<Retired> {
    // Of one day, deliveries go first: without its record, nobody can put a delivery back into the queue.
    let old = sqlx::query!(
        r#"SELECT parent AS "parent!", name AS "name!", day AS "day!" FROM partitions
            WHERE day < $1 AND is_by_id
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
            Ok(()) => drop_detached(connection, &partition.parent, &partition.name, partition.day).await,
            Err(error) => Err(error.into()),
        };
        match dropped {
            Ok(Dropped::Yes) => retired.dropped.push(partition.name),
            Ok(Dropped::IsNeeded) => retired.kept.push(partition.name),
            Err(error) => {
                // Another transaction uses the partition, or another detach is running. The rest of the day waits for
                // the next run.
                tracing::warn!(%error, partition = partition.name, "a partition was not dropped");
                retired.kept.push(partition.name);
                break;
            }
        }
    }
    // These partitions were detached, but the process stopped before it dropped them.
    let orphans = sqlx::query!(
        r#"SELECT c.relname::text AS "name!", left(c.relname, -9) AS "parent!",
                  to_date(right(c.relname, 8), 'YYYYMMDD') AS "day!"
             FROM pg_class c JOIN partitioned_tables t ON c.relname ~ ('^' || t.parent || '_[0-9]{8}$') AND t.is_by_id
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
              AND CASE WHEN c.relname ~ '_[0-9]{8}$' THEN to_date(right(c.relname, 8), 'YYYYMMDD') < $1 END"#,
        oldest
    );
    for orphan in orphans.fetch_all(&mut *connection).await? {
        match drop_detached(connection, &orphan.parent, &orphan.name, orphan.day).await? {
            Dropped::Yes => retired.dropped.push(orphan.name),
            Dropped::IsNeeded => retired.kept.push(orphan.name),
        }
    }
    // Rows of the side table are not partitioned, so they are deleted one by one; a day has few of them.
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

/// Whether an unfinished delivery still needs a row of that day.
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

/// Whether a detached partition was dropped.
enum Dropped {
    /// It is gone.
    Yes,
    /// Somebody put one of its deliveries back into the queue before it was detached, so it is attached again.
    IsNeeded,
}

/// Drops a detached partition, unless an unfinished delivery needs it. From now on nobody can put a delivery of that
/// day back, because nobody finds its record any more.
async fn drop_detached(connection: &mut PgConnection, parent: &str, name: &str, day: NaiveDate) -> Result<Dropped> {
    if !is_needed(connection, parent, day).await? {
        run(connection, format!("DROP TABLE \"{name}\"")).await?;
        return Ok(Dropped::Yes);
    }
    let bounds = sqlx::query!(
        r#"SELECT uuid_floor($1::date::timestamp AT TIME ZONE 'UTC')::text AS "first!",
                  uuid_floor(($1::date + 1)::timestamp AT TIME ZONE 'UTC')::text AS "end!""#,
        day
    );
    let bounds = bounds.fetch_one(&mut *connection).await?;
    let values = format!("FOR VALUES FROM ('{}') TO ('{}')", bounds.first, bounds.end);
    run(connection, format!("ALTER TABLE \"{parent}\" ATTACH PARTITION \"{name}\" {values}")).await?;
    Ok(Dropped::IsNeeded)
}

/// Detaches a partition without locking out readers and writers; completes a detach that was interrupted.
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

/// Runs a statement that contains names of partitions. They are safe, because Postrider chose them.
async fn run(connection: &mut PgConnection, statement: String) -> std::result::Result<(), sqlx::Error> {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement)).execute(connection).await.map(|_| ())
}
