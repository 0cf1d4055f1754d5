//! Checks the invariants that must hold whenever no worker is busy. The rules are in `core/sql/invariants.sql`.

use sqlx::PgExecutor;
use uuid::Uuid;

use crate::Result;

/// A rule that does not hold for one row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The broken rule in words.
    pub violation: String,
    /// The delivery or lane that breaks it.
    pub id: Uuid,
}

/// Returns the first hundred violations; on a healthy system at rest there are none. It reads whole tables.
pub async fn check(executor: impl PgExecutor<'_>) -> Result<Vec<Violation>> {
    let violations = sqlx::query_file!("sql/invariants.sql").fetch_all(executor).await?;
    Ok(violations.into_iter().filter_map(|row| Some(Violation { violation: row.violation?, id: row.id? })).collect())
}
