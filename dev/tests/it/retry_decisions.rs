//! What follows a failed attempt: the decisions of a retry policy, the rest of a receiver that is too busy, and what a
//! receiver asks for by a header of its answer.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::world::{World, id};

/// A retry policy of two attempts with these decisions.
fn decided(decisions: &Value) -> Value {
    json!({"retry_policy": {"delays_seconds": [600], "decisions": decisions}})
}

/// Creates a subscription with these decisions and delivers one event; answers the subscription and the delivery.
async fn delivered(world: &World, target: &str, more: &Value) -> (Value, Value) {
    let mut body = json!({"target_url": target});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let subscription = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    let delivery = world.ingest(&subscription, "x").await;
    assert_eq!(world.drain().await, 1);
    (world.get(&format!("/subscriptions/{subscription}")).await, world.delivery(&delivery).await)
}

#[tokio::test]
async fn decisions_are_set_replaced_shown_and_checked() {
    let world = World::new().await;
    let decisions = json!({"404": "give_up", "5xx": "retry", "tls": "give_up"});
    let created = world.subscribe("/success", decided(&decisions)).await;
    assert_eq!(created["retry_policy"]["decisions"], decisions);
    let path = format!("/subscriptions/{}", id(&created));
    assert_eq!(world.get(&path).await["retry_policy"]["decisions"], decisions);

    let change = async |method: Method, body: Value| world.call(method, &path, Some(body)).await;
    let patched = change(Method::PATCH, json!({"name": "other"})).await.expect(200);
    assert_eq!(patched["retry_policy"]["decisions"], decisions, "what is absent stays");
    let patched = change(Method::PATCH, json!({"retry_policy": {"decisions": {"429": "give_up"}}})).await.expect(200);
    assert_eq!(patched["retry_policy"]["decisions"], json!({"429": "give_up"}), "a policy is replaced as a whole");
    let target = world.receiver.url("/success");
    let replaced = change(Method::PUT, json!({"target_url": target, "retry_policy": {"decisions": {"3xx": "retry"}}}));
    assert_eq!(replaced.await.expect(200)["retry_policy"]["decisions"], json!({"3xx": "retry"}));
    for body in [json!({"retry_policy": {"decisions": {}}}), json!({"retry_policy": {"decisions": null}})] {
        let patched = change(Method::PATCH, body).await.expect(200);
        assert!(patched["retry_policy"].get("decisions").is_none(), "{patched}");
    }

    let many: serde_json::Map<_, _> = (300..351).map(|status| (status.to_string(), json!("retry"))).collect();
    for (decisions, field) in [
        (json!({"404": "give_up", "200": "give_up"}), "retry_policy.decisions.200"),
        (json!({"2xx": "give_up"}), "retry_policy.decisions.2xx"),
        (json!({"4XX": "give_up"}), "retry_policy.decisions.4XX"),
        (json!({"600": "retry"}), "retry_policy.decisions.600"),
        (json!({"shutdown": "retry"}), "retry_policy.decisions.shutdown"),
        (json!({"weather": "retry"}), "retry_policy.decisions.weather"),
        (json!({"404": "ignore"}), "retry_policy.decisions.404"),
        (json!({"404": true}), "retry_policy.decisions.404"),
        (json!({"404": null}), "retry_policy.decisions.404"),
        (json!(["404"]), "retry_policy.decisions"),
        (Value::Object(many), "retry_policy.decisions"),
    ] {
        let policy = json!({"decisions": decisions});
        for (method, path, body) in [
            (Method::POST, "/subscriptions", json!({"target_url": target, "retry_policy": policy})),
            (Method::PUT, path.as_str(), json!({"target_url": target, "retry_policy": policy})),
            (Method::PATCH, path.as_str(), json!({"retry_policy": policy})),
            (Method::POST, "/deliveries", json!({"target_url": target, "payload": 1, "retry_policy": policy})),
        ] {
            let problem = world.call(method.clone(), path, Some(body)).await.problem(422);
            assert_eq!(problem["errors"][0]["field"], field, "{method} {path} {policy}: {problem}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn a_decision_says_whether_a_failure_is_final() {
    let world = World::new().await;
    // The port is bound, so that nobody else gets it, but nobody listens on it.
    let closed = TcpSocket::new_v4().unwrap();
    closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = format!("http://{}/", closed.local_addr().unwrap());
    for (path, decisions, status) in [
        ("/fail/404", json!({"404": "give_up"}), "dead_letter"),
        ("/fail/403", json!({"404": "give_up"}), "pending"),
        ("/fail/502", json!({"5xx": "give_up"}), "dead_letter"),
        ("/fail/502", json!({"5xx": "give_up", "502": "retry"}), "pending"),
        ("/fail/301", json!({"3xx": "give_up"}), "dead_letter"),
        ("/fail/429", json!({"4xx": "give_up"}), "dead_letter"),
        ("/fail/429", json!({"4xx": "give_up", "429": "retry"}), "pending"),
        ("/fail/500", json!({"http_status": "give_up"}), "dead_letter"),
        ("/fail/500", json!({"connect": "give_up"}), "pending"),
        (closed.as_str(), json!({"connect": "give_up"}), "dead_letter"),
        (closed.as_str(), json!({"http_status": "give_up", "timeout": "give_up"}), "pending"),
    ] {
        let target = if path.starts_with('/') { world.receiver.url(path) } else { path.to_owned() };
        let (subscription, delivery) = delivered(&world, &target, &decided(&decisions)).await;
        assert_eq!(delivery["status"], status, "{path} {decisions}");
        assert_eq!(subscription["state"], "active", "{path} {decisions}");
    }
    let strict = json!({"retry_policy": {"delays_seconds": [10], "retry_client_errors": false,
                                         "decisions": {"404": "retry"}}});
    for (path, status) in [("/fail/404", "pending"), ("/fail/403", "dead_letter")] {
        let (_, delivery) = delivered(&world, &world.receiver.url(path), &strict).await;
        assert_eq!(delivery["status"], status, "{path}");
    }
    // An inline delivery brings its own policy.
    let body = json!({"target_url": world.receiver.url("/fail/404"), "payload": 1,
                      "retry_policy": {"delays_seconds": [10], "decisions": {"404": "give_up"}}});
    let accepted = world.call(Method::POST, "/deliveries", Some(body)).await.expect(202);
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(accepted["delivery_id"].as_str().unwrap()).await["status"], "dead_letter");
    world.finish().await;
}

#[tokio::test]
async fn gone_disables_unless_it_is_decided_to_go_on() {
    let world = World::new().await;
    for (decisions, status, state) in [
        (json!({}), "dead_letter", "disabled"),
        (json!({"410": "give_up"}), "dead_letter", "disabled"),
        (json!({"4xx": "retry", "410": "give_up"}), "dead_letter", "disabled"),
        (json!({"410": "retry"}), "pending", "active"),
        (json!({"4xx": "retry"}), "pending", "active"),
    ] {
        let (subscription, delivery) = delivered(&world, &world.receiver.url("/gone"), &decided(&decisions)).await;
        assert_eq!((&delivery["status"], &subscription["state"]), (&json!(status), &json!(state)), "{decisions}");
        let reason = subscription.get("disabled_reason").and_then(Value::as_str);
        assert_eq!(reason, (state == "disabled").then_some("the receiver answered 410 Gone"), "{decisions}");
    }
    world.finish().await;
}

#[tokio::test]
async fn who_is_too_busy_and_does_not_say_for_how_long_rests_too() {
    let world = World::new().await;
    for path in ["/fail/429", "/fail/503"] {
        let waits = json!({"retry_policy": {"delays_seconds": [10, 200]}});
        let subscription = id(&world.subscribe(path, waits).await);
        let first = world.ingest(&subscription, "1").await;
        assert_eq!(world.drain().await, 1);
        let shown = world.get(&format!("/subscriptions/{subscription}")).await;
        assert!(shown["rests_until"].is_string(), "{shown}");
        let second = world.ingest(&subscription, "2").await;
        assert_eq!(world.drain().await, 0, "the lane rests for the first wait");
        world.pass(Duration::from_secs(5)).await;
        assert_eq!(world.drain().await, 0, "still");
        world.pass(Duration::from_secs(7)).await;
        assert_eq!(world.drain().await, 2);
        assert_eq!(world.delivery(&first).await["attempt_count"], 2);
        assert_eq!(world.delivery(&second).await["attempt_count"], 1);

        // The second wait is longer than a lane rests by itself.
        let third = world.ingest(&subscription, "3").await;
        world.pass(Duration::from_secs(50)).await;
        assert_eq!(world.drain().await, 0, "the lane rests for a minute");
        world.pass(Duration::from_secs(12)).await;
        assert_eq!(world.drain().await, 2, "the second and the third; the first waits longer");
        assert_eq!(world.delivery(&third).await["attempt_count"], 1);
        world.post(&format!("/subscriptions/{subscription}/pause")).await;
    }
    let subscription = world.subscription("/fail/500").await;
    for number in 0..3 {
        world.ingest(&subscription, number.to_string()).await;
        assert_eq!(world.drain().await, 1, "any other failure concerns its own delivery only");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_receiver_disables_its_subscription_by_a_header() {
    let world = World::new().await;
    let disabled = "the receiver asked for it";
    for (path, status) in [
        ("/success?webhook-delivery=disable", "succeeded"),
        ("/fail?webhook-delivery=Disable", "pending"),
        ("/fail/301?webhook-delivery=DISABLE", "pending"),
        ("/fail/503?webhook-delivery=sleep&webhook-delivery=disable", "pending"),
    ] {
        let (subscription, delivery) = delivered(&world, &world.receiver.url(path), &decided(&json!({}))).await;
        assert_eq!((&delivery["status"], &subscription["state"]), (&json!(status), &json!("disabled")), "{path}");
        assert_eq!(subscription["disabled_reason"], disabled, "{path}");
    }
    for path in ["/success?webhook-delivery=sleep", "/success?webhook-delivery=", "/success?x-webhook-delivery=disable"]
    {
        let (subscription, delivery) = delivered(&world, &world.receiver.url(path), &decided(&json!({}))).await;
        assert_eq!((&delivery["status"], &subscription["state"]), (&json!("succeeded"), &json!("active")), "{path}");
    }

    // What failed waits with what was waiting already, and goes on when the subscription is enabled.
    let subscription = id(&world.subscribe("/fail?webhook-delivery=disable", decided(&json!({}))).await);
    let delivery = world.ingest(&subscription, "x").await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(1000)).await;
    assert_eq!(world.drain().await, 0, "nothing is attempted");
    let enabled = world.post(&format!("/subscriptions/{subscription}/enable")).await;
    assert!(enabled.get("disabled_reason").is_none(), "{enabled}");
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&delivery).await["status"], "dead_letter", "that was its last attempt");
    assert_eq!(world.get(&format!("/subscriptions/{subscription}")).await["disabled_reason"], disabled, "once more");
    let audit = world.get(&format!("/audit-log?target_id={subscription}&action=subscription.disabled")).await;
    assert_eq!(audit["data"][0]["actor"], "postrider");

    // An inline delivery has no subscription.
    let body = json!({"target_url": world.receiver.url("/success?webhook-delivery=disable"), "payload": 1});
    let accepted = world.call(Method::POST, "/deliveries", Some(body)).await.expect(202);
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(accepted["delivery_id"].as_str().unwrap()).await["status"], "succeeded");
    world.finish().await;
}

