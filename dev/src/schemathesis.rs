//! `cargo dev schemathesis`: Schemathesis compares the api with its own `OpenAPI` document, by requests that it makes
//! up from a seed and within bounds. Before that, a fresh database gets something of every kind.
//! `dev/schemathesis.toml` says what is checked and which values are used.

use std::{collections::HashMap, fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    child::status,
    client::Client,
    postgres::{Durability, Postgres},
    python,
    receiver::{Keep, Receiver},
    up::{Process, build, environment},
    workspace,
};

/// The seed of the random choices, unless the caller gives another. Ids from answers are among the values, so two runs
/// with one seed are alike but not the same.
pub const SEED: u32 = 7;
/// At most this many random requests go to each operation, besides those that the document's bounds suggest.
const EXAMPLES_MAX: u32 = 40;
/// The phases of Schemathesis: the document's examples, its bounds, random data, and operations one after the other.
const PHASES: &str = "examples,coverage,fuzzing,stateful";
/// The api may take this many seconds for one answer.
const REQUEST_SECONDS_MAX: u32 = 30;
/// All requests to one set of operations may take this long; on two cores they take about a minute.
const RUN_TIME_MAX: Duration = Duration::from_secs(600);
/// The operations that change all dead letters. They are tried last, because they leave none for the other operations.
const BULK: &str = "^/dead-letters/(retry|purge)$";
/// What is tried with the others: all but those, and but the stream that has no end.
const APART: &str = "^/dead-letters/(retry|purge)$|^/live$";

/// The admin key of the api that is tried. It is shown with a failure, so that the request can be sent again.
const KEY: &str = "pr_dev_admin";

/// How many things of each kind are made before the requests begin.
const SUBSCRIPTIONS: usize = 6;
const EVENTS: usize = 6;
const API_KEYS: usize = 6;
const JOBS: usize = 3;
const EMITTERS: usize = 3;
/// How many events are made whose deliveries all become dead letters.
const DEAD_EVENTS: usize = 10;
/// How long it may take until all of them are dead letters.
const DEAD_WITHIN: Duration = Duration::from_secs(60);

/// Starts an api on a database of its own, lets Schemathesis try it, and stops it.
///
/// # Errors
/// When the api does not start, or answers differently from its document; every failure is printed first.
pub async fn schemathesis(seed: u32) -> Result<()> {
    let python = python::venv().await?;
    build("debug").await?;
    let folder = workspace().join("target/schemathesis");
    fs::create_dir_all(&folder)?;
    fs::copy(workspace().join("dev/schemathesis.toml"), folder.join("schemathesis.toml"))?;

    let server = Postgres::temporary("schemathesis", Durability::Disposable)?;
    let env = variables(&server)?;
    let api = Process::start("api", "debug", &env).await?;
    let base = api.ready.rsplit(' ').next().unwrap_or_default().to_owned();
    let client = Client { address: base.rsplit('/').next().unwrap_or_default().to_owned(), key: KEY };
    furnish(&Api { client }, &env, &folder).await?;
    let others = try_out(&python, &folder, &base, seed, ["--exclude-path-regex", APART]).await;
    let bulk = try_out(&python, &folder, &base, seed, ["--include-path-regex", BULK]).await;
    let stopped = api.stop().await;
    drop(server);
    others.and(bulk).and(stopped)
}

/// The environment variables of the api and the worker.
fn variables(server: &Postgres) -> Result<HashMap<String, String>> {
    let mut env = environment()?;
    let url = server.url("postgres");
    let ours = [
        ("DATABASE_URL", url.as_str()),
        ("POSTRIDER_ENVIRONMENT", "development"),
        ("POSTRIDER_ADMIN_KEY", KEY),
        ("POSTRIDER_API_LISTEN", "127.0.0.1:0"),
        ("POSTRIDER_WORKER_LISTEN", "off"),
    ];
    env.extend(ours.map(|(name, value)| (name.to_owned(), value.to_owned())));
    Ok(env)
}

/// Runs Schemathesis on the bulk operations, or on all the others.
async fn try_out(python: &Path, folder: &Path, base: &str, seed: u32, which: [&str; 2]) -> Result<()> {
    let mut st = Command::new(python.join("bin/st"));
    st.args(["--config-file", "schemathesis.toml", "run", &format!("{base}/openapi.json"), "--url", base])
        .args(["--header", &format!("Authorization: Bearer {KEY}")])
        .args(which)
        .args(["--phases", PHASES])
        .args(["--seed", &seed.to_string(), "--max-examples", &EXAMPLES_MAX.to_string()])
        .args(["--request-timeout", &REQUEST_SECONDS_MAX.to_string(), "--workers", "1"])
        .args(["--continue-on-failure", "--generation-database", "none", "--warnings", "off", "--no-color"])
        .envs([("no_proxy", "127.0.0.1"), ("NO_PROXY", "127.0.0.1")])
        .current_dir(folder);
    let ended = tokio::time::timeout(RUN_TIME_MAX, status(&mut st)).await;
    let status = ended.with_context(|| format!("schemathesis is not done after {RUN_TIME_MAX:?}"))??;
    ensure!(status.success(), "the api and its OpenAPI document do not agree, as is told above");
    Ok(())
}

