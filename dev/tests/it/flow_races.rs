//! Claims, reports, cancels and changes of settings in every order that could stop an ordered line or let one of it
//! overtake. The tests hold transactions open by hand.

use std::time::Duration;

use postrider_core::{
    id::{DeliveryId, EventId},
    queue::arm_noted_lanes,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::world::{SOON, World, answer, id, uuid};

/// An empty list of deliveries.
pub const NOBODY: [Uuid; 0] = [];

/// A delivery that a claim has leased.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Leased {
    pub delivery_id: Uuid,
    pub lease_token: i64,
    pub attempt_number: i32,
    pub subscription_id: Option<Uuid>,
    pub is_awaited: bool,
}

/// Claims what is due.
pub async fn claim(connection: &mut PgConnection) -> Vec<Leased> {
    let claim = "SELECT delivery_id, lease_token, attempt_number, subscription_id, is_awaited
                   FROM claim(64, 100, '{}', '-infinity', NULL) WHERE delivery_id IS NOT NULL";
    sqlx::query_as(claim).fetch_all(connection).await.unwrap()
}

/// Claims what is due. A wake-up of the api may hold the lane for a moment, and a claim passes over such a lane: one
/// that finds nothing looks again a few times.
pub async fn claim_now(world: &World) -> Vec<Leased> {
    let mut connection = world.pool.acquire().await.unwrap();
    for _ in 0..5 {
        let leased = claim(&mut connection).await;
        if !leased.is_empty() {
            return leased;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Vec::new()
}

/// The ids of what is due.
pub async fn claimed(world: &World) -> Vec<Uuid> {
    claim_now(world).await.iter().map(|leased| leased.delivery_id).collect()
}

/// Claims until something is due, but not so long that a sweep or the second look of a lane would help.
async fn claimed_soon(world: &World) -> Vec<Uuid> {
    let some = async {
        loop {
            let claimed = claimed(world).await;
            if !claimed.is_empty() {
                return claimed;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), some).await.expect("something is due soon")
}

/// Writes down that the attempt has led to this status; answers whether that changed anything.
pub async fn record(connection: &mut PgConnection, leased: &Leased, status: &str) -> bool {
    let applied: Vec<Uuid> = sqlx::query_scalar(
        "SELECT record_outcomes(ARRAY[ROW($1, $2, $3, $4::text::delivery_status, 0, NULL, false, $5, $6, now(), 1,
                CASE WHEN $4 = 'succeeded' THEN 200 ELSE 500 END, CASE WHEN $4 <> 'succeeded' THEN 'http_status' END,
                NULL, NULL, NULL, false, NULL, NULL, NULL, NULL, NULL, NULL, NULL)::outcome])",
    )
    .bind(leased.delivery_id)
    .bind(leased.lease_token)
    .bind(leased.subscription_id)
    .bind(status)
    .bind(leased.is_awaited)
    .bind(leased.attempt_number)
    .fetch_one(connection)
    .await
    .unwrap();
    !applied.is_empty()
}

pub async fn succeed(world: &World, leased: &[Leased]) {
    for one in leased {
        assert!(record(&mut world.pool.acquire().await.unwrap(), one, "succeeded").await);
    }
}

/// Stores an event of the ordering key `k` and its delivery, inside a transaction of the test.
async fn store(connection: &mut PgConnection, subscription: &str) -> Uuid {
    let delivery = DeliveryId::new().0;
    sqlx::query(
        "SELECT accept(ARRAY[ROW($1, 'default', 'a.b', $2, false, 'text/plain', NULL, 'x', NULL, NULL, 'k', NULL,
                                 NULL, NULL, NULL)::new_event],
                       ARRAY[ROW($3, $1, 'default', $2, $2, NULL, NULL, NULL)::new_delivery], '{}', 0, false, false)",
    )
    .bind(EventId::new().0)
    .bind(uuid(subscription))
    .bind(delivery)
    .execute(connection)
    .await
    .unwrap();
    delivery
}

