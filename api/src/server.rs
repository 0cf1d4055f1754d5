//! Serving HTTP to callers of whom nothing good is assumed: a limit of connections, a time for a request's head, an end
//! for connections that say nothing, and a problem+json for what is not even HTTP. What is answered is the endpoint's
//! business.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::{
    Request, Response, Version,
    body::{Frame, Incoming, SizeHint},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use poem::{
    Addr, Endpoint, EndpointExt,
    http::{StatusCode, uri::Scheme},
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::problem::head_refused;

/// How long a request's head may take, from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may neither bring nor take a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a connection is used, at most: then it is told to come to an end, and closed when it has not a while later.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// How often connections are examined: they are closed so much later than they might be, at most.
const EXAMINED_EVERY: Duration = Duration::from_secs(2);
/// Bytes of a request's head, at most; and of a URI, a little less.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Requests of one HTTP/2 connection at a time, at most.
const STREAMS_MAX: u32 = 100;
/// How long nobody is accepted after accepting has failed, as it does while the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are being told that there are too many, at most; those beyond are just closed.
const REFUSALS_MAX: usize = 64;
/// How long telling them may take.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until it is told to stop; then lets requests finish for as long as `patience` says.
pub async fn serve<E>(
    listener: TcpListener,
    endpoint: E,
    connections_max: usize,
    stop: CancellationToken,
    patience: Duration,
) where
    E: Endpoint + 'static,
{
    let endpoint = Arc::new(endpoint.map_to_response());
    let (places, refusals) = (Arc::new(Semaphore::new(connections_max)), Arc::new(Semaphore::new(REFUSALS_MAX)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                metrics::counter!("postrider_connections_refused_total", "reason" => "accept_failed").increment(1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let connection = connection(stream, remote, Arc::clone(&endpoint), stop.clone());
            connections.spawn(async move {
                connection.await;
                drop(place);
            });
        } else {
            metrics::counter!("postrider_connections_refused_total", "reason" => "too_many").increment(1);
            if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
                connections.spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
                    drop(turn);
                });
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(patience, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
}

/// One connection, from its first byte to its end.
async fn connection<E>(stream: TcpStream, remote: SocketAddr, endpoint: Arc<E>, stop: CancellationToken)
where
    E: Endpoint<Output = poem::Response> + 'static,
{
    let Ok(local) = stream.local_addr() else { return };
    let life = Arc::new(Life::new());
    let watched = Watched { stream, life: Arc::clone(&life), instead: None };
    let serving = Arc::clone(&life);
    let service = service_fn(move |request: Request<Incoming>| {
        let (endpoint, under_way) = (Arc::clone(&endpoint), serving.begin(request.version()));
        let addresses = (LocalAddr(Addr::from(local)), RemoteAddr(Addr::from(remote)));
        async move {
            let response = endpoint.get_response((request, addresses.0, addresses.1, Scheme::HTTP).into()).await;
            let response: Response<Body> = response.into();
            Ok::<_, Infallible>(response.map(|body| Answer { body, _under_way: under_way }))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // The time of a head is ours to measure: the library's own runs while a connection rests between two requests too.
    // Who has said everything may stop speaking, and still wants the answer.
    builder.http1().max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None).half_close(true);
    builder.http2().max_concurrent_streams(STREAMS_MAX);
    let served = builder.serve_connection_with_upgrades(TokioIo::new(watched), service);
    let mut served = std::pin::pin!(served);
    let mut examined = tokio::time::interval(EXAMINED_EVERY);
    let mut is_stopping = false;
    loop {
        tokio::select! {
            _ = &mut served => return,
            () = stop.cancelled(), if !is_stopping => {
                is_stopping = true;
                served.as_mut().graceful_shutdown();
            }
            _ = examined.tick() => {
                if life.is_over() {
                    return;
                }
                if life.began.elapsed() > AGE_MAX && !is_stopping {
                    is_stopping = true;
                    served.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

/// Tells a caller that there are too many, and waits a moment for them to read it.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&head_refused(StatusCode::SERVICE_UNAVAILABLE)).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}

/// What a connection is at. Times are milliseconds since it began, and 0 for never.
struct Life {
    began: Instant,
    /// When bytes last moved, in whichever direction.
    moved_at: AtomicU64,
    /// When the first byte of a head came that is not complete yet.
    head_at: AtomicU64,
    requests_under_way: AtomicU32,
    /// On an HTTP/2 connection bytes come that belong to no head.
    is_http2: AtomicBool,
    /// Every answer to a request has been written to its end: what is written next begins an answer.
    is_between_answers: AtomicBool,
}

/// What the endpoint answers with.
type Body = BoxBody<Bytes, io::Error>;

/// A request, until its answer has been taken to the end.
struct UnderWay(Arc<Life>);

/// The body of an answer.
struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.requests_under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Life {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            moved_at: AtomicU64::new(0),
            head_at: AtomicU64::new(0),
            requests_under_way: AtomicU32::new(0),
            is_http2: AtomicBool::new(false),
            is_between_answers: AtomicBool::new(true),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    fn begin(self: &Arc<Self>, version: Version) -> UnderWay {
        self.requests_under_way.fetch_add(1, Ordering::Relaxed);
        self.head_at.store(0, Ordering::Relaxed);
        self.is_between_answers.store(false, Ordering::Relaxed);
        self.is_http2.store(version == Version::HTTP_2, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    fn has_read(&self) {
        let now = self.now();
        self.moved_at.store(now, Ordering::Relaxed);
        if self.requests_under_way.load(Ordering::Relaxed) == 0 && !self.is_http2.load(Ordering::Relaxed) {
            let _ = self.head_at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn has_written(&self) {
        self.moved_at.store(self.now(), Ordering::Relaxed);
    }

    /// Everything that was to be written has been.
    fn has_flushed(&self) {
        if self.requests_under_way.load(Ordering::Relaxed) == 0 {
            self.is_between_answers.store(true, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        let longer_ago = |time: u64, limit: Duration| u128::from(self.now().saturating_sub(time)) > limit.as_millis();
        let head_at = self.head_at.load(Ordering::Relaxed);
        (head_at > 0 && longer_ago(head_at, HEAD_TIMEOUT))
            || longer_ago(self.moved_at.load(Ordering::Relaxed), IDLE_TIMEOUT)
            || self.began.elapsed() > AGE_MAX + IDLE_TIMEOUT
    }
}

/// A connection whose life is watched. What the library answers by itself to what is not HTTP has no body; it is given
/// one here.
struct Watched {
    stream: TcpStream,
    life: Arc<Life>,
    /// What is written instead of what the library wants written, and how far that has come.
    instead: Option<(Vec<u8>, usize)>,
}

impl Watched {
    /// Writes what stands in the place of an answer of the library's; `None` where its own bytes are to be written.
    fn poll_instead(&mut self, context: &mut Context<'_>, first: &[u8]) -> Option<Poll<io::Result<()>>> {
        if self.instead.is_none() {
            // In the middle of an answer, the same bytes would be somebody's payload.
            let begins = self.life.is_between_answers.load(Ordering::Relaxed);
            let status = begins.then(|| library_answer(first)).flatten()?;
            self.instead = Some((head_refused(status), 0));
        }
        while let Some((answer, written)) = &mut self.instead {
            if *written == answer.len() {
                self.instead = None;
                break;
            }
            match Pin::new(&mut self.stream).poll_write(context, &answer[*written..]) {
                Poll::Ready(Ok(count)) => *written += count,
                Poll::Ready(Err(error)) => return Some(Poll::Ready(Err(error))),
                Poll::Pending => return Some(Poll::Pending),
            }
        }
        Some(Poll::Ready(Ok(())))
    }
}

/// The status of an answer that the library has made by itself: all of ours carry the header that is looked for.
fn library_answer(bytes: &[u8]) -> Option<StatusCode> {
    const OURS: &[u8] = b"x-content-type-options";
    let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let is_ours = || bytes.windows(OURS.len()).any(|window| window == OURS);
    (status[0] == b'4' && !is_ours()).then(|| StatusCode::from_bytes(status).ok())?
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.life.has_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(written) = self.poll_instead(context, bytes) {
            ready!(written)?;
            return Poll::Ready(Ok(bytes.len()));
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.life.has_written();
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        if let Some(written) = self.poll_instead(context, first) {
            ready!(written)?;
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.life.has_written();
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.life.has_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_librarys_answers_are_told_from_ours() {
        let ours = b"HTTP/1.1 404 Not Found\r\nx-content-type-options: nosniff\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(library_answer(ours), None);
        assert_eq!(library_answer(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), None);
        assert_eq!(library_answer(b"{\"HTTP/1.1 400\": 1}"), None);
        for (answer, status) in [("HTTP/1.1 400 Bad Request\r\n\r\n", 400), ("HTTP/1.0 431 Too Large\r\n\r\n", 431)] {
            assert_eq!(library_answer(answer.as_bytes()).map(|status| status.as_u16()), Some(status));
        }
    }
}
