//! The processes that are running: each writes a row now and then, by which people see that it lives, what it does,
//! and what went wrong last. A process that ends as it should removes its row. A row that nobody writes any more is
//! shown as gone, and is removed after a day.

use std::{fs, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgPool, types::Json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    Result,
    database::{ANSWER_TIMEOUT, bounded, in_time},
    process::{
        config::Settings,
        last_error::{self, LastError},
    },
    text_enum::text_enum,
};

/// How often a process writes its row.
pub const BEAT_EVERY: Duration = Duration::from_secs(10);
/// A process that has not written its row for this long counts as gone.
pub const GONE_AFTER: Duration = Duration::from_secs(45);
/// How long a process that is gone is remembered.
pub const FORGOTTEN_AFTER: Duration = Duration::from_secs(86_400);
/// Processes that are listed, at most.
const PROCESSES_MAX: i64 = 1_000;
/// Processes whose settings are told, at most.
const SETTINGS_MAX: i64 = 50;
/// Characters of a host's name that are kept.
const HOST_CHARACTERS_MAX: usize = 253;
/// Where Linux and others say the name of the host.
const HOST_FILES: [&str; 2] = ["/proc/sys/kernel/hostname", "/etc/hostname"];

text_enum! {
    /// What a process does.
    pub enum ProcessKind {
        /// It takes HTTP requests.
        Api = "api",
        /// It makes deliveries.
        Worker = "worker",
    }
}

text_enum! {
    /// Whether a process lives.
    pub enum ProcessState {
        /// It has written its row a short while ago.
        Alive = "alive",
        /// It has not been seen for [`GONE_AFTER`].
        Gone = "gone",
    }
}

/// What a worker is busy with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Places that are taken.
    pub places_used: usize,
    /// Places that are free.
    pub places_free: usize,
    /// Deliveries that it has claimed since it was started.
    pub claimed: u64,
}

/// A process as its row shows it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Identifies the process; it is made anew at each start.
    pub id: Uuid,
    /// What it does.
    pub kind: ProcessKind,
    /// The name of its host.
    pub host: String,
    /// The version of Postrider.
    pub version: String,
    /// When it was started.
    pub started_at: DateTime<Utc>,
    /// When it was last seen.
    pub seen_at: DateTime<Utc>,
    /// Whether it lives.
    pub state: ProcessState,
    /// Places that are taken; `None` for an api.
    pub places_used: Option<i32>,
    /// Places that are free; `None` for an api.
    pub places_free: Option<i32>,
    /// Deliveries that it claims a second; `None` for an api.
    pub claims_per_second: Option<f64>,
    /// The last error that it logged, and when.
    pub last_error: Option<LastError>,
}

/// The row of this process.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    pool: PgPool,
    id: Uuid,
    kind: ProcessKind,
    host: String,
    settings: Settings,
}

impl Heartbeat {
    /// A heartbeat that has not begun.
    #[must_use]
    pub fn new(pool: PgPool, kind: ProcessKind, settings: Settings) -> Self {
        Self { pool, id: Uuid::now_v7(), kind, host: host(), settings }
    }

    /// Writes the row at once, and then again and again until `ended` is canceled; then it removes the row. `load`
    /// tells what a worker is busy with.
    pub async fn run(self, load: impl Fn() -> Option<Load>, ended: CancellationToken) {
        let mut before = (Instant::now(), load());
        loop {
            let now = (Instant::now(), load());
            if let Err(error) = self.beat(now.1, claims_per_second(before, now)).await {
                tracing::warn!(%error, "the row of this process was not written");
            }
            before = now;
            if tokio::time::timeout(BEAT_EVERY, ended.cancelled()).await.is_ok() {
                return self.end().await;
            }
        }
    }

    /// Writes the row.
    async fn beat(&self, load: Option<Load>, claims_per_second: Option<f64>) -> Result<()> {
        let small = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let last = last_error::get();
        let beat = sqlx::query!(
            "INSERT INTO processes (id, kind, host, version, started_at, seen_at, places_used, places_free,
                                    claims_per_second, last_error, last_error_at, settings)
             VALUES ($1, $2, $3, $4, clock_timestamp(), clock_timestamp(), $5, $6, $7, $8, $9, $10)
                 ON CONFLICT (id) DO UPDATE
                SET seen_at = EXCLUDED.seen_at,
                    places_used = EXCLUDED.places_used, places_free = EXCLUDED.places_free,
                    claims_per_second = EXCLUDED.claims_per_second, last_error = EXCLUDED.last_error,
                    last_error_at = EXCLUDED.last_error_at",
            self.id,
            self.kind.as_str(),
            self.host,
            env!("CARGO_PKG_VERSION"),
            load.map(|load| small(load.places_used)),
            load.map(|load| small(load.places_free)),
            claims_per_second,
            last.as_ref().map(|last| last.message.as_str()),
            last.as_ref().map(|last| last.at),
            Json(&self.settings) as _,
        );
        bounded!(self.pool, beat.execute)?;
        Ok(())
    }

    /// Removes the row, because the process ends as it should.
    async fn end(&self) {
        let remove = sqlx::query!("DELETE FROM processes WHERE id = $1", self.id);
        let removed = in_time(ANSWER_TIMEOUT, async { Ok(remove.execute(&self.pool).await?) }).await;
        if let Err(error) = removed {
            tracing::warn!(%error, "the row of this process was not removed");
        }
    }
}

