//! Plans: a hot statement reads the rows that it needs and never a whole table, whatever the statistics say. Postgres
//! counts the rows.

use chrono::Utc;
use postrider_core::{
    access::{api_key, portal_link},
    database::Session,
    delivery::{job::walk, outbox},
    page::Page,
    stats::tenants,
};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::world::{World, database_config, id, uuid};

/// The large lane, the outbox and the idempotency keys have this many rows, so that reading all of them shows.
const MANY: i64 = 20_000;

/// The states that the statistics may be in, each with the statements that bring it about.
const STATISTICS: [(&str, &str); 4] = [
    ("as never looked at", "SELECT 1"),
    ("fresh", "ANALYZE"),
    ("as if empty", "UPDATE pg_class SET reltuples = 0, relpages = 0 WHERE relnamespace = 'postrider'::regnamespace"),
    (
        "as if huge",
        "UPDATE pg_class SET reltuples = 1e6, relpages = 1e5
          WHERE relname IN ('queue', 'lanes', 'outbox', 'idempotency_keys')
            AND relnamespace = 'postrider'::regnamespace",
    ),
];

/// How many rows of our tables this session has read, through indexes or not, and has not yet reported to the server.
const READ: &str = "SELECT coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::bigint
                      FROM pg_stat_xact_user_tables WHERE schemaname = 'postrider'";

/// How many rows of our tables a statement reads, inside of functions too.
async fn rows_read(pool: &PgPool, statement: &str) -> i64 {
    let mut transaction = pool.begin().await.unwrap();
    let before: i64 = sqlx::query_scalar(READ).fetch_one(&mut *transaction).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).fetch_all(&mut *transaction).await.unwrap();
    let after: i64 = sqlx::query_scalar(READ).fetch_one(&mut *transaction).await.unwrap();
    transaction.rollback().await.unwrap();
    after - before
}

/// What work answers on the one connection of this pool, and how many rows it reads. The numbers that the server has of
/// all sessions would not do: each reports seconds later what it has read, such as what a test was filled with.
async fn reading<T>(pool: &PgPool, work: impl Future<Output = T>) -> (T, i64) {
    // After this report, the session makes none for a second.
    sqlx::query("SELECT pg_stat_force_next_flush()").execute(pool).await.unwrap();
    let before: i64 = sqlx::query_scalar(READ).fetch_one(pool).await.unwrap();
    let answer = work.await;
    let after: i64 = sqlx::query_scalar(READ).fetch_one(pool).await.unwrap();
    (answer, after - before)
}

/// Makes one lane with a deep backlog, a thousand other lanes, a full outbox and many idempotency keys. Answers two
/// deliveries that are leased with token 7.
async fn fill(world: &World, subscription: Uuid) -> [Uuid; 2] {
    let fill = format!(
        "INSERT INTO queue (delivery_id, event_id, lane_id, due_at, lease_token)
         SELECT d, d, '{subscription}', now() - interval '1 hour' + n * interval '1 millisecond', NULL
           FROM (SELECT uuid_floor(now() - interval '5 minutes' + n * interval '1 millisecond') AS d, n
                   FROM generate_series(1, {MANY}) n) x;
         INSERT INTO lanes (id, subscription_id, lease_ms)
         SELECT md5(n::text)::uuid, '{subscription}', 35000 FROM generate_series(1, 1000) n;
         INSERT INTO events (id, tenant_id, event_type, content_type, payload, created_at)
         SELECT delivery_id, 'default', 'a.b', 'text/plain', 'x', now() FROM queue;
         INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, created_at)
         SELECT delivery_id, delivery_id, 'default', lane_id, now() FROM queue;
         UPDATE lanes SET due_at = now() WHERE id = '{subscription}';
         UPDATE queue SET lease_token = 7 WHERE delivery_id IN (SELECT delivery_id FROM queue ORDER BY 1 DESC LIMIT 2);
         INSERT INTO outbox (event_id, tenant_id, event_type, payload)
         SELECT uuid_v7(), 'nobody', 'a.b', '1' FROM generate_series(1, {MANY});
         INSERT INTO idempotency_keys (tenant_id, key, fingerprint, event_id, expires_at)
         SELECT 'default', 'event:' || n, 'x', uuid_v7(), now() + interval '1 day' FROM generate_series(1, {MANY}) n"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(fill)).execute(&world.pool).await.unwrap();
    let leased = sqlx::query_scalar("SELECT delivery_id FROM queue WHERE lease_token = 7");
    leased.fetch_all(&world.pool).await.unwrap().try_into().expect("two")
}

