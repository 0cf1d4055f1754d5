//! Connections: the kinds of session, how each is set up, and how the schema is brought up to date at start.

mod functions;
mod health;
mod servers;

use std::time::Duration;

pub use health::{in_time, ping, suspect_sessions, while_answering};
use health::{is_of_use, sessions_are_suspected};
pub use servers::Servers;
use sqlx::{
    ConnectOptions, Connection, Executor, PgConnection, PgPool,
    migrate::{MigrateError, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// How long anybody waits for a connection before the database counts as away.
pub const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a statement of the management API may take.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a statement of the dashboard's pages may take.
pub const PAGE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one ingest statement may take. `lane_linger()` in `sql/functions` must be longer.
pub const INGEST_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long we wait for the answer to a statement of the queue, whatever the server does. It is longer than
/// [`INGEST_STATEMENT_TIMEOUT`], so that only a server that is frozen or cut off is given up.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a step of many statements may take, such as a step of a fan-out or of a job.
pub const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a transaction may hold its locks while the server waits for our next statement. For fan-outs it is shorter:
/// together with [`INGEST_STATEMENT_TIMEOUT`] it must stay below `lane_linger()`.
const IDLE_IN_TRANSACTION_MAX: Duration = Duration::from_secs(5);
/// As [`IDLE_IN_TRANSACTION_MAX`], for fan-outs.
const IDLE_IN_FAN_OUT_MAX: Duration = Duration::from_secs(2);
/// How long an idle session is trusted; a session that has rested longer is tested before it is used.
const IDLE_TRUSTED: Duration = Duration::from_secs(1);
/// How often a starting process tries to reach the database, once a second, before it gives up.
const START_TRIES_MAX: u32 = 30;

/// The key of the advisory lock that a process holds while it brings a schema up to date.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"postride");

/// Why a schema could not be brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database is away, or refused a statement.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A migration that was run before has another text than ours: the schema was made by a version that was never
    /// released.
    #[error(
        "the schema was made by another version of Postrider's migrations ({0}), which cannot be brought up to date; \
         use another schema or database, or remove this one if nothing in it is needed"
    )]
    Foreign(MigrateError),
    /// A migration failed.
    #[error(transparent)]
    Failed(MigrateError),
}

impl From<MigrateError> for MigrationError {
    fn from(error: MigrateError) -> Self {
        match error {
            MigrateError::VersionMismatch(_) | MigrateError::Dirty(_) => Self::Foreign(error),
            error => Self::Failed(error),
        }
    }
}

/// How to reach the database, and the schema in it that is Postrider's.
#[derive(Clone, Debug)]
pub struct DatabaseConfig {
    /// The parts of the connection string in `DATABASE_URL`; of several servers, for the first.
    pub options: PgConnectOptions,
    /// The servers that it names, and which of them is in use.
    pub servers: Servers,
    /// The schema that holds every table; plain lower-case letters, digits and `_`.
    pub schema: String,
    /// The tenant whose subscriptions receive operational events. Each session carries it as a setting, from which SQL
    /// functions read it.
    pub operator_tenant: String,
}

/// What a session is used for; it decides how the session is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// Reads and rare writes for people. Statements are planned afresh each time, because filters differ widely.
    Management,
    /// Reads for the pages of the dashboard. They are planned like those of the management API, and stopped sooner,
    /// because a person waits for each.
    Pages,
    /// Storing events. Statements are limited in time, because a lane that goes idle relies on that limit.
    Ingest,
    /// Making deliveries of events that are already stored. It is limited in time like ingest, and does not wait for
    /// the disk, because what a crash undoes is done again.
    FanOut,
    /// The duties that keep the queue in order, and whatever else a worker needs.
    Queue,
    /// Claims, the events that they need, and outcomes: few statements, many times a second. Each is planned once,
    /// because planning a look into partitions takes longer than the look.
    Hot,
}

