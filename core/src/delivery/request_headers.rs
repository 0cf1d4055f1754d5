//! The headers of an attempt's request. The worker sends them, and the dashboard shows them again afterwards: requests
//! are not stored, but everything in them can be made anew.

use chrono::{DateTime, Utc};

use crate::{delivery::destination::Destination, event::trace_context::TraceContext, trust::signature::Message};

/// The `User-Agent` of all requests, unless the subscription's owner chose another.
pub const USER_AGENT: &str = concat!("Postrider/", env!("CARGO_PKG_VERSION"));

/// What an attempt sends.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// The event's id as text.
    pub event_id: &'a str,
    /// The delivery's id as text.
    pub delivery_id: &'a str,
    /// The event's type.
    pub event_type: &'a str,
    /// The number of the attempt; 1 is the first.
    pub attempt_number: i32,
    /// The media type of the payload.
    pub content_type: &'a str,
    /// How the payload was packed before it was posted; `None` where it was not.
    pub content_encoding: Option<&'a str>,
    /// The body of the request, byte for byte.
    pub payload: &'a [u8],
    /// The place in a trace that the receiver is told, if the event belongs to a trace or the attempt is a span.
    pub trace: Option<&'a TraceContext>,
}

/// Where a header comes from. Of two headers with one name, the later one in the list counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Postrider sets it, or the event brings it.
    Ours,
    /// The subscription's owner chose it. Its value may be a secret.
    Owner,
    /// It holds a signature, which is made with a secret.
    Signature,
}

/// A header of a request: its name in lower case, its value, and where it comes from.
pub type Header = (String, String, Source);

/// All headers of an attempt that is made at `now`.
#[must_use]
pub fn headers(destination: Destination<'_>, sent: Sent<'_>, now: DateTime<Utc>) -> Vec<Header> {
    let timestamp = now.timestamp();
    let ours = |name: &str, value: String| (name.to_owned(), value, Source::Ours);
    let mut headers = vec![ours("accept", "*/*".to_owned()), ours("user-agent", USER_AGENT.to_owned())];
    let owners = destination.headers.iter();
    headers.extend(owners.map(|(name, value)| (name.to_owned(), value.to_owned(), Source::Owner)));
    // The client library would send no length for an empty body, and some servers refuse a POST without one.
    headers.push(ours("content-length", sent.payload.len().to_string()));
    headers.push(ours("content-type", sent.content_type.to_owned()));
    headers.extend(sent.content_encoding.map(|encoding| ours("content-encoding", encoding.to_owned())));
    if let Some(trace) = sent.trace {
        headers.push(ours("traceparent", trace.traceparent().to_owned()));
        headers.extend(trace.tracestate().map(|state| ours("tracestate", state.to_owned())));
    }
    headers.push(ours("webhook-timestamp", timestamp.to_string()));
    headers.push(ours("webhook-id", sent.event_id.to_owned()));
    headers.push(ours("webhook-delivery-id", sent.delivery_id.to_owned()));
    headers.push(ours("webhook-event-type", sent.event_type.to_owned()));
    headers.push(ours("webhook-attempt", sent.attempt_number.to_string()));
    let message = Message { event_id: sent.event_id, delivery_id: sent.delivery_id, timestamp, payload: sent.payload };
    let signed = destination.secrets.map(|secrets| destination.signature_scheme.headers(secrets, now, message));
    let signed = signed.into_iter().flatten();
    headers.extend(signed.map(|(name, value)| (name.to_owned(), value, Source::Signature)));
    headers
}
