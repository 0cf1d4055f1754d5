//! Keeping the queue in order beside the processes that use it: vacuum, repair, and the lock by which several workers
//! share these duties. Partitions are in [`super::partition`], what is counted in [`super::queue_size`].

use std::time::Duration;

use sqlx::{Connection, PgPool};

use crate::{
    Result,
    database::{ANSWER_TIMEOUT, in_time, while_answering},
};

/// A hot table is vacuumed when it has more dead rows than this, and more than one for so many live ones. A vacuum
/// reads the whole indexes, so where a million deliveries wait, it would cost more than the dead rows do.
const DEAD_ROWS_MAX: i64 = 1000;
const LIVE_FOR_EACH_DEAD: i64 = 50;

/// The small tables whose rows come and go, some of them with every delivery.
const HOT_TABLES: [&str; 7] =
    ["queue", "lanes", "outbox", "lanes_to_arm", "lane_leases", "freed_keys", "dead_letter_notices"];

/// Does a duty, unless another process of this schema is doing it; returns whether it was done here. A duty that takes
/// longer than `limit`, or during which the database stops answering, is given up. The lock ends with its connection: a
/// process that dies leaves no lock behind.
///
/// # Errors
/// The error of the duty; unavailable where it is given up.
pub async fn exclusively(
    pool: &PgPool,
    name: &str,
    limit: Duration,
    duty: impl Future<Output = Result<()>>,
) -> Result<bool> {
    let begin = async {
        let mut guard = pool.acquire().await?;
        let free = sqlx::query_scalar!(
            r#"SELECT pg_try_advisory_lock(hashtext(current_schema()), hashtext($1)) AS "free!""#,
            name
        );
        let free = free.fetch_one(&mut *guard).await?;
        Ok((guard, free))
    };
    let (mut guard, free) = in_time(ANSWER_TIMEOUT, Box::pin(begin)).await?;
    if !free {
        return Ok(false);
    }
    let done = in_time(limit, Box::pin(while_answering(pool, duty))).await;
    let unlock = sqlx::query!("SELECT pg_advisory_unlock(hashtext(current_schema()), hashtext($1))", name);
    let unlock = Box::pin(async { Ok(unlock.fetch_one(&mut *guard).await?) });
    if in_time(ANSWER_TIMEOUT, unlock).await.is_err() {
        guard.close_on_drop();
    }
    done.map(|()| true)
}

/// Vacuums the hot tables that have many dead rows. The server's own vacuum comes too seldom to keep them in memory.
pub async fn vacuum(pool: &PgPool) -> Result<()> {
    let crowded = sqlx::query_scalar!(
        r#"SELECT relname::text AS "name!" FROM pg_stat_user_tables
            WHERE schemaname = current_schema() AND relname = ANY ($1)
              AND n_dead_tup > greatest($2, n_live_tup / $3)"#,
        &HOT_TABLES.map(str::to_owned),
        DEAD_ROWS_MAX,
        LIVE_FOR_EACH_DEAD
    );
    let crowded = crowded.fetch_all(pool).await?;
    if crowded.is_empty() {
        return Ok(());
    }
    // The connection is not given back, because its statements are not limited in time: a large table takes long.
    let mut connection = pool.acquire().await?.detach();
    sqlx::raw_sql("SET statement_timeout = 0").execute(&mut connection).await?;
    for name in crowded {
        // Truncating would lock out everybody, and parallel workers would take the processors that deliveries need. A
        // table that somebody is vacuuming already is skipped.
        let vacuum = format!("VACUUM (SKIP_LOCKED, TRUNCATE off, PARALLEL 0) {name}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(vacuum)).execute(&mut connection).await?;
    }
    Ok(connection.close().await?)
}

/// Finds lanes that are due later than they should be, which no code path should cause, makes them due, and returns how
/// many there were. (A visit that finds a row locked makes its lane due after `lane_margin()`, as it should.) Then
/// removes the empty lanes of inline deliveries, and of subscriptions that were deleted at least a day ago, and the
/// notes of freed ordering keys in lanes that are no longer ordered.
pub async fn repair_lanes(pool: &PgPool) -> Result<u64> {
    let repaired = sqlx::query!(
        "UPDATE lanes SET due_at = greatest(clock_timestamp(), held_until), drained_at = NULL
          WHERE id IN (SELECT l.id FROM lanes l
                        CROSS JOIN LATERAL (SELECT q.due_at FROM queue q WHERE q.lane_id = l.id
                                             ORDER BY q.due_at LIMIT 1) f
                        WHERE l.due_at > greatest(f.due_at, l.held_until, l.drained_at + lane_linger(),
                                           clock_timestamp() + lane_margin())
                          AND NOT EXISTS (SELECT FROM lanes_to_arm n WHERE n.lane_id = l.id)
                        ORDER BY l.id FOR UPDATE OF l SKIP LOCKED)"
    );
    let repaired = repaired.execute(pool).await?.rows_affected();
    metrics::counter!("postrider_lanes_repaired_total").increment(repaired);
    if repaired > 0 {
        tracing::error!(repaired, "lanes were due too late and have been repaired: please report this");
    }
    let forgotten = sqlx::query!(
        "DELETE FROM lanes l
          WHERE l.due_at = 'infinity'
            AND NOT EXISTS (SELECT FROM queue q WHERE q.lane_id = l.id)
            AND (l.subscription_id IS NULL
                 OR EXISTS (SELECT FROM subscriptions s
                             WHERE s.id = l.subscription_id AND s.deleted_at < now() - interval '1 day'))"
    );
    forgotten.execute(pool).await?;
    // Only an ordered lane reads the notes of freed keys. Where nothing is parked, nobody needs them either.
    sqlx::query!(
        "DELETE FROM freed_keys f
          WHERE NOT EXISTS (SELECT FROM lanes l WHERE l.id = f.lane_id AND (l.is_ordered OR l.has_parked))"
    )
    .execute(pool)
    .await?;
    Ok(repaired)
}
