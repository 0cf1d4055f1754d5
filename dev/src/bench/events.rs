//! Measures what events cost beyond plain ingest: the latency by HTTP and by SQL, and a fan-out to many subscriptions.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinSet;

use super::{
    LATENCY_RATE, LATENCY_TIME,
    load::{self, Posted, Until, quantile_ms},
    receipt,
    system::System,
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Receiver},
};

/// The fan-out is measured with this many subscriptions, and with so many events for all of them.
const SUBSCRIPTIONS: u64 = 10_000;
const WIDE_EVENTS: u64 = 5;
/// This many sessions publish by SQL at the same time, for so long.
const PUBLISHERS: usize = 16;
const PUBLISH_TIME: Duration = Duration::from_secs(5);

const PUBLISH: &str = "SELECT publish('bench.event', $1::jsonb)";

/// Measures the latency of events that are published at a steady rate, first by HTTP, then by SQL.
///
/// # Errors
/// When something does not start, or a statement fails.
pub async fn latency(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Everything).await?;
    system.subscribe(&receiver.url("/success")).await?;
    let target = system.target_at("/events".to_owned(), load::event);
    load::steady(&target, LATENCY_RATE, Duration::from_secs(2)).await?;
    let warm = usize::try_from(receiver.count())?;
    let posted = load::steady(&target, LATENCY_RATE, LATENCY_TIME).await?;
    receiver.wait_for((warm + posted.len()) as u64, Duration::from_secs(30)).await?;
    println!("POST /events at {LATENCY_RATE}/s:  p50 ms   p99 ms");
    let by_http = receipt(&receiver, warm, &posted)?;

    publish_steadily(&system.pool, Duration::from_secs(2)).await?;
    receiver.wait_for((warm + posted.len()) as u64 + u64::from(LATENCY_RATE) * 2, Duration::from_secs(30)).await?;
    let warm = usize::try_from(receiver.count())?;
    let posted = publish_steadily(&system.pool, LATENCY_TIME).await?;
    receiver.wait_for((warm + posted.len()) as u64, Duration::from_secs(30)).await?;
    println!("publish() at {LATENCY_RATE}/s:  p50 ms   p99 ms");
    let by_sql = receipt(&receiver, warm, &posted)?;
    let p50 = |of: &Value| of["accept_to_receipt"]["p50_ms"].as_f64().unwrap_or(f64::NAN);
    println!("                from COMMIT, {:.1} times as long as from 202 (p50)", p50(&by_sql) / p50(&by_http));
    system.stop().await?;
    Ok(json!({"http": by_http, "sql": by_sql}))
}

/// Publishes from one session, one event a transaction. An event counts as accepted when its commit has returned.
async fn publish_steadily(pool: &PgPool, time: Duration) -> Result<Vec<Posted>> {
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / LATENCY_RATE);
    let mut posted = Vec::new();
    for number in 0..u64::from(LATENCY_RATE) * time.as_secs() {
        ticks.tick().await;
        let sent = Instant::now();
        publish_one(pool, number).await?;
        posted.push(Posted { sent, accepted: Instant::now() });
    }
    Ok(posted)
}

async fn publish_one(pool: &PgPool, number: u64) -> Result<()> {
    // The payload is sent as a JSON text, which jsonb keeps byte for byte; a number would be written anew.
    let payload = String::from_utf8(load::payload(number).to_vec())?;
    sqlx::query(PUBLISH).bind(payload).execute(pool).await?;
    Ok(())
}

/// Measures the fan-out of events that ten thousand subscriptions want.
///
/// # Errors
/// When something does not start, or a request fails.
pub async fn fan_out(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let subscription = json!({"target_url": receiver.url("/success")}).to_string();
    let body = move |_| subscription.clone().into();
    let subscriptions = system.target_at("/subscriptions".to_owned(), body);
    load::flood(&subscriptions, 8, Until::Events(SUBSCRIPTIONS)).await?;

    let body = String::from_utf8(load::event(0).to_vec())?;
    let mut stored = Vec::new();
    let mut delivered = Vec::new();
    for round in 1..=WIDE_EVENTS {
        let started = Instant::now();
        let answer = system.call("/events", &body).await?;
        stored.push(started.elapsed());
        let count = answer["delivery_ids"].as_array().context("an answer")?.len() as u64;
        anyhow::ensure!(count == SUBSCRIPTIONS, "{count} deliveries instead of {SUBSCRIPTIONS}");
        receiver.wait_for(round * SUBSCRIPTIONS, Duration::from_secs(60)).await?;
        delivered.push(started.elapsed());
    }
    // The first event takes longer, because api and worker have to read the subscriptions for it.
    let first = stored.remove(0).as_secs_f64() * 1000.0;
    delivered.remove(0);
    stored.sort_unstable();
    delivered.sort_unstable();
    let (until_202, until_all) = (quantile_ms(&stored, 0.5), quantile_ms(&delivered, 0.5));
    println!(
        "fan-out:        {until_202:>7.0} ms until 202 of an event to {SUBSCRIPTIONS} subscriptions \
         (p50; the first {first:.0})"
    );
    println!("                {until_all:>7.0} ms until all of them have it");
    system.stop().await?;
    Ok(json!({"subscriptions": SUBSCRIPTIONS, "until_202_p50_ms": until_202, "until_all_p50_ms": until_all}))
}

/// Measures how fast several sessions can publish by SQL, one event a transaction.
///
/// # Errors
/// When something does not start, or a statement fails.
pub async fn publish(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    system.subscribe(&receiver.url("/success")).await?;
    let started = Instant::now();
    let mut publishers = JoinSet::new();
    for _ in 0..PUBLISHERS {
        let pool = PgPool::connect_with((*system.pool.connect_options()).clone()).await?;
        publishers.spawn(async move {
            let mut count = 0;
            while started.elapsed() < PUBLISH_TIME {
                publish_one(&pool, count).await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
    }
    let mut count = 0;
    while let Some(done) = publishers.join_next().await {
        count += done??;
    }
    let published = count as f64 / started.elapsed().as_secs_f64();
    receiver.wait_for(count, Duration::from_secs(120)).await?;
    let delivered = count as f64 / started.elapsed().as_secs_f64();
    println!(
        "publish():      {published:>7.0} events/s from {PUBLISHERS} sessions, \
         {delivered:.0}/s delivered meanwhile and after"
    );
    system.stop().await?;
    Ok(json!({"sessions": PUBLISHERS, "published_per_second": published, "delivered_per_second": delivered}))
}
