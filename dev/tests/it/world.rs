//! What a test runs on: a real Postgres with a database of its own, the real api in this process, a real worker, a real
//! receiver, and a client. There are no mocks and no sleeps: time is moved by shifting stored times back.

use std::{collections::HashMap, time::Duration};

use api::config::Config as ApiConfig;
use dev::receiver::{Keep, Received, Receiver};
use postrider_core::{database::DatabaseConfig, process::config::Environment, upkeep::invariants};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, postgres::PgPoolOptions};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use worker::{Worker, config::Config as WorkerConfig};

pub use crate::databases::{create_database, database};
use crate::{databases::drop_database, documented::assert_documented};

/// The admin key of the api in all tests.
pub const KEY: &str = "pr_dev_admin";
/// How long anything may take that should happen, on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// All that a test needs; one for each test.
pub struct World {
    /// Connections to the database of the test, in its schema.
    pub pool: PgPool,
    /// The receiver to which deliveries go.
    pub receiver: Receiver,
    /// The base URL of the api, such as `http://127.0.0.1:40000`.
    pub base: String,
    /// A worker that does not run by itself: [`World::drain`] makes its attempts.
    pub worker: Worker,
    /// The environment from which api and worker have read their configuration.
    pub env: HashMap<String, String>,
    client: reqwest::Client,
    api: (CancellationToken, JoinHandle<()>),
}

/// An answer of the api, with its body as JSON or as a JSON string.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body; asserts the status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// The body; asserts that it is a well-formed problem of this status.
    #[track_caller]
    pub fn problem(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], status);
        for field in ["type", "title", "detail", "code"] {
            assert!(self.body[field].is_string(), "{field} in {}", self.body);
        }
        self.body
    }
}

impl World {
    /// Starts a world with the development configuration.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// Starts a world whose api and worker have these variables as well.
    pub async fn with(variables: &[(&str, &str)]) -> Self {
        let mut env = environment(&database().await);
        env.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let pool = PgPoolOptions::new()
            .max_connections(20)
            .connect_with(database_config(&env).options.options([("search_path", "postrider")]))
            .await
            .expect("the database answers");
        let (base, api) = serve(&env).await;
        Self {
            pool,
            receiver: Receiver::start("127.0.0.1:0", Keep::Everything).await.expect("a free port"),
            base,
            worker: worker(&env),
            env,
            client: client(),
            api,
        }
    }

