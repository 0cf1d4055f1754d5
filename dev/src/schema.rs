//! The schema of a development database. It tells, before anything is started, whether this version can bring the
//! schema up to date; and it makes the schema where no api or worker does.

use std::fs;

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, PgConnection, migrate::Migrator};

use crate::workspace;

/// The number of the first migration of that schema that this version cannot continue from: its text differs from ours,
/// we do not have it, or it broke off. A migration that is newer than all of ours is not such an obstacle.
///
/// # Errors
/// When the database does not answer.
pub async fn foreign_migration(url: &str, schema: &str) -> Result<Option<i64>> {
    let mut connection = PgConnection::connect(url).await?;
    let table = format!("\"{}\"._sqlx_migrations", schema.replace('"', "\"\""));
    let is_there: bool =
        sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(&table).fetch_one(&mut connection).await?;
    let mut applied: Vec<(i64, bool, Vec<u8>)> = Vec::new();
    if is_there {
        let list = format!("SELECT version, success, checksum FROM {table} ORDER BY version");
        applied = sqlx::query_as(AssertSqlSafe(list)).fetch_all(&mut connection).await?;
    }
    connection.close().await?;
    let migrator = migrator().await?;
    let newest = migrator.iter().map(|migration| migration.version).max().unwrap_or(0);
    let foreign = applied.into_iter().find(|(version, success, checksum)| {
        let ours = migrator.iter().find(|migration| migration.version == *version);
        let is_ours = *success && ours.is_some_and(|ours| *ours.checksum == **checksum);
        *version <= newest && !is_ours
    });
    Ok(foreign.map(|(version, ..)| version))
}

/// Makes the schema `postrider` by running the migrations and then the functions, and makes the partitions of the next
/// days. The connection's `search_path` must be that schema.
///
/// # Errors
/// When the database refuses a statement.
pub async fn make(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("CREATE SCHEMA postrider").execute(&mut *connection).await?;
    migrator().await?.run(&mut *connection).await?;
    let folder = fs::read_dir(workspace().join("core/sql/functions")).into_iter().flatten();
    let mut paths: Vec<_> = folder.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.extension().is_some_and(|extension| extension == "sql") {
            let function = sqlx::raw_sql(AssertSqlSafe(fs::read_to_string(&path)?));
            function.execute(&mut *connection).await.with_context(|| path.display().to_string())?;
        }
    }
    let partitions = "SELECT ensure_partitions(current_date - 1, current_date + 7)";
    sqlx::query(partitions).execute(connection).await?;
    Ok(())
}

async fn migrator() -> Result<Migrator> {
    Ok(Migrator::new(workspace().join("migrations").as_path()).await?)
}
