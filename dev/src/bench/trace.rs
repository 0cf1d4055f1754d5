//! Measures where the time of single events goes, hop by hop from the first byte of the request to the receiver. The
//! api and the worker log each hop with its moment; this costs them some time itself, so compare traces only with
//! traces.

use std::{
    collections::HashMap,
    fs,
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    ceiling, cpu_json,
    load::{self, Posted, quantile_ms},
    system::System,
};
use crate::{
    postgres::Postgres,
    receiver::{Keep, Received, Receiver},
};

/// Rates at which events are posted, a second; before these, one connection posts as fast as it is answered.
const RATES: [u32; 4] = [20, 100, 400, 1000];
/// How long each rate is kept up, and how many events the closed loop posts.
const TIME: Duration = Duration::from_secs(10);
const LOOP_EVENTS: u64 = 2000;
const MICROS_PER_DAY: u64 = 24 * 3600 * 1_000_000;

/// The hops in their order: the name of the moment that ends it, and what happens until then. The waker and the
/// dispatcher serve all events at once; their moments are those that come first after the event's own.
const HOPS: [(&str, &str); 10] = [
    ("queued", "read, authorized, made an event of"),
    ("storing", "waited for the writer"),
    ("stored", "stored and committed"),
    ("waking", "waited for the waker"),
    ("heard", "wake-up reached the worker"),
    ("looking", "waited for the claim to begin"),
    ("claimed", "claimed"),
    ("read", "payload read"),
    ("sending", "task started, request made"),
    ("received", "sent and received"),
];

/// Moments in microseconds since midnight (UTC).
#[derive(Default)]
struct Log {
    of_events: HashMap<String, HashMap<String, u64>>,
    of_all: HashMap<String, Vec<u64>>,
}

/// Traces events in a closed loop and at each rate.
///
/// # Errors
/// When something does not start, or does not keep up.
pub async fn trace(server: &Postgres) -> Result<Value> {
    let mut answer = json!({"closed loop": one(server, None).await?});
    for rate in RATES {
        answer[format!("{rate}/s")] = one(server, Some(rate)).await?;
    }
    Ok(answer)
}

async fn one(server: &Postgres, rate: Option<u32>) -> Result<Value> {
    let logs: [PathBuf; 2] =
        ["api", "worker"].map(|name| std::env::temp_dir().join(format!("hops-{name}-{}", std::process::id())));
    let files = [fs::File::create(&logs[0])?, fs::File::create(&logs[1])?];
    let level = [("POSTRIDER_LOG", "warn,postrider_hops=trace"), ("POSTRIDER_LOG_FORMAT", "json")];
    let system = System::start_with(server, &level, files.map(Stdio::from)).await?;
    let receiver = Receiver::start("127.0.0.1:0", Keep::Everything).await?;
    let subscription = system.subscribe(&receiver.url("/success")).await?;
    let target = system.target(&subscription);
    let commit_ms = ceiling::commit_ms(&system.pool, rate).await?;
    load::steady(&target, 100, Duration::from_secs(2)).await?;
    let warm = receiver.count();
    let clock = (SystemTime::now(), Instant::now());
    let before = system.cpu();
    let posted = match rate {
        None => load::closed_loop(&target, LOOP_EVENTS).await?,
        Some(rate) => load::steady(&target, rate, TIME).await?,
    };
    receiver.wait_for(warm + posted.len() as u64, Duration::from_secs(30)).await?;
    let cpu = system.cpu().per_thousand(&before, posted.len() as u64);
    system.stop().await?;
    let mut log = Log::default();
    for path in logs {
        log.add(&fs::read_to_string(&path)?);
        fs::remove_file(path)?;
    }
    let name = rate.map_or("closed loop, 1 connection".to_owned(), |rate| format!("{rate} events/s"));
    let received: Vec<_> = receiver.received().into_iter().skip(usize::try_from(warm)?).collect();
    println!("trace:          {name}: p50 ms   p99 ms");
    let mut answer = show(&log, &posted, &received, clock)?;
    let commits = answer["whole"]["p50_ms"].as_f64().unwrap_or(f64::NAN) / commit_ms;
    println!(
        "                {commit_ms:>8.2}            a bare commit at this rate; the whole is {commits:.1} of these"
    );
    answer["bare_commit_ms"] = json!(commit_ms);
    let [api, worker, postgres, _] = cpu;
    println!("                CPU s per 1000: api {api:.3}, worker {worker:.3}, postgres {postgres:.3}");
    answer["cpu_seconds_per_1000"] = cpu_json(cpu);
    Ok(answer)
}

