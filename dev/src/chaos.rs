//! `cargo dev chaos`: runs the whole system while everything around it fails, and then proves that nothing was lost.
//!
//! Two apis and three workers, the real binaries, share one durable Postgres. Producers post in every way there is, and
//! receivers write down what they get, while faults happen that are drawn from a seed. Then the faults end, everything
//! drains, and the audit compares what was acknowledged, what was received and what the database says.

mod audit;
mod database;
mod fleet;
mod inject;
mod log;
mod plan;
mod producers;
mod proxy;
mod receivers;
mod report;
mod subscriptions;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::Stdio,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{process::Command, sync::Mutex};

use self::{
    audit::Findings,
    database::Numbers,
    fleet::Fleet,
    inject::{Stage, inject},
    log::{Clock, Journal, Log, Offence},
    producers::Market,
    proxy::Proxy,
    receivers::Receivers,
};
use crate::{
    child::Child,
    client::Client,
    postgres::{Durability, Postgres},
    up::{build, environment},
    workspace,
};

/// The seed of the run that is part of `cargo dev check`.
pub const SEED: u64 = 20_261_126;
/// How long faults happen where nothing else is asked for.
const TIME_DEFAULT: Duration = Duration::from_secs(300);
/// How long they happen at most.
const TIME_MAX: Duration = Duration::from_secs(3600);
/// How long faults happen in `cargo dev check`.
const TIME_IN_CHECK: Duration = Duration::from_secs(60);
/// How long everything may take to drain once the faults are over.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// How often we look whether everything has drained.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Events that are posted in each way in the calm time at the end.
const CALM_EVENTS: usize = 50;
/// How often the harness looks whether it is late itself, and what it takes for late.
const TICK: Duration = Duration::from_millis(20);
const TICK_LATE: Duration = Duration::from_millis(40);

/// Runs the command with its arguments: `[SEED] [--minutes N | --seconds N]`. Without a seed, one is drawn.
///
/// # Errors
/// When an argument is wrong, something does not start, or anything was found that must not be.
pub async fn chaos(arguments: &[&str]) -> Result<()> {
    let (mut seed, mut time) = (None, TIME_DEFAULT);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match *word {
            "--minutes" | "--seconds" => {
                let count: u64 = words.next().with_context(|| format!("{word} needs a number"))?.parse()?;
                time = Duration::from_secs(if *word == "--minutes" { count.saturating_mul(60) } else { count });
            }
            number => seed = Some(number.parse().with_context(|| format!("`{number}` is no seed"))?),
        }
    }
    ensure!(time <= TIME_MAX, "faults happen for at most {TIME_MAX:?}");
    run(seed.unwrap_or_else(rand::random), time).await
}

/// The run that is part of `cargo dev check`.
///
/// # Errors
/// Those of [`chaos`].
pub async fn check() -> Result<()> {
    run(SEED, TIME_IN_CHECK).await
}

async fn run(seed: u64, time: Duration) -> Result<()> {
    let is_ci = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
    ensure!(!is_ci || fleet::fake_time().is_some(), "libfaketime is needed: `apt-get install libfaketime`");
    build("debug").await?;
    let folder = workspace().join(format!("target/chaos/{seed}"));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder)?;
    println!("chaos with the seed {seed} for {} s; logs are in {}", time.as_secs(), folder.display());
    let started = Instant::now();
    let server = Arc::new(Postgres::temporary("chaos", Durability::Durable)?);
    let done = run_on(&server, seed, time, &folder).await;
    let _ = fs::copy(server.log(), folder.join("postgres.log"));
    let outcome = done?;
    let table = report::table(&outcome, seed, time, started.elapsed());
    println!("{table}");
    fs::write(folder.join("report.txt"), &table)?;
    report::details(&outcome, &folder)?;
    if outcome.offences.is_empty() {
        return Ok(());
    }
    bail!(
        "the run with the seed {seed} has found {} offences; logs are in {}",
        outcome.offences.len(),
        folder.display()
    )
}

/// What came of a run.
pub struct Outcome {
    log: Log,
    findings: Findings,
    skipped: Vec<(plan::Kind, usize)>,
    planned: usize,
    offences: Vec<Offence>,
    drained_after: Option<Duration>,
    numbers: Numbers,
}

