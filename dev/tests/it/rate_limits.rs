//! Rate limits on posting events: of a key and of a subscription. Every answer shows their state.

use reqwest::{Method, header::HeaderMap};
use serde_json::json;

use crate::{
    access::{call, text},
    world::{Answer, SOON, World, answer, id},
};

/// A number in a structured header, such as 4 for the parameter `r` in `"key";r=4;t=1`.
fn number(headers: &HeaderMap, name: &str, item: &str, parameter: &str) -> u32 {
    let text = headers[name].to_str().unwrap();
    let item = text.split(", ").find(|one| one.starts_with(&format!("\"{item}\""))).unwrap_or_else(|| panic!("{text}"));
    let parameter = item.split(';').find_map(|one| one.strip_prefix(&format!("{parameter}=")));
    parameter.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// Sends requests until one is refused; answers how many were let through, and the refusal.
async fn exhaust(ask: impl AsyncFn() -> Answer) -> (u32, Answer) {
    for admitted in 0..1000 {
        let answer = ask().await;
        if answer.status == 429 {
            return (admitted, answer);
        }
        assert_eq!(answer.status, 202, "{}", answer.body);
    }
    panic!("never refused");
}

#[tokio::test]
async fn a_key_may_post_so_many_events_a_second() {
    let world = World::new().await;
    let limited = json!({"name": "limited", "scopes": ["ingest", "read"], "rate_limit_per_second": 5});
    let created = world.call(Method::POST, "/api-keys", Some(limited)).await.expect(201);
    assert_eq!(created["rate_limit_per_second"], 5);
    let key = text(&created, "key");
    let subscription = world.subscription("/success").await;
    let event = json!({"event_type": "a.b", "payload": 1});
    let inline = json!({"target_url": world.receiver.url("/success"), "payload": 1});
    let routes = [
        ("/events".to_owned(), event.clone()),
        ("/events/batch".to_owned(), json!({"events": [event]})),
        ("/deliveries".to_owned(), inline),
        (format!("/webhooks/ingest/{subscription}"), json!(1)),
    ];
    // The key has one limit for all routes that take events together.
    let first = call(&world, &key, &Method::POST, &routes[0].0, Some(routes[0].1.clone())).await;
    assert_eq!(first.headers["ratelimit-policy"], "\"key\";q=5;w=1");
    assert_eq!(number(&first.headers, "ratelimit", "key", "r"), 4);
    assert_eq!(number(&first.headers, "ratelimit", "key", "t"), 1);
    first.expect(202);
    for (path, body) in &routes {
        let (_, refused) = exhaust(async || call(&world, &key, &Method::POST, path, Some(body.clone())).await).await;
        assert_eq!(number(&refused.headers, "ratelimit", "key", "r"), 0);
        assert_eq!(refused.headers["retry-after"], "1");
        assert_eq!(refused.problem(429)["code"], "too_many_requests");
    }
    // The limit counts neither reading nor the requests of another key.
    let read = call(&world, &key, &Method::GET, "/events", None).await;
    assert!(!read.headers.contains_key("ratelimit"));
    read.expect(200);
    world.publish(json!({"event_type": "a.b", "payload": 1})).await;
    let again =
        async { while call(&world, &key, &Method::POST, "/events", Some(routes[0].1.clone())).await.status == 429 {} };
    tokio::time::timeout(SOON, again).await.expect("a second passes");
    for wrong in [json!(0), json!(100_001), json!(-1), json!("5")] {
        let body = json!({"name": "x", "scopes": ["ingest"], "rate_limit_per_second": wrong});
        world.call(Method::POST, "/api-keys", Some(body)).await.problem(422);
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_subscription_takes_so_many_requests_a_second() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({"ingest_rate_limit_per_second": 3, "ingest_auth": "none"})).await;
    assert_eq!(created["ingest_rate_limit_per_second"], 3);
    let path = format!("/webhooks/ingest/{}", id(&created));
    let (admitted, refused) = exhaust(async || answer(world.anonymous(Method::POST, &path).body("x")).await).await;
    assert!(admitted >= 3, "a second's worth at once");
    assert_eq!(refused.headers["ratelimit-policy"], "\"subscription\";q=3;w=1");
    refused.problem(429);
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&world.pool).await.unwrap();
    assert_eq!(stored, i64::from(admitted), "what is refused is not stored");

    // A request that is refused for its signature does not count against the limit.
    let change = json!({"ingest_auth": "signature"});
    world.call(Method::PATCH, &format!("/subscriptions/{}", id(&created)), Some(change)).await.expect(200);
    for _ in 0..20 {
        let forged = world.anonymous(Method::POST, &path).header("X-Hub-Signature-256", "sha256=00").body("x");
        let forged = answer(forged).await;
        assert!(!forged.headers.contains_key("ratelimit"));
        forged.problem(401);
    }
    // Where both limits apply, the answer shows both.
    let change = json!({"ingest_auth": "key", "ingest_rate_limit_per_second": 1000});
    world.call(Method::PATCH, &format!("/subscriptions/{}", id(&created)), Some(change)).await.expect(200);
    let limited = json!({"name": "limited", "scopes": ["ingest"], "rate_limit_per_second": 500});
    let key = text(&world.call(Method::POST, "/api-keys", Some(limited)).await.expect(201), "key");
    let both = call(&world, &key, &Method::POST, &path, Some(json!(1))).await;
    assert_eq!(both.headers["ratelimit-policy"], "\"key\";q=500;w=1, \"subscription\";q=1000;w=1");
    assert_eq!(number(&both.headers, "ratelimit", "key", "r"), 499);
    both.expect(202);
    while world.drain().await > 0 {}
    world.finish().await;
}
