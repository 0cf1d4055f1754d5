//! What opens a subscription's ingest: keys, signatures of providers, both or neither. A signed request that is sent
//! again counts as the same request.

use base64::{Engine, prelude::BASE64_STANDARD};
use postrider_core::id::SubscriptionId;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::{
    access::key,
    signatures::ring_hmac,
    world::{KEY, World, answer, id},
};

pub const PROVIDER_SECRET: &str = "provider-secret";
const STANDARD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
/// The URL that was registered with Trello.
const CALLBACK_URL: &str = "https://hooks.example.com/webhooks/ingest/sub_1";

pub async fn events(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM events").fetch_one(&world.pool).await.unwrap()
}

/// Creates a subscription with the settings in `more`; answers the path of its ingest.
pub async fn subscribed(world: &World, more: Value) -> String {
    format!("/webhooks/ingest/{}", id(&world.subscribe("/success", more).await))
}

pub fn taking(provider: &str, secret: &str) -> Value {
    let mut signature = json!({"provider": provider, "secrets": [secret]});
    match provider {
        "meta" => signature["verify_token"] = "meatyhamhock".into(),
        "trello" => signature["callback_url"] = CALLBACK_URL.into(),
        _ => {}
    }
    json!({"ingest_auth": "signature", "ingest_signature": signature})
}

fn hmac_sha1(secret: &str, signed: &str) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.as_bytes());
    BASE64_STANDARD.encode(ring::hmac::sign(&key, signed.as_bytes()))
}

/// Signs the body as the provider would, with a clock that is `ahead` seconds ahead, and sets the provider's headers.
pub fn signed(provider: &str, request: RequestBuilder, body: &'static str, ahead: i64) -> RequestBuilder {
    let at = (chrono::Utc::now().timestamp() + ahead).to_string();
    let hmac =
        |parts: &[&str]| ring_hmac(PROVIDER_SECRET, &parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
    let base64 = |digits: &str| BASE64_STANDARD.encode(hex::decode(digits).unwrap());
    let request = match provider {
        "github" | "meta" => request.header("X-Hub-Signature-256", format!("sha256={}", hmac(&[body]))),
        "shopify" => request.header("X-Shopify-Hmac-Sha256", base64(&hmac(&[body]))),
        "dropbox" => request.header("X-Dropbox-Signature", hmac(&[body])),
        "x" => request.header("X-Twitter-Webhooks-Signature", format!("sha256={}", base64(&hmac(&[body])))),
        "trello" => request.header("X-Trello-Webhook", hmac_sha1(PROVIDER_SECRET, &format!("{body}{CALLBACK_URL}"))),
        "okta" => request.header("Authorization", PROVIDER_SECRET),
        "slack" => request
            .header("X-Slack-Signature", format!("v0={}", hmac(&["v0:", &at, ":", body])))
            .header("X-Slack-Request-Timestamp", at),
        "stripe" => request.header("Stripe-Signature", format!("t={at},v1={}", hmac(&[&at, ".", body]))),
        "standard" => {
            let webhook = standardwebhooks::Webhook::new(STANDARD_SECRET).unwrap();
            let id = format!("msg_{}", body.len());
            let signature = webhook.sign(&id, at.parse().unwrap(), body.as_bytes()).unwrap();
            request.header("webhook-id", id).header("webhook-timestamp", at).header("webhook-signature", signature)
        }
        _ => panic!("{provider}"),
    };
    request.body(body)
}

fn secret_of(provider: &str) -> &'static str {
    if provider == "standard" { STANDARD_SECRET } else { PROVIDER_SECRET }
}

