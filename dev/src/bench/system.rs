//! The system that is measured: apis and workers, the real binaries, on a fresh database of their own.

use std::{collections::HashMap, process::Stdio, sync::Arc};

use anyhow::{Context, Result};
use bytes::Bytes;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions, PgPool, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{
    PROFILE,
    load::{self, Target},
    usage::{CpuTimes, peak_memory_mb},
};
use crate::{
    client::Client,
    postgres::Postgres,
    schema,
    up::{Process, environment},
};

/// How many processes of each kind a system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of apis.
    pub apis: usize,
    /// The number of workers.
    pub workers: usize,
}

/// The smallest system.
pub const ONE_EACH: Shape = Shape { apis: 1, workers: 1 };

/// Apis and workers that run on a database of their own. The first api is the one that is called.
pub struct System {
    /// The running apis, at least one.
    pub apis: Vec<Process>,
    /// The running workers.
    pub workers: Vec<Process>,
    /// Connections to the database.
    pub pool: PgPool,
    /// The admin key.
    pub key: String,
    /// The variables with which the processes were started.
    pub env: HashMap<String, String>,
    postmaster: u32,
}

impl System {
    /// Starts one api and one worker.
    ///
    /// # Errors
    /// When the database refuses a statement, or a process does not become ready.
    pub async fn start(server: &Postgres) -> Result<Self> {
        Self::start_with(server, &[], [Stdio::inherit(), Stdio::inherit()]).await
    }

    /// Starts one api and one worker with these variables besides the usual ones; their logs go to `logs`.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub async fn start_with(server: &Postgres, variables: &[(&str, &str)], logs: [Stdio; 2]) -> Result<Self> {
        let mut system = Self::without_processes(server, variables).await?;
        let [log_of_api, log_of_worker] = logs;
        system.apis.push(Process::start_logging_to(log_of_api, "api", PROFILE, &system.env).await?);
        system.workers.push(Process::start_logging_to(log_of_worker, "worker", PROFILE, &system.env).await?);
        Ok(system)
    }

    /// Starts as many processes as the shape says.
    ///
    /// # Errors
    /// Those of [`Self::start`].
    pub async fn start_shaped(server: &Postgres, shape: Shape) -> Result<Self> {
        let mut system = Self::without_processes(server, &[]).await?;
        for _ in 0..shape.apis {
            system.apis.push(Process::start("api", PROFILE, &system.env).await?);
        }
        for _ in 0..shape.workers {
            system.workers.push(Process::start("worker", PROFILE, &system.env).await?);
        }
        Ok(system)
    }

    async fn without_processes(server: &Postgres, variables: &[(&str, &str)]) -> Result<Self> {
        let (pool, url) = database(server).await?;
        let mut env = environment()?;
        env.extend(
            [
                ("DATABASE_URL", url.as_str()),
                ("POSTRIDER_API_LISTEN", "127.0.0.1:0"),
                ("POSTRIDER_WORKER_LISTEN", "off"),
            ]
            .iter()
            .chain(variables)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let key = env["POSTRIDER_ADMIN_KEY"].clone();
        Ok(Self { apis: Vec::new(), workers: Vec::new(), pool, key, env, postmaster: server.pid()? })
    }

    /// The CPU time that all processes of each kind have used so far.
    #[must_use]
    pub fn cpu(&self) -> CpuTimes {
        CpuTimes::now(&ids(&self.apis), &ids(&self.workers), self.postmaster)
    }

    /// The most memory, in MB, that the apis and the workers have ever had resident, each kind together.
    #[must_use]
    pub fn peak_memory_mb(&self) -> [f64; 2] {
        [&self.apis, &self.workers].map(|processes| ids(processes).into_iter().map(peak_memory_mb).sum())
    }

    /// Host and port of the first api.
    #[must_use]
    pub fn address(&self) -> String {
        self.apis.first().map(Process::address).unwrap_or_default()
    }

    /// Creates a subscription and answers its id.
    ///
    /// # Errors
    /// When the api does not answer with a subscription.
    pub async fn subscribe(&self, url: &str) -> Result<String> {
        self.create(&json!({"target_url": url})).await
    }

    /// Creates a subscription with these settings and answers its lane.
    ///
    /// # Errors
    /// When the api does not answer with a subscription.
    pub async fn subscribe_with(&self, settings: &Value) -> Result<Uuid> {
        let id = self.create(settings).await?;
        Ok(Uuid::parse_str(id.trim_start_matches("sub_"))?)
    }

    async fn create(&self, settings: &Value) -> Result<String> {
        let answer = self.call("/subscriptions", &settings.to_string()).await?;
        Ok(answer["id"].as_str().with_context(|| format!("no id in {answer}"))?.to_owned())
    }

    /// Posts a body to the first api and answers the JSON that comes back.
    ///
    /// # Errors
    /// When the api does not answer with JSON.
    pub async fn call(&self, path: &str, body: &str) -> Result<Value> {
        Client { address: self.address(), key: &self.key }.post(path, body).await
    }

    /// Where ingest of a subscription is posted to.
    #[must_use]
    pub fn target(&self, subscription: &str) -> Target {
        self.target_at(format!("/webhooks/ingest/{subscription}"), load::payload)
    }

    /// A path of the first api, and the bodies that are posted to it.
    #[must_use]
    pub fn target_at(&self, path: String, body: impl Fn(u64) -> Bytes + Send + Sync + 'static) -> Target {
        self.target_of(self.address(), path, Arc::new(body))
    }

    /// A path of each api, and the bodies that are posted to it.
    #[must_use]
    pub fn targets_at(&self, path: &str, body: impl Fn(u64) -> Bytes + Send + Sync + 'static) -> Vec<Target> {
        let body: load::Body = Arc::new(body);
        let of_api = |api: &Process| self.target_of(api.address(), path.to_owned(), Arc::clone(&body));
        self.apis.iter().map(of_api).collect()
    }

    fn target_of(&self, address: String, path: String, body: load::Body) -> Target {
        Target { address, path, body, authorization: format!("Bearer {}", self.key) }
    }

    /// Stops all processes, the apis first.
    ///
    /// # Errors
    /// When one does not stop in time, or ends with an error.
    pub async fn stop(self) -> Result<()> {
        self.pool.close().await;
        for process in self.apis.into_iter().chain(self.workers) {
            process.stop().await?;
        }
        Ok(())
    }
}

fn ids(processes: &[Process]) -> Vec<u32> {
    processes.iter().map(Process::id).collect()
}

/// Makes a fresh database with the schema; answers connections to it and its URL.
///
/// # Errors
/// When the database refuses a statement.
pub async fn database(server: &Postgres) -> Result<(PgPool, String)> {
    let name = format!("bench_{}", Uuid::now_v7().simple());
    let admin = PgPool::connect(&server.url("postgres")).await?;
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await?;
    admin.close().await;
    let url = server.url(&name);
    let options: PgConnectOptions = url.parse()?;
    let options = options.options([("search_path", "postrider")]).disable_statement_logging();
    let pool = PgPool::connect_with(options).await?;
    schema::make(&mut *pool.acquire().await?).await?;
    Ok((pool, url))
}
