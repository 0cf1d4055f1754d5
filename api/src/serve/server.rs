//! Serves HTTP to callers whom nobody trusts. It limits the connections and the time for a request's head, closes
//! connections that are silent, and delivers its answers even where a request was not read to its end. The endpoint
//! makes the answers; the library (hyper) refuses what is not HTTP. It speaks HTTP/1.1 only: TLS and HTTP/2, by which
//! many requests share a connection, are for the proxy in front.

use std::{convert::Infallible, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use poem::{
    Addr, Endpoint, EndpointExt,
    http::uri::Scheme,
    web::{LocalAddr, RemoteAddr},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use crate::serve::{
    connection::{Life, WatchedStream, discard},
    problem::too_many_connections,
};

/// How often each connection is checked against its limits. A connection may outlast a limit by at most this time.
const EXAMINED_EVERY: Duration = Duration::from_secs(2);
/// The head of a request has at most this many bytes; the URI is part of it.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long the server waits before it accepts again after an error, as when the process has no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// At most this many refused connections get a 503 at the same time; any more are closed without an answer.
const REFUSALS_MAX: usize = 64;
/// Answering a refused connection takes at most this long, until the caller has closed it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves until `stop` is canceled, then lets requests under way finish for at most `patience`.
pub async fn serve<E>(
    listener: TcpListener,
    endpoint: E,
    connections_max: usize,
    stop: CancellationToken,
    patience: Duration,
) where
    E: Endpoint + 'static,
{
    let endpoint = Arc::new(endpoint.map_to_response());
    let (places, refusals) = (Arc::new(Semaphore::new(connections_max)), Arc::new(Semaphore::new(REFUSALS_MAX)));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                metrics::counter!("postrider_connections_refused_total", "reason" => "accept_failed").increment(1);
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
            let connection = connection(stream, remote, Arc::clone(&endpoint), stop.clone());
            connections.spawn(async move {
                connection.await;
                drop(place);
            });
        } else {
            metrics::counter!("postrider_connections_refused_total", "reason" => "too_many").increment(1);
            if let Ok(turn) = Arc::clone(&refusals).try_acquire_owned() {
                connections.spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refuse(stream)).await;
                    drop(turn);
                });
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(patience, async { while connections.join_next().await.is_some() {} }).await;
    connections.shutdown().await;
}

/// Serves one connection, from its first byte to its end.
async fn connection<E>(stream: TcpStream, remote: SocketAddr, endpoint: Arc<E>, stop: CancellationToken)
where
    E: Endpoint<Output = poem::Response> + 'static,
{
    let Ok(local) = stream.local_addr() else { return };
    let life = Arc::new(Life::default());
    let watched = WatchedStream::new(stream, Arc::clone(&life));
    let serving = Arc::clone(&life);
    let service = service_fn(move |request: Request<Incoming>| {
        let (endpoint, life) = (Arc::clone(&endpoint), Arc::clone(&serving));
        let addresses = (LocalAddr(Addr::from(local)), RemoteAddr(Addr::from(remote)));
        life.has_request();
        async move {
            let response = endpoint.get_response((request, addresses.0, addresses.1, Scheme::HTTP).into()).await;
            life.has_answer();
            Ok::<_, Infallible>(Response::<BoxBody<Bytes, io::Error>>::from(response))
        }
    });
    let mut builder = http1::Builder::new();
    // [`Life`] measures the time of a head, because the library's timer also runs between two requests. `half_close`: a
    // caller that has closed its sending direction still wants the answer.
    builder.max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None).half_close(true);
    let mut served = builder.serve_connection(TokioIo::new(watched), service);
    let mut examined = tokio::time::interval(EXAMINED_EVERY);
    let (mut is_stopping, mut was_at_rest) = (false, false);
    loop {
        let is_to_stop = tokio::select! {
            _ = &mut served => break,
            () = stop.cancelled(), if !is_stopping => true,
            _ = examined.tick() => {
                if life.is_over() {
                    return;
                }
                life.is_old()
            }
        };
        if is_to_stop && !is_stopping {
            (is_stopping, was_at_rest) = (true, life.is_at_rest());
            Pin::new(&mut served).graceful_shutdown();
        }
    }
    // A connection that was between two requests has no answer that a reset could destroy.
    if !was_at_rest {
        discard(served.into_parts().io.into_inner().into_inner()).await;
    }
}

/// Answers 503 because too many connections are open, and gives the caller a moment to read it.
async fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(&too_many_connections()).await?;
    stream.shutdown().await?;
    discard(stream).await;
    Ok(())
}
