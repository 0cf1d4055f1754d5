//! Idempotency: a repeated request takes effect once, whether it comes at once or later, and to whichever process.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{TimeDelta, Utc};
use postrider_core::event::idempotency;
use reqwest::{Method, header::HeaderValue};
use serde_json::{Value, json};

use crate::world::{Answer, KEY, SOON, World, answer, client, id, serve};

/// The tables that a creation may add rows to.
const TABLES: [&str; 10] = [
    "events",
    "deliveries",
    "inline_deliveries",
    "queue",
    "subscriptions",
    "api_keys",
    "jobs",
    "emitters",
    "audit_log",
    "idempotency_keys",
];

/// A tenant with one subscription that wants every event, and with finished deliveries to it.
pub struct Tenant {
    name: &'static str,
    subscription: String,
    event: String,
    deliveries: [String; 2],
}

impl Tenant {
    pub async fn new(world: &World, name: &'static str) -> Self {
        let subscription = id(&world.subscribe("/success", json!({"tenant_id": name})).await);
        let deliveries = [world.ingest(&subscription, "first").await, world.ingest(&subscription, "second").await];
        while world.drain().await > 0 {}
        let event = world.delivery(&deliveries[0]).await["event_id"].as_str().unwrap().to_owned();
        Self { name, subscription, event, deliveries }
    }
}

/// A request that creates something.
#[derive(Clone)]
pub struct Creation {
    /// The path as the document writes it, such as `/deliveries/{id}/replay`.
    pub template: &'static str,
    pub path: String,
    pub body: String,
    pub status: u16,
    pub client: reqwest::Client,
}

/// Each creation that takes a key, for this tenant. Another `variant` makes another body.
pub fn creations(tenant: &Tenant, target: &str, variant: usize) -> Vec<Creation> {
    let client = client();
    let creation = |template, path: &str, body: Value, status| {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        Creation { template, path: path.to_owned(), body, status, client: client.clone() }
    };
    let Tenant { name, subscription, event: old, deliveries } = tenant;
    let event = json!({"event_type": "a.b", "payload": {"of": variant}, "tenant_id": name, "metadata": {"a": "b"}});
    let everything = json!({
        "target_url": target, "tenant_id": name, "name": format!("number {variant}"), "event_types": ["never.*"],
        "filters": {"payload": {"a": {"$gte": 1.5}}}, "headers": {"authorization": "secret", "x-team": "blue"},
        "metadata": {"a": "b"}, "retry_policy": {"delays_seconds": [1, 2]}, "timeout_ms": 2000,
    });
    let inline = json!({"target_url": target, "payload": variant, "tenant_id": name});
    let key = json!({
        "name": format!("{variant}"), "scopes": ["read"], "tenant_id": name, "expires_at": "2999-01-01T00:00:00Z",
    });
    let since = format!("2025-01-0{}T00:00:00.123456Z", variant + 1);
    let to = ["all", "missing"][variant];
    vec![
        creation(
            "/webhooks/ingest/{subscription_id}",
            &format!("/webhooks/ingest/{subscription}"),
            json!(variant),
            202,
        ),
        creation("/events", "/events", event.clone(), 202),
        creation("/events/batch", "/events/batch", json!({"events": [event, event]}), 202),
        creation("/deliveries", "/deliveries", inline, 202),
        creation("/subscriptions", "/subscriptions", everything, 201),
        creation("/api-keys", "/api-keys", key, 201),
        creation("/portal-links", "/portal-links", json!({"tenant_id": name, "label": format!("{variant}")}), 201),
        creation(
            "/subscriptions/{id}/replay",
            &format!("/subscriptions/{subscription}/replay"),
            json!({"since": since}),
            202,
        ),
        creation(
            "/subscriptions/{id}/rotate-secret",
            &format!("/subscriptions/{subscription}/rotate-secret"),
            json!({"overlap_seconds": 60 + variant}),
            200,
        ),
        creation("/events/{id}/replay", &format!("/events/{old}/replay"), json!({"to": to}), 202),
        creation("/deliveries/{id}/replay", &format!("/deliveries/{}/replay", deliveries[variant]), Value::Null, 202),
        creation("/jobs", "/jobs", json!({"action": "purge", "filter": {"tenant_id": name, "until": since}}), 202),
        creation(
            "/emitters",
            "/emitters",
            json!({"subscription_id": subscription, "rate_per_second": 0.01, "duration_seconds": 60 + variant}),
            201,
        ),
    ]
}

