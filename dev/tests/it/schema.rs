//! The schema: many processes bring it up to date at once, processes of different releases share it, and one database
//! holds several schemas. Where the server has `plpgsql_check`, it examines every SQL function.

use tokio::task::JoinSet;
use uuid::Uuid;

use postrider_core::upkeep;

use crate::world::{World, create_database, database_config, environment, worker};

#[tokio::test]
async fn several_starts_at_once_migrate_once_and_schemas_are_apart() {
    let url = create_database(None).await;
    let with_schema = |schema: &str| {
        let mut env = environment(&url);
        env.insert("POSTRIDER_DATABASE_SCHEMA".to_owned(), schema.to_owned());
        env
    };
    let (one, two) = (with_schema("hooks_one"), with_schema("hooks_two"));
    let mut starts = JoinSet::new();
    for env in [&one, &two, &one, &two, &one] {
        let database = database_config(env);
        starts.spawn(async move { database.migrate().await });
    }
    while let Some(start) = starts.join_next().await {
        start.unwrap().unwrap();
    }
    let pool = |env| database_config(env).pool(postrider_core::database::Session::Queue, 2);
    let lane = Uuid::now_v7();
    sqlx::query("INSERT INTO lanes (id, subscription_id, due_at, lease_ms) VALUES ($1, $1, now(), 35000)")
        .bind(lane)
        .execute(&pool(&one))
        .await
        .unwrap();
    for (env, lanes) in [(&one, 1), (&two, 0)] {
        let counted: i64 = sqlx::query_scalar("SELECT count(*) FROM lanes").fetch_one(&pool(env)).await.unwrap();
        assert_eq!(counted, lanes);
        assert_eq!(worker(env).drain().await.unwrap(), 0);
    }
}

#[tokio::test]
async fn an_older_process_starts_beside_a_newer_schema_and_leaves_it_as_it_is() {
    let world = World::new().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'of a later version', true, 'x', 1);
                 UPDATE sql_functions SET version = '{999,0,0}', digest = 'x' WHERE name = 'lane_linger';
                 UPDATE sql_functions SET digest = 'x' WHERE name IN ('claim', 'lane_margin');
                 CREATE OR REPLACE FUNCTION lane_linger() RETURNS interval LANGUAGE sql AS $$ SELECT interval '9 s' $$;
                 CREATE OR REPLACE FUNCTION lane_margin() RETURNS interval LANGUAGE sql AS $$ SELECT interval '9 s' $$";
    sqlx::raw_sql(newer).execute(&world.pool).await.unwrap();
    upkeep::bring_up_to_date(&database_config(&world.env)).await.unwrap();
    let seconds = "SELECT extract(epoch FROM lane_linger())::integer, extract(epoch FROM lane_margin())::integer";
    let (linger, margin): (i32, i32) = sqlx::query_as(seconds).fetch_one(&world.pool).await.unwrap();
    assert_eq!(linger, 9, "the text of a newer version stays");
    assert_eq!(margin, 1, "a text of our own version that differs is installed again");
    let together = "SELECT count(DISTINCT xmin::text) FROM sql_functions WHERE name IN ('claim', 'lane_margin')";
    let transactions: i64 = sqlx::query_scalar(together).fetch_one(&world.pool).await.unwrap();
    assert_eq!(transactions, 1, "all that has changed is installed in one transaction");
    world.finish().await;
}

#[tokio::test]
async fn a_schema_of_other_migrations_is_refused_in_one_sentence() {
    let world = World::new().await;
    sqlx::query("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 1").execute(&world.pool).await.unwrap();
    let refused = upkeep::bring_up_to_date(&database_config(&world.env)).await.unwrap_err().to_string();
    assert!(refused.contains("use another schema or database"), "{refused}");
    world.finish().await;
}

#[tokio::test]
async fn the_publishers_role_is_made_again_after_a_restore() {
    let world = World::with(&[("POSTRIDER_DATABASE_SCHEMA", "restored")]).await;
    let start = || async { upkeep::bring_up_to_date(&database_config(&world.env)).await.unwrap() };
    start().await;
    // Roles are not part of a dump, so a restored database has no publisher role.
    sqlx::raw_sql("DROP OWNED BY restored_publisher; DROP ROLE restored_publisher").execute(&world.pool).await.unwrap();
    start().await;
    let may = "SELECT has_function_privilege('restored_publisher', oid, 'EXECUTE') FROM pg_proc
                WHERE proname = 'publish' AND pronamespace = 'restored'::regnamespace";
    assert!(sqlx::query_scalar::<_, bool>(may).fetch_one(&world.pool).await.unwrap());
    world.api_stops().await;
}

#[tokio::test]
async fn plpgsql_check_finds_nothing_in_our_functions() {
    let world = World::new().await;
    let has = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'plpgsql_check')";
    if !sqlx::query_scalar::<_, bool>(has).fetch_one(&world.pool).await.unwrap() {
        println!("skipped: the server has no plpgsql_check");
        return world.finish().await;
    }
    sqlx::query("CREATE EXTENSION plpgsql_check SCHEMA public").execute(&world.pool).await.unwrap();
    let check = "SELECT p.proname || ': ' || c
                   FROM pg_proc p
                   JOIN pg_language l ON l.oid = p.prolang AND l.lanname = 'plpgsql'
                  CROSS JOIN LATERAL public.plpgsql_check_function(
                        p.oid, CASE p.proname WHEN 'announce_change' THEN 'subscriptions'::regclass
                                              WHEN 'note_freed_key' THEN 'queue'::regclass ELSE 0 END,
                        other_warnings => false, extra_warnings => false,
                        performance_warnings => false) c
                  WHERE p.pronamespace = 'postrider'::regnamespace";
    let found: Vec<String> = sqlx::query_scalar(check).fetch_all(&world.pool).await.unwrap();
    assert!(found.is_empty(), "{found:#?}");
    world.finish().await;
}
