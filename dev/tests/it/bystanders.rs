//! One bad row harms nobody else: what many share neither waits for nor fails with a locked lane, a poisoned row or a
//! counter that is nearly full.

use std::time::{Duration, Instant};

use postrider_core::{
    id::{DeliveryId, EventId},
    queue::{self, ClaimRequest, Claimed, Counts, Disposition, next_step::RELEASES_MAX},
};
use reqwest::Method;
use uuid::Uuid;

use crate::world::{SOON, World, answer, store, uuid};

/// A statement of ingest would wait 5 s for a lock, so this is far less than that; a busy machine needs far less than
/// this.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Locks the lane of a subscription until the transaction ends.
async fn hold(world: &World, subscription: &str) -> sqlx::PgTransaction<'static> {
    let mut holder = world.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM lanes WHERE id = $1 FOR UPDATE")
        .bind(uuid(subscription))
        .execute(&mut *holder)
        .await
        .unwrap();
    holder
}

fn claim_all() -> ClaimRequest {
    ClaimRequest { lanes_max: 64, rows_max: 100, skip: Vec::new(), lanes_from: None, only: None }
}

/// Claims until something was claimed, because a wake-up may hold a lane for a moment.
async fn claim(world: &World) -> Vec<Claimed> {
    let some = async {
        loop {
            let (claimed, _) = queue::claim(&world.pool, &claim_all()).await.unwrap();
            if !claimed.is_empty() {
                return claimed;
            }
        }
    };
    tokio::time::timeout(SOON, some).await.expect("something is due")
}

async fn post(world: &World, subscription: &str) -> Duration {
    let started = Instant::now();
    let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body("x");
    answer(request).await.expect(202);
    started.elapsed()
}

#[tokio::test]
async fn a_locked_lane_stops_nobodys_ingest_and_nobodys_wake_up() {
    let world = World::new().await;
    let (locked, free) = (world.subscription("/success?locked").await, world.subscription("/success?free").await);
    let (stop, running) = world.run_worker();
    let holder = hold(&world, &locked).await;
    for subscription in [&locked, &free] {
        let took = post(&world, subscription).await;
        assert!(took < AT_ONCE, "{took:?}");
    }
    world.receiver.wait_for(1, AT_ONCE).await.expect("the free one is delivered meanwhile");
    let received = world.receiver.received();
    assert!(received[0].path.ends_with("?free"), "{}", received[0].path);
    holder.rollback().await.unwrap();
    world.receiver.wait_for(2, SOON).await.expect("the other one as soon as its lane is free");
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn what_was_stored_into_a_locked_lane_is_found_although_its_api_died() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let holder = hold(&world, &subscription).await;
    // This event is stored without a call of wake(), as if the api had died after the commit.
    let mut connection = world.pool.acquire().await.unwrap();
    assert!(!store(&mut connection, &subscription, EventId::new().0, DeliveryId::new().0).await);
    assert_eq!(queue::arm_noted_lanes(&world.pool).await.unwrap(), 0, "it is still locked");
    holder.rollback().await.unwrap();
    assert_eq!(world.drain().await, 0, "the lane was idle");
    assert_eq!(queue::arm_noted_lanes(&world.pool).await.unwrap(), 1);
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_locked_lane_keeps_nobodys_outcomes_waiting() {
    let world = World::new().await;
    let (locked, free) = (world.subscription("/fail").await, world.subscription("/fail").await);
    let deliveries = [world.ingest(&locked, "x").await, world.ingest(&free, "x").await];
    let claimed = claim(&world).await;
    let reports: Vec<_> = claimed
        .iter()
        .map(|claimed| {
            let after = Duration::from_secs(60);
            claimed.report(None, Disposition::Retry { after, lane_rests: None, counts: Counts::No })
        })
        .collect();
    let holder = hold(&world, &locked).await;
    let started = Instant::now();
    assert_eq!(queue::record(&world.pool, &reports).await.unwrap().len(), 2);
    assert!(started.elapsed() < AT_ONCE, "{:?}", started.elapsed());
    holder.rollback().await.unwrap();
    queue::arm_noted_lanes(&world.pool).await.unwrap();
    world.pass(Duration::from_secs(61)).await;
    assert_eq!(world.drain().await, 2, "the lane knows of its retry");
    for delivery in deliveries {
        assert_eq!(world.attempts(&delivery).await.len(), 1);
    }
    world.finish().await;
}

#[tokio::test]
async fn deliveries_that_can_never_be_attempted_wait_longer_each_time_and_are_given_up() {
    let world = World::new().await;
    let (lost, healthy) = (world.subscription("/success").await, world.subscription("/success").await);
    let unreadable = world.ingest(&lost, "x").await;
    // As if the key that sealed the secret had been lost.
    let spoil = "UPDATE subscriptions SET secret = 'x' WHERE id = $1";
    sqlx::query(spoil).bind(uuid(&lost)).execute(&world.pool).await.unwrap();
    for (time, releases) in [(0, 1), (61, 2), (121, 3)] {
        world.pass(Duration::from_secs(time)).await;
        assert_eq!(world.drain().await, 1);
        world.pass(Duration::from_secs(59)).await;
        assert_eq!(world.drain().await, 0, "its lane rests for a minute");
        let (attempts, stored): (i32, i32) =
            sqlx::query_as("SELECT attempt_count, releases FROM queue").fetch_one(&world.pool).await.unwrap();
        assert_eq!((attempts, stored), (0, releases));
    }
    let another = world.ingest(&healthy, "x").await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&another).await["status"], "succeeded");

    sqlx::query("UPDATE queue SET releases = $1").bind(RELEASES_MAX).execute(&world.pool).await.unwrap();
    world.pass(Duration::from_secs(600)).await;
    assert_eq!(world.drain().await, 1);
    let given_up: String = sqlx::query_scalar("SELECT status::text FROM deliveries WHERE id = $1")
        .bind(uuid(&unreadable))
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(given_up, "dead_letter");
    world.finish().await;
}

