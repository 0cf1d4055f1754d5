//! The janitor: duties that keep the database in order. Every worker has one; a lock in the database sees to it that
//! only one of them does a duty at a time, and every duty is safe to do twice. What a duty does stands in the core.

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

/// How often partitions are looked after.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);
/// How often lanes are checked.
const LANES_EVERY: Duration = Duration::from_secs(60);
/// How often the hot tables are vacuumed where they need it: with the server's default of a minute they outgrow memory.
const VACUUM_EVERY: Duration = Duration::from_secs(3);
/// How often expired idempotency keys and replaced secrets are removed.
const KEYS_EVERY: Duration = Duration::from_secs(60);
/// How often lanes are armed that were locked when something was to be noted in them.
const NOTED_LANES_EVERY: Duration = Duration::from_secs(1);
/// How often the queue is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(15);

/// Does all duties for as long as the task lives.
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

/// Does a duty now and then again and again.
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

/// Does a duty unless another worker is at it. One that fails is logged and comes again.
async fn once(name: &str, pool: &PgPool, duty: impl Future<Output = Result<()>>) {
    if let Err(error) = maintenance::exclusively(pool, name, duty).await {
        tracing::warn!(?error, duty = name, "a duty failed");
    }
}

async fn look_after_partitions(pool: PgPool) -> Result<()> {
    partition::ensure(&pool).await?;
    partition::runway(&pool).await.map(drop)
}

/// Not exclusive: the notes are few, and no two workers take the same.
async fn arm_noted_lanes(pool: &PgPool) {
    loop {
        if let Err(error) = queue::arm_noted_lanes(pool).await {
            tracing::warn!(%error, "lanes that were locked have not been armed yet");
        }
        tokio::time::sleep(NOTED_LANES_EVERY).await;
    }
}

/// Not exclusive: every worker shows the same gauges.
async fn measure(pool: &PgPool) {
    loop {
        if let Err(error) = maintenance::measure(pool).await {
            tracing::warn!(?error, "the queue was not measured");
        }
        tokio::time::sleep(MEASURE_EVERY).await;
    }
}

/// Waits for each moment that the schedule names (UTC) and drops the partitions that have outlived the retention.
async fn retire_on_schedule(pool: &PgPool, schedule: &Cron, days: u32) {
    loop {
        let Ok(next) = schedule.find_next_occurrence(&Utc::now(), false) else {
            tracing::error!(%schedule, "the retention schedule names no moment to come");
            return std::future::pending().await;
        };
        tokio::time::sleep((next - Utc::now()).to_std().unwrap_or_default()).await;
        once("retention", pool, Box::pin(async { retire(pool, days).await.map(drop) })).await;
    }
}

/// Drops what is older than so many days.
///
/// # Errors
/// When the database is away or a lock cannot be had.
pub async fn retire(pool: &PgPool, days: u32) -> Result<partition::Retired> {
    let oldest = Utc::now().date_naive() - Days::new(days.into());
    let retired = partition::retire(pool, oldest).await?;
    audit::retire(pool).await?;
    tracing::info!(dropped = ?retired.dropped, kept = ?retired.kept, %oldest, "retention done");
    Ok(retired)
}
