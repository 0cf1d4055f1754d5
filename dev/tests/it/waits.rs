//! How long deliveries wait through a fault of ours, and how many of them are in which state: what alerts rely on.

use std::time::Duration;

use chrono::Utc;
use postrider_core::{
    queue::{self, ClaimRequest, Claimed},
    upkeep::queue_size,
};
use reqwest::Method;
use serde_json::json;

use crate::world::{World, id, uuid};

const LONG: Duration = Duration::from_secs(100);

async fn claim(world: &World) -> Vec<Claimed> {
    let request = ClaimRequest { lanes_max: 64, rows_max: 64, skip: Vec::new(), lanes_from: None, only: None };
    queue::claim(&world.pool, &request).await.unwrap().0
}

#[tokio::test]
async fn a_delivery_is_late_from_when_it_is_due_and_nothing_holds_it() {
    let world = World::new().await;
    let plain = world.subscription("/success").await;
    let paused = world.subscription("/success").await;
    let slow = id(&world.subscribe("/success", json!({"rate_limit_per_second": 1})).await);
    for subscription in [&plain, &paused, &slow] {
        world.ingest(subscription, "x").await;
    }
    world.call(Method::POST, &format!("/subscriptions/{paused}/pause"), None).await.expect(200);
    world.pass(LONG).await;
    world.call(Method::POST, &format!("/subscriptions/{paused}/resume"), None).await.expect(200);
    let claimed = claim(&world).await;
    let late = |subscription: &str| {
        let of_lane = claimed.iter().find(|claimed| claimed.lane_id == uuid(subscription));
        of_lane.unwrap_or_else(|| panic!("{subscription} was not claimed")).late
    };
    assert!(late(&plain).is_some_and(|late| late >= LONG && late < 2 * LONG), "{:?}", late(&plain));
    assert!(late(&paused).is_some_and(|late| late < LONG), "{:?}", late(&paused));
    assert_eq!(late(&slow), None, "with a limit, deliveries wait on purpose");
    world.pass(LONG).await;
    world.drain().await;
    world.finish().await;
}

#[tokio::test]
async fn deliveries_that_are_not_finished_are_counted_by_state() {
    let world = World::new().await;
    let leased = world.subscription("/success").await;
    world.ingest(&leased, "x").await;
    assert_eq!(claim(&world).await.len(), 1);
    let (due, held) = (world.subscription("/success").await, world.subscription("/success").await);
    for (subscription, count) in [(&due, 2), (&held, 3)] {
        for _ in 0..count {
            world.ingest(subscription, "x").await;
        }
    }
    world.call(Method::POST, &format!("/subscriptions/{held}/pause"), None).await.expect(200);
    world.subscribe("/success", json!({"event_types": ["later"]})).await;
    world.publish(json!({"event_type": "later", "payload": {}, "deliver_at": Utc::now() + LONG})).await;
    sqlx::query("UPDATE lanes SET failing_since = now(), failing_attempts = 1 WHERE id = $1")
        .bind(uuid(&due))
        .execute(&world.pool)
        .await
        .unwrap();

    queue_size::measure(&world.pool).await.unwrap();
    let counted: (i64, i64, i64, i64, serde_json::Value) =
        sqlx::query_as("SELECT due, held, scheduled, in_flight, subscriptions FROM queue_size")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!((counted.0, counted.1), (2, 3));
    // A subscription without patterns wants every event, so each of the others has the later one, too.
    assert_eq!((counted.2, counted.3), (4, 1));
    let subscriptions = json!({"active": {"ok": 2, "failing": 1}, "paused": {"ok": 1, "failing": 0}});
    assert_eq!(counted.4, subscriptions);
    world.finish().await;
}