#[tokio::test]
async fn a_receiver_gives_a_delivery_up_by_a_header() {
    let world = World::new().await;
    for (path, status_code) in [
        ("/success?webhook-delivery=abort", 200),
        ("/fail?webhook-delivery=ABORT", 500),
        ("/fail/404?webhook-delivery=abort", 404),
    ] {
        let retried = decided(&json!({"4xx": "retry", "5xx": "retry"}));
        let (subscription, delivery) = delivered(&world, &world.receiver.url(path), &retried).await;
        assert_eq!((&delivery["status"], &subscription["state"]), (&json!("dead_letter"), &json!("active")), "{path}");
        assert_eq!(delivery["last_status_code"], status_code, "{path}");
        assert_eq!(delivery["last_error"], "the receiver asked to give this delivery up", "{path}");
        let attempt = &world.attempts(&id(&delivery)).await[0];
        assert_eq!((&attempt["error_kind"], &attempt["status_code"]), (&json!("aborted"), &json!(status_code)));
        world.get(&format!("/dead-letters/{}", id(&delivery))).await;
    }
    let (subscription, delivery) =
        delivered(&world, &world.receiver.url("/gone?webhook-delivery=abort"), &json!({})).await;
    assert_eq!((&delivery["status"], &subscription["state"]), (&json!("dead_letter"), &json!("disabled")));
    let body = json!({"target_url": world.receiver.url("/success?webhook-delivery=abort"), "payload": 1});
    let accepted = world.call(Method::POST, "/deliveries", Some(body)).await.expect(202);
    assert_eq!(world.drain().await, 1);
    assert_eq!(
        world.delivery(accepted["delivery_id"].as_str().unwrap()).await["status"],
        "dead_letter",
        "an inline one, too"
    );
    world.finish().await;
}

/// A worker that nobody wakes looks every two seconds.
#[tokio::test]
async fn a_retry_after_a_second_does_not_wait_for_the_next_look() {
    let world = World::new().await;
    let failing = json!({"retry_policy": {"delays_seconds": [1, 1, 1]}});
    let subscription = id(&world.subscribe("/fail", failing).await);
    let delivery = world.ingest(&subscription, "x").await;
    let (stop, worker) = world.run_worker();
    world.queue_is_empty().await;
    stop.cancel();
    worker.await.unwrap();
    let times: Vec<chrono::DateTime<chrono::Utc>> =
        world.attempts(&delivery).await.iter().map(|a| a["started_at"].as_str().unwrap().parse().unwrap()).collect();
    let mut waits: Vec<_> = times.windows(2).map(|pair| (pair[1] - pair[0]).abs().num_milliseconds()).collect();
    waits.sort_unstable();
    assert_eq!(waits.len(), 3);
    // On a busy machine one of them may be late, but not all.
    assert!((1000..1600).contains(&waits[0]), "{waits:?}");
    world.finish().await;
}
