//! Python for the checks that need it: a virtual environment below `target`, made once from `dev/requirements.txt` and
//! again when that changes. It does not know what the packages are for.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::workspace;

const INSTALL_HINT: &str = "Python 3.10 or later with its venv module is needed: `apt-get install python3 \
    python3-venv`, `brew install python` or `dnf install python3`";

/// The folder of a virtual environment with all that `dev/requirements.txt` names; its programs are in `bin`.
///
/// # Errors
/// When there is no Python with its `venv` module (the message says what to install), or a package is not to be had.
pub async fn venv() -> Result<PathBuf> {
    let requirements = workspace().join("dev/requirements.txt");
    // Another Python would not find the packages of this one.
    let version = run(Command::new("python3").arg("--version"), INSTALL_HINT)?;
    let wanted = format!("{version}{}", fs::read_to_string(&requirements)?);
    install_once(workspace().join("target/python"), wanted, move |folder| {
        println!("Installing the Python packages of {}…", requirements.display());
        run(Command::new("python3").args(["-m", "venv"]).arg(folder), INSTALL_HINT)?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--requirement"]);
        run(pip.arg(requirements), "a package of dev/requirements.txt cannot be installed")?;
        Ok(())
    })
    .await
}

/// Fills a folder once for what is wanted there, and anew when that changes. Of several processes one does the work
/// and the others wait for it.
///
/// # Errors
/// When the work fails; it is tried again the next time.
pub(crate) async fn install_once(
    folder: PathBuf,
    wanted: String,
    install: impl FnOnce(&Path) -> Result<()> + Send + 'static,
) -> Result<PathBuf> {
    let work = move || -> Result<PathBuf> {
        fs::create_dir_all(&folder)?;
        let lock = fs::File::create(folder.with_extension("lock"))?;
        lock.lock()?;
        // Written last, so that what was broken off is begun again.
        let mark = folder.join("installed.txt");
        if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
            return Ok(folder);
        }
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder)?;
        install(&folder)?;
        fs::write(mark, wanted)?;
        Ok(folder)
    };
    tokio::task::spawn_blocking(work).await?
}

/// Runs a program to its end; answers what it has printed.
///
/// # Errors
/// When it cannot be started or fails: the hint, and what it said.
pub(crate) fn run(command: &mut Command, hint: &str) -> Result<String> {
    let program = command.get_program().display().to_string();
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot run {program}. {hint}"))?;
    let [told, complained] = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy);
    ensure!(output.status.success(), "{program} failed: {}. {hint}\n{told}{complained}", output.status);
    Ok(told.into_owned())
}
