//! How a worker keeps to the rate limit of a receiver. Times are compared with lower bounds, which hold on a busy
//! machine, too.

use std::time::{Duration, Instant};

use postrider_core::queue::{self, ClaimRequest};
use serde_json::json;

use crate::world::{SOON, World, id};

/// A subscription with this limit, in which this many deliveries wait.
async fn limited(world: &World, rate: f64, events: usize) -> String {
    let settings = json!({"rate_limit_per_second": rate, "rate_limit_burst": 1});
    let subscription = id(&world.subscribe("/success", settings).await);
    for number in 0..events {
        world.ingest(&subscription, number.to_string()).await;
    }
    subscription
}

#[tokio::test]
async fn a_claim_takes_ahead_what_is_due_in_the_next_moment_and_spreads_it() {
    let world = World::new().await;
    limited(&world, 100.0, 60).await;
    let request = ClaimRequest { lanes_max: 64, rows_max: 200, skip: Vec::new(), lanes_from: None, only: None };
    let claimed = async {
        loop {
            // A wake-up may hold the lane for a moment.
            let (claimed, _) = queue::claim(&world.pool, &request).await.unwrap();
            if !claimed.is_empty() {
                return claimed;
            }
        }
    };
    let claimed = tokio::time::timeout(SOON, claimed).await.expect("they are due");
    // A quarter of a second, in which one attempt follows another after 10.2 ms.
    assert!((20..=25).contains(&claimed.len()), "{} deliveries", claimed.len());
    let mut times: Vec<_> = claimed.iter().map(|claimed| claimed.not_before.expect("it has a time")).collect();
    times.sort_unstable();
    for pair in times.windows(2) {
        let apart = pair[1] - pair[0];
        assert!((10_100..=10_300).contains(&apart.as_micros()), "{apart:?}");
    }
    assert_eq!(queue::claim(&world.pool, &request).await.unwrap().0.len(), 0, "the rest comes later");
    world.finish().await;
}

#[tokio::test]
async fn the_first_attempt_after_a_rest_may_be_a_little_late() {
    let world = World::new().await;
    limited(&world, 10.0, 3).await;
    // The worker has to read and to connect first. So those after it do not come too soon after it.
    let wait = async {
        loop {
            let claim = "SELECT wait_us FROM claim(64, 100, '{}', '-infinity', NULL) WHERE delivery_id IS NOT NULL";
            if let Some(wait) = sqlx::query_scalar::<_, i64>(claim).fetch_optional(&world.pool).await.unwrap() {
                return wait;
            }
        }
    };
    assert_eq!(tokio::time::timeout(SOON, wait).await.expect("they are due"), 20_000);
    world.finish().await;
}

#[tokio::test]
async fn attempts_that_were_claimed_together_are_made_apart() {
    let world = World::new().await;
    // Now the worker has sessions and a connection.
    world.ingest(&world.subscription("/success").await, "x").await;
    assert_eq!(world.drain().await, 1);
    limited(&world, 10.0, 3).await;
    let started = Instant::now();
    assert_eq!(world.drain().await, 3, "all are due within a quarter of a second");
    // They begin 20, 122 and 224 ms after the claim.
    let last = world.receiver.received().iter().map(|received| received.at).max().unwrap();
    assert!(last >= started + Duration::from_millis(215), "{:?}", last - started);
    world.finish().await;
}

#[tokio::test]
async fn attempts_that_were_held_up_together_are_made_apart() {
    let world = World::new().await;
    limited(&world, 10.0, 3).await;
    // The worker cannot read the subscription until all three are late.
    let mut blocker = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE subscriptions IN ACCESS EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();
    let released = async {
        let claimed = "SELECT count(*) FROM queue WHERE lease_token IS NOT NULL";
        while sqlx::query_scalar::<_, i64>(claimed).fetch_one(&world.pool).await.unwrap() < 3 {}
        tokio::time::sleep(Duration::from_millis(300)).await;
        let released = Instant::now();
        blocker.rollback().await.unwrap();
        released
    };
    let (released, done) = tokio::join!(released, world.drain());
    assert_eq!(done, 3);
    assert!(released.elapsed() >= Duration::from_millis(195), "{:?}", released.elapsed());
    world.finish().await;
}

#[tokio::test]
async fn a_burst_goes_at_once_and_no_more() {
    let world = World::new().await;
    let settings = json!({"rate_limit_per_second": 0.01, "rate_limit_burst": 3});
    let subscription = id(&world.subscribe("/success", settings).await);
    for number in 0..5 {
        world.ingest(&subscription, number.to_string()).await;
    }
    assert_eq!(world.drain().await, 3);
    world.pass(Duration::from_secs(103)).await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(103)).await;
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}
