//! The demo: its receivers go green, yellow and red, there is one at a time, and it cleans up after itself.

use std::{collections::BTreeMap, time::Duration};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{
    access::{call, data, key},
    ui::Session,
    world::{KEY, SOON, World},
};

/// A world with a demo whose receivers have a port of their own.
pub async fn world(more: &[(&str, &str)]) -> World {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    let _ = dev::node::dashboard_modules().await;
    let own = [("POSTRIDER_DEMO", "on"), ("POSTRIDER_DEMO_PORT", port.as_str())];
    World::with(&[&own[..], more].concat()).await
}

/// The receivers of a demo by their kind.
fn receivers(demo: &Value) -> BTreeMap<String, Value> {
    let receivers = demo["receivers"].as_array().unwrap().iter();
    receivers.map(|one| (one["kind"].as_str().unwrap().to_owned(), one.clone())).collect()
}

/// Asks for the demo until it fits; answers it.
async fn until(world: &World, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let seen = async {
        loop {
            last = world.get("/demo").await;
            if fits(&last) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(SOON, seen).await.is_ok();
    assert!(in_time, "never so: {last}");
    last
}

/// Asserts that nothing of the demo is left that needs attention or makes anything.
async fn is_clean(world: &World) {
    assert_eq!(data(&world.get("/subscriptions?tenant_id=demo").await), Vec::<Value>::new());
    assert_eq!(data(&world.get("/emitters?tenant_id=demo&status=running").await), Vec::<Value>::new());
    assert_eq!(data(&world.get("/dead-letters?tenant_id=demo").await), Vec::<Value>::new());
    world.queue_is_empty().await;
}

#[tokio::test]
async fn its_receivers_go_green_yellow_and_red_and_it_ends_when_it_is_told_to() {
    // No private network is allowed: the demo alone lets deliveries go to its receivers.
    let world = world(&[("POSTRIDER_ALLOWED_PRIVATE_NETWORKS", ""), ("POSTRIDER_HTTPS_ONLY", "true")]).await;
    assert_eq!(world.get("/demo").await, json!({"state": "none", "receivers": []}));
    let (stop, worker) = world.run_worker();
    let start = || world.call(Method::POST, "/demo", None);
    let (one, two) = tokio::join!(start(), start());
    let (one, two) = (one.expect(202), two.expect(202));
    assert_eq!(one["id"], two["id"], "there is one demo at a time");
    assert_eq!(data(&world.get("/subscriptions?tenant_id=demo").await).len(), 4);
    assert_eq!(one["receivers"].as_array().unwrap().len(), 4);

    until(&world, |demo| {
        let all = receivers(demo);
        all["success"]["light"] == "green" && all["success"]["succeeded"].as_u64() > Some(3)
    })
    .await;
    until(&world, |demo| receivers(demo)["flaky"]["light"] == "yellow").await;
    until(&world, |demo| receivers(demo)["slow"]["light"] == "yellow").await;
    let red = until(&world, |demo| {
        let failing = &receivers(demo)["failing"];
        failing["circuit"] == "open" && failing["dead_letters"].as_u64() > Some(0)
    })
    .await;
    assert_eq!(receivers(&red)["failing"]["light"], "red");
    assert_eq!(receivers(&red)["success"]["light"], "green", "the others do not suffer: {red}");
    assert!(!data(&world.get("/dead-letters?tenant_id=demo").await).is_empty());

    // Only the demo receivers are allowed of all that is on this machine.
    let targets = data(&world.get("/subscriptions?tenant_id=demo").await);
    let demo_target = targets[0]["target_url"].as_str().unwrap().to_owned();
    for (target, status) in [
        (demo_target.as_str(), 201),
        (&world.receiver.url("/success"), 422),
        (&demo_target.replace("127.0.0.1", "localhost"), 422),
        (&demo_target.replace("http:", "https:"), 422),
    ] {
        let body = json!({"target_url": target, "tenant_id": "other"});
        assert_eq!(world.call(Method::POST, "/subscriptions", Some(body)).await.status, status, "{target}");
    }

    let ended = world.call(Method::DELETE, "/demo", None).await.expect(200);
    assert_eq!((&ended["state"], &ended["id"]), (&json!("ended"), &one["id"]));
    is_clean(&world).await;
    let again = world.call(Method::DELETE, "/demo", None).await.expect(200);
    assert_eq!(again["removed_at"], ended["removed_at"]);
    let audit = data(&world.get("/audit-log?tenant_id=demo&limit=250").await);
    let count = |action: &str| audit.iter().filter(|entry| entry["action"] == action).count();
    let counts =
        ["demo.started", "demo.ended", "subscription.deleted", "emitter.created", "emitter.stopped"].map(count);
    assert_eq!(counts, [1, 1, 4, 4, 4]);
    let next = world.call(Method::POST, "/demo", None).await.expect(202);
    assert_ne!(next["id"], one["id"]);
    world.call(Method::DELETE, "/demo", None).await.expect(200);
    stop.cancel();
    worker.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_worker_removes_what_is_left_of_a_demo_whose_time_is_over() {
    let world = world(&[]).await;
    let demo = world.call(Method::POST, "/demo", None).await.expect(202);
    world.pass(Duration::from_secs(119)).await;
    let again = world.call(Method::POST, "/demo", None).await.expect(202);
    assert_eq!(again["id"], demo["id"], "its time is not over");
    // Somebody has begun to remove it, and died.
    let first = demo["receivers"][0]["subscription_id"].as_str().unwrap();
    world.call(Method::DELETE, &format!("/subscriptions/{first}"), None).await.expect(204);
    world.pass(Duration::from_secs(2)).await;
    let (stop, worker) = world.run_worker();
    let ended = until(&world, |demo| demo["state"] == "ended").await;
    assert_eq!(ended["id"], demo["id"]);
    is_clean(&world).await;
    let removals = data(&world.get("/audit-log?tenant_id=demo&actor=postrider").await);
    assert!(removals.iter().any(|entry| entry["action"] == "demo.ended"), "{removals:?}");
    stop.cancel();
    worker.await.unwrap();
    // Where no worker has come to it, the next demo removes what was left of the last one.
    let demo = world.call(Method::POST, "/demo", None).await.expect(202);
    world.pass(Duration::from_secs(121)).await;
    let next = world.call(Method::POST, "/demo", None).await.expect(202);
    assert_ne!(next["id"], demo["id"]);
    assert_eq!(data(&world.get("/subscriptions?tenant_id=demo").await).len(), 4);
    world.call(Method::DELETE, "/demo", None).await.expect(200);
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn it_is_there_only_where_the_operator_wants_it_and_the_key_reaches_it() {
    let off = World::with(&[("POSTRIDER_DEMO", "off")]).await;
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let problem = off.call(method, "/demo", None).await.problem(404);
        assert!(problem["detail"].as_str().unwrap().contains("POSTRIDER_DEMO=on"), "{problem}");
    }
    let session = Session::new(&off, KEY).await;
    assert!(!session.get("/ui/").await.1.contains("Run demo"));
    let (status, page) = session.get("/ui/demo").await;
    assert!(status == 404 && page.contains("POSTRIDER_DEMO=on"), "{page}");
    off.finish().await;

    let world = world(&[]).await;
    let of_acme = key(&world, &["admin"], Some("acme")).await.1;
    for method in [Method::POST, Method::GET, Method::DELETE] {
        let problem = call(&world, &of_acme, &method, "/demo", None).await.problem(403);
        assert!(problem["detail"].as_str().unwrap().contains("tenant `demo`"), "{problem}");
    }
    let session = Session::new(&world, &of_acme).await;
    assert!(!session.get("/ui/").await.1.contains("Run demo"));
    assert!(session.get("/ui/demo").await.1.contains("not for your key"));
    let reader = key(&world, &["read"], None).await.1;
    call(&world, &reader, &Method::POST, "/demo", None).await.problem(403);
    assert_eq!(call(&world, &reader, &Method::GET, "/demo", None).await.expect(200)["state"], "none");
    assert!(!Session::new(&world, &reader).await.get("/ui/demo").await.1.contains("Run demo"));
    let own = key(&world, &["manage"], Some("demo")).await.1;
    call(&world, &own, &Method::POST, "/demo", None).await.expect(202);
    assert_eq!(call(&world, &own, &Method::DELETE, "/demo", None).await.expect(200)["state"], "ended");
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_demo_that_cannot_start_leaves_nothing() {
    let world = world(&[]).await;
    for _ in 0..7 {
        let body = json!({"tenant_id": "demo", "rate_per_second": 0.01, "event_type": "a.b"});
        world.call(Method::POST, "/emitters", Some(body)).await.expect(201);
    }
    let problem = world.call(Method::POST, "/demo", None).await.problem(409);
    assert!(problem["detail"].as_str().unwrap().contains("10 emitters"), "{problem}");
    assert_eq!(data(&world.get("/subscriptions?tenant_id=demo").await).len(), 0);
    assert_eq!(world.get("/demo").await["state"], "none");
    world.finish().await;
}
