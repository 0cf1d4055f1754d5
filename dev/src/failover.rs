//! `cargo dev failover`: a primary with a synchronous standby, two processes of each kind that know both, and load. The
//! primary is stopped as by a power cut, the standby is promoted, and at the end every event that was answered with 202
//! must have been delivered.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::task::JoinSet;

use crate::{
    client::Client,
    postgres::{Durability, Postgres},
    receiver::{Keep, Receiver},
    up::{Process, environment},
};

/// Producers that post events, one after the other each.
const PRODUCERS: usize = 8;
/// How long a producer pauses after a refusal.
const PAUSE: Duration = Duration::from_millis(10);
/// How long anything may take that should happen: the standby catches up, work goes on, deliveries arrive.
const WITHIN: Duration = Duration::from_secs(60);
/// How long receivers may take, in milliseconds. Leases that were held when the primary stopped end soon after.
const TIMEOUT_MS: u32 = 1000;
/// The key of the development environment.
const KEY: &str = "pr_dev_admin";

/// What was seen.
#[derive(Clone, Debug)]
pub struct Report {
    /// Events that were answered with 202.
    pub acknowledged: usize,
    /// Requests that were answered otherwise or not at all.
    pub refused: u64,
    /// Acknowledged events that never arrived.
    pub lost: usize,
    /// Requests that the receiver got beyond the first of each event.
    pub repeated: usize,
    /// From stopping the primary until the standby took writes.
    pub promoted_after: Duration,
    /// From stopping the primary until the first 202 to a request that began later.
    pub accepting_after: Duration,
    /// From stopping the primary until the first delivery of such an event.
    pub delivering_after: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "acknowledged events   {:>8}", self.acknowledged)?;
        writeln!(formatter, "refused requests      {:>8}", self.refused)?;
        writeln!(formatter, "lost                  {:>8}", self.lost)?;
        writeln!(formatter, "delivered once more   {:>8}", self.repeated)?;
        for (name, time) in [
            ("standby promoted after", self.promoted_after),
            ("accepting after      ", self.accepting_after),
            ("delivering after     ", self.delivering_after),
        ] {
            writeln!(formatter, "{name} {:>7.2} s", time.as_secs_f64())?;
        }
        Ok(())
    }
}

/// An event that was answered with 202.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    number: u64,
    begun: Instant,
    ended: Instant,
}

/// What the producers have done.
#[derive(Default)]
struct Log {
    next: AtomicU64,
    refused: AtomicU64,
    acknowledged: Mutex<Vec<Acknowledged>>,
    is_over: AtomicBool,
}

impl Log {
    fn acknowledged(&self) -> Vec<Acknowledged> {
        self.acknowledged.lock().expect("nothing panics while it is held").clone()
    }

    /// The first 202 to a request that began after that moment.
    fn first_after(&self, moment: Instant) -> Option<Acknowledged> {
        self.acknowledged().into_iter().filter(|event| event.begun > moment).min_by_key(|event| event.ended)
    }
}

/// Lets the primary fail under load, which lasts that long before it and again after it. The binaries of api and worker
/// must have been built.
///
/// # Errors
/// When something does not start, or nothing is accepted or delivered on the other server in time.
pub async fn failover(load: Duration) -> Result<Report> {
    let primary = Postgres::temporary("failover-primary", Durability::Durable)?;
    let standby = primary.standby("failover-standby")?;
    make_synchronous(&primary).await?;
    let env = variables(&primary, &standby)?;
    let (first, second) = (Process::start("api", "debug", &env).await?, Process::start("api", "debug", &env).await?);
    let workers = [Process::start("worker", "debug", &env).await?, Process::start("worker", "debug", &env).await?];
    let receiver = Receiver::start("127.0.0.1:0", Keep::Everything).await?;
    let clients = [&first, &second]
        .map(|api| Client { address: api.ready.rsplit('/').next().unwrap_or_default().to_owned(), key: KEY });
    let subscription = json!({"target_url": receiver.url("/success"), "timeout_ms": TIMEOUT_MS}).to_string();
    let made = clients[0].post("/subscriptions", &subscription).await?;
    ensure!(made["id"].is_string(), "no subscription: {made}");

    let log = Arc::new(Log::default());
    let mut producers = JoinSet::new();
    for number in 0..PRODUCERS {
        producers.spawn(produce(clients[number % clients.len()].clone(), Arc::clone(&log)));
    }
    tokio::time::sleep(load).await;
    ensure!(!log.acknowledged().is_empty(), "nothing was accepted before the primary stopped");
    let (stopped_at, standby) = tokio::task::spawn_blocking(move || {
        // What was sent is lost, what was acknowledged is on the standby.
        let stopped_at = Instant::now();
        primary.halt()?;
        standby.promote()?;
        anyhow::Ok((stopped_at, (primary, standby)))
    })
    .await??;
    let promoted_after = stopped_at.elapsed();
    let resumed = within("accepted", || log.first_after(stopped_at)).await?;
    let delivered = within("delivered", || first_delivery_after(&receiver, &log, stopped_at)).await?;
    tokio::time::sleep(load).await;
    log.is_over.store(true, Ordering::Relaxed);
    while producers.join_next().await.is_some() {}

    let lost = drain(&receiver, &log).await;
    let received = receiver.received().len();
    for process in workers.into_iter().chain([first, second]) {
        process.stop().await?;
    }
    drop(standby);
    let acknowledged = log.acknowledged().len();
    Ok(Report {
        acknowledged,
        refused: log.refused.load(Ordering::Relaxed),
        lost,
        repeated: received.saturating_sub(numbers(&receiver).len()),
        promoted_after,
        accepting_after: resumed.ended - stopped_at,
        delivering_after: delivered - stopped_at,
    })
}