/// Deliveries that were claimed each second between two moments.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
fn claims_per_second(before: (Instant, Option<Load>), now: (Instant, Option<Load>)) -> Option<f64> {
    let seconds = (now.0 - before.0).as_secs_f64();
    let claimed = now.1?.claimed.saturating_sub(before.1?.claimed) as f64;
    Some(if seconds > 0.0 { claimed / seconds } else { 0.0 })
}

/// The name of this host, or `unknown` where the system does not tell it in a file.
fn host() -> String {
    let names = HOST_FILES.iter().filter_map(|path| fs::read_to_string(path).ok());
    let name = names.map(|name| name.trim().to_owned()).find(|name| !name.is_empty());
    let name: String = name.unwrap_or_default().chars().filter(|one| !one.is_control()).collect();
    if name.is_empty() { "unknown".to_owned() } else { name.chars().take(HOST_CHARACTERS_MAX).collect() }
}

/// The processes that are running or have been seen within [`FORGOTTEN_AFTER`], the last started first.
///
/// # Errors
/// When the database is away.
pub async fn list(pool: &PgPool) -> Result<Vec<Process>> {
    let rows = sqlx::query!(
        r#"SELECT id, kind, host, version, started_at, seen_at,
                  seen_at < clock_timestamp() - make_interval(secs => $1) AS "is_gone!", places_used, places_free,
                  claims_per_second, last_error, last_error_at
             FROM processes ORDER BY started_at DESC, id DESC LIMIT $2"#,
        GONE_AFTER.as_secs_f64(),
        PROCESSES_MAX
    );
    let rows = rows.fetch_all(pool).await?.into_iter().map(|row| {
        Ok(Process {
            id: row.id,
            kind: row.kind.parse().map_err(crate::Error::internal)?,
            host: row.host,
            version: row.version,
            started_at: row.started_at,
            seen_at: row.seen_at,
            state: if row.is_gone { ProcessState::Gone } else { ProcessState::Alive },
            places_used: row.places_used,
            places_free: row.places_free,
            claims_per_second: row.claims_per_second,
            last_error: row.last_error.zip(row.last_error_at).map(|(message, at)| LastError { message, at }),
        })
    });
    rows.collect()
}

/// The settings of one process.
#[derive(Clone, Debug)]
pub struct InForce {
    /// What the process does.
    pub kind: ProcessKind,
    /// The name of its host.
    pub host: String,
    /// The settings with which it was started.
    pub settings: Settings,
}

/// The settings of the processes that live, the last started first; at most 50 of them.
///
/// # Errors
/// When the database is away.
pub async fn settings(pool: &PgPool) -> Result<Vec<InForce>> {
    let rows = sqlx::query!(
        r#"SELECT kind, host, settings AS "settings!: Json<Settings>" FROM processes
            WHERE settings IS NOT NULL AND seen_at >= clock_timestamp() - make_interval(secs => $1)
            ORDER BY started_at DESC, id DESC LIMIT $2"#,
        GONE_AFTER.as_secs_f64(),
        SETTINGS_MAX
    );
    let rows = rows.fetch_all(pool).await?.into_iter().map(|row| {
        let kind = row.kind.parse().map_err(crate::Error::internal)?;
        Ok(InForce { kind, host: row.host, settings: row.settings.0 })
    });
    rows.collect()
}

/// Removes processes that have not been seen for [`FORGOTTEN_AFTER`]; returns how many.
///
/// # Errors
/// When the database is away.
pub async fn forget(pool: &PgPool) -> Result<u64> {
    let forgotten = sqlx::query!(
        "DELETE FROM processes WHERE seen_at < clock_timestamp() - make_interval(secs => $1)",
        FORGOTTEN_AFTER.as_secs_f64()
    );
    Ok(forgotten.execute(pool).await?.rows_affected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_claims_is_that_since_the_row_was_written_before() {
        let start = Instant::now();
        let at = |seconds, claimed| (start + Duration::from_secs(seconds), Some(Load { claimed, ..Load::default() }));
        assert_eq!(claims_per_second(at(0, 0), at(0, 0)), Some(0.0));
        assert_eq!(claims_per_second(at(0, 10), at(10, 110)), Some(10.0));
        assert_eq!(claims_per_second((start, None), (start, None)), None, "an api claims nothing");
    }
}