/// The hot statements, each with the range of rows that it may read.
fn statements(subscription: Uuid, leased: [Uuid; 2]) -> Vec<(&'static str, String, std::ops::Range<i64>)> {
    let outcome = |id: Uuid, end: &str| format!("ROW('{id}', 7, '{subscription}', {end})::outcome");
    let succeeded = "'succeeded', NULL, NULL, false, false, 1, now(), 1, 200, NULL, NULL, '[]', 'x', false, \
                     NULL, 1, NULL, 2, 3, '127.0.0.1', false";
    let retried = "'pending', 1000, NULL, false, false, 1, now(), 1, 500, 'timeout', '', '[]', 'x', false, \
                   NULL, NULL, NULL, NULL, 3, '127.0.0.1', true";
    let id = "uuid_floor(now() - interval '1 hour' - n * interval '1 second')";
    let accept = |keys: &str| {
        format!(
            "SELECT accept(
                ARRAY(SELECT ROW({id}, 'default', 'a.b', NULL, false, 'text/plain', NULL, 'x', NULL, NULL, NULL,
                                 NULL, NULL, NULL, NULL)::new_event FROM generate_series(1, 50) n),
                ARRAY(SELECT ROW({id}, {id}, 'default', '{subscription}', md5(n::text)::uuid, NULL, NULL,
                                 NULL)::new_delivery FROM generate_series(1, 50) n),
                {keys}, 1000, false, true)"
        )
    };
    let keys = format!(
        "ARRAY(SELECT ROW({id}, 'default', 'event:' || n * 2, 'x', 'x')::event_key FROM generate_series(1, 50) n)"
    );
    vec![
        // Fifty rows are leased. Each is found and changed.
        ("claim", "SELECT * FROM claim(64, 100, '{}', '-infinity', NULL)".to_owned(), 50..300),
        (
            "record",
            format!(
                "SELECT record_outcomes(ARRAY[{}, {}])",
                outcome(leased[0], succeeded),
                outcome(leased[1], retried)
            ),
            2..40,
        ),
        // Fifty lanes are each looked at and armed.
        ("accept", accept("'{}'"), 50..400),
        ("accept with known keys", accept(&keys), 50..400),
        (
            "wake",
            "SELECT wake(true, false, ARRAY(SELECT delivery_id FROM queue ORDER BY delivery_id LIMIT 50))".to_owned(),
            50..400,
        ),
        ("arm one lane", format!("SELECT arm_lane('{subscription}', NULL, now(), NULL, false, '0')"), 1..10),
    ]
}

#[tokio::test]
async fn plans_do_not_flip_with_the_statistics() {
    let world = World::new().await;
    let id = world.subscription("/success").await;
    let leased = fill(&world, uuid(&id)).await;
    let replay = json!({"since": "2020-01-01T00:00:00Z", "statuses": ["succeeded"]});
    world.call(reqwest::Method::POST, &format!("/subscriptions/{id}/replay"), Some(replay)).await.expect(202);
    let fan_out = database_config(&world.env).pool(Session::FanOut, 1);

    for (statistics, statement) in STATISTICS {
        sqlx::raw_sql(statement).execute(&world.pool).await.unwrap();
        for (name, statement, bound) in statements(uuid(&id), leased) {
            let read = rows_read(&world.pool, &statement).await;
            assert!(bound.contains(&read), "{statistics}: {name} read {read} rows, not {bound:?}");
        }
        // A step takes at most 32 events out of the outbox, and a step of a job looks at at most 1,000 rows.
        let (step, read) = reading(&fan_out, outbox::step(&fan_out, world.worker.cache(), Uuid::nil())).await;
        assert_eq!(step.unwrap().events, 32);
        assert!(read < 400, "{statistics}: a step of the outbox read {read} rows");
        sqlx::query("UPDATE jobs SET next_step_at = now()").execute(&world.pool).await.unwrap();
        let (step, read) = reading(&fan_out, walk::step(&fan_out)).await;
        assert_eq!(step.unwrap().map(|step| step.done), Some(0));
        assert!(read < 4000, "{statistics}: a step of a job read {read} rows");
    }
    world.api_stops().await;
}

