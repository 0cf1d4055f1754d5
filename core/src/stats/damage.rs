//! Which receivers fail most at this moment: subscriptions ordered by their failed attempts of late. Only sums are
//! read, a bounded number of them, so this costs little however many fail.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::{
    Error, Result,
    id::{DeliveryId, SubscriptionId},
    subscription::{Subscription, list::Filter, store::Subscriptions},
    tally::{
        CAUSE_SPAN, INLINE,
        class::{Class, Kind},
        floor,
    },
};

/// Sums that one answer reads, at most. Where there are more, some subscriptions may be left out.
const SUMS_MAX: i64 = 200_000;
/// Subscriptions among which a list by failures chooses, at most.
pub const RANKED_MAX: i64 = 1_000;
/// The span of time by which lists are ordered.
pub const LIST_SPAN: TimeDelta = TimeDelta::hours(1);

/// What goes wrong for one subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The subscription.
    pub subscription: SubscriptionId,
    /// Attempts that failed.
    pub failed: u64,
    /// When the first of them began.
    pub first_at: DateTime<Utc>,
    /// Why most of them failed.
    pub cause: Class,
    /// How many failed for this cause.
    pub of_cause: u64,
    /// When the last one of this cause began.
    pub last_at: DateTime<Utc>,
    /// The delivery of that attempt.
    pub delivery: DeliveryId,
    /// The HTTP status of that attempt; `None` where no answer arrived.
    pub status_code: Option<u16>,
}

/// The subscriptions with the most failed attempts, and since when these are counted.
#[derive(Clone, Debug)]
pub struct Ranking {
    /// The beginning of the span: a full ten minutes.
    pub since: DateTime<Utc>,
    /// The subscriptions, the one with the most failures first.
    pub damages: Vec<Damage>,
}

impl Ranking {
    /// How often this many failures happened each minute.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
    pub fn per_minute(&self, failed: u64, now: DateTime<Utc>) -> f64 {
        failed as f64 / ((now - self.since).as_seconds_f64() / 60.0).max(1.0)
    }
}

/// A subscription and how many of its attempts failed of late.
pub type Failing = (Subscription, u64);

/// Lists the subscriptions with the most failed attempts in the last hour, the one with the most first: up to `limit`
/// of those [`RANKED_MAX`] that have the most.
///
/// # Errors
/// When the database is away, or a secret cannot be opened.
pub async fn list(
    pool: &PgPool,
    subscriptions: &Subscriptions,
    filter: &Filter,
    limit: usize,
    now: DateTime<Utc>,
) -> Result<Vec<Failing>> {
    let ranking = rank(pool, filter.tenant_id.as_deref(), LIST_SPAN, RANKED_MAX, now).await?;
    let ids: Vec<_> = ranking.damages.iter().map(|damage| damage.subscription.0).collect();
    let mut found = subscriptions.among(filter, &ids).await?;
    let with_failures = |damage: &Damage| Some((found.remove(&damage.subscription.0)?, damage.failed));
    Ok(ranking.damages.iter().filter_map(with_failures).take(limit).collect())
}

/// Ranks the subscriptions of one tenant or of all by their failed attempts of the last `span`, up to `limit` of them.
/// Failures of ours are left out.
///
/// # Errors
/// When the database is away.
pub async fn rank(
    pool: &PgPool,
    tenant_id: Option<&str>,
    span: TimeDelta,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Ranking> {
    let since = floor(now - span, CAUSE_SPAN);
    let causes = Class::ALL.into_iter().filter(|class| class.kind() == Kind::Failure);
    let causes: Vec<_> = causes.map(|class| class.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        r#"WITH sums AS (
               SELECT c.tenant_id, c.subscription_id, c.count FROM stats_causes c
                WHERE ($1::text IS NULL OR c.tenant_id = $1) AND c.moment >= $2 AND c.subscription_id <> $3
                  AND c.cause = ANY ($4) LIMIT $5),
           worst AS MATERIALIZED (
               SELECT s.tenant_id, s.subscription_id, sum(s.count) AS failed FROM sums s
                GROUP BY s.tenant_id, s.subscription_id
                ORDER BY sum(s.count) DESC, s.subscription_id LIMIT $6)
           SELECT w.subscription_id AS "subscription_id!", w.failed::bigint AS "failed!", x.first_at AS "first_at!",
                  x.cause AS "cause!", x.of_cause AS "of_cause!", x.last_at AS "last_at!",
                  x.delivery_id AS "delivery_id!", x.status_code
             FROM worst w
            CROSS JOIN LATERAL (
                  SELECT c.cause, sum(c.count)::bigint AS of_cause, max(c.last_at) AS last_at,
                         min(min(c.first_at)) OVER () AS first_at,
                         (array_agg(c.delivery_id ORDER BY c.last_at DESC))[1] AS delivery_id,
                         (array_agg(c.status_code ORDER BY c.last_at DESC))[1] AS status_code
                    FROM stats_causes c
                   WHERE c.tenant_id = w.tenant_id AND c.subscription_id = w.subscription_id AND c.moment >= $2
                     AND c.cause = ANY ($4)
                   GROUP BY c.cause ORDER BY sum(c.count) DESC, c.cause LIMIT 1) x
            ORDER BY w.failed DESC, w.subscription_id LIMIT $6"#,
        tenant_id,
        since,
        INLINE,
        &causes,
        SUMS_MAX,
        limit
    );
    let rows = rows.fetch_all(pool).await?.into_iter().map(|row| {
        Ok(Damage {
            subscription: SubscriptionId(row.subscription_id),
            failed: row.failed.unsigned_abs(),
            first_at: row.first_at,
            cause: row.cause.parse().map_err(Error::internal)?,
            of_cause: row.of_cause.unsigned_abs(),
            last_at: row.last_at,
            delivery: DeliveryId(row.delivery_id),
            status_code: row.status_code.map(i16::unsigned_abs),
        })
    });
    Ok(Ranking { since, damages: rows.collect::<Result<_>>()? })
}
