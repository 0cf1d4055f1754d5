//! Upgrades under load: the schema of a later release beside the processes of this one. What is simulated here is only
//! what a later release adds; `cargo dev upgrade` does the same with real binaries, from a release's tag to this tree.

use std::{collections::HashMap, fs, time::Instant};

use dev::{traffic::Traffic, up::Process, workspace};
use sqlx::PgPool;

use crate::{crashes::process, world::World};

/// The tables to which the later release adds a column.
const TABLES: [&str; 13] = [
    "api_keys",
    "attempts",
    "dead_letters",
    "deliveries",
    "emitters",
    "events",
    "idempotency_keys",
    "inline_deliveries",
    "jobs",
    "lanes",
    "outbox",
    "queue",
    "subscriptions",
];

/// Stands in each function of the later release.
const MARK: &str = "of a later release";

/// Expands the schema as a later release would: a migration, a column in each table, a table, and newer functions.
async fn expand(pool: &PgPool) {
    let run = async |statement: String| {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.as_str())).execute(pool).await.expect(&statement);
    };
    // A name that is a variable in one of the functions would be ambiguous there: see the traps in docs/STYLE.md.
    for table in TABLES {
        run(format!("ALTER TABLE {table} ADD COLUMN of_a_later_release text")).await;
    }
    run("CREATE TABLE things_of_a_later_release (id bigint PRIMARY KEY)".to_owned()).await;
    for entry in fs::read_dir(workspace().join("core/sql/functions")).expect("the folder is there") {
        let path = entry.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "sql") {
            let text = fs::read_to_string(path).expect("it is text");
            run(text.replacen("AS $$", &format!("AS $$ -- {MARK}\n"), 1)).await;
        }
    }
    run("UPDATE sql_functions SET version = '{999,0,0}', digest = 'later'".to_owned()).await;
    run("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (9999, 'of a later release', true, 'later', 1)"
        .to_owned())
    .await;
}

async fn pair(env: &HashMap<String, String>) -> [Process; 2] {
    [process("api", env).await, process("worker", env).await]
}

/// How many functions are those of the later release.
async fn later_functions(pool: &PgPool) -> i64 {
    let count = "SELECT count(*) FROM pg_proc
                  WHERE pronamespace = 'postrider'::regnamespace AND prosrc LIKE '%' || $1 || '%'";
    sqlx::query_scalar(count).bind(MARK).fetch_one(pool).await.unwrap()
}

/// Sees that events of now are accepted and delivered.
async fn goes_on(traffic: &Traffic) {
    let now = Instant::now();
    traffic.accepted_after(now).await.unwrap();
    traffic.delivered_after(now).await.unwrap();
}

#[tokio::test]
async fn the_schema_of_a_later_release_stops_neither_what_runs_nor_what_starts_under_load() {
    let world = World::new().await;
    let [api, worker] = pair(&world.env).await;
    let traffic = Traffic::start(vec![api.address()]).await.unwrap();
    goes_on(&traffic).await;

    expand(&world.pool).await;
    let installed = later_functions(&world.pool).await;
    assert!(installed > 10, "{installed} functions");
    goes_on(&traffic).await;

    // Those that run since before the migration, and those that have started after it, side by side.
    let [later_api, later_worker] = pair(&world.env).await;
    traffic.move_to(vec![api.address(), later_api.address()]);
    goes_on(&traffic).await;

    // Those that have started after it, alone.
    traffic.move_to(vec![later_api.address()]);
    api.stop().await.unwrap();
    worker.stop().await.unwrap();
    goes_on(&traffic).await;

    let balance = traffic.end().await;
    assert_eq!(balance.lost, 0, "{balance}");
    assert!(balance.refused * 20 <= balance.acknowledged as u64, "an api has refused what it should accept: {balance}");
    later_api.stop().await.unwrap();
    later_worker.stop().await.unwrap();

    assert_eq!(later_functions(&world.pool).await, installed, "the earlier release leaves them as they are");
    world.finish().await;
}
