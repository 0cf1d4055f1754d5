//! Payloads that come packed, with a `Content-Encoding`: they are kept and delivered as they came, and filters look
//! inside, within bounds.

use std::io::Write;

use flate2::{
    Compression,
    write::{GzEncoder, ZlibEncoder},
};
use postrider_core::event::content_encoding::UNPACKED_BYTES_MAX;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    signatures::ring_hmac,
    world::{World, answer, id},
};

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    let mut packer = ZlibEncoder::new(Vec::new(), Compression::default());
    packer.write_all(bytes).unwrap();
    packer.finish().unwrap()
}

fn request(world: &World, subscription: &str, encoding: &str, body: Vec<u8>) -> reqwest::RequestBuilder {
    let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}"));
    request.header("Content-Type", "application/json").header("Content-Encoding", encoding).body(body)
}

async fn post(world: &World, subscription: &str, encoding: &str, body: Vec<u8>) -> Value {
    answer(request(world, subscription, encoding, body).header("X-Event-Type", "a.b")).await.expect(202)
}

#[tokio::test]
async fn a_packed_payload_is_delivered_as_it_came_and_filters_look_inside() {
    let world = World::new().await;
    let orders = id(&world.subscribe("/orders", json!({"filters": {"payload": {"kind": "order"}}})).await);
    let text = br#"{"kind":"order","total":18446744073709551617}"#;
    for (encoding, packed) in [
        ("gzip", gzip(text)),
        ("x-gzip", gzip(text)),
        ("deflate", zlib(text)),
        ("Deflate, GZIP", gzip(&zlib(text))),
        ("identity", text.to_vec()),
    ] {
        let accepted = post(&world, &orders, encoding, packed.clone()).await;
        assert_eq!(accepted["status"], "pending", "{encoding}");
        assert_eq!(world.drain().await, 1);
        let delivery = accepted["delivery_id"].as_str().unwrap();
        world.post(&format!("/deliveries/{delivery}/retry")).await;
        let event = accepted["event_id"].as_str().unwrap();
        let replayed = world.call(Method::POST, &format!("/events/{event}/replay"), Some(json!({"to": "all"}))).await;
        assert_eq!(replayed.expect(202)["delivery_ids"].as_array().unwrap().len(), 1, "{encoding}");
        assert_eq!(world.drain().await, 2);
        let received = world.receiver.received();
        for received in &received[received.len() - 3..] {
            assert_eq!(received.header("content-encoding"), encoding);
            assert_eq!(received.header("content-type"), "application/json");
            assert!(received.body == packed, "byte for byte");
        }
        let shown = world.get(&format!("/events/{event}")).await;
        assert_eq!((&shown["content_encoding"], &shown["payload_bytes"]), (&json!(encoding), &json!(packed.len())));
        let matches = world.get(&format!("/events/{event}/matches?subscription={orders}")).await;
        assert_eq!(matches["matches"], true, "{matches}");
        let stored = world.request(Method::GET, &format!("/events/{event}/payload")).send().await.unwrap();
        assert_eq!(stored.headers()["x-payload-content-encoding"], encoding);
        assert!(!stored.headers().contains_key("content-encoding"), "the answer itself is not packed");
        assert!(stored.bytes().await.unwrap() == packed);
    }
    let other = post(&world, &orders, "gzip", gzip(br#"{"kind":"invoice"}"#)).await;
    assert_eq!(other["status"], "filtered");
    let plain = world.ingest(&orders, r#"{"kind":"order"}"#).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.receiver.received().pop().unwrap().headers.get("content-encoding"), None);
    let event = world.delivery(&plain).await["event_id"].as_str().unwrap().to_owned();
    assert_eq!(world.get(&format!("/events/{event}")).await.get("content_encoding"), None);
    world.finish().await;
}

#[tokio::test]
async fn what_cannot_be_unpacked_is_stored_and_told() {
    let world = World::new().await;
    let picky = id(&world.subscribe("/picky", json!({"filters": {"payload": {"kind": {"$ne": "x"}}}})).await);
    let easy = world.subscription("/easy").await;
    let text = br#"{"kind":"order"}"#;
    let bomb = gzip(&vec![b' '; 256 << 20]);
    let large = gzip(&[text.as_slice(), &vec![b' '; UNPACKED_BYTES_MAX]].concat());
    let too_large = format!("more than {UNPACKED_BYTES_MAX} bytes");
    for (encoding, packed, why) in [
        ("br", text.to_vec(), "content encoding `br`"),
        ("gzip", text.to_vec(), "not gzip"),
        ("deflate", gzip(text), "not deflate"),
        ("gzip, gzip, gzip", gzip(&gzip(&gzip(text))), "content encoding `gzip, gzip, gzip`"),
        ("gzip", bomb, too_large.as_str()),
        ("gzip", large, too_large.as_str()),
        ("gzip", gzip(b"plain"), "not JSON"),
    ] {
        let accepted = post(&world, &picky, encoding, packed.clone()).await;
        assert_eq!(accepted["status"], "unreadable", "{encoding} {why}");
        let event = accepted["event_id"].as_str().unwrap();
        let matches = world.get(&format!("/events/{event}/matches?subscription={picky}")).await;
        let found = matches["checks"].as_array().unwrap().last().unwrap()["found"].to_string();
        assert!(found.contains(why), "{found}");
        assert_eq!(post(&world, &easy, encoding, packed).await["status"], "pending");
    }
    while world.drain().await > 0 {}
    for wrong in ["g zip", "gzip;q=1", "gzip,", &"x".repeat(300)] {
        let problem = answer(request(&world, &easy, wrong, text.to_vec())).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "Content-Encoding", "{wrong}");
    }
    let twice = request(&world, &easy, "gzip", gzip(text)).header("Content-Encoding", "gzip");
    assert_eq!(answer(twice).await.problem(422)["errors"][0]["field"], "Content-Encoding");
    let owned = json!({"target_url": world.receiver.url("/"), "headers": {"content-encoding": "gzip"}});
    world.call(Method::POST, "/subscriptions", Some(owned)).await.problem(422);
    world.finish().await;
}

#[tokio::test]
async fn signatures_and_keys_cover_a_packed_payload_as_it_came() {
    let world = World::new().await;
    let signature = json!({"provider": "github", "secrets": ["provider-secret"]});
    let settings = json!({"ingest_auth": "signature", "ingest_signature": signature});
    let signed = id(&world.subscribe("/success", settings).await);
    let (text, packed) = (br#"{"kind":"order"}"#.as_slice(), gzip(br#"{"kind":"order"}"#));
    for (of, status) in [(packed.as_slice(), 202), (text, 401)] {
        let request = world.anonymous(Method::POST, &format!("/webhooks/ingest/{signed}"));
        let request = request.header("X-Hub-Signature-256", format!("sha256={}", ring_hmac("provider-secret", &[of])));
        let answer = answer(request.header("Content-Encoding", "gzip").body(packed.clone())).await;
        assert_eq!(answer.status, status);
    }
    let subscription = world.subscription("/success").await;
    let with_key =
        |encoding: &str| request(&world, &subscription, encoding, packed.clone()).header("Idempotency-Key", "k-1");
    let first = answer(with_key("gzip")).await.expect(202);
    assert_eq!(answer(with_key("gzip")).await.expect(202), first);
    answer(with_key("x-gzip")).await.problem(409);
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn the_json_of_other_requests_must_not_be_packed() {
    let world = World::new().await;
    let path = format!("/subscriptions/{}", world.subscription("/success").await);
    for (method, path) in [(Method::POST, "/events"), (Method::POST, "/subscriptions"), (Method::PATCH, path.as_str())]
    {
        let packed = gzip(br#"{"event_type":"a.b","payload":1}"#);
        let request = world.request(method.clone(), path).header("Content-Encoding", "gzip").body(packed);
        let refused = answer(request).await;
        assert_eq!(refused.headers["accept-encoding"], "identity");
        assert_eq!(refused.problem(415)["code"], "unsupported_media_type");
    }
    let plain = r#"{"event_type":"a.b","payload":1}"#;
    answer(world.request(Method::POST, "/events").header("Content-Encoding", "identity").body(plain)).await.expect(202);
    while world.drain().await > 0 {}
    world.finish().await;
}
