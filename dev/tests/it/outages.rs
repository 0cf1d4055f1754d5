//! A database that fails without stopping: it takes no writes for a while, ends idle sessions, has defaults of its own,
//! freezes, or lacks a partition.

use std::time::Duration;

use postrider_core::{
    database::{ANSWER_TIMEOUT, Session},
    id::SubscriptionId,
};
use reqwest::Method;

use crate::world::{SOON, World, answer, database_config, uuid};

/// Ends all sessions of the test's database except those of the test itself.
async fn end_sessions(world: &World) {
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'postrider'";
    sqlx::query(end).execute(&world.pool).await.unwrap();
}

async fn set(world: &World, setting: &str, value: &str) {
    let database: String =
        sqlx::query_scalar("SELECT current_database()").fetch_one(&world.pool).await.expect("it has a name");
    let set = format!("ALTER DATABASE {database} SET {setting} = '{value}'");
    sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(&world.pool).await.unwrap();
}

/// Posts again and again until an answer has this status.
async fn posts_until(world: &World, subscription: &str, status: u16) {
    let posting = async {
        loop {
            let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body("x");
            let answered = answer(request).await;
            if answered.status == status {
                break;
            }
            assert!([202, 503].contains(&answered.status.as_u16()), "{}: {}", answered.status, answered.body);
        }
    };
    tokio::time::timeout(SOON, posting).await.unwrap_or_else(|_| panic!("{status} within {SOON:?}"));
}

#[tokio::test]
async fn a_server_that_was_read_only_for_a_while_is_used_again() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    set(&world, "default_transaction_read_only", "on").await;
    end_sessions(&world).await;
    posts_until(&world, &subscription, 503).await;
    answer(world.anonymous(Method::GET, "/health/ready")).await.problem(503);
    set(&world, "default_transaction_read_only", "off").await;
    // A session that was opened while the database was read-only would stay read-only; such a session must not be kept.
    posts_until(&world, &subscription, 202).await;
    assert_eq!(answer(world.anonymous(Method::GET, "/health/ready")).await.status, 200);
    world.api_stops().await;
}

#[tokio::test]
async fn the_first_post_after_a_silence_is_accepted() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "x").await;
    set(&world, "idle_session_timeout", "1500ms").await;
    end_sessions(&world).await;
    posts_until(&world, &subscription, 202).await;
    let ended = async {
        let open = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'postrider' AND query LIKE '%accept(%'";
        while sqlx::query_scalar::<_, i64>(open).fetch_one(&world.pool).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, ended).await.expect("the server ends the session");
    world.ingest(&subscription, "y").await;
    world.drain().await;
    world.finish().await;
}

#[tokio::test]
async fn sessions_do_not_depend_on_the_databases_defaults() {
    let world = World::new().await;
    for (setting, value) in
        [("default_transaction_isolation", "serializable"), ("jit", "on"), ("timezone", "Asia/Tokyo")]
    {
        set(&world, setting, value).await;
    }
    for session in [Session::Management, Session::Ingest, Session::FanOut, Session::Queue, Session::Hot] {
        let pool = database_config(&world.env).pool(session, 1);
        for (setting, value) in [
            ("transaction_isolation", "read committed"),
            ("jit", "off"),
            ("timezone", "UTC"),
            ("idle_in_transaction_session_timeout", if session == Session::FanOut { "2s" } else { "5s" }),
        ] {
            let is: String =
                sqlx::query_scalar("SELECT current_setting($1)").bind(setting).fetch_one(&pool).await.unwrap();
            assert_eq!(is, value, "{setting} of {session:?}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn a_missing_partition_is_made_when_an_event_needs_it() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let drop = "DO $$ DECLARE part record; BEGIN
                  FOR part IN SELECT name FROM partitions WHERE day >= (now() AT TIME ZONE 'UTC')::date LOOP
                      EXECUTE format('DROP TABLE %I', part.name);
                  END LOOP;
                END $$";
    sqlx::raw_sql(drop).execute(&world.pool).await.unwrap();
    world.ingest(&subscription, "x").await;
    assert_eq!(world.drain().await, 1);
    world.finish().await;
}

#[tokio::test]
async fn a_frozen_server_is_given_up_and_not_asked_again_on_the_same_sessions() {
    let world = World::new().await;
    let subscription = SubscriptionId(uuid(&world.subscription("/success").await));
    let cache = world.worker.cache();
    cache.get(subscription).await.unwrap().expect("it is there");
    cache.invalidate(&postrider_core::announce::changes::Change::Anything).await;
    let frozen = freeze(&world).await;
    // On a slow machine the session may have rested for longer than it is trusted; then it is tested, and replaced.
    let load = cache.get(subscription);
    let loaded = tokio::time::timeout(ANSWER_TIMEOUT + Duration::from_secs(5), load).await.expect("it is given up");
    assert!(!matches!(loaded, Ok(None)), "no answer is not the answer that there is no such subscription");
    // The worker opens other sessions, while the frozen ones stay frozen.
    let again = async { while cache.get(subscription).await.is_err() {} };
    tokio::time::timeout(SOON, again).await.expect("it is loaded on another session");
    drop(frozen);
    world.api_stops().await;
}

/// The process ids of frozen Postgres sessions. They go on when this is dropped.
struct Frozen(Vec<i32>);

async fn freeze(world: &World) -> Frozen {
    let pids = "SELECT pid FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'postrider'";
    let frozen = Frozen(sqlx::query_scalar(pids).fetch_all(&world.pool).await.unwrap());
    frozen.signal("STOP");
    frozen
}

impl Frozen {
    fn signal(&self, signal: &str) {
        for pid in &self.0 {
            // A session that has ended meanwhile needs no signal.
            let _ = std::process::Command::new("kill").args([&format!("-{signal}"), &pid.to_string()]).status();
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal("CONT");
    }
}
