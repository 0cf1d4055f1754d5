//! Events as JSON: what producers send, and the one place where that becomes a [`NewEvent`], with every broken rule
//! named.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use poem_openapi::{Object, types::Any};
use postrider_core::{
    Result,
    event::{
        event_type::EventType,
        idempotency::{Fingerprint, KEY_CHARACTERS_MAX, KeyNamespace, fingerprint, key},
    },
    id::EventId,
    queue::accept::{EventKey, NewEvent},
    subscription::settings::parse_metadata,
    validation::{self, Problems},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::serve::{
    body::{self, Brings, Input},
    idempotency::HEADER,
    list::moment,
};

/// Days that an event may be scheduled ahead, at most.
const SCHEDULED_DAYS_MAX: i64 = 366;
/// The content type of a payload that comes inside a JSON body.
pub const CONTENT_TYPE: &str = "application/json";
/// Events of a batch, at most.
const BATCH_EVENTS_MAX: usize = 1000;

/// An event.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields, example)]
pub struct EventInput {
    /// What has happened: segments of letters, digits, `_` and `-`, joined by dots; at most 128 characters.
    pub event_type: String,
    /// Any JSON value. Its text is delivered byte for byte as it stands here.
    pub payload: Any<Box<RawValue>>,
    /// Whose it is; the key's own tenant where absent, or else `default`.
    pub tenant_id: Option<String>,
    /// Your own notes, which subscriptions can filter by; at most 50, keys of 64 and values of 512 characters.
    #[serde(default)]
    #[oai(default)]
    pub metadata: BTreeMap<String, String>,
    /// Your own id for it, at most 255 characters: an event with an id that was used before is not stored again, and
    /// gets the answer it got then.
    pub id: Option<String>,
    /// What it is to be kept in order with; at most 255 characters. Stored, not yet acted upon.
    pub ordering_key: Option<String>,
    /// When it is to be delivered, up to 366 days ahead; at once where absent or past (RFC 3339).
    pub deliver_at: Option<DateTime<Utc>>,
    /// From when on nobody wants it any more: deliveries that have not succeeded by then are canceled (RFC 3339).
    pub expires_at: Option<DateTime<Utc>>,
}

/// Events that are stored together or not at all.
#[derive(Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub struct BatchInput {
    /// 1 to 1000 events.
    #[serde(deserialize_with = "body::objects")]
    pub events: Vec<EventInput>,
}

impl Input for EventInput {
    const BRINGS: Brings = Brings::Payload;
}

impl Input for BatchInput {
    const BRINGS: Brings = Brings::Payloads;
}

/// A key that came with the whole request, and which part of the request this is.
#[derive(Clone, Copy, Debug)]
pub struct RequestKey<'a> {
    /// The header's value.
    pub text: &'a str,
    /// Of a batch: the fingerprint of all of it, and the place in it.
    pub part: Option<(&'a Fingerprint, usize)>,
}

/// Where a mistake is, and what may be.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// What every field's path begins with.
    pub at: &'a str,
    /// Bytes of a payload, at most.
    pub payload_bytes_max: usize,
    /// The time.
    pub now: DateTime<Utc>,
    /// Whether it has been asked before, so that its times may have passed.
    pub is_again: bool,
}

impl BatchInput {
    /// Whether there are as many as there may be.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<()> {
        let mut problems = Problems::default();
        let count = (1..=BATCH_EVENTS_MAX).contains(&self.events.len());
        problems.require(count, "events", format!("must be 1 to {BATCH_EVENTS_MAX} events"));
        problems.into_result()
    }
}

impl EventInput {
    /// Checks everything at once; broken rules are noted. The event owes nothing yet.
    pub fn parse(
        self,
        tenant_id: String,
        request_key: Option<RequestKey<'_>>,
        rules: Rules<'_>,
        problems: &mut Problems,
    ) -> Option<NewEvent> {
        let at = |field: &str| format!("{}{field}", rules.at);
        let fingerprint = self.fingerprint();
        let key = self.key(request_key).and_then(|(field, key)| match field {
            HEADER => problems.take(HEADER, key),
            field => problems.take(&at(field), key),
        });
        let event_type = problems.take(&at("event_type"), self.event_type.parse::<EventType>());
        let metadata = problems.take(&at("metadata"), parse_metadata(self.metadata));
        if let Some(text) = &self.ordering_key {
            problems.take(&at("ordering_key"), validation::text(text, KEY_CHARACTERS_MAX));
        }
        check_times(self.deliver_at, self.expires_at, rules, problems);
        let asked = match (&self.id, request_key.and_then(|request| request.part)) {
            (None, Some((whole, _))) => *whole,
            (Some(_), _) | (None, None) => fingerprint,
        };
        let payload = parse_payload(self.payload, rules, problems);
        Some(NewEvent {
            id: EventId::new(),
            tenant_id,
            event_type: event_type?,
            posted_to: None,
            content_type: CONTENT_TYPE.to_owned(),
            payload,
            metadata: metadata?,
            external_id: self.id,
            ordering_key: self.ordering_key,
            deliver_at: self.deliver_at.filter(|at| *at > rules.now),
            expires_at: self.expires_at,
            key: key.map(|text| EventKey { text, fingerprint: asked, verdict: 0 }),
            deliveries: Vec::new(),
        })
    }

