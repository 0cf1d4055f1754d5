//! A receiver of webhooks, for trying things out and for tests. The path of a request decides how it answers, and what
//! follows `?` becomes headers of the answer, as in `/fail/503?retry-after=60`. It keeps the requests for tests to look
//! at, and prints nothing.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// How long `/slow` takes to answer. `/slow/250` takes 250 ms.
const SLOW_DEFAULT: Duration = Duration::from_secs(3);
/// At most this many requests are kept; later ones are only counted.
const KEPT_MAX: usize = 100_000;

/// A request that the receiver has got.
#[derive(Clone, Debug)]
pub struct Received {
    /// When the request had arrived completely.
    pub at: Instant,
    /// The path, with its query.
    pub path: String,
    /// The headers of the request.
    pub headers: HeaderMap,
    /// The body of the request.
    pub body: Bytes,
}

impl Received {
    /// The value of a header as text; empty where the header is missing or is not text.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What the receiver keeps of the requests that it gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It keeps whole requests, at most 100,000 of them.
    Everything,
    /// It only counts requests.
    Count,
}

/// A running receiver. Dropping it stops it.
pub struct Receiver {
    address: SocketAddr,
    state: Arc<State>,
    serving: JoinHandle<()>,
}

struct State {
    keep: Keep,
    count: watch::Sender<u64>,
    flaky: AtomicU64,
    /// The status that `/switch` answers.
    switch: AtomicU16,
    /// Requests that are being answered, and the most that ever were.
    at_once: AtomicU64,
    at_once_max: AtomicU64,
    received: Mutex<Vec<Received>>,
}

impl Receiver {
    /// Starts a receiver on an address such as `127.0.0.1:0`; port 0 means any free port.
    ///
    /// # Errors
    /// When the address is taken.
    pub async fn start(address: &str, keep: Keep) -> Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            keep,
            count: watch::Sender::new(0),
            flaky: AtomicU64::new(0),
            switch: AtomicU16::new(200),
            at_once: AtomicU64::new(0),
            at_once_max: AtomicU64::new(0),
            received: Mutex::default(),
        });
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { address, state, serving })
    }

    /// The URL of a path on this receiver.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sets the status that `/switch` answers from now on; it begins with 200.
    pub fn switch_to(&self, status: u16) {
        self.state.switch.store(status, Ordering::SeqCst);
    }

    /// The most requests that were being answered at the same time so far.
    #[must_use]
    pub fn at_once_max(&self) -> u64 {
        self.state.at_once_max.load(Ordering::SeqCst)
    }

    /// How many requests have arrived.
    #[must_use]
    pub fn count(&self) -> u64 {
        *self.state.count.borrow()
    }

    /// The requests that were kept, in the order in which they arrived.
    ///
    /// # Panics
    /// Never: nothing panics while the lock is held.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.state.received.lock().expect("nothing panics while it is held").clone()
    }

    /// Waits until this many requests have arrived.
    ///
    /// # Errors
    /// When fewer requests have arrived after this time.
    pub async fn wait_for(&self, count: u64, within: Duration) -> Result<()> {
        let mut counted = self.state.count.subscribe();
        let enough = tokio::time::timeout(within, counted.wait_for(|have| *have >= count)).await;
        match enough {
            Ok(_) => Ok(()),
            Err(_) => anyhow::bail!("{} of {count} requests after {within:?}", self.count()),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let _ = stream.set_nodelay(true);
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(request, Arc::clone(&state)));
        connections.spawn(async move {
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let Ok(body) = body.collect().await else { return Ok(respond(400, "broken body")) };
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    if parts.method != Method::POST {
        return Ok(respond(405, "POST webhooks to /success, /fail, /fail/404, /slow, /slow/250, /flaky or /gone"));
    }
    if state.keep == Keep::Everything {
        let received =
            Received { at: Instant::now(), path: path.clone(), headers: parts.headers, body: body.to_bytes() };
        let mut kept = state.received.lock().expect("nothing panics while it is held");
        if kept.len() < KEPT_MAX {
            kept.push(received);
        }
    }
    state.count.send_modify(|count| *count += 1);
    let at_once = state.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    state.at_once_max.fetch_max(at_once, Ordering::SeqCst);
    let answer = answer_to(&path, &state).await;
    state.at_once.fetch_sub(1, Ordering::SeqCst);
    Ok(answer)
}

async fn answer_to(path: &str, state: &State) -> Response<Full<Bytes>> {
    let mut words = path.split(['/', '?']).filter(|word| !word.is_empty());
    let mut response = match (words.next(), words.next().and_then(|word| word.parse::<u16>().ok())) {
        (Some("fail"), status) => respond(status.unwrap_or(500), "as you wish: failed"),
        (Some("gone"), _) => respond(410, "gone"),
        (Some("slow"), millis) => {
            tokio::time::sleep(millis.map_or(SLOW_DEFAULT, |millis| Duration::from_millis(millis.into()))).await;
            respond(200, "slow, but there")
        }
        // Of three requests, the first two fail and the third succeeds.
        (Some("flaky"), _) if state.flaky.fetch_add(1, Ordering::Relaxed) % 3 < 2 => respond(500, "flaky"),
        (Some("switch"), _) => respond(state.switch.load(Ordering::SeqCst), "as it is switched"),
        _ => respond(200, "ok"),
    };
    let query = path.split_once('?').map_or("", |(_, query)| query);
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            response.headers_mut().append(name, value);
        }
    }
    response
}

fn respond(status: u16, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    response
}
