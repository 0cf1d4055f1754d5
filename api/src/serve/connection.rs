//! Watches one connection from outside: how long the head of a request takes, whether any byte moves, and how the
//! connection is closed. It does not know what the bytes mean: that is the HTTP library's part.

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

/// The head of a request arrives within this time, counted from its first byte; otherwise the connection is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection on which no byte moves in either direction for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// After this time a connection is told to end after the request under way. It is closed [`IDLE_TIMEOUT`] later at the
/// latest.
const AGE_MAX: Duration = Duration::from_secs(3600);
/// After the last answer of a connection, at most this many bytes are still read and thrown away.
const DISCARDED_BYTES_MAX: usize = 64 << 20;
/// Reading what is thrown away takes at most this long.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(15);
/// A caller who sends nothing for this long is not waited for any more.
const DISCARD_SILENCE_MAX: Duration = Duration::from_secs(2);
/// One read that is thrown away takes at most this many bytes.
const DISCARD_BUFFER_BYTES: usize = 64 * 1024;

/// What a connection is doing. Times are milliseconds since the connection began; 0 stands for never.
pub struct Life {
    began: Instant,
    /// When a byte was last read or written.
    moved_at: AtomicU64,
    /// When the first byte of the head that is now arriving came; 0 while no head is arriving.
    head_at: AtomicU64,
    /// Whether a request's head has arrived and its answer has not been made yet. Bytes that arrive meanwhile belong to
    /// the body of the request.
    is_answering: AtomicBool,
}

impl Default for Life {
    /// A connection that begins now.
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

    /// Notes that the head of a request has arrived.
    pub fn has_request(&self) {
        self.head_at.store(0, Ordering::Relaxed);
        self.is_answering.store(true, Ordering::Relaxed);
    }

    /// Notes that the answer to the request has been made: bytes that are read from now on belong to the next head.
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

    /// Whether no request is being answered and no head is arriving.
    pub fn is_at_rest(&self) -> bool {
        !self.is_answering.load(Ordering::Relaxed) && self.head_at.load(Ordering::Relaxed) == 0
    }

    /// Whether the connection is older than an hour (`AGE_MAX`) and should end after the request under way.
    pub fn is_old(&self) -> bool {
        self.began.elapsed() > AGE_MAX
    }

    /// Whether a limit has passed, so that the connection is closed at once, even in the middle of a request.
    pub fn is_over(&self) -> bool {
        let longer_ago = |time: u64, limit: Duration| u128::from(self.now().saturating_sub(time)) > limit.as_millis();
        let head_at = self.head_at.load(Ordering::Relaxed);
        (head_at > 0 && longer_ago(head_at, HEAD_TIMEOUT))
            || longer_ago(self.moved_at.load(Ordering::Relaxed), IDLE_TIMEOUT)
            || self.began.elapsed() > AGE_MAX + IDLE_TIMEOUT
    }
}

/// A TCP connection that tells its [`Life`] about every read and write.
pub struct WatchedStream {
    stream: TcpStream,
    life: Arc<Life>,
}

impl WatchedStream {
    /// Wraps a connection, which reports to `life` from now on.
    #[must_use]
    pub fn new(stream: TcpStream, life: Arc<Life>) -> Self {
        Self { stream, life }
    }

    /// The plain connection; its reads and writes are not reported any more.
    #[must_use]
    pub fn into_inner(self) -> TcpStream {
        self.stream
    }
}

/// Reads what the caller still sends and throws it away, until the caller closes the connection or a limit is reached.
///
/// Many clients write a whole request before they read. If a socket is closed while bytes arrive, the kernel sends a
/// reset, which destroys the answer on its way to the client (RFC 9112 §9.6). So the answer is sent first, then the
/// sending direction is closed, and then the rest of the request is read.
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
