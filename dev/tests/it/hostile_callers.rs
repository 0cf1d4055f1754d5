//! Callers that break HTTP, its limits or their connection. Each is refused or cut off within bounds, nothing of its
//! request is stored, and no other caller notices. Bad bodies stand in [`crate::hostile_bodies`], and answers that are
//! sent before a body was read in [`crate::early_answers`].

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet};

use crate::{
    raw::{
        all_is_well, answers, ask, connect, hear, hear_until, last, last_with_body, refused, refused_bare, request,
        rows, say,
    },
    world::{Answer, SOON, World},
};

const LIVE: &str = "GET /health/live";
/// A caller whose request never ends is cut off within this time; the api gives it 30 s.
const GONE: Duration = Duration::from_secs(40);
/// The statuses with which each kind of slow caller may be answered; an empty list means no answer at all.
const HEAD_LATE: &[&[u16]] = &[&[], &[408]];
const BODY_LATE: &[&[u16]] = &[&[408]];
const BODY_LATE_OR_LARGE: &[&[u16]] = &[&[408], &[413]];
/// A slow caller: its name, what it sends first, what it then sends again and again, and how it may be answered.
type Dawdler = (&'static str, Vec<u8>, Vec<u8>, &'static [&'static [u16]]);
/// How long a slow caller waits before it sends the next piece.
const PAUSE: Duration = Duration::from_millis(300);

/// Asserts that a request was refused: by the api with a problem, or by the HTTP library without a body.
#[track_caller]
fn refused_by_either(case: &str, answer: Answer) {
    if answer.body.is_null() { refused_bare(case, &answer) } else { drop(refused(case, answer)) }
}

/// Asserts that a request is served on this connection, which stays open.
async fn is_served(stream: &mut TcpStream) {
    stream.write_all(&request(LIVE, b"", b"")).await.unwrap();
    answers(&hear_until(stream, b"live\n").await).remove(0).expect(200);
}

/// Sends `begin` and then one `piece` after another until the api closes the connection; answers what the api said.
async fn dawdle(base: &str, begin: &[u8], piece: &[u8], within: Duration) -> Vec<u8> {
    let mut stream = connect(base).await;
    let (mut reader, mut writer) = stream.split();
    let dawdling = async {
        let mut sent = writer.write_all(begin).await;
        while sent.is_ok() {
            tokio::time::sleep(PAUSE).await;
            sent = writer.write_all(piece).await;
        }
        std::future::pending::<Vec<u8>>().await
    };
    tokio::select! { heard = hear(&mut reader, within) => heard, never = dawdling => never }
}

#[tokio::test]
async fn whoever_dawdles_is_cut_off() {
    const ONE_BYTE: &[u8] = b"Content-Length: 100\r\n";
    let world = World::new().await;
    let ingest = format!("POST /webhooks/ingest/{}", world.subscription("/success").await);
    let before = rows(&world).await;
    let kept_alive = [request(LIVE, b"", b"").as_slice(), b"GET /heal".as_slice()].concat();
    let chunked = request(&ingest, b"Transfer-Encoding: chunked\r\n", b"");
    let flood = b"10\r\n0123456789abcdef\r\n".repeat(4000);
    let cases: [Dawdler; 12] = [
        ("a method and nothing more", b"GET".to_vec(), Vec::new(), HEAD_LATE),
        ("a byte now and then", b"GET /health/live HTTP/1.1\r\nX-Slow: ".to_vec(), b"x".to_vec(), HEAD_LATE),
        ("a header now and then", b"GET /health/live HTTP/1.1\r\n".to_vec(), b"X: y\r\n".to_vec(), HEAD_LATE),
        ("line breaks now and then", b"\r\n".to_vec(), b"\r\n".to_vec(), HEAD_LATE),
        ("half of HTTP/2's first words", b"PRI * HTTP/2.0\r\n".to_vec(), Vec::new(), &[&[400]]),
        ("the second head of a connection", kept_alive, b"x".to_vec(), &[&[200], &[200, 408]]),
        ("one byte of a hundred", request(&ingest, ONE_BYTE, b"x"), Vec::new(), BODY_LATE),
        ("one byte of JSON", request("POST /subscriptions", ONE_BYTE, b"{"), Vec::new(), BODY_LATE),
        ("bytes of a body now and then", request(&ingest, b"Content-Length: 1000\r\n", b""), b"x".to_vec(), BODY_LATE),
        (
            "far too many bytes",
            request(&ingest, b"Content-Length: 9223372036854775807\r\n", b"x"),
            Vec::new(),
            BODY_LATE_OR_LARGE,
        ),
        ("chunks now and then", chunked.clone(), b"1\r\nx\r\n".to_vec(), BODY_LATE),
        ("chunks without end", chunked, flood, BODY_LATE_OR_LARGE),
    ];
    let mut dawdlers = JoinSet::new();
    for (case, begin, piece, told) in cases {
        let base = world.base.clone();
        let within = if told == HEAD_LATE { SOON } else { GONE };
        dawdlers.spawn(async move { (case, told, dawdle(&base, &begin, &piece, within).await) });
    }
    // A connection that has said nothing is not closed: it may wait longer than a head may take, before its first
    // request and between two.
    let mut patient = connect(&world.base).await;
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(12)).await;
        is_served(&mut patient).await;
        all_is_well(&world, before).await;
    }
    while let Some(done) = dawdlers.join_next().await {
        let (case, told, heard) = done.unwrap();
        let answers = answers(&heard);
        let statuses: Vec<_> = answers.iter().map(|answer| answer.status.as_u16()).collect();
        assert!(told.contains(&statuses.as_slice()), "{case}: {statuses:?}");
        for answer in answers.into_iter().filter(|answer| answer.status != 200) {
            refused_by_either(case, answer);
        }
    }
    all_is_well(&world, before).await;
    drop(patient);
    world.finish().await;
}

