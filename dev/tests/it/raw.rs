//! Requests written byte by byte, and their answers: for callers that do what no HTTP client would do.

use std::time::Duration;

use reqwest::{
    StatusCode,
    header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::{Answer, KEY, SOON, World};

/// The header after whose answer the api closes the connection.
const CLOSE: &[u8] = b"Connection: close\r\n";
const CLOSE_TOKEN: HeaderValue = HeaderValue::from_static("close");
const NO_LENGTH: HeaderValue = HeaderValue::from_static("0");

/// How many rows there are in the tables that a refused request might write to.
pub async fn rows(world: &World) -> i64 {
    let count = "SELECT count(*) FROM (SELECT id FROM events UNION ALL SELECT id FROM subscriptions
                     UNION ALL SELECT id FROM deliveries UNION ALL SELECT id FROM api_keys
                     UNION ALL SELECT id FROM jobs UNION ALL SELECT id FROM audit_log) AS stored";
    sqlx::query_scalar(count).fetch_one(&world.pool).await.unwrap()
}

/// Asserts that nothing was stored since `rows_before` was counted, and that other callers are served.
pub async fn all_is_well(world: &World, rows_before: i64) {
    assert_eq!(rows(world).await, rows_before, "what is refused leaves nothing behind");
    world.get("/subscriptions?limit=1").await;
}

/// Asserts that the answer is a problem that blames the caller; answers the problem.
#[track_caller]
pub fn refused(case: &str, answer: Answer) -> Value {
    assert!(answer.status.is_client_error(), "{case}: {} {}", answer.status, answer.body);
    let status = answer.status.as_u16();
    answer.problem(status)
}

/// Asserts that the HTTP library refused what is not proper HTTP: with a status, without a body, and by closing the
/// connection.
#[track_caller]
pub fn refused_bare(case: &str, answer: &Answer) {
    assert!(answer.status.is_client_error(), "{case}: {} {}", answer.status, answer.body);
    assert_eq!(
        (&answer.headers["connection"], &answer.headers["content-length"]),
        (&CLOSE_TOKEN, &NO_LENGTH),
        "{case}"
    );
}

/// A request with the admin key. `more` holds further lines of its head.
pub fn request(line: &str, more: &[u8], body: &[u8]) -> Vec<u8> {
    let head = format!("{line} HTTP/1.1\r\nHost: postrider\r\nAuthorization: Bearer {KEY}\r\n");
    let parts: [&[u8]; 4] = [head.as_bytes(), more, b"\r\n", body];
    parts.concat()
}

/// Like [`request`], but it asks the api to close the connection after the answer.
pub fn last(line: &str, more: &[u8], body: &[u8]) -> Vec<u8> {
    request(line, &[CLOSE, more].concat(), body)
}

/// A POST with its body, after whose answer the api closes the connection.
pub fn last_with_body(line: &str, body: &[u8]) -> Vec<u8> {
    last(line, format!("Content-Length: {}\r\n", body.len()).as_bytes(), body)
}

pub async fn connect(base: &str) -> TcpStream {
    TcpStream::connect(base.trim_start_matches("http://")).await.unwrap()
}

/// Reads until the connection ends, by a close or by a reset; answers the bytes.
pub async fn hear(reader: &mut (impl AsyncRead + Unpin), within: Duration) -> Vec<u8> {
    let mut heard = Vec::new();
    let hearing = async { while reader.read_buf(&mut heard).await.is_ok_and(|count| count > 0) {} };
    let ended = tokio::time::timeout(within, hearing).await.is_ok();
    assert!(ended, "the connection is still open, after {:?}", String::from_utf8_lossy(&heard));
    heard
}

/// Sends these bytes, and answers all that the api sends until it closes the connection.
pub async fn say(world: &World, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(&world.base).await;
    let (mut reader, mut writer) = stream.split();
    // The api may close the connection before it has read everything.
    let saying = async { writer.write_all(bytes).await.is_ok() };
    tokio::join!(saying, hear(&mut reader, SOON)).1
}

/// Parses these bytes as HTTP answers.
#[track_caller]
pub fn answers(mut bytes: &[u8]) -> Vec<Answer> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let Some(end) = end else { panic!("no answer: {:?}", String::from_utf8_lossy(bytes)) };
        let mut lines = std::str::from_utf8(&bytes[..end]).unwrap().split("\r\n");
        let status: StatusCode = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: HeaderMap = lines
            .map(|line| line.split_once(':').unwrap())
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.trim().parse::<HeaderValue>().unwrap()))
            .collect();
        bytes = &bytes[end + 4..];
        let length = headers.get(CONTENT_LENGTH).map(|length| length.to_str().unwrap().parse::<usize>().unwrap());
        let (body, rest) = bytes.split_at(length.unwrap_or(if status.is_informational() { 0 } else { bytes.len() }));
        answers.push(Answer { status, headers, body: serde_json::from_slice(body).unwrap_or_default() });
        bytes = rest;
    }
    answers
}

/// Sends these bytes and answers the only answer to them.
pub async fn ask(world: &World, bytes: &[u8]) -> Answer {
    let mut answers = answers(&say(world, bytes).await);
    let asked = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    assert_eq!(answers.len(), 1, "{asked:?}: {answers:?}");
    answers.remove(0)
}

/// Reads from a connection until these bytes arrive; the connection stays open.
pub async fn hear_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut heard = Vec::new();
    while !heard.ends_with(end) {
        let reading = tokio::time::timeout(SOON, stream.read_buf(&mut heard));
        assert!(reading.await.unwrap().unwrap() > 0, "{:?}", String::from_utf8_lossy(&heard));
    }
    heard
}
