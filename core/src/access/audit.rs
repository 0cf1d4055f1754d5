//! The audit log: who changed what. An entry is written in the same transaction as the change that it describes, is
//! never changed afterwards, and holds no secret.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Result,
    id::KeyId,
    page::{Page, Span},
};

/// Days for which entries are kept.
pub const KEPT_DAYS: i32 = 365;

/// Who made a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// Somebody with an API key.
    Key(KeyId),
    /// Somebody with the key from the environment.
    AdminKey,
    /// No person: Postrider itself.
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

/// A change that is about to be written into the audit log.
#[derive(Debug)]
pub struct NewEntry<'a> {
    /// The tenant whose thing was changed; `None` where it belongs to no single tenant.
    pub tenant_id: Option<&'a str>,
    /// Who made the change.
    pub actor: Actor,
    /// The kind of change, such as `subscription.created`.
    pub action: &'static str,
    /// The id of the thing that was changed.
    pub target_id: String,
    /// The thing before the change, without secrets, where there was one.
    pub before: Option<Value>,
    /// The thing after the change, without secrets, where there is one.
    pub after: Option<Value>,
}

/// An entry of the audit log.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The entry's id: a `UUIDv7`, so entries sort by time.
    pub id: Uuid,
    /// When the change was made, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// The tenant whose thing was changed; `None` where it belongs to no single tenant.
    pub tenant_id: Option<String>,
    /// Who made the change: the id of an API key, `admin_key` or `postrider`.
    pub actor: String,
    /// The kind of change, such as `subscription.created`.
    pub action: String,
    /// The id of the thing that was changed.
    pub target_id: String,
    /// The thing before the change, without secrets, where there was one.
    pub before: Option<Value>,
    /// The thing after the change, without secrets, where there is one.
    pub after: Option<Value>,
}

/// Which entries a list shows; an absent field means no restriction.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only entries of this tenant.
    pub tenant_id: Option<String>,
    /// Only changes that this actor made.
    pub actor: Option<String>,
    /// Only changes of this kind.
    pub action: Option<String>,
    /// Only changes of the thing with this id.
    pub target_id: Option<String>,
    /// Only entries of this span of time.
    pub span: Span,
}

/// Writes a change into the audit log; the entry stays only if the transaction commits.
pub async fn record(connection: &mut PgConnection, change: NewEntry<'_>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO audit_log (id, tenant_id, actor, action, target_id, before, after)
         VALUES ($1, $2, $3, $4, $5, $6::text::json, $7::text::json)",
        Uuid::now_v7(),
        change.tenant_id,
        change.actor.to_string(),
        change.action,
        change.target_id,
        change.before.map(|before| before.to_string()),
        change.after.map(|after| after.to_string())
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lists entries, the newest first.
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

/// Removes entries older than [`KEPT_DAYS`]; returns how many.
pub async fn retire(pool: &PgPool) -> Result<u64> {
    let retired =
        sqlx::query!("DELETE FROM audit_log WHERE id < uuid_floor(now() - make_interval(days => $1))", KEPT_DAYS);
    Ok(retired.execute(pool).await?.rows_affected())
}
