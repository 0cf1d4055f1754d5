//! The database's own ceiling: the same statements that api and worker use, with nothing around them.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::load::{PAYLOAD_BYTES, payload};

/// Rows of each statement.
const BATCH: usize = 200;
/// How long the full cycle is measured.
const CYCLE: Duration = Duration::from_secs(8);
/// Single commits measured.
const COMMITS: usize = 500;

/// What the database can do by itself.
#[derive(Clone, Copy, Debug)]
pub struct Ceiling {
    /// Rows a second through insert, claim and record, all three at the same time.
    pub cycle_rows_per_second: f64,
    /// Median of a single-row insert with its commit, in milliseconds.
    pub commit_ms: f64,
}

/// Measures it.
///
/// # Errors
/// When a statement fails.
pub async fn measure(pool: &PgPool) -> Result<Ceiling> {
    let lane = Uuid::now_v7();
    sqlx::query("INSERT INTO lanes (id, subscription_id, lease_ms) VALUES ($1, $1, 35000)")
        .bind(lane)
        .execute(pool)
        .await?;
    let mut commits = Vec::with_capacity(COMMITS);
    for _ in 0..COMMITS {
        let started = Instant::now();
        sqlx::query(
            "INSERT INTO events (id, tenant_id, event_type, content_type, payload, created_at)
             VALUES ($1, 'bench', 'bench', 'application/json', $2, now())",
        )
        .bind(Uuid::now_v7())
        .bind(payload(0).as_ref())
        .execute(pool)
        .await?;
        commits.push(started.elapsed());
    }
    commits.sort_unstable();

    let (stop, stored, finished) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let produce = async {
        while started.elapsed() < CYCLE {
            // A few batches ahead of the consumer, no more: a steady state, not a growing backlog.
            if stored.load(Ordering::Relaxed) > finished.load(Ordering::Relaxed) + 10 * BATCH as u64 {
                tokio::task::yield_now().await;
                tokio::time::sleep(Duration::from_micros(200)).await;
                continue;
            }
            accept(pool, lane, BATCH).await?;
            stored.fetch_add(BATCH as u64, Ordering::Relaxed);
        }
        stop.store(true, Ordering::Relaxed);
        anyhow::Ok(())
    };
    let consume = async {
        while !stop.load(Ordering::Relaxed) {
            finished.fetch_add(cycle(pool).await?, Ordering::Relaxed);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(produce, consume)?;
    Ok(Ceiling {
        cycle_rows_per_second: finished.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64(),
        commit_ms: super::load::quantile_ms(&commits, 0.5),
    })
}

/// Stores so many events with one delivery each.
///
/// # Errors
/// When the statement fails.
pub async fn accept(pool: &PgPool, lane: Uuid, rows: usize) -> Result<()> {
    let events: Vec<_> = (0..rows).map(|_| Uuid::now_v7()).collect();
    let deliveries: Vec<_> = (0..rows).map(|_| Uuid::now_v7()).collect();
    let body = "x".repeat(PAYLOAD_BYTES);
    sqlx::query(
        "SELECT accept($1, $2, $3, $4, $5, $6, array_fill(NULL::jsonb, n), array_fill(NULL::text, n),
                       array_fill(NULL::text, n), array_fill(NULL::timestamptz, n), array_fill(NULL::timestamptz, n),
                       array_fill(NULL::text, n), array_fill(NULL::bytea, n), array_fill(NULL::bytea, n), 0, false,
                       $7, $1, $2, $4, $4, array_fill(NULL::integer, n), array_fill(NULL::timestamptz, n))
           FROM (SELECT ARRAY[cardinality($1)] AS n) sizes",
    )
    .bind(&events)
    .bind(vec!["bench"; rows])
    .bind(vec!["bench.event"; rows])
    .bind(vec![lane; rows])
    .bind(vec!["application/json"; rows])
    .bind(vec![body.as_bytes(); rows])
    .bind(&deliveries)
    .execute(pool)
    .await?;
    Ok(())
}

/// Claims what there is and records it as succeeded.
async fn cycle(pool: &PgPool) -> Result<u64> {
    let claimed =
        sqlx::query("SELECT delivery_id, lease_token, attempt_number, payload FROM claim(64, $1, '{}', '-infinity')")
            .bind(i32::try_from(2 * BATCH)?)
            .fetch_all(pool)
            .await?;
    let rows = claimed.len();
    if rows == 0 {
        tokio::time::sleep(Duration::from_micros(500)).await;
        return Ok(0);
    }
    let mut claimed: Vec<(Uuid, i64, i16)> =
        claimed.iter().map(|row| (row.get("delivery_id"), row.get("lease_token"), row.get("attempt_number"))).collect();
    claimed.sort_unstable();
    sqlx::query(
        "SELECT record_outcomes($1, $2, $3::text[]::delivery_status[], $4, $5, $6, array_fill(now(), ARRAY[$7]),
                array_fill(2, ARRAY[$7]), array_fill(200::smallint, ARRAY[$7]), $8, $8, array_fill('[]'::jsonb, ARRAY[$7]),
                array_fill('ok'::bytea, ARRAY[$7]), $6, $5, $1)",
    )
    .bind(claimed.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(claimed.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(vec!["succeeded"; rows])
    .bind(claimed.iter().map(|row| row.2).collect::<Vec<_>>())
    .bind(vec![None::<i64>; rows])
    .bind(vec![false; rows])
    .bind(i32::try_from(rows)?)
    .bind(vec![None::<String>; rows])
    .execute(pool)
    .await?;
    Ok(rows as u64)
}
