//! Ingest: what is accepted, what is refused, and that nothing of a refused request is stored.

use std::{sync::Arc, time::Duration};

use api::serve::body_room::SUBSCRIPTION_BYTES_MAX;
use bytes::Bytes;
use postrider_core::{
    database::Session,
    event::{event_type::EventType, new_event::NewEvent},
    id::SubscriptionId,
    queue::intake::Intake,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::task::JoinSet;

use crate::world::{KEY, SOON, World, answer, client, database_config, id, serve};

async fn events(pool: &PgPool) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(pool).await.unwrap()
}

#[tokio::test]
async fn any_content_is_kept_byte_for_byte() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let all_bytes: Vec<u8> = (0..=255).collect();
    let largest = vec![b'x'; 1 << 20];
    for payload in [Vec::new(), all_bytes, largest] {
        let before = world.receiver.count();
        let delivery = world.ingest(&subscription, payload.clone()).await;
        assert_eq!(world.drain().await, 1);
        let received = world.receiver.received().pop().unwrap();
        assert_eq!(world.receiver.count(), before + 1);
        assert!(received.body == payload, "{} bytes", payload.len());
        assert_eq!(received.header("content-type"), "application/octet-stream", "where none was sent");
        let event = world.delivery(&delivery).await["event_id"].as_str().unwrap().to_owned();
        assert_eq!(world.get(&format!("/events/{event}")).await["payload_bytes"], payload.len());
        let stored = world.request(Method::GET, &format!("/events/{event}/payload")).send().await.unwrap();
        assert_eq!(stored.headers()["x-payload-content-type"], "application/octet-stream");
        assert!(stored.bytes().await.unwrap() == payload);
    }
    world.finish().await;
}

#[tokio::test]
async fn what_is_refused_stores_nothing() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let path = format!("/webhooks/ingest/{subscription}");
    let unknown = format!("/webhooks/ingest/{}", SubscriptionId::new());
    let too_large = vec![0; (1 << 20) + 1];

    let post = |path: &str| world.request(Method::POST, path);
    answer(post(&path).body(too_large.clone())).await.problem(413);
    let chunked = reqwest::Body::wrap(http_body_util::Full::new(Bytes::from(too_large)));
    answer(post(&path).body(chunked)).await.problem(413);
    answer(post(&unknown).body("x")).await.problem(404);
    answer(post("/webhooks/ingest/nonsense").body("x")).await.problem(404);
    answer(post("/webhooks/ingest/%00").body("x")).await.problem(400);
    for bad in ["", "order created", "order..created", &"x".repeat(129)] {
        let problem = answer(post(&path).header("X-Event-Type", bad).body("x")).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "X-Event-Type");
    }
    let long = format!("text/{}", "x".repeat(300));
    answer(post(&path).header("Content-Type", long).body("x")).await.problem(422);
    let put = answer(world.request(Method::PUT, &path)).await;
    assert_eq!(put.headers["allow"], "GET, HEAD, POST");
    put.problem(405);
    assert_eq!(events(&world.pool).await, 0);
    world.finish().await;
}

#[tokio::test]
async fn an_unwanted_event_is_stored_and_not_delivered() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/success", json!({"event_types": ["order.*", "refund.made"]})).await);
    let cases =
        [("order.created", "pending"), ("refund.made", "pending"), ("order", "filtered"), ("user.created", "filtered")];
    for (event_type, status) in cases {
        let request = world
            .request(Method::POST, &format!("/webhooks/ingest/{subscription}"))
            .header("X-Event-Type", event_type)
            .body("x");
        let accepted = answer(request).await.expect(202);
        assert_eq!(accepted["status"], status, "{event_type}");
        assert_eq!(accepted.get("delivery_id").is_some(), status == "pending");
    }
    assert_eq!(world.drain().await, 2);
    assert_eq!(events(&world.pool).await, 4);
    let of_one_type = world.get("/events?event_type=user.created").await;
    assert_eq!(of_one_type["data"].as_array().unwrap().len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_slash_behind_the_url_means_nothing() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let path = format!("/webhooks/ingest/{subscription}");
    for end in ["", "/", "/?a=b"] {
        let request = world.request(Method::POST, &format!("{path}{end}")).body(end.to_owned());
        assert_eq!(answer(request).await.expect(202)["status"], "pending", "{end}");
    }
    // Only one slash, and only here.
    for other in
        [format!("{path}//"), format!("{path}/x/"), "/webhooks/ingest/".to_owned(), "/webhooks/ingest//".to_owned()]
    {
        answer(world.request(Method::POST, &other).body("x")).await.problem(404);
    }
    for other in [format!("/subscriptions/{subscription}/"), "/events/".to_owned()] {
        answer(world.request(Method::GET, &other)).await.problem(404);
    }
    assert_eq!(world.drain().await, 3);
    world.finish().await;
}

