//! Inline deliveries: an event for one URL, without a subscription.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, expected_signature};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

async fn deliver(world: &World, path: &str, more: Value) -> String {
    let mut body = json!({"target_url": world.receiver.url(path), "payload": {"a": 1}});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    let accepted = world.call(Method::POST, "/deliveries", Some(body)).await.expect(202);
    assert_eq!(accepted["status"], "pending");
    accepted["delivery_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_inline_delivery_is_signed_sent_logged_and_kept_secret() {
    let world = World::new().await;
    let more = json!({"secret": SECRET, "headers": {"Authorization": "Bearer hidden-token"}, "event_type": "a.b",
                      "metadata": {"k": "v"}});
    let signed = deliver(&world, "/success", more).await;
    let unsigned = deliver(&world, "/success", json!({})).await;
    assert_eq!(world.drain().await, 2);
    let received = world.receiver.received();
    let of = |id: &str| received.iter().find(|one| one.header("webhook-delivery-id") == id).unwrap().clone();
    let one = of(&signed);
    assert_eq!(one.body, r#"{"a": 1}"#.replace(' ', ""));
    assert_eq!((one.header("authorization"), one.header("webhook-event-type")), ("Bearer hidden-token", "a.b"));
    assert_eq!(one.header("webhook-signature"), expected_signature(SECRET, &one));
    assert_eq!(of(&unsigned).header("webhook-signature"), "");
    let delivery = world.delivery(&signed).await;
    assert_eq!(delivery["status"], "succeeded");
    assert_eq!(delivery["target_url"], world.receiver.url("/success"));
    assert!(delivery.get("subscription_id").is_none(), "{delivery}");
    assert_eq!(world.attempts(&signed).await[0]["status_code"], 200);
    let dump: String = sqlx::query_scalar("SELECT string_agg(x::text, '') FROM inline_deliveries x")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(!dump.contains("hidden-token") && !dump.contains(SECRET), "{dump}");
    world.finish().await;
}

#[tokio::test]
async fn it_is_retried_by_its_own_policy_dies_and_can_be_retried_and_replayed() {
    let world = World::new().await;
    let policy = json!({"retry_policy": {"delays_seconds": [5]}, "timeout_ms": 2000});
    let dying = deliver(&world, "/fail", policy).await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&dying).await["status"], "dead_letter");
    let letters = world.get("/dead-letters").await;
    assert_eq!(letters["data"][0]["id"], *dying);
    // An hour later, its lane is no longer needed and is removed.
    world.pass(Duration::from_secs(3600)).await;
    world.drain().await;
    world.pass(Duration::from_secs(60)).await;
    world.drain().await;
    postrider_core::upkeep::maintenance::repair_lanes(&world.pool).await.unwrap();
    let lanes: i64 = sqlx::query_scalar("SELECT count(*) FROM lanes").fetch_one(&world.pool).await.unwrap();
    assert_eq!(lanes, 0);
    world.post(&format!("/dead-letters/{dying}/retry")).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&dying).await["attempt_count"], 3);
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(world.drain().await, 1);
    let path = format!("/deliveries/{dying}/replay");
    let replayed = world.call(Method::POST, &path, None).await.expect(202)["delivery_ids"][0].clone();
    let fresh = world.delivery(replayed.as_str().unwrap()).await;
    assert_eq!((&fresh["replay_of"], &fresh["target_url"]), (&json!(dying), &json!(world.receiver.url("/fail"))));
    assert_eq!(world.get("/dead-letters").await["data"], json!([]), "the replay takes it over");
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn it_is_for_its_url_only_and_no_subscription_ever_gets_it() {
    let world = World::new().await;
    let delivery = deliver(&world, "/success?private", json!({})).await;
    world.drain().await;
    let subscription = world.subscription("/success").await;
    let event = world.delivery(&delivery).await["event_id"].as_str().unwrap().to_owned();
    let told = world.get(&format!("/events/{event}/matches?subscription={subscription}")).await;
    assert_eq!(told["matches"], false, "{told}");
    world.call(Method::POST, &format!("/events/{event}/replay"), None).await.problem(409);
    let range = json!({"since": "2020-01-01T00:00:00Z"});
    let path = format!("/subscriptions/{subscription}/replay");
    let begun = world.call(Method::POST, &path, Some(range)).await.expect(202);
    assert_eq!(world.drain().await, 0);
    let done = world.get(&format!("/jobs/{}", begun["id"].as_str().unwrap())).await;
    assert_eq!((&done["state"], &done["done_count"]), (&json!("completed"), &json!(0)));
    world.finish().await;
}

#[tokio::test]
async fn what_is_wrong_with_it_is_told_at_once() {
    let world = World::new().await;
    let body = json!({
        "target_url": "http://10.0.0.1/", "payload": 1, "secret": "short", "headers": {"Host": "x"}, "timeout_ms": 1,
        "event_type": "a b", "metadata": {"": ""}, "retry_policy": {"max_attempts": 1},
        "deliver_at": "2999-01-01T00:00:00Z",
    });
    let problem = world.call(Method::POST, "/deliveries", Some(body)).await.problem(422);
    let mut fields: Vec<_> =
        problem["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect();
    fields.sort_unstable();
    let expected =
        ["deliver_at", "event_type", "headers", "metadata", "retry_policy", "secret", "target_url", "timeout_ms"];
    assert_eq!(fields, expected);
    world.call(Method::POST, "/deliveries", Some(json!({"payload": 1}))).await.problem(422);
    world.call(Method::POST, "/deliveries", Some(json!({"target_url": world.receiver.url("/")}))).await.problem(422);
    assert_eq!(world.drain().await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_and_one_that_asks_for_rest_concern_their_own_lane_only() {
    let world = World::new().await;
    let gone = deliver(&world, "/gone", json!({})).await;
    let fine = deliver(&world, "/success", json!({})).await;
    let elsewhere = deliver(&world, "/success", json!({"tenant_id": "other"})).await;
    assert_eq!(world.drain().await, 3);
    assert_eq!(world.delivery(&gone).await["status"], "dead_letter");
    for id in [fine, elsewhere] {
        assert_eq!(world.delivery(&id).await["status"], "succeeded");
    }
    let lanes: i64 = sqlx::query_scalar("SELECT count(*) FROM lanes").fetch_one(&world.pool).await.unwrap();
    assert_eq!(lanes, 2, "one for each tenant and origin");
    world.finish().await;
}
