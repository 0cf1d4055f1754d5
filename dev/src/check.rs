//! `cargo dev check`: all checks, ordered so that a failure shows early. CI runs this and nothing else.

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::{
    child::status,
    deny::deny,
    prepare::prepare,
    schemathesis::{SEED, schemathesis},
    tidy::tidy,
    workspace,
};

/// Runs all checks, one after the other.
///
/// # Errors
/// When a check fails; the checks after it are not run.
pub async fn check() -> Result<()> {
    cargo("formatting", &["fmt", "--all", "--check"], &[]).await?;
    println!("== tidy");
    tidy()?;
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"], &[]).await?;
    cargo("tests", &["test", "--workspace", "--locked"], &[]).await?;
    println!("== the api and its OpenAPI document agree");
    schemathesis(SEED).await?;
    let strict = [("RUSTDOCFLAGS", "--deny warnings")];
    cargo("documentation", &["doc", "--workspace", "--no-deps", "--locked"], &strict).await?;
    println!("== what we depend on");
    deny().await?;
    println!("== .sqlx is fresh");
    prepare(true).await?;
    println!("== all checks passed");
    Ok(())
}

async fn cargo(name: &str, arguments: &[&str], env: &[(&str, &str)]) -> Result<()> {
    println!("== {name}: cargo {}", arguments.join(" "));
    let mut cargo = Command::new("cargo");
    cargo.args(arguments).envs(env.iter().copied()).current_dir(workspace());
    ensure!(status(&mut cargo).await?.success(), "{name} failed");
    Ok(())
}
