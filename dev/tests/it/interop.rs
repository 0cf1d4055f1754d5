//! Others verify our deliveries: the official Standard Webhooks libraries for Python, JavaScript and Rust, and Node
//! itself for Ed25519, which none of these libraries knows. Each also refuses what was changed on the way.

use std::{process::Stdio, str::from_utf8};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use dev::{
    receiver::Received,
    tools::{Tool, are_there},
};
use reqwest::{
    Method,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Map, Value, json};
use standardwebhooks::{Webhook, WebhookError};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::world::{SOON, World, answer, id, worker};

/// The headers that are part of a verification.
const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";
/// A timestamp that is this many seconds away is too old or too new, however long the test takes; the libraries accept
/// 300 seconds.
const OUT_OF_TOLERANCE_SECONDS: i64 = 3600;

/// How a verification should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expect {
    Verified,
    Refused,
}

/// A request as the receiver got it, and the keys to verify it with.
#[derive(Clone)]
struct Case {
    name: String,
    /// `secret`, or `public_key` and `jwks`, as the scripts expect them.
    keys: Value,
    headers: HeaderMap,
    body: Bytes,
    expect: Expect,
}

impl Case {
    fn verified(name: &str, keys: &Value, received: &Received) -> Self {
        let (headers, body) = (received.headers.clone(), received.body.clone());
        Self { name: name.to_owned(), keys: keys.clone(), headers, body, expect: Expect::Verified }
    }

    /// A copy of the case with `change` applied, which should be refused.
    fn refused(&self, why: &str, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = Self { name: format!("{}, {why}", self.name), expect: Expect::Refused, ..self.clone() };
        change(&mut changed);
        changed
    }

    /// Copies of the case with everything that a third party could change on the way, and one with somebody else's
    /// keys.
    fn tampered(&self, others: &Value) -> Vec<Self> {
        let timestamp: i64 = self.header(TIMESTAMP).parse().unwrap();
        vec![
            self.refused("a changed body", |case| case.body = [&*case.body, b" "].concat().into()),
            self.refused("a changed timestamp", |case| case.set(TIMESTAMP, &(timestamp + 1).to_string())),
            self.refused("a changed id", |case| case.set(ID, &format!("{}0", case.header(ID)))),
            self.refused("a signature that was cut", |case| {
                // A group of four characters is cut off, so that the rest is still valid base64.
                let signature = case.header(SIGNATURE).to_owned();
                case.set(SIGNATURE, &signature[..signature.len() - 4]);
            }),
            self.refused("a signature of another version", |case| {
                let signature = case.header(SIGNATURE).replace("v1,", "v2,").replace("v1a,", "v2a,");
                case.set(SIGNATURE, &signature);
            }),
            self.refused("somebody else's keys", |case| case.keys = others.clone()),
        ]
    }

    /// A copy of the case with a valid signature of another time, which should be refused.
    fn signed_at(&self, why: &str, timestamp: i64) -> Self {
        self.refused(why, |case| {
            let signature = Webhook::new(case.secret()).unwrap().sign(case.header(ID), timestamp, &case.body).unwrap();
            case.set(TIMESTAMP, &timestamp.to_string());
            case.set(SIGNATURE, &signature);
        })
    }

    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn set(&mut self, name: &'static str, value: &str) {
        self.headers.insert(name, HeaderValue::from_str(value).unwrap());
    }

    fn secret(&self) -> &str {
        self.keys["secret"].as_str().unwrap()
    }

    /// The case as the line of JSON that the scripts read.
    fn line(&self) -> String {
        let headers = self.headers.iter().map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap())));
        let headers: Map<String, Value> = headers.collect();
        let expect = match self.expect {
            Expect::Verified => "verified",
            Expect::Refused => "refused",
        };
        let body = BASE64_STANDARD.encode(&self.body);
        let mut line = json!({"name": self.name, "headers": headers, "body_base64": body, "expect": expect});
        line.as_object_mut().unwrap().extend(self.keys.as_object().unwrap().clone());
        line.to_string()
    }
}

