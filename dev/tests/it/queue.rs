//! The queue itself: leases and their tokens, fairness among lanes, and how soon deliveries are found.

use std::{collections::HashSet, time::Duration};

use postrider_core::{
    queue::{
        self, ClaimRequest, Claimed, Counts, Disposition, Report,
        attempt::{ErrorKind, Failure, Outcome},
    },
    upkeep::invariants,
};
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::world::{SOON, World, id, store, uuid};

/// The outcome of a delivery that has run out of attempts.
const GIVEN_UP: Disposition = Disposition::DeadLetter { lane_rests: None };

/// An empty list of deliveries.
const NOBODY: [Uuid; 0] = [];

fn look(rows_max: i32) -> ClaimRequest {
    ClaimRequest { lanes_max: 64.min(rows_max), rows_max, skip: Vec::new(), lanes_from: None, only: None }
}

/// Claims until something was claimed, because another session may hold the lane for a moment.
pub async fn claim(world: &World, rows_max: i32) -> Vec<Claimed> {
    let some = async {
        loop {
            let (claimed, _) = queue::claim(&world.pool, &look(rows_max)).await.unwrap();
            if !claimed.is_empty() {
                return claimed;
            }
        }
    };
    tokio::time::timeout(SOON, some).await.expect("something is due")
}

fn record(claimed: &Claimed, disposition: Disposition, kind: Option<ErrorKind>) -> Report {
    let outcome = Some(Outcome { failure: kind.map(|kind| Failure::new(kind, "test")), ..Outcome::default() });
    claimed.report(outcome, disposition)
}

#[tokio::test]
async fn many_claims_at_once_never_take_the_same_delivery() {
    let world = World::new().await;
    for lane in 0..10 {
        let subscription = world.subscription("/success").await;
        for number in 0..40 {
            world.ingest(&subscription, format!("{lane}-{number}")).await;
        }
    }
    let mut claimers = JoinSet::new();
    for _ in 0..8 {
        let pool = world.pool.clone();
        claimers.spawn(async move {
            let mut mine = Vec::new();
            // Others may hold all lanes for a moment, so only twenty empty claims in a row mean that nothing is left.
            let mut empty = 0;
            while empty < 20 {
                let (claimed, _) = queue::claim(&pool, &look(16)).await.unwrap();
                empty = if claimed.is_empty() { empty + 1 } else { 0 };
                mine.extend(claimed.into_iter().map(|claimed| claimed.delivery_id));
            }
            mine
        });
    }
    let all: Vec<Uuid> = claimers.join_all().await.into_iter().flatten().collect();
    let distinct: HashSet<_> = all.iter().collect();
    assert_eq!((all.len(), distinct.len()), (400, 400));
    assert_eq!(invariants::check(&world.pool).await.unwrap(), []);
    world.pass(Duration::from_secs(40)).await;
    while world.drain().await > 0 {}
    assert_eq!(world.receiver.count(), 400, "expired leases are claimed again");
    world.finish().await;
}

#[tokio::test]
async fn an_expired_lease_is_taken_over_and_its_late_outcome_changes_nothing() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let delivery = world.ingest(&subscription, "x").await;
    let stale = claim(&world, 10).await.remove(0);
    assert_eq!(world.delivery(&delivery).await["status"], "in_flight");
    assert_eq!(world.drain().await, 0, "the lease holds");
    world.pass(Duration::from_secs(36)).await;
    let fresh = claim(&world, 10).await.remove(0);
    assert_eq!((fresh.delivery_id, fresh.attempt_number), (stale.delivery_id, 2));

    let back = Disposition::Retry { after: Duration::ZERO, lane_rests: None, counts: Counts::Yes };
    for disposition in [Disposition::Succeeded, GIVEN_UP, Disposition::Canceled, back] {
        let kind = (disposition != Disposition::Succeeded).then_some(ErrorKind::Timeout);
        assert_eq!(queue::record(&world.pool, &[record(&stale, disposition, kind)]).await.unwrap(), NOBODY);
    }
    assert_eq!(world.delivery(&delivery).await["status"], "in_flight");
    let done = record(&fresh, Disposition::Succeeded, None);
    assert_eq!(queue::record(&world.pool, std::slice::from_ref(&done)).await.unwrap(), [fresh.delivery_id]);
    assert_eq!(queue::record(&world.pool, &[done]).await.unwrap(), NOBODY, "once only");

    let attempts = world.attempts(&delivery).await;
    let kinds: Vec<_> = attempts.iter().map(|attempt| attempt["error_kind"].as_str()).collect();
    assert_eq!(kinds, [Some("lease_lost"), None], "the lost attempt is logged as such");
    world.finish().await;
}

