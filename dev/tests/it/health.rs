//! The health of a subscription's deliveries, and the lists that show which subscriptions are in trouble.

use postrider_core::{
    database::Session,
    id::SubscriptionId,
    subscription::health::{self, COUNTED_MAX, EXAMINED_MAX},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Executor, PgPool};

use crate::{
    access::{call, key},
    flow_settings::{open_circuit, set},
    queue::claim,
    world::{World, database_config, id, uuid},
};

/// A time that does not come while a test runs.
const NEVER: &str = "2999-01-01T00:00:00+00:00";

async fn health_of(world: &World, subscription: &str) -> Value {
    world.get(&format!("/subscriptions/{subscription}/health")).await
}

#[tokio::test]
async fn the_health_of_a_subscription_tells_what_waits_and_how_the_receiver_answers() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let fresh = json!({
        "state": "active", "held_by": [],
        "circuit": {"state": "closed", "failures_in_a_row": 0},
        "waiting": {"due": 0, "scheduled": 0, "in_flight": 0, "is_more": false},
    });
    assert_eq!(health_of(&world, &subscription).await, fresh);

    let delivery = world.ingest(&subscription, "x").await;
    let due = health_of(&world, &subscription).await;
    assert_eq!(due["waiting"], json!({"due": 1, "scheduled": 0, "in_flight": 0, "is_more": false}));
    assert_eq!((&due["held_by"], &due["next_attempt_at"]), (&json!([]), &due["oldest_due_at"]));
    assert_eq!(due["oldest_due_at"], world.delivery(&delivery).await["next_attempt_at"]);

    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    for (verb, state) in [("pause", "paused"), ("disable", "disabled")] {
        world.post(&format!("/subscriptions/{subscription}/{verb}")).await;
        let held = health_of(&world, &subscription).await;
        assert_eq!((&held["state"], &held["held_by"]), (&json!(state), &json!(["paused"])));
        assert_eq!((&held["waiting"]["due"], held.get("next_attempt_at")), (&json!(1), None));
    }
    world.post(&format!("/subscriptions/{subscription}/enable")).await;
    assert_eq!(world.drain().await, 1);
    let done = health_of(&world, &subscription).await;
    assert_eq!(done["waiting"], fresh["waiting"]);
    assert_eq!(done["last_success_at"], world.attempts(&delivery).await[0]["started_at"]);
    for absent in ["oldest_due_at", "next_attempt_at", "last_failure", "failing_since"] {
        assert!(done.get(absent).is_none(), "{absent}");
    }

    world
        .call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(json!({"circuit": null})))
        .await
        .expect(200);
    assert!(health_of(&world, &subscription).await.get("circuit").is_none());
    world.call(Method::DELETE, &format!("/subscriptions/{subscription}"), None).await.expect(204);
    world.call(Method::GET, &format!("/subscriptions/{subscription}/health"), None).await.problem(404);
    world.finish().await;
}

#[tokio::test]
async fn every_hold_is_named() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "x").await;
    for (column, hold) in
        [("rests_until", "retry_after"), ("token_held_until", "rate_limit"), ("full_until", "max_in_flight")]
    {
        set(&world, &subscription, &format!("{column} = '{NEVER}', due_at = '{NEVER}'")).await;
        let held = health_of(&world, &subscription).await;
        assert_eq!((&held["held_by"], &held["next_attempt_at"]), (&json!([hold]), &json!(NEVER)));
        set(&world, &subscription, &format!("{column} = now() - interval '1 second', due_at = now()")).await;
        assert_eq!(health_of(&world, &subscription).await["held_by"], json!([]), "{hold} is over");
    }
    open_circuit(&world, &subscription).await;
    let open = health_of(&world, &subscription).await;
    assert_eq!((&open["held_by"], &open["next_attempt_at"]), (&json!(["circuit"]), &json!(NEVER)));
    assert!(open["failing_since"].is_string() && open["circuit"]["opened_at"].is_string(), "{open}");
    let circuit = &open["circuit"];
    assert_eq!((&circuit["state"], &circuit["next_probe_at"]), (&json!("open"), &json!(NEVER)));
    assert_eq!((&circuit["failures_in_a_row"], &circuit["cooldown_seconds"]), (&json!(12), &json!(600)));

    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    let until = format!("rests_until = '{NEVER}', token_held_until = '{NEVER}', full_until = '{NEVER}'");
    set(&world, &subscription, &until).await;
    let all = json!(["paused", "retry_after", "circuit", "rate_limit", "max_in_flight"]);
    assert_eq!(health_of(&world, &subscription).await["held_by"], all);

    set(&world, &subscription, "circuit_state = 'half_open', open_until = NULL").await;
    let half = health_of(&world, &subscription).await;
    assert_eq!((&half["circuit"]["state"], half["circuit"].get("next_probe_at")), (&json!("half_open"), None));
    world.finish().await;
}