/// Posts an event and answers the request that arrived. A new worker sends it, so it has cached no secrets.
async fn delivered(world: &World, subscription: &str, body: &'static [u8]) -> Received {
    world.ingest(subscription, body).await;
    assert_eq!(worker(&world.env).drain().await.unwrap(), 1);
    let received = world.receiver.received().pop().unwrap();
    assert_eq!(received.body, body);
    received
}

async fn rotate(world: &World, subscription: &str, body: Value) -> Value {
    world.call(Method::POST, &format!("/subscriptions/{subscription}/rotate-secret"), Some(body)).await.expect(200)
}

fn rust_agrees(case: &Case) {
    let outcome = Webhook::new(case.secret()).unwrap().verify(&case.body, &case.headers);
    if from_utf8(&case.body).is_err() {
        // The library accepts text only, and says so after it has verified the signature. The scripts verify such a
        // body.
        assert!(matches!(outcome, Err(WebhookError::InvalidPayload)), "{}: {outcome:?}", case.name);
        return;
    }
    assert_eq!(outcome.is_ok(), case.expect == Expect::Verified, "{}: {outcome:?}", case.name);
}

/// Runs a script on the cases and asserts that each ends as expected.
async fn script_agrees(command: &mut Command, cases: &[Case]) {
    let lines: Vec<_> = cases.iter().map(Case::line).collect();
    let lines = lines.join("\n");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut script = command.spawn().unwrap();
    let mut stdin = script.stdin.take().unwrap();
    let run = async {
        // If the script ends early, this write fails, and the assertions below show why.
        let _ = stdin.write_all(lines.as_bytes()).await;
        drop(stdin);
        script.wait_with_output().await.unwrap()
    };
    let output = tokio::time::timeout(SOON, run).await.expect("the script ends");
    let [told, complained] = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy);
    assert!(output.status.success(), "{command:?}: {}\n{told}{complained}", output.status);
    assert_eq!(told.trim(), format!("{} cases as expected", cases.len()), "{command:?}");
}

/// Verifies the cases with the libraries of all three languages, as far as Python and Node are installed here.
async fn libraries_agree(cases: &[Case]) {
    let folder = dev::workspace().join("dev/interop");
    for case in cases {
        rust_agrees(case);
    }
    if are_there(&[Tool::Python]) {
        let python = dev::python::venv().await.unwrap().join("bin/python");
        script_agrees(Command::new(python).arg(folder.join("verify.py")), cases).await;
    }
    if are_there(&[Tool::Node, Tool::Npm]) {
        let modules = dev::node::modules().await.unwrap();
        script_agrees(Command::new("node").arg(folder.join("verify.mjs")).arg(modules), cases).await;
    }
}

#[tokio::test]
async fn the_official_libraries_verify_what_is_delivered_and_refuse_what_was_tampered_with() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({})).await;
    let keys = json!({"secret": created["secret"]});
    let others = json!({"secret": world.subscribe("/success", json!({})).await["secret"]});
    let bodies: [(&str, &[u8]); 5] = [
        ("JSON", br#"{"order":  42, "total": 1e2}"#),
        ("Unicode", "{\"é\": \"日本語 🦀\u{2028}\", \"escaped\": \"\\u00e9\"}\n".as_bytes()),
        ("text that is no JSON", b"  a=1&b=2\r\n"),
        ("an empty body", b""),
        ("bytes that are no text", b"\x00\xff\xfe\x80PNG\r\n"),
    ];
    let mut cases = Vec::new();
    for (name, body) in bodies {
        let case = Case::verified(name, &keys, &delivered(&world, &id(&created), body).await);
        cases.extend(case.tampered(&others));
        cases.push(case);
    }
    let plain = cases.iter().find(|case| case.name == "JSON").unwrap().clone();
    let now = chrono::Utc::now().timestamp();
    cases.push(plain.signed_at("an old timestamp", now - OUT_OF_TOLERANCE_SECONDS));
    cases.push(plain.signed_at("a timestamp of the future", now + OUT_OF_TOLERANCE_SECONDS));
    libraries_agree(&cases).await;
    world.finish().await;
}

