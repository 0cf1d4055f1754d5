//! The input for an event as a producer sends it, and how it becomes a [`NewEvent`], with every broken rule reported.
//! The bounds of an event are defined here, or beside the type of the part that they limit.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use crate::{
    event::{
        content_encoding::ContentEncoding, event_type::EventType, idempotency::KEY_CHARACTERS_MAX, metadata::Metadata,
        new_event::NewEvent, trace_context::TraceContext,
    },
    validation::{self, Problems},
};

/// How many days ahead an event may be scheduled, at most. It may expire as many days after that.
const SCHEDULED_DAYS_MAX: i64 = 366;
/// Bytes of a content type, at most.
const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Characters of an ordering key, at most.
const ORDERING_KEY_CHARACTERS_MAX: usize = KEY_CHARACTERS_MAX;

/// An event as a producer describes it, before it is checked.
#[derive(Clone, Debug)]
pub struct EventInput {
    /// The tenant to which the event belongs. The caller has checked that the producer may act for this tenant.
    pub tenant_id: String,
    /// The event's type; [`crate::event::event_type::EVENT_TYPE_DEFAULT`] where absent.
    pub event_type: Option<String>,
    /// The payload's content type; a valid header value.
    pub content_type: String,
    /// How the payload was packed before it was posted, if it was: the value of a `Content-Encoding`.
    pub content_encoding: Option<String>,
    /// The payload, byte for byte.
    pub payload: Bytes,
    /// The producer's notes on the event, which filters can ask for.
    pub metadata: BTreeMap<String, String>,
    /// The producer's own id for the event. An event with the same id is recognized as the same event.
    pub id: Option<String>,
    /// Events with the same ordering key are to be delivered in order.
    pub ordering_key: Option<String>,
    /// When the event is to be delivered; at once where absent or in the past.
    pub deliver_at: Option<DateTime<Utc>>,
    /// The moment at which deliveries that have not succeeded are canceled.
    pub expires_at: Option<DateTime<Utc>>,
    /// The trace to which the event belongs. It is no part of what makes two requests the same.
    pub trace: Option<TraceContext>,
}

/// The limits that apply to an event at the moment of its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Bytes of a payload, at most.
    pub payload_bytes_max: usize,
    /// The present time.
    pub now: DateTime<Utc>,
    /// Whether the same event was accepted before; then its times may lie in the past.
    pub is_repeated: bool,
}

impl EventInput {
    /// An event without a type, metadata, ids or times.
    #[must_use]
    pub fn new(tenant_id: String, content_type: String, payload: Bytes) -> Self {
        Self {
            tenant_id,
            event_type: None,
            content_type,
            content_encoding: None,
            payload,
            metadata: BTreeMap::new(),
            id: None,
            ordering_key: None,
            deliver_at: None,
            expires_at: None,
            trace: None,
        }
    }

    /// Whether the event expires at a moment that has passed. Only then is it worth asking whether it was accepted
    /// before.
    pub(crate) fn has_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Checks all fields at once. The resulting event causes no delivery yet, and has no idempotency key.
    ///
    /// # Errors
    /// Every broken rule.
    pub(crate) fn parse(self, rules: Rules) -> Result<NewEvent, Problems> {
        let mut problems = Problems::default();
        let event_type = self.event_type.map_or_else(|| Ok(EventType::default()), |text| text.parse());
        let event_type = problems.take("event_type", event_type);
        problems.require(
            self.content_type.len() <= CONTENT_TYPE_BYTES_MAX,
            "content_type",
            format!("must be at most {CONTENT_TYPE_BYTES_MAX} bytes long"),
        );
        let content_encoding = self.content_encoding.map_or(Ok(None), ContentEncoding::parse);
        let content_encoding = problems.take("content_encoding", content_encoding).flatten();
        let metadata = problems.take("metadata", Metadata::parse(self.metadata));
        if let Some(text) = &self.ordering_key {
            problems.take("ordering_key", validation::text(text, ORDERING_KEY_CHARACTERS_MAX));
        }
        check_times(self.deliver_at, self.expires_at, rules, &mut problems);
        problems.require(
            self.payload.len() <= rules.payload_bytes_max,
            "payload",
            format!("must be at most {} bytes long", rules.payload_bytes_max),
        );
        match (event_type, metadata) {
            (Some(event_type), Some(metadata)) => problems.none_or(NewEvent {
                content_encoding,
                metadata,
                external_id: self.id,
                ordering_key: self.ordering_key,
                deliver_at: self.deliver_at.filter(|at| *at > rules.now),
                expires_at: self.expires_at,
                trace: self.trace,
                ..NewEvent::new(self.tenant_id, event_type, self.content_type, self.payload)
            }),
            (None, _) | (_, None) => Err(problems),
        }
    }
}

