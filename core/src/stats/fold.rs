//! Folding minutes into hours, so that spans of more than some days can be read. An hour is closed some minutes after
//! it is over. Sums that come later still note their hour, and it is folded again.

use std::time::Duration;

use sqlx::{Connection, PgConnection, PgPool};

use crate::Result;

/// How long after its end an hour is closed: by then nearly all sums have been written.
pub const CLOSED_AFTER: Duration = Duration::from_secs(300);
/// Hours that one call folds, at most. Those of a long standstill are empty.
const HOURS_AT_ONCE_MAX: usize = 1_000;
/// Late hours that one call folds again, at most.
const LATE_HOURS_AT_ONCE_MAX: i64 = 100;

/// Folds every hour that is over, and those that got late sums; returns how many.
///
/// # Errors
/// When the database is away.
pub async fn fold(pool: &PgPool) -> Result<usize> {
    let mut connection = pool.acquire().await?;
    let mut folded = 0;
    while folded < HOURS_AT_ONCE_MAX && fold_next(&mut connection).await? {
        folded += 1;
    }
    Ok(folded + fold_late(&mut connection).await?)
}

async fn fold_next(connection: &mut PgConnection) -> Result<bool> {
    // Closing commits by itself: it waits for all who are just adding sums, and everybody who adds sums later sees it.
    sqlx::query!(
        "UPDATE stats_folding SET closed_until = closed_until + interval '1 hour'
          WHERE closed_until = folded_until
            AND closed_until + interval '1 hour' + make_interval(secs => $1) <= clock_timestamp()",
        CLOSED_AFTER.as_secs_f64()
    )
    .execute(&mut *connection)
    .await?;
    let mut transaction = connection.begin().await?;
    let hour = sqlx::query_scalar!(
        "UPDATE stats_folding SET folded_until = closed_until WHERE folded_until < closed_until
         RETURNING closed_until - interval '1 hour' AS hour"
    );
    let Some(hour) = hour.fetch_optional(&mut *transaction).await? else { return Ok(false) };
    sqlx::query!("SELECT fold_stats($1)", hour).fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn fold_late(connection: &mut PgConnection) -> Result<usize> {
    // An hour whose minutes are not kept any more stays as it is.
    let late = sqlx::query_scalar!(
        r#"SELECT DISTINCT l.hour FROM stats_late_hours l ORDER BY l.hour LIMIT $1"#,
        LATE_HOURS_AT_ONCE_MAX
    );
    let mut folded = 0;
    for hour in late.fetch_all(&mut *connection).await? {
        let mut transaction = connection.begin().await?;
        sqlx::query!("DELETE FROM stats_late_hours WHERE hour = $1", hour).execute(&mut *transaction).await?;
        sqlx::query!(
            "SELECT fold_stats($1)
              WHERE $1 >= (SELECT min(day)::timestamp AT TIME ZONE 'UTC' FROM partitions
                            WHERE parent = 'stats_minute')",
            hour
        )
        .fetch_optional(&mut *transaction)
        .await?;
        transaction.commit().await?;
        folded += 1;
    }
    Ok(folded)
}
