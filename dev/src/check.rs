//! `cargo dev check`: all checks, ordered so that a failure shows early. CI runs this and nothing else.

use std::{num::NonZero, thread::available_parallelism, time::Instant};

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::{
    chaos,
    child::status,
    deny::deny,
    prepare::prepare,
    schemathesis::{SEED, schemathesis},
    tidy::tidy,
    upgrade, workspace,
};

/// The tests that run once more on the newest Postgres: those in which most depends on what the server does.
const ON_NEWEST_POSTGRES: [&str; 9] = [
    "archive::",
    "crashes::",
    "failover::",
    "lists::",
    "plans::",
    "queue::",
    "retention::",
    "schema::",
    "sql_publish::",
];

/// Runs all checks.
///
/// # Errors
/// When a check fails; the checks after it are not run, and one beside it is cut off.
pub async fn check() -> Result<()> {
    cargo("formatting", &["fmt", "--all", "--check"], &[]).await?;
    println!("== tidy");
    tidy()?;
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"], &[]).await?;
    // Half of the time a test waits for what happens elsewhere.
    let cores = available_parallelism().map_or(1, NonZero::get);
    let threads = (2 * cores).to_string();
    cargo("tests", &["test", "--workspace", "--locked"], &[("RUST_TEST_THREADS", &threads)]).await?;
    // The tests have run on the Postgres of this machine; that from npm is the newest.
    let newest = [&["test", "--package", "dev", "--test", "it", "--locked", "--"][..], &ON_NEWEST_POSTGRES].concat();
    let env = [("RUST_TEST_THREADS", &*threads), ("POSTRIDER_DEV_POSTGRES", "embedded")];
    cargo("tests on the newest Postgres", &newest, &env).await?;
    // The tests have built the binaries. Nothing runs beside this, because it judges by the clock.
    println!("== chaos: nothing is lost while everything fails");
    chaos::check().await?;
    println!("== upgrade: the last release and this tree work on one database");
    upgrade::check().await?;
    // Schemathesis mostly waits for one core, so the checks that only compile run beside it.
    tokio::try_join!(agreement(), compiled_checks())?;
    println!("== all checks passed");
    Ok(())
}

async fn agreement() -> Result<()> {
    println!("== the api and its OpenAPI document agree");
    schemathesis(SEED).await
}

async fn compiled_checks() -> Result<()> {
    let strict = [("RUSTDOCFLAGS", "--deny warnings")];
    cargo("documentation", &["doc", "--workspace", "--no-deps", "--locked"], &strict).await?;
    println!("== .sqlx is fresh");
    prepare(true).await?;
    println!("== what we depend on");
    deny().await
}

async fn cargo(name: &str, arguments: &[&str], env: &[(&str, &str)]) -> Result<()> {
    println!("== {name}: cargo {}", arguments.join(" "));
    let mut cargo = Command::new("cargo");
    cargo.args(arguments).envs(env.iter().copied()).current_dir(workspace());
    let started = Instant::now();
    ensure!(status(&mut cargo).await?.success(), "{name} failed");
    println!("== {name}: passed after {:.0?}", started.elapsed());
    Ok(())
}
