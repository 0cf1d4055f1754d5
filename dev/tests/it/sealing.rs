//! Secrets stay secret: in the database, in the output of processes, in answers, errors and the audit log. They can be
//! sealed again with another key.

use std::{collections::HashMap, process::Stdio, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use dev::up::Process;
use postrider_core::trust::seal::Keyring;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    access::text,
    crashes::{binaries, run_with},
    stored::stored,
    world::{KEY, SOON, World, answer, client, expected_signature, id, serve, uuid, worker},
};

/// Every secret in these tests contains this text, or its bytes.
const MARK: &str = "hush-hush";

fn hmac_secret(number: u8) -> String {
    format!("whsec_{}", BASE64_STANDARD.encode(format!("{MARK}-{MARK}-{MARK}-{number}")))
}

fn encryption_key(id: &str) -> String {
    format!("{id}:{}", BASE64_STANDARD.encode(format!("{MARK}-{id:-<22}")))
}

/// Every form in which a mark may be stored or printed: as text, as base64 at each alignment, and as Postgres writes
/// bytes.
fn forms(mark: &str) -> Vec<String> {
    let encoded = (0..3).map(|shift| {
        let encoded = BASE64_STANDARD.encode([&vec![b'x'; shift], mark.as_bytes()].concat());
        // The first and last characters of base64 also hold bits of the neighboring bytes.
        encoded[4.min(shift * 4)..].trim_end_matches('=').chars().take(mark.len()).collect::<String>()
    });
    let encoded: Vec<_> = encoded.map(|text| text[..text.len() - 2].to_owned()).collect();
    let hexes: Vec<_> = encoded.iter().map(String::as_str).chain([mark]).map(hex::encode).collect();
    [vec![mark.to_owned()], encoded, hexes].concat()
}

/// Creates one of everything that holds secrets; answers the secrets that the api has made.
async fn create_everything(base: &str, admin: &str, target: &str) -> Vec<String> {
    let client = client();
    let post = async |path: &str, body: Value| {
        let request = client.post(format!("{base}{path}")).bearer_auth(admin).header("Idempotency-Key", path);
        answer(request.body(body.to_string())).await
    };
    let key = post("/api-keys", json!({"name": "a name", "scopes": ["manage"]})).await.expect(201);
    let link = post("/portal-links", json!({"tenant_id": "default"})).await.expect(201);
    let token = text(&link, "url").split_once("#pr_").unwrap().1.to_owned();
    // Somebody opens the link, and what the page then sends is no part of any log.
    let opened = client.post(format!("{base}/ui/sign-in")).header("sec-fetch-site", "same-origin");
    let opened = opened.body(format!("portal=yes&key=pr_{token}")).send().await.unwrap();
    assert_eq!(opened.status(), 303);
    let headers = json!({"authorization": format!("Bearer {MARK}"), "x-api-key": MARK});
    let signature = json!({"provider": "stripe", "secrets": [MARK]});
    let body =
        json!({"target_url": target, "secret": hmac_secret(1), "headers": headers, "ingest_signature": signature});
    let created = post("/subscriptions", body).await.expect(201);
    let path = format!("/subscriptions/{}", id(&created));
    post(&format!("{path}/rotate-secret"), json!({"secret": hmac_secret(2)})).await.expect(200);
    let rotated = post(&format!("{path}/rotate-secret"), json!({})).await;
    assert_eq!(rotated.status, 409, "the key stands for another request");
    let inline = json!({"target_url": target, "secret": hmac_secret(3), "headers": headers, "payload": "a payload"});
    post("/deliveries", inline).await.expect(202);
    let v1a = client.post(format!("{base}/subscriptions")).bearer_auth(admin);
    let v1a = answer(v1a.body(json!({"target_url": target, "signature_scheme": "standard_v1a"}).to_string())).await;
    let v1a = v1a.expect(201);
    let event = client.post(format!("{base}/webhooks/ingest/{}", id(&created))).bearer_auth(admin).body("a payload");
    answer(event).await.expect(202);
    // A refusal does not repeat the value that it refuses, because the value may be a secret in the wrong field.
    let wrong = [
        json!({"target_url": target, "secret": MARK}),
        json!({"target_url": target, "secret": format!("whsec_{MARK}")}),
        json!({"target_url": target, "headers": {"authorization": format!("{MARK}\n")}}),
        json!({"target_url": target, "headers": MARK}),
        json!({"target_url": target, "ingest_signature": {"provider": "standard", "secrets": [MARK]}}),
        json!({"target_url": target, "ingest_signature": {"provider": "stripe", "secrets": MARK}}),
        json!({"target_url": target, "ingest_signature": MARK}),
        json!({"target_url": format!("http://user:{MARK}@127.0.0.1/")}),
    ];
    for body in wrong {
        let refused =
            answer(client.post(format!("{base}/subscriptions")).bearer_auth(admin).body(body.to_string())).await;
        assert!(!refused.problem(422).to_string().contains(MARK), "{body}");
    }
    let stranger = client.get(format!("{base}/subscriptions")).bearer_auth(format!("pr_{MARK}"));
    answer(stranger).await.problem(401);
    let forged =
        client.post(format!("{base}/webhooks/ingest/{}", id(&created))).header("Stripe-Signature", MARK).body("x");
    answer(forged).await.problem(401);
    vec![text(&key, "key")[3..].to_owned(), text(&v1a, "secret")[5..60].to_owned(), token]
}

