//! Where deliveries may go. A target is judged when it is chosen, and again at each connection, by the addresses that
//! its name has then.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex},
};

use api::config::Config as ApiConfig;
use postrider_core::trust::dns::{Addresses, Dns, Lookup};
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use worker::{Worker, config::Config as WorkerConfig};

use crate::world::{KEY, World, answer, client, id, lookup};

/// A resolver whose answers the test can change.
#[derive(Clone, Default)]
pub(crate) struct Changing(Arc<Mutex<HashMap<String, Vec<IpAddr>>>>);

impl Changing {
    pub(crate) fn set(&self, host: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.0.lock().unwrap().insert(host.to_owned(), addresses);
    }
}

impl Lookup for Changing {
    fn addresses<'a>(&'a self, host: &'a str) -> Addresses<'a> {
        let found = self.0.lock().unwrap().get(host).cloned();
        Box::pin(async { found.ok_or_else(|| io::Error::other("no such host")) })
    }
}

#[tokio::test]
async fn a_name_that_changes_its_mind_gains_nothing() {
    let world = World::new().await;
    let names = Changing::default();
    let mut api = ApiConfig::from(lookup(&world.env)).unwrap();
    api.target_policy.dns = Dns(Arc::new(names.clone()));
    let mut config = WorkerConfig::from(lookup(&world.env)).unwrap();
    config.target_policy.dns = Dns(Arc::new(names.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let serving = tokio::spawn(async move { api::serve(&api, listener, None, stopped).await.unwrap() });
    let worker = Worker::new(config).unwrap();
    let port = world.receiver.url("").rsplit(':').next().unwrap().to_owned();
    let client = client();
    let subscribe = async |host: &str| {
        let body = json!({"target_url": format!("http://{host}:{port}/success"),
                          "retry_policy": {"delays_seconds": [1, 1, 1]}});
        answer(client.post(format!("{base}/subscriptions")).bearer_auth(KEY).body(body.to_string())).await
    };

    names.set("inside.test", &["10.0.0.1", "169.254.169.254"]);
    let problem = subscribe("inside.test").await.problem(422);
    assert!(problem["detail"].as_str().unwrap().contains("inside.test has no public address"), "{problem}");
    assert!(!problem.to_string().contains("10.0.0.1"), "what the resolver knows is not told: {problem}");
    // A name that does not resolve yet may do so later, so it is accepted, and judged then.
    let subscription = id(&subscribe("rebinding.test").await.expect(201));
    names.set("inside.test", &["1.1.1.1"]);
    let inside = id(&subscribe("inside.test").await.expect(201));
    let change = json!({"name": "no look-up needed", "timeout_ms": 1000});
    let path = format!("{base}/subscriptions/{inside}");
    names.set("inside.test", &["10.0.0.1"]);
    answer(client.patch(&path).bearer_auth(KEY).body(change.to_string())).await.expect(200);
    let same = json!({"target_url": format!("http://inside.test:{port}/")});
    for method in [Method::PATCH, Method::PUT] {
        answer(client.request(method, &path).bearer_auth(KEY).body(same.to_string())).await.problem(422);
    }

    let attempt = async |addresses: &[&str]| {
        names.set("rebinding.test", addresses);
        let delivery = world.ingest(&subscription, "x").await;
        assert_eq!(worker.drain().await.unwrap(), 1);
        let attempt = world.attempts(&delivery).await[0].clone();
        world.call(Method::POST, &format!("/deliveries/{delivery}/cancel"), None).await;
        attempt
    };
    for inside in [&["10.0.0.1"][..], &["169.254.169.254"], &["::ffff:10.0.0.1"], &["fd00:ec2::254", "192.168.0.1"]] {
        let refused = attempt(inside).await;
        assert_eq!(refused["error_kind"], "blocked_target", "{refused}");
        assert!(refused.get("status_code").is_none(), "{refused}");
    }
    assert_eq!(attempt(&[]).await["error_kind"], "dns");
    assert_eq!(world.receiver.count(), 0);
    // Of several addresses, the worker connects only to those that are allowed.
    let delivered = attempt(&["10.0.0.1", "127.0.0.1", "169.254.169.254"]).await;
    assert_eq!(delivered["status_code"], 200, "{delivered}");
    // A kept connection goes on to the address that it has; a new connection is judged anew.
    let kept = attempt(&["10.0.0.1"]).await;
    assert!(kept["status_code"] == 200 || kept["error_kind"] == "blocked_target", "{kept}");
    stop.cancel();
    serving.await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn an_operator_may_insist_on_https_and_other_protocols_ports_are_closed() {
    let world = World::with(&[("POSTRIDER_HTTPS_ONLY", "true")]).await;
    let subscribe = async |target: &str| {
        let body = json!({"target_url": target});
        world.call(Method::POST, "/subscriptions", Some(body)).await
    };
    for target in ["http://127.0.0.1:8080/", "http://1.1.1.1/", "https://127.0.0.1:25/", "https://127.0.0.1:0/"] {
        let problem = subscribe(target).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "target_url", "{problem}");
        let inline = json!({"target_url": target, "payload": 1});
        world.call(Method::POST, "/deliveries", Some(inline)).await.problem(422);
    }
    // A target that was chosen before the rule is refused when a delivery is sent.
    let subscription = id(&subscribe("https://127.0.0.1:9443/").await.expect(201));
    for (target, why) in [(world.receiver.url("/success"), "https"), ("https://127.0.0.1:6667/".to_owned(), "6667")] {
        sqlx::query("UPDATE subscriptions SET target_url = $1").bind(&target).execute(&world.pool).await.unwrap();
        world.worker.cache().invalidate(&postrider_core::announce::changes::Change::Anything).await;
        let delivery = world.ingest(&subscription, "x").await;
        assert_eq!(world.drain().await, 1);
        let attempt = &world.attempts(&delivery).await[0];
        assert_eq!(attempt["error_kind"], "blocked_target", "{attempt}");
        assert!(attempt["error"].as_str().unwrap().contains(why), "{attempt}");
    }
    assert_eq!(world.receiver.count(), 0);
    world.finish().await;
}

/// A resolver that never answers.
#[derive(Clone, Copy)]
enum Slow {
    /// The name servers of the host do not answer.
    OfItself,
    /// Other look-ups come first.
    ForOthers,
}

impl Lookup for Slow {
    fn addresses<'a>(&'a self, _: &'a str) -> Addresses<'a> {
        Box::pin(std::future::pending())
    }

    fn is_held_up(&self, host: &str) -> bool {
        assert_eq!(host, "slow.test");
        matches!(self, Self::ForOthers)
    }
}

#[tokio::test]
async fn a_name_that_must_wait_for_others_is_not_charged() {
    let world = World::new().await;
    let body = json!({"target_url": "http://slow.test/", "timeout_ms": 1000, "retry_policy": {"delays_seconds": []}});
    let subscription = id(&world.call(Method::POST, "/subscriptions", Some(body)).await.expect(201));
    for (slow, kind, status) in
        [(Slow::ForOthers, "worker_busy", "pending"), (Slow::OfItself, "timeout", "dead_letter")]
    {
        let mut config = WorkerConfig::from(lookup(&world.env)).unwrap();
        config.target_policy.dns = Dns(Arc::new(slow));
        let delivery = world.ingest(&subscription, "x").await;
        assert_eq!(Worker::new(config).unwrap().drain().await.unwrap(), 1);
        let attempts = world.attempts(&delivery).await;
        assert_eq!(attempts[0]["error_kind"], kind, "{attempts:?}");
        assert_eq!(world.delivery(&delivery).await["status"], status);
        world.call(Method::POST, &format!("/deliveries/{delivery}/cancel"), None).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn names_for_local_use_are_refused_whether_they_resolve_or_not() {
    const LOCAL: [&str; 7] = [
        "http://localhost/",
        "http://localhost./",
        "http://x.localhost/",
        "https://LOCALHOST:8443/",
        "http://metadata.google.internal/",
        "http://printer.local/",
        "http://nas.home.arpa./",
    ];
    let subscribe = async |world: &World, target: &str| {
        let body = json!({"target_url": target});
        world.call(Method::POST, "/subscriptions", Some(body)).await
    };
    let strict = World::with(&[("POSTRIDER_ALLOWED_PRIVATE_NETWORKS", "")]).await;
    for target in LOCAL {
        let problem = subscribe(&strict, target).await.problem(422);
        assert_eq!(problem["errors"][0]["field"], "target_url", "{target}: {problem}");
        let inline = json!({"target_url": target, "payload": 1});
        strict.call(Method::POST, "/deliveries", Some(inline)).await.problem(422);
    }
    strict.finish().await;
    // Where the operator allows networks in which such a name may be, its addresses decide.
    let lenient = World::new().await;
    for target in &LOCAL[..5] {
        subscribe(&lenient, target).await.expect(201);
    }
    lenient.finish().await;
}
