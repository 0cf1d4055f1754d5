//! Ends what this process has started where this process ends without running destructors: a test binary always, any
//! other when it is killed. A shell does it, which learns of the end by a pipe that closes. What ends in order tells
//! the shell so, and then the shell has nothing to do.

use std::{
    fmt::{Display, Formatter},
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result};

const SCRIPT: &str = include_str!("reaper.sh");

/// The pipe to the shell, which is started when something is watched for the first time.
static PIPE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Something that must not outlive this process.
#[derive(Clone, Copy, Debug)]
pub enum Charge<'a> {
    /// A process group, which is told to stop.
    Group(u32),
    /// The postmaster of a server whose data is kept: it ends its sessions and writes everything down.
    Server(u32),
    /// The postmaster of a server whose data nobody wants back.
    DisposableServer(u32),
    /// A folder, and the lock file beside it.
    Folder(&'a Path),
}

impl Display for Charge<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Group(id) => write!(formatter, "TERM -{id}"),
            Self::Server(id) => write!(formatter, "INT {id}"),
            Self::DisposableServer(id) => write!(formatter, "QUIT {id}"),
            Self::Folder(path) => write!(formatter, "remove {}", path.display()),
        }
    }
}

/// Ends this when this process has ended, unless it is forgotten before.
///
/// # Errors
/// When there is no shell.
pub fn watch(charge: &Charge<'_>) -> Result<()> {
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    if pipe.is_none() {
        *pipe = Some(start().context("cannot start sh, which ends what a killed process leaves behind")?);
    }
    let pipe = pipe.as_mut().context("the shell has just been started")?;
    Ok(writeln!(pipe, "+{charge}")?)
}

/// This has ended already.
pub fn forget(charge: &Charge<'_>) {
    if let Some(pipe) = PIPE.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        // A shell that is gone cannot do anything wrong.
        let _ = writeln!(pipe, "-{charge}");
    }
}

fn start() -> Result<ChildStdin> {
    let mut shell = Command::new("sh");
    // A group of its own, out of the reach of what ends us.
    shell.args(["-c", SCRIPT, "postrider-reaper"]).current_dir("/").process_group(0);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    shell.stdin.take().context("the shell's input is piped")
}
