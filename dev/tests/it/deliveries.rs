//! The way of a delivery: from the POST to the receiver, and back into the log of attempts.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    hostile_receivers::{Then, answering},
    world::{SOON, World, answer, expected_signature, id, worker},
};

/// A retry policy of three attempts, which waits ten and then sixty seconds.
fn three_attempts() -> Value {
    json!({"retry_policy": {"delays_seconds": [10, 60]}})
}

#[tokio::test]
async fn an_event_arrives_byte_for_byte_signed_and_logged() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({"headers": {"X-Team": "blue"}})).await;
    let payload = r#"{"order":  42, "é": "\u00e9"}"#;
    let request = world
        .request(Method::POST, &format!("/webhooks/ingest/{}", id(&created)))
        .header("Content-Type", "application/vnd.shop+json; charset=utf-8")
        .header("X-Event-Type", "order.created")
        .body(payload);
    let accepted = answer(request).await.expect(202);
    assert_eq!(accepted["status"], "pending");
    assert_eq!(world.drain().await, 1);

    let received = world.receiver.received();
    let [received] = received.as_slice() else { panic!("one request, not {}", received.len()) };
    assert_eq!(received.body, payload);
    assert_eq!(received.path, "/success");
    assert_eq!(received.header("content-type"), "application/vnd.shop+json; charset=utf-8");
    assert_eq!(received.header("webhook-id"), accepted["event_id"]);
    assert_eq!(received.header("webhook-delivery-id"), accepted["delivery_id"]);
    assert_eq!(received.header("webhook-event-type"), "order.created");
    assert_eq!(received.header("webhook-attempt"), "1");
    assert_eq!(received.header("x-team"), "blue");
    assert!(received.header("user-agent").starts_with("Postrider/"));
    let timestamp: i64 = received.header("webhook-timestamp").parse().unwrap();
    assert!((chrono::Utc::now().timestamp() - timestamp).abs() < 60);
    let expected = expected_signature(created["secret"].as_str().unwrap(), received);
    assert_eq!(received.header("webhook-signature"), expected);

    let delivery = world.delivery(accepted["delivery_id"].as_str().unwrap()).await;
    assert_eq!(delivery["status"], "succeeded");
    assert_eq!(delivery["attempt_count"], 1);
    assert_eq!(delivery["last_status_code"], 200);
    assert_eq!(delivery["event_type"], "order.created");
    assert!(delivery["finished_at"].is_string() && delivery.get("next_attempt_at").is_none(), "{delivery}");
    let attempts = world.attempts(&id(&delivery)).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0]["status_code"], 200);
    assert_eq!(attempts[0]["response_body"], "ok");
    assert_eq!(attempts[0]["response_headers"]["content-length"], "2");
    assert!(attempts[0]["duration_ms"].is_u64());
    world.finish().await;
}

#[tokio::test]
async fn failures_are_retried_on_schedule_until_a_dead_letter_and_a_person_may_try_again() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/fail/502", three_attempts()).await);
    let delivery = world.ingest(&subscription, "x").await;
    assert_eq!(world.drain().await, 1);

    let waiting = world.delivery(&delivery).await;
    assert_eq!(waiting["status"], "pending");
    assert_eq!(waiting["attempt_count"], 1);
    assert_eq!(waiting["last_status_code"], 502);
    let next: chrono::DateTime<chrono::Utc> = waiting["next_attempt_at"].as_str().unwrap().parse().unwrap();
    let wait = (next - chrono::Utc::now()).as_seconds_f64();
    assert!((5.0..=11.0).contains(&wait), "10 s and up to a tenth, less what this test took: {wait}");

    assert_eq!(world.drain().await, 0, "it is not due yet");
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(world.drain().await, 0, "never early");
    world.pass(Duration::from_secs(3)).await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(67)).await;
    assert_eq!(world.drain().await, 1);

    let dead = world.delivery(&delivery).await;
    assert_eq!(dead["status"], "dead_letter");
    assert_eq!(dead["attempt_count"], 3);
    world.pass(Duration::from_secs(1000)).await;
    assert_eq!(world.drain().await, 0, "dead letters rest");
    let dead_letters = world.get("/deliveries?status=dead_letter").await;
    assert_eq!(id(&dead_letters["data"][0]), delivery);

    let retried = world.post(&format!("/deliveries/{delivery}/retry")).await;
    assert_eq!(retried["status"], "pending");
    assert_eq!(world.drain().await, 1);
    let again = world.delivery(&delivery).await;
    assert_eq!((again["status"].clone(), again["attempt_count"].clone()), (json!("pending"), json!(4)));
    let numbers: Vec<_> = world.attempts(&delivery).await.iter().map(|attempt| attempt["number"].clone()).collect();
    assert_eq!(numbers, [1, 2, 3, 4], "a fresh round goes on counting");
    let next: chrono::DateTime<chrono::Utc> = again["next_attempt_at"].as_str().unwrap().parse().unwrap();
    assert!((next - chrono::Utc::now()).num_seconds() <= 11, "the fresh round begins with the first wait");
    assert_eq!(world.get("/deliveries?status=dead_letter").await["data"], json!([]));
    world.finish().await;
}

