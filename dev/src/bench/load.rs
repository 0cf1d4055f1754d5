//! Load on the api: many connections that stay open, each of which posts one event after the other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};

/// Each payload has this many bytes.
pub const PAYLOAD_BYTES: usize = 1024;

/// A function that makes the body of the request with this number.
pub type Body = Arc<dyn Fn(u64) -> Bytes + Send + Sync>;

/// Where requests are posted to, with which bodies and with which key.
#[derive(Clone)]
pub struct Target {
    /// Host and port, such as `127.0.0.1:8080`.
    pub address: String,
    /// The path, such as `/events`.
    pub path: String,
    /// Makes the body of each request.
    pub body: Body,
    /// The value of the `Authorization` header.
    pub authorization: String,
}

/// When a run of load ends.
#[derive(Clone, Copy)]
pub enum Until {
    /// After so many events, over all connections.
    Events(u64),
    /// After this time has passed.
    Elapsed(Duration),
}

/// What was measured during a run of load.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How long each request took, from the shortest to the longest.
    pub latencies: Vec<Duration>,
    /// The time from the first request to the last answer.
    pub elapsed: Duration,
}

impl Seen {
    /// The number of requests a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// The value, in milliseconds, below which `share` of the sorted values lie; a share of 0.5 gives the median.
#[must_use]
pub fn quantile_ms(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 - 1.0) * share).max(0.0) as usize;
    sorted.get(index).map_or(f64::NAN, |value| value.as_secs_f64() * 1000.0)
}

/// A payload of [`PAYLOAD_BYTES`] that begins with a number, by which the receiver recognizes it.
#[must_use]
pub fn payload(number: u64) -> Bytes {
    payload_of(number, PAYLOAD_BYTES)
}

/// Such a payload with this many bytes, at least 100.
#[must_use]
pub fn payload_of(number: u64, bytes: usize) -> Bytes {
    let mut text = format!("{{\"n\":\"{number:020}\",\"filler\":\"");
    text.push_str(&"x".repeat(bytes.saturating_sub(text.len() + 2)));
    text.push_str("\"}");
    text.into()
}

/// The body of `POST /events` with the payload of this number.
#[must_use]
pub fn event(number: u64) -> Bytes {
    event_of_type("bench.event", number)
}

/// The body of `POST /events` with an event of this type and the payload of this number.
#[must_use]
pub fn event_of_type(event_type: &str, number: u64) -> Bytes {
    [b"{\"event_type\":\"", event_type.as_bytes(), b"\",\"payload\":", &*payload(number), b"}"].concat().into()
}

/// The number that a payload begins with.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u64> {
    // An event that was published by SQL arrives as jsonb writes it, with spaces.
    let first = payload.iter().position(u8::is_ascii_digit)?;
    std::str::from_utf8(payload.get(first..first + 20)?).ok()?.parse().ok()
}

/// Posts as fast as this many connections can.
///
/// # Errors
/// When the api refuses a request.
pub async fn flood(target: &Target, connections: usize, until: Until) -> Result<Seen> {
    flood_all(std::slice::from_ref(target), connections, until).await
}

/// Posts as fast as this many connections can, which are spread over the targets evenly.
///
/// # Errors
/// When an api refuses a request.
pub async fn flood_all(targets: &[Target], connections: usize, until: Until) -> Result<Seen> {
    let next = Arc::new(AtomicU64::new(0));
    let mut posters = JoinSet::new();
    let mut clients = Vec::new();
    for target in targets.iter().cycle().take(connections) {
        clients.push(Connection::open(target).await?);
    }
    let started = Instant::now();
    for mut client in clients {
        let next = Arc::clone(&next);
        posters.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let done = match until {
                    Until::Events(events) => number >= events,
                    Until::Elapsed(time) => started.elapsed() >= time,
                };
                if done {
                    return anyhow::Ok(latencies);
                }
                let sent = Instant::now();
                client.post((client.target.body)(number)).await?;
                latencies.push(sent.elapsed());
            }
        });
    }
    let mut seen = Seen::default();
    while let Some(latencies) = posters.join_next().await {
        seen.latencies.extend(latencies??);
    }
    seen.elapsed = started.elapsed();
    seen.latencies.sort_unstable();
    Ok(seen)
}

/// The moments at which one event was posted and accepted.
#[derive(Clone, Copy, Debug)]
pub struct Posted {
    /// When the request began.
    pub sent: Instant,
    /// When the 202 had arrived.
    pub accepted: Instant,
}

/// Posts so many events over one connection, each after the answer to the one before; answers the moments of each.
///
/// # Errors
/// When the api refuses a request.
pub async fn closed_loop(target: &Target, events: u64) -> Result<Vec<Posted>> {
    let mut client = Connection::open(target).await?;
    let mut posted = Vec::new();
    for number in 0..events {
        let sent = Instant::now();
        client.post((target.body)(number)).await?;
        posted.push(Posted { sent, accepted: Instant::now() });
    }
    Ok(posted)
}

/// Posts at a steady rate over a few connections, however long the answers take; answers the moments of each event by
/// its number.
///
/// # Errors
/// When the api refuses a request, or cannot keep up with the rate at all.
pub async fn steady(target: &Target, per_second: u32, time: Duration) -> Result<Vec<Posted>> {
    let connections = (per_second / 100).clamp(4, 64) as usize;
    let (sender, receiver) = async_queue(connections);
    let mut posters = JoinSet::new();
    for _ in 0..connections {
        let mut client = Connection::open(target).await?;
        let receiver = Arc::clone(&receiver);
        posters.spawn(async move {
            let mut posted = Vec::new();
            loop {
                let Some(number) = receiver.lock().await.recv().await else {
                    return anyhow::Ok(posted);
                };
                let sent = Instant::now();
                client.post((client.target.body)(number)).await?;
                posted.push((number, Posted { sent, accepted: Instant::now() }));
            }
        });
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    let events = u64::from(per_second) * time.as_secs();
    for number in 0..events {
        ticks.tick().await;
        sender.send(number).await?;
    }
    drop(sender);
    let mut all = Vec::new();
    while let Some(posted) = posters.join_next().await {
        all.extend(posted??);
    }
    all.sort_unstable_by_key(|(number, _)| *number);
    Ok(all.into_iter().map(|(_, posted)| posted).collect())
}

type SharedReceiver = Arc<tokio::sync::Mutex<tokio::sync::mpsc::Receiver<u64>>>;

fn async_queue(size: usize) -> (tokio::sync::mpsc::Sender<u64>, SharedReceiver) {
    let (sender, receiver) = tokio::sync::mpsc::channel(size);
    (sender, Arc::new(tokio::sync::Mutex::new(receiver)))
}

struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    target: Target,
}

impl Connection {
    async fn open(target: &Target) -> Result<Self> {
        let stream = TcpStream::connect(&target.address).await.context("the api does not answer")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, target: target.clone() })
    }

    async fn post(&mut self, payload: Bytes) -> Result<()> {
        let request = Request::post(&self.target.path)
            .header(header::HOST, &self.target.address)
            .header(header::AUTHORIZATION, &self.target.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(payload))?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "the api answered {status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}
