//! The few meanings that an error of ours can have. They know nothing of HTTP. A receiver's failure is not an error but
//! an [`crate::queue::attempt::Outcome`].

use std::io;

use crate::validation::Problems;

/// The kinds of error on our side, told apart by how the caller can react.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing, or it has been deleted.
    #[error("no such {0}")]
    NotFound(&'static str),
    /// The thing exists, but its state forbids the request.
    #[error("{0}")]
    Conflict(String),
    /// The idempotency key has been used for something else.
    #[error("this idempotency key has been used for another request")]
    KeyReused,
    /// The input breaks rules; the problems name every broken rule.
    #[error("{0}")]
    Invalid(Problems),
    /// The request asks for more than one request may cause.
    #[error("{0}")]
    TooLarge(String),
    /// A limit is reached or the database is away; the same call may succeed in a moment.
    #[error("{0}")]
    Unavailable(&'static str),
    /// The database refused a statement, or we have a bug.
    #[error("internal error")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A result whose error is one of ours.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// One field breaks a rule.
    pub fn invalid(field: &str, message: impl Into<String>) -> Self {
        Self::Invalid(Problems::one(field, message))
    }

    /// The same error for a caller whose names for some fields differ. `names` are pairs of our name and the caller's.
    #[must_use]
    pub fn renamed(self, names: &[(&str, &str)]) -> Self {
        match self {
            Self::Invalid(problems) => Self::Invalid(problems.renamed(names)),
            other => other,
        }
    }

    /// Wraps an error that the caller can do nothing about.
    pub fn internal(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Internal(error.into())
    }
}

impl From<Problems> for Error {
    fn from(problems: Problems) -> Self {
        Self::Invalid(problems)
    }
}

/// Whether it failed because no file descriptor was left, in this process or on this machine.
#[must_use]
pub fn is_out_of_files(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    matches!(error.raw_os_error(), Some(ENFILE | EMFILE))
}

/// Whether a row was refused because there is no partition for its day. Partitions are made ahead of time, so this
/// passes quickly.
#[must_use]
pub fn is_missing_partition(error: &sqlx::Error) -> bool {
    // Postgres reports it as a check_violation; none of our tables has a check of its own.
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("23514"))
}

/// Whether a lock was not free within the session's `lock_timeout`.
#[must_use]
pub fn is_locked(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("55P03"))
}

/// Whether the database was not reachable, was going away, or did not answer in time.
#[must_use]
pub fn is_outage(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::Protocol(_) => true,
        // Classes 08 (connection), 28 (authorization), 40 (deadlock, serialization), 53 (resources), 57 (operator
        // intervention: shutdown, crash, cancel by timeout), 58 (system error), 25006 (a standby that has not been
        // promoted yet) and 25P03 (a transaction that waited for us for too long).
        sqlx::Error::Database(database) => database.code().is_some_and(|code| {
            matches!(&code[..2], "08" | "28" | "40" | "53" | "57" | "58")
                || code == "25006"
                || code == "25P03"
                || is_missing_partition(error)
        }),
        _ => false,
    }
}
