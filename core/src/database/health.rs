//! Sessions that are of no more use, and waits that nobody would end: a server that was promoted, demoted, frozen or
//! cut off is found out before a caller pays for it.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{PgConnection, PgPool};

use super::ACQUIRE_TIMEOUT;
use crate::{Error, Result, error::is_outage};

/// How long the test of a session may take.
const TEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long all sessions are tested before use after one of them has failed.
const SUSPECTED_FOR: Duration = Duration::from_secs(10);

/// When, in milliseconds since the process began, sessions are trusted again.
static SUSPECTED_UNTIL: AtomicU64 = AtomicU64::new(0);

fn millis_of_process() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Has all sessions of this process tested before they are used, for a while: one of them has just failed, and so may
/// others that were opened to the same server.
pub fn suspect_sessions() {
    let until = millis_of_process() + u64::try_from(SUSPECTED_FOR.as_millis()).unwrap_or(u64::MAX);
    SUSPECTED_UNTIL.fetch_max(until, Ordering::Relaxed);
}

/// Whether all sessions are to be tested at the moment.
pub(super) fn sessions_are_suspected() -> bool {
    let until = SUSPECTED_UNTIL.load(Ordering::Relaxed);
    until > 0 && millis_of_process() < until
}

/// Whether a session answers, and can write.
pub(super) async fn is_of_use(connection: &mut PgConnection) -> bool {
    let test = sqlx::query_scalar!(
        r#"SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS "writes!""#
    );
    matches!(tokio::time::timeout(TEST_TIMEOUT, test.fetch_one(connection)).await, Ok(Ok(true)))
}

/// Whether the database answers, and can be written to.
///
/// # Errors
/// Unavailable where it does not, or cannot.
pub async fn ping(pool: &PgPool) -> Result<()> {
    const READ_ONLY: Error = Error::Unavailable("the database takes no writes at the moment");
    in_time(ACQUIRE_TIMEOUT, async {
        let is_of_use = is_of_use(&mut *pool.acquire().await?).await;
        if is_of_use { Ok(()) } else { Err(READ_ONLY) }
    })
    .await
}

/// Gives work on the database up after a while: a server that was frozen or cut off says nothing, and TCP alone would
/// wait for a quarter of an hour. Every wait for the database that is not a single statement of the queue goes through
/// here.
///
/// # Errors
/// As the work; unavailable where it takes longer.
pub async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        suspect_sessions();
        Err(Error::Unavailable("the database does not answer"))
    })
}

impl From<sqlx::Error> for Error {
    /// Tells a database that is away (a retry helps) from a statement that is wrong (a retry does not).
    fn from(error: sqlx::Error) -> Self {
        if is_outage(&error) {
            suspect_sessions();
            tracing::warn!(%error, "the database is away");
            Self::Unavailable("the database is not reachable, or too slow, at the moment")
        } else {
            Self::Internal(error.into())
        }
    }
}
