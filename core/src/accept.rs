//! Accepting events: the use cases of whoever brings them. An event is posted to one subscription
//! ([`crate::accept::ingest`]), published to all that want it ([`crate::accept::publish`]), or meant for one URL
//! ([`crate::accept::inline`]); what a producer says of it is checked in one place ([`crate::accept::event_input`]).
//! Who may do so, and by which API, is not known here.
//!
//! Broken rules are told with the names of the inputs' fields, and `idempotency_key`; an API that calls a field
//! otherwise renames them ([`crate::Error::renamed`]).

pub mod event_input;
pub mod ingest;
pub mod inline;
pub mod publish;

use sqlx::PgPool;

use crate::{
    event::new_event::{KeptAnswer, NewEvent, Verdict},
    id::{DeliveryId, EventId},
    queue::{accept::Accepted, intake::Intake},
    subscription::cache::SubscriptionCache,
    trust::{seal::Keyring, target_policy::TargetPolicy},
};

/// What a broken rule of an idempotency key is told of.
pub const KEY_FIELD: &str = "idempotency_key";

/// Accepts events.
#[derive(Clone)]
pub struct Acceptor {
    /// Tells which idempotency keys are remembered.
    pub pool: PgPool,
    /// Stores inline deliveries; of [`crate::database::Session::Ingest`].
    pub inline: PgPool,
    /// Knows the subscriptions and what they want.
    pub cache: SubscriptionCache,
    /// Stores events.
    pub intake: Intake,
    /// Seals the secrets of inline deliveries.
    pub keyring: Keyring,
    /// Says where inline deliveries may go.
    pub target_policy: TargetPolicy,
    /// Seconds for which idempotency keys are remembered.
    pub key_ttl_seconds: u32,
    /// Bytes of a payload, at most.
    pub payload_bytes_max: usize,
}

/// An idempotency key that came with a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestKey<'a> {
    /// Its text.
    pub text: &'a str,
    /// The whole request, byte for byte: with the same key, only the same may be asked again.
    pub asked: &'a [u8],
}

/// What a producer is told of an event that was accepted; the same when it is sent again with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptedEvent {
    /// The event's id.
    pub event_id: EventId,
    /// What happens with it.
    pub verdict: Verdict,
    /// The deliveries that it caused.
    pub delivery_ids: Vec<DeliveryId>,
}

impl AcceptedEvent {
    /// What is told of an event if it is new.
    fn if_new(event: &NewEvent, verdict: Verdict) -> Self {
        Self { event_id: event.id, verdict, delivery_ids: event.delivery_ids() }
    }

    /// What is told, now that it is known what became of the event.
    fn told(self, accepted: Accepted) -> Self {
        match accepted {
            Accepted::New => {
                metrics::counter!("postrider_events_accepted_total").increment(1);
                self
            }
            Accepted::Repeated { event_id, answer: KeptAnswer { verdict, delivery_ids } } => {
                Self { event_id, verdict, delivery_ids }
            }
        }
    }
}
