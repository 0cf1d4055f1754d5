//! Crashes, outages and shutdowns. Where a process has to die, it is the real binary as a child process.

use std::{
    collections::HashMap,
    process::{Output, Stdio},
    sync::{Arc, OnceLock},
    time::Duration,
};

use dev::{
    child::{Child, Signal},
    postgres::{Durability, Postgres},
    receiver::{Keep, Receiver},
    up::Process,
    workspace,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::world::{KEY, SOON, World, answer, client, environment, id, uuid};

/// Builds the binaries. It takes no time if they have just been built together with the tests.
pub fn binaries() {
    static BUILT: OnceLock<()> = OnceLock::new();
    BUILT.get_or_init(|| {
        let mut cargo = std::process::Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(workspace());
        assert!(cargo.status().expect("cargo runs").success());
    });
}

pub async fn process(name: &'static str, env: &HashMap<String, String>) -> Process {
    binaries();
    Process::start(name, "debug", env).await.expect("it starts")
}

#[tokio::test]
async fn a_killed_worker_loses_nothing() {
    let world = World::new().await;
    let subscription = world.subscription("/slow/60000").await;
    let deliveries = [world.ingest(&subscription, "1").await, world.ingest(&subscription, "2").await];
    let worker = process("worker", &world.env).await;
    world.receiver.wait_for(2, SOON).await.unwrap();
    worker.signal(Signal::KILL);

    let patch = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200);
    assert_eq!(world.drain().await, 0, "the leases hold");
    world.pass(Duration::from_secs(36)).await;
    assert_eq!(world.drain().await, 2);
    for delivery in deliveries {
        assert_eq!(world.delivery(&delivery).await["status"], "succeeded");
        let kinds: Vec<_> =
            world.attempts(&delivery).await.iter().map(|attempt| attempt["error_kind"].clone()).collect();
        assert_eq!(kinds, [json!("lease_lost"), Value::Null]);
    }
    world.finish().await;
}

#[tokio::test]
async fn workers_killed_one_after_the_other_under_load_lose_nothing() {
    const EVENTS: u64 = 300;
    let world = World::new().await;
    let more = json!({"retry_policy": {"delays_seconds": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]}});
    let flaky = id(&world.subscribe("/flaky", more).await);
    let slow = world.subscription("/slow/300").await;
    let mut deliveries = Vec::new();
    for number in 0..EVENTS {
        let subscription = if number % 3 == 0 { &slow } else { &flaky };
        deliveries.push(world.ingest(subscription, number.to_string()).await);
    }
    for round in 1..=4 {
        let worker = process("worker", &world.env).await;
        world.receiver.wait_for(round * 50, SOON).await.unwrap();
        worker.signal(Signal::KILL);
        // Dropping waits until the process is dead and sends nothing any more; only then does time pass, so that its
        // leases expire.
        drop(worker);
        world.pass(Duration::from_secs(36)).await;
    }
    let worker = process("worker", &world.env).await;
    world.queue_is_empty().await;
    worker.stop().await.unwrap();
    let received: std::collections::HashSet<_> =
        world.receiver.received().iter().map(|received| received.header("webhook-delivery-id").to_owned()).collect();
    assert!(deliveries.iter().all(|delivery| received.contains(delivery)));
    assert_eq!(world.get("/deliveries?status=succeeded&limit=200").await["data"].as_array().unwrap().len(), 200);
    world.finish().await;
}

#[tokio::test]
async fn a_worker_that_slept_through_its_lease_changes_nothing_when_it_wakes() {
    let world = World::new().await;
    let subscription = id(&world.subscribe("/slow/1500", json!({})).await);
    let delivery = world.ingest(&subscription, "x").await;
    let worker = process("worker", &world.env).await;
    world.receiver.wait_for(1, SOON).await.unwrap();
    worker.signal(Signal::STOP);
    world.pass(Duration::from_secs(36)).await;
    assert_eq!(world.drain().await, 1, "another worker takes over");
    let finished = world.delivery(&delivery).await;
    assert_eq!((finished["status"].clone(), finished["attempt_count"].clone()), (json!("succeeded"), json!(2)));
    worker.signal(Signal::CONT);
    worker.stop().await.expect("it ends well, with nothing to show for it");
    assert_eq!(world.delivery(&delivery).await, finished);
    assert_eq!(world.attempts(&delivery).await.len(), 2);
    world.finish().await;
}

