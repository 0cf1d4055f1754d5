//! Accepting: the one statement that stores a batch of events, with the deliveries that they cause and their
//! idempotency keys, and the result of that statement.

use std::collections::{BTreeMap, HashSet};

use sqlx::{Executor, PgConnection, Postgres};
use uuid::Uuid;

use crate::{
    Error, Result,
    event::new_event::{EventKey, KeptAnswer, NewEvent},
    id::EventId,
    queue::rows::{EventKeyRow, NewDeliveryRow, NewEventRow},
};

/// What happened to an event that was accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The event is stored now, with its deliveries.
    New,
    /// An event with the same key was stored before, and nothing is stored now.
    Repeated {
        /// The event that was stored with the key.
        event_id: EventId,
        /// The answer that the first request got.
        answer: KeptAnswer,
    },
}

/// The event's key has been used for a different request, so the event is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyReused;

impl From<KeyReused> for Error {
    fn from(_: KeyReused) -> Self {
        Self::KeyReused
    }
}

/// Whether events of one request may be stored without each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomicity {
    /// Each event is stored by itself: if its key was used for a different request, the others are stored all the same.
    PerEvent,
    /// All events are stored or none: one key that was used for a different request undoes everything.
    AllOrNothing,
}

/// When the workers are notified of lanes that storing a batch armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notification {
    /// By the commit itself, which saves a statement. Commits that notify wait for each other.
    WithCommit,
    /// After the commit, by [`crate::queue::wake`].
    Afterwards,
}

/// A batch of at most this many events notifies the workers with its commit.
const NOTIFIES_ITSELF_MAX: usize = 4;

impl Notification {
    /// The way for a batch of this many events. Commits that notify wait for each other, so only small batches do: then
    /// there is little to wait for.
    pub(crate) const fn of_batch(events: usize) -> Self {
        if events <= NOTIFIES_ITSELF_MAX { Self::WithCommit } else { Self::Afterwards }
    }
}

/// The result of storing a batch.
#[derive(Clone, Debug)]
pub struct AcceptedBatch {
    /// Lanes that the statement armed; their workers still need a wake-up.
    pub armed: Vec<Uuid>,
    /// What happened to each event, in the order of the events.
    pub accepted: Vec<std::result::Result<Accepted, KeyReused>>,
}

/// Lanes that an ingest left alone because they were due already or locked, each with a delivery that is due in it now.
/// After the commit, [`crate::queue::wake`] looks at them again.
pub type LeftAlone = BTreeMap<Uuid, Uuid>;

/// The lanes that the ingest of these events left alone, where it armed the lanes `armed`. A lane that also has a
/// delivery for later may have been armed for that one only, so it counts as left alone.
#[must_use]
pub fn left_alone(events: &[&NewEvent], armed: &[Uuid]) -> LeftAlone {
    let (now, later): (Vec<&NewEvent>, Vec<_>) = events.iter().copied().partition(|event| event.deliver_at.is_none());
    let mut armed: HashSet<_> = armed.iter().copied().collect();
    for delivery in later.iter().flat_map(|event| &event.deliveries) {
        armed.remove(&delivery.subscription_id.0);
    }
    let stored = now.iter().flat_map(|event| &event.deliveries).map(|one| (one.subscription_id.0, one.id.0));
    stored.filter(|(lane, _)| !armed.contains(lane)).collect()
}

/// The result for an event whose key was known before.
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

/// Stores events with their deliveries and keys in one statement. They are safe once it has committed.
pub async fn accept<'e>(
    executor: impl Executor<'e, Database = Postgres>,
    events: &[&NewEvent],
    atomicity: Atomicity,
    key_ttl_seconds: u32,
    notification: Notification,
) -> std::result::Result<AcceptedBatch, sqlx::Error> {
    let new_events: Vec<_> = events.iter().map(|event| NewEventRow::of(event, false)).collect();
    let deliveries = events.iter().flat_map(|event| event.deliveries.iter().map(|one| NewDeliveryRow::of(event, one)));
    let keys: Vec<_> =
        events.iter().filter_map(|event| EventKeyRow::of(event, event.deliveries.iter().map(|one| one.id))).collect();
    let row = sqlx::query!(
        r#"SELECT armed AS "armed!", known AS "known: Vec<Option<Uuid>>",
                  known_fingerprints AS "fingerprints: Vec<Option<Vec<u8>>>",
                  known_answers AS "answers: Vec<Option<Vec<u8>>>"
             FROM accept($1, $2, $3, $4, $5, $6)"#,
        new_events as _,
        deliveries.collect::<Vec<_>>() as _,
        keys as _,
        i64::from(key_ttl_seconds) * 1000,
        atomicity == Atomicity::AllOrNothing,
        notification == Notification::WithCommit,
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

/// The reason for which deliveries are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// They were stored with their event, or complete its fan-out.
    Event,
    /// Somebody asked for a replay; the id is that of the job that makes it, if one does.
    Replay(Option<Uuid>),
}

/// Stores deliveries of events that are already stored, in the caller's transaction; returns the lanes that were armed.
pub(crate) async fn store_deliveries(
    connection: &mut PgConnection,
    deliveries: Vec<NewDeliveryRow<'_>>,
    origin: Origin,
) -> Result<Vec<Uuid>> {
    let (is_replay, job) = match origin {
        Origin::Event => (false, None),
        Origin::Replay(job) => (true, job),
    };
    let armed =
        sqlx::query_scalar!(r#"SELECT store_deliveries($1, $2, $3) AS "armed!""#, deliveries as _, is_replay, job);
    Ok(armed.fetch_one(connection).await?)
}

/// Whether `accept()` undid everything because one of the keys was used for a different request.
pub(crate) fn is_key_reused(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("PR409"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::SubscriptionId;

    #[test]
    fn a_lane_that_was_armed_for_later_only_is_looked_at_again() {
        let [idle, busy, both, later] = [1, 2, 3, 4].map(Uuid::from_u128);
        let event = |lanes: &[Uuid], deliver_at| {
            let event_type = "a.b".parse().expect("an event type");
            let new = NewEvent::new("default".to_owned(), event_type, "text/plain".to_owned(), "x".into());
            let mut event = NewEvent { deliver_at, ..new };
            event.deliver_to(lanes.iter().copied().map(SubscriptionId));
            event
        };
        let now = event(&[idle, busy, both], None);
        let tomorrow = event(&[both, later], chrono::DateTime::from_timestamp(1_900_000_000, 0));
        // The statement found the busy lane and the one of both kinds due already, and armed the latter for tomorrow.
        let left_alone = left_alone(&[&now, &tomorrow], &[idle, both, later]);
        assert_eq!(left_alone.keys().copied().collect::<Vec<_>>(), [busy, both]);
        for (lane, delivery) in left_alone {
            let stored = now.deliveries.iter().find(|one| one.subscription_id.0 == lane).expect("it is due now");
            assert_eq!(stored.id.0, delivery);
        }
    }
}
