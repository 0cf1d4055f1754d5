//! Node modules that tests need. They are installed once, below `target`.

use std::{fs, path::PathBuf};

use anyhow::Result;
use tokio::process::Command;

use crate::{child::succeed, install::install_once, tools::Tool, workspace};

/// The modules that the scripts in `dev/interop` import.
const MODULES: [&str; 1] = ["standardwebhooks@1.1.1"];

/// The folder whose `node_modules` holds what the scripts in `dev/interop` import.
///
/// # Errors
/// When Node or npm is missing (the message says how to install it), or a module cannot be fetched.
pub async fn modules() -> Result<PathBuf> {
    Tool::Node.require()?;
    Tool::Npm.require()?;
    install_once(workspace().join("target/node"), MODULES.join("\n"), async |folder| {
        println!("Installing the Node modules {}…", MODULES.join(", "));
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]);
        npm.arg("--prefix").arg(folder).args(MODULES).current_dir(folder);
        succeed(&mut npm, "a Node module cannot be installed").await?;
        Ok(())
    })
    .await
}

/// The folder whose `node_modules` holds what the lock file in `dev/clients` names.
///
/// # Errors
/// When Node or npm is missing (the message says how to install it), or a module cannot be fetched.
pub async fn client_modules() -> Result<PathBuf> {
    Tool::Node.require()?;
    Tool::Npm.require()?;
    let source = workspace().join("dev/clients");
    let lock = fs::read_to_string(source.join("package-lock.json"))?;
    install_once(workspace().join("target/clients"), lock, async |folder| {
        println!("Installing the Node modules of {}…", source.display());
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source.join(name), folder.join(name))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder);
        succeed(&mut npm, "the modules of a lock file cannot be installed").await?;
        Ok(())
    })
    .await
}
