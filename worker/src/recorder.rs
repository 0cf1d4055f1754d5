//! Writes outcomes down, many in one transaction: all that arrived while the previous transaction was being committed,
//! and a moment longer. It decides nothing.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::Utc;
use postrider_core::{
    Error, Result,
    id::DeliveryId,
    queue::{self, Disposition, Report, observed::Recorded},
};
use sqlx::PgPool;
use tokio::sync::mpsc;

use crate::{counts, dispatcher::BACKSTOP, observers::Observers, places::Place, wake::Wake};

/// Outcomes that one transaction records, at most.
const RECORDS_PER_BATCH_MAX: usize = 256;
/// How long the first outcome of a batch waits for others. Only the delivery's place waits with it, nobody else; and
/// one transaction for two deliveries costs little more than for one.
const GATHERING: Duration = Duration::from_millis(20);
/// A batch of this size waits for no others, nor does one with an outcome for which other deliveries wait.
const GATHERED: usize = RECORDS_PER_BATCH_MAX / 2;
/// How long the recorder waits before it tries again after the database failed. Meanwhile the places of its outcomes
/// stay taken, so a worker without a database stops claiming by itself.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Records outcomes until all senders are gone. A place is given back once its outcome is written, or cannot be. Where
/// other deliveries waited for an outcome, and where a delivery is due again soon, the dispatcher is woken. What was
/// recorded is told to the observers.
pub async fn run(pool: PgPool, mut outcomes: mpsc::Receiver<(Report, Place)>, wake: Arc<Wake>, observers: Observers) {
    let mut waiting = Vec::with_capacity(RECORDS_PER_BATCH_MAX);
    while !waiting.is_empty() || outcomes.recv_many(&mut waiting, RECORDS_PER_BATCH_MAX).await > 0 {
        let is_awaited = |waiting: &[(Report, Place)]| waiting.iter().any(|(report, _)| report.is_awaited);
        if waiting.len() < GATHERED && !is_awaited(&waiting) {
            tokio::time::sleep(GATHERING).await;
            while waiting.len() < RECORDS_PER_BATCH_MAX
                && let Ok(next) = outcomes.try_recv()
            {
                waiting.push(next);
            }
        }
        let (batch, places): (Vec<_>, Vec<_>) = take_distinct(&mut waiting).into_iter().unzip();
        let started = Instant::now();
        persist(&pool, &batch, &observers).await;
        drop(places);
        if batch.iter().any(|report| report.is_awaited || is_due_soon(report)) {
            wake.ring(started.elapsed());
        }
    }
}

/// Whether the delivery is due again before the dispatcher, unless it is woken, looks for the next time.
fn is_due_soon(report: &Report) -> bool {
    matches!(report.disposition, Disposition::Retry { after, .. } if after < BACKSTOP)
}

/// Takes the first report of each delivery; further ones stay for the next batch. (There are two reports of one
/// delivery when this worker lost its lease and claimed it again.)
fn take_distinct(waiting: &mut Vec<(Report, Place)>) -> Vec<(Report, Place)> {
    let mut seen = HashSet::with_capacity(waiting.len());
    let (mut batch, later) = waiting.drain(..).partition::<Vec<_>, _>(|(record, _)| seen.insert(record.delivery_id));
    *waiting = later;
    // Rows that are close in time are then close on disk.
    batch.sort_unstable_by_key(|(record, _)| record.delivery_id);
    batch
}

/// Returns when the batch is written, or cannot be written for a reason that does not pass by itself.
async fn persist(pool: &PgPool, batch: &[Report], observers: &Observers) {
    loop {
        match record(pool, batch, observers).await {
            Ok(()) => return,
            Err(Error::Unavailable(_)) => tokio::time::sleep(RETRY_PAUSE).await,
            Err(error) if batch.len() == 1 => {
                // Its lease will expire, and the delivery will be attempted again.
                let delivery_id = DeliveryId(batch[0].delivery_id);
                tracing::error!(?error, %delivery_id, "an outcome could not be recorded");
                return;
            }
            Err(_) => {
                // One of the reports makes the statement fail; written alone, it harms no other.
                for one in batch {
                    Box::pin(persist(pool, std::slice::from_ref(one), observers)).await;
                }
                return;
            }
        }
    }
}

/// Writes a batch, tells the observers, and counts its results as metrics.
pub(crate) async fn record(pool: &PgPool, batch: &[Report], observers: &Observers) -> Result<()> {
    let started = Instant::now();
    let applied: HashSet<_> = queue::record(pool, batch).await?.into_iter().collect();
    metrics::histogram!("postrider_record_duration_seconds").record(started.elapsed());
    metrics::histogram!("postrider_record_batch_deliveries").record(u32::try_from(batch.len()).unwrap_or(u32::MAX));
    let now = Utc::now();
    for record in batch {
        let is_applied = applied.contains(&record.delivery_id);
        observers.ended(record, if is_applied { Recorded::Yes } else { Recorded::LeaseLost }, now);
        let delivery_id = DeliveryId(record.delivery_id);
        if !is_applied {
            metrics::counter!("postrider_leases_lost_total").increment(1);
            tracing::warn!(%delivery_id, attempt = record.attempt_number, "lease lost: this outcome changes nothing");
            continue;
        }
        let status = counts::recorded(record);
        tracing::debug!(%delivery_id, attempt = record.attempt_number, status, "recorded");
    }
    Ok(())
}