/// In an ordered lane, one key has a long line that waits. The statistics know nothing but that line.
#[tokio::test]
async fn a_long_line_costs_other_keys_nothing() {
    let world = World::new().await;
    let id = uuid(&id(&world.subscribe("/success", json!({"ordering": "fifo"})).await));
    let fill = |from: i64, to: i64, key: &str, due: &str, token: &str| {
        format!(
            "INSERT INTO queue (delivery_id, event_id, lane_id, due_at, lease_token, ordering_key, sequence)
             SELECT uuid_v7(), uuid_v7(), '{id}', {due}, {token}, {key}, n FROM generate_series({from}, {to}) n;"
        )
    };
    let long_line = fill(1, MANY, "'long'", "'infinity'", "NULL");
    // The line's first delivery is under way, and so is one of every other key. Fifty more keys are due.
    let others = format!(
        "UPDATE queue SET due_at = now() + interval '1 minute', lease_token = 6 WHERE sequence = 1;
         {} {}
         UPDATE lanes SET due_at = now(), floor_at = now() - interval '1 hour', has_parked = true WHERE id = '{id}'",
        fill(MANY + 1, MANY + 50, "'leased ' || n", "now() + interval '1 minute'", "7"),
        fill(MANY + 51, MANY + 100, "'due ' || n", "now() - interval '1 minute'", "NULL"),
    );
    for statement in [long_line.as_str(), "ANALYZE", &others] {
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(&world.pool).await.unwrap();
    }
    let leased = "SELECT array_agg(delivery_id)::text FROM queue WHERE lease_token = 7";
    let leased: String = sqlx::query_scalar(leased).fetch_one(&world.pool).await.unwrap();
    let record = format!(
        "SELECT record_outcomes(ARRAY(
            SELECT ROW(d, 7, '{id}', 'succeeded', NULL, NULL, false, true, 1, now(), 1, 200, NULL, NULL, '[]', 'x',
                       false, NULL, 1, NULL, 2, 3, '127.0.0.1', false)::outcome
              FROM unnest('{leased}'::uuid[]) d))"
    );
    let claim = "SELECT * FROM claim(64, 100, '{}', '-infinity', NULL)".to_owned();
    for (statistics, statement) in STATISTICS {
        sqlx::raw_sql(statement).execute(&world.pool).await.unwrap();
        for (name, statement, bound) in [("claim", &claim, 50..600), ("record", &record, 50..600)] {
            let read = rows_read(&world.pool, statement).await;
            assert!(bound.contains(&read), "{statistics}: {name} read {read} rows, not {bound:?}");
        }
    }
    world.api_stops().await;
}

