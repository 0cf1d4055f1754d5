//! A collector of spans for tests, which takes what is exported by OTLP over HTTP.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value},
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::world::{SOON, World};

/// A collector of spans. It answers every request, or none.
pub struct Collector {
    url: String,
    seen: watch::Receiver<Vec<Seen>>,
    serving: JoinHandle<()>,
}

/// A span as it was exported: the service that made it, the key that came with it, and the span with its attributes.
#[derive(Clone)]
pub struct Seen {
    pub service: String,
    pub key: String,
    pub span: Span,
    pub attributes: BTreeMap<String, String>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Answers {
    Everything,
    Nothing,
}

impl Collector {
    pub async fn start(answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (sender, seen) = watch::channel(Vec::new());
        let sender = Arc::new(Mutex::new(sender));
        let serving = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let sender = Arc::clone(&sender);
                let service = service_fn(move |request| take(request, Arc::clone(&sender), answers));
                let connection =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(async move {
                    let _ = connection.await;
                });
            }
        });
        Self { url, seen, serving }
    }

    /// A world whose processes export to this collector, at once.
    pub async fn world(&self, more: &[(&str, &str)]) -> World {
        let own = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.url.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hush%21"),
            ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ];
        World::with(&own.iter().chain(more).copied().collect::<Vec<_>>()).await
    }

    /// Waits for this many spans, and answers all of them in the order in which they began.
    pub async fn spans(&mut self, count: usize) -> Vec<Seen> {
        let enough = tokio::time::timeout(SOON, self.seen.wait_for(|seen| seen.len() >= count)).await;
        let mut seen = enough.expect("the spans come").expect("the collector runs").clone();
        assert_eq!(seen.len(), count, "{:?}", seen.iter().map(|seen| &seen.span.name).collect::<Vec<_>>());
        seen.sort_by_key(|seen| seen.span.start_time_unix_nano);
        seen
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn take(
    request: Request<Incoming>,
    sender: Arc<Mutex<watch::Sender<Vec<Seen>>>>,
    answers: Answers,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if answers == Answers::Nothing {
        std::future::pending::<()>().await;
    }
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let key = request.headers()["x-key"].to_str().unwrap().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let exported = ExportTraceServiceRequest::decode(body).unwrap();
    for part in exported.resource_spans {
        let service = attributes(&part.resource.unwrap().attributes)["service.name"].clone();
        let spans = part.scope_spans.into_iter().flat_map(|scope| scope.spans);
        let seen = spans.map(|span| {
            let attributes = attributes(&span.attributes);
            Seen { service: service.clone(), key: key.clone(), span, attributes }
        });
        sender.lock().unwrap().send_modify(|all| all.extend(seen));
    }
    Ok(Response::new(Full::default()))
}

fn attributes(pairs: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |pair: &KeyValue| match pair.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{other:?}"),
    };
    pairs.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}
