//! One HTTP try of a delivery: its outcome, and the log of all attempts. A failure of the receiver is a value here.

use std::{net::IpAddr, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{Result, id::DeliveryId, text_enum::text_enum};

/// Bytes of a response body that are read and kept; the rest is not read.
pub const RESPONSE_BODY_BYTES_MAX: usize = 16 * 1024;
/// Response headers kept for one attempt, at most.
pub const RESPONSE_HEADERS_MAX: usize = 64;
/// Bytes of a kept response header's value, at most.
pub const RESPONSE_HEADER_BYTES_MAX: usize = 1024;

/// Characters of a failure's message, at most: a receiver can influence the message, for example by its certificate.
pub const FAILURE_CHARACTERS_MAX: usize = 1000;

text_enum! {
    /// The kinds of reasons for which an attempt fails.
    pub enum ErrorKind {
        /// The receiver answered with a status other than 2xx.
        HttpStatus = "http_status",
        /// No complete answer arrived in time.
        Timeout = "timeout",
        /// The host's name did not resolve.
        Dns = "dns",
        /// No connection could be made.
        Connect = "connect",
        /// The TLS handshake failed, for example because the certificate is not trusted.
        Tls = "tls",
        /// The target is, or resolves to, an address that deliveries may not go to.
        BlockedTarget = "blocked_target",
        /// The connection broke, or the answer was not HTTP.
        Protocol = "protocol",
        /// The worker was told to stop while the request was under way.
        Shutdown = "shutdown",
        /// The worker lacked something: file descriptors, or room for another DNS look-up. The attempt does not count.
        WorkerBusy = "worker_busy",
        /// The event has been removed, by retention or by hand.
        PayloadGone = "payload_gone",
        /// The receiver asked to give the delivery up, by [`Directive::Abort`].
        Aborted = "aborted",
    }
}

impl ErrorKind {
    /// Whether the attempt failed through a fault of ours: then it is repeated soon and does not count for the
    /// delivery.
    #[must_use]
    pub fn is_our_fault(self) -> bool {
        match self {
            Self::Shutdown | Self::WorkerBusy => true,
            Self::HttpStatus
            | Self::Timeout
            | Self::Dns
            | Self::Connect
            | Self::Tls
            | Self::BlockedTarget
            | Self::Protocol
            | Self::PayloadGone
            | Self::Aborted => false,
        }
    }
}

/// Why an attempt failed, with a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind of reason, by which Postrider decides what follows.
    pub kind: ErrorKind,
    /// What happened, without secrets; shortened to [`FAILURE_CHARACTERS_MAX`].
    pub message: String,
}

impl Failure {
    /// A failure of this kind, its message shortened if need be.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let mut message: String = message.into();
        if let Some((end, _)) = message.char_indices().nth(FAILURE_CHARACTERS_MAX) {
            message.truncate(end);
        }
        Self { kind, message }
    }
}

text_enum! {
    /// What a receiver may ask for by the header `webhook-delivery` of its answer, whatever the answer's status.
    pub enum Directive {
        /// The subscription is disabled.
        Disable = "disable",
        /// This delivery is given up.
        Abort = "abort",
    }
}

impl Directive {
    /// Reads a value of the header. Upper and lower case mean the same; a value that is not known asks for nothing.
    #[must_use]
    pub fn parse(value: &str) -> Option<Self> {
        let value = value.trim();
        Self::ALL.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(value))
    }
}

/// The receiver's answer, as far as it is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Response {
    /// HTTP status, 100 to 999.
    pub status_code: u16,
    /// The first headers, in their order.
    pub headers: Vec<(String, String)>,
    /// The beginning of the body.
    pub body: Vec<u8>,
    /// Whether the body was longer.
    pub truncated: bool,
}

/// How long the phases of an attempt took, as far as it came. The phase in which an attempt failed lasts until then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Phases {
    /// Looking up the host's name; `None` where the host is an address, and over a connection that was there already.
    pub dns: Option<Duration>,
    /// Opening the TCP connection; `None` over one that was there already.
    pub connect: Option<Duration>,
    /// The TLS handshake; `None` over a connection that was there already, and without TLS.
    pub tls: Option<Duration>,
    /// From the beginning of the attempt until the head of the answer had arrived, so it contains all of the above.
    pub first_byte: Option<Duration>,
    /// The address to which the connection was made; `None` where none was made.
    pub peer: Option<IpAddr>,
    /// Whether the connection was opened for an earlier attempt; `None` where none was made.
    pub is_reused: Option<bool>,
}

/// The outcome of an attempt. `failure` is `None` exactly when the receiver sent a complete 2xx answer that does not
/// ask to give the delivery up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// When the request began, by the worker's clock.
    pub started_at: DateTime<Utc>,
    /// How long it took until the answer was read or the attempt failed.
    pub duration: Duration,
    /// What that time was spent on.
    pub phases: Phases,
    /// The receiver's answer, if one arrived.
    pub response: Option<Response>,
    /// Why the attempt failed; `None` for a success.
    pub failure: Option<Failure>,
    /// How long the receiver asked to be left alone, in an answer with 429 or 503.
    pub retry_after: Option<Duration>,
    /// What the receiver asked for besides, by the header `webhook-delivery`.
    pub directive: Option<Directive>,
}

