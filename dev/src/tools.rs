//! Programs that some tests and checks need and that some machines lack. A test whose program is missing says so and
//! passes; in CI it fails.

use std::{
    env,
    io::Write,
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};

/// A program that a test or a check runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// Runs the examples of the documentation.
    Bash,
    /// Looks at the dashboard.
    Chromium,
    /// Calls the api in the examples of the documentation.
    Curl,
    /// Runs JavaScript; version 20 or later.
    Node,
    /// Installs Node modules, and fetches a Postgres where the machine has none.
    Npm,
    /// Makes and checks signatures in the examples of the documentation.
    Openssl,
    /// Checks the metrics, and tests the rules of alerts in `deploy/prometheus`.
    Promtool,
    /// Talks to the database in the examples of the documentation.
    Psql,
    /// Runs Python scripts; version 3.10 or later, with the `venv` module.
    Python,
}

impl Tool {
    /// All programs.
    pub const ALL: [Self; 9] = [
        Self::Bash,
        Self::Chromium,
        Self::Curl,
        Self::Node,
        Self::Npm,
        Self::Openssl,
        Self::Promtool,
        Self::Psql,
        Self::Python,
    ];

    /// The name of the program, as it is started.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bash => "bash",
            Self::Chromium => "chromium",
            Self::Curl => "curl",
            Self::Node => "node",
            Self::Npm => "npm",
            Self::Openssl => "openssl",
            Self::Promtool => "promtool",
            Self::Psql => "psql",
            Self::Python => "python3",
        }
    }

    /// How to install the program.
    #[must_use]
    pub fn install_hint(self) -> &'static str {
        match self {
            Self::Bash => "bash is needed: install it with your package manager",
            Self::Chromium => {
                "Chromium is needed: `apt-get install chromium`, `dnf install chromium` or your package manager"
            }
            Self::Curl => "curl is needed: install it with your package manager",
            Self::Node | Self::Npm => {
                "Node 20 or later and npm are needed: `apt-get install nodejs npm`, `brew install node` or \
                 `dnf install nodejs`"
            }
            Self::Openssl => "openssl is needed: install it with your package manager",
            Self::Promtool => "promtool is needed: `apt-get install prometheus` or `brew install prometheus`",
            Self::Psql => {
                "psql is needed: `apt-get install postgresql-client`, `brew install libpq` or `dnf install postgresql`"
            }
            Self::Python => {
                "Python 3.10 or later with its venv module is needed: `apt-get install python3 python3-venv`, \
                 `brew install python` or `dnf install python3`"
            }
        }
    }

    /// Whether the program is installed and starts.
    #[must_use]
    pub fn is_there(self) -> bool {
        let arguments: &[&str] = match self {
            // Debian packages `venv` and `ensurepip` separately. Without `ensurepip`, `venv` starts but makes no usable
            // environment.
            Self::Python => &["-c", "import venv, ensurepip"],
            Self::Openssl => &["version"],
            Self::Bash | Self::Chromium | Self::Curl | Self::Node | Self::Npm | Self::Promtool | Self::Psql => {
                &["--version"]
            }
        };
        let mut command = Command::new(self.name());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// Fails where the program is missing.
    ///
    /// # Errors
    /// The message says how to install the program.
    pub fn require(self) -> Result<()> {
        ensure!(self.is_there(), self.install_hint());
        Ok(())
    }
}

/// Whether a test can run: true if all these programs are there. If one is missing, this prints that the test is
/// skipped, and the test should return.
///
/// # Panics
/// When a program is missing and the variable `CI` is set, because no test is skipped in CI.
#[must_use]
pub fn are_there(tools: &[Tool]) -> bool {
    let Some(missing) = tools.iter().find(|tool| !tool.is_there()) else { return true };
    let is_ci = env::var_os("CI").is_some_and(|value| !value.is_empty());
    assert!(!is_ci, "no {} in CI, where nothing is skipped. {}", missing.name(), missing.install_hint());
    // `println!` would show this for failing tests only.
    let test = std::thread::current().name().unwrap_or("a check").to_owned();
    let _ = writeln!(std::io::stderr(), "{test} skipped: no {}", missing.name());
    false
}
