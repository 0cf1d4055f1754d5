//! The invariants of flow control can fail: each is broken by hand, told, and mended again.

use postrider_core::upkeep::invariants;
use serde_json::json;

use crate::{
    flow_races::claim_now,
    world::{World, answer, id},
};

#[tokio::test]
async fn every_invariant_of_flow_control_tells_when_it_is_broken() {
    let world = World::new().await;
    let settings = json!({"ordering": "fifo", "max_in_flight": 5, "circuit": null});
    let subscription = id(&world.subscribe("/success", settings).await);
    let post = async |key: &'static str| {
        let path = format!("/webhooks/ingest/{subscription}");
        let request = world.request(reqwest::Method::POST, &path).header("X-Ordering-Key", key);
        answer(request.body("x")).await.expect(202);
    };
    for key in ["a", "a", "b"] {
        post(key).await;
    }
    let leased = claim_now(&world).await;
    assert_eq!(leased.len(), 2, "and the second one of a key is parked");
    assert_eq!(invariants::check(&world.pool).await.unwrap(), []);

    // What is broken, how, and how it is mended.
    for (told, breaking, mending) in [
        (
            "first of its ordering key is parked, and nobody has freed the key",
            "UPDATE queue SET sequence = -sequence WHERE due_at = 'infinity'",
            "UPDATE queue SET sequence = -sequence WHERE due_at = 'infinity'",
        ),
        (
            "parked delivery in a lane that does not know of it",
            "UPDATE lanes SET has_parked = NULL",
            "UPDATE lanes SET has_parked = true",
        ),
        (
            "ordering key was freed in a lane that is not due",
            "INSERT INTO freed_keys SELECT id, 'a' FROM lanes; UPDATE lanes SET due_at = now() + interval '9 s'",
            "DELETE FROM freed_keys; UPDATE lanes SET due_at = now()",
        ),
        (
            "two deliveries of one ordering key in flight",
            "UPDATE queue SET ordering_key = 'a' WHERE ordering_key = 'b'",
            "UPDATE queue SET ordering_key = 'b' WHERE sequence = (SELECT max(sequence) FROM queue)",
        ),
        (
            "more deliveries in flight than are counted",
            "UPDATE lane_leases SET count = count - 1",
            "UPDATE lane_leases SET count = count + 1",
        ),
        (
            "more deliveries in flight than are counted",
            "ALTER TABLE lane_leases RENAME TO kept; CREATE TABLE lane_leases (LIKE kept)",
            "DROP TABLE lane_leases; ALTER TABLE kept RENAME TO lane_leases",
        ),
        (
            "leases counted below zero",
            "INSERT INTO lane_leases SELECT id, now(), -1, -1, false FROM lanes",
            "DELETE FROM lane_leases WHERE count < 0",
        ),
    ] {
        sqlx::raw_sql(breaking).execute(&world.pool).await.unwrap();
        let found = invariants::check(&world.pool).await.unwrap();
        assert!(found.iter().any(|violation| violation.violation == told), "{told}: {found:?}");
        sqlx::raw_sql(mending).execute(&world.pool).await.unwrap();
        assert_eq!(invariants::check(&world.pool).await.unwrap(), [], "{told} is mended");
    }
    world.finish().await;
}
