//! Subscriptions whose receivers do nothing but fail: the operator is warned, and in the end they are disabled.

use std::time::Duration;

use postrider_core::{
    process::config::Stage,
    subscription::{failing::LookedAfter, store::Subscriptions},
};
use reqwest::Method;
use serde_json::json;

use crate::{
    operational_events::{listen, state, told, types_about, waiting},
    world::{SOON, World, id, lookup, uuid, worker},
};

/// The duty of the janitor, with connections of the worker.
async fn look_after(world: &World) -> LookedAfter {
    subscriptions(world).look_after_failing().await.unwrap()
}

fn subscriptions(world: &World) -> Subscriptions {
    let keyring = lookup(&world.env).keyring(Some(Stage::Development)).unwrap();
    Subscriptions::new(world.worker.pool().clone(), keyring)
}

/// Makes a lane look as if its attempts had done nothing but fail for these hours.
async fn fails_for(world: &World, subscription: &str, hours: i32, attempts: i32) {
    let update =
        "UPDATE lanes SET failing_since = clock_timestamp() - make_interval(hours => $2), failing_attempts = $3
                   WHERE id = $1";
    let update = sqlx::query(update).bind(uuid(subscription)).bind(hours).bind(attempts);
    assert_eq!(update.execute(&world.pool).await.unwrap().rows_affected(), 1);
}

/// Whether a lane notes that it is failing, and the last warning.
async fn failing(world: &World, subscription: &str) -> (bool, i32) {
    let query = "SELECT failing_since IS NOT NULL, coalesce(failing_warned, 0) FROM lanes WHERE id = $1";
    sqlx::query_as(query).bind(uuid(subscription)).fetch_one(&world.pool).await.unwrap()
}

const NOTHING: LookedAfter = LookedAfter { warned: 0, disabled: 0 };
const WARNED: LookedAfter = LookedAfter { warned: 1, disabled: 0 };
const DISABLED: LookedAfter = LookedAfter { warned: 0, disabled: 1 };

#[tokio::test]
async fn warnings_and_the_end_come_each_at_its_time() {
    let world = World::new().await;
    let hours = |hours: f64| format!("'2026-11-20 00:00:00Z'::timestamptz + interval '{hours} hours'");
    for (days, after_hours, attempts, warned, expected) in [
        (Some(5), 59.9, 100, 0, None),
        (Some(5), 60.1, 1, 0, Some(50)),
        (Some(5), 60.1, 1, 50, None),
        (Some(5), 89.9, 100, 50, None),
        (Some(5), 90.1, 1, 50, Some(75)),
        (Some(5), 90.1, 1, 0, Some(75)),
        (Some(5), 90.1, 100, 75, None),
        (Some(5), 119.9, 100, 75, None),
        (Some(5), 120.1, 20, 75, Some(100)),
        (Some(5), 120.1, 20, 0, Some(100)),
        (Some(5), 120.1, 19, 75, None),
        (Some(5), 120.1, 19, 50, Some(75)),
        (Some(5), 9000.0, 19, 75, None),
        (Some(1), 12.1, 1, 0, Some(50)),
        (Some(1), 24.1, 20, 75, Some(100)),
        (Some(365), 4379.0, 20, 0, None),
        (Some(365), 8760.1, 20, 75, Some(100)),
        (None, 9000.0, 1000, 0, None),
    ] {
        let since = hours(0.0);
        let days = days.map_or("NULL".to_owned(), |days: i32| days.to_string());
        let call = format!("SELECT failing_step({since}, {attempts}, {warned}, {days}, {})", hours(after_hours));
        let step: Option<i32> =
            sqlx::query_scalar(sqlx::AssertSqlSafe(call.clone())).fetch_one(&world.pool).await.unwrap();
        assert_eq!(step, expected, "{call}");
    }
    let never: Option<i32> =
        sqlx::query_scalar("SELECT failing_step(NULL, 0, 0, 5, now())").fetch_one(&world.pool).await.unwrap();
    assert_eq!(never, None, "nothing fails");
    world.finish().await;
}

