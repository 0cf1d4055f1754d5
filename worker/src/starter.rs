//! What follows a claim: it reads the events and the subscriptions of the claimed deliveries together, and starts a
//! task for each delivery. Meanwhile the dispatcher may claim again.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use postrider_core::{
    hop,
    id::SubscriptionId,
    queue::{Claimed, Report},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::{
    deliver::Courier,
    payloads::Payload,
    places::{Place, Places},
};

/// Claims whose events are read at the same time, at most. Each further claim waits before it is made, so that no lease
/// runs down while its delivery waits for a reading.
pub const READINGS_MAX: u32 = 2;
/// How long a claim waits, at most, until the subscriptions of its deliveries are read together.
const TOGETHER_PATIENCE: Duration = Duration::from_millis(250);

/// Starts the deliveries of claims.
#[derive(Clone)]
pub struct Starter {
    courier: Courier,
    places: Arc<Places>,
    outcomes: mpsc::Sender<(Report, Place)>,
    tasks: TaskTracker,
    readings: Arc<Semaphore>,
}

/// The right to have the events of one claim read.
pub struct Reading {
    _permit: OwnedSemaphorePermit,
}

impl Starter {
    /// Starts tasks that take these places and send what comes of each delivery to `outcomes`.
    #[must_use]
    pub fn new(
        courier: Courier,
        places: Arc<Places>,
        outcomes: mpsc::Sender<(Report, Place)>,
        tasks: TaskTracker,
    ) -> Self {
        Self { courier, places, outcomes, tasks, readings: Arc::new(Semaphore::new(READINGS_MAX as usize)) }
    }

    /// Waits until the events of another claim may be read.
    pub async fn reading(&self) -> Reading {
        let permit = Arc::clone(&self.readings).acquire_owned().await;
        Reading { _permit: permit.expect("the semaphore is never closed") }
    }

    /// Takes the places of deliveries that were claimed at `claimed_at`, and starts them as soon as they are read.
    pub fn start(&self, claimed: Vec<Claimed>, claimed_at: Instant, reading: Reading) {
        if claimed.is_empty() {
            return;
        }
        let places: Vec<_> = claimed.iter().map(|claimed| self.places.take(claimed.lane_id)).collect();
        let this = self.clone();
        self.tasks.spawn(async move {
            let courier = &this.courier;
            let (payloads, ()) = tokio::join!(courier.payloads.read(&claimed), read_subscriptions(courier, &claimed));
            drop(reading);
            hop!("read", claimed.iter().map(|claimed| claimed.event_id));
            for (claimed, place) in claimed.into_iter().zip(places) {
                let payload = payloads.get(&claimed.event_id).cloned().unwrap_or(Payload::Later(None));
                let (courier, outcomes) = (courier.clone(), this.outcomes.clone());
                this.tasks.spawn(async move {
                    let report = courier.deliver(claimed, payload, claimed_at).await;
                    // The recorder ends only after all senders are gone, so sending succeeds.
                    let _ = outcomes.send((report, place)).await;
                });
            }
        });
    }
}

/// Reads the subscriptions of these deliveries together, where several are not in memory. Where that fails, each
/// delivery reads its own.
async fn read_subscriptions(courier: &Courier, claimed: &[Claimed]) {
    let ids: HashSet<_> = claimed.iter().filter_map(|claimed| claimed.subscription_id).collect();
    if ids.len() > 1 {
        let reading = courier.cache.prepare(ids.into_iter().map(SubscriptionId));
        if let Ok(Err(error)) = tokio::time::timeout(TOGETHER_PATIENCE, reading).await {
            tracing::warn!(%error, "the subscriptions of a claim could not be read together");
        }
    }
}