#[tokio::test]
async fn connections_are_limited_and_come_back() {
    let world = World::with(&[("POSTRIDER_API_CONNECTIONS_MAX", "8")]).await;
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut stream = connect(&world.base).await;
        is_served(&mut stream).await;
        held.push(stream);
    }
    // Callers beyond the limit get the answer whether they send a request or not.
    for asked in [last(LIVE, b"", b""), Vec::new()].iter().cycle().take(20) {
        let answer = ask(&world, asked).await;
        assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
        assert_eq!(answer.headers["connection"], "close");
        answer.problem(503);
    }
    for stream in &mut held {
        is_served(stream).await;
    }
    drop(held);
    let room_again = async { while ask(&world, &last(LIVE, b"", b"")).await.status == 503 {} };
    tokio::time::timeout(SOON, room_again).await.expect("there is room again");
    all_is_well(&world, 0).await;
    world.finish().await;
}

#[tokio::test]
async fn a_head_has_a_size() {
    let world = World::new().await;
    let before = rows(&world).await;
    let fillers = |count: usize, bytes: usize| format!("X-Filler: {}\r\n", "x".repeat(bytes)).repeat(count);
    let live = |more: String| last(LIVE, more.as_bytes(), b"");
    let get = |path: &str| last(&format!("GET {path}"), b"", b"");
    let long = "x".repeat(200_000);
    // Each request has three more headers. Where a head is too long, the api cannot tell what was asked.
    let cases: [(&str, Vec<u8>, &[u16]); 8] = [
        ("100 headers", live(fillers(97, 1)), &[200]),
        ("101 headers", live(fillers(98, 1)), &[431]),
        ("a header of 32 KB", live(fillers(1, 32_000)), &[200]),
        ("a header of 200 KB", live(fillers(1, 200_000)), &[431]),
        ("a header without end", format!("{LIVE} HTTP/1.1\r\nX-Filler: {long}").into_bytes(), &[431]),
        ("a path of 200 KB", get(&format!("/events/evt_{long}")), &[414, 431]),
        ("a query of 200 KB", get(&format!("/events?cursor={long}")), &[414, 431]),
        ("10,000 parameters", get(&format!("/events?{}", "a=b&".repeat(10_000))), &[200, 414]),
    ];
    for (case, bytes, statuses) in cases {
        let answer = ask(&world, &bytes).await;
        assert!(statuses.contains(&answer.status.as_u16()), "{case}: {} {}", answer.status, answer.body);
        assert_eq!(answer.headers["connection"], "close", "{case}");
        if answer.status != 200 {
            refused_bare(case, &answer);
        }
    }
    all_is_well(&world, before).await;
    world.finish().await;
}

