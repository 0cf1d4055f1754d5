//! The rules of `deny.toml` for what we depend on: licenses, sources, bans. The tool is built once, below `target`.
//! Advisories are left to `cargo deny check advisories` by hand: their database is a repository of its own, and a build
//! should not fail for what somebody published since.

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::{
    child::{status, succeed},
    install::install_once,
    workspace,
};

/// The tool's version.
const VERSION: &str = "0.20.2";

/// Checks the rules.
///
/// # Errors
/// When one is broken, or the tool cannot be built.
pub async fn deny() -> Result<()> {
    let tool = install_once(workspace().join("target/cargo-deny"), VERSION.to_owned(), async |folder| {
        println!("Building cargo-deny {VERSION}…");
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--quiet", "--locked", "cargo-deny", "--version", VERSION, "--root"]).arg(folder);
        succeed(&mut cargo, "cargo-deny cannot be built").await?;
        Ok(())
    })
    .await?;
    let mut check = Command::new(tool.join("bin/cargo-deny"));
    check.args(["check", "bans", "licenses", "sources"]).current_dir(workspace());
    ensure!(status(&mut check).await?.success(), "a rule of deny.toml is broken");
    Ok(())
}
