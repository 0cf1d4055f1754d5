//! An event about to be stored, with the deliveries it causes and the key by which it is recognized. This is the one
//! form in which events reach the database, whoever brings them; what a producer says is checked in
//! [`crate::accept::event_input`].

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::{
    Error, Result,
    event::{
        audience::{Audience, Facts},
        event_type::EventType,
        idempotency::Fingerprint,
        metadata::Metadata,
    },
    id::{DeliveryId, EventId, SubscriptionId},
};

/// Deliveries that one request may cause, at most: what one transaction of ingest can store in its time.
pub const DELIVERIES_PER_REQUEST_MAX: usize = 25_000;
/// Bytes of a UUID, as ids stand in a kept answer.
const ID_BYTES: usize = 16;

/// An event about to be accepted, with all that it causes.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its id.
    pub id: EventId,
    /// The tenant whose event it is.
    pub tenant_id: String,
    /// Its type.
    pub event_type: EventType,
    /// The subscription it was posted to, where it was posted to one.
    pub posted_to: Option<SubscriptionId>,
    /// The payload's content type; a valid header value.
    pub content_type: String,
    /// The payload, byte for byte as it arrived.
    pub payload: Bytes,
    /// Its producer's notes.
    pub metadata: Metadata,
    /// Its producer's own id for it.
    pub external_id: Option<String>,
    /// Events with the same ordering key are to be kept in order.
    pub ordering_key: Option<String>,
    /// When its deliveries are due; `None` for at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// The moment at which deliveries that have not succeeded are canceled.
    pub expires_at: Option<DateTime<Utc>>,
    /// The key by which it is recognized when it comes again.
    pub key: Option<EventKey>,
    /// The deliveries it causes.
    pub deliveries: Vec<NewDelivery>,
}

/// An idempotency key of an event.
#[derive(Clone, Debug)]
pub struct EventKey {
    /// The key, from [`crate::event::idempotency::key`].
    pub text: String,
    /// The fingerprint of what was asked.
    pub fingerprint: Fingerprint,
    /// What is answered, besides the ids of the event and its deliveries.
    pub verdict: Verdict,
}

/// A delivery about to be accepted with its event.
#[derive(Clone, Copy, Debug)]
pub struct NewDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// The subscription to which the event is delivered.
    pub subscription_id: SubscriptionId,
}

/// What happens with an event that is stored. A published event is always pending, whether somebody wants it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It will be delivered.
    Pending,
    /// The subscription it was posted to does not want it.
    Filtered,
    /// The subscription it was posted to is disabled.
    Disabled,
}

impl Verdict {
    /// Its stored form, the first byte of a kept answer.
    const fn byte(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Filtered => 1,
            Self::Disabled => 2,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Pending),
            1 => Some(Self::Filtered),
            2 => Some(Self::Disabled),
            _ => None,
        }
    }
}

/// The answer to an event, as it is kept with the event's key: the verdict and the ids of the deliveries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptAnswer {
    /// What happens with the event.
    pub verdict: Verdict,
    /// The deliveries that the event caused.
    pub delivery_ids: Vec<DeliveryId>,
}

impl KeptAnswer {
    /// Its stored form.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let ids = self.delivery_ids.iter().flat_map(|id| *id.0.as_bytes());
        std::iter::once(self.verdict.byte()).chain(ids).collect()
    }

    /// The answer in a stored form; `None` where there is none in it.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (verdict, ids) = bytes.split_first()?;
        let ids = ids.chunks_exact(ID_BYTES).filter_map(|id| uuid::Uuid::from_slice(id).ok());
        Some(Self { verdict: Verdict::from_byte(*verdict)?, delivery_ids: ids.map(DeliveryId).collect() })
    }
}

impl NewEvent {
    /// An event of these facts with a fresh id, which causes no delivery yet. Whatever else is known of it, the caller
    /// adds.
    #[must_use]
    pub fn new(tenant_id: String, event_type: EventType, content_type: String, payload: Bytes) -> Self {
        Self {
            id: EventId::new(),
            tenant_id,
            event_type,
            posted_to: None,
            content_type,
            payload,
            metadata: Metadata::default(),
            external_id: None,
            ordering_key: None,
            deliver_at: None,
            expires_at: None,
            key: None,
            deliveries: Vec::new(),
        }
    }

    /// What filters look at.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        Facts::new(&self.event_type, &self.metadata, &self.payload)
    }

    /// Makes it cause a delivery to each of these subscriptions, and to no other.
    pub fn deliver_to(&mut self, subscriptions: impl IntoIterator<Item = SubscriptionId>) {
        let delivery = |subscription_id| NewDelivery { id: DeliveryId::of(self.id), subscription_id };
        self.deliveries = subscriptions.into_iter().map(delivery).collect();
        self.deliveries.sort_unstable_by_key(|delivery| delivery.id);
    }

    /// Makes it cause a delivery to everybody in the audience who wants it. `caused` is how many deliveries the request
    /// has caused already.
    ///
    /// # Errors
    /// When they are more than one request may cause.
    pub fn fan_out(&mut self, audience: &Audience, caused: usize) -> Result<()> {
        let wanting: Vec<_> = audience.wanting(&self.facts()).take(DELIVERIES_PER_REQUEST_MAX + 1).collect();
        if caused + wanting.len() > DELIVERIES_PER_REQUEST_MAX {
            return Err(Error::TooLarge(format!(
                "a request may cause at most {DELIVERIES_PER_REQUEST_MAX} deliveries; post fewer events at once"
            )));
        }
        self.deliver_to(wanting);
        Ok(())
    }

    /// The ids of the deliveries it causes.
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
        for (byte, verdict) in [(0, Verdict::Pending), (1, Verdict::Filtered), (2, Verdict::Disabled)] {
            let delivery_ids = vec![DeliveryId::new(), DeliveryId::new()];
            let kept = KeptAnswer { verdict, delivery_ids };
            assert_eq!(kept.to_bytes()[0], byte, "what is stored stays readable");
            assert_eq!(KeptAnswer::from_bytes(&kept.to_bytes()), Some(kept));
        }
        assert_eq!(KeptAnswer::from_bytes(&[]), None);
        assert_eq!(KeptAnswer::from_bytes(&[3]), None, "not one of ours");
    }
}
