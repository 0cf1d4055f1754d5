//! Lists over many rows. A page reads a bounded number of rows, however few of them pass the filter, and never a whole
//! table. Pages neither skip nor repeat an item.

use std::collections::{BTreeMap, BTreeSet};

use postrider_core::{
    access::audit,
    database::Session,
    delivery::{
        Status,
        dead_letter::{self, Resolved},
        job::filter::Destinations,
        list::{self, Origins},
    },
    event::{self, Deliveries, Filter as EventFilter, metadata::Metadata},
    id::SubscriptionId,
    page::{EXAMINED_MAX, Page, Span},
    subscription::counts::{self, Counts},
};
use reqwest::Method;
use sqlx::{Executor, PgPool};
use uuid::Uuid;

use crate::world::{World, database_config, id};

/// The lists are tried on this many events, and on as many deliveries.
const ROWS: i64 = 60_000;
/// Events of which there is no delivery.
const ALONE: i64 = 40;
/// The rows of a page, and how many rows may be read to show it: the event, the queue row and the last attempt of each
/// item.
const LIMIT: i64 = 51;
const SHOWN: i64 = 6 * LIMIT;

/// Fills the tables with the past of a large and a small tenant, which have one subscription each, with a few thousand
/// dead letters, and with a backlog.
async fn fill(pool: &PgPool) {
    let fill = format!(
        "CREATE TEMPORARY TABLE past AS
         SELECT x.*, (left(x.event::text, 19) || '8' || substr(md5(x.n::text), 1, 3) || '-'
                      || substr(md5(x.n::text), 5, 12))::uuid AS delivery
           FROM (SELECT n, uuid_v7() AS event,
                CASE WHEN n % 1000 = 0 THEN 'small' ELSE 'default' END AS tenant,
                CASE WHEN n % 25 = 1 THEN 'dead_letter' WHEN n % 25 = 2 THEN 'pending' WHEN n % 700 = 3 THEN 'canceled'
                     ELSE 'succeeded' END AS status
           FROM generate_series(1, {ROWS}) n) x;
         INSERT INTO events (id, tenant_id, event_type, content_type, payload, metadata, created_at)
         SELECT event, tenant, CASE WHEN n % 500 = 0 THEN 'rare.type' ELSE 'common.type' END, 'text/plain', 'x',
                CASE WHEN n % 700 = 0 THEN '{{\"k\": \"v\"}}'::jsonb END, now() FROM past;
         INSERT INTO events (id, tenant_id, event_type, content_type, payload, external_id, created_at)
         SELECT uuid_v7(), 'default', 'common.type', 'text/plain', 'x', 'own-' || n, now()
           FROM generate_series(1, {ALONE}) n;
         INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, status, created_at, finished_at, is_replay)
         SELECT delivery, event, tenant, CASE WHEN n % 3000 <> 12 THEN md5(tenant)::uuid END, status::delivery_status,
                now(), CASE WHEN status <> 'pending' THEN now() END, n % 3000 = 13
           FROM past;
         INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status_code, error_kind)
         SELECT delivery, 1, now(), CASE WHEN n % 900 IN (1, 2) THEN 5001 ELSE 5000 END, 200, NULL FROM past
         UNION ALL SELECT delivery, 2, now(), 1, 503, 'http_status' FROM past WHERE n % 900 IN (1, 2);
         INSERT INTO dead_letters (delivery_id, tenant_id, subscription_id, error_kind, status_code)
         SELECT delivery, tenant, md5(tenant)::uuid, CASE WHEN n % 900 = 1 THEN 'http_status' END,
                CASE WHEN n % 900 = 1 THEN 503 END
           FROM past WHERE status = 'dead_letter';
         INSERT INTO queue (delivery_id, lane_id, event_id, due_at, attempt_count)
         SELECT delivery, md5(tenant)::uuid, event, now() + interval '1 year', CASE WHEN n % 900 = 2 THEN 2 ELSE 1 END
           FROM past WHERE status = 'pending';
         INSERT INTO lanes (id, subscription_id, lease_ms)
         SELECT md5(t)::uuid, md5(t)::uuid, 1000 FROM unnest(ARRAY['default', 'small']) t;
         INSERT INTO audit_log (id, tenant_id, actor, action, target_id)
         SELECT uuid_v7(), tenant, 'admin_key', 'subscription.changed', n::text FROM past;
         ANALYZE"
    );
    let mut connection = pool.acquire().await.expect("a connection");
    connection.execute(sqlx::AssertSqlSafe(fill)).await.expect("filled");
}

