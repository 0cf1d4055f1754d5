//! Accepting: what an event brings along when it is stored, and the one statement that stores a batch of them with the
//! deliveries they owe and the idempotency keys they came with.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::{Executor, PgConnection, Postgres};
use uuid::Uuid;

use crate::{
    Error, Result,
    event::{
        audience::{Audience, Facts},
        event_type::EventType,
        idempotency::Fingerprint,
    },
    id::{DeliveryId, EventId, SubscriptionId},
    queue::rows::{EventKeyRow, NewDeliveryRow, NewEventRow},
};

/// Deliveries that one request may cause, at most: what one transaction of ingest can store in its time.
pub const DELIVERIES_PER_REQUEST_MAX: usize = 25_000;

/// An event about to be accepted, with all that it owes.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// Its id.
    pub id: EventId,
    /// Whose it is.
    pub tenant_id: String,
    /// Its type.
    pub event_type: EventType,
    /// The subscription it was posted to, where it was posted to one.
    pub posted_to: Option<SubscriptionId>,
    /// What its payload is; a valid header value.
    pub content_type: String,
    /// Byte for byte what arrived.
    pub payload: Bytes,
    /// Its producer's notes.
    pub metadata: BTreeMap<String, String>,
    /// Its producer's own id for it.
    pub external_id: Option<String>,
    /// What it is to be kept in order with.
    pub ordering_key: Option<String>,
    /// When its deliveries are due; `None` for at once.
    pub deliver_at: Option<DateTime<Utc>>,
    /// From when on nobody wants it any more.
    pub expires_at: Option<DateTime<Utc>>,
    /// By which it is recognized when it comes again.
    pub key: Option<EventKey>,
    /// To whom it is owed.
    pub deliveries: Vec<NewDelivery>,
}

/// An idempotency key of an event.
#[derive(Clone, Debug)]
pub struct EventKey {
    /// From [`crate::event::idempotency::key`].
    pub text: String,
    /// What was asked.
    pub fingerprint: Fingerprint,
    /// What is answered: a byte of the caller's, before the ids of the deliveries.
    pub verdict: u8,
}

/// A delivery about to be accepted with its event.
#[derive(Clone, Copy, Debug)]
pub struct NewDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// To whom.
    pub subscription_id: SubscriptionId,
}

/// What became of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored, with its deliveries.
    New,
    /// It was there already, under this id, and this was answered.
    Repeated {
        /// The event that its key stands for.
        event_id: EventId,
        /// The caller's byte.
        verdict: u8,
        /// The deliveries that it caused.
        delivery_ids: Vec<DeliveryId>,
    },
    /// Its key has been used for something else, so it is not stored.
    KeyReused,
}

/// Whether events that come together are stored together or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomicity {
    /// Each event is its own caller's: one whose key has been used for something else does not concern the others.
    PerEvent,
    /// All are one caller's: such a key undoes everything.
    AllOrNothing,
}

/// What a batch came to.
#[derive(Clone, Debug)]
pub struct AcceptedBatch {
    /// Lanes that were armed, which owe a wake-up.
    pub armed: Vec<Uuid>,
    /// What became of each event, in order.
    pub accepted: Vec<Accepted>,
}

impl NewEvent {
    /// Owes it to everybody in the audience who wants it.
    ///
    /// # Errors
    /// When they are more than one request may cause, less what it has caused already.
    pub fn fan_out(&mut self, audience: &Audience, caused: usize) -> Result<()> {
        let facts = Facts::new(&self.event_type, &self.metadata, &self.payload);
        let wanting = audience.wanting(&facts).take(DELIVERIES_PER_REQUEST_MAX + 1);
        let deliveries = wanting.map(|subscription_id| NewDelivery { id: DeliveryId::of(self.id), subscription_id });
        let mut deliveries: Vec<_> = deliveries.collect();
        if caused + deliveries.len() > DELIVERIES_PER_REQUEST_MAX {
            return Err(Error::TooLarge(format!(
                "a request may cause at most {DELIVERIES_PER_REQUEST_MAX} deliveries; post fewer events at once"
            )));
        }
        deliveries.sort_unstable_by_key(|delivery| delivery.id);
        self.deliveries = deliveries;
        Ok(())
    }
}

