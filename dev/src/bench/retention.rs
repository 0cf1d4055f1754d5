//! Measures what retention does to the others: day after day of a month of history is dropped, while events are posted
//! at a steady rate and a list is read.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinHandle};

use super::{
    PROFILE,
    history::History,
    load::{self, Posted, Target, quantile_ms},
    ratio::{Limit, Ratio, by_name, ensure_kept, median},
};
use crate::{
    child::succeed,
    receiver::{Keep, Receiver},
    workspace,
};

/// Events a second that are posted and delivered meanwhile.
const RATE: u32 = 500;
/// How long ingest is measured before, and for how long nothing is dropped after each day.
const BEFORE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_secs(2);
/// Days of history that are kept, from the run that drops nothing to the one that drops the last day of this bench.
const KEPT_DAYS: [u32; 11] = [30, 29, 28, 27, 26, 25, 24, 23, 22, 21, 20];
/// What is dropped of each day: events, deliveries, inline deliveries and attempts.
const PARTITIONS_OF_DAY: usize = 4;
/// Lists that are read in turn, the second of which reads all partitions, and how often one is read.
const LISTS: [&str; 2] = ["/deliveries?limit=50", "/deliveries?limit=50&tenant_id=nobody"];
const READ_EVERY: Duration = Duration::from_millis(20);

/// What dropping a day may take, how long somebody may wait because of it, and what the p99 of ingest meanwhile may
/// be, as a multiple of the p99 before.
const DAY_SECONDS_MAX: f64 = 1.0;
const WAIT_SECONDS_MAX: f64 = 1.0;
const LATENCY_MAX: f64 = 2.0;

/// Something that took from a moment to another.
#[derive(Clone, Copy, Debug)]
struct Span {
    from: Instant,
    until: Instant,
}

impl Span {
    fn time(&self) -> Duration {
        self.until - self.from
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.from < other.until && other.from < self.until
    }
}

/// Drops ten days, one after the other.
///
/// # Errors
/// When a day is not dropped, a request fails, or a limit is broken.
pub async fn retention(history: &History) -> Result<Value> {
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let subscription = history.system.subscribe(&receiver.url("/success")).await?;
    let busy = Busy::start(history, history.system.target(&subscription));
    tokio::time::sleep(BEFORE).await;
    let before = Span { from: busy.started, until: Instant::now() };
    let mut runs = Vec::new();
    for days in KEPT_DAYS {
        let run = drop_days(&history.system.env, days).await?;
        let expected = if days == KEPT_DAYS[0] { 0 } else { PARTITIONS_OF_DAY };
        ensure!(run.dropped == expected, "{} partitions were dropped instead of {expected}", run.dropped);
        runs.push(run.span);
        tokio::time::sleep(PAUSE).await;
    }
    let (posts, reads) = busy.end().await?;

    let (nothing, days) = runs.split_first().expect("there is a run that drops nothing");
    let day = median(days.iter().map(|run| run.time().as_secs_f64()));
    let longest_day = days.iter().map(|run| run.time().as_secs_f64()).fold(0.0, f64::max);
    let start = nothing.time().as_secs_f64();
    println!("retention:      {day:>8.2} s a day, {longest_day:.2} s the longest of {} (each a run of", days.len());
    println!("                `worker retention --once`, which takes {start:.2} s where nothing is dropped)");
    let normal = of(&posts, |post| post.overlaps(&before));
    let meanwhile = of(&posts, |post| days.iter().any(|day| post.overlaps(day)));
    let reading = of(&reads, |read| days.iter().any(|day| read.overlaps(day)));
    let reading_before = of(&reads, |read| read.overlaps(&before));
    println!("ingest at {RATE}/s:  p50 ms   p99 ms   longest ms");
    let [normal_p99, meanwhile_p99] = [tell("before", &normal), tell("while a day is dropped", &meanwhile)];
    println!("lists:            p50 ms   p99 ms   longest ms");
    tell("before", &reading_before);
    tell("while a day is dropped", &reading);
    let longest = |times: &[Duration]| times.last().map_or(f64::NAN, Duration::as_secs_f64);
    let ratios = [
        Ratio::told("seconds to drop a day", day, Limit::AtMost(DAY_SECONDS_MAX)),
        Ratio::told("longest ingest in seconds", longest(&meanwhile), Limit::AtMost(WAIT_SECONDS_MAX)),
        Ratio::told("longest read of a list in seconds", longest(&reading), Limit::AtMost(WAIT_SECONDS_MAX)),
        Ratio::told("p99 of ingest against before", meanwhile_p99 / normal_p99, Limit::AtMost(LATENCY_MAX)),
    ];
    ensure_kept(&ratios)?;
    Ok(json!({"day_seconds": day, "longest_day_seconds": longest_day, "run_without_work_seconds": start,
              "ingest_p99_ms": {"before": normal_p99, "meanwhile": meanwhile_p99}, "ratios": by_name(&ratios)}))
}

