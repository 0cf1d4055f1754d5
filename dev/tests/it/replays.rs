//! Replays of one delivery, of one event, and of a range of a subscription's past, also through crashes.

use std::{collections::BTreeSet, time::Duration};

use chrono::{TimeDelta, Utc};
use postrider_core::delivery::job::walk;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{SOON, World, id, uuid, worker};

fn hour_ago() -> String {
    (Utc::now() - TimeDelta::hours(1)).to_rfc3339()
}

async fn replay(world: &World, subscription: &str, more: Value) -> Value {
    let mut body = json!({"since": hour_ago(), "rate_per_second": 1000});
    body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
    world.call(Method::POST, &format!("/subscriptions/{subscription}/replay"), Some(body)).await.expect(202)
}

/// Makes the next step that is due; answers how many deliveries it made.
async fn step(world: &World) -> Option<usize> {
    walk::step(world.worker.fan_outs()).await.unwrap().map(|step| step.done)
}

/// Lets time pass and replays run until this replay has ended; answers it.
async fn finished(world: &World, replay: &Value) -> Value {
    loop {
        world.pass(Duration::from_secs(2)).await;
        world.drain().await;
        let now = world.get(&format!("/jobs/{}", id(replay))).await;
        if now["state"] != "running" {
            // The deliveries that the last step made are due a moment later.
            world.pass(Duration::from_secs(2)).await;
            world.drain().await;
            return now;
        }
    }
}

#[tokio::test]
async fn a_delivery_is_replayed_as_a_new_one_that_points_to_it() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let original = world.ingest(&subscription, "payload").await;
    let path = format!("/deliveries/{original}/replay");
    world.call(Method::POST, &path, None).await.problem(409);
    world.drain().await;
    let fresh = world.call(Method::POST, &path, None).await.expect(202)["delivery_ids"][0].as_str().unwrap().to_owned();
    assert_eq!(world.drain().await, 1);
    let (was, is) = (world.delivery(&original).await, world.delivery(&fresh).await);
    assert_eq!((&is["replay_of"], &is["status"]), (&json!(original), &json!("succeeded")));
    assert_eq!(was["attempt_count"], 1, "it stays as it is");
    let received = world.receiver.received();
    assert_eq!(received[0].header("webhook-id"), received[1].header("webhook-id"));
    assert_eq!(received[0].body, received[1].body);
    let of_event = world.get(&format!("/events/{}/deliveries", was["event_id"].as_str().unwrap())).await;
    let ids: BTreeSet<_> = of_event["data"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(ids, BTreeSet::from([original, fresh]));
    world.post(&format!("/subscriptions/{subscription}/disable")).await;
    world.call(Method::POST, &path, None).await.problem(409);
    world.finish().await;
}

#[tokio::test]
async fn an_event_is_replayed_to_all_or_to_those_who_missed_it() {
    let world = World::new().await;
    let had_it = world.subscription("/success").await;
    let (event, first) = world.publish(json!({"event_type": "a.b", "payload": 1})).await;
    world.drain().await;
    let missed_it = world.subscription("/success").await;
    world.subscribe("/success", json!({"event_types": ["c.d"]})).await;
    let replay = async |to: Value| -> Vec<Value> {
        let answered = world.call(Method::POST, &format!("/events/{event}/replay"), Some(to)).await.expect(202);
        answered["delivery_ids"].as_array().unwrap().clone()
    };
    let missing = replay(json!({"to": "missing"})).await;
    assert_eq!(missing.len(), 1);
    let delivery = world.delivery(missing[0].as_str().unwrap()).await;
    assert_eq!(delivery["subscription_id"], *missed_it);
    assert!(delivery.get("replay_of").is_none());
    assert_eq!(replay(json!({"to": "missing"})).await.len(), 0, "nobody misses it any more");
    let all = replay(json!({})).await;
    assert_eq!(all.len(), 2);
    let mut pointed = BTreeSet::new();
    for id in &all {
        let delivery = world.delivery(id.as_str().unwrap()).await;
        pointed.insert((delivery["subscription_id"].to_string(), delivery["replay_of"].to_string()));
    }
    let expected = [(json!(had_it), json!(first[0])), (json!(missed_it), missing[0].clone())];
    assert_eq!(pointed, expected.map(|(one, two)| (one.to_string(), two.to_string())).into());
    assert_eq!(world.drain().await, 3);
    world.call(Method::POST, &format!("/events/{event}/replay"), Some(json!({"to": "some"}))).await.problem(422);
    world.finish().await;
}

