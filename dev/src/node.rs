//! Node modules that tests and the dashboard need. They are installed once: those of tests below `target`, those of the
//! dashboard where the api is built.

use std::{
    fs,
    path::{Path, PathBuf},
};

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
    let (source, target) = (workspace().join("dev/clients"), workspace().join("target/clients"));
    locked_modules(&source, target, async |folder| {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(source.join(name), folder.join(name))?;
        }
        clean_install(folder).await
    })
    .await
}

/// The folder `node_modules` of the dashboard, with what the lock file in `api/ui` names. Debug builds of the api read
/// it there when they start, and release builds embed it.
///
/// # Errors
/// Those of [`client_modules`].
pub async fn dashboard_modules() -> Result<PathBuf> {
    let source = workspace().join("api/ui");
    locked_modules(&source, source.join("node_modules"), async |_| clean_install(&source).await).await
}

/// Fills a folder once with what the lock file in another names.
async fn locked_modules(
    source: &Path,
    folder: PathBuf,
    install: impl AsyncFnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    Tool::Node.require()?;
    Tool::Npm.require()?;
    let lock = fs::read_to_string(source.join("package-lock.json"))?;
    install_once(folder, lock, async |folder| {
        println!("Installing the Node modules of {}…", source.display());
        install(folder).await
    })
    .await
}

/// Installs exactly what the lock file in this folder names, and runs no script of any package.
async fn clean_install(folder: &Path) -> Result<()> {
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(folder);
    succeed(&mut npm, "the modules of a lock file cannot be installed").await?;
    Ok(())
}
