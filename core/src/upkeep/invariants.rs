//! What must hold at rest, asked of the database itself. The rules stand in `sql/invariants.sql`.

use sqlx::PgPool;
use uuid::Uuid;

use crate::Result;

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule, in words.
    pub violation: String,
    /// The delivery or lane that breaks it.
    pub id: Uuid,
}

/// The first hundred violations; none on a healthy system at rest. Reads whole tables.
pub async fn check(pool: &PgPool) -> Result<Vec<Violation>> {
    let violations = sqlx::query_file!("sql/invariants.sql").fetch_all(pool).await?;
    Ok(violations.into_iter().filter_map(|row| Some(Violation { violation: row.violation?, id: row.id? })).collect())
}
