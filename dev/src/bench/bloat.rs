//! Measures whether the queue stays small in the long run: half of what the system can do is offered for a long time,
//! and every five minutes a transaction is held open for a minute, as a careless report or `pg_dump` would do. As long
//! as it is open, Postgres removes no row that has died since.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::{
    load::{self, Target, Until, quantile_ms},
    ratio::{Limit, Ratio, by_name, ensure_kept},
    system::System,
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Receiver},
};

/// How long it is measured where nothing else is asked for, in minutes.
pub const MINUTES: u64 = 30;
/// A transaction is held open once in each cycle, from this moment on and for so long.
const CYCLE: Duration = Duration::from_secs(300);
const HELD_FROM: Duration = Duration::from_secs(60);
const HELD_FOR: Duration = Duration::from_secs(60);
/// How often the sizes are read.
const SAMPLE: Duration = Duration::from_secs(30);
/// The events with which is measured what the system can do.
const EVENTS: u64 = 20_000;
const CONNECTIONS: usize = 64;
/// Payloads are short, so that half an hour of them does not fill the disk. The queue does not hold them.
const PAYLOAD_BYTES: usize = 100;

/// What is left of the throughput in the last cycle, against the first, and how much larger the queue may be.
const RATE_MIN: f64 = 0.95;
const SIZE_MAX: f64 = 1.25;

/// What was seen at one moment, and since the one before.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// The time since the beginning.
    at: Duration,
    /// Whether a transaction was held open at some time since the sample before.
    is_held: bool,
    /// Deliveries a second.
    rate: f64,
    /// Of the time until the 202.
    p99_ms: f64,
    sizes: Sizes,
}

/// The sizes of the tables whose rows come and go with every delivery, in MB.
#[derive(Clone, Copy, Debug, sqlx::FromRow)]
struct Sizes {
    queue_rows: i64,
    queue_dead: i64,
    queue_mb: f64,
    queue_index_mb: f64,
    lanes_mb: f64,
    lanes_index_mb: f64,
}

/// Measures for so many minutes.
///
/// # Errors
/// When something does not start, events do not arrive, or a limit is broken.
pub async fn bloat(server: &Postgres, minutes: u64) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let subscription = system.subscribe(&receiver.url("/success")).await?;
    let path = format!("/webhooks/ingest/{subscription}");
    let target = system.target_at(path, |number| load::payload_of(number, PAYLOAD_BYTES));
    let rate = capacity(&target, &receiver).await? / 2.0;
    let time = Duration::from_secs(60 * minutes);
    println!("bloat:          {rate:.0} events/s, half of what it can do, for {minutes} minutes");
    println!(
        "                   min held deliveries/s  p99 ms  queue: rows    dead    MB  indexes  lanes: MB  indexes"
    );
    let started = Instant::now();
    let holding = tokio::spawn(hold_now_and_then(system.pool.clone(), started));
    let watched = watch(&system, &receiver, &target, rate as u32, started, time).await;
    holding.abort();
    let samples = watched?;
    system.stop().await?;
    let ratios = compare(&samples);
    ensure_kept(&ratios)?;
    let samples: Vec<_> = samples.iter().map(Sample::as_json).collect();
    Ok(json!({"offered_per_second": rate, "samples": samples, "ratios": by_name(&ratios)}))
}

/// Deliveries a second that the system can do.
async fn capacity(target: &Target, receiver: &Receiver) -> Result<f64> {
    let mut rate = f64::NAN;
    for _ in 0..2 {
        let (before, started) = (receiver.count(), Instant::now());
        load::flood(target, CONNECTIONS, Until::Events(EVENTS)).await?;
        receiver.wait_for(before + EVENTS, Duration::from_secs(120)).await?;
        rate = EVENTS as f64 / started.elapsed().as_secs_f64();
    }
    Ok(rate)
}

async fn watch(
    system: &System,
    receiver: &Receiver,
    target: &Target,
    rate: u32,
    started: Instant,
    time: Duration,
) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let (mut posted_in_all, before) = (0, receiver.count());
    while started.elapsed() < time {
        let (from, count) = (Instant::now(), receiver.count());
        let posted = load::steady(target, rate, SAMPLE).await?;
        posted_in_all += posted.len() as u64;
        let mut times: Vec<_> = posted.iter().map(|posted| posted.accepted - posted.sent).collect();
        times.sort_unstable();
        let sample = Sample {
            at: started.elapsed(),
            is_held: is_held(from - started) || is_held(started.elapsed()),
            rate: (receiver.count() - count) as f64 / from.elapsed().as_secs_f64(),
            p99_ms: quantile_ms(&times, 0.99),
            sizes: sizes(&system.pool).await?,
        };
        sample.tell();
        samples.push(sample);
    }
    receiver.wait_for(before + posted_in_all, Duration::from_secs(120)).await?;
    Ok(samples)
}

/// Whether a transaction is held open at this time since the beginning.
fn is_held(at: Duration) -> bool {
    let in_cycle = Duration::from_secs_f64(at.as_secs_f64() % CYCLE.as_secs_f64());
    (HELD_FROM..HELD_FROM + HELD_FOR).contains(&in_cycle)
}

