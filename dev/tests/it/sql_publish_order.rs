//! The order of events that were published by SQL, where a subscription wants its events in order.

use postrider_core::delivery::outbox;
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::world::{World, worker};

async fn number(pool: &PgPool, query: &'static str) -> i64 {
    sqlx::query_scalar(query).fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn workers_that_fan_out_at_once_keep_the_order_of_publishing() {
    let world = World::new().await;
    world.subscribe("/success", json!({"ordering": "fifo"})).await;
    // The payloads tell the order; many events share a millisecond.
    let publish = "SELECT count(publish('a.b', to_jsonb(n), ordering_key => CASE WHEN n % 2 = 0 THEN 'k' END))
                     FROM generate_series(1, 600) n";
    assert_eq!(number(&world.pool, publish).await, 600);
    let workers = [worker(&world.env), worker(&world.env), worker(&world.env)];
    while number(&world.pool, "SELECT count(*) FROM outbox").await > 0 {
        let [one, two, three] = workers.each_ref().map(|one| outbox::step(one.fan_outs(), one.cache(), Uuid::nil()));
        let (one, two, three) = tokio::join!(one, two, three);
        one.unwrap();
        two.unwrap();
        three.unwrap();
    }
    let wrong = "SELECT count(*) FROM (SELECT q.ordering_key, convert_from(e.payload, 'UTF8')::integer AS n,
                                              lag(convert_from(e.payload, 'UTF8')::integer)
                                                  OVER (PARTITION BY q.ordering_key ORDER BY q.sequence) AS ahead
                                         FROM queue q JOIN events e ON e.id = q.event_id) x
                  WHERE x.n < x.ahead";
    assert_eq!(number(&world.pool, "SELECT count(DISTINCT ordering_key) FROM queue").await, 2);
    assert_eq!(number(&world.pool, wrong).await, 0, "one has overtaken another");
    world.finish().await;
}

#[tokio::test]
async fn a_tenant_whose_events_another_worker_fans_out_in_order_holds_up_no_other() {
    let world = World::new().await;
    world.subscribe("/success", json!({"ordering": "fifo"})).await;
    let publish = "SELECT count(publish('a.b', '1', tenant => CASE WHEN n > 100 THEN 'other' ELSE 'default' END))
                     FROM generate_series(1, 101) n";
    assert_eq!(number(&world.pool, publish).await, 101);
    let step = async || outbox::step(world.worker.fan_outs(), world.worker.cache(), Uuid::nil()).await.unwrap().events;
    let mut another = world.pool.begin().await.unwrap();
    sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || '_outbox default', 0))")
        .execute(&mut *another)
        .await
        .unwrap();
    assert_eq!(step().await, 1, "the other tenant's, which comes last");
    assert_eq!(step().await, 0);
    another.commit().await.unwrap();
    assert_eq!(step().await, 32);
    assert_eq!(number(&world.pool, "SELECT count(*) FROM outbox WHERE tenant_id = 'default'").await, 68);
    world.finish().await;
}

#[tokio::test]
async fn an_event_that_somebody_has_locked_holds_up_its_ordered_tenant_and_no_other() {
    let world = World::new().await;
    world.subscribe("/success", json!({"ordering": "fifo"})).await;
    let publish = "SELECT count(publish('a.b', '1', tenant => CASE WHEN n = 1 THEN 'default' ELSE 'other' END))
                     FROM generate_series(1, 5) n";
    let mut holder = world.pool.begin().await.unwrap();
    assert_eq!(number(&world.pool, publish).await, 5);
    // A look of ours skips what is locked, so the lock is on an event that the look has passed.
    sqlx::query(
        "UPDATE outbox SET event_id = uuid_floor(clock_timestamp() - interval '1 hour') WHERE tenant_id <> 'other'",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    sqlx::query("SELECT FROM outbox WHERE tenant_id <> 'other' FOR UPDATE").execute(&mut *holder).await.unwrap();
    assert_eq!(number(&world.pool, "SELECT count(publish('a.b', '2'))").await, 1);
    let step = async || outbox::step(world.worker.fan_outs(), world.worker.cache(), Uuid::nil()).await.unwrap().events;
    assert_eq!(step().await, 4, "those of the other tenant");
    holder.commit().await.unwrap();
    assert_eq!(step().await, 2);
    world.finish().await;
}

#[tokio::test]
async fn an_event_whose_transaction_was_long_is_not_overtaken_by_one_that_was_published_after_it() {
    let world = World::new().await;
    world.subscribe("/success", json!({"ordering": "fifo"})).await;
    assert_eq!(number(&world.pool, "SELECT count(publish('a.b', '1'))").await, 1);
    // As if this event's transaction had been open for a minute.
    let age = "UPDATE outbox SET event_id = uuid_floor(clock_timestamp() - interval '1 minute')";
    sqlx::query(age).execute(&world.pool).await.unwrap();
    assert_eq!(number(&world.pool, "SELECT count(publish('a.b', '2'))").await, 1);
    let look = async || outbox::step(world.worker.fan_outs(), world.worker.cache(), Uuid::max()).await.unwrap().events;
    assert_eq!(look().await, 2, "a look at late events takes the early one along");
    world.finish().await;
}
