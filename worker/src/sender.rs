//! One HTTP request to a receiver, bounded in time, in bytes and in the addresses it may go to, whatever the receiver
//! does. It cannot fail: a failure is an [`Outcome`]. It knows nothing of retries or the database.

use std::{
    error::Error as StdError,
    io,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use hyper::{
    HeaderMap, Request, Uri,
    header::{HeaderName, HeaderValue, RETRY_AFTER},
};
use hyper_util::client::legacy::{
    self,
    connect::{CaptureConnection, capture_connection},
};
use postrider_core::{
    delivery::{
        destination::Destination,
        request_headers::{self, Sent, Source},
    },
    error::is_out_of_files,
    event::trace_context::TraceContext,
    hop,
    id::{DeliveryId, EventId},
    queue::{
        Claimed,
        attempt::{
            Directive, ErrorKind, Failure, Outcome, RESPONSE_BODY_BYTES_MAX, RESPONSE_HEADER_BYTES_MAX,
            RESPONSE_HEADERS_MAX, Response, parse_retry_after,
        },
        payload::ClaimedEvent,
    },
    trust::target_policy::{TargetPolicy, Unreachable},
};
use rustls::pki_types::CertificateDer;

use crate::{
    connections::{Body, Connections, add_phases, causes},
    phases::Connecting,
};

/// The header of an answer by which a receiver asks for something besides.
const DIRECTIVE: &str = "webhook-delivery";

/// Sends attempts over connections that are kept for further requests.
#[derive(Clone)]
pub struct Sender {
    connections: Connections,
    policy: TargetPolicy,
}

impl Sender {
    /// A sender that obeys this policy, and trusts these certificate authorities besides the machine's. A connection
    /// older than `connection_age_max` carries no further request.
    ///
    /// # Errors
    /// When the machine has no usable TLS trust store.
    pub fn new(
        policy: TargetPolicy,
        authorities: &[CertificateDer<'static>],
        connection_age_max: Duration,
    ) -> Result<Self, rustls::Error> {
        Ok(Self { connections: Connections::new(policy.clone(), authorities, connection_age_max)?, policy })
    }

    /// Makes one attempt, within the destination's timeout. The receiver is told `trace`.
    pub async fn send(
        &self,
        destination: Destination<'_>,
        claimed: &Claimed,
        event: &ClaimedEvent,
        trace: Option<&TraceContext>,
    ) -> Outcome {
        let started_at = Utc::now();
        let clock = Instant::now();
        let mut outcome = Outcome { started_at, ..Outcome::default() };
        if let Err(failure) = self.attempt(destination, claimed, event, trace, clock, &mut outcome).await {
            outcome.failure = Some(failure);
        }
        if outcome.directive == Some(Directive::Abort) {
            let message = "the receiver asked to give this delivery up";
            outcome.failure = Some(Failure::new(ErrorKind::Aborted, message));
        }
        outcome.duration = clock.elapsed();
        outcome
    }

    async fn attempt(
        &self,
        destination: Destination<'_>,
        claimed: &Claimed,
        event: &ClaimedEvent,
        trace: Option<&TraceContext>,
        clock: Instant,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let target = destination.target_url;
        // The resolver is never asked about a host that is an address, so the policy is checked here.
        self.policy
            .check(target.as_url())
            .map_err(|blocked| Failure::new(ErrorKind::BlockedTarget, blocked.to_string()))?;
        let uri: Uri = target.as_str().parse().map_err(|error: hyper::http::uri::InvalidUri| {
            Failure::new(ErrorKind::Protocol, format!("no request can be sent to the target URL: {error}"))
        })?;
        let mut request = Request::post(uri).body(Body::new(event.payload.clone())).expect("a URI and a body");
        *request.headers_mut() = headers(destination, claimed, event, trace, outcome.started_at);
        let connection = capture_connection(&mut request);
        let timeout = Duration::from_millis(destination.timeout_ms.into());
        // The exchange is in a box, because each delivery in flight is a task, which would hold all of its memory from
        // the start.
        let connecting = Connecting::default();
        let exchange = Box::pin(self.exchange(request, &connection, &connecting, clock, outcome));
        hop!("sending", [claimed.event_id]);
        let in_time = tokio::time::timeout(timeout, exchange).await;
        add_phases(&mut outcome.phases, &connecting, &connection);
        in_time.unwrap_or_else(|_| {
            let host = target.as_url().host_str().unwrap_or_default();
            let is_unconnected = connection.connection_metadata().is_none();
            Err(if is_unconnected && self.policy.dns.0.is_held_up(host) {
                Failure::new(ErrorKind::WorkerBusy, "the host's name had to wait until others had been looked up")
            } else {
                Failure::new(ErrorKind::Timeout, format!("no complete answer within {timeout:?}"))
            })
        })
    }

    async fn exchange(
        &self,
        request: Request<Body>,
        carrier: &CaptureConnection,
        connecting: &Connecting,
        clock: Instant,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let mut answer =
            self.connections.send(request, carrier, connecting).await.map_err(|error| failure_of(&error))?;
        outcome.phases.first_byte = Some(clock.elapsed());
        let status = answer.head.status;
        let response = outcome.response.insert(Response {
            status_code: status.as_u16(),
            headers: kept_headers(&answer.head.headers),
            ..Response::default()
        });
        if matches!(response.status_code, 429 | 503) {
            let asked = answer.head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            outcome.retry_after = asked.and_then(|asked| parse_retry_after(asked, Utc::now()));
        }
        let mut asked = answer.head.headers.get_all(DIRECTIVE).iter().filter_map(|value| value.to_str().ok());
        outcome.directive = asked.find_map(Directive::parse);
        while let Some(chunk) = answer.chunk().await.map_err(|error| failure_of(&error))? {
            let room = RESPONSE_BODY_BYTES_MAX - response.body.len();
            response.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                // The rest of the answer is not read: dropping it closes the connection (over HTTP/2, its stream).
                response.truncated = true;
                break;
            }
        }
        if status.is_success() {
            Ok(())
        } else {
            Err(Failure::new(ErrorKind::HttpStatus, format!("the receiver answered {status}")))
        }
    }
}

/// The headers of an attempt, as the client library wants them.
fn headers(
    destination: Destination<'_>,
    claimed: &Claimed,
    event: &ClaimedEvent,
    trace: Option<&TraceContext>,
    now: DateTime<Utc>,
) -> HeaderMap {
    let sent = Sent {
        event_id: &EventId(claimed.event_id).to_string(),
        delivery_id: &DeliveryId(claimed.delivery_id).to_string(),
        event_type: &event.event_type,
        attempt_number: claimed.attempt_number,
        content_type: &event.content_type,
        content_encoding: event.content_encoding.as_deref(),
        payload: &event.payload,
        trace,
    };
    let all = request_headers::headers(destination, sent, now);
    let mut headers = HeaderMap::with_capacity(all.len());
    for (name, value, source) in all {
        // The owner's names and values were checked when they were set; a content type is whatever the producer sent.
        if let (Ok(name), Ok(mut value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            // The owner's value may be a secret, so it belongs neither in a log nor in a compression table.
            value.set_sensitive(source == Source::Owner);
            headers.insert(name, value);
        }
    }
    headers
}

fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let kept = headers.iter().take(RESPONSE_HEADERS_MAX).map(|(name, value)| {
        let value = &value.as_bytes()[..value.len().min(RESPONSE_HEADER_BYTES_MAX)];
        (name.as_str().to_owned(), String::from_utf8_lossy(value).into_owned())
    });
    kept.collect()
}

/// Finds out from the chain of causes which kind of failure an error is.
fn failure_of(error: &(dyn StdError + 'static)) -> Failure {
    let mut kind = None;
    let mut message = String::new();
    for cause in causes(error) {
        let io = cause.downcast_ref::<io::Error>();
        if let Some(unreachable) = cause.downcast_ref::<Unreachable>() {
            kind = Some(match unreachable {
                Unreachable::Blocked(_) => ErrorKind::BlockedTarget,
                Unreachable::Unresolved(_) => ErrorKind::Dns,
                Unreachable::Busy => ErrorKind::WorkerBusy,
            });
        } else if io.is_some_and(is_out_of_files) {
            kind = Some(ErrorKind::WorkerBusy);
        } else if is_tls(cause) {
            kind = kind.or(Some(ErrorKind::Tls));
        } else if io.is_some_and(|io| io.kind() == io::ErrorKind::TimedOut) {
            kind = kind.or(Some(ErrorKind::Timeout));
        }
        // The innermost cause says most; the outer ones name layers of the library.
        message = cause.to_string();
    }
    let is_connect = error.downcast_ref::<legacy::Error>().is_some_and(legacy::Error::is_connect);
    let kind = kind.unwrap_or(if is_connect { ErrorKind::Connect } else { ErrorKind::Protocol });
    Failure::new(kind, message)
}

/// Whether an error is one of TLS. It may be inside an I/O error that does not name it as its source.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

#[cfg(test)]
mod tests {
    use postrider_core::trust::target_policy::Blocked;

    use super::*;

    #[test]
    fn why_a_host_cannot_be_reached_is_told_by_kind() {
        let unresolved = Unreachable::Unresolved("there is no such name".to_owned());
        let errors: [(Box<dyn StdError>, ErrorKind); 6] = [
            (Box::new(Unreachable::Busy), ErrorKind::WorkerBusy),
            (Box::new(unresolved), ErrorKind::Dns),
            (Box::new(Unreachable::Blocked(Blocked::NotHttps)), ErrorKind::BlockedTarget),
            (Box::new(io::Error::from_raw_os_error(24)), ErrorKind::WorkerBusy),
            (Box::new(io::Error::from(io::ErrorKind::TimedOut)), ErrorKind::Timeout),
            (Box::new(io::Error::from(io::ErrorKind::ConnectionReset)), ErrorKind::Protocol),
        ];
        for (error, kind) in errors {
            assert_eq!(failure_of(error.as_ref()).kind, kind, "{error}");
        }
    }
}
