//! Dead letters: deliveries that ran out of attempts or were refused for good, until somebody retries them, marks them
//! resolved, or purges the list. A purge removes only the entry in this list; the delivery and its attempts stay until
//! retention removes them.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    Error, Result,
    access::audit::{self, Actor, NewEntry},
    delivery::{self, Delivery},
    id::{DeliveryId, SubscriptionId},
    page::{EXAMINED_MAX, Found, Page},
};

/// Dead letters that one bulk call retries or purges, at most. The caller calls again for as long as the answer is this
/// number.
pub const BULK_MAX: i64 = 10_000;

/// An entry in the list of dead letters.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The delivery that became a dead letter.
    pub delivery: Delivery,
    /// When the delivery became a dead letter.
    pub dead_at: DateTime<Utc>,
    /// When somebody marked it resolved; `None` while it still needs attention.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// Whether a list or a bulk call includes dead letters that were marked resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Only dead letters that still need attention.
    Excluded,
    /// All dead letters.
    Included,
}

/// Which dead letters a list shows or a bulk call changes; an absent field means no restriction.
#[derive(Clone, Debug)]
pub struct Filter {
    /// Only dead letters of this tenant.
    pub tenant_id: Option<String>,
    /// Only dead letters of this subscription.
    pub subscription: Option<SubscriptionId>,
    /// Only deliveries that became dead letters at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Only deliveries that became dead letters before this time.
    pub until: Option<DateTime<Utc>>,
    /// Whether those that were marked resolved are included.
    pub resolved: Resolved,
    /// Only deliveries whose last attempt failed for this reason: a word of the log of attempts, or `not_attempted`.
    pub error_kind: Option<String>,
    /// Only deliveries whose last attempt was answered with this status.
    pub status_code: Option<i16>,
}

/// Lists dead letters, the newest delivery first.
pub async fn list(pool: &PgPool, filter: &Filter, page: Page) -> Result<Found<DeadLetter>> {
    let rows = sqlx::query!(
        r#"WITH looked_at AS NOT MATERIALIZED (
               SELECT delivery_id AS id, created_at, resolved_at, error_kind, status_code FROM dead_letters
                WHERE ($1::uuid IS NULL OR subscription_id = $1) AND ($7::text IS NULL OR tenant_id = $7)
                  AND ($2::uuid IS NULL OR delivery_id < $2)
                ORDER BY delivery_id DESC LIMIT $3)
           (SELECT x.id AS "id!", x.created_at AS "created_at!", x.resolved_at, false AS "last!" FROM looked_at x
             WHERE ($4::timestamptz IS NULL OR x.created_at >= $4) AND ($5::timestamptz IS NULL OR x.created_at < $5)
               AND ($6 OR x.resolved_at IS NULL)
               AND ($9::text IS NULL OR coalesce(x.error_kind, 'not_attempted') = $9)
               AND ($10::smallint IS NULL OR x.status_code = $10)
             ORDER BY x.id DESC LIMIT $8)
           UNION ALL
           (SELECT id, created_at, resolved_at, true FROM looked_at ORDER BY id DESC OFFSET $3 - 1 LIMIT 1)
            LIMIT $8"#,
        filter.subscription.map(|id| id.0),
        page.before,
        EXAMINED_MAX,
        filter.since,
        filter.until,
        filter.resolved == Resolved::Included,
        filter.tenant_id,
        page.limit,
        filter.error_kind,
        filter.status_code
    );
    let rows = rows.fetch_all(pool).await?;
    let (_, examined_to) = page.split(rows.iter().map(|row| (row.id, row.last)));
    let entries: Vec<_> = rows.into_iter().filter(|row| !row.last).collect();
    let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
    let deliveries = delivery::views(pool, &ids).await?;
    // Both lists have the same order; a delivery that retention has just removed is missing from the second one.
    let mut deliveries = deliveries.into_iter().peekable();
    let letters = entries.into_iter().filter_map(|entry| {
        let delivery = deliveries.next_if(|delivery| delivery.id.0 == entry.id)?;
        Some(DeadLetter { delivery, dead_at: entry.created_at, resolved_at: entry.resolved_at })
    });
    Ok(Found { items: letters.collect(), examined_to })
}

/// Reads one dead letter.
pub async fn get(pool: &PgPool, id: DeliveryId) -> Result<DeadLetter> {
    let entry = sqlx::query!("SELECT created_at, resolved_at FROM dead_letters WHERE delivery_id = $1", id.0);
    let entry = entry.fetch_optional(pool).await?.ok_or(Error::NotFound("dead letter"))?;
    let delivery = delivery::get(pool, id).await?;
    Ok(DeadLetter { delivery, dead_at: entry.created_at, resolved_at: entry.resolved_at })
}

/// When a dead letter was marked resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// By this call.
    Now,
    /// By an earlier one, so this one has changed nothing.
    Before,
}

