//! The life of a claimed delivery, from top to bottom: whether it is still wanted, the attempt, and what follows. No
//! database connection is held while the receiver is at work; the recorder writes down what follows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use postrider_core::{
    Error, Result,
    access::audit::Actor,
    database::{ANSWER_TIMEOUT, in_time},
    delivery::{
        destination::Destination,
        inline::{self, InlineDelivery},
    },
    event::trace_context::TraceContext,
    id::{DeliveryId, EventId, SubscriptionId},
    queue::{
        Claimed, Counts, Disposition, Report,
        attempt::{ErrorKind, Failure, Outcome},
        disable_reason::DisableReason,
        next_step::{Next, NextStep, is_hopeless, next_step, release_delay},
        observed::Subject,
        payload::ClaimedEvent,
    },
    subscription::{StateChange, Subscription, cache::SubscriptionCache, store::Subscriptions},
    trust::seal::Keyring,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use traces::{Span, Traces};

use crate::{
    counts,
    observers::Observers,
    pacer::Pacer,
    payloads::{HeldEvent, Payload, Payloads},
    sender::Sender,
    spans,
};

/// How soon a delivery is due again that could not be attempted through a fault of ours, the first time.
const OUR_FAULT_DELAY: Duration = Duration::from_secs(1);

/// How long a subscription's lane rests when its secret or a setting cannot be read, which seldom passes by itself.
const UNREADABLE_REST: Duration = Duration::from_secs(60);

/// Attempts deliveries; it holds everything that an attempt needs.
#[derive(Clone)]
pub struct Courier {
    /// Sends the requests.
    pub sender: Sender,
    /// The subscriptions in memory, which say where their deliveries go.
    pub cache: SubscriptionCache,
    /// Disables subscriptions whose receivers want no more deliveries.
    pub subscriptions: Subscriptions,
    /// Connections that read where inline deliveries go.
    pub pool: PgPool,
    /// Opens the secrets of inline deliveries.
    pub keyring: Keyring,
    /// The payloads in memory, and the means to read more.
    pub payloads: Payloads,
    /// Keeps attempts of lanes with a rate limit apart.
    pub pacer: Arc<Pacer>,
    /// Those who are told of each attempt.
    pub observers: Observers,
    /// Makes a span of each attempt, if traces are on.
    pub traces: Traces,
    /// Canceled when the time for attempts under way is over, because the worker stops.
    pub cut_off: CancellationToken,
}

impl Courier {
    /// Makes one attempt of a delivery that was claimed at `claimed_at`, unless there is a reason not to, and returns
    /// what the recorder must write down.
    pub async fn deliver(&self, claimed: Claimed, payload: Payload, claimed_at: Instant) -> Report {
        let mut subject = match &payload {
            Payload::Held(held) => Some(Subject::of(&held.event)),
            Payload::Later(_) | Payload::Gone => None,
        };
        let report = self.carry_out(claimed, payload, claimed_at, &mut subject).await;
        Report { subject, ..report }
    }