#[tokio::test]
async fn the_provider_s_header_names_the_type_where_the_owner_says_so() {
    let world = World::new().await;
    let settings = json!({"ingest_event_type_header": "X-GitHub-Event", "event_types": ["pull_request", "orders/*"]});
    let created = world.subscribe("/success", settings).await;
    assert_eq!(created["ingest_event_type_header"], "X-GitHub-Event");
    let path = format!("/webhooks/ingest/{}", id(&created));
    let post = || world.request(Method::POST, &path).body("{}");
    let cases = [
        (post().header("x-github-event", "pull_request"), "pull_request", "pending"),
        (post().header("X-GitHub-Event", "orders/create"), "orders/create", "pending"),
        (post().header("X-GitHub-Event", "Push Hook"), "Push_Hook", "filtered"),
        // The owner's choice comes before what the request says otherwise.
        (post().header("X-GitHub-Event", "push").header("X-Event-Type", "pull_request"), "push", "filtered"),
        // An event that is named badly or not at all is not lost.
        (
            post().header("X-GitHub-Event", "pull_request").header("X-GitHub-Event", "push"),
            "webhook.received",
            "filtered",
        ),
        (post().header("X-GitHub-Event", "no, type"), "webhook.received", "filtered"),
        (post().header("X-GitHub-Event", "x".repeat(129)), "webhook.received", "filtered"),
        (post().header("X-GitHub-Event", ""), "webhook.received", "filtered"),
        (post(), "webhook.received", "filtered"),
        (post().header("X-Event-Type", "pull_request"), "pull_request", "pending"),
        (post().header("X-GitHub-Event", "?").header("X-Event-Type", "pull_request"), "pull_request", "pending"),
    ];
    for (request, event_type, status) in cases {
        let accepted = answer(request).await.expect(202);
        assert_eq!((&accepted["event_type"], &accepted["status"]), (&json!(event_type), &json!(status)));
        let event = world.get(&format!("/events/{}", accepted["event_id"].as_str().unwrap())).await;
        assert_eq!(event["event_type"], event_type);
    }
    assert_eq!(world.drain().await, 4);
    assert_eq!(world.receiver.received()[0].header("webhook-event-type"), "pull_request");

    // Without the setting, the header means nothing.
    let subscription = format!("/subscriptions/{}", id(&created));
    let change = async |name: Value| {
        world.call(Method::PATCH, &subscription, Some(json!({"ingest_event_type_header": name}))).await
    };
    assert!(change(Value::Null).await.expect(200).get("ingest_event_type_header").is_none());
    let accepted = answer(post().header("X-GitHub-Event", "pull_request")).await.expect(202);
    assert_eq!(accepted["event_type"], "webhook.received");
    // A type is shown and sent on, so it does not come from a header that may hold a secret.
    let secrets = ["Authorization", "X-Gitlab-Token", "Stripe-Signature"].map(|name| json!(name));
    let wrong = [json!("X Event"), json!(""), json!("x\u{0}"), json!("x".repeat(65)), json!(1), json!([]), json!({})];
    for name in secrets.into_iter().chain(wrong) {
        let problem = change(name).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "ingest_event_type_header", "{problem}");
    }
    world.finish().await;
}

fn event(tenant: &str, payload: &'static [u8]) -> NewEvent {
    NewEvent::new(tenant.to_owned(), EventType::default(), "text/plain".to_owned(), Bytes::from_static(payload))
}

fn intake(world: &World) -> Intake {
    let pool = |session| database_config(&world.env).pool(session, 1);
    Intake::start(pool(Session::Ingest), pool(Session::Ingest), 60, Arc::default(), Arc::default()).0
}

#[tokio::test]
async fn concurrent_events_share_commits_and_a_poisoned_one_fails_alone() {
    let world = World::new().await;
    let intake = intake(&world);
    let accept_all = async |poisoned: Option<u32>| {
        let mut callers = JoinSet::new();
        for number in 0..200 {
            let intake = intake.clone();
            // Postgres cannot store a NUL in a text, so the statement fails for this event.
            let event = event(if poisoned == Some(number) { "poi\0son" } else { "good" }, b"x");
            callers.spawn(async move { (number, intake.accept(vec![event]).await) });
        }
        while let Some(done) = callers.join_next().await {
            let (number, accepted) = done.unwrap();
            assert_eq!(accepted.is_ok(), poisoned != Some(number), "{number}: {accepted:?}");
        }
    };
    accept_all(None).await;
    assert_eq!(events(&world.pool).await, 200);
    let count = "SELECT count(DISTINCT xmin::text) FROM events";
    let transactions: i64 = sqlx::query_scalar(count).fetch_one(&world.pool).await.unwrap();
    assert!(transactions < 100, "{transactions} transactions for 200 events");
    accept_all(Some(77)).await;
    assert_eq!(events(&world.pool).await, 399);
    world.finish().await;
}