pub async fn send(base: &str, creation: &Creation, key: &str) -> Answer {
    let key = HeaderValue::from_bytes(key.as_bytes()).unwrap();
    let request =
        creation.client.post(format!("{base}{}", creation.path)).bearer_auth(KEY).header("Idempotency-Key", key);
    answer(request.body(creation.body.clone())).await
}

/// Posts a body, with an idempotency key or without.
pub async fn post(world: &World, path: &str, key: Option<&str>, body: &Value) -> Answer {
    let mut request = world.request(Method::POST, path).body(body.to_string());
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    answer(request).await
}

/// The number of rows of each table of [`TABLES`].
pub async fn rows(world: &World) -> Vec<i64> {
    let counts = TABLES.map(|table| format!("(SELECT count(*) FROM {table})")).join(", ");
    let counts = format!("SELECT ARRAY[{counts}]");
    sqlx::query_scalar(sqlx::AssertSqlSafe(counts)).fetch_one(&world.pool).await.unwrap()
}

/// How many rows each table has gained; tables that have not grown are left out.
pub fn growth(before: &[i64], after: &[i64]) -> BTreeMap<&'static str, i64> {
    let grown = TABLES.into_iter().zip(before.iter().zip(after).map(|(before, after)| after - before));
    grown.filter(|(_, by)| *by != 0).collect()
}

pub async fn count(world: &World, what: &'static str) -> i64 {
    sqlx::query_scalar(what).fetch_one(&world.pool).await.unwrap()
}

#[track_caller]
fn reused(answer: Answer) {
    assert_eq!(answer.problem(409)["code"], "idempotency_key_reused");
}

