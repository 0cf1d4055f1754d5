//! Order under fire: while workers are killed, the receiver fails, the subscription is paused and changed, and
//! deliveries are canceled, the deliveries of an ordering key arrive in the order in which its events were accepted.

use std::{collections::HashMap, time::Duration};

use dev::child::Signal;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{
    crashes::process,
    world::{SOON, World, answer, id},
};

/// Every run makes the same choices. (How the processes interleave differs all the same.)
const SEED: u64 = 7;
const KEYS: usize = 8;
const EVENTS_PER_KEY: usize = 40;
/// How many faults a pair of workers sees before both are killed.
const FAULTS_PER_PAIR: usize = 5;
/// How many pairs of workers are killed.
const PAIRS: usize = 3;

#[tokio::test]
async fn the_order_of_each_key_outlives_kills_failures_pauses_and_cancels() {
    let world = World::new().await;
    let mut random = StdRng::seed_from_u64(SEED);
    let settings = json!({
        "ordering": "fifo",
        "circuit": null,
        "retry_policy": {"delays_seconds": [1, 1, 1]},
    });
    let subscription = id(&world.subscribe("/switch", settings).await);

    // Each key has a producer of its own, which waits for each 202 before it posts the next event.
    let mut producers = JoinSet::new();
    for key in 0..KEYS {
        let path = format!("/webhooks/ingest/{subscription}");
        let requests: Vec<_> = (0..EVENTS_PER_KEY)
            .map(|number| {
                let request = world.request(Method::POST, &path).header("X-Ordering-Key", key.to_string());
                request.body(format!("{key} {number}"))
            })
            .collect();
        producers.spawn(async move {
            let mut deliveries = Vec::new();
            for request in requests {
                deliveries.push(id_of_delivery(&answer(request).await.expect(202)));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            deliveries
        });
    }

    for _ in 0..PAIRS {
        let workers = [process("worker", &world.env).await, process("worker", &world.env).await];
        for _ in 0..FAULTS_PER_PAIR {
            fault(&world, &subscription, &mut random).await;
        }
        for worker in workers {
            worker.signal(Signal::KILL);
            // Dropping waits until the process is dead; only then does time pass, so that its leases expire.
            drop(worker);
        }
        world.pass(Duration::from_secs(36)).await;
    }
    let deliveries: Vec<String> = producers.join_all().await.into_iter().flatten().collect();
    let workers = [process("worker", &world.env).await, process("worker", &world.env).await];
    world.queue_is_empty().await;
    for worker in workers {
        worker.stop().await.unwrap();
    }

    let mut arrived: HashMap<String, Vec<usize>> = HashMap::new();
    for received in world.receiver.received() {
        let body = String::from_utf8(received.body.to_vec()).unwrap();
        let (key, number) = body.split_once(' ').unwrap();
        arrived.entry(key.to_owned()).or_default().push(number.parse().unwrap());
    }
    assert_eq!(arrived.len(), KEYS);
    for (key, numbers) in &arrived {
        assert!(numbers.is_sorted(), "key {key}: {numbers:?}");
    }
    let mut ended: HashMap<String, usize> = HashMap::new();
    for delivery in &deliveries {
        let status = world.delivery(delivery).await["status"].as_str().unwrap().to_owned();
        *ended.entry(status).or_default() += 1;
    }
    assert_eq!(deliveries.len(), KEYS * EVENTS_PER_KEY);
    assert_eq!(ended.get("pending"), None, "{ended:?}");
    assert!(ended["succeeded"] > deliveries.len() / 2, "{ended:?}");
    world.finish().await;
}

/// Does something to the subscription, its receiver or its deliveries that must not change any order.
async fn fault(world: &World, subscription: &str, random: &mut StdRng) {
    let path = format!("/subscriptions/{subscription}");
    match random.random_range(0..5) {
        0 => {
            world.post(&format!("{path}/pause")).await;
            work_goes_on(random).await;
            world.post(&format!("{path}/resume")).await;
        }
        1 => {
            world.receiver.switch_to(500);
            work_goes_on(random).await;
            world.receiver.switch_to(200);
        }
        2 => {
            let waiting =
                world.get(&format!("/deliveries?status=pending&subscription_id={subscription}&limit=50")).await;
            if let Some(delivery) = waiting["data"].as_array().unwrap().choose(random) {
                let path = format!("/deliveries/{}/cancel", delivery["id"].as_str().unwrap());
                // A delivery that has ended meanwhile cannot be canceled any more.
                let status = world.call(Method::POST, &path, None).await.status.as_u16();
                assert!([200, 409].contains(&status), "{status}");
            }
        }
        3 => {
            let limit = [json!(null), json!(2), json!(5)].choose(random).cloned();
            world.call(Method::PATCH, &path, Some(json!({"max_in_flight": limit}))).await.expect(200);
        }
        _ => {
            let arrived = world.receiver.count();
            let _ = world.receiver.wait_for(arrived + 10, SOON / 30).await;
        }
    }
}

async fn work_goes_on(random: &mut StdRng) {
    tokio::time::sleep(Duration::from_millis(random.random_range(20..200))).await;
}

fn id_of_delivery(accepted: &Value) -> String {
    accepted["delivery_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_dead_letter_that_is_retried_joins_the_end_of_its_line() {
    let world = World::new().await;
    let settings = json!({"ordering": "fifo", "circuit": null, "retry_policy": {"delays_seconds": [60]}});
    let subscription = id(&world.subscribe("/switch", settings).await);
    world.receiver.switch_to(500);
    let first = world.ingest(&subscription, "1").await;
    let second = world.ingest(&subscription, "2").await;
    assert_eq!(world.drain().await, 1);
    world.pass(Duration::from_secs(67)).await;
    assert_eq!(world.drain().await, 2, "the first one is given up, and the second one goes");
    assert_eq!(world.delivery(&first).await["status"], "dead_letter");
    world.post(&format!("/deliveries/{first}/retry")).await;
    assert_eq!(world.drain().await, 0, "it waits for the second one, which is to be tried again");
    world.receiver.switch_to(200);
    world.post(&format!("/deliveries/{second}/retry")).await;
    assert_eq!(world.drain().await, 2);
    let bodies: Vec<_> = world.receiver.received().iter().map(|received| received.body.clone()).collect();
    assert_eq!(bodies, ["1", "1", "2", "2", "1"]);
    world.finish().await;
}
