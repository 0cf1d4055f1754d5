//! An event that is about to be stored, with the deliveries that it causes and its idempotency key. Events reach the
//! database in this form only, whichever way they came; a producer's input is checked in
//! [`crate::accept::event_input`].

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{
    Error, Result,
    event::{
        audience::{Audience, Facts},
        content_encoding::ContentEncoding,
        event_type::EventType,
        idempotency::Fingerprint,
        metadata::Metadata,
        trace_context::TraceContext,
    },
    id::{DeliveryId, EventId, SubscriptionId},
    tally::AcceptedEvent,
};

/// Deliveries that one request may cause, at most: as many as one ingest transaction can store within its time limit.
pub const DELIVERIES_PER_REQUEST_MAX: usize = 25_000;
/// Bytes of a UUID, the form of ids in a stored answer.
const ID_BYTES: usize = 16;

/// An event that is about to be stored, with everything that it causes.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The event's id, which the deliveries made with it share in part.
    pub id: EventId,
    /// The tenant whose event it is.
    pub tenant_id: String,
    /// The type by which subscriptions choose events.
    pub event_type: EventType,
    /// The subscription to which the event was posted; `None` where it was published or is inline.
    pub posted_to: Option<SubscriptionId>,
    /// The payload's content type; a valid header value.
    pub content_type: String,
    /// How the payload was packed before it was posted; `None` where it was not.
    pub content_encoding: Option<ContentEncoding>,
    /// The payload, byte for byte as it arrived.
    pub payload: Bytes,
    /// The producer's notes on the event.
    pub metadata: Metadata,
    /// The producer's own id for the event, if it gave one.
    pub external_id: Option<String>,
    /// Events with the same ordering key are to be delivered in order.
    pub ordering_key: Option<String>,
    /// When the event's deliveries are due; `None` means at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// When deliveries that have not succeeded are canceled; `None` means never.
    pub expires_at: Option<DateTime<Utc>>,
    /// The trace to which the event belongs, if it belongs to one.
    pub trace: Option<TraceContext>,
    /// The key by which a repeated event is recognized, if there is one.
    pub key: Option<EventKey>,
    /// The deliveries that the event causes.
    pub deliveries: Vec<NewDelivery>,
}

/// The idempotency key of an event.
#[derive(Clone, Debug)]
pub struct EventKey {
    /// The key in its stored form, from [`crate::event::idempotency::key`].
    pub text: String,
    /// The fingerprint of the request, so that a different request with the same key is refused.
    pub fingerprint: Fingerprint,
    /// How the event is accepted. It is stored with the key, so that a repeated request gets the same answer.
    pub verdict: Verdict,
}

/// A delivery that is about to be stored with its event.
#[derive(Clone, Copy, Debug)]
pub struct NewDelivery {
    /// The delivery's id, which begins like its event's.
    pub id: DeliveryId,
    /// The subscription to which the event is delivered.
    pub subscription_id: SubscriptionId,
}

/// Whether a stored event will be delivered. A published event is always pending, even if no subscription wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event will be delivered.
    Pending,
    /// The subscription to which the event was posted does not want it.
    Filtered,
    /// The subscription to which the event was posted is disabled.
    Disabled,
    /// The subscription to which the event was posted has a filter that cannot read the payload, so the event will not
    /// be delivered.
    Unreadable,
}

impl Verdict {
    /// The first byte of a stored answer.
    const fn byte(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Filtered => 1,
            Self::Disabled => 2,
            Self::Unreadable => 3,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Pending),
            1 => Some(Self::Filtered),
            2 => Some(Self::Disabled),
            3 => Some(Self::Unreadable),
            _ => None,
        }
    }
}

/// The answer to a producer, as it is stored with the event's key: the verdict and the ids of the deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// Whether the event will be delivered.
    pub verdict: Verdict,
    /// The deliveries that the event caused.
    pub delivery_ids: Vec<DeliveryId>,
}

