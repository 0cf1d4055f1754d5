//! What the operator is told, as events of the operator's own tenant: subscriptions that Postrider disables, and dead
//! letters. Those that do nothing but fail stand in [`crate::failing`].

use std::time::Duration;

use postrider_core::{delivery::dead_letter_notice, event::operational::OperationalEvent};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    flow_settings::{open_circuit, patch},
    world::{World, id, uuid, worker},
};

/// The path to which the operator's subscriptions deliver.
const OPERATOR: &str = "/operator";

/// Creates a subscription of the operator.
pub(crate) async fn listen(world: &World, tenant: &str) -> String {
    id(&world.subscribe(OPERATOR, json!({"tenant_id": tenant, "event_types": ["postrider.*"]})).await)
}

/// Lets a new worker deliver what is due, one that has not read the subscriptions before. Answers every operational
/// event that the operator has received so far, in the order of their arrival.
pub(crate) async fn told(world: &World) -> Vec<Value> {
    worker(&world.env).drain().await.unwrap();
    let received = world.receiver.received().into_iter().filter(|received| received.path == OPERATOR);
    let events = received.map(|received| {
        let payload: Value = serde_json::from_slice(&received.body).unwrap();
        assert_eq!(payload["event_type"], received.header("webhook-event-type"));
        assert!(payload["occurred_at"].is_string() && payload["reason"].is_string(), "{payload}");
        payload
    });
    events.collect()
}

/// The types of events of one subscription, without `postrider.`, in the order of their arrival.
pub(crate) fn types_about(events: &[Value], subscription: &str) -> Vec<String> {
    let about = events.iter().filter(|event| event["subscription_id"] == subscription);
    about.map(|event| event["event_type"].as_str().unwrap().trim_start_matches("postrider.").to_owned()).collect()
}

/// How many events wait in the outbox.
pub(crate) async fn waiting(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&world.pool).await.unwrap()
}

pub(crate) async fn state(world: &World, subscription: &str) -> Value {
    world.get(&format!("/subscriptions/{subscription}")).await["state"].clone()
}

#[tokio::test]
async fn whom_postrider_disables_the_operator_is_told() {
    let world = World::new().await;
    let silent = world.subscription("/gone").await;
    world.ingest(&silent, "x").await;
    assert_eq!(world.drain().await, 1);
    assert_eq!((state(&world, &silent).await, waiting(&world).await), (json!("disabled"), 0), "nobody listens");

    listen(&world, "operator").await;
    let acme = json!({"tenant_id": "acme"});
    let gone = id(&world.subscribe("/gone", acme.clone()).await);
    let asks = id(&world.subscribe("/success?webhook-delivery=disable", acme.clone()).await);
    let by_hand = id(&world.subscribe("/success", acme).await);
    let own = id(&world.subscribe("/gone", json!({"tenant_id": "operator"})).await);
    for subscription in [&gone, &asks, &own] {
        world.ingest(subscription, "x").await;
    }
    assert_eq!(world.drain().await, 3);
    world.post(&format!("/subscriptions/{by_hand}/disable")).await;
    for subscription in [&gone, &asks, &own, &by_hand] {
        assert_eq!(state(&world, subscription).await, "disabled");
    }

    let events = told(&world).await;
    for (subscription, reason) in [(&gone, "the receiver answered 410 Gone"), (&asks, "the receiver asked for it")] {
        assert_eq!(types_about(&events, subscription), ["subscription.disabled"]);
        let event = events.iter().find(|event| event["subscription_id"] == **subscription).unwrap();
        assert_eq!((&event["tenant_id"], &event["reason"]), (&json!("acme"), &json!(reason)));
        assert!(event["failing_attempts"].is_u64() && event.get("failing_since").is_some(), "{event}");
        assert_eq!(world.get(event["links"]["subscription"].as_str().unwrap()).await["id"], **subscription);
        for link in ["deliveries", "dead_letters"] {
            assert!(world.get(event["links"][link].as_str().unwrap()).await["data"].is_array(), "{link}");
        }
        assert_eq!(world.get(event["links"]["health"].as_str().unwrap()).await["state"], "disabled");
    }
    assert_eq!(types_about(&events, &by_hand), [""; 0], "a person knows");
    assert_eq!(types_about(&events, &own), [""; 0], "never about the operator's own");
    let listed = world.get("/events?tenant_id=operator&event_type=postrider.subscription.disabled").await;
    let mut keys: Vec<_> = listed["data"].as_array().unwrap().iter().map(|event| &event["ordering_key"]).collect();
    keys.sort_unstable_by_key(|key| key.as_str());
    assert_eq!(keys, [&*gone, &*asks], "events about one subscription have one ordering key");
    world.finish().await;
}