#[tokio::test]
async fn who_does_nothing_but_fail_is_warned_of_and_disabled() {
    let world = World::new().await;
    listen(&world, "operator").await;
    let failed = id(&world.subscribe("/fail", json!({"tenant_id": "acme"})).await);
    let waiting = world.ingest(&failed, "x").await;
    assert_eq!(look_after(&world).await, NOTHING);
    for (hours, attempts, expected) in
        [(59, 3, NOTHING), (61, 3, WARNED), (62, 4, NOTHING), (91, 7, WARNED), (121, 19, NOTHING), (122, 20, DISABLED)]
    {
        fails_for(&world, &failed, hours, attempts).await;
        assert_eq!(look_after(&world).await, expected, "{hours} h, {attempts} attempts");
        assert_eq!(look_after(&world).await, NOTHING, "once is enough");
    }
    let disabled = world.get(&format!("/subscriptions/{failed}")).await;
    assert_eq!(disabled["state"], "disabled");
    assert_eq!(disabled["disabled_reason"], "every attempt of the last 5 days has failed");
    let audit = world.get(&format!("/audit-log?target_id={failed}&action=subscription.disabled")).await;
    assert_eq!(audit["data"][0]["actor"], "postrider");
    assert_eq!(world.delivery(&waiting).await["status"], "pending", "its backlog is kept");

    let events = told(&world).await;
    let types = ["subscription.failing", "subscription.failing", "subscription.disabled"];
    let mut of_it = types_about(&events, &failed);
    of_it.sort_unstable_by(|one, other| other.cmp(one));
    assert_eq!(of_it, types);
    for (percent, attempts) in [(50, 3), (75, 7)] {
        let event = events.iter().find(|event| event["percent"] == percent).unwrap();
        assert_eq!((&event["failing_attempts"], &event["disable_after_days"]), (&json!(attempts), &json!(5)));
        let time = |field: &str| event[field].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        assert_eq!(time("disables_at") - time("failing_since"), chrono::TimeDelta::days(5));
        assert!(event["reason"].as_str().unwrap().starts_with("every attempt has failed since 20"), "{event}");
        assert_eq!(event["tenant_id"], "acme");
    }
    let end = events.iter().find(|event| event["event_type"] == "postrider.subscription.disabled").unwrap();
    assert_eq!((&end["failing_attempts"], &end["reason"]), (&json!(20), &disabled["disabled_reason"]));

    world.post(&format!("/subscriptions/{failed}/enable")).await;
    assert_eq!(failing(&world, &failed).await, (false, 0), "it begins anew");
    assert_eq!(look_after(&world).await, NOTHING);
    assert_eq!(worker(&world.env).drain().await.unwrap(), 1, "what was waiting goes out");
    world.finish().await;
}

#[tokio::test]
async fn who_was_warned_of_and_succeeds_again_has_recovered() {
    let world = World::new().await;
    listen(&world, "operator").await;
    let (warned, other) = (world.subscription("/success").await, world.subscription("/success").await);
    fails_for(&world, &warned, 61, 3).await;
    assert_eq!(look_after(&world).await, WARNED);
    fails_for(&world, &other, 59, 3).await;
    for _ in 0..2 {
        for subscription in [&warned, &other] {
            world.ingest(subscription, "x").await;
        }
        world.drain().await;
    }
    for subscription in [&warned, &other] {
        assert_eq!(failing(&world, subscription).await, (false, 0));
    }
    let events = told(&world).await;
    let mut types = types_about(&events, &warned);
    types.sort_unstable();
    assert_eq!(types, ["subscription.failing", "subscription.recovered"], "once");
    assert_eq!(types_about(&events, &other), [""; 0], "nobody was warned of it");
    let recovered = events.iter().find(|event| event["event_type"] == "postrider.subscription.recovered").unwrap();
    assert_eq!((&recovered["failing_attempts"], &recovered["reason"]), (&json!(3), &json!("an attempt has succeeded")));
    assert!(recovered["failing_since"].is_string(), "{recovered}");
    world.finish().await;
}

