//! Python for the checks that need it: a virtual environment below `target`, made once from `dev/requirements.txt` and
//! again when that changes. It does not know what the packages are for.

use std::{fs, path::PathBuf};

use anyhow::Result;
use tokio::process::Command;

use crate::{child::succeed, install::install_once, tools::Tool, workspace};

/// The folder of a virtual environment with all that `dev/requirements.txt` names; its programs are in `bin`.
///
/// # Errors
/// When there is no Python with its `venv` module (the message says what to install), or a package is not to be had.
pub async fn venv() -> Result<PathBuf> {
    Tool::Python.require()?;
    let hint = Tool::Python.install_hint();
    let requirements = workspace().join("dev/requirements.txt");
    // Another Python would not find the packages of this one.
    let version = succeed(Command::new("python3").arg("--version"), hint).await?;
    let wanted = format!("{version}{}", fs::read_to_string(&requirements)?);
    install_once(workspace().join("target/python"), wanted, async |folder| {
        println!("Installing the Python packages of {}…", requirements.display());
        succeed(Command::new("python3").args(["-m", "venv"]).arg(folder), hint).await?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        succeed(pip.arg(&requirements), "a package of dev/requirements.txt cannot be installed").await?;
        Ok(())
    })
    .await
}
