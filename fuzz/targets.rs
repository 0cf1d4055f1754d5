//! What is fuzzed: every function that reads text from strangers. A target takes any bytes and panics where a promise
//! does not hold. `cargo fuzz` runs the targets without end; the tests run them on a bounded number of random inputs.

use std::str::FromStr;

use chrono::DateTime;
use postrider_core::{
    event::{
        event_type::{EventType, EventTypePattern},
        filter::PayloadFilter,
        json::{self, Json, Unreadable},
        trace_context::TraceContext,
    },
    id::{DeliveryId, EventId, JobId, KeyId, SubscriptionId},
    queue::attempt::parse_retry_after,
    trust::{
        inbound_signature::Refused,
        provider::{Agreed, Provider},
        seal::Keyring,
        signing_secret::SigningSecret,
    },
};
use serde_json::{Value, value::RawValue};

/// The name of a target, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: [Target; 9] = [
    ("signature_header", signature_header),
    ("json", json),
    ("payload_filter", payload_filter),
    ("cursor", cursor),
    ("retry_after", retry_after),
    ("event_type_pattern", event_type_pattern),
    ("signing_secret", signing_secret),
    ("sealed", sealed),
    ("trace_context", trace_context),
];

/// A secret that made-up bytes cannot be signed with, and that no input shows.
const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Made-up signature headers are refused by every provider.
pub fn signature_header(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let parts: Vec<&str> = text.split('\n').collect();
    let part = |place: usize| parts.get(place).copied();
    for provider in Provider::ALL {
        let header = |name: &str| match name {
            "webhook-id" | "svix-id" => part(1),
            "webhook-timestamp" | "svix-timestamp" | "X-Slack-Request-Timestamp" => part(2).or(Some("1700000000")),
            _ => part(0),
        };
        let secrets = [SECRET.to_owned(), part(3).unwrap_or_default().to_owned()];
        let payload = part(4).unwrap_or_default().as_bytes();
        let secrets = if provider.read_secret(&secrets[1]).is_ok() { &secrets[..1] } else { &secrets[..] };
        let agreed = Agreed { secrets, tolerance_seconds: 300, verify_token: None, callback_url: part(5) };
        let verified = provider.verify(agreed, header, payload, 1_700_000_000);
        assert!(
            matches!(verified, Err(Refused::Unreadable(_) | Refused::Stale | Refused::Wrong)),
            "{provider} opened for {text:?}"
        );
    }
}

/// Filters read what others read as JSON, and nothing else, and what they show of it has the same value.
pub fn json(data: &[u8]) {
    let text = data.strip_prefix("\u{feff}".as_bytes()).unwrap_or(data);
    let is_json = serde_json::from_slice::<&RawValue>(text).is_ok();
    match Json::read(data) {
        Ok(value) => {
            assert!(is_json, "read, but not JSON");
            assert_eq!(Json::read(value.to_string().as_bytes()), Ok(value));
            assert_eq!(json::check(text), Ok(()));
        }
        Err(Unreadable::NotJson { .. }) => assert!(!is_json, "JSON, but not read"),
        Err(limit) if is_json => assert_eq!(json::check(text), Err(limit)),
        Err(_) => {}
    }
}

/// A filter that was accepted is accepted again, decides the same, and can be applied to any payload.
pub fn payload_filter(data: &[u8]) {
    let (filter, payload) = data.split_at(data.iter().position(|byte| *byte == 0).unwrap_or(data.len() / 2));
    let Ok(source) = serde_json::from_slice::<Value>(filter) else { return };
    let Ok(parsed) = PayloadFilter::parse(&source) else { return };
    let again = PayloadFilter::parse(parsed.source()).expect("what was taken is taken again");
    let payload = Json::read(payload).or_else(|_| Json::read(source.to_string().as_bytes()));
    let Ok(payload) = payload else { return };
    assert_eq!(parsed.matches(&payload), again.matches(&payload));
    let holds = parsed.explain(&payload).iter().all(|check| check.holds);
    assert_eq!(holds, parsed.matches(&payload), "what is explained is what is done");
}

fn reads_back<T: FromStr + ToString>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text, "one text for one thing");
    }
}

/// An id is a cursor, and exactly one text stands for each id.
pub fn cursor(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    reads_back::<SubscriptionId>(&text);
    reads_back::<EventId>(&text);
    reads_back::<DeliveryId>(&text);
    reads_back::<KeyId>(&text);
    reads_back::<JobId>(&text);
}

/// A `Retry-After` is a number of seconds, a date, or ignored; a number is never ignored.
pub fn retry_after(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let now = DateTime::from_timestamp(1_700_000_000, 0).expect("in range");
    let asked = parse_retry_after(&text, now);
    let digits = text.trim();
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        assert!(asked.is_some(), "{text:?} is a number of seconds");
    }
}

/// A pattern turns back into its own text, and it matches exactly the event types that it names.
pub fn event_type_pattern(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    reads_back::<EventTypePattern>(&text);
    let (pattern, event_type) = text.split_once('\n').unwrap_or((&text, &text));
    let (pattern, event_type) = (pattern.parse::<EventTypePattern>(), event_type.parse::<EventType>());
    if let (Ok(pattern), Ok(event_type)) = (pattern, event_type) {
        match &pattern {
            EventTypePattern::Any => assert!(pattern.matches(&event_type)),
            EventTypePattern::Below(prefix) => {
                let is_below = event_type.as_str().len() > prefix.len() && event_type.as_str().starts_with(prefix);
                assert_eq!(pattern.matches(&event_type), is_below);
            }
            EventTypePattern::Exactly(exact) => assert_eq!(pattern.matches(&event_type), *exact == event_type),
        }
    }
}

/// A signing secret that was accepted turns back into itself.
pub fn signing_secret(data: &[u8]) {
    if let Ok(secret) = SigningSecret::parse(&String::from_utf8_lossy(data)) {
        assert_eq!(SigningSecret::parse(&secret.reveal()), Ok(secret));
    }
}

/// Made-up bytes are never opened as sealed ones, and what was sealed opens again.
pub fn sealed(data: &[u8]) {
    let ring = Keyring::parse("a:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=").expect("valid");
    assert!(ring.open(data, b"context").is_err());
    assert!(ring.open(&[&ring.mark(), data].concat(), b"context").is_err());
    assert_eq!(ring.open(&ring.seal(data, b"context"), b"context").as_deref(), Ok(data));
}

/// What is kept of a trace is within its bounds, and is kept as it is when it is read again.
pub fn trace_context(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (parent, state) = text.split_once('\n').map_or((&*text, None), |(parent, state)| (parent, Some(state)));
    let Some(kept) = TraceContext::parse(parent, state) else { return };
    assert_eq!((kept.trace_id().len(), kept.parent_id().len()), (32, 16));
    assert!(kept.tracestate().is_none_or(|state| (1..=512).contains(&state.len())), "{kept:?}");
    assert_eq!(TraceContext::parse(kept.traceparent(), kept.tracestate()).as_ref(), Some(&kept));
}
