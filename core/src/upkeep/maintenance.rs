//! Keeping the queue in order beside the processes that use it: vacuum, repair, measuring, and the lock by which
//! several workers share these duties. Partitions are in [`super::partition`].

use sqlx::PgPool;

use crate::Result;

/// Dead rows of a hot table from which on it is vacuumed.
const DEAD_ROWS_MAX: i64 = 1000;

/// Does a duty, unless another process of this schema is doing it; returns whether it was done here. The lock ends with
/// its connection: a process that dies leaves no lock behind, and a duty that is dropped half-way keeps the lock until
/// its connection closes.
pub async fn exclusively(pool: &PgPool, name: &str, duty: impl Future<Output = Result<()>>) -> Result<bool> {
    let mut guard = pool.acquire().await?;
    let free = sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_lock(hashtext(current_schema()), hashtext($1)) AS "free!""#,
        name
    );
    if !free.fetch_one(&mut *guard).await? {
        return Ok(false);
    }
    let done = duty.await;
    let unlocked = sqlx::query!("SELECT pg_advisory_unlock(hashtext(current_schema()), hashtext($1))", name);
    unlocked.fetch_one(&mut *guard).await?;
    done.map(|()| true)
}

/// Vacuums the hot tables that have many dead rows. The server's own vacuum comes too seldom to keep them in memory.
pub async fn vacuum(pool: &PgPool) -> Result<()> {
    let crowded = sqlx::query_scalar!(
        r#"SELECT relname::text AS "name!" FROM pg_stat_user_tables
            WHERE schemaname = current_schema() AND relname IN ('queue', 'lanes') AND n_dead_tup > $1"#,
        DEAD_ROWS_MAX
    );
    for name in crowded.fetch_all(pool).await? {
        // Truncating would lock out everybody. A table that somebody is vacuuming already is skipped.
        let vacuum = format!("VACUUM (SKIP_LOCKED, TRUNCATE off) {name}");
        sqlx::raw_sql(sqlx::AssertSqlSafe(vacuum)).execute(pool).await?;
    }
    Ok(())
}

/// Finds lanes that are due later than they should be, which no code path should cause, makes them due, and returns how
/// many there were. Then removes the empty lanes of inline deliveries, and of subscriptions that were deleted at least
/// a day ago.
pub async fn repair_lanes(pool: &PgPool) -> Result<u64> {
    let repaired = sqlx::query!(
        "UPDATE lanes SET due_at = greatest(clock_timestamp(), held_until), drained_at = NULL
          WHERE id IN (SELECT l.id FROM lanes l
                        CROSS JOIN LATERAL (SELECT q.due_at FROM queue q WHERE q.lane_id = l.id
                                             ORDER BY q.due_at LIMIT 1) f
                        WHERE l.due_at > greatest(f.due_at, l.held_until, l.drained_at + lane_linger(),
                                           clock_timestamp())
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
    Ok(repaired)
}

/// Sets the gauges of unfinished deliveries and of dead letters.
pub async fn measure(pool: &PgPool) -> Result<()> {
    let sizes = sqlx::query!(
        r#"SELECT (SELECT count(*) FROM queue) AS "queue!",
                  (SELECT count(*) FROM dead_letters WHERE resolved_at IS NULL) AS "dead_letters!",
                  (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(due_at)), 0)::float8
                     FROM lanes WHERE due_at <= clock_timestamp()) AS "lag!""#
    );
    let sizes = sizes.fetch_one(pool).await?;
    let gauge = |count: i64| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    metrics::gauge!("postrider_queue_depth").set(gauge(sizes.queue));
    metrics::gauge!("postrider_dead_letters").set(gauge(sizes.dead_letters));
    metrics::gauge!("postrider_lane_lag_seconds").set(sizes.lag);
    Ok(())
}
