//! The trace of a request that brings events: the one that the producer names by `traceparent`, or one that begins
//! here. The events get it, and where traces are on, the request is a span of it. The names of its attributes are those
//! of the semantic conventions for HTTP servers and for messaging.

use std::sync::{Arc, Mutex, MutexGuard};

use poem::{
    FromRequest, Request, RequestBody,
    http::{HeaderMap, Method, StatusCode},
};
use postrider_core::{accept::AcceptedEvent, event::trace_context::TraceContext};
use traces::{Beginning, Kind, Span, Traces};

/// The routes that bring events, as the `OpenAPI` document writes them, each with the name of its span and of what it
/// does.
const ROUTES: [(&str, &str, &str); 4] = [
    ("/events", "POST /events", "publish"),
    ("/events/batch", "POST /events/batch", "publish"),
    ("/webhooks/ingest/{subscription_id}", "POST /webhooks/ingest/{subscription_id}", "ingest"),
    ("/deliveries", "POST /deliveries", "deliver"),
];

/// The trace of a request; clones mean the same. Its span ends when all of them are gone.
#[derive(Clone, Default)]
pub struct RequestTrace {
    context: Option<TraceContext>,
    span: Option<Arc<Mutex<Span>>>,
}

impl RequestTrace {
    /// Begins the trace of a request to a route. `None` where the request brings no events, or belongs to no trace.
    #[must_use]
    pub fn begin(traces: &Traces, request: &Request, route: &'static str) -> Option<Self> {
        let (_, name, operation) = ROUTES.into_iter().find(|(known, ..)| *known == route)?;
        if request.method() != Method::POST {
            return None;
        }
        let named = named_by(request.headers());
        let beginning = Beginning { name, kind: Kind::Server, after: named.as_ref(), trace_id: None };
        let Some(mut span) = traces.begin(beginning) else {
            return named.map(|context| Self { context: Some(context), span: None });
        };
        if span.is_recorded() {
            span.tell("http.request.method", "POST");
            span.tell("http.route", route);
            span.tell("url.path", request.uri().path().to_owned());
            span.tell("url.scheme", "http");
            span.tell("messaging.system", "postrider");
            span.tell("messaging.operation.name", operation);
            span.tell("messaging.operation.type", "send");
        }
        Some(Self { context: Some(span.context().clone()), span: Some(Arc::new(Mutex::new(span))) })
    }

    /// The trace that is stored with the events.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.context.clone()
    }

    /// Tells which event was accepted.
    pub fn accepted(&self, event: &AcceptedEvent) {
        let trace_id = self.context.as_ref().map(TraceContext::trace_id);
        let event_type = event.event_type.as_str();
        tracing::debug!(event_id = %event.event_id, event_type, trace_id, "an event was accepted");
        if let Some(mut span) = self.recorded() {
            span.tell("messaging.message.id", event.event_id.to_string());
            span.tell("messaging.destination.name", event.event_type.as_str().to_owned());
            span.tell("postrider.event_id", event.event_id.to_string());
        }
    }

    /// Tells how many events were accepted at once.
    pub fn accepted_many(&self, events: usize) {
        if let Some(mut span) = self.recorded() {
            span.tell("messaging.batch.message_count", i64::try_from(events).unwrap_or(i64::MAX));
        }
    }

    /// Tells how the request was answered. What is the caller's fault is no failure of a server.
    pub fn answered(&self, status: StatusCode) {
        if let Some(mut span) = self.recorded() {
            span.tell("http.response.status_code", i64::from(status.as_u16()));
            if status.is_server_error() {
                span.fail(status.as_str().to_owned(), "");
            }
        }
    }

    fn recorded(&self) -> Option<MutexGuard<'_, Span>> {
        let span = self.span.as_ref()?.lock().expect("nothing panics while it is held");
        span.is_recorded().then_some(span)
    }
}

impl<'a> FromRequest<'a> for RequestTrace {
    async fn from_request(request: &'a Request, _: &mut RequestBody) -> poem::Result<Self> {
        Ok(request.data::<Self>().cloned().unwrap_or_default())
    }
}

/// The trace that a request names. Several values of `tracestate` are one list (W3C Trace Context §3.3.1), several of
/// `traceparent` are none.
fn named_by(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all("traceparent").iter();
    let parent = parents.next()?.to_str().ok()?;
    if parents.next().is_some() {
        return None;
    }
    let states: Option<Vec<_>> = headers.get_all("tracestate").iter().map(|value| value.to_str().ok()).collect();
    TraceContext::parse(parent, states.map(|states| states.join(",")).as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    /// The headers of a request, and the `traceparent` and `tracestate` that it names.
    type Case = (&'static [(&'static str, &'static str)], Option<(&'static str, Option<&'static str>)>);

    #[test]
    fn the_headers_name_one_trace_or_none() {
        let cases: [Case; 6] = [
            (&[], None),
            (&[("tracestate", "a=1")], None),
            (&[("traceparent", PARENT)], Some((PARENT, None))),
            (&[("traceparent", PARENT), ("traceparent", PARENT)], None),
            (&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")], Some((PARENT, Some("a=1,b=2")))),
            (&[("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "é")], Some((PARENT, None))),
        ];
        for (headers, named) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, poem::http::HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
            }
            let found = named_by(&map);
            let found = found.as_ref().map(|found| (found.traceparent(), found.tracestate()));
            assert_eq!(found, named, "{headers:?}");
        }
    }

    #[test]
    fn only_posts_that_bring_events_have_a_trace() {
        let request = |method: Method| Request::builder().method(method).header("traceparent", PARENT).finish();
        let traces = Traces::default();
        for (method, route, has) in [
            (Method::POST, "/events", true),
            (Method::POST, "/webhooks/ingest/{subscription_id}", true),
            (Method::GET, "/events", false),
            (Method::POST, "/subscriptions", false),
        ] {
            let trace = RequestTrace::begin(&traces, &request(method), route);
            assert_eq!(trace.and_then(|trace| trace.context()).is_some(), has, "{route}");
        }
        assert!(RequestTrace::begin(&traces, &Request::builder().method(Method::POST).finish(), "/events").is_none());
    }
}
