//! What waits for several subscriptions and what was given up, for lists: bounded numbers, all of them read by one
//! statement.

use std::collections::HashMap;

use sqlx::PgPool;
use uuid::Uuid;

use crate::Result;

/// Deliveries and dead letters of one subscription that are counted, at most.
pub const COUNTED_MAX: i64 = 1_000;

/// Two numbers of a subscription, neither of them over [`COUNTED_MAX`], which means "so many or more".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Deliveries that are not finished, whatever they wait for.
    pub waiting: i64,
    /// Dead letters that nobody has resolved, among the newest [`COUNTED_MAX`].
    pub dead: i64,
}

/// Counts for these subscriptions; at most 1000 of them.
///
/// # Errors
/// When the database is away.
pub async fn read(pool: &PgPool, ids: &[Uuid]) -> Result<HashMap<Uuid, Counts>> {
    // The orders keep each look within an index, whatever the statistics of the tables say.
    let rows = sqlx::query!(
        r#"SELECT i.id AS "id!", w.count AS "waiting!", d.count AS "dead!"
             FROM unnest($1::uuid[]) AS i (id)
            CROSS JOIN LATERAL (SELECT count(*) FROM (
                                    SELECT FROM queue q WHERE q.lane_id = i.id
                                     ORDER BY q.due_at LIMIT $2) x) w
            CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE x.resolved_at IS NULL) FROM (
                                    SELECT l.resolved_at FROM dead_letters l WHERE l.subscription_id = i.id
                                     ORDER BY l.delivery_id DESC LIMIT $2) x) d
            LIMIT 1000"#,
        ids,
        COUNTED_MAX
    );
    let rows = rows.fetch_all(pool).await?.into_iter();
    Ok(rows.map(|row| (row.id, Counts { waiting: row.waiting, dead: row.dead })).collect())
}
