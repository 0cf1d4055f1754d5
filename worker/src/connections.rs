//! Connections to receivers: they are opened only to addresses that the policy allows at that moment, kept for further
//! requests, and retired when they grow old. This module knows nothing of deliveries.
//!
//! Each connection counts the bytes that it has received. They show whether a receiver closed a kept connection just as
//! the next request was sent, or answered that request badly. In the first case the request is sent once more, on a new
//! connection.

use std::{
    error::Error as StdError,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, Uri, body::Incoming, http::Extensions, http::response::Parts};
use hyper_util::{
    client::legacy::{
        Client, Error,
        connect::{CaptureConnection, Connected, Connection, HttpConnector, dns::Name},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use postrider_core::{
    queue::attempt::Phases,
    trust::target_policy::{TargetPolicy, Unreachable},
};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName},
};
use rustls_platform_verifier::Verifier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;
use tower_service::Service;

use crate::phases::Connecting;

/// How long connecting may take, TLS included; it counts towards the timeout of the attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an unused connection is kept. Each is a file descriptor, and there may be as many hosts as subscriptions.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Unused connections kept for each host, at most.
const IDLE_CONNECTIONS_PER_HOST_MAX: usize = 128;
/// How old a connection may be and still be kept for another request. Even with `IDLE_TIMEOUT` on top, a name that
/// now leads to another address is followed within a minute, however busy its connections are.
pub const CONNECTION_AGE_MAX: Duration = Duration::from_secs(45);

/// The body of a request, which is in memory so that it can be sent again.
pub type Body = Full<Bytes>;

/// All connections of a worker to receivers.
#[derive(Clone)]
pub struct Connections {
    kept: Client<Connector, Body>,
    /// Opens a new connection for each request.
    fresh: Client<Connector, Body>,
    age_max: Duration,
}

impl Connections {
    /// Connections to addresses that the policy allows, and to receivers whose certificates these authorities or the
    /// machine's have issued. A connection that is older than `age_max` carries no further request.
    ///
    /// # Errors
    /// When the machine has no usable TLS trust store.
    pub fn new(
        policy: TargetPolicy,
        authorities: &[CertificateDer<'static>],
        age_max: Duration,
    ) -> Result<Self, rustls::Error> {
        let connector = Connector::new(policy, authorities)?;
        let client = |idle_max| {
            Client::builder(TokioExecutor::new())
                .timer(TokioTimer::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(IDLE_TIMEOUT)
                .pool_max_idle_per_host(idle_max)
                .build(connector.clone())
        };
        Ok(Self { kept: client(IDLE_CONNECTIONS_PER_HOST_MAX), fresh: client(0), age_max })
    }

    /// Sends a request and waits for the head of its answer. If a kept connection is closed before a byte of the answer
    /// has come, because the server had ended it as idle, the request is sent once more on a new connection.
    /// `carrier` is that of the request; `connecting` is told what opening a connection takes.
    pub async fn send(
        &self,
        request: Request<Body>,
        carrier: &CaptureConnection,
        connecting: &Connecting,
    ) -> Result<Answer, Error> {
        let answered = match connecting.during(self.send_over_any(request.clone(), carrier)).await {
            Err(error) if was_closed_unanswered(&error) => {
                let host = request.uri().host();
                tracing::debug!(%error, host, "a kept connection was closed unanswered; the request is sent once more");
                metrics::counter!("postrider_requests_resent_total").increment(1);
                connecting.begins_again();
                connecting.during(self.fresh.request(request)).await
            }
            answered => answered,
        };
        answered.map(Answer::new)
    }

    async fn send_over_any(
        &self,
        request: Request<Body>,
        carrier: &CaptureConnection,
    ) -> Result<Response<Incoming>, Error> {
        let _retires = Retires { connection: carrier.clone(), age_max: self.age_max };
        self.kept.request(request).await
    }
}

/// Tells the phases of an attempt, as far as it came; `carrier` is the connection that carried its request. A
/// connection that was opened for another attempt is a reused one.
pub fn add_phases(phases: &mut Phases, connecting: &Connecting, carrier: &CaptureConnection) {
    let meter = carrier.connection_metadata().as_ref().and_then(Meter::of);
    match meter {
        Some(meter) if !meter.0.opened_for.is(connecting) && !connecting.is_resent() => {
            (phases.peer, phases.is_reused) = (meter.0.peer, Some(true));
        }
        Some(_) | None => connecting.add_to(phases),
    }
}

/// Prevents the connection that carried a request from carrying another one if it is too old, whatever happened to the
/// request.
struct Retires {
    connection: CaptureConnection,
    age_max: Duration,
}

impl Drop for Retires {
    fn drop(&mut self) {
        if let Some(connected) = &*self.connection.connection_metadata()
            && Meter::of(connected).is_some_and(|meter| meter.0.opened_at.elapsed() > self.age_max)
        {
            connected.poison();
        }
    }
}

/// An answer, whose body is read piece by piece.
pub struct Answer {
    /// The status and the headers of the answer.
    pub head: Parts,
    body: Incoming,
}

impl Answer {
    fn new(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body }
    }

    /// The next piece of the body; `None` at its end. Trailers are skipped.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        if let Some(meter) = self.head.extensions.get::<Meter>() {
            meter.answered();
        }
        Ok(None)
    }
}

