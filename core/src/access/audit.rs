//! The audit log: who changed what. An entry is written in the transaction of the change it tells of, and never
//! changed; it holds no secret.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Result,
    id::KeyId,
    page::{Page, Span},
};

/// Days that entries are kept.
pub const KEPT_DAYS: i32 = 365;

/// Who did it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    /// Somebody with an API key.
    Key(KeyId),
    /// Somebody with the key from the environment.
    AdminKey,
    /// Nobody: Postrider itself.
    Postrider,
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Key(id) => id.fmt(f),
            Self::AdminKey => f.write_str("admin_key"),
            Self::Postrider => f.write_str("postrider"),
        }
    }
}

/// A change, about to be written down.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// Whose thing was changed; `None` where it is no single tenant's.
    pub tenant_id: Option<&'a str>,
    /// Who did it.
    pub actor: Actor,
    /// What was done, as in `subscription.created`.
    pub action: &'static str,
    /// To what: an id.
    pub target_id: String,
    /// As it was; without secrets.
    pub before: Option<Value>,
    /// As it is; without secrets.
    pub after: Option<Value>,
}

/// An entry.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its id.
    pub id: Uuid,
    /// When.
    pub created_at: DateTime<Utc>,
    /// Whose thing was changed.
    pub tenant_id: Option<String>,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub target_id: String,
    /// As it was.
    pub before: Option<Value>,
    /// As it is.
    pub after: Option<Value>,
}

/// Which entries a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this tenant's.
    pub tenant_id: Option<String>,
    /// Only what this one did.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only what was done to this.
    pub target_id: Option<String>,
    /// Only of this time.
    pub span: Span,
}

/// Writes a change down; it counts when the transaction commits.
pub async fn record(connection: &mut PgConnection, change: NewEntry<'_>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit_log (id, tenant_id, actor, action, target_id, before, after)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        Uuid::now_v7(),
        change.tenant_id,
        change.actor.to_string(),
        change.action,
        change.target_id,
        change.before,
        change.after
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Entries, the newest first.
pub async fn list(pool: &PgPool, filter: &Filter, page: Page) -> Result<Vec<Entry>> {
    let (first, end) = filter.span.ids();
    let entries = sqlx::query_as!(
        Entry,
        "SELECT id, created_at, tenant_id, actor, action, target_id, before, after
           FROM audit_log
          WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::text IS NULL OR actor = $2)
            AND ($3::text IS NULL OR action = $3) AND ($4::text IS NULL OR target_id = $4)
            AND ($5::uuid IS NULL OR id >= $5) AND ($6::uuid IS NULL OR id < $6) AND ($7::uuid IS NULL OR id < $7)
          ORDER BY id DESC
          LIMIT $8",
        filter.tenant_id,
        filter.actor,
        filter.action,
        filter.target_id,
        first,
        end,
        page.before,
        page.limit
    );
    Ok(entries.fetch_all(pool).await?)
}

/// Removes entries that are older than they are kept; answers how many.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let retired =
        sqlx::query!("DELETE FROM audit_log WHERE id < uuid_floor(now() - make_interval(days => $1))", KEPT_DAYS);
    Ok(retired.execute(pool).await?.rows_affected())
}
