//! What keeps the database in order: partitions, retention, repairs, the duties of the janitor, and migrations.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use postrider_core::{
    Error,
    database::Session,
    upkeep::{invariants, maintenance, partition, queue_size},
};
use uuid::Uuid;

use crate::world::{World, database_config, store};

/// Stores an event of that moment, with one delivery.
async fn store_at(world: &World, subscription: &str, moment: DateTime<Utc>) -> (Uuid, Uuid) {
    let id = |salt: u128| {
        let millis = u128::from(moment.timestamp_millis().unsigned_abs());
        Uuid::from_u128(millis << 80 | 0x7000 << 64 | 1 << 63 | salt)
    };
    let (event, delivery) = (id(1), id(2));
    store(&mut world.pool.acquire().await.unwrap(), subscription, event, delivery).await;
    (event, delivery)
}

async fn table_of(world: &World, delivery: Uuid) -> String {
    sqlx::query_scalar("SELECT tableoid::regclass::text FROM deliveries WHERE id = $1")
        .bind(delivery)
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn midnight_is_a_boundary_like_any_other() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let today: NaiveDate = Utc::now().date_naive();
    let midnight = today.and_hms_opt(0, 0, 0).unwrap().and_utc();
    let (_, last) = store_at(&world, &subscription, midnight - Duration::from_millis(1)).await;
    let (_, first) = store_at(&world, &subscription, midnight).await;
    let (_, tomorrow) = store_at(&world, &subscription, midnight + Duration::from_secs(86_400)).await;
    let name = |day: NaiveDate| format!("deliveries_{}", day.format("%Y%m%d"));
    assert_eq!(table_of(&world, last).await, name(today - Days::new(1)));
    assert_eq!(table_of(&world, first).await, name(today));
    assert_eq!(table_of(&world, tomorrow).await, name(today + Days::new(1)));
    assert_eq!(world.drain().await, 3, "one claim spans the days");
    world.finish().await;
}

#[tokio::test]
async fn retention_drops_days_but_nothing_that_is_still_owed() {
    let world = World::new().await;
    let (done, owed) = (world.subscription("/success").await, world.subscription("/fail").await);
    let today = Utc::now().date_naive();
    let noon = |days| (today - Days::new(days)).and_hms_opt(12, 0, 0).unwrap().and_utc();
    sqlx::query("SELECT ensure_partitions($1, $2)")
        .bind(today - Days::new(5))
        .bind(today)
        .execute(&world.pool)
        .await
        .unwrap();
    let (gone, _) = store_at(&world, &done, noon(5)).await;
    let (kept, unfinished) = store_at(&world, &owed, noon(4)).await;
    let (young, _) = store_at(&world, &done, noon(2)).await;
    assert_eq!(world.drain().await, 3);

    let day = |days: u64| (today - Days::new(days)).format("%Y%m%d").to_string();
    let retired = worker::janitor::retire(&world.pool, 3, None).await.unwrap();
    assert_eq!(retired.dropped.len(), 4, "{retired:?}");
    assert!(retired.dropped.iter().all(|name| name.ends_with(&day(5))), "{retired:?}");
    assert!(retired.kept.iter().all(|name| name.ends_with(&day(4))), "{retired:?}");
    let exists = async |event: Uuid| -> bool {
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM events WHERE id = $1)")
            .bind(event)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    assert_eq!((exists(gone).await, exists(kept).await, exists(young).await), (false, true, true));

    // A detach that broke off half-way leaves a table without a parent; the next round drops that table as well.
    let orphan = format!("events_{}", day(9));
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("CREATE TABLE {orphan} (LIKE events)")))
        .execute(&world.pool)
        .await
        .unwrap();
    let delivery = format!("dlv_{}", unfinished.simple());
    world.post(&format!("/deliveries/{delivery}/cancel")).await;
    let retired = worker::janitor::retire(&world.pool, 3, None).await.unwrap();
    assert_eq!((retired.dropped.len(), retired.kept.len()), (5, 0), "{retired:?}");
    assert!(!exists(kept).await);
    let again = worker::janitor::retire(&world.pool, 3, None).await.unwrap();
    assert_eq!(again, partition::Retired::default(), "twice is safe");
    assert!(partition::runway(&world.pool).await.unwrap() >= 7);
    world.finish().await;
}

#[tokio::test]
async fn a_lane_that_is_due_too_late_is_repaired_and_counted() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "x").await;
    assert_eq!(maintenance::repair_lanes(&world.pool).await.unwrap(), 0);
    sqlx::query("UPDATE lanes SET due_at = now() + interval '1 day', drained_at = NULL")
        .execute(&world.pool)
        .await
        .unwrap();
    assert_eq!(world.drain().await, 0);
    assert!(!invariants::check(&world.pool).await.unwrap().is_empty(), "the invariants tell");
    assert_eq!(maintenance::repair_lanes(&world.pool).await.unwrap(), 1);
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

/// More than any duty of these tests takes.
const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_duty_is_done_by_one_at_a_time() {
    let world = World::new().await;
    let inner = async || maintenance::exclusively(&world.pool, "duty", LIMIT, async { Ok(()) }).await;
    let outer = maintenance::exclusively(&world.pool, "duty", LIMIT, async {
        assert!(!inner().await?, "somebody is at it");
        assert!(maintenance::exclusively(&world.pool, "another", LIMIT, async { Ok(()) }).await?);
        Ok(())
    });
    assert!(outer.await.unwrap());
    assert!(inner().await.unwrap(), "it is free again");
    world.finish().await;
}

