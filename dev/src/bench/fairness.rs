//! Measures whether a bad receiver hurts only itself: how long a healthy subscription waits beside receivers that are
//! slow or hang, and how fast deliveries drain where many subscriptions, limits, open circuits or ordering keys are at
//! work. Every figure is compared with the same figure without the burden, measured in the same run.

mod throughput;

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    load,
    ratio::{Limit, Ratio, by_name, ensure_kept},
    receipt,
    system::System,
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Receiver},
};

/// How large everything is. The limits are those of the full size; in small, noise breaks them.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Deliveries that are due to the slow receiver.
    slow_backlog: usize,
    /// Receivers that hang, and deliveries that are due to each.
    hanging: usize,
    hanging_backlog: usize,
    /// How long the latency of the healthy subscription is measured, with the burden and without.
    time: Duration,
    /// Subscriptions that have one delivery each.
    subscriptions: usize,
    /// Deliveries that wait for a rate limit.
    limited: usize,
    /// Subscriptions with an open circuit, and deliveries that wait in each.
    circuits: usize,
    waiting_in_each: usize,
    /// Deliveries that drain beside these.
    beside: usize,
    /// Ordering keys with one event each, and deliveries of one more key that wait for its first.
    keys: usize,
    waiting_of_key: usize,
    /// What drains does so in this many rounds; the median rate counts.
    rounds: usize,
    /// Whether a broken limit fails the bench.
    limits: Limits,
}

#[derive(Clone, Copy, Debug)]
enum Limits {
    Bind,
    AreOnlyTold,
}

/// The size that is asked for. It takes a quarter of an hour and some 8 GB of disk.
pub const FULL: Size = Size {
    slow_backlog: 100_000,
    hanging: 100,
    hanging_backlog: 1_000,
    time: Duration::from_secs(30),
    subscriptions: 10_000,
    limited: 1_000_000,
    circuits: 1_000,
    waiting_in_each: 1_000,
    beside: 50_000,
    keys: 100_000,
    waiting_of_key: 100_000,
    rounds: 5,
    limits: Limits::Bind,
};
/// A size at which it takes about a minute, to see that it works.
pub const SMALL: Size = Size {
    slow_backlog: 2_000,
    hanging: 20,
    hanging_backlog: 50,
    time: Duration::from_secs(4),
    subscriptions: 300,
    limited: 20_000,
    circuits: 20,
    waiting_in_each: 50,
    beside: 3_000,
    keys: 3_000,
    waiting_of_key: 3_000,
    rounds: 1,
    limits: Limits::AreOnlyTold,
};

/// Events a second of the healthy subscription.
const HEALTHY_RATE: u32 = 50;
/// How long the slow receiver takes to answer.
const SLOW_PATH: &str = "/slow/10000";
/// A receiver answers here later than any attempt waits, so that every attempt runs into its timeout.
const HANGING_PATH: &str = "/slow/60000";
/// How long a burden may take to begin, and how long it then goes on before anything is measured beside it.
const BURDEN_WITHIN: Duration = Duration::from_secs(60);
const BURDEN_SETTLES: Duration = Duration::from_secs(5);

/// What the p99 beside a burden may be, as a multiple of the p99 without it.
const LATENCY_MAX: f64 = 2.0;

/// Measures everything, one after the other. What leaves most behind in the database server comes last.
///
/// # Errors
/// When something does not start, a statement fails, or a limit is broken that binds.
pub async fn fairness(server: &Postgres, size: Size) -> Result<Value> {
    println!("fairness:       each ratio compares with the same figure without the burden");
    let mut ratios = vec![slow_receiver(server, size).await?, hanging_receivers(server, size).await?];
    ratios.push(throughput::many_subscriptions(server, size).await?);
    ratios.extend(throughput::ordering_keys(server, size).await?);
    ratios.push(throughput::waiting_lanes(server, size).await?);
    match size.limits {
        Limits::Bind => ensure_kept(&ratios)?,
        Limits::AreOnlyTold => {}
    }
    Ok(by_name(&ratios))
}

