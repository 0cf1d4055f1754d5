//! The most that the database can do: the statements of api and worker, with no process of Postrider around them.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use anyhow::Result;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::load::{PAYLOAD_BYTES, payload};

/// Each statement works on this many rows.
const BATCH: usize = 200;
/// The full cycle of insert, claim and record is measured for this long.
const CYCLE: Duration = Duration::from_secs(8);
/// The latency of a commit is the median of this many commits, or of fewer where these would take longer than that.
const COMMITS: usize = 500;
const COMMITS_SECONDS: u32 = 5;

/// What the database can do without Postrider's processes.
#[derive(Clone, Copy, Debug)]
pub struct Ceiling {
    /// Rows a second that are inserted, claimed and recorded, with all three at work at the same time.
    pub cycle_rows_per_second: f64,
    /// The median time of a single-row insert with its commit, in milliseconds.
    pub commit_ms: f64,
}

/// Measures the ceiling of this database.
///
/// # Errors
/// When a statement fails.
pub async fn measure(pool: &PgPool) -> Result<Ceiling> {
    let lane = Uuid::now_v7();
    sqlx::query("INSERT INTO lanes (id, subscription_id, lease_ms) VALUES ($1, $1, 35000)")
        .bind(lane)
        .execute(pool)
        .await?;
    let commit_ms = commit_ms(pool, None).await?;

    let (stop, stored, finished) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let started = Instant::now();
    let produce = async {
        while started.elapsed() < CYCLE {
            // The producer stays at most ten batches ahead of the consumer, so the backlog does not grow during the
            // measurement.
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
        commit_ms,
    })
}

/// The median time of a single-row insert with its commit, in milliseconds: of one after the other, or of so many a
/// second. The second takes longer, because processor and caches have turned to something else in between.
///
/// # Errors
/// When a statement fails.
pub async fn commit_ms(pool: &PgPool, rate: Option<u32>) -> Result<f64> {
    let mut pace = rate.map(|rate| tokio::time::interval(Duration::from_secs(1) / rate));
    let count = rate.map_or(COMMITS, |rate| COMMITS.min((rate * COMMITS_SECONDS) as usize));
    let mut commits = Vec::with_capacity(count);
    for _ in 0..count {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
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
    Ok(super::load::quantile_ms(&commits, 0.5))
}

/// Stores `rows` events with one delivery each.
///
/// # Errors
/// When the statement fails.
pub async fn accept(pool: &PgPool, lane: Uuid, rows: usize) -> Result<()> {
    let events: Vec<_> = (0..rows).map(|_| Uuid::now_v7()).collect();
    let deliveries: Vec<_> = (0..rows).map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        "SELECT accept(
                ARRAY(SELECT ROW(i.id, 'bench', 'bench.event', $3, false, 'application/json', NULL, $4, NULL, NULL,
                                 NULL, NULL, NULL, NULL, NULL)::new_event FROM unnest($1) AS i (id)),
                ARRAY(SELECT ROW(i.id, i.event_id, 'bench', $3, $3, NULL, NULL, NULL)::new_delivery
                        FROM unnest($2, $1) AS i (id, event_id)),
                '{}', 0, false, false)",
    )
    .bind(&events)
    .bind(&deliveries)
    .bind(lane)
    .bind("x".repeat(PAYLOAD_BYTES).as_bytes())
    .execute(pool)
    .await?;
    Ok(())
}

/// Claims what is due, reads its payloads, and records it as succeeded; answers the number of rows.
async fn cycle(pool: &PgPool) -> Result<u64> {
    let claimed = sqlx::query(
        "SELECT delivery_id, event_id, lease_token, attempt_number FROM claim(64, $1, '{}', '-infinity', NULL)
          WHERE delivery_id IS NOT NULL",
    )
    .bind(i32::try_from(2 * BATCH)?)
    .fetch_all(pool)
    .await?;
    let rows = claimed.len();
    if rows == 0 {
        tokio::time::sleep(Duration::from_micros(500)).await;
        return Ok(0);
    }
    let events: Vec<Uuid> = claimed.iter().map(|row| row.get("event_id")).collect();
    sqlx::query(
        "SELECT e.payload FROM unnest($1) AS i (id)
          CROSS JOIN LATERAL (SELECT x.payload FROM events x WHERE x.id = i.id OFFSET 0) e",
    )
    .bind(events)
    .fetch_all(pool)
    .await?;
    let mut claimed: Vec<(Uuid, i64, i32)> =
        claimed.iter().map(|row| (row.get("delivery_id"), row.get("lease_token"), row.get("attempt_number"))).collect();
    claimed.sort_unstable();
    sqlx::query(
        "SELECT record_outcomes(ARRAY(
                SELECT ROW(i.id, i.token, $4, 'succeeded', NULL, NULL, false, false, i.number, now(), 2, 200, NULL,
                           NULL, '[]', 'ok', false, 150, 90, NULL, 1800, 2000, '127.0.0.1',
                           false)::outcome
                  FROM unnest($1, $2, $3) AS i (id, token, number)))",
    )
    .bind(claimed.iter().map(|row| row.0).collect::<Vec<_>>())
    .bind(claimed.iter().map(|row| row.1).collect::<Vec<_>>())
    .bind(claimed.iter().map(|row| row.2).collect::<Vec<_>>())
    .bind(None::<Uuid>)
    .execute(pool)
    .await?;
    Ok(rows as u64)
}
