//! A Postgres server of our own for development and tests. This file starts and stops the server, and finds it a port.
//! As root it runs the server as another user, because Postgres refuses root. `binaries` finds the programs, `state`
//! the folders, and `standby` makes a second server that follows the first. None of them knows what the database is
//! for.

mod binaries;
mod embedded;
mod standby;
mod state;

use std::{
    fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

pub use self::state::{STATE_VARIABLE, state_directory};
use self::{
    binaries::Binaries,
    state::{Wait, disposable_directory, lock, remove, stale, temporary_directory, unprivileged_user},
};
use crate::reaper::{self, Charge};

/// Whether data must survive a crash of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The server forces its writes to disk, as in production.
    Durable,
    /// The server forces nothing to disk, which is faster; for tests, whose data is thrown away.
    Disposable,
}

/// Whether the data is kept when the server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Afterwards {
    Keep,
    Remove,
}

/// A running server of our own. Dropping it stops the server.
pub struct Postgres {
    binaries: Binaries,
    data: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    durability: Durability,
    afterwards: Afterwards,
    /// The lock on the data folder, held for as long as the server belongs to this process.
    _lock: fs::File,
}

/// How often a start is tried. After a kill -9, the lock file of the dead server is in the way for about a second.
const START_TRIES_MAX: u32 = 10;

impl Postgres {
    /// Starts a server on a data folder. The folder is made if it does not exist, and kept when the server stops.
    ///
    /// # Errors
    /// When there are no binaries (the message says how to install them), another major version made the data, or the
    /// server does not start.
    pub fn start(data: &Path) -> Result<Self> {
        Self::start_on(data, Durability::Durable, Afterwards::Keep)
    }

    /// Starts a server on a folder of its own, which is removed when the server is dropped or this process ends in any
    /// way.
    ///
    /// # Errors
    /// When there are no binaries (the message says how to install them), or the server does not start.
    pub fn temporary(purpose: &str, durability: Durability) -> Result<Self> {
        let data = match durability {
            Durability::Durable => temporary_directory(purpose),
            Durability::Disposable => disposable_directory(purpose),
        };
        Self::start_on(&data, durability, Afterwards::Remove)
    }

    fn start_on(data: &Path, durability: Durability, afterwards: Afterwards) -> Result<Self> {
        let lock = lock(data, Wait::Briefly)?;
        let stored = fs::read_to_string(data.join("PG_VERSION")).ok().map(|version| version.trim().to_owned());
        let major = stored.as_deref().and_then(|version| version.parse().ok());
        let binaries = Binaries::find(major)?;
        if let Some(stored) = stored.as_deref().filter(|_| major != Some(binaries.major)) {
            let (data, folder, other) = (data.display(), binaries.folder.display(), binaries.major);
            bail!(
                "the data in {data} was made by Postgres {stored}, but the binaries in {folder} are Postgres {other}: \
                 `rm -r {data}` to begin anew, or set PG_BIN to the folder of Postgres {stored}'s binaries to go on"
            );
        }
        let user = unprivileged_user()?;
        let mut server = Self { _lock: lock, binaries, data: data.to_owned(), port: 0, user, durability, afterwards };
        for (folder, _lock) in stale() {
            server.clear_away(&folder);
        }
        if stored.is_none() {
            server.init()?;
        }
        server.boot()?;
        Ok(server)
    }

    /// Removes the temporary folder of a killed process, and first stops the server that may still run on it.
    fn clear_away(&self, folder: &Path) {
        if folder.join("postmaster.pid").exists() {
            let _ = run(self.command("pg_ctl").args(["-m", "immediate", "-w", "stop", "-D"]).arg(folder));
        }
        let _ = fs::remove_dir_all(unfinished(folder));
        remove(folder);
    }

    /// Stops the server at once, as a power cut would, and starts it again on the same port.
    ///
    /// # Errors
    /// When the server does not start again.
    pub fn restart(&mut self) -> Result<()> {
        self.halt()?;
        self.resume()
    }

    /// Stops the server at once, as a power cut would.
    ///
    /// # Errors
    /// When `pg_ctl` fails.
    pub fn halt(&self) -> Result<()> {
        self.stop("immediate")
    }

