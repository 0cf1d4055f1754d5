//! Why lanes are late: the list of those whose deliveries are due and wait, and what `worker doctor` tells of it.

use std::time::Duration;

use postrider_core::{
    id::SubscriptionId,
    subscription::hold::Hold,
    subscription::late_lanes::{self, COUNTED_MAX, LISTED_MAX, LateLane},
};
use reqwest::Method;
use serde_json::json;

use crate::{
    crashes::{binaries, run_with},
    flow_settings::{open_circuit, set},
    queue::claim,
    world::{World, id, uuid},
};

async fn late(world: &World) -> Vec<LateLane> {
    let late = late_lanes::list(&world.pool).await.unwrap();
    assert!(!late.is_more);
    late.lanes
}

/// What is late of a subscription; asserts that all that holds it, but a pause, ends at a time to come.
fn of(lanes: &[LateLane], subscription: &str) -> Option<(i64, i64, Vec<Hold>)> {
    let lane = lanes.iter().find(|lane| lane.subscription == Some(SubscriptionId(uuid(subscription))))?;
    for (hold, until) in &lane.holds {
        assert_eq!(until.is_some_and(|until| until > lane.since), *hold != Hold::Paused, "{lane}");
    }
    Some((lane.due, lane.in_flight, lane.holds.iter().map(|(hold, _)| *hold).collect()))
}

#[tokio::test]
async fn each_late_lane_tells_why_it_waits() {
    // Building them may take longer than a lease lasts.
    binaries();
    let world = World::new().await;
    let at_once = id(&world.subscribe("/success", json!({"max_in_flight": 1})).await);
    for number in ["1", "2", "3"] {
        world.ingest(&at_once, number).await;
    }
    assert_eq!(claim(&world, 100).await.len(), 1);

    let rate = json!({"rate_limit_per_second": 0.01, "rate_limit_burst": 1});
    let limited = id(&world.subscribe("/success", rate).await);
    let rests = world.subscription("/fail/503?retry-after=3600").await;
    for number in ["1", "2"] {
        world.ingest(&limited, number).await;
    }
    world.ingest(&rests, "1").await;
    assert_eq!(world.drain().await, 2);
    assert_eq!(of(&late(&world).await, &rests), None, "its delivery is not due");
    world.ingest(&rests, "2").await;

    let paused = world.subscription("/success").await;
    world.post(&format!("/subscriptions/{paused}/pause")).await;
    world.ingest(&paused, "1").await;
    let open = world.subscription("/success").await;
    open_circuit(&world, &open).await;
    world.ingest(&open, "1").await;

    let lanes = late(&world).await;
    assert_eq!(of(&lanes, &at_once), Some((2, 1, vec![Hold::MaxInFlight])));
    assert_eq!(of(&lanes, &limited), Some((1, 0, vec![Hold::RateLimit])));
    assert_eq!(of(&lanes, &rests), Some((1, 0, vec![Hold::RetryAfter])));
    assert_eq!(of(&lanes, &paused), Some((1, 0, vec![Hold::Paused])));
    assert_eq!(of(&lanes, &open), Some((1, 0, vec![Hold::Circuit])));
    assert!(lanes.is_sorted_by_key(|lane| lane.since), "from the longest wait on");

    // Waiting is no violation, so the exit code says that all is well.
    let variables: Vec<_> = world.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = run_with("worker doctor", &variables).await;
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{told}");
    for lane in &lanes {
        assert!(told.contains(&format!("waiting: {lane}\n")), "{lane} in {told}");
    }
    assert_eq!(told.lines().count(), lanes.len() + 1, "{told}");
    world.finish().await;
}

#[tokio::test]
async fn a_lane_that_nothing_holds_is_late_after_a_moment() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "x").await;
    let inline = json!({"target_url": world.receiver.url("/success"), "payload": {"a": 1}});
    world.call(Method::POST, "/deliveries", Some(inline)).await.expect(202);
    let lanes = late(&world).await;
    assert!(lanes.is_empty(), "a worker may be about to claim them: {lanes:?}");

    world.pass(Duration::from_secs(6)).await;
    let lanes = late(&world).await;
    assert_eq!(of(&lanes, &subscription), Some((1, 0, Vec::new())));
    let of_inline: Vec<_> = lanes.iter().filter(|lane| lane.subscription.is_none()).collect();
    assert_eq!(of_inline.len(), 1);
    assert_eq!((of_inline[0].due, of_inline[0].holds.len()), (1, 0));

    // What is half open waits for the answer to a probe, and a time that has passed holds nothing.
    set(&world, &subscription, "circuit_state = 'half_open', rests_until = now() - interval '1 second'").await;
    let lanes = late_lanes::list(&world.pool).await.unwrap().lanes;
    let lane = lanes.iter().find(|lane| lane.subscription.is_some()).unwrap();
    assert_eq!(lane.holds, [(Hold::Circuit, None)]);

    assert_eq!(world.drain().await, 2);
    assert!(late(&world).await.is_empty());
    world.finish().await;
}

#[tokio::test]
async fn the_list_of_late_lanes_is_bounded() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.multiply(i32::try_from(LISTED_MAX).unwrap() + 20).await;
    let longest: i64 = COUNTED_MAX + 500;
    sqlx::query(
        "INSERT INTO queue (delivery_id, lane_id, event_id, due_at)
         SELECT gen_random_uuid(), l.id, gen_random_uuid(), now() - interval '1 minute' FROM lanes l WHERE l.id <> $1
         UNION ALL
         SELECT gen_random_uuid(), $1, gen_random_uuid(), now() - interval '1 hour' FROM generate_series(1, $2)",
    )
    .bind(uuid(&subscription))
    .bind(longest)
    .execute(&world.pool)
    .await
    .unwrap();
    let late = late_lanes::list(&world.pool).await.unwrap();
    assert!(late.is_more);
    assert_eq!(late.lanes.len(), LISTED_MAX);
    assert_eq!(late.lanes[0].lane, uuid(&subscription), "the one that has waited longest comes first");
    assert_eq!(late.lanes[0].due, COUNTED_MAX);
    world.api_stops().await;
}
