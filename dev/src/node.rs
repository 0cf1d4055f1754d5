//! Node for the tests that need it: modules below `target`, installed once.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;

use crate::{
    python::{install_once, run},
    workspace,
};

/// What is installed.
const MODULES: [&str; 1] = ["standardwebhooks@1.1.1"];

const INSTALL_HINT: &str = "Node 20 or later and npm are needed: `apt-get install nodejs npm`, `brew install node` or \
    `dnf install nodejs`";

/// The folder whose `node_modules` has what the scripts in `dev/interop` import.
///
/// # Errors
/// When there is no Node or npm (the message says what to install), or a module is not to be had.
pub async fn modules() -> Result<PathBuf> {
    run(Command::new("node").arg("--version"), INSTALL_HINT)?;
    install_once(workspace().join("target/node"), MODULES.join("\n"), |folder| {
        println!("Installing the Node modules {}…", MODULES.join(", "));
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-save", "--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund"]);
        npm.arg("--prefix").arg(folder).args(MODULES).current_dir(folder);
        run(&mut npm, INSTALL_HINT)?;
        Ok(())
    })
    .await
}

/// The folder whose `node_modules` has what the lock file in `dev/clients` names.
///
/// # Errors
/// When there is no Node or npm (the message says what to install), or a module is not to be had.
pub async fn client_modules() -> Result<PathBuf> {
    run(Command::new("node").arg("--version"), INSTALL_HINT)?;
    let source = workspace().join("dev/clients");
    let lock = fs::read_to_string(source.join("package-lock.json"))?;
    install_once(workspace().join("target/clients"), lock, move |folder| {
        println!("Installing the Node modules of {}…", source.display());
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source.join(name), folder.join(name))?;
        }
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder);
        run(&mut npm, INSTALL_HINT)?;
        Ok(())
    })
    .await
}
