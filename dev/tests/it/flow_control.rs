//! Flow control: circuits, rate limits, attempts at once, and the order of deliveries.

use std::{collections::HashMap, time::Duration};

use postrider_core::upkeep::maintenance;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    flow_races::claim_now,
    world::{SOON, World, answer, id, uuid, worker},
};

/// Retries at once, so often that no test runs out of them.
fn impatient() -> Value {
    json!({"delays_seconds": vec![0; 50]})
}

fn circuit(failures_in_a_row: u32) -> Value {
    json!({
        "failures_in_a_row": failures_in_a_row, "failure_percent": 80, "samples_min": 20, "window_seconds": 60,
        "cooldown_seconds": 30, "cooldown_max_seconds": 100, "probes": 1, "successes_to_close": 2,
    })
}

#[tokio::test]
async fn a_circuit_opens_probes_and_closes() {
    let world = World::new().await;
    let settings = json!({"circuit": circuit(3), "retry_policy": {"delays_seconds": [1, 1, 1, 1, 1, 1]}});
    let subscription = id(&world.subscribe("/switch", settings).await);
    world.receiver.switch_to(500);
    let mut deliveries = Vec::new();
    for number in 0..5 {
        deliveries.push(world.ingest(&subscription, number.to_string()).await);
    }
    assert_eq!(world.drain().await, 5, "all were claimed before the first one failed");
    assert_eq!(state(&world, &subscription).await, (Some("open".to_owned()), Some(30)));

    world.pass(Duration::from_secs(2)).await;
    assert_eq!(world.drain().await, 0, "an open circuit defers them");
    for delivery in &deliveries {
        assert_eq!(world.delivery(delivery).await["attempt_count"], 1, "and burns no attempt");
    }
    world.pass(Duration::from_secs(29)).await;
    assert_eq!(world.drain().await, 1, "one probe, which fails");
    assert_eq!(state(&world, &subscription).await, (Some("open".to_owned()), Some(60)));
    world.pass(Duration::from_secs(61)).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(state(&world, &subscription).await, (Some("open".to_owned()), Some(100)), "the longest cooldown");

    world.receiver.switch_to(200);
    world.pass(Duration::from_secs(99)).await;
    assert_eq!(world.drain().await, 0);
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(world.drain().await, 5, "two probes close it, and the rest follows");
    assert_eq!(state(&world, &subscription).await, (None, None));
    assert_eq!(world.receiver.count(), 12);
    world.finish().await;
}

#[tokio::test]
async fn while_it_is_half_open_no_more_than_the_probes_are_in_flight() {
    let world = World::new().await;
    let settings = json!({"circuit": circuit(1), "retry_policy": {"delays_seconds": [1, 1, 1, 1, 1, 1]}});
    let subscription = id(&world.subscribe("/fail", settings).await);
    world.ingest(&subscription, "first").await;
    assert_eq!(world.drain().await, 1);
    for number in 0..5 {
        world.ingest(&subscription, number.to_string()).await;
    }
    world.pass(Duration::from_secs(31)).await;
    // This worker dies with its probe.
    assert_eq!(claimed(&world).await, 1);
    assert_eq!(claimed(&world).await, 0, "the probe is out");
    assert_eq!(world.drain().await, 0);
    world.pass(Duration::from_secs(36)).await;
    assert_eq!(world.drain().await, 1, "its lease has expired, so another probe goes");
    world.finish().await;
}

#[tokio::test]
async fn a_retry_by_hand_and_a_new_target_go_through_an_open_circuit() {
    let mut world = World::new().await;
    let settings = json!({"circuit": circuit(1), "retry_policy": {"delays_seconds": [3600, 3600]}});
    let subscription = id(&world.subscribe("/fail", settings).await);
    let delivery = world.ingest(&subscription, "x").await;
    assert_eq!(world.drain().await, 1);
    world.post(&format!("/deliveries/{delivery}/retry")).await;
    assert_eq!(world.drain().await, 1, "as a probe");
    assert_eq!(state(&world, &subscription).await, (Some("open".to_owned()), Some(60)));

    let patch = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200);
    assert_eq!(state(&world, &subscription).await, (None, None), "another receiver, another circuit");
    world.worker = worker(&world.env);
    world.pass(Duration::from_secs(4000)).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&delivery).await["status"], "succeeded");
    world.finish().await;
}

