//! The receivers of a run, one for each subscription. Each writes down every request, and behaves as it is told:
//! well, failing, busy, hanging, or resetting connections.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Response, StatusCode, body::Incoming, header::RETRY_AFTER, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use uuid::Uuid;

use crate::chaos::{
    log::{At, Clock, Fate, Request, locked, number},
    subscriptions::TIMEOUT,
};

/// How long a receiver takes to answer that hangs. It is longer than an attempt waits, and not much longer, because a
/// worker that is frozen does not close its connection, and its request would then be under way beside its successor.
const HANGS: Duration = TIMEOUT.saturating_add(Duration::from_millis(200));

/// How a receiver behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    /// It answers 200.
    Well,
    /// It answers 500.
    Fails,
    /// It answers 503, and asks to be left alone for a second.
    Busy,
    /// It answers after the attempt's time is over.
    Hangs,
    /// It closes connections: new ones at once, others when a request has arrived.
    Resets,
}

/// All receivers of a run. Dropping this stops them.
pub struct Receivers {
    clock: Clock,
    requests: Arc<Mutex<Vec<Request>>>,
    behaviors: Vec<watch::Sender<Behavior>>,
    serving: Vec<JoinHandle<()>>,
}

/// A receiver, as its connections see it.
#[derive(Clone)]
struct Receiver {
    clock: Clock,
    /// Its place, which is that of its subscription.
    place: usize,
    latency: Duration,
    behavior: watch::Receiver<Behavior>,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Receivers {
    /// No receivers yet.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, requests: Arc::default(), behaviors: Vec::new(), serving: Vec::new() }
    }

    /// Starts a receiver that takes this long to answer, and returns its URL.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn add(&mut self, latency: Duration) -> Result<String> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address: SocketAddr = listener.local_addr()?;
        let behavior = watch::Sender::new(Behavior::Well);
        let receiver = Receiver {
            clock: self.clock,
            place: self.behaviors.len(),
            latency,
            behavior: behavior.subscribe(),
            requests: Arc::clone(&self.requests),
        };
        self.behaviors.push(behavior);
        self.serving.push(tokio::spawn(serve(listener, receiver)));
        Ok(format!("http://{address}/"))
    }

    /// Makes the receiver at this place behave so.
    pub fn behave(&self, place: usize, behavior: Behavior) {
        self.behaviors[place].send_replace(behavior);
    }

    /// Makes all receivers behave well.
    pub fn calm(&self) {
        for behavior in &self.behaviors {
            behavior.send_replace(Behavior::Well);
        }
    }

    /// The requests so far, in the order in which they arrived. Those that are under way are left out.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        let mut requests = locked(&self.requests).clone();
        requests.sort_by_key(|request| request.arrived);
        requests
    }
}

impl Drop for Receivers {
    fn drop(&mut self) {
        for serving in &self.serving {
            serving.abort();
        }
    }
}

async fn serve(listener: TcpListener, receiver: Receiver) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.spawn(carry(stream, receiver.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(stream: TcpStream, receiver: Receiver) {
    if *receiver.behavior.borrow() == Behavior::Resets {
        // A connection that is closed with unread bytes is reset.
        let _ = stream.readable().await;
        return;
    }
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let receiver = receiver.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            receiver.answer(&parts.headers, &body).await
        }
    });
    // An error closes the connection, which is what it is for.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Receiver {
    async fn answer(&self, headers: &HeaderMap, body: &Bytes) -> Result<Response<Full<Bytes>>, io::Error> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let behavior = *self.behavior.borrow();
        let mut under_way = UnderWay {
            requests: Arc::clone(&self.requests),
            clock: self.clock,
            request: Request {
                subscription: self.place,
                number: number(body).unwrap_or(u64::MAX),
                event: text("webhook-id").to_owned(),
                delivery: Uuid::parse_str(text("webhook-delivery-id").trim_start_matches("dlv_")).unwrap_or_default(),
                attempt: text("webhook-attempt").parse().unwrap_or_default(),
                arrived: self.clock.now(),
                ended: At::MAX,
                fate: Fate::Abandoned,
            },
        };
        let wait = if behavior == Behavior::Hangs { HANGS } else { self.latency };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        let status = match behavior {
            Behavior::Well | Behavior::Hangs => StatusCode::OK,
            Behavior::Fails => StatusCode::INTERNAL_SERVER_ERROR,
            Behavior::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Behavior::Resets => {
                under_way.request.fate = Fate::Reset;
                return Err(io::Error::other("reset, as the plan wants"));
            }
        };
        under_way.request.fate = Fate::Answered(status.as_u16());
        let mut response = Response::new(Full::new(Bytes::from_static(b"noted")));
        *response.status_mut() = status;
        if behavior == Behavior::Busy {
            response.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        Ok(response)
    }
}

/// A request that is being answered. It is written down when that has ended in any way, also when the worker closes the
/// connection, which drops this.
struct UnderWay {
    requests: Arc<Mutex<Vec<Request>>>,
    clock: Clock,
    request: Request,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.request.ended = self.clock.now();
        locked(&self.requests).push(self.request.clone());
    }
}
