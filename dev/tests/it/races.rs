//! Ingest, claims and wake-ups in every order that could lose a delivery. The tests hold transactions open by hand.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use postrider_core::{
    id::{DeliveryId, EventId},
    queue::{LATE, LATE_WAKE_UP, accept::LeftAlone, wake, waker::Waker},
};
use sqlx::postgres::PgListener;

use crate::world::{SOON, World, uuid};

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

/// Locks the lane of a subscription until the transaction ends.
async fn hold(world: &World, subscription: &str) -> sqlx::PgTransaction<'static> {
    let mut holder = world.pool.begin().await.unwrap();
    let lock = sqlx::query("SELECT FROM lanes WHERE id = $1 FOR UPDATE").bind(uuid(subscription));
    lock.execute(&mut *holder).await.unwrap();
    holder
}

#[tokio::test]
async fn a_wake_up_waits_for_no_locked_lane() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let holder = hold(&world, &subscription).await;
    let delivery = DeliveryId::new();
    assert!(!store_as(&mut world.pool.acquire().await.unwrap(), &subscription, delivery).await);
    let started = Instant::now();
    let woken = wake(&world.pool, true, Duration::ZERO, &[delivery.0]).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!((woken.notified, woken.locked), (true, vec![delivery.0]), "others are told all the same");
    holder.rollback().await.unwrap();
    assert!(wake(&world.pool, false, Duration::ZERO, &[delivery.0]).await.unwrap().notified);
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn the_waker_comes_back_for_a_lane_that_was_locked() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "first").await;
    assert_eq!(world.drain().await, 1);
    // The lane was drained a moment ago, so no note tells the janitor of it: its second look would find the delivery.
    let holder = hold(&world, &subscription).await;
    let delivery = DeliveryId::new();
    assert!(!store_as(&mut world.pool.acquire().await.unwrap(), &subscription, delivery).await);
    let waker = Arc::new(Waker::default());
    waker.note_stored(&[], Duration::ZERO, LeftAlone::from([(uuid(&subscription), delivery.0)]));
    let running = tokio::spawn(Arc::clone(&waker).run(world.pool.clone()));
    let met = async {
        let asked = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
                                       AND query LIKE '%FROM wake(%' AND pid <> pg_backend_pid())";
        while !sqlx::query_scalar::<_, bool>(asked).fetch_one(&world.pool).await.unwrap() {}
    };
    tokio::time::timeout(SOON, met).await.expect("it meets the locked lane");
    holder.rollback().await.unwrap();
    let found = async { while world.drain().await == 0 {} };
    tokio::time::timeout(Duration::from_secs(5), found).await.expect("before the second look, which is after 8 s");
    waker.close();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_lane_is_due_from_when_it_was_armed_and_not_from_when_the_statement_began() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    // As a wide fan-out on a slow disk. A worker that has looked meanwhile begins a second before its last look.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN PERFORM pg_sleep(2.5); RETURN NULL; END $$;
                CREATE TRIGGER slow BEFORE INSERT ON queue FOR EACH STATEMENT EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&world.pool).await.unwrap();
    assert!(store(&mut world.pool.acquire().await.unwrap(), &subscription).await);
    let age: f64 = sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp() - due_at)::float8 FROM lanes")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert!(age < 2.0, "{age} s");
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_wake_up_says_whether_it_is_late() {
    let world = World::new().await;
    let mut listener = PgListener::connect_with(&world.pool).await.unwrap();
    listener.listen("postrider_wake").await.unwrap();
    for (took, payload) in [(Duration::ZERO, ""), (LATE + Duration::from_millis(1), LATE_WAKE_UP)] {
        assert!(wake(&world.pool, true, took, &[]).await.unwrap().notified);
        assert_eq!(listener.recv().await.unwrap().payload(), payload, "{took:?}");
    }
    drop(listener);
    world.finish().await;
}
