//! Publishing events: who gets an event and why, when it is delivered and until when, and that a batch is stored whole.

use std::{collections::BTreeSet, time::Duration};

use chrono::{TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, answer, id};

/// The ids of the subscriptions that have a delivery of this event.
async fn receivers_of(world: &World, event: &str) -> BTreeSet<String> {
    let list = world.get(&format!("/events/{event}/deliveries?limit=250")).await;
    let deliveries = list["data"].as_array().unwrap().iter();
    deliveries.map(|one| one["subscription_id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn an_event_reaches_everyone_who_wants_it_and_nobody_else() {
    let world = World::new().await;
    let paid = json!({"event_types": ["order.paid"]});
    let cases = [
        ("exact", paid.clone(), true),
        ("another type", json!({"event_types": ["order.created"]}), false),
        ("below", json!({"event_types": ["order.*"]}), true),
        ("everything", json!({"event_types": ["*"]}), true),
        ("no types", json!({}), true),
        ("another tenant", json!({"tenant_id": "other"}), false),
        ("metadata fits", json!({"filters": {"metadata": {"region": "eu"}}}), true),
        ("metadata differs", json!({"filters": {"metadata": {"region": "us"}}}), false),
        ("metadata lacks", json!({"filters": {"metadata": {"tier": "gold"}}}), false),
        ("payload fits", json!({"filters": {"payload": {"total": {"$gte": 100}, "items.sku": "a-1"}}}), true),
        ("payload differs", json!({"filters": {"payload": {"total": {"$gte": 500}}}}), false),
        ("or", json!({"filters": {"payload": {"$or": [{"total": 1}, {"customer.country": {"$in": ["AT"]}}]}}}), true),
        ("not", json!({"event_types": ["order.paid"], "filters": {"payload": {"$not": {"total": 120}}}}), false),
    ];
    let mut wanting = BTreeSet::new();
    let mut all = Vec::new();
    for (name, settings, wants) in cases {
        let subscription = id(&world.subscribe(&format!("/success?{name}"), settings).await);
        wanting.extend(wants.then(|| subscription.clone()));
        all.push((name, subscription, wants));
    }
    let disabled = id(&world.subscribe("/success?disabled", paid).await);
    world.post(&format!("/subscriptions/{disabled}/disable")).await;
    all.push(("disabled", disabled, false));
    let event = json!({
        "event_type": "order.paid",
        "metadata": {"region": "eu"},
        "payload": {"total": 120, "items": [{"sku": "a-1"}], "customer": {"country": "AT"}},
    });
    let (event_id, deliveries) = world.publish(event).await;
    assert_eq!(deliveries.len(), wanting.len());
    assert_eq!(receivers_of(&world, &event_id).await, wanting);
    for (name, subscription, wants) in all {
        let told = world.get(&format!("/events/{event_id}/matches?subscription={subscription}")).await;
        assert_eq!(told["matches"], wants, "{name}: {told}");
        let checks = told["checks"].as_array().unwrap();
        assert_eq!(checks.iter().all(|check| check["holds"] == true), wants, "{name}: {told}");
    }
    assert_eq!(world.drain().await, wanting.len());
    assert_eq!(world.receiver.received().len(), wanting.len());
    world.finish().await;
}

#[tokio::test]
async fn a_payload_is_delivered_byte_for_byte_and_the_event_tells_what_came_with_it() {
    let world = World::new().await;
    world.subscription("/success").await;
    let body = r#"{"event_type":"a.b","payload": { "big":12345678901234567890123, "é" : [1.50,  null] , "a":1,"a":2 },
                   "metadata":{"k":"v"},"id":"mine-1","ordering_key":"customer 7"}"#;
    let published = answer(world.request(Method::POST, "/events").body(body)).await.expect(202);
    world.drain().await;
    let received = world.receiver.received();
    let payload = r#"{ "big":12345678901234567890123, "é" : [1.50,  null] , "a":1,"a":2 }"#;
    assert_eq!(received[0].body, payload.as_bytes());
    assert_eq!(received[0].headers["content-type"], "application/json");
    let event_id = published["event_id"].as_str().unwrap();
    let event = world.get(&format!("/events/{event_id}")).await;
    assert_eq!(event["metadata"], json!({"k": "v"}));
    assert_eq!((&event["external_id"], &event["ordering_key"]), (&json!("mine-1"), &json!("customer 7")));
    for (query, found) in [("metadata=k:v", 1), ("metadata=k:w", 0), ("event_type=a.b&metadata=k:v", 1)] {
        let listed = world.get(&format!("/events?{query}")).await;
        assert_eq!(listed["data"].as_array().unwrap().len(), found, "{query}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_new_or_changed_subscription_is_known_to_the_next_event() {
    let world = World::new().await;
    let event = || json!({"event_type": "a.b", "payload": 1});
    assert_eq!(world.publish(event()).await.1.len(), 0);
    let subscription = world.subscription("/success").await;
    assert_eq!(world.publish(event()).await.1.len(), 1);
    let path = format!("/subscriptions/{subscription}");
    world.call(Method::PATCH, &path, Some(json!({"event_types": ["c.d"]}))).await.expect(200);
    assert_eq!(world.publish(event()).await.1.len(), 0);
    world.call(Method::PATCH, &path, Some(json!({"event_types": null}))).await.expect(200);
    world.post(&format!("{path}/disable")).await;
    assert_eq!(world.publish(event()).await.1.len(), 0);
    world.post(&format!("{path}/enable")).await;
    world.post(&format!("{path}/pause")).await;
    assert_eq!(world.publish(event()).await.1.len(), 1);
    assert_eq!(world.drain().await, 0, "it waits, and so does the one from before");
    world.post(&format!("{path}/resume")).await;
    assert_eq!(world.drain().await, 2);
    world.call(Method::DELETE, &path, None).await.expect(204);
    assert_eq!(world.publish(event()).await.1.len(), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_batch_is_stored_whole_or_not_at_all() {
    let world = World::new().await;
    world.subscribe("/success", json!({"event_types": ["a.*"]})).await;
    let event =
        |number: usize| json!({"event_type": if number.is_multiple_of(2) { "a.b" } else { "c.d" }, "payload": number});
    let events: Vec<Value> = (0..1000).map(event).collect();
    let answered = world.call(Method::POST, "/events/batch", Some(json!({"events": events}))).await.expect(202);
    let data = answered["data"].as_array().unwrap();
    assert_eq!(data.len(), 1000);
    for (number, one) in data.iter().enumerate() {
        assert_eq!(one["delivery_ids"].as_array().unwrap().len(), (number + 1) % 2, "{number}: {one}");
    }
    let stored = async || -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&world.pool).await.expect("counted")
    };
    assert_eq!(stored().await, 1000);
    let mut broken = events.clone();
    broken[500]["event_type"] = json!("not a type");
    broken[700]["deliver_at"] = json!("2200-01-01T00:00:00Z");
    let problem = world.call(Method::POST, "/events/batch", Some(json!({"events": broken}))).await.problem(422);
    let fields: Vec<_> = problem["errors"].as_array().unwrap().iter().map(|error| &error["field"]).collect();
    assert_eq!(fields, [&json!("events[500].event_type"), &json!("events[700].deliver_at")]);
    let (mut many, none) = (events, json!({"events": []}));
    many.push(event(1000));
    world.call(Method::POST, "/events/batch", Some(json!({"events": many}))).await.problem(422);
    world.call(Method::POST, "/events/batch", Some(none)).await.problem(422);
    let large: Vec<_> = (0..6).map(|_| json!({"event_type": "a.b", "payload": "x".repeat(1 << 20)})).collect();
    world.call(Method::POST, "/events/batch", Some(json!({"events": large}))).await.problem(413);
    assert_eq!(stored().await, 1000);
    assert_eq!(world.drain().await, 500);
    world.finish().await;
}

#[tokio::test]
async fn one_event_reaches_ten_thousand_subscriptions() {
    let world = World::new().await;
    let first = world.subscription("/success").await;
    world.multiply(9_999).await;
    // The copies were made without the api, one announcement each; a change through the api makes it read them all
    // anew.
    world.call(Method::PATCH, &format!("/subscriptions/{first}"), Some(json!({"name": "x"}))).await.expect(200);
    let (event_id, deliveries) = world.publish(json!({"event_type": "a.b", "payload": {}})).await;
    assert_eq!(deliveries.len(), 10_000);
    let mut cursor = String::new();
    let mut seen = BTreeSet::new();
    loop {
        let page = world.get(&format!("/events/{event_id}/deliveries?limit=250{cursor}")).await;
        seen.extend(page["data"].as_array().unwrap().iter().map(id));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen, deliveries.into_iter().collect());
    world.finish().await;
}

#[tokio::test]
async fn a_scheduled_event_waits_for_its_time_whatever_else_its_lane_does() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let later = (Utc::now() + TimeDelta::seconds(3600)).to_rfc3339();
    let soon = (Utc::now() + TimeDelta::seconds(5)).to_rfc3339();
    let event = |at: &str| json!({"event_type": "a.b", "payload": at, "deliver_at": at});
    let (_, late) = world.publish(event(&later)).await;
    let (_, early) = world.publish(event(&soon)).await;
    world.publish(event("2020-01-01T00:00:00Z")).await;
    assert_eq!(world.drain().await, 1, "what is scheduled in the past is due at once");
    let delivery = world.delivery(&late[0]).await;
    assert_eq!(delivery["status"], "pending");
    assert_eq!(delivery["next_attempt_at"].as_str().unwrap()[..19], later[..19]);
    world.pass(Duration::from_secs(6)).await;
    assert_eq!(world.drain().await, 1, "the earlier one, although the lane went on waiting for the later one");
    assert_eq!(world.delivery(&early[0]).await["status"], "succeeded");
    world.ingest(&subscription, "now").await;
    assert_eq!(world.drain().await, 1);
    // After a minute no lane is looked at without a reason, so only the scheduled delivery can arm this one.
    world.pass(Duration::from_secs(60)).await;
    assert_eq!(world.drain().await, 0);
    world.pass(Duration::from_secs(3600)).await;
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.delivery(&late[0]).await["status"], "succeeded");
    let far = (Utc::now() + TimeDelta::days(367)).to_rfc3339();
    world.call(Method::POST, "/events", Some(event(&far))).await.problem(422);
    world.finish().await;
}

#[tokio::test]
async fn an_expired_event_is_canceled_instead_of_delivered() {
    let world = World::new().await;
    let failing = world.subscription("/fail").await;
    let paused = world.subscription("/success").await;
    world.post(&format!("/subscriptions/{paused}/pause")).await;
    let expires = (Utc::now() + TimeDelta::seconds(60)).to_rfc3339();
    let (_, deliveries) = world.publish(json!({"event_type": "a.b", "payload": 1, "expires_at": expires})).await;
    assert_eq!(deliveries.len(), 2);
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(10)).await;
    assert_eq!(world.drain().await, 1, "the second attempt fails too, and the third would be in five minutes");
    world.pass(Duration::from_secs(55)).await;
    world.post(&format!("/subscriptions/{paused}/resume")).await;
    assert_eq!(world.drain().await, 2);
    for id in &deliveries {
        let delivery = world.delivery(id).await;
        assert_eq!(delivery["status"], "canceled", "{delivery}");
        assert_eq!(delivery["cancel_reason"], "expired");
    }
    let attempts = world.get(&format!("/subscriptions/{failing}/deliveries")).await["data"][0]["attempt_count"].clone();
    assert_eq!(attempts, 2);
    let past = json!({"event_type": "a.b", "payload": 1, "expires_at": "2020-01-01T00:00:00Z"});
    world.call(Method::POST, "/events", Some(past)).await.problem(422);
    world.finish().await;
}

