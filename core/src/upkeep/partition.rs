//! The partitions of events, deliveries, inline deliveries, attempts and statistics, each of a day or a month. They are
//! made ahead of time, and dropped when they are old, after [`super::archive`] has written them to files where an
//! archive is wanted. The view `partitioned_tables` in `migrations` lists the tables.

use std::fmt;

use chrono::{Days, NaiveDate, Utc};
use sqlx::{Connection, PgConnection, PgPool};

use crate::{
    Result,
    upkeep::archive::{Archive, ArchiveError},
};

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
    /// Partitions that should have been dropped. They stay until the next run.
    pub failed: Vec<Failure>,
}

/// Why a partition was not dropped although nobody needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The name of the partition.
    pub partition: String,
    /// What went wrong.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.partition, self.why)
    }
}

/// Drops the partitions of days before `oldest`, except those that unfinished deliveries still need. So no accepted
/// event is dropped before its deliveries are finished. Where there is an archive, each is written to it before, and
/// stays if it cannot be written.
///
/// # Errors
/// When the database is away or a lock is not free in time; what was dropped by then stays dropped.
pub async fn retire(pool: &PgPool, oldest: NaiveDate, archive: Option<&Archive>) -> Result<Retired> {
    let mut connection = patient(pool).await?;
    let outcome = retire_on(&mut connection, oldest, archive).await;
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

async fn retire_on(connection: &mut PgConnection, oldest: NaiveDate, archive: Option<&Archive>) -> Result<Retired> {
    // Of one day, deliveries go first: without its record, nobody can put a delivery back into the queue.
    let old = sqlx::query_as!(
        Partition,
        r#"SELECT parent AS "parent!", name AS "name!", day AS "day!" FROM partitions
            WHERE day < $1 AND is_by_id
            ORDER BY day, parent <> 'deliveries', parent"#,
        oldest
    );
    let mut retired = Retired::default();
    for partition in old.fetch_all(&mut *connection).await? {
        if is_needed(connection, &partition).await? {
            retired.kept.push(partition.name);
            continue;
        }
        let dropped = match archive {
            // A partition is not detached in vain.
            Some(archive) => archive.probe().await.map_err(Obstacle::Archive),
            None => Ok(()),
        };
        let dropped = match dropped {
            Ok(()) => detach(connection, &partition.parent, &partition.name).await.map_err(Obstacle::Database),
            failed => failed,
        };
        let dropped = match dropped {
            Ok(()) => drop_detached(connection, &partition, archive).await,
            Err(obstacle) => Err(obstacle),
        };
        // Where another transaction uses the partition, another detach is running, or the archive refuses, the rest of
        // the day waits for the next run.
        if !retired.note(partition, dropped) {
            break;
        }
    }
    // These partitions were detached, but the process stopped before it dropped them.
    let orphans = sqlx::query_as!(
        Partition,
        r#"SELECT c.relname::text AS "name!", left(c.relname, -9) AS "parent!",
                  to_date(right(c.relname, 8), 'YYYYMMDD') AS "day!"
             FROM pg_class c JOIN partitioned_tables t ON c.relname ~ ('^' || t.parent || '_[0-9]{8}$') AND t.is_by_id
            WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
              AND CASE WHEN c.relname ~ '_[0-9]{8}$' THEN to_date(right(c.relname, 8), 'YYYYMMDD') < $1 END"#,
        oldest
    );
    for orphan in orphans.fetch_all(&mut *connection).await? {
        let dropped = drop_detached(connection, &orphan, archive).await;
        if !retired.note(orphan, dropped) {
            break;
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

/// A partition of a day.
struct Partition {
    parent: String,
    name: String,
    day: NaiveDate,
}

/// What became of a detached partition.
enum Dropped {
    /// It is gone.
    Yes,
    /// Somebody put one of its deliveries back into the queue before it was detached, so it is attached again.
    IsNeeded,
}

/// What keeps a partition from being dropped.
enum Obstacle {
    /// The database is away, or somebody holds a lock for too long.
    Database(sqlx::Error),
    /// The partition could not be written to the archive.
    Archive(ArchiveError),
}

impl From<sqlx::Error> for Obstacle {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Retired {
    /// Notes what became of a partition; returns whether it makes sense to go on with the next one.
    fn note(&mut self, partition: Partition, dropped: std::result::Result<Dropped, Obstacle>) -> bool {
        let name = partition.name;
        let why = match dropped {
            Ok(Dropped::Yes) => {
                self.dropped.push(name);
                return true;
            }
            Ok(Dropped::IsNeeded) => {
                self.kept.push(name);
                return true;
            }
            Err(Obstacle::Database(error)) => {
                tracing::warn!(%error, partition = name, "a partition was not dropped");
                error.to_string()
            }
            Err(Obstacle::Archive(error)) => {
                metrics::counter!("postrider_archive_failures_total").increment(1);
                tracing::error!(%error, partition = name, "a partition was not archived, so it is kept");
                error.to_string()
            }
        };
        self.failed.push(Failure { partition: name, why });
        false
    }
}

/// Whether an unfinished delivery still needs a row of that day.
async fn is_needed(connection: &mut PgConnection, partition: &Partition) -> std::result::Result<bool, sqlx::Error> {
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
        partition.parent,
        partition.day
    );
    needed.fetch_one(connection).await
}

/// Archives a detached partition and drops it, unless an unfinished delivery needs it. From now on nobody can put a
/// delivery of that day back, because nobody finds its record any more. What is not archived is attached again, so that
/// people go on seeing it.
async fn drop_detached(
    connection: &mut PgConnection,
    partition: &Partition,
    archive: Option<&Archive>,
) -> std::result::Result<Dropped, Obstacle> {
    if is_needed(connection, partition).await? {
        attach(connection, partition).await?;
        return Ok(Dropped::IsNeeded);
    }
    if let Some(archive) = archive {
        match archive.store(connection, &partition.name).await {
            Ok(file) => tracing::info!(file = %file.display(), "a partition was archived"),
            Err(error) => {
                if let Err(error) = attach(connection, partition).await {
                    // The next run finds it by its name.
                    tracing::warn!(%error, partition = partition.name, "a partition stays detached for now");
                }
                return Err(Obstacle::Archive(error));
            }
        }
    }
    run(connection, format!("DROP TABLE \"{}\"", partition.name)).await?;
    Ok(Dropped::Yes)
}

/// Attaches a partition again that was detached.
async fn attach(connection: &mut PgConnection, partition: &Partition) -> std::result::Result<(), sqlx::Error> {
    let bounds = sqlx::query!(
        r#"SELECT uuid_floor($1::date::timestamp AT TIME ZONE 'UTC')::text AS "first!",
                  uuid_floor(($1::date + 1)::timestamp AT TIME ZONE 'UTC')::text AS "end!""#,
        partition.day
    );
    let bounds = bounds.fetch_one(&mut *connection).await?;
    let values = format!("FOR VALUES FROM ('{}') TO ('{}')", bounds.first, bounds.end);
    let Partition { parent, name, .. } = partition;
    run(connection, format!("ALTER TABLE \"{parent}\" ATTACH PARTITION \"{name}\" {values}")).await
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
