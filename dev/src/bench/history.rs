//! A database with a month of history, written by SQL: ten million deliveries, and the statistics of them. Half of all
//! events belong to the tenant `default`, whose types are spread evenly over twenty; one in 200 deliveries is a dead
//! letter, one in 200 was canceled, and of the last day one in 100 is not finished.

use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::json;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::{
    load::{self, Until},
    system::System,
};
use crate::{client::Client, postgres::Postgres};

/// Days of history, and events on each; every event has two deliveries of one attempt each.
const DAYS: i32 = 30;
const EVENTS_PER_DAY: i64 = 166_700;
/// Rows that one statement writes. The sessions that write at the same time.
const ROWS: i64 = 33_340;
const WRITERS: usize = 2;
/// Subscriptions, and how many of them the deliveries go to.
const SUBSCRIPTIONS: u64 = 100_000;
const RECEIVERS: i64 = 1000;
/// Connections that create subscriptions.
const CREATORS: usize = 16;

/// A system whose database has a past.
pub struct History {
    /// The running processes and their database.
    pub system: System,
    /// A subscription with a past, as the API writes its id.
    pub subscription: String,
}

impl History {
    /// Starts a system and writes its past.
    ///
    /// # Errors
    /// When something does not start, or a statement fails.
    pub async fn start(server: &Postgres) -> Result<Self> {
        let system = System::start(server).await?;
        let started = Instant::now();
        let body = |number: u64| {
            // Nobody listens there, and nothing is sent there: what waits is due far in the future.
            let body = json!({"target_url": "http://127.0.0.1:10/", "name": format!("Receiver {number}"),
                              "event_types": [format!("bench.{number}")]});
            body.to_string().into()
        };
        let target = system.target_at("/subscriptions".to_owned(), body);
        load::flood(&target, CREATORS, Until::Events(SUBSCRIPTIONS)).await?;
        println!("history:        {SUBSCRIPTIONS} subscriptions, created in {:.0?}", started.elapsed());
        let started = Instant::now();
        let ids = "SELECT id FROM subscriptions ORDER BY id LIMIT $1";
        let ids: Vec<Uuid> = sqlx::query_scalar(ids).bind(RECEIVERS).fetch_all(&system.pool).await?;
        fill(&system.pool, &ids).await?;
        summarize(&system.pool).await?;
        vacuum(&system.pool).await?;
        let deliveries: i64 = sqlx::query_scalar("SELECT count(*) FROM deliveries").fetch_one(&system.pool).await?;
        println!("                {deliveries} deliveries over {DAYS} days, written in {:.0?}", started.elapsed());
        let subscription = format!("sub_{}", ids[7].simple());
        Ok(Self { system, subscription })
    }

    /// A client with the key to everything.
    #[must_use]
    pub fn client(&self) -> Client<'_> {
        Client { address: self.system.address(), key: &self.system.key }
    }
}

