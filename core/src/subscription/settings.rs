//! The settings that a subscription's owner chooses, each parsed once into a type that cannot be wrong. How a whole
//! input becomes settings, and how the fields depend on each other, is in [`crate::subscription::settings_input`].

use std::collections::BTreeMap;

use crate::{
    access::ingest_limit::RateLimit,
    event::{event_type::EventTypePatterns, filter::Filters, metadata::Metadata},
    name::Name,
    queue::retry_policy::RetryPolicy,
    subscription::{event_type_header::EventTypeHeader, flow_settings::FlowSettings},
    trust::{
        ingest_auth::{IngestAuth, IngestSignature},
        signature::{SIGNATURE_HEADERS, SignatureScheme},
        target_url::TargetUrl,
    },
    validation::is_header_name,
};

/// Custom headers of one subscription, at most.
pub const HEADERS_MAX: usize = 32;
/// Bytes of all custom headers' names and values together, at most.
pub const HEADERS_BYTES_MAX: usize = 8 * 1024;
/// Milliseconds that an attempt may take where nothing else is asked for.
pub const TIMEOUT_MS_DEFAULT: u32 = 15_000;
/// The shortest timeout of an attempt, in milliseconds.
const TIMEOUT_MS_MIN: u32 = 1_000;
/// The longest timeout of an attempt, in milliseconds.
const TIMEOUT_MS_MAX: u32 = 60_000;
/// How many milliseconds a lease lasts beyond twice the timeout, so that a slow attempt is recorded before its lease
/// expires.
pub(crate) const LEASE_MARGIN_MS: i32 = 5_000;
/// The text that is shown in place of a header's value where that is a secret.
pub const REDACTED: &str = "[redacted]";

/// Headers that Postrider or HTTP sets, in lower case. Names that begin with `webhook-` are reserved too.
const RESERVED_HEADERS: [&str; 15] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "traceparent",
    "tracestate",
    "upgrade",
    "user-agent",
];

/// A header whose name contains one of these words is treated as a secret.
const SECRET_HEADER_WORDS: [&str; 7] = ["auth", "token", "secret", "key", "password", "cookie", "signature"];

/// The settings that a subscription's owner chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// A name by which people recognize the subscription, if it has one.
    pub name: Option<Name>,
    /// The URL to which deliveries are sent.
    pub target_url: TargetUrl,
    /// Patterns of the event types that it wants; an empty list means every type.
    pub event_types: EventTypePatterns,
    /// Conditions on the metadata and payload of an event.
    pub filters: Filters,
    /// Headers that are sent with each attempt, besides Postrider's own.
    pub headers: CustomHeaders,
    /// The owner's own notes; Postrider does not interpret them.
    pub metadata: Metadata,
    /// When a failed attempt is repeated, and how often.
    pub retry_policy: RetryPolicy,
    /// How long an attempt may take, connecting and reading the answer included.
    pub timeout: Timeout,
    /// The way in which deliveries are signed.
    pub signature_scheme: SignatureScheme,
    /// The proof that a request to its ingest must bring.
    pub ingest_auth: IngestAuth,
    /// The provider whose signatures its ingest accepts, with the secrets; `None` means `X-Hub-Signature-256` with the
    /// subscription's own secret.
    pub ingest_signature: Option<IngestSignature>,
    /// The header from which its ingest takes an event's type; `None` means that only `X-Event-Type` names it.
    pub ingest_event_type_header: Option<EventTypeHeader>,
    /// How many requests a second its ingest accepts; `None` means no limit.
    pub ingest_rate_limit: Option<RateLimit>,
    /// How the flow of its deliveries is controlled.
    pub flow: FlowSettings,
}

/// How long an attempt may take: from 1 to 60 seconds, 15 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeout(u32);

impl Timeout {
    /// Checks a number of milliseconds.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(ms: u32) -> Result<Self, String> {
        if (TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(format!("must be from {TIMEOUT_MS_MIN} to {TIMEOUT_MS_MAX}"))
        }
    }

    /// Wraps a timeout that was checked before it was stored.
    pub(crate) fn from_stored(ms: i32) -> Self {
        Self(ms.unsigned_abs())
    }

    /// The timeout in milliseconds.
    #[must_use]
    pub fn ms(self) -> u32 {
        self.0
    }

    /// The form in which the timeout is stored.
    pub(crate) fn stored(self) -> i32 {
        i32::try_from(self.0).unwrap_or(i32::MAX)
    }

    /// Milliseconds for which a worker may keep a claimed delivery: twice the timeout, and a margin.
    pub(crate) fn lease_ms(self) -> i32 {
        self.stored().saturating_mul(2).saturating_add(LEASE_MARGIN_MS)
    }
}

impl Default for Timeout {
    fn default() -> Self {
        Self(TIMEOUT_MS_DEFAULT)
    }
}

