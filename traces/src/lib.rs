//! Spans of OpenTelemetry: `api` makes one for each request that brings events, `worker` one for each attempt, and both
//! export them to a collector. Where no collector is named there are no spans, and nothing here costs anything.
//!
//! What belongs into which span stands where the span is made. Which trace an event belongs to is stored with the
//! event, whether there are spans or not ([`postrider_core::event::trace_context`]).

pub mod config;
mod export;
mod span;

use std::{
    borrow::Cow,
    cell::Cell,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        SpanBuilder, SpanContext, SpanId, SpanKind, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer,
        TracerProvider,
    },
};
use opentelemetry_sdk::{
    Resource,
    resource::TelemetryResourceDetector,
    trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider},
};
use postrider_core::event::trace_context::{Sampled, TraceContext};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub use crate::span::Span;
use crate::{
    config::Export,
    export::{Exporting, Queue},
};

/// How long exporting the last spans may take when a process ends.
const CLOSING_TIMEOUT: Duration = Duration::from_secs(5);

/// Why traces could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine has no usable TLS trust store.
    #[error("the collector cannot be trusted: {0}")]
    Tls(#[from] rustls::Error),
    /// The exporter does not take its configuration.
    #[error("spans cannot be exported: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// Makes spans, if traces are on. Clones share everything.
#[derive(Clone, Default)]
pub struct Traces(Option<Arc<Maker>>);

struct Maker {
    tracer: SdkTracer,
    closing: CancellationToken,
    exporting: Mutex<Option<JoinHandle<()>>>,
}

/// How a span begins.
#[derive(Clone, Copy, Debug)]
pub struct Beginning<'a> {
    /// The span's name, one of few.
    pub name: &'static str,
    /// Which side of a request the span describes.
    pub kind: Kind,
    /// The place in a trace at which the span follows; `None` begins a trace.
    pub after: Option<&'a TraceContext>,
    /// The id of the trace that begins; a random one where absent.
    pub trace_id: Option<u128>,
}

/// Which side of a request a span describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// We answer the request.
    Server,
    /// We make the request.
    Client,
}

impl Traces {
    /// Starts the task that exports spans, unless traces are off. It ends when it is closed, or when nobody is left who
    /// makes spans. It needs a runtime.
    ///
    /// # Errors
    /// When the collector cannot be connected to in any way. That it does not answer is no error.
    pub fn start(export: &Export) -> Result<Self, StartError> {
        let config = match export {
            Export::Off => return Ok(Self::default()),
            Export::To(config) => config,
        };
        let pairs = config.resource.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone()));
        let resource =
            Resource::builder_empty().with_detector(Box::new(TelemetryResourceDetector)).with_attributes(pairs).build();
        let closing = CancellationToken::new();
        let (queue, spans) = Queue::new(config.waiting_max);
        let exporting = Exporting::new(config, &resource, closing.clone())?;
        let provider = SdkTracerProvider::builder()
            .with_sampler(config.sampler.clone())
            .with_id_generator(Ids::default())
            .with_resource(resource)
            .with_span_processor(queue)
            .build();
        let tracer = provider.tracer("postrider");
        let exporting = Mutex::new(Some(tokio::spawn(exporting.run(spans))));
        Ok(Self(Some(Arc::new(Maker { tracer, closing, exporting }))))
    }

    /// Begins a span; `None` where traces are off. A span that the sampler does not choose is one all the same, but is
    /// not exported.
    #[must_use]
    pub fn begin(&self, beginning: Beginning<'_>) -> Option<Span> {
        let maker = self.0.as_ref()?;
        let Beginning { name, kind, after, trace_id } = beginning;
        let context = after.map_or_else(Context::new, |after| Context::new().with_remote_span_context(remote(after)));
        WANTED_TRACE_ID.set(trace_id.map(TraceId::from));
        let kind = match kind {
            Kind::Server => SpanKind::Server,
            Kind::Client => SpanKind::Client,
        };
        let span =
            maker.tracer.build_with_context(SpanBuilder::from_name(Cow::Borrowed(name)).with_kind(kind), &context);
        WANTED_TRACE_ID.set(None);
        Some(Span::new(span, after))
    }

    /// Exports the spans that wait, within a few seconds. Spans that end later are dropped.
    pub async fn close(&self) {
        let Some(maker) = &self.0 else { return };
        maker.closing.cancel();
        let exporting = maker.exporting.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut exporting) = exporting
            && tokio::time::timeout(CLOSING_TIMEOUT, &mut exporting).await.is_err()
        {
            exporting.abort();
            tracing::warn!(within = ?CLOSING_TIMEOUT, "the last spans could not be exported");
        }
    }
}

/// The context of a span that another process has made, as the library knows it.
fn remote(context: &TraceContext) -> SpanContext {
    // What cannot be read here breaks no promise: the rules were checked when the context was parsed.
    let trace_id = TraceId::from_hex(context.trace_id()).unwrap_or(TraceId::INVALID);
    let span_id = SpanId::from_hex(context.parent_id()).unwrap_or(SpanId::INVALID);
    let flags = TraceFlags::default().with_sampled(context.sampled() == Sampled::Yes);
    let state = context.tracestate().and_then(|state| state.parse::<TraceState>().ok());
    SpanContext::new(trace_id, span_id, flags, true, state.unwrap_or_default())
}

thread_local! {
    /// The id of the trace that begins with the next span of this thread. The library asks its generator for the id and
    /// takes none from who begins the span.
    static WANTED_TRACE_ID: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Makes random ids, unless a trace is to have a certain one.
#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        WANTED_TRACE_ID.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        self.0.new_span_id()
    }
}
