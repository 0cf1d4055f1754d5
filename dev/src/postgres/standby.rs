//! A standby of one of our servers, which repeats what the server does until it is promoted.

use std::{fs, process::Command};

use anyhow::{Context, Result};

use super::{
    Afterwards, Postgres, run,
    state::{Wait, lock, temporary_directory},
};
use crate::reaper::{self, Charge};

impl Postgres {
    /// Makes a standby that streams from this server, in a folder of its own, which is removed when the standby is
    /// dropped. The server is stopped for a moment, so that its data can be copied.
    ///
    /// # Errors
    /// When the data cannot be copied, or one of the two does not start.
    pub fn standby(&self, purpose: &str) -> Result<Self> {
        let data = temporary_directory(purpose);
        let lock = lock(&data, Wait::Briefly)?;
        reaper::watch(&Charge::Folder(&data))?;
        self.stop("fast")?;
        let copied = run(Command::new("cp").arg("-a").arg(&self.data).arg(&data));
        self.resume()?;
        copied?;
        let settings = data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&settings).with_context(|| format!("cannot read {}", settings.display()))?;
        let source = format!("primary_conninfo = 'host=127.0.0.1 port={} user=postgres'\n", self.port);
        fs::write(&settings, text + &source)?;
        fs::write(data.join("standby.signal"), "")?;
        let mut standby = Self {
            binaries: self.binaries.clone(),
            data,
            port: 0,
            user: self.user,
            durability: self.durability,
            afterwards: Afterwards::Remove,
            _lock: lock,
        };
        standby.boot()?;
        Ok(standby)
    }

    /// Makes a standby take writes; returns when it does.
    ///
    /// # Errors
    /// When `pg_ctl` fails.
    pub fn promote(&self) -> Result<()> {
        run(self.command("pg_ctl").args(["-w", "-t", "60", "promote", "-D"]).arg(&self.data))
    }
}
