//! Answers that are sent before the body of the request was read. Clients that write a whole request before they read
//! get such an answer all the same, and the api reads only a bounded number of the unwanted bytes.

use std::time::Duration;

use serde_json::json;
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    raw::{all_is_well, answers, connect, hear, hear_until, refused, refused_bare, request, rows},
    world::{SOON, World},
};

/// More bytes than the buffers of the sockets hold, so a client that writes first depends on the api reading them.
const LARGE: usize = 16 << 20;
/// The api and the sockets take at most this many bytes of a refused request; the limit of the api alone is 64 MiB.
const TAKEN_MAX: usize = 96 << 20;
/// The api reads what it has refused for at most 15 s; this allows for a busy machine.
const READ_ON_FOR: Duration = Duration::from_secs(25);

fn with_length(line: &str, more: &str, length: usize) -> Vec<u8> {
    request(line, format!("{more}Content-Length: {length}\r\n").as_bytes(), b"")
}

/// The head of a request that has a body but no key.
fn keyless(line: &str) -> Vec<u8> {
    format!("{line} HTTP/1.1\r\nHost: postrider\r\nContent-Length: {LARGE}\r\n\r\n").into_bytes()
}

/// Writes all bytes before it reads any, as many clients do.
async fn write_then_read(world: &World, case: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(&world.base).await;
    let written = tokio::time::timeout(SOON, stream.write_all(bytes)).await;
    written.unwrap_or_else(|_| panic!("{case}: nobody reads")).unwrap_or_else(|error| panic!("{case}: {error}"));
    hear(&mut stream, SOON).await
}

/// Sends the head of a request with a large body, reads the refusal, and answers the connection, which is still open.
async fn refused_early(world: &World, length: usize) -> TcpStream {
    let mut stream = connect(&world.base).await;
    stream.write_all(&with_length("POST /subscriptions", "", length)).await.unwrap();
    let heard = hear_until(&mut stream, b"}").await;
    answers(&heard).remove(0).problem(413);
    stream
}

#[tokio::test]
async fn who_writes_before_reading_gets_the_answer() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let ingest = format!("POST /webhooks/ingest/{subscription}");
    let nobodys = format!("POST /webhooks/ingest/sub_{}", "0".repeat(32));
    let limited = world.subscribe("/success", json!({"ingest_rate_limit_per_second": 1})).await;
    let limited = format!("POST /webhooks/ingest/{}", limited["id"].as_str().unwrap());
    let before = rows(&world).await;
    let twice = "Idempotency-Key: a\r\nIdempotency-Key: b\r\n";
    let large = vec![b'x'; LARGE];
    let chunks = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(LARGE >> 16) + "0\r\n\r\n";
    let chunked = request(&ingest, b"Transfer-Encoding: chunked\r\n", chunks.as_bytes());
    let cases = [
        ("settings", [with_length("POST /subscriptions", "", LARGE), large.clone()].concat(), 413),
        ("a payload", [with_length(&ingest, "", LARGE), large.clone()].concat(), 413),
        ("a payload in chunks", chunked, 413),
        ("no key", [keyless("POST /events"), large.clone()].concat(), 401),
        ("no key at ingest", [keyless(&ingest), large.clone()].concat(), 401),
        ("no such subscription", [with_length(&nobodys, "", LARGE), large.clone()].concat(), 404),
        ("no such path", [with_length("POST /nowhere", "", LARGE), large.clone()].concat(), 404),
        ("a header twice", [with_length(&ingest, twice, LARGE), large.clone()].concat(), 422),
    ];
    for (case, bytes, status) in cases {
        let mut answers = answers(&write_then_read(&world, case, &bytes).await);
        assert_eq!((answers.len(), answers[0].status.as_u16()), (1, status), "{case}: {answers:?}");
        refused(case, answers.remove(0));
    }
    all_is_well(&world, before).await;
    // The first request takes what a second allows, so a later one is too early.
    let mut statuses = Vec::new();
    while !statuses.contains(&429) {
        assert!(statuses.len() < 10, "{statuses:?}");
        let bytes = [with_length(&limited, "", LARGE), large.clone()].concat();
        let mut answers = answers(&write_then_read(&world, "too often", &bytes).await);
        statuses.push(answers.remove(0).status.as_u16());
    }
    let head = [b"GET /health/live HTTP/1.1\r\nX-Filler: ".as_slice(), &large].concat();
    let answer = answers(&write_then_read(&world, "a head without end", &head).await).remove(0);
    assert_eq!(answer.status, 431);
    refused_bare("a head without end", &answer);
    world.finish().await;
}

#[tokio::test]
async fn what_was_refused_is_not_read_for_ever() {
    let world = World::new().await;
    let before = rows(&world).await;
    // This is far more than the api reads.
    let mut stream = refused_early(&world, 1 << 40).await;
    let (chunk, mut taken) = (vec![b'x'; 1 << 20], 0);
    let flooding = async {
        while let Ok(count) = stream.write(&chunk).await {
            taken += count;
        }
    };
    tokio::time::timeout(SOON, flooding).await.expect("the connection is closed");
    assert!((LARGE..TAKEN_MAX).contains(&taken), "{taken} bytes were taken");
    // One client sends a byte now and then, for as long as it can. The other first sends nothing, which ends it sooner.
    for (silence, within) in [(Duration::ZERO, READ_ON_FOR), (Duration::from_secs(6), Duration::from_secs(3))] {
        let mut stream = refused_early(&world, LARGE).await;
        tokio::time::sleep(silence).await;
        let dawdling = async {
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        let ended = tokio::time::timeout(within, dawdling).await;
        ended.unwrap_or_else(|_| panic!("after {silence:?} of silence it is still open"));
    }
    all_is_well(&world, before).await;
    world.finish().await;
}
