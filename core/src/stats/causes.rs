//! Why attempts failed: failures by subscription and cause, the most frequent first.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{
    Error, Result,
    id::{DeliveryId, SubscriptionId},
    stats::{Filter, span},
    tally::{CAUSE_SPAN, INLINE, class::Class, floor},
    upkeep::partition::CAUSES_DAYS,
};

/// Causes that one answer shows, at most.
pub const CAUSES_MAX: usize = 100;

/// Failures of one subscription for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The tenant of the subscription.
    pub tenant_id: String,
    /// The subscription; `None` for the inline deliveries of the tenant.
    pub subscription: Option<SubscriptionId>,
    /// Why the attempts failed.
    pub class: Class,
    /// How many attempts failed so.
    pub count: u64,
    /// When the first of these attempts began.
    pub first_at: DateTime<Utc>,
    /// When the last of these attempts began.
    pub last_at: DateTime<Utc>,
    /// The delivery of the last attempt.
    pub delivery: DeliveryId,
    /// The HTTP status of the last attempt; `None` where no answer arrived.
    pub status_code: Option<u16>,
}

/// The causes of failures in a span of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Causes {
    /// The beginning of the span.
    pub since: DateTime<Utc>,
    /// The end of the span, which is not part of it.
    pub until: DateTime<Utc>,
    /// The most frequent causes, at most [`CAUSES_MAX`].
    pub causes: Vec<Cause>,
    /// Whether there are more.
    pub is_more: bool,
}

/// Why attempts failed in a span of time. It begins with a full ten minutes.
///
/// # Errors
/// Invalid where the span is not one; or unavailable.
pub async fn causes(pool: &PgPool, filter: &Filter, now: DateTime<Utc>) -> Result<Causes> {
    let (since, until) = span(filter.span, CAUSES_DAYS, now)?;
    let since = floor(since, CAUSE_SPAN);
    let rows = sqlx::query!(
        r#"SELECT tenant_id, subscription_id, cause, sum(count)::bigint AS "count!", min(first_at) AS "first_at!",
                  max(last_at) AS "last_at!", (array_agg(delivery_id ORDER BY last_at DESC))[1] AS "delivery_id!",
                  (array_agg(status_code ORDER BY last_at DESC))[1] AS status_code
             FROM stats_causes
            WHERE ($1::text IS NULL OR tenant_id = $1) AND ($2::uuid IS NULL OR subscription_id = $2)
              AND moment >= $3 AND moment < $4
            GROUP BY tenant_id, subscription_id, cause
            ORDER BY sum(count) DESC, tenant_id, subscription_id, cause
            LIMIT $5"#,
        filter.tenant_id,
        filter.subscription.map(|id| id.0),
        since,
        until,
        i64::try_from(CAUSES_MAX + 1).unwrap_or(i64::MAX)
    );
    let mut causes = Vec::new();
    for row in rows.fetch_all(pool).await? {
        causes.push(Cause {
            tenant_id: row.tenant_id,
            subscription: (row.subscription_id != INLINE).then_some(SubscriptionId(row.subscription_id)),
            class: row.cause.parse().map_err(Error::internal)?,
            count: row.count.unsigned_abs(),
            first_at: row.first_at,
            last_at: row.last_at,
            delivery: DeliveryId(row.delivery_id),
            status_code: row.status_code.map(i16::unsigned_abs),
        });
    }
    let is_more = causes.len() > CAUSES_MAX;
    causes.truncate(CAUSES_MAX);
    Ok(Causes { since, until, causes, is_more })
}
