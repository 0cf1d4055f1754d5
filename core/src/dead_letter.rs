//! Dead letters: deliveries that ran out of attempts or were refused for good, until somebody retries them, marks them
//! resolved, or purges the list. Purging forgets the entry in this list; the delivery and its log stay until retention.

use chrono::{DateTime, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Error, Result,
    delivery::{self, Delivery},
    id::{DeliveryId, SubscriptionId},
    subscription::Page,
};

/// Dead letters that one bulk call retries or purges, at most; the caller calls again while it counts so many.
pub const BULK_MAX: i64 = 10_000;

/// A dead letter.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The delivery that died.
    pub delivery: Delivery,
    /// When it died.
    pub dead_at: DateTime<Utc>,
    /// When somebody marked it resolved.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// Whether dead letters that were marked resolved are meant too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Only those that still want attention.
    Excluded,
    /// All of them.
    Included,
}

/// Which dead letters are meant.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    /// Only this subscription's.
    pub subscription: Option<SubscriptionId>,
    /// Only those that died at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Only those that died before this time.
    pub until: Option<DateTime<Utc>>,
    /// Whether resolved ones are meant too.
    pub resolved: Resolved,
}

/// Dead letters, by the newest delivery first.
pub async fn list(pool: &PgPool, filter: Filter, page: Page) -> Result<Vec<DeadLetter>> {
    let entries = sqlx::query!(
        "SELECT delivery_id, created_at, resolved_at FROM dead_letters
          WHERE ($1::uuid IS NULL OR subscription_id = $1)
            AND ($2::timestamptz IS NULL OR created_at >= $2) AND ($3::timestamptz IS NULL OR created_at < $3)
            AND ($4 OR resolved_at IS NULL) AND ($5::uuid IS NULL OR delivery_id < $5)
          ORDER BY delivery_id DESC
          LIMIT $6",
        filter.subscription.map(|id| id.0),
        filter.since,
        filter.until,
        filter.resolved == Resolved::Included,
        page.before,
        page.limit
    );
    let entries = entries.fetch_all(pool).await?;
    let ids: Vec<_> = entries.iter().map(|entry| entry.delivery_id).collect();
    let deliveries = delivery::views(pool, &ids).await?;
    // Both are in the same order; a delivery that retention has just removed is missing from the second.
    let mut deliveries = deliveries.into_iter().peekable();
    let letters = entries.into_iter().filter_map(|entry| {
        let delivery = deliveries.next_if(|delivery| delivery.id.0 == entry.delivery_id)?;
        Some(DeadLetter { delivery, dead_at: entry.created_at, resolved_at: entry.resolved_at })
    });
    Ok(letters.collect())
}

/// One dead letter.
pub async fn get(pool: &PgPool, id: DeliveryId) -> Result<DeadLetter> {
    let entry = sqlx::query!("SELECT created_at, resolved_at FROM dead_letters WHERE delivery_id = $1", id.0);
    let entry = entry.fetch_optional(pool).await?.ok_or(Error::NotFound("dead letter"))?;
    let delivery = delivery::get(pool, id).await?;
    Ok(DeadLetter { delivery, dead_at: entry.created_at, resolved_at: entry.resolved_at })
}

/// Marks one resolved; once is enough.
pub async fn resolve(pool: &PgPool, id: DeliveryId) -> Result<DeadLetter> {
    sqlx::query!("UPDATE dead_letters SET resolved_at = coalesce(resolved_at, now()) WHERE delivery_id = $1", id.0)
        .execute(pool)
        .await?;
    get(pool, id).await
}

/// Puts dead letters back for a fresh round of attempts, the oldest first and [`BULK_MAX`] at most, and answers how
/// many. Those whose event or subscription is gone are left.
pub async fn retry_many(pool: &PgPool, filter: Filter) -> Result<usize> {
    let mut transaction = pool.begin().await?;
    let ids = sqlx::query_scalar!(
        "SELECT x.delivery_id FROM dead_letters x
          WHERE ($1::uuid IS NULL OR x.subscription_id = $1)
            AND ($2::timestamptz IS NULL OR x.created_at >= $2) AND ($3::timestamptz IS NULL OR x.created_at < $3)
            AND ($4 OR x.resolved_at IS NULL)
            AND EXISTS (SELECT FROM subscriptions s WHERE s.id = x.subscription_id AND s.deleted_at IS NULL)
            AND EXISTS (SELECT FROM deliveries d JOIN events e ON e.id = d.event_id WHERE d.id = x.delivery_id)
          ORDER BY x.delivery_id
          LIMIT $5
            FOR UPDATE OF x SKIP LOCKED",
        filter.subscription.map(|id| id.0),
        filter.since,
        filter.until,
        filter.resolved == Resolved::Included,
        BULK_MAX
    );
    let ids: Vec<Uuid> = ids.fetch_all(&mut *transaction).await?;
    let reopened = delivery::reopen(&mut transaction, &ids).await?;
    transaction.commit().await?;
    Ok(reopened)
}

/// Forgets dead letters that died before a time, [`BULK_MAX`] at most, and answers how many.
pub async fn purge(pool: &PgPool, filter: Filter) -> Result<u64> {
    let purged = sqlx::query!(
        "DELETE FROM dead_letters
          WHERE delivery_id IN (SELECT x.delivery_id FROM dead_letters x
                                 WHERE ($1::uuid IS NULL OR x.subscription_id = $1)
                                   AND ($2::timestamptz IS NULL OR x.created_at >= $2)
                                   AND ($3::timestamptz IS NULL OR x.created_at < $3)
                                   AND ($4 OR x.resolved_at IS NULL)
                                 ORDER BY x.delivery_id LIMIT $5 FOR UPDATE SKIP LOCKED)",
        filter.subscription.map(|id| id.0),
        filter.since,
        filter.until,
        filter.resolved == Resolved::Included,
        BULK_MAX
    );
    Ok(purged.execute(pool).await?.rows_affected())
}