#[tokio::test]
async fn no_secret_is_anywhere_in_the_clear() {
    let admin = format!("pr_{MARK}-{MARK}-{MARK}");
    let world = World::with(&[
        ("POSTRIDER_ADMIN_KEY", &admin),
        ("POSTRIDER_ENCRYPTION_KEYS", &encryption_key("first")),
        ("POSTRIDER_LOG", "trace"),
    ])
    .await;
    binaries();
    let logs = ["api", "worker"].map(|name| std::env::temp_dir().join(format!("{name}-{}", ::uuid::Uuid::now_v7())));
    let log = |place: usize| Stdio::from(std::fs::File::create(&logs[place]).unwrap());
    let api = Process::start_logging_to(log(0), "api", "debug", &world.env).await.unwrap();
    let worker_process = Process::start_logging_to(log(1), "worker", "debug", &world.env).await.unwrap();
    let base = api.ready.rsplit(' ').next().unwrap().to_owned();
    let made = create_everything(&base, &admin, &world.receiver.url("/success")).await;
    world.receiver.wait_for(2, SOON).await.unwrap();
    world.queue_is_empty().await;
    let received = world.receiver.received();
    assert!(received.iter().any(|one| one.header("authorization") == format!("Bearer {MARK}")), "they are in use");

    let mut seen = api.ready.clone();
    for path in ["/subscriptions", "/deliveries", "/events", "/api-keys", "/audit-log", "/metrics", "/portal-links"] {
        seen += &client().get(format!("{base}{path}")).bearer_auth(&admin).send().await.unwrap().text().await.unwrap();
    }
    let list = answer(client().get(format!("{base}/subscriptions")).bearer_auth(&admin)).await.expect(200);
    seen += &answer(client().get(format!("{base}/subscriptions/{}", id(&list["data"][1]))).bearer_auth(&admin))
        .await
        .expect(200)
        .to_string();
    api.stop().await.unwrap();
    worker_process.stop().await.unwrap();
    let told: String = logs.iter().map(|log| std::fs::read_to_string(log).unwrap()).collect();
    assert!(told.contains("TRACE"), "the logs tell everything they can");
    let kept: String = stored(&world, &[]).await.into_values().collect();
    let visible = hex::encode("a payload");
    assert!(kept.contains("a name") && kept.contains(&visible), "what is no secret is found");
    for (place, haystack) in [("answers", &seen), ("logs", &told), ("the database", &kept)] {
        for form in made.iter().map(String::as_str).chain([MARK]).flat_map(forms) {
            if let Some(at) = haystack.find(&form) {
                panic!("{form} in {place}: {}", haystack.get(at.saturating_sub(200)..at + 50).unwrap_or_default());
            }
        }
    }
    for log in logs {
        std::fs::remove_file(log).unwrap();
    }
    world.api_stops().await;
}