#[tokio::test]
async fn whoever_closes_a_circuit_by_a_change_lets_the_operator_know_why() {
    let world = World::new().await;
    listen(&world, "operator").await;
    let subscription = world.subscription("/success").await;
    let path = format!("/subscriptions/{subscription}");
    let other = json!({"target_url": world.receiver.url("/success/other")});
    for change in [other, json!({"circuit": null})] {
        open_circuit(&world, &subscription).await;
        patch(&world, &subscription, change).await;
    }
    // Where the circuit is closed, there is nothing to tell.
    patch(&world, &subscription, json!({"circuit": {}})).await;
    patch(&world, &subscription, json!({"circuit": null})).await;
    patch(&world, &subscription, json!({"circuit": {}})).await;
    world.post(&format!("{path}/disable")).await;
    open_circuit(&world, &subscription).await;
    world.post(&format!("{path}/enable")).await;
    // What is gone is of no interest.
    open_circuit(&world, &subscription).await;
    world.call(Method::DELETE, &path, None).await.expect(204);

    let told = told(&world).await;
    let closed = told.iter().filter(|event| event["event_type"] == "postrider.circuit.closed");
    let mut reasons: Vec<_> = closed.map(|event| event["reason"].as_str().unwrap()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["it was switched off", "the subscription has another target", "the subscription was enabled"]);
    world.finish().await;
}

#[tokio::test]
async fn what_becomes_of_a_circuit_the_operator_is_told() {
    let world = World::new().await;
    listen(&world, "operator").await;
    let circuit = json!({"failures_in_a_row": 1, "cooldown_seconds": 30, "successes_to_close": 1});
    let settings = json!({"tenant_id": "acme", "circuit": circuit, "retry_policy": {"delays_seconds": vec![1; 9]}});
    let subscription = id(&world.subscribe("/switch", settings).await);
    world.receiver.switch_to(500);
    world.ingest(&subscription, "x").await;
    world.drain().await;
    let first = told(&world).await;
    assert_eq!(types_about(&first, &subscription), ["circuit.opened"]);
    assert_eq!((&first[0]["tenant_id"], &first[0]["cooldown_seconds"]), (&json!("acme"), &json!(30)));
    assert_eq!(
        (&first[0]["failures_in_a_row"], &first[0]["reason"]),
        (&json!(1), &json!("the receiver keeps failing"))
    );
    assert!(first[0]["opened_at"].is_string() && first[0]["next_probe_at"].is_string(), "{first:?}");

    // The probe fails, and after a longer cooldown another one succeeds.
    for (status, seconds) in [(500, 31), (200, 61)] {
        world.receiver.switch_to(status);
        world.pass(Duration::from_secs(seconds)).await;
        world.drain().await;
    }
    let events = told(&world).await;
    let mut types = types_about(&events, &subscription);
    types.sort_unstable();
    let expected = ["circuit.closed", "circuit.half_open", "circuit.half_open", "circuit.opened", "circuit.opened"];
    assert_eq!(types, expected);
    let closed = events.iter().find(|event| event["event_type"] == "postrider.circuit.closed").unwrap();
    assert_eq!(closed["reason"], "the receiver answers again");
    world.finish().await;
}

#[tokio::test]
async fn the_operator_s_tenant_may_have_any_name() {
    let name = r"die Betreiber: '\ü' = {1}, $2";
    let world = World::with(&[("POSTRIDER_OPERATOR_TENANT", name)]).await;
    let (listener, other) = (listen(&world, name).await, listen(&world, "operator").await);
    let gone = world.subscription("/gone").await;
    world.ingest(&gone, "x").await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(types_about(&told(&world).await, &gone), ["subscription.disabled"]);
    let deliveries = async |subscription: &str| -> usize {
        let list = world.get(&format!("/subscriptions/{subscription}/deliveries")).await;
        list["data"].as_array().unwrap().len()
    };
    assert_eq!((deliveries(&listener).await, deliveries(&other).await), (1, 0));
    world.finish().await;
}

/// Makes dead letters of a subscription, and forgets whatever was noted of them.
async fn dead(world: &World, subscription: &str, count: usize) -> Vec<Uuid> {
    let mut deliveries = Vec::new();
    for number in 0..count {
        deliveries.push(uuid(&world.ingest(subscription, number.to_string()).await));
    }
    assert_eq!(world.drain().await, count);
    sqlx::query("DELETE FROM dead_letter_notices").execute(&world.pool).await.unwrap();
    deliveries
}

/// Notes dead letters as the recording of outcomes does.
async fn note(world: &World, deliveries: &[Uuid]) {
    sqlx::query("SELECT note_dead_letters($1)").bind(deliveries).execute(&world.pool).await.unwrap();
}

async fn notices(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM dead_letter_notices").fetch_one(&world.pool).await.unwrap()
}