pub async fn store_now(world: &World, subscription: &str) -> Uuid {
    store(&mut world.pool.acquire().await.unwrap(), subscription).await
}

/// Stores two deliveries of the key, and claims the first one before the second one is there.
async fn head_in_flight(world: &World, subscription: &str) -> (Vec<Leased>, Uuid) {
    store_now(world, subscription).await;
    (claim_now(world).await, store_now(world, subscription).await)
}

/// Removes a waiting delivery as a cancel does first; the next line is left to [`go_on`].
async fn remove(connection: &mut PgConnection, delivery: Uuid) {
    sqlx::query("DELETE FROM queue WHERE delivery_id = $1").bind(delivery).execute(&mut *connection).await.unwrap();
    sqlx::query("UPDATE deliveries SET status = 'canceled', finished_at = now() WHERE id = $1")
        .bind(delivery)
        .execute(connection)
        .await
        .unwrap();
}

/// The end of a cancel.
async fn go_on(connection: &mut PgConnection, subscription: &str) {
    sqlx::query("SELECT arm_freed_lanes(ARRAY[$1])").bind(uuid(subscription)).execute(connection).await.unwrap();
}

pub async fn number(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

async fn parked(world: &World) -> i64 {
    number(&world.pool, "SELECT count(*) FROM queue WHERE due_at = 'infinity'").await
}

async fn noted(world: &World) -> i64 {
    number(&world.pool, "SELECT count(*) FROM lanes_to_arm").await
}

/// Waits until a session of the test's database waits for a lock.
async fn somebody_waits(world: &World) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let some = async { while number(&world.pool, waiting).await == 0 {} };
    tokio::time::timeout(SOON, some).await.expect("somebody waits");
}

/// Makes a change of settings that has to wait for `holder`, which is then committed.
pub async fn change_behind(world: &World, holder: sqlx::PgTransaction<'_>, subscription: &str, change: Value) {
    let request = world.request(Method::PATCH, &format!("/subscriptions/{subscription}")).body(change.to_string());
    let changing = tokio::spawn(answer(request));
    somebody_waits(world).await;
    holder.commit().await.unwrap();
    changing.await.unwrap().expect(200);
}

/// A subscription that is delivered to in order, has no circuit, and these settings as well.
async fn ordered(world: &World, more: Value) -> String {
    let mut settings = json!({"ordering": "fifo", "circuit": null, "retry_policy": {"delays_seconds": [0, 0, 0, 0]}});
    settings.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap());
    id(&world.subscribe("/success", settings).await)
}

#[tokio::test]
async fn a_head_that_is_being_removed_lets_the_next_one_go() {
    let world = World::new().await;
    let subscription = ordered(&world, json!({})).await;
    // The removal begins before the claim, and ends after it.
    let (head, next) = (store_now(&world, &subscription).await, store_now(&world, &subscription).await);
    let mut cancel = world.pool.begin().await.unwrap();
    remove(&mut cancel, head).await;
    assert_eq!(claimed(&world).await, NOBODY, "the head is going, and the next one is not yet the first");
    assert_eq!(parked(&world).await, 0, "so it is not parked either");
    go_on(&mut cancel, &subscription).await;
    cancel.commit().await.unwrap();
    assert_eq!(claimed_soon(&world).await, [next]);

    // The claim parks it before the head is removed, and its commit comes last.
    let later = store_now(&world, &subscription).await;
    let mut claiming = world.pool.begin().await.unwrap();
    sqlx::query("UPDATE lanes SET due_at = now()").execute(&world.pool).await.unwrap();
    assert!(claim(&mut claiming).await.is_empty());
    let mut report = world.pool.begin().await.unwrap();
    sqlx::query("UPDATE queue SET lease_token = NULL, due_at = now() + interval '1 hour' WHERE delivery_id = $1")
        .bind(next)
        .execute(&mut *report)
        .await
        .unwrap();
    sqlx::query("DELETE FROM attempts").execute(&mut *report).await.unwrap();
    remove(&mut report, next).await;
    go_on(&mut report, &subscription).await;
    report.commit().await.unwrap();
    assert_eq!(noted(&world).await, 1, "the lane is locked, so it is noted");
    claiming.commit().await.unwrap();
    assert_eq!(parked(&world).await, 1);
    assert_eq!(arm_noted_lanes(&world.pool).await.unwrap(), 1);
    assert_eq!(claimed(&world).await, [later]);
    world.finish().await;
}