    /// The key under which it would be remembered, where it comes with a time that has passed: only then is it worth
    /// asking whether it is.
    #[must_use]
    pub fn key_of_the_past(&self, request_key: Option<RequestKey<'_>>, now: DateTime<Utc>) -> Option<String> {
        self.expires_at.filter(|at| *at <= now)?;
        self.key(request_key)?.1.ok()
    }

    /// The key under which it is remembered, or what is wrong with it, and the field that says it. The event's own id
    /// decides where both are there: it says more.
    fn key(&self, request_key: Option<RequestKey<'_>>) -> Option<(&'static str, std::result::Result<String, String>)> {
        if let Some(id) = &self.id {
            return Some(("id", key(KeyNamespace::EventId, id)));
        }
        let RequestKey { text, part } = request_key?;
        let source = part.map_or(KeyNamespace::EventHeader, |(_, place)| KeyNamespace::BatchHeader(place));
        Some((HEADER, key(source, text)))
    }

    fn fingerprint(&self) -> Fingerprint {
        let time = |time: Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339()).unwrap_or_default();
        let metadata: Vec<_> = self.metadata.iter().flat_map(|(key, value)| [key.as_str(), value]).collect();
        let parts = [
            "POST /events",
            &self.event_type,
            self.payload.0.get(),
            self.id.as_deref().unwrap_or_default(),
            self.ordering_key.as_deref().unwrap_or_default(),
            &time(self.deliver_at),
            &time(self.expires_at),
        ];
        fingerprint(parts.iter().copied().chain(metadata).map(str::as_bytes))
    }
}

/// The text of a payload, as it stands in the body.
pub fn parse_payload(payload: Any<Box<RawValue>>, rules: Rules<'_>, problems: &mut Problems) -> Bytes {
    let payload = Bytes::from(Box::<str>::from(payload.0).into_boxed_bytes());
    let within = payload.len() <= rules.payload_bytes_max;
    let field = format!("{}payload", rules.at);
    problems.require(within, &field, format!("must be at most {} bytes long", rules.payload_bytes_max));
    payload
}

/// Checks when an event is to be delivered and until when.
pub fn check_times(
    deliver_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    rules: Rules<'_>,
    problems: &mut Problems,
) {
    for (field, time) in [("deliver_at", deliver_at), ("expires_at", expires_at)] {
        problems.take(&format!("{}{field}", rules.at), time.map_or(Ok(()), moment));
    }
    let latest = rules.now + TimeDelta::days(SCHEDULED_DAYS_MAX);
    problems.require(
        deliver_at.is_none_or(|at| at <= latest),
        &format!("{}deliver_at", rules.at),
        format!("must be at most {SCHEDULED_DAYS_MAX} days ahead"),
    );
    let begins = deliver_at.map_or(rules.now, |at| at.max(rules.now));
    problems.require(
        expires_at
            .is_none_or(|at| (at > begins || rules.is_again) && at <= latest + TimeDelta::days(SCHEDULED_DAYS_MAX)),
        &format!("{}expires_at", rules.at),
        "must be in the future, after `deliver_at`, and at most two years ahead",
    );
}

impl poem_openapi::types::Example for EventInput {
    fn example() -> Self {
        let payload = RawValue::from_string("{\"order\": 42, \"total\": 120}".to_owned()).expect("it is JSON");
        Self {
            event_type: "order.created".to_owned(),
            payload: Any(payload),
            tenant_id: None,
            metadata: BTreeMap::from([("region".to_owned(), "eu".to_owned())]),
            id: Some("order-42-created".to_owned()),
            ordering_key: None,
            deliver_at: None,
            expires_at: None,
        }
    }
}
