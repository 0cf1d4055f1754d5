//! Connections: which sessions there are, how each is set up, and bringing the schema up to date at start.

use std::time::Duration;

use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// The migrations, embedded in the binaries.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../migrations");

/// How long anything waits for a connection before it says that the database is away.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement of the management API may take.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one ingest statement may take. `lane_linger()` in the migrations must be longer.
pub const INGEST_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long we wait for the answer to a statement of the queue, whatever the server does: longer than its own limit for
/// ingest, so that only a server that is frozen or cut off is given up.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a start tries to reach the database, a second apart, before it gives up.
const START_TRIES_MAX: u32 = 30;

/// Which database, and which schema in it.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// From `DATABASE_URL`.
    pub options: PgConnectOptions,
    /// The schema that holds every table; plain lower-case letters, digits and `_`.
    pub schema: String,
}

/// What a session is for, which decides how it is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Reads and rare writes of people: planned afresh each time, because filters differ widely.
    Management,
    /// Storing events: bounded in time, because an idle lane relies on it.
    Ingest,
    /// Making deliveries of what is stored already: bounded in time like ingest, and without waiting for the disk,
    /// because what a crash undoes is done again.
    FanOut,
    /// The queue's statements and duties.
    Queue,
}

impl DatabaseConfig {
    /// A pool of such sessions. Connects when first used.
    #[must_use]
    pub fn pool(&self, session: Session, connections_max: u32) -> PgPool {
        let timeout = match session {
            Session::Management => STATEMENT_TIMEOUT,
            Session::Ingest | Session::FanOut => INGEST_STATEMENT_TIMEOUT,
            Session::Queue => Duration::from_secs(60),
        };
        let plans = match session {
            Session::Management => "force_custom_plan",
            Session::Ingest | Session::FanOut | Session::Queue => "auto",
        };
        let mut options = self
            .connect_options()
            .options([("statement_timeout", timeout.as_millis().to_string()), ("plan_cache_mode", plans.to_owned())]);
        if session == Session::FanOut {
            options = options.options([("synchronous_commit", "off")]);
        }
        PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A ping before each use would double the round trips; a broken connection is found out by its user.
            .test_before_acquire(session == Session::Management)
            .connect_lazy_with(options)
    }

    /// The notification channel of this schema with that suffix; channels are per database, schemas are not.
    #[must_use]
    pub fn channel(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.schema)
    }

    /// Waits for the database, then creates the schema and runs the migrations that it lacks. Several processes may
    /// do so at once: one works, the others wait and find nothing to do.
    ///
    /// # Errors
    /// When the database stays away, or a migration fails.
    pub async fn migrate(&self) -> Result<(), MigrateError> {
        let mut connection = self.connect_patiently().await?;
        // Locked apart from the migrations' own lock, which needs the schema to be there.
        let lock = i64::from_be_bytes(*b"postride");
        sqlx::query("SELECT pg_advisory_lock($1)").bind(lock).execute(&mut connection).await?;
        let known = sqlx::query_scalar::<_, bool>("SELECT to_regnamespace($1) IS NOT NULL")
            .bind(&self.schema)
            .fetch_one(&mut connection)
            .await?;
        if !known {
            // The name is plain letters, digits and `_`: checked when the configuration was read.
            let create = format!("CREATE SCHEMA \"{}\"", self.schema);
            connection.execute(sqlx::AssertSqlSafe(create)).await?;
        }
        sqlx::query("SELECT pg_advisory_unlock($1)").bind(lock).execute(&mut connection).await?;
        MIGRATIONS.run_direct(None, &mut connection, false).await?;
        connection.close().await?;
        Ok(())
    }

    async fn connect_patiently(&self) -> Result<PgConnection, sqlx::Error> {
        let mut tries = 1;
        loop {
            match self.connect_options().connect().await {
                Ok(connection) => return Ok(connection),
                Err(error) if tries < START_TRIES_MAX && crate::error::is_outage(&error) => {
                    tracing::warn!(%error, tries, "waiting for the database");
                    tries += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn connect_options(&self) -> PgConnectOptions {
        self.options
            .clone()
            .options([("search_path", self.schema.as_str()), ("timezone", "UTC")])
            .application_name("postrider")
            .log_slow_statements(tracing::log::LevelFilter::Off, Duration::MAX)
            .log_statements(tracing::log::LevelFilter::Off)
    }
}

/// Runs a query on a connection of the pool, and gives it up after [`ANSWER_TIMEOUT`]: a server that was frozen or cut
/// off says nothing, and TCP alone would wait for a quarter of an hour. The connection is then closed, not returned.
macro_rules! bounded {
    ($pool:expr, $query:ident.$fetch:ident) => {
        $crate::database::bounded!($pool, |connection| $query.$fetch(connection))
    };
    ($pool:expr, |$connection:ident| $answer:expr) => {
        match $pool.acquire().await {
            Err(error) => Err(error),
            Ok(mut acquired) => {
                let answer = {
                    let $connection = &mut *acquired;
                    tokio::time::timeout($crate::database::ANSWER_TIMEOUT, $answer).await
                };
                answer.unwrap_or_else(|_| {
                    acquired.close_on_drop();
                    Err(sqlx::Error::PoolTimedOut)
                })
            }
        }
    };
}
pub(crate) use bounded;
