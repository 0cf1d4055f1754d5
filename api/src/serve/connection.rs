//! The life of one connection, watched from outside: how long a request's head takes, whether any byte moves, and how
//! it is closed. It does not know what the bytes mean; that is the HTTP library's business.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// How long a request's head may take, from its first byte.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection may neither bring nor take a byte.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a connection is used, at most: then it is told to come to an end, and closed when it has not a while later.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// Bytes that are still read and thrown away after the last answer of a connection, at most.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
/// How long these are read, at most.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the caller may be silent meanwhile.
const DISCARD_SILENCE_MAX: Duration = Duration::from_secs(2);
/// Bytes that are read at once to be thrown away.
const DISCARD_BUFFER_BYTES: usize = 64 * 1024;

/// What a connection is at. Times are milliseconds since it began, and 0 for never.
pub struct Life {
    began: Instant,
    /// When bytes last moved, in whichever direction.
    moved_at: AtomicU64,
    /// When the first byte of a head came that is not complete yet.
    head_at: AtomicU64,
    /// A request's head is complete and its answer is not made yet: bytes that come belong to its body.
    is_answering: AtomicBool,
}

impl Default for Life {
    /// The life of a connection that has just begun.
    fn default() -> Self {
        Self {
            began: Instant::now(),
            moved_at: AtomicU64::new(0),
            head_at: AtomicU64::new(0),
            is_answering: AtomicBool::new(false),
        }
    }
}

impl Life {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Notes that a request's head is complete.
    pub fn has_request(&self) {
        self.head_at.store(0, Ordering::Relaxed);
        self.is_answering.store(true, Ordering::Relaxed);
    }

    /// Notes that the answer to the request is made: what is read from now on begins the next head.
    pub fn has_answer(&self) {
        self.is_answering.store(false, Ordering::Relaxed);
    }

    fn has_read(&self) {
        let now = self.now();
        self.moved_at.store(now, Ordering::Relaxed);
        if !self.is_answering.load(Ordering::Relaxed) {
            let _ = self.head_at.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn has_written(&self) {
        self.moved_at.store(self.now(), Ordering::Relaxed);
    }

    /// Whether the connection is between two requests.
    pub fn is_at_rest(&self) -> bool {
        !self.is_answering.load(Ordering::Relaxed) && self.head_at.load(Ordering::Relaxed) == 0
    }

    /// Whether it is time to let the connection end when it can.
    pub fn is_old(&self) -> bool {
        self.began.elapsed() > AGE_MAX
    }

    /// Whether the connection is to be closed as it is.
    pub fn is_over(&self) -> bool {
        let longer_ago = |time: u64, limit: Duration| u128::from(self.now().saturating_sub(time)) > limit.as_millis();
        let head_at = self.head_at.load(Ordering::Relaxed);
        (head_at > 0 && longer_ago(head_at, HEAD_TIMEOUT))
            || longer_ago(self.moved_at.load(Ordering::Relaxed), IDLE_TIMEOUT)
            || self.began.elapsed() > AGE_MAX + IDLE_TIMEOUT
    }
}

/// A connection that tells its [`Life`] when bytes move.
pub struct WatchedStream {
    stream: TcpStream,
    life: Arc<Life>,
}

impl WatchedStream {
    /// A connection whose life is told to `life`.
    #[must_use]
    pub fn new(stream: TcpStream, life: Arc<Life>) -> Self {
        Self { stream, life }
    }

    /// The connection, which nobody watches any more.
    #[must_use]
    pub fn into_inner(self) -> TcpStream {
        self.stream
    }
}

/// Reads what the caller still sends and throws it away, until the caller closes the connection or a limit is reached.
///
/// Many clients write a whole request before they read. A socket that is closed while bytes arrive answers them with a
/// reset, which destroys the answer that is on its way (RFC 9112 §9.6). So the answer is sent, the sending direction is
/// closed, and only then the rest of the request is waited for.
pub async fn discard(mut stream: TcpStream) {
    let reading = async {
        let mut buffer = vec![0; DISCARD_BUFFER_BYTES];
        let mut discarded = 0;
        while discarded < DISCARDED_BYTES_MAX {
            match tokio::time::timeout(DISCARD_SILENCE_MAX, stream.read(&mut buffer)).await {
                Ok(Ok(count)) if count > 0 => discarded += count,
                Ok(Ok(_) | Err(_)) | Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIMEOUT, reading).await;
}

impl AsyncRead for WatchedStream {
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

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
        self.life.has_written();
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices))?;
        self.life.has_written();
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