#[tokio::test]
async fn failures_of_the_receiver_are_told_and_faults_of_ours_are_not() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/fail", json!({"retry_policy": {"delays_seconds": [100, 100]}})).await);
    let (first, second) = (world.ingest(&subscription, "1").await, world.ingest(&subscription, "2").await);
    assert_eq!(world.drain().await, 2);
    let told = health_of(&world, &subscription).await;
    assert_eq!(told["waiting"], json!({"due": 0, "scheduled": 2, "in_flight": 0, "is_more": false}));
    let mut next = Vec::new();
    let mut failed = Vec::new();
    for delivery in [&first, &second] {
        next.push(world.delivery(delivery).await["next_attempt_at"].as_str().unwrap().to_owned());
        failed.push(world.attempts(delivery).await[0]["started_at"].as_str().unwrap().to_owned());
    }
    assert_eq!(told["next_attempt_at"].as_str(), next.iter().min().map(String::as_str));
    let last = json!({"at": failed.iter().max(), "status_code": 500, "error_kind": "http_status"});
    assert_eq!((&told["last_failure"], told.get("last_success_at")), (&last, None));

    // These attempts came later, and say nothing of the receiver.
    for (number, kind) in [(2, "shutdown"), (3, "worker_busy"), (4, "payload_gone"), (5, "lease_lost")] {
        let log = "INSERT INTO attempts (delivery_id, number, started_at, error_kind) VALUES ($1, $2, now(), $3)";
        let log = sqlx::query(log);
        log.bind(uuid(&first)).bind(number).bind(kind).execute(&world.pool).await.unwrap();
    }
    assert_eq!(health_of(&world, &subscription).await["last_failure"], last);

    // A delivery that waits for another one of its ordering key has no time of its own.
    let parked = "UPDATE queue SET due_at = 'infinity' WHERE delivery_id = $1";
    for delivery in [&first, &second] {
        sqlx::query(parked).bind(uuid(delivery)).execute(&world.pool).await.unwrap();
        assert!(world.delivery(delivery).await.get("next_attempt_at").is_none());
    }
    let told = health_of(&world, &subscription).await;
    assert_eq!((&told["waiting"]["scheduled"], told.get("next_attempt_at")), (&json!(2), None));

    sqlx::query("UPDATE queue SET due_at = now()").execute(&world.pool).await.unwrap();
    set(&world, &subscription, "due_at = now(), rests_until = '-infinity'").await;
    assert_eq!(claim(&world, 2).await.len(), 1);
    let told = health_of(&world, &subscription).await;
    assert_eq!(told["waiting"], json!({"due": 1, "scheduled": 0, "in_flight": 1, "is_more": false}));
    world.api_stops().await;
}

/// How many rows have been read so far, and how often the queue was read from end to end.
async fn read(pool: &PgPool) -> (i64, i64) {
    pool.execute("SELECT pg_stat_force_next_flush()").await.unwrap();
    sqlx::query_as(
        "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read)::bigint,
                sum(seq_scan) FILTER (WHERE relname = 'queue')::bigint
           FROM pg_stat_user_tables WHERE schemaname = 'postrider'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

#[tokio::test]
async fn the_health_of_a_deep_backlog_is_told_from_a_bounded_number_of_rows() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let fill = format!(
        "CREATE TEMPORARY TABLE past AS SELECT uuid_v7() AS id, n FROM generate_series(1, 60000) n;
         INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, created_at)
         SELECT id, id, 'default', '{0}', now() FROM past;
         INSERT INTO attempts (delivery_id, number, started_at, error_kind)
         SELECT id, 1, now(), CASE WHEN n % 2 = 0 THEN 'timeout' END FROM past;
         INSERT INTO queue (delivery_id, lane_id, event_id, due_at)
         SELECT id, '{0}', id, now() + CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END * interval '1 day' FROM past;
         ANALYZE",
        uuid(&subscription)
    );
    world.pool.acquire().await.unwrap().execute(sqlx::AssertSqlSafe(fill)).await.unwrap();
    // The pool has one connection, so that this connection can be told to report what it has read.
    let pool = database_config(&world.env).pool(Session::Management, 1);
    let before = read(&pool).await;
    let told = health::read(&pool, SubscriptionId(uuid(&subscription))).await.unwrap();
    let after = read(&pool).await;
    let waiting = told.waiting;
    assert_eq!((waiting.due, waiting.scheduled, waiting.is_more), (COUNTED_MAX, COUNTED_MAX, true));
    assert!(told.last_success_at.is_some() && told.last_failure.is_some() && told.oldest_due_at.is_some());
    let bound = 2 * (COUNTED_MAX + 1) + 3 * EXAMINED_MAX + 2 * 3 * EXAMINED_MAX + 1000;
    assert!(after.0 - before.0 <= bound, "{} rows read, {bound} allowed", after.0 - before.0);
    assert_eq!(after.1 - before.1, 0, "the queue was read from end to end");
    world.api_stops().await;
}

