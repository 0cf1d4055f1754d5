//! Dead letters: listing, retrying, resolving and purging deliveries that were given up.

use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{World, id, worker};

/// Makes dead letters of a receiver that always fails; answers their ids, the oldest first.
async fn dead(world: &World, subscription: &str, count: usize) -> Vec<String> {
    let mut deliveries = Vec::new();
    for number in 0..count {
        deliveries.push(world.ingest(subscription, number.to_string()).await);
    }
    assert_eq!(world.drain().await, count);
    deliveries
}

async fn listed(world: &World, query: &str) -> Vec<String> {
    let list = world.get(&format!("/dead-letters{query}")).await;
    list["data"].as_array().unwrap().iter().rev().map(id).collect()
}

async fn bulk(world: &World, verb: &str, body: Value) -> Value {
    world.call(Method::POST, &format!("/dead-letters/{verb}"), Some(body)).await.expect(200)["count"].clone()
}

#[tokio::test]
async fn dead_letters_are_listed_resolved_and_retried_one_by_one() {
    let world = World::new().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let (one, other) =
        (id(&world.subscribe("/fail", once.clone()).await), id(&world.subscribe("/fail/404", once).await));
    let of_one = dead(&world, &one, 3).await;
    let of_other = dead(&world, &other, 1).await;

    assert_eq!(listed(&world, "").await.len(), 4);
    assert_eq!(listed(&world, &format!("?subscription_id={one}")).await, of_one);
    assert_eq!(listed(&world, &format!("?subscription_id={one}&limit=2")).await, of_one[1..]);
    let letter = world.get(&format!("/dead-letters/{}", of_other[0])).await;
    assert_eq!(letter["delivery"]["last_status_code"], 404);
    assert_eq!(letter["delivery"]["status"], "dead_letter");
    let died = letter["dead_at"].as_str().unwrap().replace("+00:00", "Z");
    assert_eq!(listed(&world, &format!("?since={died}")).await, of_other);
    assert_eq!(listed(&world, &format!("?until={died}")).await, of_one);

    let resolved = world.post(&format!("/dead-letters/{}/resolve", of_one[0])).await;
    assert!(resolved["resolved_at"].is_string());
    let again = world.post(&format!("/dead-letters/{}/resolve", of_one[0])).await;
    assert_eq!(again["resolved_at"], resolved["resolved_at"], "once is enough");
    assert_eq!(listed(&world, &format!("?subscription_id={one}")).await, of_one[1..]);
    assert_eq!(listed(&world, &format!("?subscription_id={one}&include_resolved=true")).await, of_one);

    let retried = world.post(&format!("/dead-letters/{}/retry", of_one[1])).await;
    assert_eq!(retried["status"], "pending");
    world.call(Method::GET, &format!("/dead-letters/{}", of_one[1]), None).await.problem(404);
    world.call(Method::POST, &format!("/dead-letters/{}/retry", of_one[1]), None).await.problem(404);
    assert_eq!(world.drain().await, 1);
    assert_eq!(listed(&world, &format!("?subscription_id={one}")).await, of_one[1..], "it died again");
    for path in ["/dead-letters/nonsense", &format!("/dead-letters/{one}")] {
        world.call(Method::GET, path, None).await.problem(404);
    }
    world.finish().await;
}

