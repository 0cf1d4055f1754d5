//! Finding subscriptions by what people know of them: the host of the URL, or a part of the name. Each look is bounded,
//! however many subscriptions there are.

use sqlx::PgPool;
use uuid::Uuid;

use crate::Result;

/// Subscriptions that are found at once, at most.
pub const FOUND_MAX: i64 = 50;
/// Subscriptions whose names are looked at, at most: the newest ones.
const NAMES_EXAMINED_MAX: i64 = 2_000;

/// What people need to tell one subscription from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The subscription.
    pub id: Uuid,
    /// The tenant to which it belongs.
    pub tenant_id: String,
    /// What its owner calls it.
    pub name: Option<String>,
    /// Where its deliveries go.
    pub target_url: String,
}

/// The subscriptions whose URLs have this host, in lower case and without a port: the newest ones, [`FOUND_MAX`] at
/// most.
pub async fn at_host(pool: &PgPool, tenant_id: Option<&str>, host: &str) -> Result<Vec<Named>> {
    let found = sqlx::query_as!(
        Named,
        r"SELECT id, tenant_id, name, target_url FROM subscriptions
           WHERE substring(target_url FROM '^[a-z]+://(\[[^]]*\]|[^/:?#]*)') = $1
             AND deleted_at IS NULL AND ($2::text IS NULL OR tenant_id = $2)
           ORDER BY id DESC
           LIMIT $3",
        host,
        tenant_id,
        FOUND_MAX
    );
    Ok(found.fetch_all(pool).await?)
}

/// Subscriptions that have this text in their names or URLs, in upper or lower case: of the newest ones, `limit` at
/// most.
pub async fn like(pool: &PgPool, tenant_id: Option<&str>, text: &str, limit: i64) -> Result<Vec<Named>> {
    let found = sqlx::query_as!(
        Named,
        r#"SELECT x.id AS "id!", x.tenant_id AS "tenant_id!", x.name, x.target_url AS "target_url!"
             FROM (SELECT id, tenant_id, name, target_url, deleted_at FROM subscriptions
                    WHERE ($1::text IS NULL OR (tenant_id = $1 AND deleted_at IS NULL))
                    ORDER BY id DESC LIMIT $2) x
            WHERE x.deleted_at IS NULL AND strpos(lower(concat(x.name, ' ', x.target_url)), lower($3)) > 0
            ORDER BY x.id DESC
            LIMIT $4"#,
        tenant_id,
        NAMES_EXAMINED_MAX,
        text,
        limit
    );
    Ok(found.fetch_all(pool).await?)
}
