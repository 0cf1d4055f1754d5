//! One HTTP request to a receiver, whatever the receiver does: bounded in time, in bytes and in where it may go. It
//! cannot fail; what goes wrong is an [`Outcome`]. It knows nothing of retries or the database.

use std::{
    error::Error as StdError,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use postrider_core::{
    delivery::destination::Destination,
    id::{DeliveryId, EventId},
    queue::{
        Claimed,
        attempt::{
            ErrorKind, Failure, Outcome, RESPONSE_BODY_BYTES_MAX, RESPONSE_HEADER_BYTES_MAX, RESPONSE_HEADERS_MAX,
            Response, parse_retry_after,
        },
        payload::ClaimedEvent,
    },
    trust::{
        signature::Message,
        target_policy::{TargetPolicy, Unreachable},
    },
};
use reqwest::{
    Certificate, Client,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};

/// How long connecting may take, TLS included; part of the attempt's whole time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept; each is a file descriptor, and there may be as many hosts as subscriptions.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Unused connections kept for each host, at most.
const IDLE_CONNECTIONS_PER_HOST_MAX: usize = 128;

/// Sends attempts over pooled connections.
#[derive(Clone)]
pub struct Sender {
    client: Client,
    policy: TargetPolicy,
}

impl Sender {
    /// A sender that keeps to this policy, and trusts these authorities besides those that the machine trusts.
    ///
    /// # Errors
    /// When the machine has no usable TLS trust store.
    pub fn new(policy: TargetPolicy, authorities: Vec<Certificate>) -> Result<Self, reqwest::Error> {
        // A second call in one process changes nothing.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder()
            .user_agent(concat!("Postrider/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_PER_HOST_MAX)
            .tcp_nodelay(true)
            // A proxy would carry the request past the resolver below.
            .no_proxy()
            .dns_resolver(Arc::new(VettedResolver(policy.clone())))
            .tls_certs_merge(authorities)
            // An attempt is one request; what follows is decided by the retry policy.
            .retry(reqwest::retry::never())
            .build()?;
        Ok(Self { client, policy })
    }

    /// Makes one attempt.
    pub async fn send(&self, destination: Destination<'_>, claimed: &Claimed, event: &ClaimedEvent) -> Outcome {
        let started_at = Utc::now();
        let clock = Instant::now();
        let mut outcome = Outcome { started_at, ..Outcome::default() };
        match self.request(destination, claimed, event, &mut outcome).await {
            Ok(()) => {}
            Err(failure) => outcome.failure = Some(failure),
        }
        outcome.duration = clock.elapsed();
        outcome
    }

    async fn request(
        &self,
        destination: Destination<'_>,
        claimed: &Claimed,
        event: &ClaimedEvent,
        outcome: &mut Outcome,
    ) -> Result<(), Failure> {
        let target = destination.target_url;
        // Also what the resolver is never asked for: a host that is an address.
        self.policy.check(target).map_err(|blocked| Failure::new(ErrorKind::BlockedTarget, blocked.to_string()))?;
        let timeout = Duration::from_millis(destination.timeout_ms.into());
        let request = self
            .client
            .post(target.as_url().clone())
            .timeout(timeout)
            .headers(headers(destination, claimed, event, outcome.started_at))
            .body(event.payload.clone());
        let mut response = request.send().await.map_err(|error| failure_of(&error))?;

        let status = response.status();
        let answer = outcome.response.insert(Response {
            status_code: status.as_u16(),
            headers: kept_headers(response.headers()),
            ..Response::default()
        });
        if matches!(answer.status_code, 429 | 503) {
            let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            outcome.retry_after = asked.and_then(|asked| parse_retry_after(asked, Utc::now()));
        }
        while let Some(chunk) = response.chunk().await.map_err(|error| failure_of(&error))? {
            let room = RESPONSE_BODY_BYTES_MAX - answer.body.len();
            answer.body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                // Dropping the response closes the connection: what follows is never read.
                answer.truncated = true;
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

/// The signature's headers, what else tells about this attempt, and the owner's own.
fn headers(destination: Destination<'_>, claimed: &Claimed, event: &ClaimedEvent, now: DateTime<Utc>) -> HeaderMap {
    let event_id = EventId(claimed.event_id).to_string();
    let delivery_id = DeliveryId(claimed.delivery_id).to_string();
    let timestamp = now.timestamp();
    let message = Message { event_id: &event_id, delivery_id: &delivery_id, timestamp, payload: &event.payload };
    let signature = destination.secrets.map(|secrets| destination.signature_scheme.headers(secrets, now, message));
    let ours = [
        ("webhook-timestamp", timestamp.to_string()),
        ("webhook-id", event_id.clone()),
        ("webhook-delivery-id", delivery_id.clone()),
        ("webhook-event-type", event.event_type.clone()),
        ("webhook-attempt", claimed.attempt_number.to_string()),
    ];
    let mut headers = HeaderMap::with_capacity(ours.len() + 8);
    for (name, value) in destination.headers.iter() {
        // Both were checked when they were set.
        if let (Ok(name), Ok(mut value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            // Whatever it is, it is no log's business, and no compression table's.
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    if let Ok(content_type) = event.content_type.parse() {
        headers.insert(CONTENT_TYPE, content_type);
    }
    for (name, value) in ours.into_iter().chain(signature.into_iter().flatten()) {
        if let Ok(value) = value.parse() {
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

/// Tells from the chain of causes what kind of failure it was.
fn failure_of(error: &reqwest::Error) -> Failure {
    let mut causes = Vec::new();
    let mut kind = None;
    let mut cause: Option<&(dyn StdError + 'static)> = error.source();
    while let Some(error) = cause {
        if let Some(unreachable) = error.downcast_ref::<Unreachable>() {
            kind = Some(match unreachable {
                Unreachable::Blocked(_) => ErrorKind::BlockedTarget,
                Unreachable::Unresolved(_) => ErrorKind::Dns,
                Unreachable::Busy => ErrorKind::WorkerBusy,
            });
        } else if is_out_of_files(error) {
            kind = Some(ErrorKind::WorkerBusy);
        } else if is_tls(error) {
            kind = kind.or(Some(ErrorKind::Tls));
        }
        causes.push(error.to_string());
        cause = error.source();
    }
    let kind = kind.unwrap_or(if error.is_timeout() {
        ErrorKind::Timeout
    } else if error.is_connect() {
        ErrorKind::Connect
    } else {
        ErrorKind::Protocol
    });
    // The last cause says most; the outer ones repeat the URL and name layers.
    let message = causes.pop().unwrap_or_else(|| error.to_string());
    Failure::new(kind, message)
}

/// No file descriptor was left for a connection, in this process or on this machine.
fn is_out_of_files(error: &(dyn StdError + 'static)) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    let io = error.downcast_ref::<std::io::Error>();
    matches!(io.and_then(std::io::Error::raw_os_error), Some(ENFILE | EMFILE))
}

/// A TLS error also hides inside I/O errors, which do not name it as their source.
fn is_tls(error: &(dyn StdError + 'static)) -> bool {
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    error.is::<rustls::Error>() || inner.is_some_and(|inner| is_tls(inner))
}

/// Resolves names and hands out only addresses that deliveries may go to, at each connection anew, so that a name
/// that changes its mind after it was checked gains nothing.
struct VettedResolver(TargetPolicy);

impl Resolve for VettedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = self.0.clone();
        Box::pin(async move {
            let vetted = policy.resolve(name.as_str()).await?;
            Ok(Box::new(vetted.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}
