//! Receivers that break HTTP, never end, never answer, or answer what nobody asked for. Each attempt ends within bounds
//! of time and bytes, its failure has the right kind, and the worker goes on. Receivers that break TLS stand in
//! `hostile_tls`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use postrider_core::queue::attempt::RESPONSE_BODY_BYTES_MAX;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};

use crate::world::{SOON, World, id, uuid};

/// The size of a raw receiver's kernel buffers. They are small, so that the worker has taken most of what was sent.
const SOCKET_BUFFER_BYTES: u32 = 64 * 1024;
/// A receiver that sends without end has sent fewer bytes than this when the worker closes the connection.
const SENT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The shortest timeout that a subscription may have, in milliseconds.
pub(crate) const A_SECOND: u32 = 1000;
/// A timeout in milliseconds that an attempt never reaches by itself, not even on a busy machine.
pub(crate) const PATIENT: u32 = 9000;

/// A receiver below HTTP: the test says what it does with each connection.
pub(crate) struct RawServer {
    pub(crate) url: String,
    pub(crate) accepted: Arc<AtomicUsize>,
}

impl RawServer {
    /// Hands each accepted connection to `behave`, which reads the request itself, as with [`read_request`].
    pub(crate) fn listen<F, Fut>(behave: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().unwrap();
        // Accepted connections inherit the sizes of these buffers.
        socket.set_send_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
        socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(128).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let accepted = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(behave(stream));
            }
        });
        Self { url, accepted }
    }
}

/// Reads one request with its body, and not a byte more.
pub(crate) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
    stream.read_exact(&mut body).await.map(|_| ())
}

