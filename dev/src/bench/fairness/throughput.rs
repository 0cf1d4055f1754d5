//! How fast deliveries drain that wait already: over many subscriptions, beside lanes that are held, and by ordering
//! keys. Ingest has no part in it.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use uuid::Uuid;

use super::{
    super::{
        load::{self, Until},
        ratio::{Limit, Ratio},
        system::System,
    },
    Size,
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Receiver},
};

/// Deliveries that one statement stores.
const ROWS: usize = 5000;
/// How long deliveries may take to drain.
const DRAINED_WITHIN: Duration = Duration::from_secs(600);
/// The rate of a limited lane. The worker visits it all the time, and it takes nearly nothing of what the others get.
const LIMITED_PER_SECOND: u32 = 10;

/// The shares of the rate without a burden that are left at least.
const MANY_MIN: f64 = 0.7;
const ORDERED_MIN: f64 = 0.6;
const BURDENED_MIN: f64 = 0.95;

/// Starts a system whose worker does not wait long for slow receivers when it is stopped.
pub async fn start(server: &Postgres) -> Result<System> {
    let variables = [("POSTRIDER_SHUTDOWN_TIMEOUT_SECONDS", "2")];
    System::start_with(server, &variables, [Stdio::inherit(), Stdio::inherit()]).await
}

/// Many subscriptions have one delivery each, against one subscription that has as many.
pub async fn many_subscriptions(server: &Postgres, size: Size) -> Result<Ratio> {
    let drain = Drain::start(server).await?;
    let single = drain.subscribe(json!({})).await?;
    let many = drain.subscribe_many(size.subscriptions).await?;
    let count = size.subscriptions;
    drain.round(&[single], count, None).await?;
    let cold = drain.round(&many, count, None).await?;
    println!("                {cold:>8.0}/s   the first delivery of each subscription, which the worker has to read");
    let (mut of_one, mut of_many) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        of_one.push(drain.round(&[single], count, None).await?);
        of_many.push(drain.round(&many, count, None).await?);
    }
    drain.system.stop().await?;
    let (of_one, of_many) = (tell("of one subscription", of_one), tell("of many subscriptions", of_many));
    Ok(Ratio::told("rate of subscriptions with one delivery each", of_many / of_one, Limit::AtLeast(MANY_MIN)))
}

/// Keys with one event each, ordered against unordered; then the same while one more key waits for its first delivery.
pub async fn ordering_keys(server: &Postgres, size: Size) -> Result<[Ratio; 2]> {
    let drain = Drain::start(server).await?;
    let unordered = drain.subscribe(json!({})).await?;
    let ordered = drain.subscribe(json!({"ordering": "fifo"})).await?;
    let each = |number: usize| format!("key {number}");
    drain.round(&[ordered], size.beside, Some(&each)).await?;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..size.rounds {
        without.push(drain.round(&[unordered], size.keys, Some(&each)).await?);
        with.push(drain.round(&[ordered], size.keys, Some(&each)).await?);
    }
    let (without, with) = (tell("unordered", without), tell("ordered", with));
    let of_order = Ratio::told("rate of ordered deliveries", with / without, Limit::AtLeast(ORDERED_MIN));

    let started = Instant::now();
    drain.block_key(ordered, size.waiting_of_key).await?;
    println!("                {} deliveries of one key wait, after {:.1?}", size.waiting_of_key, started.elapsed());
    let mut beside = Vec::new();
    for _ in 0..size.rounds {
        beside.push(drain.round(&[ordered], size.keys, Some(&each)).await?);
    }
    drain.system.stop().await?;
    let beside = tell("beside a key that waits", beside);
    let of_others = Ratio::told("rate beside a key that waits", beside / with, Limit::AtLeast(BURDENED_MIN));
    Ok([of_order, of_others])
}

