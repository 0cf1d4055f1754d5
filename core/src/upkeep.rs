//! Keeping the database in order: daily partitions and where they are archived, repairs and clean-ups, and the
//! invariants that must hold.

pub mod archive;
pub mod backlog;
pub mod examination;
pub mod invariants;
pub mod maintenance;
pub mod partition;
pub mod queue_size;
pub mod stuck;
pub mod tables;

use crate::database::{DatabaseConfig, MigrationError, Session};

/// Brings the schema up to date, as every process does at its start: migrations, functions, and the partitions of the
/// days to come. Many processes may do so at once.
///
/// # Errors
/// The errors of [`DatabaseConfig::migrate`], or that partitions cannot be made.
pub async fn bring_up_to_date(database: &DatabaseConfig) -> Result<(), MigrationError> {
    database.migrate().await?;
    let pool = database.pool(Session::Management, 1);
    let ensured = partition::ensure(&pool).await;
    pool.close().await;
    Ok(ensured?)
}