/// What a receiver does with a connection after it has answered.
#[derive(Clone)]
pub(crate) enum Then {
    Closes,
    Resets,
    /// Waits until the worker closes the connection.
    Holds,
    /// Neither reads nor writes nor closes.
    Sleeps,
    /// Sends this text again and again, with pauses so short that a timeout between two reads would never strike.
    Drips(&'static str),
    /// Sends these bytes without end. When the connection breaks, it reports how many bytes it has sent.
    Floods(Arc<[u8]>, mpsc::UnboundedSender<usize>),
}

impl Then {
    pub(crate) async fn happens(self, mut stream: TcpStream) {
        match self {
            Self::Closes => {}
            Self::Resets => stream.set_zero_linger().unwrap(),
            Self::Holds => while stream.read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {},
            Self::Sleeps => std::future::pending().await,
            Self::Drips(piece) => {
                let mut ticks = tokio::time::interval(Duration::from_millis(50));
                while stream.write_all(piece.as_bytes()).await.is_ok() {
                    ticks.tick().await;
                }
            }
            Self::Floods(wave, tell) => {
                let (mut total, mut rest) = (0, &*wave);
                while let Ok(sent @ 1..) = stream.write(rest).await {
                    total += sent;
                    rest = if sent == rest.len() { &*wave } else { &rest[sent..] };
                }
                tell.send(total).unwrap();
            }
        }
    }
}

/// A receiver that answers the first request of each connection with these bytes, and then does `then`.
pub(crate) fn answering(answer: &[u8], then: Then) -> RawServer {
    let answer = Arc::<[u8]>::from(answer);
    RawServer::listen(move |mut stream| {
        let (answer, then) = (Arc::clone(&answer), then.clone());
        async move {
            // The worker may close the connection before it has read the whole answer.
            if read_request(&mut stream).await.is_ok() && stream.write_all(&answer).await.is_ok() {
                then.happens(stream).await;
            }
        }
    })
}

/// Makes a delivery to this target that is due now; a second attempt would come an hour later.
pub(crate) async fn owe(world: &World, target: &str, timeout_ms: u32, payload: impl Into<reqwest::Body>) -> String {
    let policy = json!({"delays_seconds": [3600]});
    let body = json!({"target_url": target, "timeout_ms": timeout_ms, "retry_policy": policy});
    let subscription = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    world.ingest(&subscription, payload).await
}

/// The only attempt of a delivery; asserts that it did not take long.
pub(crate) async fn only_attempt(world: &World, delivery: &str) -> Value {
    let attempts = world.attempts(delivery).await;
    let [attempt] = attempts.as_slice() else { panic!("one attempt, not {attempts:?}") };
    assert!(attempt["duration_ms"].as_u64().unwrap() < 10_000, "{attempt}");
    attempt.clone()
}

/// Makes one delivery to this target and answers its attempt.
pub(crate) async fn attempt_at(world: &World, target: &str) -> Value {
    let delivery = owe(world, target, PATIENT, "x").await;
    assert_eq!(world.drain().await, 1);
    only_attempt(world, &delivery).await
}

/// The kind of an attempt's failure, or `success`, and the status of the answer.
pub(crate) fn told(attempt: &Value) -> (&str, Option<u64>) {
    let kind = attempt.get("error_kind").map_or("success", |kind| kind.as_str().unwrap());
    (kind, attempt.get("status_code").and_then(Value::as_u64))
}

/// Ends a test after asserting that the same worker still delivers to another receiver.
pub(crate) async fn goes_on(world: World) {
    let attempt = Box::pin(attempt_at(&world, &world.receiver.url("/success"))).await;
    assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");
    world.finish().await;
}

/// Makes one attempt for each answer: all must end as expected, and no request is sent twice.
async fn each_is(world: &World, answers: &[impl AsRef<[u8]>], then: Then, expected: (&str, Option<u64>)) {
    let mut owed = Vec::new();
    for answer in answers {
        let server = answering(answer.as_ref(), then.clone());
        let delivery = owe(world, &server.url, PATIENT, "x").await;
        owed.push((answer.as_ref(), server, delivery));
    }
    assert_eq!(world.drain().await, owed.len());
    for (answer, server, delivery) in owed {
        let attempt = only_attempt(world, &delivery).await;
        let answer = answer[..answer.len().min(80)].escape_ascii();
        assert_eq!(told(&attempt), expected, "{answer}: {attempt}");
        assert_eq!(server.accepted.load(Ordering::Relaxed), 1, "{answer}");
    }
}

/// Makes one attempt at a receiver that sends `beginning` and then `wave` again and again. Answers the delivery, and
/// how many bytes of the waves were sent when the worker closed the connection.
async fn flood(world: &World, beginning: &str, wave: &[u8], timeout_ms: u32) -> (String, usize) {
    let (tell, mut totals) = mpsc::unbounded_channel();
    let server = answering(beginning.as_bytes(), Then::Floods(wave.into(), tell));
    let delivery = owe(world, &server.url, timeout_ms, "x").await;
    assert_eq!(world.drain().await, 1);
    let total = tokio::time::timeout(SOON, totals.recv()).await.expect("the worker hangs up");
    (delivery, total.unwrap())
}

#[tokio::test]
async fn who_takes_too_long_is_cut_off() {
    let world = World::new().await;
    let never_reads = RawServer::listen(|stream| Then::Sleeps.happens(stream));
    // This listener's queue is full with one connection that nobody accepts, so the kernel answers no other.
    let never_accepts = TcpSocket::new_v4().unwrap();
    never_accepts.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let never_accepts = never_accepts.listen(0).unwrap();
    let address = never_accepts.local_addr().unwrap();
    let _first = TcpStream::connect(address).await.unwrap();
    let mut owed = vec![
        ("never accepts", owe(&world, &format!("http://{address}/"), A_SECOND, "x").await, None),
        ("never reads", owe(&world, &never_reads.url, A_SECOND, vec![b'x'; 1_000_000]).await, None),
    ];
    for (name, beginning, then, status) in [
        ("never answers", "", Then::Holds, None),
        ("stops in its head", "HTTP/1.1 200 OK\r\nContent-", Then::Holds, None),
        ("stops in its body", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", Then::Holds, Some(200)),
        ("drips its head", "HTTP/1.1 200 OK\r\nX: ", Then::Drips("y"), None),
        ("drips interim answers", "", Then::Drips("HTTP/1.1 100 Continue\r\n\r\n"), None),
        ("drips its body", "HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", Then::Drips("y"), Some(200)),
        ("drips chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Then::Drips("1\r\ny\r\n"), Some(200)),
    ] {
        let server = answering(beginning.as_bytes(), then);
        owed.push((name, owe(&world, &server.url, A_SECOND, "x").await, status));
    }
    assert_eq!(world.drain().await, owed.len());
    for (name, delivery, status) in owed {
        let attempt = only_attempt(&world, &delivery).await;
        assert_eq!(told(&attempt), ("timeout", status), "{name}: {attempt}");
        assert!(attempt["duration_ms"].as_u64().unwrap() >= 900, "{name}: {attempt}");
    }
    goes_on(world).await;
}

#[tokio::test]
async fn what_never_ends_is_cut_off() {
    let world = World::new().await;
    let (long, chunk) = ("y".repeat(65536), format!("10000\r\n{}\r\n", "y".repeat(65536)));
    let (lines, headers) = ("\r\n".repeat(32768), "X: y\r\n".repeat(10_000));
    for (beginning, wave, expected) in [
        ("HTTP/1.1 200 OK\r\n\r\n", long.as_str(), ("success", Some(200))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", long.as_str(), ("success", Some(200))),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunk.as_str(), ("success", Some(200))),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", long.as_str(), ("protocol", Some(200))),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", headers.as_str(), ("protocol", Some(200))),
        ("", lines.as_str(), ("protocol", None)),
        ("HTTP/1.1 200 ", long.as_str(), ("protocol", None)),
        ("HTTP/1.1 200 OK\r\nX: ", long.as_str(), ("protocol", None)),
        ("HTTP/1.1 200 OK\r\n", headers.as_str(), ("protocol", None)),
        // A client has to skip these, so only the timeout of the attempt ends them.
        ("", "HTTP/1.1 100 Continue\r\n\r\n", ("timeout", None)),
        ("", "HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n", ("timeout", None)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0000000000000000", ("timeout", Some(200))),
    ] {
        let is_only_timed = expected.0 == "timeout";
        let timeout_ms = if is_only_timed { A_SECOND } else { PATIENT };
        let (delivery, sent) = flood(&world, beginning, wave.as_bytes(), timeout_ms).await;
        let attempt = only_attempt(&world, &delivery).await;
        assert_eq!(told(&attempt), expected, "{beginning:?}: {attempt}");
        assert!(is_only_timed || sent < SENT_BYTES_MAX, "{beginning:?}: {sent}");
        let kept = attempt["response_body"].as_str().map_or(0, str::len);
        let full = if expected.0 == "success" { RESPONSE_BODY_BYTES_MAX } else { 0 };
        assert_eq!((kept, attempt["response_truncated"] == true), (full, full > 0), "{beginning:?}");
    }
    goes_on(world).await;
}

#[tokio::test]
async fn what_is_not_http_is_told_as_such() {
    let world = World::new().await;
    let broken = ("protocol", None);
    let strange = ["", "SSH-2.0-x\r\n", "<p>Hi</p>\r\n", "\0\0\0\x04\0\0\0\0\0", "HTTP/3 200\r\n\r\n", "HTTP/1.1 2"];
    each_is(&world, &strange, Then::Closes, broken).await;
    let statuses = ["abc", "99", "099", "1000", "-20", "", "200 O\0K"];
    each_is(&world, &statuses.map(|status| format!("HTTP/1.1 {status} Odd\r\n\r\n")), Then::Closes, broken).await;
    let lengths = ["-1", "0x2", "18446744073709551615", "99999999999999999999", "2\r\nContent-Length: 3"];
    each_is(&world, &lengths.map(with_length), Then::Closes, broken).await;
    let (many, long) = ("X: y\r\n".repeat(10_000), format!("X: {}", "y".repeat(1 << 20)));
    let headers = ["X: a\0b", "no colon", many.as_str(), long.as_str()]
        .map(|lines| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n"));
    each_is(&world, &headers, Then::Closes, broken).await;
    each_is(&world, &["HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], Then::Closes, broken).await;
    each_is(&world, &["", "HTTP/1.1 200 OK\r\nContent-Le"], Then::Resets, broken).await;
    let broken = ("protocol", Some(200));
    let short = ["4", "9223372036854775807"].map(with_length);
    each_is(&world, &short, Then::Closes, broken).await;
    each_is(&world, &short, Then::Resets, broken).await;
    let chunked = |chunks: &str| format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}");
    let chunks = ["3\r\nabc\r\n", "3\r\nabcdef\r\n0\r\n\r\n", "3\n", "xyz\r\n", "-3\r\n", "10000000000000003\r\n"];
    each_is(&world, &chunks.map(chunked), Then::Closes, broken).await;
    goes_on(world).await;
}

fn with_length(length: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nabc")
}

#[tokio::test]
async fn what_is_odd_and_whole_is_an_answer() {
    let world = World::new().await;
    let continues = format!("{}HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 100 Continue\r\n\r\n".repeat(500));
    let hints = format!("{}HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n".repeat(500));
    let answers: [&[u8]; 7] = [
        b"HTTP/1.0 200 OK\r\n\r\nok",
        b"HTTP/1.1 200\r\n\r\n",
        b"\r\n\r\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 \xfc\xff\r\n\r\na\0b\xff",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        continues.as_bytes(),
        hints.as_bytes(),
    ];
    each_is(&world, &answers, Then::Closes, ("success", Some(200))).await;
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhi";
    each_is(&world, &[upgrade], Then::Holds, ("http_status", Some(101))).await;
    each_is(&world, &["HTTP/1.1 999 Denied\r\n\r\n"], Then::Closes, ("http_status", Some(999))).await;
    let inside = world.receiver.url("/success");
    for (status, location) in [(301, "/"), (302, "/"), (307, "http://10.0.0.1/"), (308, inside.as_str())] {
        let answer = format!("HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        each_is(&world, &[answer], Then::Closes, ("http_status", Some(status))).await;
    }
    assert_eq!(world.receiver.count(), 0, "no redirect was followed");
    goes_on(world).await;
}

#[tokio::test]
async fn what_comes_behind_an_answer_is_ignored() {
    let world = World::new().await;
    let forged = "HTTP/1.1 500 Forged\r\nContent-Length: 6\r\n\r\nforged";
    for (answer, status, body) in [
        (with_length("3"), 200, "abc"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n".to_owned(), 204, ""),
        (with_length("50\r\nTransfer-Encoding: chunked").replace("abc", "3\r\nabc\r\n0\r\n\r\n"), 200, "abc"),
    ] {
        let server = answering(format!("{answer}{forged}").as_bytes(), Then::Holds);
        for _ in 0..2 {
            let attempt = attempt_at(&world, &server.url).await;
            assert_eq!(told(&attempt), ("success", Some(status)), "{answer:?}: {attempt}");
            assert_eq!(attempt["response_body"], body, "{answer:?}");
        }
        assert_eq!(server.accepted.load(Ordering::Relaxed), 2, "{answer:?}: such a connection is not used again");
    }
    goes_on(world).await;
}

#[tokio::test]
async fn what_is_kept_is_raw_and_bounded() {
    let world = World::new().await;
    // This is 64 KiB of zeros as gzip; several of them in a row are one gzip file.
    let parts: [&[u8]; 3] = [
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xed\xc1\x01\x01\x00\x00\x00\x80\x90\xfe\xaf\xee\x08\x0a",
        &[0; 63],
        b"\x6a\xeb\x8e\x97\xd7\x00\x00\x01\x00",
    ];
    let bomb = parts.concat();
    let (delivery, sent) = flood(&world, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", &bomb, PATIENT).await;
    let attempt = only_attempt(&world, &delivery).await;
    assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");
    assert_eq!(attempt["response_truncated"], true);
    assert!(sent < SENT_BYTES_MAX, "{sent}");
    let query = sqlx::query_scalar("SELECT response_body FROM attempts WHERE delivery_id = $1");
    let kept: Vec<u8> = query.bind(uuid(&delivery)).fetch_one(&world.pool).await.unwrap();
    assert!(kept == bomb.repeat(RESPONSE_BODY_BYTES_MAX)[..RESPONSE_BODY_BYTES_MAX], "nothing is unpacked");
    let mut answer = format!("HTTP/1.1 200 OK\r\nX-Long: {}\r\nX-Odd: ", "y".repeat(5000)).into_bytes();
    answer.extend_from_slice(b"\xe9 \x80\xff\r\n");
    for number in 0..90 {
        answer.extend_from_slice(format!("X-{number}: y\r\n").as_bytes());
    }
    answer.extend_from_slice(b"\r\n");
    let attempt = attempt_at(&world, &answering(&answer, Then::Closes).url).await;
    assert_eq!(told(&attempt), ("success", Some(200)), "{attempt}");
    let headers = attempt["response_headers"].as_object().unwrap();
    assert_eq!((headers.len(), headers["x-long"].as_str().unwrap().len()), (64, 1024));
    assert_eq!(headers["x-odd"], "\u{fffd} \u{fffd}\u{fffd}");
    goes_on(world).await;
}

#[tokio::test]
async fn who_is_not_there_or_in_a_hurry_is_told_by_kind() {
    let world = World::new().await;
    // The port is bound, so that nobody else gets it, but nobody listens on it.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    for (target, expected) in [
        (format!("http://{}/", closed.local_addr().unwrap()), ("connect", None)),
        ("http://no-such-host.invalid/".to_owned(), ("dns", None)),
    ] {
        let attempt = attempt_at(&world, &target).await;
        assert_eq!(told(&attempt), expected, "{target}: {attempt}");
    }
    // The reset may arrive while the worker is still connecting.
    let resets = RawServer::listen(|stream| Then::Resets.happens(stream));
    let attempt = attempt_at(&world, &resets.url).await;
    assert!(["connect", "protocol"].contains(&told(&attempt).0), "{attempt}");
    // An answer counts even if the receiver has read little of the request.
    let hurries = RawServer::listen(|mut stream| async move {
        let _ = stream.read(&mut [0; 64]).await;
        let _ = stream.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n").await;
        Then::Sleeps.happens(stream).await;
    });
    let delivery = owe(&world, &hurries.url, PATIENT, vec![b'x'; 1_000_000]).await;
    assert_eq!(world.drain().await, 1);
    let attempt = only_attempt(&world, &delivery).await;
    assert_eq!(told(&attempt), ("http_status", Some(413)), "{attempt}");
    goes_on(world).await;
}