impl EventKey {
    /// The answer to keep with the key.
    pub(crate) fn answer(&self, deliveries: impl Iterator<Item = DeliveryId>) -> Vec<u8> {
        std::iter::once(self.verdict).chain(deliveries.flat_map(|id| *id.0.as_bytes())).collect()
    }
}

/// What became of an event whose key was known.
pub(crate) fn repeated(
    asked: &EventKey,
    known: Option<Uuid>,
    fingerprint: Option<&[u8]>,
    answer: Option<&[u8]>,
) -> Accepted {
    let Some(fingerprint) = fingerprint else {
        return Accepted::New;
    };
    match (known, answer.and_then(<[u8]>::split_first)) {
        (Some(event_id), Some((verdict, ids))) if fingerprint == asked.fingerprint => Accepted::Repeated {
            event_id: EventId(event_id),
            verdict: *verdict,
            delivery_ids: ids.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok()).map(DeliveryId).collect(),
        },
        _ => Accepted::KeyReused,
    }
}

/// Stores events with the deliveries that they cause and their keys; when it has committed, they are safe.
pub async fn accept<'e>(
    executor: impl Executor<'e, Database = Postgres>,
    events: &[&NewEvent],
    atomicity: Atomicity,
    key_ttl_seconds: u32,
) -> std::result::Result<AcceptedBatch, sqlx::Error> {
    let new_events: Vec<_> = events.iter().map(|event| NewEventRow::of(event, false)).collect();
    let deliveries = events.iter().flat_map(|event| event.deliveries.iter().map(|one| NewDeliveryRow::of(event, one)));
    let keys: Vec<_> =
        events.iter().filter_map(|event| EventKeyRow::of(event, event.deliveries.iter().map(|one| one.id))).collect();
    let row = sqlx::query!(
        r#"SELECT armed AS "armed!", known AS "known: Vec<Option<Uuid>>",
                  known_fingerprints AS "fingerprints: Vec<Option<Vec<u8>>>",
                  known_answers AS "answers: Vec<Option<Vec<u8>>>"
             FROM accept($1, $2, $3, $4, $5)"#,
        new_events as _,
        deliveries.collect::<Vec<_>>() as _,
        keys as _,
        i64::from(key_ttl_seconds) * 1000,
        atomicity == Atomicity::AllOrNothing,
    );
    let row = row.fetch_one(executor).await?;
    let (known, fingerprints, answers) =
        (row.known.unwrap_or_default(), row.fingerprints.unwrap_or_default(), row.answers.unwrap_or_default());
    let mut known = known.into_iter().zip(fingerprints).zip(answers);
    let accepted = events.iter().map(|event| match &event.key {
        None => Accepted::New,
        Some(key) => {
            let ((known, fingerprint), answer) = known.next().unwrap_or_default();
            repeated(key, known, fingerprint.as_deref(), answer.as_deref())
        }
    });
    Ok(AcceptedBatch { armed: row.armed, accepted: accepted.collect() })
}

/// Why deliveries are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// They come with their event, or complete its fan-out.
    Event,
    /// Somebody asked for them later; the replay of a range that makes them, if one does.
    Replay(Option<Uuid>),
}

/// Stores deliveries of events that are stored, in the caller's transaction; answers the lanes that were armed.
pub(crate) async fn store_deliveries(
    connection: &mut PgConnection,
    deliveries: Vec<NewDeliveryRow<'_>>,
    origin: Origin,
) -> Result<Vec<Uuid>> {
    let (is_replay, replay) = match origin {
        Origin::Event => (false, None),
        Origin::Replay(replay) => (true, replay),
    };
    let armed =
        sqlx::query_scalar!(r#"SELECT store_deliveries($1, $2, $3) AS "armed!""#, deliveries as _, is_replay, replay);
    Ok(armed.fetch_one(connection).await?)
}

/// Whether an error says that a key of a whole has been used for something else.
pub(crate) fn is_key_reused(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("PR409"))
}
