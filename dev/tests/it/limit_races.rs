//! Claims, reports and changes of settings in every order that could lose count of the attempts in flight, or leave a
//! circuit half open. The tests hold transactions open by hand.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::task::JoinSet;

use crate::{
    flow_races::{NOBODY, change_behind, claim, claim_now, claimed, number, record, store_now, succeed},
    world::{World, id, uuid},
};

#[tokio::test]
async fn a_limit_that_is_set_while_a_claim_is_under_way_counts_what_it_takes() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/success", json!({"circuit": null})).await);
    for _ in 0..5 {
        store_now(&world, &subscription).await;
    }
    let mut claiming = world.pool.begin().await.unwrap();
    let leased = claim(&mut claiming).await;
    assert_eq!(leased.len(), 5);
    change_behind(&world, claiming, &subscription, json!({"max_in_flight": 2})).await;
    for _ in 0..4 {
        store_now(&world, &subscription).await;
    }
    assert_eq!(claimed(&world).await, NOBODY, "five are in flight");
    succeed(&world, &leased[..4]).await;
    let more = claim_now(&world).await;
    assert_eq!(more.len(), 1, "and now one is");

    let mut claiming = world.pool.begin().await.unwrap();
    assert!(record(&mut claiming, &leased[4], "succeeded").await);
    assert_eq!(claim(&mut claiming).await.len(), 1);
    change_behind(&world, claiming, &subscription, json!({"max_in_flight": 1})).await;
    succeed(&world, &more).await;
    assert_eq!(claimed(&world).await, NOBODY, "one of two is left");
    let patch = Some(json!({"max_in_flight": null}));
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), patch).await.expect(200);
    assert_eq!(claimed(&world).await.len(), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_circuit_that_is_switched_off_while_a_claim_half_opens_it_holds_nothing_back() {
    let world = World::new().await;
    let circuit = json!({
        "failures_in_a_row": 1, "failure_percent": 80, "samples_min": 20, "window_seconds": 60,
        "cooldown_seconds": 30, "cooldown_max_seconds": 100, "probes": 1, "successes_to_close": 2,
    });
    let subscription = id(&world.subscribe("/success", json!({"circuit": circuit})).await);
    for _ in 0..3 {
        store_now(&world, &subscription).await;
    }
    let leased = claim_now(&world).await;
    let mut own = world.pool.acquire().await.unwrap();
    assert!(record(&mut own, &leased[0], "pending").await);
    succeed(&world, &leased[1..]).await;
    for _ in 0..3 {
        store_now(&world, &subscription).await;
    }
    assert_eq!(claimed(&world).await, NOBODY, "it is open");
    world.pass(Duration::from_secs(31)).await;
    let mut claiming = world.pool.begin().await.unwrap();
    let probe = claim(&mut claiming).await;
    assert_eq!(probe.len(), 1);
    change_behind(&world, claiming, &subscription, json!({"circuit": null})).await;
    assert_eq!(claimed(&world).await.len(), 3);
    assert!(record(&mut own, &probe[0], "pending").await);
    assert_eq!(claimed(&world).await.len(), 1);
    assert_eq!(number(&world.pool, "SELECT count(*) FROM lanes WHERE circuit_state IS NOT NULL").await, 0);
    drop(own);
    world.finish().await;
}

#[tokio::test]
async fn claims_at_once_never_take_more_than_may_be_in_flight() {
    const MAX: usize = 3;
    let world = World::new().await;
    let subscription = id(&world.subscribe("/success", json!({"max_in_flight": MAX, "circuit": null})).await);
    for _ in 0..30 {
        store_now(&world, &subscription).await;
    }
    for _ in 0..10 {
        let mut claimers = JoinSet::new();
        for _ in 0..6 {
            let pool = world.pool.clone();
            claimers.spawn(async move { claim(&mut pool.acquire().await.unwrap()).await });
        }
        let mut leased: Vec<_> = claimers.join_all().await.into_iter().flatten().collect();
        assert!(leased.len() <= MAX, "{leased:?}");
        leased.extend(claim_now(&world).await);
        assert_eq!(leased.len(), MAX);
        succeed(&world, &leased).await;
    }
    assert_eq!(number(&world.pool, "SELECT count(*) FROM queue").await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_lease_that_has_expired_is_given_back_once() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/success", json!({"max_in_flight": 2, "circuit": null})).await);
    for _ in 0..2 {
        store_now(&world, &subscription).await;
    }
    let stale = claim_now(&world).await;
    assert_eq!(stale.len(), 2);
    world.pass(Duration::from_secs(36)).await;

    // The report of one comes late, but before anybody has taken the delivery over. A claim does not wait for it.
    let mut own = world.pool.acquire().await.unwrap();
    let mut report = world.pool.begin().await.unwrap();
    sqlx::query("SELECT return_leases($1, ARRAY[$2])")
        .bind(uuid(&subscription))
        .bind(stale[0].lease_token)
        .execute(&mut *report)
        .await
        .unwrap();
    sqlx::query("SET lock_timeout = '2 s'").execute(&mut *own).await.unwrap();
    let fresh = claim(&mut own).await;
    assert_eq!(fresh.len(), 2, "expired leases take no place");
    report.rollback().await.unwrap();

    // Both were taken over: what the first worker says changes nothing, and frees nothing.
    assert!(fresh.iter().all(|leased| leased.attempt_number == 2), "{fresh:?}");
    for leased in &stale {
        assert!(!record(&mut own, leased, "succeeded").await);
    }
    for _ in 0..3 {
        store_now(&world, &subscription).await;
    }
    assert_eq!(claimed(&world).await, NOBODY);

    // Nobody has taken this one over, although its lease has expired.
    world.pass(Duration::from_secs(36)).await;
    assert!(record(&mut own, &fresh[0], "succeeded").await);
    assert!(!record(&mut own, &fresh[0], "succeeded").await);
    let last = claim_now(&world).await;
    assert_eq!(last.len(), 2);
    assert_eq!(claimed(&world).await, NOBODY);
    succeed(&world, &last).await;
    assert_eq!(number(&world.pool, "SELECT count(*) FROM lane_leases WHERE count < 0").await, 0);
    assert_eq!(claimed(&world).await.len(), 2);
    drop(own);
    world.finish().await;
}
