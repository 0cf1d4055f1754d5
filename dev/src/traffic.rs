//! Load whose losses are counted: producers that post numbered events to the apis that they are told of, and a receiver
//! that has to get each event that was answered with 202.

use std::{
    collections::HashSet,
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    client::Client,
    receiver::{Keep, Receiver},
};

/// Producers that post events, one after the other each.
const PRODUCERS: usize = 8;
/// How long a producer pauses after a refusal.
const PAUSE: Duration = Duration::from_millis(10);
/// How long anything may take that should happen: something is accepted, what was accepted arrives.
pub const WITHIN: Duration = Duration::from_secs(60);
/// How long the receiver may take, in milliseconds. Leases that a process held when it died end soon after.
const TIMEOUT_MS: u32 = 1000;
/// The key of the development environment.
pub const KEY: &str = "pr_dev_admin";

/// An event that was answered with 202.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    number: u64,
    /// When the request began.
    pub begun: Instant,
    /// When the 202 had arrived.
    pub ended: Instant,
}

/// What came of all events.
#[derive(Clone, Copy, Debug)]
pub struct Balance {
    /// Events that were answered with 202.
    pub acknowledged: usize,
    /// Requests that were answered otherwise or not at all.
    pub refused: u64,
    /// Acknowledged events that never arrived.
    pub lost: usize,
    /// Requests that the receiver got beyond the first of each event.
    pub repeated: usize,
}

impl fmt::Display for Balance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "acknowledged events   {:>8}", self.acknowledged)?;
        writeln!(formatter, "refused requests      {:>8}", self.refused)?;
        writeln!(formatter, "lost                  {:>8}", self.lost)?;
        writeln!(formatter, "delivered once more   {:>8}", self.repeated)
    }
}

/// Running producers and their receiver. Dropping it stops both.
pub struct Traffic {
    log: Arc<Log>,
    receiver: Receiver,
    producers: JoinSet<()>,
}

/// What the producers have done, and where they post to.
struct Log {
    addresses: Mutex<Vec<String>>,
    next: AtomicU64,
    refused: AtomicU64,
    acknowledged: Mutex<Vec<Acknowledged>>,
    is_over: AtomicBool,
}

impl Traffic {
    /// Subscribes a receiver at the first of these apis, and starts producers that post to all of them in turn.
    ///
    /// # Errors
    /// When the api makes no subscription.
    pub async fn start(addresses: Vec<String>) -> Result<Self> {
        let receiver = Receiver::start("127.0.0.1:0", Keep::Everything).await?;
        let first = addresses.first().context("there is an api")?.clone();
        let subscription = json!({"target_url": receiver.url("/success"), "timeout_ms": TIMEOUT_MS}).to_string();
        let made = Client { address: first, key: KEY }.post("/subscriptions", &subscription).await?;
        ensure!(made["id"].is_string(), "no subscription: {made}");
        let log = Arc::new(Log {
            addresses: Mutex::new(addresses),
            next: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            acknowledged: Mutex::default(),
            is_over: AtomicBool::new(false),
        });
        let mut producers = JoinSet::new();
        for _ in 0..PRODUCERS {
            producers.spawn(produce(Arc::clone(&log)));
        }
        Ok(Self { log, receiver, producers })
    }

    /// From now on the producers post to these apis in turn.
    pub fn move_to(&self, addresses: Vec<String>) {
        *self.log.addresses.lock().expect("nothing panics while it is held") = addresses;
    }

    /// The events that were answered with 202 so far.
    #[must_use]
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        self.log.acknowledged.lock().expect("nothing panics while it is held").clone()
    }

    /// Waits for the first 202 to a request that began after that moment.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn accepted_after(&self, moment: Instant) -> Result<Acknowledged> {
        let first = || self.acknowledged().into_iter().filter(|event| event.begun > moment).min_by_key(|one| one.ended);
        within("accepted", first).await
    }

    /// Waits until an event arrives that was accepted in a request that began after that moment; answers when.
    ///
    /// # Errors
    /// When none arrives in time.
    pub async fn delivered_after(&self, moment: Instant) -> Result<Instant> {
        let first = || {
            let later: HashSet<_> =
                self.acknowledged().iter().filter(|event| event.begun > moment).map(|event| event.number).collect();
            let requests = self.receiver.received().into_iter();
            let is_later = |body: &[u8]| number_of(body).is_some_and(|number| later.contains(&number));
            requests.filter(|request| is_later(&request.body)).map(|request| request.at).min()
        };
        within("delivered", first).await
    }

    /// Ends the producers, waits until every acknowledged event has arrived or for long enough, and counts.
    pub async fn end(mut self) -> Balance {
        self.log.is_over.store(true, Ordering::Relaxed);
        while self.producers.join_next().await.is_some() {}
        let asked = Instant::now();
        while self.missing() > 0 && asked.elapsed() < WITHIN {
            tokio::time::sleep(10 * PAUSE).await;
        }
        Balance {
            acknowledged: self.acknowledged().len(),
            refused: self.log.refused.load(Ordering::Relaxed),
            lost: self.missing(),
            repeated: self.receiver.received().len().saturating_sub(self.arrived().len()),
        }
    }

    fn missing(&self) -> usize {
        let arrived = self.arrived();
        self.acknowledged().iter().filter(|event| !arrived.contains(&event.number)).count()
    }

    /// The events that the receiver has got.
    fn arrived(&self) -> HashSet<u64> {
        self.receiver.received().iter().filter_map(|request| number_of(&request.body)).collect()
    }
}

async fn produce(log: Arc<Log>) {
    while !log.is_over.load(Ordering::Relaxed) {
        let number = log.next.fetch_add(1, Ordering::Relaxed);
        let begun = Instant::now();
        if post(&log, number).await {
            let event = Acknowledged { number, begun, ended: Instant::now() };
            log.acknowledged.lock().expect("nothing panics while it is held").push(event);
        } else {
            log.refused.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Posts an event to the api whose turn it is; answers whether the answer was 202.
async fn post(log: &Log, number: u64) -> bool {
    let address = {
        let addresses = log.addresses.lock().expect("nothing panics while it is held");
        addresses.iter().cycle().nth((number % 1000) as usize).cloned()
    };
    let Some(address) = address else { return false };
    let event = json!({"event_type": "order.created", "payload": {"number": number}}).to_string();
    let answer = Client { address, key: KEY }.post("/events", &event).await;
    answer.is_ok_and(|answer| answer["event_id"].is_string())
}

/// Asks again until there is an answer.
async fn within<T>(what: &str, ask: impl Fn() -> Option<T>) -> Result<T> {
    let asking = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(PAUSE).await;
        }
    };
    tokio::time::timeout(WITHIN, asking).await.with_context(|| format!("nothing was {what} within {WITHIN:?}"))
}

fn number_of(body: &[u8]) -> Option<u64> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body["number"].as_u64().or_else(|| body["data"]["number"].as_u64())
}