async fn run_on(server: &Arc<Postgres>, seed: u64, time: Duration, folder: &Path) -> Result<Outcome> {
    let mut env = environment()?;
    env.insert("POSTRIDER_SHUTDOWN_TIMEOUT_SECONDS".to_owned(), "5".to_owned());
    env.insert("POSTRIDER_LOG".to_owned(), "info,sqlx::postgres::notice=warn,poem::server=warn".to_owned());
    let key = env["POSTRIDER_ADMIN_KEY"].clone();
    let url = server.url("postgres");
    let journal = Arc::new(Journal::new(Clock::start()));
    let fleet = Fleet::start(&env, &url, folder, &journal).await?;
    let apis: Vec<_> = fleet.apis().iter().filter_map(|api| api.address.clone()).collect();
    let mut receivers = Receivers::new(journal.clock);
    let api = Client { address: apis[0].clone(), key: &key };
    let subscriptions = subscriptions::subscribe(&api, &mut receivers).await?;

    // The plan's times begin only now, when everything runs.
    let plan = plan::plan(seed, time);
    let begun = journal.clock.now();
    let plan: Vec<_> = plan.into_iter().map(|one| plan::Planned { at: one.at + begun, ..one }).collect();
    let publishers = Proxy::start(fleet::database_address(&url)?).await?;
    let market_url = fleet::through(&url, &publishers);
    let market = Arc::new(Market::new(Arc::clone(&journal), subscriptions.clone(), apis, key.clone(), market_url));
    let stage = Stage {
        journal: Arc::clone(&journal),
        fleet,
        publishers,
        receivers,
        subscriptions: subscriptions.clone(),
        server: Arc::clone(server),
        key,
        database_turn: Mutex::new(()),
    };
    let stage = Arc::new(stage);
    let watching = tokio::spawn(watch_harness(Arc::clone(&journal)));
    let mut producers = producers::start(&market, seed);
    inject(&stage, &plan).await;
    market.is_over.store(true, Ordering::SeqCst);
    while let Some(ended) = producers.join_next().await {
        ended.context("a producer panicked")?;
    }

    let calmed = Instant::now();
    stage.calm().await?;
    let mut connection = database::connect(server).await?;
    let drained_after = drained(&mut connection, &journal, calmed).await?;
    let stage = Arc::into_inner(stage).context("nobody else has the stage any more")?;
    stage.fleet.stop().await;
    let before = database::numbers(&mut connection, subscriptions::TENANT).await?;
    let epilogue = calm_time(server, &env, &market, folder, &journal).await;
    if let Err(error) = epilogue {
        journal.offence("in a calm time everything works", format!("{error:#}"));
    }
    watching.abort();

    let after = database::numbers(&mut connection, subscriptions::TENANT).await?;
    compare(before, after, &journal);
    examine(&url, &env, &journal).await?;
    let mut log = journal.log(subscriptions, stage.receivers.requests());
    database::read(&mut connection, journal.clock, &mut log).await?;
    let findings = audit::audit(&log);
    let mut offences = journal.offences();
    offences.extend(findings.offences.iter().cloned());
    let skipped = journal.all_skipped().into_iter().collect();
    Ok(Outcome { log, findings, skipped, planned: plan.len(), offences, drained_after, numbers: before })
}

/// Waits until nothing is left to be delivered, and tells how long that took.
async fn drained(connection: &mut sqlx::PgConnection, journal: &Journal, since: Instant) -> Result<Option<Duration>> {
    while database::unfinished(connection).await? > 0 {
        if since.elapsed() > DRAINED_WITHIN {
            for stuck in database::stuck(connection).await? {
                journal.offence("everything drains when the faults are over", stuck);
            }
            return Ok(None);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Some(since.elapsed()))
}

/// Runs all processes once more, without any fault, and posts a few events: what is counted then must be exact.
async fn calm_time(
    server: &Postgres,
    env: &HashMap<String, String>,
    market: &Arc<Market>,
    folder: &Path,
    journal: &Arc<Journal>,
) -> Result<()> {
    let fleet = Fleet::start(env, &server.url("postgres"), folder, journal).await?;
    let apis = fleet.apis().iter().filter_map(|api| api.address.clone()).collect();
    let market = Arc::new(market.moved_to(apis, server.url("postgres")));
    producers::post_calmly(&market, CALM_EVENTS).await?;
    let mut connection = database::connect(server).await?;
    drained(&mut connection, journal, Instant::now()).await?;
    fleet.stop().await;
    Ok(())
}

/// Compares what was counted in the calm time with what was logged and stored in it.
fn compare(before: Numbers, after: Numbers, journal: &Journal) {
    let counted = after.successes_counted - before.successes_counted;
    let logged = after.successes_logged - before.successes_logged;
    let rule = "in a calm time the statistics are exact";
    if counted != logged {
        journal.offence(rule, format!("{counted} successful attempts were counted and {logged} logged"));
    }
    let counted = after.events_counted - before.events_counted;
    let stored = after.events_stored - before.events_stored;
    if counted != stored {
        journal.offence(rule, format!("{counted} accepted events were counted and {stored} stored"));
    }
}

/// Runs `worker doctor`, which checks every invariant.
async fn examine(url: &str, env: &HashMap<String, String>, journal: &Journal) -> Result<()> {
    let mut doctor = Command::new(workspace().join("target/debug/worker"));
    doctor.arg("doctor").envs(env).env("DATABASE_URL", url).current_dir(workspace());
    let output = Child::spawn(doctor.stdout(Stdio::piped()).stderr(Stdio::piped()))?.output().await?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stdout);
        for line in told.lines().take(10) {
            journal.offence("the doctor finds that every invariant holds", line);
        }
        if told.is_empty() {
            journal.offence("the doctor finds that every invariant holds", String::from_utf8_lossy(&output.stderr));
        }
    }
    Ok(())
}

/// Writes down when this process is late itself, so that nobody else is blamed for it.
async fn watch_harness(journal: Arc<Journal>) {
    loop {
        let asked = Instant::now();
        tokio::time::sleep(TICK).await;
        let late = asked.elapsed().saturating_sub(TICK);
        if late > TICK_LATE {
            journal.stalled(late);
        }
    }
}
