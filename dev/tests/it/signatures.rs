//! How deliveries are signed: the schemes, and secrets that are replaced while deliveries go on.

use std::time::Duration;

use dev::receiver::Received;
use postrider_core::announce::changes::Change;
use reqwest::Method;
use serde_json::{Value, json};

use crate::world::{Answer, SOON, World, answer, expected_signature, id};

/// HMAC-SHA256 in hex by the crate `ring`, which is not the implementation that we sign with.
pub fn ring_hmac(secret: &str, parts: &[&[u8]]) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    hex::encode(ring::hmac::sign(&key, &parts.concat()))
}

fn secret(subscription: &Value) -> String {
    subscription["secret"].as_str().unwrap_or_else(|| panic!("no secret in {subscription}")).to_owned()
}

async fn rotate(world: &World, subscription: &str, body: Value) -> Answer {
    world.call(Method::POST, &format!("/subscriptions/{subscription}/rotate-secret"), Some(body)).await
}

/// Posts an event, and answers the request that arrived.
async fn delivered(world: &World, subscription: &str) -> Received {
    world.ingest(subscription, "hello").await;
    // A running worker would have heard of every change; this one forgets everything instead.
    world.worker.cache().invalidate(&Change::Anything).await;
    assert_eq!(world.drain().await, 1);
    world.receiver.received().pop().unwrap()
}

fn signatures(received: &Received) -> Vec<String> {
    received.header("webhook-signature").split(' ').map(str::to_owned).collect()
}

#[tokio::test]
async fn each_scheme_signs_in_its_own_way() {
    let world = World::new().await;
    let github = world.subscribe("/success", json!({"signature_scheme": "github"})).await;
    let received = delivered(&world, &id(&github)).await;
    let expected = format!("sha256={}", ring_hmac(&secret(&github), &[b"hello"]));
    assert_eq!(received.header("x-hub-signature-256"), expected);
    assert_eq!(received.header("webhook-signature"), "");

    let timestamped = world.subscribe("/success", json!({"signature_scheme": "timestamped"})).await;
    let received = delivered(&world, &id(&timestamped)).await;
    let timestamp = received.header("x-webhook-timestamp");
    assert!((chrono::Utc::now().timestamp() - timestamp.parse::<i64>().unwrap()).abs() < 60);
    let expected = ring_hmac(&secret(&timestamped), &[timestamp.as_bytes(), b".", b"hello"]);
    assert_eq!(received.header("x-webhook-signature"), expected);
    assert_eq!(received.header("x-webhook-delivery-id"), received.header("webhook-delivery-id"));
    assert_eq!((received.header("webhook-signature"), received.header("x-hub-signature-256")), ("", ""));

    // Every scheme also sends these headers.
    for name in ["webhook-id", "webhook-timestamp", "webhook-delivery-id", "webhook-event-type", "webhook-attempt"] {
        assert!(!received.header(name).is_empty(), "{name}");
    }

    let v1a = world.subscribe("/success", json!({"signature_scheme": "standard_v1a"})).await;
    assert!(secret(&v1a).starts_with("whsk_") && v1a["public_key"].as_str().unwrap().starts_with("whpk_"), "{v1a}");
    let received = delivered(&world, &id(&v1a)).await;
    assert!(received.header("webhook-signature").starts_with("v1a,"));
    let inline = json!({"target_url": world.receiver.url("/success"), "payload": 1, "secret": secret(&github),
                        "signature_scheme": "github"});
    world.call(Method::POST, "/deliveries", Some(inline)).await.expect(202);
    assert_eq!(world.drain().await, 1);
    let received = world.receiver.received().pop().unwrap();
    let expected = format!("sha256={}", ring_hmac(&secret(&github), &[b"1"]));
    assert_eq!(received.header("x-hub-signature-256"), expected);
    // A replay of an inline delivery is signed in the same way.
    let replay = format!("/deliveries/{}/replay", received.header("webhook-delivery-id"));
    world.call(Method::POST, &replay, None).await.expect(202);
    assert_eq!(world.drain().await, 1);
    assert_eq!(world.receiver.received().pop().unwrap().header("x-hub-signature-256"), expected);
    world.finish().await;
}

