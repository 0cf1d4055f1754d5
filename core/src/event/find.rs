//! Finding events by what people know of them: the producer's own id, or a type. Each look hops through an index, so it
//! takes the same time however many events there are.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{
    Result,
    event::idempotency::{KeyNamespace, key},
    id::EventId,
    page::id_floor,
};

/// Tenants that are asked for an event, at most, where none is named.
const TENANTS_ASKED_MAX: i64 = 1_000;
/// Types that are looked at, at most, to complete the beginning of one.
const TYPES_EXAMINED_MAX: i64 = 50;

/// The event with this id of its producer, for as long as its idempotency key is remembered.
pub async fn by_external_id(pool: &PgPool, tenant_id: Option<&str>, id: &str) -> Result<Option<EventId>> {
    let Ok(key) = key(KeyNamespace::EventId, id) else { return Ok(None) };
    let found = sqlx::query_scalar!(
        r#"WITH RECURSIVE tenants AS (
               (SELECT coalesce($1::text, (SELECT k.tenant_id FROM idempotency_keys k
                                            ORDER BY k.tenant_id LIMIT 1)) AS name)
               UNION ALL
               SELECT (SELECT k.tenant_id FROM idempotency_keys k WHERE k.tenant_id > t.name
                        ORDER BY k.tenant_id LIMIT 1)
                 FROM tenants t WHERE $1::text IS NULL AND t.name IS NOT NULL)
           SELECT f.event_id AS "event_id!"
             FROM (SELECT name FROM tenants WHERE name IS NOT NULL LIMIT $3) t
            CROSS JOIN LATERAL (SELECT k.event_id FROM idempotency_keys k
                                 WHERE k.tenant_id = t.name AND k.key = $2 AND k.event_id IS NOT NULL OFFSET 0) f
            LIMIT 1"#,
        tenant_id,
        key,
        TENANTS_ASKED_MAX,
    );
    Ok(found.fetch_optional(pool).await?.map(EventId))
}

/// Whether there is an event of exactly this type.
pub async fn is_type_known(pool: &PgPool, tenant_id: Option<&str>, event_type: &str) -> Result<bool> {
    let known = sqlx::query_scalar!(
        r#"SELECT true AS "known!" FROM events
            WHERE event_type = $1 AND ($2::text IS NULL OR tenant_id = $2) LIMIT 1"#,
        event_type,
        tenant_id
    );
    Ok(known.fetch_optional(pool).await?.is_some())
}

/// Types of events since this time, in their order: from this beginning of a type on, `TYPES_EXAMINED_MAX` at most.
/// The last of them may begin otherwise.
pub async fn types_from(
    pool: &PgPool,
    tenant_id: Option<&str>,
    beginning: &str,
    since: DateTime<Utc>,
) -> Result<Vec<String>> {
    let types = sqlx::query_scalar!(
        r#"WITH RECURSIVE types AS (
               (SELECT (SELECT e.event_type FROM events e
                         WHERE e.event_type >= $2 AND ($1::text IS NULL OR e.tenant_id = $1) AND e.id >= $3
                         ORDER BY e.event_type LIMIT 1) AS name)
               UNION ALL
               SELECT (SELECT e.event_type FROM events e
                        WHERE e.event_type > t.name AND ($1::text IS NULL OR e.tenant_id = $1) AND e.id >= $3
                        ORDER BY e.event_type LIMIT 1)
                 FROM types t WHERE t.name IS NOT NULL)
           SELECT name AS "name!" FROM types WHERE name IS NOT NULL LIMIT $4"#,
        tenant_id,
        beginning,
        id_floor(since),
        TYPES_EXAMINED_MAX,
    );
    Ok(types.fetch_all(pool).await?)
}