/// The times of those that are asked for, the shortest first.
fn of(spans: &[Span], is_meant: impl Fn(&Span) -> bool) -> Vec<Duration> {
    let mut times: Vec<_> = spans.iter().filter(|span| is_meant(span)).map(Span::time).collect();
    times.sort_unstable();
    times
}

/// Prints a line; answers the p99.
fn tell(name: &str, times: &[Duration]) -> f64 {
    let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|share| quantile_ms(times, share));
    println!("                {p50:>8.2} {p99:>8.2} {longest:>12.2}   {name} ({} times)", times.len());
    p99
}

/// One run of retention.
struct Run {
    span: Span,
    dropped: usize,
}

/// Runs retention as an outside cron would, and keeps so many days.
async fn drop_days(env: &HashMap<String, String>, days: u32) -> Result<Run> {
    let mut worker = Command::new(workspace().join("target").join(PROFILE).join("worker"));
    worker.args(["retention", "--once"]).envs(env).env("POSTRIDER_RETENTION_DAYS", days.to_string());
    let from = Instant::now();
    let told = succeed(worker.current_dir(workspace()), "retention failed").await?;
    let span = Span { from, until: Instant::now() };
    Ok(Run { span, dropped: told.lines().filter(|line| line.starts_with("dropped: ")).count() })
}

/// Those who use the system meanwhile.
struct Busy {
    started: Instant,
    is_over: Arc<AtomicBool>,
    posts: Arc<Mutex<Vec<Span>>>,
    reads: Arc<Mutex<Vec<Span>>>,
    posting: JoinHandle<Result<()>>,
    reading: JoinHandle<Result<()>>,
}

impl Busy {
    fn start(history: &History, target: Target) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let (posts, reads) = (Arc::default(), Arc::default());
        let posting = tokio::spawn(post(target, Arc::clone(&is_over), Arc::clone(&posts)));
        let (address, key) = (history.system.address(), history.system.key.clone());
        let reading = tokio::spawn(read(address, key, Arc::clone(&is_over), Arc::clone(&reads)));
        Self { started: Instant::now(), is_over, posts, reads, posting, reading }
    }

    async fn end(self) -> Result<(Vec<Span>, Vec<Span>)> {
        self.is_over.store(true, Ordering::Relaxed);
        self.posting.await??;
        self.reading.await??;
        let taken = |spans: &Mutex<Vec<Span>>| spans.lock().expect("nothing panics while it is held").clone();
        Ok((taken(&self.posts), taken(&self.reads)))
    }
}

async fn post(target: Target, is_over: Arc<AtomicBool>, posts: Arc<Mutex<Vec<Span>>>) -> Result<()> {
    while !is_over.load(Ordering::Relaxed) {
        let posted = load::steady(&target, RATE, Duration::from_secs(1)).await?;
        let spans = posted.into_iter().map(|Posted { sent, accepted }| Span { from: sent, until: accepted });
        posts.lock().expect("nothing panics while it is held").extend(spans);
    }
    Ok(())
}

async fn read(address: String, key: String, is_over: Arc<AtomicBool>, reads: Arc<Mutex<Vec<Span>>>) -> Result<()> {
    let client = crate::client::Client { address, key: &key };
    for list in LISTS.into_iter().cycle().take_while(|_| !is_over.load(Ordering::Relaxed)) {
        let from = Instant::now();
        let answer = client.get(list).await?;
        ensure!(answer["data"].is_array(), "{list} is answered with {answer}");
        let span = Span { from, until: Instant::now() };
        reads.lock().expect("nothing panics while it is held").push(span);
        tokio::time::sleep(READ_EVERY).await;
    }
    Ok(())
}
