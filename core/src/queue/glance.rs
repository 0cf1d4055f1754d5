//! What a glance at the queue tells, for people who want to know whether deliveries flow. Nothing is counted that could
//! be many: sizes are those that a worker measured some time ago.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{Result, upkeep::queue_size};

/// A lane is neglected when it has been due for so many seconds and nobody has visited it. A worker with free places
/// visits a lane within milliseconds.
pub const NEGLECTED_SECONDS: f64 = 5.0;
/// Deliveries of each kind of the backlog that are counted, at most.
pub const BACKLOG_COUNTED_MAX: i64 = queue_size::COUNTED_MAX as i64;
/// Neglected lanes that are counted, at most.
pub const COUNTED_MAX: i64 = 100;

/// Deliveries that are not finished, by what they wait for. No number goes beyond [`BACKLOG_COUNTED_MAX`], which then
/// means "at least".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// They are due, and nothing holds them: a worker takes them next.
    pub due: i64,
    /// They are due later, for a retry or because that was asked for, or after another one of their ordering key.
    pub scheduled: i64,
    /// They are due, but their lane is held: by a pause, a `Retry-After`, a circuit or a limit.
    pub held: i64,
    /// A worker has them.
    pub in_flight: i64,
}

/// What a glance tells.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    /// Lanes with deliveries that are due and that no worker has visited for [`NEGLECTED_SECONDS`]; at most
    /// [`COUNTED_MAX`], which then means "at least".
    pub neglected: i64,
    /// Since when the first of them is due.
    pub neglected_since: Option<DateTime<Utc>>,
    /// Since when the lane is due that has been due longest; `None` where none is.
    pub oldest_due_at: Option<DateTime<Utc>>,
    /// The deliveries that were not finished when they were counted.
    pub backlog: Backlog,
    /// Dead letters that nobody had resolved when they were counted.
    pub dead_letters: i64,
    /// When they were counted; `None` where no worker has counted them yet.
    pub measured_at: Option<DateTime<Utc>>,
}

/// Glances at the queue of the whole installation.
///
/// # Errors
/// When the database is away.
pub async fn glance(pool: &PgPool) -> Result<Glance> {
    let row = sqlx::query!(
        r#"SELECT l.count AS "neglected!", l.since AS neglected_since, s.due, s.scheduled, s.held, s.in_flight,
                  s.dead_letters, nullif(s.measured_at, '-infinity') AS measured_at,
                  (SELECT min(y.due_at) FROM lanes y WHERE y.due_at <= now()) AS oldest_due_at
             FROM queue_size s
            CROSS JOIN (SELECT count(*) AS count, min(x.due_at) AS since
                          FROM (SELECT y.id, y.due_at FROM lanes y
                                 WHERE y.due_at <= now() - make_interval(secs => $1)
                                 ORDER BY y.due_at LIMIT $2) x
                         WHERE EXISTS (SELECT FROM queue q WHERE q.lane_id = x.id AND q.due_at <= now())) l"#,
        NEGLECTED_SECONDS,
        COUNTED_MAX
    );
    let row = row.fetch_one(pool).await?;
    Ok(Glance {
        neglected: row.neglected,
        neglected_since: row.neglected_since,
        oldest_due_at: row.oldest_due_at,
        backlog: Backlog { due: row.due, scheduled: row.scheduled, held: row.held, in_flight: row.in_flight },
        dead_letters: row.dead_letters,
        measured_at: row.measured_at,
    })
}
