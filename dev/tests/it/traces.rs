//! Traces: a producer's trace goes through Postrider to the receiver, and a collector sees it whole.

use std::{collections::BTreeMap, fs::File, time::Duration};

use dev::{receiver::Received, up::Process};
use opentelemetry_proto::tonic::trace::v1::{span::SpanKind, status::StatusCode};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use crate::{
    collector::{Answers, Collector, Seen},
    crashes::binaries,
    metrics,
    ui::{self, Session},
    world::{KEY, SOON, World, answer},
};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}

/// The headers by which a request tells of its trace.
fn told(received: &Received) -> (&str, &str) {
    (received.header("traceparent"), received.header("tracestate"))
}

/// Posts JSON to a path as part of a trace.
async fn post(world: &World, path: &str, trace: (&str, &str), body: &Value) -> Value {
    let request = world.request(Method::POST, path).header("traceparent", trace.0).header("tracestate", trace.1);
    answer(request.body(body.to_string())).await.expect(202)
}

fn event(event_type: &str) -> Value {
    json!({"event_type": event_type, "payload": {"order": 42}})
}

#[tokio::test]
async fn a_trace_is_seen_whole() {
    let mut collector = Collector::start(Answers::Everything).await;
    let world = collector.world(&[("OTEL_SERVICE_NAME", "orders")]).await;
    let subscription = world.subscribe("/fail", json!({"event_types": ["order.*"]})).await;
    let posted = post(&world, "/events", (PARENT, "vendor=x"), &event("order.created")).await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(3600)).await;
    assert_eq!(world.drain().await, 1);

    let [accepted, first, second] = <[Seen; 3]>::try_from(collector.spans(3).await).ok().unwrap();
    for seen in [&accepted, &first, &second] {
        assert_eq!(hex(&seen.span.trace_id), TRACE);
        assert_eq!((seen.service.as_str(), seen.key.as_str()), ("orders", "hush!"));
        assert_eq!(seen.span.trace_state, "vendor=x");
    }
    assert_eq!((accepted.span.name.as_str(), accepted.span.kind), ("POST /events", SpanKind::Server as i32));
    assert_eq!(hex(&accepted.span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(accepted.attributes["http.route"], "/events");
    assert_eq!(accepted.attributes["http.response.status_code"], "202");
    assert_eq!(accepted.attributes["messaging.message.id"], posted["event_id"].as_str().unwrap());
    assert!(accepted.span.status.as_ref().is_none_or(|status| status.code() == StatusCode::Unset));

    let received = world.receiver.received();
    for (number, attempt) in [(1, &first), (2, &second)] {
        let number_text = number.to_string();
        assert_eq!((attempt.span.name.as_str(), attempt.span.kind), ("POST", SpanKind::Client as i32));
        assert_eq!(attempt.span.parent_span_id, accepted.span.span_id);
        let expected = [
            ("http.request.method", "POST"),
            ("server.address", "127.0.0.1"),
            ("http.response.status_code", "500"),
            ("error.type", "500"),
            ("messaging.destination.name", "order.created"),
            ("postrider.subscription_id", subscription["id"].as_str().unwrap()),
            ("postrider.delivery_id", posted["delivery_ids"][0].as_str().unwrap()),
            ("postrider.event_id", posted["event_id"].as_str().unwrap()),
            ("postrider.attempt", number_text.as_str()),
        ];
        for (name, value) in expected {
            assert_eq!(attempt.attributes[name], value, "{name}");
        }
        assert_eq!(world.receiver.url(""), format!("http://127.0.0.1:{}", attempt.attributes["server.port"]));
        assert!(!attempt.attributes.values().any(|value| value.contains("/fail")), "a URL may hold a secret");
        assert_eq!(attempt.span.status.as_ref().unwrap().code(), StatusCode::Error);
        // The receiver's own spans follow the attempt that reached it.
        let parent = format!("00-{TRACE}-{}-01", hex(&attempt.span.span_id));
        assert_eq!(told(&received[number - 1]), (parent.as_str(), "vendor=x"));
    }
    assert_eq!(second.attributes["http.request.resend_count"], "1");

    let shown = world.get(&format!("/events/{}", posted["event_id"].as_str().unwrap())).await;
    assert_eq!(shown["trace_id"], TRACE);
    assert_eq!(shown["traceparent"], format!("00-{TRACE}-{}-01", hex(&accepted.span.span_id)));
    assert_eq!(shown["tracestate"], "vendor=x");
    world.finish().await;
}

#[tokio::test]
async fn an_event_without_a_trace_begins_one_that_all_its_attempts_share() {
    let mut collector = Collector::start(Answers::Everything).await;
    let world = collector.world(&[]).await;
    world.subscribe("/fail", json!({"event_types": ["order.*"]})).await;
    world.publish(event("order.created")).await;
    let mut own = PgConnection::connect(&world.env["DATABASE_URL"]).await.unwrap();
    let call = "SELECT postrider.publish('order.paid', '{}')";
    sqlx::query(call).execute(&mut own).await.unwrap();
    assert_eq!(world.drain().await, 2);
    world.pass(Duration::from_secs(3600)).await;
    assert_eq!(world.drain().await, 2);

    let mut traces: BTreeMap<Vec<u8>, Vec<Seen>> = BTreeMap::new();
    for seen in collector.spans(5).await {
        traces.entry(seen.span.trace_id.clone()).or_default().push(seen);
    }
    let mut shapes: Vec<_> = traces.values().map(|spans| (spans[0].service.as_str(), spans.len())).collect();
    shapes.sort_unstable();
    // By HTTP, the trace begins with the request. By SQL, nothing of ours is there before the attempts.
    assert_eq!(shapes, [("postrider-api", 3), ("postrider-worker", 2)]);
    for spans in traces.values() {
        assert_eq!(spans[0].span.parent_span_id, Vec::<u8>::new());
    }
    for received in world.receiver.received() {
        let (_, spans) = traces.iter().find(|(id, _)| received.header("traceparent").contains(&hex(id))).unwrap();
        assert!(spans.iter().any(|seen| received.header("traceparent").contains(&hex(&seen.span.span_id))));
    }
    world.finish().await;
}

#[tokio::test]
async fn without_a_collector_the_producers_trace_goes_on_unchanged() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let trace = (PARENT, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7");
    let posted = post(&world, "/events", trace, &event("a.b")).await;
    post(&world, "/events/batch", trace, &json!({"events": [event("a.b"), event("a.b")]})).await;
    post(&world, &format!("/webhooks/ingest/{subscription}"), trace, &json!("anything")).await;
    let inline = json!({"target_url": world.receiver.url("/inline"), "payload": 1});
    post(&world, "/deliveries", trace, &inline).await;
    let mut own = PgConnection::connect(&world.env["DATABASE_URL"]).await.unwrap();
    let call = "SELECT postrider.publish('a.b', '{}', traceparent => $1, tracestate => $2)";
    sqlx::query(call).bind(trace.0).bind(trace.1).execute(&mut own).await.unwrap();
    world.drain().await;
    let event_id = posted["event_id"].as_str().unwrap();
    world.call(Method::POST, &format!("/events/{event_id}/replay"), None).await.expect(202);
    world.drain().await;

    let received = world.receiver.received();
    assert_eq!(received.len(), 7);
    for request in &received {
        assert_eq!(told(request), trace, "{}", request.path);
    }
    let shown = world.get(&format!("/events/{event_id}")).await;
    assert_eq!((&shown["traceparent"], &shown["trace_id"]), (&json!(PARENT), &json!(TRACE)));
    let untold = world.publish(event("a.b")).await.0;
    let shown = world.get(&format!("/events/{untold}")).await;
    assert!(shown.get("traceparent").is_none() && shown.get("trace_id").is_none(), "{shown}");
    world.finish().await;
}

#[tokio::test]
async fn an_invalid_trace_is_ignored_and_no_part_of_what_makes_requests_the_same() {
    let world = World::new().await;
    world.subscription("/success").await;
    let invalid = PARENT.to_uppercase();
    post(&world, "/events", (&invalid, "a=1"), &event("a.b")).await;
    let twice = world.request(Method::POST, "/events").header("traceparent", PARENT).header("traceparent", PARENT);
    answer(twice.body(event("a.b").to_string())).await.expect(202);
    let mut own = PgConnection::connect(&world.env["DATABASE_URL"]).await.unwrap();
    let call = "SELECT postrider.publish('a.b', '{}', idempotency_key => 'k', traceparent => $1, tracestate => $2)";
    let mut ids = Vec::new();
    for (parent, state) in [("x".repeat(100_000), "x".repeat(100_000)), (PARENT.to_owned(), "a=1".to_owned())] {
        let published = sqlx::query_scalar::<_, String>(call).bind(parent).bind(state).fetch_one(&mut own).await;
        ids.push(published.unwrap());
    }
    assert_eq!(ids[0], ids[1], "the same call, whatever its trace");
    let mut named = event("a.b");
    named["id"] = json!("order-42");
    let first = post(&world, "/events", (PARENT, ""), &named).await;
    let other_parent = PARENT.replace("b7ad", "b7ae");
    assert_eq!(post(&world, "/events", (&other_parent, ""), &named).await, first);

    world.drain().await;
    let mut told: Vec<_> = world.receiver.received().iter().map(|request| told(request).0.to_owned()).collect();
    told.sort_unstable();
    assert_eq!(told, ["", "", "", PARENT]);
    world.finish().await;
}

#[tokio::test]
async fn what_the_producer_does_not_record_is_not_exported_but_goes_on() {
    let mut collector = Collector::start(Answers::Everything).await;
    let world = collector.world(&[]).await;
    world.subscription("/success").await;
    let unsampled = PARENT.replace("-01", "-00");
    post(&world, "/events", (&unsampled, "a=1"), &event("a.b")).await;
    world.drain().await;
    assert_eq!(told(&world.receiver.received()[0]), (unsampled.as_str(), "a=1"));
    // Spans are exported in their order, so when these have come, none of the others will.
    post(&world, "/events", (PARENT, "a=1"), &event("a.b")).await;
    world.drain().await;
    collector.spans(2).await;
    world.finish().await;
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_nothing() {
    let collector = Collector::start(Answers::Nothing).await;
    let hasty = [("OTEL_BSP_MAX_QUEUE_SIZE", "4"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1")];
    let patient = [("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")];
    let world = collector.world(&[hasty.as_slice(), &patient].concat()).await;
    world.subscription("/success").await;
    for _ in 0..50 {
        post(&world, "/events", (PARENT, ""), &event("a.b")).await;
    }
    let (stop, worker) = world.run_worker();
    world.queue_is_empty().await;
    assert_eq!(world.receiver.count(), 50);
    stop.cancel();
    // The export under way would last ten minutes.
    tokio::time::timeout(SOON, worker).await.expect("the worker stops").unwrap();
    tokio::time::timeout(SOON, world.finish()).await.expect("the api stops");
}

#[tokio::test]
async fn what_waits_is_exported_when_a_process_ends() {
    let mut collector = Collector::start(Answers::Everything).await;
    let world = collector.world(&[("OTEL_BSP_SCHEDULE_DELAY", "600000")]).await;
    world.subscription("/success").await;
    post(&world, "/events", (PARENT, ""), &event("a.b")).await;
    let (stop, worker) = world.run_worker();
    world.queue_is_empty().await;
    stop.cancel();
    worker.await.unwrap();
    assert_eq!(collector.spans(1).await[0].service, "postrider-worker");
    world.finish().await;
    assert_eq!(collector.spans(2).await[0].service, "postrider-api");
}

#[tokio::test]
async fn the_page_of_an_event_shows_its_trace() {
    let world = ui::world().await;
    let ingest = format!("/webhooks/ingest/{}", world.subscription("/success").await);
    let posted = post(&world, &ingest, (PARENT, "a=1"), &json!(1)).await;
    let session = Session::new(&world, KEY).await;
    let (_, page) = session.get(&format!("/ui/events/{}", posted["event_id"].as_str().unwrap())).await;
    assert!(page.contains(TRACE), "{page}");
    let (_, page) = session.get(&format!("/ui/deliveries/{}", posted["delivery_id"].as_str().unwrap())).await;
    assert!(page.contains(PARENT) && page.contains("a=1"), "the request tells it: {page}");
    world.finish().await;
}

#[tokio::test]
async fn spans_that_nobody_takes_are_counted_and_logs_name_the_trace() {
    // Nothing listens at this port.
    let world = World::with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "100"),
        ("OTEL_BSP_SCHEDULE_DELAY", "10"),
        ("POSTRIDER_LOG", "info,worker=debug"),
        ("POSTRIDER_LOG_FORMAT", "json"),
    ])
    .await;
    binaries();
    let log = std::env::temp_dir().join(format!("postrider-log-{}", uuid::Uuid::now_v7()));
    let into = File::create(&log).unwrap().into();
    let worker = Process::start_logging_to(into, "worker", "debug", &world.env).await.unwrap();
    let base = format!("http://{}", worker.ready.rsplit(' ').next().unwrap());
    world.subscription("/success").await;
    let posted = post(&world, "/events", (PARENT, ""), &event("a.b")).await;
    let counted = async {
        while metrics::read(&base).await.get("postrider_spans_total{result=\"failed\"}") != Some(&1.0) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, counted).await.expect("the span is counted");
    worker.stop().await.unwrap();
    let logged = std::fs::read_to_string(&log).unwrap();
    std::fs::remove_file(&log).unwrap();
    let lines: Vec<Value> = logged.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let attempt = lines.iter().find(|line| line["message"] == "an attempt was made").expect(&logged);
    assert_eq!((&attempt["trace_id"], &attempt["event_id"]), (&json!(TRACE), &posted["event_id"]));
    assert_eq!((&attempt["delivery_id"], &attempt["status_code"]), (&posted["delivery_ids"][0], &json!(200)));
    assert!(lines.iter().any(|line| line["message"] == "spans could not be exported"), "{logged}");
    world.finish().await;
}
