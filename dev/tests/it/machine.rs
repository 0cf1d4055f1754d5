//! The commands on a developer's machine: without a Postgres, with data of other versions, and after commands and tests
//! that were killed. A variable that all children inherit shows which processes belong to a test.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use dev::{
    child::{Child, Signal},
    postgres::STATE_VARIABLE,
    tools::{Tool, are_there},
    up::Process,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
};

use crate::{
    crashes::binaries,
    world::{KEY, World, answer, client, database, environment, id},
};

/// A command may take this long to start, because it may have to fetch something first.
const STARTED_WITHIN: Duration = Duration::from_secs(180);
/// All processes of a command have ended after this time.
const ENDED_WITHIN: Duration = Duration::from_secs(60);
/// If this variable is set, [`stays_until_it_is_killed`] stays; otherwise it passes at once.
const STAY: &str = "POSTRIDER_TEST_STAYS";

/// A folder for the state of a command. It is removed when this is dropped.
struct State(PathBuf);

impl State {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The user of a server can enter a folder in `/var/tmp`, even if the test runs as root.
        let path = PathBuf::from(format!("/var/tmp/postrider-test-state.{}.{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// A command that keeps its state in this folder, with its output in a pipe.
    fn command(&self, program: impl AsRef<Path>, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .args(arguments)
            .env_remove("DATABASE_URL")
            .env(STATE_VARIABLE, &self.0)
            .envs([("POSTRIDER_API_LISTEN", "127.0.0.1:0"), ("POSTRIDER_WORKER_LISTEN", "127.0.0.1:0")])
            .envs(variables.iter().copied())
            .current_dir(dev::workspace())
            .stdout(Stdio::piped());
        command
    }

    /// Runs `cargo dev up`, asserts that it refuses to start, and answers what it has said.
    async fn refused(&self, variables: &[(&str, &str)]) -> String {
        let mut command = self.command(env!("CARGO_BIN_EXE_dev"), &["up"], variables);
        let child = Child::spawn(command.stderr(Stdio::piped())).unwrap();
        let output = tokio::time::timeout(STARTED_WITHIN, child.output()).await.expect("it ends").unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{told}");
        told
    }

    /// The command lines of all processes whose state is kept in this folder.
    fn processes(&self) -> Vec<String> {
        let mark = format!("{STATE_VARIABLE}={}", self.0.display());
        let entries = fs::read_dir("/proc").unwrap().flatten();
        let ours = entries.filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
        });
        ours.map(|entry| fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " "))
            .collect()
    }

    /// Waits until no process of this folder is left.
    async fn is_quiet(&self) {
        let quiet = async {
            while !self.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let waited = tokio::time::timeout(ENDED_WITHIN, quiet).await;
        assert!(waited.is_ok(), "these are left: {:#?}", self.processes());
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Reads lines until one contains `word`; answers all lines that were read.
async fn read_until(lines: &mut Lines<BufReader<ChildStdout>>, word: &str) -> Vec<String> {
    let read = async {
        let mut seen = Vec::new();
        while let Some(line) = lines.next_line().await.unwrap() {
            seen.push(line);
            if seen.last().unwrap().contains(word) {
                return seen;
            }
        }
        panic!("it ended before it said {word}: {seen:#?}");
    };
    tokio::time::timeout(STARTED_WITHIN, read).await.unwrap_or_else(|_| panic!("it does not say {word}"))
}

/// The first word that stands behind `label` in these lines.
fn said<'a>(lines: &'a [String], label: &str) -> &'a str {
    let found = lines.iter().find_map(|line| line.split_once(label));
    found.unwrap_or_else(|| panic!("{label} in {lines:#?}")).1.split_whitespace().next().unwrap()
}

/// Starts `cargo dev up`; answers the process and what it has said until it was ready.
async fn up(state: &State) -> (Child, Vec<String>) {
    let embedded = [("POSTRIDER_DEV_POSTGRES", "embedded")];
    let mut child = Child::spawn(&mut state.command(env!("CARGO_BIN_EXE_dev"), &["up"], &embedded)).unwrap();
    let mut lines = BufReader::new(child.stdout().unwrap()).lines();
    let told = read_until(&mut lines, "Ctrl-C stops everything").await;
    // The rest of its output is read, too, so that it never writes to a closed pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    (child, told)
}

