//! Publishing by SQL, inside a transaction of the producer.

use std::time::Duration;

use postrider_core::delivery::outbox;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection, PgPool};
use uuid::Uuid;

use crate::world::{SOON, World, id, worker};

async fn waiting(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(pool).await.expect("counted")
}

async fn publish(connection: &mut PgConnection, arguments: &str) -> Result<String, sqlx::Error> {
    let call = format!("SELECT postrider.publish({arguments})");
    sqlx::query_scalar(sqlx::AssertSqlSafe(call)).fetch_one(connection).await
}

#[tokio::test]
async fn what_commits_is_delivered_and_what_rolls_back_leaves_nothing() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/success", json!({"filters": {"metadata": {"region": "eu"}}})).await);
    let (stop, running) = world.run_worker();
    let mut own = world.pool.acquire().await.unwrap();
    own.execute("CREATE TABLE orders (number integer)").await.unwrap();

    let mut transaction = own.begin().await.unwrap();
    transaction.execute("INSERT INTO orders VALUES (1)").await.unwrap();
    publish(
        &mut transaction,
        r#"event_type => 'order.created', payload => '{"number": 1}', metadata => '{"region": "eu"}'"#,
    )
    .await
    .unwrap();
    transaction.rollback().await.unwrap();

    let mut transaction = own.begin().await.unwrap();
    transaction.execute("INSERT INTO orders VALUES (2)").await.unwrap();
    let event_id = publish(
        &mut transaction,
        r#"event_type => 'order.created', payload => '{"number": 2}',
           metadata => '{"region": "eu"}', ordering_key => 'k'"#,
    )
    .await
    .unwrap();
    transaction.commit().await.unwrap();
    world.receiver.wait_for(1, SOON).await.expect("it is delivered");
    world.queue_is_empty().await;
    let received = world.receiver.received();
    assert_eq!(received.len(), 1);
    assert_eq!(serde_json::from_slice::<Value>(&received[0].body).unwrap(), json!({"number": 2}));
    assert_eq!(received[0].header("webhook-id"), event_id);
    let event = world.get(&format!("/events/{event_id}")).await;
    assert_eq!((&event["event_type"], &event["ordering_key"]), (&json!("order.created"), &json!("k")));
    let deliveries = world.get(&format!("/events/{event_id}/deliveries")).await;
    assert_eq!(deliveries["data"][0]["subscription_id"], subscription);
    assert_eq!(waiting(&world.pool).await, 0);
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_key_makes_publishing_twice_safe_and_mistakes_are_told() {
    let world = World::new().await;
    world.subscription("/success").await;
    let mut own = world.pool.acquire().await.unwrap();
    let call = "event_type => 'a.b', payload => '{\"n\": 1}', idempotency_key => 'k-1'";
    let first = publish(&mut own, call).await.unwrap();
    assert_eq!(publish(&mut own, call).await.unwrap(), first);
    assert_eq!(waiting(&world.pool).await, 1);
    assert_eq!(world.drain().await, 1);
    assert_eq!(publish(&mut own, call).await.unwrap(), first, "also when it has been delivered");
    let other = publish(&mut own, &format!("{call}, tenant => 'other'")).await.unwrap();
    assert_ne!(other, first);
    for (arguments, part) in [
        ("'a.b', '{\"n\": 2}', idempotency_key => 'k-1'", "something else"),
        ("'not a type', '{}'", "event_type"),
        ("'/orders', '{}'", "event_type"),
        ("'orders//create', '{}'", "event_type"),
        ("'user:', '{}'", "event_type"),
        ("NULL, '{}'", "event_type"),
        ("'a.b', NULL", "payload"),
        ("'a.b', to_jsonb(repeat('x', 1048576))", "payload"),
        ("'a.b', '{}', tenant => ''", "tenant"),
        ("'a.b', '{}', metadata => '[1]'", "metadata"),
        ("'a.b', '{}', metadata => '{\"a\": 1}'", "metadata"),
        ("'a.b', '{}', deliver_at => now() + interval '400 days'", "deliver_at"),
        ("'a.b', '{}', deliver_at => 'infinity'", "deliver_at"),
        ("'a.b', '{}', expires_at => now()", "expires_at"),
        ("'a.b', '{}', expires_at => 'infinity'", "expires_at"),
        ("'a.b', '{}', expires_at => '-infinity'", "expires_at"),
        ("'a.b', '{}', idempotency_key => ''", "idempotency_key"),
    ] {
        let refused = publish(&mut own, arguments).await.expect_err(arguments);
        assert!(refused.to_string().contains(part), "{arguments}: {refused}");
    }
    let past = "'a.b', '{\"n\": 3}', deliver_at => '-infinity', idempotency_key => 'k-2'";
    let third = publish(&mut own, past).await.unwrap();
    let timed = "'a.b', '{}', expires_at => '2027-06-01 12:00:00Z', idempotency_key => 'k-3'";
    let timed_id = publish(&mut own, timed).await.unwrap();
    own.execute("SET timezone = 'Asia/Tokyo'").await.unwrap();
    assert_eq!(publish(&mut own, past).await.unwrap(), third);
    assert_eq!(publish(&mut own, timed).await.unwrap(), timed_id, "whatever the session's time zone");
    own.execute("RESET timezone").await.unwrap();
    world.drain().await;
    assert_eq!(world.receiver.count(), 3, "the other tenant has no subscription");
    world.finish().await;
}