    fn stop(&self, mode: &str) -> Result<()> {
        let postmaster = self.pid();
        run(self.command("pg_ctl").args(["-m", mode, "-w", "stop", "-D"]).arg(&self.data))?;
        if let Ok(postmaster) = postmaster {
            reaper::forget(&self.charge(postmaster));
        }
        Ok(())
    }

    fn charge(&self, postmaster: u32) -> Charge<'_> {
        match self.durability {
            Durability::Durable => Charge::Server(postmaster),
            Durability::Disposable => Charge::DisposableServer(postmaster),
        }
    }

    /// Starts a server again that was stopped by [`Self::halt`], on the same port.
    ///
    /// # Errors
    /// When the server does not start.
    pub fn resume(&self) -> Result<()> {
        let mut options = format!(
            "-h 127.0.0.1 -p {} -k '' -c max_connections=300 -c log_min_messages=warning -c autovacuum_naptime=5s \
             -c max_wal_size=4GB -c shared_buffers=512MB",
            self.port
        );
        if self.durability == Durability::Disposable {
            options.push_str(" -c fsync=off -c full_page_writes=off -c synchronous_commit=off -c shared_buffers=128MB");
        }
        let log = self.log();
        run(self
            .command("pg_ctl")
            .args(["-w", "-t", "60", "start", "-D"])
            .arg(&self.data)
            .arg("-l")
            .arg(log)
            .args(["-o", &options]))?;
        reaper::watch(&self.charge(self.pid()?))
    }

    /// The URL of a database on this server.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on which the server listens, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the server's main process.
    ///
    /// # Errors
    /// When the server is not running.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid"))?;
        Ok(text.lines().next().unwrap_or_default().parse()?)
    }

    /// The file that the server logs to.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.data.join("server.log")
    }

    /// Lets the server run until this process ends, even where the process runs no destructors, as a test binary does.
    /// Answers the URL of the server without the name of a database.
    #[must_use]
    pub fn end_with_this_process(self) -> String {
        let url = self.url("");
        std::mem::forget(self);
        url
    }

    /// Makes the data in another folder and renames that folder when it is complete, so that an interrupted run is
    /// started again and never taken for data.
    fn init(&self) -> Result<()> {
        if self.afterwards == Afterwards::Remove {
            reaper::watch(&Charge::Folder(&self.data))?;
        }
        let unfinished = unfinished(&self.data);
        let _ = fs::remove_dir_all(&unfinished);
        reaper::watch(&Charge::Folder(&unfinished))?;
        fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(&unfinished, Some(uid), Some(gid))?;
        }
        fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o700))?;
        run(self
            .command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&unfinished))?;
        fs::rename(&unfinished, &self.data)?;
        reaper::forget(&Charge::Folder(&unfinished));
        Ok(())
    }

    fn boot(&mut self) -> Result<()> {
        // A server that still runs on this folder is left from a killed process of ours, so it is stopped.
        if self.data.join("postmaster.pid").exists() {
            let _ = self.halt();
        }
        let mut last = None;
        for _ in 0..START_TRIES_MAX {
            self.port = free_port()?;
            match self.resume() {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
            sleep(Duration::from_millis(500));
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(5).collect();
        Err(last.context("Postgres does not start")?).with_context(|| format!("the server's log ends: {tail:?}"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.folder.join(program));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        // The server starts in `/`, because its user may not be able to enter the current folder. It leads a process
        // group of its own, so that Ctrl-C does not stop it before its clients.
        command.current_dir("/").env("LC_ALL", "C").process_group(0);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self.stop(match self.durability {
            Durability::Durable => "fast",
            Durability::Disposable => "immediate",
        });
        if self.afterwards == Afterwards::Remove {
            remove(&self.data);
            reaper::forget(&Charge::Folder(&self.data));
        }
    }
}

/// The folder in which data is made until it is complete.
fn unfinished(data: &Path) -> PathBuf {
    let mut path = data.as_os_str().to_owned();
    path.push(".unfinished");
    path.into()
}

/// A port that no process listened on a moment ago.
///
/// # Errors
/// When the machine has no loopback interface or no free port.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed: {}",
        command.get_program().display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