/// A running api and how to call it.
struct Api<'a> {
    client: Client<'a>,
}

impl Api<'_> {
    async fn get(&self, path: &str) -> Result<Value> {
        self.client.get(path).await
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.client.post(path, &body.to_string()).await
    }

    /// Publishes an event that every subscription wants; answers the id of the event and the ids of its deliveries.
    async fn publish(&self) -> Result<(String, Vec<String>)> {
        let event = json!({"event_type": "order.created", "payload": {"total": 120}, "metadata": {"region": "eu"}});
        let published = self.post("/events", &event).await?;
        let deliveries = published["delivery_ids"].as_array().into_iter().flatten();
        let deliveries: Vec<_> = deliveries.filter_map(Value::as_str).map(str::to_owned).collect();
        ensure!(deliveries.len() == SUBSCRIPTIONS, "{SUBSCRIPTIONS} deliveries were expected: {published}");
        Ok((text(&published, "event_id")?, deliveries))
    }
}

/// Makes something of every kind, and writes dictionaries of its ids into the folder.
async fn furnish(api: &Api<'_>, env: &HashMap<String, String>, folder: &Path) -> Result<()> {
    let receiver = Receiver::start("127.0.0.1:0", Keep::Count).await?;
    let mut subscriptions = Vec::new();
    for _ in 0..SUBSCRIPTIONS {
        let body = json!({
            "target_url": receiver.url("/fail"),
            "event_types": ["order.*"],
            "metadata": {"region": "eu"},
            "retry_policy": {"delays_seconds": []},
        });
        subscriptions.push(text(&api.post("/subscriptions", &body).await?, "id")?);
    }
    let dead = dead_letters(api, env).await?;
    let (mut events, mut deliveries) = (Vec::new(), Vec::new());
    for _ in 0..EVENTS {
        let (event, pending) = api.publish().await?;
        events.push(event);
        deliveries.extend(pending);
    }
    deliveries.extend(dead.iter().take(SUBSCRIPTIONS).cloned());
    let mut keys = Vec::new();
    for _ in 0..API_KEYS {
        let body = json!({"name": "a key", "scopes": ["read"]});
        keys.push(text(&api.post("/api-keys", &body).await?, "id")?);
    }
    let mut links = Vec::new();
    for _ in 0..API_KEYS {
        links.push(text(&api.post("/portal-links", &json!({"tenant_id": "default"})).await?, "id")?);
    }
    let mut jobs = Vec::new();
    for subscription in subscriptions.iter().take(JOBS) {
        let path = format!("/subscriptions/{subscription}/replay");
        jobs.push(text(&api.post(&path, &json!({"since": "2020-01-01T00:00:00Z"})).await?, "id")?);
    }
    let mut emitters = Vec::new();
    for subscription in subscriptions.iter().take(EMITTERS) {
        let body = json!({"subscription_id": subscription, "rate_per_second": 1});
        emitters.push(text(&api.post("/emitters", &body).await?, "id")?);
    }
    let all = [
        ("subscriptions", subscriptions),
        ("emitters", emitters),
        ("events", events),
        ("deliveries", deliveries),
        ("dead_letters", dead),
        ("keys", keys),
        ("portal_links", links),
        ("jobs", jobs),
    ];
    for (name, ids) in all {
        let lines: Vec<_> = ids.iter().map(|id| format!("\"{id}\"")).collect();
        fs::write(folder.join(format!("{name}.dict")), lines.join("\n"))?;
    }
    Ok(())
}

/// Publishes events and lets a worker fail to deliver them. The worker stops afterwards, so nothing that Schemathesis
/// makes up is sent anywhere.
async fn dead_letters(api: &Api<'_>, env: &HashMap<String, String>) -> Result<Vec<String>> {
    let worker = Process::start("worker", "debug", env).await?;
    let mut dead = Vec::new();
    for _ in 0..DEAD_EVENTS {
        dead.extend(api.publish().await?.1);
    }
    let all_are_dead = async {
        loop {
            let listed = api.get("/dead-letters?limit=250").await?;
            if listed["data"].as_array().is_some_and(|listed| listed.len() >= dead.len()) {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(DEAD_WITHIN, all_are_dead).await;
    waited.with_context(|| format!("there are not {} dead letters after {DEAD_WITHIN:?}", dead.len()))??;
    worker.stop().await?;
    Ok(dead)
}

fn text(answer: &Value, field: &str) -> Result<String> {
    Ok(answer[field].as_str().with_context(|| format!("no {field} in {answer}"))?.to_owned())
}