/// One subscription has a deep backlog, and its receiver takes ten seconds for each delivery.
async fn slow_receiver(server: &Postgres, size: Size) -> Result<Ratio> {
    let beside = Beside::start(server, size.time).await?;
    let alone = beside.p99_ms("alone").await?;
    let slow = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let lane = beside.system.subscribe_with(&burden(&slow, SLOW_PATH)).await?;
    throughput::fill(&beside.system.pool, &[lane], size.slow_backlog, None).await?;
    slow.wait_for(1, BURDEN_WITHIN).await?;
    tokio::time::sleep(BURDEN_SETTLES).await;
    let burdened = beside.p99_ms("beside a slow receiver").await?;
    let left = throughput::waiting(&beside.system.pool, &[lane]).await?;
    ensure!(left > 0, "the backlog of the slow receiver did not last");
    println!("                the slow receiver had {} at once; {left} still waited", slow.at_once_max());
    beside.system.stop().await?;
    Ok(Ratio::told("p99 beside a slow receiver", burdened / alone, Limit::AtMost(LATENCY_MAX)))
}

/// Many subscriptions have a backlog each, and their receivers never answer in time.
async fn hanging_receivers(server: &Postgres, size: Size) -> Result<Ratio> {
    let beside = Beside::start(server, size.time).await?;
    let alone = beside.p99_ms("alone").await?;
    let (mut receivers, mut lanes) = (Vec::new(), Vec::new());
    for _ in 0..size.hanging {
        let hanging = Receiver::start("127.0.0.1:0", Keep::Count).await?;
        lanes.push(beside.system.subscribe_with(&burden(&hanging, HANGING_PATH)).await?);
        receivers.push(hanging);
    }
    throughput::fill(&beside.system.pool, &lanes, size.hanging * size.hanging_backlog, None).await?;
    for hanging in &receivers {
        hanging.wait_for(1, BURDEN_WITHIN).await?;
    }
    tokio::time::sleep(BURDEN_SETTLES).await;
    let burdened = beside.p99_ms("beside hanging receivers").await?;
    let left = throughput::waiting(&beside.system.pool, &lanes).await?;
    ensure!(left > 0, "the backlog of the hanging receivers did not last");
    let requests: u64 = receivers.iter().map(Receiver::count).sum();
    println!("                {} receivers had {requests} requests; {left} deliveries still waited", size.hanging);
    beside.system.stop().await?;
    Ok(Ratio::told("p99 beside hanging receivers", burdened / alone, Limit::AtMost(LATENCY_MAX)))
}

/// The settings of a subscription whose receiver is a burden. Its circuit is switched off, because an open circuit
/// would relieve the worker of it.
fn burden(receiver: &Receiver, path: &str) -> Value {
    json!({"target_url": receiver.url(path), "circuit": null})
}

/// A healthy subscription, whose latency is measured.
struct Beside {
    system: System,
    receiver: Receiver,
    target: load::Target,
    time: Duration,
}

impl Beside {
    async fn start(server: &Postgres, time: Duration) -> Result<Self> {
        let system = throughput::start(server).await?;
        let receiver = Receiver::start("127.0.0.1:0", Keep::Everything).await?;
        let subscription = system.subscribe(&receiver.url("/success")).await?;
        let target = system.target(&subscription);
        load::steady(&target, HEALTHY_RATE, Duration::from_secs(2)).await?;
        Ok(Self { system, receiver, target, time })
    }

    /// The p99 from a 202 to the receipt, at a steady rate.
    async fn p99_ms(&self, name: &str) -> Result<f64> {
        // What was posted before must have arrived, or it would be taken for this.
        let mut before = self.receiver.count();
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = self.receiver.count();
            if now == before {
                break;
            }
            before = now;
        }
        let posted = load::steady(&self.target, HEALTHY_RATE, self.time).await?;
        self.receiver.wait_for(before + posted.len() as u64, Duration::from_secs(60)).await?;
        println!("fairness at {HEALTHY_RATE}/s:  p50 ms   p99 ms   {name}");
        let seen = receipt(&self.receiver, usize::try_from(before)?, &posted)?;
        Ok(seen["accept_to_receipt"]["p99_ms"].as_f64().unwrap_or(f64::NAN))
    }
}