#[tokio::test]
async fn what_waits_to_be_stored_counts_and_the_surplus_is_told_so_at_once() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/success", json!({"ingest_auth": "none"})).await);
    let mut blocker = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").execute(&mut *blocker).await.unwrap();

    let mut posts = JoinSet::new();
    // The subscription takes requests without a key, so the bytes under way are limited as those of keyless callers.
    let fitting = SUBSCRIPTION_BYTES_MAX >> 20;
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    let refused = Arc::new(tokio::sync::Semaphore::new(0));
    for _ in 0..fitting + 20 {
        let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body(payload.clone());
        let refused = Arc::clone(&refused);
        posts.spawn(async move {
            let answer = answer(request).await;
            if answer.status == 503 {
                refused.add_permits(1);
            }
            answer
        });
    }
    // Those that find no room are answered before any event can be stored.
    let surplus = refused.acquire_many(20);
    tokio::time::timeout(Duration::from_secs(4), surplus).await.expect("503 at once").unwrap().forget();
    blocker.rollback().await.unwrap();
    let mut accepted = 0;
    while let Some(answer) = posts.join_next().await {
        let answer = answer.unwrap();
        if answer.status == 503 {
            assert_eq!(answer.headers["retry-after"], "1");
            answer.problem(503);
        } else {
            answer.expect(202);
            accepted += 1;
        }
    }
    // A request that was refused may have taken a part of the room before.
    assert!((1..=fitting).contains(&accepted), "{accepted} of {fitting}");
    assert_eq!(events(&world.pool).await, i64::try_from(accepted).unwrap());
    for _ in 0..=fitting {
        world.ingest(&subscription, payload.clone()).await;
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn ten_thousand_at_once_all_arrive_once() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let (stop, worker) = world.run_worker();
    let client = client();
    let url = format!("{}/webhooks/ingest/{subscription}", world.base);
    let mut posts = JoinSet::new();
    for poster in 0..100 {
        let (client, url) = (client.clone(), url.clone());
        posts.spawn(async move {
            for number in 0..100 {
                let body = format!("{poster}-{number}");
                answer(client.post(&url).bearer_auth(KEY).body(body)).await.expect(202);
            }
        });
    }
    posts.join_all().await;
    world.receiver.wait_for(10_000, SOON).await.unwrap();
    world.queue_is_empty().await;
    let mut bodies: Vec<_> = world.receiver.received().into_iter().map(|received| received.body).collect();
    bodies.sort_unstable();
    bodies.dedup();
    assert_eq!((bodies.len(), world.receiver.count()), (10_000, 10_000), "each arrived, and none twice");
    stop.cancel();
    worker.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_change_is_seen_by_every_api_at_once() {
    let world = World::new().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    let subscription = world.subscription("/success").await;
    let client = client();
    let post_to_other = async |event_type: &str| {
        let url = format!("{other}/webhooks/ingest/{subscription}");
        let request = client.post(url).bearer_auth(KEY).header("X-Event-Type", event_type).body("x");
        answer(request).await.expect(202)["status"].clone()
    };
    assert_eq!(post_to_other("user.created").await, "pending", "the other api knows it now");
    let patch = json!({"event_types": ["order.*"]});
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200);
    // The api hears of the change far sooner than its cache would forget by itself.
    let seen = async {
        while post_to_other("user.created").await != "filtered" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.expect("the change is announced");
    while world.drain().await > 0 {}
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn large_events_share_transactions_of_a_few_megabytes() {
    const MIB: usize = 1 << 20;
    let world = World::new().await;
    let intake = intake(&world);
    let mut callers = JoinSet::new();
    for _ in 0..12 {
        let intake = intake.clone();
        callers.spawn(async move { intake.accept(vec![event("large", &[b'x'; MIB])]).await });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap().unwrap();
    }
    let largest: i64 =
        sqlx::query_scalar("SELECT max(n) FROM (SELECT count(*) AS n FROM events GROUP BY xmin::text) x")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert!((2..=4).contains(&largest), "{largest} MiB in one transaction");
    world.finish().await;
}
