//! Emitters: they keep their rate, through crashes too, end by themselves or are stopped, and stay within their bounds.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use dev::child::Signal;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::{call, data, key},
    crashes::process,
    world::{Answer, SOON, World, id, uuid, worker},
};

async fn start(world: &World, body: Value) -> Answer {
    world.call(Method::POST, "/emitters", Some(body)).await
}

async fn emitter(world: &World, id: &str) -> Value {
    world.get(&format!("/emitters/{id}")).await
}

/// How many events an emitter has made and left out.
fn counts(emitter: &Value) -> (u64, u64) {
    (emitter["emitted"].as_u64().unwrap(), emitter["skipped"].as_u64().unwrap())
}

/// Waits until an emitter does not run any more; answers it.
async fn finished(world: &World, id: &str) -> Value {
    let finished = async {
        loop {
            let now = emitter(world, id).await;
            if now["status"] != "running" {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, finished).await.expect("it ends")
}

#[tokio::test]
async fn the_rate_is_kept_whichever_workers_make_the_steps() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/success", json!({"event_types": ["order.created"]})).await);
    let template = json!({"order": "{{number}}", "note": "no. {{number}} of {{time}}", "id": "{{id}}", "flat": [1.50]});
    let body = json!({"subscription_id": subscription, "rate_per_second": 2.5, "duration_seconds": 10,
                      "template": template});
    let begun = Instant::now();
    let made = start(&world, body).await.expect(201);
    let emitter_id = id(&made);
    assert_eq!((&made["status"], &made["event_type"]), (&json!("running"), &json!("order.created")));
    assert_eq!((&made["template"], &made["tenant_id"]), (&template, &json!("default")));
    let other = worker(&world.env);
    for second in 0..12_u32 {
        let (one, two) = tokio::join!(world.worker.drain(), other.drain());
        one.unwrap();
        two.unwrap();
        let (emitted, skipped) = counts(&emitter(&world, &emitter_id).await);
        // Five events in two seconds, the first at once. The time that the test itself takes comes on top.
        let due = |seconds: f64| ((seconds * 2.5).floor() + 1.0).min(25.0);
        let (least, most) = (due(second.into()), due(f64::from(second) + begun.elapsed().as_secs_f64()));
        let made = f64::from(u32::try_from(emitted).unwrap());
        assert!((least..=most).contains(&made), "{made} after {second} s, not {least} to {most}");
        assert_eq!(skipped, 0);
        world.pass(Duration::from_secs(1)).await;
    }
    world.drain().await;
    let ended = emitter(&world, &emitter_id).await;
    assert_eq!((counts(&ended), &ended["status"]), ((25, 0), &json!("ended")));
    assert!(ended["finished_at"].is_string() && ended.get("last_error").is_none(), "{ended}");
    let bodies: Vec<Value> =
        world.receiver.received().iter().map(|received| serde_json::from_slice(&received.body).unwrap()).collect();
    let numbers: BTreeSet<_> = bodies.iter().map(|body| body["order"].as_u64().expect("a number")).collect();
    assert_eq!((bodies.len(), numbers), (25, (1..=25).collect()));
    let ids: BTreeSet<_> = bodies.iter().map(|body| body["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 25);
    assert!(bodies.iter().all(|body| body["note"].as_str().unwrap().starts_with("no. ")), "{bodies:?}");
    assert!(world.receiver.received().iter().all(|received| received.body.ends_with(b"}")), "JSON");
    let events = world.get(&format!("/events?metadata=postrider_emitter:{emitter_id}")).await;
    let events = data(&events);
    assert_eq!(events.len(), 25);
    assert!(
        events.iter().all(|event| event["subscription_id"] == subscription && event["event_type"] == "order.created")
    );
    world.finish().await;
}

#[tokio::test]
async fn after_an_outage_it_makes_up_for_a_bounded_time_only() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let body = json!({"subscription_id": subscription, "rate_per_second": 10, "duration_seconds": 600});
    let emitter_id = id(&start(&world, body).await.expect(201));
    world.pass(Duration::from_secs(60)).await;
    world.drain().await;
    let (emitted, skipped) = counts(&emitter(&world, &emitter_id).await);
    assert!((500..=600).contains(&skipped), "{skipped} were left out");
    assert!((100..=130).contains(&emitted), "{emitted} were made: those of ten seconds");
    world.pass(Duration::from_secs(1)).await;
    world.drain().await;
    let (later, still) = counts(&emitter(&world, &emitter_id).await);
    assert!(later >= emitted + 10 && still == skipped, "it is in time again: {later}, {still}");
    // What is due after its end is never made.
    world.pass(Duration::from_secs(700)).await;
    world.drain().await;
    let ended = emitter(&world, &emitter_id).await;
    assert_eq!((counts(&ended).0 + counts(&ended).1, &ended["status"]), (6000, &json!("ended")));
    assert_eq!(counts(&ended).0, later, "all of it was too late");
    world.finish().await;
}

#[tokio::test]
async fn killing_workers_neither_loses_nor_doubles_an_event() {
    const EVENTS: u64 = 400;
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let mut workers = process("worker", &world.env).await;
    let body = json!({"subscription_id": subscription, "rate_per_second": 50, "duration_seconds": 8,
                      "template": {"n": "{{number}}"}});
    let emitter_id = id(&start(&world, body).await.expect(201));
    for round in 1..=2 {
        world.receiver.wait_for(round * 60, SOON).await.unwrap();
        workers.signal(Signal::KILL);
        drop(workers);
        workers = process("worker", &world.env).await;
    }
    let ended = finished(&world, &emitter_id).await;
    let (emitted, skipped) = counts(&ended);
    // On a busy machine it may take so long until a worker runs again that some are left out.
    assert_eq!((&ended["status"], emitted + skipped), (&json!("ended"), EVENTS), "{ended}");
    let stored: (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT payload) FROM events").fetch_one(&world.pool).await.unwrap();
    let emitted = i64::try_from(emitted).unwrap();
    assert_eq!(stored, (emitted, emitted), "what is counted is stored, and each has a number of its own");
    let at = |field: &str| chrono::DateTime::parse_from_rfc3339(ended[field].as_str().unwrap()).unwrap();
    assert!(at("finished_at") >= at("ends_at"), "{ended}");
    workers.stop().await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn somebody_stops_it_and_a_subscription_that_is_gone_does_too() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let body = json!({"subscription_id": subscription, "rate_per_second": 1});
    let stopped = id(&start(&world, body.clone()).await.expect(201));
    world.drain().await;
    let path = format!("/emitters/{stopped}");
    let answer = world.call(Method::DELETE, &path, None).await.expect(200);
    assert_eq!((&answer["status"], counts(&answer)), (&json!("stopped"), (1, 0)));
    world.pass(Duration::from_secs(5)).await;
    world.drain().await;
    assert_eq!(world.call(Method::DELETE, &path, None).await.expect(200), answer, "it stays as it is");
    let audit = data(&world.get(&format!("/audit-log?target_id={stopped}")).await);
    let actions: Vec<_> = audit.iter().map(|entry| entry["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["emitter.stopped", "emitter.created"]);

    let troubled = id(&start(&world, body.clone()).await.expect(201));
    world.post(&format!("/subscriptions/{subscription}/disable")).await;
    world.worker.cache().invalidate(&postrider_core::announce::changes::Change::Anything).await;
    world.drain().await;
    let waits = emitter(&world, &troubled).await;
    assert_eq!((&waits["status"], counts(&waits)), (&json!("running"), (0, 0)));
    assert_eq!(waits["last_error"], "the subscription is disabled; enable it first");
    start(&world, body.clone()).await.problem(409);
    world.post(&format!("/subscriptions/{subscription}/enable")).await;
    world.worker.cache().invalidate(&postrider_core::announce::changes::Change::Anything).await;
    world.pass(Duration::from_secs(6)).await;
    world.drain().await;
    let goes_on = emitter(&world, &troubled).await;
    assert!(counts(&goes_on).0 >= 6 && goes_on["status"] == "running", "{goes_on}");
    world.call(Method::DELETE, &format!("/subscriptions/{subscription}"), None).await.expect(204);
    world.worker.cache().invalidate(&postrider_core::announce::changes::Change::Anything).await;
    world.pass(Duration::from_secs(2)).await;
    world.drain().await;
    let gone = emitter(&world, &troubled).await;
    assert_eq!((&gone["status"], &gone["last_error"]), (&json!("stopped"), &json!("its subscription was deleted")));
    world.finish().await;
}

#[tokio::test]
async fn of_a_tenant_those_get_the_events_who_want_them() {
    let world = World::new().await;
    let wanting = id(&world.subscribe("/success", json!({"tenant_id": "acme", "event_types": ["order.*"]})).await);
    world.subscribe("/success", json!({"tenant_id": "acme", "event_types": ["user.*"]})).await;
    world.subscribe("/success", json!({"event_types": ["order.*"]})).await;
    let body =
        json!({"tenant_id": "acme", "event_type": "order.created", "rate_per_second": 100, "duration_seconds": 1});
    let emitter_id = id(&start(&world, body).await.expect(201));
    world.pass(Duration::from_secs(2)).await;
    world.drain().await;
    assert_eq!(counts(&emitter(&world, &emitter_id).await), (100, 0));
    let deliveries = data(&world.get("/deliveries?limit=250").await);
    assert_eq!(deliveries.len(), 100);
    assert!(deliveries.iter().all(|delivery| delivery["subscription_id"] == wanting), "{deliveries:?}");
    let first: Value = serde_json::from_slice(&world.receiver.received()[0].body).unwrap();
    assert!(first["number"].is_u64() && first["id"].is_string() && first["sent_at"].is_string(), "{first}");
    world.finish().await;
}

#[tokio::test]
async fn mistakes_and_bounds() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let fits = json!({"rate_per_second": 1});
    for (change, field) in [
        (json!({"rate_per_second": 0.009}), "rate_per_second"),
        (json!({"rate_per_second": 101}), "rate_per_second"),
        (json!({"rate_per_second": "1"}), "rate_per_second"),
        (json!({"duration_seconds": 0}), "duration_seconds"),
        (json!({"duration_seconds": 86_401}), "duration_seconds"),
        (json!({"event_type": "Not A Type"}), "event_type"),
        (json!({"template": {"at": "{{date}}"}}), "template"),
        (json!({"template": "x".repeat(16 * 1024)}), "template"),
        (json!({"subscription_id": "nonsense"}), "subscription_id"),
        (json!({"tenant_id": "acme", "subscription_id": subscription}), "tenant_id"),
        (json!({"tenant_id": ""}), "tenant_id"),
        (json!({"rate": 1}), "rate"),
    ] {
        let mut body = fits.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let problem = start(&world, body).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
    start(&world, json!({"rate_per_second": 1, "subscription_id": "sub_00000000000000000000000000000000"}))
        .await
        .problem(404);
    // Of twenty that come at once, ten are started.
    let asked: Vec<_> = (0..20).map(|_| start(&world, fits.clone())).collect();
    let answers = futures(asked).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!((made, answers.iter().filter(|answer| answer.status == 409).count()), (10, 10));
    let of_another = json!({"rate_per_second": 1, "tenant_id": "acme"});
    let once = world.request(Method::POST, "/emitters").header("Idempotency-Key", "once").body(of_another.to_string());
    let again = once.try_clone().unwrap();
    let first = crate::world::answer(once).await.expect(201);
    assert_eq!(crate::world::answer(again).await.expect(201), first, "the same request, the same answer");
    let running = data(&world.get("/emitters?status=running&limit=250").await);
    assert_eq!(running.len(), 11);
    assert_eq!(data(&world.get("/emitters?tenant_id=acme").await).len(), 1);
    let stop = format!("/emitters/{}", id(&running[3]));
    world.call(Method::DELETE, &stop, None).await.expect(200);
    start(&world, fits.clone()).await.expect(201);
    // Long after their end they are forgotten.
    world.drain().await;
    sqlx::query("UPDATE emitters SET finished_at = now() - interval '8 days' WHERE id = $1")
        .bind(uuid(&id(&running[3])))
        .execute(&world.pool)
        .await
        .unwrap();
    assert_eq!(postrider_core::emitter::retire(&world.pool).await.unwrap(), 1);
    world.call(Method::GET, &stop, None).await.problem(404);
    world.finish().await;
}

/// The answers to requests that are made at the same time, in their order.
async fn futures<F: Future<Output = Answer>>(asked: Vec<F>) -> Vec<Answer> {
    let mut asked: Vec<_> = asked.into_iter().map(Box::pin).collect();
    let mut answers: Vec<Option<Answer>> = asked.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (asked, answer) in asked.iter_mut().zip(&mut answers).filter(|(_, answer)| answer.is_none()) {
            if let std::task::Poll::Ready(ready) = asked.as_mut().poll(context) {
                *answer = Some(ready);
            }
        }
        if answers.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    answers.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_stranger_neither_sees_nor_starts_nor_stops_one() {
    let world = World::new().await;
    let theirs = id(&world.subscribe("/success", json!({"tenant_id": "acme"})).await);
    let running = id(&start(&world, json!({"rate_per_second": 1, "subscription_id": theirs})).await.expect(201));
    let stranger = key(&world, &["manage"], Some("bolt")).await.1;
    let ask =
        async |method: Method, path: &str, body: Option<Value>| call(&world, &stranger, &method, path, body).await;
    for body in [
        json!({"rate_per_second": 1, "subscription_id": theirs}),
        json!({"rate_per_second": 1, "tenant_id": "acme"}),
        json!({"rate_per_second": 1, "tenant_id": "bolt", "subscription_id": theirs}),
    ] {
        ask(Method::POST, "/emitters", Some(body)).await.problem(404);
    }
    for method in [Method::GET, Method::DELETE] {
        ask(method, &format!("/emitters/{running}"), None).await.problem(404);
    }
    ask(Method::GET, &format!("/emitters?subscription_id={theirs}"), None).await.problem(404);
    assert_eq!(data(&ask(Method::GET, "/emitters", None).await.expect(200)).len(), 0);
    let own = ask(Method::POST, "/emitters", Some(json!({"rate_per_second": 1}))).await.expect(201);
    assert_eq!(own["tenant_id"], "bolt");
    let reader = key(&world, &["read"], Some("acme")).await.1;
    let path = format!("/emitters/{running}");
    assert_eq!(call(&world, &reader, &Method::GET, &path, None).await.expect(200)["status"], "running");
    call(&world, &reader, &Method::DELETE, &path, None).await.problem(403);
    world.finish().await;
}
