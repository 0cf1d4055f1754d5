//! A span: what it tells, and which place in its trace is passed on to those who come next.

use std::borrow::Cow;

use opentelemetry::{
    KeyValue, Value,
    trace::{Span as _, Status},
};
use opentelemetry_sdk::trace::Span as SdkSpan;
use postrider_core::event::trace_context::{Sampled, TraceContext};

/// A span that is under way. It ends when it is dropped.
#[derive(Debug)]
pub struct Span {
    /// In a box, because each delivery in flight is a task that has room for a span, also where there are none.
    span: Box<SdkSpan>,
    context: TraceContext,
}

impl Span {
    /// A span that has begun `after` another.
    pub(crate) fn new(span: SdkSpan, after: Option<&TraceContext>) -> Self {
        let context = match (span.is_recording(), after) {
            // Nobody will ever see this span, so what comes next follows the span that does exist.
            (false, Some(after)) => after.clone(),
            (is_recorded, _) => {
                let own = span.span_context();
                let sampled = if is_recorded { Sampled::Yes } else { Sampled::No };
                let state = after.and_then(TraceContext::tracestate).map(str::to_owned);
                let trace_id = u128::from_be_bytes(own.trace_id().to_bytes());
                TraceContext::of_span(trace_id, u64::from_be_bytes(own.span_id().to_bytes()), sampled, state)
            }
        };
        Self { span: Box::new(span), context }
    }

    /// The place in the trace that is passed on to those who come next.
    #[must_use]
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// Whether the span will be exported. Otherwise what it tells is lost, so there is no use in finding it out.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.span.is_recording()
    }

    /// Tells something by an attribute. The names are those of the semantic conventions, or begin with `postrider.`.
    pub fn tell(&mut self, name: &'static str, value: impl Into<Value>) {
        self.span.set_attribute(KeyValue::new(name, value));
    }

    /// Tells that what the span describes has failed: `kind` is one of few words, the message is for people.
    pub fn fail(&mut self, kind: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) {
        self.tell("error.type", kind.into());
        self.span.set_status(Status::error(message));
    }
}
