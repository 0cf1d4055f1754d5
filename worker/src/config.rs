//! What a worker reads from its environment.

use std::time::Duration;

use postrider_core::{
    database::DatabaseConfig,
    process::config::{Environment, Settings},
    trust::{seal::Keyring, target_policy::TargetPolicy},
    upkeep::archive::Archive,
};
use rustls::pki_types::CertificateDer;
use traces::config::{Export, read_authorities};

use crate::connections::CONNECTION_AGE_MAX;

/// A worker's configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database and the schema that this worker uses.
    pub database: DatabaseConfig,
    /// The keys that open stored secrets.
    pub keyring: Keyring,
    /// Decides which addresses deliveries may be sent to.
    pub target_policy: TargetPolicy,
    /// Certificate authorities that are trusted besides those of the machine.
    pub authorities: Vec<CertificateDer<'static>>,
    /// How old a connection may be and still carry another request. It is not read from the environment.
    pub connection_age_max: Duration,
    /// Address of the health and metrics server; `None` means that there is none.
    pub listen: Option<String>,
    /// Deliveries that the worker attempts at the same time, at most.
    pub concurrency: u32,
    /// How long attempts may still take after the worker is told to stop.
    pub shutdown_timeout: Duration,
    /// Whether and where spans of attempts are exported.
    pub traces: Export,
    /// Days for which events, deliveries and attempts are kept.
    pub retention_days: u32,
    /// The times, in UTC, at which retention runs; `None` where something else runs `worker retention --once`.
    pub retention_cron: Option<croner::Cron>,
    /// Where partitions are written before retention drops them; `None` where they are not.
    pub archive: Option<Archive>,
    /// All settings as they may be shown.
    pub settings: Settings,
}

impl Config {
    /// Reads the configuration from the environment.
    ///
    /// # Errors
    /// Every mistake, one sentence each.
    pub fn from(mut env: Environment) -> Result<Self, Vec<String>> {
        let config = Self::read(&mut env);
        env.finish(config)
    }

    fn read(env: &mut Environment) -> Option<Self> {
        // Every variable is read before the first error is returned, so that all mistakes are found.
        let stage = env.stage();
        let database = env.database();
        let keyring = env.keyring(stage);
        let target_policy = env.target_policy();
        let authorities = env.parse("POSTRIDER_CA_FILE", "", read_authorities);
        let listen = env.get::<String>("POSTRIDER_WORKER_LISTEN", "127.0.0.1:8081");
        let concurrency = env.number("POSTRIDER_WORKER_CONCURRENCY", "512", 1..=10_000);
        let shutdown_timeout = env.seconds("POSTRIDER_SHUTDOWN_TIMEOUT_SECONDS", "20", 1..=600);
        let traces = Export::read(env, "postrider-worker");
        let retention_days = retention_days(env);
        let retention_cron = env.parse("POSTRIDER_RETENTION_CRON", "0 3 * * *", |text| match text {
            "off" => Ok(None),
            text => text.parse().map(Some).map_err(|error: croner::errors::CronError| error.to_string()),
        });
        let archive_path = archive_path(env);
        Some(Self {
            database: database?,
            keyring: keyring?,
            target_policy: target_policy?,
            authorities: authorities?,
            connection_age_max: CONNECTION_AGE_MAX,
            listen: listen.map(|address| (address != "off").then_some(address))?,
            concurrency: concurrency?,
            shutdown_timeout: shutdown_timeout?,
            traces: traces?,
            retention_days: retention_days?,
            retention_cron: retention_cron?,
            archive: archive_in(&archive_path?),
            settings: env.settings(),
        })
    }
}

/// Reads how many days events, deliveries and attempts are kept.
pub(crate) fn retention_days(env: &mut Environment) -> Option<u32> {
    env.number("POSTRIDER_RETENTION_DAYS", "30", 1..=3650)
}

/// Reads the folder in which partitions are archived; an empty path means none. Whether the folder is there is checked
/// when it is used, because it may be on another machine's disk that is away for a while.
pub(crate) fn archive_path(env: &mut Environment) -> Option<String> {
    env.get("POSTRIDER_ARCHIVE_DIR", "")
}

/// The archive in a folder; none where the path is empty.
pub(crate) fn archive_in(path: &str) -> Option<Archive> {
    (!path.is_empty()).then(|| Archive::new(path.into()))
}
