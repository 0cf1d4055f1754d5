//! Accepting: the one statement that stores a batch of events with the deliveries they cause and the idempotency keys
//! they came with, and what it answers.

use sqlx::{Executor, PgConnection, Postgres};
use uuid::Uuid;

use crate::{
    Error, Result,
    event::new_event::{EventKey, KeptAnswer, NewEvent},
    id::EventId,
    queue::rows::{EventKeyRow, NewDeliveryRow, NewEventRow},
};

/// What became of an event that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// It is stored, with its deliveries.
    New,
    /// It was there already, under this id, and this was answered.
    Repeated {
        /// The event that its key stands for.
        event_id: EventId,
        /// What was answered.
        answer: KeptAnswer,
    },
}

/// The key of an event has been used for something else, so the event is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyReused;

impl From<KeyReused> for Error {
    fn from(_: KeyReused) -> Self {
        Self::KeyReused
    }
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
    pub accepted: Vec<std::result::Result<Accepted, KeyReused>>,
}

/// What became of an event whose key was known.
pub(crate) fn repeated(
    asked: &EventKey,
    known: Option<Uuid>,
    fingerprint: Option<&[u8]>,
    answer: Option<&[u8]>,
) -> std::result::Result<Accepted, KeyReused> {
    let Some(fingerprint) = fingerprint else {
        return Ok(Accepted::New);
    };
    match (known, answer.and_then(KeptAnswer::from_bytes)) {
        (Some(event_id), Some(answer)) if fingerprint == asked.fingerprint => {
            Ok(Accepted::Repeated { event_id: EventId(event_id), answer })
        }
        _ => Err(KeyReused),
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
        None => Ok(Accepted::New),
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
