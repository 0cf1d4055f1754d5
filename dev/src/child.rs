//! Child processes that do not outlive the process that started them. Each child leads a process group of its own, so
//! Ctrl-C reaches only its owner, which then stops its children in order. If the owner is killed, the [`reaper`] stops
//! them.

use std::{
    process::{ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
};

use crate::reaper;

/// A child that has not stopped this long after SIGTERM is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(30);
/// How often a destructor looks whether a stopping child has ended, because a destructor cannot await it.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A running child. Dropping it sends SIGTERM to its process group and waits until the child has ended.
pub struct Child {
    name: String,
    id: u32,
    inner: tokio::process::Child,
}

impl Child {
    /// Starts a command in a process group of its own, with an empty standard input.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self> {
        Self::spawn_reading(Stdio::null(), command)
    }

    /// Starts a command in a process group of its own, which reads its standard input from there.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_reading(input: Stdio, command: &mut Command) -> Result<Self> {
        let name = command.as_std().get_program().display().to_string();
        let started = command.stdin(input).process_group(0).spawn();
        let inner = started.with_context(|| format!("cannot start {name}"))?;
        let id = inner.id().context("a child that nobody has waited for has an id")?;
        reaper::watch(&reaper::Charge::Group(id))?;
        Ok(Self { name, id, inner })
    }

    /// The id of the process, which is also the id of its process group.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The pipe of the child's standard input; `None` where it is not piped or was taken before.
    pub fn stdin(&mut self) -> Option<tokio::process::ChildStdin> {
        self.inner.stdin.take()
    }

    /// The pipe of the child's standard output; `None` where it is not piped or was taken before.
    pub fn stdout(&mut self) -> Option<tokio::process::ChildStdout> {
        self.inner.stdout.take()
    }

    /// Sends a signal to the child's process group; does nothing where the child has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.id).ok().and_then(Pid::from_raw) {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Waits until the child has ended.
    ///
    /// # Errors
    /// When the operating system cannot wait for the child.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        let status = self.inner.wait().await?;
        reaper::forget(&reaper::Charge::Group(self.id));
        Ok(status)
    }

    /// Waits until the child has ended, and answers what it has written to its pipes.
    ///
    /// # Errors
    /// When the operating system cannot wait for the child.
    pub async fn output(mut self) -> Result<Output> {
        let (stdout, stderr) = (self.inner.stdout.take(), self.inner.stderr.take());
        let (stdout, stderr, status) = tokio::join!(drain(stdout), drain(stderr), self.wait());
        Ok(Output { status: status?, stdout: stdout?, stderr: stderr? })
    }

    /// Whether the child has ended; true also where the operating system cannot tell.
    fn has_ended(&mut self) -> bool {
        !matches!(self.inner.try_wait(), Ok(None))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(Signal::TERM);
            let asked = Instant::now();
            while !self.has_ended() && asked.elapsed() < STOPPED_WITHIN {
                std::thread::sleep(LOOK_EVERY);
            }
            if !self.has_ended() {
                eprintln!("{} has not stopped within {STOPPED_WITHIN:?} and is killed", self.name);
                self.signal(Signal::KILL);
            }
        }
        reaper::forget(&reaper::Charge::Group(self.id));
    }
}

async fn drain(pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(mut pipe) = pipe {
        pipe.read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// Runs a command until it has ended; its output goes where ours goes.
///
/// # Errors
/// When the program cannot be started.
pub async fn status(command: &mut Command) -> Result<ExitStatus> {
    Child::spawn(command)?.wait().await
}

/// Runs a command until it has ended, and answers what it has written to standard output.
///
/// # Errors
/// When the program cannot be started, or fails; the error has the hint and what the program wrote.
pub async fn succeed(command: &mut Command, hint: &str) -> Result<String> {
    let program = command.as_std().get_program().display().to_string();
    let child = Child::spawn(command.stdout(Stdio::piped()).stderr(Stdio::piped())).with_context(|| hint.to_owned())?;
    let output = child.output().await?;
    let [told, complained] = [&*output.stdout, &*output.stderr].map(String::from_utf8_lossy);
    ensure!(output.status.success(), "{program} failed: {}. {hint}\n{told}{complained}", output.status);
    Ok(told.into_owned())
}