/// Reads a `Retry-After` header (RFC 9110 §10.2.3): a number of seconds, or a date in any of the three forms of §5.6.7.
/// Fractions of a second, which some receivers send, are rounded up. `None` where it is neither.
#[must_use]
pub fn parse_retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    if let Some(seconds) = parse_seconds(value) {
        return Some(Duration::from_secs(seconds));
    }
    let date = match httpdate::parse_http_date(value) {
        Ok(date) => DateTime::<Utc>::from(date),
        // Some receivers send the date of an e-mail, with an offset instead of GMT.
        Err(_) => DateTime::parse_from_rfc2822(value).ok()?.to_utc(),
    };
    Some((date - now).to_std().unwrap_or_default())
}

/// Parses a number of seconds, rounded up; a number that is too large becomes the largest one.
fn parse_seconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let is_more = fraction.bytes().any(|digit| digit != b'0');
    Some(whole.parse().unwrap_or(u64::MAX).saturating_add(is_more.into()))
}

/// An attempt in the log.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Number of the attempt; 1 is the first.
    pub number: i32,
    /// When the request began, by the worker's clock.
    pub started_at: DateTime<Utc>,
    /// How long the attempt took in milliseconds; `None` where the worker died before it could measure.
    pub duration_ms: Option<i32>,
    /// Microseconds of looking up the host's name; this and the next four are `None` where the attempt did not come to
    /// it. See [`Phases`].
    pub dns_us: Option<i32>,
    /// Microseconds of opening the TCP connection.
    pub connect_us: Option<i32>,
    /// Microseconds of the TLS handshake.
    pub tls_us: Option<i32>,
    /// Microseconds from the beginning of the attempt until the head of the answer had arrived.
    pub first_byte_us: Option<i32>,
    /// Microseconds of the whole attempt: `duration_ms`, but finer.
    pub total_us: Option<i32>,
    /// The IP address to which the connection was made.
    pub peer_address: Option<String>,
    /// Whether the connection was opened for an earlier attempt.
    pub is_reused: Option<bool>,
    /// The HTTP status; `None` where no answer arrived.
    pub status_code: Option<i16>,
    /// A word of [`ErrorKind`], or `lease_lost`; `None` for a success.
    pub error_kind: Option<String>,
    /// Why the attempt failed, in words for a person; `None` for a success.
    pub error: Option<String>,
    /// The first response headers: name and value pairs.
    pub response_headers: Option<sqlx::types::Json<Vec<(String, String)>>>,
    /// The beginning of the response body.
    pub response_body: Option<Vec<u8>>,
    /// Whether the response body was longer.
    pub response_truncated: bool,
}

/// All attempts of a delivery, from the first to the last. A round of the retry policy has few more than
/// [`crate::queue::retry_policy::ATTEMPTS_MAX`].
pub async fn list(pool: &PgPool, delivery: DeliveryId) -> Result<Vec<Attempt>> {
    let attempts = sqlx::query_as!(
        Attempt,
        r#"SELECT number, started_at, duration_ms, dns_us, connect_us, tls_us, first_byte_us, total_us,
                  host(peer_address) AS peer_address, is_reused, status_code, error_kind, error,
                  response_headers AS "response_headers: _", response_body, response_truncated
             FROM attempts
            WHERE delivery_id = $1
            ORDER BY number
            LIMIT 1000"#,
        delivery.0
    );
    Ok(attempts.fetch_all(pool).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives() {
        for (text, directive) in [
            ("disable", Some(Directive::Disable)),
            (" Disable ", Some(Directive::Disable)),
            ("abort", Some(Directive::Abort)),
            ("ABORT", Some(Directive::Abort)),
            ("", None),
            ("abort-message", None),
            ("disable, abort", None),
            ("d\u{131}sable", None),
        ] {
            assert_eq!(Directive::parse(text), directive, "{text:?}");
        }
    }

    #[test]
    fn retry_after() {
        let now = DateTime::from_timestamp(784_111_777, 0).expect("in range"); // Sun, 06 Nov 1994 08:49:37 GMT
        let cases = [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("Sunday, 06-Nov-94 08:51:37 GMT", Some(120)),
            ("Sunday, 06-Nov-94 08:00:00 GMT", Some(0)),
            ("Saturday, 11-Nov-95 08:49:37 GMT", Some(370 * 86_400)),
            ("Sun Nov  6 08:51:37 1994", Some(120)),
            (" Sun Nov 13 08:49:37 1994 ", Some(7 * 86_400)),
            ("Sun Nov  6 08:00:00 1994", Some(0)),
            ("Sun, 06 Nov 1994 09:51:37 +0100", Some(120)),
            ("1.5", Some(2)),
            ("1.0", Some(1)),
            ("2.", Some(2)),
            ("0.001", Some(1)),
            ("99999999999999999999999", Some(u64::MAX)),
            ("99999999999999999999999.9", Some(u64::MAX)),
            ("", None),
            ("-1", None),
            ("-1.5", None),
            (".5", None),
            ("1.5.2", None),
            ("1,5", None),
            ("1e3", None),
            ("soon", None),
            ("Sun Nov 31 08:49:37 1994", None),
            ("Sunday, 06-Nov-94 25:49:37 GMT", None),
        ];
        for (text, seconds) in cases {
            assert_eq!(parse_retry_after(text, now), seconds.map(Duration::from_secs), "{text:?}");
        }
    }
}