#[tokio::test]
async fn a_pending_delivery_is_retried_early_and_canceled_on_demand() {
    let world = World::new().await;
    let subscription = world.subscription("/fail").await;
    let (first, second) = (world.ingest(&subscription, "1").await, world.ingest(&subscription, "2").await);
    assert_eq!(world.drain().await, 2);
    world.post(&format!("/deliveries/{first}/retry")).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&first).await["attempt_count"], 2);

    let canceled = world.post(&format!("/deliveries/{second}/cancel")).await;
    assert_eq!(canceled["status"], "canceled");
    world.call(Method::POST, &format!("/deliveries/{second}/cancel"), None).await.problem(409);
    world.pass(Duration::from_secs(1000)).await;
    assert_eq!(world.drain().await, 1, "only the first");
    assert_eq!(world.delivery(&second).await["attempt_count"], 1);
    world.finish().await;
}

#[tokio::test]
async fn retry_after_is_honoured_and_rests_the_whole_lane() {
    let world = World::new().await;
    let busy = answering(b"HTTP/1.1 429 Too Many\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n", Then::Closes);
    let body = json!({"target_url": busy.url, "retry_policy": {"delays_seconds": [10, 10]}});
    let subscription = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    let first = world.ingest(&subscription, "1").await;
    assert_eq!(world.drain().await, 1);
    let second = world.ingest(&subscription, "2").await;
    assert_eq!(world.drain().await, 0, "the lane rests");
    world.pass(Duration::from_secs(110)).await;
    assert_eq!(world.drain().await, 0, "still");
    world.pass(Duration::from_secs(11)).await;
    assert_eq!(world.drain().await, 2);
    assert_eq!(world.delivery(&first).await["attempt_count"], 2);
    assert_eq!(world.delivery(&second).await["attempt_count"], 1);

    // The `Retry-After` of the last attempt's answer holds the lane as well.
    world.pass(Duration::from_secs(121)).await;
    assert_eq!(world.drain().await, 2);
    assert_eq!(world.delivery(&first).await["status"], "dead_letter");
    let third = world.ingest(&subscription, "3").await;
    assert_eq!(world.drain().await, 0, "the lane rests");
    world.pass(Duration::from_secs(121)).await;
    assert_eq!(world.drain().await, 2);
    assert_eq!(world.delivery(&third).await["attempt_count"], 1);
    world.finish().await;
}

#[tokio::test]
async fn a_rest_is_visible_and_ends_with_a_retry_by_hand_or_another_target() {
    let mut world = World::new().await;
    let busy = answering(b"HTTP/1.1 429 Too Many\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n", Then::Closes);
    let body = json!({"target_url": busy.url, "retry_policy": {"delays_seconds": [10, 10]}});
    let subscription = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    let path = format!("/subscriptions/{subscription}");
    assert!(world.get(&path).await["rests_until"].is_null());
    world.ingest(&subscription, "1").await;
    assert_eq!(world.drain().await, 1);
    let waiting = world.ingest(&subscription, "2").await;
    let rests_until = world.get(&path).await["rests_until"].clone();
    assert!(rests_until.is_string(), "{rests_until}");
    assert_eq!(world.delivery(&waiting).await["next_attempt_at"], rests_until);

    world.post(&format!("/deliveries/{waiting}/retry")).await;
    assert!(world.get(&path).await["rests_until"].is_null());
    assert_eq!(world.drain().await, 1, "a person means now");
    assert_eq!(world.drain().await, 0, "the receiver has asked again");

    let third = world.ingest(&subscription, "3").await;
    world.post(&format!("{path}/pause")).await;
    let patch = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &path, Some(json!({"name": "as before"}))).await.expect(200);
    assert!(world.get(&path).await["rests_until"].is_string(), "only another target ends it");
    world.call(Method::PATCH, &path, Some(patch)).await.expect(200);
    assert!(world.get(&path).await["rests_until"].is_null());
    assert_eq!(world.drain().await, 0, "the subscription is still paused");
    world.post(&format!("{path}/resume")).await;
    world.worker = worker(&world.env); // one that has not read the subscription before
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&third).await["status"], "succeeded");
    world.finish().await;
}

