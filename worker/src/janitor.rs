//! The janitor: duties that keep the database in order. Every worker has one. A lock in the database lets only one of
//! them do a duty at a time, and every duty is safe to do twice. The duties themselves are in the core.

use std::time::Duration;

use chrono::{Days, Utc};
use croner::Cron;
use postrider_core::{
    Result,
    access::audit,
    event::idempotency,
    queue,
    subscription::previous_secret,
    upkeep::{maintenance, partition},
};
use sqlx::PgPool;

use crate::config::Config;

/// How often missing partitions are created.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);
/// How often lanes that are due too late are looked for and repaired.
const LANES_EVERY: Duration = Duration::from_secs(60);
/// How often tables with many dead rows are vacuumed. With the server's default of a minute they outgrow memory.
const VACUUM_EVERY: Duration = Duration::from_secs(3);
/// How often expired idempotency keys and replaced secrets are removed.
const KEYS_EVERY: Duration = Duration::from_secs(60);
/// How often lanes are armed that were locked when somebody needed to arm them.
const NOTED_LANES_EVERY: Duration = Duration::from_secs(1);
/// How often the gauges of the queue are set.
const MEASURE_EVERY: Duration = Duration::from_secs(15);

/// Does all duties, for as long as the task lives.
pub async fn run(pool: PgPool, config: Config) {
    tokio::join!(
        every(PARTITIONS_EVERY, "partitions", &pool, look_after_partitions),
        every(LANES_EVERY, "lanes", &pool, |pool| async move { maintenance::repair_lanes(&pool).await.map(drop) }),
        every(VACUUM_EVERY, "vacuum", &pool, |pool| async move { maintenance::vacuum(&pool).await }),
        every(KEYS_EVERY, "idempotency keys", &pool, |pool| async move { idempotency::retire(&pool).await.map(drop) }),
        every(KEYS_EVERY, "secrets", &pool, |pool| async move { previous_secret::retire(&pool).await.map(drop) }),
        arm_noted_lanes(&pool),
        measure(&pool),
        retire_on_schedule(&pool, &config.retention_cron, config.retention_days),
    );
}

/// Does a duty at once, and then again after each pause.
async fn every<F: Future<Output = Result<()>>>(
    period: Duration,
    name: &str,
    pool: &PgPool,
    duty: impl Fn(PgPool) -> F,
) {
    loop {
        once(name, pool, duty(pool.clone())).await;
        tokio::time::sleep(period).await;
    }
}

/// Does a duty, unless another worker is doing it. If it fails, that is logged, and it is done again the next time.
async fn once(name: &str, pool: &PgPool, duty: impl Future<Output = Result<()>>) {
    if let Err(error) = maintenance::exclusively(pool, name, duty).await {
        tracing::warn!(?error, duty = name, "a background duty failed; it is tried again later");
    }
}

async fn look_after_partitions(pool: PgPool) -> Result<()> {
    partition::ensure(&pool).await?;
    partition::runway(&pool).await.map(drop)
}

/// This takes no lock: the notes are few, and no two workers handle the same one.
async fn arm_noted_lanes(pool: &PgPool) {
    loop {
        if let Err(error) = queue::arm_noted_lanes(pool).await {
            tracing::warn!(%error, "lanes that had been locked could not be armed; this is tried again");
        }
        tokio::time::sleep(NOTED_LANES_EVERY).await;
    }
}

/// This takes no lock, because every worker shows the same gauges.
async fn measure(pool: &PgPool) {
    loop {
        if let Err(error) = maintenance::measure(pool).await {
            tracing::warn!(?error, "the queue was not measured");
        }
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

/// Waits for each time in the schedule (UTC), and then drops the partitions that are older than the retention.
async fn retire_on_schedule(pool: &PgPool, schedule: &Cron, days: u32) {
    loop {
        let Ok(next) = schedule.find_next_occurrence(&Utc::now(), false) else {
            tracing::error!(%schedule, "the retention schedule has no future time");
            return std::future::pending().await;
        };
        tokio::time::sleep((next - Utc::now()).to_std().unwrap_or_default()).await;
        once("retention", pool, Box::pin(async { retire(pool, days).await.map(drop) })).await;
    }
}

/// Drops the partitions of days that lie more than `days` days back.
///
/// # Errors
/// When the database is away or a lock is not free in time.
pub async fn retire(pool: &PgPool, days: u32) -> Result<partition::Retired> {
    let oldest = Utc::now().date_naive() - Days::new(days.into());
    let retired = partition::retire(pool, oldest).await?;
    audit::retire(pool).await?;
    tracing::info!(dropped = ?retired.dropped, kept = ?retired.kept, %oldest, "retention done");
    Ok(retired)
}
