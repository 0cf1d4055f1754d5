//! The SQL functions of `sql/functions`, embedded in the binaries and installed where their text has changed. Which
//! tables and types they need is the migrations' matter, which run before.

use sha2::{Digest, Sha256};
use sqlx::PgConnection;

/// Every function: its name and its text.
static FUNCTIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/functions.rs"));

/// Makes the role that may call `publish()`, where it is not there.
const PUBLISHER_ROLE: &str = include_str!("../../sql/publisher_role.sql");

/// Installs what has changed, each file in a transaction of its own. To be called under the lock of the migrations. A
/// text that a newer version of Postrider has installed stays: an older process that starts beside newer ones works
/// with it.
pub(super) async fn install(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    for (name, text) in FUNCTIONS {
        let digest = Sha256::digest(text);
        let is_current = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM sql_functions WHERE name = $1 AND (digest = $2 OR version > $3)) AS "is!""#,
            name,
            digest.as_slice(),
            &version(),
        );
        if is_current.fetch_one(&mut *connection).await? {
            continue;
        }
        let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
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
        transaction.commit().await?;
    }
    sqlx::raw_sql(PUBLISHER_ROLE).execute(connection).await?;
    Ok(())
}

/// Major, minor and patch of this version of Postrider.
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