#[tokio::test]
async fn a_batch_mixes_outcomes_and_stale_ones() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let mut deliveries = Vec::new();
    for number in 0..5 {
        deliveries.push(world.ingest(&subscription, number.to_string()).await);
    }
    let mut claimed = claim(&world, 20).await;
    claimed.sort_by_key(|claimed| claimed.delivery_id);
    let retry = |counts| Disposition::Retry { after: Duration::from_secs(30), lane_rests: None, counts };
    let mut records = vec![
        record(&claimed[0], Disposition::Succeeded, None),
        record(&claimed[1], GIVEN_UP, Some(ErrorKind::HttpStatus)),
        record(&claimed[2], retry(Counts::Yes), Some(ErrorKind::Timeout)),
        record(&claimed[3], retry(Counts::No), Some(ErrorKind::Shutdown)),
        record(&claimed[4], Disposition::Succeeded, None),
    ];
    records[4].lease_token += 1000;
    let mut applied = queue::record(&world.pool, &records).await.unwrap();
    applied.sort_unstable();
    assert_eq!(applied, claimed[..4].iter().map(|claimed| claimed.delivery_id).collect::<Vec<_>>());
    let mut shown = Vec::new();
    for delivery in &deliveries {
        let delivery = world.delivery(delivery).await;
        shown.push((delivery["status"].as_str().unwrap().to_owned(), delivery["attempt_count"].as_u64().unwrap()));
    }
    let expected = [("succeeded", 1), ("dead_letter", 1), ("pending", 1), ("pending", 1), ("in_flight", 1)];
    assert_eq!(shown, expected.map(|(status, count)| (status.to_owned(), count)));
    // A release without an attempt takes the attempt's number back and writes no attempt.
    let mut release =
        record(&claimed[4], Disposition::Retry { after: Duration::ZERO, lane_rests: None, counts: Counts::No }, None);
    release.outcome = None;
    assert_eq!(queue::record(&world.pool, &[release]).await.unwrap().len(), 1);
    assert_eq!(world.delivery(&deliveries[4]).await["attempt_count"], 0);
    assert_eq!(world.attempts(&deliveries[4]).await.len(), 0);
    world.pass(Duration::from_secs(31)).await;
    assert_eq!(world.drain().await, 3);
    world.finish().await;
}

#[tokio::test]
async fn what_fails_through_a_fault_of_ours_does_not_count() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "x").await;
    let again = |counts| Disposition::Retry { after: Duration::ZERO, lane_rests: None, counts };
    for (counts, kind, number, in_round, releases) in [
        (Counts::No, ErrorKind::WorkerBusy, 1, 1, 0),
        (Counts::No, ErrorKind::Shutdown, 2, 1, 1),
        (Counts::Yes, ErrorKind::HttpStatus, 3, 1, 2),
        (Counts::Yes, ErrorKind::HttpStatus, 4, 2, 2),
    ] {
        let claimed = claim(&world, 20).await.remove(0);
        assert_eq!(
            (claimed.attempt_number, claimed.attempt_in_round(), claimed.releases),
            (number, in_round, releases)
        );
        queue::record(&world.pool, &[record(&claimed, again(counts), Some(kind))]).await.unwrap();
    }
    world.finish().await;
}

#[tokio::test]
async fn a_paused_subscription_keeps_its_backlog() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "before").await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    for number in 0..30 {
        world.ingest(&subscription, number.to_string()).await;
    }
    assert_eq!(world.drain().await, 0);
    world.pass(Duration::from_secs(86_400)).await;
    assert_eq!(world.drain().await, 0);
    let (stop, running) = world.run_worker();
    world.post(&format!("/subscriptions/{subscription}/resume")).await;
    world.receiver.wait_for(31, SOON).await.unwrap();
    world.queue_is_empty().await;
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_deleted_subscription_takes_its_backlog_along() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let delivery = world.ingest(&subscription, "x").await;
    world.call(reqwest::Method::DELETE, &format!("/subscriptions/{subscription}"), None).await.expect(204);
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.receiver.count(), 0);
    let canceled = world.delivery(&delivery).await;
    assert_eq!((canceled["status"].clone(), canceled["attempt_count"].clone()), (json!("canceled"), json!(0)));
    world.call(reqwest::Method::POST, &format!("/deliveries/{delivery}/retry"), None).await.problem(409);
    world.finish().await;
}

#[tokio::test]
async fn a_few_hanging_receivers_delay_nobody_else() {
    hanging_receivers_delay_nobody_else(3, 40).await;
}

/// Here each may hold few places, and together they must not take the last ones one by one.
#[tokio::test]
async fn many_hanging_receivers_delay_nobody_else() {
    hanging_receivers_delay_nobody_else(14, 8).await;
}