#[tokio::test]
async fn sigterm_lets_requests_finish() {
    let world = World::new().await;
    let subscription = world.subscription("/slow/1500").await;
    let delivery = world.ingest(&subscription, "x").await;
    let worker = process("worker", &world.env).await;
    world.receiver.wait_for(1, SOON).await.unwrap();
    worker.stop().await.unwrap();
    assert_eq!(world.delivery(&delivery).await["status"], "succeeded");
    world.finish().await;
}

#[tokio::test]
async fn sigterm_gives_back_what_cannot_finish() {
    let world = World::with(&[("POSTRIDER_SHUTDOWN_TIMEOUT_SECONDS", "1")]).await;
    let subscription = world.subscription("/slow/14000").await;
    let delivery = world.ingest(&subscription, "x").await;
    let worker = process("worker", &world.env).await;
    world.receiver.wait_for(1, SOON).await.unwrap();
    worker.stop().await.unwrap();
    let waiting = world.delivery(&delivery).await;
    assert_eq!(waiting["status"], "pending");
    assert_eq!(world.attempts(&delivery).await[0]["error_kind"], "shutdown");
    let patch = json!({"target_url": world.receiver.url("/success")});
    world.call(Method::PATCH, &format!("/subscriptions/{subscription}"), Some(patch)).await.expect(200);
    assert_eq!(world.drain().await, 1, "due at once");
    world.finish().await;
}