#[tokio::test]
async fn a_report_and_a_claim_leave_nobody_parked_in_either_order() {
    let world = World::new().await;
    let subscription = ordered(&world, json!({})).await;
    for is_report_first in [true, false] {
        store_now(&world, &subscription).await;
        let head = claim_now(&world).await;
        assert_eq!(head.len(), 1);
        let next = store_now(&world, &subscription).await;
        if is_report_first {
            let mut report = world.pool.begin().await.unwrap();
            assert!(record(&mut report, &head[0], "succeeded").await);
            assert_eq!(claimed(&world).await, NOBODY, "the lane is locked");
            report.commit().await.unwrap();
        } else {
            let mut claiming = world.pool.begin().await.unwrap();
            assert!(claim(&mut claiming).await.is_empty());
            // The report finds the lane locked, and does not wait for long.
            succeed(&world, &head).await;
            assert_eq!(noted(&world).await, 1);
            claiming.commit().await.unwrap();
            assert_eq!(arm_noted_lanes(&world.pool).await.unwrap(), 1);
        }
        let second = claim_now(&world).await;
        assert_eq!(second.iter().map(|leased| leased.delivery_id).collect::<Vec<_>>(), [next]);
        succeed(&world, &second).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn one_that_is_committed_while_the_head_goes_is_found_soon() {
    let world = World::new().await;
    let subscription = ordered(&world, json!({})).await;
    let head = store_now(&world, &subscription).await;
    let mut slow = world.pool.begin().await.unwrap();
    let late = store(&mut slow, &subscription).await;
    let mut cancel = world.pool.begin().await.unwrap();
    remove(&mut cancel, head).await; // It sees no other of the key, so it frees none.
    // It was accepted a while ago: a later visit begins behind the time at which it became due.
    sqlx::query("UPDATE queue SET due_at = due_at - interval '5 seconds' WHERE delivery_id = $1")
        .bind(late)
        .execute(&mut *slow)
        .await
        .unwrap();
    slow.commit().await.unwrap();
    assert_eq!(claimed(&world).await, NOBODY);
    assert_eq!(parked(&world).await, 0);
    go_on(&mut cancel, &subscription).await;
    cancel.commit().await.unwrap();
    assert_eq!(claimed_soon(&world).await, [late]);
    world.finish().await;
}

#[tokio::test]
async fn one_with_an_earlier_place_that_is_committed_late_waits_for_the_one_in_flight() {
    for is_worker_lost in [false, true] {
        let world = World::new().await;
        let subscription = ordered(&world, json!({})).await;
        // The lane is due already, so that the slow transaction does not lock it.
        sqlx::query("UPDATE lanes SET due_at = now()").execute(&world.pool).await.unwrap();
        let mut slow = world.pool.begin().await.unwrap();
        let late = store(&mut slow, &subscription).await;
        let ahead = store_now(&world, &subscription).await;
        let leased = claim_now(&world).await;
        assert_eq!(leased[0].delivery_id, ahead);
        slow.commit().await.unwrap();
        sqlx::query("UPDATE lanes SET due_at = now()").execute(&world.pool).await.unwrap();
        assert_eq!(claimed(&world).await, NOBODY, "one of a key at a time");
        if is_worker_lost {
            world.pass(Duration::from_secs(36)).await;
        } else {
            // Visits that come meanwhile do not pass it.
            world.pass(Duration::from_secs(3)).await;
            sqlx::query("UPDATE lanes SET due_at = now()").execute(&world.pool).await.unwrap();
            assert_eq!(claimed(&world).await, NOBODY);
            assert!(record(&mut world.pool.acquire().await.unwrap(), &leased[0], "pending").await);
        }
        let first = claim_now(&world).await;
        assert_eq!(first.iter().map(|leased| leased.delivery_id).collect::<Vec<_>>(), [late]);
        let waiting = world.delivery(&format!("dlv_{}", ahead.simple())).await;
        assert_eq!(waiting["status"], "pending", "it is not in flight any more: {waiting}");
        succeed(&world, &first).await;
        assert_eq!(claimed(&world).await, [ahead]);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_report_that_meets_a_locked_lane_frees_the_key_and_the_place() {
    let world = World::new().await;
    let subscription = ordered(&world, json!({"max_in_flight": 1})).await;
    let (head, next) = head_in_flight(&world, &subscription).await;
    assert_eq!(claimed(&world).await, NOBODY);
    let mut holder = world.pool.begin().await.unwrap();
    sqlx::query("SELECT FROM lanes FOR UPDATE").execute(&mut *holder).await.unwrap();
    succeed(&world, &head).await;
    assert_eq!(noted(&world).await, 1);
    assert_eq!(arm_noted_lanes(&world.pool).await.unwrap(), 0, "it is still locked");
    assert_eq!(noted(&world).await, 1, "and the note stays");
    holder.commit().await.unwrap();
    assert_eq!(arm_noted_lanes(&world.pool).await.unwrap(), 1);
    assert_eq!(claimed(&world).await, [next]);
    world.finish().await;
}

#[tokio::test]
async fn an_ordering_that_changes_while_a_claim_parks_leaves_nobody_parked() {
    let world = World::new().await;
    let subscription = ordered(&world, json!({})).await;
    let (head, next) = head_in_flight(&world, &subscription).await;
    let mut claiming = world.pool.begin().await.unwrap();
    assert!(claim(&mut claiming).await.is_empty());
    change_behind(&world, claiming, &subscription, json!({"ordering": "none"})).await;
    assert_eq!(parked(&world).await, 1);
    let second = claim_now(&world).await;
    assert_eq!(second.iter().map(|leased| leased.delivery_id).collect::<Vec<_>>(), [next]);

    // It is ordered again before the outcomes come, which were claimed while nobody waited for them.
    let patch = Some(json!({"ordering": "fifo"}));
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), patch).await.expect(200);
    let third = store_now(&world, &subscription).await;
    assert_eq!(claimed(&world).await, NOBODY);
    succeed(&world, &head).await;
    assert_eq!(claimed(&world).await, NOBODY, "another one of the key is in flight");
    succeed(&world, &second).await;
    assert_eq!(claimed(&world).await, [third]);
    world.finish().await;
}

#[tokio::test]
async fn a_pause_while_a_claim_parks_holds_and_its_end_lets_go() {
    let world = World::new().await;
    let subscription = ordered(&world, json!({})).await;
    let (head, next) = head_in_flight(&world, &subscription).await;
    let mut claiming = world.pool.begin().await.unwrap();
    assert!(claim(&mut claiming).await.is_empty());
    let pausing = tokio::spawn(answer(world.request(Method::POST, &format!("/subscriptions/{subscription}/pause"))));
    somebody_waits(&world).await;
    claiming.commit().await.unwrap();
    pausing.await.unwrap().expect(200);
    succeed(&world, &head).await;
    assert_eq!(claimed(&world).await, NOBODY, "it is paused");
    world.post(&format!("/subscriptions/{subscription}/resume")).await;
    assert_eq!(claimed(&world).await, [next]);
    world.finish().await;
}