async fn fill(pool: &PgPool, subscriptions: &[Uuid]) -> Result<()> {
    let partitions = "SELECT ensure_partitions(current_date - $1, current_date)";
    sqlx::query(partitions).bind(DAYS).execute(pool).await?;
    let days: Vec<_> = (1..=DAYS).collect();
    let mut writers = JoinSet::new();
    for share in days.chunks(days.len().div_ceil(WRITERS)) {
        let (pool, share, subscriptions) = (pool.clone(), share.to_vec(), subscriptions.to_vec());
        writers.spawn(async move {
            for days_back in share {
                for from in (0..EVENTS_PER_DAY).step_by(usize::try_from(ROWS)?) {
                    write(&pool, days_back, from, &subscriptions).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

/// Writes events of one day, with their deliveries and attempts.
async fn write(pool: &PgPool, days_back: i32, from: i64, subscriptions: &[Uuid]) -> Result<()> {
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
                   $5[1 + (n * 2 + k) % array_length($5, 1)] AS subscription,
                   CASE WHEN $1 = 1 AND (n * 2 + k) % 100 = 3 THEN 'pending'
                        WHEN (n * 2 + k) % 200 = 7 THEN 'dead_letter'
                        WHEN (n * 2 + k) % 200 = 9 THEN 'canceled'
                        ELSE 'succeeded' END::delivery_status AS status
              FROM new, generate_series(0, 1) k
        ), i AS (
            INSERT INTO deliveries (id, event_id, tenant_id, subscription_id, status, created_at, finished_at)
            SELECT id, event_id, tenant, subscription, status, t, CASE WHEN status <> 'pending' THEN t END FROM d
        ), l AS (
            INSERT INTO dead_letters (delivery_id, tenant_id, subscription_id, created_at, status_code, error_kind)
            SELECT id, tenant, subscription, t, 503, 'http_status' FROM d WHERE status = 'dead_letter'
        ), q AS (
            INSERT INTO queue (delivery_id, lane_id, event_id, due_at)
            SELECT id, subscription, event_id, now() + interval '30 days' FROM d WHERE status = 'pending'
        )
        INSERT INTO attempts (delivery_id, number, started_at, duration_ms, status_code)
        SELECT id, 1, t, 20, CASE WHEN status = 'succeeded' THEN 200 ELSE 503 END FROM d WHERE status <> 'pending'";
    sqlx::query(STATEMENT)
        .bind(days_back)
        .bind(from)
        .bind(ROWS.min(EVENTS_PER_DAY - from))
        .bind(EVENTS_PER_DAY)
        .bind(subscriptions)
        .execute(pool)
        .await?;
    Ok(())
}

/// Adds up the statistics of what was written, as the processes would have done: of the last three days by minute, of
/// all days by hour.
async fn summarize(pool: &PgPool) -> Result<()> {
    // The places of the arrays are those of core/src/tally: 20 classes, 16 buckets of durations, 17 of latencies and 8
    // of waits. Every attempt took 20 ms, so it is in the fifth bucket.
    const OUTCOMES: &str = "
        ARRAY[count(*) FILTER (WHERE status = 'succeeded'), 0, 0, 0, 0, 0,
              count(*) FILTER (WHERE status <> 'succeeded'),
              0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, count(*) FILTER (WHERE status = 'dead_letter'), 0],
        ARRAY[0, 0, 0, 0, count(*), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ARRAY[0, count(*) FILTER (WHERE status = 'succeeded'), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        ARRAY[count(*), 0, 0, 0, 0, 0, 0, 0], 150 * count(*)";
    let sums = |table: &str, unit: &str, slot: &str, days: i32| {
        format!(
            "INSERT INTO {table}
             SELECT coalesce(tenant_id, ''), coalesce(subscription_id, '00000000-0000-0000-0000-000000000000'),
                    moment{slot},
                    {OUTCOMES}
               FROM (SELECT tenant_id, subscription_id, status, date_trunc('{unit}', created_at) AS moment
                       FROM deliveries
                      WHERE created_at >= current_date - {days} AND status <> 'pending') d
              GROUP BY GROUPING SETS ((tenant_id, subscription_id, moment), (tenant_id, moment), (moment))"
        )
    };
    let accepted = |table: &str, unit: &str, slot: &str, days: i32| {
        format!(
            "INSERT INTO {table}
             SELECT coalesce(tenant_id, ''), coalesce(event_type, ''), moment{slot}, count(*), 150 * count(*)
               FROM (SELECT tenant_id, event_type, date_trunc('{unit}', created_at) AS moment FROM events
                      WHERE created_at >= current_date - {days}) e
              GROUP BY GROUPING SETS ((tenant_id, event_type, moment), (tenant_id, moment), (event_type, moment),
                                      (moment))"
        )
    };
    let causes = "
        INSERT INTO stats_causes
        SELECT tenant_id, subscription_id, date_bin('10 minutes', created_at, '2000-01-01'), 'http_5xx', 0, count(*),
               min(created_at), max(created_at), (array_agg(id ORDER BY id DESC))[1], 503
          FROM deliveries WHERE created_at >= current_date - 3 AND status IN ('dead_letter', 'canceled')
         GROUP BY 1, 2, 3";
    for statement in [
        sums("stats_minute", "minute", ", 0", 3),
        sums("stats_hour", "hour", "", DAYS),
        accepted("accepted_minute", "minute", ", 0", 3),
        accepted("accepted_hour", "hour", "", DAYS),
        causes.to_owned(),
    ] {
        sqlx::query(AssertSqlSafe(statement.as_str())).execute(pool).await.with_context(|| statement.clone())?;
    }
    Ok(())
}

async fn vacuum(pool: &PgPool) -> Result<()> {
    for table in [
        "events",
        "deliveries",
        "attempts",
        "dead_letters",
        "queue",
        "subscriptions",
        "stats_minute",
        "stats_hour",
        "accepted_minute",
        "accepted_hour",
        "stats_causes",
    ] {
        let vacuum = format!("VACUUM (ANALYZE) {table}");
        sqlx::query(AssertSqlSafe(vacuum)).execute(pool).await.with_context(|| table.to_owned())?;
    }
    Ok(())
}
