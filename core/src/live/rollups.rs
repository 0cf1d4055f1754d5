//! Numbers for viewers where notifications do not arrive: what the processes have added to the stored sums since they
//! were last read. Processes write them every so often, so the numbers come in steps, and without rows.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Result,
    database::{ANSWER_TIMEOUT, in_time},
    live::{Scope, Topic, sample::Sample},
    tally::{
        ALL_TENANTS, WHOLE_TENANT,
        buckets::DURATION_BUCKETS,
        class::{CLASSES, Class, Kind},
        floor,
    },
};

/// How often the sums are read.
const READ_EVERY: Duration = Duration::from_secs(5);
/// Minutes that are read each time: sums of a minute are written soon after it.
const MINUTES: i64 = 3;
/// Rows that are read each time, at most: each of 32 scopes has one for each of four minutes and 16 slots.
const ROWS_MAX: i64 = 2048;

/// The sums of one minute.
#[derive(Clone, Debug, Default)]
struct Minute {
    outcomes: [i64; CLASSES],
    durations: [i64; DURATION_BUCKETS.len() + 1],
}

/// The sums of the last minutes of each scope.
type Sums = HashMap<Scope, BTreeMap<DateTime<Utc>, Minute>>;

/// What was read last.
#[derive(Default)]
pub(super) struct Rollups {
    before: Sums,
    read_at: Option<Instant>,
}

impl Rollups {
    /// What was added since the last call, by scope; empty where it is not yet time to read again. Where a scope is
    /// read for the first time, nothing was added.
    pub(super) async fn since_last(
        &mut self,
        pool: &PgPool,
        scopes: &[Scope],
        now: DateTime<Utc>,
    ) -> Result<HashMap<Scope, Sample>> {
        if self.read_at.is_some_and(|at| at.elapsed() < READ_EVERY) {
            return Ok(HashMap::new());
        }
        self.read_at = Some(Instant::now());
        let since = floor(now - TimeDelta::minutes(MINUTES), TimeDelta::minutes(1));
        let sums = in_time(ANSWER_TIMEOUT, read(pool, scopes, since)).await?;
        let added = scopes
            .iter()
            .filter_map(|scope| Some((scope.clone(), added(self.before.get(scope)?, sums.get(scope)?))))
            .collect();
        self.before = sums;
        Ok(added)
    }
}

async fn read(pool: &PgPool, scopes: &[Scope], since: DateTime<Utc>) -> Result<Sums> {
    let keys = scopes.iter().map(|scope| match scope {
        Scope::All => (Some(ALL_TENANTS.to_owned()), WHOLE_TENANT),
        Scope::Tenant(tenant_id) => (Some(tenant_id.clone()), WHOLE_TENANT),
        Scope::Subscription(id) => (None, *id),
    });
    let (tenants, subscriptions): (Vec<Option<String>>, Vec<Uuid>) = keys.unzip();
    let rows = sqlx::query!(
        r#"SELECT k.place AS "place!", s.minute, s.outcomes::bigint[] AS "outcomes!",
                  s.durations::bigint[] AS "durations!"
             FROM unnest($1::text[], $2::uuid[]) WITH ORDINALITY AS k (tenant_id, subscription_id, place)
             JOIN stats_minute s
               ON s.tenant_id = coalesce(k.tenant_id,
                                         (SELECT x.tenant_id FROM subscriptions x WHERE x.id = k.subscription_id))
              AND s.subscription_id = k.subscription_id AND s.minute >= $3
            LIMIT $4"#,
        &tenants as _,
        &subscriptions,
        since,
        ROWS_MAX
    );
    let mut sums: Sums = scopes.iter().map(|scope| (scope.clone(), BTreeMap::new())).collect();
    for row in rows.fetch_all(pool).await? {
        let scope = usize::try_from(row.place - 1).ok().and_then(|place| scopes.get(place));
        let Some(minutes) = scope.and_then(|scope| sums.get_mut(scope)) else { continue };
        let minute = minutes.entry(row.minute).or_default();
        for (to, from) in minute.outcomes.iter_mut().zip(row.outcomes) {
            *to += from;
        }
        for (to, from) in minute.durations.iter_mut().zip(row.durations) {
            *to += from;
        }
    }
    Ok(sums)
}

/// What the sums of a scope have more than those that were read before.
fn added(before: &BTreeMap<DateTime<Utc>, Minute>, now: &BTreeMap<DateTime<Utc>, Minute>) -> Sample {
    let mut sample = Sample::default();
    let none = Minute::default();
    for (at, minute) in now {
        let old = before.get(at).unwrap_or(&none);
        let more = |now: i64, old: i64| u64::try_from(now - old).unwrap_or(0);
        for class in Class::ALL {
            let more = more(minute.outcomes[class.place()], old.outcomes[class.place()]);
            match class.kind() {
                Kind::Success => sample.counts[Topic::Succeeded.index()] += more,
                Kind::Failure | Kind::OurFault => {
                    sample.counts[Topic::Failed.index()] += more;
                    if more > 0 {
                        *sample.causes.entry(class.as_str().to_owned()).or_default() += more;
                    }
                }
                Kind::End if class == Class::DeadLetter => sample.counts[Topic::DeadLetter.index()] += more,
                Kind::End => {}
            }
        }
        for (place, count) in sample.durations.iter_mut().enumerate() {
            *count += more(minute.durations[place], old.durations[place]);
        }
    }
    // The attempt by which a delivery was given up is told as its end, as it is elsewhere.
    let dead = sample.counts[Topic::DeadLetter.index()];
    let failed = &mut sample.counts[Topic::Failed.index()];
    *failed = failed.saturating_sub(dead);
    sample
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_since_is_counted_by_topic() {
        let at = |minute: i64| DateTime::from_timestamp(60 * minute, 0).expect("a time");
        let minute = |succeeded: i64, timeouts: i64, dead: i64| {
            let mut minute = Minute::default();
            minute.outcomes[Class::Succeeded.place()] = succeeded;
            minute.outcomes[Class::Timeout.place()] = timeouts;
            minute.outcomes[Class::DeadLetter.place()] = dead;
            minute.durations[3] = succeeded + timeouts;
            minute
        };
        let before = BTreeMap::from([(at(1), minute(9, 9, 9)), (at(2), minute(5, 1, 0))]);
        let now = BTreeMap::from([(at(2), minute(7, 4, 1)), (at(3), minute(10, 0, 0))]);
        let sample = added(&before, &now);
        let count = |topic: Topic| sample.counts[topic.index()];
        assert_eq!((count(Topic::Succeeded), count(Topic::Failed), count(Topic::DeadLetter)), (12, 2, 1));
        assert_eq!((sample.causes["timeout"], sample.durations[3]), (3, 15));
        assert!(added(&now, &now).is_empty());
    }
}