#[tokio::test]
async fn dead_letters_are_grouped_by_receiver_and_cause() {
    let world = World::new().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let (shop, books) =
        (id(&world.subscribe("/fail/503", once.clone()).await), id(&world.subscribe("/fail/404", once.clone()).await));
    let of_shop = dead(&world, &shop, 3).await;
    let of_books = dead(&world, &books, 2).await;
    let inline =
        json!({"target_url": world.receiver.url("/fail"), "payload": 1, "retry_policy": {"delays_seconds": []}});
    world.call(Method::POST, "/deliveries", Some(inline)).await.expect(202);
    // Nothing listens at this port.
    let nowhere = json!({"target_url": "http://127.0.0.1:9/", "retry_policy": {"delays_seconds": []}});
    let nowhere = id(&world.call(Method::POST, "/subscriptions", Some(nowhere)).await.expect(201));
    world.ingest(&nowhere, "x").await;
    while world.drain().await > 0 {}

    let groups = async |query: &str| {
        let found = world.get(&format!("/dead-letters/groups{query}")).await;
        assert_eq!(found["is_complete"], true);
        let of = |group: &Value| {
            let [subscription, kind, code, count] =
                ["subscription_id", "error_kind", "status_code", "count"].map(|field| group[field].clone());
            (subscription, kind, code, count)
        };
        found["data"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    let status = || json!("http_status");
    let [of_shop_group, of_books_group] =
        [(json!(shop), status(), json!(503), json!(3)), (json!(books), status(), json!(404), json!(2))];
    let all = groups("").await;
    assert_eq!(all[..2], [of_shop_group.clone(), of_books_group.clone()]);
    assert!(all.contains(&(Value::Null, status(), json!(500), json!(1))), "the inline one: {all:?}");
    assert!(all.contains(&(json!(nowhere), json!("connect"), Value::Null, json!(1))), "{all:?}");
    assert_eq!(all.len(), 4);
    assert_eq!(groups(&format!("?subscription_id={books}")).await, std::slice::from_ref(&of_books_group));
    assert_eq!(groups("?status_code=503").await, [of_shop_group]);
    assert_eq!(groups("?error_kind=timeout").await, []);
    assert_eq!(groups("?until=2020-01-01T00:00:00Z").await, []);
    let found = world.get("/dead-letters/groups").await;
    assert_eq!(found["data"][0]["sample_id"], *of_shop[2], "the newest");
    let letter = world.get(&format!("/dead-letters/{}", of_shop[0])).await;
    assert_eq!(found["data"][0]["first_at"], letter["dead_at"]);
    assert_eq!(listed(&world, "?error_kind=http_status&status_code=404").await, of_books);
    assert_eq!(listed(&world, "?error_kind=timeout").await, [] as [String; 0]);
    for wrong in ["error_kind=bad", "status_code=70000", "since=2020-01-02T00:00:00Z&until=2020-01-01T00:00:00Z"] {
        world.call(Method::GET, &format!("/dead-letters/groups?{wrong}"), None).await.problem(422);
    }
    world.post(&format!("/dead-letters/{}/resolve", of_books[0])).await;
    assert_eq!(groups(&format!("?subscription_id={books}")).await[0].3, 1);
    assert_eq!(groups(&format!("?subscription_id={books}&include_resolved=true")).await[0].3, 2);
    let stranger = crate::access::key(&world, &["read"], Some("stranger")).await.1;
    let theirs = crate::access::call(&world, &stranger, &Method::GET, "/dead-letters/groups", None).await.expect(200);
    assert_eq!(theirs["data"], json!([]));
    world.finish().await;
}

#[tokio::test]
async fn dead_letters_are_retried_and_purged_in_bulk() {
    let mut world = World::new().await;
    let once = json!({"retry_policy": {"delays_seconds": []}});
    let (mended, broken) =
        (id(&world.subscribe("/fail", once.clone()).await), id(&world.subscribe("/fail", once).await));
    let to_retry = dead(&world, &mended, 30).await;
    let to_purge = dead(&world, &broken, 5).await;
    world.post(&format!("/dead-letters/{}/resolve", to_retry[0])).await;
    let patch = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &format!("/subscriptions/{mended}"), Some(patch)).await.expect(200);
    // A worker that does not run hears no announcements, so a new one is made, which reads the new target.
    world.worker = worker(&world.env);

    assert_eq!(bulk(&world, "retry", json!({"until": "2000-01-01T00:00:00Z"})).await, 0);
    assert_eq!(bulk(&world, "retry", json!({"subscription_id": mended})).await, 29, "not the resolved one");
    assert_eq!(bulk(&world, "retry", json!({"subscription_id": mended})).await, 0, "twice is safe");
    assert_eq!(world.drain().await, 29);
    let succeeded = world.get(&format!("/subscriptions/{mended}/deliveries?status=succeeded")).await;
    assert_eq!(succeeded["data"].as_array().unwrap().len(), 29);
    assert_eq!(world.delivery(&to_retry[1]).await["attempt_count"], 2);

    for body in [json!({}), json!({"until": "yesterday"}), json!({"until": "2000-01-01T00:00:00Z", "all": true})] {
        world.call(Method::POST, "/dead-letters/purge", Some(body)).await.problem(422);
    }
    assert_eq!(bulk(&world, "purge", json!({"until": "2000-01-01T00:00:00Z"})).await, 0);
    assert_eq!(bulk(&world, "purge", json!({"until": "2999-01-01T00:00:00Z", "subscription_id": broken})).await, 5);
    assert_eq!(listed(&world, "?include_resolved=true").await, to_retry[..1]);
    assert_eq!(world.delivery(&to_purge[0]).await["status"], "dead_letter", "its record stays");
    world.call(Method::DELETE, &format!("/subscriptions/{mended}"), None).await.expect(204);
    assert_eq!(bulk(&world, "retry", json!({"include_resolved": true})).await, 0, "nobody is there to receive it");
    world.finish().await;
}
