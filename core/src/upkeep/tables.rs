//! How large the tables are, how many dead rows they have, and how far partitions reach: what the server counts anyway.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::Result;

/// Tables that are listed, at most.
const TABLES_MAX: i64 = 60;

/// A table with all of its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Its name.
    pub name: String,
    /// How many partitions it has; 0 where it has none.
    pub partitions: i64,
    /// Bytes on the disk, with indexes and long values.
    pub bytes: i64,
    /// Rows, as the server estimates them.
    pub rows: i64,
    /// Rows that were changed or removed and are not cleaned up yet, as the server estimates them.
    pub dead: i64,
    /// When one of its parts was vacuumed last.
    pub vacuumed_at: Option<DateTime<Utc>>,
}

/// The tables of this schema, the largest first.
///
/// # Errors
/// When the database is away, or has so many partitions that their sizes cannot be read in time.
pub async fn list(pool: &PgPool) -> Result<Vec<Table>> {
    let tables = sqlx::query_as!(
        Table,
        r#"SELECT coalesce(p.relname, c.relname)::text AS "name!", count(p.oid) AS "partitions!",
                  sum(pg_total_relation_size(c.oid))::bigint AS "bytes!",
                  coalesce(sum(s.n_live_tup), 0)::bigint AS "rows!", coalesce(sum(s.n_dead_tup), 0)::bigint AS "dead!",
                  max(greatest(s.last_vacuum, s.last_autovacuum)) AS vacuumed_at
             FROM pg_class c
             LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
             LEFT JOIN pg_class p ON p.oid = i.inhparent
             LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
            WHERE c.relnamespace = current_schema()::text::regnamespace AND c.relkind = 'r'
            GROUP BY 1 ORDER BY 3 DESC, 1 LIMIT $1"#,
        TABLES_MAX
    );
    Ok(tables.fetch_all(pool).await?)
}

/// Until when there are partitions, as a worker has seen it some seconds ago; `None` where none has looked yet.
///
/// # Errors
/// When the database is away.
pub async fn partitions_until(pool: &PgPool) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar!("SELECT partitions_until FROM queue_size").fetch_one(pool).await?)
}
