//! The janitor: duties that keep the database in order. Every worker has one. A lock in the database lets only one of
//! them do a duty at a time, and every duty is safe to do twice. The duties themselves are in the core.

use std::time::Duration;

use chrono::{Days, Utc};
use postrider_core::{
    Result,
    access::{audit, portal_link},
    database::{ANSWER_TIMEOUT, in_time},
    delivery::dead_letter_notice,
    demo, emitter,
    event::idempotency,
    process::heartbeat,
    queue,
    stats::fold,
    subscription::{previous_secret, store::Subscriptions},
    upkeep::{archive::Archive, backlog, maintenance, partition, queue_size},
};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::{GENERAL_CONNECTIONS_MAX, config::Config};

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
/// How often the operator is told of new dead letters: at most one event for each subscription each time.
const DEAD_LETTERS_EVERY: Duration = Duration::from_secs(5);
/// How often demos are looked for whose time is over, to remove what they have made.
const DEMOS_EVERY: Duration = Duration::from_secs(5);
/// How often emitters are removed that have ended long ago.
const EMITTERS_EVERY: Duration = Duration::from_secs(600);
/// How often portal links that have ended are looked for, to remove those that are old.
const PORTAL_LINKS_EVERY: Duration = Duration::from_secs(600);
/// How often subscriptions that do nothing but fail are looked for, to warn the operator or to disable them.
const FAILING_EVERY: Duration = Duration::from_secs(60);
/// How often the sizes of the queue are measured and shown as gauges.
const MEASURE_EVERY: Duration = Duration::from_secs(15);
/// How often minutes of statistics are folded into hours.
const STATISTICS_EVERY: Duration = Duration::from_secs(60);
/// How often processes are forgotten that have been gone for long.
const PROCESSES_EVERY: Duration = Duration::from_secs(600);
/// How long a duty of short statements may take.
const DUTY_TIME_MAX: Duration = Duration::from_secs(90);
/// How long a long duty may take.
const LONG_DUTY_TIME_MAX: Duration = Duration::from_secs(3600);
/// The number of long duties: vacuuming, folding statistics, and retention. They wait for no other duty.
const LONG_DUTIES: usize = 3;

/// The name of the duty that drops old partitions, by which `worker retention` and the janitors keep out of each
/// other's way.
pub(crate) const RETENTION: &str = "retention";

/// Duties of short statements that are done at the same time, at most. A duty keeps one connection for its lock and
/// needs others for its work, so all duties together must leave connections free, or they would wait for each other.
const DUTIES_AT_ONCE_MAX: usize = 4;
/// Besides the locks of duties, one connection listens and one does the work.
const _: () = assert!(DUTIES_AT_ONCE_MAX + LONG_DUTIES + 2 <= GENERAL_CONNECTIONS_MAX as usize);

/// Does all duties, for as long as the task lives.
pub async fn run(pool: PgPool, config: Config) {
    let (turns, long_turns) = (Semaphore::new(DUTIES_AT_ONCE_MAX), Semaphore::new(LONG_DUTIES));
    let duty = |name, period| Duty { pool: &pool, name, period, time_max: DUTY_TIME_MAX, turns: &turns };
    let long = |name, period| Duty { time_max: LONG_DUTY_TIME_MAX, turns: &long_turns, ..duty(name, period) };
    let (vacuum, statistics) = (long("vacuum", VACUUM_EVERY), long("statistics", STATISTICS_EVERY));
    let subscriptions = &Subscriptions::new(pool.clone(), config.keyring.clone());
    tokio::join!(
        duty("partitions", PARTITIONS_EVERY).repeat(look_after_partitions),
        duty("lanes", LANES_EVERY).repeat(|pool| async { maintenance::repair_lanes(pool).await.map(drop) }),
        vacuum.repeat(maintenance::vacuum),
        duty("idempotency keys", KEYS_EVERY).repeat(|pool| async { idempotency::retire(pool).await.map(drop) }),
        duty("secrets", KEYS_EVERY).repeat(|pool| async { previous_secret::retire(pool).await.map(drop) }),
        duty("dead letters", DEAD_LETTERS_EVERY)
            .repeat(|pool| async { dead_letter_notice::publish(pool).await.map(drop) }),
        duty("failing subscriptions", FAILING_EVERY)
            .repeat(|_| async { subscriptions.look_after_failing().await.map(drop) }),
        duty("demos", DEMOS_EVERY).repeat(|_| async { demo::remove_ended(subscriptions).await.map(drop) }),
        duty("emitters", EMITTERS_EVERY).repeat(|pool| async { emitter::retire(pool).await.map(drop) }),
        duty("portal links", PORTAL_LINKS_EVERY).repeat(|pool| async { portal_link::retire(pool).await.map(drop) }),
        statistics.repeat(|pool| async { fold::fold(pool).await.map(drop) }),
        duty("processes", PROCESSES_EVERY).repeat(|pool| async { heartbeat::forget(pool).await.map(drop) }),
        every(NOTED_LANES_EVERY, || arm_noted_lanes(&pool)),
        every(MEASURE_EVERY, || async {
            duty("measuring", MEASURE_EVERY).once(queue_size::measure(&pool)).await;
            show_size(&pool).await;
        }),
        retire_on_schedule(long(RETENTION, Duration::ZERO), &config),
    );
}

