//! What keeps the database in order: partitions, retention, repairs, the duties of the janitor, and migrations.

use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use postrider_core::upkeep::{invariants, maintenance, partition};
use uuid::Uuid;

use crate::world::{World, store};

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
    let retired = worker::janitor::retire(&world.pool, 3).await.unwrap();
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
    let retired = worker::janitor::retire(&world.pool, 3).await.unwrap();
    assert_eq!((retired.dropped.len(), retired.kept.len()), (5, 0), "{retired:?}");
    assert!(!exists(kept).await);
    assert_eq!(worker::janitor::retire(&world.pool, 3).await.unwrap(), partition::Retired::default(), "twice is safe");
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

#[tokio::test]
async fn a_duty_is_done_by_one_at_a_time() {
    let world = World::new().await;
    let inner = async || maintenance::exclusively(&world.pool, "duty", async { Ok(()) }).await;
    let outer = maintenance::exclusively(&world.pool, "duty", async {
        assert!(!inner().await?, "somebody is at it");
        assert!(maintenance::exclusively(&world.pool, "another", async { Ok(()) }).await?);
        Ok(())
    });
    assert!(outer.await.unwrap());
    assert!(inner().await.unwrap(), "it is free again");
    maintenance::vacuum(&world.pool).await.unwrap();
    maintenance::measure(&world.pool).await.unwrap();
    world.finish().await;
}