    /// Calls the api with the admin key and a JSON body.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.body(body.to_string());
        }
        answer(request).await
    }

    /// Begins a request to the api with the admin key.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).bearer_auth(KEY)
    }

    /// Begins a request to the api without a key.
    pub fn anonymous(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// The HTTP client that calls the api.
    pub fn client(&self) -> &reqwest::Client {
        &self.client
    }

    pub async fn get(&self, path: &str) -> Value {
        self.call(Method::GET, path, None).await.expect(200)
    }

    pub async fn post(&self, path: &str) -> Value {
        self.call(Method::POST, path, None).await.expect(200)
    }

    /// Creates a subscription to a path of the receiver, with the settings in `more`; answers the whole subscription.
    pub async fn subscribe(&self, path: &str, more: Value) -> Value {
        let mut body = json!({"target_url": self.receiver.url(path)});
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        self.call(Method::POST, "/subscriptions", Some(body)).await.expect(201)
    }

    /// Makes copies of the only subscription in the database, without the api. It is quick, but the secrets of the
    /// copies cannot be opened.
    pub async fn multiply(&self, copies: i32) {
        sqlx::query(
            "WITH made AS (
                 INSERT INTO subscriptions
                        (id, tenant_id, target_url, event_types, metadata, timeout_ms, secret, headers)
                 SELECT gen_random_uuid(), s.tenant_id, s.target_url, '{}', '{}', s.timeout_ms, s.secret, s.headers
                   FROM subscriptions s, generate_series(1, $1)
                 RETURNING id, timeout_ms)
             INSERT INTO lanes (id, subscription_id, lease_ms) SELECT id, id, 2 * timeout_ms + 5000 FROM made",
        )
        .bind(copies)
        .execute(&self.pool)
        .await
        .expect("they are made");
    }

    /// Creates a subscription to a path of the receiver; answers its id.
    pub async fn subscription(&self, path: &str) -> String {
        id(&self.subscribe(path, json!({})).await)
    }

    /// Posts an event to a subscription's ingest; answers the id of its delivery.
    pub async fn ingest(&self, subscription: &str, payload: impl Into<reqwest::Body>) -> String {
        let request = self.request(Method::POST, &format!("/webhooks/ingest/{subscription}")).body(payload);
        let accepted = answer(request).await.expect(202);
        accepted["delivery_id"].as_str().unwrap_or_else(|| panic!("no delivery in {accepted}")).to_owned()
    }

    /// Publishes an event; answers `(event_id, delivery_ids)`.
    pub async fn publish(&self, event: Value) -> (String, Vec<String>) {
        let published = self.call(Method::POST, "/events", Some(event)).await.expect(202);
        let ids = published["delivery_ids"].as_array().expect("a list").iter();
        let event_id = published["event_id"].as_str().expect("an id").to_owned();
        (event_id, ids.map(|id| id.as_str().expect("an id").to_owned()).collect())
    }

    pub async fn delivery(&self, id: &str) -> Value {
        self.get(&format!("/deliveries/{id}")).await
    }

    pub async fn attempts(&self, id: &str) -> Vec<Value> {
        self.get(&format!("/deliveries/{id}/attempts")).await["data"].as_array().expect("a list").clone()
    }

    /// Makes every attempt that is due now; answers how many.
    pub async fn drain(&self) -> usize {
        self.worker.drain().await.expect("the database answers")
    }

    /// Moves time forward for the queue, by shifting its stored times back.
    pub async fn pass(&self, time: Duration) {
        let mut transaction = self.pool.begin().await.expect("the database answers");
        for statement in [
            "UPDATE queue SET due_at = due_at - $1::float8 * interval '1 second'",
            "UPDATE lanes SET due_at = due_at - $1::float8 * interval '1 second',
                    rests_until = rests_until - $1::float8 * interval '1 second',
                    open_until = open_until - $1::float8 * interval '1 second',
                    opened_at = opened_at - $1::float8 * interval '1 second',
                    token_held_until = token_held_until - $1::float8 * interval '1 second',
                    next_token_at = next_token_at - $1::float8 * interval '1 second',
                    full_until = full_until - $1::float8 * interval '1 second',
                    window_from = window_from - $1::float8 * interval '1 second',
                    failing_since = failing_since - $1::float8 * interval '1 second',
                    scheduled_at = scheduled_at - $1::float8 * interval '1 second',
                    floor_at = floor_at - $1::float8 * interval '1 second',
                    swept_at = swept_at - $1::float8 * interval '1 second',
                    drained_at = drained_at - $1::float8 * interval '1 second'",
            "UPDATE events SET expires_at = expires_at - $1::float8 * interval '1 second' WHERE expires_at IS NOT NULL",
            "UPDATE lane_leases SET expires_at = expires_at - $1::float8 * interval '1 second'",
            "UPDATE jobs SET next_step_at = next_step_at - $1::float8 * interval '1 second'",
            "UPDATE emitters SET next_step_at = next_step_at - $1::float8 * interval '1 second',
                    started_at = started_at - $1::float8 * interval '1 second',
                    ends_at = ends_at - $1::float8 * interval '1 second' WHERE status = 'running'",
            "UPDATE demos SET started_at = started_at - $1::float8 * interval '1 second',
                    ends_at = ends_at - $1::float8 * interval '1 second'",
        ] {
            sqlx::query(statement).bind(time.as_secs_f64()).execute(&mut *transaction).await.expect("times move");
        }
        transaction.commit().await.expect("times move");
    }

    /// Runs a worker in this process until the token is canceled.
    pub fn run_worker(&self) -> (CancellationToken, JoinHandle<()>) {
        let stop = CancellationToken::new();
        let worker = worker(&self.env);
        (stop.clone(), tokio::spawn(async move { worker.run(stop).await.expect("it works until it is told to stop") }))
    }

    /// Waits until the queue is empty.
    pub async fn queue_is_empty(&self) {
        let empty = async {
            while sqlx::query_scalar::<_, i64>("SELECT count(*) FROM queue")
                .fetch_one(&self.pool)
                .await
                .expect("counted")
                > 0
            {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(SOON, empty).await.expect("the queue empties");
    }

    /// Ends the test: stops the api, and asserts that every invariant holds.
    pub async fn finish(self) {
        let violations = invariants::check(&self.pool).await.expect("the invariants can be checked");
        assert_eq!(violations, [], "an invariant is violated");
        self.api_stops().await;
    }

    /// Ends a test that has written rows by itself: stops the api, removes the database, and does not check the
    /// invariants.
    pub async fn api_stops(self) {
        self.api.0.cancel();
        self.api.1.await.expect("the api stops");
        Box::pin(drop_database(&self.env["DATABASE_URL"])).await;
    }
}

/// Stores an event and its delivery as ingest does, on a connection of the test and without a wake-up; answers whether
/// this armed the lane.
pub async fn store(connection: &mut PgConnection, subscription: &str, event: Uuid, delivery: Uuid) -> bool {
    let armed: Vec<Uuid> = sqlx::query_scalar(
        "SELECT armed FROM accept(
             ARRAY[ROW($1, 'default', 'a.b', $2, false, 'text/plain', NULL, 'x', NULL, NULL, NULL, NULL,
                       NULL, NULL, NULL)::new_event],
             ARRAY[ROW($3, $1, 'default', $2, $2, NULL, NULL, NULL)::new_delivery], '{}', 0, false, false)",
    )
    .bind(event)
    .bind(uuid(subscription))
    .bind(delivery)
    .fetch_one(connection)
    .await
    .expect("stored");
    !armed.is_empty()
}

