//! The live feed: viewers see what happens, only what they may see, and nobody pays for it while nobody looks.

use std::{collections::HashMap, sync::Arc, time::Duration};

use postrider_core::{
    database::Session,
    live::{
        Scope, Topic, WATCH_CHANNEL,
        hub::{Full, Hub, Shown, Source, VIEWERS_PER_KEY_MAX},
    },
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{Answer, SOON, World, answer, database_config, id};

/// A stream of server-sent events that is being read.
struct Stream {
    response: reqwest::Response,
    text: String,
}

/// A server-sent event.
#[derive(Debug)]
struct Message {
    id: String,
    event: String,
    data: Value,
}

impl Stream {
    async fn open(request: reqwest::RequestBuilder) -> Self {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        Self { response, text: String::new() }
    }

    /// The next message; `None` when the stream ends.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())) {
                self.text = rest;
                let fields: HashMap<_, _> = block.lines().filter_map(|line| line.split_once(": ")).collect();
                if let Some(data) = fields.get("data") {
                    return Some(Message {
                        id: fields["id"].to_owned(),
                        event: fields["event"].to_owned(),
                        data: serde_json::from_str(data).expect("JSON"),
                    });
                }
                continue;
            }
            let chunk = tokio::time::timeout(SOON, self.response.chunk()).await.expect("something in time").ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
        }
    }

    /// Reads until there was a message of each of two topics. Api and worker report by themselves, so either may be
    /// told first.
    async fn both(&mut self, topics: [&str; 2]) -> [Message; 2] {
        let one = self.until(|message| topics.contains(&message.event.as_str())).await;
        let missing = if one.event == topics[0] { topics[1] } else { topics[0] };
        let other = self.until(|message| message.event == missing).await;
        if one.event == topics[0] { [one, other] } else { [other, one] }
    }

    /// Reads until a message fits; answers it.
    async fn until(&mut self, fits: impl Fn(&Message) -> bool) -> Message {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if fits(&message) {
                return message;
            }
        }
    }
}

fn watch(world: &World, query: &str) -> reqwest::RequestBuilder {
    world.request(Method::GET, &format!("/live{query}"))
}

/// Waits until api and worker listen for notifications: a question that was asked before is not heard.
async fn two_listen(world: &World) {
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let both = async {
        while sqlx::query_scalar::<_, i64>(listening).fetch_one(&world.pool).await.unwrap() < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, both).await.expect("both listen");
}

async fn refused(request: reqwest::RequestBuilder) -> Answer {
    answer(request).await
}

