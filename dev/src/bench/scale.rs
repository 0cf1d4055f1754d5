//! Measures how the system scales: with more processes, beside 100,000 subscriptions, and with payloads of 100 KB.
//! Everything is compared with the plain case, one api and one worker with one subscription and payloads of 1 KB, which
//! is measured in turn with it in the same run.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    load::{self, PAYLOAD_BYTES, Target, Until},
    ratio::median,
    system::{ONE_EACH, Shape, System},
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Receiver},
};

/// The numbers of processes that are compared; the first is the plain case.
const SHAPES: [Shape; 6] = [
    ONE_EACH,
    Shape { apis: 1, workers: 2 },
    Shape { apis: 1, workers: 4 },
    Shape { apis: 2, workers: 1 },
    Shape { apis: 2, workers: 2 },
    Shape { apis: 2, workers: 4 },
];
/// Rounds of each case, one case after the other; the medians are compared.
const ROUNDS: usize = 3;
/// Events of one round, those before it that are not measured, and the connections that post them.
const EVENTS: u64 = 20_000;
const WARM_EVENTS: u64 = 2000;
const CONNECTIONS: usize = 64;
/// Subscriptions beside the one that the events are for, and the connections that create them.
const SUBSCRIPTIONS: u64 = 100_000;
const CREATORS: usize = 16;
/// A large payload in bytes, and the events with it of one round.
const LARGE_BYTES: usize = 100_000;
const LARGE_EVENTS: u64 = 3000;
/// How long the events of a round may take to arrive.
const ARRIVED_WITHIN: Duration = Duration::from_secs(120);

/// Measures everything.
///
/// # Errors
/// When something does not start, or events do not arrive.
pub async fn scale(server: &Postgres) -> Result<Value> {
    Ok(json!({
        "processes": processes(server).await?,
        "subscriptions": subscriptions(server).await?,
        "payloads": payloads(server).await?,
    }))
}

/// A running system, and the receiver to which its events go.
struct Case {
    system: System,
    receiver: Receiver,
    targets: Vec<Target>,
    events: u64,
}

/// What one or several rounds have measured.
#[derive(Clone, Copy, Debug)]
struct Measured {
    /// Deliveries a second, from the first request to the last receipt.
    rate: f64,
    /// CPU seconds of all processes of Postrider and Postgres for 1,000 deliveries.
    cpu: f64,
}

impl Measured {
    fn median(rounds: &[Self]) -> Self {
        Self { rate: median(rounds.iter().map(|round| round.rate)), cpu: median(rounds.iter().map(|round| round.cpu)) }
    }

    /// Prints a line, and answers it as JSON.
    fn told(self, name: &str, plain: Self) -> Value {
        let (rate, cpu) = (self.rate / plain.rate, self.cpu / plain.cpu);
        println!("                {:>12.0} {rate:>7.2} {:>15.3} {cpu:>7.2}   {name}", self.rate, self.cpu);
        json!({"case": name, "deliveries_per_second": self.rate, "rate_ratio": rate,
               "cpu_seconds_per_1000": self.cpu, "cpu_ratio": cpu})
    }

    fn head(what: &str) {
        println!("{what:<16}deliveries/s   ratio  CPU s per 1000   ratio   (median of {ROUNDS})");
    }
}

impl Case {
    /// Starts a system with one subscription, to which events with payloads of this size are posted.
    async fn start(server: &Postgres, shape: Shape, bytes: usize) -> Result<Self> {
        let system = System::start_shaped(server, shape).await?;
        let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
        let subscription = system.subscribe(&receiver.url("/success")).await?;
        let path = format!("/webhooks/ingest/{subscription}");
        let targets = system.targets_at(&path, move |number| load::payload_of(number, bytes));
        let events = if bytes == LARGE_BYTES { LARGE_EVENTS } else { EVENTS };
        Self { system, receiver, targets, events }.warmed().await
    }

    /// Starts a system with this many subscriptions, each of which wants a type of its own, and one more: all events
    /// are published for that one.
    async fn start_beside(server: &Postgres, subscriptions: u64) -> Result<Self> {
        let system = System::start(server).await?;
        let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
        let body = |number: u64| {
            // Nobody listens there, and nothing is sent there.
            json!({"target_url": "http://127.0.0.1:10/", "event_types": [format!("bench.{number}")]}).to_string().into()
        };
        let (creation, started) = (system.target_at("/subscriptions".to_owned(), body), Instant::now());
        load::flood(&creation, CREATORS, Until::Events(subscriptions)).await?;
        if subscriptions > 0 {
            println!("                {subscriptions} subscriptions, created in {:.0?}", started.elapsed());
        }
        system.subscribe_with(&json!({"target_url": receiver.url("/success"), "event_types": ["bench.hit"]})).await?;
        let targets = system.targets_at("/events", |number| load::event_of_type("bench.hit", number));
        let first = String::from_utf8(load::event_of_type("bench.hit", 0).to_vec())?;
        let started = Instant::now();
        system.call("/events", &first).await?;
        if subscriptions > 0 {
            println!("                {:.0?} until 202 of the first event, for which all are read", started.elapsed());
        }
        Self { system, receiver, targets, events: EVENTS }.warmed().await
    }