/// Prints how long each hop took.
fn show(log: &Log, posted: &[Posted], received: &[Received], clock: (SystemTime, Instant)) -> Result<Value> {
    let mut hops: HashMap<&str, Vec<Duration>> = HashMap::new();
    let (mut whole, mut unwoken) = (Vec::new(), 0);
    for one in received {
        let number = load::number(&one.body).context("a payload of ours")?;
        let sent = posted[usize::try_from(number)?].sent;
        whole.push(one.at - sent);
        let own = log.of_events.get(one.header("webhook-id"));
        let (own, end) = (own.context("an event without a trace")?, micros(one.at, clock));
        let mut last = micros(sent, clock);
        let claimed = *own.get("claimed").context("an event that nobody has claimed")?;
        for (hop, _) in HOPS {
            let at = match hop {
                "received" => Some(end),
                // Of the moments of all events, the last look before the claim counts, and the first wake-up after
                // the commit.
                "looking" => log.last_before(hop, claimed),
                "waking" | "heard" => log.first_after(hop, last).filter(|at| *at <= claimed),
                own_hop => own.get(own_hop).copied(),
            };
            if hop == "heard" && at.is_none() {
                unwoken += 1;
            }
            if let Some(at) = at {
                hops.entry(hop).or_default().push(Duration::from_micros(at.saturating_sub(last)));
                last = last.max(at);
            }
        }
    }
    let mut answer = json!({"events": whole.len(), "claimed_without_a_wake_up": unwoken});
    for (hop, what) in HOPS {
        let times = hops.entry(hop).or_default();
        times.sort_unstable();
        let (p50, p99) = (quantile_ms(times, 0.5), quantile_ms(times, 0.99));
        println!("                {p50:>8.2} {p99:>8.2}   {hop}: {what}");
        answer[hop] = json!({"p50_ms": p50, "p99_ms": p99});
    }
    whole.sort_unstable();
    let (p50, p99) = (quantile_ms(&whole, 0.5), quantile_ms(&whole, 0.99));
    println!("                {p50:>8.2} {p99:>8.2}   from the request to the receiver; {unwoken} claimed unwoken");
    answer["whole"] = json!({"p50_ms": p50, "p99_ms": p99});
    Ok(answer)
}

impl Log {
    fn add(&mut self, text: &str) {
        for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let (Some(hop), Some(at)) = (line["hop"].as_str(), line["timestamp"].as_str().and_then(micros_of)) else {
                continue;
            };
            match line["event"].as_str() {
                Some(event) => _ = self.of_events.entry(event.to_owned()).or_default().insert(hop.to_owned(), at),
                None => self.of_all.entry(hop.to_owned()).or_default().push(at),
            }
        }
    }

    fn last_before(&self, hop: &str, moment: u64) -> Option<u64> {
        let moments = self.of_all.get(hop)?;
        moments[..moments.partition_point(|at| *at <= moment)].last().copied()
    }

    fn first_after(&self, hop: &str, moment: u64) -> Option<u64> {
        let moments = self.of_all.get(hop)?;
        moments.get(moments.partition_point(|at| *at < moment)).copied()
    }
}

/// Microseconds since midnight of a time such as `2026-01-31T23:59:59.123456Z`.
fn micros_of(time: &str) -> Option<u64> {
    let mut parts = time.split('T').nth(1)?.trim_end_matches('Z').split([':', '.']);
    let mut next = || parts.next()?.parse::<u64>().ok();
    let (hours, minutes, seconds, micros) = (next()?, next()?, next()?, next()?);
    Some(((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + micros)
}

fn micros(at: Instant, (time, instant): (SystemTime, Instant)) -> u64 {
    let begin = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from((begin + at.saturating_duration_since(instant)).as_micros()).unwrap_or_default() % MICROS_PER_DAY
}
