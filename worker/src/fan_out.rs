//! Does what the api leaves to be done: it makes deliveries of events that were published by SQL, the steps of jobs,
//! and the events of emitters. Every worker does all of it; row locks prevent two workers from taking the same. The
//! steps themselves are in the core.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use postrider_core::{
    database::{STEP_TIMEOUT, in_time},
    delivery::{job::walk, outbox},
    emitter::step::{Emission, Step, step},
    queue::{self, LATE, accept::LeftAlone},
    subscription::cache::SubscriptionCache,
    tally::Tally,
};
use sqlx::PgPool;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::wake::Wake;

/// How long a published event waits, at most, if its notification was lost.
const OUTBOX_BACKSTOP: Duration = Duration::from_secs(2);
/// How often the worker looks for jobs whose next step is due.
const JOBS_EVERY: Duration = Duration::from_millis(500);
/// How often the worker looks for emitters, at least: one that was just started waits no longer for its first event.
const EMITTERS_EVERY: Duration = Duration::from_millis(500);
/// How long to pause after the database failed.
const OUTAGE_PAUSE: Duration = Duration::from_millis(500);

/// How long the worker rests between two sweeps of the outbox, as a multiple of what the last one took.
const SWEEP_REST: u32 = 20;

/// How often waking the other workers is tried, where a lane is locked or the database is away.
const WAKE_TRIES_MAX: u32 = 20;
/// The pause before each further try.
const WAKE_RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Makes deliveries of published events, the steps of jobs, and the events of emitters.
#[derive(Clone)]
pub struct FanOut {
    pub(crate) pool: PgPool,
    pub(crate) cache: SubscriptionCache,
    /// Wakes this worker's dispatcher.
    pub(crate) wake: Arc<Wake>,
    /// Rung when an event was published by SQL.
    pub(crate) published: Arc<Notify>,
    /// Counts the events that were published by SQL.
    pub(crate) tally: Arc<Tally>,
}

/// How far along the outbox the steps have come: see [`outbox::step`]. Looks from the first event are sweeps.
struct Progress {
    from: Uuid,
    swept_at: Instant,
    sweep_took: Duration,
}

impl Progress {
    fn new() -> Self {
        Self { from: Uuid::nil(), swept_at: Instant::now(), sweep_took: Duration::ZERO }
    }

    /// Where the next look begins. Sweeps take a small share of the time, however long each takes. Usually that lets
    /// every look be one.
    fn next_from(&self) -> Uuid {
        if self.swept_at.elapsed() >= self.sweep_took * SWEEP_REST { Uuid::nil() } else { self.from }
    }

    fn came_to(&mut self, from: Uuid, step: &outbox::Step) {
        if from.is_nil() {
            (self.swept_at, self.sweep_took) = (Instant::now(), step.look);
        }
        self.from = step.first.unwrap_or(Uuid::max());
    }
}

impl FanOut {
    /// Fans out published events, for as long as the task lives.
    pub async fn publish(self) {
        let mut progress = Progress::new();
        loop {
            match self.publish_once(&mut progress).await {
                Ok(0) => {
                    let _ = tokio::time::timeout(OUTBOX_BACKSTOP, self.published.notified()).await;
                }
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(?error, "published events were not fanned out");
                    tokio::time::sleep(OUTAGE_PAUSE).await;
                }
            }
        }
    }

    async fn publish_once(&self, progress: &mut Progress) -> postrider_core::Result<usize> {
        let started = Instant::now();
        let from = progress.next_from();
        let step = in_time(STEP_TIMEOUT, outbox::step(&self.pool, &self.cache, from)).await?;
        progress.came_to(from, &step);
        step.accepted.iter().for_each(|event| self.tally.accept(event));
        if step.events > 0 {
            metrics::counter!("postrider_events_accepted_total", "source" => "sql").increment(step.events as u64);
            metrics::histogram!("postrider_fan_out_duration_seconds").record(started.elapsed());
            let took = started.elapsed();
            // Workers that were notified late look behind the place where they usually begin only if they are told so.
            let must_notify = step.must_notify || step.has_armed && took > LATE;
            self.wake_all(must_notify, took, step.left_alone).await;
        }
        Ok(step.events)
    }

    /// Wakes this worker directly, and the others through the database, if `armed` says that lanes were armed, or if
    /// one of the lanes that were left alone needs it. If that fails nothing is lost: the deliveries are stored, and
    /// the workers find them later.
    async fn wake_all(&self, mut armed: bool, took: Duration, left_alone: LeftAlone) {
        if !armed && left_alone.is_empty() {
            return;
        }
        if armed {
            self.wake.ring(took);
        }
        let mut unarmed: Vec<_> = left_alone.into_values().collect();
        for _ in 0..WAKE_TRIES_MAX {
            match queue::wake(&self.pool, armed, took, &unarmed).await {
                Ok(woken) if woken.locked.is_empty() => return,
                Ok(woken) => (armed, unarmed) = (false, woken.locked),
                Err(error) => tracing::warn!(%error, "the workers could not be woken"),
            }
            tokio::time::sleep(WAKE_RETRY_PAUSE).await;
        }
    }

    /// Makes the steps of jobs, for as long as the task lives.
    pub async fn work_on_jobs(self) {
        loop {
            match in_time(STEP_TIMEOUT, walk::step(&self.pool)).await {
                Ok(Some(step)) => {
                    let action = step.action.as_str();
                    metrics::counter!("postrider_job_deliveries_total", "action" => action).increment(step.done as u64);
                }
                Ok(None) => tokio::time::sleep(JOBS_EVERY).await,
                Err(error) => {
                    tracing::warn!(?error, "a step of a job failed");
                    tokio::time::sleep(OUTAGE_PAUSE).await;
                }
            }
        }
    }

    /// Makes the events of emitters, for as long as the task lives.
    pub async fn emit(self) {
        loop {
            let started = Instant::now();
            match in_time(STEP_TIMEOUT, Box::pin(step(&self.pool, &self.cache))).await {
                Ok(Step::Made(emission)) => self.tell_of(emission, started.elapsed()).await,
                Ok(Step::NoneDue(next)) => {
                    tokio::time::sleep(next.map_or(EMITTERS_EVERY, |next| next.min(EMITTERS_EVERY))).await;
                }
                Err(error) => {
                    tracing::warn!(?error, "a step of an emitter failed");
                    tokio::time::sleep(OUTAGE_PAUSE).await;
                }
            }
        }
    }

    /// Counts the events that an emitter has made, and wakes the workers for them.
    async fn tell_of(&self, emission: Emission, took: Duration) {
        if emission.accepted.is_empty() {
            return;
        }
        emission.accepted.iter().for_each(|event| self.tally.accept(event));
        metrics::counter!("postrider_events_accepted_total", "source" => "emitter")
            .increment(emission.accepted.len() as u64);
        self.wake_all(!emission.armed.is_empty(), took, emission.left_alone).await;
    }
}
