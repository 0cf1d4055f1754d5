//! `cargo dev up`: starts all that a newcomer needs with one command: Postgres (that of `DATABASE_URL`, or one of our
//! own), api, worker and a demo receiver. Then it prints what to try.

use std::{collections::HashMap, env, fs, path::Path, process::Stdio, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

use crate::{
    child::{Child, Signal, status},
    node::dashboard_modules,
    postgres::{Postgres, state_directory},
    receiver::{Keep, Receiver},
    schema::foreign_migration,
    workspace,
};

/// How long a child may take until it prints that it is ready. At the first start it also makes the schema.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a child may take to stop.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);

/// A running api or worker. Dropping it stops it.
pub struct Process {
    name: &'static str,
    child: Child,
    /// The line that the process has printed when it was ready.
    pub ready: String,
}

impl Process {
    /// Starts the binary with this name and waits until it is ready.
    ///
    /// # Errors
    /// When the process ends, or does not become ready in time.
    pub async fn start(name: &'static str, profile: &str, env: &HashMap<String, String>) -> Result<Self> {
        Self::start_logging_to(Stdio::inherit(), name, profile, env).await
    }

    /// Like [`Self::start`], but the log of the process goes to `log` and not to ours.
    ///
    /// # Errors
    /// When the process ends, or does not become ready in time.
    pub async fn start_logging_to(
        log: Stdio,
        name: &'static str,
        profile: &str,
        env: &HashMap<String, String>,
    ) -> Result<Self> {
        let program = workspace().join("target").join(profile).join(name);
        Self::start_program(log, name, &program, env).await
    }

    /// Like [`Self::start_logging_to`], but the binary is this file.
    ///
    /// # Errors
    /// When the process ends, or does not become ready in time.
    pub async fn start_program(
        log: Stdio,
        name: &'static str,
        program: &Path,
        env: &HashMap<String, String>,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.envs(env).current_dir(workspace()).stdout(Stdio::piped()).stderr(log);
        let mut child = Child::spawn(&mut command)?;
        let mut lines = BufReader::new(child.stdout().context("its output is piped")?).lines();
        let first = tokio::time::timeout(READY_WITHIN, lines.next_line()).await;
        let Some(ready) = first.with_context(|| format!("{name} is not ready after {READY_WITHIN:?}"))?? else {
            bail!("{name} ended before it was ready: {}", child.wait().await?);
        };
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(Self { name, child, ready })
    }

    /// The id of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Host and port on which an api serves, as it has printed them.
    #[must_use]
    pub fn address(&self) -> String {
        self.ready.rsplit('/').next().unwrap_or_default().to_owned()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        self.child.signal(signal);
    }

    /// Stops the process and waits until it has ended.
    ///
    /// # Errors
    /// When the process does not stop in time, or ends with an error.
    pub async fn stop(mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let ended = tokio::time::timeout(STOPPED_WITHIN, self.child.wait()).await;
        let status = ended.with_context(|| format!("{} does not stop", self.name))??;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Kills the process and waits until it has ended.
    pub async fn kill(mut self) {
        self.signal(Signal::KILL);
        // If the operating system cannot wait for it, the destructor tries again.
        let _ = self.child.wait().await;
    }

    /// Waits until the process has ended by itself, and answers what to say about it.
    pub async fn ended(&mut self) -> String {
        match self.child.wait().await {
            Ok(status) => format!("{} ended by itself: {status}", self.name),
            Err(error) => format!("{} was lost: {error}", self.name),
        }
    }
}

/// Builds the binaries of api and worker.
///
/// # Errors
/// When they do not compile.
pub async fn build(profile: &str) -> Result<()> {
    let mut cargo = Command::new("cargo");
    cargo.args(["build", "--quiet", "--workspace", "--bins"]).current_dir(workspace());
    if profile == "release" {
        dashboard_modules().await?;
        cargo.arg("--release");
    }
    ensure!(status(&mut cargo).await?.success(), "the workspace does not compile");
    Ok(())
}

/// The environment for development: the variables of `.env`, unless the process's own environment sets them.
///
/// # Errors
/// When `.env` cannot be read.
pub fn environment() -> Result<HashMap<String, String>> {
    let text = fs::read_to_string(workspace().join(".env"))?;
    Ok(variables(&text).map(|(name, value)| (name.to_owned(), env::var(name).unwrap_or(value.to_owned()))).collect())
}

/// The variables of a file such as `.env`, read as the simplest programs read it (`docker run --env-file`, podman): a
/// line is split at its first `=`, and the value is all that follows, quotes and spaces included.
pub fn variables(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='))
}

/// Starts everything and prints what to try. When this is dropped, everything stops, the newest first.
///
/// # Errors
/// When something does not start, or ends by itself.
pub async fn up() -> Result<()> {
    let mut env = environment()?;
    let (_private, remedy) = if env::var("DATABASE_URL").is_ok() {
        let url = &env["DATABASE_URL"];
        PgConnection::connect(url).await.context("DATABASE_URL is set, but no database answers there")?.close().await?;
        println!("Using the database of DATABASE_URL.");
        (None, "set POSTRIDER_DATABASE_SCHEMA to another schema, which is then made anew, or drop this one".to_owned())
    } else {
        let data = state_directory("dev");
        let server = Postgres::start(&data)?;
        env.insert("DATABASE_URL".to_owned(), server.url("postgres"));
        println!("Started a private Postgres: {} (data in {})", server.url("postgres"), data.display());
        (Some(server), format!("`rm -r {}` to begin anew", data.display()))
    };
    let schema = &env["POSTRIDER_DATABASE_SCHEMA"];
    if let Some(migration) = foreign_migration(&env["DATABASE_URL"], schema).await? {
        bail!(
            "the schema `{schema}` was made by another version of Postrider (its migration {migration} is not this \
             version's) and cannot be brought up to date: {remedy}"
        );
    }

    if let Err(missing) = dashboard_modules().await {
        println!("The dashboard comes without icons and live updates: {missing}");
    }
    println!("Building api and worker…");
    build("debug").await?;
    let receiver = match Receiver::start("127.0.0.1:8090", Keep::Count).await {
        Ok(receiver) => receiver,
        Err(_) => Receiver::start("127.0.0.1:0", Keep::Count).await?,
    };
    // A process that was started later is stopped earlier, so this order stops the api first.
    let mut worker = Process::start("worker", "debug", &env).await?;
    let mut api = Process::start("api", "debug", &env).await?;
    println!("{}", tour(&api.ready, &worker.ready, &receiver, &env));
    tokio::select! {
        why = api.ended() => bail!(why),
        why = worker.ended() => bail!(why),
    }
}

fn tour(api: &str, worker: &str, receiver: &Receiver, env: &HashMap<String, String>) -> String {
    let base = api.rsplit(' ').next().unwrap_or_default();
    let key = &env["POSTRIDER_ADMIN_KEY"];
    let target = receiver.url("/success");
    let others = receiver.url("");
    format!(
        r#"
{api}
{worker}
Dashboard:     {base}/ui/          (sign in with the key; “Run demo” shows everything at work)
Swagger UI:    {base}/swagger      (Authorize with the key)
API key:       {key}
Demo receiver: {target}   also {others}/fail, /fail/404, /slow, /slow/250, /flaky, /gone

Try it in another terminal:

  # 1. a subscription, and the id it got
  SUB=$(curl -s {base}/subscriptions -H 'Authorization: Bearer {key}' -d '{{"target_url": "{target}"}}' \
        | grep -o 'sub_[0-9a-f]*' | head -n 1)

  # 2. an event for it
  curl -s {base}/webhooks/ingest/$SUB -H 'Authorization: Bearer {key}' \
       -H 'Content-Type: application/json' -H 'X-Event-Type: order.created' -d '{{"order": 42}}'

  # 3. what became of it
  curl -s "{base}/deliveries?subscription_id=$SUB" -H 'Authorization: Bearer {key}'

Ctrl-C stops everything."#
    )
}