    async fn warmed(self) -> Result<Self> {
        self.post(WARM_EVENTS.min(self.events)).await?;
        Ok(self)
    }

    /// Posts events, and waits until all have arrived; answers how long that took.
    async fn post(&self, events: u64) -> Result<Duration> {
        let (before, started) = (self.receiver.count(), Instant::now());
        load::flood_all(&self.targets, CONNECTIONS, Until::Events(events)).await?;
        self.receiver.wait_for(before + events, ARRIVED_WITHIN).await?;
        Ok(started.elapsed())
    }

    async fn round(&self) -> Result<Measured> {
        let before = self.system.cpu();
        let elapsed = self.post(self.events).await?;
        let cpu = self.system.cpu().per_thousand(&before, self.events);
        Ok(Measured { rate: self.events as f64 / elapsed.as_secs_f64(), cpu: cpu.iter().take(3).sum() })
    }
}

/// Each number of processes against one of each kind.
async fn processes(server: &Postgres) -> Result<Value> {
    let mut rounds = vec![Vec::new(); SHAPES.len()];
    for _ in 0..ROUNDS {
        for (shape, rounds) in SHAPES.iter().zip(&mut rounds) {
            let case = Case::start(server, *shape, PAYLOAD_BYTES).await?;
            rounds.push(case.round().await?);
            case.system.stop().await?;
        }
    }
    let medians: Vec<_> = rounds.iter().map(|rounds| Measured::median(rounds)).collect();
    Measured::head("processes:");
    let told = SHAPES.iter().zip(&medians).map(|(shape, measured)| {
        measured.told(&format!("apis: {}, workers: {}", shape.apis, shape.workers), medians[0])
    });
    Ok(told.collect())
}

/// A subscription beside 100,000 others against one that is alone, both through `POST /events`.
async fn subscriptions(server: &Postgres) -> Result<Value> {
    println!("subscriptions:");
    let (alone, beside) = (Case::start_beside(server, 0).await?, Case::start_beside(server, SUBSCRIPTIONS).await?);
    let [of_alone, of_beside] = in_turn(&alone, &beside).await?;
    let memory = [alone.system.peak_memory_mb(), beside.system.peak_memory_mb()];
    for case in [alone, beside] {
        case.system.stop().await?;
    }
    Measured::head("");
    let told = [
        of_alone.told("one subscription", of_alone),
        of_beside.told(&format!("beside {SUBSCRIPTIONS} subscriptions"), of_alone),
    ];
    for ([api, worker], name) in memory.iter().zip(["one subscription", "all of them"]) {
        println!("                peak memory with {name}: api {api:.0} MB, worker {worker:.0} MB");
    }
    Ok(json!({"cases": told, "peak_memory_mb": {"alone": memory[0], "beside": memory[1]}}))
}

/// Payloads of 100 KB against payloads of 1 KB.
async fn payloads(server: &Postgres) -> Result<Value> {
    let small = Case::start(server, ONE_EACH, PAYLOAD_BYTES).await?;
    let large = Case::start(server, ONE_EACH, LARGE_BYTES).await?;
    let [of_small, of_large] = in_turn(&small, &large).await?;
    for case in [small, large] {
        case.system.stop().await?;
    }
    Measured::head("payloads:");
    let told = [of_small.told("1 KB", of_small), of_large.told("100 KB", of_small)];
    let megabytes = |measured: Measured, bytes: usize| measured.rate * bytes as f64 / 1e6;
    let [small, large] = [megabytes(of_small, PAYLOAD_BYTES), megabytes(of_large, LARGE_BYTES)];
    println!("                {small:.1} MB/s and {large:.1} MB/s of payloads");
    Ok(json!({"cases": told, "megabytes_per_second": {"small": small, "large": large}}))
}

/// Measures two cases, a round of the one after a round of the other.
async fn in_turn(one: &Case, other: &Case) -> Result<[Measured; 2]> {
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        rounds[0].push(one.round().await?);
        rounds[1].push(other.round().await?);
    }
    Ok(rounds.map(|rounds| Measured::median(&rounds)))
}
