//! Which attempts move a circuit, and in which order: those of a batch of outcomes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use postrider_core::queue::{
    self, ClaimRequest, Claimed, Counts, Disposition, Report,
    attempt::{ErrorKind, Failure, Outcome},
};
use reqwest::Method;
use serde_json::json;

use crate::world::{SOON, World, id, uuid};

/// A subscription whose circuit opens after three failures in a row, and its claimed deliveries in the order of their
/// ids.
async fn claimed(world: &World, deliveries: usize) -> (String, Vec<Claimed>) {
    let circuit = json!({"failures_in_a_row": 3, "failure_percent": 100, "samples_min": 100});
    let subscription = id(&world.subscribe("/success", json!({"circuit": circuit})).await);
    for number in 0..deliveries {
        world.ingest(&subscription, number.to_string()).await;
    }
    let request = ClaimRequest { lanes_max: 64, rows_max: 100, skip: Vec::new(), lanes_from: None, only: None };
    let mut claimed = Vec::new();
    // A wake-up may hold the lane for a moment.
    let all = async {
        while claimed.len() < deliveries {
            claimed.extend(queue::claim(&world.pool, &request).await.unwrap().0);
        }
    };
    tokio::time::timeout(SOON, all).await.expect("all are due");
    claimed.sort_unstable_by_key(|claimed| claimed.delivery_id);
    (subscription, claimed)
}

/// The report of an attempt that began at that time and took a second.
fn report(claimed: &Claimed, began: DateTime<Utc>, kind: Option<ErrorKind>) -> Report {
    let outcome = Outcome {
        started_at: began,
        duration: Duration::from_secs(1),
        failure: kind.map(|kind| Failure::new(kind, "test")),
        ..Outcome::default()
    };
    let after = Duration::from_secs(60);
    let disposition = match kind {
        None => Disposition::Succeeded,
        Some(ErrorKind::Aborted) => Disposition::DeadLetter { lane_rests: None },
        Some(kind) if kind.is_our_fault() => Disposition::Retry { after, lane_rests: None, counts: Counts::No },
        Some(_) => Disposition::Retry { after, lane_rests: None, counts: Counts::Yes },
    };
    claimed.report(Some(outcome), disposition)
}

async fn failures(world: &World, subscription: &str) -> (Option<String>, Option<i32>) {
    sqlx::query_as("SELECT circuit_state, failures_in_a_row FROM lanes WHERE id = $1")
        .bind(uuid(subscription))
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn attempts_move_it_in_the_order_in_which_they_ended() {
    let world = World::new().await;
    let (subscription, claimed) = claimed(&world, 4).await;
    let now = Utc::now() - TimeDelta::seconds(20);
    let began = |seconds| now + TimeDelta::seconds(seconds);
    let failed = Some(ErrorKind::HttpStatus);
    // By their ids: a success and three failures. As they ended: two failures, the success, a failure.
    let reports = [
        report(&claimed[0], began(3), None),
        report(&claimed[1], began(1), failed),
        report(&claimed[2], began(2), failed),
        report(&claimed[3], began(4), failed),
    ];
    assert_eq!(queue::record(&world.pool, &reports).await.unwrap().len(), 4);
    assert_eq!(failures(&world, &subscription).await, (None, Some(1)));
    world.finish().await;
}

#[tokio::test]
async fn only_what_the_receiver_did_moves_it() {
    let world = World::new().await;
    let (subscription, claimed) = claimed(&world, 6).await;
    let now = Utc::now() - TimeDelta::seconds(20);
    let kinds = [ErrorKind::HttpStatus, ErrorKind::WorkerBusy, ErrorKind::Shutdown, ErrorKind::Aborted];
    let reports: Vec<_> = claimed.iter().zip(kinds).map(|(claimed, kind)| report(claimed, now, Some(kind))).collect();
    assert_eq!(queue::record(&world.pool, &reports).await.unwrap().len(), kinds.len());
    assert_eq!(failures(&world, &subscription).await, (None, Some(1)));
    let rest: Vec<_> = claimed[kinds.len()..].iter().map(|one| report(one, now, Some(ErrorKind::Timeout))).collect();
    assert_eq!(queue::record(&world.pool, &rest).await.unwrap().len(), 2);
    assert_eq!(failures(&world, &subscription).await, (Some("open".to_owned()), Some(3)));
    world.finish().await;
}

#[tokio::test]
async fn inline_deliveries_have_one_with_the_defaults() {
    let world = World::new().await;
    world.subscription("/success").await;
    for _ in 0..10 {
        let inline = json!({"target_url": world.receiver.url("/fail"), "payload": 1});
        world.call(Method::POST, "/deliveries", Some(inline)).await.expect(202);
    }
    assert_eq!(world.drain().await, 10);
    let lane = "SELECT circuit_state, cooldown_seconds, lane_circuit(l) = (SELECT circuit FROM subscriptions)
                  FROM lanes l WHERE subscription_id IS NULL";
    let lane: (Option<String>, Option<i32>, Option<bool>) = sqlx::query_as(lane).fetch_one(&world.pool).await.unwrap();
    assert_eq!(lane, (Some("open".to_owned()), Some(30), Some(true)));
    world.finish().await;
}
