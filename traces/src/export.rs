//! From a span's end to the collector: a queue of bounded length, and a task that posts what is in it. Nobody ever
//! waits for either of them. What does not fit into the queue, and what the collector does not take, is dropped and
//! counted.

use std::{sync::Arc, time::Duration};

use hyper_rustls::HttpsConnectorBuilder;
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, hyper::HyperClient};
use opentelemetry_otlp::{SpanExporter as OtlpExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanExporter, SpanProcessor},
};
use postrider_core::process::metrics::at_zero;
use rustls::ClientConfig;
use rustls_platform_verifier::Verifier;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{StartError, config::Config};

/// Counts spans by what came of them.
const SPANS: &str = "postrider_spans_total";
/// They have reached the collector.
const EXPORTED: &str = "exported";
/// They came faster than they could be exported.
const DROPPED: &str = "dropped";
/// The collector did not take them.
const FAILED: &str = "failed";

/// The end of the queue into which spans are put.
#[derive(Debug)]
pub(crate) struct Queue(mpsc::Sender<SpanData>);

impl Queue {
    /// A queue for this many spans, and its other end.
    pub(crate) fn new(waiting_max: usize) -> (Self, mpsc::Receiver<SpanData>) {
        let (sender, receiver) = mpsc::channel(waiting_max);
        (Self(sender), receiver)
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.0.try_send(span).is_err() {
            metrics::counter!(SPANS, "result" => DROPPED).increment(1);
        }
    }

    // Whoever ends the process closes the traces, which exports what waits.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// The task that exports spans.
pub(crate) struct Exporting {
    exporter: OtlpExporter,
    batch_max: usize,
    delay: Duration,
    closing: CancellationToken,
    is_failing: bool,
}

impl Exporting {
    /// Prepares the task; it connects when there is something to export. It ends when `closing` is canceled, after it
    /// has exported what waits.
    pub(crate) fn new(config: &Config, resource: &Resource, closing: CancellationToken) -> Result<Self, StartError> {
        at_zero(SPANS, "result", [EXPORTED, DROPPED, FAILED]);
        let mut builder = OtlpExporter::builder()
            .with_http()
            .with_endpoint(config.endpoint.as_str())
            .with_timeout(config.timeout)
            .with_headers(config.headers.clone())
            .with_shared_http_client(client(config)?);
        if let Some(compression) = config.compression {
            builder = builder.with_compression(compression);
        }
        let mut exporter = builder.build()?;
        exporter.set_resource(resource);
        Ok(Self { exporter, batch_max: config.batch_max, delay: config.delay, closing, is_failing: false })
    }

    /// Exports spans until the traces are closed, or nobody is left who makes any.
    pub(crate) async fn run(mut self, mut spans: mpsc::Receiver<SpanData>) {
        let mut batch = Vec::with_capacity(self.batch_max);
        let mut is_open = true;
        while is_open {
            is_open = tokio::select! {
                biased;
                () = self.closing.cancelled() => false,
                is_open = gather(&mut spans, &mut batch, self.batch_max, self.delay) => is_open,
            };
            self.export(&mut batch).await;
        }
        spans.close();
        while spans.recv_many(&mut batch, self.batch_max).await > 0 {
            self.export(&mut batch).await;
        }
    }

    async fn export(&mut self, batch: &mut Vec<SpanData>) {
        if batch.is_empty() {
            return;
        }
        let spans = batch.len();
        let exported = self.exporter.export(std::mem::take(batch)).await;
        let result = if exported.is_ok() { EXPORTED } else { FAILED };
        metrics::counter!(SPANS, "result" => result).increment(spans as u64);
        match exported {
            Ok(()) if self.is_failing => tracing::info!("spans are exported again"),
            // It may go on failing for hours, so only the first time is logged.
            Err(error) if !self.is_failing => tracing::warn!(%error, spans, "spans could not be exported"),
            Ok(()) | Err(_) => {}
        }
        self.is_failing = result == FAILED;
    }
}

/// Waits until the batch is full, or the delay is over; returns whether more may come.
async fn gather(
    spans: &mut mpsc::Receiver<SpanData>,
    batch: &mut Vec<SpanData>,
    batch_max: usize,
    delay: Duration,
) -> bool {
    let filling = async {
        while batch.len() < batch_max {
            if spans.recv_many(batch, batch_max - batch.len()).await == 0 {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(delay, filling).await.unwrap_or(true)
}

/// The client that connects to the collector.
fn client(config: &Config) -> Result<Arc<dyn HttpClient>, rustls::Error> {
    if config.endpoint.scheme() == "http" {
        return Ok(Arc::new(HyperClient::with_default_connector(config.timeout, None)));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new_with_extra_roots(config.authorities.iter().cloned(), Arc::clone(&provider))?;
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
    Ok(Arc::new(HyperClient::new(connector, config.timeout, None)))
}
