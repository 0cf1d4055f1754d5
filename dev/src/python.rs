//! A Python environment for the checks that need one. It is made below `target` from `dev/requirements.txt`, and again
//! when that file changes. It does not know what the packages are for.

use std::{fs, path::PathBuf};

use anyhow::Result;
use tokio::process::Command;

use crate::{child::succeed, install::install_once, tools::Tool, workspace};

/// The folder of a virtual environment with the packages of `dev/requirements.txt`. Its programs are in `bin`.
///
/// # Errors
/// When Python or its `venv` module is missing (the message says how to install it), or a package cannot be fetched.
pub async fn venv() -> Result<PathBuf> {
    Tool::Python.require()?;
    let hint = Tool::Python.install_hint();
    let requirements = workspace().join("dev/requirements.txt");
    // The version of Python is part of what is wanted, because another version does not find the packages of this one.
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