async fn hanging_receivers_delay_nobody_else(receivers: usize, deliveries_of_each: usize) {
    let world = World::with(&[("POSTRIDER_WORKER_CONCURRENCY", "32")]).await;
    for _ in 0..receivers {
        let slow = world.subscription("/slow/4000").await;
        for number in 0..deliveries_of_each {
            world.ingest(&slow, number.to_string()).await;
        }
    }
    let (stop, running) = world.run_worker();
    // Now the slow receivers hold as many places of the worker as they may.
    world.receiver.wait_for(20, SOON).await.unwrap();
    let quick = world.subscription("/success").await;
    let mut deliveries = Vec::new();
    for number in 0..20 {
        deliveries.push(world.ingest(&quick, format!("quick {number}")).await);
    }
    let quick_done = async {
        while world.receiver.received().iter().filter(|received| received.path == "/success").count() < 20 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_millis(3500), quick_done).await.expect("before the first slow one is done");
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

/// A lane may hold 4 of 8 places. With answers after 1.5 s, its 16 deliveries take 4 rounds, which is 6 s. If a lane
/// that holds its share were left out until the next sweep, each round would wait for that, and all would take 20 s.
#[tokio::test]
async fn a_slow_receiver_keeps_its_own_pace_beside_others() {
    const SLOW: &str = "/slow/1500";
    let world = World::with(&[("POSTRIDER_WORKER_CONCURRENCY", "8")]).await;
    let slow = world.subscription(SLOW).await;
    let quick = world.subscription("/success").await;
    for number in 0..16 {
        world.ingest(&slow, number.to_string()).await;
    }
    let (stop, running) = world.run_worker();
    let slow_done = async {
        while world.receiver.received().iter().filter(|received| received.path == SLOW).count() < 16 {
            world.ingest(&quick, "meanwhile").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(12), slow_done).await.expect("each place that is free again is used");
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

/// Nothing wakes this worker: it looks again when a place is free. With the pauses of its backstop, which are 2 s, the
/// six rounds would take 12 s.
#[tokio::test]
async fn a_slow_receiver_keeps_its_own_pace_alone() {
    let world = World::with(&[("POSTRIDER_WORKER_CONCURRENCY", "8")]).await;
    let slow = world.subscription("/slow/300").await;
    for number in 0..24 {
        world.ingest(&slow, number.to_string()).await;
    }
    let (stop, running) = world.run_worker();
    world.receiver.wait_for(24, Duration::from_secs(8)).await.expect("each place that is free again is used");
    world.queue_is_empty().await;
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn lost_notifications_cost_only_time() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let (stop, running) = world.run_worker();
    world.ingest(&subscription, "the worker is up").await;
    world.receiver.wait_for(1, SOON).await.unwrap();
    // Until the lane is idle, its second look would find a delivery as well.
    let idle = async {
        while !sqlx::query_scalar::<_, bool>("SELECT bool_and(due_at = 'infinity') FROM lanes")
            .fetch_one(&world.pool)
            .await
            .unwrap()
        {
            world.pass(Duration::from_secs(10)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(SOON, idle).await.expect("the lane goes idle");
    // This delivery is stored and its lane is armed, but nobody sends a notification for it.
    let armed = store(&mut world.pool.acquire().await.unwrap(), &subscription, Uuid::now_v7(), Uuid::now_v7()).await;
    assert!(armed, "an idle lane is armed");
    // A worker looks every 2 s even if nothing wakes it.
    world.receiver.wait_for(2, Duration::from_secs(6)).await.unwrap();
    world.queue_is_empty().await;
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn the_latest_settings_are_used_for_each_attempt() {
    let world = World::new().await;
    let subscription = world.subscription("/fail").await;
    world.ingest(&subscription, "x").await;
    let (stop, running) = world.run_worker();
    world.receiver.wait_for(1, SOON).await.unwrap();
    let patch = json!({"target_url": world.receiver.url("/success"), "headers": {"x-version": "2"}});
    let patched =
        world.call(reqwest::Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200);
    assert_eq!(id(&patched), subscription);
    // The announcement takes a moment to arrive. Each further attempt is asked for, because no policy would make it
    // now.
    let changed = async {
        loop {
            let delivery = world.get("/deliveries").await["data"][0].clone();
            if delivery["status"] == "succeeded" {
                break;
            }
            world.call(reqwest::Method::POST, &format!("/deliveries/{}/retry", id(&delivery)), None).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(15), changed).await.expect("sooner than the cache forgets by itself");
    assert_eq!(world.receiver.received().last().unwrap().header("x-version"), "2");
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn what_is_scheduled_is_found_although_the_note_of_it_has_already_passed() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "now").await;
    let later = (chrono::Utc::now() + chrono::TimeDelta::seconds(3)).to_rfc3339();
    world.publish(json!({"event_type": "a.b", "payload": 1, "deliver_at": later})).await;
    // The lane's note of the scheduled delivery is lost, and replaced by an earlier time that passes before the lane is
    // visited.
    sqlx::query("UPDATE lanes SET scheduled_at = 'infinity', due_at = clock_timestamp(), drained_at = NULL")
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("SELECT arm_lane($1, $1, clock_timestamp() - interval '1 millisecond', NULL, true, interval '1 s')")
        .bind(uuid(&subscription))
        .execute(&world.pool)
        .await
        .unwrap();
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(4)).await;
    assert_eq!(world.drain().await, 1, "it is not late by the linger");
    world.finish().await;
}