/// A duty that one worker does at a time.
#[derive(Clone, Copy)]
struct Duty<'p> {
    pool: &'p PgPool,
    /// Names the duty's lock in the database.
    name: &'static str,
    /// The pause after each time.
    period: Duration,
    /// How long it may take before it is given up.
    time_max: Duration,
    /// How many duties of this kind are done at the same time.
    turns: &'p Semaphore,
}

impl<'p> Duty<'p> {
    /// Does the duty at once, and then again after each pause.
    async fn repeat<F: Future<Output = Result<()>>>(self, work: impl Fn(&'p PgPool) -> F) {
        every(self.period, || self.once(work(self.pool))).await;
    }

    /// Does the duty, unless another worker is doing it. If it fails, that is logged, and it is done again the next
    /// time.
    async fn once(self, work: impl Future<Output = Result<()>>) {
        let _turn = self.turns.acquire().await.expect("nobody closes it");
        if let Err(error) = maintenance::exclusively(self.pool, self.name, self.time_max, work).await {
            tracing::warn!(?error, duty = self.name, "a background duty failed; it is tried again later");
        }
    }
}

/// Does something at once, and then again after each pause.
async fn every<F: Future<Output = ()>>(period: Duration, work: impl Fn() -> F) {
    loop {
        work().await;
        tokio::time::sleep(period).await;
    }
}

async fn look_after_partitions(pool: &PgPool) -> Result<()> {
    partition::ensure(pool).await?;
    let dropped = partition::retire_statistics(pool, Utc::now().date_naive()).await?;
    if !dropped.is_empty() {
        tracing::info!(?dropped, "old statistics were dropped");
    }
    backlog::retire(pool).await?;
    partition::runway(pool).await.map(drop)
}

/// This takes no lock: the notes are few, and no two workers handle the same one.
async fn arm_noted_lanes(pool: &PgPool) {
    if let Err(error) = queue::arm_noted_lanes(pool).await {
        tracing::warn!(%error, "lanes that had been locked could not be armed; this is tried again");
    }
}

/// This takes no lock, because every worker shows the same gauges.
async fn show_size(pool: &PgPool) {
    if let Err(error) = in_time(ANSWER_TIMEOUT, queue_size::show(pool)).await {
        tracing::warn!(?error, "the size of the queue could not be read");
    }
}

/// Waits for each time in the schedule (UTC), and then drops the partitions that are older than the retention.
async fn retire_on_schedule(duty: Duty<'_>, config: &Config) {
    let Some(schedule) = &config.retention_cron else { return };
    let work = || async { retire(duty.pool, config.retention_days, config.archive.as_ref()).await.map(drop) };
    loop {
        let Ok(next) = schedule.find_next_occurrence(&Utc::now(), false) else {
            tracing::error!(%schedule, "the retention schedule has no future time");
            return std::future::pending().await;
        };
        tokio::time::sleep((next - Utc::now()).to_std().unwrap_or_default()).await;
        Box::pin(duty.once(Box::pin(work()))).await;
    }
}

/// Drops the partitions of days that lie more than `days` days back, after it has archived them where there is an
/// archive.
///
/// # Errors
/// When the database is away or a lock is not free in time.
pub async fn retire(pool: &PgPool, days: u32, archive: Option<&Archive>) -> Result<partition::Retired> {
    let oldest = Utc::now().date_naive() - Days::new(days.into());
    let retired = partition::retire(pool, oldest, archive).await?;
    audit::retire(pool).await?;
    let failed: Vec<_> = retired.failed.iter().map(ToString::to_string).collect();
    tracing::info!(dropped = ?retired.dropped, kept = ?retired.kept, ?failed, %oldest, "retention done");
    Ok(retired)
}
