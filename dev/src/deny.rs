//! The rules of `deny.toml` for what we depend on: licenses, sources, bans. The tool is built once, below `target`.
//! Advisories are left to `cargo deny check advisories` by hand: their database is a repository of its own, and a build
//! should not fail for what somebody published since.

use std::process::Command;

use anyhow::{Result, ensure};

use crate::{
    python::{install_once, run},
    workspace,
};

/// The tool's version.
const VERSION: &str = "0.20.2";

/// Checks the rules.
///
/// # Errors
/// When one is broken, or the tool cannot be built.
pub async fn deny() -> Result<()> {
    let tool = install_once(workspace().join("target/cargo-deny"), VERSION.to_owned(), |folder| {
        println!("Building cargo-deny {VERSION}…");
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--quiet", "--locked", "cargo-deny", "--version", VERSION, "--root"]).arg(folder);
        run(&mut cargo, "cargo-deny cannot be built")?;
        Ok(())
    })
    .await?;
    let mut check = Command::new(tool.join("bin/cargo-deny"));
    let status = check.args(["check", "bans", "licenses", "sources"]).current_dir(workspace()).status()?;
    ensure!(status.success(), "a rule of deny.toml is broken");
    Ok(())
}