/// Publishes an event to the api that was started, and waits until the receiver has it.
async fn deliver(told: &[String]) {
    let base = said(told, "Swagger UI:").trim_end_matches("/swagger");
    let post = async |path: &str, body: Value| {
        let request = client().post(format!("{base}{path}")).bearer_auth(KEY).body(body.to_string());
        answer(request).await
    };
    let target = json!({"target_url": said(told, "Demo receiver:")});
    let subscription = id(&post("/subscriptions", target).await.expect(201));
    let accepted = post(&format!("/webhooks/ingest/{subscription}"), json!({"order": 42})).await.expect(202);
    let delivery = format!("{base}/deliveries/{}", accepted["delivery_id"].as_str().unwrap());
    let arrived = async {
        while answer(client().get(&delivery).bearer_auth(KEY)).await.expect(200)["status"] != "succeeded" {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(ENDED_WITHIN, arrived).await.expect("it is delivered");
}

#[tokio::test]
async fn a_machine_without_postgres_gets_one_that_delivers_and_ends_with_the_command() {
    if !are_there(&[Tool::Npm]) {
        return;
    }
    binaries();
    let state = State::new();
    let (mut child, told) = up(&state).await;
    let url = said(&told, "Started a private Postgres:");
    let mut connection = PgConnection::connect(url).await.unwrap();
    let directory: String = sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await.unwrap();
    assert!(Path::new(&directory).starts_with(&state.0), "{directory}");
    let binary = fs::read_link(format!("/proc/{}/exe", postmaster(Path::new(&directory)))).unwrap();
    assert!(binary.starts_with(&state.0), "{} was not fetched", binary.display());
    deliver(&told).await;
    connection.close().await.unwrap();
    child.signal(Signal::TERM);
    let status = tokio::time::timeout(ENDED_WITHIN, child.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    state.is_quiet().await;
    let data = state.0.join("postrider-dev");
    assert!(data.join("PG_VERSION").exists() && !data.join("postmaster.pid").exists(), "kept, and shut down");

    // The second start finds the copy of Postgres and the data of the first.
    let (mut child, told) = up(&state).await;
    deliver(&told).await;
    child.signal(Signal::KILL);
    child.wait().await.unwrap();
    state.is_quiet().await;
    assert!(!data.join("postmaster.pid").exists(), "shut down behind the back of what was killed");
}

fn postmaster(data: &Path) -> String {
    fs::read_to_string(data.join("postmaster.pid")).unwrap().lines().next().unwrap().to_owned()
}

#[tokio::test]
async fn data_of_another_postgres_is_refused() {
    let state = State::new();
    let data = state.0.join("postrider-dev");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("PG_VERSION"), "9\n").unwrap();
    let told = state.refused(&[]).await;
    let told = told.lines().last().unwrap();
    assert!(told.contains("was made by Postgres 9") && told.contains(&format!("rm -r {}", data.display())), "{told}");
}

#[tokio::test]
async fn a_schema_of_other_migrations_is_refused() {
    let state = State::new();
    let url = database().await;
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::query("UPDATE postrider._sqlx_migrations SET checksum = 'another' WHERE version = 1")
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    let told = state.refused(&[("DATABASE_URL", &url)]).await;
    assert!(told.contains("another version of Postrider") && told.contains("POSTRIDER_DATABASE_SCHEMA"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

/// This is not a test of its own: the next test runs it in a process of its own and kills that.
#[tokio::test]
async fn stays_until_it_is_killed() {
    if std::env::var_os(STAY).is_none() {
        return;
    }
    let world = World::new().await;
    let worker = Process::start("worker", "debug", &environment(&world.env["DATABASE_URL"])).await.unwrap();
    world.call(Method::GET, "/subscriptions", None).await.expect(200);
    println!("it stays beside {}", worker.id());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn tests_that_are_ended_on_the_way_leave_nothing_behind() {
    binaries();
    for signal in [Signal::TERM, Signal::KILL] {
        let state = State::new();
        let stale = state.0.join("postrider-tests-1-1");
        fs::create_dir_all(stale.join("base")).unwrap();
        fs::write(state.0.join("postrider-tests-1-1.lock"), "").unwrap();
        let arguments = ["machine::stays_until_it_is_killed", "--exact", "--nocapture"];
        let mut command = state.command(std::env::current_exe().unwrap(), &arguments, &[(STAY, "1")]);
        let mut child = Child::spawn(&mut command).unwrap();
        let mut lines = BufReader::new(child.stdout().unwrap()).lines();
        read_until(&mut lines, "it stays").await;
        assert!(!stale.exists(), "what was left by a process that is gone");
        // The processes are the test binary, its worker, its Postgres and the reaper. Other processes of Postgres hide
        // the variable.
        assert!(state.processes().len() >= 4, "{:#?}", state.processes());
        child.signal(signal);
        child.wait().await.unwrap();
        state.is_quiet().await;
        // A copy of Postgres that was fetched is kept.
        let left: Vec<_> = state.names().into_iter().filter(|name| !name.starts_with("postrider-postgres-")).collect();
        assert_eq!(left, [""; 0], "{signal:?}");
    }
}