/// Holds a transaction open in each cycle, for as long as the task lives.
async fn hold_now_and_then(pool: PgPool, started: Instant) -> Result<()> {
    for cycle in 0_u32.. {
        tokio::time::sleep_until((started + CYCLE * cycle + HELD_FROM).into()).await;
        let mut holder = pool.begin().await?;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *holder).await?;
        sqlx::query("SELECT count(*) FROM queue").execute(&mut *holder).await?;
        tokio::time::sleep(HELD_FOR).await;
        holder.rollback().await?;
    }
    Ok(())
}

async fn sizes(pool: &PgPool) -> Result<Sizes> {
    let sizes = "SELECT (SELECT count(*) FROM queue) AS queue_rows,
                        (SELECT n_dead_tup FROM pg_stat_user_tables
                          WHERE schemaname = current_schema() AND relname = 'queue') AS queue_dead,
                        pg_relation_size('queue') / 1e6::float8 AS queue_mb,
                        pg_indexes_size('queue') / 1e6::float8 AS queue_index_mb,
                        pg_relation_size('lanes') / 1e6::float8 AS lanes_mb,
                        pg_indexes_size('lanes') / 1e6::float8 AS lanes_index_mb";
    Ok(sqlx::query_as(sizes).fetch_one(pool).await?)
}

impl Sample {
    fn tell(&self) {
        let Sizes { queue_rows, queue_dead, queue_mb, queue_index_mb, lanes_mb, lanes_index_mb } = self.sizes;
        println!(
            "                {:>6.1} {:>4} {:>12.0} {:>7.1} {queue_rows:>12} {queue_dead:>7} {queue_mb:>5.1} \
             {queue_index_mb:>8.1} {lanes_mb:>10.1} {lanes_index_mb:>8.1}",
            self.at.as_secs_f64() / 60.0,
            if self.is_held { "yes" } else { "" },
            self.rate,
            self.p99_ms
        );
    }

    fn as_json(&self) -> Value {
        let Sizes { queue_rows, queue_dead, queue_mb, queue_index_mb, lanes_mb, lanes_index_mb } = self.sizes;
        json!({"seconds": self.at.as_secs(), "is_held": self.is_held, "deliveries_per_second": self.rate,
               "p99_ms": self.p99_ms, "queue_rows": queue_rows, "queue_dead": queue_dead, "queue_mb": queue_mb,
               "queue_index_mb": queue_index_mb, "lanes_mb": lanes_mb, "lanes_index_mb": lanes_index_mb})
    }

    /// The size of all of them, in MB.
    fn megabytes(&self) -> f64 {
        let Sizes { queue_mb, queue_index_mb, lanes_mb, lanes_index_mb, .. } = self.sizes;
        queue_mb + queue_index_mb + lanes_mb + lanes_index_mb
    }
}

/// Compares the last whole cycle with the first; of less than two cycles nothing can be told.
fn compare(samples: &[Sample]) -> Vec<Ratio> {
    let cycle = |number: usize| {
        let from = CYCLE * u32::try_from(number).unwrap_or(u32::MAX);
        let in_cycle = move |sample: &&Sample| sample.at > from && sample.at <= from + CYCLE;
        samples.iter().filter(in_cycle).collect::<Vec<_>>()
    };
    let cycles = samples.last().map_or(0, |last| (last.at.as_secs() / CYCLE.as_secs()) as usize);
    if cycles < 2 {
        println!("                nothing is compared: a comparison needs two cycles of {CYCLE:?}");
        return Vec::new();
    }
    let (first, last) = (cycle(0), cycle(cycles - 1));
    let rate = |of: &[&Sample]| of.iter().map(|sample| sample.rate).sum::<f64>() / of.len() as f64;
    let size = |of: &[&Sample]| of.iter().map(|sample| sample.megabytes()).fold(0.0, f64::max);
    vec![
        Ratio::told("rate in the last cycle", rate(&last) / rate(&first), Limit::AtLeast(RATE_MIN)),
        Ratio::told("largest size in the last cycle", size(&last) / size(&first), Limit::AtMost(SIZE_MAX)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_is_held_for_the_second_minute_of_every_five() {
        for (seconds, held) in [(0, false), (59, false), (60, true), (119, true), (120, false), (361, true)] {
            assert_eq!(is_held(Duration::from_secs(seconds)), held, "{seconds}");
        }
    }

    #[test]
    fn the_last_cycle_is_compared_with_the_first() {
        let sizes = |megabytes| Sizes {
            queue_rows: 0,
            queue_dead: 0,
            queue_mb: megabytes,
            queue_index_mb: 0.0,
            lanes_mb: 0.0,
            lanes_index_mb: 0.0,
        };
        let sample = |minute: u64, rate, megabytes| Sample {
            at: Duration::from_secs(60 * minute),
            is_held: false,
            rate,
            p99_ms: 1.0,
            sizes: sizes(megabytes),
        };
        let flat: Vec<_> = (1..=15).map(|minute| sample(minute, 100.0, 10.0)).collect();
        assert!(ensure_kept(&compare(&flat)).is_ok());
        let grows: Vec<_> = (1..=15).map(|minute| sample(minute, 100.0, 10.0 * minute as f64)).collect();
        assert!(ensure_kept(&compare(&grows)).is_err());
        let slows: Vec<_> = (1..=15).map(|minute| sample(minute, 100.0 / minute as f64, 10.0)).collect();
        assert!(ensure_kept(&compare(&slows)).is_err());
        assert!(compare(&flat[..9]).is_empty());
    }
}