#[tokio::test]
async fn filters_are_kept_changed_and_refused_with_the_place_of_the_mistake() {
    let world = World::new().await;
    let filters = json!({"metadata": {"a": "b"}, "payload": {"x": {"$gt": 1}, "$or": [{"y": 1}, {"z": null}]}});
    let created = world.subscribe("/success", json!({"filters": filters})).await;
    assert_eq!(created["filters"], filters);
    let path = format!("/subscriptions/{}", id(&created));
    // A filter is replaced as a whole, because null has a meaning in it.
    let other = json!({"payload": {"note": null, "x": {"$lt": 5}}});
    let changed = world.call(Method::PATCH, &path, Some(json!({"filters": other}))).await.expect(200);
    assert_eq!(changed["filters"], other);
    let changed = world.call(Method::PATCH, &path, Some(json!({"filters": null}))).await.expect(200);
    assert_eq!(changed["filters"], json!({}));
    for (filters, field, part) in [
        (json!({"payload": {"a": {"$foo": 1}}}), "filters.payload", "`$foo` is not an operator"),
        (json!({"payload": [1]}), "filters.payload", "object"),
        (json!({"metadata": {"": "x"}}), "filters.metadata", "empty"),
        (json!({"colour": 1}), "filters.colour", "unknown field"),
    ] {
        let problem = world.call(Method::PATCH, &path, Some(json!({"filters": filters}))).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
        assert!(problem["errors"][0]["message"].as_str().unwrap().contains(part), "{problem}");
    }
    // Ingest applies the same filters as publishing.
    let subscription = id(&world.subscribe("/success", json!({"filters": {"payload": {"a": 1}}})).await);
    for (payload, status) in [("{\"a\": 1}", "pending"), ("{\"a\": 2}", "filtered"), ("plain", "unreadable")] {
        let request = world.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body(payload);
        assert_eq!(answer(request).await.expect(202)["status"], status, "{payload}");
    }
    world.finish().await;
}