/// How many rows have been read so far, and how often a table was read from end to end. Tables with hardly any rows are
/// left out, because reading them whole is their best plan.
async fn read(pool: &PgPool) -> (i64, i64) {
    sqlx::query_as(
        "SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read)::bigint, sum(seq_scan)::bigint
           FROM pg_stat_user_tables
          WHERE relname ~ '^(events|deliveries|attempts|inline_deliveries)_2|^(queue|dead_letters|audit_log)$'
            AND n_live_tup > 1000",
    )
    .fetch_one(pool)
    .await
    .expect("counted")
}

fn page(before: Option<Uuid>) -> Page {
    Page { before, limit: LIMIT }
}

/// Counts what waits for the large tenant's subscription and what was given up.
async fn count(pool: &PgPool) {
    let large: Uuid = sqlx::query_scalar("SELECT md5('default')::uuid").fetch_one(pool).await.unwrap();
    let counts = counts::read(pool, &[large]).await.unwrap();
    assert_eq!(counts[&large], Counts { waiting: counts::COUNTED_MAX, dead: counts::COUNTED_MAX });
}

/// Filters of deliveries that ask for something of each row: of all deliveries, of dead letters and of the queue.
fn asking_more() -> impl Iterator<Item = (&'static str, list::Filter, bool)> {
    [None, Some(Status::DeadLetter), Some(Status::Pending)].into_iter().flat_map(|status| {
        let d = || list::Filter { status, ..list::Filter::default() };
        let filters = [
            ("slow", list::Filter { slower_than_ms: Some(5000), ..d() }),
            ("tried", list::Filter { min_attempts: Some(2), ..d() }),
            ("failed so", list::Filter { cause: "http_429".parse().ok(), ..d() }),
            ("inline", list::Filter { destinations: Destinations::Inline, ..d() }),
            ("replays", list::Filter { origins: Origins::Replays, ..d() }),
        ];
        filters.map(|(name, filter)| (name, filter, true))
    })
}

#[tokio::test]
async fn a_page_of_any_list_reads_a_bounded_number_of_rows() {
    let world = World::new().await;
    fill(&world.pool).await;
    // The pool has one connection, so that this connection can be told to report what it has read.
    let pool = database_config(&world.env).pool(Session::Management, 1);
    let tenant = || Some("small".to_owned());
    let kind = || Some("rare.type".parse().unwrap());
    let entry = || Some(Metadata::parse(BTreeMap::from([("k".to_owned(), "v".to_owned())])).unwrap());
    let small = Some(SubscriptionId(sqlx::query_scalar("SELECT md5('small')::uuid").fetch_one(&pool).await.unwrap()));
    let (e, d) = (EventFilter::default, list::Filter::default);
    let events = [
        ("all", e(), false),
        ("tenant", EventFilter { tenant_id: tenant(), ..e() }, false),
        ("type", EventFilter { event_type: kind(), ..e() }, false),
        ("type of a tenant", EventFilter { event_type: kind(), tenant_id: tenant(), ..e() }, false),
        ("metadata", EventFilter { metadata: entry(), ..e() }, true),
        ("posted to", EventFilter { subscription: small, ..e() }, true),
        ("own id", EventFilter { external_id: Some("own-1".to_owned()), ..e() }, true),
        ("without deliveries", EventFilter { deliveries: Deliveries::None, ..e() }, true),
        ("time", EventFilter { span: Span { since: Some(chrono::Utc::now()), until: None }, ..e() }, false),
    ];
    let deliveries = [
        ("all", d(), false),
        ("tenant", list::Filter { tenant_id: tenant(), ..d() }, false),
        ("subscription", list::Filter { subscription: small, ..d() }, false),
        ("canceled", list::Filter { status: Some(Status::Canceled), ..d() }, true),
        ("dead", list::Filter { status: Some(Status::DeadLetter), ..d() }, true),
        ("pending of a tenant", list::Filter { status: Some(Status::Pending), tenant_id: tenant(), ..d() }, true),
        ("in flight", list::Filter { status: Some(Status::InFlight), ..d() }, true),
        ("type", list::Filter { event_type: kind(), ..d() }, true),
        ("metadata", list::Filter { metadata: entry(), ..d() }, true),
    ];
    let mut looks = Vec::new();
    let mut last = settled(&pool).await;
    let mut note = async |list: &str, name: &str, examines: bool| {
        let now = settled(&pool).await;
        looks.push((format!("{list}, {name}"), examines, now.0 - last.0, now.1 - last.1));
        last = now;
    };
    for (name, filter, examines) in events {
        event::list(&pool, &filter, page(None)).await.unwrap();
        note("events", name, examines).await;
    }
    for (name, filter, examines) in deliveries.into_iter().chain(asking_more()) {
        list::list(&pool, &filter, page(None)).await.unwrap();
        note("deliveries", name, examines).await;
    }
    let letters = dead_letter::Filter {
        tenant_id: tenant(),
        subscription: None,
        since: None,
        until: None,
        resolved: Resolved::Excluded,
        error_kind: None,
        status_code: None,
    };
    dead_letter::list(&pool, &letters, page(None)).await.unwrap();
    note("dead letters", "tenant", true).await;
    audit::list(&pool, &audit::Filter { tenant_id: tenant(), ..audit::Filter::default() }, page(None)).await.unwrap();
    note("audit log", "tenant", false).await;

    count(&pool).await;
    note("counts", "of a subscription", true).await;

    for (name, examines, rows, seq_scans) in looks {
        // For each row that is examined, its event or its delivery may be read as well.
        let bound = if examines { 3 * EXAMINED_MAX + SHOWN } else { LIMIT + SHOWN };
        assert!(rows <= bound, "{name}: {rows} rows read for a page of {LIMIT}, {bound} allowed");
        assert_eq!(seq_scans, 0, "{name}: a table was read from end to end");
    }
    world.api_stops().await;
}

