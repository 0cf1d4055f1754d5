//! Programs that some tests and checks need and that not every machine has. A test whose tool is not there says so and
//! passes, except in CI, where everything has to be there.

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

/// A program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Runs the documentation's examples.
    Bash,
    /// Calls the api in the documentation's examples.
    Curl,
    /// Node 20 or later.
    Node,
    /// Installs what Node's scripts import, and fetches a Postgres where there is none.
    Npm,
    /// Makes and checks signatures in the documentation's examples.
    Openssl,
    /// Talks to the database in the documentation's examples.
    Psql,
    /// Python 3.10 or later with its `venv` module.
    Python,
}

impl Tool {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Bash, Self::Curl, Self::Node, Self::Npm, Self::Openssl, Self::Psql, Self::Python];

    /// What the program is called.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Curl => "curl",
            Self::Node => "node",
            Self::Npm => "npm",
            Self::Openssl => "openssl",
            Self::Psql => "psql",
            Self::Python => "python3",
        }
    }

    /// How the program is installed.
    #[must_use]
    pub fn install_hint(self) -> &'static str {
        match self {
            Self::Bash => "bash is needed: install it with your package manager",
            Self::Curl => "curl is needed: install it with your package manager",
            Self::Node | Self::Npm => {
                "Node 20 or later and npm are needed: `apt-get install nodejs npm`, `brew install node` or \
                 `dnf install nodejs`"
            }
            Self::Openssl => "openssl is needed: install it with your package manager",
            Self::Psql => {
                "psql is needed: `apt-get install postgresql-client`, `brew install libpq` or `dnf install postgresql`"
            }
            Self::Python => {
                "Python 3.10 or later with its venv module is needed: `apt-get install python3 python3-venv`, \
                 `brew install python` or `dnf install python3`"
            }
        }
    }

    /// Whether the program runs here.
    #[must_use]
    pub fn is_there(self) -> bool {
        let arguments: &[&str] = match self {
            // Debian has packages of their own for these two, and venv starts without the second, but does not work.
            Self::Python => &["-c", "import venv, ensurepip"],
            Self::Openssl => &["version"],
            Self::Bash | Self::Curl | Self::Node | Self::Npm | Self::Psql => &["--version"],
        };
        let mut command = Command::new(self.name());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Fails where the program is not there.
    ///
    /// # Errors
    /// How the program is installed.
    pub fn require(self) -> Result<()> {
        ensure!(self.is_there(), self.install_hint());
        Ok(())
    }
}

/// Whether a test may go on: all these programs are there. Otherwise the test says that it is skipped, and should
/// return.
///
/// # Panics
/// In CI (where the variable `CI` is set), when one is missing: there nothing is skipped.
#[must_use]
pub fn are_there(tools: &[Tool]) -> bool {
    let Some(missing) = tools.iter().find(|tool| !tool.is_there()) else { return true };
    let is_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!is_ci, "no {} in CI, where nothing is skipped. {}", missing.name(), missing.install_hint());
    // Not by `println!`, which is shown for tests that fail only.
    let test = std::thread::current().name().unwrap_or("a check").to_owned();
    let _ = writeln!(std::io::stderr(), "{test} skipped: no {}", missing.name());
    false
}