#[tokio::test]
async fn gone_disables_the_subscription_and_events_are_still_stored() {
    let world = World::new().await;
    let subscription = world.subscription("/gone").await;
    let delivery = world.ingest(&subscription, "x").await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&delivery).await["status"], "dead_letter");
    let disabled = world.get(&format!("/subscriptions/{subscription}")).await;
    assert_eq!(disabled["state"], "disabled");
    assert!(disabled["disabled_reason"].as_str().unwrap().contains("410"));

    let stored = async || {
        let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body("later");
        answer(request).await.expect(202)
    };
    // The announcement of the change takes a moment to reach the api.
    let refused = async {
        loop {
            let accepted = stored().await;
            if accepted["status"] == "disabled" {
                return accepted;
            }
            tokio::task::yield_now().await;
        }
    };
    let accepted = tokio::time::timeout(SOON, refused).await.expect("the change is announced");
    assert!(accepted.get("delivery_id").is_none());
    world.get(&format!("/events/{}", accepted["event_id"].as_str().unwrap())).await;
    world.post(&format!("/subscriptions/{subscription}/enable")).await;
    world.finish().await;
}

#[tokio::test]
async fn private_addresses_are_refused_when_sending_too() {
    let mut world = World::new().await;
    // The targets were allowed when they were chosen, but this worker allows fewer networks.
    let subscription = world.subscription("/success").await;
    let by_name = world.receiver.url("/success").replace("127.0.0.1", "localhost");
    let body = json!({"target_url": by_name});
    let named = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    world.env.insert("POSTRIDER_ALLOWED_PRIVATE_NETWORKS".to_owned(), String::new());
    world.worker = crate::world::worker(&world.env);
    for subscription in [subscription, named] {
        let delivery = world.ingest(&subscription, "x").await;
        assert_eq!(world.drain().await, 1);
        assert_eq!(world.attempts(&delivery).await[0]["error_kind"], "blocked_target");
    }
    assert_eq!(world.receiver.count(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_policy_may_give_up_on_client_errors() {
    let world = World::new().await;
    let strict = json!({"retry_policy": {"delays_seconds": [10], "retry_client_errors": false}});
    for (path, status) in [("/fail/404", "dead_letter"), ("/fail/429", "pending"), ("/fail/500", "pending")] {
        let subscription = id(&world.subscribe(path, strict.clone()).await);
        let delivery = world.ingest(&subscription, "x").await;
        assert_eq!(world.drain().await, 1);
        assert_eq!(world.delivery(&delivery).await["status"], status, "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_pause_does_not_shorten_a_rest() {
    let world = World::new().await;
    let busy = answering(b"HTTP/1.1 503 Busy\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n", Then::Closes);
    let body = json!({"target_url": busy.url, "retry_policy": {"delays_seconds": [10, 10]}});
    let subscription = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    let path = format!("/subscriptions/{subscription}");
    world.ingest(&subscription, "1").await;
    assert_eq!(world.drain().await, 1);
    let rests_until = world.get(&path).await["rests_until"].clone();
    world.post(&format!("{path}/pause")).await;
    world.post(&format!("{path}/resume")).await;
    assert_eq!(world.get(&path).await["rests_until"], rests_until);
    world.ingest(&subscription, "2").await;
    world.pass(Duration::from_secs(110)).await;
    assert_eq!(world.drain().await, 0, "the receiver has asked to be left alone");
    world.pass(Duration::from_secs(11)).await;
    assert_eq!(world.drain().await, 2);
    world.finish().await;
}
