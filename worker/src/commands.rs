//! What the binary `worker` does besides working: one command each, which does its work once, prints on standard output
//! what it has done, and ends.

use std::{path::PathBuf, time::Duration};

use anyhow::Context;
use postrider_core::{
    database::{DatabaseConfig, Session},
    process::config::Environment,
    subscription::late_lanes,
    trust::rekey,
    upkeep::{
        self,
        archive::{self, Archive},
        invariants::{self, Violation},
        maintenance,
        partition::Retired,
        stuck,
    },
};

use crate::{config, config::Config, janitor};

/// How long retention may take when it is asked for. With an archive, a large partition takes minutes.
const RETENTION_TIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Connections of retention: one for its lock, one for its work, one that asks meanwhile whether the server answers.
const RETENTION_CONNECTIONS_MAX: u32 = 3;

/// Reads from the environment what the migration needs: the database, and no keys.
///
/// # Errors
/// Every mistake, one sentence each.
pub fn database(mut env: Environment) -> Result<DatabaseConfig, Vec<String>> {
    let database = env.database();
    env.finish(database)
}

/// Brings the schema up to date, as every process does at its start, and does nothing else.
///
/// # Errors
/// When the database stays away, its schema is not one of ours, or a migration fails.
pub async fn migrate(database: DatabaseConfig) -> anyhow::Result<()> {
    bring_up_to_date(&database).await?;
    println!("the schema {} is up to date", database.schema);
    Ok(())
}

async fn bring_up_to_date(database: &DatabaseConfig) -> anyhow::Result<()> {
    upkeep::bring_up_to_date(database).await.context("the database could not be brought up to date")
}

/// What retention reads from the environment: it needs no keys.
#[derive(Clone, Debug)]
pub struct RetentionConfig {
    /// The database and the schema whose old partitions are dropped.
    pub database: DatabaseConfig,
    /// Days for which events, deliveries and attempts are kept.
    pub days: u32,
    /// Where partitions are written before they are dropped; `None` where they are not.
    pub archive: Option<Archive>,
}

impl RetentionConfig {
    /// Reads the configuration from the environment.
    ///
    /// # Errors
    /// Every mistake, one sentence each.
    pub fn from(mut env: Environment) -> Result<Self, Vec<String>> {
        let (database, days) = (env.database(), config::retention_days(&mut env));
        let path = config::archive_path(&mut env);
        let config = database.zip(days).zip(path).map(|((database, days), path)| Self {
            database,
            days,
            archive: config::archive_in(&path),
        });
        env.finish(config)
    }
}

/// Runs retention now, whatever the schedule says, and prints a line for each partition that was dropped or kept.
///
/// # Errors
/// When something could not be dropped or archived, or another process is at it.
pub async fn retention(config: RetentionConfig) -> anyhow::Result<()> {
    bring_up_to_date(&config.database).await?;
    let pool = config.database.pool(Session::Queue, RETENTION_CONNECTIONS_MAX);
    let mut retired = Retired::default();
    let duty = Box::pin(async {
        retired = janitor::retire(&pool, config.days, config.archive.as_ref()).await?;
        Ok(())
    });
    let is_done = maintenance::exclusively(&pool, janitor::RETENTION, RETENTION_TIME_MAX, duty).await;
    anyhow::ensure!(is_done.context("retention broke off")?, "another process is running retention just now");
    for name in &retired.dropped {
        println!("dropped: {name}");
    }
    for name in &retired.kept {
        println!("kept: {name}: a delivery that is not finished needs it");
    }
    for failure in &retired.failed {
        println!("failed: {failure}");
    }
    anyhow::ensure!(retired.failed.is_empty(), "{} partitions could not be dropped", retired.failed.len());
    println!("{} dropped, {} kept", retired.dropped.len(), retired.kept.len());
    Ok(())
}

/// Reads the folder of the archive from the environment.
///
/// # Errors
/// When it is not set.
pub fn archive_folder(mut env: Environment) -> Result<PathBuf, Vec<String>> {
    let folder = env.required("POSTRIDER_ARCHIVE_DIR", |text| Ok(PathBuf::from(text)));
    env.finish(folder)
}

/// Reads every file of an archive, compares it with its checksum, and prints a line for each.
///
/// # Errors
/// When the folder cannot be read, or one of its files is not what was written.
pub async fn verify_archive(folder: PathBuf) -> anyhow::Result<()> {
    let shown = folder.display().to_string();
    let verified = tokio::task::spawn_blocking(move || archive::verify(&folder)).await?;
    let verified = verified.with_context(|| format!("{shown} cannot be read"))?;
    let mut damaged = 0;
    for (name, rows) in &verified {
        match rows {
            Ok(rows) => println!("whole: {name}: {rows} rows"),
            Err(why) => {
                damaged += 1;
                println!("damaged: {name}: {why}");
            }
        }
    }
    anyhow::ensure!(damaged == 0, "{damaged} of {} files are damaged", verified.len());
    println!("{} files are whole", verified.len());
    Ok(())
}

/// Seals anew everything that is not sealed with the first encryption key, and prints on standard output what it has
/// done.
///
/// # Errors
/// When a secret cannot be opened, or the database is away.
pub async fn rekey(config: Config) -> anyhow::Result<()> {
    bring_up_to_date(&config.database).await?;
    let pool = config.database.pool(Session::Queue, 1);
    let rekeyed = rekey::rekey(&pool, &config.keyring).await?;
    println!("{} rows were sealed anew", rekeyed.resealed);
    for row in &rekeyed.unopened {
        println!("not opened: {row}");
    }
    anyhow::ensure!(rekeyed.unopened.is_empty(), "{} rows could not be opened", rekeyed.unopened.len());
    anyhow::ensure!(
        rekeyed.missed == 0,
        "others go on sealing with another key: is the new one first in all processes?"
    );
    println!("everything is sealed with the first key");
    Ok(())
}

/// Checks the database's invariants, looks for what is stuck and for late lanes, and prints a line of standard output
/// for each, with the reason. That lanes wait is no error: most wait on purpose.
///
/// # Errors
/// When there is a violation, something is stuck, or the database cannot be examined.
pub async fn doctor(config: Config) -> anyhow::Result<()> {
    let pool = config.database.pool(Session::Queue, 1);
    let violations = invariants::check(&pool).await?;
    for Violation { violation, id } in &violations {
        println!("{violation}: {id}");
    }
    let stuck = stuck::find(&pool).await?;
    for line in &stuck {
        println!("stuck: {line}");
    }
    let late = late_lanes::list(&pool).await?;
    for lane in &late.lanes {
        println!("waiting: {lane}");
    }
    if late.is_more {
        println!("waiting: more lanes; only the {} that have waited longest are listed", late.lanes.len());
    }
    anyhow::ensure!(violations.is_empty(), "{} violations; the list ends at a hundred", violations.len());
    println!("every invariant holds");
    anyhow::ensure!(stuck.is_empty(), "{} kinds of work are stuck", stuck.len());
    Ok(())
}