#[tokio::test]
async fn some_are_left_alone_and_some_begin_anew() {
    let world = World::new().await;
    listen(&world, "operator").await;
    let never = id(&world.subscribe("/fail", json!({"disable_after_days": null})).await);
    let (paused, deleted) = (world.subscription("/fail").await, world.subscription("/fail").await);
    for subscription in [&never, &paused, &deleted] {
        fails_for(&world, subscription, 9000, 100).await;
    }
    world.post(&format!("/subscriptions/{paused}/pause")).await;
    world.call(Method::DELETE, &format!("/subscriptions/{deleted}"), None).await.expect(204);
    assert_eq!(look_after(&world).await, NOTHING);
    world.post(&format!("/subscriptions/{paused}/resume")).await;
    assert_eq!(failing(&world, &paused).await, (false, 0), "nothing could succeed while it was paused");
    assert_eq!(look_after(&world).await, NOTHING);
    let days = json!({"disable_after_days": 365});
    world.call(Method::PATCH, &format!("/subscriptions/{never}"), Some(days)).await.expect(200);
    assert_eq!(look_after(&world).await, DISABLED, "9000 hours are 375 days");

    let moved = world.subscription("/fail").await;
    fails_for(&world, &moved, 100, 100).await;
    assert_eq!(look_after(&world).await, WARNED);
    let path = format!("/subscriptions/{moved}");
    world.call(Method::PATCH, &path, Some(json!({"name": "as before"}))).await.expect(200);
    assert_eq!(failing(&world, &moved).await, (true, 75));
    let elsewhere = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &path, Some(elsewhere)).await.expect(200);
    assert_eq!(failing(&world, &moved).await, (false, 0), "another receiver has not failed");

    let own = id(&world.subscribe("/fail", json!({"tenant_id": "operator"})).await);
    fails_for(&world, &own, 100, 100).await;
    assert_eq!(look_after(&world).await, WARNED);
    fails_for(&world, &own, 121, 100).await;
    assert_eq!(look_after(&world).await, DISABLED);
    assert_eq!(types_about(&told(&world).await, &own), [""; 0], "never about the operator's own");
    assert_eq!(state(&world, &own).await, "disabled", "it is disabled all the same");
    world.finish().await;
}

#[tokio::test]
async fn one_that_cannot_be_opened_keeps_no_other_waiting() {
    let world = World::new().await;
    let failed = world.subscription("/fail").await;
    // The secrets of the copies cannot be opened.
    world.multiply(3).await;
    sqlx::query("UPDATE lanes SET failing_since = now() - interval '200 hours', failing_attempts = 100")
        .execute(&world.pool)
        .await
        .unwrap();
    fails_for(&world, &failed, 150, 100).await;
    assert_eq!(look_after(&world).await, DISABLED, "although the others have been failing for longer");
    assert_eq!(state(&world, &failed).await, "disabled");
    world.finish().await;
}

/// The duty has read that a subscription must be disabled or warned of, and a success that ends this commits before the
/// duty gets at the lane.
#[tokio::test]
async fn a_success_in_the_last_moment_saves_a_subscription() {
    let world = World::new().await;
    listen(&world, "operator").await;
    let failed = world.subscription("/fail").await;
    for hours in [121, 61] {
        fails_for(&world, &failed, hours, 100).await;
        let mut success = world.pool.begin().await.unwrap();
        let end = "UPDATE lanes SET failing_since = NULL, failing_attempts = 0, failing_warned = 0 WHERE id = $1";
        sqlx::query(end).bind(uuid(&failed)).execute(&mut *success).await.unwrap();
        let all = subscriptions(&world);
        let duty = tokio::spawn(async move { all.look_after_failing().await.unwrap() });
        let waits = async {
            let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity
                                           WHERE datname = current_database() AND wait_event_type = 'Lock')";
            while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&world.pool).await.unwrap() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(SOON, waits).await.expect("the duty waits for the lane");
        success.commit().await.unwrap();
        assert_eq!(duty.await.unwrap(), NOTHING, "{hours} h");
        assert_eq!((state(&world, &failed).await, failing(&world, &failed).await), (json!("active"), (false, 0)));
    }
    assert_eq!(waiting(&world).await, 0);
    world.finish().await;
}