/// The numbers of [`read`], after the connection has reported everything that it has read.
async fn settled(pool: &PgPool) -> (i64, i64) {
    pool.execute("SELECT pg_stat_force_next_flush()").await.expect("flushed");
    read(pool).await
}

#[tokio::test]
async fn pages_of_a_sparse_list_neither_skip_nor_repeat() {
    let world = World::new().await;
    fill(&world.pool).await;
    for (path, expected) in [
        ("/events?metadata=k:v", ROWS / 700),
        ("/events?event_type=rare.type", ROWS / 500),
        ("/events?tenant_id=small", ROWS / 1000),
        ("/deliveries?metadata=k:v", ROWS / 700),
        ("/deliveries?status=dead_letter&event_type=rare.type", ROWS / 500 - ROWS / 500),
        ("/deliveries?status=pending", ROWS / 25),
        ("/deliveries?slower_than_ms=5000", 2 * (ROWS / 900 + 1)),
        ("/deliveries?slower_than_ms=5001", 0),
        ("/deliveries?slower_than_ms=5000&status=dead_letter", (ROWS / 900 + 1)),
        ("/deliveries?slower_than_ms=5000&status=pending", (ROWS / 900 + 1)),
        ("/deliveries?slower_than_ms=5000&event_type=rare.type", 0),
        ("/deliveries?min_attempts=2", 2 * (ROWS / 900 + 1)),
        ("/deliveries?min_attempts=3", 0),
        ("/deliveries?min_attempts=2&status=dead_letter", (ROWS / 900 + 1)),
        ("/deliveries?min_attempts=2&status=pending", (ROWS / 900 + 1)),
        ("/deliveries?cause=http_5xx", 2 * (ROWS / 900 + 1)),
        ("/deliveries?cause=http_5xx&status=dead_letter", (ROWS / 900 + 1)),
        ("/deliveries?cause=http_5xx&status=pending", (ROWS / 900 + 1)),
        ("/deliveries?cause=timeout", 0),
        ("/deliveries?inline_only=true", ROWS / 3000),
        ("/deliveries?replays_only=true", ROWS / 3000),
        ("/events?without_deliveries=true", ALONE),
        ("/events?external_id=own-7", 1),
        ("/dead-letters?", ROWS / 25),
        ("/audit-log?tenant_id=small", ROWS / 1000),
    ] {
        let (mut seen, mut items, mut cursor) = (BTreeSet::new(), 0, String::new());
        loop {
            let page = world.get(&format!("{path}&limit=250{cursor}").replace("?&", "?")).await;
            let ids: Vec<_> = page["data"].as_array().unwrap().iter().map(id).collect();
            assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{path}: the newest first");
            items += ids.len();
            seen.extend(ids);
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(i64::try_from(items).unwrap(), expected, "{path}");
        assert_eq!(seen.len(), items, "{path}: none twice");
    }
    for (filter, max) in [("slower_than_ms", 86_400_000), ("min_attempts", 1_000_000)] {
        for number in [0, max + 1] {
            let answer = world.call(Method::GET, &format!("/deliveries?{filter}={number}"), None).await;
            let problem = answer.problem(422).to_string();
            assert!(problem.contains(filter) && problem.contains(&format!("must be from 1 to {max}")), "{problem}");
        }
    }
    world.api_stops().await;
}
