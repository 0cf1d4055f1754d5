//! The life of a claimed delivery, top to bottom: is it still wanted, the attempt, what follows. Nothing here holds a
//! connection while the receiver is at work; what follows is written down by the recorder.

use std::time::{Duration, Instant};

use postrider_core::{
    Result,
    attempt::{ErrorKind, Failure, Outcome},
    id::SubscriptionId,
    queue::{Claimed, Counts, Disposition, Record},
    retry_policy::{Next, is_hopeless, next_step},
    subscription::{StateChange, Subscription, Subscriptions},
    subscription_cache::SubscriptionCache,
};
use tokio_util::sync::CancellationToken;

use crate::sender::Sender;

/// Why a subscription that answered 410 is disabled.
const GONE: &str = "the receiver answered 410 Gone";

/// How soon a delivery that could not be attempted for our own sake is due again.
const OUR_FAULT_DELAY: Duration = Duration::from_secs(1);

/// Everything an attempt needs.
#[derive(Clone)]
pub struct Courier {
    /// Makes the request.
    pub sender: Sender,
    /// Knows where it goes.
    pub cache: SubscriptionCache,
    /// Disables those who answer 410.
    pub subscriptions: Subscriptions,
    /// Canceled when what is in flight has had its time.
    pub cut_off: CancellationToken,
}

impl Courier {
    /// Makes one attempt of a delivery that was claimed at `claimed_at`, unless there is a reason not to, and says
    /// what becomes of it.
    pub async fn deliver(&self, claimed: Claimed, claimed_at: Instant) -> Record {
        let subscription = match self.cache.get(SubscriptionId(claimed.subscription_id)).await {
            Ok(Some(subscription)) => subscription,
            Ok(None) => return not_attempted(&claimed, Disposition::Canceled),
            Err(error) => {
                tracing::warn!(%error, subscription_id = %SubscriptionId(claimed.subscription_id), "subscription not read");
                // Whatever it is, the lane's others would meet it too.
                let after = OUR_FAULT_DELAY;
                return not_attempted(
                    &claimed,
                    Disposition::Retry { after, lane_rests: Some(after), counts: Counts::No },
                );
            }
        };
        let policy = &subscription.settings.retry_policy;
        if is_hopeless(policy, claimed.attempt_in_round()) {
            return not_attempted(&claimed, Disposition::DeadLetter { lane_rests: None });
        }
        if !has_time(&claimed, claimed_at, &subscription) {
            return not_attempted(&claimed, released(OUR_FAULT_DELAY));
        }

        let outcome = tokio::select! {
            biased;
            outcome = self.attempt(&subscription, &claimed) => outcome,
            () = self.cut_off.cancelled() => cut_short(claimed_at),
        };
        if outcome.failure.as_ref().is_some_and(|failure| failure.kind.is_our_fault()) {
            return record(&claimed, outcome, released(Duration::ZERO));
        }
        let disposition = match next_step(policy, claimed.attempt_in_round(), &outcome, rand::random()) {
            Next::Done => Disposition::Succeeded,
            Next::Retry { after, lane_rests } => Disposition::Retry { after, lane_rests, counts: Counts::Yes },
            Next::GiveUp { lane_rests } => Disposition::DeadLetter { lane_rests },
            Next::GiveUpAndDisable => {
                if let Err(error) = self.disable(&subscription).await {
                    tracing::warn!(%error, subscription_id = %subscription.id, "subscription not disabled");
                }
                Disposition::DeadLetter { lane_rests: None }
            }
        };
        record(&claimed, outcome, disposition)
    }

    async fn attempt(&self, subscription: &Subscription, claimed: &Claimed) -> Outcome {
        let Some(event) = &claimed.event else {
            let failure = Failure::new(ErrorKind::PayloadGone, "the event has been removed");
            return Outcome { started_at: chrono::Utc::now(), failure: Some(failure), ..Outcome::default() };
        };
        let outcome = self.sender.send(subscription, claimed, event).await;
        let result = outcome.failure.as_ref().map_or("success", |failure| failure.kind.as_str());
        metrics::counter!("postrider_delivery_attempts_total", "result" => result).increment(1);
        metrics::histogram!("postrider_delivery_attempt_duration_seconds").record(outcome.duration);
        outcome
    }

    async fn disable(&self, subscription: &Subscription) -> Result<()> {
        tracing::info!(subscription_id = %subscription.id, reason = GONE, "subscription disabled");
        self.subscriptions.set_state(subscription.id, StateChange::DisableBecause(GONE)).await.map(|_| ())
    }
}

/// Whether a whole attempt fits into what is left of the lease. A worker that was asleep finds its leases lost, and
/// should not send what another worker is sending.
fn has_time(claimed: &Claimed, claimed_at: Instant, subscription: &Subscription) -> bool {
    let lease = Duration::from_millis(claimed.lease_ms.unsigned_abs().into());
    claimed_at.elapsed() + Duration::from_millis(subscription.settings.timeout_ms.into()) < lease
}

fn cut_short(claimed_at: Instant) -> Outcome {
    let duration = claimed_at.elapsed();
    let failure = Failure::new(ErrorKind::Shutdown, "the worker stopped before the receiver answered");
    Outcome { started_at: chrono::Utc::now() - duration, duration, failure: Some(failure), ..Outcome::default() }
}

fn released(after: Duration) -> Disposition {
    Disposition::Retry { after, lane_rests: None, counts: Counts::No }
}

fn not_attempted(claimed: &Claimed, disposition: Disposition) -> Record {
    Record { outcome: None, ..record(claimed, Outcome::default(), disposition) }
}

fn record(claimed: &Claimed, outcome: Outcome, disposition: Disposition) -> Record {
    Record {
        delivery_id: claimed.delivery_id,
        lease_token: claimed.lease_token,
        lane_id: claimed.lane_id,
        subscription_id: claimed.subscription_id,
        attempt_number: claimed.attempt_number,
        outcome: Some(outcome),
        disposition,
    }
}
