//! Publishing: an event goes to every subscription of its tenant that wants it. The event is stored with all its
//! deliveries before the producer is answered. Of several events in one request, all are stored or none.

use chrono::{DateTime, Utc};

use crate::{
    Error, Result,
    accept::{
        AcceptedEvent, Acceptor, KEY_FIELD, RequestKey, Source,
        event_input::{EventInput, Rules},
    },
    event::{
        idempotency::{self, Fingerprint, KeyNamespace, fingerprint},
        json,
        new_event::{EventKey, NewEvent, Verdict},
    },
    subscription::cache::SubscriptionCache,
    validation::Problems,
};

/// Events in one request, at most.
const EVENTS_MAX: usize = 1000;
/// The label with which a single event's fingerprint begins. Stored keys hold fingerprints, so it must never change.
const ONE: &[u8] = b"POST /events";
/// The label with which the fingerprint of an event in a batch begins. It must never change either.
const MANY: &[u8] = b"POST /events/batch";

/// The idempotency key that came with a request, as it applies to one event.
#[derive(Clone, Copy)]
enum Key<'a> {
    /// The request is this one event.
    OfOne(&'a str),
    /// The event is at this place in a batch; `asked` is the fingerprint of the whole batch.
    OfMany { text: &'a str, place: usize, asked: Fingerprint },
}

impl Acceptor {
    /// Publishes an event. `key` came with the request; it counts only where the event has no id of its own.
    ///
    /// # Errors
    /// Every broken rule; too large where too many subscriptions want it; a key that was used for something else; or
    /// unavailable.
    pub async fn publish(&self, event: EventInput, key: Option<&str>, now: DateTime<Utc>) -> Result<AcceptedEvent> {
        let mut problems = Problems::default();
        let event = self.check(event, key.map(Key::OfOne), "", now, &mut problems).await?;
        problems.into_result()?;
        let accepted = self.fan_out_and_store(event.into_iter().collect()).await?;
        accepted.into_iter().next().ok_or_else(|| Error::internal("nothing was stored"))
    }

    /// Publishes many events, all of them or none. The answers are in the order of the events.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub async fn publish_many(
        &self,
        events: Vec<EventInput>,
        key: Option<RequestKey<'_>>,
        now: DateTime<Utc>,
    ) -> Result<Vec<AcceptedEvent>> {
        if !(1..=EVENTS_MAX).contains(&events.len()) {
            return Err(Error::invalid("events", format!("must be 1 to {EVENTS_MAX} events")));
        }
        let key = key.map(|RequestKey { text, asked }| (text, fingerprint([MANY, asked])));
        let mut problems = Problems::default();
        let mut checked = Vec::with_capacity(events.len());
        for (place, event) in events.into_iter().enumerate() {
            let key = key.map(|(text, asked)| Key::OfMany { text, place, asked });
            checked.extend(self.check(event, key, &format!("events[{place}]"), now, &mut problems).await?);
        }
        problems.into_result()?;
        self.fan_out_and_store(checked).await
    }

    /// Checks an event and its key. Broken rules are added to the problems, their field paths behind `at`.
    async fn check(
        &self,
        event: EventInput,
        key: Option<Key<'_>>,
        at: &str,
        now: DateTime<Utc>,
        problems: &mut Problems,
    ) -> Result<Option<NewEvent>> {
        let key = match key_of(&event, key) {
            Ok(key) => key,
            Err(KeyProblem::OfTheEvent(why)) => {
                problems.add_part(at, Problems::one("id", why));
                None
            }
            Err(KeyProblem::OfTheRequest(why)) => {
                problems.add(KEY_FIELD, why);
                None
            }
        };
        let is_repeated = match &key {
            Some(key) if event.has_expired(now) => {
                idempotency::is_known(&self.pool, &event.tenant_id, &key.text).await?
            }
            Some(_) | None => false,
        };
        let rules = Rules { payload_bytes_max: self.payload_bytes_max, now, is_repeated };
        // Nothing that a filter could not read is published, so no filter can miss an event in silence. The rule does
        // not depend on who has a filter: the same event is always taken, or always refused.
        if let Err(why) = json::check(&event.payload) {
            problems.add_part(at, Problems::one("payload", format!("cannot be read by filters: {why}")));
        }
        let event = problems.take_part(at, event.parse(rules));
        Ok(event.map(|event| NewEvent { key, ..event }))
    }

    /// Finds the subscriptions that want the events, and stores the events with all their deliveries.
    async fn fan_out_and_store(&self, mut events: Vec<NewEvent>) -> Result<Vec<AcceptedEvent>> {
        fan_out(&self.cache, &mut events).await?;
        let if_new: Vec<_> = events.iter().map(|event| AcceptedEvent::if_new(event, Verdict::Pending)).collect();
        let accepted = self.intake.accept(events).await?;
        Ok(if_new.into_iter().zip(accepted).map(|(if_new, accepted)| if_new.told(accepted, Source::Events)).collect())
    }
}

