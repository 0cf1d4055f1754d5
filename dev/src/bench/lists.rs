//! Measures the lists on a database with a month of history: the first and the hundredth page of each. The history is
//! written by SQL, and nothing else runs meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;

use super::{System, load::quantile_ms};
use crate::{client::Client, postgres::Postgres};

/// Days of history, and events on each; every event has two deliveries of one attempt each.
const DAYS: i32 = 30;
const EVENTS_PER_DAY: i64 = 166_700;
/// Rows that one statement writes. The sessions that write at the same time.
const ROWS: i64 = 33_340;
const WRITERS: usize = 2;
/// Every page is read this often; the median counts.
const READS: usize = 5;
/// The page that is measured besides the first.
const LATER_PAGE: usize = 100;
/// What each of these pages may take.
const LIMIT: Duration = Duration::from_millis(50);

/// The lists. Half of all events belong to the tenant `default`, whose types are spread evenly over twenty; one in 200
/// deliveries is a dead letter, one in 200 was canceled, and of the last day one in 100 is not finished.
const LISTS: [&str; 16] = [
    "/events?",
    "/events?tenant_id=default&",
    "/events?event_type=type.7&",
    "/events?tenant_id=tenant_7&event_type=type.7&",
    "/events?metadata=region:eu&",
    "/deliveries?",
    "/deliveries?tenant_id=default&",
    "/deliveries?tenant_id=tenant_7&",
    "/deliveries?subscription_id=SUBSCRIPTION&",
    "/deliveries?status=succeeded&",
    "/deliveries?status=dead_letter&",
    "/deliveries?status=canceled&",
    "/deliveries?status=pending&",
    "/deliveries?event_type=type.7&",
    "/dead-letters?",
    "/dead-letters?subscription_id=SUBSCRIPTION&",
];

/// Fills a database and measures every list.
///
/// # Errors
/// When something does not start, a statement fails, or a page takes longer than it may.
pub async fn lists(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let started = Instant::now();
    fill(&system.pool).await?;
    let deliveries: i64 = sqlx::query_scalar("SELECT count(*) FROM deliveries").fetch_one(&system.pool).await?;
    println!("lists:          {deliveries} deliveries over {DAYS} days, written in {:.0?}", started.elapsed());
    println!("                  first page   page {LATER_PAGE}   (ms, median of {READS})");
    let client = Client { address: system.address(), key: &system.key };
    let mut slow = Vec::new();
    let mut answer = json!({});
    for list in LISTS {
        let path = list.replace("SUBSCRIPTION", &subscription_id(7));
        let read = async |cursor: &Option<String>| page(&client, &path, cursor.as_deref()).await;
        let mut cursor = None;
        let first = median(async || read(&None).await).await?;
        for _ in 1..LATER_PAGE {
            cursor = read(&cursor).await?;
            if cursor.is_none() {
                break;
            }
        }
        let later = if cursor.is_some() { Some(median(async || read(&cursor).await).await?) } else { None };
        let shown = later.map_or("none".to_owned(), |later| format!("{later:.1}"));
        println!("                {first:>12.1} {shown:>10}   {list}");
        answer[list] = json!({"first_page_ms": first, "hundredth_page_ms": later});
        if first.max(later.unwrap_or_default()) > LIMIT.as_secs_f64() * 1000.0 {
            slow.push(list);
        }
    }
    system.stop().await?;
    ensure!(slow.is_empty(), "these pages took longer than {LIMIT:?}: {slow:?}");
    Ok(answer)
}

