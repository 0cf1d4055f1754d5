//! Making all deliveries that are due, in batches and until nothing is left: for tests, which do not wait.

use std::time::{Duration, Instant};

use postrider_core::{
    Result,
    delivery::{job::walk, outbox},
    emitter::{self, step::Step},
    queue::ClaimRequest,
};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{Worker, claims, payloads::Payload, recorder};

/// How often [`Worker::drain`] looks again for a lane that somebody else has locked.
const DRAIN_PATIENCE: u32 = 20;
const DRAIN_PAUSE: Duration = Duration::from_millis(5);

impl Worker {
    /// Makes all deliveries that are due now, in the same steps as [`Self::run`] but in batches: it fans out published
    /// events, makes the due steps of jobs and emitters, and every due attempt. Returns how many deliveries it
    /// attempted.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn drain(&self) -> Result<usize> {
        loop {
            let step = outbox::step(&self.fan_outs, &self.courier.cache, Uuid::nil()).await?;
            step.accepted.iter().for_each(|event| self.observers.tally.accept(event));
            if step.events == 0 {
                break;
            }
        }
        while walk::step(&self.fan_outs).await?.is_some() {}
        while let Step::Made(emission) = Box::pin(emitter::step::step(&self.fan_outs, &self.courier.cache)).await? {
            emission.accepted.iter().for_each(|event| self.observers.tally.accept(event));
        }
        let (mut done, mut patience) = (0, DRAIN_PATIENCE);
        loop {
            let rows_max = i32::try_from(self.config.concurrency).unwrap_or(i32::MAX);
            let look =
                ClaimRequest { lanes_max: 64.min(rows_max), rows_max, skip: Vec::new(), lanes_from: None, only: None };
            let claimed_at = Instant::now();
            let (claimed, next) = claims::claim(&self.claims, &look).await?;
            if claimed.is_empty() {
                // A lane may be due, but locked by another transaction for a moment.
                if next.wait() != Some(Duration::ZERO) || patience == 0 {
                    return Ok(done);
                }
                patience -= 1;
                tokio::time::sleep(DRAIN_PAUSE).await;
                continue;
            }
            done += claimed.len();
            let courier = &self.courier;
            let payloads = courier.payloads.read(&claimed).await;
            let attempts: JoinSet<_> = claimed
                .into_iter()
                .map(|claimed| {
                    let courier = courier.clone();
                    let payload = payloads.get(&claimed.event_id).cloned().unwrap_or(Payload::Later(None));
                    async move { courier.deliver(claimed, payload, claimed_at).await }
                })
                .collect();
            recorder::record(&self.records, &attempts.join_all().await, &self.observers).await?;
        }
    }
}