#[tokio::test]
async fn a_lane_whose_claims_fail_is_set_aside_and_the_others_are_delivered() {
    let world = World::new().await;
    let (poisoned, healthy) = (world.subscription("/success").await, world.subscription("/success").await);
    let poison = format!(
        "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poison'; END $$;
         CREATE TRIGGER poison BEFORE UPDATE ON queue FOR EACH ROW WHEN (NEW.lane_id = '{}') EXECUTE FUNCTION poison()",
        uuid(&poisoned)
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(poison)).execute(&world.pool).await.unwrap();
    world.ingest(&poisoned, "x").await;
    let delivery = world.ingest(&healthy, "x").await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&delivery).await["status"], "succeeded");
    let due: Vec<Uuid> = queue::due_lanes(&world.pool, &claim_all()).await.unwrap();
    assert!(!due.contains(&uuid(&poisoned)), "it does not fail every claim until it is mended");
    // Once the trigger is gone, the delivery of the poisoned lane is made without anybody's help.
    sqlx::query("DROP TRIGGER poison ON queue").execute(&world.pool).await.unwrap();
    world.pass(Duration::from_secs(61)).await;
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn attempts_are_counted_however_many_there_are() {
    let world = World::new().await;
    let (tried, other) = (world.subscription("/fail").await, world.subscription("/success").await);
    let delivery = world.ingest(&tried, "x").await;
    assert_eq!(world.drain().await, 1);
    let far = 32_766;
    for statement in ["UPDATE attempts SET number = $1", "UPDATE queue SET attempt_count = $1, attempts_before = $1"] {
        sqlx::query(statement).bind(far).execute(&world.pool).await.unwrap();
    }
    for number in far + 1..far + 4 {
        world.post(&format!("/deliveries/{delivery}/retry")).await;
        let bystander = world.ingest(&other, "x").await;
        assert_eq!(world.drain().await, 2, "attempt {number}");
        assert_eq!(world.delivery(&bystander).await["status"], "succeeded");
    }
    assert_eq!(world.delivery(&delivery).await["attempt_count"], far + 3);
    world.api_stops().await;
}

#[tokio::test]
async fn large_payloads_are_read_as_there_is_room_for_them() {
    use worker::payloads::{Payload, Payloads};
    const MIB: usize = 1 << 20;
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    for _ in 0..5 {
        world.ingest(&subscription, vec![b'x'; MIB]).await;
    }
    let claimed = claim(&world).await;
    let payloads = Payloads::new(world.pool.clone(), world.pool.clone(), 2 * MIB);
    let mut read = payloads.read(&claimed).await;
    let held = |payload: &Payload| matches!(payload, Payload::Held(_));
    assert_eq!(read.values().filter(|payload| held(payload)).count(), 2);
    let later: Vec<Uuid> = read.iter().filter(|(_, payload)| !held(payload)).map(|(id, _)| *id).collect();
    let wait = Duration::from_millis(50);
    assert!(payloads.read_one(later[0], Some(MIB), wait).await.is_err(), "there is no room");
    read.retain(|_, payload| !held(payload));
    for id in later {
        let one = payloads.read_one(id, None, SOON).await.unwrap().expect("it is there");
        assert_eq!(one.event.payload.len(), MIB);
    }
    assert!(payloads.read_one(EventId::new().0, None, SOON).await.unwrap().is_none(), "an event that is gone");
    world.pass(Duration::from_secs(36)).await;
    assert_eq!(world.drain().await, 5);
    world.finish().await;
}

#[tokio::test]
async fn what_is_read_together_after_a_claim_is_bounded_whatever_room_there_is() {
    use worker::payloads::{PAYLOAD_BYTES_MAX, Payload, Payloads};
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    for _ in 0..6 {
        world.ingest(&subscription, vec![b'x'; 1 << 20]).await;
    }
    let claimed = claim(&world).await;
    let payloads = Payloads::new(world.pool.clone(), world.pool.clone(), PAYLOAD_BYTES_MAX);
    let read = payloads.read(&claimed).await;
    assert_eq!(read.values().filter(|payload| matches!(payload, Payload::Held(_))).count(), 4, "4 MiB");
    drop(read);
    world.pass(Duration::from_secs(36)).await;
    assert_eq!(world.drain().await, 6);
    world.finish().await;
}