/// The median time of a read in milliseconds.
async fn median(read: impl AsyncFn() -> Result<Option<String>>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..READS {
        let started = Instant::now();
        read().await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    Ok(quantile_ms(&times, 0.5))
}

/// Reads a page; answers the cursor of the next one.
async fn page(client: &Client<'_>, path: &str, cursor: Option<&str>) -> Result<Option<String>> {
    let cursor = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
    let answer = client.get(&format!("{path}limit=50{cursor}")).await?;
    ensure!(answer["data"].is_array(), "{answer}");
    Ok(answer["next_cursor"].as_str().map(str::to_owned))
}

/// The id of one of the thousand subscriptions to which the deliveries belong.
fn subscription_id(number: u32) -> String {
    format!("sub_00000000000070008000{number:012x}")
}

async fn fill(pool: &PgPool) -> Result<()> {
    let partitions = "SELECT ensure_partitions(current_date - $1, current_date)";
    sqlx::query(partitions).bind(DAYS).execute(pool).await?;
    let days: Vec<_> = (1..=DAYS).collect();
    let mut writers = JoinSet::new();
    for share in days.chunks(days.len().div_ceil(WRITERS)) {
        let (pool, share) = (pool.clone(), share.to_vec());
        writers.spawn(async move {
            for days_back in share {
                for from in (0..EVENTS_PER_DAY).step_by(usize::try_from(ROWS)?) {
                    write(&pool, days_back, from).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    for table in ["events", "deliveries", "attempts", "dead_letters", "queue"] {
        let vacuum = format!("VACUUM (ANALYZE) {table}");
        sqlx::query(AssertSqlSafe(vacuum)).execute(pool).await.with_context(|| table.to_owned())?;
    }
    Ok(())
}

/// Writes events of one day, with their deliveries and attempts.
async fn write(pool: &PgPool, days_back: i32, from: i64) -> Result<()> {
    // An event and its deliveries share the first half of their ids.
    const STATEMENT: &str = "
        WITH new AS MATERIALIZED (
            SELECT n, ((current_date - $1::integer)::timestamp AT TIME ZONE 'UTC')
                      + make_interval(secs => 86400.0 * n / $4) AS t,
                   left(lpad(to_hex((extract(epoch FROM (current_date - $1)::timestamp AT TIME ZONE 'UTC') * 1000
                                     + 86400000.0 * n / $4)::bigint), 12, '0'), 12)
                   || '7' || lpad(to_hex(n % 4096), 3, '0') AS half,
                   CASE WHEN n % 2 = 0 THEN 'default' ELSE 'tenant_' || n / 2 % 100 END AS tenant
              FROM generate_series($2::bigint, $2::bigint + $3::bigint - 1) n
        ), e AS (
            INSERT INTO events (id, tenant_id, event_type, content_type, payload, metadata, created_at)
            SELECT (half || '0' || lpad(to_hex(n), 15, '0'))::uuid, tenant, 'type.' || n % 20, 'application/json',
                   convert_to('{\"order\":' || n || ',\"note\":\"' || repeat('x', 120) || '\"}', 'UTF8'),
                   CASE WHEN n % 10 = 0 THEN jsonb '{\"region\": \"eu\"}' END, t
              FROM new
        ), d AS MATERIALIZED (
            SELECT (half || '8' || lpad(to_hex(n * 2 + k), 15, '0'))::uuid AS id,
                   (half || '0' || lpad(to_hex(n), 15, '0'))::uuid AS event_id, tenant, t,
                   ('00000000-0000-7000-8000-' || lpad(to_hex((n * 2 + k) % 1000), 12, '0'))::uuid AS subscription,
                   CASE WHEN $1 = 1 AND (n * 2 + k) % 100 = 3 THEN 'pending'
                        WHEN (n * 2 + k) % 200 = 7 THEN 'dead_letter'
                        WHEN (n * 2 + k) % 200 = 9 THEN 'canceled'
                        ELSE 'succeeded' END::delivery_status AS status
              FROM new, generate_series(0, 1) k
        ), i AS (
            INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, status, created_at, finished_at)
            SELECT id, event_id, tenant, subscription, status, t, CASE WHEN status <> 'pending' THEN t END FROM d
        ), l AS (
            INSERT INTO dead_letters (delivery_id, tenant_id, subscription_id, created_at)
            SELECT id, tenant, subscription, t FROM d WHERE status = 'dead_letter'
        ), q AS (
            INSERT INTO queue (delivery_id, lane_id, event_id, due_at)
            SELECT id, subscription, event_id, t FROM d WHERE status = 'pending'
        )
        INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status_code)
        SELECT id, 1, t, 20, CASE WHEN status = 'succeeded' THEN 200 ELSE 503 END FROM d WHERE status <> 'pending'";
    sqlx::query(STATEMENT)
        .bind(days_back)
        .bind(from)
        .bind(ROWS.min(EVENTS_PER_DAY - from))
        .bind(EVENTS_PER_DAY)
        .execute(pool)
        .await?;
    Ok(())
}
