//! Accepting events: the use cases for those who bring events. An event is posted to one subscription
//! ([`crate::accept::ingest`]), published to all subscriptions that want it ([`crate::accept::publish`]), or meant for
//! one URL ([`crate::accept::inline`]). What a producer says of an event is checked in one place
//! ([`crate::accept::event_input`]). This module does not know who may do so, nor through which API.
//!
//! Broken rules are reported under the names of the input's fields, and under `idempotency_key`. An API that calls a
//! field by another name renames it ([`crate::Error::renamed`]).

pub mod event_input;
pub mod ingest;
pub mod inline;
pub mod publish;
pub mod sample;

use sqlx::PgPool;

use crate::{
    event::{
        event_type::EventType,
        new_event::{KeptAnswer, NewEvent, Verdict},
    },
    id::{DeliveryId, EventId},
    queue::{accept::Accepted, intake::Intake},
    subscription::cache::SubscriptionCache,
    trust::{seal::Keyring, target_policy::TargetPolicy},
};

/// The field name under which a broken rule of an idempotency key is reported.
pub const KEY_FIELD: &str = "idempotency_key";

/// Accepts events from any API and stores them with the deliveries that they cause.
#[derive(Clone)]
pub struct Acceptor {
    /// Connections that look up whether an idempotency key is remembered.
    pub pool: PgPool,
    /// Connections that store inline deliveries, set up for [`crate::database::Session::Ingest`].
    pub inline: PgPool,
    /// The subscriptions in memory, and the events that each of them wants.
    pub cache: SubscriptionCache,
    /// The queue of the one writer that stores events in batches.
    pub intake: Intake,
    /// Seals the secrets of inline deliveries before they are stored.
    pub keyring: Keyring,
    /// Decides which addresses inline deliveries may be sent to.
    pub target_policy: TargetPolicy,
    /// Seconds for which idempotency keys are remembered.
    pub key_ttl_seconds: u32,
    /// Bytes of a payload, at most.
    pub payload_bytes_max: usize,
}

/// An idempotency key that came with a request, and the request that it stands for.
#[derive(Clone, Copy, Debug)]
pub struct RequestKey<'a> {
    /// The key's text, as the caller sent it.
    pub text: &'a str,
    /// The whole request, byte for byte: the key may be used again only with exactly the same request.
    pub asked: &'a [u8],
}

/// The way by which an event came to the api, a label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It was posted to one subscription.
    Ingest,
    /// It was published.
    Events,
    /// It was meant for one URL.
    Inline,
}

impl Source {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ingest => "ingest",
            Self::Events => "events",
            Self::Inline => "inline",
        }
    }
}

/// The answer to a producer whose event was accepted. It is the same when the event is sent again with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// The event's id; for a repeated event, the id that it got the first time.
    pub event_id: EventId,
    /// The event's type. A repeated event has the type that it had the first time, or else its key does not fit.
    pub event_type: EventType,
    /// Whether the event will be delivered.
    pub verdict: Verdict,
    /// The deliveries that the event caused.
    pub delivery_ids: Vec<DeliveryId>,
}

impl AcceptedEvent {
    /// The answer to the producer, if the event turns out to be new.
    fn if_new(event: &NewEvent, verdict: Verdict) -> Self {
        let event_type = event.event_type.clone();
        Self { event_id: event.id, event_type, verdict, delivery_ids: event.delivery_ids() }
    }

    /// The answer to the producer, now that it is known whether the event was new or repeated.
    fn told(self, accepted: Accepted, source: Source) -> Self {
        match accepted {
            Accepted::New => {
                metrics::counter!("postrider_events_accepted_total", "source" => source.as_str()).increment(1);
                self
            }
            Accepted::Repeated { event_id, answer: KeptAnswer { verdict, delivery_ids } } => {
                Self { event_id, event_type: self.event_type, verdict, delivery_ids }
            }
        }
    }
}