/// Checks the times at which an event is to be delivered and at which it expires.
fn check_times(
    deliver_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    rules: Rules,
    problems: &mut Problems,
) {
    for (field, time) in [("deliver_at", deliver_at), ("expires_at", expires_at)] {
        problems.take(field, time.map_or(Ok(()), validation::moment));
    }
    let latest = rules.now + TimeDelta::days(SCHEDULED_DAYS_MAX);
    problems.require(
        deliver_at.is_none_or(|at| at <= latest),
        "deliver_at",
        format!("must be at most {SCHEDULED_DAYS_MAX} days ahead"),
    );
    let begins = deliver_at.map_or(rules.now, |at| at.max(rules.now));
    let latest = latest + TimeDelta::days(SCHEDULED_DAYS_MAX);
    problems.require(
        expires_at.is_none_or(|at| (at > begins || rules.is_repeated) && at <= latest),
        "expires_at",
        "must be in the future, after `deliver_at`, and at most two years ahead",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A change to a valid input, and the fields whose rules the change breaks.
    type Case = (fn(&mut EventInput, DateTime<Utc>), &'static [&'static str]);

    #[test]
    fn every_broken_rule_is_named() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let cases: [Case; 15] = [
            (|_, _| {}, &[]),
            (|event, _| event.event_type = None, &[]),
            (|event, _| event.event_type = Some("a b".to_owned()), &["event_type"]),
            (|event, _| event.content_type = "x".repeat(CONTENT_TYPE_BYTES_MAX + 1), &["content_type"]),
            (|event, _| event.content_encoding = Some("g zip".to_owned()), &["content_encoding"]),
            (|event, _| event.metadata = BTreeMap::from([(String::new(), String::new())]), &["metadata"]),
            (|event, _| event.ordering_key = Some("x".repeat(ORDERING_KEY_CHARACTERS_MAX + 1)), &["ordering_key"]),
            (|event, _| event.payload = Bytes::from_static(b"12345"), &["payload"]),
            (|event, now| event.deliver_at = Some(now - TimeDelta::days(1)), &[]),
            (|event, now| event.deliver_at = Some(now + TimeDelta::days(SCHEDULED_DAYS_MAX)), &[]),
            (|event, now| event.deliver_at = Some(now + TimeDelta::days(SCHEDULED_DAYS_MAX + 1)), &["deliver_at"]),
            (|event, now| event.expires_at = Some(now), &["expires_at"]),
            (|event, now| event.expires_at = Some(now + TimeDelta::days(2 * SCHEDULED_DAYS_MAX + 1)), &["expires_at"]),
            (
                |event, now| {
                    event.deliver_at = Some(now + TimeDelta::days(2));
                    event.expires_at = Some(now + TimeDelta::days(1));
                },
                &["expires_at"],
            ),
            (
                |event, _| {
                    event.event_type = Some(String::new());
                    event.payload = Bytes::from_static(b"12345");
                },
                &["event_type", "payload"],
            ),
        ];
        for (place, (change, fields)) in cases.into_iter().enumerate() {
            let mut input = EventInput::new("acme".to_owned(), "text/plain".to_owned(), Bytes::from_static(b"1234"));
            input.event_type = Some("order.created".to_owned());
            change(&mut input, now);
            let parsed = input.parse(Rules { payload_bytes_max: 4, now, is_repeated: false });
            let told = parsed.map_or_else(|problems| problems.0, |_| Vec::new());
            let told: Vec<_> = told.iter().map(|problem| problem.field.as_str()).collect();
            assert_eq!(told, fields, "case {place}");
        }
    }

    #[test]
    fn times_that_have_passed() {
        let now = DateTime::from_timestamp(1_800_000_000, 0).expect("in range");
        let mut input = EventInput::new("acme".to_owned(), "text/plain".to_owned(), Bytes::new());
        input.deliver_at = Some(now);
        input.expires_at = Some(now - TimeDelta::hours(1));
        assert!(input.has_expired(now));
        let parsed = input.parse(Rules { payload_bytes_max: 0, now, is_repeated: true }).expect("it came before");
        assert_eq!(parsed.deliver_at, None, "at once");
    }
}
