//! The schema of a development database: whether this version can bring it up to date, asked before anything is started
//! on it, and making it where there is no api or worker to do so.

use std::fs;

use anyhow::{Context, Result};
use sqlx::{AssertSqlSafe, Connection, PgConnection, migrate::Migrator};

use crate::workspace;

/// The first migration of that schema that reads otherwise than ours, was never ours, or was broken off. One that is
/// newer than all of ours is no obstacle.
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

/// Makes the schema `postrider`, on a connection whose `search_path` it is: migrations, then functions.
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
    Ok(())
}

async fn migrator() -> Result<Migrator> {
    Ok(Migrator::new(workspace().join("migrations").as_path()).await?)
}
