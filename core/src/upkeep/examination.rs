//! The examination that `worker doctor` makes, for somebody who asks on a page: with a time limit of its own, and one
//! at a time in all processes, because it reads whole tables.

use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::{
    Error, Result,
    upkeep::{
        invariants::{self, Violation},
        maintenance::exclusively,
        stuck,
    },
};

/// How long the check of the invariants may take.
pub const TIME_MAX: Duration = Duration::from_secs(15);
/// How long all of it may take, with what it waits for.
const WITHIN: Duration = Duration::from_secs(40);

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Examination {
    /// Rules that do not hold, the first hundred; `None` where the check did not end within [`TIME_MAX`].
    pub violations: Option<Vec<Violation>>,
    /// What does not move although it should, a sentence each.
    pub stuck: Vec<String>,
    /// How long the check of the invariants took.
    pub took: Duration,
}

/// Examines the database.
///
/// # Errors
/// A conflict where somebody else is examining it; unavailable where the database is away.
pub async fn examine(pool: &PgPool) -> Result<Examination> {
    let mut found = Examination::default();
    let work = async {
        found.stuck = stuck::find(pool).await?;
        let began = Instant::now();
        let checked = check(pool).await;
        found.took = began.elapsed();
        found.violations = match checked {
            Ok(violations) => Some(violations),
            Err(_) if found.took >= TIME_MAX => None,
            Err(error) => return Err(error),
        };
        Ok(())
    };
    if exclusively(pool, "examination", WITHIN, work).await? {
        Ok(found)
    } else {
        Err(Error::Conflict("somebody else is examining the database; try again in a moment".to_owned()))
    }
}

async fn check(pool: &PgPool) -> Result<Vec<Violation>> {
    let mut transaction = pool.begin().await?;
    let millis = TIME_MAX.as_millis().to_string();
    sqlx::query_scalar!("SELECT set_config('statement_timeout', $1, true)", millis)
        .fetch_one(&mut *transaction)
        .await?;
    let violations = invariants::check(&mut *transaction).await?;
    transaction.rollback().await?;
    Ok(violations)
}
