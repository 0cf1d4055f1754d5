//! `cargo dev bench`: measures the whole system on this machine in release mode. The same run also measures the
//! database alone, so that every figure can be read as a ratio.

#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of a bench are far below 2^52"
)]

mod bloat;
mod ceiling;
mod events;
mod fairness;
mod footprint;
mod history;
mod lists;
mod live;
mod load;
mod pages;
mod ratio;
mod retention;
mod scale;
mod system;
mod trace;
mod usage;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use self::{
    ceiling::Ceiling,
    load::{Posted, Until, quantile_ms},
    system::{System, database},
};
use crate::{
    child::status,
    postgres::{Durability, Postgres},
    receiver::{Keep, Receiver},
    up::build,
    workspace,
};

/// The measurements that are made where nothing is named, and those that are made only where they are named: they take
/// long, or fill the disk.
const USUAL: [&str; 6] = ["ingest", "latency", "events", "end_to_end", "backlog", "held"];
const NAMED: [&str; 10] =
    ["trace", "lists", "pages", "live", "fairness", "fairness_small", "scale", "retention", "bloat", "footprint"];

/// How many connections post at the same time; ingest is measured with each of these numbers.
const CONNECTIONS: [usize; 4] = [1, 16, 64, 256];
/// How long ingest is measured with each number of connections.
const INGEST_TIME: Duration = Duration::from_secs(5);
/// How many events the end-to-end measurement posts.
const END_TO_END_EVENTS: u64 = 50_000;
/// How many connections the end-to-end measurement posts over.
const END_TO_END_CONNECTIONS: usize = 64;
/// How many deliveries of a paused subscription wait during the backlog measurement.
const PARKED: usize = 1_000_000;
/// The measurement of latency without load: events a second, and for how long.
const LATENCY_RATE: u32 = 100;
const LATENCY_TIME: Duration = Duration::from_secs(20);
/// The measurement while a session holds an old snapshot: events a second, and for how long.
const HELD_RATE: u32 = 2000;
const HELD_TIME: Duration = Duration::from_secs(60);

/// Which builds are measured: those of release mode, unless the word `debug` asks for debug builds, to try a bench
/// quickly. Of what it then prints only sizes mean anything.
const PROFILE: &str = if cfg!(debug_assertions) { "debug" } else { "release" };
const DEBUG: &str = "debug";

/// Runs the usual measurements, or only those that are named. A number is how many minutes `bloat` lasts, and `debug`
/// measures debug builds.
///
/// # Errors
/// When a name is not known, something does not start, or a measurement fails.
pub async fn bench(only: &[&str]) -> Result<()> {
    for word in only {
        let is_known = USUAL.contains(word) || NAMED.contains(word) || minutes(&[word]).is_some() || *word == DEBUG;
        ensure!(is_known, "`{word}` is not measured; what is: {}", [&USUAL[..], &NAMED].concat().join(" "));
    }
    let is_debug_wanted = only.contains(&DEBUG);
    let only: Vec<&str> = only.iter().copied().filter(|word| *word != DEBUG).collect();
    if cfg!(debug_assertions) && !is_debug_wanted {
        let mut cargo = Command::new("cargo");
        cargo.args(["run", "--quiet", "--release", "--package", "dev", "--", "bench"]).args(&only);
        ensure!(status(cargo.current_dir(workspace())).await?.success(), "the bench failed");
        return Ok(());
    }
    build(PROFILE).await?;
    let server = Postgres::temporary("bench", Durability::Durable)?;
    let measured = measure(&server, &only).await?;
    drop(server);
    println!("\n{}", serde_json::to_string_pretty(&measured.figures)?);
    ensure!(measured.failures.is_empty(), "not everything is as it must be:\n{}", measured.failures.join("\n"));
    Ok(())
}

/// The figures of a run. A measurement that fails, or breaks its limit, does not end the run: what was set up for the
/// others may have taken minutes.
struct Measured {
    figures: Value,
    failures: Vec<String>,
}

impl Measured {
    fn keep(&mut self, name: &str, outcome: Result<Value>) {
        match outcome {
            Ok(figures) => self.figures[name] = figures,
            Err(failure) => {
                println!("{name}: {failure:#}");
                self.failures.push(format!("{name}: {failure:#}"));
            }
        }
    }
}

/// The number among these words.
fn minutes(words: &[&str]) -> Option<u64> {
    words.iter().find_map(|word| word.parse().ok())
}