/// Whether a request failed because a connection that had worked before was closed before this request's answer began.
fn was_closed_unanswered(error: &Error) -> bool {
    let Some((connected, meter)) = error.connect_info().and_then(|info| Some((info, Meter::of(info)?))) else {
        return false;
    };
    let (read, answered) = (meter.0.read.load(Ordering::Relaxed), meter.0.answered.load(Ordering::Relaxed));
    if !connected.is_negotiated_h2() {
        return answered > 0 && read == answered;
    }
    // Requests that share a connection also share its bytes, but bytes for all of them are no answer to this one.
    answered > 0
        && causes(error).any(|cause| {
            let of_http2 = cause.downcast_ref::<h2::Error>();
            let of_client = cause.downcast_ref::<hyper::Error>();
            let is_refused =
                of_http2.is_some_and(|error| error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
            is_refused
                || of_client.is_some_and(|error| error.is_canceled() || error.is_closed())
                || cause.is::<io::Error>()
        })
}

/// An error and its chain of causes, the outermost first.
pub(crate) fn causes<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |cause| (*cause).source())
}

/// Counts the bytes that a connection has received.
#[derive(Clone)]
struct Meter(Arc<Counts>);

struct Counts {
    opened_at: Instant,
    opened_for: Connecting,
    peer: Option<IpAddr>,
    /// Bytes received so far, after decryption.
    read: AtomicU64,
    /// The value of `read` when the last answer had ended.
    answered: AtomicU64,
}

impl Meter {
    fn new(opened_for: Connecting, peer: Option<IpAddr>) -> Self {
        let (read, answered) = (AtomicU64::new(0), AtomicU64::new(0));
        Self(Arc::new(Counts { opened_at: Instant::now(), opened_for, peer, read, answered }))
    }

    fn of(connected: &Connected) -> Option<Self> {
        let mut extras = Extensions::new();
        connected.get_extras(&mut extras);
        extras.remove()
    }

    fn answered(&self) {
        self.0.answered.store(self.0.read.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Opens connections to addresses that the policy allows.
#[derive(Clone)]
struct Connector {
    tcp: HttpConnector<VettedResolver>,
    tls: TlsConnector,
}

type BoxError = Box<dyn StdError + Send + Sync>;

impl Connector {
    fn new(policy: TargetPolicy, authorities: &[CertificateDer<'static>]) -> Result<Self, rustls::Error> {
        let mut tcp = HttpConnector::new_with_resolver(VettedResolver(policy));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        // All addresses of a host share this time, so that one that does not answer leaves time for the next.
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Verifier::new_with_extra_roots(authorities.iter().cloned(), Arc::clone(&provider))?;
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self { tcp, tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn connect(mut self, target: Uri, connecting: Connecting) -> Result<Metered, BoxError> {
        let is_https = target.scheme_str() == Some("https");
        let host = target.host().unwrap_or_default().trim_matches(['[', ']']);
        let server_name = ServerName::try_from(host.to_owned());
        let tcp = self.tcp.call(target).await?.into_inner();
        let peer = tcp.peer_addr().ok().map(|peer| peer.ip().to_canonical());
        connecting.is_connected(peer);
        let (stream, is_h2): (Box<dyn Stream>, _) = if is_https {
            connecting.begins_tls();
            let tls = self.tls.connect(server_name?, tcp).await?;
            connecting.is_secured();
            let is_h2 = tls.get_ref().1.alpn_protocol() == Some(b"h2");
            (Box::new(tls), is_h2)
        } else {
            (Box::new(tcp), false)
        };
        Ok(Metered { stream, is_h2, meter: Meter::new(connecting, peer) })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Metered>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = Connecting::present();
        connecting.begins();
        let connect = self.clone().connect(target, connecting.clone());
        Box::pin(async move {
            // If a connection gets free meanwhile, the client goes on with this in a task of its own.
            let in_time = connecting.during(tokio::time::timeout(CONNECT_TIMEOUT, connect)).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_TIMEOUT:?}"))
            })?;
            in_time.map(TokioIo::new)
        })
    }
}

/// Resolves names to addresses that deliveries may be sent to. It does so anew for each connection, so that changing a
/// name's addresses after it was checked gains nothing.
#[derive(Clone)]
struct VettedResolver(TargetPolicy);

impl Service<Name> for VettedResolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unreachable;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unreachable>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Unreachable>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let policy = self.0.clone();
        Box::pin(async move {
            let connecting = Connecting::present();
            connecting.asks_dns();
            let vetted = policy.resolve(name.as_str()).await?;
            connecting.is_resolved();
            Ok(vetted.into_iter().map(|address| SocketAddr::new(address, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream that counts the bytes read from it.
struct Metered {
    stream: Box<dyn Stream>,
    is_h2: bool,
    meter: Meter,
}

impl Connection for Metered {
    fn connected(&self) -> Connected {
        let connected = Connected::new().extra(self.meter.clone());
        if self.is_h2 { connected.negotiated_h2() } else { connected }
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.meter.0.read.fetch_add((buffer.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
