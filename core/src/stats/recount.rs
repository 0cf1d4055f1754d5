//! Counting again what a killed process had counted and not written. Attempts and events are read once more, hour by
//! hour, and their sums take the place of those that are there.
//!
//! Attempts do not tell everything: a dead letter that was retried is none any more, and what was canceled without an
//! attempt left none. So of these the larger number stays.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    page::id_floor,
    queue::observed::{LEASE_LOST, class_of},
    stats::ceiling,
    tally::{Observed, ObservedAttempt, Sums, class::Class, floor},
};

/// Rows that are read at once, at most.
const ROWS_AT_ONCE_MAX: i64 = 5_000;
/// An attempt may seem to begin before its delivery was made, by no more than this, where clocks differ.
const CLOCKS_DIFFER_MAX: TimeDelta = TimeDelta::minutes(5);

/// The result of counting again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recounted {
    /// Hours whose sums were replaced.
    pub hours: u64,
    /// Attempts that were counted.
    pub attempts: u64,
    /// Accepted events that were counted.
    pub events: u64,
}

/// The whole hours in which the span lies.
#[must_use]
pub fn whole_hours(since: DateTime<Utc>, until: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
    (floor(since, TimeDelta::hours(1)), ceiling(until, TimeDelta::hours(1)))
}

/// Counts the whole hours anew in which the span lies. Sums that processes have in memory are not known here, so the
/// hours should be over. Each hour reads the attempts of all days that are kept before it.
///
/// # Errors
/// When the database is away; hours that were counted by then stay so.
pub async fn recount(pool: &PgPool, since: DateTime<Utc>, until: DateTime<Utc>) -> Result<Recounted> {
    let mut connection = pool.acquire().await?;
    let mut done = Recounted::default();
    let (mut hour, end) = whole_hours(since, until);
    while hour < end {
        let mut sums = Sums::default();
        done.attempts += add_attempts(&mut connection, hour, &mut sums).await?;
        done.events += add_events(&mut connection, hour, &mut sums).await?;
        replace(&mut connection, hour, sums).await?;
        done.hours += 1;
        hour += TimeDelta::hours(1);
    }
    Ok(done)
}

async fn add_attempts(connection: &mut PgConnection, hour: DateTime<Utc>, sums: &mut Sums) -> Result<u64> {
    let end = hour + TimeDelta::hours(1);
    let (mut after, mut counted) = ((Uuid::nil(), 0), 0);
    loop {
        let rows = sqlx::query!(
            r#"SELECT a.delivery_id, a.number, a.started_at, a.duration_ms, a.status_code, a.error_kind,
                      d.tenant_id AS "tenant_id?", d.subscription_id AS "subscription_id?",
                      coalesce(d.status = 'dead_letter', false)
                      AND NOT EXISTS (SELECT FROM attempts b
                                       WHERE b.delivery_id = a.delivery_id AND b.number > a.number) AS "is_its_end!",
                      e.deliver_at AS "deliver_at?", length(e.payload) AS payload_bytes
                 FROM attempts a
                 LEFT JOIN deliveries d ON d.id = a.delivery_id
                 LEFT JOIN events e ON e.id = d.event_id
                WHERE (a.delivery_id, a.number) > ($1, $2) AND a.delivery_id < $3
                  AND a.started_at >= $4 AND a.started_at < $5
                ORDER BY a.delivery_id, a.number LIMIT $6"#,
            after.0,
            after.1,
            id_floor(end + CLOCKS_DIFFER_MAX),
            hour,
            end,
            ROWS_AT_ONCE_MAX
        );
        let rows = rows.fetch_all(&mut *connection).await?;
        let Some(last) = rows.last() else { return Ok(counted) };
        after = (last.delivery_id, last.number);
        counted += rows.len() as u64;
        for row in rows {
            let status_code = row.status_code.map(i16::unsigned_abs);
            let class = class_of_word(row.error_kind.as_deref(), status_code)?;
            let attempt = ObservedAttempt {
                class,
                number: row.number,
                started_at: row.started_at,
                duration_ms: row.duration_ms,
                status_code: row.status_code,
                deliver_at: row.deliver_at,
                payload_bytes: u64::from(row.payload_bytes.unwrap_or_default().unsigned_abs()),
            };
            sums.add(&Observed {
                tenant_id: row.tenant_id.as_deref(),
                subscription_id: row.subscription_id,
                delivery_id: row.delivery_id,
                attempt: Some(attempt),
                end: row.is_its_end.then_some(Class::DeadLetter),
                now: row.started_at,
            });
        }
    }
}