#[tokio::test]
async fn a_secret_is_imported_as_a_dashboard_shows_it() {
    let world = World::new().await;
    // 25 bytes, which need padding, and which differ in both alphabets.
    let whole = "whsec_+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+w==";
    let url_safe = whole.replace('+', "-").replace('/', "_");
    for text in [
        whole.to_owned(),
        whole.trim_end_matches('=').to_owned(),
        url_safe.clone(),
        format!("v1,{}", url_safe.trim_end_matches('=')),
        format!(" v1,{whole}\n"),
    ] {
        let created = world.subscribe("/success", json!({"secret": text})).await;
        assert_eq!(secret(&created), whole, "one form for all of them");
        let received = delivered(&world, &id(&created)).await;
        assert_eq!(signatures(&received), [expected_signature(whole, &received)], "{text:?}");
    }
    for wrong in ["whsec_+/v7+_v7", "v2,whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"] {
        let body = json!({"target_url": world.receiver.url("/success"), "secret": wrong});
        let problem = world.call(Method::POST, "/subscriptions", Some(body)).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "secret", "{wrong}");
    }
    world.finish().await;
}

#[tokio::test]
async fn secrets_overlap_until_their_time_is_over() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({})).await;
    let subscription = id(&created);
    let first = secret(&created);
    let rotated = rotate(&world, &subscription, json!({})).await.expect(200);
    let second = secret(&rotated);
    assert_ne!(first, second);
    let received = delivered(&world, &subscription).await;
    assert_eq!(signatures(&received), [&second, &first].map(|secret| expected_signature(secret, &received)));

    let mine = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let body = json!({"secret": mine, "overlap_seconds": 60});
    assert_eq!(secret(&rotate(&world, &subscription, body.clone()).await.expect(200)), mine);
    let received = delivered(&world, &subscription).await;
    assert_eq!(signatures(&received), [mine, &second, &first].map(|secret| expected_signature(secret, &received)));
    rotate(&world, &subscription, body).await.problem(409);

    let shown = world.get(&format!("/subscriptions/{subscription}/secret")).await;
    assert_eq!(shown["secret"], mine);
    let previous: Vec<_> = shown["previous"].as_array().unwrap().iter().collect();
    assert_eq!([&previous[0]["secret"], &previous[1]["secret"]], [&json!(second), &json!(first)]);
    for one in previous {
        let expires_at: chrono::DateTime<chrono::Utc> = one["expires_at"].as_str().unwrap().parse().unwrap();
        let left = (expires_at - chrono::Utc::now()).num_seconds();
        assert!((0..=60).contains(&left), "no earlier one signs for longer than the last rotation says: {left}");
    }

    sqlx::query("UPDATE previous_secrets SET expires_at = now() + interval '1 second'")
        .execute(&world.pool)
        .await
        .unwrap();
    let alone = async {
        loop {
            let received = delivered(&world, &subscription).await;
            if signatures(&received) == [expected_signature(mine, &received)] {
                return;
            }
        }
    };
    tokio::time::timeout(SOON, alone).await.expect("the overlap ends");
    assert_eq!(postrider_core::subscription::previous_secret::retire(&world.pool).await.unwrap(), 2);
    assert_eq!(world.get(&format!("/subscriptions/{subscription}/secret")).await["previous"], json!([]));
    world.finish().await;
}