/// The state of a lane's circuit, and how long it stays open.
async fn state(world: &World, subscription: &str) -> (Option<String>, Option<i32>) {
    sqlx::query_as("SELECT circuit_state, cooldown_seconds FROM lanes WHERE id = $1")
        .bind(uuid(subscription))
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

/// Claims as a worker does that dies afterwards; answers how many deliveries it got.
async fn claimed(world: &World) -> usize {
    claim_now(world).await.len()
}

#[tokio::test]
async fn what_an_attempt_does_to_a_circuit() {
    let world = World::new().await;
    let settings = json!({"circuit": {
        "failures_in_a_row": 4, "failure_percent": 50, "samples_min": 6, "window_seconds": 60,
        "cooldown_seconds": 10, "cooldown_max_seconds": 25, "probes": 2, "successes_to_close": 2,
    }});
    let subscription = id(&world.subscribe("/success", settings).await);
    let after = async |before: &str, attempts: &str| -> (Option<String>, Option<i32>, Option<i32>) {
        // F fails, S succeeds; in lower case it is a probe. A digit lets ten seconds pass that often.
        let (mut failed, mut ended, mut probes, mut seconds) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
        for attempt in attempts.chars() {
            if let Some(tens) = attempt.to_digit(10) {
                seconds += 10.0 * f64::from(tens);
                continue;
            }
            failed.push(attempt.eq_ignore_ascii_case(&'f'));
            probes.push(attempt.is_lowercase());
            ended.push(seconds);
        }
        let mut transaction = world.pool.begin().await.unwrap();
        let set = format!("UPDATE lanes SET {before} WHERE id = $1");
        sqlx::query(sqlx::AssertSqlSafe(set)).bind(uuid(&subscription)).execute(&mut *transaction).await.unwrap();
        sqlx::query_as(
            "SELECT (r).circuit_state, (r).cooldown_seconds, (r).failures_in_a_row
               FROM (SELECT lane_after_attempts(l, $2, ARRAY(SELECT now() - interval '9 minutes'
                                                                    + make_interval(secs => s) FROM unnest($3) s),
                                                $4, now()) AS r
                       FROM lanes l WHERE id = $1) x",
        )
        .bind(uuid(&subscription))
        .bind(failed)
        .bind(ended)
        .bind(probes)
        .fetch_one(&mut *transaction)
        .await
        .unwrap()
    };
    let (open, half_open) = (Some("open".to_owned()), Some("half_open".to_owned()));
    let closed = "circuit_state = NULL";
    let half = "circuit_state = 'half_open', cooldown_seconds = 10, probe_successes = 0";
    for (before, attempts, expected) in [
        (closed, "SSS", (None, None, None)),
        (closed, "FFF", (None, None, Some(3))),
        (closed, "FFFF", (open.clone(), Some(10), Some(4))),
        // A success between is one between, whatever else is in the batch.
        (closed, "FFFSF", (None, None, Some(1))),
        // Five of six failed.
        (closed, "FFFSFF", (open.clone(), Some(10), Some(2))),
        // Three of six.
        (closed, "FSFSSF", (open.clone(), Some(10), Some(1))),
        // Two of six, and three of seven.
        (closed, "FSSSSFF", (None, None, Some(2))),
        // A window is over after a minute.
        (closed, "FFFS6FSF", (None, None, Some(1))),
        // What was begun before it opened moves it no more.
        ("circuit_state = 'open', cooldown_seconds = 20", "SSFF", (open.clone(), Some(20), None)),
        (half, "s", (half_open.clone(), Some(10), None)),
        (half, "ss", (None, None, None)),
        (half, "SSF", (half_open.clone(), Some(10), None)),
        (half, "sf", (open.clone(), Some(20), None)),
        (half, "fs", (open.clone(), Some(20), None)),
        (
            "circuit_state = 'half_open', cooldown_seconds = 20, probe_successes = 0",
            "f",
            (open.clone(), Some(25), None),
        ),
    ] {
        assert_eq!(after(before, attempts).await, expected, "{before}: {attempts}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_receiver_sees_no_more_than_its_rate() {
    const RATE: f64 = 50.0;
    const BURST: u32 = 5;
    const EVENTS: usize = 60;
    let world = World::new().await;
    let settings = json!({"rate_limit_per_second": RATE, "rate_limit_burst": BURST});
    let subscription = id(&world.subscribe("/success", settings).await);
    for number in 0..EVENTS {
        world.ingest(&subscription, number.to_string()).await;
    }
    let workers = [world.run_worker(), world.run_worker()];
    world.receiver.wait_for(EVENTS as u64, SOON).await.unwrap();
    world.queue_is_empty().await;
    for (stop, running) in workers {
        stop.cancel();
        running.await.unwrap();
    }
    let times: Vec<_> = world.receiver.received().iter().map(|received| received.at).collect();
    for (first, begins) in times.iter().enumerate() {
        for (seen, ends) in (1_u32..).zip(&times[first..]) {
            // A worker that is late while the other one is not makes requests bunch for that long.
            let window = (*ends - *begins + Duration::from_millis(400)).as_secs_f64();
            let allowed = RATE * window + f64::from(BURST);
            assert!(f64::from(seen) <= allowed, "{seen} requests within {window} s, {allowed} at most");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn a_new_rate_counts_at_the_next_claim() {
    let world = World::new().await;
    let settings = json!({"rate_limit_per_second": 0.01, "rate_limit_burst": 1});
    let subscription = id(&world.subscribe("/success", settings).await);
    for number in 0..3 {
        world.ingest(&subscription, number.to_string()).await;
    }
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(50)).await;
    assert_eq!(world.drain().await, 0);
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.drain().await, 1);
    let patch = json!({"rate_limit_per_second": null, "rate_limit_burst": null});
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200);
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn never_more_than_max_in_flight() {
    const EVENTS: u64 = 40;
    let world = World::new().await;
    let subscription = id(&world.subscribe("/slow/30", json!({"max_in_flight": 3})).await);
    for number in 0..EVENTS {
        world.ingest(&subscription, number.to_string()).await;
    }
    let workers = [world.run_worker(), world.run_worker()];
    world.receiver.wait_for(EVENTS, SOON).await.unwrap();
    world.queue_is_empty().await;
    for (stop, running) in workers {
        stop.cancel();
        running.await.unwrap();
    }
    assert_eq!(world.receiver.at_once_max(), 3);

    // The places of a worker that died are free when its leases have expired.
    for number in 0..5 {
        world.ingest(&subscription, number.to_string()).await;
    }
    assert_eq!(claimed(&world).await, 3);
    assert_eq!(claimed(&world).await, 0);
    world.pass(Duration::from_secs(34)).await;
    assert_eq!(world.drain().await, 0);
    world.pass(Duration::from_secs(2)).await;
    assert_eq!(world.drain().await, 5);
    world.finish().await;
}

/// Posts an event to an ordered line; answers the id of its delivery.
async fn post(world: &World, subscription: &str, key: Option<&str>, number: usize) -> String {
    let mut request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}"));
    if let Some(key) = key {
        request = request.header("X-Ordering-Key", key);
    }
    let accepted = answer(request.body(format!("{} {number}", key.unwrap_or_default()))).await.expect(202);
    id(&json!({"id": accepted["delivery_id"]}))
}

/// The numbers that have arrived of each key, in the order of their arrival, repeated ones once.
fn arrived(world: &World) -> HashMap<String, Vec<usize>> {
    let mut arrived: HashMap<String, Vec<usize>> = HashMap::new();
    for received in world.receiver.received() {
        let body = String::from_utf8(received.body.to_vec()).unwrap();
        let (key, number) = body.split_once(' ').unwrap();
        arrived.entry(key.to_owned()).or_default().push(number.parse().unwrap());
    }
    for numbers in arrived.values_mut() {
        numbers.dedup();
    }
    arrived
}

#[tokio::test]
async fn deliveries_of_a_key_go_one_after_the_other() {
    const EACH: usize = 12;
    let world = World::new().await;
    let settings = json!({"ordering": "fifo", "retry_policy": impatient(), "circuit": null});
    let subscription = id(&world.subscribe("/flaky", settings).await);
    for number in 0..EACH {
        for key in [None, Some("a"), Some("b")] {
            post(&world, &subscription, key, number).await;
        }
    }
    let workers = [world.run_worker(), world.run_worker()];
    world.queue_is_empty().await;
    for (stop, running) in workers {
        stop.cancel();
        running.await.unwrap();
    }
    let arrived = arrived(&world);
    let in_order: Vec<usize> = (0..EACH).collect();
    for key in ["", "a", "b"] {
        assert_eq!(arrived[key], in_order, "of {key:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_head_blocks_its_key_until_it_ends_and_no_other_key() {
    let world = World::new().await;
    let settings = json!({"ordering": "fifo", "retry_policy": {"delays_seconds": [60, 60]}, "circuit": null});
    let subscription = id(&world.subscribe("/switch", settings).await);
    world.receiver.switch_to(500);
    let head = post(&world, &subscription, Some("a"), 0).await;
    let second = post(&world, &subscription, Some("a"), 1).await;
    let third = post(&world, &subscription, Some("a"), 2).await;
    assert_eq!(world.drain().await, 1, "only the head");
    world.receiver.switch_to(200);
    post(&world, &subscription, Some("b"), 0).await;
    assert_eq!(world.drain().await, 1, "another key");
    let waiting = world.delivery(&second).await;
    assert_eq!(waiting["status"], "pending");
    assert!(waiting.get("next_attempt_at").is_none(), "it waits for another, not for a time: {waiting}");
    // A retry by hand does not let it overtake.
    world.post(&format!("/deliveries/{second}/retry")).await;
    assert_eq!(world.drain().await, 0);

    world.post(&format!("/deliveries/{head}/cancel")).await;
    assert_eq!(world.drain().await, 2, "the next ones go when the head is gone");
    assert_eq!(arrived(&world)["a"], [0, 1, 2]);
    assert_eq!(world.delivery(&third).await["status"], "succeeded");

    // Replays join the end of the line.
    world.receiver.switch_to(500);
    let fourth = post(&world, &subscription, Some("a"), 3).await;
    assert_eq!(world.drain().await, 1);
    world.call(Method::POST, &format!("/deliveries/{third}/replay"), None).await.expect(202);
    assert_eq!(world.drain().await, 0);
    world.pass(Duration::from_secs(67)).await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(67)).await;
    assert_eq!(world.drain().await, 2, "the last attempt of the fourth, and the first one of the replay");
    assert_eq!(world.delivery(&fourth).await["status"], "dead_letter");
    assert_eq!(arrived(&world)["a"], [0, 1, 2, 3, 2]);
    world.finish().await;
}

#[tokio::test]
async fn a_change_of_ordering_leaves_nothing_behind() {
    let world = World::new().await;
    let settings = json!({"ordering": "fifo", "retry_policy": {"delays_seconds": [3600]}, "circuit": null});
    let subscription = id(&world.subscribe("/fail", settings).await);
    for number in 0..4 {
        post(&world, &subscription, Some("a"), number).await;
    }
    assert_eq!(world.drain().await, 1);
    let change = async |ordering: &str| {
        let patch = json!({"ordering": ordering});
        world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200);
    };
    change("none").await;
    assert_eq!(world.drain().await, 3, "those that were parked");
    post(&world, &subscription, Some("a"), 4).await;
    change("fifo").await;
    post(&world, &subscription, Some("a"), 5).await;
    assert_eq!(world.drain().await, 1, "the one from before waits for none; the new one waits for the failing ones");
    world.pass(Duration::from_secs(4000)).await;
    while world.drain().await > 0 {}
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM queue").fetch_one(&world.pool).await.unwrap();
    assert_eq!(left, 1, "the last one has failed once");

    // Nobody reads the notes of freed keys in a lane that is no longer ordered.
    let note = async || {
        let insert = sqlx::query("INSERT INTO freed_keys (lane_id, ordering_key) VALUES ($1, 'a')");
        insert.bind(uuid(&subscription)).execute(&world.pool).await.unwrap();
        maintenance::repair_lanes(&world.pool).await.unwrap();
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM freed_keys").fetch_one(&world.pool).await.unwrap()
    };
    assert_eq!(note().await, 1);
    change("none").await;
    world.drain().await;
    assert_eq!(note().await, 0);
    world.finish().await;
}