#[tokio::test]
async fn a_range_is_replayed_by_status_and_type_and_what_was_missed_is_found() {
    let mut world = World::new().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.subscribe("/fail", once).await);
    let publish = async |event_type: &str| world.publish(json!({"event_type": event_type, "payload": 1})).await;
    for number in 0..6 {
        publish(if number % 2 == 0 { "a.b" } else { "c.d" }).await;
    }
    world.drain().await;
    world.post(&format!("/subscriptions/{subscription}/disable")).await;
    for _ in 0..3 {
        publish("a.b").await;
    }
    world
        .call(Method::POST, &format!("/subscriptions/{subscription}/replay"), Some(json!({"since": hour_ago()})))
        .await
        .problem(409);
    world.post(&format!("/subscriptions/{subscription}/enable")).await;
    let path = format!("/subscriptions/{subscription}");
    let target = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &path, Some(target)).await.expect(200);
    world.worker = worker(&world.env);

    let cases = [
        (json!({"statuses": ["succeeded"]}), 0),
        (json!({"statuses": ["dead_letter"], "event_types": ["c.*"]}), 3),
        (json!({"statuses": ["dead_letter"], "event_types": ["c.*"]}), 0),
        (json!({"until": (Utc::now() - TimeDelta::minutes(30)).to_rfc3339()}), 0),
        (json!({}), 6),
        (json!({}), 0),
        (json!({"statuses": ["canceled", "missed"]}), 0),
        (json!({"statuses": ["succeeded"]}), 9),
    ];
    for (more, expected) in cases {
        let begun = replay(&world, &subscription, more.clone()).await;
        let done = finished(&world, &begun).await;
        assert_eq!((&done["state"], &done["done_count"]), (&json!("completed"), &json!(expected)), "{more}: {done}");
        assert_eq!(done["progress"], 1.0);
        let made = world.get(&format!("/deliveries?job_id={}", id(&begun))).await;
        let made = made["data"].as_array().unwrap();
        assert_eq!(made.len(), expected);
        assert!(made.iter().all(|one| one["status"] == "succeeded" && one["job_id"] == begun["id"]), "{made:?}");
    }
    for (body, field) in [
        (json!({}), "since"),
        (json!({"since": "2999-01-01T00:00:00Z"}), "since"),
        (json!({"since": hour_ago(), "statuses": ["lost"]}), "statuses[0]"),
        (json!({"since": hour_ago(), "rate_per_second": 0}), "rate_per_second"),
        (json!({"since": hour_ago(), "event_types": ["a b"]}), "event_types[0]"),
    ] {
        let problem = world.call(Method::POST, &format!("{path}/replay"), Some(body)).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    world.finish().await;
}

