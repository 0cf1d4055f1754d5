//! Samples: events that somebody sends to one subscription to see whether its receiver gets them.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, id};

async fn send(world: &World, subscription: &str, body: Option<Value>) -> crate::world::Answer {
    world.call(Method::POST, &format!("/subscriptions/{subscription}/test"), body).await
}

#[tokio::test]
async fn a_sample_arrives_whatever_the_subscription_wants() {
    let world = World::new().await;
    let picky = id(&world.subscribe("/success", json!({"event_types": ["order.created"]})).await);

    let delivery = send(&world, &picky, None).await.expect(202);
    assert_eq!((&delivery["subscription_id"], &delivery["status"]), (&json!(picky), &json!("pending")));
    assert_eq!(delivery["event_type"], "order.created", "the type that the subscription names");
    let own = json!({"event_type": "weather.fine", "payload": {"degrees": 21.50}});
    send(&world, &picky, Some(own)).await.expect(202);
    assert_eq!(world.drain().await, 2);
    let received = world.receiver.received();
    let first: Value = serde_json::from_slice(&received[0].body).unwrap();
    assert_eq!(first["subscription_id"], picky);
    assert_eq!(received[0].header("content-type"), "application/json");
    assert!(!received[0].header("webhook-signature").is_empty(), "it is signed as any other");
    assert_eq!(&received[1].body[..], br#"{"degrees":21.5}"#);
    let event = world.get(&format!("/events/{}", delivery["event_id"].as_str().unwrap())).await;
    assert_eq!(event["metadata"], json!({"postrider_sample": "true"}));
    let attempts = world.attempts(delivery["id"].as_str().unwrap()).await;
    assert_eq!((attempts.len(), &attempts[0]["status_code"]), (1, &json!(200)));

    let any = world.subscription("/success").await;
    assert_eq!(send(&world, &any, Some(json!({}))).await.expect(202)["event_type"], "postrider.sample");
    world.finish().await;
}

#[tokio::test]
async fn a_sample_waits_while_the_subscription_is_paused_and_is_refused_where_it_is_disabled() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    send(&world, &subscription, None).await.expect(202);
    assert_eq!(world.drain().await, 0);
    world.post(&format!("/subscriptions/{subscription}/resume")).await;
    assert_eq!(world.drain().await, 1);
    world.post(&format!("/subscriptions/{subscription}/disable")).await;
    send(&world, &subscription, None).await.problem(409);
    world.post(&format!("/subscriptions/{subscription}/enable")).await;
    for (body, field) in [(json!({"event_type": "Not A Type"}), "event_type"), (json!({"type": "a"}), "type")] {
        let problem = send(&world, &subscription, Some(body)).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    send(&world, "sub_00000000000000000000000000000000", None).await.problem(404);
    world.finish().await;
}
