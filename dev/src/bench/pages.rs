//! Measures the statistics and the pages of the dashboard on a database with a month of history: the statistics while
//! nothing else runs, the pages while the processes are busy with deliveries.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use hyper::{Method, Response, header};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{history::History, load, load::quantile_ms};
use crate::{
    client::Client,
    receiver::{Keep, Receiver},
};

/// Every page is read this often, one read after the other.
const READS: usize = 20;
/// What 95 of 100 reads of a page may take at most, and half of the reads of the statistics.
const PAGE_LIMIT: Duration = Duration::from_millis(300);
const STATISTICS_LIMIT: Duration = Duration::from_millis(10);
/// What half of the reads of a day as a series of minutes may take. It is an answer of up to 1 MB.
const MINUTES_LIMIT: Duration = Duration::from_millis(50);
/// What a page may send when it is opened for the first time, with everything that it loads.
const BYTES_MAX: usize = 60 * 1024;
/// Events a second that are delivered meanwhile. How many cores were busy is told at the end.
const RATE: u32 = 300;

/// The pages; words in capitals stand for ids.
const PAGES: [&str; 30] = [
    "/ui/",
    "/ui/?tenant_id=tenant_7",
    "/ui/deliveries",
    "/ui/deliveries?status=dead_letter",
    "/ui/deliveries?status=pending",
    "/ui/deliveries?status=succeeded",
    "/ui/deliveries?event_type=type.7",
    "/ui/deliveries?tenant_id=tenant_7",
    "/ui/deliveries/DELIVERY",
    "/ui/events",
    "/ui/events?event_type=type.7",
    "/ui/events/EVENT",
    "/ui/dead-letters",
    "/ui/dead-letters?view=list",
    "/ui/subscriptions",
    "/ui/subscriptions?failing=true",
    "/ui/subscriptions?sort=failures",
    "/ui/subscriptions?event_type=type.7",
    "/ui/subscriptions?host=nowhere.example.com",
    "/ui/subscriptions/SUBSCRIPTION",
    "/ui/subscriptions/SUBSCRIPTION/deliveries",
    "/ui/subscriptions/SUBSCRIPTION/settings",
    "/ui/jobs",
    "/ui/jobs?state=running",
    "/ui/emitters",
    "/ui/live",
    "/ui/lanes",
    "/ui/tenants",
    "/ui/audit",
    "/ui/about",
];

/// What of the statistics is read, and how long it may take.
const STATISTICS: [(&str, Duration); 7] = [
    ("/stats", STATISTICS_LIMIT),
    ("/stats?since=MONTH", STATISTICS_LIMIT),
    ("/stats?since=MONTH&tenant_id=default", STATISTICS_LIMIT),
    ("/stats/history?since=MONTH&step=1d", STATISTICS_LIMIT),
    ("/stats/history?step=1m", MINUTES_LIMIT),
    ("/stats/causes", STATISTICS_LIMIT),
    ("/subscriptions/SUBSCRIPTION/stats", STATISTICS_LIMIT),
];

/// Reads every page.
///
/// # Errors
/// When a page takes longer than it may, sends more, or does not come at all.
pub async fn pages(history: &History) -> Result<Value> {
    let client = history.client();
    let cookie = sign_in(&client).await?;
    let month = "SELECT to_char(now() - interval '29 days', 'YYYY-MM-DD\"T00:00:00Z\"')";
    let month: String = sqlx::query_scalar(month).fetch_one(&history.system.pool).await?;
    let delivery = first_id(&client, "/deliveries?status=dead_letter").await?;
    let event = first_id(&client, "/events?tenant_id=default").await?;
    let path = |text: &str| {
        let names = [("SUBSCRIPTION", &history.subscription), ("DELIVERY", &delivery), ("EVENT", &event)];
        let names = names.into_iter().chain([("MONTH", &month)]);
        names.fold(text.to_owned(), |path, (name, id)| path.replace(name, id))
    };
    let (mut wrong, mut answer) = (Vec::new(), json!({}));
    println!("statistics:         p50 ms     p95 ms   nothing beside");
    for (question, limit) in STATISTICS {
        let (times, _) = read(&client, &path(question), &cookie).await?;
        let (p50, p95) = (quantile_ms(&times, 0.5), quantile_ms(&times, 0.95));
        println!("                {p50:>10.1} {p95:>10.1}   {question}");
        answer[question] = json!({"p50_ms": p50, "p95_ms": p95});
        if p50 > limit.as_secs_f64() * 1000.0 {
            wrong.push(question);
        }
    }
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let load = keep_busy(history, &receiver).await?;
    let (cpu, started) = (history.system.cpu(), Instant::now());
    println!("pages:              p50 ms     p95 ms   KB at first view, {RATE} deliveries/s beside");
    for page in PAGES {
        let path = path(page);
        let (times, last) = read(&client, &path, &cookie).await?;
        let bytes = last.body().len() + loaded_bytes(&client, &path, &cookie).await?;
        let (p50, p95) = (quantile_ms(&times, 0.5), quantile_ms(&times, 0.95));
        println!("                {p50:>10.1} {p95:>10.1} {:>10.1}   {page}", bytes as f64 / 1024.0);
        answer[page] = json!({"p50_ms": p50, "p95_ms": p95, "bytes": bytes});
        if p95 > PAGE_LIMIT.as_secs_f64() * 1000.0 || bytes > BYTES_MAX {
            wrong.push(page);
        }
    }
    let used = history.system.cpu().per_thousand(&cpu, 1000).iter().take(3).sum::<f64>();
    println!("                {:.2} cores were busy with all this", used / started.elapsed().as_secs_f64());
    load.abort();
    ensure!(wrong.is_empty(), "these took longer or sent more than they may: {wrong:?}");
    Ok(answer)
}

