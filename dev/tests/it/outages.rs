//! A database that fails without stopping: it takes no writes for a while, ends idle sessions, has defaults of its own,
//! freezes, or lacks a partition.

use std::time::{Duration, Instant};

use postrider_core::{
    Error,
    database::{ANSWER_TIMEOUT, STEP_TIMEOUT, Session, while_answering},
    id::SubscriptionId,
    queue,
    upkeep::partition,
};
use reqwest::Method;
use serde_json::json;

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
    // That may have been a session that had just been ended. Those that follow would be read-only, and kept.
    for _ in 0..3 {
        let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body("x");
        answer(request).await.problem(503);
        answer(world.anonymous(Method::GET, "/health/ready")).await.problem(503);
    }
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
async fn one_session_that_has_ended_makes_the_others_suspected() {
    let world = World::new().await;
    let pool = database_config(&world.env).pool(Session::Queue, 3);
    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(pool.acquire().await.unwrap());
    }
    drop(open);
    end_sessions(&world).await;
    let mut failures = 0;
    for _ in 0..3 {
        failures += usize::from(partition::runway(&pool).await.is_err());
    }
    assert!(failures <= 1, "{failures} callers have met a session that had ended");
    world.finish().await;
}

#[tokio::test]
async fn a_session_that_takes_no_writes_any_more_is_replaced() {
    let world = World::new().await;
    let pool = database_config(&world.env).pool(Session::Queue, 1);
    // As after a server has been demoted without ending its sessions.
    sqlx::query("SET default_transaction_read_only = on").execute(&pool).await.unwrap();
    let first = queue::arm_noted_lanes(&pool).await;
    assert!(matches!(first, Ok(_) | Err(Error::Unavailable(_))), "it passes by: {first:?}");
    queue::arm_noted_lanes(&pool).await.expect("another session");
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

    // Where it cannot be made, the caller may come again.
    sqlx::raw_sql(drop).execute(&world.pool).await.unwrap();
    let nothing = "CREATE OR REPLACE FUNCTION ensure_partitions(first date, last date) RETURNS integer
                   LANGUAGE sql AS 'SELECT 0'";
    sqlx::raw_sql(nothing).execute(&world.pool).await.unwrap();
    let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body("x");
    answer(request).await.problem(503);
    world.api_stops().await;
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

#[tokio::test]
async fn whoever_meets_a_frozen_session_is_answered_in_time() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.ingest(&subscription, "x").await;
    let frozen = freeze(&world).await;
    // A session that was used a moment ago is not tested before it is used.
    let started = Instant::now();
    let posted = async {
        posts_until(&world, &subscription, 202).await;
        started.elapsed()
    };
    let asked = async {
        let ready = answer(world.anonymous(Method::GET, "/health/ready")).await;
        assert!([200, 503].contains(&ready.status.as_u16()), "{}", ready.status);
        started.elapsed()
    };
    let (posted, asked) = tokio::join!(posted, asked);
    assert!(posted < ANSWER_TIMEOUT + Duration::from_secs(8), "{posted:?}");
    assert!(asked < Duration::from_secs(6), "{asked:?}");
    drop(frozen);
    world.api_stops().await;
}

#[tokio::test]
async fn a_worker_whose_sessions_are_frozen_goes_on_with_others() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    world.post(&format!("/subscriptions/{subscription}/pause")).await;
    let delivery = world.ingest(&subscription, "x").await;
    let others = sessions(&world).await;
    let (stop, running) = world.run_worker();
    let works = async { while count_looks_for_jobs(&world).await == 0 {} };
    tokio::time::timeout(SOON, works).await.expect("it looks for jobs");
    let pids = sessions(&world).await.into_iter().filter(|pid| !others.contains(pid)).collect();
    let frozen = Frozen(pids);
    frozen.signal("STOP");
    let job = json!({"action": "cancel", "filter": {"subscription_id": subscription}});
    world.call(Method::POST, "/jobs", Some(job)).await.expect(202);
    let done = async {
        while world.delivery(&delivery).await["status"] != "canceled" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(STEP_TIMEOUT + SOON, done).await.expect("the step that hangs is given up");
    drop(frozen);
    stop.cancel();
    running.await.unwrap();
    world.finish().await;
}

/// How many sessions have just looked for a job.
async fn count_looks_for_jobs(world: &World) -> i64 {
    let looks = "SELECT count(*) FROM pg_stat_activity
                  WHERE datname = current_database() AND application_name = 'postrider' AND query LIKE '%FROM jobs%'";
    sqlx::query_scalar(looks).fetch_one(&world.pool).await.unwrap()
}

#[tokio::test]
async fn long_work_ends_when_the_database_does_not_answer_any_more() {
    let world = World::new().await;
    let pool = database_config(&world.env).pool(Session::Queue, 1);
    pool.close().await;
    let working = while_answering(&pool, std::future::pending::<Result<(), Error>>());
    let ended = tokio::time::timeout(ANSWER_TIMEOUT + Duration::from_secs(5), working).await.expect("it ends");
    assert!(matches!(ended, Err(Error::Unavailable(_))), "{ended:?}");
    world.finish().await;
}

/// The process ids of Postrider's sessions.
async fn sessions(world: &World) -> Vec<i32> {
    let pids = "SELECT pid FROM pg_stat_activity
                 WHERE datname = current_database() AND application_name = 'postrider'";
    sqlx::query_scalar(pids).fetch_all(&world.pool).await.unwrap()
}

/// The process ids of frozen Postgres sessions. They go on when this is dropped.
struct Frozen(Vec<i32>);

async fn freeze(world: &World) -> Frozen {
    let frozen = Frozen(sessions(world).await);
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
