//! `cargo dev check` applies the rules of `deny.toml` to our dependencies: licenses, sources, bans. The tool is built
//! once, below `target`. Advisories are not part of it, because their database changes by itself and a build should not
//! fail for what was published since; run `cargo deny check advisories` by hand.

use anyhow::{Result, ensure};
use tokio::process::Command;

use crate::{
    child::{status, succeed},
    install::install_once,
    workspace,
};

/// The version of cargo-deny that is built.
const VERSION: &str = "0.20.2";

/// Checks the dependencies.
///
/// # Errors
/// When a rule is broken, or the tool cannot be built.
pub async fn deny() -> Result<()> {
    let tool = install_once(workspace().join("target/cargo-deny"), VERSION.to_owned(), async |folder| {
        println!("Building cargo-deny {VERSION}…");
        // Without optimizations the build takes a third of the time, and the check is quick all the same.
        let mut cargo = Command::new("cargo");
        cargo
            .args(["install", "--quiet", "--locked", "--debug", "cargo-deny", "--version", VERSION, "--root"])
            .arg(folder);
        succeed(&mut cargo, "cargo-deny cannot be built").await?;
        Ok(())
    })
    .await?;
    let mut check = Command::new(tool.join("bin/cargo-deny"));
    check.args(["check", "bans", "licenses", "sources"]).current_dir(workspace());
    ensure!(status(&mut check).await?.success(), "a rule of deny.toml is broken");
    Ok(())
}