#[tokio::test]
async fn each_creation_happens_once_and_answers_the_same_again() {
    let world = World::new().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    let (acme, bolt) = (Tenant::new(&world, "acme").await, Tenant::new(&world, "bolt").await);
    let target = world.receiver.url("/success");
    let (first, second) = (creations(&acme, &target, 0), creations(&acme, &target, 1));
    let document = world.get("/openapi.json").await;
    let takes_key = |operation: &Value| {
        operation["parameters"].as_array().into_iter().flatten().any(|one| one["name"] == "Idempotency-Key")
    };
    let documented = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, methods)| methods.as_object().unwrap().values().any(takes_key));
    let documented: BTreeSet<_> = documented.map(|(path, _)| path.as_str()).collect();
    assert_eq!(first.iter().map(|one| one.template).collect::<BTreeSet<_>>(), documented, "each is tried here");

    for ((first, second), theirs) in first.iter().zip(&second).zip(&creations(&bolt, &target, 0)) {
        let (what, before) = (first.template, rows(&world).await);
        let made = send(&world.base, first, what).await;
        let (location, made) = (made.headers.get("location").cloned(), made.expect(first.status));
        let after = rows(&world).await;
        let grown = growth(&before, &after);
        assert_eq!(grown["idempotency_keys"], if what == "/events/batch" { 2 } else { 1 }, "{what}");
        assert!(grown.len() > 1, "{what}: {grown:?}");
        for base in [&world.base, &other, &world.base] {
            let again = send(base, first, what).await;
            assert_eq!(again.headers.get("location"), location.as_ref(), "{what}");
            assert_eq!(again.expect(first.status), made, "{what}");
        }
        for base in [&world.base, &other] {
            reused(send(base, second, what).await);
        }
        assert_eq!(rows(&world).await, after, "{what}");

        let made_for_them = send(&other, theirs, what).await.expect(theirs.status);
        assert_ne!(made_for_them, made, "{what}: another tenant's key is another key");
        let after_theirs = rows(&world).await;
        assert_eq!(growth(&after, &after_theirs), grown, "{what}");
        assert_eq!(send(&world.base, theirs, what).await.expect(theirs.status), made_for_them, "{what}");
        assert_eq!(send(&world.base, first, what).await.expect(first.status), made, "{what}");
        assert_eq!(rows(&world).await, after_theirs, "{what}");
    }
    // A key stands for one request across all routes: among those that post events, and among the others.
    reused(send(&world.base, &first[1], "/deliveries").await);
    reused(send(&world.base, &first[5], "/subscriptions").await);
    while world.drain().await > 0 {}
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_key_that_breaks_a_rule_is_refused_and_creates_nothing() {
    let world = World::new().await;
    let acme = Tenant::new(&world, "acme").await;
    let too_long = "x".repeat(256);
    let mut wrong = Vec::new();
    for creation in creations(&acme, &world.receiver.url("/success"), 0) {
        for key in ["", &too_long, "a\tb"] {
            let before = rows(&world).await;
            let answer = send(&world.base, &creation, key).await;
            let field = &answer.body["errors"][0]["field"];
            if answer.status != 422 || field != "Idempotency-Key" || rows(&world).await != before {
                wrong.push(format!("{} with {key:?}: {} {}", creation.template, answer.status, answer.body));
            }
        }
        // A key may be used for one request only, whatever the route, so each request gets a key of its own.
        let length = if creation.template == "/events/batch" { 240 } else { 255 };
        let longest = format!("{:y<length$}", creation.template);
        send(&world.base, &creation, &longest).await.expect(creation.status);
    }
    assert_eq!(wrong, [] as [String; 0]);
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_key_of_any_characters_is_heeded_or_refused_never_ignored() {
    let world = World::new().await;
    let acme = Tenant::new(&world, "acme").await;
    let mut wrong = Vec::new();
    for creation in creations(&acme, &world.receiver.url("/success"), 0) {
        let (first, between) = (send(&world.base, &creation, "clé").await, rows(&world).await);
        let again = send(&world.base, &creation, "clé").await;
        let heeded = again.status == creation.status && again.body == first.body;
        let refused = first.status == 422 && again.status == 422;
        if !heeded && !refused || rows(&world).await != between {
            wrong.push(format!("{}: {} {}, then {}", creation.template, again.status, first.body, again.body));
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_retry_gets_its_answer_although_its_times_have_passed() {
    let world = World::new().await;
    let expires_at = Utc::now() + TimeDelta::seconds(3);
    let event = json!({"event_type": "a.b", "payload": 1, "expires_at": expires_at.to_rfc3339()});
    let mut with_id = event.clone();
    with_id["id"] = "mine".into();
    let mut inline = json!({"target_url": world.receiver.url("/success"), "payload": 1});
    inline["expires_at"] = event["expires_at"].clone();
    let api_key = json!({"name": "x", "scopes": ["read"], "expires_at": event["expires_at"]});
    let (published, _) = world.publish(event.clone()).await;
    let requests = [
        ("/events".to_owned(), event.clone()),
        ("/events".to_owned(), with_id),
        ("/events/batch".to_owned(), json!({"events": [event, event]})),
        ("/deliveries".to_owned(), inline),
        ("/api-keys".to_owned(), api_key),
        (format!("/events/{published}/replay"), json!({})),
    ];
    let mut made = Vec::new();
    for (place, (path, body)) in requests.iter().enumerate() {
        made.push(post(&world, path, Some(&place.to_string()), body).await);
        assert!(made[place].status.is_success(), "{path}: {}", made[place].body);
    }
    let passed = async {
        while Utc::now() <= expires_at {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, passed).await.expect("time passes");
    let mut wrong = Vec::new();
    for (place, (path, body)) in requests.iter().enumerate() {
        let again = post(&world, path, Some(&place.to_string()), body).await;
        if (again.status, &again.body) != (made[place].status, &made[place].body) {
            wrong.push(format!("POST {path} {body}: {} {}", again.status, again.body));
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
    world.drain().await;
    world.finish().await;
}

#[tokio::test]
async fn an_events_own_id_stands_for_it() {
    let world = World::new().await;
    let _subscription = world.subscription("/success").await;
    let event = |id: &str, payload: u32| json!({"event_type": "a.b", "payload": payload, "id": id});
    let batch = |events: &[Value]| json!({"events": events});
    let one = post(&world, "/events", None, &event("one", 1)).await.expect(202);
    assert_eq!(post(&world, "/events", None, &event("one", 1)).await.expect(202), one);
    assert_eq!(post(&world, "/events", Some("another"), &event("one", 1)).await.expect(202), one, "the id decides");
    reused(post(&world, "/events", None, &event("one", 2)).await);
    let shown = world.get(&format!("/events/{}", one["event_id"].as_str().unwrap())).await;
    assert_eq!(shown["external_id"], "one");
    // A key of a header, the `id` of an event and the key of a batch are apart, even with the same text.
    let of_header = post(&world, "/events", Some("one"), &json!({"event_type": "a.b", "payload": 3})).await.expect(202);
    assert_ne!(of_header, one);
    let unnamed = json!({"event_type": "a.b", "payload": 4});
    post(&world, "/events/batch", Some("key"), &batch(&[unnamed.clone(), unnamed.clone()])).await.expect(202);
    let before = rows(&world).await;
    let alike = post(&world, "/events", Some("key#0"), &unnamed).await;

    let mixed = batch(&[event("two", 2), event("one", 1), event("three", 3), event("two", 2)]);
    let before_mixed = rows(&world).await;
    let answered = post(&world, "/events/batch", None, &mixed).await.expect(202);
    let grown = growth(&before_mixed, &rows(&world).await);
    assert_eq!(grown, BTreeMap::from([("events", 2), ("deliveries", 2), ("queue", 2), ("idempotency_keys", 2)]));
    assert_eq!(answered["data"][1], one, "it was there already");
    assert_eq!(answered["data"][0], answered["data"][3], "it is there twice");
    assert_ne!(answered["data"][0], answered["data"][2]);
    assert_eq!(post(&world, "/events", None, &event("two", 2)).await.expect(202), answered["data"][0]);
    assert_eq!(post(&world, "/events/batch", None, &mixed).await.expect(202), answered);
    let after = rows(&world).await;
    for conflicting in [
        batch(&[event("four", 4), event("five", 5), event("one", 2)]),
        batch(&[event("one", 2), event("four", 4)]),
        batch(&[event("four", 4), event("four", 5)]),
    ] {
        reused(post(&world, "/events/batch", None, &conflicting).await);
        assert_eq!(rows(&world).await, after, "all or nothing: {conflicting}");
    }
    post(&world, "/events", None, &event("four", 6)).await.expect(202);
    assert_eq!(world.drain().await, 7 + usize::from(alike.status == 202));
    assert_eq!(
        (alike.status.as_u16(), growth(&before, &before_mixed).get("events")),
        (202, Some(&1)),
        "{}",
        alike.body
    );
    world.finish().await;
}

#[tokio::test]
async fn a_key_is_free_again_when_its_time_is_over() {
    let world = World::new().await;
    let acme = Tenant::new(&world, "acme").await;
    let target = world.receiver.url("/success");
    let (first, second) = (creations(&acme, &target, 0), creations(&acme, &target, 1));
    let mut made = Vec::new();
    for creation in &first {
        made.push(send(&world.base, creation, creation.template).await.expect(creation.status));
    }
    let over = "UPDATE idempotency_keys SET expires_at = now() - interval '1 second'";
    sqlx::query(over).execute(&world.pool).await.unwrap();
    for ((first, second), made) in first.iter().zip(&second).zip(&made) {
        let fresh = send(&world.base, second, second.template).await.expect(second.status);
        assert_ne!(fresh, *made, "{}", first.template);
        assert_eq!(send(&world.base, second, second.template).await.expect(second.status), fresh);
        reused(send(&world.base, first, first.template).await);
    }
    let keys = "SELECT count(*) FROM idempotency_keys";
    assert_eq!((idempotency::retire(&world.pool).await.unwrap(), count(&world, keys).await), (0, 14), "none is over");
    let over = format!("{over} WHERE key LIKE '%:/events%'");
    assert_eq!(sqlx::query(sqlx::AssertSqlSafe(over)).execute(&world.pool).await.unwrap().rows_affected(), 4);
    assert_eq!((idempotency::retire(&world.pool).await.unwrap(), count(&world, keys).await), (4, 10));
    send(&world.base, &first[1], first[1].template).await.expect(202);
    reused(send(&world.base, &first[0], first[0].template).await);
    while world.drain().await > 0 {}
    world.finish().await;
}