fn class_of_word(error_kind: Option<&str>, status_code: Option<u16>) -> Result<Class> {
    if error_kind == Some(LEASE_LOST) {
        return Ok(Class::LeaseLost);
    }
    let kind = error_kind.map(str::parse).transpose().map_err(|why: String| Error::internal(why))?;
    Ok(class_of(kind, status_code))
}

async fn add_events(connection: &mut PgConnection, hour: DateTime<Utc>, sums: &mut Sums) -> Result<u64> {
    let (mut after, mut counted) = (id_floor(hour), 0);
    loop {
        let rows = sqlx::query!(
            r#"SELECT id, tenant_id, event_type, length(payload) AS "bytes!" FROM events
                WHERE id > $1 AND id < $2 ORDER BY id LIMIT $3"#,
            after,
            id_floor(hour + TimeDelta::hours(1)),
            ROWS_AT_ONCE_MAX
        );
        let rows = rows.fetch_all(&mut *connection).await?;
        let Some(last) = rows.last() else { return Ok(counted) };
        after = last.id;
        counted += rows.len() as u64;
        for row in rows {
            sums.accept(row.id, &row.tenant_id, &row.event_type, u64::from(row.bytes.unsigned_abs()));
        }
    }
}

/// Puts the sums of an hour in place of those that are there. Where the minutes of that day are not kept any more, they
/// are made once more, folded, and dropped by the next retention.
async fn replace(connection: &mut PgConnection, hour: DateTime<Utc>, mut sums: Sums) -> Result<()> {
    let end = hour + TimeDelta::hours(1);
    let mut transaction = connection.begin().await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext(current_schema() || '.partitions'))")
        .fetch_one(&mut *transaction)
        .await?;
    let day = hour.date_naive();
    sqlx::query!("SELECT ensure_partition(parent, $1) FROM partitioned_tables WHERE NOT is_by_id LIMIT 100", day)
        .fetch_all(&mut *transaction)
        .await?;
    // Of an hour whose minutes are gone, the ends of deliveries are kept from the hour itself.
    let ends = sqlx::query!(
        r#"SELECT tenant_id AS "tenant_id!", subscription_id AS "subscription_id!", minute AS "minute!",
                  sum(dead_letters)::integer AS "dead_letters!", sum(canceled)::integer AS "canceled!"
             FROM (SELECT tenant_id, subscription_id, minute, outcomes[$3] AS dead_letters, outcomes[$4] AS canceled
                     FROM stats_minute WHERE minute >= $1 AND minute < $2
                    UNION ALL
                   SELECT tenant_id, subscription_id, hour, outcomes[$3], outcomes[$4] FROM stats_hour
                    WHERE hour = $1 AND NOT EXISTS (SELECT FROM stats_minute WHERE minute >= $1 AND minute < $2)) s
            GROUP BY tenant_id, subscription_id, minute
           HAVING sum(dead_letters) > 0 OR sum(canceled) > 0"#,
        hour,
        end,
        place(Class::DeadLetter),
        place(Class::Canceled)
    );
    for row in ends.fetch_all(&mut *transaction).await? {
        sums.at_least(&row.tenant_id, row.subscription_id, row.minute, Class::DeadLetter, row.dead_letters);
        sums.at_least(&row.tenant_id, row.subscription_id, row.minute, Class::Canceled, row.canceled);
    }
    sqlx::query!("DELETE FROM stats_minute WHERE minute >= $1 AND minute < $2", hour, end)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!("DELETE FROM accepted_minute WHERE minute >= $1 AND minute < $2", hour, end)
        .execute(&mut *transaction)
        .await?;
    sqlx::query!("DELETE FROM stats_causes WHERE moment >= $1 AND moment < $2", hour, end)
        .execute(&mut *transaction)
        .await?;
    sums.write(&mut transaction).await?;
    sqlx::query!("SELECT fold_stats($1) FROM stats_folding WHERE closed_until > $1", hour)
        .fetch_optional(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(())
}

/// The place of a class in an array of Postgres, which counts from 1.
fn place(class: Class) -> i32 {
    i32::try_from(class.place()).unwrap_or(i32::MAX).saturating_add(1)
}