async fn measure(server: &Postgres, only: &[&str]) -> Result<Measured> {
    let wanted = |name: &str| only.is_empty() || only.contains(&name);
    let ceiling = measure_ceiling(server).await?;
    println!("database alone: {:>7.0} rows/s insert + claim + record in batches of 200", ceiling.cycle_rows_per_second);
    println!("                {:>7.2} ms a single-row commit (p50)", ceiling.commit_ms);
    let figures = json!({"cycle_rows_per_second": ceiling.cycle_rows_per_second, "commit_ms": ceiling.commit_ms});
    let mut all = Measured { figures, failures: Vec::new() };
    if wanted("ingest") {
        all.keep("ingest", ingest(server, &ceiling).await);
    }
    if wanted("latency") {
        all.keep("latency", latency(server).await);
    }
    if wanted("events") {
        all.keep("events", events::latency(server).await);
        all.keep("fan_out", events::fan_out(server).await);
        all.keep("publish", events::publish(server).await);
    }
    if wanted("end_to_end") || wanted("backlog") {
        let plain = end_to_end(server, &ceiling, 0).await?;
        if wanted("backlog") {
            let parked = end_to_end(server, &ceiling, PARKED).await?;
            let share = parked["deliveries_per_second"].as_f64().unwrap_or(0.0)
                / plain["deliveries_per_second"].as_f64().unwrap_or(f64::NAN);
            println!("                {:>6.0} % of the throughput without them", share * 100.0);
            all.keep("end_to_end_with_backlog", Ok(parked));
            all.keep("backlog_share", Ok(json!(share)));
        }
        all.keep("end_to_end", Ok(plain));
    }
    if wanted("held") {
        all.keep("held_snapshot", held_snapshot(server).await);
    }
    if only.contains(&"trace") {
        all.keep("trace", trace::trace(server).await);
    }
    if only.iter().any(|name| ["lists", "pages", "retention"].contains(name)) {
        with_history(server, only, &mut all).await?;
    }
    if only.contains(&"live") {
        all.keep("live", live::live(server).await);
    }
    for (name, size) in [("fairness", fairness::FULL), ("fairness_small", fairness::SMALL)] {
        if only.contains(&name) {
            all.keep(name, fairness::fairness(server, size).await);
        }
    }
    if only.contains(&"scale") {
        all.keep("scale", scale::scale(server).await);
    }
    if only.contains(&"footprint") {
        all.keep("footprint", footprint::footprint(server).await);
    }
    if only.contains(&"bloat") {
        all.keep("bloat", bloat::bloat(server, minutes(only).unwrap_or(bloat::MINUTES)).await);
    }
    Ok(all)
}

/// Makes those measurements that need a month of history. Retention comes last, because it drops a part of it.
async fn with_history(server: &Postgres, only: &[&str], all: &mut Measured) -> Result<()> {
    let history = history::History::start(server).await?;
    if only.contains(&"lists") {
        all.keep("lists", lists::lists(&history).await);
    }
    if only.contains(&"pages") {
        all.keep("pages", pages::pages(&history).await);
    }
    if only.contains(&"retention") {
        all.keep("retention", retention::retention(&history).await);
    }
    history.system.stop().await
}

async fn measure_ceiling(server: &Postgres) -> Result<Ceiling> {
    let (pool, _) = database(server).await?;
    let ceiling = ceiling::measure(&pool).await?;
    pool.close().await;
    Ok(ceiling)
}

async fn ingest(server: &Postgres, ceiling: &Ceiling) -> Result<Value> {
    let system = System::start(server).await?;
    // The subscription is paused, so that only storing is measured.
    let subscription = system.subscribe("http://127.0.0.1:10/").await?;
    system.call(&format!("/subscriptions/{subscription}/pause"), "").await?;
    let target = system.target(&subscription);
    load::flood(&target, 16, Until::Elapsed(Duration::from_secs(1))).await?;
    let mut rows = Vec::new();
    println!("ingest:         connections  requests/s   p50 ms   p99 ms");
    for connections in CONNECTIONS {
        let seen = load::flood(&target, connections, Until::Elapsed(INGEST_TIME)).await?;
        let (p50, p99) = (quantile_ms(&seen.latencies, 0.5), quantile_ms(&seen.latencies, 0.99));
        println!("                {connections:>11}  {:>10.0} {p50:>8.2} {p99:>8.2}", seen.rate());
        if connections == 1 {
            println!("                a lone connection's p50 is {:.2} single-row commits", p50 / ceiling.commit_ms);
        }
        rows.push(
            json!({"connections": connections, "requests_per_second": seen.rate(), "p50_ms": p50, "p99_ms": p99}),
        );
    }
    system.stop().await?;
    Ok(json!(rows))
}

async fn latency(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Everything).await?;
    let subscription = system.subscribe(&receiver.url("/success")).await?;
    let target = system.target(&subscription);
    load::steady(&target, LATENCY_RATE, Duration::from_secs(2)).await?;
    let warm = receiver.count();
    let before = system.cpu();
    let posted = load::steady(&target, LATENCY_RATE, LATENCY_TIME).await?;
    receiver.wait_for(warm + posted.len() as u64, Duration::from_secs(30)).await?;
    let cpu = system.cpu().per_thousand(&before, posted.len() as u64);
    let warm = usize::try_from(warm)?;
    println!("latency at {LATENCY_RATE}/s:  p50 ms   p99 ms");
    let mut answer = receipt(&receiver, warm, &posted)?;
    answer["cpu_seconds_per_1000"] = cpu_json(cpu);
    system.stop().await?;
    Ok(answer)
}