/// A function in the language SQL that the planner does not inline is parsed and planned again in every statement that
/// calls it, which costs more than most hot functions do.
#[tokio::test]
async fn small_sql_functions_are_inlined() {
    let world = World::new().await;
    let calls: Vec<(String, String)> = sqlx::query_as(
        "SELECT p.proname::text,
                format('SELECT %I(%s) FROM (SELECT %s OFFSET 0) x', p.proname,
                       string_agg('x.a' || a.place, ', ' ORDER BY a.place),
                       string_agg(format('NULL::%s AS a%s', a.type::regtype, a.place), ', ' ORDER BY a.place))
           FROM pg_proc p CROSS JOIN unnest(p.proargtypes) WITH ORDINALITY a (type, place)
           JOIN pg_language l ON l.oid = p.prolang
          WHERE p.pronamespace = 'postrider'::regnamespace AND l.lanname = 'sql' AND NOT p.proretset
          GROUP BY p.oid, p.proname
         UNION ALL
         SELECT p.proname::text, format('SELECT %I()', p.proname)
           FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
          WHERE p.pronamespace = 'postrider'::regnamespace AND l.lanname = 'sql' AND p.pronargs = 0",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    assert!(calls.len() > 5, "{calls:?}");
    for (name, call) in calls {
        let explain = sqlx::AssertSqlSafe(format!("EXPLAIN (VERBOSE, COSTS off) {call}"));
        let plan: Vec<String> = sqlx::query_scalar(explain).fetch_all(&world.pool).await.unwrap();
        assert!(!plan.concat().contains(&format!("{name}(")), "{name} is not inlined: write it in PL/pgSQL\n{plan:#?}");
    }
    world.api_stops().await;
}

#[tokio::test]
async fn tenants_are_found_without_reading_what_is_theirs() {
    let world = World::new().await;
    let fill = "INSERT INTO accepted_hour (tenant_id, event_type, hour, events, bytes)
         SELECT 'tenant ' || t, CASE WHEN n = 0 THEN '' ELSE 'type.' || n END, 
                date_trunc('hour', now()) - h * interval '1 hour', 1, 1
           FROM generate_series(1, 40) t, generate_series(0, 100) n, generate_series(1, 5) h;
         INSERT INTO accepted_minute (tenant_id, event_type, minute, slot, events, bytes)
         SELECT 'tenant ' || t, 'type.' || n, date_trunc('minute', now()), 0, 1, 1
           FROM generate_series(1, 40) t, generate_series(1, 200) n;
         INSERT INTO subscriptions (id, tenant_id, target_url, event_types, metadata, timeout_ms, secret, headers)
         SELECT gen_random_uuid(), 'tenant ' || n % 3000, 'http://127.0.0.1/', '{}', '{}', 1, '', ''
           FROM generate_series(1, 9000) n";
    sqlx::raw_sql(fill).execute(&world.pool).await.unwrap();
    let pages = database_config(&world.env).pool(Session::Pages, 1);
    for (statistics, statement) in STATISTICS {
        sqlx::raw_sql(statement).execute(&world.pool).await.unwrap();
        let (found, read) = reading(&pages, tenants::list(&pages, None, 26, Utc::now())).await;
        assert_eq!(found.unwrap().len(), 26, "{statistics}");
        // A name is looked for in four indexes; each tenant has five hours, and three subscriptions that are counted.
        assert!(read < 600, "{statistics}: {read} rows were read");
    }
    world.api_stops().await;
}

#[tokio::test]
async fn lists_of_keys_and_of_portal_links_do_not_wade_through_each_other() {
    let world = World::new().await;
    let fill = "INSERT INTO api_keys (id, kind, tenant_id, name, scopes, digest, hint, expires_at)
         SELECT uuid_v7(), CASE WHEN n <= 60 THEN 'key' ELSE 'portal_link' END, 'tenant ' || n % 200, 'x', '{read}',
                sha256(n::text::bytea), 'x', now() + (CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END) * interval '1 hour'
           FROM generate_series(1, 20000) n";
    sqlx::raw_sql(fill).execute(&world.pool).await.unwrap();
    let pages = database_config(&world.env).pool(Session::Pages, 1);
    let page = || Page { before: None, limit: 51 };
    for (statistics, statement) in STATISTICS {
        sqlx::raw_sql(statement).execute(&world.pool).await.unwrap();
        let lists = async {
            (api_key::list(&pages, None, page()).await, portal_link::list(&pages, Some("tenant 8"), page()).await)
        };
        let ((keys, links), read) = reading(&pages, lists).await;
        assert_eq!((keys.unwrap().len(), links.unwrap().len()), (51, 51), "{statistics}");
        assert!(read < 400, "{statistics}: {read} rows were read");
    }
    world.api_stops().await;
}
