//! Finds sessions that no longer work, and ends waits that would last too long: a server that was promoted, demoted,
//! frozen or cut off is noticed before a caller suffers from it.

use std::{
    pin::pin,
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{PgConnection, PgPool};

use super::{ACQUIRE_TIMEOUT, ANSWER_TIMEOUT};
use crate::{Error, Result, error::is_outage};

/// How long the test of a session may take.
pub(super) const TEST_TIMEOUT: Duration = Duration::from_secs(1);
/// How long all sessions are tested before each use, after one of them has failed.
const SUSPECTED_FOR: Duration = Duration::from_secs(10);

/// Until when sessions are suspected, in milliseconds since the process began.
static SUSPECTED_UNTIL: AtomicU64 = AtomicU64::new(0);

fn millis_of_process() -> u64 {
    static BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// For a while, all sessions of this process are tested before they are used: one of them has just failed, and others
/// that were opened to the same server may have failed too.
pub fn suspect_sessions() {
    let until = millis_of_process() + u64::try_from(SUSPECTED_FOR.as_millis()).unwrap_or(u64::MAX);
    SUSPECTED_UNTIL.fetch_max(until, Ordering::Relaxed);
}

/// Whether sessions must be tested before use at this moment.
pub(super) fn sessions_are_suspected() -> bool {
    let until = SUSPECTED_UNTIL.load(Ordering::Relaxed);
    until > 0 && millis_of_process() < until
}

/// Whether the session answers and can write.
pub(super) async fn is_of_use(connection: &mut PgConnection) -> bool {
    let test = sqlx::query_scalar!(
        r#"SELECT NOT pg_is_in_recovery() AND current_setting('transaction_read_only') = 'off' AS "writes!""#
    );
    matches!(tokio::time::timeout(TEST_TIMEOUT, test.fetch_one(connection)).await, Ok(Ok(true)))
}

/// Checks that the database answers and accepts writes.
///
/// # Errors
/// Unavailable where it does not answer, or accepts no writes.
pub async fn ping(pool: &PgPool) -> Result<()> {
    const READ_ONLY: Error = Error::Unavailable("the database takes no writes at the moment");
    in_time(ACQUIRE_TIMEOUT, async {
        let is_of_use = is_of_use(&mut *pool.acquire().await?).await;
        if is_of_use { Ok(()) } else { Err(READ_ONLY) }
    })
    .await
}

/// Waits for work on the database, and gives up after `limit`: a server that was frozen or cut off says nothing, and
/// TCP alone would wait for a quarter of an hour. Every wait for the database that is not a single statement of the
/// queue goes through here.
///
/// # Errors
/// The error of the work; unavailable where it takes longer than `limit`.
pub async fn in_time<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| {
        suspect_sessions();
        Err(Error::Unavailable("the database does not answer"))
    })
}

/// Waits for work that may rightly take long, for as long as the database answers others meanwhile.
///
/// # Errors
/// The error of the work; unavailable where the database stops answering.
pub async fn while_answering<T>(pool: &PgPool, work: impl Future<Output = Result<T>>) -> Result<T> {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            () = tokio::time::sleep(ANSWER_TIMEOUT) => ping(pool).await?,
        }
    }
}

impl From<sqlx::Error> for Error {
    /// Distinguishes a database that is away (a retry helps) from a statement that is wrong (a retry does not help).
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