/// A lane with a rate limit and lanes with open circuits have deep backlogs beside a healthy subscription.
pub async fn waiting_lanes(server: &Postgres, size: Size) -> Result<Ratio> {
    let drain = Drain::start(server).await?;
    let healthy = drain.subscribe(json!({})).await?;
    let measure = async || {
        let mut rates = Vec::new();
        for _ in 0..size.rounds {
            rates.push(drain.round(&[healthy], size.beside, None).await?);
        }
        anyhow::Ok(rates)
    };
    drain.round(&[healthy], size.beside, None).await?;
    let alone = tell("alone", measure().await?);

    // Their deliveries go to a receiver that is not counted.
    let others = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let limits = json!({"target_url": others.url("/success"), "rate_limit_per_second": LIMITED_PER_SECOND});
    let limited = drain.system.subscribe_with(&limits).await?;
    let circuits = subscribe_many(&drain.system, &others.url("/fail"), size.circuits).await?;
    let started = Instant::now();
    let pool = &drain.system.pool;
    for (lanes, rows) in [(&[limited][..], size.limited), (&circuits[..], size.circuits * size.waiting_in_each)] {
        hold(pool, lanes).await?;
        fill(pool, lanes, rows, None).await?;
    }
    open_circuits(pool, &circuits).await?;
    release(pool, &[limited]).await?;
    settle(pool).await?;
    println!("                {} deliveries wait, after {:.0?}", waiting(pool, &[]).await?, started.elapsed());

    let burdened = tell("beside waiting lanes", measure().await?);
    println!("                {} requests of the lane with a rate limit arrived meanwhile", others.count());
    drain.system.stop().await?;
    Ok(Ratio::told("rate beside waiting lanes", burdened / alone, Limit::AtLeast(BURDENED_MIN)))
}

/// A system, and the receiver at which what drains arrives.
struct Drain {
    system: System,
    receiver: Receiver,
}

impl Drain {
    async fn start(server: &Postgres) -> Result<Self> {
        Ok(Self { system: start(server).await?, receiver: Receiver::start("127.0.0.1:0", Keep::Count).await? })
    }

    /// Creates a subscription with these settings; answers its lane.
    async fn subscribe(&self, mut settings: Value) -> Result<Uuid> {
        settings["target_url"] = json!(self.receiver.url("/success"));
        self.system.subscribe_with(&settings).await
    }

    async fn subscribe_many(&self, count: usize) -> Result<Vec<Uuid>> {
        // The path tells them from others of the same receiver.
        subscribe_many(&self.system, &self.receiver.url("/success/many"), count).await
    }

    /// Stores deliveries while their lanes are held, and lets them go; answers how many arrived a second.
    async fn round(&self, lanes: &[Uuid], rows: usize, key: Option<&dyn Fn(usize) -> String>) -> Result<f64> {
        let pool = &self.system.pool;
        hold(pool, lanes).await?;
        fill(pool, lanes, rows, key).await?;
        let before = self.receiver.count();
        let started = Instant::now();
        release(pool, lanes).await?;
        self.receiver.wait_for(before + rows as u64, DRAINED_WITHIN).await?;
        let rate = rows as f64 / started.elapsed().as_secs_f64();
        // The next round begins when the outcomes of this one are written.
        let leased = "SELECT EXISTS (SELECT FROM queue WHERE lane_id = ANY ($1) AND lease_token IS NOT NULL)";
        until(async || Ok(!sqlx::query_scalar::<_, bool>(leased).bind(lanes).fetch_one(pool).await?)).await?;
        Ok(rate)
    }

    /// Lets deliveries of one key wait for its first one, as if that had failed and came again tomorrow. Answers when
    /// visits of the lane have put all of them aside.
    async fn block_key(&self, lane: Uuid, rows: usize) -> Result<()> {
        let pool = &self.system.pool;
        hold(pool, &[lane]).await?;
        fill(pool, &[lane], rows, Some(&|_| "blocked".to_owned())).await?;
        sqlx::query(
            "UPDATE queue SET due_at = now() + interval '1 day'
              WHERE lane_id = $1
                AND sequence = (SELECT min(x.sequence) FROM queue x
                                 WHERE x.lane_id = $1 AND x.ordering_key = 'blocked')",
        )
        .bind(lane)
        .execute(pool)
        .await?;
        release(pool, &[lane]).await?;
        let due = "SELECT EXISTS (SELECT FROM queue WHERE lane_id = $1 AND due_at <= now())";
        until(async || Ok(!sqlx::query_scalar::<_, bool>(due).bind(lane).fetch_one(pool).await?)).await?;
        settle(pool).await
    }
}

/// Prints the rates of rounds; answers their median.
fn tell(name: &str, mut rates: Vec<f64>) -> f64 {
    rates.sort_unstable_by(f64::total_cmp);
    let median = rates.get(rates.len() / 2).copied().unwrap_or(f64::NAN);
    let range = rates.first().zip(rates.last()).map_or(String::new(), |(min, max)| format!("{min:.0} to {max:.0}"));
    println!("                {median:>8.0}/s   {name} ({range})");
    median
}

/// Creates subscriptions to this URL, to which nobody else has subscribed; answers their lanes.
async fn subscribe_many(system: &System, url: &str, count: usize) -> Result<Vec<Uuid>> {
    let subscription = json!({"target_url": url}).to_string();
    let body = move |_| subscription.clone().into();
    let target = system.target_at("/subscriptions".to_owned(), body);
    load::flood(&target, 8, Until::Events(count as u64)).await?;
    let ids = sqlx::query_scalar("SELECT id FROM subscriptions WHERE target_url = $1 ORDER BY id");
    let ids: Vec<Uuid> = ids.bind(url).fetch_all(&system.pool).await?;
    anyhow::ensure!(ids.len() == count, "{} subscriptions instead of {count}", ids.len());
    Ok(ids)
}

