//! The last 24 hours of several subscriptions at once, hour by hour, for lists. They are read by one statement from a
//! bounded number of sums of each.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::{
    Result,
    id::SubscriptionId,
    stats::{Outcomes, read::folded_until},
    tally::{
        class::{Class, Kind},
        floor,
    },
};

/// Hours that are told, the present one included.
pub const HOURS: usize = 24;

/// Attempts of one hour in which the receiver had a part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hour {
    /// Those that succeeded.
    pub succeeded: u64,
    /// Those that failed.
    pub failed: u64,
}

/// What came of a subscription's attempts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastDay {
    /// Each hour by itself, the oldest first.
    pub hours: [Hour; HOURS],
    /// All of them together, with how long attempts took, but without other times and bytes.
    pub all: Outcomes,
}

/// The last 24 hours of these subscriptions, each with its tenant, in this order. They begin at a full hour.
///
/// # Errors
/// When the database is away.
pub async fn last_day(pool: &PgPool, of: &[(SubscriptionId, &str)], now: DateTime<Utc>) -> Result<Vec<LastDay>> {
    let hour = TimeDelta::hours(1);
    let since = floor(now, hour) - hour * (i32::try_from(HOURS).unwrap_or(i32::MAX) - 1);
    let folded = folded_until(pool).await?.max(since);
    let ids: Vec<_> = of.iter().map(|(id, _)| id.0).collect();
    let tenants: Vec<_> = of.iter().map(|(_, tenant)| (*tenant).to_owned()).collect();
    // Where folding is late, there are as many rows as minutes, so the number of rows has a bound.
    let rows = sqlx::query!(
        r#"SELECT n.place AS "place!", v.is_outcome AS "is_outcome!", v.number AS "number!",
                  CASE WHEN v.is_outcome THEN date_trunc('hour', x.at, 'UTC') END AS hour,
                  sum(v.amount)::bigint AS "amount!"
             FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY n (id, tenant_id, place)
            CROSS JOIN LATERAL (
                  (SELECT h.hour AS at, h.outcomes, h.durations FROM stats_hour h
                    WHERE h.tenant_id = n.tenant_id AND h.subscription_id = n.id AND h.hour >= $3 AND h.hour < $4
                    LIMIT 24)
                  UNION ALL
                  (SELECT m.minute, m.outcomes::bigint[], m.durations::bigint[] FROM stats_minute m
                    WHERE m.tenant_id = n.tenant_id AND m.subscription_id = n.id AND m.minute >= $4
                    LIMIT 2000)) x
            CROSS JOIN LATERAL (
                  SELECT true AS is_outcome, o.number, o.amount
                    FROM unnest(x.outcomes) WITH ORDINALITY o (amount, number) WHERE o.amount > 0
                  UNION ALL
                  SELECT false, d.number, d.amount
                    FROM unnest(x.durations) WITH ORDINALITY d (amount, number) WHERE d.amount > 0) v
            GROUP BY 1, 2, 3, 4 LIMIT 100000"#,
        &ids,
        &tenants,
        since,
        folded
    );
    let mut days = vec![LastDay::default(); of.len()];
    for row in rows.fetch_all(pool).await? {
        let place = |number: i64| usize::try_from(number - 1).unwrap_or(usize::MAX);
        let Some(day) = days.get_mut(place(row.place)) else { continue };
        let amount = row.amount.unsigned_abs();
        if !row.is_outcome {
            day.all.add_duration(place(row.number), amount);
            continue;
        }
        let Some(class) = Class::ALL.get(place(row.number)) else { continue };
        day.all.add_class(*class, amount);
        let hours = row.hour.map(|at| (at - since).num_hours());
        if let Some(one) = hours.and_then(|hours| day.hours.get_mut(usize::try_from(hours).ok()?)) {
            match class.kind() {
                Kind::Success => one.succeeded += amount,
                Kind::Failure => one.failed += amount,
                Kind::OurFault | Kind::End => {}
            }
        }
    }
    Ok(days)
}