#[tokio::test]
async fn what_dies_again_is_replayed_again_and_once() {
    let mut world = World::new().await;
    world.publish(json!({"event_type": "a.b", "payload": 1})).await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.subscribe("/fail", once).await);
    world.publish(json!({"event_type": "a.b", "payload": 2})).await;
    world.drain().await;
    for round in 0..3 {
        // Of the two events, the first was missed and the second is a dead letter. In each round both become dead
        // letters.
        let begun = replay(&world, &subscription, json!({})).await;
        assert_eq!(finished(&world, &begun).await["done_count"], 2, "round {round}");
    }
    assert_eq!(world.receiver.count(), 7);
    let target = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(target)).await.expect(200);
    world.worker = worker(&world.env);
    for expected in [2, 0] {
        let begun = replay(&world, &subscription, json!({})).await;
        assert_eq!(finished(&world, &begun).await["done_count"], expected);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_replay_goes_on_after_a_crash_and_keeps_to_its_rate() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    for number in 0..30 {
        world.ingest(&subscription, number.to_string()).await;
    }
    world.drain().await;
    let begun = replay(&world, &subscription, json!({"statuses": ["succeeded"], "rate_per_second": 10})).await;
    let count = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM deliveries WHERE is_replay").fetch_one(&world.pool).await.unwrap()
    };
    // A worker dies in the middle of a step: its connection is gone before the commit.
    let mut dying = world.pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM jobs FOR UPDATE").fetch_one(&mut *dying).await.unwrap();
    assert_eq!(step(&world).await, None, "it has it in its hands");
    dying.rollback().await.unwrap();
    assert_eq!(step(&world).await, Some(5), "half a second's");
    assert_eq!(step(&world).await, None, "not yet");
    assert_eq!(count().await, 5);
    let halfway = world.get(&format!("/jobs/{}", id(&begun))).await;
    assert_eq!((&halfway["state"], &halfway["done_count"]), (&json!("running"), &json!(5)));
    let done = finished(&world, &begun).await;
    assert_eq!((&done["state"], &done["done_count"]), (&json!("completed"), &json!(30)));
    assert_eq!(count().await, 30);
    assert_eq!(world.receiver.count(), 60);
    let doubled: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT replay_of FROM deliveries WHERE is_replay GROUP BY 1 HAVING count(*) > 1) x",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    assert_eq!(doubled, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_canceled_replay_makes_nothing_more_and_calls_off_what_waits() {
    let mut world = World::new().await;
    let subscription = world.subscription("/success").await;
    for number in 0..30 {
        world.ingest(&subscription, number.to_string()).await;
    }
    world.drain().await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    let begun = replay(&world, &subscription, json!({"statuses": ["succeeded"], "rate_per_second": 10})).await;
    assert_eq!(step(&world).await, Some(5));
    let path = format!("/jobs/{}", id(&begun));
    let canceled = world.post(&format!("{path}/cancel")).await;
    assert_eq!(canceled["state"], "canceled");
    assert_eq!(world.post(&format!("{path}/cancel")).await, canceled, "once is enough");
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(step(&world).await, None);
    let made = world.get(&format!("/deliveries?job_id={}&status=canceled", id(&begun))).await;
    assert_eq!(made["data"].as_array().unwrap().len(), 5);
    world.post(&format!("/subscriptions/{subscription}/resume")).await;
    assert_eq!(world.drain().await, 0);
    // A replay whose subscription is deleted meanwhile ends as well.
    let begun = replay(&world, &subscription, json!({"statuses": ["succeeded"]})).await;
    world.call(Method::DELETE, &format!("/subscriptions/{subscription}"), None).await.expect(204);
    world.worker = worker(&world.env);
    assert_eq!(finished(&world, &begun).await["state"], "canceled");
    world.finish().await;
}

#[tokio::test]
async fn what_a_request_could_not_cancel_of_a_replay_is_canceled_by_the_workers() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    for number in 0..6 {
        world.ingest(&subscription, number.to_string()).await;
    }
    world.drain().await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    let begun = replay(&world, &subscription, json!({"statuses": ["succeeded"], "rate_per_second": 100})).await;
    assert_eq!(step(&world).await, Some(6));
    // As if the api had died right after it had canceled the replay itself.
    let cancel = "UPDATE jobs SET state = 'canceled', finished_at = now(), next_step_at = now(),
                         to_cancel = 'ffffffff-ffff-ffff-ffff-ffffffffffff'";
    sqlx::query(cancel).execute(&world.pool).await.unwrap();
    assert_eq!(step(&world).await, Some(0));
    assert_eq!(step(&world).await, None);
    let canceled = world.get(&format!("/deliveries?job_id={}&status=canceled", id(&begun))).await;
    assert_eq!(canceled["data"].as_array().unwrap().len(), 6);
    world.finish().await;
}

#[tokio::test]
async fn running_workers_finish_a_replay_although_one_of_them_is_killed() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    for number in 0..200 {
        world.ingest(&subscription, number.to_string()).await;
    }
    world.drain().await;
    let begun = replay(&world, &subscription, json!({"statuses": ["succeeded"], "rate_per_second": 100})).await;
    let (_, killed) = world.run_worker();
    world.receiver.wait_for(230, SOON).await.expect("it is under way");
    killed.abort();
    let (stop, running) = world.run_worker();
    let done = async {
        loop {
            let now = world.get(&format!("/jobs/{}", id(&begun))).await;
            if now["state"] == "completed" {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let done = tokio::time::timeout(SOON, done).await.expect("it comes to its end");
    assert_eq!(done["done_count"], 200);
    let distinct: i64 = sqlx::query_scalar("SELECT count(DISTINCT replay_of) FROM deliveries WHERE job_id = $1")
        .bind(uuid(&id(&begun)))
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(distinct, 200);
    // The deliveries that the killed worker had claimed come back when their leases expire.
    world.pass(Duration::from_secs(60)).await;
    world.queue_is_empty().await;
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}