/// Stores deliveries, which go to the lanes in turn, with a key of each number.
pub async fn fill(pool: &PgPool, lanes: &[Uuid], rows: usize, key: Option<&dyn Fn(usize) -> String>) -> Result<()> {
    for from in (0..rows).step_by(ROWS) {
        let numbers = from..rows.min(from + ROWS);
        let of_rows: Vec<_> = numbers.clone().map(|number| lanes[number % lanes.len()]).collect();
        let keys: Vec<_> = numbers.clone().map(|number| key.map(|key| key(number))).collect();
        let events: Vec<_> = numbers.clone().map(|_| Uuid::now_v7()).collect();
        let deliveries: Vec<_> = numbers.map(|_| Uuid::now_v7()).collect();
        sqlx::query(
            "SELECT accept(
                    ARRAY(SELECT ROW(i.id, 'default', 'bench.event', i.lane, false, 'application/json', NULL, $5, NULL,
                                     NULL, i.key, NULL, NULL, NULL, NULL)::new_event
                            FROM unnest($1::uuid[], $3::uuid[], $4::text[]) AS i (id, lane, key)),
                    ARRAY(SELECT ROW(i.id, i.event_id, 'default', i.lane, i.lane, NULL, NULL, NULL)::new_delivery
                            FROM unnest($2::uuid[], $1::uuid[], $3::uuid[]) AS i (id, event_id, lane)),
                    '{}', 0, false, true)",
        )
        .bind(&events)
        .bind(&deliveries)
        .bind(&of_rows)
        .bind(&keys)
        .bind(load::payload(0).as_ref())
        .execute(pool)
        .await?;
    }
    Ok(())
}

/// Holds lanes as a pause does.
async fn hold(pool: &PgPool, lanes: &[Uuid]) -> Result<()> {
    let held = "UPDATE lanes SET is_paused = true, due_at = 'infinity' WHERE id = ANY ($1)";
    sqlx::query(held).bind(lanes).execute(pool).await?;
    Ok(())
}

/// Ends the hold of lanes, and wakes the worker with the same commit.
async fn release(pool: &PgPool, lanes: &[Uuid]) -> Result<()> {
    let mut transaction = pool.begin().await?;
    let released = "UPDATE lanes SET is_paused = false, due_at = clock_timestamp(), drained_at = NULL
                     WHERE id = ANY ($1)";
    sqlx::query(released).bind(lanes).execute(&mut *transaction).await?;
    sqlx::query("SELECT pg_notify(current_schema() || '_wake', 'late')").execute(&mut *transaction).await?;
    Ok(transaction.commit().await?)
}

/// Ends the hold of lanes, but with circuits that stay open for longer than the bench runs.
async fn open_circuits(pool: &PgPool, lanes: &[Uuid]) -> Result<()> {
    let opened = "UPDATE lanes
                     SET is_paused = false, circuit_state = 'open', opened_at = now(), cooldown_seconds = 900,
                         failures_in_a_row = 10, open_until = now() + interval '1 day',
                         due_at = now() + interval '1 day'
                   WHERE id = ANY ($1)";
    sqlx::query(opened).bind(lanes).execute(pool).await?;
    Ok(())
}

/// Does at once what Postgres would do sooner or later after so many rows were written, which would take its share of
/// what is measured next.
async fn settle(pool: &PgPool) -> Result<()> {
    for statement in ["VACUUM (ANALYZE) events, deliveries, queue, lanes", "CHECKPOINT"] {
        sqlx::query(AssertSqlSafe(statement)).execute(pool).await.with_context(|| statement.to_owned())?;
    }
    Ok(())
}

/// How many deliveries wait in these lanes; in all of them if none is named.
pub async fn waiting(pool: &PgPool, lanes: &[Uuid]) -> Result<i64> {
    let count = "SELECT count(*) FROM queue WHERE lease_token IS NULL AND (lane_id = ANY ($1) OR $1 = '{}')";
    Ok(sqlx::query_scalar(count).bind(lanes).fetch_one(pool).await?)
}

/// Waits until something is so.
async fn until(is_so: impl AsyncFn() -> Result<bool>) -> Result<()> {
    let wait = async {
        while !is_so().await? {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    tokio::time::timeout(DRAINED_WITHIN, wait).await.context("it does not come to rest")?
}
