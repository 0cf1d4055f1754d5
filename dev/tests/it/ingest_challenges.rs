//! What providers ask when the URL of an ingest is registered with them: each is answered where its name is set, and
//! nobody else gets anything out of it.

use postrider_core::{id::SubscriptionId, trust::provider::CHALLENGE_CHARACTERS_MAX};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    ingest_signatures::{PROVIDER_SECRET, events, signed, subscribed, taking},
    signatures::ring_hmac,
    world::{Answer, World, answer},
};

fn with_query(path: &str, query: &[(&str, &str)]) -> String {
    let url = reqwest::Url::parse_with_params("http://unused", query).unwrap();
    format!("{path}?{}", url.query().unwrap())
}

/// Asks as all providers do at once, but for Meta, with this value and with Meta's verify token.
async fn ask(world: &World, path: &str, value: &str) -> Answer {
    let query = [
        ("hub.mode", "subscribe"),
        ("hub.verify_token", "meatyhamhock"),
        ("hub.challenge", value),
        ("challenge", value),
        ("crc_token", value),
    ];
    let request = world.anonymous(Method::GET, &with_query(path, &query));
    // What cannot stand in a header is asked by the query alone.
    let header = reqwest::header::HeaderValue::from_str(value);
    answer(match header {
        Ok(header) => request.header("X-Okta-Verification-Challenge", header),
        Err(_) => request,
    })
    .await
}

#[tokio::test]
async fn each_provider_is_answered_where_it_is_named() {
    let world = World::new().await;
    let token = "Me_rShK8JHsTnbyYrWXCEoMGbM-zsZ6k0hLPZ.Pg";
    let mac = hex::decode(ring_hmac(PROVIDER_SECRET, &[token.as_bytes()])).unwrap();
    let mac = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, mac);
    for (provider, expected) in [
        ("meta", json!(token)),
        ("dropbox", json!(token)),
        ("okta", json!({"verification": token})),
        ("x", json!({"response_token": format!("sha256={mac}")})),
    ] {
        for auth in ["signature", "key", "none"] {
            let mut settings = taking(provider, PROVIDER_SECRET);
            settings["ingest_auth"] = auth.into();
            let path = subscribed(&world, settings).await;
            let told = ask(&world, &path, token).await;
            assert_eq!(told.headers["x-content-type-options"], "nosniff");
            assert_eq!(told.headers["cache-control"], "no-store");
            let kind = if expected.is_string() { "text/plain" } else { "application/json" };
            assert!(told.headers["content-type"].to_str().unwrap().starts_with(kind), "{provider}: {:?}", told.headers);
            assert_eq!(told.expect(200), expected, "{provider}");
            // With a slash behind the URL, too.
            assert_eq!(ask(&world, &format!("{path}/"), token).await.expect(200), expected, "{provider}");
            // A value of Meta's is a number, and stays as it is.
            if provider == "meta" {
                assert_eq!(ask(&world, &path, "1158201444").await.expect(200), 1_158_201_444);
            }
        }
    }
    let path = subscribed(&world, taking("trello", PROVIDER_SECRET)).await;
    for path in [path.clone(), format!("{path}/")] {
        let head = answer(world.anonymous(Method::HEAD, &path)).await;
        assert_eq!((head.status.as_u16(), head.body), (200, Value::Null));
    }
    ask(&world, &path, token).await.problem(404);
    assert_eq!(events(&world).await, 0, "nothing is stored");
    world.finish().await;
}

#[tokio::test]
async fn nobody_else_is_answered() {
    let world = World::new().await;
    let mut paths = vec![
        format!("/webhooks/ingest/{}", SubscriptionId::new()),
        "/webhooks/ingest/nonsense".to_owned(),
        subscribed(&world, json!({})).await,
        subscribed(&world, json!({"ingest_auth": "none"})).await,
    ];
    for provider in ["github", "stripe", "shopify", "slack"] {
        paths.push(subscribed(&world, taking(provider, PROVIDER_SECRET)).await);
    }
    let mut problems = Vec::new();
    for path in &paths {
        problems.push(ask(&world, path, "1158201444").await.problem(404));
        assert_eq!(answer(world.anonymous(Method::HEAD, path)).await.status, 404, "{path}");
    }
    assert!(problems.iter().all(|problem| *problem == problems[0]), "what exists looks like what does not");

    // Meta's question needs the token, and each provider has a question of its own.
    let meta = subscribed(&world, taking("meta", PROVIDER_SECRET)).await;
    for query in [
        "hub.mode=subscribe&hub.challenge=1",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=",
        "hub.mode=subscribe&hub.challenge=1&hub.verify_token=meatyhamhoc",
        "hub.mode=unsubscribe&hub.challenge=1&hub.verify_token=meatyhamhock",
        "hub.challenge=1&hub.verify_token=meatyhamhock",
        "hub.mode=subscribe&hub.verify_token=meatyhamhock",
        "challenge=1",
        "crc_token=1",
        "",
    ] {
        let problem = answer(world.anonymous(Method::GET, &format!("{meta}?{query}"))).await.problem(404);
        assert_eq!(problem, problems[0], "{query}");
    }
    assert_eq!(answer(world.anonymous(Method::HEAD, &meta)).await.status, 404);
    // When the name is taken away, so is the answer.
    world
        .call(
            Method::PATCH,
            &meta.replace("/webhooks/ingest", "/subscriptions"),
            Some(json!({"ingest_signature": null})),
        )
        .await
        .expect(200);
    ask(&world, &meta, "1").await.problem(404);
    world.finish().await;
}

#[tokio::test]
async fn only_short_and_harmless_values_come_back() {
    let world = World::new().await;
    let longest = "x".repeat(CHALLENGE_CHARACTERS_MAX);
    let long = format!("{longest}x");
    for provider in ["meta", "dropbox", "okta", "x"] {
        let path = subscribed(&world, taking(provider, PROVIDER_SECRET)).await;
        ask(&world, &path, &longest).await.expect(200);
        for value in ["", &long, "<script>alert(1)</script>", "a b", r#"{"a":1}"#, "a\r\nb", "\u{e9}", "a'b"] {
            let problem = ask(&world, &path, value).await.problem(404);
            assert!(value.is_empty() || !problem.to_string().contains(value), "{problem}");
        }
    }
    // X's question makes an HMAC with the secret that signs events. It opens nothing.
    let path = subscribed(&world, taking("x", PROVIDER_SECRET)).await;
    for body in ["true", "12345"] {
        let told = answer(world.anonymous(Method::GET, &with_query(&path, &[("crc_token", body)]))).await.expect(200);
        let forged = world.anonymous(Method::POST, &path).body(body);
        let forged = forged.header("X-Twitter-Webhooks-Signature", told["response_token"].as_str().unwrap());
        answer(forged).await.problem(401);
    }
    assert_eq!(events(&world).await, 0);
    world.finish().await;
}

#[tokio::test]
async fn slack_is_told_that_this_is_the_right_url() {
    let world = World::new().await;
    let path = subscribed(&world, taking("slack", PROVIDER_SECRET)).await;
    let body = r#"{
        "token": "x", "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P", "type": "url_verification"
    }"#;
    let challenged = answer(signed("slack", world.anonymous(Method::POST, &path), body, 0)).await.expect(200);
    assert_eq!(challenged, json!({"challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P"}));
    answer(world.anonymous(Method::POST, &path).body(body)).await.problem(401);
    assert_eq!(events(&world).await, 0);
    world.finish().await;
}