#[tokio::test]
async fn slashes_and_colons_join_types_as_dots_do() {
    let world = World::new().await;
    let of = async |pattern: &str| id(&world.subscribe("/success", json!({"event_types": [pattern]})).await);
    let (orders, create, users) = (of("orders/*").await, of("orders/create").await, of("user:*").await);
    let dots = of("orders.*").await;
    let everything = id(&world.subscribe("/success", json!({})).await);
    let cases = [
        ("orders/create", vec![&orders, &create, &everything]),
        ("orders/line/added", vec![&orders, &everything]),
        ("user:created", vec![&users, &everything]),
        ("orders.create", vec![&dots, &everything]),
        ("orders", vec![&everything]),
    ];
    for (event_type, wanting) in cases {
        let (event, _) = world.publish(json!({"event_type": event_type, "payload": 1})).await;
        let wanting: BTreeSet<_> = wanting.into_iter().cloned().collect();
        assert_eq!(receivers_of(&world, &event).await, wanting, "{event_type}");
        // Written plainly or percent-encoded, a list finds it by its type.
        let encoded = event_type.replace('/', "%2F").replace(':', "%3A");
        for text in [event_type, &encoded] {
            for list in ["events", "deliveries"] {
                let found = world.get(&format!("/{list}?event_type={text}")).await;
                let found = found["data"].as_array().unwrap();
                assert!(!found.is_empty(), "{list} {text}");
                let field = if list == "events" { "id" } else { "event_id" };
                assert!(found.iter().all(|one| one[field] == event), "{list} {text}");
            }
        }
        while world.drain().await > 0 {}
        assert_eq!(world.receiver.received().pop().unwrap().header("webhook-event-type"), event_type);
    }
    let sql = "SELECT postrider.publish('orders/create', '2')";
    let by_sql: String = sqlx::query_scalar(sql).fetch_one(&world.pool).await.unwrap();
    while world.drain().await > 0 {}
    assert_eq!(receivers_of(&world, &by_sql).await, [orders, create, everything].into());
    for wrong in ["/orders", "orders/", "orders//create", "user::created", "https://example.com", "orders/*"] {
        let event = json!({"event_type": wrong, "payload": 1});
        let problem = world.call(Method::POST, "/events", Some(event)).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "event_type", "{wrong}");
    }
    world.finish().await;
}
