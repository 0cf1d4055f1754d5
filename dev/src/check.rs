//! `cargo dev check`: every check there is, in the order in which they fail fastest. CI calls this and nothing else.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    deny::deny,
    prepare::prepare,
    schemathesis::{SEED, schemathesis},
    tidy::tidy,
    workspace,
};

/// Runs all checks.
///
/// # Errors
/// With the first that fails.
pub async fn check() -> Result<()> {
    cargo("formatting", &["fmt", "--all", "--check"], &[])?;
    println!("== tidy");
    tidy()?;
    cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"], &[])?;
    cargo("tests", &["test", "--workspace", "--locked"], &[])?;
    println!("== the api and its OpenAPI document agree");
    schemathesis(SEED).await?;
    cargo("documentation", &["doc", "--workspace", "--no-deps", "--locked"], &[("RUSTDOCFLAGS", "--deny warnings")])?;
    println!("== what we depend on");
    deny().await?;
    println!("== .sqlx is fresh");
    prepare(true).await?;
    println!("== all checks passed");
    Ok(())
}

fn cargo(name: &str, arguments: &[&str], env: &[(&str, &str)]) -> Result<()> {
    println!("== {name}: cargo {}", arguments.join(" "));
    let status = Command::new("cargo").args(arguments).envs(env.iter().copied()).current_dir(workspace()).status()?;
    ensure!(status.success(), "{name} failed");
    Ok(())
}