#[tokio::test]
async fn connections_are_used_in_unusual_ways() {
    let world = World::new().await;
    let ingest = format!("POST /webhooks/ingest/{}", world.subscription("/success").await);
    let before = rows(&world).await;
    for (case, bytes) in [
        ("absolute form", last("GET http://elsewhere.example/health/live", b"", b"")),
        ("HTTP/1.0", b"GET /health/live HTTP/1.0\r\n\r\n".to_vec()),
        ("line breaks ahead", [b"\r\n\r\n".as_slice(), last(LIVE, b"", b"").as_slice()].concat()),
    ] {
        assert_eq!(ask(&world, &bytes).await.status, 200, "{case}");
    }
    let nobodys = format!("POST /webhooks/ingest/sub_{}", "0".repeat(32));
    let expecting = b"Content-Length: 5\r\nExpect: 100-continue\r\n";
    ask(&world, &last(&nobodys, expecting, b"")).await.problem(404);
    all_is_well(&world, before).await;
    let mut stream = connect(&world.base).await;
    stream.write_all(&last(&ingest, expecting, b"")).await.unwrap();
    assert_eq!(answers(&hear_until(&mut stream, b"\r\n\r\n").await)[0].status, 100);
    stream.write_all(b"hello").await.unwrap();
    answers(&hear(&mut stream, SOON).await).remove(0).expect(202);
    let mut stream = connect(&world.base).await;
    stream.write_all(&request(&ingest, b"Content-Length: 2\r\n", b"hi")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answers = answers(&hear(&mut stream, SOON).await);
    assert_eq!(answers.len(), 1, "who has said everything is answered");
    answers.remove(0).expect(202);
    assert_eq!(world.drain().await, 2);
    world.finish().await;
}

#[tokio::test]
async fn fifty_requests_at_once_are_answered_in_order() {
    let world = World::new().await;
    let padding = "x".repeat(2000);
    let post_all = async |ids: Vec<u32>| -> Vec<Value> {
        let post = |id: &u32| {
            let event = json!({"event_type": "a.b", "id": id.to_string(), "payload": padding}).to_string();
            request("POST /events", format!("Content-Length: {}\r\n", event.len()).as_bytes(), event.as_bytes())
        };
        let mut posts: Vec<_> = ids.iter().map(post).collect();
        posts.push(last(LIVE, b"", b""));
        let mut answers = answers(&say(&world, &posts.concat()).await);
        answers.pop().unwrap().expect(200);
        answers.into_iter().map(|answer| answer.expect(202)["event_id"].clone()).collect()
    };
    let first = post_all((0..50).collect()).await;
    // The id of an event tells which answer belongs to which request.
    let mut again = post_all((0..50).rev().collect()).await;
    again.reverse();
    assert_eq!(again, first);
    assert_eq!((first.len(), rows(&world).await), (50, 50));
    world.finish().await;
}

#[tokio::test]
async fn callers_may_vanish_or_never_listen() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let ingest = format!("POST /webhooks/ingest/{subscription}");
    let payload = "a large payload ".repeat(64_000);
    let delivery = world.ingest(&subscription, payload.clone()).await;
    let event = world.delivery(&delivery).await["event_id"].as_str().unwrap().to_owned();
    let before = rows(&world).await;
    let mut deaf = connect(&world.base).await;
    let asked = request(&format!("GET /events/{event}/payload"), b"", b"").repeat(20);
    deaf.write_all(&[asked, last(LIVE, b"", b"")].concat()).await.unwrap();
    for number in 0..40 {
        let framing: &[u8] = if number < 20 { b"Content-Length: 100\r\n" } else { b"Transfer-Encoding: chunked\r\n" };
        let mut stream = connect(&world.base).await;
        stream.write_all(&request(&ingest, framing, b"8\r\nhalf of ")).await.unwrap();
        if number % 2 == 0 {
            stream.set_zero_linger().unwrap(); // ends by a reset instead of a close
        }
    }
    all_is_well(&world, before).await;
    // A caller that reads late still gets its answers.
    let heard = String::from_utf8(hear(&mut deaf, SOON).await).unwrap();
    assert_eq!(heard.matches(&payload).count(), 20);
    ask(&world, &last_with_body(&ingest, b"whole")).await.expect(202);
    assert_eq!(world.drain().await, 2);
    world.finish().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_closed() {
    let world = World::new().await;
    let client_hello = [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".as_slice(), [0x5a; 500].as_slice()].concat();
    let mut cases =
        vec![client_hello, (0..=255).collect(), vec![0; 4], b"GET /health/\xff\xfe HTTP/1.1\r\n\r\n".to_vec()];
    let no_requests = "hello, is it me you are looking for?|EHLO mail.example.com|*1|SSH-2.0-OpenSSH_9.6|GET /\
                       | GET / HTTP/1.1|GET / http/1.1|GET / HTTP/1.2|GET / HTTP/9.9|GET / and more HTTP/1.1\
                       |GET http://[::1 HTTP/1.1";
    cases.extend(no_requests.split('|').map(|line| format!("{line}\r\n\r\n").into_bytes()));
    let no_headers = "X-A: a\0b|X\0A: b|X-\u{c4}: b|X A: b|X-A : b|X-A|: b|X-A: a\r\n b|X-A: a\x0bb|X-A: \x7f\
                      |Content-Length: -1|Content-Length: +1|Content-Length: 0x10|Content-Length: 5, 6|Content-Length: \
                      |Content-Length: 999999999999999999999999999999|Transfer-Encoding: gzip\
                      |Transfer-Encoding: chunked, gzip|Transfer-Encoding: identity";
    cases.extend(no_headers.split('|').map(|line| last(LIVE, format!("{line}\r\n").as_bytes(), b"")));
    for bytes in cases {
        let answer = ask(&world, &bytes).await;
        assert_eq!(answer.status, 400, "{:?}", String::from_utf8_lossy(&bytes));
        refused_bare(&String::from_utf8_lossy(&bytes), &answer);
    }
    // The first bytes of HTTP/2, and then bytes that are not HTTP/2: whatever the answer is, the connection is closed.
    say(&world, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice(), [0xff; 200].as_slice()].concat()).await;
    all_is_well(&world, 0).await;
    world.finish().await;
}

#[tokio::test]
async fn no_request_hides_in_another() {
    let world = World::new().await;
    let ingest = format!("POST /webhooks/ingest/{}", world.subscription("/success").await);
    let before = rows(&world).await;
    let hidden = last_with_body("POST /events", b"{\"event_type\": \"a.b\", \"payload\": 1}");
    let body = [b"0\r\n\r\n".as_slice(), hidden.as_slice()].concat();
    let framings = "Content-Length: 5\r\nContent-Length: ALL|Content-Length: ALL\r\nContent-Length: 5\
                    |Transfer-Encoding: chunked\r\nContent-Length: ALL|Content-Length: 5\r\nTransfer-Encoding: chunked\
                    |Transfer-Encoding : chunked\r\nContent-Length: 5|Transfer-Encoding: \x0bchunked\
                    |Transfer-Encoding: xchunked\r\nContent-Length: 5|Transfer-Encoding: chunked, identity\
                    |Transfer-Encoding: chunked\r\nTransfer-Encoding: identity|Content-Length: 5, ALL";
    for framing in framings.replace("ALL", &body.len().to_string()).split('|') {
        let framing = format!("{framing}\r\n");
        refused_by_either(&framing, ask(&world, &request("POST /subscriptions", framing.as_bytes(), &body)).await);
    }
    let length = format!("Content-Length: {}\r\n", hidden.len());
    let unread = [request(LIVE, length.as_bytes(), &hidden), last(LIVE, b"", b"")].concat();
    let answers = answers(&say(&world, &unread).await);
    assert!((1..=2).contains(&answers.len()), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let chunks = "zz\r\n|-1\r\nx\r\n|0x1\r\nx\r\n|1 1\r\nx\r\n|fffffffffffffffff\r\nx|1\r\nxx\r\n0\r\n\r\n\
                  |1;LONG\r\nx\r\n0\r\n\r\n|1\r\nx\r\n0\r\nX-Trailer: LONG\r\n\r\n";
    for body in chunks.split('|').map(|chunks| chunks.replace("LONG", &"x".repeat(100_000))) {
        let answer = ask(&world, &last(&ingest, b"Transfer-Encoding: chunked\r\n", body.as_bytes())).await;
        refused(&body[..body.len().min(50)], answer);
    }
    all_is_well(&world, before).await;
    world.finish().await;
}
