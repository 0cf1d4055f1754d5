//! Ingest, claims and wake-ups in every order that could lose a delivery. The tests hold transactions open by hand.

use std::time::Duration;

use postrider_core::{
    id::{DeliveryId, EventId},
    queue::wake,
};

use crate::world::{World, uuid};

#[tokio::test]
async fn a_lane_is_found_however_an_ingest_and_a_claim_interleave() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "first").await;

    // This ingest sees that the lane is due, so it does not arm the lane, and it commits late.
    let mut slow = world.pool.begin().await.unwrap();
    let armed = store(&mut slow, &subscription).await;
    assert!(!armed, "the lane was due already");
    assert_eq!(world.drain().await, 1, "the claim sees the first only, and drains the lane");
    slow.commit().await.unwrap();
    // Its api dies before it can look at the lane once more, so the lane must become due by itself.
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(world.drain().await, 1, "the second look");

    // The same again, but this time the api lives, and its look after the commit is enough.
    world.ingest(&subscription, "third").await;
    let mut slow = world.pool.begin().await.unwrap();
    let delivery = DeliveryId::new();
    assert!(!store_as(&mut slow, &subscription, delivery).await);
    assert_eq!(world.drain().await, 1);
    slow.commit().await.unwrap();
    assert_eq!(world.drain().await, 0, "nobody knows of it yet");
    assert!(wake(&world.pool, false, Duration::ZERO, &[delivery.0]).await.unwrap().notified);
    assert_eq!(world.drain().await, 1);

    // A lane that stays empty goes idle at the second look, and not before.
    let idle = async || {
        let due: Option<bool> = sqlx::query_scalar("SELECT due_at = 'infinity' FROM lanes WHERE id = $1")
            .bind(uuid(&subscription))
            .fetch_one(&world.pool)
            .await
            .unwrap();
        due.unwrap()
    };
    assert!(!idle().await);
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(world.drain().await, 0);
    assert!(idle().await);
    world.finish().await;
}

async fn store(connection: &mut sqlx::PgConnection, subscription: &str) -> bool {
    store_as(connection, subscription, DeliveryId::new()).await
}

/// Does what ingest does, inside a transaction of the test; answers whether it armed the lane.
async fn store_as(connection: &mut sqlx::PgConnection, subscription: &str, delivery: DeliveryId) -> bool {
    crate::world::store(connection, subscription, EventId::new().0, delivery.0).await
}

#[tokio::test]
async fn a_wake_up_that_meets_a_claim_passing_by_comes_again() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "first").await;
    let mut claim = world.pool.begin().await.unwrap();
    let claimed = sqlx::query("SELECT * FROM claim(64, 100, '{}', '-infinity', NULL) WHERE delivery_id IS NOT NULL")
        .fetch_all(&mut *claim)
        .await
        .unwrap();
    assert_eq!(claimed.len(), 1);

    // That claim has read the queue and not committed. Meanwhile another event comes, and sees that the lane is armed.
    let delivery = DeliveryId::new();
    assert!(!store_as(&mut world.pool.acquire().await.unwrap(), &subscription, delivery).await);
    let woken = wake(&world.pool, false, Duration::ZERO, &[delivery.0]).await.unwrap();
    assert!(!woken.notified, "it waits for nobody");
    assert_eq!(woken.locked, [delivery.0], "and says so");
    claim.commit().await.unwrap();
    let woken = wake(&world.pool, false, Duration::ZERO, &woken.locked).await.unwrap();
    assert!(woken.notified && woken.locked.is_empty(), "the lane was drained meanwhile, and is armed again");
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(36)).await;
    assert_eq!(world.drain().await, 1, "the first, whose lease was never used");
    world.finish().await;
}

#[tokio::test]
async fn a_lane_on_its_way_to_idle_is_armed_although_it_is_due() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "first").await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(9)).await;
    // The lane is due for its second look, which would find nothing and make it idle.
    let mut slow = world.pool.begin().await.unwrap();
    assert!(store(&mut slow, &subscription).await);
    assert_eq!(world.drain().await, 0, "the claim leaves the locked lane alone");
    slow.commit().await.unwrap();
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn an_ingest_that_straddles_a_visit_is_not_left_behind_the_floor() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "first").await;
    let mut slow = world.pool.begin().await.unwrap();
    assert!(!store(&mut slow, &subscription).await);
    assert_eq!(world.drain().await, 1);
    slow.commit().await.unwrap();
    world.pass(Duration::from_secs(3)).await;
    world.ingest(&subscription, "third").await;
    assert_eq!(world.drain().await, 2, "not the newer one only");
    world.finish().await;
}

#[tokio::test]
async fn a_row_without_its_partition_does_not_stop_everybody() {
    let world = World::new().await;
    let (lost, healthy) = (world.subscription("/success").await, world.subscription("/success").await);
    // Retention has dropped the partition of this delivery's day while the delivery was leased.
    let old = uuid::Uuid::from_u128((1_600_000_000_000 << 80) | (0x7000 << 64) | (1 << 63));
    sqlx::query(
        "INSERT INTO queue (delivery_id, event_id, lane_id, due_at, lease_token, attempt_count)
         VALUES ($1, $1, $2, now(), 7, 1)",
    )
    .bind(old)
    .bind(uuid(&lost))
    .execute(&world.pool)
    .await
    .unwrap();
    sqlx::query("UPDATE lanes SET due_at = now() WHERE id = $1").bind(uuid(&lost)).execute(&world.pool).await.unwrap();
    let delivery = world.ingest(&healthy, "x").await;
    let claimed = sqlx::query("SELECT * FROM claim(64, 100, '{}', '-infinity', NULL) WHERE delivery_id IS NOT NULL")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert_eq!(claimed.len(), 2);
    world.pass(Duration::from_secs(36)).await;
    sqlx::query("DELETE FROM queue WHERE delivery_id = $1").bind(old).execute(&world.pool).await.unwrap();
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&delivery).await["status"], "succeeded");
    world.finish().await;
}

#[tokio::test]
async fn a_delivery_for_later_does_not_hide_that_a_lane_was_drained() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "first").await;
    // An ingest leaves the armed lane alone, and commits after the claim has passed by.
    let mut slow = world.pool.begin().await.unwrap();
    assert!(!store(&mut slow, &subscription).await);
    assert_eq!(world.drain().await, 1);
    slow.commit().await.unwrap();
    // Something for tomorrow comes before the second look.
    let later = (chrono::Utc::now() + chrono::TimeDelta::days(1)).to_rfc3339();
    world.publish(serde_json::json!({"event_type": "a.b", "payload": 1, "deliver_at": later})).await;
    let drained: bool =
        sqlx::query_scalar("SELECT drained_at IS NOT NULL FROM lanes").fetch_one(&world.pool).await.unwrap();
    assert!(drained, "the second look is still to come");
    world.pass(Duration::from_secs(9)).await;
    assert_eq!(world.drain().await, 1, "and finds what was left alone");
    world.finish().await;
}