    /// The life of a delivery; `subject` becomes what the statistics need to know of it.
    async fn carry_out(
        &self,
        claimed: Claimed,
        payload: Payload,
        claimed_at: Instant,
        subject: &mut Option<Subject>,
    ) -> Report {
        let owner = match self.owner(&claimed).await {
            Ok(Some(owner)) => owner,
            Ok(None) => return claimed.report(None, Disposition::Canceled),
            Err(error) => return claimed.report(None, without_destination(&claimed, &error)),
        };
        let destination = owner.destination();
        let timeout = Duration::from_millis(destination.timeout_ms.into());
        let Ok(held) = self.held(&claimed, payload, time_left(&claimed, claimed_at).saturating_sub(timeout)).await
        else {
            return claimed.report(None, released(&claimed, OUR_FAULT_DELAY));
        };
        let event = held.as_ref().map(|held| &held.event);
        *subject = event.map(Subject::of).or_else(|| owner.subject());
        let expires_at = event.and_then(|event| event.expires_at);
        if expires_at.is_some_and(|expires_at| expires_at <= Instant::now()) {
            return claimed.report(None, Disposition::Canceled);
        }
        if is_hopeless(destination.retry_policy, claimed.attempt_in_round()) {
            return claimed.report(None, Disposition::DeadLetter { lane_rests: None });
        }
        if time_left(&claimed, claimed_at) <= timeout {
            return claimed.report(None, released(&claimed, OUR_FAULT_DELAY));
        }

        if let Some(not_before) = claimed.not_before {
            let begin = self.pacer.begin(claimed.lane_id, not_before, Instant::now());
            tokio::select! {
                () = tokio::time::sleep_until(begin.into()) => {}
                () = self.cut_off.cancelled() => return claimed.report(None, released(&claimed, Duration::ZERO)),
            }
        }
        counts::begins(&claimed, claimed_at);
        self.observers.begins(&claimed, subject.as_ref());
        let outcome = self.attempt(destination, &claimed, event, claimed_at).await;
        if let Some(kind) = outcome.failure.as_ref().map(|failure| failure.kind).filter(|kind| kind.is_our_fault()) {
            let after = if kind == ErrorKind::WorkerBusy { OUR_FAULT_DELAY } else { Duration::ZERO };
            return claimed.report(Some(outcome), released(&claimed, after));
        }
        let NextStep { next, disables } =
            next_step(destination.retry_policy, claimed.attempt_in_round(), &outcome, rand::random());
        if let (Some(reason), Owner::Subscription(subscription)) = (disables, &owner) {
            self.disable(subscription, reason).await;
        }
        let disposition = match next {
            Next::Done => {
                counts::succeeded(&claimed, event);
                Disposition::Succeeded
            }
            Next::Retry { after, lane_rests } => {
                // If the event expires before the next attempt, the delivery is due at that time, and is canceled then.
                let left = expires_at.map(|expires_at| expires_at.saturating_duration_since(Instant::now()));
                let after = left.map_or(after, |left| after.min(left));
                Disposition::Retry { after, lane_rests, counts: Counts::Yes }
            }
            Next::GiveUp { lane_rests } => Disposition::DeadLetter { lane_rests },
        };
        claimed.report(Some(outcome), disposition)
    }

    /// Who decides where the delivery goes; `None` where the subscription or the inline delivery is gone.
    async fn owner(&self, claimed: &Claimed) -> Result<Option<Owner>> {
        if let Some(id) = claimed.subscription_id {
            return Ok(self.cache.get(SubscriptionId(id)).await?.map(Owner::Subscription));
        }
        let inline = inline::get(&self.pool, &self.keyring, DeliveryId(claimed.delivery_id)).await?;
        Ok(inline.map(|inline| Owner::Inline(Box::new(inline))))
    }

    /// The event with its payload; `None` where the event does not exist any more.
    async fn held(&self, claimed: &Claimed, payload: Payload, within: Duration) -> Result<Option<Arc<HeldEvent>>> {
        match payload {
            Payload::Held(held) => Ok(Some(held)),
            Payload::Gone => Ok(None),
            Payload::Later(bytes) => {
                let read = self.payloads.read_one(claimed.event_id, bytes, within).await;
                read.inspect_err(|error| {
                    let delivery_id = DeliveryId(claimed.delivery_id);
                    tracing::warn!(%error, %delivery_id, "the event of a delivery could not be read");
                })
            }
        }
    }

    /// Makes the attempt of a delivery that was claimed at `claimed_at`, as a span of its event's trace where traces
    /// are on. It ends early where the worker stops.
    async fn attempt(
        &self,
        destination: Destination<'_>,
        claimed: &Claimed,
        event: Option<&ClaimedEvent>,
        claimed_at: Instant,
    ) -> Outcome {
        let span = spans::begin(&self.traces, claimed, destination, event);
        // Where no span is made, the receiver is told what the producer has told us.
        let trace = span.as_ref().map(Span::context).or_else(|| event.and_then(|event| event.trace.as_ref()));
        let outcome = tokio::select! {
            biased;
            outcome = self.send(destination, claimed, event, trace) => outcome,
            () = self.cut_off.cancelled() => cut_short(claimed_at),
        };
        log_attempt(claimed, trace, &outcome);
        if let Some(span) = span {
            spans::end(span, &outcome);
        }
        outcome
    }

    async fn send(
        &self,
        destination: Destination<'_>,
        claimed: &Claimed,
        event: Option<&ClaimedEvent>,
        trace: Option<&TraceContext>,
    ) -> Outcome {
        let Some(event) = event else {
            let failure = Failure::new(ErrorKind::PayloadGone, "the event has been removed");
            return Outcome { started_at: chrono::Utc::now(), failure: Some(failure), ..Outcome::default() };
        };
        let outcome = self.sender.send(destination, claimed, event, trace).await;
        counts::attempted(&outcome);
        outcome
    }