#[tokio::test]
async fn subscriptions_in_trouble_are_listed() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for tenant in ["acme", "acme", "bolt", "bolt"] {
        ids.push(id(&world.subscribe("/success", json!({"tenant_id": tenant})).await));
    }
    open_circuit(&world, &ids[0]).await;
    open_circuit(&world, &ids[2]).await;
    set(&world, &ids[2], "circuit_state = 'half_open', open_until = NULL, due_at = now()").await;
    set(&world, &ids[3], "failing_since = now(), failing_attempts = 1").await;
    world.post(&format!("/subscriptions/{}/pause", ids[0])).await;
    let bolts = key(&world, &["read"], Some("bolt")).await.1;
    for (query, expected, bolt) in [
        ("circuit=open", vec![0], vec![]),
        ("circuit=half_open", vec![2], vec![2]),
        ("circuit=closed", vec![3, 1], vec![3]),
        ("failing=true", vec![3, 2, 0], vec![3, 2]),
        ("failing=false", vec![1], vec![]),
        ("failing=true&circuit=closed", vec![3], vec![3]),
        ("failing=false&circuit=open", vec![], vec![]),
        ("circuit=open&state=paused", vec![0], vec![]),
        ("circuit=open&state=active", vec![], vec![]),
        ("failing=true&metadata=a:b", vec![], vec![]),
        ("", vec![3, 2, 1, 0], vec![3, 2]),
    ] {
        let path = format!("/subscriptions?{query}");
        let listed = |page: &Value| -> Vec<usize> {
            assert!(page.get("next_cursor").is_none(), "{path}: {page}");
            let data = page["data"].as_array().unwrap();
            data.iter().map(|one| ids.iter().position(|known| *known == id(one)).unwrap()).collect()
        };
        assert_eq!(listed(&world.get(&path).await), expected, "{path}");
        let theirs = call(&world, &bolts, &Method::GET, &path, None).await.expect(200);
        assert_eq!(listed(&theirs), bolt, "{path} of bolt");
    }
    // Pages of one, in the order of all.
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = world.get(&format!("/subscriptions?failing=true&limit=1{cursor}")).await;
        seen.extend(page["data"].as_array().unwrap().iter().map(id));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, [&ids[3], &ids[2], &ids[0]].map(String::clone));
    for wrong in ["circuit=broken", "failing=perhaps"] {
        world.call(Method::GET, &format!("/subscriptions?{wrong}"), None).await.problem(400);
    }
    world.finish().await;
}

#[tokio::test]
async fn one_subscription_in_trouble_is_found_among_many() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.multiply(15_000).await;
    sqlx::query("ANALYZE").execute(&world.pool).await.unwrap();
    open_circuit(&world, &subscription).await;
    for query in ["circuit=open", "failing=true"] {
        let page = world.get(&format!("/subscriptions?{query}")).await;
        assert_eq!(
            page["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(),
            std::slice::from_ref(&subscription)
        );
        assert!(page.get("next_cursor").is_none(), "only lanes in trouble are looked at");

        // Within a tenant, the subscriptions are looked at one by one, a bounded number for each page.
        let mut seen = Vec::new();
        let (mut cursor, mut pages) = (String::new(), 0);
        loop {
            let page = world.get(&format!("/subscriptions?tenant_id=default&{query}{cursor}")).await;
            seen.extend(page["data"].as_array().unwrap().iter().map(id));
            pages += 1;
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((seen, pages), (vec![subscription.clone()], 2), "{query}");
    }
    world.api_stops().await;
}