/// Serves another api on the same database, in this process; answers its base URL and how to stop it.
pub async fn serve(env: &HashMap<String, String>) -> (String, (CancellationToken, JoinHandle<()>)) {
    let config = ApiConfig::from(lookup(env)).expect("a valid configuration");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("bound"));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let serving =
        tokio::spawn(async move { api::serve(&config, listener, None, stopped).await.expect("the api serves") });
    (base, (stop, serving))
}

/// Makes another worker on the same database.
pub fn worker(env: &HashMap<String, String>) -> Worker {
    Worker::new(WorkerConfig::from(lookup(env)).expect("a valid configuration")).expect("a usable machine")
}

pub fn client() -> reqwest::Client {
    // Only the first call installs the provider; later ones fail, which does no harm.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build().expect("a client")
}

/// Sends a request to the api; asserts that the `OpenAPI` document lists the status of the answer.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.expect("a request");
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let response = client.execute(request).await.expect("the api answers");
    assert_documented(&method, &path, response.status().as_u16());
    let (status, headers) = (response.status(), response.headers().clone());
    // A stream has no end.
    let is_stream = headers.get("content-type").is_some_and(|kind| kind == "text/event-stream");
    let text = if is_stream { String::new() } else { response.text().await.expect("a body") };
    let body = if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap_or(Value::String(text)) };
    Answer { status, headers, body }
}

/// The signature that a received request should have, made by the official Standard Webhooks library.
pub fn expected_signature(secret: &str, received: &Received) -> String {
    let timestamp = received.header("webhook-timestamp").parse().expect("seconds");
    let webhook = standardwebhooks::Webhook::new(secret).expect("a valid secret");
    webhook.sign(received.header("webhook-id"), timestamp, &received.body).expect("signed")
}

/// The id of a thing that the api has answered.
#[track_caller]
pub fn id(thing: &Value) -> String {
    thing["id"].as_str().unwrap_or_else(|| panic!("no id in {thing}")).to_owned()
}

/// The UUID inside an id, without the prefix.
pub fn uuid(id: &str) -> Uuid {
    Uuid::parse_str(id.rsplit('_').next().expect("not empty")).expect("a uuid")
}

/// The development environment, but with this database.
pub fn environment(database_url: &str) -> HashMap<String, String> {
    let mut env = dev::up::environment().expect("there is a .env");
    env.insert("DATABASE_URL".to_owned(), database_url.to_owned());
    for name in ["POSTRIDER_API_LISTEN", "POSTRIDER_WORKER_LISTEN"] {
        env.insert(name.to_owned(), "127.0.0.1:0".to_owned());
    }
    env
}

pub fn lookup(env: &HashMap<String, String>) -> Environment {
    let env = env.clone();
    Environment::new(move |name| env.get(name).cloned())
}

pub fn database_config(env: &HashMap<String, String>) -> DatabaseConfig {
    lookup(env).database().expect("a valid configuration")
}