/// From now on a commit waits until the standby shows it.
async fn make_synchronous(primary: &Postgres) -> Result<()> {
    let mut session = PgConnection::connect(&primary.url("postgres")).await?;
    for statement in [
        "ALTER SYSTEM SET synchronous_standby_names = '*'",
        "ALTER SYSTEM SET synchronous_commit = 'remote_apply'",
        "SELECT pg_reload_conf()",
    ] {
        sqlx::raw_sql(statement).execute(&mut session).await?;
    }
    let asked = Instant::now();
    let follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";
    while sqlx::query_scalar::<_, i64>(follows).fetch_one(&mut session).await? == 0 {
        ensure!(asked.elapsed() < WITHIN, "the standby does not follow the primary");
        tokio::time::sleep(PAUSE).await;
    }
    Ok(session.close().await?)
}

fn variables(primary: &Postgres, standby: &Postgres) -> Result<HashMap<String, String>> {
    let mut env = environment()?;
    let (one, other) = (primary.port(), standby.port());
    let hosts = format!("127.0.0.1:{one},127.0.0.1:{other}");
    let url = format!("postgres://postgres@{hosts}/postgres?target_session_attrs=read-write");
    for (name, value) in [
        ("DATABASE_URL", url.as_str()),
        ("POSTRIDER_API_LISTEN", "127.0.0.1:0"),
        ("POSTRIDER_WORKER_LISTEN", "127.0.0.1:0"),
        ("POSTRIDER_LOG", "warn,sqlx=error"),
    ] {
        env.insert(name.to_owned(), value.to_owned());
    }
    Ok(env)
}

async fn produce(client: Client<'static>, log: Arc<Log>) {
    while !log.is_over.load(Ordering::Relaxed) {
        let number = log.next.fetch_add(1, Ordering::Relaxed);
        let event = json!({"event_type": "order.created", "payload": {"number": number}}).to_string();
        let begun = Instant::now();
        match client.post("/events", &event).await {
            Ok(answer) if answer["event_id"].is_string() => {
                let event = Acknowledged { number, begun, ended: Instant::now() };
                log.acknowledged.lock().expect("nothing panics while it is held").push(event);
            }
            _ => {
                log.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
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

/// When the first event arrived that was accepted in a request that began after that moment.
fn first_delivery_after(receiver: &Receiver, log: &Log, moment: Instant) -> Option<Instant> {
    let later: HashSet<_> =
        log.acknowledged().into_iter().filter(|event| event.begun > moment).map(|event| event.number).collect();
    let arrived = receiver
        .received()
        .into_iter()
        .filter(|request| number_of(&request.body).is_some_and(|number| later.contains(&number)));
    arrived.map(|request| request.at).min()
}

fn number_of(body: &[u8]) -> Option<u64> {
    let body: Value = serde_json::from_slice(body).ok()?;
    body["number"].as_u64().or_else(|| body["data"]["number"].as_u64())
}

/// The events that the receiver has got.
fn numbers(receiver: &Receiver) -> HashSet<u64> {
    receiver.received().iter().filter_map(|request| number_of(&request.body)).collect()
}

/// Waits until every acknowledged event has arrived, or for long enough; returns how many have not.
async fn drain(receiver: &Receiver, log: &Log) -> usize {
    let missing = || {
        let arrived = numbers(receiver);
        log.acknowledged().iter().filter(|event| !arrived.contains(&event.number)).count()
    };
    let asked = Instant::now();
    while missing() > 0 && asked.elapsed() < WITHIN {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    missing()
}
