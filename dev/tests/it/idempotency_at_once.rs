//! Idempotency under load: the same request many times at once, and a process that stops in the middle of them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    idempotency::{Creation, Tenant, count, creations, growth, post, rows, send},
    world::{KEY, World, answer, client, serve},
};

#[tokio::test]
async fn a_hundred_at_once_at_two_processes_are_one() {
    let world = World::new().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    let acme = Tenant::new(&world, "acme").await;
    world.subscribe("/success", json!({"tenant_id": "acme"})).await;
    let mut creations = creations(&acme, &world.receiver.url("/success"), 0);
    let by_id = r#"{"event_type": "a.b", "payload": 1, "tenant_id": "acme", "id": "NAME"}"#.to_owned();
    creations.push(Creation { body: by_id, ..creations[1].clone() });
    let mut wrong = Vec::new();
    for (place, creation) in creations.into_iter().enumerate() {
        let named = |name: &str| Creation { body: creation.body.replace("NAME", name), ..creation.clone() };
        let empty = rows(&world).await;
        send(&world.base, &named("alone"), &format!("{place} alone")).await.expect(creation.status);
        let before = rows(&world).await;
        let alone = growth(&empty, &before);
        match creation.template {
            "/events" => assert_eq!((alone["events"], alone["deliveries"]), (1, 2)),
            "/subscriptions" => assert_eq!(alone["subscriptions"], 1),
            _ => assert!(alone.len() > 1, "{alone:?}"),
        }
        let mut callers = JoinSet::new();
        for number in 0..100 {
            let base = if number % 2 == 0 { world.base.clone() } else { other.clone() };
            let (creation, key) = (named("together"), format!("{place} together"));
            callers.spawn(async move { send(&base, &creation, &key).await });
        }
        let answers = callers.join_all().await;
        let answers: BTreeSet<_> = answers.iter().map(|one| (one.status.as_u16(), one.body.to_string())).collect();
        let grown = growth(&before, &rows(&world).await);
        if answers.len() != 1 || answers.iter().any(|(status, _)| *status != creation.status) || grown != alone {
            wrong.push(format!("{}: {answers:?}, {grown:?}", creation.path));
        }
    }
    assert_eq!(wrong, [] as [String; 0]);
    while world.drain().await > 0 {}
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn batches_of_the_same_ids_in_opposite_order_do_not_block_each_other() {
    let world = World::new().await;
    let (other, (stop, serving)) = serve(&world.env).await;
    world.subscription("/success").await;
    let mut callers = JoinSet::new();
    for number in 0..20 {
        let backwards = number % 2 == 1;
        let url = format!("{}/events/batch", if backwards { &other } else { &world.base });
        callers.spawn(async move {
            let event = |name: i32| json!({"event_type": "a.b", "payload": name, "id": format!("{name}")});
            let mut events: Vec<_> = (0..50).map(event).collect();
            if backwards {
                events.reverse();
            }
            let body = json!({"events": events}).to_string();
            let answered = answer(client().post(url).bearer_auth(KEY).body(body)).await.expect(202);
            let mut data = answered["data"].as_array().unwrap().clone();
            if backwards {
                data.reverse();
            }
            data
        });
    }
    let answers: BTreeSet<String> = callers.join_all().await.into_iter().map(|data| json!(data).to_string()).collect();
    assert_eq!(answers.len(), 1, "all got the same");
    assert_eq!((count(&world, "SELECT count(*) FROM events").await, world.drain().await), (50, 50));
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_process_that_stops_amid_posts_leaves_each_to_be_repeated() {
    let world = World::new().await;
    let (stopping, (stop, serving)) = serve(&world.env).await;
    world.subscription("/success").await;
    let client = client();
    let (sender, mut answered) = mpsc::unbounded_channel();
    let mut posters = JoinSet::new();
    for poster in 0..20 {
        let (url, sender, client) = (format!("{stopping}/events"), sender.clone(), client.clone());
        posters.spawn(async move {
            for number in 0..50 {
                let key = format!("{poster}-{number}");
                let body = json!({"event_type": "a.b", "payload": key}).to_string();
                let request = client.post(&url).bearer_auth(KEY).header("Idempotency-Key", &key).body(body);
                let Ok(response) = request.send().await else { return };
                if response.status() != 202 {
                    assert_eq!(response.status(), 503);
                    return;
                }
                let Ok(body) = response.text().await else { return };
                sender.send((key, body.parse::<Value>().unwrap())).unwrap();
            }
        });
    }
    drop(sender);
    let mut answers = BTreeMap::new();
    while let Some((key, body)) = answered.recv().await {
        answers.insert(key, body);
        if answers.len() == 100 {
            stop.cancel();
        }
    }
    posters.join_all().await;
    serving.await.unwrap();
    assert!((100..1000).contains(&answers.len()), "{} answers: it was stopped amid the posts", answers.len());
    let mut repeated = BTreeSet::new();
    for poster in 0..20 {
        for number in 0..50 {
            let key = format!("{poster}-{number}");
            let body = json!({"event_type": "a.b", "payload": key});
            let now = post(&world, "/events", Some(&key), &body).await.expect(202);
            if let Some(before) = answers.get(&key) {
                assert_eq!(*before, now, "{key}");
            }
            repeated.insert(now["event_id"].to_string());
        }
    }
    let distinct = count(&world, "SELECT count(DISTINCT payload) FROM events").await;
    assert_eq!((repeated.len(), count(&world, "SELECT count(*) FROM events").await, distinct), (1000, 1000, 1000));
    let mut delivered = 0;
    while delivered < 1000 {
        let some = world.drain().await;
        assert!(some > 0, "{delivered} of 1000");
        delivered += some;
    }
    assert_eq!(world.receiver.count(), 1000);
    world.finish().await;
}