#[tokio::test]
async fn a_viewer_sees_deliveries_circuits_and_the_audit_log_as_they_change() {
    let world = World::new().await;
    let (stop, worker) = world.run_worker();
    two_listen(&world).await;
    let well = world.subscription("/success").await;
    let settings = json!({"circuit": {"failures_in_a_row": 1}, "retry_policy": {"delays_seconds": [1]}});
    let failing = id(&world.subscribe("/fail/503", settings).await);
    let mut stream = Stream::open(watch(&world, "")).await;
    // The worker and the api have heard that somebody watches.
    stream.until(|message| message.event == "metrics.second").await;

    let delivery = world.ingest(&well, "x").await;
    let [queued, done] = stream.both(["delivery.queued", "delivery.succeeded"]).await;
    assert_eq!((&queued.data["delivery_id"], &queued.data["topic"]), (&json!(delivery), &json!("delivery.queued")));
    assert_eq!(done.data["delivery_id"], delivery);
    assert_eq!((&done.data["status_code"], &done.data["attempt"]), (&json!(200), &json!(1)));
    assert_eq!((&done.data["subscription_id"], &done.data["tenant_id"]), (&json!(well), &json!("default")));
    assert!(done.data["duration_ms"].is_u64(), "{done:?}");

    world.ingest(&failing, "x").await;
    let [failed, opened] = stream.both(["delivery.failed", "circuit.opened"]).await;
    assert_eq!((&failed.data["status_code"], &failed.data["error_kind"]), (&json!(503), &json!("http_status")));
    assert_eq!(opened.data["subscription_id"], failing);
    assert!(opened.data["next_probe_at"].is_string(), "{opened:?}");

    world.post(&format!("/subscriptions/{well}/pause")).await;
    let entry = stream.until(|message| message.event == "audit.subscription.paused").await;
    assert_eq!((&entry.data["actor"], &entry.data["target_id"]), (&json!("admin_key"), &json!(well)));

    drop(stream);
    stop.cancel();
    worker.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn the_numbers_of_the_seconds_count_everything() {
    const EVENTS: u64 = 60;
    let world = World::new().await;
    let (stop, worker) = world.run_worker();
    two_listen(&world).await;
    let subscription = world.subscription("/success").await;
    let mut stream = Stream::open(watch(&world, &format!("?topics=metrics.*&subscription_id={subscription}"))).await;
    stream.next().await;
    for number in 0..EVENTS {
        world.ingest(&subscription, number.to_string()).await;
    }
    let mut counted: HashMap<String, u64> = HashMap::new();
    // Api and worker report by themselves, so what the api counts may belong to a later second.
    let counting = async {
        while ["queued", "succeeded"].iter().any(|topic| counted.get(*topic) != Some(&EVENTS)) {
            let second = stream.next().await.expect("the stream goes on");
            assert_eq!(second.event, "metrics.second", "nothing else was asked for");
            let numbers = &second.data["numbers"];
            assert_eq!(numbers["source"], "live");
            assert!(numbers["shown"].as_u64() <= numbers["seen"].as_u64());
            for (topic, count) in numbers["counts"].as_object().unwrap() {
                *counted.entry(topic.clone()).or_default() += count.as_u64().unwrap();
            }
        }
    };
    let is_counted = tokio::time::timeout(SOON, counting).await.is_ok();
    assert!(is_counted, "{counted:?}");
    assert_eq!((counted["queued"], counted["failed"]), (EVENTS, 0), "{counted:?}");
    stop.cancel();
    worker.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_key_sees_its_tenant_only_and_has_few_streams() {
    let world = World::new().await;
    let ours = id(&world.subscribe("/success", json!({"tenant_id": "ours"})).await);
    let theirs = id(&world.subscribe("/success", json!({"tenant_id": "theirs"})).await);
    let body = json!({"name": "viewer", "tenant_id": "ours", "scopes": ["read"]});
    let key = world.call(Method::POST, "/api-keys", Some(body)).await.expect(201)["key"].clone();
    let with_key =
        |query: &str| world.anonymous(Method::GET, &format!("/live{query}")).bearer_auth(key.as_str().unwrap());

    let mut stream = Stream::open(with_key("")).await;
    stream.next().await;
    let another = json!({"name": "a new key ends no stream", "scopes": ["read"]});
    world.call(Method::POST, "/api-keys", Some(another)).await.expect(201);
    world.ingest(&theirs, "x").await;
    world.ingest(&ours, "x").await;
    world.post(&format!("/subscriptions/{ours}/pause")).await;
    let seen = stream.until(|message| message.event == "delivery.queued").await;
    assert_eq!(seen.data["tenant_id"], "ours");
    let after = stream.until(|message| message.event != "delivery.queued").await;
    assert_eq!(after.event, "metrics.second", "the audit log is for admins");
    assert_eq!(after.data["numbers"]["counts"]["queued"], 1);

    refused(with_key("?tenant_id=theirs")).await.problem(404);
    refused(with_key(&format!("?subscription_id={theirs}"))).await.problem(404);
    refused(with_key("?topics=audit.*")).await.problem(403);
    for topics in ["", "x", "delivery", "delivery.", "*", "weather.*", "delivery.*d"] {
        let problem = refused(with_key(&format!("?topics={topics}"))).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "topics", "{topics}: {problem}");
    }
    refused(world.anonymous(Method::GET, "/live")).await.problem(401);

    let mut others = Vec::new();
    for _ in 1..VIEWERS_PER_KEY_MAX {
        others.push(Stream::open(with_key("")).await);
    }
    let problem = refused(with_key("")).await.problem(429);
    assert_eq!(problem["code"], "too_many_streams");
    drop((stream, others));
    world.finish().await;
}

#[tokio::test]
async fn a_viewer_that_comes_back_goes_on_where_it_was() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let query = format!("?subscription_id={subscription}");
    let mut stream = Stream::open(watch(&world, &query)).await;
    let last = stream.next().await.unwrap();
    drop(stream);
    let delivery = world.ingest(&subscription, "x").await;
    tokio::time::sleep(Duration::from_millis(2500)).await;

    let mut stream = Stream::open(watch(&world, &query).header("Last-Event-ID", &last.id)).await;
    let message = stream.until(|message| message.event != "metrics.second").await;
    assert_eq!((message.event.as_str(), &message.data["delivery_id"]), ("delivery.queued", &json!(delivery)));

    for stranger in ["00000000-7", "nonsense"] {
        let mut stream = Stream::open(watch(&world, &query).header("Last-Event-ID", stranger)).await;
        assert_eq!(stream.next().await.unwrap().event, "gap", "{stranger:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_stream_ends_when_its_key_is_revoked() {
    let world = World::new().await;
    let body = json!({"name": "viewer", "scopes": ["read"]});
    let made = world.call(Method::POST, "/api-keys", Some(body)).await.expect(201);
    let watched = || world.anonymous(Method::GET, "/live").bearer_auth(made["key"].as_str().unwrap());
    let mut stream = Stream::open(watched()).await;
    stream.next().await;
    world.call(Method::DELETE, &format!("/api-keys/{}", id(&made)), None).await;
    let ended = async { while stream.next().await.is_some() {} };
    tokio::time::timeout(SOON, ended).await.expect("it ends");
    refused(watched()).await.problem(401);
    world.finish().await;
}

#[tokio::test]
async fn streams_end_when_the_api_stops() {
    let world = World::new().await;
    let mut stream = Stream::open(watch(&world, "")).await;
    stream.next().await;
    let ended = tokio::spawn(async move { while stream.next().await.is_some() {} });
    world.finish().await;
    tokio::time::timeout(SOON, ended).await.expect("it ends").unwrap();
}

#[tokio::test]
async fn a_hub_skips_what_a_slow_viewer_has_missed_and_tells_when_nothing_is_heard() {
    let world = World::new().await;
    let hub = Arc::new(Hub::default());
    let pool = database_config(&world.env).pool(Session::Management, 1);
    let channel = database_config(&world.env).channel(WATCH_CHANNEL);
    let running = tokio::spawn({
        let hub = Arc::clone(&hub);
        async move { hub.run(pool, channel).await }
    });
    let mut viewer = hub.view("a", Scope::All, None).unwrap();
    let Some(Shown::Seconds(first)) = viewer.next().await else { panic!("the first second") };
    tokio::time::sleep(Duration::from_secs(6)).await;
    let Some(Shown::Gap(Some(missed), newest)) = viewer.next().await else { panic!("a gap") };
    assert_eq!(missed, newest.number - first.last().unwrap().number - 1);
    // Nobody listens for this hub, as where a pooler stands between it and the database.
    assert_eq!(newest.source, Source::Rollups);
    // It is shown what processes write from now on.
    viewer.next().await.unwrap();
    let write =
        "INSERT INTO stats_minute VALUES ('', '00000000-0000-0000-0000-000000000000', date_trunc('minute', now()),
                 7, array_prepend(5, array_fill(0, ARRAY[19])), array_fill(0, ARRAY[16]), array_fill(0, ARRAY[17]),
                 array_fill(0, ARRAY[8]), 0)";
    sqlx::query(write).execute(&world.pool).await.unwrap();
    let seen = async {
        loop {
            let Some(Shown::Seconds(seconds)) = viewer.next().await else { panic!("the next second") };
            let counts = seconds.iter().map(|second| second.sample.counts[Topic::Succeeded.index()]);
            let written = counts.sum::<u64>();
            if written > 0 {
                return written;
            }
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), seen).await.unwrap(), 5);
    let mut more: Vec<_> = (1..VIEWERS_PER_KEY_MAX).map(|_| hub.view("a", Scope::All, None).unwrap()).collect();
    assert_eq!(hub.view("a", Scope::All, None).err(), Some(Full::Key));
    for number in 0.. {
        match hub.view(&format!("b{number}"), Scope::Tenant(number.to_string()), None) {
            Ok(viewer) => more.push(viewer),
            Err(full) => {
                assert_eq!(full, Full::Process);
                break;
            }
        }
    }
    drop((viewer, more));
    assert_eq!(hub.viewers(), 0);
    running.abort();
    world.finish().await;
}