/// Sets the deliveries of events that are published: one to each subscription of the event's tenant that wants it.
///
/// # Errors
/// Too large where too many subscriptions want them; or the database is away.
pub(crate) async fn fan_out(cache: &SubscriptionCache, events: &mut [NewEvent]) -> Result<()> {
    let mut caused = 0;
    for event in events {
        let audience = cache.audience(&event.tenant_id).await?;
        if audience.is_slow() {
            // Others on this thread would feel it.
            let mut moved = event.clone();
            let fanned_out =
                tokio::task::spawn_blocking(move || moved.fan_out(&audience, caused).map(|()| moved)).await;
            *event = fanned_out.map_err(Error::internal)??;
        } else {
            event.fan_out(&audience, caused)?;
        }
        caused += event.deliveries.len();
    }
    Ok(())
}

/// Why a key is not valid, and which field it came from.
enum KeyProblem {
    OfTheEvent(String),
    OfTheRequest(String),
}

/// The key under which an event is remembered. Where both are present, the event's own id wins: it identifies the
/// event, and not only the request.
fn key_of(event: &EventInput, key: Option<Key<'_>>) -> std::result::Result<Option<EventKey>, KeyProblem> {
    let of_request = |namespace, text: &str| idempotency::key(namespace, text).map_err(KeyProblem::OfTheRequest);
    let (text, fingerprint) = match (&event.id, key) {
        (None, None) => return Ok(None),
        (Some(id), _) => {
            let text = idempotency::key(KeyNamespace::EventId, id).map_err(KeyProblem::OfTheEvent)?;
            (text, fingerprint_of(event))
        }
        (None, Some(Key::OfOne(text))) => (of_request(KeyNamespace::EventHeader, text)?, fingerprint_of(event)),
        (None, Some(Key::OfMany { text, place, asked })) => {
            (of_request(KeyNamespace::BatchHeader(place), text)?, asked)
        }
    };
    Ok(Some(EventKey { text, fingerprint, verdict: Verdict::Pending }))
}

fn fingerprint_of(event: &EventInput) -> Fingerprint {
    let time = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339()).unwrap_or_default();
    let (deliver_at, expires_at) = (time(event.deliver_at), time(event.expires_at));
    let parts: [&[u8]; 7] = [
        ONE,
        event.event_type.as_deref().unwrap_or_default().as_bytes(),
        &event.payload,
        event.id.as_deref().unwrap_or_default().as_bytes(),
        event.ordering_key.as_deref().unwrap_or_default().as_bytes(),
        deliver_at.as_bytes(),
        expires_at.as_bytes(),
    ];
    let metadata = event.metadata.iter().flat_map(|(key, value)| [key.as_bytes(), value.as_bytes()]);
    fingerprint(parts.into_iter().chain(metadata))
}