#[tokio::test]
async fn many_dead_letters_are_told_by_one_event_for_each_subscription() {
    let world = World::new().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let one = id(&world.subscribe("/fail", once.clone()).await);
    let of_one = dead(&world, &one, 25).await;
    note(&world, &of_one).await;
    assert_eq!(notices(&world).await, 0, "nobody listens");

    listen(&world, "operator").await;
    let mut of_acme = once.clone();
    of_acme["tenant_id"] = json!("acme");
    let other = id(&world.subscribe("/fail", of_acme).await);
    let of_other = dead(&world, &other, 2).await;
    let mut of_operator = once.clone();
    of_operator["tenant_id"] = json!("operator");
    let own = id(&world.subscribe("/fail", of_operator).await);
    let of_own = dead(&world, &own, 1).await;
    let inline = json!({"target_url": world.receiver.url("/fail"), "payload": 1, "tenant_id": "acme",
                        "retry_policy": once["retry_policy"]});
    let inline = world.call(Method::POST, "/deliveries", Some(inline)).await.expect(202);
    let inline = uuid(inline["delivery_id"].as_str().unwrap());
    assert_eq!(world.drain().await, 1);
    sqlx::query("DELETE FROM dead_letter_notices").execute(&world.pool).await.unwrap();

    assert_eq!(dead_letter_notice::publish(world.worker.pool()).await.unwrap(), 0);
    note(&world, &[]).await;
    note(&world, &of_own).await;
    assert_eq!(notices(&world).await, 0);
    // Three batches of outcomes.
    note(&world, &[&of_one[12..], &of_other[..1]].concat()).await;
    note(&world, &[inline]).await;
    note(&world, &[&of_one[..12], &of_other[1..], &of_own[..]].concat()).await;
    assert_eq!(notices(&world).await, 5, "a row for each subscription and batch");
    assert_eq!(dead_letter_notice::publish(world.worker.pool()).await.unwrap(), 3);
    assert_eq!((notices(&world).await, waiting(&world).await), (0, 3));
    assert_eq!(dead_letter_notice::publish(world.worker.pool()).await.unwrap(), 0);

    let events = told(&world).await;
    let texts = |ids: &[Uuid]| json!(ids.iter().map(|id| format!("dlv_{}", id.simple())).collect::<Vec<_>>());
    let (mut first_of_one, mut all_of_other) = (of_one.clone(), of_other.clone());
    first_of_one.sort_unstable();
    all_of_other.sort_unstable();
    for (subscription, tenant, count, ids) in [
        (json!(one), "default", 25, texts(&first_of_one[..10])),
        (json!(other), "acme", 2, texts(&all_of_other)),
        (Value::Null, "acme", 1, texts(&[inline])),
    ] {
        let about = events.iter().filter(|event| event["subscription_id"] == subscription).collect::<Vec<_>>();
        let [event] = about.as_slice() else { panic!("one event about {subscription}, not {about:?}") };
        assert_eq!(event["event_type"], "postrider.delivery.dead_letter");
        assert_eq!((&event["tenant_id"], &event["count"]), (&json!(tenant), &json!(count)));
        assert_eq!(event["delivery_ids"], ids);
        assert!(event["first_at"].is_string(), "{event}");
        let letters = world.get(event["links"]["dead_letters"].as_str().unwrap()).await;
        assert!(!letters["data"].as_array().unwrap().is_empty(), "{event}");
    }
    world.finish().await;
}

#[tokio::test]
async fn no_two_workers_tell_of_the_same_dead_letters() {
    let world = World::new().await;
    listen(&world, "operator").await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.subscribe("/fail", once).await);
    let deliveries = dead(&world, &subscription, 8).await;
    for delivery in &deliveries {
        note(&world, &[*delivery]).await;
    }
    // Another worker has taken some of the notices, and has not committed yet.
    let mut other = world.pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM dead_letter_notices ORDER BY id LIMIT 3 FOR UPDATE")
        .execute(&mut *other)
        .await
        .unwrap();
    assert_eq!(dead_letter_notice::publish(world.worker.pool()).await.unwrap(), 1);
    assert_eq!(notices(&world).await, 3);
    other.rollback().await.unwrap();
    assert_eq!(dead_letter_notice::publish(world.worker.pool()).await.unwrap(), 1);
    let counts: Vec<_> = told(&world).await.iter().map(|event| event["count"].as_u64().unwrap()).collect();
    assert_eq!((counts.len(), counts.iter().sum::<u64>()), (2, 8), "{counts:?}");
    world.finish().await;
}

#[test]
fn every_type_is_documented() {
    let page = std::fs::read_to_string(dev::workspace().join("docs/operational-events.md")).unwrap();
    for event in OperationalEvent::ALL {
        assert!(page.contains(&format!("`{event}`")), "docs/operational-events.md does not explain {event}");
        assert!(
            page.split("\n### ").any(|section| section.lines().next().unwrap().contains(event.as_str())),
            "{event}"
        );
    }
}