#[tokio::test]
async fn during_a_rotation_the_official_libraries_verify_with_the_old_secret_and_the_new() {
    let world = World::new().await;
    let created = world.subscribe("/success", json!({})).await;
    let subscription = id(&created);
    let old = json!({"secret": created["secret"]});
    let others = json!({"secret": world.subscribe("/success", json!({})).await["secret"]});
    let new = json!({"secret": rotate(&world, &subscription, json!({})).await["secret"]});
    assert_ne!(old, new);
    let received = delivered(&world, &subscription, br#"{"order": 43}"#).await;
    let mut cases = Vec::new();
    for (name, keys) in [("the old secret", &old), ("the new secret", &new)] {
        let case = Case::verified(name, keys, &received);
        cases.push(case.refused("a changed body", |case| case.body = Bytes::from_static(br#"{"order": 44}"#)));
        cases.push(case.refused("somebody else's secret", |case| case.keys = others.clone()));
        cases.push(case);
    }

    let last = json!({"secret": rotate(&world, &subscription, json!({"overlap_seconds": 0})).await["secret"]});
    let received = delivered(&world, &subscription, br#"{"order": 45}"#).await;
    let case = Case::verified("the last secret", &last, &received);
    cases.push(case.refused("the old secret after its overlap", |case| case.keys = old.clone()));
    cases.push(case.refused("the new secret after its overlap", |case| case.keys = new.clone()));
    cases.push(case);
    libraries_agree(&cases).await;
    world.finish().await;
}

#[tokio::test]
async fn node_verifies_ed25519_with_the_public_key_and_the_key_set() {
    if !are_there(&[Tool::Node]) {
        return;
    }
    let world = World::new().await;
    let scheme = json!({"signature_scheme": "standard_v1a"});
    let created = world.subscribe("/success", scheme.clone()).await;
    let other = world.subscribe("/success", scheme).await;
    let key_set = async |subscription: &Value| {
        let path = format!("/subscriptions/{}/jwks.json", id(subscription));
        answer(world.anonymous(Method::GET, &path)).await.expect(200)
    };
    let keys = json!({"public_key": created["public_key"], "jwks": key_set(&created).await});
    let others = json!({"public_key": other["public_key"], "jwks": key_set(&other).await});
    let mut cases = Vec::new();
    let bodies: [(&str, &[u8]); 3] = [("JSON", br#"{"order": 42}"#), ("nothing", b""), ("bytes", b"\x00\xff\xfe\x80")];
    for (name, body) in bodies {
        let case = Case::verified(name, &keys, &delivered(&world, &id(&created), body).await);
        cases.extend(case.tampered(&others));
        cases.push(case);
    }

    let rotated = rotate(&world, &id(&created), json!({})).await;
    assert_ne!(rotated["public_key"], created["public_key"]);
    let jwks = key_set(&created).await;
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 2, "{jwks}");
    let received = delivered(&world, &id(&created), br#"{"order": 43}"#).await;
    for (name, public_key) in [("the old key", &created["public_key"]), ("the new key", &rotated["public_key"])] {
        let case = Case::verified(name, &json!({"public_key": public_key, "jwks": jwks}), &received);
        cases.push(case.refused("a changed body", |case| case.body = Bytes::from_static(br#"{"order": 44}"#)));
        cases.push(case);
    }
    let script = dev::workspace().join("dev/interop/verify_v1a.mjs");
    script_agrees(Command::new("node").arg(script), &cases).await;
    world.finish().await;
}