    /// Disables a subscription. Where that fails, its next attempt will meet the same answer.
    async fn disable(&self, subscription: &Subscription, reason: DisableReason) {
        let id = subscription.id;
        let set = self.subscriptions.set_state(Actor::Postrider, id, StateChange::DisableBecause(reason));
        match in_time(ANSWER_TIMEOUT, set).await {
            Ok(_) => tracing::info!(subscription_id = %id, %reason, "subscription disabled"),
            Err(error) => tracing::warn!(%error, subscription_id = %id, "the subscription was not disabled"),
        }
    }
}

/// Who decides where a delivery goes.
enum Owner {
    Subscription(Arc<Subscription>),
    Inline(Box<InlineDelivery>),
}

impl Owner {
    /// What the statistics need to know of a delivery whose event is gone. That of an inline delivery told its tenant.
    fn subject(&self) -> Option<Subject> {
        match self {
            Self::Subscription(subscription) => {
                Some(Subject { tenant_id: subscription.tenant_id.clone(), ..Subject::default() })
            }
            Self::Inline(_) => None,
        }
    }

    fn destination(&self) -> Destination<'_> {
        match self {
            Self::Subscription(subscription) => Destination::of(subscription),
            Self::Inline(inline) => inline.destination(),
        }
    }
}

/// How much of the lease is left. A worker that was suspended finds its leases lost, and must not send what another
/// worker is sending, so an attempt begins only if its whole timeout fits.
fn time_left(claimed: &Claimed, claimed_at: Instant) -> Duration {
    Duration::from_millis(claimed.lease_ms.unsigned_abs().into()).saturating_sub(claimed_at.elapsed())
}

/// Logs an attempt, for those who look closely.
fn log_attempt(claimed: &Claimed, trace: Option<&TraceContext>, outcome: &Outcome) {
    tracing::debug!(
        event_id = %EventId(claimed.event_id),
        delivery_id = %DeliveryId(claimed.delivery_id),
        subscription_id = claimed.subscription_id.map(|id| tracing::field::display(SubscriptionId(id))),
        trace_id = trace.map(TraceContext::trace_id),
        attempt = claimed.attempt_number,
        status_code = outcome.response.as_ref().map(|response| response.status_code),
        error_kind = outcome.failure.as_ref().map(|failure| failure.kind.as_str()),
        duration_ms = u64::try_from(outcome.duration.as_millis()).unwrap_or(u64::MAX),
        "an attempt was made"
    );
}

fn cut_short(claimed_at: Instant) -> Outcome {
    let duration = claimed_at.elapsed();
    let failure = Failure::new(ErrorKind::Shutdown, "the worker stopped before the receiver answered");
    Outcome { started_at: chrono::Utc::now() - duration, duration, failure: Some(failure), ..Outcome::default() }
}

/// The fate of a delivery that is given back through a fault of ours: it waits longer each time, from `first` on, and
/// is given up when that never ends.
fn released(claimed: &Claimed, first: Duration) -> Disposition {
    released_with_lane(claimed, first, None)
}

fn released_with_lane(claimed: &Claimed, first: Duration, lane_rests: Option<Duration>) -> Disposition {
    if let Some(after) = release_delay(claimed.releases, first) {
        return Disposition::Retry { after, lane_rests, counts: Counts::No };
    }
    let delivery_id = DeliveryId(claimed.delivery_id);
    tracing::error!(%delivery_id, releases = claimed.releases, "a delivery could never be attempted, and is given up");
    Disposition::DeadLetter { lane_rests: None }
}

/// The fate of a delivery whose destination could not be read. The subscription's other deliveries would meet the same
/// error, so its lane rests. An inline delivery has a destination of its own, so the others of its lane do not wait.
fn without_destination(claimed: &Claimed, error: &Error) -> Disposition {
    let delivery_id = DeliveryId(claimed.delivery_id);
    let subscription_id = claimed.subscription_id.map(SubscriptionId);
    let rest = if let Error::Unavailable(_) = error {
        tracing::warn!(%error, %delivery_id, "the destination of a delivery could not be read");
        OUR_FAULT_DELAY
    } else {
        tracing::error!(?error, %delivery_id, ?subscription_id, "a destination cannot be read: has a key been lost?");
        UNREADABLE_REST
    };
    released_with_lane(claimed, rest, subscription_id.map(|_| rest))
}
