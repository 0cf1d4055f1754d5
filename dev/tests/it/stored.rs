//! What the tables hold, as text, so that tests can say that nothing was changed, or that something stands nowhere.

use std::collections::BTreeMap;

use crate::world::World;

/// Tables that processes write at any time, whatever requests they get.
const WRITTEN_BY_THEMSELVES: [&str; 3] = ["stats_", "accepted_", "processes"];

/// The rows of all tables but those of `except`, as text by the name of the table.
pub async fn stored(world: &World, except: &[&str]) -> BTreeMap<String, String> {
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class
          WHERE relnamespace = 'postrider'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let mut stored = BTreeMap::new();
    let is_compared = |table: &String| {
        !except.contains(&table.as_str()) && !WRITTEN_BY_THEMSELVES.iter().any(|prefix| table.starts_with(prefix))
    };
    for table in tables.into_iter().filter(is_compared) {
        let rows = format!("SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), '') FROM {table} t");
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(rows)).fetch_one(&world.pool).await.unwrap();
        stored.insert(table, rows);
    }
    stored
}
