//! What each tenant uses: the numbers of the last 24 hours and of the last 30 days, and how many subscriptions it has.
//! Tenants are stored nowhere by themselves. They are found by hopping through indexes from one name to the next, so a
//! page costs the same however much each of them has.

use chrono::{DateTime, Datelike, NaiveTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::{
    Result,
    stats::{
        Accepted, Outcomes,
        read::{folded_until, whole_tenants},
    },
    tally::{ALL_TYPES, floor},
};

/// Subscriptions of one tenant that are counted, at most.
pub const SUBSCRIPTIONS_COUNTED_MAX: i64 = 1_000;
/// The days of the longer of the two spans.
pub const DAYS: i64 = 30;

/// What a tenant has used in a span of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Events that were accepted for it.
    pub accepted: Accepted,
    /// Its attempts and the ends of its deliveries, by class. Times are not read.
    pub outcomes: Outcomes,
}

/// A tenant with its numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    /// The name of the tenant.
    pub tenant_id: String,
    /// Its subscriptions that are not deleted; [`SUBSCRIPTIONS_COUNTED_MAX`] means "so many or more".
    pub subscriptions: i64,
    /// The last 24 hours, from a full hour on.
    pub day: Usage,
    /// The last [`DAYS`] days, from a full hour on; those 24 hours are part of it.
    pub month: Usage,
}

/// Lists tenants with their numbers, in the order of their names: those that have subscriptions or keys that are not
/// revoked, and those for which events were accepted within the last [`DAYS`] days. `after` is the last name of the
/// page before.
///
/// # Errors
/// When the database is away.
pub async fn list(pool: &PgPool, after: Option<&str>, limit: i64, now: DateTime<Utc>) -> Result<Vec<TenantUsage>> {
    let folded = folded_until(pool).await?;
    let names = names(pool, after.unwrap_or_default(), limit, folded, now).await?;
    usage(pool, names, folded, now).await
}

/// The numbers of one tenant; of one that was never named, they are zero.
///
/// # Errors
/// When the database is away.
pub async fn of(pool: &PgPool, tenant_id: &str, now: DateTime<Utc>) -> Result<TenantUsage> {
    let folded = folded_until(pool).await?;
    let found = usage(pool, vec![tenant_id.to_owned()], folded, now).await?;
    found.into_iter().next().ok_or_else(|| crate::Error::internal("a tenant that is asked for is answered"))
}

/// The next names. Each look for a name reads one row of each index, because whole partitions are left out or read.
async fn names(
    pool: &PgPool,
    after: &str,
    limit: i64,
    folded: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<String>> {
    let first_day = (now - TimeDelta::days(DAYS)).date_naive();
    let first_of_month = first_day.with_day(1).unwrap_or(first_day).and_time(NaiveTime::MIN).and_utc();
    let names = sqlx::query_scalar!(
        r#"WITH RECURSIVE t (id, place) AS (
               SELECT $1::text, 0::bigint
               UNION ALL
               SELECT least((SELECT s.tenant_id FROM subscriptions s
                              WHERE s.deleted_at IS NULL AND s.tenant_id > t.id ORDER BY s.tenant_id LIMIT 1),
                            (SELECT h.tenant_id FROM accepted_hour h
                              WHERE h.tenant_id > t.id AND h.hour >= $3 ORDER BY h.tenant_id LIMIT 1),
                            (SELECT m.tenant_id FROM accepted_minute m
                              WHERE m.tenant_id > t.id AND m.minute >= $4 ORDER BY m.tenant_id LIMIT 1),
                            (SELECT k.tenant_id FROM api_keys k
                              WHERE k.revoked_at IS NULL AND k.tenant_id > t.id ORDER BY k.tenant_id LIMIT 1)),
                      t.place + 1
                 FROM t WHERE t.id IS NOT NULL AND t.place < $2)
           SELECT t.id AS "id!" FROM t WHERE t.place > 0 AND t.id IS NOT NULL ORDER BY t.place LIMIT $2"#,
        after,
        limit,
        first_of_month,
        floor(folded, TimeDelta::days(1))
    );
    Ok(names.fetch_all(pool).await?)
}

/// The numbers of these tenants, in this order.
async fn usage(
    pool: &PgPool,
    names: Vec<String>,
    folded: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<TenantUsage>> {
    let hour = TimeDelta::hours(1);
    let (month, day) = (floor(now - TimeDelta::days(DAYS), hour), floor(now - TimeDelta::days(1), hour));
    let counts = sqlx::query_scalar!(
        // The order keeps the look within the index of the tenant.
        r#"SELECT (SELECT count(*) FROM (SELECT FROM subscriptions s WHERE s.tenant_id = n.id AND s.deleted_at IS NULL
                                          ORDER BY s.id LIMIT $2) x) AS "count!"
             FROM unnest($1::text[]) WITH ORDINALITY n (id, place) ORDER BY n.place LIMIT 1000"#,
        &names,
        SUBSCRIPTIONS_COUNTED_MAX
    );
    let counts = counts.fetch_all(pool).await?;
    let none = |(tenant_id, subscriptions)| TenantUsage {
        tenant_id,
        subscriptions,
        day: Usage::default(),
        month: Usage::default(),
    };
    let mut found: Vec<_> = names.iter().cloned().zip(counts).map(none).collect();
    whole_tenants(pool, &names, (month, folded), day, |place, is_of_day, outcomes| {
        if let Some(one) = found.get_mut(place) {
            one.month.outcomes.add(&outcomes);
            if is_of_day {
                one.day.outcomes.add(&outcomes);
            }
        }
    })
    .await?;
    let accepted = accepted(pool, &names, (month, folded), day).await?;
    for (place, is_of_day, accepted) in accepted {
        if let Some(one) = found.get_mut(place) {
            let spans = if is_of_day { vec![&mut one.month, &mut one.day] } else { vec![&mut one.month] };
            for span in spans {
                span.accepted.events += accepted.events;
                span.accepted.bytes += accepted.bytes;
            }
        }
    }
    Ok(found)
}

/// The accepted events of each tenant, those of the day apart from those before it.
async fn accepted(
    pool: &PgPool,
    names: &[String],
    (since, folded): (DateTime<Utc>, DateTime<Utc>),
    day: DateTime<Utc>,
) -> Result<Vec<(usize, bool, Accepted)>> {
    let rows = sqlx::query!(
        r#"SELECT n.place AS "place!", x.at >= $5 AS "is_of_day!", sum(x.events)::bigint AS "events!",
                  sum(x.bytes)::bigint AS "bytes!"
             FROM unnest($1::text[]) WITH ORDINALITY n (id, place)
            CROSS JOIN LATERAL (
                  (SELECT h.hour AS at, h.events, h.bytes FROM accepted_hour h
                    WHERE h.tenant_id = n.id AND h.event_type = $2 AND h.hour >= $3 AND h.hour < $4 LIMIT 1000)
                  UNION ALL
                  (SELECT m.minute, m.events, m.bytes FROM accepted_minute m
                    WHERE m.tenant_id = n.id AND m.event_type = $2 AND m.minute >= $4 LIMIT 40000)) x
            GROUP BY 1, 2 LIMIT 2000"#,
        names,
        ALL_TYPES,
        since,
        folded.max(since),
        day
    );
    let of = |place: i64| usize::try_from(place - 1).unwrap_or(usize::MAX);
    let rows = rows.fetch_all(pool).await?.into_iter().map(|row| {
        let accepted = Accepted { events: row.events.unsigned_abs(), bytes: row.bytes.unsigned_abs() };
        (of(row.place), row.is_of_day, accepted)
    });
    Ok(rows.collect())
}