/// Headers that the owner chose, their names in lower case. The `Debug` form shows no secret value.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CustomHeaders(BTreeMap<String, String>);

impl CustomHeaders {
    /// Checks names and values. The value [`REDACTED`] stands for the one in `current`, so that an answer with redacted
    /// values can be sent back unchanged.
    ///
    /// # Errors
    /// What is wrong.
    pub fn parse(entries: BTreeMap<String, String>, current: &Self) -> Result<Self, String> {
        if entries.len() > HEADERS_MAX {
            return Err(format!("must be at most {HEADERS_MAX}"));
        }
        if entries.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > HEADERS_BYTES_MAX {
            return Err(format!("must be at most {HEADERS_BYTES_MAX} bytes in all"));
        }
        let mut headers = BTreeMap::new();
        for (name, value) in entries {
            let name = name.to_ascii_lowercase();
            check_name(&name)?;
            let value = if value == REDACTED {
                let kept = current.0.get(&name).cloned();
                kept.ok_or_else(|| format!("`{name}` has no value yet that `{REDACTED}` could stand for"))?
            } else {
                value
            };
            // RFC 9110 §5.5, without the obsolete bytes above ASCII.
            if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || value.trim() != value {
                return Err(format!("the value of `{name}` must be printable ASCII without spaces around it"));
            }
            if headers.insert(name.clone(), value).is_some() {
                return Err(format!("`{name}` is there twice"));
            }
        }
        Ok(Self(headers))
    }

    /// Parses headers that were valid when they were stored.
    ///
    /// # Errors
    /// When the text is not what [`Self::to_json`] makes.
    pub fn from_json(json: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json).map(Self)
    }

    /// The form in which the headers are stored, once it is sealed: JSON with all values in the clear.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).expect("a map of strings has a JSON form")
    }

    /// Names and values as they are sent.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Names and values as they may be shown: values of headers whose names sound secret are redacted.
    #[must_use]
    pub fn redacted(&self) -> BTreeMap<String, String> {
        let shown = |(name, value): (&String, &String)| {
            let secret = SECRET_HEADER_WORDS.iter().any(|word| name.contains(word));
            (name.clone(), if secret { REDACTED.to_owned() } else { value.clone() })
        };
        self.0.iter().map(shown).collect()
    }
}

impl std::fmt::Debug for CustomHeaders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.redacted().fmt(f)
    }
}

fn check_name(name: &str) -> Result<(), String> {
    if !is_header_name(name) {
        return Err(format!("`{}` is not a header name", name.escape_debug()));
    }
    let is_reserved = RESERVED_HEADERS.contains(&name)
        || SIGNATURE_HEADERS.contains(&name)
        || ["webhook-", "proxy-"].iter().any(|start| name.starts_with(start));
    if is_reserved {
        return Err(format!("`{name}` is set by Postrider and cannot be chosen"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(entries: &[(&str, &str)], current: &CustomHeaders) -> Result<CustomHeaders, String> {
        let entries = entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        CustomHeaders::parse(entries.collect(), current)
    }

    #[test]
    fn timeouts() {
        for ms in [TIMEOUT_MS_MIN, TIMEOUT_MS_DEFAULT, TIMEOUT_MS_MAX] {
            assert_eq!(Timeout::parse(ms).map(Timeout::ms), Ok(ms));
        }
        assert!(Timeout::parse(TIMEOUT_MS_MIN - 1).is_err());
        assert!(Timeout::parse(TIMEOUT_MS_MAX + 1).is_err());
        assert_eq!(Timeout::default().lease_ms(), 35_000);
    }

    #[test]
    fn secret_headers_are_hidden_and_survive_a_round_trip() {
        let none = CustomHeaders::default();
        let stored = headers(&[("Authorization", "Bearer x"), ("X-Team", "blue")], &none).expect("valid");
        assert!(!format!("{stored:?}").contains("Bearer"));
        let shown = stored.redacted();
        assert_eq!(shown["authorization"], REDACTED);
        assert_eq!(shown["x-team"], "blue");
        assert_eq!(CustomHeaders::parse(shown, &stored), Ok(stored));
    }

    #[test]
    fn bad_headers() {
        let none = CustomHeaders::default();
        let long = "x".repeat(HEADERS_BYTES_MAX);
        for (name, value) in [
            ("", "x"),
            ("a b", "x"),
            ("Host", "x"),
            ("content-length", "1"),
            ("Webhook-Id", "x"),
            ("X-Hub-Signature-256", "x"),
            ("x", "a\r\nb: c"),
            ("x", "\u{e9}"),
            ("x", " padded"),
            ("x\0", "y"),
            ("x", &long),
        ] {
            assert!(headers(&[(name, value)], &none).is_err(), "{name:?}: {value:?}");
        }
        assert!(headers(&[("X-A", "1"), ("x-a", "2")], &none).is_err(), "the same name twice");
    }
}