#[tokio::test]
async fn a_duty_that_hangs_is_given_up_and_its_lock_is_free_again() {
    let world = World::new().await;
    let hangs = std::future::pending::<postrider_core::Result<()>>();
    let hung = maintenance::exclusively(&world.pool, "duty", Duration::from_millis(50), hangs).await;
    assert!(matches!(hung, Err(Error::Unavailable(_))), "{hung:?}");
    assert!(maintenance::exclusively(&world.pool, "duty", LIMIT, async { Ok(()) }).await.unwrap());
    world.finish().await;
}

#[tokio::test]
async fn hot_tables_with_many_dead_rows_are_vacuumed_however_long_it_takes() {
    let world = World::new().await;
    let mut one = world.pool.acquire().await.unwrap();
    let fill = "INSERT INTO outbox (event_id, tenant_id, event_type, payload)
                SELECT gen_random_uuid(), 'default', 'a.b', 'x' FROM generate_series(1, 1500)";
    // The server's own vacuum might be at the table just then, and ours would leave it alone.
    let alone = "ALTER TABLE outbox SET (autovacuum_enabled = off)";
    for statement in [alone, fill, "DELETE FROM outbox", "SELECT pg_stat_force_next_flush()"] {
        sqlx::query(statement).execute(&mut *one).await.unwrap();
    }
    // A time limit for statements, as the queue's sessions have one, does not end a vacuum.
    let queue = database_config(&world.env).pool(Session::Queue, 1);
    sqlx::query("SET statement_timeout = '50ms'").execute(&queue).await.unwrap();
    let throttle = "SELECT set_config('vacuum_cost_delay', '100', false), set_config('vacuum_cost_limit', '1', false)";
    sqlx::query(throttle).execute(&queue).await.unwrap();
    maintenance::vacuum(&queue).await.unwrap();
    let vacuums = "SELECT vacuum_count FROM pg_stat_user_tables
                    WHERE schemaname = current_schema() AND relname = 'outbox'";
    assert_eq!(sqlx::query_scalar::<_, i64>(vacuums).fetch_one(&mut *one).await.unwrap(), 1);
    let limit: String = sqlx::query_scalar("SHOW statement_timeout").fetch_one(&queue).await.unwrap();
    assert_eq!(limit, "1min", "the connection without a limit is not used for anything else");
    world.finish().await;
}

/// A vacuum reads the whole indexes of a table, so a large table has to have more dead rows.
#[tokio::test]
async fn a_large_table_is_vacuumed_for_more_dead_rows() {
    let world = World::new().await;
    let mut one = world.pool.acquire().await.unwrap();
    let fill = "INSERT INTO freed_keys (lane_id, ordering_key)
                SELECT gen_random_uuid(), n FROM generate_series(1, 61000) n";
    for statement in ["ALTER TABLE freed_keys SET (autovacuum_enabled = off)", fill] {
        sqlx::query(statement).execute(&mut *one).await.unwrap();
    }
    for (dead_up_to, vacuums) in [(1100, 0), (1300, 1)] {
        let delete = "DELETE FROM freed_keys WHERE ordering_key::int <= $1";
        sqlx::query(delete).bind(dead_up_to).execute(&mut *one).await.unwrap();
        sqlx::query("SELECT pg_stat_force_next_flush()").execute(&mut *one).await.unwrap();
        maintenance::vacuum(&world.pool).await.unwrap();
        let count = "SELECT vacuum_count FROM pg_stat_user_tables
                      WHERE schemaname = current_schema() AND relname = 'freed_keys'";
        assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(&mut *one).await.unwrap(), vacuums, "{dead_up_to}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_queue_is_counted_once_for_all_workers() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let depth = async || -> i64 {
        queue_size::measure(&world.pool).await.unwrap();
        sqlx::query_scalar("SELECT due FROM queue_size").fetch_one(&world.pool).await.unwrap()
    };
    world.ingest(&subscription, "1").await;
    assert_eq!(depth().await, 1);
    world.ingest(&subscription, "2").await;
    assert_eq!(depth().await, 1, "another worker has just counted");
    let age = "UPDATE queue_size SET measured_at = now() - interval '11 seconds'";
    sqlx::query(age).execute(&world.pool).await.unwrap();
    assert_eq!(depth().await, 2);
    world.finish().await;
}

#[tokio::test]
async fn a_partition_that_is_needed_after_all_is_attached_again() {
    let world = World::new().await;
    let subscription = world.subscription("/fail").await;
    let today = Utc::now().date_naive();
    let old = today - Days::new(5);
    sqlx::query("SELECT ensure_partitions($1, $1)").bind(old).execute(&world.pool).await.unwrap();
    let (_, delivery) = store_at(&world, &subscription, old.and_hms_opt(12, 0, 0).unwrap().and_utc()).await;
    assert_eq!(world.drain().await, 1);
    // As if somebody had put the delivery back just before the detach, and the process had stopped just after it.
    let name = format!("deliveries_{}", old.format("%Y%m%d"));
    let detach = format!("ALTER TABLE deliveries DETACH PARTITION {name}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(detach)).execute(&world.pool).await.unwrap();
    let retired = worker::janitor::retire(&world.pool, 3, None).await.unwrap();
    assert!(retired.kept.contains(&name) && !retired.dropped.contains(&name), "{retired:?}");
    assert_eq!(table_of(&world, delivery).await, name);
    world.finish().await;
}
