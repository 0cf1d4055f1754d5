//! The backlog over the last days. The SQL function `measure_queue` notes the largest numbers of each minute; here they
//! are read as a series, and removed when they are old.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::Result;

/// Days for which minutes are kept.
pub const KEPT_DAYS: i32 = 8;
/// Points of a series, at most.
const POINTS_MAX: i64 = 1_500;

/// The backlog in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// The beginning of the span.
    pub since: DateTime<Utc>,
    /// The largest number that was counted in the span of deliveries that are due.
    pub due: i64,
    /// Likewise of those that are due later.
    pub scheduled: i64,
    /// Likewise of those whose lane is held.
    pub held: i64,
    /// Likewise of those that a worker has.
    pub in_flight: i64,
}

/// The backlog from one moment to another in spans of `step`. Spans in which nobody has counted are left out.
///
/// # Errors
/// When the database is away.
pub async fn history(
    pool: &PgPool,
    (since, until): (DateTime<Utc>, DateTime<Utc>),
    step: TimeDelta,
) -> Result<Vec<Point>> {
    let points = sqlx::query_as!(
        Point,
        r#"SELECT date_bin(make_interval(secs => $3), b.minute, $1) AS "since!", max(b.due) AS "due!",
                  max(b.scheduled) AS "scheduled!", max(b.held) AS "held!", max(b.in_flight) AS "in_flight!"
             FROM backlog_minute b
            WHERE b.minute >= $1 AND b.minute < $2
            GROUP BY 1 ORDER BY 1 LIMIT $4"#,
        since,
        until,
        step.as_seconds_f64(),
        POINTS_MAX
    );
    Ok(points.fetch_all(pool).await?)
}

/// Removes minutes older than [`KEPT_DAYS`]; returns how many.
///
/// # Errors
/// When the database is away.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let retired =
        sqlx::query!("DELETE FROM backlog_minute WHERE minute < now() - make_interval(days => $1)", KEPT_DAYS);
    Ok(retired.execute(pool).await?.rows_affected())
}
