//! The demo receivers: four receivers that succeed, fail now and then, are slow, and always fail. Where the operator
//! has switched the demo on, each worker serves them on an address of its own machine, and the target policy lets
//! deliveries go there. They keep nothing of what they get.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use postrider_core::demo::Kind;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

/// How long the slow receiver takes to answer.
const SLOW: Duration = Duration::from_millis(1500);
/// Connections at a time, at most; further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 256;
/// Bytes of a body that are read, at most. A longer one is refused.
const BODY_BYTES_MAX: usize = 1 << 20;
/// How long a connection may be silent before the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the address is tried again that another worker of this machine has.
const BIND_EVERY: Duration = Duration::from_secs(2);

/// Serves the demo receivers on this address, for as long as the task lives. Where another worker of this machine has
/// the address already, that one serves for both, and this one takes over when it ends.
pub async fn serve(address: SocketAddr) {
    let listener = bind(address).await;
    tracing::info!(%address, "the demo receivers are served");
    let (room, flaky) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Arc::<AtomicBool>::default());
    let mut connections = JoinSet::new();
    loop {
        let place = Arc::clone(&room).acquire_owned().await.expect("nobody closes it");
        let Ok((stream, _)) = listener.accept().await else {
            // No file descriptor is left, which passes.
            tokio::time::sleep(BIND_EVERY).await;
            continue;
        };
        let flaky = Arc::clone(&flaky);
        connections.spawn(async move {
            answer_all(stream, flaky).await;
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut is_told = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) if !is_told => {
                tracing::info!(%address, %error, "the demo receivers are not served here; another worker may do it");
                is_told = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(BIND_EVERY).await;
    }
}

async fn answer_all(stream: TcpStream, flaky: Arc<AtomicBool>) {
    let service = service_fn(move |request| answer(request, Arc::clone(&flaky)));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(IDLE_TIMEOUT);
    if let Err(error) = server.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to a demo receiver broke");
    }
}

async fn answer(request: Request<Incoming>, flaky: Arc<AtomicBool>) -> Result<Response<Full<Bytes>>, Infallible> {
    let kind = Kind::ALL.into_iter().find(|kind| request.uri().path() == kind.path());
    let is_post = request.method() == Method::POST;
    let is_read = Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await.is_ok();
    let (status, text) = match kind {
        None => (StatusCode::NOT_FOUND, "there is no such demo receiver"),
        Some(_) if !is_post => (StatusCode::METHOD_NOT_ALLOWED, "a webhook is posted"),
        Some(_) if !is_read => (StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
        Some(Kind::Success) => (StatusCode::OK, "taken"),
        // Of two requests, the first fails.
        Some(Kind::Flaky) if !flaky.fetch_xor(true, Ordering::Relaxed) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "not now; the next attempt will do")
        }
        Some(Kind::Flaky) => (StatusCode::OK, "taken, this time"),
        Some(Kind::Slow) => {
            tokio::time::sleep(SLOW).await;
            (StatusCode::OK, "taken, at last")
        }
        Some(Kind::Failing) => (StatusCode::INTERNAL_SERVER_ERROR, "out of order, as always"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// The status of the answer to a request.
    async fn status(address: SocketAddr, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{{}}");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered");
        answer.split(' ').nth(1).expect("a status line").to_owned()
    }

    #[tokio::test]
    async fn each_answers_as_it_is_called() {
        let address = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
        let serving = tokio::spawn(serve(address));
        while TcpStream::connect(address).await.is_err() {
            tokio::task::yield_now().await;
        }
        for (method, path, expected) in [
            ("POST", "/success", "200"),
            ("POST", "/failing", "500"),
            ("POST", "/flaky", "500"),
            ("POST", "/flaky", "200"),
            ("POST", "/flaky", "500"),
            ("POST", "/slow", "200"),
            ("GET", "/success", "405"),
            ("POST", "/", "404"),
        ] {
            assert_eq!(status(address, method, path).await, expected, "{method} {path}");
        }
        serving.abort();
    }
}