#[tokio::test]
async fn an_event_with_which_something_is_wrong_does_not_stop_the_others() {
    let world = World::new().await;
    world.subscription("/success").await;
    // publish() would refuse this event, but the owner of the tables can insert it all the same.
    sqlx::query(
        "INSERT INTO outbox (event_id, tenant_id, event_type, payload) VALUES (uuid_v7(), 'default', 'a b', '1')",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let mut own = world.pool.acquire().await.unwrap();
    for _ in 0..3 {
        publish(&mut own, "'a.b', '{}'").await.unwrap();
    }
    while world.drain().await > 0 {}
    assert_eq!(world.receiver.count(), 3);
    assert_eq!(waiting(&world.pool).await, 1, "it is kept, and tried again later");
    world.finish().await;
}

#[tokio::test]
async fn the_publisher_role_may_publish_and_nothing_else() {
    let world = World::new().await;
    world.subscription("/success").await;
    let mut own = world.pool.acquire().await.unwrap();
    own.execute("SET ROLE postrider_publisher").await.unwrap();
    // A temporary table of the caller must not be taken for Postrider's table of the same name.
    own.execute("SET search_path = pg_temp").await.unwrap();
    own.execute("CREATE TEMPORARY TABLE outbox (event_id uuid)").await.ok();
    publish(&mut own, "'a.b', '{}'").await.unwrap();
    own.execute("SET search_path = postrider, pg_temp").await.unwrap();
    for statement in [
        "SELECT * FROM postrider.subscriptions",
        "SELECT * FROM postrider.outbox",
        "DELETE FROM postrider.events",
        "SELECT postrider.wake(true, false, '{}')",
    ] {
        let refused = own.execute(statement).await.expect_err(statement);
        assert!(refused.to_string().contains("permission denied"), "{statement}: {refused}");
    }
    own.execute("RESET ROLE").await.unwrap();
    own.execute("RESET search_path").await.unwrap();
    drop(own);
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_look_that_begins_late_passes_old_events_and_a_sweep_finds_them() {
    let world = World::new().await;
    let mut own = world.pool.acquire().await.unwrap();
    publish(&mut own, "'a.b', '{}'").await.unwrap();
    // As if this event's transaction had been open for a minute.
    let age = "UPDATE outbox SET event_id = uuid_floor(clock_timestamp() - interval '1 minute')";
    sqlx::query(age).execute(&world.pool).await.unwrap();
    publish(&mut own, "'a.b', '{}'").await.unwrap();
    let look = async |from| outbox::step(world.worker.fan_outs(), world.worker.cache(), from).await.unwrap().events;
    assert_eq!(look(Uuid::max()).await, 1, "an event of the last seconds is found in any case");
    assert_eq!(look(Uuid::max()).await, 0);
    assert_eq!(look(Uuid::nil()).await, 1);
    assert_eq!(waiting(&world.pool).await, 0);
    world.finish().await;
}

#[tokio::test]
async fn a_fan_out_that_is_too_wide_for_one_transaction_is_done_in_parts_and_loses_nobody() {
    let world = World::new().await;
    world.subscription("/success").await;
    world.multiply(20_499).await;
    let mut own = world.pool.acquire().await.unwrap();
    publish(&mut own, "'before', '{}'").await.unwrap();
    let wide = publish(&mut own, "'wide', '{}'").await.unwrap();
    publish(&mut own, "'after', '{}', tenant => 'nobody'").await.unwrap();
    // Two workers run at once, and neither takes the events that the other is working on.
    let (one, two) = (worker(&world.env), worker(&world.env));
    while waiting(&world.pool).await > 0 {
        let steps = tokio::join!(
            outbox::step(one.fan_outs(), one.cache(), Uuid::nil()),
            outbox::step(two.fan_outs(), two.cache(), Uuid::nil()),
        );
        steps.0.unwrap();
        steps.1.unwrap();
    }
    let counted: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT count(*), count(DISTINCT subscription_id) FROM deliveries GROUP BY event_id ORDER BY event_id",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert_eq!(counted, [(20_500, 20_500), (20_500, 20_500)]);
    let widest: i64 =
        sqlx::query_scalar("SELECT max(n) FROM (SELECT count(*) AS n FROM deliveries GROUP BY xmin::text) x")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(widest, 10_000, "deliveries of one transaction");
    let events: i64 = sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&world.pool).await.unwrap();
    assert_eq!(events, 3, "one of them owes nothing");
    assert!(world.get(&format!("/events/{wide}")).await["created_at"].is_string());
    // Only the invariants of the 41,000 deliveries are checked; the deliveries themselves are not made.
    tokio::time::timeout(Duration::from_secs(60), world.finish()).await.expect("in time");
}