/// The environment of the world with these encryption keys.
fn with_keys(world: &World, keys: &str) -> HashMap<String, String> {
    let mut env = world.env.clone();
    env.insert("POSTRIDER_ENCRYPTION_KEYS".to_owned(), keys.to_owned());
    env
}

async fn rekey(env: &HashMap<String, String>) -> (Option<i32>, String) {
    let variables: Vec<_> = env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let output = run_with("worker rekey", &variables).await;
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test]
async fn everything_is_sealed_anew_with_another_key() {
    let (old, new) = (encryption_key("old"), encryption_key("new"));
    let both = format!("{new},{old}");
    let world = World::with(&[("POSTRIDER_ENCRYPTION_KEYS", &old)]).await;
    let target = world.receiver.url("/success");
    create_everything(&world.base, KEY, &target).await;
    let deleted = world.subscription("/success").await;
    world.call(Method::DELETE, &format!("/subscriptions/{deleted}"), None).await.expect(204);

    let (code, told) = rekey(&with_keys(&world, &new)).await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("not opened: subscription") && told.contains("`old`"), "{told}");
    // A row is changed with the old key while rekey runs; rekey must not report that everything is done before that row
    // is.
    let listed = world.get("/subscriptions").await;
    let changed = uuid(&id(&listed["data"][0]));
    let headers = Keyring::parse(&old).unwrap().seal(b"{}", changed.as_bytes());
    let mut change = world.pool.begin().await.unwrap();
    let statement = sqlx::query("UPDATE subscriptions SET headers = $2 WHERE id = $1").bind(changed).bind(headers);
    statement.execute(&mut *change).await.unwrap();
    let both_keys = with_keys(&world, &both);
    let rekeying = tokio::spawn(async move { rekey(&both_keys).await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let waiting = async {
        while sqlx::query_scalar::<_, i64>(waits).fetch_one(&world.pool).await.unwrap() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.expect("it comes to that row");
    change.commit().await.unwrap();
    let (code, told) = rekeying.await.unwrap();
    assert_eq!(code, Some(0), "{told}");
    let left = "SELECT count(*) FROM subscriptions
                 WHERE substr(secret, 1, length($1)) <> $1 OR substr(headers, 1, length($1)) <> $1
                    OR substr(ingest_signature, 1, length($1)) <> $1";
    let left = sqlx::query_scalar::<_, i64>(left).bind(Keyring::parse(&both).unwrap().mark());
    assert_eq!(left.fetch_one(&world.pool).await.unwrap(), 0, "{told}");
    let (code, told) = rekey(&with_keys(&world, &new)).await;
    assert!(code == Some(0) && told.contains("0 rows were sealed anew"), "the old key is needed no more: {told}");

    // These are another api and another worker, which have only the new key.
    let env = with_keys(&world, &new);
    let (base, (stop, serving)) = serve(&env).await;
    let get = async |path: &str| answer(client().get(format!("{base}{path}")).bearer_auth(KEY)).await;
    let listed = get("/subscriptions").await.expect(200);
    let subscription = id(&listed["data"][1]);
    let shown = get(&format!("/subscriptions/{subscription}/secret")).await.expect(200);
    assert_eq!(shown["secret"], hmac_secret(2));
    assert_eq!(shown["previous"][0]["secret"], hmac_secret(1));
    let again = client().post(format!("{base}/api-keys")).bearer_auth(KEY);
    let again =
        again.header("Idempotency-Key", "/api-keys").body(json!({"name": "a name", "scopes": ["manage"]}).to_string());
    assert!(text(&answer(again).await.expect(201), "key").starts_with("pr_"), "kept answers are answered");
    assert_eq!(worker(&env).drain().await.unwrap(), 2);
    let received = world.receiver.received();
    let inline = received.iter().find(|one| one.body.starts_with(b"\"a payload")).unwrap();
    assert_eq!(inline.header("webhook-signature"), expected_signature(&hmac_secret(3), inline));
    assert_eq!(inline.header("authorization"), format!("Bearer {MARK}"));
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}