#[tokio::test]
async fn a_worker_without_file_descriptors_charges_nobody_for_it() {
    const EVENTS: usize = 80;
    let world = World::new().await;
    let subscription = id(&world.subscribe("/slow/500", json!({"retry_policy": {"delays_seconds": []}})).await);
    let mut deliveries = Vec::new();
    for number in 0..EVENTS {
        deliveries.push(world.ingest(&subscription, number.to_string()).await);
    }
    binaries();
    let binary = workspace().join("target/debug/worker");
    let mut worker = tokio::process::Command::new("sh");
    worker.args(["-c", &format!("ulimit -n 70; exec {}", binary.display())]).envs(&world.env).stdout(Stdio::null());
    let mut worker = Child::spawn(&mut worker).unwrap();
    world.queue_is_empty().await;
    let mut kinds = std::collections::BTreeMap::new();
    for delivery in deliveries {
        assert_eq!(world.delivery(&delivery).await["status"], "succeeded", "its only attempt was not used up");
        for attempt in world.attempts(&delivery).await {
            *kinds.entry(attempt["error_kind"].as_str().unwrap_or("success").to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(kinds["success"], EVENTS);
    assert!(kinds.len() == 2 && kinds["worker_busy"] > 0, "{kinds:?}");
    worker.signal(Signal::KILL);
    worker.wait().await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn a_killed_api_loses_nothing_it_acknowledged() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let mut env = world.env.clone();
    env.insert("POSTRIDER_API_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    let api = process("api", &env).await;
    let url = format!("{}/webhooks/ingest/{subscription}", api.ready.rsplit(' ').next().unwrap());
    let mut posters = tokio::task::JoinSet::new();
    // The api is killed when it has acknowledged some, while it is at work on others.
    let some = Arc::new(Semaphore::new(0));
    for _ in 0..16 {
        let (client, url, some) = (client(), url.clone(), Arc::clone(&some));
        posters.spawn(async move {
            let mut acknowledged = Vec::new();
            while let Ok(response) = client.post(&url).bearer_auth(KEY).body("x").send().await {
                let status = response.status();
                let Ok(text) = response.text().await else { break };
                let body: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(status, 202, "{body}");
                acknowledged.push(body["delivery_id"].as_str().unwrap().to_owned());
                some.add_permits(1);
            }
            acknowledged
        });
    }
    tokio::time::timeout(SOON, some.acquire_many(100)).await.expect("events are acknowledged").unwrap().forget();
    api.signal(Signal::KILL);
    let acknowledged: Vec<String> = posters.join_all().await.into_iter().flatten().collect();
    assert!(!acknowledged.is_empty());
    // The killed api may not have sent its last wake-ups, nor looked at the lanes after its last commits.
    world.pass(Duration::from_secs(9)).await;
    while world.drain().await > 0 {}
    let received: std::collections::HashSet<_> =
        world.receiver.received().iter().map(|received| received.header("webhook-delivery-id").to_owned()).collect();
    assert!(acknowledged.iter().all(|delivery| received.contains(delivery)), "every 202 was delivered");
    world.finish().await;
}

/// An api and a worker on a database server of their own, which the test can stop.
struct Fragile {
    server: Postgres,
    api: Process,
    worker: Process,
    receiver: Receiver,
}

impl Fragile {
    async fn start() -> Self {
        let server = Postgres::temporary("fragile", Durability::Durable).unwrap();
        let env = environment(&server.url("postgres"));
        Self {
            api: process("api", &env).await,
            worker: process("worker", &env).await,
            receiver: Receiver::start("127.0.0.1:0", Keep::Everything).await.unwrap(),
            server,
        }
    }

    fn base(&self) -> &str {
        self.api.ready.rsplit(' ').next().unwrap()
    }
}

#[tokio::test]
async fn postgres_may_go_away_and_come_back() {
    let system = Fragile::start().await;
    let client = client();
    let body = json!({"target_url": system.receiver.url("/success")}).to_string();
    let created = client.post(format!("{}/subscriptions", system.base())).bearer_auth(KEY).body(body);
    let subscription = id(&answer(created).await.expect(201));
    let url = format!("{}/webhooks/ingest/{subscription}", system.base());
    let post = async || answer(client.post(&url).bearer_auth(KEY).body("x")).await;
    let mut acknowledged = vec![post().await.expect(202)];
    system.receiver.wait_for(1, SOON).await.unwrap();

    for _ in 0..2 {
        system.server.halt().unwrap();
        post().await.problem(503);
        let ready = answer(client.get(format!("{}/health/ready", system.base()))).await;
        ready.problem(503);
        let live = client.get(format!("{}/health/live", system.base())).send().await.unwrap();
        assert_eq!(live.status(), 200);
        system.server.resume().unwrap();
        let back = async {
            loop {
                let answer = post().await;
                if answer.status == 202 {
                    return answer.body;
                }
            }
        };
        acknowledged.push(tokio::time::timeout(SOON, back).await.expect("the api reconnects"));
        let arrived = async {
            loop {
                let received = system.receiver.received();
                let all = acknowledged.iter().all(|accepted| {
                    received
                        .iter()
                        .any(|received| received.header("webhook-id") == accepted["event_id"].as_str().unwrap())
                });
                if all {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(SOON, arrived).await.expect("the worker reconnects");
    }
    let pool = PgPool::connect(&format!("{}?options=-c%20search_path%3Dpostrider", system.server.url("postgres")))
        .await
        .unwrap();
    let empty = async {
        while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM queue").fetch_one(&pool).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(SOON, empty).await.expect("everything is recorded");
    assert_eq!(postrider_core::upkeep::invariants::check(&pool).await.unwrap(), []);
    pool.close().await;
    system.api.stop().await.unwrap();
    system.worker.stop().await.unwrap();
}

pub async fn run_with(command: &str, variables: &[(&str, &str)]) -> Output {
    binaries();
    let mut words = command.split(' ');
    let mut command = tokio::process::Command::new(workspace().join("target/debug").join(words.next().unwrap()));
    command.args(words);
    // The command starts in a folder that has no `.env`, so only these variables count.
    command.env_clear().current_dir("/").envs(variables.iter().copied()).stdin(Stdio::null());
    tokio::time::timeout(SOON, command.output()).await.expect("it ends").unwrap()
}

#[tokio::test]
async fn every_mistake_in_the_configuration_is_told_at_once() {
    let wrong = [
        ("DATABASE_URL", "mysql://root:hunter2@host/"),
        ("POSTRIDER_ENCRYPTION_KEYS", "key:c2hvcnQ="),
        ("POSTRIDER_WORKER_CONCURRENCY", "0"),
        ("POSTRIDER_RETENTION_CRON", "sometimes"),
        ("POSTRIDER_ADMIN_KEY", "pr_dev_admin"),
        ("POSTRIDER_PAYLOAD_BYTES_MAX", "-1"),
    ];
    let cases = [
        ("api", ["DATABASE_URL", "POSTRIDER_ENCRYPTION_KEYS", "POSTRIDER_ADMIN_KEY", "POSTRIDER_PAYLOAD_BYTES_MAX"]),
        (
            "worker",
            ["DATABASE_URL", "POSTRIDER_ENCRYPTION_KEYS", "POSTRIDER_WORKER_CONCURRENCY", "POSTRIDER_RETENTION_CRON"],
        ),
    ];
    for (name, mistakes) in cases {
        let output = run_with(name, &wrong).await;
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{told}");
        for mistake in mistakes {
            assert!(told.contains(mistake), "{mistake} in {told}");
        }
        assert!(!told.contains("hunter2"), "{told}");
    }
    let example_keys = [
        ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/"),
        ("POSTRIDER_ADMIN_KEY", "pr_dev_admin"),
        ("POSTRIDER_ENCRYPTION_KEYS", "dev:cG9zdHJpZGVyLWRldmVsb3BtZW50LWtleS0zMi1ieXQ="),
    ];
    let told = run_with("api", &example_keys).await;
    assert_eq!(told.status.code(), Some(2), "example secrets are for development");
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains("POSTRIDER_ADMIN_KEY") && told.contains("POSTRIDER_ENCRYPTION_KEYS"), "{told}");
}

#[tokio::test]
async fn the_doctor_finds_what_is_wrong() {
    let world = World::new().await;
    let subscription = world.subscription("/success").await;
    let delivery = world.ingest(&subscription, "x").await;
    let variables: Vec<_> = world.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let healthy = run_with("worker doctor", &variables).await;
    assert!(healthy.status.success(), "{}", String::from_utf8_lossy(&healthy.stderr));

    sqlx::query("UPDATE lanes SET due_at = 'infinity', drained_at = NULL").execute(&world.pool).await.unwrap();
    let ill = run_with("worker doctor", &variables).await;
    let told = String::from_utf8(ill.stdout).unwrap();
    assert_eq!(ill.status.code(), Some(1), "{told}");
    assert!(told.contains("lane due later than its delivery") && told.contains(&uuid(&delivery).to_string()), "{told}");
    sqlx::query("UPDATE lanes SET due_at = now()").execute(&world.pool).await.unwrap();
    assert_eq!(world.drain().await, 1);
    assert_eq!(run_with("worker nurse", &variables).await.status.code(), Some(2));

    // An event published by SQL two minutes ago, of which nobody has made deliveries.
    let published = "INSERT INTO outbox (event_id, tenant_id, event_type, payload)
                     VALUES (uuid_floor(now() - interval '2 minutes'), 'default', 'a.b', 'x')";
    sqlx::query(published).execute(&world.pool).await.unwrap();
    let stuck = run_with("worker doctor", &variables).await;
    let told = String::from_utf8(stuck.stdout).unwrap();
    assert_eq!(stuck.status.code(), Some(1), "{told}");
    assert!(told.contains("stuck: 1 events published by SQL have no deliveries yet: no worker runs"), "{told}");
    world.drain().await;
    assert!(run_with("worker doctor", &variables).await.status.success(), "nothing is stuck any more");
    world.finish().await;
}