/// Has events delivered at a steady rate until the answered task is ended.
async fn keep_busy(history: &History, receiver: &Receiver) -> Result<JoinHandle<()>> {
    let subscription = history.system.subscribe(&receiver.url("/success")).await?;
    let target = history.system.target(&subscription);
    Ok(tokio::spawn(async move {
        loop {
            if let Err(error) = load::steady(&target, RATE, Duration::from_secs(60)).await {
                println!("the load broke off: {error:#}");
                return;
            }
        }
    }))
}

/// Signs in; answers the cookie.
async fn sign_in(client: &Client<'_>) -> Result<String> {
    let origin = format!("http://{}", client.address);
    let headers = [(header::ORIGIN, origin.as_str()), (header::CONTENT_TYPE, "application/x-www-form-urlencoded")];
    let answer = client.send(Method::POST, "/ui/sign-in", &headers, &format!("key={}", client.key)).await?;
    let cookie = answer.headers().get(header::SET_COOKIE).context("the key is not taken")?;
    Ok(cookie.to_str()?.split(';').next().unwrap_or_default().to_owned())
}

async fn first_id(client: &Client<'_>, list: &str) -> Result<String> {
    let answer = client.get(list).await?;
    Ok(answer["data"][0]["id"].as_str().with_context(|| format!("{list} is empty: {answer}"))?.to_owned())
}

/// Reads a page again and again; answers the sorted times and the last answer.
async fn read(client: &Client<'_>, path: &str, cookie: &str) -> Result<(Vec<Duration>, Response<Bytes>)> {
    let mut times = Vec::new();
    loop {
        let started = Instant::now();
        let answer = get(client, path, cookie).await?;
        times.push(started.elapsed());
        if times.len() == READS {
            times.sort_unstable();
            return Ok((times, answer));
        }
    }
}

async fn get(client: &Client<'_>, path: &str, cookie: &str) -> Result<Response<Bytes>> {
    let key = format!("Bearer {}", client.key);
    // A page is asked for as a browser does, anything else with the key.
    let who = if path.starts_with("/ui/") { (header::COOKIE, cookie) } else { (header::AUTHORIZATION, key.as_str()) };
    let answer = client.send(Method::GET, path, &[who, (header::ACCEPT_ENCODING, "gzip")], "").await?;
    ensure!(answer.status().is_success(), "{path} is answered with {}", answer.status());
    Ok(answer)
}

/// The bytes of everything that the page loads: style sheets, scripts and icons.
async fn loaded_bytes(client: &Client<'_>, path: &str, cookie: &str) -> Result<usize> {
    let page = client.send(Method::GET, path, &[(header::COOKIE, cookie)], "").await?.into_body();
    let text = std::str::from_utf8(&page)?;
    let files: BTreeSet<&str> = text
        .split('"')
        .filter(|value| value.contains("assets/"))
        .map(|value| value.split('#').next().unwrap_or_default())
        .collect();
    ensure!(!files.is_empty(), "{path} loads nothing, so this reads it wrongly");
    let mut bytes = 0;
    for file in files {
        let file = file.trim_start_matches("../");
        bytes += get(client, &format!("/ui/{file}"), cookie).await?.body().len();
    }
    Ok(bytes)
}