/// Marks a dead letter resolved; doing so again changes nothing.
pub async fn resolve(pool: &PgPool, id: DeliveryId) -> Result<(DeadLetter, Marked)> {
    let marked = sqlx::query!(
        "UPDATE dead_letters SET resolved_at = now() WHERE delivery_id = $1 AND resolved_at IS NULL",
        id.0
    );
    let marked = if marked.execute(pool).await?.rows_affected() > 0 { Marked::Now } else { Marked::Before };
    Ok((get(pool, id).await?, marked))
}

/// Takes the mark back that a dead letter is resolved; doing so again changes nothing.
pub async fn unresolve(pool: &PgPool, id: DeliveryId) -> Result<DeadLetter> {
    sqlx::query!("UPDATE dead_letters SET resolved_at = NULL WHERE delivery_id = $1", id.0).execute(pool).await?;
    get(pool, id).await
}

/// Puts dead letters back into the queue for a fresh round of attempts, the oldest first and [`BULK_MAX`] at most;
/// returns how many. Those whose event or subscription is gone stay in the list.
pub async fn retry_many(pool: &PgPool, filter: &Filter, actor: Actor) -> Result<usize> {
    let mut transaction = pool.begin().await?;
    let ids = sqlx::query_scalar!(
        "SELECT x.delivery_id FROM dead_letters x
          WHERE ($1::uuid IS NULL OR x.subscription_id = $1)
            AND ($2::timestamptz IS NULL OR x.created_at >= $2) AND ($3::timestamptz IS NULL OR x.created_at < $3)
            AND ($4 OR x.resolved_at IS NULL)
            AND (x.subscription_id IS NULL
                 OR EXISTS (SELECT FROM subscriptions s WHERE s.id = x.subscription_id AND s.deleted_at IS NULL))
            AND ($6::text IS NULL OR x.tenant_id = $6)
            AND ($7::text IS NULL OR coalesce(x.error_kind, 'not_attempted') = $7)
            AND ($8::smallint IS NULL OR x.status_code = $8)
            AND (SELECT true FROM deliveries d, LATERAL (SELECT FROM events e WHERE e.id = d.event_id OFFSET 0) e
                  WHERE d.id = x.delivery_id)
          ORDER BY x.delivery_id
          LIMIT $5
            FOR UPDATE OF x SKIP LOCKED",
        filter.subscription.map(|id| id.0),
        filter.since,
        filter.until,
        filter.resolved == Resolved::Included,
        BULK_MAX,
        filter.tenant_id,
        filter.error_kind,
        filter.status_code
    );
    let ids: Vec<Uuid> = ids.fetch_all(&mut *transaction).await?;
    let reopened = delivery::reopen(&mut transaction, &ids).await?;
    note(&mut transaction, actor, "dead_letters.retried", filter, reopened as u64).await?;
    transaction.commit().await?;
    Ok(reopened)
}

/// Removes entries that match the filter from the list, [`BULK_MAX`] at most; returns how many.
pub async fn purge(pool: &PgPool, filter: &Filter, actor: Actor) -> Result<u64> {
    let mut transaction = pool.begin().await?;
    let purged = sqlx::query!(
        "DELETE FROM dead_letters
          WHERE delivery_id IN (SELECT x.delivery_id FROM dead_letters x
                                 WHERE ($1::uuid IS NULL OR x.subscription_id = $1)
                                   AND ($2::timestamptz IS NULL OR x.created_at >= $2)
                                   AND ($3::timestamptz IS NULL OR x.created_at < $3)
                                   AND ($4 OR x.resolved_at IS NULL)
                                   AND ($6::text IS NULL OR x.tenant_id = $6)
                                   AND ($7::text IS NULL OR coalesce(x.error_kind, 'not_attempted') = $7)
                                   AND ($8::smallint IS NULL OR x.status_code = $8)
                                 ORDER BY x.delivery_id LIMIT $5 FOR UPDATE SKIP LOCKED)",
        filter.subscription.map(|id| id.0),
        filter.since,
        filter.until,
        filter.resolved == Resolved::Included,
        BULK_MAX,
        filter.tenant_id,
        filter.error_kind,
        filter.status_code
    );
    let count = purged.execute(&mut *transaction).await?.rows_affected();
    note(&mut transaction, actor, "dead_letters.purged", filter, count).await?;
    transaction.commit().await?;
    Ok(count)
}

/// Writes a bulk change into the audit log.
async fn note(
    connection: &mut PgConnection,
    actor: Actor,
    action: &'static str,
    filter: &Filter,
    count: u64,
) -> Result<()> {
    let subscription = filter.subscription.map(|id| id.to_string());
    let after = serde_json::json!({"since": filter.since, "until": filter.until, "count": count});
    let target_id = subscription.unwrap_or_else(|| "dead_letters".to_owned());
    let tenant_id = filter.tenant_id.as_deref();
    audit::record(connection, NewEntry { tenant_id, actor, action, target_id, before: None, after: Some(after) }).await
}