impl KeptAnswer {
    /// The form in which the answer is stored.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let ids = self.delivery_ids.iter().flat_map(|id| *id.0.as_bytes());
        std::iter::once(self.verdict.byte()).chain(ids).collect()
    }

    /// Parses a stored answer; `None` where the bytes are not one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (verdict, ids) = bytes.split_first()?;
        let ids = ids.chunks_exact(ID_BYTES).filter_map(|id| uuid::Uuid::from_slice(id).ok());
        Some(Self { verdict: Verdict::from_byte(*verdict)?, delivery_ids: ids.map(DeliveryId).collect() })
    }
}

impl NewEvent {
    /// A new event with a fresh id, which causes no delivery yet. The caller fills in the other fields.
    #[must_use]
    pub fn new(tenant_id: String, event_type: EventType, content_type: String, payload: Bytes) -> Self {
        Self {
            id: EventId::new(),
            tenant_id,
            event_type,
            posted_to: None,
            content_type,
            content_encoding: None,
            payload,
            metadata: Metadata::default(),
            external_id: None,
            ordering_key: None,
            deliver_at: None,
            expires_at: None,
            trace: None,
            key: None,
            deliveries: Vec::new(),
        }
    }

    /// The parts of the event that filters check.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts::new(&self.event_type, &self.metadata, &self.payload, self.content_encoding.as_ref())
    }

    /// Sets the event's deliveries: one to each of these subscriptions.
    pub fn deliver_to(&mut self, subscriptions: impl IntoIterator<Item = SubscriptionId>) {
        let delivery = |subscription_id| NewDelivery { id: DeliveryId::of(self.id), subscription_id };
        self.deliveries = subscriptions.into_iter().map(delivery).collect();
        self.deliveries.sort_unstable_by_key(|delivery| delivery.id);
    }

    /// Sets the event's deliveries: one to each subscription in the audience that wants the event. `caused` is the
    /// number of deliveries that the request has caused already.
    ///
    /// # Errors
    /// When the request would cause more than [`DELIVERIES_PER_REQUEST_MAX`].
    pub fn fan_out(&mut self, audience: &Audience, caused: usize) -> Result<()> {
        let (wanting, verdicts) = audience.judge(&self.facts(), DELIVERIES_PER_REQUEST_MAX + 1);
        verdicts.count();
        if caused + wanting.len() > DELIVERIES_PER_REQUEST_MAX {
            return Err(Error::TooLarge(format!(
                "a request may cause at most {DELIVERIES_PER_REQUEST_MAX} deliveries; post fewer events at once"
            )));
        }
        self.deliver_to(wanting);
        Ok(())
    }

    /// The event as the statistics see it.
    pub(crate) fn counted(&self) -> AcceptedEvent {
        AcceptedEvent {
            id: self.id.0,
            tenant_id: self.tenant_id.clone(),
            event_type: self.event_type.as_str().to_owned(),
            payload_bytes: self.payload.len() as u64,
        }
    }

    /// The ids of the deliveries that the event causes.
    #[must_use]
    pub fn delivery_ids(&self) -> Vec<DeliveryId> {
        self.deliveries.iter().map(|delivery| delivery.id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_was_kept() {
        let verdicts =
            [(0, Verdict::Pending), (1, Verdict::Filtered), (2, Verdict::Disabled), (3, Verdict::Unreadable)];
        for (byte, verdict) in verdicts {
            let delivery_ids = vec![DeliveryId::new(), DeliveryId::new()];
            let kept = KeptAnswer { verdict, delivery_ids };
            assert_eq!(kept.to_bytes()[0], byte, "what is stored stays readable");
            assert_eq!(KeptAnswer::from_bytes(&kept.to_bytes()), Some(kept));
        }
        assert_eq!(KeptAnswer::from_bytes(&[]), None);
        assert_eq!(KeptAnswer::from_bytes(&[4]), None, "not one of ours");
    }
}
