//! Ends the processes and removes the folders that this process leaves behind when it ends without running destructors:
//! a test binary always does, any other process when it is killed. A shell does this work. It holds one end of a pipe,
//! and learns by the closing of the pipe that this process has ended. Whatever ends in order is taken off the shell's
//! list.

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

/// The pipe to the shell. The first call of [`watch`] starts the shell.
static PIPE: Mutex<Option<ChildStdin>> = Mutex::new(None);

/// Something that must not outlive this process.
#[derive(Clone, Copy, Debug)]
pub enum Charge<'a> {
    /// A process group, which gets SIGTERM.
    Group(u32),
    /// The main process of a server whose data is kept. It gets SIGINT, so that it ends its sessions and writes
    /// everything to disk.
    Server(u32),
    /// The main process of a server whose data is thrown away. It gets SIGQUIT, so that it ends at once.
    DisposableServer(u32),
    /// A folder, which is removed together with its lock file.
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

/// Puts this on the shell's list: it is ended once this process has ended, unless [`forget`] takes it off before.
///
/// # Errors
/// When the shell cannot be started.
pub fn watch(charge: &Charge<'_>) -> Result<()> {
    let mut pipe = PIPE.lock().unwrap_or_else(PoisonError::into_inner);
    if pipe.is_none() {
        *pipe = Some(start().context("cannot start sh, which ends what a killed process leaves behind")?);
    }
    let pipe = pipe.as_mut().context("the shell has just been started")?;
    Ok(writeln!(pipe, "+{charge}")?)
}

/// Takes this off the shell's list, because it has ended.
pub fn forget(charge: &Charge<'_>) {
    if let Some(pipe) = PIPE.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
        // If the shell is gone, nothing remains to be taken off its list.
        let _ = writeln!(pipe, "-{charge}");
    }
}

fn start() -> Result<ChildStdin> {
    let mut shell = Command::new("sh");
    // The shell leads a process group of its own, so that a signal to our group does not reach it.
    shell.args(["-c", SCRIPT, "postrider-reaper"]).current_dir("/").process_group(0);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    shell.stdin.take().context("the shell's input is piped")
}