/// How long each posted event took until the receiver had it. The receiver had `before` requests from earlier.
fn receipt(receiver: &Receiver, before: usize, posted: &[Posted]) -> Result<Value> {
    let (mut from_post, mut from_accept) = (Vec::new(), Vec::new());
    for received in receiver.received().iter().skip(before) {
        let number = load::number(&received.body).context("a payload of ours")?;
        let posted = posted[usize::try_from(number)?];
        from_post.push(received.at - posted.sent);
        from_accept.push(received.at.saturating_duration_since(posted.accepted));
    }
    from_post.sort_unstable();
    from_accept.sort_unstable();
    let mut answer = json!({});
    for (name, values) in [("post_to_receipt", &from_post), ("accept_to_receipt", &from_accept)] {
        let (p50, p99) = (quantile_ms(values, 0.5), quantile_ms(values, 0.99));
        println!("                {p50:>8.2} {p99:>8.2}   {name}");
        answer[name] = json!({"p50_ms": p50, "p99_ms": p99});
    }
    Ok(answer)
}

async fn end_to_end(server: &Postgres, ceiling: &Ceiling, parked: usize) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    if parked > 0 {
        park(&system, parked).await?;
    }
    let subscription = system.subscribe(&receiver.url("/success")).await?;
    let target = system.target(&subscription);
    load::flood(&target, END_TO_END_CONNECTIONS, Until::Events(2000)).await?;
    receiver.wait_for(2000, Duration::from_secs(60)).await?;

    let before = system.cpu();
    let started = std::time::Instant::now();
    let seen = load::flood(&target, END_TO_END_CONNECTIONS, Until::Events(END_TO_END_EVENTS)).await?;
    receiver.wait_for(2000 + END_TO_END_EVENTS, Duration::from_secs(300)).await?;
    let elapsed = started.elapsed();
    let cpu = system.cpu().per_thousand(&before, END_TO_END_EVENTS);
    let rate = END_TO_END_EVENTS as f64 / elapsed.as_secs_f64();
    let memory = system.peak_memory_mb();
    println!(
        "end to end:     {rate:>7.0} deliveries/s, {END_TO_END_EVENTS} events, {parked} parked \
         ({:.0} % of the database alone)",
        rate / ceiling.cycle_rows_per_second * 100.0
    );
    println!(
        "                posting {:.0}/s; CPU s per 1000: api {:.3}, worker {:.3}, postgres {:.3}, \
         load and receiver {:.3}",
        seen.rate(),
        cpu[0],
        cpu[1],
        cpu[2],
        cpu[3]
    );
    println!("                peak memory: api {:.0} MB, worker {:.0} MB", memory[0], memory[1]);
    system.stop().await?;
    Ok(json!({
        "deliveries_per_second": rate, "posted_per_second": seen.rate(), "parked": parked,
        "cpu_seconds_per_1000": cpu_json(cpu), "peak_memory_mb": {"api": memory[0], "worker": memory[1]},
    }))
}

/// Stores deliveries of a second subscription, which is paused, so that they stay in the queue.
async fn park(system: &System, count: usize) -> Result<()> {
    const ROWS: usize = 5000;
    let other = system.subscribe("http://127.0.0.1:10/").await?;
    system.call(&format!("/subscriptions/{other}/pause"), "").await?;
    let lane = Uuid::parse_str(&other["sub_".len()..])?;
    for _ in 0..count / ROWS {
        ceiling::accept(&system.pool, lane, ROWS).await?;
    }
    Ok(())
}

async fn held_snapshot(server: &Postgres) -> Result<Value> {
    let system = System::start(server).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let subscription = system.subscribe(&receiver.url("/success")).await?;
    let mut holder = system.pool.begin().await?;
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *holder).await?;
    sqlx::query("SELECT count(*) FROM queue").execute(&mut *holder).await?;

    let target = system.target(&subscription);
    let watch = async {
        let (mut last, mut counts) = (0, Vec::new());
        for _ in 0..HELD_TIME.as_secs() / 10 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            counts.push((receiver.count() - last) / 10);
            last = receiver.count();
        }
        counts
    };
    let (posted, counts) = tokio::join!(load::steady(&target, HELD_RATE, HELD_TIME), watch);
    let posted = posted?.len() as u64;
    receiver.wait_for(posted, Duration::from_secs(60)).await?;
    holder.rollback().await?;
    println!("held snapshot:  {HELD_RATE}/s offered for {HELD_TIME:?}; deliveries/s in each 10 s: {counts:?}");
    system.stop().await?;
    Ok(json!({"offered_per_second": HELD_RATE, "deliveries_per_second": counts}))
}

fn cpu_json([api, worker, postgres, bench]: [f64; 4]) -> Value {
    json!({"api": api, "worker": worker, "postgres": postgres, "load_and_receiver": bench})
}
