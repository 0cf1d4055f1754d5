//! Load on the api: many kept-alive connections, each posting one event after the other.

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

/// Bytes of each payload.
pub const PAYLOAD_BYTES: usize = 1024;

/// Makes the body of the request with a number.
pub type Body = Arc<dyn Fn(u64) -> Bytes + Send + Sync>;

/// Where requests go, and under whose name.
#[derive(Clone)]
pub struct Target {
    /// `127.0.0.1:8080`
    pub address: String,
    /// The path.
    pub path: String,
    /// What they bring.
    pub body: Body,
    /// The `Authorization` header.
    pub authorization: String,
}

/// When a run of load ends.
#[derive(Clone, Copy)]
pub enum Until {
    /// After so many events in all.
    Events(u64),
    /// After this time.
    Elapsed(Duration),
}

/// What a run of load has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Duration of each request, sorted.
    pub latencies: Vec<Duration>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl Seen {
    /// Requests a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }
}

/// The value below which this share of the sorted values lies, in milliseconds.
#[must_use]
pub fn quantile_ms(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() as f64 - 1.0) * share).max(0.0) as usize;
    sorted.get(index).map_or(f64::NAN, |value| value.as_secs_f64() * 1000.0)
}

/// A payload of the usual size that begins with a number by which its receipt is recognized.
#[must_use]
pub fn payload(number: u64) -> Bytes {
    let mut text = format!("{{\"n\":\"{number:020}\",\"filler\":\"");
    text.push_str(&"x".repeat(PAYLOAD_BYTES - text.len() - 2));
    text.push_str("\"}");
    text.into()
}

/// The body of `POST /events` around such a payload.
#[must_use]
pub fn event(number: u64) -> Bytes {
    [b"{\"event_type\":\"bench.event\",\"payload\":", &*payload(number), b"}"].concat().into()
}

/// The number of a payload.
#[must_use]
pub fn number(payload: &[u8]) -> Option<u64> {
    // By SQL it comes with spaces.
    let first = payload.iter().position(u8::is_ascii_digit)?;
    std::str::from_utf8(payload.get(first..first + 20)?).ok()?.parse().ok()
}

/// Posts as fast as so many connections can.
///
/// # Errors
/// When the api refuses one.
pub async fn flood(target: &Target, connections: usize, until: Until) -> Result<Seen> {
    let next = Arc::new(AtomicU64::new(0));
    let mut posters = JoinSet::new();
    let mut clients = Vec::new();
    for _ in 0..connections {
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

/// When an event was posted, and when it was accepted.
#[derive(Clone, Copy, Debug)]
pub struct Posted {
    /// The request began.
    pub sent: Instant,
    /// The 202 was there.
    pub accepted: Instant,
}

/// Posts at a steady rate, whatever the answers take, over a few connections; answers the moments by number.
///
/// # Errors
/// When the api refuses one, or cannot keep up at all.
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