#[tokio::test]
async fn each_provider_opens_its_own_ingest_with_its_own_signature() {
    let world = World::new().await;
    let providers = ["github", "standard", "stripe", "shopify", "slack", "meta", "dropbox", "x", "trello", "okta"];
    // Meta signs as GitHub does.
    let is_alike =
        |one: &str, other: &str| one == other || [one, other].iter().all(|it| ["github", "meta"].contains(it));
    let mut stored = 0;
    for provider in providers {
        let path = subscribed(&world, taking(provider, secret_of(provider))).await;
        let post = || world.anonymous(Method::POST, &path);
        answer(post().body("{}")).await.problem(401);
        answer(post().bearer_auth(KEY).body("{}")).await.problem(401);
        for other in providers.into_iter().filter(|other| !is_alike(provider, other)) {
            answer(signed(other, post(), "{}", 0)).await.problem(401);
        }
        if provider != "okta" {
            answer(signed(provider, post(), "{}", 0).body("{} ")).await.problem(401);
        }
        let has_timestamp = ["standard", "stripe", "slack"].contains(&provider);
        if has_timestamp {
            for ahead in [-310, 310] {
                let problem = answer(signed(provider, post(), "{}", ahead)).await.problem(401);
                assert!(problem["detail"].as_str().unwrap().contains("timestamp"), "{problem}");
            }
        }
        assert_eq!(events(&world).await, stored, "{provider}: nothing is stored that is not signed");
        answer(signed(provider, post(), "{}", -290)).await.expect(202);
        // A key that is not ours does no harm: a proxy or the provider may have added it.
        let again = signed(provider, post(), r#"{"a": 1}"#, -280);
        let again = if provider == "okta" { again } else { again.bearer_auth("their-own") };
        answer(again).await.expect(202);
        stored += 2;
        assert_eq!(events(&world).await, stored, "{provider}");
        let wrong = subscribed(&world, taking(provider, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).await;
        answer(signed(provider, world.anonymous(Method::POST, &wrong), "{}", 0)).await.problem(401);
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_signed_request_that_is_sent_again_is_the_same_request() {
    let world = World::new().await;
    for provider in ["standard", "stripe", "slack"] {
        let path = subscribed(&world, taking(provider, secret_of(provider))).await;
        let before = events(&world).await;
        let request = signed(provider, world.anonymous(Method::POST, &path), "{}", -100).build().unwrap();
        let again = |change: &dyn Fn(RequestBuilder) -> RequestBuilder| {
            let copy = request.try_clone().unwrap();
            change(RequestBuilder::from_parts(world.client().clone(), copy))
        };
        let first = answer(again(&|one| one)).await.expect(202);
        assert_eq!(answer(again(&|one| one)).await.expect(202), first, "{provider}");
        // A change outside of what is signed does not make it another request.
        let typed = answer(again(&|one| one.header("X-Event-Type", "order.paid"))).await;
        assert_eq!(typed.problem(409)["code"], "idempotency_key_reused", "{provider}");
        let keyed = answer(again(&|one| one.header("Idempotency-Key", "another"))).await;
        assert_eq!(keyed.problem(422)["errors"][0]["field"], "Idempotency-Key", "{provider}");
        assert_eq!(events(&world).await, before + 1, "{provider}: a replay stores nothing");

        // The same body for another subscription is another request.
        let other = subscribed(&world, taking(provider, secret_of(provider))).await;
        answer(signed(provider, world.anonymous(Method::POST, &other), "{}", -100)).await.expect(202);
        assert_eq!(events(&world).await, before + 2, "{provider}");
        // A later signature makes it a new request, except with `standard`, whose signed id says that it is the same
        // message.
        let later = answer(signed(provider, world.anonymous(Method::POST, &path), "{}", 0)).await.expect(202);
        assert_eq!(later == first, provider == "standard", "{provider}");
    }
    // A provider that replaces its secret signs with both for a while. Whichever of the two is left, the request is the
    // same.
    let both = json!({"ingest_auth": "signature",
                      "ingest_signature": {"provider": "stripe", "secrets": ["new-secret", PROVIDER_SECRET]}});
    let path = subscribed(&world, both).await;
    let at = chrono::Utc::now().timestamp().to_string();
    let [new, old] = ["new-secret", PROVIDER_SECRET].map(|secret| ring_hmac(secret, &[at.as_bytes(), b".{}"]));
    let post = async |signatures: String| {
        let request = world.anonymous(Method::POST, &path).header("Stripe-Signature", format!("t={at}{signatures}"));
        answer(request.body("{}")).await.expect(202)
    };
    let first = post(format!(",v1={old},v1={new}")).await;
    assert_eq!(post(format!(",v1={old}")).await, first);
    assert_eq!(post(format!(",v1={new}")).await, first);
    let only_old = json!({"ingest_signature": {"provider": "stripe", "secrets": [PROVIDER_SECRET]}});
    let subscription = path.replace("/webhooks/ingest", "/subscriptions");
    world.call(Method::PATCH, &subscription, Some(only_old)).await.expect(200);
    assert_eq!(post(format!(",v1={old},v1={new}")).await, first);

    // A signature without a timestamp does not show a replay, so the caller has to send an idempotency key.
    let path = subscribed(&world, taking("github", PROVIDER_SECRET)).await;
    let post = || signed("github", world.anonymous(Method::POST, &path), "{}", 0).header("Idempotency-Key", "once");
    assert_eq!(answer(post()).await.expect(202), answer(post()).await.expect(202));
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn the_owner_decides_what_opens_ingest() {
    let world = World::new().await;
    let (_, ingest_key) = key(&world, &["ingest"], None).await;
    let (_, read_key) = key(&world, &["read"], None).await;
    let (_, stranger_key) = key(&world, &["ingest"], Some("stranger")).await;
    // The statuses for a request with nothing, a key, a key without the scope, another tenant's key, and a signature.
    let cases = [
        (None, [401, 202, 403, 404, 202]),
        (Some("key_or_signature"), [401, 202, 403, 404, 202]),
        (Some("key"), [401, 202, 403, 404, 401]),
        (Some("signature"), [401, 401, 401, 401, 202]),
        (Some("none"), [202, 202, 202, 202, 202]),
    ];
    for (auth, expected) in cases {
        let created = world.subscribe("/success", auth.map_or(json!({}), |auth| json!({"ingest_auth": auth}))).await;
        assert_eq!(created["ingest_auth"], auth.unwrap_or("key_or_signature"));
        let path = format!("/webhooks/ingest/{}", id(&created));
        let post = || world.anonymous(Method::POST, &path).body("hello");
        let own = format!("sha256={}", ring_hmac(created["secret"].as_str().unwrap(), &[b"hello"]));
        let requests = [
            post(),
            post().bearer_auth(&ingest_key),
            post().bearer_auth(&read_key),
            post().bearer_auth(&stranger_key),
            post().header("X-Hub-Signature-256", &own),
        ];
        for (place, (request, expected)) in requests.into_iter().zip(expected).enumerate() {
            let answer = answer(request).await;
            assert_eq!(answer.status, expected, "{auth:?}, case {place}: {}", answer.body);
        }
        if auth == Some("key_or_signature") {
            // One valid credential is enough, whatever else comes with it.
            answer(post().bearer_auth("theirs").header("X-Hub-Signature-256", &own)).await.expect(202);
            answer(post().bearer_auth(&ingest_key).header("X-Hub-Signature-256", "nonsense")).await.expect(202);
        }
    }
    // A caller without a valid credential does not learn which subscriptions exist.
    let nowhere = format!("/webhooks/ingest/{}", SubscriptionId::new());
    for path in [nowhere.as_str(), "/webhooks/ingest/nonsense"] {
        answer(world.anonymous(Method::POST, path).body("x")).await.problem(401);
        answer(signed("github", world.anonymous(Method::POST, path), "x", 0)).await.problem(401);
        answer(world.anonymous(Method::POST, path).bearer_auth(&ingest_key).body("x")).await.problem(404);
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_providers_secrets_change_and_are_never_shown() {
    let world = World::new().await;
    let refused = [
        json!({"provider": "stripe"}),
        json!({"provider": "stripe", "secrets": []}),
        json!({"provider": "stripe", "secrets": ["1", "2", "3", "4", "5"]}),
        json!({"provider": "standard", "secrets": ["hunter2%"]}),
        json!({"provider": "stripe", "secrets": ["hunter2\u{0}"]}),
        json!({"provider": "stripe", "secrets": ["hunter2"], "tolerance_seconds": 1801}),
        json!({"provider": "paypal", "secrets": ["hunter2"]}),
        json!({"provider": "meta", "secrets": ["hunter2"]}),
        json!({"provider": "github", "secrets": ["hunter2"], "verify_token": "hunter2"}),
        json!({"provider": "trello", "secrets": ["hunter2"]}),
        json!({"provider": "trello", "secrets": ["hunter2"], "callback_url": "example.com"}),
        json!({"provider": "stripe", "secrets": ["hunter2"], "colour": "blue"}),
    ];
    for signature in refused {
        let body = json!({"target_url": world.receiver.url("/success"), "ingest_signature": signature});
        let problem = world.call(Method::POST, "/subscriptions", Some(body)).await.problem(422);
        assert!(problem["errors"][0]["field"].as_str().unwrap().starts_with("ingest_signature"), "{problem}");
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
    }
    let created = world.subscribe("/success", taking("github", PROVIDER_SECRET)).await;
    let shown = json!({"provider": "github", "secret_count": 1, "tolerance_seconds": 300});
    assert_eq!(created["ingest_signature"], shown);
    let (path, ingest) = (format!("/subscriptions/{}", id(&created)), format!("/webhooks/ingest/{}", id(&created)));
    let opens = async || answer(signed("github", world.anonymous(Method::POST, &ingest), "{}", 0)).await.status == 202;
    let change =
        async |signature: Value| world.call(Method::PATCH, &path, Some(json!({"ingest_signature": signature}))).await;
    assert!(opens().await);
    // A setting that the patch does not name stays as it is, and so do the secrets that it leaves out.
    world.call(Method::PATCH, &path, Some(json!({"name": "renamed"}))).await.expect(200);
    change(json!({"provider": "github", "tolerance_seconds": 60})).await.expect(200);
    assert!(opens().await);
    let both = change(json!({"provider": "github", "secrets": ["next", PROVIDER_SECRET]})).await.expect(200);
    assert_eq!(both["ingest_signature"]["secret_count"], 2);
    assert!(opens().await);
    change(json!({"provider": "stripe"})).await.problem(422);
    change(json!({"provider": "github", "secrets": ["next"]})).await.expect(200);
    assert!(!opens().await);
    assert!(change(Value::Null).await.expect(200).get("ingest_signature").is_none());
    let audit = world.get(&format!("/audit-log?target_id={}", id(&created))).await;
    assert_eq!(audit["data"][0]["after"]["ingest_signature"], Value::Null, "it was taken away");
    let audit = audit.to_string();
    assert!(
        audit.contains("secret_count") && audit.contains("[changed]") && !audit.contains(PROVIDER_SECRET),
        "{audit}"
    );
    world.finish().await;
}

#[tokio::test]
async fn a_secret_is_taken_as_the_dashboard_shows_it() {
    let world = World::new().await;
    let bare = STANDARD_SECRET.trim_start_matches("whsec_");
    let url_safe = bare.replace('+', "-");
    for secret in [
        STANDARD_SECRET.to_owned(),
        bare.to_owned(),
        format!("v1,{STANDARD_SECRET}"),
        format!(" \t{STANDARD_SECRET}\r\n"),
        format!("whsec_{url_safe}"),
        format!("v1,whsec_{url_safe} "),
    ] {
        let path = subscribed(&world, taking("standard", &secret)).await;
        answer(signed("standard", world.anonymous(Method::POST, &path), "{}", 0)).await.expect(202);
        let forged = world.anonymous(Method::POST, &path).body("{} ").header("webhook-id", "m");
        let forged = forged.header("webhook-timestamp", chrono::Utc::now().timestamp());
        answer(forged.header("webhook-signature", "v1,AAAA")).await.problem(401);
    }
    let path = subscribed(&world, taking("stripe", &format!("{PROVIDER_SECRET}\n"))).await;
    answer(signed("stripe", world.anonymous(Method::POST, &path), "{}", 0)).await.expect(202);
    for unreadable in ["whsk_C2FVsBQIhrscChlQIMV-b5sSYspob7oD", "v2,whsec_C2FVsBQIhrscChlQIMV-b5sSYspob7oD", "whsec_ "]
    {
        let signature = json!({"provider": "standard", "secrets": [STANDARD_SECRET, unreadable]});
        let body = json!({"target_url": world.receiver.url("/success"), "ingest_signature": signature});
        let problem = world.call(Method::POST, "/subscriptions", Some(body)).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "ingest_signature.secrets[1]", "{problem}");
        assert!(!problem.to_string().contains("C2FV"), "{problem}");
    }
    while world.drain().await > 0 {}
    world.finish().await;
}

#[tokio::test]
async fn a_delivery_does_not_open_the_ingest_of_its_own_subscription() {
    let world = World::new().await;
    for scheme in ["github", "standard_v1a", "standard", "timestamped"] {
        let created = world.subscribe("/success", json!({"signature_scheme": scheme})).await;
        let path = format!("/webhooks/ingest/{}", id(&created));
        world.ingest(&id(&created), "hello").await;
        assert_eq!(world.drain().await, 1);
        let delivered = world.receiver.received().pop().unwrap();
        let mut again = world.anonymous(Method::POST, &path).body("hello");
        for (name, value) in &delivered.headers {
            if name.as_str().contains("signature") || name.as_str().contains("webhook") {
                again = again.header(name, value);
            }
        }
        answer(again).await.problem(401);
        // With `github` and `standard_v1a`, the secret of the deliveries opens nothing here, so `ingest_signature`
        // needs another.
        let body = json!({"ingest_auth": "signature"});
        let changed = world.call(Method::PATCH, &format!("/subscriptions/{}", id(&created)), Some(body)).await;
        if ["github", "standard_v1a"].contains(&scheme) {
            assert_eq!(changed.problem(422)["errors"][0]["field"], "ingest_signature", "{scheme}");
        } else {
            changed.expect(200);
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn what_one_postrider_signs_another_verifies() {
    let world = World::new().await;
    for scheme in ["standard", "standard_v1a", "github"] {
        let from = world.subscribe("/placeholder", json!({"signature_scheme": scheme})).await;
        let (provider, field) = match scheme {
            "standard" => ("standard", "secret"),
            "standard_v1a" => ("standard", "public_key"),
            _ => ("github", "secret"),
        };
        let to = world.subscribe("/success", taking(provider, from[field].as_str().unwrap())).await;
        let target = format!("{}/webhooks/ingest/{}", world.base, id(&to));
        let path = format!("/subscriptions/{}", id(&from));
        world.call(Method::PATCH, &path, Some(json!({"target_url": target}))).await.expect(200);
        let delivery = world.ingest(&id(&from), "through two of them").await;
        while world.drain().await > 0 {}
        assert_eq!(world.delivery(&delivery).await["status"], "succeeded", "{:?}", world.attempts(&delivery).await);
        assert_eq!(world.receiver.received().pop().unwrap().body, "through two of them");
    }
    world.finish().await;
}