#[tokio::test]
async fn an_overlap_can_be_ended_and_is_bounded() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({})).await;
    let subscription = id(&created);
    let mut secrets = vec![secret(&created)];
    for _ in 0..4 {
        secrets.insert(0, secret(&rotate(&world, &subscription, json!({})).await.expect(200)));
    }
    rotate(&world, &subscription, json!({})).await.problem(409);
    let received = delivered(&world, &subscription).await;
    let expected: Vec<_> = secrets.iter().map(|secret| expected_signature(secret, &received)).collect();
    assert_eq!(signatures(&received), expected, "five sign, and a refused rotation changes nothing");
    for wrong in [
        json!({"overlap_seconds": 604_801}),
        json!({"overlap_seconds": -1}),
        json!({"secret": "whsec_short"}),
        json!({"secret": "hunter2"}),
        json!({
            "secret": "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        }),
        json!({"colour": "blue"}),
    ] {
        let problem = rotate(&world, &subscription, wrong.clone()).await.problem(422);
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
    let last = secret(&rotate(&world, &subscription, json!({"overlap_seconds": 0})).await.expect(200));
    let received = delivered(&world, &subscription).await;
    assert_eq!(signatures(&received), [expected_signature(&last, &received)]);

    // A secret that a change brings replaces all others; the same secret again changes nothing.
    rotate(&world, &subscription, json!({})).await.expect(200);
    let mine = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let path = format!("/subscriptions/{subscription}");
    for _ in 0..2 {
        world.call(Method::PATCH, &path, Some(json!({"secret": mine}))).await.expect(200);
        let received = delivered(&world, &subscription).await;
        assert_eq!(signatures(&received), [expected_signature(mine, &received)]);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_scheme_changes_with_its_secret() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({})).await;
    let (subscription, first) = (id(&created), secret(&created));
    let path = format!("/subscriptions/{subscription}");
    let jwks = async || answer(world.anonymous(Method::GET, &format!("{path}/jwks.json"))).await.expect(200);
    answer(world.anonymous(Method::GET, &format!("{path}/jwks.json"))).await.problem(404);
    let change = async |body: Value| world.call(Method::PATCH, &path, Some(body)).await;

    // For a while both secrets sign, so that receivers can move to the new scheme.
    let changed = change(json!({"signature_scheme": "standard_v1a"})).await.expect(200);
    assert!(changed.get("secret").is_none() && changed["public_key"].is_string(), "{changed}");
    let received = delivered(&world, &subscription).await;
    let signed = signatures(&received);
    assert!(signed[0].starts_with("v1a,"), "{signed:?}");
    assert_eq!(signed[1..], [expected_signature(&first, &received)]);
    let keys = jwks().await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    for (field, value) in [("kty", "OKP"), ("crv", "Ed25519"), ("alg", "EdDSA"), ("use", "sig")] {
        assert_eq!(keys["keys"][0][field], value);
    }
    rotate(&world, &subscription, json!({})).await.expect(200);
    assert_eq!(jwks().await["keys"].as_array().unwrap().len(), 2, "both keys while they overlap");
    change(json!({"secret": first})).await.problem(422);

    change(json!({"signature_scheme": "github", "secret": first})).await.expect(200);
    let received = delivered(&world, &subscription).await;
    assert_eq!(received.header("x-hub-signature-256"), format!("sha256={}", ring_hmac(&first, &[b"hello"])));
    let second = secret(&rotate(&world, &subscription, json!({})).await.expect(200));
    let received = delivered(&world, &subscription).await;
    let macs = [&second, &first].map(|secret| format!("sha256={}", ring_hmac(secret, &[b"hello"])));
    assert_eq!(received.header("x-hub-signature-256"), macs[0]);
    assert_eq!(received.header("x-hub-signature-256-previous"), macs[1]);
    change(json!({"signature_scheme": "carrier_pigeon"})).await.problem(422);
    world.finish().await;
}

#[tokio::test]
async fn a_rotation_takes_effect_under_traffic_on_every_worker_at_once() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({})).await;
    let subscription = id(&created);
    let workers = [world.run_worker(), world.run_worker()];
    let mut posted = 0;
    for round in 1..=3 {
        let secret = secret(&rotate(&world, &subscription, json!({"overlap_seconds": 0})).await.expect(200));
        // The announcement takes a moment to reach the workers; only what is posted after that counts.
        let heard = async {
            loop {
                posted += 1;
                world.ingest(&subscription, "x").await;
                world.receiver.wait_for(posted, SOON).await.unwrap();
                let received = world.receiver.received().pop().unwrap();
                if signatures(&received) == [expected_signature(&secret, &received)] {
                    return;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(5), heard).await.expect("long before the cache would forget");
        let from = usize::try_from(posted).unwrap();
        for _ in 0..50 {
            posted += 1;
            world.ingest(&subscription, "x").await;
        }
        world.receiver.wait_for(posted, SOON).await.unwrap();
        for received in &world.receiver.received()[from..] {
            assert_eq!(signatures(received), [expected_signature(&secret, received)], "round {round}");
        }
    }
    for (stop, running) in workers {
        stop.cancel();
        running.await.unwrap();
    }
    world.finish().await;
}
