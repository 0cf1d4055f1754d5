//! Dead letters grouped by where they go and why they were given up. After an outage of one receiver there are
//! thousands of them, and they are one thing to decide. Only a bounded number of the newest is grouped.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{
    Result,
    delivery::dead_letter::{Filter, Resolved},
    id::{DeliveryId, SubscriptionId},
};

/// Dead letters that are grouped, at most: the newest ones.
pub const GROUPED_MAX: i64 = 20_000;
/// Groups that one answer shows, at most: the largest ones.
pub const GROUPS_MAX: usize = 100;
/// The word in the log of attempts for an answer other than 2xx: then its status is part of the cause.
const HTTP_STATUS: &str = "http_status";

/// Dead letters of one receiver that were given up for one cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The tenant to which they belong; `None` for dead letters whose deliveries are gone.
    pub tenant_id: Option<String>,
    /// The subscription to which they go; `None` for the inline deliveries of the tenant.
    pub subscription: Option<SubscriptionId>,
    /// Why their last attempts failed; `None` where none was made.
    pub error_kind: Option<String>,
    /// How their receiver answered; `None` where it did not, or where the cause is another one.
    pub status_code: Option<i16>,
    /// How many there are among those that were grouped.
    pub count: i64,
    /// When the first of them was given up.
    pub first_at: DateTime<Utc>,
    /// When the last of them was given up.
    pub last_at: DateTime<Utc>,
    /// The newest of them.
    pub sample: DeliveryId,
}

/// The groups that were found, the largest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Groups {
    /// At most [`GROUPS_MAX`].
    pub groups: Vec<Group>,
    /// Whether there are more groups.
    pub is_more: bool,
    /// Dead letters that were read; where it is [`GROUPED_MAX`], there may be older ones, and all counts are lower
    /// bounds.
    pub examined: i64,
}

/// Groups the newest dead letters that match the filter.
pub async fn groups(pool: &PgPool, filter: &Filter) -> Result<Groups> {
    let rows = sqlx::query!(
        r#"SELECT x.tenant_id, x.subscription_id, x.error_kind, x.code AS status_code, count(*) AS "count!",
                  min(x.created_at) AS "first_at!", max(x.created_at) AS "last_at!",
                  (array_agg(x.delivery_id ORDER BY x.delivery_id DESC))[1] AS "sample!",
                  max(x.total) AS "examined!"
             FROM (SELECT l.delivery_id, l.tenant_id, l.subscription_id, l.created_at, l.resolved_at, l.error_kind,
                          l.status_code, CASE WHEN l.error_kind = $9 THEN l.status_code END AS code,
                          count(*) OVER () AS total
                     FROM (SELECT delivery_id, tenant_id, subscription_id, created_at, resolved_at, error_kind,
                                  status_code
                             FROM dead_letters
                            WHERE ($1::uuid IS NULL OR subscription_id = $1) AND ($2::text IS NULL OR tenant_id = $2)
                            ORDER BY delivery_id DESC LIMIT $3) l) x
            WHERE ($4::timestamptz IS NULL OR x.created_at >= $4) AND ($5::timestamptz IS NULL OR x.created_at < $5)
              AND ($6 OR x.resolved_at IS NULL)
              AND ($7::text IS NULL OR coalesce(x.error_kind, 'not_attempted') = $7)
              AND ($8::smallint IS NULL OR x.status_code = $8)
            GROUP BY x.tenant_id, x.subscription_id, x.error_kind, x.code
            ORDER BY count(*) DESC, x.tenant_id, x.subscription_id, x.error_kind, x.code
            LIMIT $10"#,
        filter.subscription.map(|id| id.0),
        filter.tenant_id,
        GROUPED_MAX,
        filter.since,
        filter.until,
        filter.resolved == Resolved::Included,
        filter.error_kind,
        filter.status_code,
        HTTP_STATUS,
        i64::try_from(GROUPS_MAX + 1).unwrap_or(i64::MAX)
    );
    let rows = rows.fetch_all(pool).await?;
    let examined = match rows.first() {
        Some(row) => row.examined,
        None => examined(pool, filter).await?,
    };
    let is_more = rows.len() > GROUPS_MAX;
    let groups = rows.into_iter().take(GROUPS_MAX).map(|row| Group {
        tenant_id: row.tenant_id,
        subscription: row.subscription_id.map(SubscriptionId),
        error_kind: row.error_kind,
        status_code: row.status_code,
        count: row.count,
        first_at: row.first_at,
        last_at: row.last_at,
        sample: DeliveryId(row.sample),
    });
    Ok(Groups { groups: groups.collect(), is_more, examined })
}

/// How many dead letters are read for groups, where none of them matches.
async fn examined(pool: &PgPool, filter: &Filter) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
             FROM (SELECT FROM dead_letters
                    WHERE ($1::uuid IS NULL OR subscription_id = $1) AND ($2::text IS NULL OR tenant_id = $2)
                    LIMIT $3) x"#,
        filter.subscription.map(|id| id.0),
        filter.tenant_id,
        GROUPED_MAX
    );
    Ok(count.fetch_one(pool).await?)
}
