//! How the statistics see a report: its class, and the facts of its delivery.

use chrono::{DateTime, Utc};

use crate::{
    live::{Topic, sample::Sighting},
    queue::{Disposition, Report, attempt::ErrorKind, payload::ClaimedEvent},
    tally::{Observed, ObservedAttempt, class::Class},
};

/// The word in the log of attempts for a lease that ran out before its outcome was recorded.
pub const LEASE_LOST: &str = "lease_lost";

/// What the statistics need to know of a delivery besides its outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// The tenant whose delivery it is.
    pub tenant_id: String,
    /// The type of the event; empty where the event is gone.
    pub event_type: String,
    /// When the event was to be delivered; `None` means at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// Bytes of the event's payload.
    pub payload_bytes: u64,
}

impl Subject {
    /// The facts of a delivery of this event.
    #[must_use]
    pub fn of(event: &ClaimedEvent) -> Self {
        Self {
            tenant_id: event.tenant_id.clone(),
            event_type: event.event_type.clone(),
            deliver_at: event.deliver_at,
            payload_bytes: event.payload.len() as u64,
        }
    }
}

/// The class of an attempt: `kind` is `None` for a success, `status_code` where no answer arrived.
#[must_use]
pub fn class_of(kind: Option<ErrorKind>, status_code: Option<u16>) -> Class {
    match kind {
        None => Class::Succeeded,
        Some(ErrorKind::HttpStatus) => status_code.map_or(Class::HttpOther, Class::of_status),
        Some(ErrorKind::Timeout) => Class::Timeout,
        Some(ErrorKind::Dns) => Class::Dns,
        Some(ErrorKind::Connect) => Class::Connect,
        Some(ErrorKind::Tls) => Class::Tls,
        Some(ErrorKind::BlockedTarget) => Class::BlockedTarget,
        Some(ErrorKind::Protocol) => Class::Protocol,
        Some(ErrorKind::Shutdown | ErrorKind::WorkerBusy) => Class::Interrupted,
        Some(ErrorKind::PayloadGone) => Class::PayloadGone,
        Some(ErrorKind::Aborted) => Class::Aborted,
    }
}

/// Whether a report was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It was.
    Yes,
    /// Its lease had been lost, so it changed nothing.
    LeaseLost,
}

impl Report {
    /// The report as the statistics see it. `now` counts where no attempt was made.
    #[must_use]
    pub fn observed(&self, recorded: Recorded, now: DateTime<Utc>) -> Observed<'_> {
        let subject = self.subject.as_ref();
        let attempt = self.outcome.as_ref().map(|outcome| {
            let status_code = outcome.response.as_ref().map(|response| response.status_code);
            let class = class_of(outcome.failure.as_ref().map(|failure| failure.kind), status_code);
            ObservedAttempt {
                class,
                number: self.attempt_number,
                started_at: outcome.started_at,
                duration_ms: Some(i32::try_from(outcome.duration.as_millis()).unwrap_or(i32::MAX)),
                status_code: status_code.map(|status| i16::try_from(status).unwrap_or(i16::MAX)),
                deliver_at: subject.and_then(|subject| subject.deliver_at),
                payload_bytes: subject.map_or(0, |subject| subject.payload_bytes),
            }
        });
        let (attempt, end) = match recorded {
            Recorded::Yes => (attempt, self.end()),
            // The attempt is logged as one whose outcome nobody knows.
            Recorded::LeaseLost => {
                let lost = |attempt| ObservedAttempt {
                    class: Class::LeaseLost,
                    duration_ms: None,
                    status_code: None,
                    ..attempt
                };
                (attempt.map(lost), None)
            }
        };
        Observed {
            tenant_id: subject.map(|subject| subject.tenant_id.as_str()),
            subscription_id: self.subscription_id,
            delivery_id: self.delivery_id,
            attempt,
            end,
            now,
        }
    }

    /// The report as those see it who watch; `None` where it is of no interest to them.
    #[must_use]
    pub fn sighting(&self) -> Option<Sighting<'_>> {
        let outcome = self.outcome.as_ref();
        let topic = match self.disposition {
            Disposition::Succeeded => Topic::Succeeded,
            Disposition::Retry { .. } if outcome.is_some() => Topic::Failed,
            Disposition::DeadLetter { .. } => Topic::DeadLetter,
            Disposition::Retry { .. } | Disposition::Canceled => return None,
        };
        let subject = self.subject.as_ref();
        Some(Sighting {
            topic,
            delivery_id: self.delivery_id,
            event_id: self.event_id,
            subscription_id: self.subscription_id,
            tenant_id: subject.map_or("", |subject| &subject.tenant_id),
            event_type: subject.map_or("", |subject| &subject.event_type),
            attempt: Some(self.attempt_number),
            status_code: outcome.and_then(|outcome| outcome.response.as_ref()).map(|response| response.status_code),
            error_kind: outcome.and_then(|outcome| outcome.failure.as_ref()).map(|failure| failure.kind.as_str()),
            duration: outcome.map(|outcome| outcome.duration),
        })
    }

    fn end(&self) -> Option<Class> {
        match self.disposition {
            Disposition::Succeeded | Disposition::Retry { .. } => None,
            Disposition::DeadLetter { .. } => Some(Class::DeadLetter),
            Disposition::Canceled => Some(Class::Canceled),
        }
    }
}
