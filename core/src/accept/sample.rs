//! A sample event for one subscription: somebody wants to see whether its receiver gets what is sent. It is stored and
//! delivered as any other event, whatever the subscription's patterns and filters say.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde_json::json;

use crate::{
    Error, Result,
    accept::{
        Acceptor,
        event_input::{EventInput, Rules},
    },
    event::{CONTENT_TYPE_JSON, event_type::EventTypePatterns, new_event::NewEvent},
    id::DeliveryId,
    queue::accept::Accepted,
    subscription::{State, Subscription},
};

/// The type of a sample where neither the caller nor the subscription names one.
pub const SAMPLE_TYPE_DEFAULT: &str = "postrider.sample";
/// The entry of the metadata by which a sample is told from other events.
pub const SAMPLE_METADATA: (&str, &str) = ("postrider_sample", "true");

/// What somebody wants to send as a sample.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// The event's type; where absent, the first one that the subscription names, where it names whole types only, or
    /// else [`SAMPLE_TYPE_DEFAULT`].
    pub event_type: Option<String>,
    /// The payload, which is JSON; one that says what it is where absent.
    pub payload: Option<Bytes>,
}

impl Acceptor {
    /// Stores a sample with its delivery to a subscription; returns the delivery.
    ///
    /// # Errors
    /// A broken rule; a conflict where the subscription is disabled; or unavailable.
    pub async fn sample(&self, subscription: &Subscription, sample: Sample, now: DateTime<Utc>) -> Result<DeliveryId> {
        let payload = sample.payload.unwrap_or_else(|| payload_of(subscription, now));
        let event_type = sample.event_type.unwrap_or_else(|| type_of(&subscription.settings.event_types));
        let input = EventInput {
            event_type: Some(event_type),
            metadata: [(SAMPLE_METADATA.0.to_owned(), SAMPLE_METADATA.1.to_owned())].into(),
            ..EventInput::new(subscription.tenant_id.clone(), CONTENT_TYPE_JSON.to_owned(), payload)
        };
        let rules = Rules { payload_bytes_max: self.payload_bytes_max, now, is_repeated: false };
        let event = addressed_to(subscription, input, rules)?;
        let delivery = event.delivery_ids().into_iter().next();
        match self.intake.accept(vec![event]).await?.first() {
            Some(Accepted::New) => delivery.ok_or_else(|| Error::internal("a sample has no delivery")),
            Some(Accepted::Repeated { .. }) | None => Err(Error::internal("a sample was not stored")),
        }
    }
}

/// An event with one delivery, to this subscription, whatever its patterns and filters say.
///
/// # Errors
/// A broken rule; a conflict where the subscription is disabled.
pub(crate) fn addressed_to(subscription: &Subscription, input: EventInput, rules: Rules) -> Result<NewEvent> {
    match subscription.state {
        State::Disabled => return Err(Error::Conflict("the subscription is disabled; enable it first".to_owned())),
        State::Active | State::Paused => {}
    }
    let mut event = NewEvent { posted_to: Some(subscription.id), ..input.parse(rules)? };
    event.deliver_to([subscription.id]);
    Ok(event)
}

/// The type of a sample for a subscription with these patterns: the first one, where they name whole types only.
#[must_use]
pub fn type_of(patterns: &EventTypePatterns) -> String {
    let named = patterns.exact().and_then(|exact| exact.first().map(|event_type| event_type.as_str().to_owned()));
    named.unwrap_or_else(|| SAMPLE_TYPE_DEFAULT.to_owned())
}

fn payload_of(subscription: &Subscription, now: DateTime<Utc>) -> Bytes {
    let text = json!({
        "message": "This is a sample, sent by somebody who wants to see whether it arrives.",
        "subscription_id": subscription.id.to_string(),
        "sent_at": now.to_rfc3339(),
    });
    text.to_string().into()
}
