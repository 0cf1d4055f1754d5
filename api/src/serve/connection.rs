//! The life of one connection, watched from outside: how long a request's head takes, whether any byte moves, and what
//! is written in the place of an answer that the HTTP library makes by itself.

use std::{
    io::{self, IoSlice},
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
use hyper::body::{Frame, SizeHint};
use poem::http::StatusCode;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::serve::problem::head_refused;

/// How long a request's head may take, from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may neither bring nor take a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a connection is used, at most: then it is told to come to an end, and closed when it has not a while later.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// What a connection is at. Times are milliseconds since it began, and 0 for never.
pub struct Life {
    began: Instant,
    /// When bytes last moved, in whichever direction.
    moved_at: AtomicU64,
    /// When the first byte of a head came that is not complete yet.
    head_at: AtomicU64,
    requests_under_way: AtomicU32,
    /// Every answer to a request has been written to its end: what is written next begins an answer.
    is_between_answers: AtomicBool,
}

/// What the endpoint answers with.
pub type Body = BoxBody<Bytes, io::Error>;

/// A request, until its answer has been taken to the end.
pub struct UnderWay(Arc<Life>);

/// The body of an answer.
pub struct Answer {
    body: Body,
    _under_way: UnderWay,
}

impl Answer {
    /// The body of the answer to this request.
    #[must_use]
    pub fn new(body: Body, under_way: UnderWay) -> Self {
        Self { body, _under_way: under_way }
    }
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

impl Default for Life {
    /// Of a connection that has just begun.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            moved_at: AtomicU64::new(0),
            head_at: AtomicU64::new(0),
            requests_under_way: AtomicU32::new(0),
            is_between_answers: AtomicBool::new(true),
        }
    }
}

impl Life {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// A request has come, whole but for its body.
    pub fn begin(self: &Arc<Self>) -> UnderWay {
        self.requests_under_way.fetch_add(1, Ordering::Relaxed);
        self.head_at.store(0, Ordering::Relaxed);
        self.is_between_answers.store(false, Ordering::Relaxed);
        UnderWay(Arc::clone(self))
    }

    fn has_read(&self) {
        let now = self.now();
        self.moved_at.store(now, Ordering::Relaxed);
        if self.requests_under_way.load(Ordering::Relaxed) == 0 {
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

    /// Whether it is time to let it end when it can.
    pub fn is_old(&self) -> bool {
        self.began.elapsed() > AGE_MAX
    }

    /// Whether it is to be closed as it is.
    pub fn is_over(&self) -> bool {
        let longer_ago = |time: u64, limit: Duration| u128::from(self.now().saturating_sub(time)) > limit.as_millis();
        let head_at = self.head_at.load(Ordering::Relaxed);
        (head_at > 0 && longer_ago(head_at, HEAD_TIMEOUT))
            || longer_ago(self.moved_at.load(Ordering::Relaxed), IDLE_TIMEOUT)
            || self.began.elapsed() > AGE_MAX + IDLE_TIMEOUT
    }
}

/// A connection whose life is watched. What the library answers by itself to what is not HTTP has no body; it is given
/// one here.
pub struct AnnouncedCache {
    stream: TcpStream,
    life: Arc<Life>,
    /// What is written instead of what the library wants written, and how far that has come.
    instead: Option<(Vec<u8>, usize)>,
}

impl AnnouncedCache {
    /// A connection whose life is told to `life`.
    #[must_use]
    pub fn new(stream: TcpStream, life: Arc<Life>) -> Self {
        Self { stream, life, instead: None }
    }

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

impl AsyncRead for AnnouncedCache {
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

impl AsyncWrite for AnnouncedCache {
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

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

    #[tokio::test]
    async fn only_what_begins_an_answer_is_judged() {
        const LOOKS_LIKE_THE_LIBRARYS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let life = Arc::new(Life::default());
        let mut watched = AnnouncedCache::new(listener.accept().await.expect("accepted").0, Arc::clone(&life));

        // The body of an answer that is under way, and what of it is still to be flushed when it has been read.
        let under_way = life.begin();
        watched.write_all(LOOKS_LIKE_THE_LIBRARYS).await.expect("written");
        watched.flush().await.expect("flushed");
        watched.write_all(LOOKS_LIKE_THE_LIBRARYS).await.expect("written");
        drop(under_way);
        watched.write_all(LOOKS_LIKE_THE_LIBRARYS).await.expect("written");
        watched.flush().await.expect("flushed");
        let mut read = vec![0; 3 * LOOKS_LIKE_THE_LIBRARYS.len()];
        client.read_exact(&mut read).await.expect("read");
        assert_eq!(read, LOOKS_LIKE_THE_LIBRARYS.repeat(3));

        watched.write_all(LOOKS_LIKE_THE_LIBRARYS).await.expect("written");
        drop(watched);
        let mut read = String::new();
        client.read_to_string(&mut read).await.expect("read");
        assert!(read.contains("application/problem+json") && read.ends_with('}'), "{read}");
    }
}
