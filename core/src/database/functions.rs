//! The SQL functions of `core/sql/functions`, embedded in the binaries and installed when their text has changed. The
//! migrations, which run before, make the tables and types that the functions need.

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

/// Every function: its name and the text of its file.
static FUNCTIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/functions.rs"));

/// The statement that creates the role that may only call `publish()`, unless the role exists.
const PUBLISHER_ROLE: &str = include_str!("../../sql/publisher_role.sql");

/// Installs the functions that have changed, all in one transaction: running processes never meet a new function that
/// calls another one whose new text is not there yet. The caller holds the lock of the migrations. A text that a newer
/// version of Postrider has installed stays: an older process that starts beside newer ones works with it.
pub(super) async fn install(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
    for (name, text) in FUNCTIONS {
        let digest = Sha256::digest(text);
        let is_current = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM sql_functions WHERE name = $1 AND (digest = $2 OR version > $3)) AS "is!""#,
            name,
            digest.as_slice(),
            &version(),
        );
        if is_current.fetch_one(&mut *transaction).await? {
            continue;
        }
        sqlx::raw_sql(*text).execute(&mut *transaction).await?;
        sqlx::query!(
            "INSERT INTO sql_functions (name, digest, version) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE
                SET digest = EXCLUDED.digest, version = EXCLUDED.version, installed_at = EXCLUDED.installed_at",
            name,
            digest.as_slice(),
            &version(),
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    sqlx::raw_sql(PUBLISHER_ROLE).execute(connection).await?;
    Ok(())
}

/// This version of Postrider as major, minor and patch number.
fn version() -> Vec<i32> {
    env!("CARGO_PKG_VERSION").split(['.', '-', '+']).take(3).filter_map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_makes_the_function_that_it_is_named_after() {
        for (name, text) in FUNCTIONS {
            assert!(text.contains(&format!("CREATE OR REPLACE FUNCTION {name}(")), "{name}");
        }
        assert_eq!(version().len(), 3);
    }
}