impl DatabaseConfig {
    /// A pool of sessions of this kind. It connects when it is first used.
    #[must_use]
    pub fn pool(&self, session: Session, connections_max: u32) -> PgPool {
        let timeout = match session {
            Session::Management => STATEMENT_TIMEOUT,
            Session::Pages => PAGE_STATEMENT_TIMEOUT,
            Session::Ingest | Session::FanOut => INGEST_STATEMENT_TIMEOUT,
            Session::Queue | Session::Hot => Duration::from_secs(60),
        };
        let plans = match session {
            Session::Management | Session::Pages => "force_custom_plan",
            Session::Hot => "force_generic_plan",
            Session::Ingest | Session::FanOut | Session::Queue => "auto",
        };
        let (idle_in_transaction, commits) = match session {
            Session::FanOut => (IDLE_IN_FAN_OUT_MAX, "off"),
            Session::Management | Session::Pages | Session::Ingest | Session::Queue | Session::Hot => {
                (IDLE_IN_TRANSACTION_MAX, "")
            }
        };
        let millis = |time: Duration| time.as_millis().to_string();
        let mut options = self.connect_options().options([
            ("statement_timeout", millis(timeout)),
            ("idle_in_transaction_session_timeout", millis(idle_in_transaction)),
            ("plan_cache_mode", plans.to_owned()),
        ]);
        if !commits.is_empty() {
            options = options.options([("synchronous_commit", commits)]);
        }
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            // A ping before each use would double the round trips, so only sessions that may be dead or read-only are
            // tested.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    Ok((meta.idle_for < IDLE_TRUSTED && !sessions_are_suspected()) || is_of_use(connection).await)
                })
            })
            .after_connect(|connection, _| {
                Box::pin(async move {
                    if is_of_use(connection).await {
                        Ok(())
                    } else {
                        Err(sqlx::Error::Protocol("the database takes no writes at the moment".to_owned()))
                    }
                })
            })
            .connect_lazy_with(options);
        self.servers.follow(&pool);
        pool
    }

    /// The name of this schema's notification channel with this suffix. Channels belong to the whole database, so the
    /// schema is part of the name.
    #[must_use]
    pub fn channel(&self, suffix: &str) -> String {
        format!("{}_{suffix}", self.schema)
    }

    /// Waits for the database, then brings the schema up to date: migrations, functions, and the partitions of the days
    /// to come. Several processes may do so at once: one works, the others wait and find nothing left to do. A schema
    /// that a newer version of Postrider has changed is left as it is.
    ///
    /// # Errors
    /// When the database stays away, its schema is not one of ours, or a migration fails.
    #[expect(clippy::disallowed_methods, reason = "there may be no schema yet against which a query could be checked")]
    pub async fn migrate(&self) -> Result<(), MigrationError> {
        let mut connection = self.connect_patiently().await?;
        sqlx::query("SELECT pg_advisory_lock($1)").bind(MIGRATION_LOCK).execute(&mut connection).await?;
        let known = sqlx::query_scalar::<_, bool>("SELECT to_regnamespace($1) IS NOT NULL")
            .bind(&self.schema)
            .fetch_one(&mut connection)
            .await?;
        if !known {
            // The name is plain letters, digits and `_`: checked when the configuration was read.
            let create = format!("CREATE SCHEMA \"{}\"", self.schema);
            connection.execute(sqlx::AssertSqlSafe(create)).await?;
        }
        migrations().run_direct(None, &mut connection, false).await?;
        functions::install(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }

    async fn connect_patiently(&self) -> Result<PgConnection, sqlx::Error> {
        let mut tries = 1;
        loop {
            match self.servers.connect(&self.connect_options()).await {
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
        self.servers
            .direct(self.options.clone())
            .options([
                ("search_path", self.schema.as_str()),
                ("postrider.operator_tenant", self.operator_tenant.as_str()),
                ("timezone", "UTC"),
                // These override the database's own defaults: claims rely on seeing what others have committed
                // meanwhile, and compiling a list's plan takes longer than it saves.
                ("default_transaction_isolation", "read committed"),
                ("jit", "off"),
            ])
            .application_name("postrider")
            .log_slow_statements(tracing::log::LevelFilter::Off, Duration::MAX)
            .log_statements(tracing::log::LevelFilter::Off)
    }
}

/// The migrations, embedded in the binaries. Migrations of a newer version that have already run are accepted. sqlx
/// takes no lock of its own, because ours is held.
fn migrations() -> Migrator {
    let mut migrations = sqlx::migrate!("../migrations");
    migrations.set_ignore_missing(true).set_locking(false);
    migrations
}

/// Runs a query on a connection of the pool, and gives up after [`ANSWER_TIMEOUT`]: a server that was frozen or cut off
/// says nothing, and TCP alone would wait for a quarter of an hour. The connection is then closed, not returned.
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
                    $crate::database::suspect_sessions();
                    acquired.close_on_drop();
                    Err(sqlx::Error::PoolTimedOut)
                })
            }
        }
    };
}
pub(crate) use bounded;

/// Tells sqlx the name of the composite type that a struct is encoded as.
macro_rules! composite {
    ($row:ident, $name:literal) => {
        impl ::sqlx::Type<::sqlx::Postgres> for $row<'_> {
            fn type_info() -> ::sqlx::postgres::PgTypeInfo {
                ::sqlx::postgres::PgTypeInfo::with_name($name)
            }
        }

        impl ::sqlx::postgres::PgHasArrayType for $row<'_> {
            fn array_type_info() -> ::sqlx::postgres::PgTypeInfo {
                ::sqlx::postgres::PgTypeInfo::array_of($name)
            }
        }
    };
}
pub(crate) use composite;
